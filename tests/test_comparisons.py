"""The table `comparisons`: against scipy's paired test and numbers made by hand; seeds that are missing, rates that are chosen."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ninscope.report.comparisons import COLUMNS, comparisons, paired_p_value


def rows(values, metric="accuracy", rate=1e-3, revision="step8", task="cola", steps=(0, 12), phi=None):
    """Rows of `finetunes` at the last of these steps. values: by method, by seed; what is before the end is of no importance."""
    made = [
        {
            "revision": revision, "step": int(revision[4:]), "task": task, "status": "ok", "method": method, "seed": seed,
            "learning_rate": rate, "finetune_step": step, "metric": metric, "value": value if step == steps[-1] else 0.5,
            "phi_p99": 10.0 * seed + step, "emergence_from_base": (phi or 0) + 0.1 * seed,
        }
        for step in steps
        for method, by_seed in values.items()
        for seed, value in by_seed.items()
    ]  # fmt: skip
    return pd.DataFrame(made).assign(suite="s", model="m")


def table(*parts):
    """As the pipeline types it."""
    return pd.concat(parts, ignore_index=True).astype({"seed": "Int64", "finetune_step": "Int64", "step": "Int64"})


def of(compared, method, metric="accuracy"):
    (row,) = compared[(compared["method"] == method) & (compared["metric"] == metric)].to_dict("records")
    return row


def test_against_scipys_paired_test(rng):
    none, ours = rng.normal(0.8, 0.05, 7), rng.normal(0.83, 0.05, 7)
    compared = comparisons(table(rows({"none": dict(enumerate(none)), "reversed": dict(enumerate(ours))})))
    assert list(compared.columns) == list(COLUMNS)
    row = of(compared, "reversed")
    assert row["p_value"] == pytest.approx(stats.ttest_rel(ours, none).pvalue, rel=1e-12)
    assert row["difference"] == pytest.approx(np.mean(ours - none), rel=1e-12)
    assert (row["mean"], row["std"]) == pytest.approx((np.mean(ours), np.std(ours, ddof=1)), rel=1e-12)
    alone = of(compared, "none")
    assert math.isnan(alone["difference"])
    assert math.isnan(alone["p_value"])


def test_numbers_made_by_hand():
    """Differences 0.1, 0.3, 0.2: t = 0.2 / (0.1 / sqrt 3) = 3.4641 with 2 degrees of freedom, p = 1 - t/sqrt(t^2 + 2)."""
    values = {"none": {0: 0.5, 1: 0.5, 2: 0.5}, "naive_mean": {0: 0.6, 1: 0.8, 2: 0.7}}
    row = of(comparisons(table(rows(values, phi=2.0))), "naive_mean")
    t = 2 * math.sqrt(3)
    assert row["p_value"] == pytest.approx(1 - t / math.sqrt(t * t + 2), rel=1e-9)
    assert (row["difference"], row["mean"], row["std"]) == pytest.approx((0.2, 0.7, 0.1))
    assert (row["phi_p99"], row["emergence_from_base"]) == pytest.approx((22, 2.1))
    assert (row["seeds"], row["finetune_step"], row["step"], row["revision"]) == (3, 12, 8, "step8")


def test_seeds_are_paired_whatever_their_order():
    values = {"none": {2: 0.1, 0: 0.3, 1: 0.2}, "reversed": {0: 0.35, 1: 0.29, 2: 0.12}}
    row = of(comparisons(table(rows(values))), "reversed")
    assert row["difference"] == pytest.approx((0.05 + 0.09 + 0.02) / 3)
    assert row["p_value"] == pytest.approx(stats.ttest_rel([0.35, 0.29, 0.12], [0.3, 0.2, 0.1]).pvalue)


def test_only_seeds_that_both_have_are_paired():
    values = {"none": {0: 0.1, 1: 0.2, 3: 0.9}, "reversed": {0: 0.2, 1: 0.5, 2: 0.6}}
    row = of(comparisons(table(rows(values))), "reversed")
    assert row["seeds"] == 3
    assert row["mean"] == pytest.approx(1.3 / 3)  # over all of its own
    assert row["difference"] == pytest.approx(0.2)
    assert row["p_value"] == pytest.approx(stats.ttest_rel([0.2, 0.5], [0.1, 0.2]).pvalue)


def test_one_seed_has_no_spread_and_no_test():
    row = of(comparisons(table(rows({"none": {4: 0.5}, "reversed": {4: 0.75}}))), "reversed")
    assert (row["seeds"], row["mean"], row["difference"]) == (1, 0.75, 0.25)
    assert math.isnan(row["std"])
    assert math.isnan(row["p_value"])


def test_without_a_seed_in_common_nothing_is_compared():
    row = of(comparisons(table(rows({"none": {0: 0.5, 1: 0.4}, "reversed": {2: 0.7, 3: 0.8}}))), "reversed")
    assert math.isnan(row["difference"])
    assert math.isnan(row["p_value"])


def test_without_the_method_none_means_stand_alone():
    row = of(comparisons(table(rows({"reversed": {0: 0.5, 1: 0.4}}))), "reversed")
    assert row["mean"] == pytest.approx(0.45)
    assert math.isnan(row["difference"])


@pytest.mark.parametrize("differences", [[0.0, 0.0, 0.0], [0.25, 0.25], [0.8 - 0.7, 0.9 - 0.8, 1.0 - 0.9], [0.5], []])
def test_differences_that_do_not_vary_have_no_p_value(differences):
    """The third: equal scores apart, which rounding makes a little different."""
    assert math.isnan(paired_p_value(np.array(differences)))


@pytest.mark.parametrize(("metric", "best"), [("accuracy", 1e-2), ("loss", 1e-4), ("b_mse", 1e-4)])
def test_each_method_has_the_rate_that_is_best_with_it(metric, best):
    good, bad = {0: 0.9, 1: 0.7}, {0: 0.3, 1: 0.4}
    worse = {0: 0.1, 1: 0.0}
    compared = comparisons(
        table(
            rows({"none": good, "reversed": bad}, metric, 1e-2),
            rows({"none": bad, "reversed": worse}, metric, 1e-4),
        )
    )
    chosen = {row.method: row.learning_rate for row in compared.itertuples()}
    assert chosen == {"none": best, "reversed": best}
    none = good if best == 1e-2 else bad
    ours = bad if best == 1e-2 else worse
    assert of(compared, "reversed", metric)["difference"] == pytest.approx(
        np.mean([ours[seed] - none[seed] for seed in (0, 1)])
    )


def test_methods_may_have_other_rates_and_their_seeds_are_still_paired():
    compared = comparisons(
        table(
            rows({"none": {0: 0.9, 1: 0.8}, "reversed": {0: 0.1, 1: 0.2}}, rate=1e-2),
            rows({"none": {0: 0.5, 1: 0.5}, "reversed": {0: 0.95, 1: 0.9}}, rate=1e-4),
        )
    )
    assert of(compared, "none")["learning_rate"] == 1e-2
    assert of(compared, "reversed")["learning_rate"] == 1e-4
    assert of(compared, "reversed")["difference"] == pytest.approx(0.075)


def test_a_rate_at_which_seeds_diverged_is_not_chosen_for_those_that_did_not():
    values = {"none": {0: 0.5, 1: 0.5, 2: 0.5}}
    compared = comparisons(table(rows(values, rate=1e-4), rows({"none": {1: 0.99}}, rate=1e-1)))
    assert of(compared, "none")["learning_rate"] == 1e-4


def test_the_main_metric_chooses_for_all():
    first = {"accuracy": {0: 0.9}, "f1": {0: 0.1}}, 1e-2
    second = {"accuracy": {0: 0.5}, "f1": {0: 0.8}}, 1e-4
    parts = [rows({"none": values[metric]}, metric, rate) for values, rate in (first, second) for metric in values]
    compared = comparisons(table(*parts))
    assert of(compared, "none", "f1")["mean"] == 0.1
    assert of(compared, "none", "f1")["learning_rate"] == 1e-2


def test_a_method_without_the_main_metric_is_compared_by_the_next():
    """A correlation of predictions that are all alike is no number."""
    both = [rows({"none": {0: 0.3}, "reversed": {0: math.nan}}, "spearman")]
    both += [rows({"none": {0: 0.4}, "reversed": {0: 0.2}}, "pearson")]
    compared = comparisons(table(*both))
    assert list(zip(compared["metric"], compared["method"], strict=True)) == [
        ("spearman", "none"), ("pearson", "none"), ("pearson", "reversed"),
    ]  # fmt: skip
    assert of(compared, "reversed", "pearson")["difference"] == pytest.approx(-0.2)
    lacking = comparisons(table(rows({"none": {0: 0.3}}, "spearman"), rows({"none": {0: math.nan}}, "pearson")))
    assert list(lacking["metric"]) == ["spearman"]


def test_each_method_is_chosen_for_by_the_first_metric_that_it_has():
    low = [rows({"reversed": {0: math.nan}}, "spearman", 1e-4), rows({"reversed": {0: 0.6}}, "pearson", 1e-4)]
    high = [rows({"reversed": {0: math.nan}}, "spearman", 1e-2), rows({"reversed": {0: 0.2}}, "pearson", 1e-2)]
    compared = comparisons(table(*high, *low))
    assert of(compared, "reversed", "pearson")["learning_rate"] == 1e-4


def test_a_score_that_is_undefined_at_the_end_is_not_compared_at_the_start():
    values = rows({"none": {0: math.nan, 1: math.nan}, "reversed": {0: math.nan, 1: math.nan}}, "spearman")
    assert values["value"].isna().sum() == 4
    assert comparisons(table(values)).empty


def test_every_checkpoint_and_task_is_compared_by_itself():
    parts = [
        rows({"none": {0: 0.1, 1: 0.2}, "reversed": {0: 0.2, 1: 0.5}}, revision="step0"),
        rows({"none": {0: 0.3, 1: 0.4}, "reversed": {0: 0.2, 1: 0.2}}, revision="step8", steps=(0, 5)),
        rows({"none": {0: 0.7}}, revision="step8", task="mrpc"),
    ]
    compared = comparisons(table(*parts))
    found = {(row.revision, row.task, row.method): row.difference for row in compared.itertuples()}
    assert len(found) == 5
    assert found["step0", "cola", "reversed"] == pytest.approx(0.2)
    assert found["step8", "cola", "reversed"] == pytest.approx(-0.15)


def test_fine_tunes_that_did_not_end_are_left_out():
    failed = rows({"reversed": {0: math.nan}}, steps=(12,)).assign(status="nonfinite", finetune_step=None, metric="")
    compared = comparisons(table(rows({"none": {0: 0.4, 1: 0.6}, "reversed": {1: 0.5}}), failed))
    assert of(compared, "reversed")["seeds"] == 1
    assert comparisons(table(failed)).empty
    assert list(comparisons(table(failed)).columns) == list(COLUMNS)
