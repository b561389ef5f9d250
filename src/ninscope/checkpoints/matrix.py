"""How a stored tensor is the matrix W[out, in] of a weight block, whatever order and rank it is stored in.

Edges leave a matrix's columns, the *nodes*, and lead to its rows, the *targets*. A tensor is read in slices of its first axis,
which are targets or nodes, as its order says.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from ninscope.checkpoints.read_ahead import Wanted
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
