"""The safetensors header, read as what it is: untrusted input that says where to look in a file.

Layout: 8 bytes little-endian header length n, n bytes of JSON {name: {dtype, shape, data_offsets}}, then the data;
offsets count from the end of the header (safetensors format, "Format" section of its documentation). The library's own
reader maps a whole local file; a remote file is read here by ranges, so that only the bytes of used tensors travel.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeGuard

from ninscope.checkpoints.formats.weight_file import (
    ITEM_BYTES,
    MAX_DIMENSIONS,
    Complaint,
    TensorEntry,
    WeightFile,
    reader_of,
)
from ninscope.errors import CheckpointError

# A header takes about 100 bytes a tensor. The format allows 100 MB, which as JSON made to be large would take gigabytes.
MAX_HEADER_BYTES = 16_000_000
HEAD_BYTES = 1 << 14  # what is read at once of a local file: the header of some 150 tensors
KEPT_HEADERS, KEPT_HEADER_BYTES = 8, 1_000_000
# Packed types take less than a byte each: (bits of one number).
PACKED_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}


def open_tensors(file: WeightFile) -> tuple[dict[str, TensorEntry], WeightFile]:
    """Its tensors by name, and the file itself, which holds their bytes as they are. Raises CheckpointError."""
    read = reader_of(file)
    if not file.reads_are_free:
        return read_header(read, file.size, file.name), file
    head = read(0, min(file.size, HEAD_BYTES))

    def read_ahead(start: int, stop: int) -> bytes:
        return head[start:stop] if stop <= len(head) else read(start, stop)

    return read_header(read_ahead, file.size, file.name), file


def read_header(read: Callable[[int, int], bytes], size: int, where: str) -> dict[str, TensorEntry]:
    """Tensor entries of a safetensors file, every offset checked against the file.

    read(start, stop) returns exactly those bytes; size is the file's length in bytes; where names it in messages.

    Raises CheckpointError: corrupt (too short, header length or JSON senseless, offsets that overlap, leave the file or
    disagree with dtype and shape, data missing at the end, as of a truncated download), unsupported (an unknown type).
    """

    corrupt = Complaint(where).corrupt
    if size < 8:
        raise corrupt(f"{size} bytes are too few for a safetensors file")
    length = int.from_bytes(read(0, 8), "little")
    if length > MAX_HEADER_BYTES:
        raise corrupt(f"not a safetensors file, or one made to be large (it states a header of {length} bytes)")
    if 8 + length > size:
        raise corrupt(f"truncated: the header alone takes {8 + length} bytes, the file has {size}")
    raw = read(8, 8 + length)
    parse = _parsed if length <= KEPT_HEADER_BYTES else _parsed.__wrapped__
    try:
        header = parse(raw)
    except _Senseless as error:
        raise corrupt(str(error)) from None
    if header.stop > size:
        raise corrupt(f"truncated: the header describes {header.stop} bytes, the file has {size}")
    return dict(header.tensors)


class _Senseless(Exception):
    """What is wrong with a header, whatever file it is of."""


@dataclass(frozen=True)
class _Header:
    """tensors: by name; stop: where the last of their bytes ends in the file."""

    tensors: dict[str, TensorEntry]
    stop: int


@lru_cache(KEPT_HEADERS)
def _parsed(raw: bytes) -> _Header:
    """What a header says, checked: revisions of one model have the same. Raises _Senseless, CheckpointError (unsupported)."""
    try:
        entries = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise _Senseless(f"the safetensors header is not JSON ({_first_line(error)})") from None
    if not isinstance(entries, dict):
        raise _Senseless("the safetensors header is not a JSON object")
    entries.pop("__metadata__", None)
    base = 8 + len(raw)
    tensors = {name: _entry(name, described, base) for name, described in entries.items()}
    stop = base
    for tensor in sorted(tensors.values(), key=lambda entry: (entry.start, entry.stop)):
        if tensor.start < stop:
            raise _Senseless(f"tensor {tensor.name} overlaps another tensor or the header")
        stop = tensor.stop
    return _Header(tensors, stop)


def _entry(name: str, described: object, base: int) -> TensorEntry:
    """Raises _Senseless, CheckpointError (unsupported)."""
    if not isinstance(described, dict):
        raise _Senseless(f"tensor {name} is not described by a JSON object")
    dtype, shape, offsets = (described.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or not (dtype in ITEM_BYTES or dtype in PACKED_BITS):
        raise CheckpointError(
            "unsupported", f"tensor {name} has the unknown type {dtype!r}; convert it to F16, BF16 or F32"
        )
    if not _counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise _Senseless(f"tensor {name} has a senseless shape")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _Senseless(f"tensor {name} has senseless data_offsets")
    items = math.prod(shape)
    stated = offsets[1] - offsets[0]
    expected = items * ITEM_BYTES[dtype] if dtype in ITEM_BYTES else (items * PACKED_BITS[dtype] + 7) // 8
    if stated != expected:
        raise _Senseless(
            f"tensor {name} of type {dtype} and shape {shape} takes {expected} bytes, its offsets give {stated}"
        )
    return TensorEntry(name, dtype, tuple(shape), base + offsets[0], base + offsets[1])


def _counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a name appears twice")
    return keys


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
