"""Sets of result files (tables, figures) with a manifest: what they were made from and what they should hold.

A set counts as done when its manifest names the wanted key and every file still has the bytes that were written.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from ninscope_pipeline.storing.runfolder import RunFolder

_MANIFEST = "manifest.json"


def write_files(folder: RunFolder, place: Path, key: str, files: Mapping[str, bytes]) -> None:
    """Write each file at once and the manifest last; files of an earlier set that are no longer made are removed.

    Of two runs that write at the same time one comes after the other. Raises StoreError.
    """
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    with folder.locked(place.name), folder.writing():
        earlier = _manifest(folder, place).get("files", {})
        for name, content in files.items():
            folder.write_bytes(place / name, content)
        for name in set(earlier) - set(files):
            (place / Path(name).name).unlink(missing_ok=True)
        folder.write_json(place / _MANIFEST, {"key": key, "files": digests})


def is_current(folder: RunFolder, place: Path, key: str) -> bool:
    manifest = _manifest(folder, place)
    if manifest.get("key") != key or not manifest.get("files"):
        return False
    return all(_digest(place / Path(name).name) == digest for name, digest in manifest.get("files", {}).items())


def key_of(folder: RunFolder, place: Path) -> str:
    """The key of the set that lies there, or an empty string."""
    return _manifest(folder, place).get("key", "")


def _manifest(folder: RunFolder, place: Path) -> dict:
    read = folder.read_json(place / _MANIFEST, {})
    return read if isinstance(read, dict) and isinstance(read.get("files", {}), dict) else {}


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
