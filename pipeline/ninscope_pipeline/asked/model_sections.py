"""The sections [[finetune]] and [[activations]] of a DAG file: what is done by running a model, not by reading its weights."""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ninscope.errors import RequestError
from ninscope.neurons.finetuning.recipe import METHODS, MOST_THREADS, NONE, Inhibition, Recipe
from ninscope.neurons.tasks.forecast_settings import ForecastSettings
from ninscope.neurons.tasks.settings import GlueSettings, ImageSettings, LanguageSettings, TextSettings
from ninscope_pipeline.asked.models import NAME, Name, Strict

# The kind of a task -> its settings, whose fields are the other keys of the table.
TASKS = {
    "text_classification": TextSettings, "glue": GlueSettings, "language_modelling": LanguageSettings,
    "image_classification": ImageSettings, "forecasting": ForecastSettings,
}  # fmt: skip
# Keys of a task that name files, by its kind; a tokenizer is a path where there is one.
_PATHS = {
    "text_classification": ("train", "held_out"), "glue": ("folder",), "language_modelling": ("train", "held_out"),
    "image_classification": ("folder",), "forecasting": ("root",),
}  # fmt: skip

TaskSettings = TextSettings | GlueSettings | LanguageSettings | ImageSettings | ForecastSettings
Revisions = Literal["all", "last"] | list[Annotated[str, Field(min_length=1)]]
Layers = str | list[Annotated[str, Field(min_length=1)]]


def task_of(table: Mapping[str, Any]) -> TaskSettings:
    """The settings that the table `task` describes. Raises RequestError: no such kind or key, or what the settings raise."""
    kind = table.get("kind")
    if kind not in TASKS:
        raise RequestError(f"task.kind is {kind!r}; one of {', '.join(TASKS)}")
    known = {field.name for field in fields(TASKS[kind])}
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items() if key != "kind"}
    if unknown := sorted(given.keys() - known):
        raise RequestError(f"task.{unknown[0]}: no such key of {kind}; there are {', '.join(sorted(known))}")
    try:
        return TASKS[kind](**given)
    except TypeError:  # an argument that has no default
        absent = sorted(
            field.name
            for field in fields(TASKS[kind])
            if field.name not in given and field.default is field.default_factory
        )
        raise RequestError(f"task.{', task.'.join(absent)}: needed by {kind}; add it") from None


def with_paths(raw: dict, folder: Path) -> dict:
    """A DAG file's content with the paths of its tasks from `folder`; what is not as it should be is left for the checks."""

    def placed(section):
        task = section.get("task") if isinstance(section, dict) else None
        if not isinstance(task, dict):
            return section
        changed = {}
        for key in _PATHS.get(task.get("kind"), ()) if isinstance(task.get("kind"), str) else ():
            value = task.get(key)
            if isinstance(value, str) and value:
                changed[key] = _absolute(value, folder)
            elif isinstance(value, list) and all(isinstance(one, str) for one in value):
                changed[key] = [_absolute(one, folder) for one in value]
        tokenizer = task.get("tokenizer")
        if (
            isinstance(tokenizer, str)
            and tokenizer not in ("", "bytes")
            and Path(_absolute(tokenizer, folder)).is_dir()
        ):
            changed["tokenizer"] = _absolute(tokenizer, folder)
        return section | {"task": task | changed}

    found = dict(raw)
    for name in ("finetune", "activations"):
        if name in raw:
            value = raw[name]
            found[name] = [placed(one) for one in value] if isinstance(value, list) else placed(value)
    return found


def _absolute(text: str, folder: Path) -> str:
    try:
        return str((folder.resolve() / Path(text).expanduser()).resolve())
    except (OSError, RuntimeError, ValueError):
        return text


class _OfModels(Strict):
    """What both sections have: of which checkpoints, and on which examples. task: as `task_of` takes it."""

    suite: Name | None = None
    task: dict[str, Any]
    batch_size: int = 32
    layers: Layers = "middle:4"
    neurons: Literal["features", "positions"] = "features"
    epsilon: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    threads: int = Field(default=1, ge=1, le=MOST_THREADS)
    device: Literal["cpu", "cuda"] = "cpu"

    @field_validator("task")
    @classmethod
    def _makes_sense(cls, value):
        try:
            name = task_of(value).name
        except RequestError as error:
            raise ValueError(str(error)) from None
        if not re.fullmatch(NAME, name):
            raise ValueError(
                f"the task is called {name!r}, which cannot be part of a file's name; give it another (task.name)"
            )
        return value

    @field_validator("layers")
    @classmethod
    def _names_some(cls, value):
        if not value:
            raise ValueError('give "middle:4", "all", or names of modules')
        return value

    @property
    def settings(self) -> TaskSettings:
        return task_of(self.task)


class FineTune(_OfModels):
    """One of [[finetune]]: every method with every learning rate and seed, from every revision of a model.

    revisions: which of those that [[models]] asks for: "last", "all", or names. The other keys: as `Recipe` and `Inhibition`.
    """

    model: Name
    revisions: Revisions = "last"
    methods: list[Literal[METHODS]] = Field(default=list(METHODS), min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0, 1, 2], min_length=1)
    learning_rates: list[float] = Field(default=[2e-5], min_length=1)
    steps: int | None = None
    epochs: int = Recipe.epochs
    warmup: float = Recipe.warmup
    weight_decay: float = Recipe.weight_decay
    clip: float = Recipe.clip
    evaluate_every: int | None = None
    select: str | dict[str, float | int] = "top-1"
    late_start: int = Field(default=10, ge=0)
    forget: int | None = Field(default=None, ge=1)
    precision: Literal["float32", "bf16"] = "float32"

    @model_validator(mode="after")
    def _makes_recipes(self):
        for name in ("methods", "seeds", "learning_rates"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name}: give distinct ones")
        if self.steps is not None and "epochs" in self.model_fields_set:
            raise ValueError("give steps or epochs, not both")
        try:
            list(self.recipes())
        except RequestError as error:
            raise ValueError(str(error)) from None
        return self

    def recipes(self) -> Iterator[Recipe]:
        """Raises RequestError."""
        layers = self.layers if isinstance(self.layers, str) else tuple(self.layers)
        inhibition = Inhibition(layers, self.select, self.neurons, self.late_start, self.forget, self.epsilon)
        # Without MEmeL all that matters is where phi is looked at: so fine-tunes of several sections are one.
        looked_at = Inhibition(layers, neurons=self.neurons, epsilon=self.epsilon)
        shared = {
            name: getattr(self, name)
            for name in (
                "steps", "epochs", "batch_size", "warmup", "weight_decay", "clip", "evaluate_every", "threads", "device",
                "precision",
            )
        }  # fmt: skip
        for method, rate, seed in itertools.product(self.methods, self.learning_rates, self.seeds):
            where = looked_at if method == NONE else inhibition
            yield Recipe(method, seed, rate, inhibition=where, **shared)


class Activations(_OfModels):
    """One of [[activations]]: the monosemantic scale over layers, of every checkpoint of a model, or of all models.

    Its statistics are from at most `history` batches of the task's training examples, its distribution is over the held-out
    ones. model: None for every model of the file.
    """

    model: Name | None = None
    revisions: Revisions = "all"
    layers: Layers = "all"
    history: int = Field(default=8, ge=1, le=1_000_000)
    batch_size: int = Field(default=32, ge=1)
