"""Small faults in the numbers of spectra and E that no larger test would notice: what is just within bounds."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from ninscope.errors import RequestError
from ninscope.multifractal.boxes import box_histogram
from ninscope.multifractal.emergence import emergence_of, why_undefined
from ninscope.multifractal.spectrum import checked_bounds, checked_q, default_q, node_fractal_dimensions
from ninscope.networks.compress import compress_rows


def test_bounds_are_part_of_what_is_allowed():
    for max_distance, min_degree in ((2, 0), (2.0, 0), (10_000, 2**31 - 1), (np.float32(2), np.int32(0))):
        checked_bounds(max_distance, min_degree)
    for max_distance in (1, 1.999, 10_001, "2", math.nan):
        with pytest.raises(RequestError, match="a number from 2 to 10000 was expected"):
            checked_bounds(max_distance, 0)
    for min_degree in (-1, 2**31, 1.5):
        with pytest.raises(RequestError, match="an integer from 0 to 2147483647 was expected"):
            checked_bounds(2, min_degree)


def test_q_goes_to_its_bounds():
    assert checked_q([-20, 20]).tolist() == [-20.0, 20.0]
    assert checked_q(np.linspace(-20, 20, 10_000)).size == 10_000
    for q in ([0], np.linspace(0, 1, 10_001), [[0, 1]], [1, 1], [2, 1], [0, math.inf]):
        with pytest.raises(RequestError, match="q must be 2 to 10000 finite values in increasing order"):
            checked_q(q)
    with pytest.raises(RequestError, match=r"q reaches 20\.5; beyond 20"):
        checked_q([0, 20.5])


@pytest.mark.parametrize("numbers", [(0.0, 1, 1, 1), (1, 1, 0.0, 1), (1, 1, 1, 0.0), (-1, 1, 1, 1), (1, 1, -1, 1)])
def test_e_needs_three_positive_numbers(numbers):
    assert math.isnan(emergence_of(*numbers))


def test_e_of_a_width_of_0_is_0():
    assert emergence_of(0.5, 0.0, 1.0, 0.2) == 0


@pytest.mark.parametrize(("now", "start"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (1.0, -1.0)])
def test_an_alpha0_of_0_is_not_positive(now, start):
    spectra = (SimpleNamespace(alpha0=alpha0, width=0.3) for alpha0 in (now, start))
    assert why_undefined(*spectra) == "no E: alpha0 is not positive"


def test_the_default_q_goes_from_minus_3_to_3_by_tenths():
    assert default_q().tolist() == [number / 10 for number in range(-30, 31)]


@pytest.mark.parametrize("count", [2, 4])
def test_rows_that_are_not_all_of_the_edges_are_refused(count):
    with pytest.raises(ValueError, match="compiled code would leave them"):
        box_histogram(np.array([0, 1, count]), np.ones(3, np.int16), 5)


@pytest.mark.parametrize("targets", [2, 4])
def test_a_row_has_as_many_targets_as_weights(targets):
    room = np.empty(99, np.int32), np.empty(99, np.float32)
    with pytest.raises(ValueError, match="may not fit"):
        compress_rows(np.ones((2, 3), np.float32), np.arange(targets, dtype=np.int32), 150.0, *room, 0)


def test_bounds_of_the_authors_node_dimensions():
    """0 < d <= 200, and more than 10 edges."""
    row = np.array([1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 199.0])
    (dimension,) = node_fractal_dimensions([row])
    assert dimension > 0
    assert node_fractal_dimensions([row[:-1]]).tolist() == [0.0]
    assert node_fractal_dimensions([np.append(row, [0.0, -1.0, 200.5, 201.0])]).tolist() == [dimension]
    assert node_fractal_dimensions([np.append(row, 200.0)])[0] != dimension
