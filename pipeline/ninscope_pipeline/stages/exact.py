"""Exact spectra: the whole network of a checkpoint, streamed; nothing of it is stored but the results (stage `exact`).

A large checkpoint is analysed in parts, each a job of its own (stage `parts`), on whichever machine: counts of edges are integers,
so no bit depends on it. Logarithmic radii need the range of all weights first (stage `ranges`: of each part, then of all).
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ninscope.errors import CheckpointError, RequestError
from ninscope.exact.counting import magnitudes
from ninscope.exact.null_models import MatrixBins
from ninscope.exact.whole import ExactAnalysis, analyse_piece, combine, exact_analysis
from ninscope.measurement import Measurement, exact_measurement
from ninscope.networks.incoming import DIRECTIONS, directed
from ninscope.networks.neuron_network import NeuronNetwork
from ninscope.networks.radii import LogRadii, Radii, log_radii
from ninscope.parameters import Parameters
from ninscope.weights.counting import WeightCounter
from ninscope_pipeline.located import Located, reading_outcome
from ninscope_pipeline.outcome import Outcome
from ninscope_pipeline.request.analyses import DEFAULT
from ninscope_pipeline.request.analyses import EXACT as EXACT_METHOD
from ninscope_pipeline.stages.exact_arrays import artefact_of_part, matrices_as_arrays, stored_part
from ninscope_pipeline.stages.from_weights import WeightsStage, checkpoint_of, fetched_whole, label_of, network_of
from ninscope_pipeline.stages.measurements import DEGREES_TABLE, artefact_of_measurement
from ninscope_pipeline.stages.stage import Fetch, Job, JobId
from ninscope_pipeline.stages.weights_stored import (
    WEIGHTS,
    artefact_of_piece,
    artefact_of_weights,
    piece_key,
    weights_key,
    weights_wanted,
)
from ninscope_pipeline.storing.keys import beyond_defaults, content_key
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ninscope.report.page.parts import PagePart, PageTables
    from ninscope_pipeline.figures import FigureTables
    from ninscope_pipeline.plan import Request

MAX_PARTS = 10_000  # of one checkpoint


@dataclass(frozen=True)
class ExactWork:
    """matrices: whether null models will need what is tallied of every matrix. parts: into how many jobs the analysis is split.
    key: of the whole analysis. number: which part a job of the stages `parts` and `ranges` does; `parts` where it joins what the
    others did. weights: key of the artefact of the stage `weights` that is to be made in the same pass; empty for none.
    """

    parameters: Parameters
    matrices: bool
    key: str
    parts: int = 1
    number: int = 0
    weights: str = ""

    def part_key(self, number: int) -> str:
        return f"{self.key}-{number + 1}-of-{self.parts}" if number < self.parts else self.joined_key

    @property
    def joined_key(self) -> str:
        return f"{self.key}-all-of-{self.parts}"

    @property
    def joins(self) -> bool:
        return self.number == self.parts

    @property
    def needs_ranges(self) -> bool:
        return self.parts > 1 and self.parameters.log_count is not None


class _PartStage(WeightsStage[ExactWork]):
    """A part of an exact analysis, which is of no use once the whole is there."""

    def jobs(self, request: "Request") -> Iterator[Job[ExactWork]]:
        """The stage `exact` makes them, where an analysis is split."""
        yield from ()

    def is_superseded(self, store: ArtefactStore, job: Job[ExactWork]) -> bool:
        """Another run may have been faster, and has cleared the parts away. Raises CheckpointError where that failed."""
        return store.has_result(EXACT.name, job.work.key)

    def fetch(self, job: Job[ExactWork]) -> Fetch | None:
        located = checkpoint_of(job)
        if located.kind != "hub" or job.work.joins:
            return None
        wiring = located.wiring(job.work.parameters.reading)
        total = wiring.weight_bytes + wiring.preparation_bytes  # of which a part takes what its own weights need
        number, count = job.work.number, job.work.parts
        return Fetch((number + 1) * total // count - number * total // count)


class RangesStage(_PartStage):
    name, title, version = "ranges", "ranges of parts", 1

    def make(self, store: ArtefactStore, job: Job[ExactWork]) -> Artefact:
        """The smallest and the largest weights of one part of a checkpoint, or those of all its parts."""
        work = job.work
        if (
            work.joins
        ):  # every part needs the range of all: so it reads one artefact, where it would read one of each part
            parts = [store.read(self.name, work.part_key(number)).arrays["magnitudes"] for number in range(work.parts)]
            return Artefact({"magnitudes": np.concatenate(parts)}, {})
        network = network_of(job, work.parameters.reading)
        return Artefact({"magnitudes": magnitudes(network, work.number, work.parts)}, {})


class PartsStage(_PartStage):
    name, title, version = "parts", "parts", 1

    def make(self, store: ArtefactStore, job: Job[ExactWork]) -> Artefact:
        """The counts of one part of a checkpoint."""
        work = job.work
        network = directed(network_of(job, work.parameters.reading), work.parameters.direction)
        radii = _radii(store, work)
        counter = counter_of(store, work, network)
        (part,) = analyse_piece(
            network, work.parameters, radii, work.number, work.parts, matrices=work.matrices, passenger=counter
        )
        if counter is not None:
            self.check_unchanged(store, job)
            key = piece_key(work.weights, work.number, work.parts)
            store.write(WEIGHTS, key, artefact_of_piece(counter.piece))
        return artefact_of_part(part)


class ExactStage(WeightsStage[ExactWork]):
    name, title, version = "exact", "exact spectra", 3
    judges_checkpoints = True
    tables = (DEGREES_TABLE,)

    def jobs(self, request: "Request") -> Iterator[Job[ExactWork]]:
        """The analyses, and the parts of those that are split. Raises RequestError: too many parts."""
        with_weights = weights_wanted(request.dag)
        for located in request.checkpoints:
            planned: list[str] = []
            for analysis in request.analyses:
                if analysis.method != EXACT_METHOD:
                    continue
                parameters, label = analysis.parameters, label_of(located, analysis)
                outcome = reading_outcome(located, parameters.reading)
                if not outcome.ok:
                    work = ExactWork(parameters, analysis.with_matrices, "")
                    yield Job(self.name, "", label, work, checkpoint=located, name=analysis.name, known=outcome)
                    continue
                key = _usable_key(located, parameters, analysis.with_matrices, request.store, planned)
                planned.append(key)
                parts = _part_count(located, parameters, request.dag.execution.part_bytes)
                # Across layers, and from the targets' side, the weights are not read as they are stored.
                as_stored = parameters.layers_crossed == 1 and parameters.direction == DIRECTIONS[0]
                counted = with_weights and analysis.variant == DEFAULT and as_stored
                weights = weights_key(located, parameters.reading) if counted else ""
                work = ExactWork(parameters, analysis.with_matrices, key, parts, weights=weights)
                part_jobs = list(_part_jobs(work, located, label)) if parts > 1 else []
                yield from part_jobs
                needs = tuple(job.id for job in part_jobs if job.stage == PARTS.name or job.work.joins)
                yield Job(self.name, key, label, work, needs, located, analysis.name)

    def make(self, store: ArtefactStore, job: Job[ExactWork]) -> Artefact:
        """The whole analysis, in one go or from its parts."""
        work = job.work
        network = directed(network_of(job, work.parameters.reading), work.parameters.direction)
        if work.parts == 1:
            counter = counter_of(store, work, network)
            analysis = exact_analysis(network, work.parameters, matrices=work.matrices, passenger=counter)
            if counter is not None:
                self.check_unchanged(store, job)
                weights = replace(counter.weights(), unverified=analysis.unverified)
                store.write(WEIGHTS, work.weights, artefact_of_weights(weights))
        else:
            parts = [stored_part(store.read(PARTS.name, work.part_key(number))) for number in range(work.parts)]
            analysis = combine(parts, network, work.parameters, _radii(store, work))
        return artefact_of_analysis(analysis)

    def made(self, store: ArtefactStore, job: Job[ExactWork]) -> None:
        if job.work.parts > 1:
            _clear_parts(store, job.key)

    def need_failed(self, store: ArtefactStore, job: Job[ExactWork], failure: Outcome) -> None:
        """A part that is not finite makes the whole so: that is stored, and the parts are cleared away."""
        if failure.status == "nonfinite" and not store.has(self.name, job.key):
            store.write_failure(self.name, job.key, CheckpointError(failure.status, failure.message))
            _clear_parts(store, job.key)

    def fetch(self, job: Job[ExactWork]) -> Fetch | None:
        """Every weight block once, and what checking hashes takes; logarithmic radii take a pass before. Parts fetch for
        themselves."""
        parameters = job.work.parameters
        passes = 1 if parameters.log_count is None else 2
        return fetched_whole([checkpoint_of(job)], parameters.reading, passes) if job.work.parts == 1 else None

    def figures(self, tables: "FigureTables") -> "Iterator[tuple[str, Figure]]":
        from ninscope.report.degree_figures import degrees_figure, kurtosis_figure

        for model in tables.models:
            degrees = model.table("degrees")
            if degrees["p50"].notna().any():  # not of samples alone, nor of radii that bound no distance
                yield f"{model.stem}-degrees.png", degrees_figure(degrees, model.name)
                yield f"{model.stem}-kurtosis.png", kurtosis_figure(degrees, model.name)

    def page(self, tables: "PageTables") -> "Iterator[PagePart]":
        from ninscope.report.page.degrees_part import degrees_parts

        yield from degrees_parts(tables)

    def clear(self, store: ArtefactStore, jobs: Sequence[Job[ExactWork]], alone: bool) -> None:
        """Parts that nobody will add up: of analyses that are done, or that are not asked for any more.

        Where a server did not answer for a checkpoint, it is not known which parts may be its own, and all stay.
        """
        planned = {job.key for job in jobs}
        unanswered = any(not job.key and checkpoint_of(job).passing for job in jobs)
        for stage in (PARTS.name, RANGES.name):
            for key in {part.split("-")[0] for part in store.keys(stage)}:
                if store.has(self.name, key) or (alone and key not in planned and not unanswered):
                    _clear_parts(store, key)


RANGES, PARTS, EXACT = RangesStage(), PartsStage(), ExactStage()


def counter_of(store: ArtefactStore, work: ExactWork, network: NeuronNetwork) -> WeightCounter | None:
    """What counts the weights while they are read, where that is asked for and not known yet."""
    return WeightCounter(network) if work.weights and not store.has(WEIGHTS, work.weights) else None


def exact_key(located: Located, parameters: Parameters, matrices: bool) -> str:
    """What an exact spectrum depends on: the weights, the wiring, the analysis. matrices: whether null models will follow."""
    return content_key(
        EXACT.name,
        EXACT.version,
        weights=located.content_sha256,
        architecture=located.wiring(parameters.reading).digest,
        transfer=parameters.transfer,
        max_distance=parameters.max_distance if parameters.log_count is None else None,
        radii=parameters.radii,
        min_degree=parameters.min_degree,
        q=parameters.q,
        derivative=parameters.derivative,
        per_node=parameters.per_node,
        matrices=matrices,
        **beyond_defaults(parameters, "parts", "layers_crossed", "direction", "fit_radii"),
    )


def _usable_key(
    located: Located, parameters: Parameters, matrices: bool, store: ArtefactStore, planned: Collection[str]
) -> str:
    """Its key, or that of an analysis that holds all of it and more (single nodes, matrices) and is stored, or planned."""
    own = exact_key(located, parameters, matrices)
    if store.has(EXACT.name, own):
        return own
    richer = (
        exact_key(located, replace(parameters, per_node=per_node), with_matrices)
        for per_node in {parameters.per_node, parameters.layers_crossed == 1}
        for with_matrices in {matrices, True}
    )
    return next((key for key in sorted(richer) if key in planned or store.has(EXACT.name, key)), own)


def _part_count(located: Located, parameters: Parameters, part_bytes: int) -> int:
    if parameters.layers_crossed > 1:  # a path leads through many matrices
        return 1
    weight_bytes = located.wiring(parameters.reading).weight_bytes
    count = -(-weight_bytes // part_bytes)
    if count > MAX_PARTS:
        raise RequestError(
            f"{located.suite}/{located.model} {located.revision}: part_bytes = {part_bytes} splits {weight_bytes} bytes of "
            f"weights into {count} parts, more than {MAX_PARTS}; give a larger part_bytes"
        )
    return max(count, 1)


def _part_jobs(whole: ExactWork, located: Located, label: str) -> Iterator[Job[ExactWork]]:
    """Jobs of the parts, and before them, where the radii need it, of their ranges."""
    needs: tuple[JobId, ...] = ()
    if whole.needs_ranges:
        ranges = [_part_job(RANGES, whole, number, located, label) for number in range(whole.parts)]
        yield from ranges
        joined = _part_job(RANGES, whole, whole.parts, located, label, tuple(job.id for job in ranges))
        yield joined
        needs = (joined.id,)
    for number in range(whole.parts):
        yield _part_job(PARTS, whole, number, located, label, needs)


def _part_job(
    stage: _PartStage, whole: ExactWork, number: int, located: Located, label: str, needs: tuple[JobId, ...] = ()
) -> Job[ExactWork]:
    work = replace(whole, number=number)
    which = "all parts" if work.joins else f"part {number + 1} of {work.parts}"
    return Job(stage.name, work.part_key(number), f"{label} {which}", work, needs, located, requested=False)


def artefact_of_analysis(analysis: ExactAnalysis) -> Artefact:
    """A measurement's artefact, with the statistics of layers, and nodes and matrices where they are asked for."""
    return artefact_of_exact(exact_measurement(analysis), analysis.radii, analysis.matrices)


def artefact_of_exact(measured: Measurement, radii: Radii, matrices: Sequence[MatrixBins] = ()) -> Artefact:
    """What this stage stores of an exact measurement on these radii. matrices: what null models need, where that is kept."""
    artefact = artefact_of_measurement(measured)
    arrays, attributes = matrices_as_arrays(matrices)
    bounds = [radii.smallest_weight, radii.largest_weight] if isinstance(radii, LogRadii) else None
    return Artefact({**artefact.arrays, **arrays}, {**artefact.attributes, **attributes, "log_bounds": bounds})


def stored_radii(artefact: Artefact, parameters: Parameters) -> Radii:
    """The grid of radii that a stored analysis was made on."""
    if parameters.log_count is None:
        return parameters.integer_radii
    return LogRadii(parameters.log_count, *artefact.attributes["log_bounds"])


def _radii(store: ArtefactStore, work: ExactWork) -> Radii:
    """The grid of radii of an analysis in parts."""
    parameters = work.parameters
    if parameters.log_count is None:
        return parameters.integer_radii
    return log_radii(parameters.log_count, store.read(RANGES.name, work.joined_key).arrays["magnitudes"])


def _clear_parts(store: ArtefactStore, key: str) -> None:
    for stage in (PARTS.name, RANGES.name):
        store.remove(stage, f"{key}-*")
