"""Correlations over training: by their definitions, by what theory says of known curves, and whatever is missing."""

from dataclasses import fields
from fractions import Fraction

import naive_correlations as naive
import numpy as np
import pytest
from scipy import stats

from ninscope.correlating import over_training
from ninscope.correlating.blocks import drawn_places, shuffled_places
from ninscope.correlating.over_training import KINDS, Reason, Resampling, correlations
from ninscope.correlating.ranks import mid_ranks
from ninscope.errors import RequestError

LEVELS, DIFFERENCES, PARTIAL = range(3)
FEW = Resampling(replicates=100, seed=3)


def walks(rng, pairs, n, drift=0.0):
    """Random walks, float64 [pairs, n], of independent Gaussian steps."""
    return (rng.standard_normal((pairs, n)) + drift).cumsum(axis=1)


def accuracies(rng, pairs, n, questions):
    """Of a test of so few questions that most values are there more than once: float64 [pairs, n], and as fractions."""
    right = rng.integers(0, 7, (pairs, n)) + questions // 4
    return right / questions, [[Fraction(int(one), questions) for one in row] for row in right]


def same(a, b):
    for field in fields(over_training.Correlations):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), field.name)


# --- definitions --------------------------------------------------------------------------------------------------------
def test_ranks_are_scipys(rng):
    values = rng.integers(0, 6, (4, 5, 11)).astype(float)
    np.testing.assert_array_equal(mid_ranks(values), stats.rankdata(values, axis=-1))


def test_values_are_spearmans_of_scipy(rng):
    x, y = walks(rng, 3, 40), walks(rng, 4, 40)
    found = correlations(x, y, FEW)
    for i in range(3):
        for j in range(4):
            assert found.value[LEVELS, i, j] == pytest.approx(stats.spearmanr(x[i], y[j]).statistic, abs=1e-14)
            of_steps = stats.spearmanr(np.diff(x[i]), np.diff(y[j])).statistic
            assert found.value[DIFFERENCES, i, j] == pytest.approx(of_steps, abs=1e-14)


def test_everything_is_what_the_definitions_say(rng):
    """Of series with ties, among them equal differences that floating point tells apart."""
    n = 12
    (x, exact_x), (y, exact_y) = accuracies(rng, 1, n, 100), accuracies(rng, 2, n, 300)
    x[0, :4], exact_x[0][:4] = (0.28, 0.29, 0.3, 0.31), [Fraction(right, 100) for right in (28, 29, 30, 31)]
    assert np.unique(np.diff(x[0, :4])).size > 1  # and all three are .01
    found = correlations(x, y, FEW, "a model")
    length = {n: 3, n - 1: 3}
    drawn = [
        drawn_places(size, length[size], 100, 3, f"a model {what}").tolist()
        for size, what in ((n, "levels"), (n - 1, "differences"))
    ]
    shuffled = [
        shuffled_places(n - 1, length[n - 1], 100, 3, f"a model unrelated {what}").tolist()
        for what in ("measures", "scores")
    ]
    lags = [0, 1, -1, 2, -2, 3, -3]
    for i in range(1):
        for j in range(2):
            x_exact, y_exact = exact_x[i], exact_y[j]
            np.testing.assert_allclose(found.value[:, i, j], naive.three(x_exact, y_exact), atol=1e-14)
            resamples = naive.resampled(x_exact, y_exact, *drawn)
            unrelated = [(naive.curve(x_exact, a), naive.curve(y_exact, b)) for a, b in zip(*shuffled, strict=True)]
            nulls = [naive.three(*pair) for pair in unrelated]
            for kind in range(3):
                for name, values, share in (
                    ("low", resamples, 0.025), ("high", resamples, 0.975), ("null_low", nulls, 0.025), ("null_high", nulls, 0.975),
                ):  # fmt: skip
                    expected = naive.quantile([row[kind] for row in values], share)
                    assert getattr(found, name)[kind, i, j] == pytest.approx(expected, abs=1e-12), (name, kind)
            crossed = [naive.cross(x_exact, y_exact, lag) for lag in lags]
            best = max(range(len(lags)), key=lambda number: abs(crossed[number]))
            assert (found.lag[i, j], found.lag_value[i, j]) == (lags[best], pytest.approx(crossed[best], abs=1e-14))
            largest = [max(abs(naive.cross(*pair, lag)) for lag in lags) for pair in unrelated]
            assert found.lag_null[i, j] == pytest.approx(naive.quantile(largest, 0.95), abs=1e-12)
    assert (found.points == np.array([n, n - 1, n])[:, None, None]).all()
    assert (found.reason == 0).all()


# --- theory -------------------------------------------------------------------------------------------------------------
def test_two_curves_that_only_rise_correlate_whatever_they_are():
    """And so do all unrelated curves that only rise; given the step nothing is left of either."""
    steps = np.arange(20.0)
    found = correlations(np.array([steps**2]), np.array([np.log1p(steps), -np.exp(steps / 5)]), FEW)
    for column, sign in enumerate((1, -1)):
        assert found.value[LEVELS, 0, column] == sign
        assert (found.low[LEVELS, 0, column], found.high[LEVELS, 0, column]) == (sign, sign)
        assert (found.null_low[LEVELS, 0, column], found.null_high[LEVELS, 0, column]) == (sign, sign)
    assert np.isnan(found.value[PARTIAL]).all()
    assert (found.reason[PARTIAL] == Reason.MEASURE_FOLLOWS_STEP).all()
    assert found.value[DIFFERENCES, 0, 0] == -1  # x speeds up, log x slows down


@pytest.mark.parametrize("drift", [0.0, 0.3])
def test_unrelated_random_walks(rng, drift):
    """400 pairs, of 40 walks: shares of .95 and .05 have a standard deviation of about .02, as pairs share walks."""
    found = correlations(walks(rng, 20, 60, drift), walks(rng, 20, 60, drift), Resampling(replicates=300))
    covered = (found.low <= 0) & (found.high >= 0)
    assert 0.88 < covered[DIFFERENCES].mean() < 0.98
    assert covered[LEVELS].mean() < 0.75  # an interval of levels does not know that both are walks
    outside = (found.value < found.null_low) | (found.value > found.null_high)
    assert (outside.mean(axis=(1, 2)) < 0.13).all()
    assert (outside[[LEVELS, DIFFERENCES]].mean(axis=(1, 2)) > 0.005).all()
    t = found.value[LEVELS] * np.sqrt(58 / (1 - found.value[LEVELS] ** 2))
    assert (2 * stats.t.sf(np.abs(t), 58) < 0.05).mean() > 0.5  # what Spearman's test calls significant
    assert (np.abs(found.lag_value) > found.lag_null).mean() < 0.13


@pytest.mark.parametrize("lead", [-3, -1, 0, 2])
def test_a_curve_that_is_another_one_shifted(rng, lead):
    whole = walks(rng, 1, 70)[0]
    x, y = whole[10:60], whole[10 - lead : 60 - lead] + 0.1 * rng.standard_normal(50)
    found = correlations(x[None], y[None], FEW)
    assert found.lag[0, 0] == lead
    assert found.lag_value[0, 0] > max(0.7, found.lag_null[0, 0])
    back = correlations(-y[None], x[None], FEW)  # the other way round, and upside down
    assert back.lag[0, 0] == -lead
    assert back.lag_value[0, 0] == pytest.approx(-found.lag_value[0, 0])


def test_curves_that_do_move_together_stand_out(rng):
    x = walks(rng, 1, 60, 0.3)
    y = x + 0.5 * walks(rng, 1, 60)
    found = correlations(x, y, FEW)
    assert (found.value[1:] > found.null_high[1:]).all()
    assert (found.low[1:] > 0).all()


# --- what is missing ----------------------------------------------------------------------------------------------------
def test_what_is_missing_is_dropped_pair_by_pair(rng):
    x, y = walks(rng, 3, 40), walks(rng, 4, 40)
    x[0, 5:9], x[1, 0], y[2, -1], y[3, 7] = np.nan, np.inf, np.nan, np.nan
    found = correlations(x, y, FEW, "m")
    for i in range(3):
        for j in range(4):
            both = np.isfinite(x[i]) & np.isfinite(y[j])
            alone = correlations(x[i : i + 1, both], y[j : j + 1, both], FEW, "m")
            assert found.points[LEVELS, i, j] == both.sum()
            for field in fields(over_training.Correlations):
                np.testing.assert_array_equal(
                    getattr(found, field.name)[..., i, j], getattr(alone, field.name)[..., 0, 0], field.name
                )


def test_many_series_in_pieces_are_those_of_single_ones(rng, monkeypatch):
    x, y = walks(rng, 35, 12), walks(rng, 34, 12)
    whole = correlations(x, y, FEW)
    monkeypatch.setattr(over_training, "_SIDE", 9)
    monkeypatch.setattr(over_training, "_NUMBERS", 5000)
    same(correlations(x, y, FEW), whole)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_points_for_a_value(n):
    found = correlations(np.arange(n, dtype=float)[None], np.arange(n, dtype=float)[None], FEW)
    assert np.isnan(found.value).all()
    assert (found.reason == Reason.FEW_FOR_A_VALUE).all()
    assert found.points[:, 0, 0].tolist() == [n, max(n - 1, 0), n]


def test_three_points_have_too_few_differences():
    found = correlations(np.array([[1.0, 3, 2]]), np.array([[1.0, 2, 0]]), FEW)
    assert found.reason[:, 0, 0].tolist() == [
        Reason.FEW_FOR_AN_INTERVAL,
        Reason.FEW_FOR_A_VALUE,
        Reason.FEW_FOR_AN_INTERVAL,
    ]
    assert found.value[LEVELS, 0, 0] == 0.5


@pytest.mark.parametrize(("n", "with_interval"), [(7, []), (8, [LEVELS, PARTIAL]), (9, [LEVELS, DIFFERENCES, PARTIAL])])
def test_too_few_points_for_an_interval(rng, n, with_interval):
    found = correlations(rng.standard_normal((1, n)), rng.standard_normal((1, n)), FEW)
    assert np.isfinite(found.value).all()
    for ends in (found.low, found.high, found.null_low, found.null_high):
        assert np.flatnonzero(np.isfinite(ends[:, 0, 0])).tolist() == with_interval
    few = [kind for kind in range(3) if kind not in with_interval]
    assert (found.reason[few] == Reason.FEW_FOR_AN_INTERVAL).all()
    assert np.isfinite(found.lag_null[0, 0]) == (DIFFERENCES in with_interval)


def test_series_of_one_value(rng):
    flat, line, walk = np.full(20, 0.25), 0.1 * np.arange(20), walks(rng, 1, 20)[0]
    found = correlations(np.array([flat, line, walk]), np.array([walk, flat]), FEW)
    constant = Reason.CONSTANT_MEASURE
    expected = {
        (LEVELS, 0, 0): constant, (DIFFERENCES, 1, 0): constant, (PARTIAL, 0, 0): constant,
        (LEVELS, 2, 1): Reason.CONSTANT_SCORE, (PARTIAL, 2, 1): Reason.CONSTANT_SCORE,
        (PARTIAL, 1, 0): Reason.MEASURE_FOLLOWS_STEP,
    }  # fmt: skip
    for place, reason in expected.items():
        assert found.reason[place] == reason, (place, reason)
        assert np.isnan(found.value[place]), place
        assert np.isnan([found.low[place], found.null_high[place]]).all(), place
    assert np.isnan(found.lag[[0, 1], 0]).all()
    assert np.isnan(found.lag_value[0, 0])
    assert found.value[LEVELS, 1, 0] == pytest.approx(stats.spearmanr(line, walk).statistic)


def test_a_series_that_differs_at_one_point_alone(rng):
    """Most blocks miss it, so that most resamples are of one value."""
    spike = np.zeros(30)
    spike[17] = 1.0
    found = correlations(spike[None], walks(rng, 1, 30), Resampling(replicates=200, block=30))
    assert found.undefined[LEVELS, 0, 0] == 0  # one block is the whole circle
    found = correlations(spike[None], walks(rng, 1, 30), Resampling(replicates=200, block=10))
    share = found.undefined[LEVELS, 0, 0]
    assert share == pytest.approx((2 / 3) ** 3, abs=0.1)  # three blocks, each misses it two times in three
    assert found.reason[LEVELS, 0, 0] == 0
    assert np.isfinite(found.low[LEVELS, 0, 0])


def test_more_than_half_of_the_resamples_without_a_value(rng):
    """Where two neighbours change places a rise is broken; a resample that misses one of the two only rises."""
    rising = np.arange(40.0)
    rising[[14, 15]] = rising[[15, 14]]
    found = correlations(rising[None], walks(rng, 1, 40), Resampling(replicates=200, block=1))
    assert found.undefined[PARTIAL, 0, 0] == pytest.approx(1 - (1 - 1 / np.e) ** 2, abs=0.12)
    assert found.reason[PARTIAL, 0, 0] == Reason.UNDEFINED_RESAMPLES
    assert np.isfinite(found.value[PARTIAL, 0, 0])
    assert np.isfinite(found.null_low[PARTIAL, 0, 0])
    assert np.isnan([found.low[PARTIAL, 0, 0], found.high[PARTIAL, 0, 0]]).all()


def test_wrong_requests():
    with pytest.raises(RequestError, match=r"measures of shape \(2, 5\) and scores of shape \(2, 6\); give"):
        correlations(np.zeros((2, 5)), np.zeros((2, 6)))
    with pytest.raises(RequestError, match="replicates is 99; an integer from 100 to 10000"):
        Resampling(replicates=99)
    with pytest.raises(RequestError, match=r"block is 0; an integer from 1 .* or none"):
        Resampling(block=0)
    with pytest.raises(RequestError, match="confidence is 1"):
        Resampling(confidence=1)
    with pytest.raises(RequestError, match="max_lag is -1"):
        Resampling(max_lag=-1)


def test_kinds_are_in_the_order_of_the_arrays():
    assert KINDS == ("levels", "differences", "partial")
