"""Pieces of a tensor that lie in this process: all of it, or the box of it that this rank of a sharded model holds.

The pieces of all ranks together are the tensor, each number once: of what several ranks hold alike, one has the piece.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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


def lying_pieces(tensor: Tensor) -> tuple[HeldPiece, ...] | None:
    """`held_pieces`, but None as well of what is computed when it is read: its bytes are read, a few tensors at a time."""
    return None if getattr(getattr(tensor, "file", None), "is_computed", False) else held_pieces(tensor)


def is_spread(tensor: Tensor) -> bool:
    """Whether several ranks hold a tensor together, whatever of it lies here: the same answer on every rank."""
    return bool(getattr(getattr(tensor, "file", None), "is_spread", False))


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


def bits_of(values: Any, dtype: str) -> np.ndarray:
    """Numbers of the stored type `dtype` as the unsigned integers that they are stored as, contiguous, on the CPU.

    values: a torch tensor on any device, which is copied where it must be, or a numpy array; any shape.
    """
    unsigned = np.dtype(f"<u{8 if dtype == 'F64' else 4 if dtype == 'F32' else 2}")
    if isinstance(values, np.ndarray):
        stored = values.astype(values.dtype.newbyteorder("<"), copy=False)
        return np.ascontiguousarray(stored).view(unsigned)
    held = values.detach().cpu().contiguous()
    return (held.view(sys.modules["torch"].uint16) if dtype == "BF16" else held).numpy().view(unsigned)


def lies_on_device(values: Any) -> bool:
    """Whether numbers are a torch tensor that is not in the CPU's memory."""
    return not isinstance(values, np.ndarray) and str(values.device.type) != "cpu"


def hold_the_same(pieces: Sequence[HeldPiece], others: Sequence[HeldPiece]) -> bool:
    """Whether the pieces of two tensors are of the same places and hold the same numbers, which are not all one number."""
    if not pieces or [(one.start, one.shape) for one in pieces] != [(one.start, one.shape) for one in others]:
        return False
    if not all(bool((one.values == other.values).all()) for one, other in zip(pieces, others, strict=True)):
        return False
    filled = [one.values.reshape(-1) for one in pieces if 0 not in one.shape]
    return any(bool((values != filled[0][0]).any()) for values in filled)
