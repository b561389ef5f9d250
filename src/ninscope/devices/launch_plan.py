"""How a matrix is shared out among the blocks of a GPU: which nodes and edges a block counts, and what its shared memory holds."""

from collections.abc import Sequence
from dataclasses import dataclass

from ninscope.devices.flat_table import FlatTable

THREADS = 256  # of a block
SHARED_BYTES = 48 * 1024  # what a block may have on every GPU
_SCALES_BYTES = 1024  # at most, of `FlatTable.scales`
MOST_BINS = (SHARED_BYTES - _SCALES_BYTES) // 4  # of one node, in one block
_NEAR_BYTES = 16 * 1024  # a larger table stays in the device's memory: its room is worth more to counters
_EDGES_OF_COPY, _MOST_COPIES = 512, 8  # of the counts of a node whose edges lie beside each other
_BLOCKS = 24  # for each multiprocessor, so that those that end late do not matter
_SQUARES_BLOCKS = 8
_SQUARED_BY_LANE = 1 << 19  # weights whose squares one lane of the warps of a block sums: more may not fit its counters
MOST_BLOCKS = 65_535  # along the second axis of a grid


@dataclass(frozen=True)
class LaunchPlan:
    """A launch of `cuda_kernels.count_edges`, which says what these are. grid: blocks of nodes, blocks of edges."""

    grid: tuple[int, int]
    threads: int
    shared_bytes: int
    lanes_along_edges: bool
    group_bits: int
    lane_bits: int
    replicas: int
    slots: int
    edges_of_block: int
    near: bool

    @property
    def share(self) -> tuple[int, ...]:
        """As the kernel takes it."""
        along_edges = int(self.lanes_along_edges)
        return along_edges, self.group_bits, self.lane_bits, self.replicas, self.slots, self.edges_of_block


def plan_of(
    table: FlatTable,
    nodes: int,
    edges: int,
    lanes_along_edges: bool,
    multiprocessors: int,
    threads: int = THREADS,
) -> LaunchPlan:
    """How to count a matrix. lanes_along_edges: whether the edges of a node lie beside each other; multiprocessors: of the device.

    Raises ValueError: more than MOST_BINS bins.
    """
    if table.width > MOST_BINS:
        raise ValueError(f"{table.width} bins of one node are more than the {MOST_BINS} that a block counts")
    room = SHARED_BYTES - table.scales.nbytes
    near = table.bytes <= min(_NEAR_BYTES, room - 4 * table.width)
    slots_there = (room - (table.bytes if near else 0)) // (4 * table.width)
    if lanes_along_edges:
        group, replicas = _shape_along_edges(slots_there, nodes, edges, threads)
        # A bin's counters end in another bank of the memory than they begin.
        slots = group * replicas + (replicas if group > 1 else 0)
    else:
        group, replicas = _power_of_two(min(slots_there, nodes, 32, threads)), 1
        slots = group
    lanes = threads // group
    blocks = -(-nodes // group)
    edges_of_block = _edges_of_block(blocks, edges, table.width * slots // group, lanes, multiprocessors)
    table_bytes = table.bytes if near else 0
    return LaunchPlan(
        (blocks, max(-(-edges // edges_of_block), 1)),
        threads,
        max(table.scales.nbytes + 4 * table.width * slots + table_bytes, 8 * threads),
        lanes_along_edges,
        group.bit_length() - 1,
        lanes.bit_length() - 1,
        replicas,
        slots,
        edges_of_block,
        near,
    )


def _shape_along_edges(slots: int, nodes: int, edges: int, threads: int) -> tuple[int, int]:
    """(nodes of a block, copies of a node's counts): the more edges there are, the more copies are worth adding up."""
    replicas = _power_of_two(max(min(edges // _EDGES_OF_COPY, _MOST_COPIES, slots), 1))
    group = _power_of_two(max(min(slots // replicas - 1, nodes, threads // 32), 1))
    return group, replicas


def _edges_of_block(blocks: int, edges: int, counters: int, lanes: int, multiprocessors: int) -> int:
    """counters: of one node, which a block clears and adds up: it should count several times as many edges, if there are."""
    least = max(4 * counters, 4 * lanes)
    if blocks * -(-edges // least) < 2 * multiprocessors:
        least = max(counters, 4 * lanes)
    splits = min(-(-edges // least), -(-_BLOCKS * multiprocessors // blocks), MOST_BLOCKS)
    share = -(-edges // max(splits, 1))
    return max(-(-share // lanes) * lanes, lanes)


@dataclass(frozen=True)
class SquaresPlan:
    """A launch of `cuda_kernels.sum_squares`, which says what these are."""

    grid: tuple[int, int]
    threads: int
    shared_bytes: int
    matrix: tuple[int, int, int, int]
    share: tuple[int, int]


def squares_plan(
    shape: Sequence[int], strides: Sequence[int], dtype: str, multiprocessors: int, threads: int = THREADS
) -> SquaresPlan:
    """How to sum the squares of a matrix that is not empty, of a stored type, whichever of its axes comes first in memory."""
    (rows, columns), (row_stride, column_stride) = shape, strides
    if row_stride < column_stride:
        rows, columns, row_stride, column_stride = columns, rows, column_stride, row_stride
    if row_stride == columns * column_stride:  # one row after the other, without a gap
        rows, columns = 1, rows * columns
    blocks = _SQUARES_BLOCKS * multiprocessors
    share = max(-(-rows * columns // blocks), 16 * threads, -(-rows // MOST_BLOCKS) * columns)
    columns_of_block = min(columns, share, _SQUARED_BY_LANE * 32)
    by_lane_in_row = -(-columns_of_block // threads) * threads // 32
    rows_of_block = max(min(share // columns_of_block, _SQUARED_BY_LANE // by_lane_in_row), 1)
    return SquaresPlan(
        (-(-columns // columns_of_block), -(-rows // rows_of_block)),
        threads,
        4 * 32 * 32 * (8 if dtype == "F32" else 3),
        (rows, columns, row_stride, column_stride),
        (rows_of_block, columns_of_block),
    )


def _power_of_two(most: int) -> int:
    """The largest one that is not above."""
    return 1 << (most.bit_length() - 1)
