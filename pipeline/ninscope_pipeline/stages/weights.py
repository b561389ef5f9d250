"""Statistics of weights: a row for every matrix of every checkpoint, and one for all together (stage `weights`).

Where the exact analysis of a checkpoint is to be made, it counts the weights as it reads them, and this stage finds them counted;
else it reads them itself. The stages `weight_changes` and `singular_values`, and any other that `FillsWeights`, add columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from ninscope.architectures import Reading
from ninscope.checkpoints.verification import unverified
from ninscope.weights.counting import WHOLE, WeightCounter, count_piece, joined_pieces, network_weights
from ninscope.wording import joined_clauses
from ninscope_pipeline.located import reading_outcome
from ninscope_pipeline.request.analyses import EXACT as EXACT_METHOD
from ninscope_pipeline.request.models import Strict
from ninscope_pipeline.stages.from_weights import WeightsStage, checkpoint_of, fetched_whole, network_of
from ninscope_pipeline.stages.stage import Fetch, Job, JobId, Measures, Row, Section, Table, failed_rows
from ninscope_pipeline.stages.weights_stored import (
    VERSION,
    WEIGHTS,
    FillsWeights,
    artefact_of_weights,
    merged_columns,
    piece_key,
    stored_piece,
    stored_weights,
    weights_key,
    weights_wanted,
)
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ninscope.report.page.parts import PagePart, PageTables
    from ninscope_pipeline.figures import FigureTables
    from ninscope_pipeline.opened_run import Run
    from ninscope_pipeline.plan import Request
    from ninscope_pipeline.request.dagfile import Dag
    from ninscope_pipeline.results import Results


class WeightsSection(Strict):
    """[weights]: statistics of every matrix of every checkpoint.

    changes: compare with the baseline and with the checkpoint before; None: where both are on this machine. singular_values:
    ranks, condition numbers and spectral exponents too.
    """

    changes: bool | None = None
    singular_values: bool = False


@dataclass(frozen=True)
class WeightsWork:
    """pieces: in how many the exact analysis that is made before counts the weights."""

    reading: Reading
    pieces: int = 1


class WeightsStatisticsStage(WeightsStage[WeightsWork]):
    name, title, version = WEIGHTS, "weights", VERSION
    section = Section("weights", WeightsSection | None, None)
    judges_checkpoints = True

    def needs_weights(self, dag: "Dag") -> bool:
        return dag.section(self) is not None

    def jobs(self, request: "Request") -> Iterator[Job[WeightsWork]]:
        if not weights_wanted(request.dag):
            return
        reading = request.analyses[0].parameters.reading
        for located in request.checkpoints:
            label = f"{located.suite}/{located.model} {located.revision}"
            outcome = reading_outcome(located, reading)
            work = WeightsWork(reading)
            if not outcome.ok:
                yield Job(self.name, "", label, work, checkpoint=located, name=self.name, known=outcome)
                continue
            analysis = request.job_named(located, EXACT_METHOD)
            needs: tuple[JobId, ...] = ()
            if analysis is not None and analysis.work.weights and not request.store.has(*analysis.id):
                work, needs = replace(work, pieces=analysis.work.parts), (analysis.id,)
            yield Job(self.name, weights_key(located, reading), label, work, needs, located, self.name)

    def make(self, store: ArtefactStore, job: Job[WeightsWork]) -> Artefact:
        network, pieces = network_of(job, job.work.reading), job.work.pieces
        if pieces == 1:  # no exact analysis has counted them
            return artefact_of_weights(network_weights(network))
        counted = []
        for number in range(pieces):
            key = piece_key(job.key, number, pieces)
            if store.has(self.name, key):
                counted.append(stored_piece(store.read(self.name, key)))
            else:
                counter = WeightCounter(network)
                count_piece(network, counter, number, pieces)
                counted.append(counter.piece)
        weights = WeightCounter(network, joined_pieces(counted)).weights()
        return artefact_of_weights(replace(weights, unverified=unverified(network.matrices.values())))

    def made(self, store: ArtefactStore, job: Job[WeightsWork]) -> None:
        if job.work.pieces > 1:
            store.remove(self.name, f"{job.key}-*")

    def fetch(self, job: Job[WeightsWork]) -> Fetch | None:
        """Nothing where the exact analysis counts what it fetches."""
        return None if job.needs else fetched_whole([checkpoint_of(job)], job.work.reading)

    def figures(self, tables: "FigureTables") -> "Iterator[tuple[str, Figure]]":
        from ninscope.report.weights_figure import weights_figure

        for model in tables.models:
            weights = model.table("weights")
            if len(weights):
                yield f"{model.stem}-weights.png", weights_figure(weights, model.name)

    def page(self, tables: "PageTables") -> "Iterator[PagePart]":
        from ninscope.report.page.weights_part import weights_parts

        yield from weights_parts(tables)

    def problems(self, run: "Run") -> list[str]:
        return failed_rows(run, WEIGHTS, "weights")

    def clear(self, store: ArtefactStore, jobs: Sequence[Job[WeightsWork]], alone: bool) -> None:
        """Pieces that nobody will put together, as `exact` clears its parts."""
        planned = {job.key for job in jobs}
        unanswered = any(not job.key and checkpoint_of(job).passing for job in jobs)
        for key in {name.split("-")[0] for name in store.keys(self.name) if "-" in name}:
            if store.has(self.name, key) or (alone and key not in planned and not unanswered):
                store.remove(self.name, f"{key}-*")


def _rows(results: "Results") -> Iterator[Row]:
    """One row a matrix, then one of all; what other stages know of them beside."""
    fillers = [stage for stage in results.stages if isinstance(stage, FillsWeights)]
    others = merged_columns(stage.columns_of_weights(results) for stage in fillers)
    for checkpoint in results.checkpoints:
        job = checkpoint.jobs.get(WEIGHTS)
        if job is None or not checkpoint.outcomes[WEIGHTS].ok:
            continue
        weights = stored_weights(results.store.read(*job.id))
        for name, statistics in weights.statistics.items():
            beside = others.get((checkpoint.id, name), {})
            message = joined_clauses(statistics.message, beside.get("message", ""), weights.unverified)
            own = {"matrix": name, "status": "ok", "baseline": checkpoint.located.baseline.label, **asdict(statistics)}
            yield checkpoint.row_keys | own | beside | {"message": message}


_MEASURES = (
    "norm", "kurtosis", "abs_max", "gini", "hoyer", "near_zero", "spike_share", "distance_from_start", "cosine_to_start",
    "sign_flips", "stable_rank", "effective_rank", "proportional_effective_rank", "condition_number", "spectral_alpha",
)  # fmt: skip

WeightsStatisticsStage.tables = (
    Table(
        "weights",
        {
            "matrix": "string", "norm": "float64", "rms": "float64", "spikes": "Int64", "spike_share": "float64",
            "weights": "int64", "mean": "float64", "std": "float64", "kurtosis": "float64", "q01": "float64",
            "q05": "float64", "q25": "float64",
            "q50": "float64", "q75": "float64", "q95": "float64", "q99": "float64", "abs_q05": "float64",
            "abs_q50": "float64", "abs_q95": "float64", "abs_q99": "float64", "abs_max": "float64", "gini": "float64",
            "hoyer": "float64", "near_zero": "float64", "zeros": "float64", "accuracy": "float64",
            "distance_from_start": "float64", "cosine_to_start": "float64", "sign_flips": "float64",
            "distance_from_last": "float64", "sign_flips_since_last": "float64", "stable_rank": "float64",
            "effective_rank": "float64", "proportional_effective_rank": "float64", "condition_number": "float64",
            "spectral_alpha": "float64", "baseline": "string",
            "status": "string", "message": "string",
        },
        _rows,
        (Measures({name: name for name in _MEASURES}, {"matrix": WHOLE}),),
    ),
)  # fmt: skip
WEIGHTS_STAGE = WeightsStatisticsStage()
