"""Which files the key `evaluations` names: a file, a folder with all below it, or a pattern; and their bytes.

Links are not followed out of the folder that was named, and no more is read than the bounds here say: a folder of results may
be anybody's.
"""

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from ninscope.errors import RequestError
from ninscope_pipeline.request.evaluations.evaluation import MAX_BYTES

MAX_ENTRIES = 100_000  # files and folders that are looked at
MAX_TOTAL = 2 * 2**30  # bytes of all files together
_WILD = "*?["


@dataclass(frozen=True)
class ResultFile:
    """A file that `evaluations` names. below: the folder that was named, or the fixed part of a pattern; of a single file two
    folders up. named: by itself or by a pattern, and not just met in a folder.
    """

    path: Path
    below: Path
    named: bool

    @property
    def folders(self) -> tuple[str, ...]:
        """Names of the folders that may say whose it is: from the innermost to the parent of `below`."""
        return (*self.inner_folders, self.below.parent.name)

    @property
    def inner_folders(self) -> tuple[str, ...]:
        """Names of the folders that may state its step: from the innermost to `below`."""
        return (*reversed(self.path.parent.relative_to(self.below).parts), self.below.name)


@dataclass
class ResultFiles:
    """files: in the order of their paths. links: those that lead out of the folder, or to folders; they are left out."""

    files: list[ResultFile] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)


def result_files(value: str) -> ResultFiles:
    """The files that `evaluations` names, an absolute path. Raises RequestError (no such file, nothing fits, too many)."""
    path = Path(value)
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:  # too long a name
        raise RequestError(f"evaluations {value}: cannot read it ({error.strerror})") from None
    if is_folder:
        return _Search(value, path).files_of([path], named=False)
    parts = path.parts
    fixed = next((number for number, part in enumerate(parts) if any(sign in part for sign in _WILD)), None)
    if is_there or fixed is None:
        return ResultFiles([ResultFile(path, path.parent.parent, named=True)])
    search = _Search(value, Path(*parts[:fixed]))
    matches = sorted(set(search.matches(search.root, parts[fixed:])))
    if not matches:
        raise RequestError(f"evaluations {value}: no file fits this pattern; correct it, or name a folder")
    return search.files_of(matches, named=True)


class _Search:
    """A look into folders, with the number of entries so far."""

    def __init__(self, value: str, root: Path):
        self.value, self.root, self.seen = value, root, 0

    def files_of(self, starts: Sequence[Path], named: bool) -> ResultFiles:
        """Those among the starts that are files, and every file with the suffix .json below those that are folders.

        named: whether a user named the starts, by a pattern.
        """
        files: dict[Path, ResultFile] = {}
        links: dict[Path, None] = {}
        left, first = list(starts), set(starts)
        while left:
            path = left.pop()
            if self._leads_out(path):
                links[path] = None
            elif path.is_dir():
                left += [entry for entry in self._entries(path) if entry.is_dir() or entry.suffix == ".json"]
            elif path.is_file():
                files[path] = ResultFile(path, self.root, named and path in first)
        return ResultFiles([files[path] for path in sorted(files)], sorted(links))

    def matches(self, folder: Path, parts: Sequence[str]) -> Iterator[Path]:
        """What fits a pattern's parts below a folder; ** stands for any number of folders."""
        head, rest = parts[0], parts[1:]
        if head == "**":
            if rest:
                yield from self.matches(folder, rest)
            else:
                yield folder
            for entry in self._entries(folder):
                if entry.is_dir() and not entry.is_symlink():
                    yield from self.matches(entry, parts)
            return
        wild = any(sign in head for sign in _WILD)
        for entry in self._entries(folder) if wild else [folder / head]:
            if (wild and not fnmatchcase(entry.name, head)) or not entry.exists():
                continue
            if not rest:
                yield entry
            elif entry.is_dir() and not self._leads_out(entry):
                yield from self.matches(entry, rest)

    def _entries(self, folder: Path) -> list[Path]:
        """What lies in a folder, hidden files aside."""
        try:
            entries = []
            for entry in folder.iterdir():
                self.seen += 1
                if self.seen > MAX_ENTRIES:
                    raise RequestError(
                        f"evaluations {self.value}: more than {MAX_ENTRIES:,} files and folders; name a narrower folder"
                    )
                if not entry.name.startswith("."):
                    entries.append(entry)
        except OSError as error:
            raise RequestError(f"evaluations {folder}: cannot read it ({error.strerror})") from None
        return sorted(entries)

    def _leads_out(self, path: Path) -> bool:
        """Whether it is a link to a folder, or to a file that lies elsewhere."""
        if path == self.root or not path.is_symlink():
            return False
        return path.is_dir() or not path.resolve().is_relative_to(self.root.resolve())


def read_bytes(path: Path) -> bytes:
    """A file's bytes, its size checked before. Raises RequestError (cannot be read, no regular file, larger than MAX_BYTES)."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise RequestError(f"evaluations {path}: no regular file; give a file that can be read again")
        if status.st_size > MAX_BYTES:
            raise _too_large(path, status.st_size)
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RequestError(f"evaluations {path}: cannot read it ({error.strerror or error})") from None
    if len(content) > MAX_BYTES:  # it has grown meanwhile
        raise _too_large(path, len(content))
    return content


def _too_large(path: Path, size: int) -> RequestError:
    most = MAX_BYTES // 2**20
    return RequestError(f"evaluations {path}: {size / 2**20:.0f} MiB, more than {most}; split it into several files")
