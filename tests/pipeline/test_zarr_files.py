"""Files of arrays and matrices, against zarr and anndata, which write and read the same."""

import anndata
import numpy as np
import pytest
import scipy.sparse
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from ninscope_pipeline.storing import zarr_files
from ninscope_pipeline.storing.zarr_files import (
    array_of_files,
    files_of_array,
    files_of_matrix,
    group_file,
    matrix_of_files,
)

NUMBERS = ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")
SHAPES = {"none": (0,), "one": (1,), "flat": (7,), "no rows": (0, 3), "no columns": (3, 0), "cube": (2, 3, 4)}


def files_of_zarr(array: np.ndarray, of_group: dict, **options) -> dict[str, bytes]:
    files = {}
    group = zarr.create_group(MemoryStore(files), attributes=of_group)
    usual = {
        "chunks": tuple(min(length, 1 << 20) or 1 for length in array.shape) or "auto",
        "compressors": (ZstdCodec(level=1), Crc32cCodec()),
        "attributes": {"encoding-type": "array", "encoding-version": "0.2.0"},
        "config": {"write_empty_chunks": True},
    }
    group.create_array("x", data=array, **usual | options)
    return {path: buffer.to_bytes() for path, buffer in files.items()}


def opened(files: dict[str, bytes]) -> zarr.Group:
    buffer = default_buffer_prototype().buffer
    store = MemoryStore({path: buffer.from_bytes(content) for path, content in files.items()})
    return zarr.open_group(store, mode="r")


def check(array: np.ndarray) -> None:
    attributes = {"message": "é μ", "none": None, "share": 0.1, "names": ["a", "b"], "nothing": float("nan")}
    files = {"zarr.json": group_file(attributes), **files_of_array("x", array)}
    assert files == files_of_zarr(array, attributes)
    read = array_of_files(files, "x")
    assert (read.dtype, read.shape) == (array.dtype.newbyteorder("="), array.shape)
    assert read.tobytes() == array.astype(read.dtype).tobytes()
    assert read.flags.writeable


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", NUMBERS)
def test_an_array_is_the_bytes_that_zarr_writes(dtype, shape, rng):
    array = (10 * rng.normal(size=shape)).astype(dtype)
    check(array)
    check(np.asfortranarray(array))


def test_long_arrays_are_in_chunks(rng):
    check(rng.integers(0, 9, (1 << 20) + 3).astype(np.int8))
    check(rng.integers(0, 9, (2, 1 << 20)).astype(np.int8))
    check(rng.integers(0, 9, (1 << 21, 1)).astype(np.int8))


@pytest.mark.parametrize(
    "array", [np.float64(0.5), np.arange(4, dtype=">i4"), np.array([1 + 2j]), np.array(["a", "μ"])]
)
@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_what_is_unusual_is_left_to_zarr(array):
    array = np.asarray(array)
    files = {"zarr.json": group_file({}), **files_of_array("x", array)}
    assert files == files_of_zarr(array, {})
    np.testing.assert_array_equal(array_of_files(files, "x"), array)


OTHERWISE = {
    "smaller chunks": {"chunks": (2, 3)},
    "another level": {"compressors": (ZstdCodec(level=3),)},
    "not compressed": {"compressors": None},
    "other bytes": {"serializer": BytesCodec(endian="big")},
    "empty chunks left out": {"config": {"write_empty_chunks": False}, "chunks": (2, 3)},
    "another separator": {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    "other attributes": {"attributes": {}},
}


@pytest.mark.parametrize("options", OTHERWISE.values(), ids=OTHERWISE)
def test_what_was_written_otherwise_is_read(options):
    array = np.repeat([0.0, 1.0, 2.0], 10).reshape(5, 6)
    np.testing.assert_array_equal(array_of_files(files_of_zarr(array, {}, **options), "x"), array)


def test_a_missing_chunk_is_full_of_zeros_as_in_zarr():
    files = files_of_array("x", np.ones(3))
    del files["x/c/0"]
    np.testing.assert_array_equal(array_of_files(files, "x"), np.zeros(3))


def test_a_chunk_that_is_damaged_is_told():
    files = files_of_array("x", np.arange(3.0))
    files["x/c/0"] = files["x/c/0"][:-5] + bytes([files["x/c/0"][-5] ^ 1]) + files["x/c/0"][-4:]
    with pytest.raises(ValueError, match=r"^x/c/0: not what its checksum says$"):
        array_of_files(files, "x")


def test_a_matrix_is_read_by_anndata_and_here(rng):
    matrix = scipy.sparse.random(30, 40, 0.1, "csr", np.float32, random_state=rng)
    files = {"zarr.json": group_file({}), **files_of_matrix("matrix", matrix)}
    for read in (anndata.io.read_elem(opened(files)["matrix"]), matrix_of_files(files, "matrix")):
        assert read.shape == matrix.shape
        for part in ("data", "indices", "indptr"):
            assert getattr(read, part).dtype == getattr(matrix, part).dtype
            assert getattr(read, part).tobytes() == getattr(matrix, part).tobytes()


def test_the_usual_needs_no_zarr(monkeypatch, rng):
    monkeypatch.setattr(zarr_files, "_written_by_zarr", None)
    monkeypatch.setattr(zarr_files, "_read_by_zarr", None)
    array = rng.normal(size=(2, 5, 61))
    assert array_of_files(files_of_array("x", array), "x").tobytes() == array.tobytes()
