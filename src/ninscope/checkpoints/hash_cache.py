"""Hashes of local files that were computed before, to be trusted again while a file's size and times are the same."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ninscope.checkpoints.identity import FileIdentity

MAX_KNOWN = 100_000  # files; the oldest entries go first


def files_of_json(value: object) -> dict[str, FileIdentity]:
    """Path -> identity, from what `json_of_files` made; entries that make no sense are left out."""
    known = {}
    for path, fields in value.items() if isinstance(value, dict) else ():
        try:
            known[path] = FileIdentity.of_json(fields)
        except (KeyError, TypeError):
            continue  # hashed again
    return known


def json_of_files(files: Mapping[str, FileIdentity]) -> dict[str, dict[str, object]]:
    return {path: asdict(file) for path, file in files.items()}


def sealed(value: object) -> dict[str, object]:
    """A JSON value with its checksum: what is believed without looking must be what was written."""
    return {"sha256": _digest(value), "value": value}


def unsealed(stored: object) -> Any:
    """What `sealed` was given; None where it is not that any more."""
    if not isinstance(stored, dict) or set(stored) != {"sha256", "value"}:
        return None
    try:
        return stored["value"] if _digest(stored["value"]) == stored["sha256"] else None
    except (ValueError, RecursionError):
        return None


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ninscope" / "known-files.json"


def cached_files() -> dict[str, FileIdentity]:
    """What this user's earlier commands hashed."""
    try:
        return files_of_json(unsealed(json.loads(_cache().read_bytes())))
    except (OSError, ValueError, RuntimeError):  # RecursionError is one
        return {}


def cache_files(files: Mapping[str, FileIdentity]) -> None:
    """Add to what is known; where that cannot be written, it is computed again next time."""
    before = cached_files()
    if all(before.get(path) == file for path, file in files.items()):
        return
    known = {path: file for path, file in before.items() if path not in files} | dict(files)
    kept = dict(list(known.items())[-MAX_KNOWN:])
    with suppress(OSError, RuntimeError):
        cache = _cache()
        cache.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=cache.parent)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(sealed(json_of_files(kept)), file)
            Path(partial).replace(cache)
        finally:
            Path(partial).unlink(missing_ok=True)
