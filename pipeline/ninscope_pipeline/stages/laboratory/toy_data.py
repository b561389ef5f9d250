"""Toy data whose features are known (stage `toy_data`)."""

from typing import TYPE_CHECKING

from ninscope.threads import one_thread_each
from ninscope_pipeline.stages.laboratory.planning import (
    TOY_DATA,
    VERSIONS,
    LaboratoryStage,
    ToySeed,
    check_installed,
    toy_seeds,
)
from ninscope_pipeline.stages.stage import Job
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    from ninscope.neurons.polysemanticity.toy_data import ToyData
    from ninscope_pipeline.plan import Request


class ToyDataStage(LaboratoryStage[ToySeed]):
    name, title, version = TOY_DATA, "toy data", VERSIONS[TOY_DATA]

    def jobs(self, request: "Request") -> list[Job[ToySeed]]:
        asked_for = list(toy_seeds(request.dag))
        if asked_for:
            check_installed(request.dag)
        return [Job(self.name, data.key, data.label, data) for data in asked_for]

    def make(self, store: ArtefactStore, job: Job[ToySeed]) -> Artefact:
        from ninscope.neurons.polysemanticity.toy_data import make_toy_data

        with one_thread_each():
            data = make_toy_data(job.work.experiment, job.work.seed)
        return Artefact(data.arrays(), {})


def stored_toy_data(store: ArtefactStore, data: ToySeed) -> "ToyData":
    """Raises DamagedArtefact, StoreError."""
    from ninscope.neurons.polysemanticity.toy_data import ToyData

    return ToyData.of_arrays(data.experiment, data.seed, store.read(*data.id).arrays)


TOY_DATA_STAGE = ToyDataStage()
