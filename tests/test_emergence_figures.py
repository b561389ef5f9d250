"""Figures of many models and of few: what is drawn can be seen, and what is named is there."""

from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import pytest

from ninscope.report.benchmarks_figure import benchmarks_figure
from ninscope.report.figures import comparison_figure, emergence_figure
from ninscope.report.layout import picture, png, text_width
from ninscope.report.parts_figure import parts_figure
from ninscope.report.step_axis import MOST_TICKS, position

STEPS = [0, 500, 1000, 1500, 2000, 2500]


def rows(models=1, methods=("exact",), steps=STEPS, **columns):
    frame = pd.DataFrame(
        [
            {"suite": "s", "model": f"model-with-a-long-name-{model}", "step": step, "method": method, "baseline": "step0",
             "alpha0": 1 - step / 1e4, "width": 0.1, "alpha0_std": np.nan, "width_std": np.nan, "emergence": step / 1e3 + model,
             "emergence_low": np.nan, "emergence_high": np.nan, "status": "ok", "message": "", "warning": ""}
            for model in range(models) for method in methods for step in steps
        ]
    ).astype({"step": "Int64"})  # fmt: skip
    return frame.assign(**columns)


def benchmarks(*series):
    listed = [{"task": task, "metric": metric, "step": step, "value": 1.0} for task, metric in series for step in STEPS]
    return pd.DataFrame(listed, columns=["task", "metric", "step", "value"]).astype({"step": "Int64"})


def legend_box(figure):
    png(figure)
    axes = figure.axes[0]
    return axes.get_legend().get_window_extent(), axes.get_window_extent(), figure.bbox


@pytest.mark.parametrize(
    ("models", "methods"), [(1, ("exact",)), (12, ("exact",)), (12, ("sampled", "exact")), (30, ("exact",))]
)
def test_a_legend_of_many_models_hides_no_curve(models, methods):
    figure = comparison_figure(rows(models, methods))
    legend, panel, paper = legend_box(figure)
    assert legend.x0 >= panel.x1
    assert legend.x1 <= paper.x1
    assert legend.y0 >= paper.y0
    assert legend.y1 <= paper.y1
    assert panel.width > 0.4 * 6.8 * figure.dpi
    assert len(figure.axes[0].get_legend().get_texts()) == models * len(methods)


@pytest.mark.parametrize(
    ("columns", "nulls", "named"),
    [
        ({}, None, ""),
        ({"alpha0_std": 0.1}, None, " (bands: ±1 standard deviation of samples)"),
        ({}, 0.1, " (bands: ±1 standard deviation of draws)"),
        ({"width_std": 0.1}, 0.1, " (bands: ±1 standard deviation of samples, of draws)"),
        ({}, np.nan, ""),
    ],
)
def test_bands_are_named_only_where_they_are(columns, nulls, named):
    shown = None if nulls is None else rows(null="shuffled", alpha0_std=nulls, width_std=nulls, emergence_std=nulls)
    figure = emergence_figure(rows(**columns), benchmarks(), "mine", shown)
    assert figure.axes[0].get_title() == f"mine over training{named}"


@pytest.mark.parametrize(("low", "named"), [(np.nan, False), (0.0, True)])
def test_an_interval_is_named_only_where_there_is_one(low, named):
    figure = emergence_figure(rows(methods=("sampled",), emergence_low=low, emergence_high=low), benchmarks(), "mine")
    (label, *_) = [text.get_text() for text in figure.axes[2].get_legend().get_texts()]
    assert label == "E against step0, samples" + (" (band: bootstrap interval)" if named else "")


def ticks(axes):
    places = axes.xaxis.get_major_locator().locs
    labels = axes.xaxis.get_major_formatter().seq
    return list(places), list(labels)


def test_ticks_stand_at_the_steps_of_the_data():
    places, labels = ticks(comparison_figure(rows()).axes[0])
    np.testing.assert_array_equal(places, position(STEPS))
    assert labels == ["0", "500", "", "1500", "", "2500"]


@pytest.mark.parametrize("size", [1, 1000, 1001])
def test_a_short_axis_has_labels_too(size):
    figure = emergence_figure(
        rows(steps=[30 * size, 60 * size, 90 * size, 120 * size, 150 * size]), benchmarks(), "mine"
    )
    png(figure)
    labels = [label.get_window_extent() for label in figure.axes[2].get_xticklabels() if label.get_text()]
    assert len(labels) >= 4
    assert all(left.x1 < right.x0 for left, right in pairwise(labels))


def test_the_legend_beside_e_hides_no_curve():
    loss = benchmarks(("held_out", "loss")).assign(value=[3.0, 2.9, 2.8, 2.7, 2.6, 2.5])
    figure = emergence_figure(rows(methods=("sampled", "exact")), loss, "mine")
    png(figure)
    panel, beside = figure.axes[2], figure.axes[3]
    lowest = panel.get_legend().get_window_extent().y0
    for axes in (panel, beside):
        for line in axes.lines:
            if line.get_label() and not line.get_label().startswith("_"):
                assert axes.transData.transform(line.get_xydata())[:, 1].max() < lowest


def test_of_very_many_steps_only_those_with_labels_have_a_tick():
    steps = list(range(0, 10 * MOST_TICKS, 5))
    places, labels = ticks(comparison_figure(rows(steps=steps)).axes[0])
    assert set(places) <= set(position(steps))
    assert all(labels)
    assert len(labels) < MOST_TICKS


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_the_same_figure_has_the_same_bytes_in_every_format(form):
    first, second = (picture(comparison_figure(rows(2)), form) for _ in range(2))
    assert first == second
    assert first.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[form])


def test_every_task_and_metric_has_a_panel():
    series = [("lambada", "accuracy"), ("held_out", "loss"), ("arc", "acc_norm"), ("eval", "f1"), ("train", "loss")]
    figure = benchmarks_figure(rows(), benchmarks(*series), "mine")
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible()]
    assert titles == [
        "E against step0",
        "lambada accuracy",
        "held-out loss",
        "arc acc_norm",
        "evaluation f1",
        "training loss",
    ]
    many = benchmarks(*((f"task{number}", "accuracy") for number in range(45)))
    assert "(5 more are in the table benchmarks)" in benchmarks_figure(rows(), many, "mine")._suptitle.get_text()


LONG = "crows_pairs_english_physical_appearance"  # of Pythia's own results
FORMULA = r"odds $\frac{$ of"


def test_long_names_of_tasks_reach_no_other_panel():
    figure = benchmarks_figure(rows(), benchmarks(*((LONG, f"likelihood_difference_{n}") for n in range(7))), "mine")
    png(figure)
    titles = [axes.title for axes in figure.axes]
    assert titles[1].get_text().replace("\n", " ") == f"{LONG} likelihood_difference_0"
    boxes = [title.get_window_extent() for title in titles]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    figure = emergence_figure(rows(), benchmarks((LONG, "likelihood_difference")), "mine")
    png(figure)
    panel, label = figure.axes[3].get_window_extent(), figure.axes[3].yaxis.label.get_text()
    (written,) = [text for text in figure.texts if text.get_text() == label]
    box = written.get_window_extent()
    assert (label.count("\n"), panel.y0 <= box.y0, box.y1 <= panel.y1) == (1, True, True)


def test_steps_of_a_long_training_have_room_for_their_labels():
    steps = [0, *(2**power for power in range(10)), *range(3000, 144000, 10000)]
    listed = [{"task": "piqa", "metric": "acc", "step": step, "value": 1.0} for step in steps]
    figure = benchmarks_figure(rows(), pd.DataFrame(listed).astype({"step": "Int64"}), "mine")
    png(figure)
    panel = figure.axes[1]
    places, labels = ticks(panel)
    assert (labels[0], labels[-1]) == ("0", "143k")
    across = [panel.transData.transform((place, 0))[0] * 72 / figure.dpi for place in places]
    named = [(place, text_width(label, 9.0)) for place, label in zip(across, labels, strict=True) if label]
    assert len(named) > 4
    assert all(right - left > (wide + narrow) / 2 for (left, wide), (right, narrow) in pairwise(named))


@pytest.mark.parametrize("draw", [benchmarks_figure, emergence_figure])
def test_a_name_is_no_formula(draw):
    assert len(png(draw(rows(), benchmarks((FORMULA, "acc")), "mine"))) > 10_000


def parts_of_blocks(blocks, letters, steps):
    names = ["all", *(f"layer/block{block}.{letter}" for block in range(blocks) for letter in letters)]
    many = [rows(part=name).iloc[:1].assign(step=step) for name in names for step in steps]
    return pd.concat(many, ignore_index=True).astype({"step": "Int64"})


@pytest.mark.parametrize(
    ("blocks", "labels"),
    [
        (6, [f"block{block}.{letter}" for block in range(6) for letter in "xqkvcam"]),
        (12, [f"block{block}.x" for block in range(12)]),
        (150, [f"block{block}.x" for block in range(0, 150, 3)]),
    ],
)
def test_parts_have_a_label_each_or_one_a_block(blocks, labels):
    figure = parts_figure(parts_of_blocks(blocks, "xqkvcam", [0]), "mine")
    panel = figure.axes[2]
    assert list(panel.yaxis.get_major_formatter().seq) == labels
    assert [label for label in ticks(figure.axes[2])[1] if label] == ["0"]


@pytest.mark.parametrize(
    ("steps", "labelled"), [([1000, 2000, 143000], ["1k", "2k", "143k"]), ([0, *range(1000, 144000, 1000)], None)]
)
def test_labels_of_steps_below_parts_do_not_touch(steps, labelled):
    figure = parts_figure(parts_of_blocks(1, "xm", steps), "mine")
    panel = figure.axes[2]
    places, labels = ticks(panel)
    assert labelled is None or labels == labelled
    points = panel.get_position().width * figure.bbox.width * 72 / figure.dpi / np.ptp(panel.get_xlim())
    shown = [(place * points, text_width(label, 9)) for place, label in zip(places, labels, strict=True) if label]
    assert len(shown) > 1
    for (place, width), (after, width_after) in pairwise(shown):
        assert after - place > (width + width_after) / 2 + 2


def test_cells_of_parts_with_a_warning_have_a_dot():
    whole, part = rows(part="all"), rows(part="kind/mlp")
    part.loc[part["step"] == 1500, "warning"] = "E compares unlike networks"
    figure = parts_figure(pd.concat([whole, part], ignore_index=True), "mine")
    (dots,) = [line for axes in figure.axes[:4] for line in axes.lines if len(line.get_xdata())][:1]
    assert dots.get_xdata().tolist() == [position(1500)]
    assert "dots: with a warning" in figure._suptitle.get_text()
    assert "dots" not in parts_figure(whole, "mine")._suptitle.get_text()
