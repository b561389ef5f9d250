"""The folder of one run: where everything of it lies, and how files in it appear all at once or not at all."""

import json
import os
import shutil
import socket
import uuid
from pathlib import Path

from ninscope.errors import RequestError


class RunFolder:
    """runs/<name>/: store.zarr, tables/, figures/, run.toml, plan.json, log/."""

    def __init__(self, root: Path | str):
        self.root = Path(root)
        self.store = self.root / "store.zarr"
        self.tables = self.root / "tables"
        self.figures = self.root / "figures"
        self.log = self.root / "log"
        self.asked = self.root / "run.toml"
        self.plan = self.root / "plan.json"
        self.known_files = self.root / "known-files.json"
        self._partial = self.root / ".partial"

    def create(self) -> None:
        """Make the folder and clear what interrupted runs on this machine left. Raises RequestError when not writable."""
        try:
            for folder in (self.root, self.store, self.tables, self.figures, self._partial):
                folder.mkdir(parents=True, exist_ok=True)
            self.write_bytes(self.root / ".writable", b"")
            (self.root / ".writable").unlink(missing_ok=True)
        except OSError as error:
            raise RequestError(
                f"{self.root}: the run folder cannot be written ({error.strerror}); choose another with --runs-dir"
            ) from None
        self._clear_abandoned()

    def partial(self) -> Path:
        """A new path to build something in, on the same file system, to be moved into place when complete."""
        self._partial.mkdir(exist_ok=True)
        return self._partial / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"

    def write_bytes(self, path: Path, content: bytes) -> None:
        """The file appears complete or not at all, whatever happens meanwhile."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.partial()
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def write_json(self, path: Path, value) -> None:
        self.write_bytes(path, json.dumps(value, indent=1, sort_keys=True).encode())

    def read_json(self, path: Path, default):
        """The JSON value in a file, or `default` when the file is absent or damaged (it can always be made again)."""
        try:
            return json.loads(path.read_bytes())
        except (OSError, ValueError):
            return default

    def _clear_abandoned(self) -> None:
        host = socket.gethostname()
        for path in self._partial.iterdir():
            owner, pid, _ = [*path.name.rsplit("-", 2), "", ""][:3]
            if owner == host and pid.isdigit() and not _alive(int(pid)):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
