"""Correlations of measures with what is true of a network, against plain ones of each seed, and answers known beforehand."""

import itertools
import math
import statistics

import numpy as np
import pandas as pd
import pytest
from naive_correlations import partial, spearman
from polysemanticity_tables import laboratory, table
from scipy import stats

from ninscope.errors import RequestError
from ninscope.neurons.polysemanticity.correlations import CORRELATION_COLUMNS, polysemanticity_correlations


@pytest.fixture(scope="module")
def measured():
    rows = laboratory(noise=5)
    return rows, polysemanticity_correlations(rows)


def picked(found, measure="phi_p99", truth="P", given="", experiment="L1", dropout=0.0, phase="training", rate=None):
    own = found[(found["measure"] == measure) & (found["truth"] == truth) & (found["given"] == given)]
    own = own[(own["experiment"] == experiment) & (own["dropout"] == dropout) & (own["phase"] == phase)]
    own = own[own["learning_rate"].isna() if rate is None else own["learning_rate"] == rate]
    assert len(own) == 1
    return own.iloc[0]


def series(rows, column, seed, phase, rate, experiment="L1", dropout=0.0):
    """Values of a seed, in the order of the epochs or ratios."""
    own = [row for row in rows.to_dict("records") if row["layer"] == "all" and row["phase"] == phase]
    own = [row for row in own if (row["experiment"], row["dropout"], row["seed"]) == (experiment, dropout, seed)]
    own = [row for row in own if rate is None or row["learning_rate"] == rate]
    return [row[column] for row in sorted(own, key=lambda row: (row["pruning_ratio"], row["revision"]))]


@pytest.mark.parametrize(
    ("phase", "rate", "drift", "truth"),
    [("training", None, "epoch", "P"), ("training", None, "epoch", "loss"), ("retrained", 0.01, "pruning_ratio", "D")],
)
def test_each_seed_has_its_plain_correlation_and_seeds_a_t_interval(measured, phase, rate, drift, truth):
    rows, found = measured
    assert list(found.columns) == ["suite", *CORRELATION_COLUMNS]
    x, y, z = ([series(rows, name, seed, phase, rate) for seed in range(3)] for name in ("phi_p99", truth, drift))
    plain = picked(found, truth=truth, phase=phase, rate=rate)
    own = [spearman(x[seed], y[seed]) for seed in range(3)]
    assert (plain["seeds"], plain["experiments"], plain["points"]) == (3, 1, len(x[0]))
    assert plain["correlation"] == pytest.approx(statistics.mean(own))
    others = [spearman(x[seed], y[other]) for seed, other in itertools.permutations(range(3), 2)]
    assert plain["other_seeds"] == pytest.approx(statistics.mean(others))
    if len(set(own)) > 1:
        interval = stats.ttest_1samp(own, 0.0).confidence_interval(0.95)
        assert (plain["low"], plain["high"]) == pytest.approx((max(interval[0], -1), min(interval[1], 1)))
    if truth == "loss":  # which falls with every epoch, and rises with every ratio
        assert math.isnan(picked(found, truth=truth, given=drift, phase=phase, rate=rate)["correlation"])
        return
    given = picked(found, truth=truth, given=drift, phase=phase, rate=rate)
    partials = [partial(x[seed], y[seed], z[seed]) for seed in range(3)]
    assert given["correlation"] == pytest.approx(statistics.mean(partials))
    other_partials = [partial(x[seed], y[other], z[seed]) for seed, other in itertools.permutations(range(3), 2)]
    assert given["other_seeds"] == pytest.approx(statistics.mean(other_partials))


def test_what_only_shares_the_course_of_training_correlates_with_other_seeds_as_well(measured):
    found = measured[1]
    follows, shares = picked(found, "emergence", "P"), picked(found, "phi_p99", "loss")
    assert (follows["correlation"], follows["message"]) == (-1.0, "no interval: all seeds have the same value")
    assert follows["other_seeds"] > -1
    assert shares["other_seeds"] == pytest.approx(shares["correlation"])  # all seeds have the same loss
    given = picked(found, "emergence", "P", "epoch")
    assert given["correlation"] == -1
    assert given["other_seeds"] > -0.8


def test_no_value_says_why():
    rows = laboratory(("L1",), noise=1)
    found = polysemanticity_correlations(rows)
    constant = picked(found, "width")
    assert (constant["seeds"], math.isnan(constant["correlation"])) == (0, True)
    assert constant["message"] == "no value of seeds 0, 1 and 2: width has one value in all networks"
    follows = picked(found, truth="loss", given="epoch")["message"]
    assert follows == "no value of seeds 0, 1 and 2: the order of the epoch decides one of the two"
    assert picked(found, truth="loss", given="pruning_ratio", phase="retrained", rate=0.001)["message"].endswith(
        "the order of the pruning ratio decides one of the two"
    )
    one = rows["seed"] == 1
    few = polysemanticity_correlations(rows[~one | (rows["phase"] != "training") | (rows["epoch"] < 2)])
    assert picked(few)["message"] == "no value of seed 1: too few networks have both"
    assert (picked(few)["seeds"], picked(few)["points"]) == (2, 2)
    three = polysemanticity_correlations(rows[(rows["phase"] != "training") | (rows["epoch"] < 3)])
    assert picked(three)["seeds"] == 3
    assert picked(three, given="epoch")["message"].endswith("too few networks have both")
    alone = polysemanticity_correlations(rows[rows["seed"] == 0])
    assert picked(alone)["message"] == "one seed: no interval"
    assert math.isnan(picked(alone)["other_seeds"])
    rows["P"] = rows["P"].where(rows["layer"] != "all", 7.0)
    assert "P has one value in all networks" in picked(polysemanticity_correlations(rows))["message"]


def test_networks_without_a_value_are_left_out_of_their_seed_alone():
    rows = laboratory(("L1",), noise=4)
    gaps = (rows["seed"] == 1) & (rows["layer"] == "all") & rows["epoch"].isin([2, 5])
    rows.loc[gaps, "P"] = np.nan
    rows.loc[
        (rows["seed"] == 2) & (rows["layer"] == "all") & rows["revision"].str.contains("-0.30"), "pruning_ratio"
    ] = np.nan
    found = polysemanticity_correlations(rows)
    row = picked(found)
    pairs = [list(zip(series(rows, "phi_p99", seed, "training", None), series(rows, "P", seed, "training", None), strict=True))
             for seed in range(3)]  # fmt: skip
    own = [spearman(*zip(*[pair for pair in seed if not math.isnan(pair[1])], strict=True)) for seed in pairs]
    assert row["points"] == 7
    assert row["correlation"] == pytest.approx(statistics.mean(own))
    assert picked(found, phase="retrained", rate=0.001)["points"] == 11


def test_an_experiment_is_one_repetition_of_all_experiments_together():
    rows = laboratory(("L1", "L2", "N1"), noise=6)
    found = polysemanticity_correlations(rows)
    together = picked(found, truth="D", experiment="all")
    means = [picked(found, truth="D", experiment=name)["correlation"] for name in ("L1", "L2", "N1")]
    interval = stats.ttest_1samp(means, 0.0).confidence_interval(0.95)
    assert (together["experiments"], together["seeds"]) == (3, 9)
    assert together["correlation"] == pytest.approx(statistics.mean(means))
    assert (together["low"], together["high"]) == pytest.approx((max(interval[0], -1), min(interval[1], 1)))
    absent = polysemanticity_correlations(rows.assign(width=rows["P"].where(rows["experiment"] != "L2", 1.0)))
    message = picked(absent, "width", experiment="all")["message"]
    assert message == "no interval: all experiments have the same value; no value of 1 experiment: L2"
    assert "all" not in set(polysemanticity_correlations(rows[rows["experiment"] == "L1"])["experiment"])


def test_a_job_that_failed_has_no_networks():
    rows = laboratory(("L1",), noise=1)
    failed = (rows["seed"] == 2) & (rows["phase"] == "training")
    keys = {
        "suite": "polysemanticity",
        "experiment": "L1",
        "dropout": 0.0,
        "seed": 2,
        "layer": "all",
        "status": "failed",
    }
    told = table([keys | {"phase": phase} for phase in ("training", "retrained")])
    found = polysemanticity_correlations(pd.concat([rows[~failed], told]))
    assert picked(found)["seeds"] == 2
    assert picked(found, phase="retrained", rate=0.01)["seeds"] == 3
    assert found.loc[found["phase"] == "retrained", "learning_rate"].notna().all()


def test_a_network_that_is_there_twice_is_refused():
    rows = laboratory(("L1",))
    with pytest.raises(
        RequestError, match=r"L1, dropout 0: a seed has two rows of one network of phase 'training'; give each"
    ):
        polysemanticity_correlations(pd.concat([rows, rows.iloc[:1]]))


def test_what_no_network_has_has_no_rows():
    found = polysemanticity_correlations(laboratory(("L1",)))
    assert "structure" not in set(found["measure"])
    assert not ((found["measure"] == "loss") & (found["truth"] == "loss")).any()
    assert polysemanticity_correlations(laboratory(("L1",)).iloc[:0]).empty
