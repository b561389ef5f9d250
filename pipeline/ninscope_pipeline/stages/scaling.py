"""Scaling: how far power laws hold, of whole networks and of single neurons (stage `scaling`; docs/method.md#fit-quality)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, field_validator

from ninscope.errors import RequestError
from ninscope.exact.scaling import MASS, GrowthCurve, GrowthCurves, growth_curves
from ninscope.multifractal.scaling import CURVES
from ninscope.multifractal.spectrum import ZERO, checked_q
from ninscope.networks.incoming import directed
from ninscope.parameters import Parameters
from ninscope.wording import joined_clauses
from ninscope_pipeline.request.analyses import DEFAULT
from ninscope_pipeline.request.analyses import EXACT as EXACT_METHOD
from ninscope_pipeline.request.models import Strict
from ninscope_pipeline.stages.from_weights import WeightsStage, checkpoint_of, fetched_whole, network_of
from ninscope_pipeline.stages.stage import Fetch, Job, Measures, Row, Section, Table, failed_rows
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

MAX_NEURONS = 1000
TABLE = "scaling"
CURVES_TABLE = "scaling_curves"


class ScalingSection(Strict):
    """[scaling]: how far power laws hold, at every checkpoint.

    q: of the partition sums that are looked at. draws: of Gaussian weights. neurons: how many single ones. seed: of both.
    """

    q: list[float] = Field(default=[-3.0, 3.0])
    draws: int = Field(default=5, ge=2, le=1000)
    neurons: int = Field(default=6, ge=0, le=MAX_NEURONS)
    seed: int = Field(default=0, ge=0)

    @field_validator("q")
    @classmethod
    def _makes_sense(cls, q: list[float]) -> list[float]:
        if any(abs(order) <= ZERO for order in q):
            raise ValueError("q holds 0, where Z is the number of nodes at every radius; leave it out")
        try:
            checked_q(sorted({*q, 0.0}))
        except RequestError as error:
            raise ValueError(str(error)) from None
        if q != sorted(set(q)):
            raise ValueError("q must be in increasing order")
        return q


@dataclass(frozen=True)
class ScalingWork:
    """parameters: of the exact analysis."""

    parameters: Parameters
    section: ScalingSection


class ScalingStage(WeightsStage[ScalingWork]):
    name, title, version = "scaling", "scaling ranges", 1
    section = Section("scaling", ScalingSection | None, None)

    def check(self, dag: "Dag") -> None:
        if dag.section(self) is None:
            return
        if EXACT_METHOD not in dag.analysis.methods():
            raise ValueError("[scaling] is of whole networks; add exact = true to [analysis]")
        if dag.analysis.layers_crossed > 1:
            raise ValueError("[scaling] is of the edges of single layers; leave layers_crossed out")

    def jobs(self, request: "Request") -> Iterator[Job[ScalingWork]]:
        section = request.dag.section(self)
        if section is None:
            return
        for located in request.checkpoints:
            analysis = request.job_named(located, EXACT_METHOD)
            if analysis is not None and analysis.key and request.outcome(analysis).ok:
                parameters: Parameters = analysis.work.parameters
                key = content_key(
                    self.name,
                    self.version,
                    weights=located.content_sha256,
                    architecture=located.wiring(parameters.reading).digest,
                    transfer=parameters.transfer,
                    max_distance=parameters.max_distance if parameters.log_count is None else None,
                    radii=parameters.radii,
                    min_degree=parameters.min_degree,
                    **beyond_defaults(parameters, "direction", "fit_radii"),
                    **section.model_dump(),
                )
                yield Job(self.name, key, analysis.label, ScalingWork(parameters, section), (), located)

    def make(self, store: ArtefactStore, job: Job[ScalingWork]) -> Artefact:
        parameters, section = job.work.parameters, job.work.section
        network = directed(network_of(job, parameters.reading), parameters.direction)
        return artefact_of_curves(growth_curves(network, parameters, **section.model_dump()))

    def fetch(self, job: Job[ScalingWork]) -> Fetch | None:
        """The checkpoint once more, where it is on a Hub; twice with logarithmic radii."""
        parameters = job.work.parameters
        return fetched_whole([checkpoint_of(job)], parameters.reading, 1 if parameters.log_count is None else 2)

    def figures(self, tables: "FigureTables") -> "Iterator[tuple[str, Figure]]":
        from ninscope.report.scaling_figure import scaling_figure

        for model in tables.models:
            curves = model.table(CURVES_TABLE)
            if len(curves):
                yield f"{model.stem}-scaling.png", scaling_figure(model.table(TABLE), curves, model.name)

    def page(self, tables: "PageTables") -> "Iterator[PagePart]":
        from ninscope.report.page.scaling_part import scaling_parts

        yield from scaling_parts(tables)

    def problems(self, run: "Run") -> list[str]:
        return failed_rows(run, TABLE, "scaling")


_NUMBERS = ("q", "slope", "r2", "range_low", "range_high", "decades", "null_decades")
_OF_RADII = ("radii", "values", "local", "null_low", "null_high")


def artefact_of_curves(found: GrowthCurves) -> Artefact:
    """numbers: float64 [curves, 7 + 3]; points: float64 [5, points of all curves], one curve after the other."""
    numbers = [
        [*(getattr(curve, name) for name in _NUMBERS), *(curve.criteria.get(name, math.nan) for name in CURVES)]
        for curve in found.curves
    ]
    points = [np.array([getattr(curve, name) for name in _OF_RADII]) for curve in found.curves]
    return Artefact(
        {
            "numbers": np.array(numbers).reshape(-1, len(_NUMBERS) + len(CURVES)),
            "points": np.concatenate([np.empty((len(_OF_RADII), 0)), *points], axis=1),
        },
        {
            "columns": [*_NUMBERS, *CURVES],
            "rows": list(_OF_RADII),
            "curves": [[curve.quantity, curve.neuron, curve.radii.size] for curve in found.curves],
            "message": joined_clauses(found.message, found.unverified),
        },
    )


def stored_curves(artefact: Artefact) -> tuple[list[GrowthCurve], str]:
    """(the curves, the message) that `artefact_of_curves` stored."""
    curves, first = [], 0
    for (quantity, neuron, count), numbers in zip(
        artefact.attributes["curves"], artefact.arrays["numbers"].tolist(), strict=True
    ):
        points = artefact.arrays["points"][:, first : first + count]
        values = dict(zip(_NUMBERS, numbers[: len(_NUMBERS)], strict=True))
        of_radii = dict(zip(_OF_RADII, points, strict=True))
        criteria = dict(zip(CURVES, numbers[len(_NUMBERS) :], strict=True)) if quantity == MASS else {}
        curves.append(GrowthCurve(quantity=quantity, neuron=neuron, criteria=criteria, **values, **of_radii))
        first += count
    return curves, artefact.attributes["message"]


def _rows(results: "Results") -> Iterator[Row]:
    for keys, curves, row in _stored(results):
        if not curves:
            yield keys | row
        for curve in curves:
            known = {name: value for name, value in curve.criteria.items() if not math.isnan(value)}
            yield (
                keys
                | row
                | {name: getattr(curve, name) for name in _NUMBERS}
                | {
                    "quantity": curve.quantity,
                    "neuron": curve.neuron,
                    "local_min": float(curve.local.min()),
                    "local_max": float(curve.local.max()),
                    "outside_null": curve.outside_null,
                    "aic_exponential": curve.criteria.get("exponential", math.nan),
                    "aic_lognormal": curve.criteria.get("log-normal", math.nan),
                    "best_curve": min(known, key=known.__getitem__) if known else None,
                }
            )


def _curve_rows(results: "Results") -> Iterator[Row]:
    for keys, curves, _ in _stored(results):
        for curve in curves:
            here = keys | {"quantity": curve.quantity, "q": curve.q, "neuron": curve.neuron}
            for radius, value, slope, low, high in zip(*(getattr(curve, name) for name in _OF_RADII), strict=True):
                yield here | {"radius": radius, "value": value, "slope": slope, "null_low": low, "null_high": high}


def _stored(results: "Results") -> Iterator[tuple[Row, list[GrowthCurve], Row]]:
    """(key columns, curves, status and message) of every checkpoint that was asked for."""
    keys = {checkpoint.id: checkpoint.row_keys | {"variant": DEFAULT} for checkpoint in results.checkpoints}
    for job, outcome in results.jobs_of(SCALING.name):
        curves: list[GrowthCurve] = []
        message = outcome.message
        if outcome.ok:
            curves, message = stored_curves(results.store.read(*job.id))
        yield keys[checkpoint_of(job).id], curves, {"status": outcome.status, "message": message}


ScalingStage.tables = (
    Table(
        TABLE,
        {
            "quantity": "string", "q": "float64", "neuron": "string", "slope": "float64", "r2": "float64",
            "local_min": "float64", "local_max": "float64", "range_low": "float64", "range_high": "float64",
            "decades": "float64", "null_decades": "float64", "outside_null": "float64", "aic_exponential": "float64",
            "aic_lognormal": "float64", "best_curve": "string", "status": "string", "message": "string", "variant": "string",
        },
        _rows,
        (Measures({"growth_slope": "slope", "growth_decades": "decades"}, {"quantity": MASS}),),
    ),
    Table(
        CURVES_TABLE,
        {
            "quantity": "string", "q": "float64", "neuron": "string", "radius": "float64", "value": "float64",
            "slope": "float64", "null_low": "float64", "null_high": "float64", "variant": "string",
        },
        _curve_rows,
    ),
)  # fmt: skip
SCALING = ScalingStage()
