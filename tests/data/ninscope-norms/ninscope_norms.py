"""An example of a stage: the Euclidean norm of every checkpoint's weights, as a table and a figure.

[norms] in a DAG file asks for it; `scale` multiplies the norms.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from ninscope_pipeline.request.models import Strict
from ninscope_pipeline.stages.from_weights import WeightsStage, checkpoint_of
from ninscope_pipeline.stages.stage import Job, Section, Table
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.store import Artefact


class NormsSection(Strict):
    """[norms] of a DAG file."""

    scale: float = Field(default=1.0, gt=0)


@dataclass(frozen=True)
class NormsWork:
    scale: float


class NormsStage(WeightsStage[NormsWork]):
    name, title, version = "norms", "norms", 1
    section = Section("norms", NormsSection | None, None)

    def jobs(self, request) -> Iterator[Job[NormsWork]]:
        section = request.dag.section(self)
        for located in request.checkpoints if section is not None else ():
            key = ""
            if located.outcome.ok:
                key = content_key(self.name, self.version, weights=located.content_sha256, scale=section.scale)
            label = "/".join(located.id[:2]) + f" {located.revision}"
            yield Job(
                self.name, key, label, NormsWork(section.scale), checkpoint=located, known=located.outcome.passed_on()
            )

    def make(self, store, job: Job[NormsWork]) -> Artefact:
        located = checkpoint_of(job)
        checkpoint = located.opened().open(located.revision, located.identity)
        squares = 0.0
        for tensor in checkpoint.tensors.values():
            if len(tensor.shape) == 2:
                values, _ = tensor.rows(np.arange(tensor.shape[0]))
                squares += float((values.astype(np.float64) ** 2).sum())
        return Artefact({"norm": np.array([job.work.scale * squares**0.5])}, {})

    def figures(self, tables) -> Iterator[tuple[str, Any]]:
        from matplotlib.figure import Figure

        for model in tables.models:
            rows = model.table("norms")
            figure = Figure(figsize=(4, 3))
            axes = figure.add_subplot()
            axes.plot(rows["step"], rows["norm"], marker="o")
            axes.set(xlabel="step", ylabel="norm", title=model.name)
            yield f"{model.stem}-norms.png", figure

    def problems(self, run) -> list[str]:
        rows = run.table("norms")
        return [
            f"{row.suite}/{row.model} {row.revision} norms: {row.message}"
            for row in rows[rows["status"] == "failed"].itertuples()
        ]


def rows(results) -> Iterator[dict]:
    for job, outcome in results.jobs_of("norms"):
        suite, model, revision = job.checkpoint.id
        keys = {"suite": suite, "model": model, "revision": revision, "step": job.checkpoint.step}
        norm = float(results.store.read(*job.id).arrays["norm"][0]) if outcome.ok else None
        yield keys | {"norm": norm, "status": outcome.status, "message": outcome.message}


NormsStage.tables = (Table("norms", {"norm": "float64", "status": "string", "message": "string"}, rows),)
NORMS = NormsStage()
