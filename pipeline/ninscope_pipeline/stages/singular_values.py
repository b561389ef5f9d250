"""Singular values of every matrix of every checkpoint, as columns of the table `weights` (stage `singular_values`)."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, astuple, dataclass
from typing import TYPE_CHECKING

import numpy as np

from ninscope.architectures import Reading
from ninscope.weights.singular_values import SINGULAR_VALUES, SingularValueStatistics, network_singular_values
from ninscope_pipeline.located import reading_outcome
from ninscope_pipeline.stages.from_weights import WeightsStage, checkpoint_of, fetched_whole, network_of
from ninscope_pipeline.stages.stage import Fetch, Job, Row
from ninscope_pipeline.stages.weights import WEIGHTS_STAGE
from ninscope_pipeline.stages.weights_stored import CheckpointId
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    from ninscope_pipeline.plan import Request
    from ninscope_pipeline.results import Results


@dataclass(frozen=True)
class SingularValuesWork:
    reading: Reading


class SingularValuesStage(WeightsStage[SingularValuesWork]):
    name, title, version = "singular_values", "singular values", 1

    def jobs(self, request: "Request") -> Iterator[Job[SingularValuesWork]]:
        section = request.dag.section(WEIGHTS_STAGE)
        if section is None or not section.singular_values:
            return
        reading = request.analyses[0].parameters.reading
        for located in request.checkpoints:
            outcome = reading_outcome(located, reading)
            key = ""
            if outcome.ok:
                architecture = located.wiring(reading).digest
                key = content_key(self.name, self.version, weights=located.content_sha256, architecture=architecture)
            label = f"{located.suite}/{located.model} {located.revision}"
            work = SingularValuesWork(reading)
            yield Job(self.name, key, label, work, checkpoint=located, known=outcome.passed_on())

    def make(self, store: ArtefactStore, job: Job[SingularValuesWork]) -> Artefact:
        found = network_singular_values(network_of(job, job.work.reading))
        values = np.array([astuple(one) for one in found.statistics.values()])
        return Artefact({"values": values}, {"columns": list(SINGULAR_VALUES), "matrices": list(found.statistics)})

    def fetch(self, job: Job[SingularValuesWork]) -> Fetch | None:
        return fetched_whole([checkpoint_of(job)], job.work.reading)

    def columns_of_weights(self, results: "Results") -> Mapping[tuple[CheckpointId, str], Row]:
        columns: dict[tuple[CheckpointId, str], Row] = {}
        for job, outcome in results.jobs_of(self.name):
            place = checkpoint_of(job).id
            if not outcome.ok:
                columns[place, "all"] = {"status": outcome.status, "message": f"singular values: {outcome.message}"}
                continue
            artefact = results.store.read(*job.id)
            rows = zip(artefact.attributes["matrices"], artefact.arrays["values"].tolist(), strict=True)
            columns |= {(place, name): asdict(SingularValueStatistics(*values)) for name, values in rows}
        return columns


SINGULAR_VALUES_STAGE = SingularValuesStage()
