"""One row of a monitor: what was measured at one step of a training."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ninscope.shown import Shown, without_empty

PREFIX = "ninscope"  # of every name in logs, but of what a second callback of one trainer logs
CONTROLS = ("emergence_growth", "emergence_fixed", "structure")  # of the columns of controls, those that are logged


class PartRow(NamedTuple):
    """A part of the network; NaN where there is none."""

    alpha0: float
    width: float
    emergence: float


@dataclass(frozen=True, repr=False)
class MonitorRow(Shown):
    """What was measured at one step, the exact analysis of the whole network; NaN where there is none.

    status: "ok"; "nonfinite", "unsupported", "corrupt", "missing": as in the table `checkpoints`; "failed": something that nobody
    foresaw. message: why, or why there is no E, or what to know of it, or empty. alpha0, width, emergence: as `ninscope.measure`
    has them, E against the first row. warning: why not to trust alpha0 and width, as `ninscope.measure` has it, or empty.
    controls: as the table `controls`, by the column's name. degree_kurtosis: of the average weighted degree, the mean over node
    layers. norm: Euclidean, of all matrices. seconds: that measuring took. parts: by the part's name ("block/block0"), where they
    were asked for.
    """

    step: int
    revision: str
    status: str = "ok"
    message: str = ""
    alpha0: float = math.nan
    width: float = math.nan
    emergence: float = math.nan
    controls: Mapping[str, float | str] = field(default_factory=dict)
    degree_kurtosis: float = math.nan
    norm: float = math.nan
    seconds: float = 0.0
    parts: Mapping[str, PartRow] = field(default_factory=dict)
    warning: str = ""

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    def facts(self) -> dict[str, object]:
        """What a terminal or a notebook shows of it."""
        measured = {"alpha0": self.alpha0, "width": self.width, "E": self.emergence}
        told = {name: value for name, value in measured.items() if not math.isnan(value)}
        status = None if self.ok else self.status
        return (
            {"step": self.step}
            | without_empty(status=status)
            | told
            | without_empty(warning=self.warning, message=self.message)
        )

    def values(self, prefix: str = PREFIX) -> dict[str, float]:
        """What is logged, by name ("ninscope/alpha0"): the numbers that are finite."""
        named: dict[str, object] = {"alpha0": self.alpha0, "width": self.width, "emergence": self.emergence}
        named |= {name: self.controls.get(name) for name in CONTROLS}
        named |= {"degree_kurtosis": self.degree_kurtosis, "norm": self.norm}
        for part, values in self.parts.items():
            named |= {f"{part}/{name}": value for name, value in values._asdict().items()}
        return {
            f"{prefix}/{name}": float(value)
            for name, value in named.items()
            if isinstance(value, float) and math.isfinite(value)
        }


def prefix_among(callback: object, callbacks: Iterable[object]) -> str:
    """What names in logs begin with: "ninscope", of a second callback of its kind "ninscope2", so that no two share a curve."""
    alike = [other for other in callbacks if hasattr(other, "is_of_ninscope")]
    number = next((number for number, other in enumerate(alike, 1) if other is callback), 1)
    return PREFIX if number == 1 else f"{PREFIX}{number}"
