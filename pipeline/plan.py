"""What a run would do: the tasks whose artefacts are not there yet, known before anything is computed.

Content keys follow from what `locate` found and from the DAG file, so the whole plan is: which keys exist?
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ninscope.pipeline.dagfile import Dag, Model
from ninscope.pipeline.evaluations import Evaluation
from ninscope.pipeline.manifest import is_current
from ninscope.pipeline.runfolder import RunFolder
from ninscope.pipeline.stages import emergence, figures, network, spectrum, tables
from ninscope.pipeline.stages.locate import Located
from ninscope.pipeline.stages.outcome import Outcome
from ninscope.pipeline.store import ArtefactStore

from ninscope.measuring import Parameters


@dataclass(frozen=True)
class Task:
    """One task to run. name: what a user reads; key: of the artefact it makes."""

    stage: str
    name: str
    key: str


@dataclass
class Plan:
    """The tasks to run, by key and stage, and what is already known of every checkpoint.

    networks, spectra: content key -> the checkpoint to make it from (equal content is analysed once). emerging: models whose
    E is to be computed, by the artefact's key. outcomes: one a member; ok means that its spectrum is stored or will be.
    """

    inputs: tables.Inputs
    outcomes: list[Outcome]
    network_keys: list[str | None]
    networks: dict[str, Located] = field(default_factory=dict)
    spectra: dict[str, str] = field(default_factory=dict)  # spectrum key -> network key
    emerging: dict[str, Model] = field(default_factory=dict)  # by key: models of the same history share it
    write_tables: bool = False
    draw_figures: bool = False

    def tasks(self) -> list[Task]:
        """All tasks to run, in the order in which they could."""
        names = {}
        for member, key in zip(self.inputs.members, self.network_keys, strict=True):
            label = f"{member.located.suite}/{member.located.model} {member.located.revision}"
            names.setdefault(key, label)
            names.setdefault(member.spectrum_key, label)
        listed = [Task(network.STAGE, names[key], key) for key in self.networks]
        listed += [Task(spectrum.STAGE, names[key], key) for key in self.spectra]
        listed += [Task(emergence.STAGE, f"{m.suite}/{m.model}", key) for key, m in self.emerging.items()]
        tables_key = self.inputs.key(self.outcomes)
        listed += [Task(tables.STAGE, "all", tables_key)] * self.write_tables
        return listed + [Task(figures.STAGE, "all", figures.figures_key(tables_key))] * self.draw_figures

    def all_keys(self) -> dict[str, list[str]]:
        """Every artefact the run consists of, done or not: what `ninscope status` counts."""
        return {
            network.STAGE: sorted({key for key in self.network_keys if key}),
            spectrum.STAGE: sorted({m.spectrum_key for m in self.inputs.members if m.spectrum_key}),
        }


def make_plan(
    dag: Dag, located: Sequence[Located], evaluations: Sequence[tuple[Evaluation, ...]], folder: RunFolder
) -> Plan:
    """Compare what is asked with what is stored. Reads metadata only and computes nothing."""
    parameters = dag.analysis.parameters()
    store = ArtefactStore(folder)
    members, outcomes, network_keys = [], [], []
    for one in located:
        network_key, spectrum_key, outcome = _keys_of(one, parameters, store)
        network_keys.append(network_key)
        members.append(tables.Member(one, spectrum_key))
        outcomes.append(outcome)
    inputs = tables.Inputs(tuple(members), tuple(dag.models), tuple(evaluations), parameters, dag.emergence)
    plan = Plan(inputs, outcomes, network_keys)
    for member, network_key in zip(members, network_keys, strict=True):
        if member.spectrum_key is None or store.has(spectrum.STAGE, member.spectrum_key):
            continue
        plan.spectra.setdefault(member.spectrum_key, network_key)
        if not store.has(network.STAGE, network_key):
            plan.networks.setdefault(network_key, member.located)
    for model in dag.models:
        history = inputs.history(model)
        key = emergence.emergence_key(history, dag.emergence)
        if history and not store.has(emergence.STAGE, key):
            plan.emerging.setdefault(key, model)
    tables_key = inputs.key(outcomes)
    plan.write_tables = bool(plan.spectra or plan.emerging) or not is_current(folder, folder.tables, tables_key)
    plan.draw_figures = plan.write_tables or not is_current(folder, folder.figures, figures.figures_key(tables_key))
    return plan


def _keys_of(located: Located, parameters: Parameters, store: ArtefactStore) -> tuple[str | None, str | None, Outcome]:
    """(network key, spectrum key, outcome); the spectrum key is None where it is known that there can be none."""
    if not located.outcome.ok:
        return None, None, located.outcome
    network_key = network.network_key(located, parameters)
    if store.has(network.STAGE, network_key) and (failure := store.failure(network.STAGE, network_key)) is not None:
        return network_key, None, Outcome(failure.status, str(failure))
    return network_key, spectrum.spectrum_key(network_key, parameters), Outcome()
