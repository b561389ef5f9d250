"""Checks that settings of several tasks share. All raise RequestError. Needs no torch."""

import math
from collections.abc import Sequence
from pathlib import Path

from ninscope.errors import RequestError
from ninscope.neurons.tasks.files import checked_file, has_vocabulary

PADDINGS = ("longest", "max_length")
MAX_TOKENS = 1_000_000  # of one text or window
LEAST_TOKENS = 8  # room for a pair of texts and the tokens around it


def check_whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"{name} is {value!r}; an integer from {low} to {high} was expected")


def checked_name(value: str | None, default: str, key: str = "name") -> str:
    """A task's name in tables. key: the setting, for messages."""
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise RequestError(f"{key} is {value!r}; a name was expected")
    return value or default


def checked_numbers(name: str, value: float | Sequence[float]) -> tuple[float, ...]:
    """One number, or one number per channel, as floats."""
    values = (value,) if isinstance(value, int | float) else tuple(value) if isinstance(value, Sequence) else ()
    if not values or any(isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v) for v in values):
        raise RequestError(f"{name} is {value!r}; a number or one number a channel was expected")
    return tuple(float(v) for v in values)


def check_encoding(tokenizer: str | None, max_length: int, padding: str) -> None:
    """How texts become rows of tokens."""
    check_tokenizer(tokenizer)
    check_whole("max_length", max_length, LEAST_TOKENS, MAX_TOKENS)
    if padding not in PADDINGS:
        raise RequestError(f"padding is {padding!r}; one of {', '.join(PADDINGS)}")


def check_tokenizer(tokenizer: str | None) -> None:
    if tokenizer is None:
        return
    if not isinstance(tokenizer, str) or not tokenizer:
        raise RequestError(f"tokenizer is {tokenizer!r}; 'bytes', a folder or the name of one was expected")
    folder = Path(tokenizer).expanduser()
    check_there("tokenizer", tokenizer)
    if folder.is_dir() and not has_vocabulary(folder):
        raise RequestError(f"tokenizer {tokenizer} is a folder without tokenizer files; give 'bytes' or another one")


def check_there(name: str, given: str) -> None:
    """Raises RequestError where a text can only be the path of a folder, as "../data" can, and there is none."""
    if given.startswith((".", "/", "~")) and not Path(given).expanduser().is_dir():
        raise RequestError(f"{name} {given} is not there; give the path of a folder, or a name on the Hub")


def checked_folder(folder: str | Path) -> Path:
    if not isinstance(folder, str | Path) or not str(folder):
        raise RequestError(f"folder is {folder!r}; the path of a folder was expected")
    if not (path := Path(folder).expanduser()).is_dir():
        raise RequestError(f"folder {path} is not there; give the path of a folder")
    return path


def checked_text_files(paths: str | Path | Sequence[str | Path], glob: str, role: str) -> list[Path]:
    """A file, the files of a list, or those that `glob` finds in a folder, sorted. role: for messages, "training file"."""
    if isinstance(paths, str | Path):
        folder = Path(paths).expanduser()
        if not folder.is_dir():
            return [checked_file(paths, role)]
        files = sorted(path for path in folder.glob(glob) if path.is_file())
        if not files:
            raise RequestError(f"folder {folder} has no files {glob}; give another folder, or name its files")
        return [checked_file(path, role) for path in files]
    if not isinstance(paths, Sequence) or not paths:
        raise RequestError(f"{role} is {paths!r}; a file, a list of files or a folder was expected")
    return [checked_file(path, role) for path in paths]


def check_apart(train: list[Path], held_out: list[Path]) -> None:
    """No file is on both sides."""
    training = {path.resolve() for path in train}
    for path in held_out:
        if path.resolve() in training:
            raise RequestError(f"{path} is both a training and a held-out file; hold other text out")
