"""The section [[neurons]] of a DAG file: which measures, of which checkpoints, on which examples."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ninscope.checks import MAX_SEED
from ninscope.errors import RequestError
from ninscope.neurons.finetuning.recipe import DEVICES, MOST_THREADS
from ninscope.neurons.observatory.example_files import PROJECT_TEXT, ImageExamples, TextExamples
from ninscope.neurons.observatory.measure import Measure
from ninscope.neurons.observatory.registry import chosen
from ninscope_pipeline.request.choices import one_of
from ninscope_pipeline.request.models import NAME, Name, Strict
from ninscope_pipeline.stages.model_runs.sections import ModelRunRevisions, absolute

STORED = "stored"
DTYPES = (STORED, "float32", "bfloat16", "float16")
DIGITS, BYTES = "digits", "bytes"  # images that need no files, and the tokenizer that needs none
MAX_BATCH = 1_000_000

Text = Annotated[str, Field(min_length=1)]


class DatasetText(Strict):
    """Text of a data set of the library `datasets`, by a name of the Hub or a folder."""

    dataset: Text
    split: Text
    config: Text | None = None
    revision: Text | None = None


class FolderOfImages(Strict):
    """Images in folders by class, or "digits". part, samples, image_mean, image_std, image_size: as `ImageExamples`."""

    folder: Text | None = None
    dataset: Text | None = None
    part: Text = ImageExamples.part
    samples: int = ImageExamples.samples
    image_mean: float | list[float] = 0.5
    image_std: float | list[float] = 0.5
    image_size: int | None = None


class NeuronsSection(Strict):
    """One of [[neurons]]: measures of the checkpoints of a model, or of all models, on one text or one set of images.

    measures: names, or "all" of those that there are. text: "project-text" (which ships), files, a folder, or a data set. images:
    "digits", a folder, or more of it in a table. name: of the examples, in tables. column: of the text, in tables of texts. label:
    the column of classes there, or "file". tokens: how many are drawn. window: tokens that are run together. batch_size:
    samples that are run at once (None: as many as memory allows). tokenizer: "bytes", a
    folder or a Hub repository (None: the checkpoint's own). bos: every window begins with the special token. dtype: "stored" is
    the checkpoint's own precision. neuron_values: keep the values of single neurons too. other_seeds: models that are one training
    at several seeds, where no `seeds` in [[models]] says so.
    """

    suite: Name | None = None
    model: Name | None = None
    revisions: ModelRunRevisions = "all"
    measures: Literal["all"] | list[Text] = "all"
    text: Text | list[Text] | DatasetText | None = None
    images: Text | FolderOfImages | None = None
    name: Name | None = None
    column: Text = TextExamples.column
    label: Text | None = None
    tokens: int = TextExamples.tokens
    window: int = TextExamples.window
    batch_size: int | None = Field(default=None, ge=1, le=MAX_BATCH)
    tokenizer: Text | None = None
    bos: bool = False
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    threads: int = Field(default=1, ge=1, le=MOST_THREADS)
    device: Annotated[str, one_of(DEVICES)] = "cpu"
    dtype: Annotated[str, one_of(DTYPES)] = STORED
    neuron_values: bool = False
    other_seeds: list[Name] = Field(default=[])

    @field_validator("measures", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "all":
            raise ValueError(f'give "all" or a list of names, such as ["{value}"]')
        return value

    @field_validator("measures")
    @classmethod
    def _known(cls, value: str | list[str]) -> str | list[str]:
        try:
            chosen(value)
        except RequestError as error:
            raise ValueError(str(error)) from None
        if isinstance(value, list) and len(set(value)) < len(value):
            raise ValueError("a measure is listed twice; list each one once")
        return value

    @model_validator(mode="after")
    def _makes_sense(self) -> "NeuronsSection":
        if self.text is not None and self.images is not None:
            raise ValueError(
                "text and images are both given; give one, and the other in a section [[neurons]] of its own"
            )
        if isinstance(self.text, list) and len(set(self.text)) < len(self.text):
            raise ValueError("text: a file is listed twice; list each one once")
        if self.images is not None and self.label is not None:
            raise ValueError("label is a column of texts, and images have their folders as labels; leave it out")
        if len(set(self.other_seeds)) < len(self.other_seeds):
            raise ValueError("other_seeds: a model is listed twice; list each one once")
        try:
            name = self.examples_name
        except RequestError as error:
            raise ValueError(str(error)) from None
        if not re.fullmatch(NAME, name):
            raise ValueError(
                f"the examples are called {name!r}, which cannot be part of a file name; give another name"
            )
        return self

    @property
    def examples_name(self) -> str:
        """What tables call the examples. Raises RequestError: as `examples`."""
        return str(self.examples().name)

    @property
    def named(self) -> bool:
        """Whether measures are asked for by name, so that one that cannot be taken is a failure."""
        return self.measures != "all"

    def examples(self) -> TextExamples | ImageExamples:
        """What the models are run on. Raises RequestError: a file or a column is not there, or a value is out of range."""
        if self.images is not None:
            where = {"dataset" if self.images == DIGITS else "folder": self.images}
            settings = self.images.model_dump() if isinstance(self.images, FolderOfImages) else where
            return ImageExamples(**settings, seed=self.seed, name=self.name)
        text = PROJECT_TEXT if self.text is None else self.text
        return TextExamples(
            text.model_dump(exclude_none=True) if isinstance(text, DatasetText) else text,
            self.tokens,
            self.window,
            self.tokenizer,
            self.column,
            self.label,
            self.bos,
            self.seed,
            self.name,
        )

    def chosen(self) -> tuple[Measure, ...]:
        """The measures that are asked for, in the order of names."""
        return chosen(self.measures)


def with_paths(sections: Any, folder: Path) -> Any:
    """A section, or a list of them, with its paths from `folder`; what is wrong is left for the checks."""
    return [_placed(one, folder) for one in sections] if isinstance(sections, list) else _placed(sections, folder)


def _placed(section: Any, folder: Path) -> Any:
    if not isinstance(section, dict):
        return section
    changed: dict[str, Any] = {}
    text, images, tokenizer = section.get("text"), section.get("images"), section.get("tokenizer")
    if isinstance(text, str) and text not in ("", PROJECT_TEXT):
        changed["text"] = absolute(text, folder)
    elif isinstance(text, list) and all(isinstance(one, str) for one in text):
        changed["text"] = [absolute(one, folder) for one in text]
    elif isinstance(text, dict) and isinstance(there := _placed_folder(text.get("dataset"), folder), str):
        changed["text"] = text | {"dataset": there}
    if isinstance(images, str) and images not in ("", DIGITS):
        changed["images"] = absolute(images, folder)
    elif isinstance(images, dict) and isinstance(images.get("folder"), str):
        changed["images"] = images | {"folder": absolute(images["folder"], folder)}
    if tokenizer != BYTES and isinstance(there := _placed_folder(tokenizer, folder), str):
        changed["tokenizer"] = there
    return section | changed


def _placed_folder(given: object, folder: Path) -> str | None:
    """The path of what is a folder or a file here, or can be nothing else; None of anything else, such as a name on a Hub."""
    if not isinstance(given, str) or not given:
        return None
    path = absolute(given, folder)
    return path if Path(path).exists() or given.startswith((".", "/", "~")) else None


def check_differ(sections: Sequence[NeuronsSection]) -> None:
    """Raises ValueError where two sections have the same examples' name, of the same models: no table could tell them apart."""
    seen = set()
    for section in sections:
        name = section.examples_name
        if (section.suite, section.model, name) in seen:
            raise ValueError(
                f"two sections [[neurons]] have the examples {name!r} and the same model; give each its own name"
            )
        seen.add((section.suite, section.model, name))
