"""Whether a run would replace the tables and figures of another experiment, whose DAG file has the same name."""

from collections.abc import Iterable, Mapping, Sequence

from ninscope.errors import RequestError
from ninscope_pipeline.located import Located
from ninscope_pipeline.request.dagfile import Dag, dag_written_in
from ninscope_pipeline.request.models import TRAINING
from ninscope_pipeline.stages.stage import ModelName
from ninscope_pipeline.storing.parquet import read_parquet
from ninscope_pipeline.storing.runfolder import RunFolder

ModelSource = tuple[str, str | None]  # source, base
OWN: ModelSource = "the run itself", ""  # of a model that a stage makes; no other has the base ""
_NOWHERE_ELSE: tuple[ModelSource, ...] = (OWN, (TRAINING, None))


def replaced_results(folder: RunFolder, dag: Dag, located: Sequence[Located]) -> str:
    """One clause that says whose results in the folder are of another source than `dag` asks for; empty where none are.

    A model that has moved, or has another name, with the same weights, is the same. So is an experiment that only gained or lost
    models, as long as one of them keeps its name.
    """
    held, wanted = _held(folder), _sources_of(dag)
    shared = set(held) & set(wanted)
    suspects = {name for name in shared if held[name] != wanted[name]}
    if not shared:
        suspects = {name for name, source in held.items() if source not in wanted.values()}
    if not suspects:
        return ""
    held_contents, contents = _contents_held(folder), _contents(located)
    anywhere = set().union(*contents.values())  # where a model of another name may have its weights
    others = [
        name
        for name in sorted(suspects)
        if ((own := held_contents.get(name)) and not own & contents.get(name, anywhere)) or held[name] in _NOWHERE_ELSE
    ]
    if not others:
        return ""
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    first = others[0]
    return f"results of {'/'.join(first)} from {held[first][0]}{more}"


def _held(folder: RunFolder) -> Mapping[ModelName, ModelSource]:
    """What the run that is written down in the folder asked for; nothing where that cannot be read."""
    try:
        return _sources_of(dag_written_in(folder))
    except RequestError:
        return {}


def _sources_of(dag: Dag) -> dict[ModelName, ModelSource]:
    listed = {(model.suite, model.model): (model.source, model.base) for model in dag.all_models()}
    return listed | {(suite, model): OWN for suite, model, _ in dag.own_models()}


def _contents_held(folder: RunFolder) -> Mapping[ModelName, set[str]]:
    """sha256 of the weights that the folder's tables are of, by model."""
    try:
        rows = read_parquet(folder.tables / "checkpoints.parquet", columns=["suite", "model", "content_sha256"])
    except (OSError, ValueError, KeyError):
        return {}
    return _by_model(rows.dropna().itertuples(index=False, name=None))


def _contents(located: Sequence[Located]) -> Mapping[ModelName, set[str]]:
    known = (
        (checkpoint.suite, checkpoint.model, checkpoint.content_sha256)
        for checkpoint in located
        if checkpoint.content_sha256 is not None
    )
    return _by_model(known)


def _by_model(rows: Iterable[tuple[str, str, str]]) -> dict[ModelName, set[str]]:
    contents: dict[ModelName, set[str]] = {}
    for suite, model, digest in rows:
        contents.setdefault((suite, model), set()).add(digest)
    return contents
