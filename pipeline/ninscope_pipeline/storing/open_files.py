"""Files that a process has opened, as a file system for DuckDB that reads them and nothing else."""

import io
import os
from datetime import UTC, datetime
from typing import Any

from fsspec.spec import AbstractFileSystem

PROTOCOL = "tables"


class OpenFiles(AbstractFileSystem):
    """Files by keys that are no paths, for reading alone. A file that is replaced meanwhile is read as it was when added."""

    protocol = PROTOCOL
    cachable = False  # else fsspec gives out one object for all queries

    def __init__(self) -> None:
        super().__init__()
        self._descriptors: dict[str, int] = {}

    def add(self, key: str, path: os.PathLike[str]) -> None:
        """Open a file. Raises OSError."""
        self._descriptors[key] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close every file."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    # What DuckDB calls, with the names and arguments of fsspec.

    def open(self, path: str, mode: str = "rb", **_: Any) -> io.RawIOBase:
        """Raises PermissionError: for anything but reading; FileNotFoundError."""
        if mode != "rb":
            raise PermissionError(f"{path}: open for reading alone, not {mode!r}")
        return _File(self._descriptor(path))

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": os.fstat(self._descriptor(path)).st_size, "type": "file"}

    def exists(self, path: str, **_: Any) -> bool:
        return self._strip_protocol(path) in self._descriptors

    def isfile(self, path: str) -> bool:
        return self.exists(path)

    def glob(self, path: str, **_: Any) -> list[str]:
        """The file itself: names hold no patterns."""
        return [path] if self.exists(path) else []

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp(os.fstat(self._descriptor(path)).st_mtime, UTC)

    def _descriptor(self, path: str) -> int:
        try:
            return self._descriptors[self._strip_protocol(path)]
        except KeyError:
            raise FileNotFoundError(path) from None


class _File(io.RawIOBase):
    """Reads at a position of its own, so that threads that read one file do not meet."""

    def __init__(self, descriptor: int):
        self._descriptor, self._position = descriptor, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: os.fstat(self._descriptor).st_size}
        self._position = start[whence] + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        """So many bytes, or all that are left."""
        wanted = os.fstat(self._descriptor).st_size - self._position if size < 0 else size
        content = os.pread(self._descriptor, wanted, self._position)
        self._position += len(content)
        return content
