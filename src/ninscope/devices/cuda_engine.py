"""Weights that lie on an NVIDIA GPU, counted there: torch tensors go in where they are, and only integers come out.

Device memory beyond the weights: the tallies of all threads together take at most 96 MB; where that is full, or a layer larger, 32
MB hold the counts of some nodes at a time. A table takes below 1 MB, and the last 16 are kept.

Under numba's simulator (NUMBA_ENABLE_CUDASIM=1) the same kernels run on the CPU, on CPU tensors.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numba import cuda

from ninscope.devices import cuda_kernels
from ninscope.devices.cuda_probe import quiet_launches
from ninscope.devices.flat_table import FlatTable, distance_mode, flat_table
from ninscope.devices.launch_plan import MOST_BINS, THREADS, plan_of, squares_plan
from ninscope.networks.bin_table import BinTable

TALLY_BYTES = 96_000_000
PIECE_BYTES = 32_000_000
_TABLES = 16

DTYPES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
_KINDS = {"F32": 0, "F16": 1, "BF16": 2}  # as `cuda_kernels.sum_squares` has them

SIMULATED = bool(cuda.config.ENABLE_CUDASIM)  # type: ignore[attr-defined]

_one_launch = threading.Lock()  # the simulator takes no second one, and a device gains nothing from several threads
_one_piece = threading.Lock()


def can_count(table: BinTable, distances: bool) -> bool:
    """As `devices.Engine.can_count`."""
    return table.width <= MOST_BINS and distance_mode(table, distances) is not None


class _Room:
    """Bytes of device memory that tallies may take together; threads take and give back."""

    def __init__(self, most: int) -> None:
        self._left, self._lock = most, threading.Lock()

    def take(self, wanted: int) -> bool:
        """False, and nothing is taken, where so much is not left."""
        with self._lock:
            fits = wanted <= self._left
            self._left -= wanted if fits else 0
        return fits

    def give_back(self, taken: int) -> None:
        with self._lock:
            self._left += taken


_room = _Room(TALLY_BYTES)


def tally_of_layer(nodes: int, width: int, device: Any, distances: bool = True) -> "DeviceTally | None":
    """As `devices.Engine.tally`."""
    needed = 2 * 4 * nodes * width  # turned over to be copied they are there twice
    return DeviceTally(nodes, width, device, distances, needed) if _room.take(needed) else None


class DeviceTally:
    """Counts of a layer that grow on the device, matrix by matrix, and are copied from there once.

    nodes: of the layer; width: bins of each; device: where the weights lie; distances: whether to sum them; taken: bytes of what
    tallies may take together that are this one's.
    """

    def __init__(self, nodes: int, width: int, device: Any, distances: bool = True, taken: int = 0) -> None:
        self._taken = taken
        self._nodes, self._width, self._sums_distances = nodes, width, distances
        self._counts = torch.zeros((width, nodes), dtype=torch.int32, device=device)
        self._distances = torch.zeros(nodes, dtype=torch.int64, device=device)
        with _launching(device):
            self._arrays = _array(self._counts), _array(self._distances)
        self._copied: tuple[Any, Any, Any] | None = None

    def add(self, values: Any, table: BinTable, nodes: slice, nodes_first: bool) -> None:
        """Count weights of consecutive nodes of the layer: a torch tensor [edges, nodes], or nodes_first [nodes, edges].

        It returns before the device has counted. Raises ValueError: no kernel for it, other nodes, counts that were copied.
        """
        if self._copied is not None:
            raise ValueError("counts that were copied from the device grow no more")
        dtype = _checked(values, table, self._sums_distances)
        first, stop, _ = nodes.indices(self._nodes)
        shape, strides = values.shape, values.stride()
        (count, edges), (node_stride, edge_stride) = (shape, strides) if nodes_first else (shape[::-1], strides[::-1])
        if count != stop - first or table.width != self._width:
            raise ValueError(f"weights {tuple(shape)} in {table.width} bins are not those of nodes {first}..{stop - 1}")
        if count == 0 or edges == 0:
            return
        on_device = _uploaded(table, dtype, values.device)
        flat, along_edges = on_device.flat, edge_stride < node_stride and edges > 1
        plan = plan_of(flat, count, edges, along_edges, _multiprocessors(str(values.device)), _threads())
        mode = distance_mode(table, self._sums_distances) or 0
        arguments = (
            (count, edges, node_stride, edge_stride, _mask(values)),
            plan.share,
            (flat.low, flat.high, flat.infinity, flat.shift, flat.width, flat.bins_at, int(plan.near)),
            (mode, flat.radius_count, flat.mantissa_bits, flat.first_exponent),
            *on_device.arrays,
            (self._nodes, first),
            *self._arrays,
        )
        with _launching(values.device) as stream:
            launch = cuda_kernels.count_edges[plan.grid, plan.threads, stream, plan.shared_bytes]
            launch(_weights(values), *arguments)

    def start_copy(self) -> None:
        """Have the counts copied as soon as the device has made them, while this process does other things."""
        if self._copied is None:
            counts, distances = _on_host(self._counts.t().contiguous()), _on_host(self._distances)
            self._copied = counts, distances, _event_after_copies(self._counts.device)
            # What torch does on the device from now on comes after the copies.
            del self._counts, self._distances, self._arrays
            self._give_back()

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """(int32 [nodes, width], edges per bin; int64 [nodes], sums of distances, 0 where they are not summed)"""
        self.start_copy()
        assert self._copied is not None
        counts, distances, copies = self._copied
        if copies is not None:
            copies.synchronize()
        return counts.numpy(), distances.numpy()

    def _give_back(self) -> None:
        taken, self._taken = self._taken, 0
        _room.give_back(taken)

    __del__ = _give_back  # after an error too


class DeviceSquares:
    """Exact sums of several matrices' weights and squares that grow on the device, and are copied from there once.

    count: of the matrices; device: where they lie.
    """

    def __init__(self, count: int, device: Any) -> None:
        self._sums = torch.zeros((count, 256, 4), dtype=torch.int64, device=device)

    def add(self, number: int, values: Any) -> None:
        """Add weights, a torch tensor of two axes, to the sums of one of the matrices. It returns before the device has added.

        Raises ValueError: no kernel for it.
        """
        dtype = DTYPES.get(values.dtype)
        if values.ndim != 2 or dtype is None:
            raise ValueError(
                f"weights {values.dtype} {tuple(values.shape)}: squares are summed of matrices of float16, bfloat16 and float32"
            )
        if values.numel() == 0:
            return
        plan = squares_plan(values.shape, values.stride(), dtype, _multiprocessors(str(values.device)), _threads())
        with _launching(values.device) as stream:
            cuda_kernels.sum_squares[plan.grid, plan.threads, stream, plan.shared_bytes](
                _weights(values), (*plan.matrix, _mask(values)), *plan.share, _KINDS[dtype], _array(self._sums[number])
            )

    def sums(self) -> np.ndarray:
        """int64 [count, 256, 4], of each matrix as `devices.device_square_sums` has them."""
        summed: np.ndarray = self._sums.cpu().numpy()
        return summed


def column_counts(values: Any, table: BinTable, nodes_first: bool, distances: bool) -> tuple[np.ndarray, np.ndarray]:
    """As `devices.column_counts`: as many nodes at a time as PIECE_BYTES hold, of one matrix at a time."""
    _checked(values, table, distances)
    nodes = values.shape[0 if nodes_first else 1]
    height = max(PIECE_BYTES // (2 * 4 * table.width), 1)
    found = []
    with _one_piece:
        for first in range(0, max(nodes, 1), height):
            piece = values[first : first + height] if nodes_first else values[:, first : first + height]
            size = piece.shape[0 if nodes_first else 1]
            tally = DeviceTally(size, table.width, values.device, distances)
            tally.add(piece, table, slice(0, size), nodes_first)
            found.append(tally.counts())
    if len(found) == 1:
        return found[0]
    return np.concatenate([counts for counts, _ in found]), np.concatenate([sums for _, sums in found])


def square_sums(values: Any) -> np.ndarray:
    """As `devices.device_square_sums`."""
    squares = DeviceSquares(1, values.device)
    squares.add(0, values)
    summed: np.ndarray = squares.sums()[0]
    return summed


@dataclass(frozen=True)
class _DeviceTable:
    """A table on the device. arrays: words, starts, scales and units of the flat table, as kernels take them."""

    source: BinTable  # held, so that no other table can be taken for it
    flat: FlatTable
    arrays: tuple[Any, ...]


_tables: OrderedDict[tuple[int, str, str], _DeviceTable] = OrderedDict()
_tables_lock = threading.Lock()


def _uploaded(table: BinTable, dtype: str, device: Any) -> _DeviceTable:
    """The table on the device, where the last ones that were used stay."""
    key = id(table), dtype, str(device)
    with _tables_lock:
        if key not in _tables:
            flat = flat_table(table, dtype)
            arrays = (flat.words.view(np.int16), flat.starts, flat.scales, flat.units)
            with _launching(device):
                on_device = tuple(_array(torch.from_numpy(array).to(device)) for array in arrays)
            _tables[key] = _DeviceTable(table, flat, on_device)
            while len(_tables) > _TABLES:
                _tables.popitem(last=False)
        _tables.move_to_end(key)
        return _tables[key]


def _checked(values: Any, table: BinTable, distances: bool) -> str:
    """The stored type of weights that can be counted. Raises ValueError."""
    dtype = DTYPES.get(values.dtype)
    if values.ndim != 2 or dtype is None or not can_count(table, distances):
        raise ValueError(f"weights {values.dtype} {tuple(values.shape)}: no kernel counts them by this table")
    if table.magnitude.itemsize != values.element_size():
        raise ValueError(f"weights {values.dtype} and a table of {table.magnitude.dtype}")
    return dtype


def _weights(values: Any) -> Any:
    """The memory from the first to the last weight, gaps included, as a kernel takes it: integers, for numba knows no bfloat16."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(values.shape, values.stride(), strict=True))
    size = values.element_size()
    if SIMULATED:
        return values.detach().view(torch.int16 if size == 2 else torch.int32).as_strided((span,), (1,)).numpy()
    place = {"shape": (span,), "typestr": f"<i{size}", "data": (values.data_ptr(), False), "version": 2}
    return cuda.from_cuda_array_interface(place, owner=values, sync=False)


def _array(tensor: Any) -> Any:
    """A tensor without gaps as a kernel takes it, with one axis."""
    flat = tensor.view(-1)
    return flat.numpy() if SIMULATED else cuda.as_cuda_array(flat, sync=False)


def _mask(values: Any) -> int:
    """Takes the sign away."""
    return 0x7FFF if values.element_size() == 2 else 0x7FFFFFFF


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


@contextmanager
def _launching(device: Any) -> Iterator[Any]:
    """The stream of numba on which a kernel runs after what torch has to do on the device; one thread at a time."""
    with _one_launch:
        if SIMULATED:
            yield 0
            return
        pointer = torch.cuda.current_stream(device).cuda_stream
        with cuda.gpus[torch.device(device).index or 0], quiet_launches():
            yield _stream(pointer)


@lru_cache(maxsize=32)
def _stream(pointer: int) -> Any:
    return cuda.external_stream(pointer) if pointer else cuda.legacy_default_stream()
