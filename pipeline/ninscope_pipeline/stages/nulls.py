"""Null models: the analysis of a checkpoint's shuffled and random twins (stage `nulls`).

Those of single layers are drawn from what the stage `exact` keeps of every matrix; where norms are kept, and across several
layers, the weights are read again, once. Null models of samples, across several layers, are drawn from the stored network.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import Field, field_validator

from ninscope.exact.norms import matrix_norms
from ninscope.exact.null_models import NULLS as NULLS_OF_LAYERS
from ninscope.exact.null_models import null_spectrum, with_norms
from ninscope.exact.path_nulls import PATH_NULLS, Drawn, check_path_nulls
from ninscope.exact.paths import path_null_spectra
from ninscope.measuring import analyse_network
from ninscope.multifractal.emergence import emergence as emergence_between
from ninscope.multifractal.emergence import emergence_of, unlike_counts, why_undefined, withheld
from ninscope.multifractal.means import MeanSpectrum, known_std, without_spectrum
from ninscope.multifractal.spectrum import Spectrum, peak_warning
from ninscope.networks.incoming import DIRECTIONS, directed
from ninscope.networks.neuron_network import NeuronNetwork
from ninscope.parameters import Parameters
from ninscope.wording import joined_clauses
from ninscope_pipeline.request.analyses import DEFAULT
from ninscope_pipeline.request.analyses import EXACT as EXACT_METHOD
from ninscope_pipeline.request.analyses import SAMPLED as SAMPLED_METHOD
from ninscope_pipeline.request.models import Strict
from ninscope_pipeline.stages.exact import EXACT, stored_radii
from ninscope_pipeline.stages.exact_arrays import MATRIX_ARRAYS, stored_matrices
from ninscope_pipeline.stages.from_weights import WeightsStage, checkpoint_of, fetched_whole, network_of
from ninscope_pipeline.stages.network import NETWORK, stored_network
from ninscope_pipeline.stages.spectra import SPECTRA
from ninscope_pipeline.stages.stage import Fetch, Job, JobId, Measures, Row, Section, Table
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    from ninscope_pipeline.plan import Request
    from ninscope_pipeline.request.dagfile import Dag
    from ninscope_pipeline.results import CheckpointResult, Results


# What every null model keeps.
KEEPS = {name: null.keeps for name, null in PATH_NULLS.items()} | {
    name: null.keeps for name, null in NULLS_OF_LAYERS.items()
}
KNOWN_NULLS = tuple(dict.fromkeys((*NULLS_OF_LAYERS, *PATH_NULLS)))


class NullsSection(Strict):
    """[nulls]: null models of [analysis] of every checkpoint, drawn `samples` times each; once where nothing is drawn."""

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
    """exact: content key of the original's analysis. parameters: of that analysis. network: of samples, content key of the
    network.
    """

    exact: str
    parameters: Parameters
    section: NullsSection
    network: str = ""

    @property
    def across_layers(self) -> bool:
        return self.parameters.layers_crossed > 1

    @property
    def reads_weights(self) -> bool:
        """Whether they are drawn from the checkpoint itself."""
        if self.network:
            return False
        return self.across_layers or any(NULLS_OF_LAYERS[null].needs_norms for null in self.section.models)


@dataclass(frozen=True)
class NullModel:
    """One null model of one checkpoint. alpha0, width: float64 [samples], NaN where there is no spectrum.

    message: why there is none, and where the largest f is not at q = 0.
    """

    null: str
    alpha0: np.ndarray
    width: np.ndarray
    message: str


class NullsStage(WeightsStage[NullsWork]):
    name, title, version = "nulls", "null models", 2
    section = Section("nulls", NullsSection | None, None)
    judges_checkpoints = True

    def check(self, dag: "Dag") -> None:
        section = dag.section(self)
        if section is None:
            return
        methods, crossed = dag.analysis.methods(), dag.analysis.layers_crossed
        if EXACT_METHOD not in methods and crossed == 1:
            raise ValueError("[nulls] needs an exact analysis to compare with; add exact = true to [analysis]")
        known = list(NULLS_OF_LAYERS if crossed == 1 else PATH_NULLS)
        if EXACT_METHOD not in methods:
            known = [null for null in known if not PATH_NULLS[null].needs_weights]
        if others := [null for null in section.models if null not in known]:
            whats = "single layers" if crossed == 1 else f"paths across {crossed} layers"
            whose = "" if EXACT_METHOD in methods else " of samples"
            why = (
                ""
                if crossed > 1
                else " (it would keep all results; for matching and rewired give layers_crossed = 2 or more)"
            )
            raise ValueError(
                f"[nulls] models: {others[0]} is none of {whats}{whose}{why}; give some of {', '.join(known)}"
            )

    def needs_matrices(self, dag: "Dag") -> bool:
        return dag.section(self) is not None

    def jobs(self, request: "Request") -> Iterator[Job[NullsWork]]:
        section = request.dag.section(self)
        if section is None:
            return
        exact = EXACT_METHOD in request.dag.analysis.methods()
        for original in request.jobs_of((EXACT if exact else SPECTRA).name):
            if original.name != (EXACT_METHOD if exact else SAMPLED_METHOD):  # of [analysis] itself
                continue
            key = nulls_key(original.key, section) if original.key else ""
            network = "" if exact else original.work.network
            needs: tuple[JobId, ...] = (
                (original.id, *(() if exact else ((NETWORK.name, network),))) if original.key else ()
            )
            work = NullsWork(original.key, original.work.parameters, section, network)
            yield Job(self.name, key, original.label, work, needs, original.checkpoint, self.name, known=original.known)

    def make(self, store: ArtefactStore, job: Job[NullsWork]) -> Artefact:
        work = job.work
        if work.network:
            found = _of_samples(store, job)
        elif work.across_layers:
            found = {null: _draws(spectra) for null, spectra in _across_layers(job).items()}
        else:
            found = {null: _draws(spectra) for null, spectra in _of_layers(store, job).items()}
        peaks = {null: drawn.peak for null, drawn in found.items()}
        return Artefact(
            {null: drawn.values for null, drawn in found.items()},
            {
                "columns": ["alpha0", "width"],
                "messages": {null: drawn.message for null, drawn in found.items()},
                # Where there is one alone: artefacts of earlier versions have none.
                **({"peaks": peaks} if any(peaks.values()) else {}),
            },
        )

    def check_unchanged(self, store: ArtefactStore, job: Job[NullsWork]) -> None:
        if job.work.reads_weights:
            super().check_unchanged(store, job)

    def fetch(self, job: Job[NullsWork]) -> Fetch | None:
        """Every weight block once more, where null models are drawn from weights."""
        return fetched_whole([checkpoint_of(job)], job.work.parameters.reading) if job.work.reads_weights else None


class _Draws(NamedTuple):
    """values: float64 [draws, 2], alpha0 and width. message: one clause where some have none. peak: one where the largest f of
    some is not at q = 0.
    """

    values: np.ndarray
    message: str
    peak: str


def _draws(spectra: list[Spectrum]) -> _Draws:
    values = np.array([[spectrum.alpha0, spectrum.width] for spectrum in spectra])
    message = without_spectrum([spectrum.message for spectrum in spectra], "draws")
    return _Draws(values, message, peak_warning(spectra, "draws"))


def _of_layers(store: ArtefactStore, job: Job[NullsWork]) -> dict[str, list[Spectrum]]:
    """Null models of single layers, which see of a matrix how many weights fall into each bin, or their norms."""
    work = job.work
    original = store.read(EXACT.name, work.exact, only=MATRIX_ARRAYS)
    matrices = stored_matrices(original.arrays, original.attributes)
    if work.reads_weights:
        matrices = with_norms(matrices, matrix_norms(_network(job)))
    radii = stored_radii(original, work.parameters)
    return {
        null: [
            null_spectrum(null, matrices, radii, work.parameters, work.section.seed, sample)
            for sample in range(1 if NULLS_OF_LAYERS[null].draw is None else work.section.samples)
        ]
        for null in work.section.models
    }


def _across_layers(job: Job[NullsWork]) -> dict[str, list[Spectrum]]:
    """Null models of a whole network's paths."""
    section = job.work.section
    asked = dict.fromkeys(section.models, section.samples)
    return path_null_spectra(_network(job), asked, job.work.parameters, section.seed)


def _of_samples(store: ArtefactStore, job: Job[NullsWork]) -> dict[str, _Draws]:
    """Null models of the paths of samples: of every draw the means over samples, as of the network itself."""
    work, found = job.work, {}
    parameters, radii = work.parameters, work.parameters.integer_radii
    if any(PATH_NULLS[null].redraw is not None for null in work.section.models):
        check_path_nulls(network_of(job, parameters.reading), work.section.models, radii, of_samples=True)
    network = stored_network(store.read(NETWORK.name, work.network, with_matrix=True))
    for null in work.section.models:
        measured = [
            analyse_network(network, parameters, partial(_drawn, null, work, draw))
            for draw in range(work.section.samples)
        ]
        values = np.array([[of_draw.alpha0, of_draw.width] for of_draw in measured])
        spectra = [spectrum for of_draw in measured for spectrum in of_draw.samples]
        message = without_spectrum([spectrum.message for spectrum in spectra], "samples of draws")
        found[null] = _Draws(values, message, peak_warning(spectra, "samples of draws"))
    return found


def _drawn(null: str, work: NullsWork, draw: int, sample: int) -> Drawn:
    return Drawn(null, work.parameters.integer_radii, work.section.seed, draw, f"{sample} ")


def _network(job: Job[NullsWork]) -> NeuronNetwork:
    return directed(network_of(job, job.work.parameters.reading), job.work.parameters.direction)


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


def keeps_of(null: str, direction: str) -> str:
    """What a null model keeps. Read from the side of the targets, the columns of a matrix are its rows."""
    kept = KEEPS.get(null, "")
    if direction == DIRECTIONS[0]:
        return kept
    return kept.replace("source", "SOURCE").replace("target", "source").replace("SOURCE", "target")


def _rows(results: "Results") -> Iterator[Row]:
    """E of a null model is against the same null model of the baseline step, sample by sample."""
    direction = results.request.dag.analysis.direction
    for checkpoints in results.by_model():
        stored = [
            (checkpoint, stored_nulls(results.store.read(*checkpoint.jobs[NullsStage.name].id)))
            for checkpoint in checkpoints
            if NullsStage.name in checkpoint.jobs and checkpoint.outcomes[NullsStage.name].ok
        ]
        start = next((nulls for checkpoint, nulls in stored if checkpoint.located.is_baseline), [])
        baseline = {null.null: null for null in start}
        unlike = _unlike_counts(results, [checkpoint for checkpoint, _ in stored])
        for checkpoint, nulls in stored:
            no_emergence = checkpoint.located.no_emergence or unlike.get(checkpoint.id, "")
            for null in nulls:
                before = None if no_emergence else baseline.get(null.null)
                row = _row(null, before, checkpoint.located.baseline.label, no_emergence)
                yield checkpoint.row_keys | {"variant": DEFAULT, "keeps": keeps_of(null.null, direction)} | row


def _unlike_counts(results: "Results", checkpoints: "Sequence[CheckpointResult]") -> dict[tuple[str, str, str], str]:
    """By checkpoint, why its null models have no E: what counts of the network itself is unlike what counts of the baseline."""
    dag = results.request.dag
    start = next((checkpoint for checkpoint in checkpoints if checkpoint.located.is_baseline), None)
    if start is None or dag.emergence.trust_unlike_counts:
        return {}
    method = EXACT_METHOD if EXACT_METHOD in dag.analysis.methods() else SAMPLED_METHOD
    measured = {checkpoint.id: results.measurement(checkpoint.jobs[method].id) for checkpoint in checkpoints}
    label = start.located.baseline.label
    found = {id_: unlike_counts(now, measured[start.id], label) for id_, now in measured.items()}
    return {id_: withheld(clause) for id_, clause in found.items() if clause}


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
            "keeps": "string",
        },
        _rows,
        (Measures({f"null_{name}": name for name in ("emergence", "alpha0", "width")}, by=("null",)),),
    ),
)  # fmt: skip
NULLS = NullsStage()
