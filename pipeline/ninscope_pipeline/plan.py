"""What a run would do: the tasks whose artefacts are not there yet, known before anything is computed.

Content keys follow from what `locate` found and from the DAG file, so the whole plan is: which keys exist?
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ninscope.architectures import Reading
from ninscope.errors import CheckpointError, RequestError
from ninscope_pipeline.asked.analyses import DEFAULT, EXACT, SAMPLED, Wanted
from ninscope_pipeline.asked.dagfile import Dag
from ninscope_pipeline.asked.evaluations import Evaluation
from ninscope_pipeline.stages import emergence, exact, figures, network, nulls, spectrum, tables
from ninscope_pipeline.stages.inputs import STAGES, Inputs, Member, Outcomes, settled
from ninscope_pipeline.stages.locate import Located
from ninscope_pipeline.stages.outcome import Outcome
from ninscope_pipeline.stages.studies import Study, studies_of
from ninscope_pipeline.storing.manifest import is_current
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import ArtefactStore, DamagedArtefact

MAX_PARTS = 10_000  # of one checkpoint


@dataclass(frozen=True)
class Task:
    """One task to run. name: what a user reads; key: of the artefact it makes."""

    stage: str
    name: str
    key: str


@dataclass
class Plan:
    """The tasks to run, by key and stage, and what is already known of every checkpoint.

    Of each artefact to make, by content key, what it is made from and for which analysis (equal ones are made once):
    networks, exact, studies: from a checkpoint; spectra, nulls: from the artefact of another key. outcomes: one entry a member;
    ok means that it is stored or will be. parts: of how many parts each exact analysis consists. asked_studies: all of them.
    """

    inputs: Inputs
    outcomes: list[Outcomes]
    asked_studies: list[Study] = field(default_factory=list)
    studies: dict[str, Study] = field(default_factory=dict)
    networks: dict[str, tuple[Located, Wanted]] = field(default_factory=dict)
    spectra: dict[str, tuple[str, Wanted]] = field(default_factory=dict)
    exact: dict[str, tuple[Located, Wanted]] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    nulls: dict[str, tuple[str, Wanted]] = field(default_factory=dict)
    emerging: dict[str, str] = field(default_factory=dict)  # key -> what a user reads
    moved: list[tuple[str, str]] = field(default_factory=list)  # whole artefacts whose records say other times
    write_tables: bool = False
    draw_figures: bool = False

    def tasks(self) -> list[Task]:
        """All tasks to run, in the order in which they could."""
        names = self._names()
        listed = [Task(network.STAGE, names[key], key) for key in self.networks]
        listed += [Task(spectrum.STAGE, names[key], key) for key in self.spectra]
        listed += [
            Task(stage, f"{names[key]} part {number + 1} of {count}", exact.part_key(key, number, count))
            for key, count in self.parts.items()
            for stage in (exact.RANGES, exact.PARTS)
            for number in range(count)
            if stage == exact.PARTS or self.exact[key][1].parameters.log_count is not None
        ]
        listed += [Task(exact.STAGE, names[key], key) for key in self.exact]
        listed += [Task(nulls.STAGE, names[key], key) for key in self.nulls]
        listed += [Task(study.stage, study.name, key) for key, study in self.studies.items()]
        listed += [Task(emergence.STAGE, name, key) for key, name in self.emerging.items()]
        tables_key = tables.tables_key(self.inputs, self.outcomes, self.asked_studies)
        listed += [Task(tables.STAGE, "all", tables_key)] * self.write_tables
        return listed + [Task(figures.STAGE, "all", figures.figures_key(tables_key))] * self.draw_figures

    def _names(self) -> dict[str | None, str]:
        """What a user reads, by key: of what several analyses share, the first's."""
        names: dict[str | None, str] = {}
        for member in self.inputs.members:
            label = f"{member.located.suite}/{member.located.model} {member.located.revision}"
            for wanted in self.inputs.wanted:
                named = label if wanted.variant == DEFAULT else f"{label} {wanted.variant}"
                for key in (member.networks.get(wanted.name), member.keys[wanted.name]):
                    names.setdefault(key, named)
        return names

    def all_keys(self) -> dict[str, list[str]]:
        """Every artefact the run consists of, done or not: what `ninscope status` counts."""
        found: dict[str, set[str | None]] = {}
        for wanted in self.inputs.wanted:
            if wanted.method == SAMPLED:
                found.setdefault(network.STAGE, set()).update(m.networks.get(wanted.name) for m in self.inputs.members)
            found.setdefault(STAGES[wanted.method], set()).update(m.keys[wanted.name] for m in self.inputs.members)
        for study in self.asked_studies:
            found.setdefault(study.stage, set()).add(study.key)
        return {stage: sorted(key for key in keys if key) for stage, keys in found.items()}


class _Seen(ArtefactStore):
    """The store as it is while one plan is made: each artefact is looked at once."""

    def __init__(self, folder: RunFolder, thorough: bool):
        super().__init__(folder, thorough)
        self._seen: dict[tuple[str, str], bool] = {}

    def has(self, stage: str, key: str) -> bool:
        if (stage, key) not in self._seen:
            self._seen[stage, key] = super().has(stage, key)
        return self._seen[stage, key]

    def failure(self, stage: str, key: str) -> CheckpointError | None:
        try:
            return super().failure(stage, key)
        except DamagedArtefact:
            self._seen[stage, key] = False
            return None


def make_plan(
    dag: Dag,
    located: Sequence[Located],
    evaluations: Sequence[tuple[Evaluation, ...]],
    folder: RunFolder,
    thorough: bool = False,
) -> Plan:
    """Compare what is asked with what is stored. Reads metadata only and computes nothing.

    thorough: every artefact is read, and removed where it is damaged. Raises RequestError (too many parts), StoreError.
    """
    store = _Seen(folder, thorough)
    members, outcomes = [], []
    for one in located:
        member, each = _member(one, dag.wanted(), store)
        members.append(member)
        outcomes.append(each)
    plan = Plan(Inputs.of(dag, members, evaluations), outcomes, studies_of(dag, located, store))
    for member in members:
        _plan_checkpoint(plan, member, store, dag.execution.part_bytes)
    plan.studies = {
        study.key: study
        for study in plan.asked_studies
        if study.key is not None and study.outcome.ok and not store.has(study.stage, study.key)
    }
    alone = len(plan.inputs.spectra) == 1
    plan.emerging = {
        key: f"{model.suite}/{model.model}" + ("" if alone else f" {wanted.name}")
        for key, (wanted, model, _) in plan.inputs.emerging(outcomes).items()
        if not store.has(emergence.STAGE, key)
    }
    tables_key = tables.tables_key(plan.inputs, outcomes, plan.asked_studies)
    made = plan.spectra or plan.exact or plan.nulls or plan.emerging or plan.studies
    plan.write_tables = bool(made) or not is_current(folder, folder.tables, tables_key)
    plan.moved = store.moved
    plan.draw_figures = plan.write_tables or not is_current(folder, folder.figures, figures.figures_key(tables_key))
    return plan


def _plan_checkpoint(plan: Plan, member: Member, store: ArtefactStore, part_bytes: int) -> None:
    located = member.located
    for wanted in plan.inputs.wanted:
        key = member.keys[wanted.name]
        if key is None:
            continue
        missing = not store.has(STAGES[wanted.method], key)
        if wanted.method == SAMPLED:
            network_key = member.networks[wanted.name]
            if missing:
                plan.spectra.setdefault(key, (network_key, wanted))
            if not store.has(network.STAGE, network_key):
                plan.networks.setdefault(network_key, (located, wanted))
        elif wanted.method == EXACT and missing:
            plan.exact.setdefault(key, (located, wanted))
            if (count := _part_count(located, wanted.parameters.reading, part_bytes)) > 1:
                plan.parts.setdefault(key, count)
        elif missing:
            plan.nulls.setdefault(key, (member.keys[EXACT], wanted))


def _part_count(located: Located, reading: Reading, part_bytes: int) -> int:
    weight_bytes = located.wired(reading).weight_bytes
    count = -(-weight_bytes // part_bytes)
    if count > MAX_PARTS:
        raise RequestError(
            f"{located.suite}/{located.model} {located.revision}: {weight_bytes} bytes of weights in parts of "
            f"{part_bytes} are {count} parts, more than {MAX_PARTS}; give a larger part_bytes"
        )
    return count


def _member(located: Located, asked: Sequence[Wanted], store: ArtefactStore) -> tuple[Member, Outcomes]:
    """A checkpoint with the keys of everything that is made of it, and what is already known to be impossible."""
    if not located.outcome.ok:
        names = [wanted.name for wanted in asked]
        return Member(located, dict.fromkeys(names), dict.fromkeys(names)), dict.fromkeys(names, located.outcome)
    keys: dict[str, str | None] = {}
    networks: dict[str, str | None] = dict.fromkeys(wanted.name for wanted in asked)  # also of what cannot be read so
    outcomes: dict[str, Outcome] = {}
    for wanted in asked:  # an original before its null models
        name, parameters = wanted.name, wanted.parameters
        if not (cannot := located.wired(parameters.reading).outcome).ok:
            keys[name], outcomes[name] = None, cannot
        elif wanted.method == SAMPLED:
            networks[name] = network.network_key(located, parameters)
            keys[name] = spectrum.spectrum_key(networks[name], parameters)
            outcomes[name] = _stored_outcome(store, network.STAGE, networks[name])
        elif wanted.method == EXACT:
            keys[name] = exact.stored_key(located, parameters, wanted.nulls is not None, store, keys.values())
            outcomes[name] = _stored_outcome(store, exact.STAGE, keys[name])
        else:
            keys[name] = nulls.nulls_key(keys[EXACT], wanted.nulls)
            outcomes[name] = outcomes[EXACT]
    counting = settled(outcomes)
    return Member(located, {name: key if counting[name].ok else None for name, key in keys.items()}, networks), counting


def _stored_outcome(store: ArtefactStore, stage: str, key: str) -> Outcome:
    if store.has(stage, key) and (failure := store.failure(stage, key)) is not None:
        return Outcome(failure.status, str(failure))
    return Outcome()
