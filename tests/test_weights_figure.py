"""The figure of weights shows the numbers of the table, whatever is missing from it."""

import numpy as np
import pandas as pd
import pytest

from ninscope.report.layout import png
from ninscope.report.weights_figure import weights_figure

STEPS = [0, 1, 64, 1000]
COLUMNS = ("norm", "kurtosis", "distance_from_start", "stable_rank")


def table(matrices=("block0.x -> block0.q", "block1.x -> block1.q", "block0.m -> block1.x", "all")):
    rows = [
        {"step": step, "matrix": matrix, **dict.fromkeys(COLUMNS, 10 * number + place + 0.5)}
        for place, step in enumerate(STEPS)
        for number, matrix in enumerate(matrices)
    ]
    return pd.DataFrame(rows).astype({"step": "Int64"})


def lines(axes):
    return {line.get_label(): line.get_ydata().tolist() for line in axes.lines}


def test_medians_of_kinds_and_all_together():
    figure = weights_figure(table(), "tiny")
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert lines(axes) == {
            "x → q": [5.5, 6.5, 7.5, 8.5],
            "m → x": [20.5, 21.5, 22.5, 23.5],
            "all together": [30.5, 31.5, 32.5, 33.5],
        }
        np.testing.assert_allclose(axes.lines[0].get_xdata(), np.log2(np.array(STEPS) + 1))
    assert figure.get_suptitle().startswith("tiny: weights over training")
    assert len(png(figure)) > 5000


@pytest.mark.parametrize(
    "name", ["stdlib-neox-500k", "the-name-of-a-model-that-hardly-fits-into-any-title-of-a-figure"]
)
def test_titles_are_no_wider_than_the_figure(name):
    figure = weights_figure(table(), name)
    png(figure)
    box = figure._suptitle.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width


def test_what_is_missing_has_no_panel():
    rows = table()
    rows.loc[rows["step"] == 0, "distance_from_start"] = np.nan
    rows["stable_rank"] = np.nan
    figure = weights_figure(rows, "tiny")
    assert [axes.get_ylabel() for axes in figure.axes][:2] == ["norm", "kurtosis (normal: 3)"]
    assert len(figure.axes) == 3
    assert lines(figure.axes[2])["all together"] == [31.5, 32.5, 33.5]


def test_many_kinds_are_not_told_apart():
    rows = table([*(f"a.{n} -> b.{n}" for n in range(11)), "all"])
    assert list(lines(weights_figure(rows, "tiny").axes[0])) == ["all together"]


def test_of_no_steps_it_says_so():
    rows = table().astype({"step": "Int64"})
    rows["step"] = pd.NA
    figure = weights_figure(rows, "tiny")
    assert "no checkpoint with a step has a value" in [text.get_text() for text in figure.axes[0].texts]
    assert len(png(figure)) > 1000
