"""TOML files that a user wrote, and one that describes a model alone."""

import re
import tomllib
from pathlib import Path
from typing import Any

from ninscope.errors import RequestError

MOST_SHOWN = 80  # characters of a line that an error cites
_LINE = re.compile(r"\(at line (\d{1,9}),")
_DIGITS = "Exceeds the limit"  # how Python begins to refuse an integer of thousands of digits


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file, with or without a byte order mark. Raises RequestError: unreadable, or not TOML."""
    text = ""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return tomllib.loads(text)
    except OSError as error:
        raise RequestError(f"{path}: cannot read it ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: not TOML: {error}{_line_of(error, text)}") from None
    except ValueError as error:
        reason = "a number in it has thousands of digits" if str(error).startswith(_DIGITS) else str(error)
        raise RequestError(f"{path}: not TOML that can be read: {reason}") from None
    except RecursionError:
        raise RequestError(f"{path}: not TOML that can be read: nested too deeply") from None


def _line_of(error: ValueError, text: str) -> str:
    """The line that an error names, in words; empty where it names none. Quotes that were forgotten are seen at once there."""
    named = _LINE.search(str(error))
    lines = text.split("\n")
    if named is None or int(named[1]) > len(lines):
        return ""
    line = lines[int(named[1]) - 1].strip()
    return f": {line[:MOST_SHOWN]}{' ...' if len(line) > MOST_SHOWN else ''}" if line.isprintable() and line else ""


def load_architecture(path: Path) -> dict[str, Any]:
    """The table that `ninscope.measure(architecture=...)` takes: [architecture] of a TOML file, such as a DAG file, or all of a
    file that holds nothing else. Raises RequestError.
    """
    raw = read_toml(path)
    table = raw.get("architecture", raw)
    if not isinstance(table, dict) or "blocks" not in table:
        raise RequestError(f"{path}: no table [architecture] with blocks in it; it describes the model")
    return {key: value for key, value in table.items() if key != "override"}  # who names the file means it
