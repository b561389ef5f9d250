"""Figures of polysemanticity draw what the tables say: means over seeds, baselines, verdicts; and nothing of what is missing."""

import io
import statistics

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from polysemanticity_tables import diverged, laboratory, true_ratio

from ninscope.neurons.polysemanticity.correlations import polysemanticity_correlations
from ninscope.neurons.polysemanticity.slopes import BY_BASELINE, polysemanticity_slopes
from ninscope.report.polysemanticity_figures import polysemanticity_figures
from ninscope.report.polysemanticity_style import BLUE, GREY, ORANGE

TRUE_RATIOS = [0.0, *(true_ratio(0.05 * number) for number in range(1, 13))]


def figures(rows: pd.DataFrame) -> dict:
    return dict(polysemanticity_figures(rows, polysemanticity_slopes(rows), polysemanticity_correlations(rows)))


@pytest.fixture(scope="module")
def two():
    rows = laboratory(("L1", "N1"), noise=1, slopes=(-0.5, 0.001))
    rows = rows[(rows["experiment"] == "L1") | (rows["phase"] == "training")]
    return rows, figures(rows)


def thick(axes) -> list:
    """Lines of means; those of seeds are thin."""
    return [line for line in axes.lines if line.get_linewidth() > 1]


def words(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def drawn(figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=40, metadata={"Software": None})
    return content.getvalue()


def test_every_figure_has_a_name_and_is_drawn(two):
    _, named = two
    assert list(named) == [
        "polysemanticity-L1-training.png", "polysemanticity-L1-pruning.png", "polysemanticity-N1-training.png",
        "polysemanticity-slopes.png", "polysemanticity-correlations-training.png",
        "polysemanticity-correlations-retrained.png",
    ]  # fmt: skip
    for name in list(named)[1:5:3]:
        assert len(drawn(named[name])) > 5000


def test_training_is_a_mean_over_seeds_with_each_seed_and_a_band(two):
    rows, named = two
    axes = named["polysemanticity-L1-training.png"].axes[0]
    without, dropout = thick(axes)
    assert (to_hex(without.get_color()), to_hex(dropout.get_color())) == (BLUE, ORANGE)
    own = rows[
        (rows["experiment"] == "L1") & (rows["dropout"] == 0) & (rows["layer"] == "all") & (rows["phase"] == "training")
    ]
    means = own.groupby("epoch")["P"].mean()
    assert without.get_xdata() == pytest.approx(list(range(9)))
    assert without.get_ydata() == pytest.approx(means.to_numpy())
    assert len(axes.lines) == 2 + 2 * 3
    band = axes.collections[0].get_paths()[0].vertices
    start = own[own["epoch"] == 0]["P"]
    half = 4.3026527 * statistics.stdev(start) / 3**0.5
    assert band[band[:, 0] == 0][:, 1].max() == pytest.approx(start.mean() + half)
    low, high = axes.get_ylim()
    assert low < rows.loc[own.index, "P"].min() < rows.loc[own.index, "P"].max() < high
    assert "band: 95 % t interval of the mean, also beyond the panel" in words(named["polysemanticity-L1-training.png"])


def test_pruning_begins_at_the_baseline_and_tells_rates_and_layers_apart(two):
    _, named = two
    figure = named["polysemanticity-L1-pruning.png"]
    grid = np.array(figure.axes).reshape(5, 2)
    assert [axes.get_title() for axes in grid[0]] == ["without dropout", "dropout 0.5"]
    before, first, second = thick(grid[0, 0])
    assert [to_hex(line.get_color()) for line in (before, first, second)] == [GREY, BLUE, ORANGE]
    assert before.get_linestyle() == "--"
    for line in (before, first, second):
        assert line.get_xdata() == pytest.approx(TRUE_RATIOS)
        assert line.get_ydata()[0] == pytest.approx(20.0)
    assert before.get_ydata() == pytest.approx([20 * (1 + 0.2 * ratio) for ratio in TRUE_RATIOS])
    layers = thick(grid[1, 0])
    assert len(layers) == 2 * 2
    assert [line.get_ydata()[0] for line in layers] == pytest.approx([22.0, 22.0, 16.0, 16.0])
    assert grid[0, 0].get_ylim() == grid[0, 1].get_ylim()
    assert grid[4, 0].get_yscale() == "log"
    assert {"hidden layer 1", "hidden layer 2", "retrained at 0.01", "before retraining"} <= set(words(figure))


def test_a_training_that_diverged_is_no_baseline_of_the_others():
    rows = laboratory(("N1",), noise=1, epochs=3)
    _, pruning, *_ = figures(diverged(rows, seed=1, epoch=3)).values()
    grid = np.array(pruning.axes).reshape(5, 2)
    last = rows[(rows["epoch"] == 3) & (rows["dropout"] == 0) & (rows["seed"] != 1)]
    for line in thick(grid[0, 0]):
        assert line.get_ydata()[0] == pytest.approx(last.loc[last["layer"] == "all", "P"].mean())
    assert thick(grid[1, 0])[0].get_ydata()[0] == pytest.approx(last.loc[last["layer"] == "1", "P"].mean())


def test_what_pd_shows_is_p_times_d(two):
    rows, named = two
    grid = np.array(named["polysemanticity-L1-pruning.png"].axes).reshape(5, 2)
    own = rows[(rows["experiment"] == "L1") & (rows["dropout"] == 0) & (rows["layer"] == "all")]
    last = own[own["revision"] == "retrained-0.60-rate-0.001"]
    assert thick(grid[2, 0])[1].get_ydata()[-1] == pytest.approx((last["P"] * last["D"]).mean())


def test_slopes_have_colours_and_words_of_their_verdict(two):
    rows, named = two
    figure = named["polysemanticity-slopes.png"]
    assert [axes.get_title() for axes in figure.axes] == ["retrained at 0.001 (2 tests)", "retrained at 0.01 (2 tests)"]
    axes = figure.axes[0]
    table = polysemanticity_slopes(rows)
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [to_hex(dot.get_color()) for dot in dots] == [BLUE, GREY]
    expected = 10 * table["slope"] / table["baseline"]
    assert [float(dot.get_xdata()[0]) for dot in dots] == pytest.approx(
        expected[table["learning_rate"] == 0.001].tolist()
    )
    said = [text.get_text() for text in axes.texts]
    assert said[0].startswith("falls, p ")
    assert said[1].startswith("not told apart, p = ")
    labels = axes.yaxis.get_major_formatter().format_ticks(axes.get_yticks().tolist())
    assert labels == ["L1", "L1, dropout 0.5"]


def test_an_interval_that_leaves_its_panel_ends_in_an_arrow():
    rows = laboratory(("N1",), seeds=2, noise=0)
    figure = figures(rows)["polysemanticity-slopes.png"]
    markers = {line.get_marker() for axes in figure.axes for line in axes.lines}
    assert markers & {"<", ">"}
    low, high = figure.axes[0].get_xlim()
    for line in (line for line in figure.axes[0].lines if line.get_marker() in "<>"):
        assert line.get_xdata()[0] in (low, high)


def test_correlations_show_other_seeds_and_single_experiments(two):
    rows, named = two
    figure = named["polysemanticity-correlations-training.png"]
    table = polysemanticity_correlations(rows)
    assert [axes.get_title() for axes in figure.axes] == [
        "P, polysemanticity", "D, features represented", "loss, held out (MSE)",
    ]  # fmt: skip
    axes = figure.axes[0]
    known = table[(table["phase"] == "training") & (table["truth"] == "P") & table["correlation"].notna()]
    together = known[known["experiment"] == "all"]
    marks = [float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() in ("o", "s")]
    assert sorted(marks) == pytest.approx(sorted(together["correlation"]))
    crosses = [float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() == "x"]
    assert sorted(crosses) == pytest.approx(sorted(together["other_seeds"]))
    ticks = np.concatenate([line.get_xdata() for line in axes.lines if line.get_marker() == "|"])
    assert sorted(ticks) == pytest.approx(sorted(known.loc[known["experiment"] != "all", "correlation"]))
    labels = axes.yaxis.get_major_formatter().format_ticks(axes.get_yticks().tolist())
    assert "entropy *" in labels
    assert "phi_mean" not in labels  # it has one value everywhere
    assert any("retrained at 0.001" in text for text in words(named["polysemanticity-correlations-retrained.png"]))


def test_one_seed_has_no_band_and_says_so_and_names_are_no_formulas():
    name = r"a$\frac{$"
    named = figures(laboratory((name,), seeds=1, noise=0, epochs=3))
    assert any("one seed" in text for text in words(named[f"polysemanticity-{name}-training.png"]))
    assert not any("band" in text for text in words(named[f"polysemanticity-{name}-pruning.png"]))
    assert "one seed" in words(named["polysemanticity-slopes.png"])
    for figure in named.values():
        assert len(drawn(figure)) > 3000
        texts = [*figure.texts, *figure.legends[0].texts, *(text for axes in figure.axes for text in axes.texts)]
        texts += [label for axes in figure.axes for label in (axes.title, axes.xaxis.label, axes.yaxis.label)]
        boxes = [text.get_window_extent() for text in texts if text.get_text()]
        assert all(box.x0 > -1 and box.x1 < figure.bbox.width for box in boxes)
        assert all(box.y0 > -1 and box.y1 < figure.bbox.height for box in boxes)


def test_a_legend_has_no_entry_of_what_is_not_drawn_and_one_test_is_no_tests():
    rows = laboratory(("L1",), noise=1, epochs=3)
    rows = rows[rows["dropout"] == 0]
    correlations = polysemanticity_correlations(rows)
    correlations.loc[(correlations["phase"] == "retrained") & (correlations["given"] != ""), "correlation"] = np.nan
    named = dict(polysemanticity_figures(rows, polysemanticity_slopes(rows), correlations))
    (legend,) = named["polysemanticity-correlations-retrained.png"].legends
    assert [text.get_text() for text in legend.texts] == ["without dropout, plain", "with the truth of other seeds"]
    titles = [axes.get_title() for axes in named["polysemanticity-slopes.png"].axes]
    assert titles == ["retrained at 0.001 (1 test)", "retrained at 0.01 (1 test)"]


def test_a_verdict_that_rests_on_the_unpruned_network_has_a_star():
    rows = laboratory(("L1",), noise=1, epochs=3)
    slopes = polysemanticity_slopes(rows)
    assert (slopes["verdict"] == "falls").any()
    for message, stars in (("", 0), (BY_BASELINE, int((slopes["verdict"] == "falls").sum()))):
        figures = dict(
            polysemanticity_figures(rows, slopes.assign(message=message), polysemanticity_correlations(rows))
        )
        said = words(figures["polysemanticity-slopes.png"])
        assert sum(text.startswith("falls *, p") for text in said) == stars
        assert ("the retrained networks alone do not show it" in said) == bool(stars)


def test_a_d_that_is_1_throughout_has_an_axis_without_an_offset():
    rows = laboratory(("L1",), noise=1, epochs=3).assign(D=1.0)
    for name in ("training", "pruning"):
        for axes in figures(rows)[f"polysemanticity-L1-{name}.png"].axes:
            axes.figure.draw_without_rendering()
            assert axes.yaxis.get_offset_text().get_text() == ""


def test_there_is_no_figure_of_what_is_not_there():
    rows = laboratory(("N1",), noise=0, epochs=3)
    named = figures(rows[rows["phase"] == "training"].assign(D=np.nan))
    assert list(named) == ["polysemanticity-N1-training.png", "polysemanticity-correlations-training.png"]
    assert "no epoch has a D" in words(named["polysemanticity-N1-training.png"])
    assert figures(rows.iloc[:0]) == {}
