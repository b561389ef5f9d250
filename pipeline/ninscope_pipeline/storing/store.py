"""Artefacts in Zarr: store.zarr/<stage>/<content key>, written once, complete, and never changed.

An artefact is there when its record is, checksums/<stage>/<content key>.json, written last, and every file of it still is
what the record says: by size and times, by its sha256 where times differ (a copied folder), and always by its sha256 when it
is read. Everything else is not there, and writing the key replaces it. Files that the record does not name are never read.

A failure that follows from the checkpoint's bytes (NaN in the weights) is an artefact too: a group whose attributes hold
`status` and `message` and that has no arrays. So a second run does not try again what cannot change.
Sparse matrices are in AnnData's on-disk encoding (csr_matrix 0.1.0), so anndata.io.read_elem and scipy read them as they are, and
values of single neurons are a whole AnnData (storing/annotated.py).
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ninscope.errors import CheckpointError, NinscopeError
from ninscope_pipeline.storing.annotated import AnnotatedMatrix, annotated_of_files, files_of_annotated
from ninscope_pipeline.storing.runfolder import RunFolder, StoreError
from ninscope_pipeline.storing.zarr_files import (
    NODE,
    array_of_files,
    files_of_array,
    files_of_matrix,
    group_file,
    matrix_of_files,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

FORMAT_VERSION = 1
_EMPTY_GROUP = b'{"attributes": {}, "node_type": "group", "zarr_format": 3}'
# What a file system says of a file that is not there, or that it cannot give back any more.
_LOST = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO, errno.EBADMSG, errno.ESTALE)

# Of each file of an artefact, by its path in it: size, mtime_ns, ctime_ns, sha256.
Record = dict[str, list[Any]]
# Reads the files of an artefact whose paths begin in one of several ways.
Reader = Callable[[Collection[str]], dict[str, bytes]]


@dataclass(frozen=True)
class Artefact:
    """What is stored under one key: arrays, perhaps one sparse matrix or one with annotations, and attributes (JSON values)."""

    arrays: Mapping[str, np.ndarray]
    attributes: Mapping[str, Any]
    matrix: "csr_matrix | None" = None
    annotated: AnnotatedMatrix | None = None


class DamagedArtefact(NinscopeError):
    """An artefact is not what was stored, or it is gone. What was left of it has been removed: it can be made again."""


class ArtefactStore:
    """The artefacts of one run folder.

    thorough: take nothing for there whose sha256 was not computed again, and remove what is damaged.
    moved: (stage, key) of what was found whole, but with other times than its record says.
    """

    def __init__(self, folder: RunFolder, thorough: bool = False):
        self.folder, self.thorough = folder, thorough
        self.moved: list[tuple[str, str]] = []

    def has(self, stage: str, key: str) -> bool:
        record = self._record(stage, key)
        if record is None:
            return False
        directory = self._directory(stage, key)
        if not self.thorough and all(_stamp(f"{directory}/{name}") == tuple(kept[:3]) for name, kept in record.items()):
            return True
        whole = all(_is_whole(f"{directory}/{name}", kept) for name, kept in record.items())
        if whole:
            self.moved.append((stage, key))
        elif self.thorough:
            self.discard(stage, key)
        return whole

    def has_result(self, stage: str, key: str) -> bool:
        """Whether an artefact is there. Raises CheckpointError when it is a stored failure."""
        if not self.has(stage, key):
            return False
        if (failure := self.failure(stage, key)) is not None:
            raise failure
        return True

    def keys(self, stage: str) -> list[str]:
        """Keys of all that stands in a stage's place, whole or not."""
        directory = self.folder.store / stage
        return sorted(path.name for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []

    def stages(self) -> list[str]:
        return sorted(path.name for path in self.folder.store.iterdir() if path.is_dir())

    def mend_groups(self, stages: Collection[str]) -> None:
        """The groups above artefacts, by which others find these. Raises StoreError."""
        for path in (self.folder.store / NODE, *(self.folder.store / stage / NODE for stage in stages)):
            if _digest(str(path)) != hashlib.sha256(_EMPTY_GROUP).hexdigest():
                self.folder.write_bytes(path, _EMPTY_GROUP, durable=False)  # the same by whoever comes first

    def write(self, stage: str, key: str, artefact: Artefact) -> None:
        """Store an artefact; it appears whole. Where another worker was first with the same key, theirs stays.

        Raises StoreError.
        """
        if self.has(stage, key):
            return
        files = _as_files(stage, artefact)
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        directory = self._directory(stage, key)
        with self.folder.writing():
            self.mend_groups([stage])
            partial = self.folder.partial()
            try:
                for name, content in files.items():
                    (partial / name).parent.mkdir(parents=True, exist_ok=True)
                    (partial / name).write_bytes(content)
                self._put(partial, directory, digests)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            try:
                self._write_record(stage, key, digests)
            except (OSError, StoreError):  # without its record it does not count, and would only take room
                with suppress(OSError, StoreError):
                    self._set_aside(directory)
                raise

    def write_failure(self, stage: str, key: str, error: CheckpointError) -> None:
        self.write(stage, key, Artefact({}, {"status": error.status, "message": str(error)}))

    def remove(self, stage: str, pattern: str) -> None:
        """Delete artefacts that are of no more use, by a pattern of keys. Each vanishes at once, then its files.

        Raises StoreError.
        """
        with self.folder.writing():
            for record in (self.folder.checksums / stage).glob(f"{pattern}.json"):
                record.unlink(missing_ok=True)
            for directory in (self.folder.store / stage).glob(pattern):
                self._set_aside(directory)

    def discard(self, stage: str, key: str) -> None:
        """Remove what is left of a damaged artefact, unless somebody has replaced it meanwhile. Raises StoreError."""
        record, directory = self._record(stage, key), self._directory(stage, key)
        if record is None or not all(_is_whole(f"{directory}/{name}", kept) for name, kept in record.items()):
            self.remove(stage, key)

    def restamp(self, stage: str, key: str) -> None:
        """Have the record of a whole artefact say the times its files have now. Raises StoreError."""
        if (record := self._record(stage, key)) is not None:
            self._write_record(stage, key, {name: digest for name, (*_, digest) in record.items()})

    def failure(self, stage: str, key: str) -> CheckpointError | None:
        """The failure stored under a key, if it is one. Raises DamagedArtefact, StoreError."""
        attributes = self._attributes(self._reader(stage, key))
        return CheckpointError(attributes["status"], attributes["message"]) if "status" in attributes else None

    def read(
        self,
        stage: str,
        key: str,
        with_matrix: bool = False,
        only: Collection[str] | None = None,
        with_annotated: bool = False,
    ) -> Artefact:
        """Read an artefact, or `only` those of its arrays.

        Raises CheckpointError when it is a failure, DamagedArtefact when it is not there whole, StoreError.
        """
        reader = self._reader(stage, key)
        attributes = self._attributes(reader)
        if "status" in attributes:
            raise CheckpointError(attributes["status"], attributes["message"])
        names = [name for name in attributes["arrays"] if only is None or name in only]
        members = [*names, *["matrix"] * with_matrix, *["annotated"] * with_annotated]
        files = reader([NODE, *(f"{name}/" for name in members)])
        if any(f"{name}/{NODE}" not in files for name in members):  # of which the record knows nothing
            self.remove(stage, key)
            raise _damaged(stage, key)
        matrix = matrix_of_files(files, "matrix") if with_matrix else None
        annotated = annotated_of_files(files, "annotated") if with_annotated else None
        return Artefact({name: array_of_files(files, name) for name in names}, attributes, matrix, annotated)

    def _directory(self, stage: str, key: str) -> Path:
        return self.folder.store / stage / key

    def _attributes(self, reader: Reader) -> dict[str, Any]:
        return json.loads(reader([NODE])[NODE])["attributes"]

    def _reader(self, stage: str, key: str) -> Reader:
        """A function that reads files of an artefact, each against its checksum."""
        record, directory = self._record(stage, key), self._directory(stage, key)

        def read(beginnings: Collection[str]) -> dict[str, bytes]:
            contents = {
                name: self._checked(f"{directory}/{name}", digest)
                for name, (*_, digest) in (record or {}).items()
                if name.startswith(tuple(beginnings))
            }
            whole = {name: content for name, content in contents.items() if content is not None}
            if len(whole) < len(contents) or NODE not in whole:
                with suppress(StoreError):  # where it cannot be removed, it cannot be written again: that will say so
                    self.discard(stage, key)
                raise _damaged(stage, key)
            return whole

        return read

    def _checked(self, path: str, digest: str) -> bytes | None:
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError as error:
            if error.errno in _LOST:
                return None
            raise StoreError(f"{path}: cannot be read ({error.strerror}); mend that and run again") from None
        return content if hashlib.sha256(content).hexdigest() == digest else None

    def _record(self, stage: str, key: str) -> Record | None:
        record = self.folder.read_json(self.folder.checksums / stage / f"{key}.json", None)
        return record if _is_record(record) else None

    def _write_record(self, stage: str, key: str, digests: Mapping[str, str]) -> None:
        directory = self._directory(stage, key)
        record = {name: [*_stamp(f"{directory}/{name}"), digest] for name, digest in digests.items()}
        path = self.folder.checksums / stage / f"{key}.json"
        self.folder.write_bytes(path, json.dumps(record).encode(), durable=False)

    def _put(self, partial: Path, directory: Path, digests: Mapping[str, str]) -> None:
        """Move an artefact into its place, and what stands there out of it, unless it is the same."""
        for _ in range(10):  # others may be doing this too
            try:
                partial.rename(directory)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            # Another run's, whose record is not written yet, or what is left of one that was killed just then.
            if all(_digest(f"{directory}/{name}") == digest for name, digest in digests.items()):
                return
            self._set_aside(directory)
        partial.rename(directory)

    def _set_aside(self, directory: Path) -> None:
        aside = self.folder.partial()
        try:
            directory.rename(aside)
        except FileNotFoundError:  # somebody else did
            return
        shutil.rmtree(aside, ignore_errors=True) if aside.is_dir() else aside.unlink()


def _damaged(stage: str, key: str) -> DamagedArtefact:
    return DamagedArtefact(f"{stage} {key}: the stored artefact is damaged; run the same command again")


def _is_record(value: object) -> bool:
    """Whether this is a record, and names nothing outside its artefact."""
    return (
        isinstance(value, dict)
        and NODE in value
        and all(_is_inside(name) and isinstance(kept, list) and len(kept) == 4 for name, kept in value.items())
    )


def _is_inside(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/") and "\0" not in name


def _stamp(path: str) -> tuple[int, ...]:
    """Size and times of a file; nothing where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116  a Path costs as much again, and there are thousands
    except OSError:
        return ()
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _digest(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _is_whole(path: str, kept: list[Any]) -> bool:
    return _stamp(path)[:1] == tuple(kept[:1]) and _digest(path) == kept[3]


def _as_files(stage: str, artefact: Artefact) -> dict[str, bytes]:
    """An artefact as the files of a Zarr group, by path; made in memory, so that checksums are of what was meant."""
    about = {"ninscope-format": FORMAT_VERSION, "stage": stage, "arrays": list(artefact.arrays)}
    files = {NODE: group_file({**about, **artefact.attributes})}
    if artefact.matrix is not None:
        files |= files_of_matrix("matrix", artefact.matrix)
    if artefact.annotated is not None:
        files |= files_of_annotated("annotated", artefact.annotated)
    for name, array in artefact.arrays.items():
        files |= files_of_array(name, array)
    return files
