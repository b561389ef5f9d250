"""Degree of emergence: its formula, where it does not exist, and an interval that covers what it should."""

import math
from types import SimpleNamespace

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ninscope
from ninscope.errors import RequestError
from ninscope.multifractal.emergence import Bootstrap, emergence_interval, why_undefined


def spectrum(alpha0, width):
    return SimpleNamespace(alpha0=alpha0, width=width)


positive = st.floats(0.01, 10)


@given(positive, positive, positive, positive)
def test_equals_the_formula(a, w, a0, w0):
    assert ninscope.emergence(spectrum(a, w), spectrum(a0, w0)) == pytest.approx(
        naive.emergence(a, w, a0, w0), rel=1e-12, abs=1e-15
    )


def test_a_worked_example():
    """Regularity halves while heterogeneity grows by half: E = 1.5 ln 2."""
    assert ninscope.emergence(spectrum(0.5, 0.3), spectrum(1.0, 0.2)) == pytest.approx(1.5 * math.log(2))
    assert ninscope.emergence(spectrum(1.0, 0.2), spectrum(1.0, 0.2)) == 0


@pytest.mark.parametrize(
    ("now", "start", "reason"),
    [
        (spectrum(1, 1), None, "no usable step0"),
        (spectrum(1, 1), spectrum(math.nan, math.nan), "step0 has no spectrum"),
        (spectrum(math.nan, math.nan), spectrum(1, 1), "this checkpoint has no spectrum"),
        (spectrum(1, 1), spectrum(1, 0.0), "width 0"),
        (spectrum(-1, 1), spectrum(1, 1), "not positive"),
    ],
)
def test_undefined_is_nan_with_a_reason(now, start, reason):
    assert math.isnan(ninscope.emergence(now, start))
    assert reason in why_undefined(now, start)


def test_interval_of_the_baseline_against_itself_is_zero(rng):
    samples = rng.uniform(0.5, 1, (10, 2))
    assert emergence_interval(samples, samples) == (0, 0)


def test_interval_covers_the_true_value_about_as_often_as_it_says(rng):
    """Samples around known means, both checkpoints sharing a sample's offset: a 90 % interval from 10 samples covers E
    somewhat less often than 90 % (the percentile bootstrap is narrow for few samples), never wildly so."""
    true = 0.4 / 0.3 * math.log(1.2 / 0.8)
    covered = 0
    for trial in range(200):
        offset = rng.normal(0, 0.03, (10, 2))
        start = np.array([1.2, 0.3]) + offset
        now = np.array([0.8, 0.4]) + offset + rng.normal(0, 0.02, (10, 2))
        low, high = emergence_interval(now, start, 400, 0.9, seed=trial)
        assert low <= high
        covered += low <= true <= high
    assert 0.75 <= covered / 200 <= 0.96


def test_interval_is_the_same_for_the_same_seed_and_missing_for_one_sample(rng):
    now, start = rng.uniform(0.5, 1, (2, 10, 2))
    assert emergence_interval(now, start, seed=3) == emergence_interval(now, start, seed=3)
    assert emergence_interval(now, start, seed=3) != emergence_interval(now, start, seed=4)
    assert all(math.isnan(bound) for bound in emergence_interval(now[:1], start[:1]))
    with pytest.raises(RequestError, match="10 samples now and 9 at the start"):
        emergence_interval(now, start[:9])


@pytest.mark.parametrize("confidence", [-0.1, 0.0, 1.0, 1.5, math.nan])
def test_a_confidence_is_between_0_and_1(confidence):
    with pytest.raises(RequestError, match="a number between 0 and 1 was expected"):
        Bootstrap(confidence=confidence)
