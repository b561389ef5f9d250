"""Distances, their bins, and the choice of edges: every boundary, and every 16-bit weight."""

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from modes import JIT

from ninscope.networks import compress
from ninscope.networks.compress import compress_rows
from ninscope.networks.transfer import TRANSFERS, UNCOUNTED, distance_bins, distances, radius_step

ALL_FLOAT16 = np.arange(65536, dtype=np.uint16).view(np.float16)
FINITE16 = ALL_FLOAT16[np.isfinite(ALL_FLOAT16)]


def test_every_float16_has_the_bin_that_python_gives():
    found = distance_bins(FINITE16, "reciprocal", 150.0)
    for weight, bin_ in zip(FINITE16.tolist(), found.tolist(), strict=True):
        distance = 1 / abs(weight) if weight else float("inf")
        assert bin_ == (round(distance) if 1 < distance <= 150 else UNCOUNTED)


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_transfers_share_bounds_and_fill_the_radii(transfer):
    bins = distance_bins(FINITE16, transfer, 150.0)
    reach = 1 / np.abs(FINITE16[FINITE16 != 0].astype(float))
    assert (bins >= 0).sum() == ((reach > 1) & (reach <= 150)).sum()
    used = np.unique(bins[bins >= 0])
    assert used[-1] == 150
    assert used.size > 110
    expected = naive.distances_of(FINITE16[bins >= 0], transfer) / radius_step(transfer, 150.0)
    np.testing.assert_allclose(bins[bins >= 0], expected, atol=0.5 + 1e-9)


def test_transfer_functions_have_their_definition():
    magnitudes = np.array([0.01, 0.5, 0.999])
    for transfer in TRANSFERS:
        np.testing.assert_allclose(
            distances(magnitudes, transfer), naive.distances_of(magnitudes, transfer), rtol=1e-15
        )
    with pytest.raises(ValueError, match="unknown transfer function 'log'"):
        distances(magnitudes, "log")


def test_bins_at_the_bounds():
    weights = np.array([1.0, np.nextafter(1.0, 0), 1 / 150, (1 - 1e-12) / 150, 0.0, -0.5, 1 / 2.5, 1 / 3.5])
    assert distance_bins(weights, "reciprocal", 150.0).tolist() == [-1, 1, 150, -1, -1, 2, 2, 4]


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 6), st.integers(0, 8)), elements=st.floats(-2, 2, width=32)),
    st.sampled_from([150.0, 2.0]),
    st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_compress_keeps_what_is_near_enough(weights, max_distance, dtype):
    weights = weights.astype(dtype)
    targets = np.arange(weights.shape[1], dtype=np.int32)[::-1] + np.int32(100)
    wide = np.float64 if dtype == np.float64 else np.float32
    columns, kept = np.full(weights.size + 4, -7, np.int32), np.full(weights.size + 4, -7, wide)
    counts, end = compress_rows(weights, targets, max_distance, columns, kept, 2)
    assert columns[:2].tolist() == kept[:2].tolist() == [-7, -7]  # what was there before stays
    columns, kept = columns[2:end], kept[2:end]
    expected = [
        (i, int(targets[j]), float(w))
        for i, row in enumerate(weights)
        for j, w in enumerate(row)
        if w != 0 and 1 / abs(float(w)) <= max_distance
    ]
    sources = np.repeat(np.arange(len(weights)), counts)
    assert list(zip(sources.tolist(), columns.tolist(), kept.tolist(), strict=True)) == expected


@pytest.mark.skipif(not JIT, reason="nothing is compiled in this pass")
def test_compress_compiles_for_two_types_only():
    for dtype in (np.float16, np.float32, np.float64):
        for order in "CF":
            wide = np.float64 if dtype == np.float64 else np.float32
            room = np.empty(9, np.int32), np.empty(9, wide)
            compress_rows(np.ones((2, 3), dtype, order=order), np.arange(3, dtype=np.int32), 150.0, *room, 0)
    assert len(compress._compress.signatures) <= 2


def test_compress_refuses_arrays_that_are_too_small():
    with pytest.raises(ValueError, match="6 weights may not fit behind position 3"):
        compress_rows(np.ones((2, 3)), np.arange(3), 150.0, np.empty(9, np.int64), np.empty(9), 3)
