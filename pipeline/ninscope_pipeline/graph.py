"""From a plan to Dask graphs: checkpoints to spectra, then emergence -> tables -> figures. Building computes nothing."""

import uuid
from collections.abc import Sequence

from dask.delayed import Delayed, delayed

from ninscope_pipeline.asked.analyses import Wanted
from ninscope_pipeline.plan import Plan
from ninscope_pipeline.stages import activations, emergence, exact, figures, finetune, network, nulls, spectrum, tables
from ninscope_pipeline.stages.inputs import STAGES, Outcomes
from ninscope_pipeline.stages.locate import Located
from ninscope_pipeline.stages.outcome import Outcome
from ninscope_pipeline.stages.studies import ACTIVATIONS, FINETUNE, Study
from ninscope_pipeline.storing.store import ArtefactStore

# Delayed tasks by stage and key; each yields an Outcome.
Graph = dict[tuple[str, str], Delayed]

_STUDIES = {FINETUNE: finetune.store_finetune, ACTIVATIONS: activations.store_activations}


def checkpoint_graph(plan: Plan, root: str) -> Graph:
    """Everything that is made of single checkpoints; results pass through the store, only Outcomes travel."""
    graph: Graph = {}
    for key, (located, wanted) in plan.networks.items():
        _add(graph, root, network.STAGE, key, network.store_network, located, wanted.parameters, key)
    for key, (network_key, wanted) in plan.spectra.items():
        built = graph.get((network.STAGE, network_key), Outcome())
        _add(graph, root, spectrum.STAGE, key, spectrum.store_spectrum, built, network_key, wanted.parameters, key)
    for key, (located, wanted) in plan.exact.items():
        _add_exact(graph, root, key, located, wanted, plan.parts.get(key, 1))
    for key, (exact_key, wanted) in plan.nulls.items():
        analysed = graph.get((exact.STAGE, exact_key), Outcome())
        arguments = (analysed, exact_key, wanted.parameters, wanted.nulls, key)
        _add(graph, root, nulls.STAGE, key, nulls.store_nulls, *arguments)
    for key, study in plan.studies.items():
        _add(graph, root, study.stage, key, _STUDIES[study.stage], study)
    return graph


def _add_exact(graph: Graph, root: str, key: str, located: Located, wanted: Wanted, count: int) -> None:
    """One task, or for a large checkpoint one a part and one that adds them up."""
    parameters, matrices = wanted.parameters, wanted.nulls is not None
    if count == 1:
        _add(graph, root, exact.STAGE, key, exact.store_exact, located, parameters, matrices, key)
        return
    names = [exact.part_key(key, number, count) for number in range(count)]
    ranges = []
    if parameters.log_count is not None:
        ranges = [
            _add(graph, root, exact.RANGES, name, exact.store_range, located, parameters, key, number, count)
            for number, name in enumerate(names)
        ]
    parts = [
        _add(
            graph, root, exact.PARTS, name, exact.store_part, ranges, located, parameters, matrices, key, number, count
        )
        for number, name in enumerate(names)
    ]
    _add(graph, root, exact.STAGE, key, exact.store_combined, parts, located, parameters, key)


def result_graph(
    plan: Plan, root: str, outcomes: Sequence[Outcomes], studies: Sequence[Study], store: ArtefactStore
) -> Graph:
    """Emergence per model and method, tables and figures, from what became of each checkpoint (one entry a member) and study.

    Not one graph with the checkpoints': a task whose worker died takes every task that depends on it along, and a checkpoint
    that kills its worker must not take the tables.
    """
    asked = plan.inputs.asked
    graph: Graph = {}
    for key, (wanted, _, history) in plan.inputs.emerging(outcomes).items():
        if not store.has(emergence.STAGE, key):
            stage = STAGES[wanted.method]
            _add(graph, root, emergence.STAGE, key, emergence.store_emergence, stage, history, asked)
    emerged = list(graph.values())
    written: Delayed | Outcome = Outcome()
    if plan.write_tables:
        made_from = map(_as_it_is, (plan.inputs, outcomes, studies))
        written = _add(graph, root, tables.STAGE, "all", tables.store_tables, *made_from, emerged)
    if plan.draw_figures:
        _add(graph, root, figures.STAGE, "all", figures.store_figures, written)
    return graph


def _add(graph: Graph, root: str, stage: str, key: str, work, *arguments) -> Delayed:
    # Two runs may share a cluster, of one folder even, where tasks of one name are taken for the same: what one run cancels
    # the other would lose, and tables are not of one run what they are of another.
    graph[stage, key] = delayed(work, pure=False)(root, *arguments, dask_key_name=f"{stage}-{key}-{uuid.uuid4().hex}")
    return graph[stage, key]


def _as_it_is(value) -> Delayed:
    """An argument in which no task is, be it of thousands of checkpoints: Dask would look for one in every field of it."""
    return delayed(value, name=f"given-{uuid.uuid4().hex}", traverse=False)
