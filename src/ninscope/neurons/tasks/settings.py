"""Settings of fine-tuning tasks: checked when they are made, hashed when work is planned, opened where it is done.

Nothing here imports torch before a task is opened.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from ninscope.errors import RequestError
from ninscope.neurons.tasks.files import checked_file, file_digest, has_vocabulary, settings_digest, tokenizer_digest
from ninscope.neurons.tasks.glue import checked_glue, local_files
from ninscope.neurons.tasks.scores import checked_metrics, is_regression
from ninscope.neurons.tasks.tables import checked_columns

if TYPE_CHECKING:
    from ninscope.neurons.tasks.image_classification import ImageClassification
    from ninscope.neurons.tasks.language_modelling import LanguageModelling
    from ninscope.neurons.tasks.task import Base
    from ninscope.neurons.tasks.text_classification import TextClassification

PADDINGS = ("longest", "max_length")
MAX_TOKENS = 1_000_000  # of one text or window
MAX_IMAGE_SIDE = 8192
DATASETS = ("digits",)


class _Settings:
    """What settings of all tasks share."""

    def _set(self, **values) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _stated(self, *without: str) -> dict:
        """Settings that results depend on: where files lie and what the task is called is none of them."""
        return {
            field.name: _tokenizer_stated(getattr(self, field.name))
            if field.name == "tokenizer"
            else getattr(self, field.name)
            for field in fields(self)
            if field.name not in {"name", *without}
        }


@dataclass(frozen=True)
class TextSettings(_Settings):
    """Labels of texts in two local tables (CSV, TSV, JSON Lines, Parquet).

    text, second_text, label: columns; with second_text an example is a pair. metrics: accuracy, f1 and matthews, or, for labels
    that are numbers, spearman and pearson; the main one first. tokenizer: "bytes", a folder, a Hub repository, or None for the
    base's own. max_length: tokens; longer texts are cut. padding: to the longest of a batch, or to "max_length" always. name: as
    in tables; None for the training file's. Raises RequestError: a file, a column or a metric is not there, or a value is out of
    range.
    """

    train: str | Path
    held_out: str | Path
    text: str = "text"
    second_text: str | None = None
    label: str = "label"
    metrics: Sequence[str] = ("accuracy",)
    tokenizer: str | None = None
    max_length: int = 128
    padding: str = "longest"
    name: str | None = None

    def __post_init__(self):
        train, held_out = checked_file(self.train, "training file"), checked_file(self.held_out, "held-out file")
        _checked_apart([train], [held_out])
        columns = [column for column in (self.text, self.second_text, self.label) if column is not None]
        if len(set(columns)) < len(columns):
            raise RequestError(f"text, second_text and label are {columns!r}; each needs a column of its own")
        for path in (train, held_out):
            checked_columns(path, columns)
        _checked_padding(self.tokenizer, self.max_length, self.padding)
        self._set(
            train=train, held_out=held_out, metrics=checked_metrics(self.metrics), name=_named(self.name, train.stem)
        )

    def digest(self) -> str:
        """sha256 over the settings and the bytes of both files (and of a local tokenizer), hexadecimal."""
        kinds = [path.suffix.lower() for path in (self.train, self.held_out)]
        return settings_digest(
            "text", self._stated("train", "held_out"), [*kinds, file_digest(self.train), file_digest(self.held_out)]
        )

    def task(self, base: Base) -> TextClassification:
        """The task, its texts encoded for this base. Raises RequestError: rows without text or label, no tokenizer, ..."""
        from ninscope.neurons.tasks.labelled import from_tables
        from ninscope.neurons.tasks.text_classification import TextClassification

        regression = is_regression(self.metrics)
        data = from_tables(self.train, self.held_out, self.text, self.second_text, self.label, regression)
        return TextClassification(self.name, data, base, self.metrics, self.tokenizer, self.max_length, self.padding)


@dataclass(frozen=True)
class GlueSettings(_Settings):
    """A task of GLUE (cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli): training and validation split (mnli: matched).

    folder: with <name>/train-*.parquet and <name>/validation-*.parquet; None for the Hub's nyu-mll/glue at `revision` (None: the
    newest, which a digest cannot tell from others). tokenizer, max_length, padding: as TextSettings.
    Raises RequestError: no such task or files, or a value is out of range.
    """

    name: str
    folder: str | Path | None = None
    revision: str | None = None
    tokenizer: str | None = None
    max_length: int = 128
    padding: str = "longest"

    def __post_init__(self):
        checked_glue(self.name)
        _checked_padding(self.tokenizer, self.max_length, self.padding)
        if self.folder is not None:
            if self.revision is not None:
                raise RequestError("revision is of the Hub's data set, and a folder has none; give one of the two")
            folder = _checked_folder(self.folder)
            for paths in local_files(folder, self.name).values():
                for path in paths:
                    checked_file(path, "GLUE file")
            self._set(folder=folder)

    @property
    def metrics(self) -> tuple[str, ...]:
        return checked_glue(self.name).metrics

    def digest(self) -> str:
        """sha256 over the settings and the bytes of local files, or the Hub's revision, hexadecimal."""
        files = {} if self.folder is None else local_files(self.folder, self.name)
        data = [[split, [file_digest(path) for path in paths]] for split, paths in files.items()]
        return settings_digest("glue", self._stated("folder") | {"glue": self.name}, data)

    def task(self, base: Base) -> TextClassification:
        """The task, its texts encoded for this base. Raises RequestError: the data cannot be had, no tokenizer, ..."""
        from ninscope.neurons.tasks.labelled import from_glue
        from ninscope.neurons.tasks.text_classification import TextClassification

        data = from_glue(self.name, self.folder, self.revision)
        return TextClassification(self.name, data, base, self.metrics, self.tokenizer, self.max_length, self.padding)


@dataclass(frozen=True)
class LanguageSettings(_Settings):
    """The next token of local text (UTF-8), in windows of `context` tokens that do not overlap.

    train, held_out: a file, a list of files, or a folder, of which the files that `glob` finds are taken, sorted by path.
    tokenizer, name: as TextSettings. Raises RequestError: a file is not there or on both sides, or a value is out of range.
    """

    train: str | Path | Sequence[str | Path]
    held_out: str | Path | Sequence[str | Path]
    context: int = 128
    tokenizer: str | None = None
    glob: str = "**/*.txt"
    name: str | None = None

    def __post_init__(self):
        train = _text_files(self.train, self.glob, "training file")
        held_out = _text_files(self.held_out, self.glob, "held-out file")
        _checked_apart(train, held_out)
        _checked_whole("context", self.context, 1, MAX_TOKENS)
        _checked_tokenizer(self.tokenizer)
        own = self.train if isinstance(self.train, str | Path) else train[0]
        self._set(train=tuple(train), held_out=tuple(held_out), name=_named(self.name, Path(own).stem))

    def digest(self) -> str:
        """sha256 over the settings and the bytes of all files, in order, hexadecimal."""
        data = [[file_digest(path) for path in paths] for paths in (self.train, self.held_out)]
        return settings_digest("language", self._stated("train", "held_out", "glob"), data)

    def task(self, base: Base) -> LanguageModelling:
        """The task, its text encoded for this base. Raises RequestError: no tokenizer, text shorter than a window, ..."""
        from ninscope.neurons.tasks.language_modelling import LanguageModelling

        return LanguageModelling(self.name, self.train, self.held_out, base, self.context, self.tokenizer)


@dataclass(frozen=True)
class ImageSettings(_Settings):
    """Classes of images: of a folder, or of the data set "digits" (scikit-learn's, 1797 images of 8 x 8).

    folder: with train/<class>/ and held_out/<class>/ (or val, validation). image_mean, image_std: of pixels from 0 to 1, one
    number or one a channel; the model sees (pixel - mean)/std. image_size: side in pixels, for a base whose configuration names
    none. name: as in tables; None for the folder's. Raises RequestError: a folder is not there, or a value is out of range.
    """

    folder: str | Path | None = None
    dataset: str | None = None
    image_mean: float | Sequence[float] = 0.5
    image_std: float | Sequence[float] = 0.5
    image_size: int | None = None
    name: str | None = None

    def __post_init__(self):
        if (self.folder is None) == (self.dataset is None):
            raise RequestError(f"give either a folder of images or a dataset ({', '.join(DATASETS)})")
        if self.dataset is not None and self.dataset not in DATASETS:
            raise RequestError(
                f"dataset {self.dataset!r} is not known; one of {', '.join(DATASETS)}, or give a folder of images"
            )
        mean, deviation = _numbers("image_mean", self.image_mean), _numbers("image_std", self.image_std)
        if min(deviation) <= 0:
            raise RequestError(f"image_std is {self.image_std!r}; numbers above 0 were expected")
        if self.image_size is not None:
            _checked_whole("image_size", self.image_size, 1, MAX_IMAGE_SIDE)
        folder = None if self.folder is None else _checked_folder(self.folder)
        if folder is not None:
            from ninscope.neurons.tasks.images import split_folders

            split_folders(folder)
        own = self.dataset or folder.resolve().name
        self._set(folder=folder, image_mean=mean, image_std=deviation, name=_named(self.name, own))

    def digest(self) -> str:
        """sha256 over the settings and every image's class and bytes, in order, hexadecimal."""
        from ninscope.neurons.tasks.images import labelled_files, read_digits

        if self.folder is None:
            digits = read_digits()
            data = [hashlib.sha256(digits.pixels.tobytes()).hexdigest(), digits.labels.tolist()]
        else:
            found = labelled_files(self.folder)
            data = [
                found.classes,
                *([[file_digest(path), label] for path, label in part] for part in (found.train, found.held_out)),
            ]
        return settings_digest("image", self._stated("folder"), data)

    def task(self, base: Base) -> ImageClassification:
        """The task, for images of this base's size. Raises RequestError: no images, or the base takes none."""
        from ninscope.neurons.tasks.image_classification import ImageClassification, digits_of, files_of

        read = digits_of if self.folder is None else files_of
        size = self.image_size
        return ImageClassification(
            self.name, read(self.folder, base, size), base, self.image_mean, self.image_std, size
        )


# --- checks -------------------------------------------------------------------------------------------------
def _named(name: str | None, otherwise: str) -> str:
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise RequestError(f"name is {name!r}; a name was expected")
    return name or otherwise


def _checked_whole(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"{name} is {value!r}; an integer from {low} to {high} was expected")


def _checked_padding(tokenizer: str | None, max_length: int, padding: str) -> None:
    _checked_tokenizer(tokenizer)
    _checked_whole("max_length", max_length, 8, MAX_TOKENS)  # room for a pair and what stands around it
    if padding not in PADDINGS:
        raise RequestError(f"padding is {padding!r}; one of {', '.join(PADDINGS)}")


def _checked_tokenizer(tokenizer: str | None) -> None:
    if tokenizer is not None and (not isinstance(tokenizer, str) or not tokenizer):
        raise RequestError(f"tokenizer is {tokenizer!r}; 'bytes', a folder or the name of one was expected")
    if (
        tokenizer is not None
        and Path(tokenizer).expanduser().is_dir()
        and not has_vocabulary(Path(tokenizer).expanduser())
    ):
        raise RequestError(f"tokenizer {tokenizer} is a folder without tokenizer files; give 'bytes' or another one")


def _tokenizer_stated(tokenizer: str | None) -> str | None:
    """A local tokenizer by its bytes, any other by its name."""
    if tokenizer is None or tokenizer == "bytes" or not Path(tokenizer).expanduser().is_dir():
        return tokenizer
    return tokenizer_digest(Path(tokenizer).expanduser())


def _checked_folder(folder: str | Path) -> Path:
    if not isinstance(folder, str | Path) or not str(folder):
        raise RequestError(f"folder is {folder!r}; the path of a folder was expected")
    if not (path := Path(folder).expanduser()).is_dir():
        raise RequestError(f"folder {path} is not there; give the path of a folder")
    return path


def _text_files(paths: str | Path | Sequence[str | Path], glob: str, what: str) -> list[Path]:
    if isinstance(paths, str | Path):
        folder = Path(paths).expanduser()
        if not folder.is_dir():
            return [checked_file(paths, what)]
        found = sorted(path for path in folder.glob(glob) if path.is_file())
        if not found:
            raise RequestError(f"folder {folder} has no files {glob}; give another folder or glob")
        return [checked_file(path, what) for path in found]
    if not isinstance(paths, Sequence) or not paths:
        raise RequestError(f"{what} is {paths!r}; a file, a list of files or a folder was expected")
    return [checked_file(path, what) for path in paths]


def _checked_apart(train: list[Path], held_out: list[Path]) -> None:
    there = {path.resolve() for path in train}
    for path in held_out:
        if path.resolve() in there:
            raise RequestError(f"{path} is both a training and a held-out file; hold other text out")


def _numbers(name: str, value: float | Sequence[float]) -> tuple[float, ...]:
    values = (value,) if isinstance(value, int | float) else tuple(value) if isinstance(value, Sequence) else ()
    if not values or any(isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v) for v in values):
        raise RequestError(f"{name} is {value!r}; a number or one number a channel was expected")
    return tuple(float(v) for v in values)
