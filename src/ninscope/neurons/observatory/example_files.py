"""Settings of examples that are read from files: checked when they are made, hashed when work is planned, read where it is done.

Needs no torch before examples are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ninscope.checks import MAX_SEED, checked_integer, did_you_mean
from ninscope.errors import RequestError
from ninscope.neurons.observatory.read_examples import FILE, PARTS, ReadExamples, file_classes, is_table
from ninscope.neurons.tasks.checks import (
    MAX_TOKENS,
    check_there,
    check_tokenizer,
    check_whole,
    checked_folder,
    checked_name,
    checked_numbers,
    checked_text_files,
)
from ninscope.neurons.tasks.files import file_digest, settings_digest
from ninscope.neurons.tasks.settings import DATASETS, MAX_IMAGE_SIDE, CheckedSettings
from ninscope.neurons.tasks.tables import check_columns

if TYPE_CHECKING:
    from ninscope.neurons.tasks.task import Base

PROJECT_TEXT = "project-text"
MAX_SAMPLES = 1_000_000
# Keys of a data set of the library `datasets`; the first two are needed.
_DATASET_KEYS = ("dataset", "split", "config", "revision")


@dataclass(frozen=True)
class TextExamples(CheckedSettings):
    """Windows of text, drawn by the seed from all windows that follow each other in the text, in the order of the text.

    text: one of
      a file, a list of files, or a folder of *.txt files: plain text (UTF-8), or tables (CSV, TSV, JSON Lines, Parquet);
      "project-text": the text that ships with ninscope, this project's own held-out Python;
      {"dataset": name, "split": name, "config": name, "revision": name} of the library `datasets`, by a name of the Hub or a
      folder; the last two may be left out.
    column: of the text, in tables and data sets. label: the column of the labels, or "file" for plain text, where every file is a
    class (default: no labels). tokens: how many are drawn, in whole windows; all, where there are fewer. window: tokens that are
    run together. tokenizer: "bytes", a folder or a Hub repository (default: the base's own; bytes for a base of about 256
    tokens without one). bos: let every window begin with the tokenizer's token for that, as one of its tokens. name: in tables
    (default: the first file's).

    Without labels, files and rows are joined by the tokenizer's end-of-text token. With labels of a column a row is a sample: a
    longer row than a window is cut, a shorter one left out, and both are counted in `notes`. Classes are drawn evenly.

    Raises RequestError: a file or a column is not there, plain text and tables together, or a value is out of range.
    """

    text: str | Path | Sequence[str | Path] | Mapping[str, str]
    tokens: int = 16_384
    window: int = 128
    tokenizer: str | None = None
    column: str = "text"
    label: str | None = None
    bos: bool = False
    seed: int = 0
    name: str | None = None

    def __post_init__(self) -> None:
        check_whole("window", self.window, 2, MAX_TOKENS)
        check_whole("tokens", self.tokens, self.window, MAX_SAMPLES * self.window)
        check_tokenizer(self.tokenizer)
        checked_integer("seed", self.seed, 0, MAX_SEED)
        if not isinstance(self.bos, bool):
            raise RequestError(f"bos is {self.bos!r}; True or False was expected")
        for key, column in (("column", self.column), ("label", self.label)):
            if (column is not None or key == "column") and (not isinstance(column, str) or not column):
                raise RequestError(f"{key} is {column!r}; the name of a column was expected")
        if self.label == self.column:
            raise RequestError(f"text and labels are both in column {self.column!r}; each needs a column of its own")
        if isinstance(self.text, Mapping):
            text = _checked_dataset(self.text)
            self._keep(text=text, name=checked_name(self.name, text["dataset"]))
            return
        shipped = self.text == PROJECT_TEXT
        files = [project_text()] if shipped else checked_text_files(self.text, "**/*.txt", "text")
        self._check_files(files)
        self._keep(text=tuple(files), name=checked_name(self.name, PROJECT_TEXT if shipped else files[0].stem))

    def _check_files(self, files: Sequence[Path]) -> None:
        tables = [path for path in files if is_table(path)]
        if tables and len(tables) < len(files):
            plain = next(path for path in files if not is_table(path))
            raise RequestError(
                f"{tables[0].name} is a table and {plain.name} plain text; give the two as texts of their own"
            )
        for path in tables:
            check_columns(path, [self.column, *([] if self.label is None else [self.label])])
        if not tables and self.label not in (None, FILE):
            raise RequestError(
                f"label is {self.label!r}, and plain text has no columns; give label = {FILE!r}, so that every file is a class, "
                "or a table"
            )
        if not tables and self.label == FILE and len(files) < 2:
            raise RequestError(f"label is {FILE!r}, and there is one file; give two or more, each of which is a class")

    @property
    def files(self) -> tuple[Path, ...]:
        """None of a data set."""
        if isinstance(self.text, Mapping):
            return ()
        return tuple(Path(path) for path in ([self.text] if isinstance(self.text, str | Path) else self.text))

    def digest(self) -> str:
        """sha256 over the settings and the bytes of all files, in order, hexadecimal. Of a data set of the Hub the name and the
        revision; without a revision the newest is read, which a digest cannot tell from others."""
        data: list[object] = [[path.suffix.lower(), file_digest(path)] for path in self.files]
        if self.label == FILE:
            data += list(file_classes(self.files))
        return settings_digest("texts", self._stated(*(["text"] if self.files else [])), data)

    def read(self, base: Base) -> ReadExamples:
        """Windows for this base. Raises RequestError: no tokenizer, a vocabulary that does not fit, text that is no UTF-8 or
        shorter than a window, rows without a text or a label, a class without samples. Raises CheckpointError (missing): the Hub
        does not give a tokenizer or the data."""
        from ninscope.neurons.observatory.example_texts import read_texts

        return read_texts(self, base)


@dataclass(frozen=True)
class ImageExamples(CheckedSettings):
    """Labelled images: a folder of them, or the data set "digits" (scikit-learn's, 1797 images of 8 x 8).

    folder: with a folder of images for each class; or with train/ and held_out/ (or val, validation), which have these folders
    each, of which `part` says one. samples: how many are drawn by the seed, evenly over classes; all, where there are fewer.
    image_mean, image_std, image_size, name: as of a task's ImageSettings.

    Raises RequestError: a folder is not there, or a value is out of range.
    """

    folder: str | Path | None = None
    dataset: str | None = None
    samples: int = 1024
    part: str = PARTS[0]
    image_mean: float | Sequence[float] = 0.5
    image_std: float | Sequence[float] = 0.5
    image_size: int | None = None
    seed: int = 0
    name: str | None = None

    def __post_init__(self) -> None:
        if (self.folder is None) == (self.dataset is None):
            raise RequestError(f"give either a folder of images or a dataset ({', '.join(DATASETS)})")
        if self.dataset is not None and self.dataset not in DATASETS:
            raise RequestError(
                f"dataset {self.dataset!r} is not known; one of {', '.join(DATASETS)}, or give a folder of images"
            )
        if self.part not in PARTS:
            raise RequestError(f"part is {self.part!r}; one of {', '.join(PARTS)}")
        check_whole("samples", self.samples, 1, MAX_SAMPLES)
        checked_integer("seed", self.seed, 0, MAX_SEED)
        mean, deviation = checked_numbers("image_mean", self.image_mean), checked_numbers("image_std", self.image_std)
        if min(deviation) <= 0:
            raise RequestError(f"image_std is {self.image_std!r}; numbers above 0 were expected")
        if self.image_size is not None:
            check_whole("image_size", self.image_size, 1, MAX_IMAGE_SIDE)
        default = str(self.dataset)
        if self.folder is not None:
            folder = checked_folder(self.folder)
            default = folder.resolve().name
            self._keep(folder=folder)
        self._keep(image_mean=mean, image_std=deviation, name=checked_name(self.name, default))

    def digest(self) -> str:
        """sha256 over the settings and every image's class and bytes, in order, hexadecimal."""
        from ninscope.neurons.observatory.example_images import image_files, pixels_digest

        if self.folder is None:
            data: list[object] = [pixels_digest()]
        else:
            classes, images = image_files(Path(self.folder), self.part)
            data = [list(classes), [[file_digest(path), label] for path, label in images]]
        return settings_digest("images", self._stated("folder"), data)

    def read(self, base: Base) -> ReadExamples:
        """Images of this base's size. Raises RequestError: no images, one that cannot be read, or the base takes none."""
        from ninscope.neurons.observatory.example_images import read_images

        return read_images(self, base)


# --- what both kinds share ----------------------------------------------------------------------------------
def project_text() -> Path:
    """The held-out text that ships: beside the installed packages, or in the source tree.

    Raises RequestError: this installation has none.
    """
    import ninscope

    package = Path(ninscope.__file__).resolve().parent
    for shipped in (package.parent / "ninscope_pipeline" / "shipped", package.parents[1]):
        if (file := shipped / "data" / PROJECT_TEXT / "held_out.txt").is_file():
            return file
    raise RequestError(f"{PROJECT_TEXT} is not there; install ninscope with its data, or give another text")


def _checked_dataset(given: Mapping[str, str]) -> dict[str, str]:
    for key, value in given.items():
        if key not in _DATASET_KEYS:
            near = did_you_mean(str(key), _DATASET_KEYS) or f"; it has {', '.join(_DATASET_KEYS)}"
            raise RequestError(f"text has no key {key!r}{near}")
        if not isinstance(value, str) or not value:
            raise RequestError(f"{key} of the data set is {value!r}; a name was expected")
    for key in _DATASET_KEYS[:2]:
        if key not in given:
            raise RequestError(f'text names no {key}; {{"dataset": ..., "split": ...}} was expected')
    check_there("data set", given["dataset"])
    return dict(given)
