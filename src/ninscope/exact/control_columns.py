"""What the controls of E say of one checkpoint, as columns of a row (table `controls`; docs/method.md#controls)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ninscope.exact.controls import FIXED, GROWTH, SHUFFLED, UNIT, ControlReading, structure
from ninscope.multifractal.emergence import (
    Comparison,
    compared,
    left_out_interval,
    unlike_counts,
    withheld,
    without_interval,
)
from ninscope.wording import joined_clauses

if TYPE_CHECKING:
    from ninscope.measurement import Measurement

Columns = dict[str, Any]


@dataclass(frozen=True)
class Against:
    """What a checkpoint is compared with.

    start: the exact measurement of its baseline, if there is one. baseline: what messages call that. confidence: of intervals.
    is_baseline: whether the checkpoint is the baseline itself. no_emergence: why the audit allows no E, or empty.
    trust_unlike_counts: E also where unlike parts of the two networks count.
    """

    start: "Measurement | None"
    baseline: str
    confidence: float
    is_baseline: bool = False
    no_emergence: str = ""
    trust_unlike_counts: bool = False


def control_columns(
    now: "Measurement", against: Against, readings: Mapping[str, ControlReading] | None, note: str = ""
) -> Columns:
    """The columns of the table `controls` but its keys, `status` and `verdict`; what is not known is left out.

    now: the exact measurement of the checkpoint. readings: of `control_readings`, None where they failed. note: what else the
    message is to say of them.
    """
    columns: Columns = {}
    for name, ends in now.interval(against.confidence).items():
        columns |= _ends(name, ends)
    start, baseline = against.start, against.baseline
    comparison = compared(now, start, against.no_emergence, baseline, trust_unlike_counts=True)
    clauses = [comparison.message, without_interval(now)]
    if start is not None and not against.no_emergence:
        own, clause = _own(now, start, against, comparison)
        columns |= own
        clauses.append(clause)
    if readings is None:
        return columns | {"message": joined_clauses(*clauses, note)}
    columns |= _at_unit_norms(readings, against.confidence)
    if against.is_baseline and start is not None and not math.isnan(comparison.emergence):
        columns |= {"emergence_growth": 0.0, "emergence_fixed": 0.0}
    for name in (GROWTH, FIXED):
        if name in readings and start is not None:
            control, clause = _control(name, readings[name], start, against)
            columns |= control
            clauses.append(clause)
    notes = [f"{name}: {reading.message}" for name, reading in readings.items() if reading.message]
    return columns | {"message": joined_clauses(*clauses, note, *notes)}


def _own(now: "Measurement", start: "Measurement", against: Against, comparison: Comparison) -> tuple[Columns, str]:
    """(E of the checkpoint and its two factors, a clause that says why E is withheld, or empty)."""
    columns: Columns = {
        "alpha0_ratio": _ratio(start.alpha0, now.alpha0),
        "width_ratio": _ratio(now.width, start.width),
    }
    if comparison.warning and not against.trust_unlike_counts:
        return columns, withheld(comparison.warning)
    ends = left_out_interval(now, start, comparison.emergence, against.confidence)
    return columns | {"emergence": comparison.emergence} | _ends("emergence", ends), ""


def _at_unit_norms(readings: Mapping[str, ControlReading], confidence: float) -> Columns:
    """What needs no baseline."""
    unit, shuffled = readings[UNIT], readings[SHUFFLED]
    value, low, high = structure(unit, shuffled, confidence)
    return {
        "alpha0_unit": unit.alpha0, "width_unit": unit.width, "alpha0_shuffled": shuffled.alpha0,
        "width_shuffled": shuffled.width, "structure": value, **_ends("structure", (low, high)),
    }  # fmt: skip


def _control(name: str, reading: ControlReading, start: "Measurement", against: Against) -> tuple[Columns, str]:
    """(columns, a clause on what they compare) of E of a reading against the baseline as it is."""
    column = f"emergence_{name}"
    value = compared(reading, start, "", against.baseline, trust_unlike_counts=True).emergence
    warned = unlike_counts(reading, start, against.baseline)
    columns = {column: value, **_ends(column, left_out_interval(reading, start, value, against.confidence))}
    return columns, f"{column}: {warned}" if warned else ""


def _ends(name: str, ends: tuple[float, float]) -> Columns:
    return dict(zip((f"{name}_low", f"{name}_high"), ends, strict=True))


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else math.nan
