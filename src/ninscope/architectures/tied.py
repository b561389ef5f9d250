"""Which tensors are one matrix that a file holds under several names: an embedding and the head that is tied to it.

A pytorch_model.bin may say so itself, by one storage of two names; safetensors and copies in a .bin cannot. So tensors are also
told by what they hold: those that have the vocabulary's shape, where config.json says `tie_word_embeddings`, and those whose
numbers are equal. The latter are looked for outside numbered blocks alone, and a constant matrix is equal to another by chance.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ninscope.checkpoints.held_pieces import HeldPiece, held_pieces, hold_the_same
from ninscope.checkpoints.tensors import Tensor
from ninscope.errors import CheckpointError

_IN_A_BLOCK = re.compile(r"(^|\.)\d+\.")
_EMBEDDING = re.compile(r"emb|wte|tok|shared", re.IGNORECASE)
_BAND_BYTES = 8_000_000
_COMPARED_ROWS = 64  # of a tensor that is not local


def tied_names(matrices: Mapping[str, Tensor], config: Mapping) -> list[str]:
    """The names under which a matrix is stored once more, in the order of `matrices`. Raises CheckpointError.

    What stays is the first name; where config.json alone says so, that of the embedding, which the library ties the head to.
    """
    tied = set(_of_one_storage(matrices))
    outside = {name: tensor for name, tensor in matrices.items() if name not in tied and not _IN_A_BLOCK.search(name)}
    for names in _alike(outside):
        if outside[names[0]].shape[0] == _tied_vocabulary(config):
            kept = next((name for name in names if _EMBEDDING.search(name)), names[0])
            tied |= set(names) - {kept}
        else:
            tied |= set(_of_equal_numbers(names, outside))
    return [name for name in matrices if name in tied]


def _of_one_storage(matrices: Mapping[str, Tensor]) -> Iterator[str]:
    first_names: dict[tuple, str] = {}
    for name, tensor in matrices.items():
        stored_at = (id(tensor.file), tensor.entry.start, tensor.shape)
        if first_names.setdefault(stored_at, name) != name:
            yield name


def _alike(matrices: Mapping[str, Tensor]) -> list[list[str]]:
    """Names of two or more matrices of one shape and type."""
    alike: dict[tuple, list[str]] = {}
    for name, tensor in matrices.items():
        if len(tensor.shape) == 2:
            alike.setdefault((tensor.shape, tensor.dtype), []).append(name)
    return [names for names in alike.values() if len(names) > 1]


def _tied_vocabulary(config: Mapping) -> int | None:
    """The rows of an embedding that the head is tied to; None where config.json does not say that it is."""
    for part in (config, config.get("text_config")):
        if isinstance(part, Mapping) and part.get("tie_word_embeddings") is True:
            size = part.get("vocab_size")
            return size if type(size) is int else None
    return None


def _of_equal_numbers(names: Sequence[str], matrices: Mapping[str, Tensor]) -> Iterator[str]:
    """Names of matrices that hold what an earlier one holds. Raises CheckpointError."""
    whole = [name for name in names if getattr(matrices[name].file, "is_whole", True)]
    _refuse_copies_on_ranks({name: matrices[name] for name in names if name not in whole})
    rows = _middle_rows(whole, matrices)
    firsts: dict[bytes, list[str]] = {}  # by their middle row
    for name in whole:
        same_row = firsts.setdefault(rows[name], [])
        if any(_equal(matrices[name], matrices[first]) for first in same_row):
            yield name
        else:
            same_row.append(name)


def _refuse_copies_on_ranks(matrices: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError: unsupported (two that ranks share hold the same numbers here; elsewhere they may not)."""
    seen: dict[str, tuple[HeldPiece, ...]] = {}
    for name, tensor in matrices.items():
        pieces = held_pieces(tensor) or ()
        other = next((other for other, known in seen.items() if hold_the_same(pieces, known)), None)
        if other is not None:
            raise CheckpointError(
                "unsupported",
                f"tensors {other} and {name} lie on several ranks and hold the same numbers on this one, so whether they are one "
                "matrix is not known; describe the model (architecture), or tie them",
            )
        seen[name] = pieces


def _middle_rows(names: Sequence[str], matrices: Mapping[str, Tensor]) -> dict[str, bytes]:
    """The bytes of the middle row of each matrix; those of one file are asked for at once. Raises CheckpointError."""
    of_file: dict[int, list[str]] = {}
    for name in names:
        of_file.setdefault(id(matrices[name].file), []).append(name)
    rows: dict[str, bytes] = {}
    for together in of_file.values():
        tensors = [matrices[name] for name in together]
        middles = [tensor.shape[0] // 2 for tensor in tensors]
        ranges = [t.ranges_of_span(middle, middle + 1).ranges[0] for t, middle in zip(tensors, middles, strict=True)]
        pieces = tensors[0].file.read_ranges(ranges)
        rows |= {name: bytes(piece) for name, piece in zip(together, pieces, strict=True)}
    return rows


def _equal(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape and type hold the same bytes, not all of them the same number. Raises CheckpointError.

    Only some rows are compared where reading costs something.
    """
    rows = tensor.shape[0]
    if _is_near(tensor) and _is_near(other):
        height = max(_BAND_BYTES // tensor.row_bytes, 1)
        bands = [[(first, min(first + height, rows))] for first in range(0, rows, height)]
    else:
        bands = [[(int(row), int(row) + 1) for row in np.unique(np.linspace(0, rows - 1, _COMPARED_ROWS).astype(int))]]
    lowest, highest = [], []
    for spans in bands:
        pieces, others = _read(tensor, spans), _read(other, spans)
        if pieces != others:
            return False
        for piece in pieces:
            numbers = tensor.bits_in([piece])
            lowest.append(numbers.min())
            highest.append(numbers.max())
    return min(lowest) < max(highest)


def _is_near(tensor: Tensor) -> bool:
    """Whether all of a tensor can be read at once: from a local file, or from memory."""
    return tensor.file.reads_are_free or getattr(tensor.file, "is_in_memory", False)


def _read(tensor: Tensor, spans: Sequence[tuple[int, int]]) -> list[memoryview]:
    """The bytes of some spans of rows."""
    ranges = [tensor.ranges_of_span(first, last).ranges[0] for first, last in spans]
    return tensor.file.read_ranges(ranges)
