"""When E may be said to have emerged: only beyond everything that is known to give E without learning (docs/method.md#verdict).

E above 0 is no emergence by itself: norms that grow give it, weights without structure give it, and so do trainings that learn
nothing. Here are plain rules on numbers that tables hold; nothing is measured.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

INTERVAL, NULLS, GROWTH, CONTROLS = "its interval", "the null models", "growth of norms", "control trainings"
WIDE = 2.0  # standard deviations over draws by which the band of a null model is wider than its mean


@dataclass(frozen=True)
class Bounds:
    """What E of one step must exceed; NaN where it is not known.

    interval_low: the lower end of E's own interval, which must lie above 0. null_high: the upper end of the null models' band.
    growth_high: the upper end of the interval of E of growth alone. control_spread: |E| that control trainings reach.
    """

    interval_low: float = math.nan
    null_high: float = math.nan
    growth_high: float = math.nan
    control_spread: float = math.nan


@dataclass(frozen=True)
class Verdict:
    """fails: which bounds E does not exceed; unknown: which are not known. E stands where both are empty."""

    fails: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def stands(self) -> bool:
        return not self.fails and not self.unknown

    def __str__(self) -> str:
        clauses = [
            f"{label}: {', '.join(names)}"
            for label, names in (("fails", self.fails), ("unknown", self.unknown))
            if names
        ]
        return "; ".join(clauses) or "stands"

    @classmethod
    def parse(cls, text: str) -> "Verdict":
        """The verdict that a table holds as text, as `str` gives it."""
        clauses = dict(clause.split(": ", 1) for clause in text.split("; ") if ": " in clause)
        fails, unknown = (
            tuple(clauses[label].split(", ")) if label in clauses else () for label in ("fails", "unknown")
        )
        return cls(fails, unknown)


def verdict(emergence: float, bounds: Bounds) -> Verdict:
    """Whether E may be called emerged: it lies above all four bounds, and its whole interval above 0.

    An unknown bound speaks against it like one that it does not exceed. An emergence that is NaN fails nothing and is not known to
    exceed anything.
    """
    tests = {
        INTERVAL: (bounds.interval_low, 0.0),
        NULLS: (emergence, bounds.null_high),
        GROWTH: (emergence, bounds.growth_high),
        CONTROLS: (emergence, bounds.control_spread),
    }
    unknown = tuple(name for name, pair in tests.items() if any(map(math.isnan, pair)))
    fails = tuple(name for name, (value, bound) in tests.items() if name not in unknown and not value > bound)
    return Verdict(fails, unknown)


def null_band(emergence: Iterable[float], std: Iterable[float]) -> float:
    """Upper end of the band of null models: the highest mean over draws plus 2 standard deviations. NaN where there are none.

    std: of E over draws, NaN where a null model is drawn once.
    """
    ends = [mean + WIDE * (0.0 if math.isnan(spread) else spread) for mean, spread in zip(emergence, std, strict=True)]
    return max((end for end in ends if not math.isnan(end)), default=math.nan)


def verdicts(
    emergence: Iterable[Mapping[str, Any]],
    controls: Iterable[Mapping[str, Any]],
    nulls: Iterable[Mapping[str, Any]],
    control_spread: float | None = None,
) -> dict[str, Verdict]:
    """The verdict of every revision of one model that has an E, by its name.

    emergence: rows of the table `emergence` of whole networks, of [analysis] alone; controls, nulls: rows of the tables of these
    names. control_spread: |E| that trainings reach which learn nothing, of models of this shape; None: not known.
    """
    growth = {row["revision"]: _number(row, "emergence_growth_high") for row in controls}
    drawn: dict[str, list[tuple[float, float]]] = {}
    for row in nulls:
        pair = _number(row, "emergence"), _number(row, "emergence_std")
        drawn.setdefault(row["revision"], []).append(pair)
    told = {}
    for row in emergence:
        revision, value = row["revision"], _number(row, "emergence")
        if math.isnan(value):
            continue
        pairs = drawn.get(revision, [])
        told[revision] = verdict(
            value,
            Bounds(
                _number(row, "emergence_low"),
                null_band([mean for mean, _ in pairs], [std for _, std in pairs]),
                growth.get(revision, math.nan),
                math.nan if control_spread is None else control_spread,
            ),
        )
    return told


def _number(row: Mapping[str, Any], column: str) -> float:
    """NaN where a row leaves it out."""
    value = row.get(column)
    return math.nan if value is None else float(value)
