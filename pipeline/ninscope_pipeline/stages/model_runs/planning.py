"""Planning model runs: which checkpoints are run on which examples, and the content key of each run."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from ninscope.checkpoints.identity import Identity
from ninscope.checkpoints.source import open_source
from ninscope.errors import RequestError
from ninscope.neurons.finetuning.recipe import Looking, Recipe
from ninscope.neurons.tasks.files import file_digest, has_vocabulary, tokenizer_digest
from ninscope.parameters import Parameters
from ninscope_pipeline.located import Located, reading_outcome
from ninscope_pipeline.stages.exact import exact_key
from ninscope_pipeline.stages.model_runs.sections import ModelRunSection, TaskSettings
from ninscope_pipeline.stages.stage import Job
from ninscope_pipeline.storing.keys import content_key

if TYPE_CHECKING:
    from ninscope_pipeline.plan import Request

_NEEDED = ("torch", "transformers", "safetensors", "sklearn")

How = TypeVar("How", Recipe, Looking)
MadeFrom = tuple[str, tuple]


class ChangedInputs(RequestError):
    """Files that a model run reads are not those that it was planned for."""


@dataclass(frozen=True)
class ModelRun(Generic[How]):
    """One run of a checkpoint's model on the examples of a task.

    how: a Recipe (fine-tune) or a Looking (look at activations). made_from: digests of the task's data, and of what lies beside
    the weights, when it was planned. parameters: how fine-tuned weights are analysed.
    """

    located: Located
    task: TaskSettings
    how: How
    made_from: MadeFrom
    parameters: Parameters | None = None

    @property
    def label(self) -> str:
        """What a user reads."""
        name = f"{self.located.suite}/{self.located.model} {self.located.revision} {self.task.name}"
        if isinstance(self.how, Recipe):
            return f"{name} {self.how.method} seed {self.how.seed} rate {self.how.learning_rate:g}"
        return name

    @property
    def row(self) -> tuple:
        """By what the tables tell it from others."""
        located, how = self.located, self.how
        names: tuple[str | None, ...] = (located.suite, located.model, located.revision, self.task.name)
        if isinstance(how, Recipe):
            return (*names, how.method, how.seed, how.learning_rate)
        return names

    def check_unchanged(self) -> None:
        """Raises ChangedInputs where data or files beside the weights are not those of the plan: call it after reading."""
        if (self.task.digest(), _beside(self.located, self.task)) != self.made_from:
            raise ChangedInputs(
                f"{self.label}: its examples, or files of its model, have changed since the run began; run it again"
            )


def check_installed(section: str, extra: str = "memel") -> None:
    """Raises RequestError where the libraries that run models are absent. section: that needs them. extra: that brings them."""
    if absent := [name for name in _NEEDED if not _is_installed(name)]:
        raise RequestError(
            f"[[{section}]] runs models, and {absent[0]} is not installed; install it: pip install 'ninscope[{extra}]'"
        )


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:
        return False


def chosen_checkpoints(stage: str, section: ModelRunSection, request: "Request") -> Iterator[tuple[Located, MadeFrom]]:
    """The checkpoints that a section means, each with the digests of what a run of it reads.

    Raises RequestError: a model or revision that is not there, data that cannot be read.
    """
    task = section.settings
    digest = task.digest()
    for located in checkpoints_of(f"[[{stage}]]", section, request.checkpoints):
        yield located, (digest, _beside(located, task) if located.outcome.ok else ())


def model_job(stage: str, version: int, run: ModelRun[How]) -> Job[ModelRun[How]]:
    """A model run as a job, with its content key."""
    outcome = run.located.outcome
    if run.parameters is not None:
        outcome = reading_outcome(run.located, run.parameters.reading)
    if not outcome.ok:
        return Job(stage, "", run.label, run, checkpoint=run.located, known=outcome.passed_on())
    digest, beside = run.made_from
    key = content_key(
        stage,
        version,
        weights=run.located.content_sha256,
        beside=beside,
        task=digest,
        how=asdict(run.how),
        analysed=None if run.parameters is None else exact_key(run.located, run.parameters, False),
    )
    return Job(stage, key, run.label, run, checkpoint=run.located)


def refuse_two_meanings(stage: str, jobs: Sequence[Job[ModelRun[How]]]) -> list[Job[ModelRun[How]]]:
    """The jobs, of equal ones the first. Raises RequestError where two of one row differ: no table could tell them apart."""
    by_row: dict[tuple, Job[ModelRun[How]]] = {}
    for job in jobs:
        first = by_row.setdefault(job.work.row, job)
        if (first.key, first.known) != (job.key, job.known):
            raise RequestError(
                f"two of [[{stage}]] mean {first.label}; tell them apart by task.name, or by suite and model"
            )
    return list(by_row.values())


class ChoosesCheckpoints(Protocol):
    """A section that says which checkpoints it means."""

    @property
    def suite(self) -> str | None: ...
    @property
    def model(self) -> str | None: ...
    @property
    def revisions(self) -> str | list[str]: ...


def checkpoints_of(entry: str, section: ChoosesCheckpoints, checkpoints: Sequence[Located]) -> list[Located]:
    """The checkpoints that a section means, among all of a run. entry: the section, for messages.

    Raises RequestError: a model or a revision that is not there.
    """
    candidates = [
        located
        for located in checkpoints
        if section.model in (None, located.model) and section.suite in (None, located.suite)
    ]
    if not candidates:
        known = ", ".join(dict.fromkeys(f"{located.suite}/{located.model}" for located in checkpoints))
        names = [f"{name} {value!r}" for name in ("suite", "model") if (value := getattr(section, name)) is not None]
        raise RequestError(f"{entry}: {' of '.join(reversed(names))} is none of [[models]] ({known})")
    if section.revisions == "all":
        return candidates
    if section.revisions == "last":
        last = {(located.suite, located.model): located for located in candidates}
        return list(last.values())
    there = {located.revision for located in candidates}
    if absent := [name for name in section.revisions if name not in there]:
        raise RequestError(
            f"{entry}: {absent[0]} of {section.model or 'any model'} is not asked for; add it to revisions in [[models]], or "
            "leave it out"
        )
    return [located for located in candidates if located.revision in section.revisions]


def _beside(located: Located, task: TaskSettings) -> tuple[str, str | None]:
    """What a model is made from beside its weights: its configuration (an adapter's is its base's), and its own tokenizer where
    that is used. Raises RequestError: they cannot be read."""
    source, identity = _base_of(located) or (located.source, located.known_identity)
    home, commit = _home(source, identity)
    if commit is None:
        config = file_digest(Path(home) / "config.json")
    else:  # by its digest: a commit may be of a README
        config = next((file.digest for file in identity.beside if file.name.endswith("config.json")), commit)
    if getattr(task, "tokenizer", "none") is not None:
        return config, None
    home, commit = home_of(located)
    return config, commit if commit is not None else tokenizer_digest(home)


def home_of(located: Located) -> tuple[Path | str, str | None]:
    """Where a checkpoint's tokenizer is: (its folder, None), or (its Hub repository, commit). An adapter has its base's, unless
    one lies beside it."""
    own, base = _home(located.source, located.known_identity), _base_of(located)
    if base is None or (isinstance(own[0], Path) and has_vocabulary(own[0])):
        return own
    return _home(*base)


def _base_of(located: Located) -> tuple[str, Identity] | None:
    """(source, identity) of what an adapter is merged into; None of what is no adapter."""
    identity = located.known_identity.base
    if identity is None:
        return None
    if located.base is None:
        raise ValueError(f"{located.suite}/{located.model} {located.revision}: an adapter's base without its source")
    return located.base, identity


def _home(source: str, identity: Identity) -> tuple[Path | str, str | None]:
    if identity.commit is not None:
        return source, identity.commit
    return Path(open_source(source).stamp_path(identity.revision, identity.files[0])).parent, None
