"""Artefacts in Zarr: store.zarr/<stage>/<content key>, written once, complete, and never changed.

A failure that follows from the checkpoint's bytes (NaN in the weights) is an artefact too: a group whose attributes hold
`status` and `message` and that has no arrays. So a second run does not try again what cannot change.
Sparse matrices are in AnnData's on-disk encoding (csr_matrix 0.1.0), so anndata.io.read_elem and scipy read them as they are.
"""

import shutil
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import zarr
from ninscope.pipeline.runfolder import RunFolder
from scipy.sparse import csr_matrix

from ninscope.errors import CheckpointError

FORMAT_VERSION = 1
_EMPTY_GROUP = b'{"attributes": {}, "node_type": "group", "zarr_format": 3}'
_COMPRESSORS = (zarr.codecs.ZstdCodec(level=1), zarr.codecs.Crc32cCodec())


@dataclass(frozen=True)
class Artefact:
    """What is stored under one key: arrays, perhaps one sparse matrix, and attributes (JSON values)."""

    arrays: Mapping[str, np.ndarray]
    attributes: Mapping
    matrix: csr_matrix | None = None


class ArtefactStore:
    """The artefacts of one run folder."""

    def __init__(self, folder: RunFolder):
        self.folder = folder

    def has(self, stage: str, key: str) -> bool:
        return (self.folder.store / stage / key / "zarr.json").is_file()

    def keys(self, stage: str) -> list[str]:
        """Keys of all artefacts of a stage."""
        place = self.folder.store / stage
        return sorted(path.name for path in place.iterdir() if path.is_dir()) if place.is_dir() else []

    def write(self, stage: str, key: str, artefact: Artefact) -> None:
        """Store an artefact; it appears whole. Where another worker was first with the same key, theirs stays."""
        for path in (self.folder.store, self.folder.store / stage):
            if not (path / "zarr.json").is_file():  # written whole, and the same by whoever comes first
                self.folder.write_bytes(path / "zarr.json", _EMPTY_GROUP)
        partial = self.folder.partial()
        try:
            group = zarr.create_group(
                partial,
                attributes={
                    "ninscope-format": FORMAT_VERSION,
                    "stage": stage,
                    "arrays": list(artefact.arrays),
                    **artefact.attributes,
                },
            )
            if artefact.matrix is not None:
                _write_csr(group, "matrix", artefact.matrix)
            for name, array in artefact.arrays.items():
                _write_array(group, name, array)
            place = self.folder.store / stage / key
            try:
                partial.rename(place)
            except OSError:
                if not self.has(stage, key):  # the rest of a broken copy stands in the way
                    shutil.rmtree(place, ignore_errors=True)
                    partial.rename(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def write_failure(self, stage: str, key: str, error: CheckpointError) -> None:
        self.write(stage, key, Artefact({}, {"status": error.status, "message": str(error)}))

    def remove(self, stage: str, pattern: str) -> None:
        """Delete artefacts that are of no more use, by a pattern of keys. Each vanishes at once, then its files."""
        for place in (self.folder.store / stage).glob(pattern):
            aside = self.folder.partial()
            try:
                place.rename(aside)
            except FileNotFoundError:  # somebody else did
                continue
            shutil.rmtree(aside, ignore_errors=True)

    def failure(self, stage: str, key: str) -> CheckpointError | None:
        """The failure stored under a key, if it is one."""
        attributes = self._group(stage, key).attrs
        return CheckpointError(attributes["status"], attributes["message"]) if "status" in attributes else None

    def read(self, stage: str, key: str, with_matrix: bool = False, only: Collection[str] | None = None) -> Artefact:
        """Read an artefact, or `only` those of its arrays. Raises CheckpointError when it is a failure."""
        group = self._group(stage, key)
        attributes = group.attrs.asdict()
        if "status" in attributes:
            raise CheckpointError(attributes["status"], attributes["message"])
        matrix = read_csr(group["matrix"]) if with_matrix else None
        names = [name for name in attributes["arrays"] if only is None or name in only]
        return Artefact({name: _whole(group[name]) for name in names}, attributes, matrix)

    def _group(self, stage: str, key: str) -> zarr.Group:
        return zarr.open_group(self.folder.store / stage / key, mode="r")


def _write_array(group: zarr.Group, name: str, array: np.ndarray) -> None:
    chunks = tuple(min(length, 1 << 20) or 1 for length in array.shape)
    stored = group.create_array(
        name, shape=array.shape, dtype=array.dtype, chunks=chunks or "auto", compressors=_COMPRESSORS,
        config={"write_empty_chunks": True},
        attributes={"encoding-type": "array", "encoding-version": "0.2.0"},
    )  # fmt: skip
    if array.size:
        stored[...] = array


def _write_csr(group: zarr.Group, name: str, matrix: csr_matrix) -> None:
    part = group.create_group(
        name,
        attributes={"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": list(matrix.shape)},
    )
    for field in ("data", "indices", "indptr"):
        _write_array(part, field, getattr(matrix, field))


def _whole(array: zarr.Array) -> np.ndarray:
    """All of an array. Zarr reads a chunk that is absent as zeros; here every chunk was written, so its absence is damage."""
    if array.size and array.nchunks_initialized != array.nchunks:
        raise CheckpointError(
            "corrupt", f"the stored array {array.store_path} lacks a part; delete its folder and run again"
        )
    return array[...]


def read_csr(group: zarr.Group) -> csr_matrix:
    """A csr_matrix group as scipy's. The arrays are taken as they are: they were written from a valid matrix."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return csr_matrix(
            (_whole(group["data"]), _whole(group["indices"]), _whole(group["indptr"])),
            shape=tuple(group.attrs["shape"]),
        )
