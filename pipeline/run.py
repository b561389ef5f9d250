"""One run from its DAG file to its tables: locate, plan, execute, and say what came out."""

import importlib.metadata
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import dask
import tomli_w
from dask.delayed import delayed
from ninscope.pipeline.dagfile import Dag
from ninscope.pipeline.evaluations import read_evaluations
from ninscope.pipeline.manifest import key_of
from ninscope.pipeline.plan import Plan, make_plan
from ninscope.pipeline.runfolder import RunFolder
from ninscope.pipeline.stages.exact import clear_leftovers
from ninscope.pipeline.stages.inputs import STAGES, overall, settled
from ninscope.pipeline.stages.locate import Located, locate, revisions_of
from ninscope.pipeline.stages.outcome import Outcome
from ninscope.pipeline.stages.tables import tables_key
from ninscope.pipeline.store import ArtefactStore

import ninscope
from ninscope.checkpoints.identity import FileIdentity
from ninscope.errors import RequestError

# Locating is metadata requests and hashing, mostly waiting, so threads do and no cluster need be started for it.
_LOCATE_THREADS = 16
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
    located: list[Located]
    plan: Plan


def prepare(dag: Dag, runs_dir: Path, client=None) -> Prepared:
    """Locate every checkpoint and plan. client: a Dask client to locate on, instead of threads here.

    Raises RequestError when the request itself is wrong: a source that does not exist, an unreadable evaluations file.
    """
    try:
        folder = RunFolder(runs_dir.expanduser().resolve() / dag.name)
    except (OSError, RuntimeError) as error:  # an unknown user's home
        raise RequestError(f"{runs_dir}: no such folder ({error})") from None
    evaluations = [read_evaluations(model.evaluations) for model in dag.models]
    located = _locate_all(dag, _known_files(folder), client)
    return Prepared(dag, folder, located, make_plan(dag, located, evaluations, folder))


def start(prepared: Prepared) -> None:
    """Make the run folder and write down what is asked. Raises RequestError when it cannot be written."""
    folder, plan = prepared.folder, prepared.plan
    folder.create()
    folder.write_bytes(folder.asked, tomli_w.dumps(_asked(prepared.dag)).encode())
    stamps = {path: asdict(file) for one in prepared.located for path, file in one.stamps}
    folder.write_json(folder.known_files, stamps)
    folder.write_json(
        folder.plan,
        {
            "stages": plan.all_keys(),
            "tables": tables_key(plan.inputs, plan.outcomes),
            "checkpoints": [
                {
                    "suite": member.located.suite,
                    "model": member.located.model,
                    "revision": member.located.revision,
                    "network": network_key,
                    **member.keys,
                    "status": overall(outcomes).status,
                    "message": overall(outcomes).message,
                }
                for member, network_key, outcomes in zip(
                    plan.inputs.members, plan.network_keys, plan.outcomes, strict=True
                )
            ],
        },
    )


def finish(prepared: Prepared) -> None:
    """Note that the tables there are those of this run: failures found on the way have changed what they are made from.

    What is left of parts that have served goes.
    """
    folder = prepared.folder
    clear_leftovers(ArtefactStore(folder), list(prepared.plan.exact))
    plan = folder.read_json(folder.plan, {})
    folder.write_json(folder.plan, plan | {"tables": key_of(folder, folder.tables)})


def perform(prepared: Prepared, client, done: Callable[[str, str, Outcome], None]) -> dict[tuple[str, str], Outcome]:
    """Run the plan's tasks. A task in which ninscope itself failed leaves its traceback in the run's log folder."""
    from ninscope.pipeline.execute import execute
    from ninscope.pipeline.graph import checkpoint_graph, result_graph

    folder, plan, root = prepared.folder, prepared.plan, str(prepared.folder.root)

    def logged(stage: str, key: str, outcome: Outcome) -> None:
        if outcome.trace:
            folder.write_bytes(folder.log / f"{stage}-{key}.txt", outcome.trace.encode())
        done(stage, key, outcome)

    outcomes = execute(checkpoint_graph(plan, root), client, logged)
    members = [
        settled({name: outcomes.get((STAGES[name], member.keys[name]), known) for name, known in each.items()})
        for member, each in zip(plan.inputs.members, plan.outcomes, strict=True)
    ]
    return outcomes | execute(result_graph(plan, root, members, ArtefactStore(folder)), client, logged)


def _locate_all(dag: Dag, known: dict[str, FileIdentity], client) -> list[Located]:
    """Every revision of every model, in the order of the file and of the steps."""
    asked = [(model, revision) for model in dag.models for revision in revisions_of(model)]
    shared = delayed(known, pure=False)
    tasks = [delayed(locate, pure=False)(model, revision, shared) for model, revision in asked]
    if client is not None:
        return client.gather(client.compute(tasks))
    return list(dask.compute(*tasks, scheduler="threads", num_workers=_LOCATE_THREADS))


def _known_files(folder: RunFolder) -> dict[str, FileIdentity]:
    known = {}
    stored = folder.read_json(folder.known_files, {})
    for path, fields in stored.items() if isinstance(stored, dict) else ():
        try:
            known[path] = FileIdentity(fields["name"], fields["size"], fields["digest"], tuple(fields["stamp"]))
        except (KeyError, TypeError):
            continue  # hashed again
    return known


def _asked(dag: Dag) -> dict:
    versions = {name: importlib.metadata.version(name) for name in _RECORDED_VERSIONS if name != "ninscope"}
    return {
        "asked": _without_none(dag.model_dump() | {"analysis": _analysis(dag)}),
        "versions": {"ninscope": ninscope.__version__, "python": platform.python_version(), **versions},
    }


def _analysis(dag: Dag) -> dict:
    """[analysis] as it would be accepted again: without samples there is no number and no seed of them."""
    sampling = () if "sampled" in dag.analysis.methods() else ("samples", "seed")
    return dag.analysis.model_dump(exclude=set(sampling))


def _without_none(value):
    """TOML has no null; an absent key says the same."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value
