"""Tables as kernels read them, and how matrices are shared out among blocks: looked at without a device."""

import math

import numpy as np
import pytest

from ninscope.devices.flat_table import FlatTable, distance_mode, flat_table
from ninscope.devices.launch_plan import MOST_BINS, MOST_BLOCKS, SHARED_BYTES, THREADS, plan_of, squares_plan
from ninscope.networks.bin_table import bin_table, distance_shift, joint_table
from ninscope.networks.radii import IntegerRadii, LogRadii

INFINITY = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F800000}
GRIDS = (
    IntegerRadii(),
    IntegerRadii("coth", 20.0),
    IntegerRadii("neg_log", 1000.0),
    IntegerRadii(max_distance=10_000.0),
    LogRadii(2, 1e-3, 2.0),
    LogRadii(150, 6e-8, 60000.0),
    LogRadii(5, 0.5, 0.5),
)


def bins_of(patterns: np.ndarray, flat: FlatTable) -> list[int]:
    """What a kernel finds, step by step."""
    found = []
    for pattern in patterns.tolist():
        inside = min(max(pattern, flat.low), flat.high)
        if pattern >= flat.infinity:
            found.append(flat.width - 1)
        elif flat.shift == 0:
            found.append(int(flat.words[inside - flat.low]))
        else:
            run = int(flat.words[: flat.bins_at][(inside >> flat.shift) - (flat.low >> flat.shift)])
            while inside >= flat.starts[run + 1]:
                run += 1
            found.append(int(flat.words[flat.bins_at :][run]))
    return found


@pytest.mark.parametrize("radii", GRIDS)
@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_pattern_of_16_bits_has_its_bin_and_distance(dtype, radii):
    patterns = np.arange(1 << 15)
    for table in (bin_table(dtype, radii), joint_table(dtype, radii, (1.0, 0.3))):
        flat = flat_table(table, dtype)
        assert flat.infinity == INFINITY[dtype]
        assert bins_of(patterns, flat) == table.table.tolist()
        inside = np.clip(patterns, flat.low, flat.high)
        assert (flat.units[inside - flat.low] == table.distances).all()


@pytest.mark.parametrize("radii", GRIDS)
def test_patterns_of_float32_have_their_bins(rng, radii):
    table = bin_table("F32", radii)
    joint = joint_table("F32", radii, (1.0, 0.3))
    for each in (table, joint):
        starts = each.starts[each.starts <= INFINITY["F32"]].astype(np.int64)
        beside = np.concatenate([starts - 1, starts, starts + 1, rng.integers(0, 1 << 31, 3000), [0, (1 << 31) - 1]])
        patterns = np.unique(np.clip(beside, 0, (1 << 31) - 1))
        expected = each.bins[np.searchsorted(each.starts, patterns.astype(np.uint32), side="right") - 1]
        assert bins_of(patterns, flat_table(each, "F32")) == expected.tolist()


@pytest.mark.parametrize("max_distance", [2.0, 150.0, 10_000.0])
@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_reciprocals_by_mantissa_and_scale_are_those_of_weights(rng, dtype, max_distance):
    """1/M has the digits of 1/|w|: to the last bit."""
    radii = IntegerRadii(max_distance=max_distance)
    flat = flat_table(bin_table(dtype, radii), dtype)
    size = 1 << flat.mantissa_bits
    some = dtype == "F32"
    patterns = rng.integers(flat.low + 1, flat.high, 20_000) if some else np.arange(flat.low + 1, flat.high)
    mantissas = (size | (patterns & (size - 1))).astype(np.float64)
    scaled = 1.0 / mantissas * flat.scales[(patterns >> flat.mantissa_bits) - flat.first_exponent]
    if dtype == "F16":
        weights = patterns.astype(np.uint16).view(np.float16)
    else:
        weights = (patterns.astype(np.uint32) << np.uint32(16 if dtype == "BF16" else 0)).view(np.float32)
    assert (scaled == 1.0 / weights.astype(np.float64) * math.ldexp(1.0, distance_shift(radii))).all()


def test_which_distances_kernels_sum():
    reciprocal, coth = IntegerRadii(), IntegerRadii("coth")
    assert [distance_mode(bin_table(dtype, reciprocal), True) for dtype in ("F16", "BF16", "F32")] == [1, 1, 1]
    assert [distance_mode(bin_table(dtype, coth), True) for dtype in ("F16", "BF16", "F32")] == [2, 2, None]
    without = (bin_table("F32", LogRadii(5, 0.1, 1.0)), True), (joint_table("F32", coth, (1.0,)), True)
    for table, distances in (*without, (bin_table("F32", coth), False)):
        assert distance_mode(table, distances) == 0


@pytest.mark.parametrize("multiprocessors", [1, 132])
@pytest.mark.parametrize("along_edges", [False, True])
def test_blocks_cover_a_matrix_and_fit_into_shared_memory(along_edges, multiprocessors):
    tables = [flat_table(bin_table(dtype, radii), dtype) for dtype in ("F16", "BF16", "F32") for radii in GRIDS]
    tables += [flat_table(joint_table(dtype, IntegerRadii(), (1.0, 0.3, 2.7)), dtype) for dtype in ("F16", "F32")]
    for table in tables:
        for nodes, edges in ((1, 1), (3, 70_000), (512, 2048), (50_000, 7), (4096, 16_384), (1, 1 << 24)):
            plan = plan_of(table, nodes, edges, along_edges, multiprocessors)
            group, lanes = 1 << plan.group_bits, 1 << plan.lane_bits
            assert group * lanes == plan.threads == THREADS
            assert plan.shared_bytes <= SHARED_BYTES
            counters = 4 * table.width * plan.slots
            assert plan.shared_bytes >= table.scales.nbytes + counters + (table.bytes if plan.near else 0)
            assert plan.shared_bytes >= 8 * THREADS  # sums of distances take their place
            assert plan.slots >= group * plan.replicas
            assert group * plan.grid[0] >= nodes > group * (plan.grid[0] - 1)
            assert plan.edges_of_block * plan.grid[1] >= edges > plan.edges_of_block * (plan.grid[1] - 1)
            assert plan.grid[1] <= MOST_BLOCKS


def test_lanes_of_a_warp_have_memory_banks_of_their_own():
    """Where nodes lie beside each other a bin's counters are 32, one for each lane, at the default radii."""
    for dtype in ("F16", "BF16", "F32"):
        plan = plan_of(flat_table(bin_table(dtype, IntegerRadii()), dtype), 4096, 16_384, False, 132)
        assert plan.near
        assert plan.slots == 1 << plan.group_bits == 32


def test_more_bins_than_a_block_counts_are_refused():
    table = flat_table(bin_table("F32", IntegerRadii(max_distance=10_000.0)), "F32")
    wide = FlatTable(**{**vars(table), "width": MOST_BINS + 1})
    with pytest.raises(ValueError, match=f"{MOST_BINS + 1} bins of one node are more than the {MOST_BINS}"):
        plan_of(wide, 2, 2, False, 1)
    widest = plan_of(FlatTable(**{**vars(table), "width": MOST_BINS}), 2, 2, False, 1)
    assert widest.shared_bytes <= SHARED_BYTES


@pytest.mark.parametrize("multiprocessors", [1, 132])
def test_blocks_that_sum_squares_cover_a_matrix(multiprocessors):
    shapes = ((1, 1), (7, 3), (512, 2048), (4, 3_000_000), (3_000_000, 4), (70_000, 30_000))
    for rows, columns in shapes:
        for strides in ((columns, 1), (1, rows), (columns + 5, 1), (2 * columns, 2)):
            plan = squares_plan((rows, columns), strides, "F32", multiprocessors)
            high, wide, row_stride, column_stride = plan.matrix
            assert high * wide == rows * columns
            assert column_stride == min(strides)
            span = (rows - 1) * strides[0] + (columns - 1) * strides[1]
            assert (high - 1) * row_stride + (wide - 1) * column_stride == span
            for there, share, blocks in zip((wide, high), plan.share[::-1], plan.grid, strict=True):
                assert share * blocks >= there > share * (blocks - 1)
            lanes = 32  # each adds below 2**12 to a counter of 32 bits at a time
            threads_of_a_lane = plan.threads // lanes
            assert plan.share[0] * -(-plan.share[1] // plan.threads) * threads_of_a_lane <= 1 << 19
            assert plan.grid[1] <= MOST_BLOCKS
            assert plan.shared_bytes <= SHARED_BYTES
