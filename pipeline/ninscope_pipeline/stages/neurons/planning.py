"""Planning [[neurons]]: which measures are taken of which checkpoint, with what it is compared, and the key of each result.

A job is of one checkpoint and one section. Its artefact has everything that tables need. What it is put together from, one result
a measure, control and other checkpoint, is kept beside under keys of their own: a measure that is asked for later is taken alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ninscope.checks import did_you_mean
from ninscope.errors import RequestError
from ninscope.multifractal.emergence import CHOOSE_BASELINE
from ninscope.neurons.observatory.measure import CONTROLS, NONE, PREVIOUS, SEED, START, Measure
from ninscope.neurons.tasks.files import tokenizer_digest
from ninscope_pipeline.located import Located
from ninscope_pipeline.stages.from_weights import configuration_digest
from ninscope_pipeline.stages.model_runs.planning import ChangedInputs, checkpoints_of, home_of
from ninscope_pipeline.stages.neurons.section import NeuronsSection
from ninscope_pipeline.stages.stage import Job, JobId
from ninscope_pipeline.storing.keys import content_key

if TYPE_CHECKING:
    from ninscope_pipeline.plan import Request

NEURONS, VERSION = "neurons", 1  # the stage's name, and its version
KEPT = "neuron_measures"  # the folder of the store with results of single measures
Beside = tuple[str, str | None]


@dataclass(frozen=True)
class Part:
    """One result: of a measure, on a control's examples, compared with nothing ("") or with one of the job's others.

    key: where it is kept; empty where it is known that there is none, and `why` says why.
    """

    measure: str
    control: str
    against: str = ""
    key: str = ""
    why: str = ""


@dataclass(frozen=True)
class NeuronsWork:
    """One checkpoint and one section. others: what it may be compared with, by "start", "previous" or a model's name. made_from:
    digests of the examples, and of what lies beside the weights, when it was planned."""

    located: Located
    section: NeuronsSection
    examples: str
    parts: tuple[Part, ...] = ()
    others: Mapping[str, Located] = field(default_factory=dict)
    made_from: tuple = ()

    @property
    def label(self) -> str:
        """What a user reads."""
        return f"{self.located.suite}/{self.located.model} {self.located.revision} {self.examples}"

    @property
    def kept(self) -> tuple[JobId, ...]:
        return tuple((KEPT, part.key) for part in self.parts if part.key)

    def check_unchanged(self) -> None:
        """Raises ChangedInputs where examples, or files beside the weights, are not those of the plan: call it after reading."""
        digest = self.section.examples().digest()
        if _made_from(digest, self.section, self.located, self.others) != self.made_from:
            raise ChangedInputs(
                f"{self.label}: its examples, or files of its model, have changed since the run began; run it again"
            )


def listed_as(examples: str) -> str:
    """What plan.json calls the job of a checkpoint on these examples."""
    return f"{NEURONS} {examples}"


def neurons_jobs(sections: Sequence[NeuronsSection], request: "Request") -> Iterator[Job[NeuronsWork]]:
    """The jobs of all sections. Raises RequestError: a model or revision that is not there, two meanings of one row, one seed
    where a named measure compares seeds, examples that cannot be read."""
    by_row: dict[tuple[str, ...], str] = {}
    for section in sections:
        siblings, digest, name = Siblings(section, request), section.examples().digest(), section.examples_name
        for located in checkpoints_of(f"[[{NEURONS}]]", section, request.checkpoints):
            job = _job(NeuronsWork(located, section, name), siblings, digest)
            if by_row.setdefault((*located.id, name), job.key) != job.key:
                raise RequestError(
                    f"two of [[{NEURONS}]] mean {job.label}; tell them apart by name, or by suite and model"
                )
            yield job


def _job(work: NeuronsWork, siblings: "Siblings", digest: str) -> Job[NeuronsWork]:
    """digest: of the section's examples."""
    located, section = work.located, work.section
    about = listed_as(work.examples)
    if not located.outcome.ok:
        return Job(
            NEURONS, "", work.label, work, checkpoint=located, listed_as=about, known=located.outcome.passed_on()
        )
    others, absent = siblings.of(located)
    keyed = _Keyed(section, digest, located, others)
    parts = tuple(
        part
        for measure in section.chosen()
        for control in measure.controls
        for part in keyed.parts(measure, control, absent)
    )
    compared = {part.against for part in parts if part.key}
    used = {name: other for name, other in others.items() if name in compared}
    planned = replace(work, parts=parts, others=used, made_from=_made_from(digest, section, located, used))
    key = content_key(
        NEURONS,
        VERSION,
        parts=[[part.measure, part.control, part.against, part.key, part.why] for part in parts],
        seeds=[name for name in used if name not in (START, PREVIOUS)],
        neuron_values=section.neuron_values,
    )
    return Job(NEURONS, key, work.label, planned, checkpoint=located, listed_as=about)


# --- what there is to compare with ---------------------------------------------------------------------------------------
class Siblings:
    """The other checkpoints of a run, as seen from each."""

    def __init__(self, section: NeuronsSection, request: "Request") -> None:
        """Raises RequestError: other_seeds names a model that is not there."""
        self._section = section
        self._by_model = request.by_model()
        self._group_of = {(model.suite, model.model): model.one_of for model in request.dag.all_models()}
        names = [model for _, model in self._by_model]
        for name in section.other_seeds:
            if name not in names:
                near = did_you_mean(name, names) or f"; there are {', '.join(dict.fromkeys(names))}"
                raise RequestError(f"[[{NEURONS}]] other_seeds: {name!r} is none of [[models]]{near}")
        if section.named:
            self._check_seeds(section, checkpoints_of(f"[[{NEURONS}]]", section, request.checkpoints))

    def _check_seeds(self, section: NeuronsSection, checkpoints: Sequence[Located]) -> None:
        """Raises RequestError where a measure that compares seeds, and nothing else, is asked for and a model has one seed."""
        measure = next((one for one in section.chosen() if one.compared_with == (SEED,)), None)
        single = next((located for located in checkpoints if not self._seeds(located)), None)
        if measure is not None and single is not None:
            raise RequestError(
                f"[[{NEURONS}]] measures: {measure.name} compares seeds, and {single.suite}/{single.model} has one here; "
                f"give it `seeds` in [[models]], or name models of other seeds in other_seeds, or leave {measure.name} out"
            )

    def of(self, located: Located) -> tuple[dict[str, Located], dict[str, str]]:
        """(what a checkpoint is compared with, by name; why it is not, by the kind of OTHERS)."""
        others: dict[str, Located] = {}
        absent: dict[str, str] = {}
        usable = [one for one in self._by_model[located.suite, located.model] if one.outcome.ok]
        start = next((one for one in usable if one.is_baseline), None)
        before = [
            one for one in usable if one.step is not None and located.step is not None and one.step < located.step
        ]
        if start is None:
            absent[START] = f"there is no usable {located.baseline.label} to compare with; {CHOOSE_BASELINE}"
        elif start.revision != located.revision:
            others[START] = start
        if located.step is None:
            absent[PREVIOUS] = "its revision states no step, so that none is known to be before it"
        elif before:
            others[PREVIOUS] = max(before, key=lambda one: one.step or 0)
        seeds = self._seeds(located)
        for suite, model in seeds:
            at_step = [
                one
                for one in self._by_model[suite, model]
                if one.outcome.ok and one.step is not None and one.step == located.step
            ]
            if at_step:
                others[_called(located, suite, model)] = at_step[0]
        if not seeds:
            absent[SEED] = "there is one seed of this model here; give `seeds` in [[models]], or other_seeds"
        elif not any(_called(located, *name) in others for name in seeds):
            names = ", ".join(model for _, model in seeds)
            absent[SEED] = f"no other seed ({names}) has a usable checkpoint of this step"
        return others, absent

    def _seeds(self, located: Located) -> list[tuple[str, str]]:
        """(suite, model) of the same training at other seeds, in the order of the file."""
        own = (located.suite, located.model)
        group = self._group_of.get(own)
        named = {*self._section.other_seeds, *([self._section.model] if self._section.model else [])}
        found = [
            name
            for name in self._by_model
            if name != own and name[0] == own[0] and group is not None and self._group_of.get(name) == group
        ]
        if self._section.other_seeds and located.model in named:
            found += [name for name in self._by_model if name != own and name[1] in named and name not in found]
        return found


def _called(located: Located, suite: str, model: str) -> str:
    """The name of another seed among what a checkpoint is compared with."""
    return model if suite == located.suite else f"{suite}/{model}"


# --- keys ----------------------------------------------------------------------------------------------------------------
class _Keyed:
    """Keys of results of one checkpoint."""

    def __init__(self, section: NeuronsSection, digest: str, located: Located, others: Mapping[str, Located]) -> None:
        self._others = others
        self._shared = {
            "weights": located.content_sha256,
            "beside": beside(located, section),
            "examples": digest,
            "how": [section.batch_size, section.seed, section.threads, section.device, section.dtype],
            **({"neuron_values": True} if section.neuron_values else {}),
        }
        self._compared = {
            name: [other.content_sha256, configuration_digest(other), name_of(other)] for name, other in others.items()
        }

    def parts(self, measure: Measure, control: str, absent: Mapping[str, str]) -> Iterator[Part]:
        """The results of a measure on a control's examples, and those that cannot be."""
        if not measure.compared_with:
            yield Part(measure.name, control, key=self._key(measure, control, None))
        for kind in measure.compared_with:
            names = [kind] if kind != SEED else [name for name in self._others if name not in (START, PREVIOUS)]
            for name in names:
                if name in self._others:
                    yield Part(measure.name, control, name, self._key(measure, control, self._compared[name]))
            # A model of one seed is no news where the measure has something else to compare with.
            told = kind in absent and (kind != SEED or measure.compared_with == (SEED,))
            if told and control == NONE:
                yield Part(measure.name, control, kind, why=f"{measure.name}: {absent[kind]}")

    def _key(self, measure: Measure, control: str, other: list | None) -> str:
        return content_key(
            KEPT,
            VERSION,
            measure=[measure.name, measure.version],
            control=CONTROLS.index(control),
            other=other,
            **self._shared,
        )


def beside(located: Located, section: NeuronsSection) -> Beside:
    """What a model is made from beside its weights: its configuration, and its own tokenizer where that is used.

    Raises RequestError: they cannot be read.
    """
    config = configuration_digest(located)
    if section.images is not None or section.tokenizer is not None:
        return config, None
    home, commit = home_of(located)
    return config, commit if commit is not None else tokenizer_digest(home)


def name_of(located: Located) -> str:
    """What messages call a checkpoint that another is compared with."""
    return f"{located.model} {located.revision}"


def _made_from(digest: str, section: NeuronsSection, located: Located, others: Mapping[str, Located]) -> tuple:
    return digest, beside(located, section), *(configuration_digest(other) for other in others.values())
