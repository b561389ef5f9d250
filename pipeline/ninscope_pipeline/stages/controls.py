"""Controls: what E of a checkpoint is made of, beside E (stage `controls`; docs/method.md#controls).

E of the baseline's weights at this checkpoint's norms is growth alone; E of this checkpoint's weights at the baseline's norms is
the rest. At unit norms no growth is left, and the shuffled null says what the weights' distribution alone gives.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from ninscope.exact.control_columns import Against, control_columns
from ninscope.exact.controls import ControlReading, Start, control_readings
from ninscope.measurement import Measurement
from ninscope.multifractal.verdict import verdicts
from ninscope.networks.incoming import DIRECTIONS
from ninscope.parameters import Parameters
from ninscope_pipeline.located import Located
from ninscope_pipeline.outcome import Outcome
from ninscope_pipeline.request.analyses import DEFAULT
from ninscope_pipeline.request.analyses import EXACT as EXACT_METHOD
from ninscope_pipeline.request.models import Strict
from ninscope_pipeline.stages.from_weights import WeightsStage, checkpoint_of, fetched_whole, network_of
from ninscope_pipeline.stages.stage import Fetch, Job, Measures, Row, Section, Table, failed_rows
from ninscope_pipeline.stages.weights_stored import WEIGHTS, stored_rms, weights_key
from ninscope_pipeline.storing.keys import beyond_defaults, content_key
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ninscope.report.page.parts import PagePart, PageTables
    from ninscope_pipeline.figures import FigureTables
    from ninscope_pipeline.opened_run import Run
    from ninscope_pipeline.plan import Request
    from ninscope_pipeline.request.dagfile import Dag
    from ninscope_pipeline.results import Results


class ControlsSection(Strict):
    """[controls]: controls of E at every checkpoint.

    seed: of the shuffled null. control_spread: |E| that trainings reach which learn nothing, of models like these; the verdict
    alone looks at it.
    """

    seed: int = Field(default=0, ge=0)
    control_spread: float | None = Field(default=None, ge=0, allow_inf_nan=False)


@dataclass(frozen=True)
class ControlsWork:
    """parameters: of the exact analysis. start: the baseline, where growth is to be told from the rest."""

    parameters: Parameters
    seed: int
    start: Located | None


class ControlsStage(WeightsStage[ControlsWork]):
    name, title, version = "controls", "controls", 1
    section = Section("controls", ControlsSection | None, None)

    def check(self, dag: "Dag") -> None:
        if dag.section(self) is None:
            return
        if EXACT_METHOD not in dag.analysis.methods():
            raise ValueError(
                "[controls] are of whole networks, since values of samples hang on their size; add exact = true to [analysis]"
            )
        if dag.analysis.layers_crossed > 1 or dag.analysis.direction != DIRECTIONS[0]:
            raise ValueError(
                "[controls] are of the edges that leave neurons, one layer at a time; leave layers_crossed and direction out"
            )
        if dag.analysis.radii != "integer":
            raise ValueError(
                '[controls] multiply weights under fixed radii, and logarithmic ones follow the weights; give radii = "integer"'
            )

    def needs_weights(self, dag: "Dag") -> bool:
        """The root mean squares of matrices."""
        return dag.section(self) is not None

    def jobs(self, request: "Request") -> Iterator[Job[ControlsWork]]:
        section = request.dag.section(self)
        if section is None:
            return
        for checkpoints in request.by_model().values():
            analyses = {located.id: request.job_named(located, EXACT_METHOD) for located in checkpoints}
            usable = [
                (located, job)
                for located in checkpoints
                if (job := analyses[located.id]) is not None and job.key and request.outcome(job).ok
            ]
            start = next((located for located, _ in usable if located.is_baseline), None)
            for located, analysis in usable:
                alone = start is None or located.is_baseline or located.no_emergence
                yield self._job(located, None if alone else start, analysis, section)

    def _job(
        self, located: Located, start: Located | None, analysis: Job, section: ControlsSection
    ) -> Job[ControlsWork]:
        parameters: Parameters = analysis.work.parameters
        compared = [of for of in (located, start) if of is not None]
        needs = tuple((WEIGHTS, weights_key(of, parameters.reading)) for of in compared)
        work = ControlsWork(parameters, section.seed, start)
        return Job(self.name, controls_key(compared, parameters, section), analysis.label, work, needs, located)

    def asked_of_tables(self, dag: "Dag") -> Mapping[str, object]:
        spread = None if (section := dag.section(self)) is None else section.control_spread
        return {} if spread is None else {"control_spread": spread}

    def make(self, store: ArtefactStore, job: Job[ControlsWork]) -> Artefact:
        parameters, start = job.work.parameters, job.work.start
        network = network_of(job, parameters.reading)
        rms = _rms(store, checkpoint_of(job), parameters)
        baseline = None
        if start is not None:
            other = network_of(replace(job, checkpoint=start), parameters.reading)
            baseline = Start(other, _rms(store, start, parameters), start.revision)
        return artefact_of_readings(*control_readings(network, rms, parameters, baseline, job.work.seed))

    def check_unchanged(self, store: ArtefactStore, job: Job[ControlsWork]) -> None:
        super().check_unchanged(store, job)
        if job.work.start is not None:
            super().check_unchanged(store, replace(job, checkpoint=job.work.start))

    def fetch(self, job: Job[ControlsWork]) -> Fetch | None:
        """The checkpoint and its baseline once more, where they are on a Hub."""
        read = [located for located in (checkpoint_of(job), job.work.start) if located is not None]
        return fetched_whole(read, job.work.parameters.reading)

    def figures(self, tables: "FigureTables") -> "Iterator[tuple[str, Figure]]":
        from ninscope.report.controls_figure import controls_figure

        for model in tables.models:
            controls = model.table("controls")
            if len(controls):
                yield f"{model.stem}-controls.png", controls_figure(controls, model.name)

    def page(self, tables: "PageTables") -> "Iterator[PagePart]":
        from ninscope.report.page.controls_part import controls_parts

        yield from controls_parts(tables)

    def problems(self, run: "Run") -> list[str]:
        return failed_rows(run, "controls", "controls")


def controls_key(compared: Sequence[Located], parameters: Parameters, section: ControlsSection) -> str:
    """What controls depend on. compared: the checkpoint, and its baseline where growth is to be told from the rest."""
    return content_key(
        ControlsStage.name,
        ControlsStage.version,
        weights=[weights_key(located, parameters.reading) for located in compared],
        transfer=parameters.transfer,
        max_distance=parameters.max_distance,
        min_degree=parameters.min_degree,
        q=parameters.q,
        derivative=parameters.derivative,
        **beyond_defaults(parameters, "fit_radii"),
        **section.model_dump(exclude={"control_spread"}),
    )


def _rms(store: ArtefactStore, located: Located, parameters: Parameters) -> dict[str, float]:
    return stored_rms(store.read(WEIGHTS, weights_key(located, parameters.reading)))


def artefact_of_readings(readings: Mapping[str, ControlReading], message: str = "") -> Artefact:
    """values: float64 [readings, 3]: alpha0, width, nodes that count. left_out: float64 [layers, 2], reading after reading."""
    rows = [[reading.alpha0, reading.width, float(reading.nodes_counted)] for reading in readings.values()]
    left_out = [list(reading.left_out.values()) for reading in readings.values()]
    return Artefact(
        {
            "values": np.array(rows),
            "left_out": np.concatenate([np.array(values).reshape(-1, 2) for values in left_out]),
        },
        {
            "readings": list(readings),
            "columns": ["alpha0", "width", "nodes_counted"],
            "layers": [list(reading.left_out) for reading in readings.values()],
            "messages": [reading.message for reading in readings.values()],
            "message": message,
        },
    )


def stored_readings(artefact: Artefact) -> tuple[dict[str, ControlReading], str]:
    """What `artefact_of_readings` stored."""
    about, left_out = artefact.attributes, artefact.arrays["left_out"].tolist()
    readings, first = {}, 0
    for name, (alpha0, width, nodes), layers, message in zip(
        about["readings"], artefact.arrays["values"].tolist(), about["layers"], about["messages"], strict=True
    ):
        values = map(tuple, left_out[first : first + len(layers)])
        readings[name] = ControlReading(alpha0, width, dict(zip(layers, values, strict=True)), int(nodes), message)
        first += len(layers)
    return readings, about["message"]


def _rows(results: "Results") -> Iterator[Row]:
    outcomes = {job.checkpoint.id: (job, outcome) for job, outcome in results.jobs_of(CONTROLS.name) if job.checkpoint}
    for checkpoints in results.by_model():
        measured = {
            checkpoint.id: results.measurement(checkpoint.jobs[EXACT_METHOD].id)
            for checkpoint in checkpoints
            if checkpoint.id in outcomes and checkpoint.outcomes[EXACT_METHOD].ok
        }
        start = next((checkpoint for checkpoint in checkpoints if checkpoint.located.is_baseline), None)
        settings = results.request.dag.emergence
        rows = []
        for checkpoint in checkpoints:
            if checkpoint.id in measured:
                located = checkpoint.located
                against = Against(
                    None if start is None else measured.get(start.id),
                    located.baseline.label,
                    settings.confidence,
                    located.is_baseline,
                    located.no_emergence,
                    settings.trust_unlike_counts,
                )
                about = {"variant": DEFAULT, "baseline": against.baseline}
                row = _row(results, measured[checkpoint.id], *outcomes[checkpoint.id], against)
                rows.append(checkpoint.row_keys | about | row)
        if rows:
            yield from _with_verdicts(results, rows, "" if start is None else start.located.revision)


def _with_verdicts(results: "Results", rows: list[Row], baseline: str) -> Iterator[Row]:
    """The rows of one model, each that has an E with what speaks against it; the baseline, which E compares with, has none."""
    table = results.table("nulls")
    of_model = table[(table["suite"] == rows[0]["suite"]) & (table["model"] == rows[0]["model"])]
    nulls = [row._asdict() for row in of_model.itertuples()]
    known = [row for row in rows if row["revision"] != baseline]
    told = verdicts(known, known, nulls, results.request.dag.section(CONTROLS).control_spread)
    for row in rows:
        yield row | ({"verdict": str(told[row["revision"]])} if row["revision"] in told else {})


def _row(results: "Results", now: Measurement, job: Job, outcome: Outcome, against: Against) -> Row:
    readings, note = stored_readings(results.store.read(*job.id)) if outcome.ok else (None, outcome.message)
    return {"status": outcome.status} | control_columns(now, against, readings, note)


_MEASURES = (
    "emergence_growth", "emergence_fixed", "alpha0_ratio", "width_ratio", "alpha0_unit", "width_unit", "structure",
)  # fmt: skip

ControlsStage.tables = (
    Table(
        "controls",
        {
            "alpha0_ratio": "float64", "width_ratio": "float64", "emergence_growth": "float64", "emergence_fixed": "float64",
            "alpha0_unit": "float64", "width_unit": "float64", "structure": "float64", "structure_low": "float64",
            "structure_high": "float64", "alpha0_shuffled": "float64", "width_shuffled": "float64",
            "emergence": "float64", "emergence_low": "float64", "emergence_high": "float64",
            "emergence_growth_low": "float64", "emergence_growth_high": "float64", "emergence_fixed_low": "float64",
            "emergence_fixed_high": "float64", "alpha0_low": "float64", "alpha0_high": "float64", "width_low": "float64",
            "width_high": "float64", "baseline": "string", "status": "string", "message": "string", "variant": "string",
            "verdict": "string",
        },
        _rows,
        (Measures({name: name for name in _MEASURES}),),
    ),
)  # fmt: skip
CONTROLS = ControlsStage()
