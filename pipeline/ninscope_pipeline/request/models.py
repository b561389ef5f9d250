"""The sections [[models]] and [[suites]] of a DAG file: which models, and which revisions of them."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints, field_validator, model_validator

from ninscope.checkpoints import suites
from ninscope.checkpoints.revisions import RevisionPattern, RevisionSelection, in_step_order
from ninscope.checkpoints.source import Source, open_source
from ninscope.errors import RequestError
from ninscope.locating import named_revision

NAME = r"^[A-Za-z0-9](?:[A-Za-z0-9._]|-(?!-)){0,95}\Z"  # becomes part of file names, where "--" parts suite and model
NAME_IN_WORDS = (
    'give letters, digits, ".", "_" and single "-", at most 96 of them, of which the first is a letter or a digit'
)
Name = Annotated[str, StringConstraints(pattern=re.compile(NAME))]
# What may still hold {seed}.
_NAME_OF_SEEDS = re.compile(NAME.replace(r"(?:", r"(?:\{seed\}|", 1))
SEED = "{seed}"
# The source of a model that was measured while it trained (live/): its weights are nowhere to be read again.
TRAINING = "a training that was measured while it ran"
REVISIONS = 'give "all", a list of distinct revision names, a pattern with {step}'


class Strict(BaseModel):
    """A section of a DAG file: unknown keys and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RevisionsKey(Strict):
    """`ninscope.checkpoints.revisions.RevisionSelection`, with its field names but `from` and `to`."""

    pattern: str | None = None
    steps: list[Annotated[int, Field(ge=0, lt=10**15)]] | None = Field(default=None, min_length=1)
    start: int = Field(default=0, ge=0, alias="from")
    stop: int | None = Field(default=None, ge=0, alias="to")
    every: int = Field(default=1, ge=1)
    log: int | None = Field(default=None, ge=2)

    def selection(self) -> RevisionSelection:
        pattern = None if self.pattern is None else RevisionPattern(self.pattern)
        steps = None if self.steps is None else tuple(sorted(set(self.steps)))
        return RevisionSelection(pattern, steps, self.start, self.stop, self.every, self.log)

    @model_validator(mode="after")
    def _makes_sense(self) -> "RevisionsKey":
        if self.stop is not None and self.stop < self.start:
            raise ValueError(f"from = {self.start} to {self.stop} contains no step; give a larger to")
        if self.steps is not None and (self.start, self.stop, self.every) != (0, None, 1):
            raise ValueError("give either steps or a range (from, to, every), not both")
        try:
            self.selection()
        except RequestError as error:
            raise ValueError(str(error)) from None
        return self


# "all", a list of names, a pattern of names with {step} in it, or a selection.
AnyRevisions = Literal["all"] | str | list[Annotated[str, Field(min_length=1)]] | RevisionsKey


# Where results lie: one place or several.
Evaluations = str | list[str]
_SIZE = re.compile(r"(?<![A-Za-z0-9.])[0-9]+(?:\.[0-9]+)?[KMBT](?![A-Za-z0-9])", re.IGNORECASE)


def paths_of(evaluations: Evaluations | None) -> tuple[str, ...]:
    """Every path of a key `evaluations`."""
    return () if evaluations is None else (evaluations,) if isinstance(evaluations, str) else tuple(evaluations)


def _checked_evaluations(value: Evaluations | None) -> Evaluations | None:
    """Raises ValueError where no path is named, or one twice."""
    paths = paths_of(value)
    if value is not None and (not all(paths) or not paths or len(set(paths)) < len(paths)):
        raise ValueError("name a file, a folder or a pattern, or several of them in a list, each once")
    return value


def _for_model(evaluations: Evaluations | None, model: str) -> Evaluations | None:
    """The paths with {model} and {size} replaced. Raises ValueError: the name has no size."""
    size = _SIZE.search(model)
    if size is None and any("{size}" in path for path in paths_of(evaluations)):
        raise ValueError(
            f"evaluations has {{size}}, and the model's name {model!r} has no size, such as 70m; write it out"
        )
    paths = [
        path.replace("{model}", model).replace("{size}", size.group() if size else "") for path in paths_of(evaluations)
    ]
    return None if evaluations is None else paths[0] if isinstance(evaluations, str) else paths


def _checked_revisions(value: AnyRevisions) -> AnyRevisions:
    """Raises ValueError for what no revision can be."""
    if isinstance(value, list) and (not value or len(set(value)) != len(value)):
        raise ValueError(f"{REVISIONS}, or a table")
    if isinstance(value, str) and value != "all":
        try:
            RevisionPattern(value)
        except RequestError:
            raise ValueError(f"{REVISIONS}, or a table") from None
    return value


class ModelSection(Strict):
    """One model's checkpoints, or with `seeds` one a seed, {seed} in `model` and `source` being replaced.

    evaluations: files, folders or patterns of losses and benchmark results, shown beside E. base: the checkpoints are LoRA
    adapters, and each is merged into this model, at base_revision (`open_source`). baseline: what E compares with: a revision or
    a step among `revisions`, or "first".
    """

    suite: Name
    model: str
    source: str = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1)
    revisions: AnyRevisions = "all"
    evaluations: Evaluations | None = None
    base: Annotated[str, Field(min_length=1)] | None = None
    base_revision: Annotated[str, Field(min_length=1)] | None = None
    baseline: Annotated[str, Field(min_length=1)] | Annotated[int, Field(ge=0)] | None = None
    _one_of: str | None = PrivateAttr(default=None)

    @property
    def one_of(self) -> str | None:
        """The name, with {seed} in it, that all seeds of one training have; None of a model that is no seed of several."""
        return self._one_of

    _revisions = field_validator("revisions")(_checked_revisions)
    _evaluations = field_validator("evaluations")(_checked_evaluations)

    @field_validator("model")
    @classmethod
    def _fit_for_file_names(cls, value: str) -> str:
        if not _NAME_OF_SEEDS.match(value):
            raise ValueError("a model's name may have letters, digits, dots, underscores and single hyphens only")
        return value

    @model_validator(mode="after")
    def _revision_of_a_base(self) -> "ModelSection":
        if self.base_revision is not None and self.base is None:
            raise ValueError("base_revision needs base; name the base model too")
        return self

    @model_validator(mode="after")
    def _seeds_fit_the_names(self) -> "ModelSection":
        if self.seeds is None:
            if SEED in self.model:
                raise ValueError("{seed} in model needs the key seeds, such as seeds = [1, 2]")
        elif SEED not in self.model or SEED not in self.source:
            raise ValueError("seeds needs {seed} in both model and source")
        elif len(set(self.seeds)) != len(self.seeds):
            raise ValueError("a seed is listed twice; list each one once")
        return self

    def single_models(self) -> Iterator["ModelSection"]:
        """Itself, or one model a seed."""
        for seed in self.seeds or ():
            replaced: dict[str, Any] = {
                name: value.replace(SEED, str(seed))
                for name in ("model", "source", "base", "base_revision", "baseline")
                if isinstance(value := getattr(self, name), str)
            }
            paths = [path.replace(SEED, str(seed)) for path in paths_of(self.evaluations)]
            if self.evaluations is not None:
                replaced["evaluations"] = _for_model(
                    paths[0] if isinstance(self.evaluations, str) else paths, replaced["model"]
                )
            of_seed = self.model_copy(update=replaced | {"seeds": None})
            of_seed._one_of = self.model
            yield of_seed
        if self.seeds is None:
            yield self.model_copy(update={"evaluations": _for_model(self.evaluations, self.model)})

    @property
    def evaluation_paths(self) -> tuple[str, ...]:
        """Where its results lie; none where the key is left out."""
        return paths_of(self.evaluations)

    def opened(self) -> Source:
        """Where the checkpoints are. Raises RequestError."""
        return open_source(self.source, self.base, self.base_revision)

    def selection(self) -> RevisionSelection | None:
        """By which revisions are chosen, where they are not "all" or listed by name."""
        if isinstance(self.revisions, RevisionsKey):
            return self.revisions.selection()
        if isinstance(self.revisions, str) and self.revisions != "all":
            return RevisionSelection(RevisionPattern(self.revisions))
        return None

    def chosen(self, source: Source) -> list[tuple[str, int | None]]:
        """(revision, step) of the checkpoints that are asked for, in step order. Raises RequestError."""
        if (selection := self.selection()) is not None:
            return list(selection.chosen(_named(source, selection)))
        names = source.revisions()
        if isinstance(self.revisions, list):
            named = [named_revision(source, name) for name in self.revisions]
            if twice := [name for number, name in enumerate(named) if name in named[:number]]:
                raise RequestError(f"{self.model}: revisions lists {twice[0]} twice, by its name and by its step")
            names = in_step_order(named)
        return [(name, source.step_of(name)) for name in names]

    def siblings(self, source: Source) -> list[tuple[str, int | None]]:
        """(revision, step) of everything the source has beside: what the audit compares with."""
        selection = self.selection()
        if selection is not None and selection.pattern is not None:
            steps = RevisionSelection(selection.pattern)
            try:
                return list(steps.chosen(source.names()))
            except RequestError:  # none is there; where the run asks for them, it says so
                return []
        return [(name, source.step_of(name)) for name in source.revisions()]


def _named(source: Source, selection: RevisionSelection) -> list[str]:
    """What a selection chooses from: a pattern says by itself which names are revisions'."""
    return source.revisions() if selection.pattern is None else source.names()


class SuiteSection(Strict):
    """A published suite: its models, or some of them, at its revisions, or some of them.

    evaluations: where the results of all of them lie.
    """

    preset: Literal["pythia", "pythia-deduped", "polypythias", "olmo", "olmo-2"]
    models: list[str] | None = Field(default=None, min_length=1)
    revisions: RevisionsKey | None = None
    evaluations: Evaluations | None = None

    _evaluations = field_validator("evaluations")(_checked_evaluations)

    @model_validator(mode="after")
    def _known_models(self) -> "SuiteSection":
        known = [repository.split("/")[1] for repository in suites.SUITES[self.preset].repositories]
        for name in self.models or ():
            if name not in known:
                raise ValueError(f"{self.preset} has no model {name!r}; its models: {', '.join(known)}")
        if self.models is not None and len(set(self.models)) != len(self.models):
            raise ValueError("a model is listed twice; list each one once")
        return self

    def single_models(self) -> Iterator[ModelSection]:
        """Its models, each with its repository."""
        suite = suites.SUITES[self.preset]
        for repository in suite.repositories:
            name = repository.split("/")[1]
            if self.models is None or name in self.models:
                yield ModelSection(
                    suite=suite.name,
                    model=name,
                    source=repository,
                    revisions=self._revisions_of(suite),
                    evaluations=_for_model(self.evaluations, name),
                )

    def _revisions_of(self, suite: suites.PublishedSuite) -> RevisionsKey:
        """The suite's own, or those of them that the section asks for."""
        pattern, known = suite.revisions.pattern, suite.revisions.steps
        if pattern is None:
            raise ValueError(f"the suite {suite.name} has no pattern of revision names; it needs one")
        given = {} if self.revisions is None else self.revisions.model_dump(by_alias=True, exclude_defaults=True)
        narrowed = RevisionsKey.model_validate({"pattern": pattern.text} | given)
        if known is None or narrowed.pattern != pattern.text or narrowed.steps is not None:
            return narrowed
        # Among the steps that there should be, so that an absent one is missed.
        chosen = narrowed.selection().chosen([pattern.name_of(step) for step in known])
        return RevisionsKey(pattern=pattern.text, steps=[step for _, step in chosen])
