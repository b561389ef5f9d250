"""Pieces of a tensor that lie in this process: all of it, or the box of it that this rank of a sharded model holds.

The pieces of all ranks together are the tensor, each number once: of what several ranks hold alike, one has the piece.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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


def held_pieces(tensor: Tensor) -> tuple[HeldPiece, ...] | None:
    """The pieces of a tensor, or of one slice of a stack of matrices, that lie here; None of what is no tensor in memory.

    What is computed, as a weight with its adapter, is computed by this call and is one piece: ask when it is needed, and let go of
    it. Raises CheckpointError (unsupported): it has no values, or cannot be computed.
    """
    pieces = getattr(getattr(tensor, "file", None), "pieces", None)
    if pieces is None:
        return None
    stacked = [piece for piece in pieces if len(piece.start) > len(tensor.shape)]
    if not stacked:
        return pieces
    index = tensor.entry.start // (tensor.entry.stop - tensor.entry.start)
    return tuple(
        HeldPiece(piece.start[1:], piece.values[index - piece.start[0]])
        for piece in stacked
        if piece.start[0] <= index < piece.start[0] + piece.shape[0]
    )


def hold_the_same(pieces: Sequence[HeldPiece], others: Sequence[HeldPiece]) -> bool:
    """Whether the pieces of two tensors are of the same places and hold the same numbers, not all of them one and the same number."""
    if not pieces or [(one.start, one.shape) for one in pieces] != [(one.start, one.shape) for one in others]:
        return False
    if not all(bool((one.values == other.values).all()) for one, other in zip(pieces, others, strict=True)):
        return False
    filled = [one.values.reshape(-1) for one in pieces if 0 not in one.shape]
    return any(bool((values != filled[0][0]).any()) for values in filled)
