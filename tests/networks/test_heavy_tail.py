"""Heavy-tail fits: exponents that samples were drawn with, other distributions told apart, another package's numbers."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from ninscope.errors import RequestError
from ninscope.networks.heavy_tail import heavy_tail


def power_law(rng, alpha, xmin, size):
    """By inversion: P(X >= x) = (x/xmin)^-(alpha - 1)."""
    return xmin * rng.random(size) ** (-1 / (alpha - 1))


def discrete_power_law(rng, alpha, xmin, size):
    """Whole numbers xmin, xmin + 1, ... with probabilities ~ x^-alpha, up to a number that hardly ever comes."""
    numbers = np.arange(xmin, 200_000)
    return rng.choice(numbers, size, p=numbers**-alpha / (numbers**-alpha).sum())


@pytest.mark.parametrize(("alpha", "xmin"), [(1.8, 1.0), (2.5, 3.0), (4.5, 0.01)])
def test_exponents_are_recovered(rng, alpha, xmin):
    found = heavy_tail(power_law(rng, alpha, xmin, 1500))
    assert not found.discrete
    assert found.alpha == pytest.approx(alpha, abs=4 * found.alpha_error)
    assert found.alpha_error == pytest.approx((found.alpha - 1) / math.sqrt(found.tail))
    assert found.tail > 300
    assert found.values == 1500
    assert found.exponential > 2
    assert found.exponential_p < 0.01
    assert found.verdict.startswith("heavy-tailed: a power law")


@pytest.mark.parametrize(("alpha", "xmin"), [(2.2, 1), (3.1, 6)])
def test_exponents_of_whole_numbers_are_recovered(rng, alpha, xmin):
    found = heavy_tail(discrete_power_law(rng, alpha, xmin, 3000).astype(np.int64))
    assert found.discrete
    assert found.alpha == pytest.approx(alpha, abs=4 * found.alpha_error)
    assert xmin <= found.xmin <= 4 * xmin
    assert found.exponential > 2


def test_the_tail_starts_where_it_starts(rng):
    """Below 5 a flat body, from 5 on a power law."""
    values = np.concatenate([rng.uniform(1, 5, 1500), power_law(rng, 2.5, 5.0, 1500)])
    found = heavy_tail(values)
    assert 4.2 < found.xmin < 9
    assert found.alpha == pytest.approx(2.5, abs=4 * found.alpha_error)
    fixed = heavy_tail(values, xmin=5.0)
    assert (fixed.xmin, fixed.tail) == (5.0, 1500)
    # What maximum likelihood is in closed form, but for igraph's correction of order 1/n.
    alpha = 1 + 1500 / np.log(values[values >= 5.0] / 5.0).sum()
    assert fixed.alpha == pytest.approx(alpha, rel=1e-3)


@pytest.mark.parametrize("whole", [False, True])
def test_an_exponential_is_told_from_a_power_law(rng, whole):
    values = 1 + rng.exponential(10.0, 2000)
    found = heavy_tail(np.rint(values) if whole else values, xmin=1.0)
    assert found.discrete == whole
    assert found.exponential < -5
    assert found.exponential_p < 1e-6
    assert "an exponential" in found.verdict
    assert found.verdict.endswith("better than a power law")


def test_normal_values_are_no_power_law(rng):
    found = heavy_tail(rng.normal(100, 8, 800))
    assert found.alpha > 10  # as steep as their tail
    assert "fits the tail better" in found.verdict or "undecided" in found.verdict or "no power law" in found.verdict


@pytest.mark.parametrize("whole", [False, True])
def test_a_lognormal_is_never_clearly_worse_than_a_power_law(rng, whole):
    """Power laws are limits of lognormals that are cut off: the best lognormal of all is at least as likely."""
    for alpha in (1.7, 3.5):
        found = heavy_tail(
            discrete_power_law(rng, alpha, 3, 500) if whole else power_law(rng, alpha, 3.0, 500), xmin=3.0
        )
        assert found.lognormal < 0 or found.lognormal_p > 0.1


@pytest.mark.parametrize("whole", [False, True])
def test_a_lognormal_ratio_by_hand(whole):
    """Both likelihoods by scipy's own distributions, from the parameters that the values were drawn with."""
    rng = np.random.default_rng(5)
    values = np.exp(rng.normal(1.5, 0.5, 400))
    values = np.rint(values[values > 3]) if whole else values[values > 3]
    found = heavy_tail(values, xmin=3.0)

    def logs(parameters):
        theirs = stats.lognorm(parameters[1], scale=math.exp(parameters[0]))
        if whole:
            return np.log(theirs.sf(values - 0.5) - theirs.sf(values + 0.5)) - theirs.logsf(2.5)
        return theirs.logpdf(values) - theirs.logsf(3.0)

    options = {"xatol": 1e-9, "fatol": 1e-9, "maxiter": 2000}
    found_by_scipy = optimize.minimize(
        lambda parameters: -logs(parameters).sum(),
        [1.5, 0.5],
        method="Nelder-Mead",
        bounds=[(-9, 3), (0.1, 3)],
        options=options,
    )
    best = logs(found_by_scipy.x)
    ours = (
        np.log(stats.zipf.pmf(values, found.alpha) / stats.zipf.sf(2, found.alpha))
        if whole
        else np.log(stats.pareto(found.alpha - 1, scale=3.0).pdf(values))
    )
    difference = ours - best
    assert found.lognormal == pytest.approx(difference.sum() / difference.std() / math.sqrt(values.size), abs=0.02)


def test_units_do_not_matter_to_a_lognormal(rng):
    """A narrow tail with its mean inside, of values near 1 and far above."""
    values = np.exp(rng.normal(0.5, 0.1, 400))
    near, far = heavy_tail(values, xmin=1.5), heavy_tail(values * 64, xmin=1.5 * 64)
    assert near.lognormal < -3
    assert near.lognormal == pytest.approx(far.lognormal, rel=1e-4)


def test_a_lognormal_is_told_from_a_power_law_where_it_bends(rng):
    found = heavy_tail(np.exp(rng.normal(0, 0.8, 3000)), xmin=0.5)
    assert found.lognormal < -5
    assert found.lognormal_p < 1e-6


def test_the_bootstrap_accepts_power_laws_and_rejects_others(rng):
    ours = heavy_tail(power_law(rng, 2.5, 1.0, 200), bootstrap=12, seed=1)
    assert ours.p >= 0.1
    again = heavy_tail(power_law(np.random.default_rng(3), 2.5, 1.0, 200), bootstrap=3, seed=1)
    assert again == heavy_tail(power_law(np.random.default_rng(3), 2.5, 1.0, 200), bootstrap=3, seed=1)
    other = heavy_tail(1 + rng.exponential(1.0, 500), xmin=1.0, bootstrap=8)
    assert other.p == 0.0
    counts = heavy_tail(discrete_power_law(rng, 2.5, 2, 200), bootstrap=8)
    assert counts.p >= 0.1


@pytest.mark.parametrize("whole", [False, True])
def test_the_numbers_are_those_of_the_package_powerlaw(rng, whole):
    """At a given start of the tail; with exponents below 3, the bound of its version 2.0."""
    powerlaw = pytest.importorskip("powerlaw")
    values = discrete_power_law(rng, 2.4, 3, 800) if whole else power_law(rng, 2.4, 3.0, 800)
    found = heavy_tail(values, xmin=3.0)
    fit = powerlaw.Fit(values, xmin=3.0, discrete=whole, verbose=0)
    assert found.alpha == pytest.approx(fit.power_law.alpha, rel=1e-3)
    assert found.ks == pytest.approx(fit.power_law.D, abs=1e-3)
    ratio, p = fit.distribution_compare("power_law", "exponential", normalized_ratio=True)
    assert found.exponential == pytest.approx(ratio, rel=1e-3)
    assert math.log(found.exponential_p) == pytest.approx(math.log(p), rel=0.01)


@pytest.mark.parametrize(
    ("values", "asked", "message"),
    [
        ([], {}, "0 positive values, 0 different; a fit needs 10"),
        ([0.0] * 50, {}, "0 positive values"),
        ([3.0] * 50, {}, "50 positive values, 1 different"),
        ([1.0, math.nan] * 20, {}, "1-D array of finite numbers; leave NaN out"),
        ([[1.0, 2.0]] * 20, {}, "1-D array of finite numbers"),
        (["a", "b"], {}, "must be numbers"),
        (np.arange(1, 30) + 0.5, {"discrete": True}, "must be whole numbers; leave discrete out"),
        (np.arange(1, 30), {"xmin": 29.0}, "xmin = 29 leaves 1 values \\(1 different\\); lower it"),
        (np.arange(1, 30), {"xmin": -1}, "xmin is -1; a positive number"),
        (np.arange(1, 30), {"bootstrap": -1}, "bootstrap is -1"),
        (np.arange(1, 30), {"bootstrap": 5, "seed": -1}, "seed is -1"),
        (np.ones(60_000), {}, "60000 positive values, 1 different"),
        (np.arange(1, 60_001), {}, "60000 values, more than 50000; fit one layer at a time"),
    ],
)
def test_degenerate_values_say_so(values, asked, message):
    with pytest.raises(RequestError, match=message) as error:
        heavy_tail(values, **asked)
    assert "\n" not in str(error.value)


def test_zeros_have_no_part(rng):
    values = power_law(rng, 2.5, 1.0, 500)
    assert heavy_tail(np.concatenate([np.zeros(70), values])) == heavy_tail(values)


def test_two_different_values_are_enough():
    found = heavy_tail(np.repeat([1, 2], 50))
    assert found.discrete
    assert math.isfinite(found.alpha)
    assert math.isfinite(found.exponential)
