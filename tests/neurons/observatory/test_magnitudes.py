"""Bins of magnitudes: edges that hold exactly, and quantiles."""

import numpy as np
import pytest
import torch

from ninscope.neurons.observatory.magnitudes import BINS, OCTAVES, STEPS, between, bins_of, edges_of

LARGEST = [1.0, 3.7, 1e-3, 65504.0, 1e-36, np.float32(2) ** 10]


@pytest.mark.parametrize("largest", LARGEST)
def test_a_number_is_below_an_edge_exactly_if_its_bin_is(largest: float) -> None:
    draw = np.random.default_rng(0)
    values = np.float32(largest) * np.float32(2) ** (-30 * draw.random(300)).astype(np.float32)
    edges = edges_of(largest)
    values = np.concatenate([[0, largest], values, edges[1:-1], np.nextafter(edges[1:-1], np.float32(0))]).astype(
        np.float32
    )
    bins = bins_of(torch.from_numpy(values), largest).numpy()
    assert ((values[:, None] < edges) == (bins[:, None] <= np.arange(BINS))).all()
    assert bins.min() == 0
    assert bins.max() == BINS - 1


def test_edges_are_steps_of_an_octave() -> None:
    edges = edges_of(1.0).astype(np.float64)
    assert edges[-1] == 1 + 1 / STEPS  # the first above the largest
    assert edges[1 + STEPS :] == pytest.approx(2 * edges[1:-STEPS], rel=0)
    assert (edges[2:] / edges[1:-1]).max() == 1 + 1 / STEPS
    assert edges[1] == (1 + 2 / STEPS) * 2.0**-OCTAVES  # BINS - 2 steps below the last


def test_where_all_is_zero_all_lie_in_bin_0() -> None:
    assert bins_of(torch.zeros(3, 2), 0.0).tolist() == [[0, 0]] * 3
    assert (edges_of(0.0) > 0).all()


def test_between_edges_logarithms_are_straight_and_from_zero_numbers_are() -> None:
    assert between(np.array(2.0), np.array(8.0), np.array(0.5)) == pytest.approx(4)
    assert between(edges_of(1.0)[0], np.array(8.0), np.array(0.25)) == pytest.approx(2)
