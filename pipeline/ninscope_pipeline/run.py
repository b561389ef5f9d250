"""One run from its DAG file to its tables: locate, plan, execute, and say what came out."""

import importlib.metadata
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import tomli_w

import ninscope
from ninscope.errors import RequestError
from ninscope_pipeline.asked.analyses import NETWORK, SAMPLED, named
from ninscope_pipeline.asked.dagfile import Dag
from ninscope_pipeline.asked.evaluations import read_evaluations
from ninscope_pipeline.locating import Found, locate_all
from ninscope_pipeline.plan import Plan, make_plan
from ninscope_pipeline.remembered import remember
from ninscope_pipeline.runlog import RunLog
from ninscope_pipeline.stages.exact import clear_leftovers
from ninscope_pipeline.stages.finetune import clear_states
from ninscope_pipeline.stages.inputs import STAGES, settled
from ninscope_pipeline.stages.locate import STAGE as LOCATE
from ninscope_pipeline.stages.locate import Located, task_key
from ninscope_pipeline.stages.of_model import clear_bases
from ninscope_pipeline.stages.outcome import Outcome
from ninscope_pipeline.stages.studies import FINETUNE
from ninscope_pipeline.stages.studies import settled as settled_studies
from ninscope_pipeline.stages.tables import tables_key
from ninscope_pipeline.storing.manifest import key_of
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import ArtefactStore

# How often a plan is made and run while stored artefacts turn out to be damaged: after the first time none should.
_ROUNDS = 3
_RECORDED_VERSIONS = (
    "ninscope",
    "numpy",
    "numba",
    "scipy",
    "zarr",
    "pandas",
    "pyarrow",
    "dask",
    "huggingface_hub",
)


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start; nothing has been written yet."""

    dag: Dag
    folder: RunFolder
    found: Found
    plan: Plan

    @property
    def located(self) -> list[Located]:
        return self.found.located


def prepare(dag: Dag, runs_dir: Path, client=None) -> Prepared:
    """Locate every checkpoint and plan. client: a Dask client to locate on, instead of threads here.

    Raises RequestError when the request itself is wrong: a source that does not exist, an unreadable evaluations file.
    """
    try:
        folder = RunFolder(runs_dir.expanduser().resolve() / dag.name)
    except (OSError, RuntimeError) as error:  # an unknown user's home
        raise RequestError(f"{runs_dir}: no such folder ({error})") from None
    evaluations = [read_evaluations(model.evaluations) for model in dag.all_models()]
    found = locate_all(dag, folder, client)
    return Prepared(dag, folder, found, make_plan(dag, found.located, evaluations, folder))


def start(prepared: Prepared) -> None:
    """Make the run folder and write down what is asked.

    Raises RequestError when the folder cannot be written, StoreError when the disk is full.
    """
    folder, plan = prepared.folder, prepared.plan
    folder.create()
    store, log = ArtefactStore(folder), RunLog(folder)
    store.mend_groups(store.stages())
    for stage, key in plan.moved:
        store.restamp(stage, key)
    remember(folder, prepared.located, prepared.found.beside)
    _write_down(prepared, plan, tables_key(plan.inputs, plan.outcomes, plan.asked_studies))
    log.forget_stored(store)
    for one in prepared.located:
        log.note(LOCATE, task_key(one.suite, one.model, one.revision), one.outcome)


def finish(prepared: Prepared) -> None:
    """Clear away what is left of parts that have served. Raises StoreError."""
    with prepared.folder.alone() as alone:
        store = ArtefactStore(prepared.folder)
        clear_leftovers(store, list(prepared.plan.exact), alone)
        clear_states(store, {study.key for study in prepared.plan.asked_studies if study.stage == FINETUNE}, alone)
        if alone:
            clear_bases(prepared.folder)


def perform(prepared: Prepared, client, done: Callable[[str, str, Outcome], None]) -> dict[tuple[str, str], Outcome]:
    """Run the plan's tasks. A task in which ninscope itself failed leaves its traceback in the run's folder log.

    Where a stored artefact turns out to be damaged, all are checked and what is damaged is made again.
    Raises RequestError, StoreError, ClusterError (the scheduler is lost).
    """
    from ninscope_pipeline.graph import checkpoint_graph, result_graph
    from ninscope_pipeline.workers.execute import execute

    folder, plan, log = prepared.folder, prepared.plan, RunLog(prepared.folder)

    def logged(stage: str, key: str, outcome: Outcome) -> None:
        log.note(stage, key, outcome)
        done(stage, key, outcome)

    def run(graph) -> dict[tuple[str, str], Outcome]:
        return execute(graph, client, logged, log.note_death)

    outcomes: dict[tuple[str, str], Outcome] = {}
    with folder.occupied():
        for left in reversed(range(_ROUNDS)):
            found = run(checkpoint_graph(plan, str(folder.root)))
            members = [
                settled(
                    {
                        wanted.name: found.get((STAGES[wanted.method], member.keys[wanted.name]), each[wanted.name])
                        for wanted in plan.inputs.wanted
                    }
                )
                for member, each in zip(plan.inputs.members, plan.outcomes, strict=True)
            ]
            studies = settled_studies(plan.asked_studies, found)
            if not (left and _any_damaged(found)):
                found |= run(result_graph(plan, str(folder.root), members, studies, ArtefactStore(folder)))
            outcomes |= found
            if not _any_damaged(found):
                break
            if left:
                outcomes = {name: outcome for name, outcome in outcomes.items() if not outcome.damaged}
                plan = make_plan(prepared.dag, prepared.located, plan.inputs.evaluations, folder, thorough=True)
    _write_down(prepared, plan, tables_key(plan.inputs, members, studies), only_of_tables=True)
    return outcomes


def _any_damaged(outcomes: Mapping[tuple[str, str], Outcome]) -> bool:
    return any(outcome.damaged for outcome in outcomes.values())


def _write_down(prepared: Prepared, plan: Plan, key: str, only_of_tables: bool = False) -> None:
    """run.toml and plan.json: what is asked. key: of the tables. only_of_tables: unless those that lie there are others.

    At the end that is known which they are: failures found on the way have changed what they are made from, or another run
    of this folder has written its own.
    """
    folder = prepared.folder
    sampled = [wanted for wanted in plan.inputs.wanted if wanted.method == SAMPLED]
    described = {
        "stages": plan.all_keys(),
        "tables": key,
        "checkpoints": [
            {
                "suite": member.located.suite,
                "model": member.located.model,
                "revision": member.located.revision,
                **{named(w.variant, NETWORK): member.networks.get(w.name) for w in sampled},
                **member.keys,
                "status": (standing := plan.inputs.standing(member, outcomes)).status,
                "message": standing.message,
            }
            for member, outcomes in zip(plan.inputs.members, plan.outcomes, strict=True)
        ],
    }
    with folder.locked("plan"):
        if not only_of_tables or key_of(folder, folder.tables) == key:
            folder.write_bytes(folder.asked, tomli_w.dumps(_asked(prepared.dag)).encode())
            folder.write_json(folder.plan, described)


def _asked(dag: Dag) -> dict:
    versions = {name: importlib.metadata.version(name) for name in _RECORDED_VERSIONS if name != "ninscope"}
    asked = dag.model_dump(by_alias=True) | {"analysis": _analysis(dag)}
    asked["variants"] = [variant.model_dump(include={"name", *variant.changes()}) for variant in dag.variants]
    return {
        "asked": _without_none(asked),
        "versions": {"ninscope": ninscope.__version__, "python": platform.python_version(), **versions},
    }


def _analysis(dag: Dag) -> dict:
    """[analysis] as it would be accepted again: without samples there is no number and no seed of them."""
    sampling = () if SAMPLED in dag.analysis.methods() else ("samples", "seed")
    return dag.analysis.model_dump(exclude=set(sampling))


def _without_none(value):
    """TOML has no null; an absent key says the same."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value
