"""Bins by look-up equal bins by float64 arithmetic: for all 65,536 patterns of a 16-bit type, around every edge of wider ones."""

import math

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from modes import JIT

from ninscope.multifractal import boxes
from ninscope.multifractal.boxes import column_histogram, row_histogram
from ninscope.networks.bin_table import bin_table, distance_shift
from ninscope.networks.radii import IntegerRadii, LogRadii
from ninscope.networks.transfer import TRANSFERS, UNCOUNTED, distance_bins, radius_step

PATTERN = {"F16": np.uint16, "BF16": np.uint16, "F32": np.uint32, "F64": np.uint64}


def floats(bits: np.ndarray, dtype: str) -> np.ndarray:
    """The numbers with these bits; float64 holds them all (a signalling NaN becomes a quiet one, with a warning)."""
    if dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.view({"F16": np.float16, "F32": np.float32, "F64": np.float64}[dtype])


def expected_bin(weight: float, transfer: str, max_distance: float) -> int:
    """Plain Python: bounds on 1/|w|, Python's own rounding (half to even), the two extra bins."""
    count = round(max_distance)
    if not math.isfinite(weight):
        return count + 2
    if weight == 0 or not 1 < 1 / abs(weight) <= max_distance:
        return count + 1
    (distance,) = naive.distances_of(np.array([weight]), transfer)
    return min(round(distance / radius_step(transfer, max_distance)), count)


def looked_up(bits: np.ndarray, table) -> list[int]:
    """The bin of each pattern, from the counts of one column each."""
    counts = np.zeros((bits.size, table.width), np.int32)
    column_histogram(bits.reshape(1, -1), table, counts, np.zeros(bits.size, np.int64))
    assert (counts.sum(axis=1) == 1).all()
    return counts.argmax(axis=1).tolist()


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_16_bit_pattern(dtype, transfer):
    bits = np.arange(65536, dtype=np.uint16)
    found = looked_up(bits, bin_table(dtype, IntegerRadii(transfer, 150.0)))
    weights = floats(bits, dtype).astype(np.float64).tolist()
    assert found == [expected_bin(weight, transfer, 150.0) for weight in weights]


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("dtype", ["F32", "F64"])
@pytest.mark.parametrize("max_distance", [150.0, 200.0, 37.5, 1000.0])
def test_every_edge_of_wide_types(dtype, transfer, max_distance):
    """Three patterns either side of every place where the bin changes, of 0, of the bounds and of infinity."""
    table = bin_table(dtype, IntegerRadii(transfer, max_distance))
    near = np.concatenate([table.starts[:-1] + PATTERN[dtype](step) for step in range(4)])
    near = np.concatenate([near, *(table.starts[1:-1] - PATTERN[dtype](step) for step in range(1, 4))])
    near = np.concatenate([near, near | ~table.magnitude])  # the same with a minus sign
    weights = floats(near, dtype).astype(np.float64)
    if (dtype, transfer) == ("F64", "coth"):  # libraries' tanh differ in the last bit, which decides at these edges
        found = distance_bins(np.where(np.isfinite(weights), weights, 0.0), transfer, max_distance).astype(int)
        expected = np.where(found == UNCOUNTED, table.uncounted, found)
        expected = np.where(np.isfinite(weights), expected, table.nonfinite).tolist()
    else:
        expected = [expected_bin(weight, transfer, max_distance) for weight in weights.tolist()]
    assert looked_up(near, table) == expected
    # And no edge is missing: one run a bin, beside what is too far, too near and not finite.
    assert table.bins.tolist() == sorted(table.bins.tolist()[:-2], reverse=True) + table.bins.tolist()[-2:]
    assert set(range(2, math.ceil(max_distance - 0.5) + 1)) <= set(table.bins.tolist()) or transfer == "coth"


@given(st.sampled_from(["F32", "F64"]), st.sampled_from(TRANSFERS), st.integers(0, 2**32 - 1))
def test_random_patterns_of_wide_types(dtype, transfer, seed):
    generator = np.random.default_rng(seed)
    weights = np.concatenate([generator.normal(0, 0.05, 60), 10.0 ** generator.uniform(-40, 38, 20)])
    bits = weights.astype(np.float32 if dtype == "F32" else np.float64).view(PATTERN[dtype])
    found = looked_up(bits, bin_table(dtype, IntegerRadii(transfer, 150.0)))
    assert found == [expected_bin(float(w), transfer, 150.0) for w in floats(bits, dtype)]


def stored_bits(values: np.ndarray, dtype: str) -> np.ndarray:
    """float64 values as the bits of a stored type."""
    narrow = values.astype({"F16": np.float16, "F64": np.float64}.get(dtype, np.float32))
    return (narrow.view(np.uint32) >> 16).astype(np.uint16) if dtype == "BF16" else narrow.view(PATTERN[dtype])


def tallied(histogram, bits, table, axis) -> tuple[np.ndarray, np.ndarray]:
    """Counts and distances of a matrix in two bands along `axis`, the one of its edges: they add."""
    nodes = bits.shape[1 - axis]
    counts, distances = np.zeros((nodes, table.width), np.int32), np.zeros(nodes, np.int64)
    for band in np.array_split(bits, 2, axis=axis):
        histogram(band, table, counts, distances)
    return counts, distances


@pytest.mark.parametrize("dtype", list(PATTERN))
@pytest.mark.parametrize("shape", [(0, 5), (7, 0), (3, 300), (40, 11)])
def test_every_node_has_the_counts_and_distances_of_its_edges(rng, dtype, shape):
    """Columns of [out, in], rows of [in, out]; each distance is a whole number of 2**-shift, so their sum is exact."""
    bits = stored_bits(rng.normal(0, 0.1, shape), dtype)
    table = bin_table(dtype, IntegerRadii("reciprocal", 150.0))
    scale = 2 ** distance_shift(table.radii)
    weights = floats(np.ascontiguousarray(bits), dtype).astype(np.float64).T.tolist()
    bins = [[expected_bin(weight, "reciprocal", 150.0) for weight in node] for node in weights]
    expected = [np.bincount(np.array(node, np.int64), minlength=table.width).tolist() for node in bins]
    lengths = [
        sum(round(1 / abs(weight) * scale) for weight, bin in zip(*node, strict=True) if bin <= 150)
        for node in zip(weights, bins, strict=True)
    ]
    for histogram, stored, axis in ((column_histogram, bits, 0), (row_histogram, bits.T, 1)):
        counts, distances = tallied(histogram, stored, table, axis)
        assert counts.tolist() == expected
        assert distances.tolist() == lengths


@pytest.mark.parametrize("dtype", list(PATTERN))
@pytest.mark.parametrize("radii", [IntegerRadii("coth", 37.5), IntegerRadii("neg_log", 150.0), LogRadii(9, 1e-3, 0.4)])
def test_rows_as_columns_on_every_grid(rng, dtype, radii, monkeypatch):
    monkeypatch.setattr(boxes, "_CACHED", 100)  # several looks at a band
    bits = stored_bits(rng.normal(0, 0.1, (37, 12)), dtype)
    table = bin_table(dtype, radii)
    of_columns = tallied(column_histogram, bits, table, 0)
    of_rows = tallied(row_histogram, bits.T, table, 1)
    np.testing.assert_array_equal(of_rows[0], of_columns[0])
    np.testing.assert_array_equal(of_rows[1], of_columns[1])


@pytest.mark.parametrize("histogram", [column_histogram, row_histogram])
def test_counts_that_do_not_fit_are_refused(histogram):
    table = bin_table("F16", IntegerRadii())
    counts, distances = np.zeros((4, table.width), np.int32), np.zeros(4, np.int64)
    for bits in (np.zeros((5, 5), np.uint16), np.zeros((4, 4), np.uint32)):
        with pytest.raises(ValueError, match="compiled code would leave the array"):
            histogram(bits, table, counts, distances)


@pytest.mark.skipif(not JIT, reason="nothing is compiled in this pass")
def test_kernels_compile_for_the_types_there_are():
    assert len(boxes._count_columns.signatures) <= 1  # all 16-bit types
    assert len(boxes._count_rows.signatures) <= 1
    assert len(boxes._count_rows_by_runs.signatures) <= 2
    assert len(boxes._count_columns_by_runs.signatures) <= 2  # F32 and F64
