"""The folder of one run: where everything of it lies, and how files in it appear all at once or not at all."""

import errno
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ninscope.errors import NinscopeError, RequestError

RUNS = Path("runs")  # where run folders lie, unless --runs-dir says otherwise

LOCK_SECONDS = 120
FOR_EVER = -1.0
# Partial files of other machines' processes, of which it cannot be seen whether they live, are cleared at this age.
ABANDONED_SECONDS = 24 * 3600

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_OURS = (errno.EROFS, errno.EACCES, errno.EPERM)
_CAUSES = {
    errno.ENOSPC: ("the disk is full", "free space"),
    errno.EDQUOT: ("the disk quota is used up", "free space"),
    errno.EFBIG: ("a file would be larger than is allowed here", "raise the limit (ulimit -f)"),
    **dict.fromkeys(_NOT_OURS, ("it cannot be written any more", "make it writable")),
}
# What file systems say that have no locks.
_LOCKLESS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


class StoreError(NinscopeError):
    """The run folder cannot be written or read: nothing can be stored any more, of whatever checkpoint."""


class RunFolder:
    """runs/<name>/: store.zarr, checksums/, tables/, figures/, run.toml, plan.json, log/."""

    def __init__(self, root: Path | str, once_mended: str = "run the same command again"):
        """once_mended: what errors advise where a cause of them, such as a full disk, is out of the way."""
        self.root = Path(root)
        self._once_mended = once_mended
        self.store = self.root / "store.zarr"
        self.checksums = self.root / "checksums"
        self.tables = self.root / "tables"
        self.figures = self.root / "figures"
        self.log = self.root / "log"
        self.finetunes = self.root / "finetunes"
        self.bases = self.root / "bases"
        self.run_file = self.root / "run.toml"
        self.plan = self.root / "plan.json"
        self.known = self.root / "known.json"
        self._partial = self.root / ".partial"
        self._locks = self.root / ".locks"

    def create(self, advice: str = "choose another with --runs-dir") -> None:
        """Make the folder and clear what interrupted runs left.

        Raises RequestError when it is not writable, which ends with the advice, StoreError when the disk is full.
        """
        try:
            for folder in (self.root, self.store, self.tables, self.figures, self._partial):
                folder.mkdir(parents=True, exist_ok=True)
            probe = self.partial()
            try:
                probe.write_bytes(b"\0")
                self._clear_abandoned(probe.stat().st_mtime)
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            if error.errno in _FULL:
                raise self._store_error(error) from None
            why = "a file has this name" if isinstance(error, FileExistsError) else error.strerror
            raise RequestError(f"{self.root}: the run folder cannot be written ({why}); {advice}") from None

    def partial(self) -> Path:
        """A new path to build something in, on the same file system, to be moved into place when complete."""
        self._partial.mkdir(exist_ok=True)
        return self._partial / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"

    def table_names(self) -> list[str]:
        """Names of the tables there are."""
        return sorted(file.stem for file in self.tables.glob("*.parquet") if file.is_file())

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Raises StoreError for what the file system refuses meanwhile: it concerns every task of the run."""
        try:
            yield
        except OSError as error:
            raise self._store_error(error) from None

    def write_bytes(self, path: Path, content: bytes, durable: bool = True) -> None:
        """The file appears complete or not at all, whatever happens meanwhile. Raises StoreError.

        durable: so even if the machine fails; not needed of what is checked before it is used.
        """
        with self.writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.partial()
            try:
                with open(partial, "wb") as file:
                    file.write(content)
                    if durable:
                        file.flush()
                        os.fsync(file.fileno())
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)

    def write_json(self, path: Path, value: object) -> None:
        self.write_bytes(path, json.dumps(value, indent=1, sort_keys=True).encode())

    def read_json(self, path: Path, default: object) -> Any:
        """The JSON value in a file, or `default` when the file is absent or damaged (it can always be made again)."""
        try:
            return json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return default

    def read_plan(self) -> dict[str, Any]:
        """What the run set out to make: keys by stage, the tables' key, one entry a checkpoint; all empty without a plan."""
        plan = self.read_json(self.plan, {})
        whole = isinstance(plan, dict) and all(name in plan for name in ("stages", "tables", "checkpoints"))
        return plan if whole else {"stages": {}, "tables": "", "checkpoints": []}

    @contextmanager
    def locked(self, name: str, seconds: float | None = None) -> Iterator[bool]:
        """Alone among processes that lock the same name. A process that dies gives its locks back. Raises StoreError: another
        has held it for so many seconds (LOCK_SECONDS unless told).

        Yields False on a file system without locks, where it is not alone: what this guards is checked against its
        checksums before it is used.
        """
        lock, seconds = self._lock(name), LOCK_SECONDS if seconds is None else seconds
        with self.writing():
            self._locks.mkdir(exist_ok=True)
            if not _acquired(lock, seconds):
                raise StoreError(
                    f"{self.root}: another run has held {name} for {seconds:g} s; see that it ends, then run again"
                )
        try:
            yield lock.is_locked
        finally:
            lock.release()

    @contextmanager
    def unchanging(self, name: str) -> Iterator[None]:
        """As `locked`, for who only reads: nobody replaces what is locked meanwhile. Raises StoreError as `locked` does.

        Where this process may not write, it cannot lock either, and reads what is there.
        """
        with ExitStack() as held:
            try:
                held.enter_context(self.locked(name))
            except StoreError as error:
                if not isinstance(error.__context__, OSError) or error.__context__.errno not in _NOT_OURS:
                    raise
            yield

    @contextmanager
    def claimed(self, name: str, seconds: float) -> Iterator[bool]:
        """Whether this process has the name for itself from now on, until the end; False where another process has it, and has had
        it for so many seconds. Raises StoreError.

        On a file system without locks every process has it.
        """
        lock = self._lock(name)
        with self.writing():
            self._locks.mkdir(exist_ok=True)
            is_ours = _acquired(lock, seconds)
        try:
            yield is_ours
        finally:
            lock.release()

    def is_claimed(self, name: str) -> bool | None:
        """Whether a process has claimed the name; None where that cannot be told."""
        lock = self._lock(name)
        if not Path(lock.lock_file).exists():
            return False
        try:
            free = _acquired(lock, 0)
        except OSError:  # which may not be written here
            return None
        is_known = lock.is_locked
        lock.release()
        return not free if is_known or not free else None

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Marks a run as at work here: for others `alone` is False until it ends, in whatever way."""
        mark = self._lock(f"run-{uuid.uuid4().hex}")
        with self.locked("runs"), self.writing():
            _acquired(mark, 0)
        try:
            yield
        finally:
            with suppress(OSError):  # a mark that nobody holds is cleared by whoever comes next
                Path(mark.lock_file).unlink()
            mark.release()

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether no run is at work here; none begins to meanwhile. Never true on a file system without locks."""
        with self.locked("runs") as has_locks, self.writing():
            yield has_locks and all(self._is_over(mark.name) for mark in self._locks.glob("run-*"))

    def _is_over(self, mark: str) -> bool:
        lock = self._lock(mark)
        if not _acquired(lock, 0):
            return False
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        return True

    def _lock(self, name: str) -> FileLock:
        return FileLock(self._locks / name, fallback_to_soft=False)

    def _store_error(self, error: OSError) -> StoreError:
        known = error.errno in _CAUSES
        cause, remedy = _CAUSES.get(error.errno or 0, ("it cannot be written", "mend that"))
        path = (
            self.root if known else error.filename2 or error.filename or self.root
        )  # what stands in the way of a file
        return StoreError(f"{path}: {cause} ({error.strerror or error}); {remedy} and {self._once_mended}")

    def _clear_abandoned(self, now: float) -> None:
        """now: by the clock of the file system."""
        host = socket.gethostname()
        for path in self._partial.iterdir():
            owner, pid, _ = [*path.name.rsplit("-", 2), "", ""][:3]
            if not pid.isdigit():
                continue
            if _alive(int(pid)) if owner == host else not _older(path, now - ABANDONED_SECONDS):
                continue
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _acquired(lock: FileLock, seconds: float) -> bool:
    """False when somebody else keeps it. True as well where there are no locks; `lock.is_locked` stays False then."""
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    except OSError as error:
        if error.errno not in _LOCKLESS:
            raise
    return True


def _older(path: Path, time: float) -> bool:
    try:
        return path.stat().st_mtime < time
    except FileNotFoundError:  # its owner is done with it
        return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
