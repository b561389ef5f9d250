"""A tensor that lies in memory as a file of weights: of what is asked for, only those rows are copied, and none on a CPU.

torch is not imported here: who holds a tensor of it has done so.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ninscope.checkpoints.formats.weight_file import TensorEntry
from ninscope.checkpoints.held_pieces import HeldPiece
from ninscope.errors import CheckpointError, one_line
from ninscope.ranks import ALONE, Ranks

# As safetensors calls what torch and numpy call so.
_TYPES = {
    "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64", "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32", "int32": "I32",
    "uint64": "U64", "int64": "I64",
}  # fmt: skip


class HeldTensor:
    """One tensor of a model: all of it, the pieces of it that this rank has, or what computes it when it is needed.

    name: the first name that the model has for it. shape, dtype: of the whole tensor, dtype as safetensors has it. ranks: who
    holds the model together. is_spread: whether they share this tensor, whatever of it lies here.
    """

    reads_are_free = False  # of a sample, only the rows that it needs
    is_in_memory = True

    def __init__(self, name: str, tensor: Any, values: Callable[[], Any] | None = None, ranks: Ranks = ALONE) -> None:
        """tensor: of torch or numpy, with the shape and the type. values: gives the tensor that is meant (default: that one).
        ranks: who holds the model together. Raises CheckpointError (unsupported): a part of a tensor that cannot be counted.
        """
        self.name, self.ranks, self._tensor, self._values = name, ranks, _plain_array(tensor), values
        self._sharded: tuple[HeldPiece, ...] | None = None
        self.is_spread = False
        self.shape: tuple[int, ...]
        if values is None and is_sharded(tensor):
            from ninscope.distributed.shards import pieces_of  # what torch has of ranks, which few models need

            self.shape, self.dtype, self._sharded, self.is_spread = pieces_of(name, tensor, ranks)
        else:
            self.shape, self.dtype = tuple(int(size) for size in tensor.shape), _type_of(self._tensor)
        self.size = math.prod(self.shape) * int(getattr(tensor, "itemsize", 1))

    @property
    def is_whole(self) -> bool:
        """Whether all of it lies here, so that its bytes can be read."""
        return self._sharded is None or (len(self._sharded) == 1 and self._sharded[0].is_all_of(self.shape))

    @property
    def is_computed(self) -> bool:
        """Whether its numbers lie nowhere, and are computed when they are asked for."""
        return self._values is not None

    @property
    def pieces(self) -> tuple[HeldPiece, ...]:
        """What of it lies here. One that is computed is computed now. Raises CheckpointError (unsupported)."""
        if self._sharded is not None:
            return self._sharded
        return (HeldPiece((0,) * len(self.shape), self._whole()),)

    def entry(self, name: str = "") -> TensorEntry:
        """name: where it has several (default: the first)."""
        return TensorEntry(name or self.name, self.dtype, self.shape, 0, self.size)

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Views of what lies in this computer's memory, row by row after another; copies of everything else.

        Raises CheckpointError: unsupported (it has no values here, or not all of them).
        """
        whole = self._whole()
        try:
            return [_bytes_of(whole, start, stop) for start, stop in ranges]
        except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            raise self._unreadable(error) from None

    def start_ranges(self, ranges: Sequence[tuple[int, int]]) -> Callable[[], list[memoryview]]:
        ranges = list(ranges)
        return lambda: self.read_ranges(ranges)

    def spans(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        return list(ranges)

    def _whole(self) -> Any:
        """All of it, on its device. Raises CheckpointError."""
        if self._sharded is not None:
            if not self.is_whole:
                here = sum(math.prod(piece.shape) for piece in self._sharded)
                raise CheckpointError(
                    "unsupported",
                    f"tensor {self.name} lies on several ranks ({here} of its {math.prod(self.shape)} numbers here); have every "
                    'rank measure together (ninscope.integrations.EmergenceMonitor, without gauge="fixed"), or gather it',
                )
            return self._sharded[0].values
        if self._values is not None:
            return self._values()
        check_has_values(self.name, self._tensor)
        return self._tensor

    def _unreadable(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            "unsupported",
            f"tensor {self.name}: its values cannot be had here ({type(error).__name__}: {one_line(str(error))}); measure a copy "
            "of the model whose tensors are plain",
        )


def check_has_values(name: str, tensor: Any) -> None:
    """Raises CheckpointError: unsupported (a tensor that has a shape, and no numbers yet)."""
    if str(getattr(tensor, "device", "")) == "meta":
        raise CheckpointError(
            "unsupported",
            f"tensor {name} is on the device meta, where it has no values; load the model's weights first (from_pretrained, or "
            "to_empty and an initialisation)",
        )


def is_sharded(tensor: Any) -> bool:
    """Whether other ranks may hold a part of it: a DTensor, or a parameter under DeepSpeed's ZeRO-3."""
    return hasattr(tensor, "ds_tensor") or any(kind.__name__ == "DTensor" for kind in type(tensor).__mro__)


def _type_of(tensor: Any) -> str:
    stored = str(tensor.dtype).removeprefix("torch.")
    return _TYPES.get(stored, stored)


def _plain_array(tensor: Any) -> Any:
    """A tensor of torch without its history; any other as an array, little-endian."""
    if hasattr(tensor, "detach"):
        return tensor.detach()
    array = np.asarray(tensor)
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _bytes_of(tensor: Any, start: int, stop: int) -> memoryview:
    """Bytes [start, stop) of a tensor as if its rows stood one after the other. A part is cut where the tensor lies."""
    item = int(tensor.itemsize)
    first, last = start // item, -(-stop // item)
    if isinstance(tensor, np.ndarray):
        held = np.ascontiguousarray(_numbers(tensor, first, last, tensor.flags.c_contiguous)).view(np.uint8)
    else:
        part = _numbers(tensor, first, last, tensor.is_contiguous()).contiguous()
        part = part.as_strided(part.shape, (1,))  # a single number is contiguous at any stride
        held = part.view(sys.modules["torch"].uint8).cpu().numpy()
    return held.data[start - first * item : stop - first * item]


def _numbers(tensor: Any, first: int, last: int, is_contiguous: bool) -> Any:
    """Numbers first..last-1 of a tensor, in the order of its rows, with one axis."""
    if is_contiguous or len(tensor.shape) < 2:
        return tensor.reshape(-1)[first:last]
    columns = math.prod(tensor.shape[1:])
    row = first // columns
    rows = tensor[row : -(-last // columns)]
    return rows.reshape(-1)[first - row * columns : last - row * columns]
