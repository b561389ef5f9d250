"""Read windows of tokens from plain text, tables and data sets, with labels or without."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons.observatory.examples import TOKENS_KIND, check_window, token_windows
from ninscope.neurons.observatory.read_examples import ReadExamples, drawn, file_classes, in_order_of, is_table
from ninscope.neurons.tasks import tables
from ninscope.neurons.tasks.files import has_vocabulary, one_line
from ninscope.neurons.tasks.glue import quiet_datasets
from ninscope.neurons.tasks.labelled import class_numbers, classes_of
from ninscope.neurons.tasks.task import Base
from ninscope.neurons.tasks.tokenizers import BYTES, ByteTokenizer, LibraryTokenizer, open_tokenizer

if TYPE_CHECKING:
    from ninscope.neurons.observatory.example_files import TextExamples

# A model of bytes has 256 tokens, and may have some special ones besides.
FEWEST_BYTES, MOST_BYTES = 256, 384
Tokenizer = ByteTokenizer | LibraryTokenizer


def read_texts(settings: TextExamples, base: Base) -> ReadExamples:
    """As `TextExamples.read`."""
    vocabulary = _vocabulary(base)
    check_window(base.name, base.config, settings.window)
    encoder = _Encoder(_tokenizer(settings.tokenizer, base, vocabulary), base, settings)
    if settings.label is None:
        return encoder.of_text(_texts(settings))
    if settings.files and not is_table(settings.files[0]):
        return encoder.of_files(settings.files)
    return encoder.of_rows(*_labelled(settings))


class _Encoder:
    """Makes windows of texts. settings: window, tokens, seed and bos are used."""

    def __init__(self, tokenizer: Tokenizer, base: Base, settings: TextExamples) -> None:
        self._tokenizer, self._base, self._settings = tokenizer, base, settings
        self._bos = _beginning(tokenizer, base) if settings.bos else None
        self._body = settings.window - settings.bos  # tokens of text in a window

    def of_text(self, texts: Iterable[str]) -> ReadExamples:
        """All texts, joined."""
        end = self._tokenizer.eos_token_id
        parts: list[np.ndarray] = []
        for text in texts:
            if parts and end is not None:
                parts.append(np.array([end]))
            parts.append(self._tokenizer.encode(text))
        return self._read(self._windows(np.concatenate(parts), self._settings.name), None, ())

    def of_files(self, files: Sequence[Path]) -> ReadExamples:
        """Every file is a class."""
        parts = [self._windows(self._tokenizer.encode(_plain(path)), path.name) for path in files]
        labels = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        return self._read(np.concatenate(parts), labels, file_classes(files))

    def of_rows(self, where: str, texts: Sequence[str], labels: np.ndarray, classes: Sequence[str]) -> ReadExamples:
        """Every row is a sample: a longer one than a window is cut, a shorter one left out."""
        rows = [self._tokenizer.encode(text) for text in texts]
        long_enough = [number for number, row in enumerate(rows) if len(row) >= self._body]
        if not long_enough:
            raise RequestError(
                f"{where}: no row has the {self._body} tokens of a window, the longest has {max(map(len, rows))}; take a smaller "
                "window"
            )
        kept = labels[long_enough]
        if missing := sorted(set(labels.tolist()) - set(kept.tolist())):
            raise RequestError(
                f"{where}: class {classes[missing[0]]!r} has no row of {self._body} tokens; take a smaller window, or take the "
                "class out"
            )
        windows = self._windows(np.concatenate([rows[number][: self._body] for number in long_enough]), where)
        cut = sum(len(rows[number]) > self._body for number in long_enough)
        note = f"{where}: of {len(rows)} rows {len(rows) - len(long_enough)} are shorter than {self._body} tokens and left out"
        return self._read(windows, kept, classes, (f"{note}, {cut} are longer and cut",))

    def _windows(self, tokens: np.ndarray, where: str | None) -> np.ndarray:
        """int64 [n, window]. Raises RequestError: text shorter than a window, or tokens that the base does not know."""
        if len(tokens) < self._body:
            raise RequestError(
                f"{where}: {len(tokens)} tokens of text, and a window needs {self._body}; give more text or a smaller window"
            )
        largest, vocabulary = int(tokens.max()), _vocabulary(self._base)
        if largest >= vocabulary:
            raise RequestError(
                f"{self._base.name}: the text has token {largest}, and its vocabulary ends at {vocabulary - 1}; choose the "
                "tokenizer that it was trained with"
            )
        return token_windows(tokens, self._settings.window, self._bos)

    def _read(
        self, windows: np.ndarray, labels: np.ndarray | None, classes: Sequence[str], notes: tuple[str, ...] = ()
    ) -> ReadExamples:
        count = self._settings.tokens // self._settings.window
        if labels is not None and count < len(classes):
            raise RequestError(
                f"tokens = {self._settings.tokens} are {count} windows, and there are {len(classes)} classes; take more tokens"
            )
        chosen = drawn(count, len(windows), labels, self._settings.seed)
        names: tuple[str, ...] = ()
        if labels is not None:
            names, labels = in_order_of(self._base, classes, labels[chosen])
        return ReadExamples(TOKENS_KIND, windows[chosen], labels, names, self._bos is not None, len(windows), notes)


# --- tokenizers ---------------------------------------------------------------------------------------------
def _vocabulary(base: Base) -> int:
    if not isinstance(size := base.config.get("vocab_size"), int):
        raise RequestError(f"{base.name}: its configuration has no vocab_size; text needs a model that reads tokens")
    return size


def _tokenizer(name: str | None, base: Base, vocabulary: int) -> Tokenizer:
    if name is None and not _has_own(base):
        if not FEWEST_BYTES <= vocabulary <= MOST_BYTES:
            raise RequestError(
                f"{base.name} has no tokenizer files, and its {vocabulary} tokens are no bytes; give tokenizer = the folder "
                "or the name of one"
            )
        name = BYTES
    if name == BYTES and vocabulary > MOST_BYTES:
        raise RequestError(
            f"{base.name} has {vocabulary} tokens, which are no bytes; give tokenizer = the folder or the name of its own"
        )
    return open_tokenizer(name, base)


def _has_own(base: Base) -> bool:
    """Whether it may have tokenizer files: what a Hub repository has is known when they are fetched."""
    if base.folder is None:
        return False
    folder = Path(base.folder).expanduser()
    return has_vocabulary(folder) if folder.is_dir() else not isinstance(base.folder, Path)


def _beginning(tokenizer: Tokenizer, base: Base) -> int:
    """The token that a text begins with."""
    library = getattr(tokenizer, "library", None)
    if library is None:
        token = base.config.get("bos_token_id")
    else:
        token = library.bos_token_id if library.bos_token_id is not None else library.cls_token_id
    if not isinstance(token, int):
        raise RequestError(f"bos = true, and {base.name} has no token that a text begins with; leave bos out")
    return token


# --- texts --------------------------------------------------------------------------------------------------
def _plain(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is no UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _texts(settings: TextExamples) -> list[str]:
    if not settings.files:
        where, columns, _ = _from_library(settings)
        return _checked_texts(where, settings.column, columns[settings.column])
    if not is_table(settings.files[0]):
        return [_plain(path) for path in settings.files]
    rows = []
    for path in settings.files:
        rows += _checked_texts(
            path.name, settings.column, tables.read_columns(path, [settings.column])[settings.column]
        )
    return rows


def _checked_texts(where: str, column: str, texts: list[Any]) -> list[str]:
    if not texts:
        raise RequestError(f"{where} has no rows; give a text with some")
    tables.check_texts(where, column, texts, blank=True)
    return texts


def _labelled(settings: TextExamples) -> tuple[str, list[str], np.ndarray, tuple[str, ...]]:
    """(where, texts, int64 class numbers, names of classes) of all rows."""
    column, label = settings.column, str(settings.label)
    if settings.files:
        read = [tables.read_columns(path, [column, label]) for path in settings.files]
        where = settings.files[0].name
        columns = {name: [value for part in read for value in part[name]] for name in (column, label)}
        names = None
    else:
        where, columns, names = _from_library(settings)
        # Labels with names are numbers, and those that are not published are -1.
        columns[label] = [None if names is not None and value == -1 else value for value in columns[label]]
    texts = _checked_texts(where, column, columns[column])
    tables.check_labels(where, label, columns[label])
    rows = tables.Examples(where, texts, None, columns[label])
    classes = classes_of(rows)
    numbers = np.array(class_numbers(rows, classes), np.int64)
    return where, texts, numbers, tuple(str(name) if names is None else names[int(name)] for name in classes)


def _from_library(settings: TextExamples) -> tuple[str, dict[str, list[Any]], list[str] | None]:
    """(where, columns, names of the labels' numbers or None) of a data set.

    Raises RequestError: `datasets` is not installed, no such column, or a folder that cannot be read. Raises CheckpointError
    (missing): the Hub does not give it.
    """
    try:
        import datasets
    except ModuleNotFoundError:
        raise RequestError("a data set needs datasets, which is not installed: pip install datasets") from None
    assert isinstance(settings.text, dict)
    given = settings.text
    where = f"data set {given['dataset']}, {given['split']}"
    local = Path(given["dataset"]).expanduser().is_dir()
    wanted = [settings.column, *([] if settings.label is None else [settings.label])]
    with tempfile.TemporaryDirectory() as scratch, quiet_datasets(datasets):
        # The library's cache would know local files by their times.
        kept = {"cache_dir": scratch, "keep_in_memory": True} if local else {}
        try:
            loaded = datasets.load_dataset(
                given["dataset"], given.get("config"), split=given["split"], revision=given.get("revision"), **kept
            )
            for column in wanted:
                if column not in loaded.column_names:
                    raise RequestError(f"{where} has no column {column!r}; it has {', '.join(loaded.column_names)}")
            names = getattr(loaded.features[settings.label], "names", None) if settings.label is not None else None
            return where, {column: list(loaded[column]) for column in wanted}, names
        except RequestError:
            raise
        except Exception as error:  # of the network, of files, of their content
            message = f"{where} cannot be loaded ({one_line(error.__cause__ or error)}); give another one, or files"
            if local:
                raise RequestError(message) from None
            raise CheckpointError("missing", message, passing=True) from None
