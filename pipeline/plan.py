"""What a run would do: the tasks whose artefacts are not there yet, known before anything is computed.

Content keys follow from what `locate` found and from the DAG file, so the whole plan is: which keys exist?
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ninscope.pipeline.dagfile import Dag, Nulls
from ninscope.pipeline.evaluations import Evaluation
from ninscope.pipeline.manifest import is_current
from ninscope.pipeline.runfolder import RunFolder
from ninscope.pipeline.stages import emergence, exact, figures, network, nulls, spectrum, tables
from ninscope.pipeline.stages.inputs import STAGES, Inputs, Member, Outcomes, settled
from ninscope.pipeline.stages.locate import Located
from ninscope.pipeline.stages.outcome import Outcome
from ninscope.pipeline.store import ArtefactStore, DamagedArtefact

from ninscope.errors import CheckpointError, RequestError
from ninscope.parameters import Parameters

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

    networks, exact: content key -> the checkpoint to make it from (equal content is analysed once); spectra, nulls: content
    key -> the key of the artefact it is made from. outcomes: one entry a member; ok means that it is stored or will be.
    parts: of how many parts each exact analysis consists.
    """

    inputs: Inputs
    outcomes: list[Outcomes]
    network_keys: list[str | None]
    networks: dict[str, Located] = field(default_factory=dict)
    spectra: dict[str, str] = field(default_factory=dict)
    exact: dict[str, Located] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    nulls: dict[str, str] = field(default_factory=dict)
    emerging: dict[str, str] = field(default_factory=dict)  # key -> what a user reads
    moved: list[tuple[str, str]] = field(default_factory=list)  # whole artefacts whose records say other times
    write_tables: bool = False
    draw_figures: bool = False

    def tasks(self) -> list[Task]:
        """All tasks to run, in the order in which they could."""
        names: dict[str | None, str] = {}
        for member, network_key in zip(self.inputs.members, self.network_keys, strict=True):
            label = f"{member.located.suite}/{member.located.model} {member.located.revision}"
            for key in (network_key, *member.keys.values()):
                names.setdefault(key, label)
        listed = [Task(network.STAGE, names[key], key) for key in self.networks]
        listed += [Task(spectrum.STAGE, names[key], key) for key in self.spectra]
        listed += [
            Task(stage, f"{names[key]} part {number + 1} of {count}", exact.part_key(key, number, count))
            for key, count in self.parts.items()
            for stage in (exact.RANGES, exact.PARTS)
            for number in range(count)
            if stage == exact.PARTS or self.inputs.methods["exact"].log_count is not None
        ]
        listed += [Task(exact.STAGE, names[key], key) for key in self.exact]
        listed += [Task(nulls.STAGE, names[key], key) for key in self.nulls]
        listed += [Task(emergence.STAGE, name, key) for key, name in self.emerging.items()]
        tables_key = tables.tables_key(self.inputs, self.outcomes)
        listed += [Task(tables.STAGE, "all", tables_key)] * self.write_tables
        return listed + [Task(figures.STAGE, "all", figures.figures_key(tables_key))] * self.draw_figures

    def all_keys(self) -> dict[str, list[str]]:
        """Every artefact the run consists of, done or not: what `ninscope status` counts."""
        found = {network.STAGE: sorted({key for key in self.network_keys if key})}
        for name, stage in STAGES.items():
            found[stage] = sorted({key for member in self.inputs.members if (key := member.keys.get(name))})
        return {stage: keys for stage, keys in found.items() if stage in self._asked_stages()}

    def _asked_stages(self) -> set[str]:
        asked = {STAGES[method] for method in self.inputs.methods}
        asked |= {network.STAGE} if "sampled" in self.inputs.methods else set()
        return asked | ({nulls.STAGE} if self.inputs.nulls is not None else set())


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
    methods = dag.analysis.methods()
    members, outcomes, network_keys = [], [], []
    for one in located:
        network_key, keys, each = _keys_of(one, methods, dag.nulls, store)
        each = settled(each)
        members.append(Member(one, {name: key if each[name].ok else None for name, key in keys.items()}))
        outcomes.append(each)
        network_keys.append(network_key)
    plan = Plan(Inputs.of(dag, members, evaluations), outcomes, network_keys)
    for member, network_key in zip(members, network_keys, strict=True):
        _plan_checkpoint(plan, member, network_key, store, dag.execution.part_bytes)
    plan.emerging = {
        key: f"{model.suite}/{model.model}"
        if len(plan.inputs.methods) == 1
        else f"{model.suite}/{model.model} {method}"
        for key, (method, model, _) in plan.inputs.emerging(outcomes).items()
        if not store.has(emergence.STAGE, key)
    }
    tables_key = tables.tables_key(plan.inputs, outcomes)
    made = plan.spectra or plan.exact or plan.nulls or plan.emerging
    plan.write_tables = bool(made) or not is_current(folder, folder.tables, tables_key)
    plan.moved = store.moved
    plan.draw_figures = plan.write_tables or not is_current(folder, folder.figures, figures.figures_key(tables_key))
    return plan


def _plan_checkpoint(
    plan: Plan, member: Member, network_key: str | None, store: ArtefactStore, part_bytes: int
) -> None:
    located, keys = member.located, member.keys
    if (key := keys.get("sampled")) and not store.has(spectrum.STAGE, key):
        plan.spectra.setdefault(key, network_key)
    if key and not store.has(network.STAGE, network_key):
        plan.networks.setdefault(network_key, located)
    if (key := keys.get("exact")) and not store.has(exact.STAGE, key):
        plan.exact.setdefault(key, located)
        count = -(-located.weight_bytes // part_bytes)
        if count > MAX_PARTS:
            raise RequestError(
                f"{located.suite}/{located.model} {located.revision}: {located.weight_bytes} bytes of weights in parts of "
                f"{part_bytes} are {count} parts, more than {MAX_PARTS}; give a larger part_bytes"
            )
        if count > 1:
            plan.parts.setdefault(key, count)
    if (key := keys.get("nulls")) and not store.has(nulls.STAGE, key):
        plan.nulls.setdefault(key, keys["exact"])


def _keys_of(
    located: Located, methods: Mapping[str, Parameters], asked: Nulls | None, store: ArtefactStore
) -> tuple[str | None, Mapping[str, str | None], Mapping[str, Outcome]]:
    """(network key, other keys by method, outcomes by method); outcomes say what is already known to be impossible."""
    names = [*methods, "nulls"] if asked is not None else [*methods]
    if not located.outcome.ok:
        return None, dict.fromkeys(names), dict.fromkeys(names, located.outcome)
    keys: dict[str, str | None] = {}
    outcomes = dict.fromkeys(names, Outcome())
    network_key = None
    if "sampled" in methods:
        network_key = network.network_key(located, methods["sampled"])
        keys["sampled"] = spectrum.spectrum_key(network_key, methods["sampled"])
        outcomes["sampled"] = _stored_outcome(store, network.STAGE, network_key)
    if "exact" in methods:
        keys["exact"] = exact.stored_key(located, methods["exact"], asked is not None, store)
        outcomes["exact"] = _stored_outcome(store, exact.STAGE, keys["exact"])
        if asked is not None:
            keys["nulls"] = nulls.nulls_key(keys["exact"], asked)
            outcomes["nulls"] = outcomes["exact"]
    return network_key, keys, outcomes


def _stored_outcome(store: ArtefactStore, stage: str, key: str) -> Outcome:
    if store.has(stage, key) and (failure := store.failure(stage, key)) is not None:
        return Outcome(failure.status, str(failure))
    return Outcome()
