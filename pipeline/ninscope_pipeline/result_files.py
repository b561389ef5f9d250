"""What a run leaves in its folder beside the store: tables and figures, run.toml and plan.json."""

import importlib.metadata
import platform
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import tomli_w

import ninscope
from ninscope_pipeline.figures import STAGE as FIGURES
from ninscope_pipeline.figures import figures_key, store_figures
from ninscope_pipeline.outcome import Outcome
from ninscope_pipeline.plan import CheckpointId, Plan, Request
from ninscope_pipeline.request.analyses import SAMPLED
from ninscope_pipeline.request.dagfile import Dag
from ninscope_pipeline.results import checkpoint_results
from ninscope_pipeline.stages.registry import stages
from ninscope_pipeline.stages.stage import JobId
from ninscope_pipeline.storing.manifest import is_current, key_of
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.tables import STAGE as TABLES
from ninscope_pipeline.tables import store_tables, tables_key

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


def write_results(
    folder: RunFolder, request: Request, done: Callable[[JobId, Outcome], None], figures: bool = True
) -> dict[JobId, Outcome]:
    """Write tables, and figures unless told otherwise, where those of this request are not there; returns what became of them.

    What needs something that is damaged is not written.
    """
    key, outcomes, formats = tables_key(request), {}, request.dag.figures.formats
    if not is_current(folder, folder.tables, key):
        outcomes[TABLES, "all"] = store_tables(folder, request)
        done((TABLES, "all"), outcomes[TABLES, "all"])
    drawn = not figures or is_current(folder, folder.figures, figures_key(key, formats))
    if all(outcome.ok for outcome in outcomes.values()) and not drawn:
        outcomes[FIGURES, "all"] = store_figures(folder, formats, request)
        done((FIGURES, "all"), outcomes[FIGURES, "all"])
    return outcomes


def write_down(
    folder: RunFolder,
    plan: Plan,
    key: str,
    only_of_tables: bool = False,
    about: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """run.toml and plan.json: what is asked. key: of the tables. only_of_tables: unless those that lie there are others. about:
    what plan.json says besides, or in place of what it would say.

    At the end it is known which they are: failures found on the way have changed what they are made from, or another run of this
    folder has written its own.
    """
    request = plan.request
    trust = request.dag.emergence.trust_duplicates
    # By checkpoint, what its jobs are called, a sampled network among them, and where their artefacts lie.
    keys: dict[CheckpointId, dict[str, str | None]] = {}
    for job in request.jobs():
        if job.checkpoint is not None and (job.name or job.listed_as):
            usable = bool(job.key) and (not stages()[job.stage].judges_checkpoints or request.outcome(job).ok)
            keys.setdefault(job.checkpoint.id, {})[job.name or job.listed_as] = job.key if usable else None
    own_models = [
        {"suite": suite, "model": model, "table": next((table.name for table in stage.tables), "")}
        for suite, model, stage in request.dag.own_models()
    ]
    described = {
        **({"own_models": own_models} if own_models else {}),
        "stages": plan.keys(),
        "following": plan.following_keys(),
        **({"kept": kept} if (kept := plan.kept_keys()) else {}),
        "tables": key,
        "checkpoints": [
            {
                "suite": checkpoint.located.suite,
                "model": checkpoint.located.model,
                "revision": checkpoint.located.revision,
                "wirings": {wired.reading: [wired.family, wired.digest] for wired in checkpoint.located.wirings},
                **keys.get(checkpoint.id, {}),
                "status": (standing := checkpoint.standing(trust)).status,
                "message": standing.message,
            }
            for checkpoint in checkpoint_results(request)
        ],
    }
    with folder.locked("plan"):
        if not only_of_tables or key_of(folder, folder.tables) == key:
            folder.write_bytes(folder.run_file, tomli_w.dumps(run_file_content(request.dag)).encode())
            folder.write_json(folder.plan, described | dict(about))


def run_file_content(dag: Dag) -> dict[str, Any]:
    """What run.toml says: the DAG file with its defaults, and the versions of what computes."""
    request = dag.model_dump(by_alias=True) | {"analysis": _analysis(dag)}
    request["variants"] = [variant.model_dump(include={"name", *variant.changes()}) for variant in dag.variants]
    return {
        "asked": _without_none(request),
        "versions": {"ninscope": ninscope.__version__, "python": platform.python_version(), **_versions()},
    }


@cache
def _versions() -> dict[str, str]:
    """Those of other packages; looking one up reads its folder."""
    return {name: importlib.metadata.version(name) for name in _RECORDED_VERSIONS if name != "ninscope"}


def _analysis(dag: Dag) -> dict[str, Any]:
    """[analysis] as it would be accepted again: without samples there is no number and no seed of them."""
    sampling = () if SAMPLED in dag.analysis.methods() else ("samples", "seed")
    return dag.analysis.model_dump(exclude=set(sampling))


def _without_none(value: Any) -> Any:
    """TOML has no null; an absent key says the same."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value
