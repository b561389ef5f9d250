"""What the sections [[finetune]] and [[activations]] share: which checkpoints are run, and on which examples."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ninscope.errors import RequestError
from ninscope.neurons.finetuning.recipe import DEVICES, MOST_THREADS, Recipe
from ninscope.neurons.inhibition import EPSILON, LAYERS, NEURONS
from ninscope.neurons.tasks.forecast_settings import ForecastSettings
from ninscope.neurons.tasks.settings import GlueSettings, ImageSettings, LanguageSettings, TextSettings
from ninscope_pipeline.request.choices import one_of
from ninscope_pipeline.request.models import NAME, Name, Strict

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
ModelRunRevisions = Literal["all", "last"] | list[Annotated[str, Field(min_length=1)]]
Layers = str | list[Annotated[str, Field(min_length=1)]]


def task_of(table: Mapping[str, Any]) -> TaskSettings:
    """The settings that the table `task` describes. Raises RequestError: no such kind or key, or what the settings raise."""
    kind = table.get("kind")
    if kind not in TASKS:
        raise RequestError(f"task.kind is {kind!r}; give one of {', '.join(TASKS)}")
    known = {field.name for field in fields(TASKS[kind])}
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items() if key != "kind"}
    if unknown := sorted(given.keys() - known):
        raise RequestError(f"task.{unknown[0]}: {kind} has no such key; its keys: {', '.join(sorted(known))}")
    try:
        return TASKS[kind](**given)
    except TypeError:  # an argument that has no default
        absent = sorted(
            field.name
            for field in fields(TASKS[kind])
            if field.name not in given and field.default is field.default_factory
        )
        raise RequestError(f"{kind} needs task.{', task.'.join(absent)}; add it") from None


def with_paths(sections: Any, folder: Path) -> Any:
    """A section, or a list of them, with the paths of its tasks from `folder`; what is wrong is left for the checks."""
    return (
        [_placed(section, folder) for section in sections] if isinstance(sections, list) else _placed(sections, folder)
    )


def _placed(section: Any, folder: Path) -> Any:
    task = section.get("task") if isinstance(section, dict) else None
    if not isinstance(task, dict):
        return section
    changed: dict[str, Any] = {}
    for key in _PATHS.get(task["kind"], ()) if isinstance(task.get("kind"), str) else ():
        value = task.get(key)
        if isinstance(value, str) and value:
            changed[key] = absolute(value, folder)
        elif isinstance(value, list) and all(isinstance(name, str) for name in value):
            changed[key] = [absolute(name, folder) for name in value]
    tokenizer = task.get("tokenizer")
    if isinstance(tokenizer, str) and tokenizer not in ("", "bytes") and Path(absolute(tokenizer, folder)).is_dir():
        changed["tokenizer"] = absolute(tokenizer, folder)
    return section | {"task": task | changed}


def absolute(text: str, folder: Path) -> str:
    """A path from `folder`; what can be none is left as it is."""
    try:
        return str((folder.resolve() / Path(text).expanduser()).resolve())
    except (OSError, RuntimeError, ValueError):
        return text


class ModelRunSection(Strict):
    """What both sections have: of which checkpoints, and on which examples. task: as `task_of` takes it."""

    suite: Name | None = None
    model: Name | None = None
    revisions: ModelRunRevisions = "all"
    task: dict[str, Any]
    batch_size: int = Recipe.batch_size
    layers: Layers = LAYERS
    neurons: Annotated[str, one_of(NEURONS)] = NEURONS[0]
    epsilon: float = Field(default=EPSILON, ge=0, allow_inf_nan=False)
    threads: int = Field(default=Recipe.threads, ge=1, le=MOST_THREADS)
    device: Annotated[str, one_of(DEVICES)] = Recipe.device

    @field_validator("task")
    @classmethod
    def _makes_sense(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            name = task_of(value).name
        except RequestError as error:
            raise ValueError(str(error)) from None
        if name is None or not re.fullmatch(NAME, name):
            raise ValueError(
                f"the task is called {name!r}, which cannot be part of a file name; give another task.name"
            )
        return value

    @field_validator("layers")
    @classmethod
    def _names_some(cls, value: Layers) -> Layers:
        if not value:
            raise ValueError('give "middle:4", "all", or names of modules')
        return value

    @property
    def settings(self) -> TaskSettings:
        return task_of(self.task)


def check_tasks_differ(name: str, sections: Sequence["ModelRunSection"]) -> None:
    """Raises ValueError where two sections have the same task of one model: no table could tell them apart.

    name: of the section.
    """
    seen = set()
    for section in sections:
        task = section.settings.name
        if (section.suite, section.model, task) in seen:
            raise ValueError(
                f"two sections [[{name}]] have the task {task!r} and the same model; give each its own task.name"
            )
        seen.add((section.suite, section.model, task))
