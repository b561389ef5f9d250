"""Sets of result files (tables, figures) with a manifest: what they were made from and what they should hold.

A set counts as done when its manifest names the wanted key and every file still has the bytes that were written.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ninscope_pipeline.storing.runfolder import RunFolder

_MANIFEST = "manifest.json"


def write_files(folder: RunFolder, directory: Path, key: str, files: Mapping[str, bytes]) -> None:
    """Write each file at once and the manifest last; files of an earlier set that are no longer made are removed.

    Of two runs that write at the same time one comes after the other. Raises StoreError.
    """
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    with folder.locked(directory.name), folder.writing():
        earlier = _manifest(folder, directory).get("files", {})
        for name, content in files.items():
            folder.write_bytes(directory / name, content)
        for name in set(earlier) - set(files):
            (directory / Path(name).name).unlink(missing_ok=True)
        folder.write_json(directory / _MANIFEST, {"key": key, "files": digests})


def is_current(folder: RunFolder, directory: Path, key: str) -> bool:
    manifest = _manifest(folder, directory)
    if manifest.get("key") != key or "files" not in manifest:  # a run may have no figure, so there may be no file
        return False
    return all(_digest(directory / Path(name).name) == digest for name, digest in manifest["files"].items())


def is_finished(folder: RunFolder) -> bool:
    """Whether the tables of a run are those of what it was last asked for."""
    key = folder.read_plan()["tables"]
    return bool(key) and is_current(folder, folder.tables, key)


def key_of(folder: RunFolder, directory: Path) -> str:
    """The key of the set that lies there, or an empty string."""
    return _manifest(folder, directory).get("key", "")


def _manifest(folder: RunFolder, directory: Path) -> dict[str, Any]:
    manifest = folder.read_json(directory / _MANIFEST, {})
    return manifest if isinstance(manifest, dict) and isinstance(manifest.get("files", {}), dict) else {}


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
