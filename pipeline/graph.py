"""From a plan to Dask graphs: networks -> spectra, then emergence -> tables -> figures. Building computes nothing."""

import hashlib

from dask.delayed import Delayed, delayed
from ninscope.pipeline.plan import Plan
from ninscope.pipeline.stages import emergence, figures, network, spectrum, tables
from ninscope.pipeline.stages.outcome import Outcome

# Delayed tasks by stage and key; each yields an Outcome.
Graph = dict[tuple[str, str], Delayed]


def checkpoint_graph(plan: Plan, root: str) -> Graph:
    """Networks and spectra; results pass through the store, only Outcomes travel between workers."""
    parameters = plan.inputs.parameters
    graph: Graph = {}
    for key, located in plan.networks.items():
        _add(graph, root, network.STAGE, key, network.store_network, located, parameters, key)
    for key, network_key in plan.spectra.items():
        built = graph.get((network.STAGE, network_key), Outcome())
        _add(graph, root, spectrum.STAGE, key, spectrum.store_spectrum, built, network_key, parameters, key)
    return graph


def result_graph(plan: Plan, root: str, outcomes: list[Outcome]) -> Graph:
    """Emergence per model, tables and figures, from what became of each checkpoint (one outcome a member).

    Not one graph with the checkpoints': a task whose worker died takes every task that depends on it along, and a checkpoint
    that kills its worker must not take the tables.
    """
    asked = plan.inputs.asked
    graph: Graph = {}
    for key, model in plan.emerging.items():
        _add(graph, root, emergence.STAGE, key, emergence.store_emergence, plan.inputs.history(model), asked)
    emerged = list(graph.values())
    written: Delayed | Outcome = Outcome()
    if plan.write_tables:
        written = _add(graph, root, tables.STAGE, "all", tables.store_tables, plan.inputs, outcomes, emerged)
    if plan.draw_figures:
        _add(graph, root, figures.STAGE, "all", figures.store_figures, written)
    return graph


def _add(graph: Graph, root: str, stage: str, key: str, work, *arguments) -> Delayed:
    # Two runs may share a cluster, where tasks of one name are taken for the same.
    run = hashlib.sha256(root.encode()).hexdigest()[:8]
    graph[stage, key] = delayed(work, pure=False)(root, *arguments, dask_key_name=f"{stage}-{key}-{run}")
    return graph[stage, key]
