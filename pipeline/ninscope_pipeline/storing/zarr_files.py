"""Arrays and sparse matrices as the files of a Zarr group (format 3), by their paths in it, and back.

The bytes are those that zarr writes. It takes ten milliseconds for the three small arrays of a measurement, in threads of its own,
and this half a millisecond. What is unusual (no axis, text), and what others wrote in another way, is left to zarr.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

NODE = "zarr.json"  # what a group or an array is, in its folder
_LONGEST_CHUNK = 1 << 20  # along every axis
_LEVEL = 1
# What a chunk that is not there would be full of, by dtype: those that are written and read here.
_FILL = {
    "bool": False,
    **dict.fromkeys((f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)), 0),
    **dict.fromkeys((f"float{bits}" for bits in (16, 32, 64)), 0.0),
}
_CHECKSUM_BYTES = 4

Files = Mapping[str, bytes]


def group_file(attributes: Mapping[str, Any]) -> bytes:
    """The file NODE of a group with these attributes, JSON values."""
    return _json_bytes({"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"})


def files_of_array(name: str, array: np.ndarray) -> dict[str, bytes]:
    """An array of a group, in AnnData's encoding."""
    if array.dtype.name not in _FILL or not array.dtype.isnative or not array.ndim:
        return _written_by_zarr(name, array)
    files = {f"{name}/{NODE}": _json_bytes(_description(array.shape, array.dtype.name))}
    shape = _chunk_shape(array.shape)
    for number, place in _chunks(array.shape):
        chunk = array[place]
        if chunk.shape != shape:  # at the array's end; chunks are all of one size
            whole = np.zeros(shape, array.dtype)
            whole[tuple(slice(length) for length in chunk.shape)] = chunk
            chunk = whole
        content = bytes(_zstd().encode(np.ascontiguousarray(chunk, _little_endian(array.dtype))))
        files[_chunk_path(name, number)] = content + _checksum(content)
    return files


def array_of_files(files: Files, name: str) -> np.ndarray:
    """The values of an array. Raises ValueError when it is a group."""
    described = json.loads(files[f"{name}/{NODE}"])
    if described["node_type"] != "array":
        raise ValueError(f"{name} is a group; an array was expected")
    shape, kind = tuple(described["shape"]), described["data_type"]
    paths = {_chunk_path(name, number): place for number, place in _chunks(shape)}
    usual = isinstance(kind, str) and kind in _FILL and bool(shape)
    if not usual or described != _description(shape, kind) or not paths.keys() <= files.keys():
        return _read_by_zarr(files, name)
    array = np.empty(shape, kind)
    chunk_shape = _chunk_shape(shape)
    for path, place in paths.items():
        content = files[path]
        if _checksum(content[:-_CHECKSUM_BYTES]) != content[-_CHECKSUM_BYTES:]:
            raise ValueError(f"{path}: not what its checksum says")
        chunk = np.empty(chunk_shape, _little_endian(np.dtype(kind)))
        _zstd().decode(content[:-_CHECKSUM_BYTES], chunk)
        array[place] = chunk[tuple(slice(length) for length in array[place].shape)]
    return array


def files_of_matrix(name: str, matrix: "csr_matrix") -> dict[str, bytes]:
    """A sparse matrix in AnnData's encoding (csr_matrix 0.1.0)."""
    attributes = {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": list(matrix.shape)}
    files = {f"{name}/{NODE}": group_file(attributes)}
    for field in ("data", "indices", "indptr"):
        files |= files_of_array(f"{name}/{field}", getattr(matrix, field))
    return files


def matrix_of_files(files: Files, name: str) -> "csr_matrix":
    """A sparse matrix as scipy's. The arrays are taken as they are: they were written from a valid matrix.

    Raises ValueError when it is an array.
    """
    from scipy.sparse import csr_matrix  # slow to import, and exact results hold none

    described = json.loads(files[f"{name}/{NODE}"])
    if described["node_type"] != "group":
        raise ValueError(f"{name} is an array; a group was expected")
    rows, columns = described["attributes"]["shape"]
    values, indices, pointers = (array_of_files(files, f"{name}/{field}") for field in ("data", "indices", "indptr"))
    return csr_matrix((values, indices, pointers), shape=(rows, columns))


@lru_cache(256)
def _description(shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    """What NODE says of an array. dtype: one of _FILL."""
    return {
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(_chunk_shape(shape))}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": _FILL[dtype],
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}}
            if np.dtype(dtype).itemsize > 1
            else {"name": "bytes"},
            {"name": "zstd", "configuration": {"level": _LEVEL, "checksum": False}},
            {"name": "crc32c"},
        ],
        "attributes": {"encoding-type": "array", "encoding-version": "0.2.0"},
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def _chunk_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(min(length, _LONGEST_CHUNK) or 1 for length in shape)


def _chunks(shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """The number of every chunk along each axis, and its place in the array."""
    starts = [range(0, length, _LONGEST_CHUNK) for length in shape]
    for place in itertools.product(*starts):
        number = tuple(start // _LONGEST_CHUNK for start in place)
        yield number, tuple(slice(start, start + _LONGEST_CHUNK) for start in place)


def _little_endian(dtype: np.dtype) -> np.dtype:
    return dtype.newbyteorder("<")


def _chunk_path(name: str, number: tuple[int, ...]) -> str:
    return "/".join((name, "c", *map(str, number)))


def _checksum(content: bytes) -> bytes:
    return google_crc32c.value(content).to_bytes(_CHECKSUM_BYTES, "little")


@cache
def _zstd() -> Zstd:
    return Zstd(level=_LEVEL, checksum=False)


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2).encode()


def _written_by_zarr(name: str, array: np.ndarray) -> dict[str, bytes]:
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec
    from zarr.core.buffer import Buffer
    from zarr.storage import MemoryStore

    files: dict[str, Buffer] = {}
    zarr.create_group(MemoryStore(files)).create_array(
        name, data=array, chunks=_chunk_shape(array.shape) or "auto",
        compressors=(ZstdCodec(level=_LEVEL), Crc32cCodec()), config={"write_empty_chunks": True},
        attributes={"encoding-type": "array", "encoding-version": "0.2.0"},
    )  # fmt: skip
    return {path: buffer.to_bytes() for path, buffer in files.items() if path != NODE}


def _read_by_zarr(files: Files, name: str) -> np.ndarray:
    import zarr
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore

    buffer = default_buffer_prototype().buffer
    of_array = {path: buffer.from_bytes(content) for path, content in files.items() if path.startswith(f"{name}/")}
    array = zarr.open_array(MemoryStore(of_array), path=name, mode="r")
    return np.asarray(array[...])
