"""From a plan to a Dask graph: networks -> spectra -> emergence per model -> tables -> figures. Building computes nothing."""

from dataclasses import dataclass

from dask.delayed import Delayed, delayed
from ninscope.pipeline.plan import Plan
from ninscope.pipeline.stages import emergence, figures, network, spectrum, tables
from ninscope.pipeline.stages.outcome import Outcome


@dataclass(frozen=True)
class Graph:
    """Delayed tasks by stage and key; each yields an Outcome. members: one a checkpoint, its spectrum's outcome."""

    tasks: dict[tuple[str, str], Delayed]
    members: list[Delayed | Outcome]


def build_graph(plan: Plan, root: str) -> Graph:
    """The Dask graph of a plan's tasks; results pass through the store, only Outcomes travel between workers."""
    parameters, asked = plan.inputs.parameters, plan.inputs.asked
    tasks: dict[tuple[str, str], Delayed] = {}

    def add(stage: str, key: str, work, *arguments) -> Delayed:
        tasks[stage, key] = delayed(work, pure=False, traverse=True)(*arguments, dask_key_name=f"{stage}-{key}")
        return tasks[stage, key]

    for key, located in plan.networks.items():
        add(network.STAGE, key, network.store_network, root, located, parameters, key)
    for key, network_key in plan.spectra.items():
        built = tasks.get((network.STAGE, network_key), Outcome())
        add(spectrum.STAGE, key, spectrum.store_spectrum, root, built, network_key, parameters, key)
    members = [
        tasks.get((spectrum.STAGE, member.spectrum_key), outcome)
        for member, outcome in zip(plan.inputs.members, plan.outcomes, strict=True)
    ]
    by_model = {(m.suite, m.model): [] for m in plan.inputs.models}
    for member, outcome in zip(plan.inputs.members, members, strict=True):
        by_model[member.located.suite, member.located.model].append(outcome)
    emerged = []
    for model in plan.emerging:
        history = plan.inputs.history(model)
        key = emergence.emergence_key(history, asked)
        built = by_model[model.suite, model.model]
        emerged.append(add(emergence.STAGE, key, emergence.store_emergence, root, built, history, asked))
    if plan.write_tables:
        written = add(tables.STAGE, "all", tables.store_tables, root, plan.inputs, members, emerged)
    else:
        written = Outcome()
    if plan.draw_figures:
        add(figures.STAGE, "all", figures.store_figures, root, written)
    return Graph(tasks, members)
