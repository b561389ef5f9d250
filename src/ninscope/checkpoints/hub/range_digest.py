"""The hash of a whole file whose bytes arrive in ranges, in any order: what comes too early waits on the disk."""

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from ninscope.checkpoints.hub.stated_digest import StatedDigest
from ninscope.checkpoints.spans import Span, bytes_in, common, covered, gaps

FREE_SHARE = 0.25  # of the disk's free bytes, what may wait there
_COPY_BYTES = 8_000_000

Fetch = Callable[[int, int], memoryview]  # (start, stop) gives these bytes


class RangeDigest:
    """Notes ranges as they are used. Any thread may note; the same bytes twice are more than one hash can confirm."""

    def __init__(self, digest: str, size: int) -> None:
        self._stated, self._size = StatedDigest(digest, size), size
        self._lock = threading.Lock()
        self._next = 0  # bytes before are hashed
        self._waiting: dict[int, tuple[int, int]] = {}  # by start: where it lies in the spool, and its length
        self._spool: IO[bytes] | None = None
        self._spooled = self._room = 0
        self._given_up = False

    def note(self, start: int, content: memoryview) -> None:
        """Bytes that are used."""
        with self._lock:
            if self._given_up or not len(content):
                return
            if start < self._next or start in self._waiting:
                self._give_up()
            elif start == self._next:
                self._hash(content)
                self._hash_waiting()
            else:
                self._wait(start, content)

    def confirmed(self, fetch: Fetch, most: int) -> bool | None:
        """Whether the bytes are those of the hash, once at most `most` further ones are fetched; None where it cannot be told."""
        with self._lock:
            absent = [] if self._given_up else list(self._gaps())
            if self._given_up or sum(stop - start for start, stop in absent) > most:
                self._give_up()
                return None
            for start, stop in absent:
                for first in range(start, stop, _COPY_BYTES):
                    self._hash(fetch(first, min(first + _COPY_BYTES, stop)))
                self._hash_waiting()
            # What overlaps was left in the spool.
            complete, matches = self._next == self._size and not self._waiting, self._stated.matches()
            self._give_up()
            return matches if complete else None

    def _gaps(self) -> Iterator[tuple[int, int]]:
        position = self._next
        for start, (_, length) in sorted(self._waiting.items()):
            if start > position:
                yield position, start
            position = max(position, start + length)
        if position < self._size:
            yield position, self._size

    def _hash(self, content: memoryview) -> None:
        self._stated.update(content)
        self._next += len(content)

    def _hash_waiting(self) -> None:
        while (place := self._waiting.pop(self._next, None)) is not None and self._spool is not None:
            offset, length = place
            for first in range(offset, offset + length, _COPY_BYTES):
                self._spool.seek(first)
                self._hash(memoryview(self._spool.read(min(_COPY_BYTES, offset + length - first))))

    def _wait(self, start: int, content: memoryview) -> None:
        try:
            if self._spool is None:
                folder = _roomy_folder()
                self._room = int(FREE_SHARE * shutil.disk_usage(folder).free)
                self._spool = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed by _give_up
            if self._spooled + len(content) > self._room:
                self._give_up()
                return
            self._spool.seek(self._spooled)
            self._spool.write(content)
        except OSError:  # the disk is full, say
            self._give_up()
            return
        self._waiting[start] = self._spooled, len(content)
        self._spooled += len(content)

    def _give_up(self) -> None:
        self._given_up = True
        self._waiting.clear()
        if self._spool is not None:
            with suppress(OSError):
                self._spool.close()
            self._spool = None


class RepeatedDigest:
    """As `RangeDigest`, where bytes may come more than once: all wait on the disk, and what comes again must be the same."""

    def __init__(self, digest: str, size: int) -> None:
        self._stated, self._size = StatedDigest(digest, size), size
        self._lock = threading.Lock()
        self._noted: list[Span] = []
        self._spool: IO[bytes] | None = None
        self._differs = self._given_up = False

    def note(self, start: int, content: memoryview) -> None:
        """Bytes that are used."""
        with self._lock:
            if self._given_up or not len(content):
                return
            try:
                self._keep(start, content)
            except OSError:  # the disk is full, say
                self._give_up()

    def confirmed(self, fetch: Fetch, most: int) -> bool | None:
        """As that of `RangeDigest`."""
        with self._lock:
            absent = list(gaps(self._noted, 0, self._size))
            if self._given_up or bytes_in(absent) > most:
                self._give_up()
                return None
            try:
                for start, stop in absent:
                    for first in range(start, stop, _COPY_BYTES):
                        self._keep(first, fetch(first, min(first + _COPY_BYTES, stop)))
                for start in range(0, self._size, _COPY_BYTES):
                    self._stated.update(self._kept(start, min(start + _COPY_BYTES, self._size)))
            except OSError:
                self._give_up()
                return None
            self._give_up()
            return self._stated.matches() and not self._differs

    def _keep(self, start: int, content: memoryview) -> None:
        """Compare what is there, and write the rest. Raises OSError."""
        if self._spool is None:
            folder = _roomy_folder()
            if self._size > FREE_SHARE * shutil.disk_usage(folder).free:
                raise OSError("no room")
            self._spool = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed by _give_up
        stop = start + len(content)
        for first, last in common(self._noted, start, stop):
            self._differs |= self._kept(first, last) != content[first - start : last - start]
        for first, last in gaps(self._noted, start, stop):
            self._spool.seek(first)
            self._spool.write(content[first - start : last - start])
        self._noted = covered([*self._noted, (start, stop)])

    def _kept(self, start: int, stop: int) -> bytes:
        assert self._spool is not None
        self._spool.seek(start)
        return self._spool.read(stop - start)

    def _give_up(self) -> None:
        self._given_up = True
        if self._spool is not None:
            with suppress(OSError):
                self._spool.close()
            self._spool = None


def _roomy_folder() -> str:
    """Where large temporary files belong: on a disk, where the usual place may be memory."""
    return "/var/tmp" if Path("/var/tmp").is_dir() else tempfile.gettempdir()
