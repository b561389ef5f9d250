"""Weights that lie on a device are counted there, where it has kernels: NVIDIA GPUs, by numba-cuda.

What is counted are the very integers that the CPU counts (`multifractal.boxes`, `weights.exact_sums`), and they alone leave the
device. Where there is no kernel, for another kind of device or for a table, weights are copied to the CPU in bands.
"""

import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from ninscope.networks.bin_table import BinTable

_UNCOUNTED_HERE = "weights on {device} are copied to the CPU in bands and counted there: "


_DTYPES = ("torch.float16", "torch.bfloat16", "torch.float32")


class Tally(Protocol):
    """Counts of a layer that grow on a device (`cuda_engine.DeviceTally`)."""

    def add(self, values: Any, table: BinTable, nodes: slice, nodes_first: bool) -> None:
        """Count weights of consecutive nodes, a torch tensor [edges, nodes], or nodes_first [nodes, edges]."""

    def start_copy(self) -> None:
        """Have the counts copied as soon as they are there."""

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """(int32 [nodes, width], int64 [nodes])"""


class Squares(Protocol):
    """Sums of the squares of several matrices that grow on a device (`cuda_engine.DeviceSquares`)."""

    def add(self, number: int, values: Any) -> None:
        """Add weights, a torch tensor of two axes, to the sums of one of the matrices."""

    def sums(self) -> np.ndarray:
        """int64 [matrices, 256, 4]"""


class Engine:
    """Kernels of one kind of device. Tensors are torch's, of two axes, of any strides: float16, bfloat16 or float32."""

    def takes(self, values: Any) -> bool:
        """Whether there are kernels for weights of the tensor's type."""
        return str(values.dtype) in _DTYPES

    def can_count(self, table: BinTable, distances: bool) -> bool:
        """Whether there is a kernel for a table; distances: with their sums.

        Of F32 there is none where the distance is no reciprocal: other functions differ in the last bit from machine to machine.
        Nor is there one for more bins than a block of threads can count, some 12,000, or for F64.
        """
        from ninscope.devices import cuda_engine

        return cuda_engine.can_count(table, distances)

    def tally(self, nodes: int, width: int, device: Any, distances: bool = True) -> Tally | None:
        """Counts of a layer of so many nodes and bins, to be kept on the device: fewer copies, and no wait between matrices.

        None where there is no room for them; `column_counts` takes little room. distances: whether to sum them.
        """
        from ninscope.devices.cuda_engine import tally_of_layer

        return tally_of_layer(nodes, width, device, distances)

    def squares(self, count: int, device: Any) -> Squares:
        """Sums of the squares of so many matrices, to be kept on the device."""
        from ninscope.devices.cuda_engine import DeviceSquares

        return DeviceSquares(count, device)

    def column_counts(
        self, values: Any, table: BinTable, nodes_first: bool, distances: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        from ninscope.devices import cuda_engine

        return cuda_engine.column_counts(values, table, nodes_first, distances)

    def square_sums(self, values: Any) -> np.ndarray:
        from ninscope.devices import cuda_engine

        return cuda_engine.square_sums(values)


def column_counts(values: Any, table: BinTable, nodes_first: bool, distances: bool) -> tuple[np.ndarray, np.ndarray]:
    """Edges per node and bin, and the sums of their distances, of weights that lie on a device.

    values: a torch tensor [edges, nodes], or nodes_first [nodes, edges], of the table's stored type, of any strides. Returns what
    `multifractal.boxes.column_histogram` adds up: int32 [nodes, table.width]; int64 [nodes], 0 where distances are not asked for,
    of a joint table and on a logarithmic grid. Raises ValueError: the device or the table has no kernel (`Engine.can_count`).
    """
    return _engine_of(values).column_counts(values, table, nodes_first, distances)


def device_square_sums(values: Any) -> np.ndarray:
    """Sums of weights that lie on a device, and of their squares: int64 [256, 4], as of `weights.exact_sums.square_sums`.

    values: a torch tensor of float16, bfloat16 or float32, two axes, any strides. Raises ValueError: the device has no kernel.
    """
    return _engine_of(values).square_sums(values)


@contextmanager
def default_streams() -> Iterator[None]:
    """Everything on GPUs' default streams, after what the caller's own streams have to do.

    Which stream is current is told of each thread apart: those that count are on the default ones, which wait for no other stream
    of torch. So weights that are still to be changed on the caller's would be counted as they are, and sums read too early.
    """
    cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)
    count = cuda.device_count() if cuda is not None and cuda.is_initialized() else 0
    with ExitStack() as stack:
        for number in range(count):
            current, default = cuda.current_stream(number), cuda.default_stream(number)
            if current != default:
                current.synchronize()
                stack.enter_context(cuda.stream(default))
        yield


def kernel_of(device_type: str) -> Engine | None:
    """What counts weights on devices of a type of torch ("cuda", "mps", "xpu", ...), if anything does; else it warns, once.

    Under numba's simulator "cpu" has kernels too.
    """
    return _kernel_of(device_type, os.environ.get("NUMBA_ENABLE_CUDASIM", "0") == "1")


@lru_cache
def _kernel_of(device_type: str, simulated: bool) -> Engine | None:
    if device_type == "cpu":
        return Engine() if simulated else None
    problem = _problem_of_cuda() if device_type == "cuda" else "ninscope has no kernels for such a device"
    if problem:
        warnings.warn(_UNCOUNTED_HERE.format(device=device_type) + problem, stacklevel=3)
        return None
    return Engine()


def _problem_of_cuda() -> str:
    """Why kernels cannot run on an NVIDIA GPU here, and what to do; empty where they can."""
    if importlib.util.find_spec("numba_cuda") is None:
        return "numba-cuda is not installed (pip install 'ninscope[cuda13]', or cuda12)"
    from ninscope.devices import cuda_probe

    reason = cuda_probe.failure()
    return reason and f"numba-cuda compiles nothing here ({reason}); pip install 'ninscope[cuda13]', or cuda12"


def _engine_of(values: Any) -> Engine:
    """Raises ValueError."""
    engine = kernel_of(values.device.type)
    if engine is None:
        raise ValueError(f"no kernel counts weights on {values.device}")
    return engine
