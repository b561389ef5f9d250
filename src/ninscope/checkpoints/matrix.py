"""How a stored tensor is the matrix W[out, in] of a weight block, whatever order and rank it is stored in.

Edges leave a matrix's columns, the *nodes*, and lead to its rows, the *targets*. A tensor is read in slices of its first axis,
which are targets or nodes, as its order says.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ninscope.checkpoints.kernels import kernel_norms
from ninscope.checkpoints.read_ahead import ByteRanges
from ninscope.checkpoints.tensors import Tensor, as_float

# [out, in]; [in, out] (GPT-2's Conv1D); [out, in / groups, *kernel]; [in, out / groups, *kernel]
ORDERS = ("linear", "transposed", "convolution", "transposed_convolution")


@dataclass(frozen=True)
class MatrixLayout:
    """order: one of ORDERS. kernels: what becomes of a convolution's taps: "norm", one edge for each pair of channels, whose
    weight is the kernel's Euclidean norm, or "per_tap", an edge for every tap. groups: channels are joined within their group.
    """

    order: str = "linear"
    groups: int = 1
    kernels: str = "norm"

    @property
    def convolves(self) -> bool:
        return self.order.endswith("convolution")

    @property
    def nodes_first(self) -> bool:
        """Whether slices of the first axis are nodes, not targets."""
        return self.order.startswith("transposed")

    def kernel_size(self, shape: Sequence[int]) -> int:
        """Taps of one kernel of a tensor of this shape; 1 where there is none."""
        return math.prod(shape[2:]) if self.convolves else 1

    def taps(self, shape: Sequence[int]) -> int:
        """Edges that join a node to a target."""
        return self.kernel_size(shape) if self.kernels == "per_tap" else 1

    def size(self, shape: Sequence[int]) -> tuple[int, int]:
        """(targets, nodes) of a tensor of this shape."""
        first, second = shape[0], shape[1] * self.groups
        return (second, first) if self.nodes_first else (first, second)


@dataclass(frozen=True)
class WeightTile:
    """Weights of consecutive targets and nodes that are all joined.

    bits: unsigned integers [targets * taps, nodes], or nodes_first [nodes, targets * taps], the edges of one target beside each
    other, or a torch tensor of the weights themselves, of that shape, on a device that has kernels to count them (`devices`);
    first_target, first_node: the numbers of the first ones in the matrix.
    """

    bits: Any
    first_target: int
    first_node: int
    taps: int
    nodes_first: bool

    def chosen(self, targets: np.ndarray | None, nodes: np.ndarray | None) -> tuple[Any, slice]:
        """(bits of the chosen targets and nodes, which of the chosen nodes these are). Sorted numbers in the matrix, None: all."""
        bits = self.bits
        target_axis, node_axis = (1, 0) if self.nodes_first else (0, 1)
        if targets is not None:
            inside = targets[_inside(targets, self.first_target, bits.shape[target_axis] // self.taps)]
            edges = (inside - self.first_target)[:, None] * self.taps + np.arange(self.taps)
            bits = _taken(bits, edges.reshape(-1), target_axis)
        if nodes is None:
            return bits, slice(self.first_node, self.first_node + bits.shape[node_axis])
        span = _inside(nodes, self.first_node, bits.shape[node_axis])
        return _taken(bits, nodes[span] - self.first_node, node_axis), span


def _taken(bits: Any, numbers: np.ndarray, axis: int) -> Any:
    """Rows or columns of weights, wherever they lie. numbers: sorted, int64."""
    if isinstance(bits, np.ndarray):
        return bits.take(numbers, axis=axis)
    if numbers.size == bits.shape[axis]:
        return bits
    torch = sys.modules["torch"]
    return bits.index_select(axis, torch.from_numpy(numbers).to(bits.device))


@dataclass(frozen=True)
class WeightMatrix:
    """A stored tensor as a matrix: which slices to read, and what they hold."""

    tensor: Tensor
    layout: MatrixLayout = MatrixLayout()

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def size(self) -> tuple[int, int]:
        """(targets, nodes)"""
        return self.layout.size(self.tensor.shape)

    @property
    def taps(self) -> int:
        return self.layout.taps(self.tensor.shape)

    @property
    def slices(self) -> int:
        return self.tensor.shape[0]

    @property
    def slice_bytes(self) -> int:
        return self.tensor.row_bytes

    @property
    def bytes(self) -> int:
        return self.slices * self.slice_bytes

    @property
    def stored_bytes(self) -> int:
        """Bytes of the tensor as its file holds it, where the weights are computed from it."""
        stored = getattr(self.tensor, "computed_from", self.tensor)
        return int(stored.shape[0] * stored.row_bytes)

    @property
    def _normed(self) -> bool:
        return self.layout.kernels == "norm" and self.layout.kernel_size(self.tensor.shape) > 1

    @property
    def dtype(self) -> str:
        """The type of the weights: the stored one, or what norms are kept in (F32; F64 of F64)."""
        stored = self.tensor.checked_float_type()
        return stored if not self._normed or stored == "F64" else "F32"

    @property
    def _in_group(self) -> tuple[int, int]:
        """(slices of a group, neurons on the other side of a group)"""
        return self.slices // self.layout.groups, self.tensor.shape[1]

    def byte_ranges(self, first: int, last: int) -> ByteRanges:
        """Slices first..last-1, to be read."""
        return self.tensor.ranges_of_span(first, last)

    def slices_of(self, targets: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """The slices that hold the edges from these nodes to these targets."""
        return nodes if self.layout.nodes_first else targets

    def tiles(self, raw: Sequence[memoryview], first: int) -> Iterator[WeightTile]:
        """What the bytes of slices first, first + 1, ... hold."""
        bits = self._weights(self.tensor.bits_in(raw))
        slices_in_group, width = self._in_group
        for start, stop in _group_spans(first, first + len(bits), slices_in_group):
            group = start // slices_in_group * width
            slices_read = bits[start - first : stop - first]
            if self.layout.nodes_first:
                yield WeightTile(slices_read.reshape(stop - start, -1), group, start, self.taps, True)
            else:
                yield WeightTile(_targets_first(slices_read), start, group, self.taps, False)

    def tile_of_box(self, weights: Any, first_slice: int, first_other: int) -> WeightTile:
        """A box of a matrix of two axes as a tile.

        weights: unsigned integers, or weights on a device, [slices, others]; first_slice, first_other: the numbers of the first
        ones. Which of the two are nodes says the layout.
        """
        if self.layout.nodes_first:
            return WeightTile(weights, first_other, first_slice, 1, True)
        return WeightTile(weights, first_slice, first_other, 1, False)

    @property
    def has_two_axes(self) -> bool:
        """Whether a box of its tensor is a tile as it is: no kernels, no groups."""
        return len(self.tensor.shape) == 2 and self.layout.groups == 1

    def check_stored(self, raw: Sequence[memoryview], first: int) -> None:
        """Raises CheckpointError (nonfinite), with the place, where a number of slices first, first + 1, ... is not finite."""
        values = self.tensor.bits_in(raw)
        self.tensor.check_finite(values, np.arange(first, first + len(values)))

    def weights(self, values: np.ndarray) -> np.ndarray:
        """Slices as `Tensor.rows_in` gives them, [m, all further axes], as weights [m, other side of a group, taps] of `dtype`."""
        bits = self._weights(values.view(f"<u{values.itemsize}"))
        return bits if self.dtype == "BF16" else bits.view(f"<f{bits.itemsize}")

    def taken(
        self, weights: np.ndarray, slice_positions: np.ndarray, targets: np.ndarray, nodes: np.ndarray
    ) -> np.ndarray:
        """Weights of chosen neurons, floats [targets * taps, nodes], 0 where a group does not join two.

        weights: of all slices that were read; slice_positions: which of them are those of `slices_of(targets, nodes)`.
        """
        slices, others = (nodes, targets) if self.layout.nodes_first else (targets, nodes)
        slices_in_group, width = self._in_group
        chosen = weights.take(slice_positions, axis=0)
        if self.layout.groups == 1:
            chosen = chosen.take(others, axis=1)
        else:
            within = others[None, :] - (slices // slices_in_group * width)[:, None]
            joined = (within >= 0) & (within < width)
            chosen = np.take_along_axis(chosen, np.where(joined, within, 0)[:, :, None], axis=1) * joined[:, :, None]
        # [slices, others, taps] -> [targets, taps, nodes]
        turned = chosen.transpose(1, 2, 0) if self.layout.nodes_first else chosen.transpose(0, 2, 1)
        return as_float(turned.reshape(targets.size * self.taps, nodes.size), self.dtype)

    def _weights(self, bits: np.ndarray) -> np.ndarray:
        """Stored slices, unsigned integers [m, all further axes], as weights [m, other side of a group, taps]."""
        other = self.tensor.shape[1]
        if not self._normed:
            return bits.reshape(len(bits), other, -1)
        stored = self.tensor.checked_float_type()
        return kernel_norms(bits.reshape(len(bits), other, -1), stored)[:, :, None]


def _targets_first(slices_read: np.ndarray) -> np.ndarray:
    """[targets, nodes, taps] -> [targets * taps, nodes]"""
    targets, nodes, taps = slices_read.shape
    return np.ascontiguousarray(slices_read.transpose(0, 2, 1)).reshape(targets * taps, nodes)


def _group_spans(first: int, last: int, size: int) -> Iterator[tuple[int, int]]:
    """first..last-1 cut where groups of `size` begin."""
    start = first
    while start < last:
        stop = min((start // size + 1) * size, last)
        yield start, stop
        start = stop


def _inside(sorted_numbers: np.ndarray, first: int, count: int) -> slice:
    return slice(*(int(position) for position in np.searchsorted(sorted_numbers, (first, first + count))))
