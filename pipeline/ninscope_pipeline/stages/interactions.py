"""Interactions: coupling of every pair of matrices of a checkpoint, and spikes of every matrix (stage `interactions`)."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import Field

from ninscope.architectures import Reading
from ninscope.interaction.coupling import MAX_NEURONS, MAX_VECTORS, Exactness
from ninscope.interaction.of_checkpoint import checkpoint_interactions
from ninscope.interaction.whole import COUPLING, Interactions, Options
from ninscope.threads import one_thread_each
from ninscope.weights.counting import WHOLE
from ninscope.wording import joined_clauses
from ninscope_pipeline.located import reading_outcome
from ninscope_pipeline.request.models import Strict
from ninscope_pipeline.stages.from_weights import WeightsStage, checkpoint_of, configuration_digest, network_of
from ninscope_pipeline.stages.stage import Fetch, Job, Measures, Row, Section, Table
from ninscope_pipeline.stages.weights_stored import CheckpointId
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ninscope.report.page.parts import PagePart, PageTables
    from ninscope_pipeline.figures import FigureTables
    from ninscope_pipeline.plan import Request
    from ninscope_pipeline.request.dagfile import Dag
    from ninscope_pipeline.results import Results

# Decimals that are stored: libraries of linear algebra add in an order of their own, which moves the fifteenth.
DECIMALS = 10
_COUNTS = ("heads", "vectors", "error_vectors")


class InteractionsSection(Strict):
    """[interactions]: what every matrix writes beside what others read.

    across: pairs through residual streams. spikes: of every matrix. exact: up to so many neurons between two matrices nothing is
    estimated. vectors: random vectors with which the rest is. seed: of these, of drawn permutations and of shuffles.
    """

    across: bool = True
    spikes: bool = True
    exact: int = Field(default=Exactness.neurons, ge=1, le=MAX_NEURONS)
    vectors: int = Field(default=Exactness.vectors, ge=4, le=MAX_VECTORS)
    seed: int = Field(default=Exactness.seed, ge=0)

    @property
    def options(self) -> Options:
        return Options(self.across, self.spikes, Exactness(self.exact, self.vectors, self.seed))


@dataclass(frozen=True)
class InteractionsWork:
    """reading: of the network, as in [analysis]."""

    reading: Reading
    section: InteractionsSection


class MatrixSpikes(NamedTuple):
    """spikes: how many singular values. spike_share: of them in ||W||_F^2, NaN of a matrix of zeros. squares: ||W||_F^2."""

    matrix: str
    spikes: int
    spike_share: float
    squares: float


class InteractionsStage(WeightsStage[InteractionsWork]):
    name, title, version = "interactions", "interactions", 1
    section = Section("interactions", InteractionsSection | None, None)
    judges_checkpoints = True

    def needs_weights(self, dag: "Dag") -> bool:
        """Spikes are columns of the table of weights, which is filled where they are asked for."""
        section = dag.section(self)
        return section is not None and section.spikes

    def jobs(self, request: "Request") -> Iterator[Job[InteractionsWork]]:
        section = request.dag.section(self)
        if section is None:
            return
        work = InteractionsWork(request.analyses[0].parameters.reading, section)
        for located in request.checkpoints:
            label, outcome = (
                f"{located.suite}/{located.model} {located.revision}",
                reading_outcome(located, work.reading),
            )
            key = ""
            if outcome.ok:
                key = content_key(
                    self.name,
                    self.version,
                    weights=located.content_sha256,
                    architecture=located.wiring(work.reading).digest,
                    configuration=configuration_digest(located),
                    **section.model_dump(),
                )
            yield Job(self.name, key, label, work, checkpoint=located, name=self.name, known=outcome)

    def make(self, store: ArtefactStore, job: Job[InteractionsWork]) -> Artefact:
        work, located = job.work, checkpoint_of(job)
        network_of(job, work.reading)  # raises where it is not what was planned
        checkpoint = located.opened().open(located.revision, located.identity)
        with one_thread_each():
            return artefact_of_interactions(checkpoint_interactions(checkpoint, work.section.options, work.reading))

    def fetch(self, job: Job[InteractionsWork]) -> Fetch | None:
        """Every matrix once; gains of normalisations are next to nothing."""
        located = checkpoint_of(job)
        return Fetch(located.wiring(job.work.reading).weight_bytes) if located.kind == "hub" else None

    def columns_of_weights(self, results: "Results") -> Mapping[tuple[CheckpointId, str], Row]:
        """See `FillsWeights`. Of all matrices together their number of spikes, and their share of all squares."""
        columns: dict[tuple[CheckpointId, str], Row] = {}
        for checkpoint in results.checkpoints:
            job = checkpoint.jobs.get(self.name)
            if job is None or not checkpoint.outcomes[self.name].ok:
                continue
            spiky = spikes_by_matrix(results.store.read(*job.id, only=("spikes",)))
            for one in spiky:
                columns[checkpoint.id, one.matrix] = {"spikes": one.spikes, "spike_share": one.spike_share}
            if (squares := math.fsum(one.squares for one in spiky)) > 0:
                shares = (one.spike_share * one.squares for one in spiky if one.squares)
                together = {"spikes": sum(one.spikes for one in spiky), "spike_share": math.fsum(shares) / squares}
                columns[checkpoint.id, WHOLE] = together
        return columns

    def figures(self, tables: "FigureTables") -> "Iterator[tuple[str, Figure]]":
        from ninscope.report.interactions_figure import coupling_map_figure, interactions_figure

        for model in tables.models:
            rows = model.table("interactions")
            if rows.empty:
                continue
            emergence, benchmarks, weights = (model.table(name) for name in ("emergence", "benchmarks", "weights"))
            figure = interactions_figure(rows, emergence, benchmarks, weights, model.name)
            yield f"{model.stem}-interactions.png", figure
            if rows["coupling"].notna().any():
                yield f"{model.stem}-coupling-map.png", coupling_map_figure(rows, model.name)

    def page(self, tables: "PageTables") -> "Iterator[PagePart]":
        from ninscope.report.page.interactions_part import interactions_parts

        yield from interactions_parts(tables)


def artefact_of_interactions(found: Interactions) -> Artefact:
    """Numbers of pairs and of matrices; names are stored once, and pairs point to them."""
    rows = found.rows()
    names = list(dict.fromkeys(str(row[end]) for row in rows for end in ("writer", "reader")))
    kinds, messages = (list(dict.fromkeys(str(row[column]) for row in rows)) for column in ("kind", "message"))
    places = {name: number for number, name in enumerate(names)}
    numbered = [
        (places[row["writer"]], places[row["reader"]], kinds.index(row["kind"]), messages.index(row["message"]), row["distance"])
        for row in rows
    ]  # fmt: skip
    values = np.array([[row[name] for name in COUPLING] for row in rows], np.float64).reshape(-1, len(COUPLING))
    spiky = [[one.count, one.share, one.squares] for one in found.spikes.values()]
    return Artefact(
        {
            "pairs": np.array(numbered, np.int64).reshape(-1, 5),
            "couplings": np.round(values, DECIMALS),
            "spikes": np.round(np.array(spiky, np.float64).reshape(-1, 3), DECIMALS),
        },
        {
            "columns": list(COUPLING),
            "names": names,
            "kinds": kinds,
            "messages": messages,
            "matrices": list(found.spikes),
            "note": found.note,
        },
    )


def spikes_by_matrix(artefact: Artefact) -> list[MatrixSpikes]:
    """What was stored of every matrix, in the order of the network's; empty where spikes were not asked for."""
    return [
        MatrixSpikes(name, int(count), share, squares)
        for name, (count, share, squares) in zip(
            artefact.attributes["matrices"], artefact.arrays["spikes"].tolist(), strict=True
        )
    ]


def _rows(results: "Results") -> Iterator[Row]:
    for checkpoint in results.checkpoints:
        job = checkpoint.jobs.get(InteractionsStage.name)
        if job is None or not checkpoint.outcomes[InteractionsStage.name].ok:
            continue
        stored = results.store.read(*job.id, only=("pairs", "couplings"))
        attributes, note = stored.attributes, stored.attributes["note"]
        if not len(stored.arrays["pairs"]):
            yield checkpoint.row_keys | {"message": note}
        pairs = zip(stored.arrays["pairs"].tolist(), stored.arrays["couplings"].tolist(), strict=True)
        for (writer, reader, kind, message, distance), values in pairs:
            numbers = dict(zip(attributes["columns"], values, strict=True))
            yield checkpoint.row_keys | {
                "writer": attributes["names"][writer],
                "reader": attributes["names"][reader],
                "kind": attributes["kinds"][kind],
                "distance": distance,
                **{name: int(value) if name in _COUNTS else value for name, value in numbers.items()},
                "message": joined_clauses(attributes["messages"][message], note),
            }


InteractionsStage.tables = (
    Table(
        "interactions",
        {
            "writer": "string", "reader": "string", "kind": "string", "distance": "Int64", "coupling": "float64",
            "error": "float64", "heads": "Int64", "vectors": "Int64", "estimate_error": "float64", "error_vectors": "Int64",
            "message": "string",
        },
        _rows,
        (Measures({"coupling": "coupling"}, by=("kind",)),),
    ),
)  # fmt: skip
INTERACTIONS = InteractionsStage()
