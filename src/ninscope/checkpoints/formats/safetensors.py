"""The safetensors header, read as what it is: untrusted input that says where to look in a file.

Layout: 8 bytes little-endian header length n, n bytes of JSON {name: {dtype, shape, data_offsets}}, then the data;
offsets count from the end of the header (safetensors format, "Format" section of its documentation). The library's own
reader maps a whole local file; a remote file is read here by ranges, so that only the bytes of used tensors travel.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass

from ninscope.errors import CheckpointError

# A header takes about 100 bytes a tensor. The format allows 100 MB, which as JSON made to be large would take gigabytes.
MAX_HEADER_BYTES = 16_000_000
MAX_DIMENSIONS = 64

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
# Packed types take less than a byte each: (bits of one number).
PACKED_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: dtype as safetensors names it, shape, and its bytes [start, stop) in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(read: Callable[[int, int], bytes], size: int, where: str) -> dict[str, TensorEntry]:
    """Tensor entries of a safetensors file, every offset checked against the file.

    read(start, stop) returns exactly those bytes; size is the file's length in bytes; where names it in messages.

    Raises CheckpointError (corrupt): too short, header length or JSON senseless, offsets that overlap, leave the file or
    disagree with dtype and shape, data missing at the end (a truncated download).
    """

    def corrupt(reason: str) -> CheckpointError:
        return CheckpointError("corrupt", f"{where}: {reason}; fetch the file again")

    if size < 8:
        raise corrupt(f"{size} bytes are too few for a safetensors file")
    length = int.from_bytes(read(0, 8), "little")
    if length > MAX_HEADER_BYTES:
        raise corrupt(f"not a safetensors file, or one made to be large (it states a header of {length} bytes)")
    if 8 + length > size:
        raise corrupt(f"truncated: the header alone takes {8 + length} bytes, the file has {size}")
    raw = read(8, 8 + length)
    try:
        entries = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise corrupt(f"the safetensors header is not JSON ({_first_line(error)})") from None
    if not isinstance(entries, dict):
        raise corrupt("the safetensors header is not a JSON object")
    entries.pop("__metadata__", None)

    base = 8 + length
    tensors = {name: _entry(name, described, base, corrupt) for name, described in entries.items()}
    position = base
    for tensor in sorted(tensors.values(), key=lambda entry: (entry.start, entry.stop)):
        if tensor.start < position:
            raise corrupt(f"tensor {tensor.name} overlaps another tensor or the header")
        position = tensor.stop
    if position > size:
        raise corrupt(f"truncated: the header describes {position} bytes, the file has {size}")
    return tensors


def _entry(name: str, described, base: int, corrupt) -> TensorEntry:
    if not isinstance(described, dict):
        raise corrupt(f"tensor {name} is not described by a JSON object")
    dtype, shape, offsets = (described.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or not (dtype in ITEM_BYTES or dtype in PACKED_BITS):
        raise CheckpointError(
            "unsupported", f"tensor {name} has the unknown type {dtype!r}; convert it to F16, BF16 or F32"
        )
    if not _counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise corrupt(f"tensor {name} has a senseless shape")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise corrupt(f"tensor {name} has senseless data_offsets")
    items = math.prod(shape)
    stated = offsets[1] - offsets[0]
    expected = items * ITEM_BYTES[dtype] if dtype in ITEM_BYTES else (items * PACKED_BITS[dtype] + 7) // 8
    if stated != expected:
        raise corrupt(
            f"tensor {name} of type {dtype} and shape {shape} takes {expected} bytes, its offsets give {stated}"
        )
    return TensorEntry(name, dtype, tuple(shape), base + offsets[0], base + offsets[1])


def _counts(value) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _unique_keys(pairs):
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a name appears twice")
    return keys


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
