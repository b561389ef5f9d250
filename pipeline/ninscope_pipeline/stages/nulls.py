"""Null models: the exact analysis of a checkpoint's shuffled and random twins (stage `nulls`).

They are drawn from what the stage `exact` keeps of every matrix, so no weight is read again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, field_validator

from ninscope.exact.null_models import NULLS as KNOWN_NULLS
from ninscope.exact.null_models import null_spectrum
from ninscope.multifractal.emergence import emergence as emergence_between
from ninscope.multifractal.emergence import emergence_of, why_undefined
from ninscope.multifractal.means import MeanSpectrum, known_std, without_spectrum
from ninscope.multifractal.spectrum import peak_warning
from ninscope.parameters import Parameters
from ninscope.wording import joined_clauses
from ninscope_pipeline.request.analyses import DEFAULT
from ninscope_pipeline.request.analyses import EXACT as EXACT_METHOD
from ninscope_pipeline.request.models import Strict
from ninscope_pipeline.stages.exact import EXACT, stored_radii
from ninscope_pipeline.stages.exact_arrays import MATRIX_ARRAYS, stored_matrices
from ninscope_pipeline.stages.stage import Job, Row, Section, Stage, Table
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    from ninscope_pipeline.plan import Request
    from ninscope_pipeline.request.dagfile import Dag
    from ninscope_pipeline.results import Results


class NullsSection(Strict):
    """[nulls]: null models of every checkpoint's whole network, drawn `samples` times each; once where nothing is drawn."""

    # By name, so that a null model that comes later changes no content key.
    models: list[str] = Field(default=["shuffled", "gaussian", "analytic"], min_length=1)
    samples: int = Field(default=3, ge=1, le=1000)
    seed: int = Field(default=0, ge=0)

    @field_validator("models")
    @classmethod
    def _known_and_distinct(cls, models: list[str]) -> list[str]:
        if unknown := [null for null in models if null not in KNOWN_NULLS]:
            raise ValueError(f"there is no null model {unknown[0]!r}; give some of {', '.join(KNOWN_NULLS)}")
        if len(set(models)) != len(models):
            raise ValueError("a null model is listed twice; list each one once")
        return models


@dataclass(frozen=True)
class NullsWork:
    """exact: content key of the original's analysis. parameters: of that analysis."""

    exact: str
    parameters: Parameters
    section: NullsSection


@dataclass(frozen=True)
class NullModel:
    """One null model of one checkpoint. alpha0, width: float64 [samples], NaN where there is no spectrum.

    message: why there is none, and where the largest f is not at q = 0.
    """

    null: str
    alpha0: np.ndarray
    width: np.ndarray
    message: str


class NullsStage(Stage[NullsWork]):
    name, title, version = "nulls", "null models", 2
    section = Section("nulls", NullsSection | None, None)
    judges_checkpoints = True

    def check(self, dag: "Dag") -> None:
        if dag.section(self) is not None and EXACT_METHOD not in dag.analysis.methods():
            raise ValueError("[nulls] needs an exact analysis to compare with; add exact = true to [analysis]")

    def needs_matrices(self, dag: "Dag") -> bool:
        return dag.section(self) is not None

    def jobs(self, request: "Request") -> Iterator[Job[NullsWork]]:
        section = request.dag.section(self)
        if section is None:
            return
        for original in request.jobs_of(EXACT.name):
            if original.name == EXACT_METHOD:  # of [analysis] itself
                key = nulls_key(original.key, section) if original.key else ""
                needs = (original.id,) if original.key else ()
                work = NullsWork(original.key, original.work.parameters, section)
                yield Job(
                    self.name, key, original.label, work, needs, original.checkpoint, self.name, known=original.known
                )

    def make(self, store: ArtefactStore, job: Job[NullsWork]) -> Artefact:
        work = job.work
        original = store.read(EXACT.name, work.exact, only=MATRIX_ARRAYS)
        matrices = stored_matrices(original.arrays, original.attributes)
        radii = stored_radii(original, work.parameters)
        arrays, messages, peaks = {}, {}, {}
        for null in work.section.models:
            samples = 1 if KNOWN_NULLS[null] is None else work.section.samples
            spectra = [
                null_spectrum(null, matrices, radii, work.parameters, work.section.seed, sample)
                for sample in range(samples)
            ]
            arrays[null] = np.array([[spectrum.alpha0, spectrum.width] for spectrum in spectra])
            messages[null] = without_spectrum([spectrum.message for spectrum in spectra], "draws")
            peaks[null] = peak_warning(spectra, "draws")
        told = (
            {"peaks": peaks} if any(peaks.values()) else {}
        )  # of a few alone; artefacts of earlier versions have none
        return Artefact(arrays, {"columns": ["alpha0", "width"], "messages": messages, **told})


def nulls_key(exact: str, section: NullsSection) -> str:
    """What null models depend on beside the exact analysis, of which `exact` is the key."""
    return content_key(NullsStage.name, NullsStage.version, exact=exact, **section.model_dump())


def stored_nulls(artefact: Artefact) -> list[NullModel]:
    """The null models that were stored, in the order they were asked for."""
    return [
        NullModel(
            null,
            values[:, 0],
            values[:, 1],
            joined_clauses(artefact.attributes["messages"][null], artefact.attributes.get("peaks", {}).get(null, "")),
        )
        for null, values in artefact.arrays.items()
    ]


def _rows(results: "Results") -> Iterator[Row]:
    """E of a null model is against the same null model of the baseline step, sample by sample."""
    for checkpoints in results.by_model():
        stored = [
            (checkpoint, stored_nulls(results.store.read(*checkpoint.jobs[NullsStage.name].id)))
            for checkpoint in checkpoints
            if NullsStage.name in checkpoint.jobs and checkpoint.outcomes[NullsStage.name].ok
        ]
        start = next((nulls for checkpoint, nulls in stored if checkpoint.located.is_baseline), [])
        baseline = {null.null: null for null in start}
        for checkpoint, nulls in stored:
            no_emergence = checkpoint.located.no_emergence
            for null in nulls:
                before = None if no_emergence else baseline.get(null.null)
                row = _row(null, before, checkpoint.located.baseline.label, no_emergence)
                yield checkpoint.row_keys | {"variant": DEFAULT} | row


def _row(now: NullModel, start: NullModel | None, baseline: str, no_emergence: str) -> Row:
    means = MeanSpectrum(now.alpha0, now.width)
    start_means = None if start is None else MeanSpectrum(start.alpha0, start.width)
    pairs = () if start is None else zip(now.alpha0, now.width, start.alpha0, start.width, strict=True)
    emergence_of_draws = [emergence_of(*numbers) for numbers in pairs]
    why_none = no_emergence or why_undefined(means, start_means, baseline)
    return {
        "null": now.null, "alpha0": means.alpha0, "width": means.width, "emergence": emergence_between(means, start_means),
        "alpha0_std": known_std(now.alpha0), "width_std": known_std(now.width), "emergence_std": known_std(emergence_of_draws),
        "samples": now.alpha0.size, "message": joined_clauses(now.message, why_none),
    }  # fmt: skip


NullsStage.tables = (
    Table(
        "nulls",
        {
            "null": "string", "alpha0": "float64", "width": "float64", "emergence": "float64", "alpha0_std": "float64",
            "width_std": "float64", "emergence_std": "float64", "samples": "int64", "message": "string", "variant": "string",
        },
        _rows,
    ),
)  # fmt: skip
NULLS = NullsStage()
