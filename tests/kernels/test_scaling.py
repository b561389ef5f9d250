"""Local slopes, scaling ranges, other curves of growth, and the band of surrogates: plain twins, scipy, and known answers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from ninscope.multifractal.scaling import (
    curve_residuals,
    information,
    local_slopes,
    prediction_band,
    scaling_of,
    scaling_range,
)

RADII = np.arange(3, 151).astype(float)
X = np.log(RADII)
EVERY = np.ones(X.size, bool)


def naive_slopes(x, y):
    slopes = []
    for point in range(len(x)):
        others = [other for other in (point - 1, point + 1) if 0 <= other < len(x)]
        first, last = (others[0], others[-1]) if len(others) == 2 else sorted((point, others[0]))
        slopes.append((y[last] - y[first]) / (x[last] - x[first]))
    return slopes


def naive_range(x, near):
    """Every run there is."""
    runs = [
        (first, last) for first in range(len(x)) for last in range(first + 1, len(x)) if all(near[first : last + 1])
    ]
    return max(runs, key=lambda run: (x[run[1]] - x[run[0]], -run[0]), default=None)


def test_local_slopes_are_those_of_neighbours(rng):
    x, y = np.sort(rng.uniform(0, 5, 40)), rng.normal(0, 1, 40)
    np.testing.assert_allclose(local_slopes(x, y), naive_slopes(x, y), rtol=1e-12)
    np.testing.assert_allclose(local_slopes(x[:2], y[:2]), [(y[1] - y[0]) / (x[1] - x[0])] * 2)
    assert np.isnan(local_slopes(x[:1], y[:1])).all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5]), st.sampled_from([1.0, 1.1, 0.9, 1.2, -1.0, 0.5])), max_size=12)
)
def test_the_longest_run_is_found(steps):
    x = np.cumsum([step for step, _ in steps])
    local = np.array([slope for _, slope in steps])
    found = scaling_range(x, local, 1.0, 0.101)
    assert found == naive_range(x.round(9), [abs(slope - 1.0) <= 0.101 for _, slope in steps]) or (
        found is not None  # two runs that are equally long but for rounding
        and math.isclose(
            x[found[1]] - x[found[0]], max(x[b] - x[a] for a, b in [naive_range(x, abs(local - 1) <= 0.101)])
        )
    )


def test_a_power_law_scales_everywhere():
    scaling = scaling_of(X, 1.7 * X + 3, EVERY)
    assert scaling.slope == pytest.approx(1.7)
    assert scaling.r2 == pytest.approx(1)
    assert scaling.range == (0, X.size - 1)
    assert scaling.decades(X) == pytest.approx(math.log10(50))


def test_two_regimes_have_the_range_of_the_fitted_one():
    """Slope 2 up to radius 20, then 0.5; fitted over the second alone."""
    y = np.where(RADII <= 20, 2 * (X - math.log(20)), 0.5 * (X - math.log(20)))
    scaling = scaling_of(X, y, RADII >= 20)
    assert scaling.slope == pytest.approx(0.5)
    assert RADII[list(scaling.range)].tolist() == [21, 150]


def test_a_steadily_bending_curve_has_next_to_no_range():
    scaling = scaling_of(X, -((X - X[-1]) ** 2), EVERY)
    assert scaling.r2 > 0.7
    assert scaling.decades(X) < 0.15
    assert math.isnan(scaling_of(X, np.where(np.arange(X.size) % 2, 1.0, 0.0), EVERY).decades(X))


def test_where_fewer_than_two_points_are_fitted_there_is_none():
    nothing = scaling_of(X, X, RADII == 5)
    assert math.isnan(nothing.slope)
    assert nothing.range is None
    assert nothing.local == pytest.approx(1)


@pytest.mark.parametrize(
    ("curve", "y"),
    [
        ("power law", 0.3 + 1.2 * X),
        ("exponential", 0.3 + 0.02 * RADII),
        ("log-normal", 4.0 + special.log_ndtr((X - 2.5) / 0.6)),
        ("log-normal", -1.0 + special.log_ndtr((X - 6.0) / 1.5)),
    ],
)
def test_each_curve_is_told_by_its_own_data(curve, y):
    rss = curve_residuals(RADII, y)
    assert rss[curve] < 1e-15
    criteria = information(rss, RADII.size)
    assert min(criteria, key=criteria.get) == curve
    assert criteria["power law"] == 0


@pytest.mark.parametrize("noise", [0.01, 0.2])
def test_residuals_are_scipys(rng, noise):
    for center, spread in ((2.0, 0.4), (4.0, 1.0)):
        y = 2 + special.log_ndtr((X - center) / spread) + rng.normal(0, noise, X.size)
        rss = curve_residuals(RADII, y)
        for name, ordinate in (("power law", X), ("exponential", RADII)):
            assert rss[name] == pytest.approx(np.polyfit(ordinate, y, 1, full=True)[1][0], rel=1e-9)

        def misses(theta, y=y):
            return y - theta[0] - special.log_ndtr((X - theta[1]) / math.exp(theta[2]))

        best = min(
            2 * optimize.least_squares(misses, [y.max(), mu, ln_sigma]).cost
            for mu in (1.5, 3, 5)
            for ln_sigma in (-1, 0, 1)
        )
        assert rss["log-normal"] == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("rate", [0.02, 0.05])
def test_log_normals_far_from_the_data_are_found(rate):
    """Log-normals bend downwards alone: beside growth that bends upwards the best is next to straight, a power law."""
    rss = curve_residuals(RADII, rate * RADII)
    assert rss["log-normal"] == pytest.approx(rss["power law"], rel=1e-3)


def test_the_criterion_is_akaikes():
    criteria = information({"power law": 4.0, "exponential": 9.0, "log-normal": 2.0}, 50)
    assert criteria["exponential"] == pytest.approx(50 * math.log(9 / 4))
    assert information({"power law": 4e-22, "exponential": 9e-22, "log-normal": 2e-22}, 50) == pytest.approx(criteria)
    assert criteria["log-normal"] == pytest.approx(50 * math.log(2 / 4) + 2)
    assert all(map(math.isnan, information({"power law": 4.0, "log-normal": 1.0}, 3).values()))


def test_constant_growth_is_met_by_every_line():
    rss = curve_residuals(RADII, np.full(RADII.size, 2.0))
    assert max(rss.values()) < 1e-20
    assert np.isfinite(list(information(rss, RADII.size).values())).all()


def test_the_band_is_students(rng):
    draws = rng.normal(3, 2, (5, 4000))
    low, high = prediction_band(draws)
    expected = stats.t.interval(0.95, 4, loc=draws[:, 0].mean(), scale=draws[:, 0].std(ddof=1) * math.sqrt(1.2))
    assert (low[0], high[0]) == pytest.approx(expected)
    more = rng.normal(3, 2, 4000)
    assert 0.93 < ((more > low) & (more < high)).mean() < 0.97
    draws[2:, 0], draws[1:, 1] = np.nan, np.nan
    low, high = prediction_band(draws)
    assert (low[0] + high[0]) / 2 == pytest.approx(draws[:2, 0].mean())
    assert np.isnan([low[1], high[1]]).all()
