"""Settings of fine-tuning tasks: checked when they are made, hashed when work is planned, opened where it is done.

Needs no torch before a task is opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ninscope.errors import RequestError
from ninscope.neurons.tasks.checks import (
    MAX_TOKENS,
    check_apart,
    check_encoding,
    check_tokenizer,
    check_whole,
    checked_folder,
    checked_name,
    checked_numbers,
    checked_text_files,
)
from ninscope.neurons.tasks.files import checked_file, file_digest, settings_digest, tokenizer_digest
from ninscope.neurons.tasks.glue import checked_glue, local_files
from ninscope.neurons.tasks.scores import checked_metrics, is_regression
from ninscope.neurons.tasks.tables import check_columns

if TYPE_CHECKING:
    from ninscope.neurons.tasks.image_classification import ImageClassification
    from ninscope.neurons.tasks.language_modelling import LanguageModelling
    from ninscope.neurons.tasks.task import Base
    from ninscope.neurons.tasks.text_classification import TextClassification

MAX_IMAGE_SIDE = 8192
DATASETS = ("digits",)


@dataclass(frozen=True)
class CheckedSettings:
    """What settings that are checked when they are made, and hashed, share: those of tasks, and of examples to look at."""

    def _keep(self, **values: object) -> None:
        """Put checked values in the place of those given, while the settings are made."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _stated(self, *without: str) -> dict[str, Any]:
        """Settings that results depend on, which neither the name nor the files' folders are."""
        return {
            field.name: _tokenizer_stated(getattr(self, field.name))
            if field.name == "tokenizer"
            else getattr(self, field.name)
            for field in fields(self)
            if field.name not in {"name", *without}
        }


@dataclass(frozen=True)
class TextSettings(CheckedSettings):
    """Labels of texts in two local tables (CSV, TSV, JSON Lines, Parquet).

    text, second_text, label: columns; with second_text an example is a pair. metrics: accuracy, f1 and matthews, or, for labels
    that are numbers, spearman and pearson; the main metric first. tokenizer: "bytes", a folder or a Hub repository (default: the
    base's own). max_length: tokens; longer texts are cut. padding: to the longest text of a batch, or always to "max_length".
    name: in tables (default: the training file's). Raises RequestError: a file, a column or a metric is not there, or a value is
    out of range.
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

    def __post_init__(self) -> None:
        train, held_out = checked_file(self.train, "training file"), checked_file(self.held_out, "held-out file")
        check_apart([train], [held_out])
        columns = [column for column in (self.text, self.second_text, self.label) if column is not None]
        if len(set(columns)) < len(columns):
            raise RequestError(f"text, second_text and label are {columns!r}; each needs a column of its own")
        for path in (train, held_out):
            check_columns(path, columns)
        check_encoding(self.tokenizer, self.max_length, self.padding)
        metrics, name = checked_metrics(self.metrics), checked_name(self.name, train.stem)
        self._keep(train=train, held_out=held_out, metrics=metrics, name=name)

    def digest(self) -> str:
        """sha256 over the settings and the bytes of both files (and of a local tokenizer), hexadecimal."""
        files = [Path(self.train), Path(self.held_out)]
        data = [*(path.suffix.lower() for path in files), *map(file_digest, files)]
        return settings_digest("text", self._stated("train", "held_out"), data)

    def task(self, base: Base) -> TextClassification:
        """The task, its texts encoded for this base. Raises RequestError: rows without text or label, no tokenizer, ..."""
        from ninscope.neurons.tasks.labelled import from_tables
        from ninscope.neurons.tasks.text_classification import TextClassification

        regression = is_regression(self.metrics)
        files = Path(self.train), Path(self.held_out)
        data = from_tables(*files, self.text, self.second_text, self.label, regression)
        return TextClassification(
            str(self.name), data, base, self.metrics, self.tokenizer, self.max_length, self.padding
        )


@dataclass(frozen=True)
class GlueSettings(CheckedSettings):
    """A task of GLUE (cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli): training and validation split (mnli: matched).

    folder: with <name>/train-*.parquet and <name>/validation-*.parquet (default: the Hub's nyu-mll/glue). revision: of the Hub's
    data set (default: the newest, which a digest cannot tell from others). tokenizer, max_length, padding: as TextSettings.
    Raises RequestError: no such task or files, or a value is out of range.
    """

    name: str
    folder: str | Path | None = None
    revision: str | None = None
    tokenizer: str | None = None
    max_length: int = TextSettings.max_length
    padding: str = TextSettings.padding

    def __post_init__(self) -> None:
        checked_glue(self.name)
        check_encoding(self.tokenizer, self.max_length, self.padding)
        if self.folder is not None:
            if self.revision is not None:
                raise RequestError("revision belongs to the Hub's data set, and a folder has none; give one of the two")
            folder = checked_folder(self.folder)
            for paths in local_files(folder, self.name).values():
                for path in paths:
                    checked_file(path, "GLUE file")
            self._keep(folder=folder)

    @property
    def metrics(self) -> tuple[str, ...]:
        return checked_glue(self.name).metrics

    def digest(self) -> str:
        """sha256 over the settings and the bytes of local files, or the Hub's revision, hexadecimal."""
        files = {} if self.folder is None else local_files(Path(self.folder), self.name)
        data = [[split, [file_digest(path) for path in paths]] for split, paths in files.items()]
        return settings_digest("glue", self._stated("folder") | {"glue": self.name}, data)

    def task(self, base: Base) -> TextClassification:
        """The task, its texts encoded for this base. Raises RequestError: the data cannot be loaded, no tokenizer, ..."""
        from ninscope.neurons.tasks.labelled import from_glue
        from ninscope.neurons.tasks.text_classification import TextClassification

        data = from_glue(self.name, None if self.folder is None else Path(self.folder), self.revision)
        return TextClassification(self.name, data, base, self.metrics, self.tokenizer, self.max_length, self.padding)


@dataclass(frozen=True)
class LanguageSettings(CheckedSettings):
    """The next token of local text (UTF-8), in windows of `context` tokens that do not overlap.

    train, held_out: a file, a list of files, or a folder, in which `glob` finds the files, sorted by path. tokenizer, name: as
    TextSettings. Raises RequestError: a file is not there or on both sides, or a value is out of range.
    """

    train: str | Path | Sequence[str | Path]
    held_out: str | Path | Sequence[str | Path]
    context: int = 128
    tokenizer: str | None = None
    glob: str = "**/*.txt"
    name: str | None = None

    def __post_init__(self) -> None:
        train = checked_text_files(self.train, self.glob, "training file")
        held_out = checked_text_files(self.held_out, self.glob, "held-out file")
        check_apart(train, held_out)
        check_whole("context", self.context, 1, MAX_TOKENS)
        check_tokenizer(self.tokenizer)
        first = self.train if isinstance(self.train, str | Path) else train[0]
        self._keep(train=tuple(train), held_out=tuple(held_out), name=checked_name(self.name, Path(first).stem))

    def _files(self) -> tuple[list[Path], list[Path]]:
        """The training and the held-out files."""
        sides = [[side] if isinstance(side, str | Path) else side for side in (self.train, self.held_out)]
        return [Path(path) for path in sides[0]], [Path(path) for path in sides[1]]

    def digest(self) -> str:
        """sha256 over the settings and the bytes of all files, in order, hexadecimal."""
        data = [[file_digest(path) for path in paths] for paths in self._files()]
        return settings_digest("language", self._stated("train", "held_out", "glob"), data)

    def task(self, base: Base) -> LanguageModelling:
        """The task, its text encoded for this base. Raises RequestError: no tokenizer, text shorter than a window, ..."""
        from ninscope.neurons.tasks.language_modelling import LanguageModelling

        return LanguageModelling(str(self.name), *self._files(), base, self.context, self.tokenizer)


@dataclass(frozen=True)
class ImageSettings(CheckedSettings):
    """Classes of images in a folder, or in the data set "digits" (scikit-learn's, 1797 images of 8 x 8).

    folder: with train/<class>/ and held_out/<class>/ (or val, validation). image_mean, image_std: of pixels from 0 to 1, one
    number or one per channel; the model sees (pixel - mean)/std. image_size: side in pixels, for a base whose configuration names
    no size. name: in tables (default: the folder's). Raises RequestError: a folder is not there, or a value is out of range.
    """

    folder: str | Path | None = None
    dataset: str | None = None
    image_mean: float | Sequence[float] = 0.5
    image_std: float | Sequence[float] = 0.5
    image_size: int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if (self.folder is None) == (self.dataset is None):
            raise RequestError(f"give either a folder of images or a dataset ({', '.join(DATASETS)})")
        if self.dataset is not None and self.dataset not in DATASETS:
            raise RequestError(
                f"dataset {self.dataset!r} is not known; one of {', '.join(DATASETS)}, or give a folder of images"
            )
        mean = checked_numbers("image_mean", self.image_mean)
        deviation = checked_numbers("image_std", self.image_std)
        if min(deviation) <= 0:
            raise RequestError(f"image_std is {self.image_std!r}; numbers above 0 were expected")
        if self.image_size is not None:
            check_whole("image_size", self.image_size, 1, MAX_IMAGE_SIDE)
        default = str(self.dataset)
        if self.folder is not None:
            from ninscope.neurons.tasks.images import split_folders

            folder = checked_folder(self.folder)
            split_folders(folder)
            default = folder.resolve().name
            self._keep(folder=folder)
        self._keep(image_mean=mean, image_std=deviation, name=checked_name(self.name, default))

    def digest(self) -> str:
        """sha256 over the settings and every image's class and bytes, in order, hexadecimal."""
        from ninscope.neurons.tasks.images import labelled_files, read_digits

        if self.folder is None:
            digits = read_digits()
            data: list[object] = [hashlib.sha256(digits.pixels.tobytes()).hexdigest(), digits.labels.tolist()]
        else:
            files = labelled_files(Path(self.folder))
            sides = [[[file_digest(path), label] for path, label in part] for part in (files.train, files.held_out)]
            data = [files.classes, *sides]
        return settings_digest("image", self._stated("folder"), data)

    def task(self, base: Base) -> ImageClassification:
        """The task, for images of this base's size. Raises RequestError: no images, or the base takes none."""
        from ninscope.neurons.tasks.image_classification import (
            ImageClassification,
            images_of_digits,
            images_of_folder,
        )

        size = self.image_size
        images = (
            images_of_digits(base, size) if self.folder is None else images_of_folder(Path(self.folder), base, size)
        )
        mean = checked_numbers("image_mean", self.image_mean)
        deviation = checked_numbers("image_std", self.image_std)
        return ImageClassification(str(self.name), images, base, mean, deviation, size)


def _tokenizer_stated(tokenizer: str | None) -> str | None:
    """A local tokenizer by its bytes, any other by its name."""
    if tokenizer is None or tokenizer == "bytes" or not Path(tokenizer).expanduser().is_dir():
        return tokenizer
    return tokenizer_digest(Path(tokenizer).expanduser())
