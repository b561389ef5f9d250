"""TOML files that a user wrote, and one that describes a model alone."""

import tomllib
from pathlib import Path
from typing import Any

from ninscope.errors import RequestError

_DIGITS = "Exceeds the limit"  # how Python begins to refuse an integer of thousands of digits


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file, with or without a byte order mark. Raises RequestError: unreadable, or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RequestError(f"{path}: cannot read it ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: not TOML: {error}") from None
    except ValueError as error:
        reason = "a number in it has thousands of digits" if str(error).startswith(_DIGITS) else str(error)
        raise RequestError(f"{path}: not TOML that can be read: {reason}") from None
    except RecursionError:
        raise RequestError(f"{path}: not TOML that can be read: nested too deeply") from None


def load_architecture(path: Path) -> dict[str, Any]:
    """The table that `ninscope.measure(architecture=...)` takes: [architecture] of a TOML file, such as a DAG file, or all of a
    file that holds nothing else. Raises RequestError.
    """
    raw = read_toml(path)
    table = raw.get("architecture", raw)
    if not isinstance(table, dict) or "blocks" not in table:
        raise RequestError(f"{path}: no table [architecture] with blocks in it; it describes the model")
    return {key: value for key, value in table.items() if key != "override"}  # who names the file means it
