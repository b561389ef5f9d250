"""Gemma Scope's params.npz: W_enc, W_dec, b_enc, b_dec and threshold of a jumprelu autoencoder, as arrays of numpy in a zip file.

Lieberum et al. (2024), "Gemma Scope". A zip file states the sizes of its members, and an array's header its shape: all of that
is checked before memory is taken, so that a small file cannot ask for a large array. Arrays of objects (pickles) are refused, and
so are compressions that numpy does not write: LZMA asks for as much memory as the file says.
"""

import io
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy_format

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons.polysemanticity.sparse_autoencoders import (
    SparseAutoencoder,
    check_shapes,
    check_width,
    checked_finite,
    decoder_norms,
)

NPZ_NAME = "params.npz"
NAMES = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
MAX_TENSOR_BYTES = 2**34  # a million features of 4,096 neurons in float32
MAX_UNCOMPRESSED, MOST_COMPRESSED = 2**26, 100  # bytes that a file of any size may hold; beyond, times its own size
_MOST_HEADER = 2**15  # bytes of a member that its array's header is looked for in; numpy takes 10,000
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_READERS = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}


@dataclass(frozen=True)
class _Array:
    """What a member of the zip file says of its array; offset: of its numbers, in bytes."""

    member: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool
    offset: int


def load_gemma_scope(path: Path, width: int | None = None) -> SparseAutoencoder:
    """The autoencoder of one params.npz. width: as `load_sparse_autoencoder`. Raises CheckpointError, RequestError: as that."""
    name = f"{path.parent.name}/{path.name}"
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, name)
            _check_sizes(members, path.stat().st_size, name)
            arrays = {key: _described(archive, member, name) for key, member in members.items()}
            _check(arrays, name)
            check_width(arrays["W_enc"].shape[0], width, name)
            tensors = {key: _values(archive, array, f"{name}: {key}") for key, array in arrays.items()}
    except OSError as error:
        raise CheckpointError("missing", f"{name}: cannot be read ({error.strerror or error})") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError("corrupt", f"{name}: not a whole zip file ({error}); fetch the file again") from None
    norms = decoder_norms(tensors["W_dec"])
    about = {
        "format": "Gemma Scope",
        "architecture": "jumprelu",
        "stored_type": ", ".join(sorted({str(array.dtype) for array in arrays.values()})),
        "decoder_norms": norms,
        "message": f"read as jumprelu; its decoder's rows have lengths as stored ({norms})",
        "metadata": {},
    }
    return SparseAutoencoder.of_tensors(tensors, "jumprelu", centred=False, about=about)


def _members(archive: zipfile.ZipFile, name: str) -> dict[str, zipfile.ZipInfo]:
    """The five members by the names of their arrays. Raises CheckpointError (corrupt)."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        key = member.filename.removesuffix(".npy")
        if key not in NAMES or key == member.filename or key in members:
            problem = "stands in it twice" if key in members else "is in it"
            raise CheckpointError(
                "corrupt", f"{name}: {member.filename!r} {problem}; {', '.join(NAMES)} were expected, each once"
            )
        members[key] = member
    if absent := [key for key in NAMES if key not in members]:
        raise CheckpointError("corrupt", f"{name}: {absent[0]} is absent; {', '.join(NAMES)} were expected")
    return members


def _check_sizes(members: dict[str, zipfile.ZipInfo], size: int, name: str) -> None:
    """Members are of a size that such a file can have. size: of the file, in bytes. Raises CheckpointError."""
    for key, member in members.items():
        if member.compress_type not in _COMPRESSIONS:
            raise CheckpointError(
                "unsupported", f"{name}: {key} is compressed as numpy does not; write it by numpy.savez"
            )
        if member.file_size > MAX_TENSOR_BYTES:
            raise CheckpointError(
                "corrupt", f"{name}: {key} would take {member.file_size} bytes, more than {MAX_TENSOR_BYTES}"
            )
    together = sum(member.file_size for member in members.values())
    if together > max(MAX_UNCOMPRESSED, MOST_COMPRESSED * size):
        raise CheckpointError(
            "corrupt",
            f"{name}: its {size} bytes would become {together}, as no weights do: it is made to be large; fetch the file again",
        )


def _described(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> _Array:
    """A member's shape and type, of which no more than its header is read. Raises CheckpointError."""
    where = f"{name}: {member.filename.removesuffix('.npy')}"
    with archive.open(member) as stream:
        # numpy reads a header as long as it says to be before it refuses that.
        beginning = io.BytesIO(stream.read(_MOST_HEADER))
    try:
        read_header = _READERS[npy_format.read_magic(beginning)]
        shape, is_fortran, dtype = read_header(beginning)
    except (ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError("corrupt", f"{where}: not an array of numpy ({reason}); fetch the file again") from None
    offset = beginning.tell()
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise CheckpointError("unsupported", f"{where} is of type {dtype}; float16, float32 or float64 can be read")
    expected = math.prod(shape) * dtype.itemsize
    if member.file_size - offset != expected:
        raise CheckpointError(
            "corrupt", f"{where} of shape {list(shape)} takes {expected} bytes and has {member.file_size - offset}"
        )
    return _Array(member, shape, dtype, is_fortran, offset)


def _check(arrays: dict[str, _Array], name: str) -> None:
    """Shapes fit each other. Raises CheckpointError (corrupt)."""
    shape = arrays["W_enc"].shape
    if len(shape) != 2 or 0 in shape:
        raise CheckpointError("corrupt", f"{name}: W_enc has shape {list(shape)}; [width, features] was expected")
    try:
        check_shapes({key: array.shape for key, array in arrays.items()}, "jumprelu")
    except RequestError as error:
        raise CheckpointError("corrupt", f"{name}: {error}") from None


def _values(archive: zipfile.ZipFile, array: _Array, where: str) -> np.ndarray:
    """The numbers of one array, float32. Raises CheckpointError (corrupt, nonfinite)."""
    size = math.prod(array.shape) * array.dtype.itemsize
    with archive.open(array.member) as stream:
        content = _exactly(stream, array.offset + size, where)
    flat = np.frombuffer(content, array.dtype, offset=array.offset)
    return checked_finite(flat.reshape(array.shape, order="F" if array.is_fortran else "C"), where)


def _exactly(stream: IO[bytes], size: int, where: str) -> bytes:
    content = stream.read(size)
    if len(content) != size or stream.read(1):
        raise CheckpointError("corrupt", f"{where}: truncated, or longer than it states; fetch the file again")
    return content
