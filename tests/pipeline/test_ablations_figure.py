"""What the figure of variants concludes, on tables whose conclusions are known, and what it draws."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.legend import Legend

from ninscope.report.ablations import ablations_figure, conclusions

STEPS = (0, 1, 2, 4, 8)


def analysis(variant: str, values, method: str = "sampled", steps=STEPS) -> pd.DataFrame:
    """Rows of the table `emergence`: E by step, its interval 0.1 to either side where there are samples."""
    e = np.array(values, dtype=np.float64)
    spread = 0.1 if method == "sampled" else math.nan
    return pd.DataFrame(
        {
            "step": pd.array(steps, dtype="Int64"), "method": method, "variant": variant, "baseline_step": 0,
            "alpha0": 1.0, "width": 2.0, "emergence": e, "emergence_low": e - spread, "emergence_high": e + spread,
        }
    )  # fmt: skip


OWN = analysis("default", (0, 1, 2, 3, 4))


def found(*others: pd.DataFrame) -> pd.DataFrame:
    return conclusions(pd.concat([OWN, *others])).set_index("variant")


@pytest.mark.parametrize(
    ("values", "agreement", "trend"),
    [
        ((0, 2, 3, 4, 9), 1.0, 1.0),
        ((0, -1, -2, -3, -4), -1.0, -1.0),
        ((0, 1, 2, 4, 3), 0.8, 0.8),  # one neighbouring pair exchanged: 1 - 6 * 2 / (4 * 15)
        ((9, 4, 3, 2, 1), -1.0, -1.0),  # the baseline's own has no say
        ((0, 5, 5, 5, 5), math.nan, math.nan),
    ],
)
def test_ranks_are_compared_after_the_baseline(values, agreement, trend):
    row = found(analysis("a-b", values)).loc["a-b"]
    np.testing.assert_allclose([row["agreement"], row["trend"]], [agreement, trend], rtol=1e-12)
    assert (row["steps"], row["step"], row["emergence"]) == (4, 8, values[-1])
    assert (row["group"], row["name"]) == ("a", "b")


def test_only_steps_that_both_have_are_compared():
    other = analysis("b", (0, 4, math.nan, 2, 1))
    row = found(other).loc["b"]
    assert (row["steps"], row["agreement"], row["step"]) == (3, -1.0, 8)
    assert (row["group"], row["name"]) == ("", "b")
    row = found(analysis("b", (0, 3, 4), steps=(0, 1, 2))).loc["b"]
    assert (row["steps"], row["step"], row["emergence"]) == (2, 2, 4)
    assert math.isnan(row["agreement"])


def test_a_method_is_compared_with_the_same_method_where_the_default_has_it():
    exact = analysis("default", (0, 4, 3, 2, 1), "exact")
    others = [analysis("b", (0, 4, 3, 2, 1), "exact").assign(alpha0=9.0), analysis("c", (0, 1, 2, 3, 9), "sampled")]
    rows = found(exact, *others)
    assert rows.loc[["b", "c"], "agreement"].tolist() == [1.0, 1.0]
    assert found(others[0]).loc["b", "agreement"] == -1.0


def test_what_a_variant_leaves_as_it_is_has_no_row():
    exact = analysis("default", (0, 4, 3, 2, 1), "exact")
    rows = found(exact, analysis("few", (0, 1, 1, 2, 2)), exact.assign(variant="few"))
    assert rows.index.tolist() == ["default", "default", "few"]
    assert rows.loc["few", "method"] == "sampled"


def test_without_any_e_nothing_is_concluded_and_the_figure_is_drawn():
    nothing = [math.nan] * 5
    table = pd.concat([OWN.assign(emergence=math.nan), analysis("a", nothing), analysis("b", nothing, "exact")])
    rows = conclusions(table)
    assert rows["agreement"].isna().all()
    assert rows["step"].isna().all()
    assert len(ablations_figure(table, "m").axes) > 3


@pytest.mark.parametrize("groups", [1, 2, 4, 5])
def test_every_group_has_a_panel_and_every_analysis_a_line_in_it(groups):
    others = [analysis(f"{group}-{name}", (0, 1, 2, 2, name)) for group in "abcde"[:groups] for name in (3, 4)]
    axes = [axes for axes in ablations_figure(pd.concat([OWN, *others]), "m").axes if axes.get_visible()]
    panels, below = axes[:groups], axes[groups:]
    assert [panel.get_title() for panel in panels] == list("abcde"[:groups])
    for panel in panels:
        assert [text.get_text() for text in panel.get_legend().get_texts()] == ["default", "3", "4"]
    assert [label.get_text() for label in below[0].get_yticklabels()][:3] == ["default", "a: 3", "a: 4"]
    assert sum(line.get_marker() == "o" for line in below[0].lines) == 1 + 2 * groups


def test_a_legend_says_once_what_a_ring_means():
    analyses = [OWN, analysis("b", (0, 1, 2, 2, 3)), analysis("c", (0, 1, 2, 2, 4))]
    (legend,) = ablations_figure(pd.concat(analyses).assign(warning="not to be trusted"), "tiny").findobj(Legend)
    assert [text.get_text() for text in legend.get_texts()] == ["default", "b", "c", "warning (see tables)"]
