"""The DAG file: which models, which revisions, which analysis. TOML, checked key by key; see dags/demo.toml."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, create_model, field_validator, model_validator
from pydantic_core import ErrorDetails

from ninscope.architectures.described import Description, description_of
from ninscope.checks import did_you_mean
from ninscope.errors import RequestError
from ninscope.multifractal.emergence import MAX_REPLICATES, MIN_REPLICATES, Bootstrap
from ninscope_pipeline.request.analyses import Analysis, AnalysisSection, VariantSection, analyses
from ninscope_pipeline.request.cluster import Cluster
from ninscope_pipeline.request.models import (
    NAME,
    NAME_IN_WORDS,
    REVISIONS,
    Evaluations,
    ModelSection,
    Name,
    Strict,
    SuiteSection,
)
from ninscope_pipeline.request.toml_files import read_toml
from ninscope_pipeline.stages.registry import stages
from ninscope_pipeline.stages.stage import Stage
from ninscope_pipeline.storing.runfolder import RunFolder


class Execution(Strict):
    """How the work is split; no result depends on it. part_bytes: weights that one task of an exact analysis reads."""

    part_bytes: int = Field(default=2_000_000_000, ge=1000)


class FiguresSection(Strict):
    """In which formats every figure is written."""

    formats: list[Literal["png", "svg", "pdf"]] = Field(default=["png"], min_length=1)


class EmergenceSection(Strict):
    """E against `baseline_step` of the same model, with a bootstrap interval over samples.

    trust_duplicates: E also where another step has the same weights, so that one of them must be false. trust_unlike_counts: E
    also where other layers count than in the baseline, or 10 % more or fewer nodes.
    """

    baseline_step: int = Field(default=0, ge=0)
    replicates: int = Field(default=Bootstrap.replicates, ge=MIN_REPLICATES, le=MAX_REPLICATES)
    confidence: float = Field(default=Bootstrap.confidence, gt=0, lt=1)
    seed: int = Field(default=Bootstrap.seed, ge=0)
    trust_duplicates: bool = False
    trust_unlike_counts: bool = False


class Dag(Strict):
    """A whole DAG file: the sections that concern every stage. `dag_type` adds the stages' own.

    Once loaded, `models` has one entry a seed; `all_models` lists those of suites too.
    """

    name: Name
    models: list[ModelSection] = Field(default=[])
    suites: list[SuiteSection] = Field(default=[])
    analysis: AnalysisSection = AnalysisSection()
    variants: list[VariantSection] = Field(default=[])
    emergence: EmergenceSection = EmergenceSection()
    execution: Execution = Execution()
    cluster: Cluster = Cluster()
    figures: FiguresSection = FiguresSection()
    architecture: dict[str, Any] | None = None

    @field_validator("architecture")
    @classmethod
    def _describes_a_model(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        try:
            described(value)
        except RequestError as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _analyses_make_sense(self) -> "Dag":
        self.analyses()
        for stage in stages().values():
            stage.check(self)
        return self

    @model_validator(mode="after")
    def _models_differ(self) -> "Dag":
        own = [(suite, model) for suite, model, _ in self.own_models()]
        if not self.models and not self.suites and not own:
            sections = [stage.section.key for stage in stages().values() if stage.section and _makes_models(stage)]
            others = "".join(f", or write [{key}], which makes its own" for key in sections)
            raise ValueError(f"no [[models]] and no [[suites]]; list at least one model or suite{others}")
        seen = set()
        for suite, model in [*((model.suite, model.model) for model in self.all_models()), *own]:
            if (suite, model) in seen:
                raise ValueError(f"the model {suite}/{model} is listed twice; list it once, or rename one")
            seen.add((suite, model))
        return self

    def trusting(self, duplicates: bool, unlike_counts: bool) -> "Dag":
        """The same, with what a command line trusts beside what the file does."""
        asked = {"trust_duplicates": duplicates, "trust_unlike_counts": unlike_counts}
        trusted = {name: True for name, value in asked.items() if value}
        return self.model_copy(update={"emergence": self.emergence.model_copy(update=trusted)})

    def section(self, stage: Stage) -> Any:
        """What the file says to a stage, checked, or the section's default. Raises ValueError: the stage has no section."""
        if stage.section is None:
            raise ValueError(f"the stage {stage.name} has no section in a DAG file")
        return getattr(self, stage.section.key, stage.section.default)

    @property
    def every_stage(self) -> list[Stage]:
        """Every stage there is, in their order: a stage that asks what others have cannot import the list that it stands in."""
        return list(stages().values())

    def analyses(self) -> tuple[Analysis, ...]:
        """What is measured of every checkpoint, with the description of models of no known family."""
        with_matrices = any(stage.needs_matrices(self) for stage in stages().values())
        listed = analyses(self.analysis, self.variants, with_matrices)
        description = described(self.architecture)
        if description is None:
            return listed
        return tuple(
            replace(analysis, parameters=replace(analysis.parameters, architecture=description)) for analysis in listed
        )

    def needs_weights(self) -> bool:
        """Whether any stage needs statistics of every checkpoint's weights."""
        return any(stage.needs_weights(self) for stage in stages().values())

    def all_models(self) -> list[ModelSection]:
        """Every single model, in the order of the file, those of suites last."""
        sections: list[ModelSection | SuiteSection] = [*self.models, *self.suites]
        return [model for section in sections for model in section.single_models()]

    def own_models(self) -> list[tuple[str, str, Stage]]:
        """(suite, model, stage) of every model that a stage makes itself."""
        return [(suite, model, stage) for stage in stages().values() for suite, model in stage.own_models(self)]


def _makes_models(stage: Stage) -> bool:
    """Whether a stage can make models of its own."""
    return type(stage).own_models is not Stage.own_models


@cache
def dag_type() -> type[Dag]:
    """`Dag` with a field for the section of every stage that has one. Raises RequestError: two stages want one key."""
    fields: dict[str, Any] = {}
    for stage in stages().values():
        if (section := stage.section) is not None:
            if section.key in fields or section.key in Dag.model_fields:
                raise RequestError(f"the stage {stage.name!r} takes the section [{section.key}] of another; rename it")
            fields[section.key] = (section.type, Field(default=section.default))
    several = [
        stage.section.key for stage in stages().values() if stage.section and isinstance(stage.section.default, list)
    ]
    validators = {"_one_or_several": field_validator(*several, mode="before")(_one_or_several)} if several else {}
    return create_model("DagFile", __base__=Dag, __validators__=validators, **fields)


def _one_or_several(value: Any) -> Any:
    """[finetune] is a table, [[finetune]] a list of them."""
    return [value] if isinstance(value, dict) else value


def described(architecture: dict[str, Any] | None) -> Description | None:
    """What the table [architecture] says; `override = true` has it say so of models of known families too. Raises RequestError."""
    if architecture is None:
        return None
    override = architecture.get("override", False)
    if not isinstance(override, bool):
        raise RequestError(f"architecture.override is {override!r}; give true or false")
    table = {key: value for key, value in architecture.items() if key != "override"}
    return replace(description_of(table), unknown_only=not override)


def load_dag(path: Path) -> Dag:
    """Read and check a DAG file; relative sources and evaluations become paths from the file's own folder.

    Raises RequestError: unreadable, not TOML, an unknown key, a wrong type or value (the message says where).
    """
    raw = read_toml(path)
    raw.setdefault("name", path.stem)
    try:
        dag = dag_type().model_validate(_with_paths(raw, path.parent))
    except ValidationError as error:
        raise RequestError(f"{path}: {first_error(error, raw)}") from None
    models = [_resolved(model, path.parent) for section in dag.models for model in section.single_models()]
    suites = [
        suite.model_copy(update={"evaluations": _absolute_paths(suite.evaluations, path.parent)})
        for suite in dag.suites
    ]
    return dag.model_copy(update={"models": models, "suites": suites})


def dag_written_in(folder: RunFolder) -> Dag:
    """What the run asked for that is written down in a folder's run.toml. Raises RequestError: it cannot be read."""
    try:
        return dag_type().model_validate(read_toml(folder.run_file)["asked"])
    except (ValueError, KeyError):  # so are RequestError and ValidationError
        raise RequestError(
            f"{folder.run_file}: cannot be read; repeat the `ninscope run` command to write it again"
        ) from None


def _with_paths(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A DAG file's content with the paths of stages' sections from `folder`."""
    sections = [stage.section for stage in stages().values() if stage.section is not None]
    absolute = {section.key: section.with_paths(raw[section.key], folder) for section in sections if section.key in raw}
    return raw | absolute


def _resolved(model: ModelSection, folder: Path) -> ModelSection:
    return model.model_copy(
        update={
            "source": _path_or_repository(model.source, folder),
            "base": None if model.base is None else _path_or_repository(model.base, folder),
            "evaluations": _absolute_paths(model.evaluations, folder),
        }
    )


def _absolute_paths(evaluations: Evaluations | None, folder: Path) -> Evaluations | None:
    if isinstance(evaluations, list):
        return [str(_absolute(path, folder)) for path in evaluations]
    return None if evaluations is None else str(_absolute(evaluations, folder))


def _path_or_repository(source: str, folder: Path) -> str:
    path = _absolute(source, folder)
    if _exists(path) or source.startswith((".", "/", "~")):
        return str(path)
    return source


def _absolute(text: str, folder: Path) -> Path:
    try:
        return (folder.resolve() / Path(text).expanduser()).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # an unknown user's home, a zero byte
        raise RequestError(f"{text}: no such path ({error})") from None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # too long a name
        return False


def first_error(error: ValidationError, raw: dict[str, Any]) -> str:
    """One line: where in the file, and what is wrong there."""
    problems = error.errors(include_url=False)
    unknown = next((item for item in problems if item["type"] == "extra_forbidden"), None)
    # A union reports each of its branches; the deepest location is the branch the user meant, and so is one that says why.
    problem = unknown or max(problems, key=lambda item: (len(_keys_to(item, raw)), item["type"] == "value_error"))
    where = ".".join(_keys_to(problem, raw))
    if problem is unknown:
        return f"{where}: no such key{_suggestion(_keys_to(problem, raw))}"
    message = problem["msg"].removeprefix("Value error, ")
    if where.endswith(".revisions") and problem["type"] != "value_error":
        table = "a table: { from = ..., to = ..., log = ... }"
        message = f"give {table}" if where.startswith("suites.") else f"{REVISIONS}, or {table}"
    elif where.endswith(".q") and problem["type"] != "value_error":
        message = "give a list of numbers, or { start = ..., stop = ..., step = ... }"
    elif problem["type"] == "string_pattern_mismatch" and problem["ctx"]["pattern"] == NAME:
        message = NAME_IN_WORDS
    else:
        message = _how_written(where, problem) or message
    shown = (
        ""
        if isinstance(problem["input"], dict | list) or problem["type"] == "missing"
        else f" (it is {problem['input']!r})"
    )
    return f"{where}: {message}{shown}" if where else message


def _how_written(key: str, problem: ErrorDetails) -> str:
    """How something is written that is not the table or the list that it should be; empty where that is not wrong."""
    if problem["type"] == "list_type" and isinstance(problem["input"], dict):
        return f"there may be several, so write [[{key}]] in double brackets"
    if "." in key:
        return "a list was expected, in square brackets" if problem["type"] == "list_type" else ""
    if problem["type"] in ("model_type", "dict_type"):
        once = ", once and in single brackets" if isinstance(problem["input"], list) else " with its keys below it"
        return f"it is a section; write [{key}]{once}"
    return ""


def _suggestion(keys: Sequence[str]) -> str:
    """The known key that is spelled most like the last of these, in words; empty where none is like it."""
    *tables, unknown = (key for key in keys if not key.isdigit())
    sections: list[type[BaseModel]] = [dag_type()]
    for table in tables:
        sections = [section for parent in sections for section in _sections_in(_types_by_key(parent).get(table))]
    return did_you_mean(unknown, [key for section in sections for key in _types_by_key(section)], cutoff=0.7)


def _types_by_key(section: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in section.model_fields.items()}


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The models in a type such as `list[Model] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections_in(part)]


def _keys_to(problem: ErrorDetails, raw: object) -> list[str]:
    """The location as keys of the file; names of union branches, which are pydantic's own, are left out."""
    keys, value = [], raw
    for depth, part in enumerate(problem["loc"]):
        last = depth == len(problem["loc"]) - 1
        if isinstance(value, dict) and part in value:
            keys.append(str(part))
            value = value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            keys.append(str(part + 1))
            value = value[part]
        elif last and problem["type"] == "missing":
            keys.append(str(part))
    return keys
