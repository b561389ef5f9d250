"""Figures of degrees show the numbers of the table, whatever is missing from it and however many layers there are."""

import io
import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from ninscope.report.degree_figures import degree_distributions_figure, degrees_figure, kurtosis_figure

STEPS = [0, 1, 4, 64, 1000, 3000]


def table(layers=("block0.x", "block0.m", "block1.x", "block1.m"), steps=STEPS, kurtosis=None):
    rows = []
    for number, layer in enumerate(layers):
        for place, step in enumerate(steps):
            middle = 30.0 + number - place
            spread = {f"p{p}": middle + (p - 50) / 20 for p in (5, 25, 50, 75, 95)}
            k = 2.0 + number + 0.5 * place if kurtosis is None else kurtosis
            rows.append({"step": step, "layer": layer, "kurtosis": k, "mean": middle, **spread})
    return pd.DataFrame(rows).astype({"step": "Int64"})


def single_nodes(layers=("block0.x", "block0.m"), steps=STEPS, count=200):
    rng = np.random.default_rng(1)
    parts = [
        pd.DataFrame(
            {"step": step, "layer": layer, "edges": 50, "average_weighted_degree": rng.normal(30 - place, 2, count)}
        )
        for layer in layers
        for place, step in enumerate(steps)
    ]
    return pd.concat(parts, ignore_index=True)


def panels(figure):
    return {axes.get_title(): axes for axes in figure.axes if axes.get_title()}


def drawn(figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=40, metadata={"Software": None})
    return content.getvalue()


def test_names_of_layers_are_no_formulas():
    layers = (r"a $\frac{$ of.in", "b.in")
    assert panels(degrees_figure(table(layers), "tiny"))["b.in"].lines
    for draw in (degrees_figure, kurtosis_figure):
        assert len(drawn(draw(table(layers), "tiny"))) > 3000


def test_the_labels_of_all_panels_fit_a_figure_of_one_row():
    figure = degrees_figure(table(("a.in", "b.in")), "tiny")
    drawn(figure)
    label = next(text for text in figure.texts if text.get_text().startswith("average weighted degree"))
    box = label.get_window_extent()
    assert 0 <= box.y0 < box.y1 <= figure.bbox.height


def test_percentiles_are_the_table_s():
    figure = degrees_figure(table().sort_values("step", ascending=False, kind="stable"), "tiny")
    assert list(panels(figure)) == ["block0.x", "block0.m", "block1.x", "block1.m"]
    axes = panels(figure)["block1.m"]
    x, median = axes.lines[0].get_data()
    np.testing.assert_allclose(x, np.log2(np.array(STEPS) + 1))
    np.testing.assert_allclose(median, [33.0 - place for place in range(6)])
    outer = axes.collections[0].get_paths()[0].vertices
    assert outer[:, 1].max() == pytest.approx(33 + 45 / 20)
    assert outer[:, 1].min() == pytest.approx(28 - 45 / 20)
    assert "tiny" in figure.get_suptitle()
    assert len(drawn(figure)) > 3000


def test_many_blocks_are_thinned_and_it_is_said():
    layers = [f"block{block}.{part}" for block in range(24) for part in "xcam"]
    figure = degrees_figure(table(layers), "large")
    assert "(6 of 24 blocks)" in figure.get_suptitle()
    assert len(panels(figure)) == 24
    assert {"block0.x", "block23.m"} <= set(panels(figure))
    layers = [f"layer{number}" for number in range(100)]  # without blocks
    figure = degrees_figure(table(layers), "generic")
    assert "(24 of 100 layers)" in figure.get_suptitle()
    assert {"layer0", "layer99"} <= set(panels(figure))


def test_distributions_hold_every_node_and_its_kurtosis():
    nodes = single_nodes()
    nodes.loc[nodes.index[:5], "edges"] = 10  # these do not count
    figure = degree_distributions_figure(nodes, "tiny")
    assert list(panels(figure)) == ["block0.x", "block0.m"]
    for layer, axes in panels(figure).items():
        own = nodes[(nodes["layer"] == layer) & (nodes["edges"] > 10)]
        numbers = [text.get_text() for text in axes.texts]
        for step, number in zip(STEPS, numbers, strict=True):
            values = own.loc[own["step"] == step, "average_weighted_degree"]
            expected = (((values - values.mean()) / values.std(ddof=0)) ** 4).mean()
            assert number == f"{expected:.1f}"
        assert [label.get_text() for label in axes.get_yticklabels()] == ["3k", "1k", "64", "4", "1", "0"]
        heights = [patch.get_data() for patch in axes.patches]
        assert len(heights) == len(STEPS)
        for place, stairs in enumerate(heights):
            base = len(STEPS) - 1 - place
            assert stairs.values.max() == pytest.approx(base + 0.92)
            # Left end of the bins: within the range shown, where the step's own nodes are.
            values = own.loc[own["step"] == STEPS[place], "average_weighted_degree"]
            assert values.min() - 1e-6 <= stairs.edges[0] <= stairs.edges[-1] <= values.max() + 1e-6


def test_kurtosis_of_the_table_goes_before_that_of_the_nodes():
    figure = degree_distributions_figure(single_nodes(), "tiny", table(kurtosis=7.25))
    assert {text.get_text() for axes in panels(figure).values() for text in axes.texts} == {"7.2"}


def test_at_most_eight_steps_are_drawn():
    figure = degree_distributions_figure(single_nodes(steps=range(0, 100, 5)), "tiny")
    labels = [label.get_text() for label in panels(figure)["block0.x"].get_yticklabels()]
    assert len(labels) == 8
    assert (labels[0], labels[-1]) == ("95", "0")


def test_the_heat_map_is_the_table_with_normal_in_white():
    degrees = table()
    degrees.loc[(degrees["layer"] == "block1.m") & (degrees["step"] == 64), "kurtosis"] = math.nan
    figure = kurtosis_figure(degrees, "tiny")
    axes, bar = figure.axes
    image = axes.images[0]
    logs = image.get_array()
    expected = np.array([[2.0 + number + 0.5 * place for place in range(6)] for number in range(4)])
    assert logs.mask.tolist() == [[(row, column) == (3, 3) for column in range(6)] for row in range(4)]
    np.testing.assert_allclose(logs.compressed(), np.delete(np.log(expected / 3).ravel(), 3 * 6 + 3))
    white = np.array(image.cmap(image.norm(0.0)))
    assert (white > 0.95).all()
    assert image.norm(math.log(2)) > 0.5 > image.norm(math.log(0.5))
    assert to_rgba("#d9d9d9") == pytest.approx(tuple(image.cmap.get_bad()), abs=0.01)
    assert "3 (normal)" in [label.get_text() for label in bar.get_yticklabels()]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(dict.fromkeys(degrees["layer"]))
    (numbers,) = axes.collections
    assert numbers.get_offsets().tolist() == [
        [column, row] for row, column in zip(*np.nonzero(~logs.mask), strict=True)
    ]
    assert {tuple(colour[:3]) for colour in numbers.get_facecolors()} == {(0, 0, 0), (1, 1, 1)}
    assert len(drawn(figure)) > 3000


@pytest.mark.parametrize("draw", [degrees_figure, kurtosis_figure])
def test_nothing_to_show_is_said(draw):
    degrees = table()
    for missing in (degrees.iloc[:0], degrees.assign(kurtosis=np.nan, p50=np.nan), degrees.assign(step=pd.NA)):
        figure = draw(missing, "empty")
        assert any("no layer has" in text.get_text() for axes in figure.axes for text in axes.texts)
        drawn(figure)
    nodes = single_nodes()
    figure = degree_distributions_figure(nodes.assign(average_weighted_degree=np.nan), "empty")
    assert any("no layer has" in text.get_text() for axes in figure.axes for text in axes.texts)


def test_one_step_one_layer_one_value():
    drawn(degrees_figure(table(["output.x"], [0]), "one"))
    drawn(kurtosis_figure(table(["output.x"], [0], kurtosis=3.0), "one"))
    drawn(degree_distributions_figure(single_nodes(["output.x"], [0], 1), "one"))
    same = single_nodes(["output.x"], [0, 1]).assign(average_weighted_degree=4.0)
    assert {text.get_text() for text in panels(degree_distributions_figure(same, "one"))["output.x"].texts} == {""}


def test_extreme_kurtosis_and_many_layers_fit():
    layers = [f"block{block}.{part}" for block in range(24) for part in "xcam"]
    degrees = table(layers, list(range(0, 300, 2)))
    degrees.loc[0, "kurtosis"] = 2500.0
    figure = kurtosis_figure(degrees, "large")
    assert not figure.axes[0].collections
    assert len(figure.axes[0].get_yticks()) == 48
    assert (figure.get_size_inches() <= (14, 12)).all()
    assert drawn(kurtosis_figure(degrees, "large")) == drawn(figure)
