"""Studies: what is made of a checkpoint by running its model (stages `finetune` and `activations`), planned and keyed alike."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ninscope.checkpoints.identity import Identity
from ninscope.checkpoints.source import open_source
from ninscope.errors import RequestError
from ninscope.neurons.finetuning.recipe import NONE, Inhibition, Looking, Recipe
from ninscope.neurons.tasks.files import file_digest, has_vocabulary, tokenizer_digest
from ninscope.parameters import Parameters
from ninscope_pipeline.asked.analyses import DEFAULT, EXACT
from ninscope_pipeline.asked.dagfile import Dag
from ninscope_pipeline.asked.model_sections import Activations, FineTune, TaskSettings
from ninscope_pipeline.stages import exact
from ninscope_pipeline.stages.locate import Located
from ninscope_pipeline.stages.outcome import Outcome
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.store import ArtefactStore

FINETUNE, ACTIVATIONS = "finetune", "activations"
VERSIONS = {FINETUNE: 2, ACTIVATIONS: 2}
_NEEDED = ("torch", "transformers", "safetensors", "sklearn")


class ChangedInputs(RequestError):
    """Files that a study is made from are not those that it was planned for."""


@dataclass(frozen=True)
class Study:
    """One fine-tune, or one look at a checkpoint's activations.

    stage: FINETUNE or ACTIVATIONS. how: its Recipe, or its Looking. parameters: of the exact analysis of the fine-tuned weights.
    made_from: digests of the task's data, and of what lies beside the weights, when it was planned. key: None where it is known
    that it cannot be; outcome: why, or ok.
    """

    stage: str
    located: Located
    task: TaskSettings
    how: Recipe | Looking
    parameters: Parameters | None = None
    made_from: tuple[str, tuple] | None = None
    key: str | None = None
    outcome: Outcome = field(default=Outcome())

    @property
    def name(self) -> str:
        """What a user reads."""
        place = f"{self.located.suite}/{self.located.model} {self.located.revision} {self.task.name}"
        if isinstance(self.how, Looking):
            return place
        return f"{place} {self.how.method} seed {self.how.seed} rate {self.how.learning_rate:g}"

    @property
    def row(self) -> tuple:
        """By what the tables tell it from others."""
        located, how = self.located, self.how
        which = (how.method, how.seed, how.learning_rate) if isinstance(how, Recipe) else ()
        return self.stage, located.suite, located.model, located.revision, self.task.name, *which

    def check_unchanged(self) -> None:
        """Raises ChangedInputs, where data or files beside the weights are not those of the plan: call it after reading."""
        if (self.task.digest(), _beside(self.located, self.task)) != self.made_from:
            raise ChangedInputs(
                f"{self.name}: its examples, or files of its model, have changed since the run began; run it again"
            )


def studies_of(dag: Dag, located: Sequence[Located], store: ArtefactStore) -> list[Study]:
    """Everything that [[finetune]] and [[activations]] ask for, in the order of the file and of the steps, keyed.

    Raises RequestError: a model or revision that is not there, torch absent, data that cannot be read.
    """
    sections = [*dag.finetune, *dag.activations]
    if not sections:
        return []
    if absent := [name for name in _NEEDED if not _is_installed(name)]:
        raise RequestError(
            f"[[finetune]] and [[activations]] run models, and {absent[0]} is not installed; pip install 'ninscope[memel]'"
        )
    digest = cache(lambda task: task.digest())
    found: dict[tuple, Study] = {}
    compared: dict[tuple, tuple[Study, tuple]] = {}
    for section in sections:
        task = section.settings
        for one in _chosen(section, located):
            made_from = (digest(task), _beside(one, task) if one.outcome.ok else ())
            for study in _of_section(section, one, task, dag):
                keyed = _keyed(replace(study, made_from=made_from), store)
                other = found.setdefault(study.row, keyed)
                if (other.key, other.outcome) != (keyed.key, keyed.outcome):
                    raise RequestError(
                        f"two of [[{study.stage}]] mean {other.name}; tell them apart by task.name, or by suite and model"
                    )
                for kind, settings in _shared(keyed):
                    other, theirs = compared.setdefault((study.row[:5], kind), (keyed, settings))
                    if theirs != settings:
                        raise RequestError(
                            f"two of [[{study.stage}]], of {other.name} and {keyed.name}, differ in more than method, seed and "
                            "rate, and would be compared; tell them apart by task.name"
                        )
    return list(found.values())


def _shared(study: Study) -> Iterator[tuple[str, object]]:
    """(kind, settings) that fine-tunes of one checkpoint and task have alike: a mean over seeds, and a test between methods, take
    for granted that they do. How MEmeL selects has no part in one without it."""
    if isinstance(study.how, Looking):
        return
    where = study.how.inhibition
    looked_at = Inhibition(where.layers, neurons=where.neurons, epsilon=where.epsilon)
    yield "all", (study.made_from[0], replace(study.how, method=NONE, seed=0, learning_rate=0.0, inhibition=looked_at))
    if study.how.method != NONE:
        yield "inhibited", where


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:
        return False


def _of_section(section: FineTune | Activations, located: Located, task: TaskSettings, dag: Dag) -> Iterator[Study]:
    if isinstance(section, Activations):
        layers = section.layers if isinstance(section.layers, str) else tuple(section.layers)
        names = ("neurons", "epsilon", "history", "batch_size", "threads", "device")
        yield Study(ACTIVATIONS, located, task, Looking(layers, *(getattr(section, name) for name in names)))
        return
    asked = next(one.parameters for one in dag.wanted() if (one.variant, one.method) == (DEFAULT, EXACT))
    parameters = replace(asked, per_node=False, parts=())  # of which nothing is told of a fine-tuned model
    for recipe in section.recipes():
        yield Study(FINETUNE, located, task, recipe, parameters)


def _chosen(section: FineTune | Activations, located: Sequence[Located]) -> list[Located]:
    """The checkpoints that a section means. Raises RequestError."""
    of_model = [one for one in located if section.model in (None, one.model) and section.suite in (None, one.suite)]
    what = "[[finetune]]" if isinstance(section, FineTune) else "[[activations]]"
    if not of_model:
        known = ", ".join(dict.fromkeys(f"{one.suite}/{one.model}" for one in located))
        asked = [f"{name} {value!r}" for name in ("suite", "model") if (value := getattr(section, name)) is not None]
        raise RequestError(f"{what}: {' of '.join(reversed(asked))} is none of [[models]] ({known})")
    if section.revisions == "all":
        return of_model
    if section.revisions == "last":
        last = {(one.suite, one.model): one for one in of_model}
        return list(last.values())
    there = {one.revision for one in of_model}
    if absent := [name for name in section.revisions if name not in there]:
        raise RequestError(
            f"{what}: {absent[0]} of {section.model or 'any model'} is not asked for; add it to revisions in [[models]], or leave "
            "it out"
        )
    return [one for one in of_model if one.revision in section.revisions]


def _keyed(study: Study, store: ArtefactStore) -> Study:
    located, (digest, beside) = study.located, study.made_from
    outcome = located.outcome
    if outcome.ok and study.parameters is not None:
        outcome = located.wired(study.parameters.reading).outcome
    if not outcome.ok:
        return replace(study, outcome=outcome.passed_on())
    analysed = None if study.parameters is None else exact.exact_key(located, study.parameters, False)
    how = asdict(study.how)
    key = content_key(
        study.stage,
        VERSIONS[study.stage],
        weights=located.content_sha256,
        beside=beside,
        task=digest,
        how=how,
        analysed=analysed,
    )
    if store.has(study.stage, key) and (failure := store.failure(study.stage, key)) is not None:
        return replace(study, key=key, outcome=Outcome(failure.status, str(failure)))
    return replace(study, key=key)


def _beside(located: Located, task: TaskSettings) -> tuple[str, str | None]:
    """What a model is made from beside its weights: its configuration (an adapter's is its base's), and its own tokenizer where
    that is used. Raises RequestError: they cannot be read."""
    identity = located.identity
    made_of = (located.source, identity) if identity.base is None else (located.base, identity.base)
    place, commit = _place(*made_of)
    if commit is None:
        config = file_digest(place / "config.json")
    else:  # by its digest: a commit may be of a README
        config = next((file.digest for file in made_of[1].beside if file.name.endswith("config.json")), commit)
    if getattr(task, "tokenizer", "none") is not None:
        return config, None
    home, commit = home_of(located)
    return config, commit if commit is not None else tokenizer_digest(home)


def home_of(located: Located) -> tuple[Path | str, str | None]:
    """Where a checkpoint's tokenizer is: (its folder, None), or (its Hub repository, commit). An adapter has its base's, unless
    one lies beside it."""
    identity = located.identity
    own = _place(located.source, identity)
    if identity.base is None or (isinstance(own[0], Path) and has_vocabulary(own[0])):
        return own
    return _place(located.base, identity.base)


def _place(source: str, identity: Identity) -> tuple[Path | str, str | None]:
    if identity.commit is not None:
        return source, identity.commit
    return Path(open_source(source).stamp_path(identity.revision, identity.files[0])).parent, None


def settled(studies: Sequence[Study], outcomes: Mapping[tuple[str, str], Outcome]) -> list[Study]:
    """The same with what became of them. outcomes: of what was run, by stage and key."""
    return [replace(study, outcome=outcomes.get((study.stage, study.key or ""), study.outcome)) for study in studies]
