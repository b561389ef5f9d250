"""Checkpoints in local folders and files: one checkpoint, or a folder or a file a revision.

Paths inside are plain strings: a suite has thousands of revisions, and a `pathlib.Path` costs more than what it is asked.
"""

import hashlib
import io
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np

from ninscope.checkpoints.checkpoint_files import (
    checkpoint_of_files,
    read_config,
    weight_files,
    with_settings,
)
from ninscope.checkpoints.file_names import (
    ADAPTER_NAMES,
    CHECKPOINT_NAMES,
    CONFIG_NAME,
    CONFIG_NAMES,
    WEIGHT_SUFFIXES,
    is_weight_file,
    model_folder,
)
from ninscope.checkpoints.identity import FileIdentity, Identity, shape_of
from ninscope.checkpoints.other_layouts import other_layout
from ninscope.checkpoints.revisions import in_step_order, near_revision, step_of
from ninscope.checkpoints.tensors import Checkpoint
from ninscope.errors import CheckpointError, RequestError
from ninscope.wording import first_names, outer_names

_LOOKED_INTO = 200  # folders in which a source is looked for where the one that was named is none
_WHAT_TO_NAME = "a folder that holds config.json and model.safetensors, or folders that do"
LOOKS, LOOK_BYTES = 33, 4096  # what is read of a file to tell it from another


class LocalFile:
    """A local file, read piece by piece.

    Not mapped: a file cut short while it is mapped ends the process, and from the page cache a read into memory that is used
    at once is faster than the page faults of a mapping.
    """

    reads_are_free = True

    def __init__(self, path: str | Path, name: str):
        self.path, self.name = path, name
        try:
            self.size = os.stat(path).st_size  # noqa: PTH116  a Path may be given, and need not be
        except OSError as error:
            raise CheckpointError("missing", f"{name}: cannot be read ({error.strerror})") from None

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """The bytes of every range. Raises CheckpointError (missing, corrupt)."""
        try:
            with open(self.path, "rb", buffering=0) as file:
                return [self._read(file, start, stop) for start, stop in ranges]
        except OSError as error:
            raise CheckpointError("missing", f"{self.name}: cannot be read ({error.strerror or error})") from None

    def start_ranges(self, ranges: Sequence[tuple[int, int]]) -> Callable[[], list[memoryview]]:
        """Beside files that are fetched: nothing is gained by beginning."""
        ranges = list(ranges)
        return lambda: self.read_ranges(ranges)

    def spans(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """The ranges themselves."""
        return list(ranges)

    def _read(self, file: io.FileIO, start: int, stop: int) -> memoryview:
        content = np.empty(stop - start, np.uint8).data  # not zeroed first, unlike a bytearray
        file.seek(start)
        filled = 0
        while filled < len(content):  # one read gives at most 2 GiB
            count = file.readinto(content[filled:])
            if not count:
                raise CheckpointError("corrupt", f"{self.name}: truncated while it was read; fetch the file again")
            filled += count
        return content


@dataclass(frozen=True)
class _Folder:
    """The folder of a revision as it was found: the names of the plain files in it."""

    revision: str
    path: str
    names: frozenset[str]

    def read(self, name: str, limit: int) -> bytes:
        """A small file. Raises CheckpointError: missing, corrupt (it has more than `limit` bytes)."""
        try:
            with open(f"{self.path}/{name}", "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size > limit:
                    raise CheckpointError(
                        "corrupt", f"{self.revision}/{name}: {size} bytes are too many for such a file"
                    )
                return file.readall()
        except OSError as error:
            raise CheckpointError("missing", f"{self.revision}/{name}: cannot be read ({error.strerror})") from None

    def open_file(self, name: str) -> LocalFile:
        """Raises CheckpointError (missing)."""
        return LocalFile(f"{self.path}/{name}", name if name == self.revision else f"{self.revision}/{name}")


class _NotedFiles:
    """The small files of a folder that are read to identify it, which decide numbers as its weights do."""

    def __init__(self, folder: _Folder) -> None:
        self._folder = folder
        self._files: dict[str, FileIdentity] = {}

    def read(self, name: str, limit: int) -> bytes:
        """As `_Folder.read`. The stamp is taken before, so that what is written meanwhile has another."""
        stamp = _stamp(f"{self._folder.path}/{name}")
        content = self._folder.read(name, limit)
        self._files[name] = FileIdentity(name, len(content), hashlib.sha256(content).hexdigest(), stamp)
        return content

    @property
    def identities(self) -> tuple[FileIdentity, ...]:
        return tuple(self._files.values())


@dataclass(frozen=True)
class LocalSource:
    """A folder with one checkpoint, a folder of revision folders, or both (a trainer's output).

    label: as the user named it. own: the folder itself holds a checkpoint; its revision is the folder's name. pipeline: it is
    that of a diffusers pipeline, whose other folders are no revisions unless they state a step. file: the source is this one
    file of the folder. A folder that is no checkpoint itself may hold files of weights, each of which is a revision.

    A revision that is a pipeline is the model in its unet/ or transformer/.
    """

    kind = "local"

    label: str
    folder: Path
    own: bool
    pipeline: bool = False
    file: str = ""

    def revisions(self) -> list[str]:
        """Names of the revisions in step order. Raises RequestError when there is none, or one cannot be named."""
        if self.file:
            return [self.file]
        folders, files = _entries_in(self.label, self.folder)
        names = [
            name
            for name in folders
            if _is_revision(self.folder, name) and not (self.pipeline and step_of(name) is None)
        ]
        names += [] if self.own else filter(is_weight_file, files)
        for name in names:
            if not name.isprintable():
                kind = "folder" if name in folders else "file"
                raise RequestError(f"{self.label}: the {kind} name {name!r} is no plain text; rename it")
        if self.own and self.folder.name not in names:
            names.append(self.folder.name)
        if not names and (clause := other_layout([*folders, *files])):
            raise RequestError(f"{self.label}: {clause}")
        if not names:
            holding = [name for name in sorted(folders)[:_LOOKED_INTO] if _may_be_source(self.folder, name)]
            named = f"one of its folders that may be sources: {first_names(holding, 5)}" if holding else _WHAT_TO_NAME
            raise RequestError(
                f"{self.label}: no checkpoint and no revision folders (step0, step1, ...) in it; name {named}"
            )
        return in_step_order(names)

    def names(self) -> list[str]:
        """Those of `revisions`: a folder that holds no checkpoint is no revision. Raises RequestError."""
        return self.revisions()

    def step_of(self, revision: str) -> int | None:
        return step_of(revision)

    def models_of(self, revision: str) -> tuple[str, ...]:
        """The folder of the revisions; of a folder that is a checkpoint itself, also the one in which it lies among others."""
        is_own = self.own and revision == self.folder.name
        return (str(self.folder), str(self.folder.parent)) if is_own else (str(self.folder),)

    def identify(
        self, revision: str, known: Mapping[str, FileIdentity] | None = None, thorough: bool = True
    ) -> Identity:
        """Hash the revision's weight files; `known` (path -> FileIdentity) spares files whose stamp is unchanged.

        thorough: False hashes parts of each file, which tell files apart but do not prove them equal.

        Raises CheckpointError: missing or corrupt.
        """
        folder = self._folder_of(revision)
        noted = _NotedFiles(folder)
        shape = shape_of(read_config(revision, folder.names, noted.read, self._expects_config))
        names = weight_files(folder.names, noted.read, revision)
        files = tuple(_identify_file(folder, name, known or {}, thorough) for name in names)
        identity = with_settings(Identity(revision, step_of(revision), files, shape=shape), folder.names, noted.read)
        return replace(identity, beside=noted.identities)

    def config(self, revision: str) -> dict:
        """What its configuration says. Raises CheckpointError: missing or corrupt."""
        folder = self._folder_of(revision)
        return read_config(revision, folder.names, folder.read, self._expects_config)

    def open(self, revision: str, identity: Identity | None = None) -> Checkpoint:
        """The checkpoint, headers read and checked, no weight read yet. Raises CheckpointError."""
        folder = self._folder_of(revision)
        return checkpoint_of_files(revision, folder.names, folder.read, folder.open_file, self._expects_config)

    def check_unchanged(self, identity: Identity) -> None:
        """Raises CheckpointError (corrupt) when a file is not the one that was identified: call it after reading."""
        path = self._path_of(identity.revision)
        for file in (*identity.files, *identity.beside):
            if _stamp(f"{path}/{file.name}") != file.stamp:
                raise CheckpointError(
                    "corrupt", f"{identity.revision}/{file.name}: changed while it was being read; run again"
                )

    def fingerprint(self, revision: str) -> str | None:
        """Something else whenever a file of the revision is: names, sizes and times. None where it cannot be told."""
        try:
            folder = self._folder_of(revision)
        except CheckpointError:
            return None
        stamps = [(name, *_stamp(f"{folder.path}/{name}")) for name in sorted(folder.names)]
        return hashlib.sha256(repr((folder.path, stamps)).encode()).hexdigest()

    def stamp_path(self, revision: str, file: FileIdentity) -> str:
        """The key of `known` in `identify`."""
        return f"{self._path_of(revision)}/{file.name}"

    def _path_of(self, revision: str) -> str:
        """The folder that holds the revision's checkpoint. Raises CheckpointError (missing)."""
        path = f"{self.folder}/{revision}"
        inside = not any(mark in revision for mark in ("/", "\\", "\0")) and revision not in ("", ".", "..")
        if inside and self._is_file(revision):
            return str(self.folder)
        if not inside or not _is_folder(path):
            if not self.own or revision != self.folder.name:
                near = near_revision(revision, self.revisions()) or f"; it has {outer_names(self.revisions())}"
                raise CheckpointError("missing", f"{self.label}: no revision {revision} in it{near}")
            path = str(self.folder)
        model = _model_folder(path)
        return f"{path}/{model}" if model else path

    def _folder_of(self, revision: str) -> _Folder:
        """Raises CheckpointError (missing)."""
        path = self._path_of(revision)
        try:
            with os.scandir(path) as entries:
                names = frozenset(entry.name for entry in entries if _names_file(entry))
        except OSError as error:
            name = path.rpartition("/")[2]
            raise CheckpointError("missing", f"{name}: cannot be read ({error.strerror})") from None
        if self._is_file(revision):
            names &= {revision, *CONFIG_NAMES}
        return _Folder(revision, path, names)

    def _is_file(self, revision: str) -> bool:
        """Whether a revision is a file in the folder by itself."""
        if self.file or self.own or not is_weight_file(revision):
            return revision == self.file
        return _is_file(f"{self.folder}/{revision}")

    def _expects_config(self) -> bool:
        return self._configured

    @cached_property
    def _configured(self) -> bool:
        """Whether revisions have a config.json, so that one without it lacks it."""
        if self.file:
            return False
        folders, _ = _entries_in(self.label, self.folder)
        return any(
            _is_file(f"{self.folder}/{name}/{CONFIG_NAME}") for name in folders if _is_revision(self.folder, name)
        )


def local_file(label: str, path: Path) -> LocalSource:
    """The source for an existing file, with config.json beside it where there is one. Raises RequestError: not of weights."""
    path = path.absolute()
    if is_weight_file(path.name) or path.name in ADAPTER_NAMES:
        return LocalSource(label, path.parent.resolve(), own=False, file=path.name)
    if clause := other_layout([path.name]):
        raise RequestError(f"{label}: {clause}")
    known = ", ".join(WEIGHT_SUFFIXES)
    if path.name.endswith(WEIGHT_SUFFIXES):
        raise RequestError(
            f"{label} is no file of weights, by its name; name the folder that holds config.json and the weights"
        )
    raise RequestError(
        f"{label} is a file; name the folder that holds config.json and the weights, or a file of weights ({known})"
    )


def local_source(label: str, folder: Path) -> LocalSource:
    """The source for an existing folder. A configuration alone counts as a checkpoint where there is nothing else.

    Raises RequestError when the folder may not be read. It is listed only where that decides: a run opens it for each checkpoint.
    """
    present = {name for name in CHECKPOINT_NAMES if _is_file(f"{folder}/{name}")}
    if present:
        own = bool(present.difference(CONFIG_NAMES)) or not _holds_several(label, folder)
        return LocalSource(label, folder.resolve(), own)
    pipeline = bool(_model_folder(str(folder)))
    return LocalSource(label, folder.resolve(), pipeline, pipeline)


def _holds_several(label: str, folder: Path) -> bool:
    """Whether revisions lie in a folder, each in a folder or a file of its own. Raises RequestError."""
    folders, files = _entries_in(label, folder)
    return sum(map(is_weight_file, files)) > 1 or any(_is_revision(folder, name) for name in folders)


def _is_revision(parent: Path, name: str) -> bool:
    folder = f"{parent}/{name}"
    return (
        step_of(name) is not None
        or any(_is_file(f"{folder}/{expected}") for expected in CHECKPOINT_NAMES)
        or bool(_model_folder(folder))
    )


def _may_be_source(parent: Path, name: str) -> bool:
    """Whether a folder that is no checkpoint itself holds some."""
    try:
        folders, files = _entries_in(name, parent / name)
    except RequestError:
        return False
    return any(map(is_weight_file, files)) or any(
        _is_revision(parent / name, inner) for inner in folders[:_LOOKED_INTO]
    )


def _model_folder(folder: str) -> str:
    """The subfolder that a pipeline's folder stands for; "" where the folder is a checkpoint itself, or none."""
    stepped = step_of(folder.rpartition("/")[2]) is not None
    return model_folder(lambda name: _is_file(f"{folder}/{name}"), stepped)


def _entries_in(label: str, folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders, and of the files, in a folder. Raises RequestError when it may not be read."""
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _names_folder(entry):
                    folders.append(entry.name)
                elif _names_file(entry):
                    files.append(entry.name)
        return folders, files
    except OSError as error:
        raise RequestError(f"{label}: the folder cannot be read ({error.strerror})") from None


def _status(path: str) -> os.stat_result | None:
    """None where there is nothing, or what there is may not be looked at."""
    try:
        return os.stat(path)  # noqa: PTH116  see the head of this file
    except (OSError, ValueError):  # ValueError: a zero byte
        return None


def _is_file(path: str) -> bool:
    status = _status(path)
    return status is not None and stat.S_ISREG(status.st_mode)


def _is_folder(path: str) -> bool:
    status = _status(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def _names_file(entry: os.DirEntry[str]) -> bool:
    """As `_is_file`; only a link is followed, to what it leads to."""
    return _is_file(entry.path) if entry.is_symlink() else entry.is_file()


def _names_folder(entry: os.DirEntry[str]) -> bool:
    return _is_folder(entry.path) if entry.is_symlink() else entry.is_dir()


def _stamp(path: str) -> tuple[int, ...]:
    """What tells that a file was written since: nothing where there is no file."""
    status = _status(path)
    return () if status is None else (status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _identify_file(folder: _Folder, name: str, known: Mapping[str, FileIdentity], thorough: bool) -> FileIdentity:
    """Raises CheckpointError: missing, corrupt (it changes while it is read)."""
    path = f"{folder.path}/{name}"
    stamp = _stamp(path)
    before = known.get(path)
    if stamp and before is not None and before.stamp == stamp:
        return replace(before, name=name)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.file_digest(file, "sha256").hexdigest() if thorough else _digest_of_parts(file, size)
    except OSError as error:
        raise CheckpointError("missing", f"{folder.revision}/{name}: cannot be read ({error.strerror})") from None
    if _stamp(path) != stamp:
        raise CheckpointError("corrupt", f"{folder.revision}/{name}: changed while it was being read; run again")
    return FileIdentity(name, size, digest, stamp if thorough else ())


def _digest_of_parts(file: IO[bytes], size: int) -> str:
    """A digest of pieces spread over a file: two steps of a training differ nearly everywhere, and equal files always agree."""
    digest = hashlib.sha256()
    if size <= LOOKS * LOOK_BYTES:
        digest.update(file.read())
    else:
        for number in range(LOOKS):
            file.seek(number * (size - LOOK_BYTES) // (LOOKS - 1))
            digest.update(file.read(LOOK_BYTES))
    return f"parts-{digest.hexdigest()}"
