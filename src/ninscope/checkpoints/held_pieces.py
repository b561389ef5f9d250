"""Pieces of a tensor that lie in this process: all of it, or the box of it that this rank of a sharded model holds.

The pieces of all ranks together are the tensor, each number once: of what several ranks hold alike, one has the piece.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from ninscope.checkpoints.tensors import Tensor


@dataclass(frozen=True)
class HeldPiece:
    """A box of a tensor.

    start: the place of its first number in the tensor, one entry an axis. values: the numbers, a torch tensor on any device, or a
    numpy array (of BF16 its uint16 bits), in the tensor's own type, as many axes as the tensor.
    """

    start: tuple[int, ...]
    values: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(size) for size in self.values.shape)

    def is_all_of(self, shape: Sequence[int]) -> bool:
        """Whether it is a whole tensor of this shape."""
        return self.shape == tuple(shape)


@runtime_checkable
class HeldFile(Protocol):
    """What stands for a file of weights where the weights lie in memory."""

    @property
    def pieces(self) -> tuple[HeldPiece, ...]:
        """Those that lie here; none where other ranks hold all of it."""


def held_pieces(tensor: Tensor) -> tuple[HeldPiece, ...] | None:
    """The pieces of a tensor, or of one slice of a stack of matrices, that lie here; None of what is no tensor in memory."""
    file = getattr(tensor, "file", None)
    if not isinstance(file, HeldFile):
        return None
    pieces = file.pieces
    stacked = [piece for piece in pieces if len(piece.start) > len(tensor.shape)]
    if not stacked:
        return pieces
    index = tensor.entry.start // (tensor.entry.stop - tensor.entry.start)
    return tuple(
        HeldPiece(piece.start[1:], piece.values[index - piece.start[0]])
        for piece in stacked
        if piece.start[0] <= index < piece.start[0] + piece.shape[0]
    )
