"""Weights that lie on an NVIDIA GPU, counted there: torch tensors go in where they are, and only integers come out.

Beyond the weights a tally takes at most 64 MB of device memory for counts, and as much while they are turned over to be copied;
larger ones are counted some nodes at a time. Tables take below 1 MB each, and the last 16 are kept. Under numba's simulator
(NUMBA_ENABLE_CUDASIM=1) the same kernels run on the CPU, on CPU tensors.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numba import cuda

from ninscope.devices import cuda_kernels
from ninscope.devices.flat_table import FlatTable, distance_mode, flat_table
from ninscope.devices.launch_plan import MOST_BINS, MOST_BLOCKS, THREADS, plan_of
from ninscope.networks.bin_table import BinTable

COUNT_BYTES = 64_000_000  # of counts on the device at a time
_TABLES = 16

DTYPES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
_KINDS = {"F32": 0, "F16": 1, "BF16": 2}  # as `cuda_kernels.sum_squares` has them
_SQUARED = 1 << 20  # weights of a block that sums squares: below 2**19 for each lane of a warp

SIMULATED = bool(cuda.config.ENABLE_CUDASIM)

_one_launch = threading.Lock()  # the simulator takes no second one, and a device gains nothing from several threads


def can_count(table: BinTable, dtype: str, distances: bool) -> bool:
    """As `devices.can_count`."""
    return dtype in _KINDS and table.width <= MOST_BINS and distance_mode(table, dtype, distances) is not None


class DeviceTally:
    """Counts of a layer that grow on the device, matrix by matrix, and are copied from there once.

    nodes: of the layer; table: for the weights' type; device: where they lie; distances: whether to sum them. Raises ValueError
    where counts would take more than COUNT_BYTES (`DeviceTally.fits`).
    """

    def __init__(self, nodes: int, table: BinTable, device: Any, distances: bool = True) -> None:
        if not self.fits(nodes, table):
            raise ValueError(f"counts of {nodes} nodes in {table.width} bins take more than {COUNT_BYTES} bytes")
        self._table, self._sums_distances = table, distances
        self._counts = torch.zeros((table.width, nodes), dtype=torch.int32, device=device)
        self._distances = torch.zeros(nodes, dtype=torch.int64, device=device)
        self._copied: tuple[Any, Any, Any] | None = None

    @staticmethod
    def fits(nodes: int, table: BinTable) -> bool:
        return 4 * nodes * table.width <= COUNT_BYTES

    def add(self, values: Any, nodes: slice, nodes_first: bool) -> None:
        """Count weights of consecutive nodes of the layer: a torch tensor [edges, nodes], or nodes_first [nodes, edges].

        It returns before the device has counted. Raises ValueError: no kernel for it, other nodes, counts that were copied.
        """
        if self._copied is not None:
            raise ValueError("counts that were copied from the device grow no more")
        dtype = _checked(values, self._table, self._sums_distances)
        start, stop, _ = nodes.indices(self._counts.shape[1])
        if values.shape[0 if nodes_first else 1] != stop - start:
            raise ValueError(f"weights {tuple(values.shape)} are not those of nodes {start}..{stop - 1}")
        mode = distance_mode(self._table, dtype, self._sums_distances) or 0
        _count(values, self._table, dtype, nodes_first, mode, self._counts[:, start:stop], self._distances[start:stop])

    def start_copy(self) -> None:
        """Have the counts copied as soon as the device has made them, while this process does other things."""
        if self._copied is None:
            counts, distances = _on_host(self._counts.t().contiguous()), _on_host(self._distances)
            self._copied = counts, distances, _event_after_copies(self._counts.device)

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """(int32 [nodes, table.width], edges per bin; int64 [nodes], sums of distances, 0 where they are not summed)"""
        self.start_copy()
        assert self._copied is not None
        counts, distances, copies = self._copied
        if copies is not None:
            copies.synchronize()
        return counts.numpy(), distances.numpy()


def column_counts(values: Any, table: BinTable, nodes_first: bool, distances: bool) -> tuple[np.ndarray, np.ndarray]:
    """As `devices.column_counts`."""
    _checked(values, table, distances)
    nodes = values.shape[0 if nodes_first else 1]
    height = max(COUNT_BYTES // (4 * table.width), 1)
    found = []
    for first in range(0, max(nodes, 1), height):
        piece = values[first : first + height] if nodes_first else values[:, first : first + height]
        size = piece.shape[0 if nodes_first else 1]
        tally = DeviceTally(size, table, values.device, distances)
        tally.add(piece, slice(0, size), nodes_first)
        found.append(tally.counts())
    if len(found) == 1:
        return found[0]
    return np.concatenate([counts for counts, _ in found]), np.concatenate([sums for _, sums in found])


def square_sums(values: Any) -> np.ndarray:
    """As `devices.device_square_sums`."""
    dtype = DTYPES.get(values.dtype)
    if values.ndim != 2 or dtype is None:
        raise ValueError(
            f"weights {values.dtype} {tuple(values.shape)}: squares are summed of matrices of float16, bfloat16 and float32"
        )
    sums = torch.zeros((256, 4), dtype=torch.int64, device=values.device)
    if values.numel():
        _sum_squares(values, dtype, sums)
    summed: np.ndarray = sums.cpu().numpy()
    return summed


@dataclass(frozen=True)
class _DeviceTable:
    """A table and its arrays on the device."""

    source: BinTable  # held, so that no other table can be taken for it
    flat: FlatTable
    words: Any
    starts: Any
    scales: Any
    units: Any


_tables: OrderedDict[tuple[int, str, str], _DeviceTable] = OrderedDict()


def _uploaded(table: BinTable, dtype: str, device: Any) -> _DeviceTable:
    """The table on the device, where the last ones that were used stay."""
    key = id(table), dtype, str(device)
    with _one_launch:
        if key not in _tables:
            flat = flat_table(table, dtype)
            words = torch.from_numpy(flat.words.view(np.int16)).to(device)
            others = (torch.from_numpy(array).to(device) for array in (flat.starts, flat.scales, flat.units))
            _tables[key] = _DeviceTable(table, flat, words, *others)
            while len(_tables) > _TABLES:
                _tables.popitem(last=False)
        _tables.move_to_end(key)
        return _tables[key]


def _checked(values: Any, table: BinTable, distances: bool) -> str:
    """The stored type of weights that can be counted. Raises ValueError."""
    dtype = DTYPES.get(values.dtype)
    if values.ndim != 2 or dtype is None or not can_count(table, dtype, distances):
        raise ValueError(f"weights {values.dtype} {tuple(values.shape)}: no kernel counts them by this table")
    if table.magnitude.itemsize != values.element_size():
        raise ValueError(f"weights {values.dtype} and a table of {table.magnitude.dtype}")
    return dtype


def _count(values: Any, table: BinTable, dtype: str, nodes_first: bool, mode: int, counts: Any, distances: Any) -> None:
    """Add weights to counts, int32 [width, nodes], some columns of a tally's, and to distances, int64 [nodes]."""
    shape, strides = values.shape, values.stride()
    (nodes, edges), (node_stride, edge_stride) = (shape, strides) if nodes_first else (shape[::-1], strides[::-1])
    if nodes == 0 or edges == 0:
        return
    on_device = _uploaded(table, dtype, values.device)
    flat = on_device.flat
    along_edges = edge_stride < node_stride and edges > 1
    plan = plan_of(flat, nodes, edges, along_edges, _multiprocessors(str(values.device)), _threads())
    arguments = (
        _all_of(_bits(values)),
        (nodes, edges, node_stride, edge_stride, _mask(values)),
        plan.share,
        (flat.low, flat.high, flat.infinity, flat.shift, flat.width, flat.bins_at, int(plan.near)),
        (mode, flat.radius_count, flat.mantissa_bits, flat.first_exponent),
        on_device.words,
        on_device.starts,
        on_device.scales,
        on_device.units,
        _all_of(counts),
        counts.stride(0),
        distances,
    )
    _launch(cuda_kernels.count_edges, values.device, plan.grid, plan.shared_bytes, arguments)


def _sum_squares(values: Any, dtype: str, sums: Any) -> None:
    (rows, columns), (row_stride, column_stride) = values.shape, values.stride()
    if row_stride < column_stride:
        rows, columns, row_stride, column_stride = columns, rows, column_stride, row_stride
    if row_stride == columns * column_stride:  # one row after the other, without a gap
        rows, columns = 1, rows * columns
    share = max(-(-rows * columns // (8 * _multiprocessors(str(values.device)))), 16 * _threads())
    share = min(max(share, -(-rows * columns // MOST_BLOCKS)), _SQUARED)
    columns_of_block = min(columns, share)
    rows_of_block = share // columns_of_block
    matrix = (rows, columns, row_stride, column_stride, _mask(values))
    arguments = (_all_of(_bits(values)), matrix, rows_of_block, columns_of_block, _KINDS[dtype], sums.view(-1))
    grid = -(-columns // columns_of_block), -(-rows // rows_of_block)
    _launch(cuda_kernels.sum_squares, values.device, grid, 4 * 32 * 32 * (8 if dtype == "F32" else 3), arguments)


def _bits(values: Any) -> Any:
    """Weights as the integers that they are stored as, of the same place in memory; numba knows no bfloat16."""
    return values.detach().view(torch.int16 if values.element_size() == 2 else torch.int32)


def _mask(values: Any) -> int:
    """Takes the sign away."""
    return 0x7FFF if values.element_size() == 2 else 0x7FFFFFFF


def _all_of(tensor: Any) -> Any:
    """One axis that holds all between the first and the last number of a tensor that is not empty, gaps included."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((span,), (1,))


def _threads() -> int:
    return 32 if SIMULATED else THREADS


@lru_cache
def _multiprocessors(device: str) -> int:
    return 1 if SIMULATED else int(torch.cuda.get_device_properties(device).multi_processor_count)


def _on_host(tensor: Any) -> Any:
    """A copy in memory that the device writes itself, started and perhaps not yet there."""
    if SIMULATED:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def _event_after_copies(device: Any) -> Any:
    if SIMULATED:
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


def _launch(kernel: Any, device: Any, grid: tuple[int, int], shared_bytes: int, arguments: tuple) -> None:
    """On the device, after what torch has to do there."""
    if SIMULATED:
        arrays = [argument.numpy() if isinstance(argument, torch.Tensor) else argument for argument in arguments]
        with _one_launch:
            kernel[grid, _threads(), 0, shared_bytes](*arrays)
        return
    stream = torch.cuda.current_stream(device).cuda_stream
    with _one_launch, cuda.gpus[torch.device(device).index or 0]:
        arrays = [
            cuda.as_cuda_array(argument, sync=False) if isinstance(argument, torch.Tensor) else argument
            for argument in arguments
        ]
        kernel[grid, _threads(), _stream(stream), shared_bytes](*arrays)


@lru_cache(maxsize=32)
def _stream(pointer: int) -> Any:
    return cuda.external_stream(pointer) if pointer else cuda.legacy_default_stream()
