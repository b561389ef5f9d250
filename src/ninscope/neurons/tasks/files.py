"""Data files of a task: their presence, size and digest are checked before anything is read from them. Needs no torch."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ninscope.errors import RequestError

MAX_FILE_BYTES = 4 * 2**30
MAX_ROWS = 50_000_000  # of a table
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
# Any one of these holds a vocabulary; transformers makes an empty tokenizer of a folder that has none.
VOCABULARY_FILES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def checked_file(path: str | Path, role: str) -> Path:
    """The path of a file that is there and not too large to be read whole. role: for messages, "training file"."""
    if not isinstance(path, str | Path) or not str(path):
        raise RequestError(f"{role} is {path!r}; the path of a file was expected")
    path = Path(path).expanduser()
    if not path.is_file():
        raise RequestError(f"{role} {path} is {'a folder' if path.is_dir() else 'not there'}; give the path of a file")
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise RequestError(f"{role} {path} has {size} bytes, more than {MAX_FILE_BYTES}; give a part of it")
    return path


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, hexadecimal. Raises RequestError: it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}; a file that can be read was expected") from None


def settings_digest(kind: str, settings: Mapping[str, Any], data: Iterable[object]) -> str:
    """sha256 over a task's kind, its settings and, in `data`, the digests of its files."""
    stated = json.dumps({"kind": kind, "settings": dict(settings), "data": list(data)}, sort_keys=True)
    return hashlib.sha256(stated.encode()).hexdigest()


def tokenizer_digest(folder: str | Path) -> str:
    """sha256 over the names and bytes of a local folder's tokenizer files, hexadecimal."""
    files = [Path(folder) / name for name in TOKENIZER_FILES]
    return settings_digest("tokenizer", {}, [[file.name, file_digest(file)] for file in files if file.is_file()])


def has_vocabulary(folder: Path) -> bool:
    return any((folder / name).is_file() for name in VOCABULARY_FILES)


def one_line(error: BaseException, length: int = 200) -> str:
    """An error's kind and text in one line of bounded length, for a message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:length]}"


def decoder_message(error: Exception) -> str:
    """A decoder's text about a file in one bounded line, for a message; the kind of error where it has no text."""
    return " ".join(str(error).split())[:120] or type(error).__name__


def rows_named(rows: Iterable[int], shown: int = 5) -> str:
    """Rows for a message: "row 3", "rows 3, 8 and 9", "rows 1, 2, 3, 4, 5 and 20 more"."""
    rows = list(rows)
    if len(rows) == 1:
        return f"row {rows[0]}"
    first, rest = [str(row) for row in rows[:shown]], len(rows) - shown
    return f"rows {', '.join(first)} and {rest} more" if rest > 0 else f"rows {', '.join(first[:-1])} and {first[-1]}"
