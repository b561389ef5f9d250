"""Figures of neurons draw what the tables say: over steps beside the control, as maps, and as points; and name what is missing."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from neurons_tables import (
    MEASURES,
    STEPS,
    WHERE,
    checkpoints_table,
    correlation_of,
    layers_of,
    neurons_table,
    places_table,
    single_neurons,
    value_of,
)
from scipy.stats import spearmanr

from ninscope.report import neurons_rows
from ninscope.report.layout import picture
from ninscope.report.neuron_places_figure import chosen_measures, neuron_places_figure, placed_neurons
from ninscope.report.neuron_places_training_figure import neuron_places_training_figure
from ninscope.report.neurons_figures import neurons_figure, neurons_map
from ninscope.report.neurons_rows import main_rows, title_of_column
from ninscope.report.polysemanticity_style import BLUE, ORANGE

PLACES = [math.log2(step + 1) for step in STEPS]


@pytest.fixture(autouse=True)
def names_as_titles(monkeypatch):
    """Measures are called by their names, whatever titles the registry has."""
    monkeypatch.setattr(neurons_rows, "measures", dict)


def panels_of(figure):
    return {axes.get_title().replace("\n", " "): axes for axes in figure.axes if axes.axison and axes.get_title()}


def caption(figure) -> str:
    return " ".join(text.get_text() for text in figure.texts)


def legend(figure) -> list[str]:
    return [text.get_text() for one in figure.legends for text in one.texts]


def inside(figure) -> bool:
    """Every text lies within the figure, once it is drawn."""
    figure.draw_without_rendering()
    texts = [*figure.texts, *(text for one in figure.legends for text in one.texts)]
    texts += [label for axes in figure.axes for label in (axes.title, axes.xaxis.label, axes.yaxis.label)]
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    width, height = figure.bbox.width, figure.bbox.height
    return all(box.x0 > -1 and box.x1 < width + 1 and box.y0 > -1 and box.y1 < height + 1 for box in boxes)


class TestOverTraining:
    def test_a_line_is_the_median_over_layers_and_its_band_their_quantiles(self):
        axes = panels_of(neurons_figure(neurons_table(("dormant",)), checkpoints_table(), "held-out"))["dormant"]
        text, control = axes.lines
        for line, shuffled in ((text, False), (control, True)):
            by_layer = [[value_of("dormant", depth, step, shuffled) for depth in range(4)] for step in STEPS]
            assert line.get_xdata() == pytest.approx(PLACES)
            assert line.get_ydata() == pytest.approx(np.median(by_layer, axis=1))
        assert (text.get_linestyle(), text.get_marker()) == ("-", "o")
        assert control.is_dashed()
        (band,) = axes.collections
        corners = band.get_paths()[0].vertices
        last = corners[np.isclose(corners[:, 0], PLACES[-1])][:, 1]
        layers = [value_of("dormant", depth, 4000) for depth in range(4)]
        assert (last.min(), last.max()) == pytest.approx(tuple(np.quantile(layers, [0.05, 0.95])))

    def test_a_number_of_the_whole_model_has_no_band(self):
        axes = panels_of(neurons_figure(neurons_table(("thresholds",)), checkpoints_table(), "held-out"))["thresholds"]
        assert axes.lines[0].get_ydata() == pytest.approx([value_of("thresholds", 0, step) for step in STEPS])
        assert not axes.collections

    def test_the_whole_model_s_row_is_the_line_where_layers_have_rows_too(self):
        rows = neurons_table(("dead",))
        whole = rows[rows["layer"] == "block0.m"].assign(layer="all", value=0.5)
        figure = neurons_figure(pd.concat([rows, whole]), checkpoints_table(), "held-out")
        axes = panels_of(figure)["dead"]
        assert axes.lines[0].get_ydata() == pytest.approx([0.5] * len(STEPS))
        assert len(axes.collections) == 1

    def test_models_have_colours_by_size_and_are_named(self):
        rows = neurons_table(("dormant", "sinks"), ("large", "small"))
        checkpoints = checkpoints_table(("large", "small"), sizes={"large": 900, "small": 10})
        figure = neurons_figure(rows, checkpoints, "held-out")
        lines = {to_hex(line.get_color()): line for line in panels_of(figure)["sinks"].lines if not line.is_dashed()}
        for colour, number in ((BLUE, 1), (ORANGE, 0)):
            first = np.median([value_of("sinks", depth, 0, model=number) for depth in range(4)])
            assert lines[colour].get_ydata()[0] == pytest.approx(first)
        assert legend(figure) == [
            "small",
            "large",
            "the examples",
            "control: shuffled",
            "band: 5 to 95 % of the layers",
        ]

    def test_every_measure_has_a_panel_on_one_page_but_what_has_no_value(self):
        steps = (0, 8, 4000)
        figure = neurons_figure(neurons_table(steps=steps, blocks=2), checkpoints_table(steps=steps), "held-out")
        expected = {
            name + {"": "", "start": ", beside the first step", "previous": ", beside the revision before",
                    "seed": ", beside another seed"}[against]
            for name, (_, _, others) in ((name.replace("_", " "), how) for name, how in MEASURES.items())
            for against in others or ("",)
        }  # fmt: skip
        assert set(panels_of(figure)) == expected - {"neural collapse"}
        assert "Not drawn, since no checkpoint has a value: neural collapse." in caption(figure)
        assert "gap" not in caption(figure)
        assert inside(figure)
        assert panels_of(figure)["massive activations"].get_yscale() == "log"
        assert panels_of(figure)["dead"].get_yscale() == "linear"

    def test_checkpoints_that_failed_are_gaps(self):
        rows = neurons_table(("dormant", "sinks"), steps=STEPS[:6])
        kept = rows[(rows["step"] != 4) | ~rows["step"].duplicated()]
        kept.loc[kept["step"] == 4, ["measure", "value"]] = [pd.NA, math.nan]
        figure = neurons_figure(kept, checkpoints_table(), "held-out")
        for axes in panels_of(figure).values():
            assert np.flatnonzero(np.isnan(axes.lines[0].get_ydata())).tolist() == [3]
        assert "A gap is a checkpoint without a value." in caption(figure)

    def test_a_comparison_with_what_was_before_has_no_gap_at_the_first_step(self):
        rows = neurons_table(("sign_flips",), steps=STEPS[:4])
        rows = rows[(rows["step"] > 0) | (rows["against"] == "start")]
        figure = neurons_figure(rows, checkpoints_table(), "held-out")
        line = panels_of(figure)["sign flips, beside the revision before"].lines[0]
        assert np.flatnonzero(np.isnan(line.get_ydata())).tolist() == [0]
        assert "gap" not in caption(figure)

    def test_comparisons_of_a_measure_stand_together_whichever_began_first(self):
        rows = neurons_table(("geometry", "dead"), steps=(0, 8), blocks=2)
        rows = rows[(rows["step"] > 0) | (rows["against"] != "previous")]
        figure = neurons_figure(rows, checkpoints_table(steps=(0, 8)), "held-out")
        assert list(panels_of(figure)) == [
            "geometry, beside the first step",
            "geometry, beside the revision before",
            "dead",
        ]

    def test_a_model_without_another_seed_does_not_make_a_measure_missing(self):
        rows = neurons_table(("universal",), ("a", "b"), steps=(0, 8))
        alone = rows["model"] == "b"
        rows.loc[alone, "value"], rows.loc[alone, "against"], rows.loc[alone, "layer"] = math.nan, "", "all"
        for figure in (
            neurons_figure(rows, checkpoints_table(("a", "b")), "held-out"),
            neurons_map(rows[~alone], checkpoints_table(("a",)), "held-out"),
        ):
            assert list(panels_of(figure)) == ["universal, beside another seed"]
            assert "Not drawn" not in caption(figure)
        figure = neurons_figure(rows[alone], checkpoints_table(("b",)), "held-out")
        assert "no checkpoint has a value: universal." in caption(figure)

    def test_rows_of_other_texts_are_not_drawn(self):
        rows = pd.concat([neurons_table(("dead",)), neurons_table(("dormant",), text="code")])
        assert list(panels_of(neurons_figure(rows, checkpoints_table(), "code"))) == ["dormant"]

    def test_without_values_it_says_so(self):
        for rows in (neurons_table(()), neurons_table(("neural_collapse",))):
            figure = neurons_figure(rows, checkpoints_table(), "held-out")
            assert [text.get_text() for axes in figure.axes for text in axes.texts] == [
                "no checkpoint has a value with a step"
            ]
            assert inside(figure)

    def test_names_are_no_formulas(self):
        rows = neurons_table(("dead",), ("a$b$", "b"), steps=(0, 8), text=r"$\frac{$")
        figure = neurons_figure(rows, checkpoints_table(("a$b$", "b")), r"$\frac{$")
        assert inside(figure)
        assert inside(neurons_map(rows[rows["model"] == "b"].assign(layer="$x"), checkpoints_table(), r"$\frac{$"))


class TestMap:
    def test_cells_are_the_table_with_the_input_below(self):
        figure = neurons_map(neurons_table(("dormant", "sinks")), checkpoints_table(), "held-out")
        axes = panels_of(figure)["sinks"]
        cells = axes.collections[0].get_array()
        expected = [[value_of("sinks", depth, step) for step in STEPS] for depth in range(4)]
        assert np.asarray(cells) == pytest.approx(np.array(expected))
        labels = axes.yaxis.get_major_formatter().format_ticks(axes.get_yticks().tolist())
        assert labels == [f"block{number}.c" for number in range(4)]
        assert axes.get_yticks() == pytest.approx([0.5, 1.5, 2.5, 3.5])
        scales = [panel.collections[0].norm for panel in panels_of(figure).values()]
        assert (scales[1].vmin, scales[1].vmax) == pytest.approx((np.min(expected), np.max(expected)))
        assert scales[0].vmax != pytest.approx(scales[1].vmax)

    def test_missing_cells_are_marked_also_those_of_checkpoints_without_rows(self):
        rows = neurons_table(("dormant",), steps=(0, 1, 8), gaps=[("dormant", "block2.m", 1)])
        figure = neurons_map(rows, checkpoints_table(steps=(0, 1, 8, 64)), "held-out")
        axes = panels_of(figure)["dormant"]
        (crosses,) = axes.lines
        assert crosses.get_marker() == "x"
        assert np.sort(crosses.get_xdata()) == pytest.approx([1.0] + [math.log2(65)] * 4)
        assert np.sort(crosses.get_ydata()) == pytest.approx([0.5, 1.5, 2.5, 2.5, 3.5])
        assert np.ma.getmaskarray(axes.collections[0].get_array()).sum() == 5
        assert "Grey with a cross: no value." in caption(figure)

    def test_colours_are_about_0_of_both_signs_and_logarithmic_of_what_spans_much(self):
        figure = neurons_map(neurons_table(("geometry", "massive_activations")), checkpoints_table(), "held-out")
        signed, large = panels_of(figure)["geometry, beside the first step"], panels_of(figure)["massive activations"]
        norm = signed.collections[0].norm
        assert norm.vmin == pytest.approx(-norm.vmax)
        assert signed.collections[0].get_cmap().name == "RdBu_r"
        assert type(large.collections[0].norm).__name__ == "LogNorm"

    def test_long_names_are_short_and_one_value_has_one_tick(self):
        rows = neurons_table(("sign_flips",), steps=(0, 8), blocks=2)
        names = {"block0.m": "layers.0.attention.query_key_value.weight", "block1.m": "layers.0.mlp.weight"}
        rows = rows.assign(layer=rows["layer"].map(names), value=0.25)
        figure = neurons_map(rows, checkpoints_table(steps=(0, 8)), "held-out")
        axes = panels_of(figure)["sign flips, beside the first step"]
        labels = axes.yaxis.get_major_formatter().format_ticks(axes.get_yticks().tolist())
        assert labels == ["layers.0.a…_key_value", "layers.0.mlp"]
        (bar,) = axes.child_axes
        assert bar.get_yticks().tolist() == [0.25]

    def test_measures_of_whole_models_are_named_and_all_others_are_there(self):
        figure = neurons_map(neurons_table(steps=(0, 8), blocks=2), checkpoints_table(steps=(0, 8)), "held-out")
        whole = {name for name, (kind, *_) in MEASURES.items() if kind == "all"}
        assert not {title.partition(",")[0].replace(" ", "_") for title in panels_of(figure)} & whole
        assert len(panels_of(figure)) == sum(
            max(len(others), 1) for kind, _, others in MEASURES.values() if kind != "all"
        )
        assert (
            "no layer has a value: thresholds; entropy neurons; function distance, beside the first step;"
            in caption(figure)
        )
        assert caption(figure).endswith("; neural collapse.")
        assert inside(figure)

    def test_several_models_are_refused_and_nothing_is_said_to_be_nothing(self):
        with pytest.raises(ValueError, match="a map is of one model, these rows are of a and b"):
            neurons_map(neurons_table(("dead",), ("a", "b")), checkpoints_table(("a", "b")), "held-out")
        figure = neurons_map(neurons_table(("thresholds",)), checkpoints_table(), "held-out")
        assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["no layer has a value at a step"]


class TestPlaces:
    def test_points_are_neurons_and_titles_their_correlations(self):
        values = single_neurons(60)
        figure = neuron_places_figure(values, "small, step 8")
        grid = np.array(figure.axes).reshape(4, 3)
        assert [axes.get_xlabel() for axes in grid[-1]] == [r"exponent $\alpha_i$", "mean distance", "degree"]
        assert [axes.get_ylabel() for axes in grid[:, 0]] == ["firing frequency", "kurtosis", "phi", "universal"]
        points = np.asarray(grid[0, 2].collections[0].get_offsets())
        assert points == pytest.approx(values[["degree", "firing_frequency"]].to_numpy())
        known = values["universal"].notna()
        assert len(grid[3, 0].collections[0].get_offsets()) == known.sum() == 120
        for line, measure in enumerate(("firing_frequency", "kurtosis", "phi", "universal")):
            for column, place in enumerate(("alpha", "mean_distance", "degree")):
                rho = spearmanr(values[place], values[measure], nan_policy="omit").statistic
                said = grid[line, column].get_title().replace("\N{MINUS SIGN}", "-")
                assert float(said.split()[2]) == pytest.approx(rho, abs=0.00501)
        assert legend(figure) == ["block0.m", "block1.m", "block2.m"]
        assert inside(figure)

    def test_what_layers_explain_is_grey(self):
        """phi and alpha differ between layers alone; firing_frequency follows the degree within each."""
        grid = np.array(neuron_places_figure(single_neurons()).axes).reshape(4, 3)
        assert grid[0, 2].title.get_color() == "black"
        assert grid[2, 0].title.get_color() != "black"
        assert "0.89" in grid[2, 0].get_title()

    def test_columns_without_values_are_named_and_one_panel_is_enough(self):
        values = single_neurons()[["layer", "index", "degree", "phi"]].assign(alpha=math.nan, dead=math.nan, alike=1.0)
        figure = neuron_places_figure(values)
        assert [axes.get_ylabel() for axes in figure.axes] == ["phi", "alike"]
        assert figure.axes[1].get_title() == "no correlation: all are alike"
        assert r"fewer than 3 neurons have a value: exponent $\alpha_i$; dead." in caption(figure)
        assert inside(figure)
        figure = neuron_places_figure(values[["layer", "index", "degree", "phi"]])
        assert len(figure.axes) == 1
        assert "Of 1 panel 0.05" in caption(figure)
        assert inside(figure)

    def test_many_measures_go_beside_each_other(self):
        values = single_neurons(5)[["layer", "index", "degree", "phi"]]
        columns = {f"measure{number}": values["phi"] + number for number in range(7)}
        figure = neuron_places_figure(values.assign(**columns))
        assert sum(axes.axison for axes in figure.axes) == 8
        assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == (3, 3)
        assert [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()] == ["degree"] * 3
        assert inside(figure)

    def test_layers_have_labels_as_far_as_there_is_room(self):
        figure = neurons_map(
            neurons_table(("dead",), steps=(0, 8), blocks=40), checkpoints_table(steps=(0, 8)), "held-out"
        )
        (axes,) = panels_of(figure).values()
        labels = axes.yaxis.get_major_formatter().format_ticks(axes.get_yticks().tolist())
        assert labels == [f"block{number}.m" for number in range(0, 40, 3)]

    def test_of_very_many_neurons_some_are_drawn(self):
        figure = neuron_places_figure(single_neurons(2000)[["layer", "index", "degree", "phi"]])
        assert len(figure.axes[0].collections[0].get_offsets()) == 4000
        assert "at most 4,000 of 6,000 neurons" in caption(figure)

    def test_nothing_known_is_said(self):
        values = single_neurons(2, 1)
        figure = neuron_places_figure(values)
        assert "no measure is known of three neurons" in figure.axes[0].texts[0].get_text().replace("\n", " ")


def of_a_run(values: pd.DataFrame) -> pd.DataFrame:
    """Single neurons as `run.neuron_values(..., nodes=True)` has them."""
    names = {"alpha": "dimension", "mean_distance": "average_weighted_degree", "degree": "edges"}
    keys = {"suite": "s", "model": "small", "revision": "step8", "step": 8, "unit": "neuron", "r2": 1.0}
    return values.rename(columns=names).assign(**keys)


def test_single_neurons_of_a_run_are_placed():
    values = single_neurons(20)
    of_run = of_a_run(values.assign(alike=1.0, never=math.nan, **{"phi/shuffled": values["phi"] / 2}))
    heads = of_run.head(3).assign(unit="head", phi=math.nan, sink=[1.0, 2.0, 3.0])
    nowhere = of_run.tail(2).assign(
        layer="output.x", dimension=math.nan, average_weighted_degree=math.nan, edges=math.nan
    )
    silent = of_run.tail(1).assign(layer="block9.x", **dict.fromkeys(list(values)[5:], math.nan))
    placed = placed_neurons(pd.concat([of_run, heads, nowhere, silent], ignore_index=True))
    assert list(placed) == [
        "layer", "index", "alpha", "mean_distance", "degree", "phi", "firing_frequency", "kurtosis", "universal",
    ]  # fmt: skip
    pd.testing.assert_frame_equal(placed, values[list(placed)])
    assert list(placed_neurons(of_run, most=1))[5:] == ["phi"]


def test_measures_that_readers_ask_for_come_first():
    names = [*(f"m{number}" for number in range(9)), "universal_rho/seed", "phi/shuffled", "dead_firing_frequency"]
    assert chosen_measures(names) == ["dead_firing_frequency", "universal_rho/seed", "m0", "m1", "m2", "m3"]
    assert chosen_measures(["b", "a"]) == ["b", "a"]


class TestPlacesOverTraining:
    def test_a_row_is_a_measure_a_column_a_place(self):
        figure = neuron_places_training_figure(places_table(("flat", "phi")), checkpoints_table(), "held-out")
        grid = np.array(figure.axes).reshape(2, 3)
        assert [axes.get_ylabel() for axes in grid[:, 0]] == ["phi", "flat"]
        assert [axes.get_title() for axes in grid[0]] == [r"exponent $\alpha_i$", "mean distance", "degree"]
        for line, measure in enumerate(("phi", "flat")):
            for column, place in enumerate(WHERE):
                _, control, own, outside, inside_ = grid[line, column].lines
                values = {step: correlation_of(place, measure, step) for step in STEPS}
                assert own.get_xdata() == pytest.approx(PLACES)
                assert own.get_ydata() == pytest.approx(list(values.values()))
                assert control.is_dashed()
                assert control.get_ydata() == pytest.approx(
                    [correlation_of(place, measure, step, True) for step in STEPS]
                )
                beyond = [value for value in values.values() if abs(value) > 0.1]
                assert outside.get_ydata() == pytest.approx(beyond)
                assert outside.get_markerfacecolor() == BLUE
                assert len(inside_.get_ydata()) == len(STEPS) - len(beyond)
                assert inside_.get_markerfacecolor() == "white"
                corners = grid[line, column].collections[0].get_paths()[0].vertices
                assert (corners[:, 1].min(), corners[:, 1].max()) == pytest.approx((-0.1, 0.1))
        assert len({axes.get_ylim() for axes in grid.flat}) == 1
        assert legend(figure) == [
            "Spearman's correlation", "control: shuffled", "95 % of permutations within layers", "outside of it",
        ]  # fmt: skip
        assert "A point is of 300 neurons." in caption(figure)
        assert inside(figure)

    def test_a_step_without_a_correlation_is_a_gap(self):
        gaps = [("alpha", "phi", 8)]
        figure = neuron_places_training_figure(places_table(("phi",), gaps=gaps), checkpoints_table(), "held-out")
        own = figure.axes[0].lines[2].get_ydata()
        assert np.flatnonzero(np.isnan(own)).tolist() == [STEPS.index(8)]
        assert not np.isnan(figure.axes[1].lines[2].get_ydata()).any()
        rows = places_table(("phi",), steps=(0, 8))
        figure = neuron_places_training_figure(rows, checkpoints_table(steps=(0, 1, 8)), "held-out")
        assert np.isnan(figure.axes[0].lines[2].get_ydata()).tolist() == [False, True, False]

    def test_at_most_six_measures_are_drawn_and_the_others_counted(self):
        rows = places_table((*(f"m{number}" for number in range(8)), "universal_rho/seed"), steps=(0, 8))
        figure = neuron_places_training_figure(rows, checkpoints_table(steps=(0, 8)), "held-out")
        assert [axes.get_ylabel().replace("\n", " ") for axes in figure.axes[::3]] == [
            "universal rho, beside another seed", "m0", "m1", "m2", "m3", "m4",
        ]  # fmt: skip
        assert "The table neuron_places has 3 more measures." in caption(figure)
        assert inside(figure)

    def test_of_one_step_or_none_or_of_another_text(self):
        one = places_table(("phi",), steps=(8,))
        figure = neuron_places_training_figure(one, checkpoints_table(steps=(8,)), "held-out")
        assert inside(figure)
        assert [line.get_ydata().size for line in figure.axes[0].lines[2:]] == [1, 1, 0]
        (alone,) = figure.axes[0].collections[1].get_segments()
        assert alone[:, 1].tolist() == [-0.1, 0.1]
        for rows, text in ((one, "other"), (one.assign(step=pd.NA), "held-out"), (one.head(0), "held-out")):
            figure = neuron_places_training_figure(rows, checkpoints_table(steps=(8,)), text)
            assert [text.get_text() for axes in figure.axes for text in axes.texts] == [
                "no correlation is known at a step"
            ]
            assert inside(figure)

    def test_rows_of_several_models_are_refused_and_names_are_no_formulas(self):
        with pytest.raises(ValueError, match="a figure is of one model, these rows are of a and b"):
            neuron_places_training_figure(places_table(models=("a", "b")), checkpoints_table(("a", "b")), "held-out")
        rows = places_table((r"$\frac{$",), (r"$x",), steps=(0, 8), text=r"$\frac{$")
        assert inside(neuron_places_training_figure(rows, checkpoints_table((r"$x",), (0, 8)), r"$\frac{$"))


def test_further_facts_and_rows_without_a_step_are_no_main_rows():
    rows = neurons_table(("dormant", "dead"), steps=(0, 1), blocks=1)
    assert set(rows["measure"]) == {"dormant", "dormant_tau_0.1", "dead"}
    rows.loc[rows["measure"] == "dead", "step"] = pd.NA
    found = main_rows(rows)
    assert set(found["measure"]) == {"dormant"}
    assert found["step"].dtype == np.int64
    assert len(found) == 2 * 2


@pytest.mark.parametrize("form", ["png", "svg"])
def test_a_figure_is_the_same_bytes_each_time(form):
    rows, checkpoints = neurons_table(("dead",), steps=(0, 8), blocks=2), checkpoints_table(steps=(0, 8))
    places = places_table(("phi",), steps=(0, 8))
    for draw, table in ((neurons_figure, rows), (neurons_map, rows), (neuron_places_training_figure, places)):
        first, second = (picture(draw(table, checkpoints, "held-out"), form) for _ in range(2))
        assert len(first) > 5000
        assert first == second


def test_titles_are_the_registry_s_and_its_names_are_main_facts(monkeypatch):
    known = {"dead": SimpleNamespace(title="Dead neurons"), "dead_heads": SimpleNamespace(title="Dead heads")}
    monkeypatch.setattr(neurons_rows, "measures", lambda: known)
    rows = pd.concat(
        [neurons_table(("dead",), steps=(0,)).assign(measure=name) for name in ("dead", "dead_heads", "dead_x")]
    )
    assert list(dict.fromkeys(main_rows(rows)["title"])) == ["Dead neurons", "Dead heads"]
    assert title_of_column("dead/shuffled") == "Dead neurons, shuffled"
    assert title_of_column("dead/seed/shuffled") == "Dead neurons, beside another seed, shuffled"
    assert title_of_column("dead/start") == "Dead neurons, beside the first step"


def test_the_tables_of_these_tests_are_as_the_stage_s():
    rows = neurons_table(("geometry",), steps=(0,), blocks=1)
    assert set(rows["layer"]) == set(layers_of("x", 1)) == {"block0.x", "output.x"}
    assert set(rows["against"]) == {"start", "previous"}
