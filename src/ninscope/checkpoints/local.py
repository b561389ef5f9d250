"""Checkpoints in local folders: one checkpoint, or one folder a revision, as a Hub repository is laid out on disk."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ninscope.checkpoints.checkpoint_files import checkpoint_of_files, read_config, settings_sha256, weight_files
from ninscope.checkpoints.formats.index import ADAPTER_CONFIG, ADAPTER_NAMES, CONFIG_NAME, WEIGHT_NAMES
from ninscope.checkpoints.identity import FileIdentity, Identity, shape_of
from ninscope.checkpoints.pipelines import model_folder
from ninscope.checkpoints.steps import in_step_order, step_of
from ninscope.checkpoints.tensors import Checkpoint
from ninscope.errors import CheckpointError, RequestError

LOOKS, LOOK_BYTES = 33, 4096  # what is read of a file to tell it from another
_CONFIGURATIONS = (CONFIG_NAME, ADAPTER_CONFIG)
_CHECKPOINT_FILES = (*_CONFIGURATIONS, *(name for names in WEIGHT_NAMES for name in names), *ADAPTER_NAMES)


class LocalFile:
    """A local file, read piece by piece.

    Not mapped: a file cut short while it is mapped ends the process, and from the page cache a read into memory that is used
    at once is faster than the page faults of a mapping.
    """

    reads_are_free = True

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name
        try:
            self.size = path.stat().st_size
        except OSError as error:
            raise CheckpointError("missing", f"{name}: cannot be read ({error.strerror})") from None

    def read_ranges(self, ranges: list[tuple[int, int]]) -> list[memoryview]:
        try:
            with open(self.path, "rb", buffering=0) as file:
                return [self._read(file, start, stop) for start, stop in ranges]
        except OSError as error:
            raise CheckpointError("missing", f"{self.name}: cannot be read ({error.strerror or error})") from None

    def start_ranges(self, ranges: list[tuple[int, int]]) -> Callable[[], list[memoryview]]:
        """Beside files that are fetched: nothing is gained by beginning."""
        ranges = list(ranges)
        return lambda: self.read_ranges(ranges)

    def _read(self, file, start: int, stop: int) -> memoryview:
        content = memoryview(np.empty(stop - start, np.uint8))  # not zeroed first, unlike a bytearray
        file.seek(start)
        filled = 0
        while filled < len(content):  # one read gives at most 2 GiB
            count = file.readinto(content[filled:])
            if not count:
                raise CheckpointError("corrupt", f"{self.name}: truncated while it was read; fetch the file again")
            filled += count
        return content


@dataclass(frozen=True)
class LocalSource:
    """A folder with one checkpoint, a folder of revision folders, or both (a trainer's output).

    label: as the user named it. own: the folder itself holds a checkpoint; its revision is the folder's name. pipeline: it is
    that of a diffusers pipeline, whose other folders are no revisions unless they state a step.

    A revision that is a pipeline is the model in its unet/ or transformer/.
    """

    kind = "local"

    label: str
    folder: Path
    own: bool
    pipeline: bool = False

    def revisions(self) -> list[str]:
        """Names of the revisions in step order. Raises RequestError when there is none, or one cannot be named."""
        folders = _listed(self.label, self.folder)
        names = [
            path.name for path in folders if _is_revision(path) and not (self.pipeline and step_of(path.name) is None)
        ]
        for name in names:
            if not name.isprintable():
                raise RequestError(f"{self.label}: the folder name {name!r} is no plain text; rename it")
        if self.own and self.folder.name not in names:
            names.append(self.folder.name)
        if not names:
            raise RequestError(
                f"{self.label}: no checkpoint and no revision folders (step0, step1, ...) in it; "
                "name a folder that holds config.json and model.safetensors, or folders that do"
            )
        return in_step_order(names)

    def names(self) -> list[str]:
        """Those of `revisions`: what is no checkpoint is only a folder. Raises RequestError."""
        return self.revisions()

    def step_of(self, revision: str) -> int | None:
        return step_of(revision)

    def identify(
        self, revision: str, known: Mapping[str, FileIdentity] | None = None, thorough: bool = True
    ) -> Identity:
        """Hash the revision's weight files; `known` (path -> FileIdentity) spares files whose stamp is unchanged.

        thorough: False hashes parts of each file, which tell files apart but do not prove them equal.

        Raises CheckpointError: missing or corrupt.
        """
        folder = self._folder_of(revision)
        read = self._reader(revision)
        present = self._names(folder)
        shape = shape_of(read_config(revision, present, read))
        names = weight_files(present, read, revision)
        files = tuple(_identify_file(folder / name, name, revision, known or {}, thorough) for name in names)
        return Identity(revision, step_of(revision), files, shape=shape, settings_sha256=settings_sha256(present, read))

    def open(self, revision: str, identity: Identity | None = None) -> Checkpoint:
        """The checkpoint, headers read and checked, no weight read yet. Raises CheckpointError."""
        folder = self._folder_of(revision)
        names = self._names(folder)
        read = self._reader(revision)
        return checkpoint_of_files(revision, names, read, lambda name: LocalFile(folder / name, f"{revision}/{name}"))

    def check_unchanged(self, identity: Identity) -> None:
        """Raises CheckpointError (corrupt) when a file is not the one that was identified: call it after reading."""
        folder = self._folder_of(identity.revision)
        for file in identity.files:
            if _stamp(folder / file.name) != file.stamp:
                raise CheckpointError(
                    "corrupt", f"{identity.revision}/{file.name}: changed while it was being read; run again"
                )

    def fingerprint(self, revision: str) -> str | None:
        """Something else whenever a file of the revision is: names, sizes and times. None where it cannot be told."""
        try:
            folder = self._folder_of(revision)
            stamps = sorted((name, *_stamp(folder / name)) for name in self._names(folder))
        except CheckpointError:
            return None
        return hashlib.sha256(repr((str(folder), stamps)).encode()).hexdigest()

    def stamp_path(self, revision: str, file: FileIdentity) -> str:
        """The key of `known` in `identify`."""
        return str(self._folder_of(revision) / file.name)

    def _folder_of(self, revision: str) -> Path:
        inside = not any(mark in revision for mark in ("/", "\\", "\0")) and revision not in ("", ".", "..")
        folder = self.folder / revision
        if inside and folder.is_dir():
            return folder / _model_folder(folder)
        if self.own and revision == self.folder.name:
            return self.folder / _model_folder(self.folder)
        raise CheckpointError("missing", f"{self.label}: no revision {revision} in it")

    def _names(self, folder: Path) -> set[str]:
        try:
            return {path.name for path in folder.iterdir() if path.is_file()}
        except OSError as error:
            raise CheckpointError("missing", f"{folder.name}: cannot be read ({error.strerror})") from None

    def _reader(self, revision: str):
        folder = self._folder_of(revision)

        def read(name: str, limit: int) -> bytes:
            try:
                size = (folder / name).stat().st_size
                if size > limit:
                    raise CheckpointError("corrupt", f"{revision}/{name}: {size} bytes are too many for such a file")
                return (folder / name).read_bytes()
            except OSError as error:
                raise CheckpointError("missing", f"{revision}/{name}: cannot be read ({error.strerror})") from None

        return read


def local_source(label: str, folder: Path) -> LocalSource:
    """The source for an existing folder. A configuration alone counts as a checkpoint where there is nothing else."""
    folders = _listed(label, folder)
    present = {name for name in _CHECKPOINT_FILES if _has(folder, name)}
    holds_weights = bool(present.difference(_CONFIGURATIONS))
    pipeline = not present and bool(_model_folder(folder))
    own = pipeline or holds_weights or (bool(present) and not any(_is_revision(path) for path in folders))
    return LocalSource(label, folder.resolve(), own, pipeline)


def _is_revision(path: Path) -> bool:
    return (
        step_of(path.name) is not None
        or any(_has(path, name) for name in _CHECKPOINT_FILES)
        or bool(_model_folder(path))
    )


def _model_folder(path: Path) -> str:
    """The subfolder that a pipeline's folder stands for; "" where the folder is a checkpoint itself, or none."""
    return model_folder(lambda name: _has(path, name), step_of(path.name) is not None)


def _listed(label: str, folder: Path) -> Iterator[Path]:
    """The folders in a folder, each looked at when it is asked for. Raises RequestError, at once, when it may not be read."""
    try:
        names = os.listdir(folder)  # noqa: PTH208  iterdir may only find out later
    except OSError as error:
        raise RequestError(f"{label}: the folder cannot be read ({error.strerror})") from None
    return (folder / name for name in names if (folder / name).is_dir())


def _has(folder: Path, name: str) -> bool:
    try:
        return (folder / name).is_file()
    except OSError:  # a folder that may not be entered
        return False


def _stamp(path: Path) -> tuple[int, ...]:
    """What tells that a file was written since: nothing where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _identify_file(
    path: Path, name: str, revision: str, known: Mapping[str, FileIdentity], thorough: bool
) -> FileIdentity:
    stamp = _stamp(path)
    before = known.get(str(path))
    if stamp and before is not None and before.stamp == stamp:
        return replace(before, name=name)
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest() if thorough else _digest_of_parts(file, stamp[0])
    except OSError as error:
        raise CheckpointError("missing", f"{revision}/{name}: cannot be read ({error.strerror})") from None
    if _stamp(path) != stamp:
        raise CheckpointError("corrupt", f"{revision}/{name}: changed while it was being read; run again")
    return FileIdentity(name, stamp[0], digest, stamp if thorough else ())


def _digest_of_parts(file, size: int) -> str:
    """Of pieces spread over a file: two steps of a training differ nearly everywhere, and equal files always agree."""
    digest = hashlib.sha256()
    for number in range(LOOKS):
        file.seek(number * max(size - LOOK_BYTES, 0) // (LOOKS - 1))
        digest.update(file.read(LOOK_BYTES))
    return f"parts-{digest.hexdigest()}"
