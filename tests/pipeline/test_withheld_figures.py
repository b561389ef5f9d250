"""Figures mark the checkpoints whose E the audit withheld, where they stand, and no other."""

import math

import numpy as np
import pandas as pd
import pytest

from ninscope.report.figures import comparison_figure, emergence_figure

NONE = pd.DataFrame({"task": [], "metric": [], "step": [], "value": []})
LABEL = "no E: duplicate weights"
STEPS = (0, 1, 3, 7)


def rows(duplicates=(), methods=("exact",), **changes) -> pd.DataFrame:
    """Rows of the table `emergence`. duplicates: steps whose E is withheld."""
    found = [
        {
            "suite": "s", "model": "m", "step": step, "method": method, "alpha0": 0.5 + step / 10, "width": 1.0 + step,
            "alpha0_std": 0.1, "width_std": 0.1, "status": "duplicate" if step in duplicates else "ok",
            "message": f"no E: step {step}" if step in duplicates else "",
            **dict.fromkeys(("emergence", "emergence_low", "emergence_high"), math.nan if step in duplicates else step / 5),
        }
        for step in STEPS
        for method in methods
    ]  # fmt: skip
    return pd.DataFrame(found).astype({"step": "Int64"}).assign(**changes)


def crosses(axes) -> list[tuple[float, float]]:
    lines = [line for line in axes.lines if line.get_marker() == "x"]
    return [point for line in lines for point in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def uprights(axes) -> list[float]:
    return [line.get_xdata()[0] for line in axes.lines if line.get_label() == LABEL and line.get_marker() != "x"]


@pytest.mark.parametrize("duplicates", [(), (1,), (1, 7)])
def test_a_cross_on_what_is_measured_and_an_upright_where_e_would_be(duplicates):
    axes = emergence_figure(rows(duplicates), NONE, "m").axes
    places = np.log2(np.array(duplicates) + 1)
    assert crosses(axes[0]) == [(x, 0.5 + step / 10) for x, step in zip(places, duplicates, strict=True)]
    assert crosses(axes[1]) == [(x, 1.0 + step) for x, step in zip(places, duplicates, strict=True)]
    assert uprights(axes[2]) == list(places)
    for panel in (axes[0], axes[2]):
        labels = [text.get_text() for text in panel.get_legend().get_texts()]
        assert labels.count(LABEL) == bool(duplicates)


def test_one_upright_serves_both_methods():
    axes = emergence_figure(rows((1,), ("sampled", "exact")), NONE, "m").axes
    assert uprights(axes[2]) == [1.0]
    assert len(crosses(axes[0])) == 2


def test_where_there_is_no_e_at_all_the_reason_is_written_there():
    axes = emergence_figure(rows(STEPS, message="no E: the baseline step0 is a duplicate"), NONE, "m").axes
    assert "no E: the baseline step0 is a duplicate" in " ".join(
        text.get_text().replace("\n", " ") for text in axes[2].texts
    )
    assert len(crosses(axes[0])) == len(STEPS)


def test_a_withheld_checkpoint_without_a_spectrum_has_no_cross():
    one = rows((1, 7))
    one.loc[one["step"] == 7, "alpha0"] = math.nan
    assert [x for x, _ in crosses(emergence_figure(one, NONE, "m").axes[0])] == [1.0]


def test_the_comparison_says_how_many_are_left_out():
    table = pd.concat([rows((1, 3)), rows().assign(model="whole"), rows(STEPS).assign(model="none")])
    (axes,) = comparison_figure(table).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "m (no E of 2 duplicates)", "whole", "none (no E)",
    ]  # fmt: skip
