"""Slopes of P on the pruning ratio and their verdict, against the standard library, scipy and Holm's own words."""

import math
import statistics

import numpy as np
import pandas as pd
import pytest
from polysemanticity_tables import RATIOS, laboratory, rows_of_training, table, true_ratio
from scipy import stats

from ninscope.neurons.polysemanticity.over_seeds import holm, mean_over_seeds
from ninscope.neurons.polysemanticity.slopes import (
    BY_BASELINE,
    SLOPE_COLUMNS,
    of_degree,
    polysemanticity_slopes,
    seed_slopes,
    verdicts_in_words,
)


def naive_slopes(rows: pd.DataFrame, experiment: str, dropout: float, rate: float) -> list[float]:
    """The slope of every seed, point by point, by the standard library's regression."""
    slopes = []
    every = rows.to_dict("records")
    for seed in sorted({row["seed"] for row in every}):
        own = [row for row in every if (row["experiment"], row["dropout"], row["seed"]) == (experiment, dropout, seed)]
        own = [row for row in own if row["layer"] == "all"]
        last = max(row["epoch"] for row in own if row["phase"] == "training")
        points = [(0.0, row["P"]) for row in own if row["phase"] == "training" and row["epoch"] == last]
        points += [(row["pruning_ratio"], row["P"]) for row in own
                   if row["phase"] == "retrained" and row["learning_rate"] == rate]  # fmt: skip
        slopes.append(statistics.linear_regression(*zip(*points, strict=True)).slope)
    return slopes


def naive_holm(p_values: list[float]) -> list[float]:
    """The largest, over the p-values that are no larger, of p times the number of those that are no smaller."""
    return [
        min(1.0, max(other * sum(third >= other for third in p_values) for other in p_values if other <= own))
        for own in p_values
    ]


def one_row(rows, experiment="L1", dropout=0.0, rate=0.001):
    found = rows[(rows["experiment"] == experiment) & (rows["dropout"] == dropout) & (rows["learning_rate"] == rate)]
    assert len(found) == 1
    return found.iloc[0]


def test_slopes_are_those_of_plain_regressions_with_t_intervals_and_holms_p():
    rows = laboratory(("L1", "N1", "N2"), noise=3)
    found = polysemanticity_slopes(rows)
    assert list(found.columns) == ["suite", *SLOPE_COLUMNS]
    assert len(found) == 3 * 2 * 2
    for rate in (0.001, 0.01):
        family = found[found["learning_rate"] == rate]
        expected_p = []
        for row in family.itertuples():
            slopes = naive_slopes(rows, row.experiment, row.dropout, rate)
            t = stats.ttest_1samp(slopes, 0.0)
            expected_p.append(float(t.pvalue))
            assert (row.seeds, row.tests) == (3, 6)
            assert row.slope == pytest.approx(statistics.mean(slopes))
            assert (row.own_low, row.own_high) == pytest.approx(tuple(t.confidence_interval(0.95)))
            assert (row.low, row.high) == pytest.approx(tuple(t.confidence_interval(1 - 0.05 / 6)))
            assert row.p_value == pytest.approx(t.pvalue)
        assert family["p_adjusted"].tolist() == pytest.approx(naive_holm(expected_p))


def test_known_slopes_give_known_verdicts():
    found = polysemanticity_slopes(laboratory(slopes=(-0.5, 0.001)))
    falling, flat = one_row(found, "N1"), one_row(found, "N1", 0.5)
    # Seeds have baselines 24, 25, 26 and lose .51, .50, .49 of them.
    assert falling["slope"] == pytest.approx(-(24 * 0.51 + 25 * 0.5 + 26 * 0.49) / 3)
    assert (falling["relative_slope"], falling["verdict"]) == (pytest.approx(-0.5), "falls")
    assert falling["change"] == pytest.approx(-0.5 * true_ratio(0.6))
    assert falling["largest_ratio"] == true_ratio(0.6)
    assert flat["verdict"] == "not told apart"
    assert one_row(polysemanticity_slopes(laboratory(slopes=(0.9, 0))), "L1")["verdict"] == "rises"


def test_a_verdict_by_holm_beside_an_interval_that_reaches_0_is_explained():
    found = polysemanticity_slopes(
        laboratory(slopes=(-0.5, 0.055))
    )  # after the strong ones, weak ones are tested less hard
    odd = found[(found["verdict"] != "not told apart") & (found["low"] <= 0) & (found["high"] >= 0)]
    assert len(odd)
    assert odd["message"].str.contains("Holm's test, which finds more than the interval").all()
    assert not found.drop(odd.index)["message"].str.contains("Holm").any()


def test_what_retraining_does_by_itself_is_told_from_what_pruning_does():
    """P is 10 lower after every retraining, and does not depend on the ratio."""
    rows = laboratory(("L1",), slopes=(0.0, -0.5), noise=2)
    whole = (rows["layer"] == "all") & (rows["phase"] == "retrained") & (rows["dropout"] == 0)
    rows.loc[whole, "P"] -= 10
    found = polysemanticity_slopes(rows)
    jump, falling = one_row(found), one_row(found, dropout=0.5)
    assert (jump["verdict"], falling["verdict"]) == ("falls", "falls")
    assert jump["message"].endswith("the retrained networks alone do not show it: retraining itself may move P")
    assert "alone" not in falling["message"]
    slopes = [
        statistics.linear_regression(own["pruning_ratio"], own["P"]).slope
        for _, own in rows[whole & (rows["learning_rate"] == 0.001)].groupby("seed")
    ]
    interval = stats.ttest_1samp(slopes, 0.0).confidence_interval(0.95)
    assert jump["retrained_slope"] == pytest.approx(statistics.mean(slopes))
    assert (jump["retrained_low"], jump["retrained_high"]) == pytest.approx(tuple(interval))


def test_one_seed_has_a_slope_and_no_interval():
    row = one_row(polysemanticity_slopes(laboratory(seeds=1)))
    assert row["slope"] == pytest.approx(-0.2 * 20)
    assert math.isnan(row["low"])
    assert math.isnan(row["p_adjusted"])
    assert pd.isna(row["tests"])
    assert (row["verdict"], row["message"]) == ("not told apart", "one seed: no interval over seeds")


def test_seeds_that_do_not_vary_have_no_interval():
    rows = table([row for seed in range(3) for row in rows_of_training("L1", 0.0, seed, slope=-0.25)])
    row = one_row(polysemanticity_slopes(rows))
    assert (row["slope"], row["message"]) == (pytest.approx(-5), "no interval: all seeds have the same slope")


def test_what_is_missing_or_dead_is_said():
    rows = laboratory(("L1",), slopes=(-0.2, -0.2))
    whole = rows["layer"] == "all"
    seed = rows["seed"]
    rows.loc[whole & (seed == 0) & (rows["epoch"] == 8), "P"] = None
    rows.loc[whole & (seed == 1) & (rows["pruning_ratio"] == true_ratio(RATIOS[2])), "P"] = None
    dead = whole & (seed == 2) & (rows["pruning_ratio"] == true_ratio(RATIOS[-1]))
    rows.loc[dead, "P"] = 0.0
    rows.loc[dead, "dead"] = rows.loc[dead, "neurons"]
    found = one_row(polysemanticity_slopes(rows))
    assert found["seeds"] == 2
    assert found["message"] == (
        "seed 0 is left out: its baseline has no P; 1 retrained network has no P; 1 retrained network is dead: P is 0"
    )
    by_seed = seed_slopes(rows).drop_duplicates("seed").set_index("seed")
    assert by_seed["networks"].tolist() == [12, 11, 12]
    assert by_seed["change"].tolist()[1:] == [pytest.approx(-0.2 * true_ratio(0.6)), -1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"P": None}, "no retrained network has a P"),
        ({"pruning_ratio": 0.0}, "no network has lost a parameter"),
    ],
)
def test_a_seed_without_a_slope_says_why(change, message):
    rows = laboratory(("L1",))
    for name, value in change.items():
        rows.loc[(rows["phase"] == "retrained") & (rows["seed"] == 1), name] = value
    found = one_row(polysemanticity_slopes(rows))
    assert found["seeds"] == 2
    assert f"seed 1 is left out: {message}" in found["message"]


def test_a_seed_whose_job_failed_is_told_of():
    rows = laboratory(("L1",))
    failed = (rows["phase"] == "retrained") & (rows["seed"] == 2)
    row = {
        "suite": "polysemanticity",
        "experiment": "L1",
        "dropout": 0.0,
        "seed": 2,
        "phase": "retrained",
        "layer": "all",
    }
    found = polysemanticity_slopes(pd.concat([rows[~failed], table([row | {"status": "failed"}])]))
    assert found["learning_rate"].tolist() == [0.001, 0.001, 0.01, 0.01]
    assert one_row(found)["seeds"] == 2
    assert one_row(found)["message"] == "seed 2 is left out: it was not retrained"


def test_without_a_value_there_is_a_row_and_without_retraining_none():
    rows = laboratory(("L1",))
    empty = polysemanticity_slopes(rows.assign(P=np.nan))
    assert empty["seeds"].tolist() == [0, 0, 0, 0]
    assert empty["message"].str.startswith("no seed has a slope; seed 0 is left out").all()
    assert polysemanticity_slopes(rows[rows["phase"] == "training"]).empty
    assert polysemanticity_slopes(rows.iloc[:0]).empty


def test_a_baseline_of_no_polysemanticity_has_a_slope_and_no_change():
    rows = table([row for seed in range(2) for row in rows_of_training("L1", 0.0, seed, baseline=0.0)])
    found = one_row(polysemanticity_slopes(rows))
    assert found["slope"] == 0
    assert math.isnan(found["relative_slope"])
    assert math.isnan(found["change"])


def test_simultaneous_intervals_miss_a_true_slope_in_one_family_of_twenty(rng):
    """Families of 12 tests with 3 seeds: intervals that hold together, and Holm's p-values, err in 5 % of 500 families."""
    families = rng.normal(0.0, rng.uniform(0.1, 5.0, (500, 12, 1)), (500, 12, 3))
    missed = rejected = missed_alone = 0
    for family in families:
        together = [mean_over_seeds(slopes, tests=12) for slopes in family]
        missed += any(one.low > 0 or one.high < 0 for one in together)
        rejected += bool((holm(np.array([one.p_value for one in together])) < 0.05).any())
        missed_alone += sum(one.p_value < 0.05 for one in together)
    room = 4 * math.sqrt(0.05 * 0.95 / 500)
    assert missed == rejected
    assert abs(missed / 500 - 0.05) < room
    assert abs(missed_alone / 6000 - 0.05) < room


@pytest.mark.parametrize("values", [[], [math.nan]])
def test_no_values_have_no_mean(values):
    found = mean_over_seeds(np.array(values))
    assert found.number == 0
    assert math.isnan(found.mean)


def test_holm_leaves_out_what_was_not_tested():
    assert holm(np.array([math.nan, 0.01, 0.04, 0.5])).tolist()[1:] == pytest.approx([0.03, 0.08, 0.5])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]
    assert np.isnan(holm(np.array([math.nan]))).all()


def test_verdicts_in_words_star_those_that_rest_on_the_unpruned_network():
    by_baseline = f"by Holm's test; {BY_BASELINE}"
    rows = pd.DataFrame(
        [
            ("L1", 0.0, 0.01, 1.0, "falls", ""),
            ("L1", 0.5, 0.01, 1.0, "falls", by_baseline),
            ("N1", 0.0, 0.01, 1.0, "not told apart", by_baseline),
            ("N1", 0.0, 0.001, 1.0, "rises", None),
            ("N2", 0.0, 0.001, float("nan"), "not told apart", ""),
        ],
        columns=["experiment", "dropout", "learning_rate", "slope", "verdict", "message"],
    ).assign(degree="P")
    assert verdicts_in_words(rows.assign(degree="P_live")) == []
    assert verdicts_in_words(rows.assign(degree="P_samples"), "P_samples")[0] == (
        "Retrained at 0.001: P at the samples rises in N1."
    )
    assert verdicts_in_words(rows) == [
        "Retrained at 0.001: P rises in N1.",
        "Retrained at 0.01: P falls in L1 and L1, dropout 0.5*; 1 slope is not told apart from 0 "
        "(* the retrained networks alone do not show it: retraining itself may move P).",
    ]
    assert verdicts_in_words(rows.iloc[:0]) == []


def test_an_older_table_is_of_p():
    slopes = polysemanticity_slopes(laboratory(("L1",)))
    for older in (slopes.drop(columns="degree"), slopes.assign(degree=None)):
        assert verdicts_in_words(older) == verdicts_in_words(slopes) != []
        assert verdicts_in_words(older, "P_samples") == []


def test_each_degree_of_polysemanticity_has_slopes_and_corrections_of_its_own():
    rows = laboratory(("L1", "N1"), noise=5)
    both = polysemanticity_slopes(rows.assign(P_samples=3 - rows["P"]))
    assert both["degree"].value_counts().to_dict() == {"P": 8, "P_samples": 8}
    own, other = (of_degree(both, degree).reset_index(drop=True) for degree in ("P", "P_samples"))
    np.testing.assert_allclose(other["slope"], -own["slope"])
    np.testing.assert_allclose(other["p_adjusted"], own["p_adjusted"])
    pd.testing.assert_frame_equal(own, polysemanticity_slopes(rows))
    assert (
        seed_slopes(rows.assign(P_live=2 * rows["P"]), "P_live")["baseline"] == 2 * seed_slopes(rows)["baseline"]
    ).all()


def test_a_network_that_is_dead_along_single_features_is_not_dead_at_the_samples():
    rows = laboratory(("L1",), noise=5)
    gone = (rows["phase"] == "retrained") & (rows["revision"] == rows["revision"].iloc[-1]) & (rows["seed"] == 0)
    dead = rows.assign(
        P_samples=rows["P"], P=rows["P"].where(~gone, 0.0), dead=rows["dead"].where(~gone, rows["neurons"])
    )
    said = polysemanticity_slopes(dead).groupby("degree")["message"].agg("".join)
    assert "1 retrained network is dead: P is 0" in said["P"]
    assert "dead" not in said["P_samples"]
