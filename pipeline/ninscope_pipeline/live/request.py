"""What a training asks to be recorded, and what it hands over of each step."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from pydantic import ValidationError

from ninscope.architectures.described import Description
from ninscope.errors import RequestError
from ninscope.exact.controls import ControlReading
from ninscope.exact.counting import LayerCounts
from ninscope.exact.snapshots import check_counted
from ninscope.measurement import Measurement
from ninscope.networks.neuron_network import NeuronNetwork
from ninscope.parameters import Parameters
from ninscope.weights.statistics import STATISTICS, WeightStatistics
from ninscope_pipeline.request.dagfile import Dag, dag_type, first_error
from ninscope_pipeline.request.models import NAME, NAME_IN_WORDS, TRAINING

# Parameters that stand in [analysis] as they are.
_AS_THEY_ARE = ("transfer", "max_distance", "min_degree", "derivative", "per_node", "convolutions", "wiring", "gauge")
_LONGEST_NAME = 96
_LONGEST_STEP = 15  # digits


@dataclass(frozen=True, kw_only=True)
class LiveRequest:
    """What is recorded of a training.

    name: of the run; suite, model: of its rows; fit for a DAG file (`fit_name`). parameters: of an exact analysis on integer
    radii. controls, seed: whether controls are taken, and the seed of what they shuffle. snapshot: whether snapshots are kept.
    every: steps between two rows, as far as that is known. trust_unlike_counts: as in [emergence]. wiring: digest of the model's
    network, where it is known: a folder that holds another one is then refused at once, else with the first row.

    Raises RequestError: a name or parameters that no run has.
    """

    name: str
    model: str
    parameters: Parameters
    suite: str = "training"
    controls: bool = True
    seed: int = 0
    snapshot: bool = False
    every: int | None = None
    trust_unlike_counts: bool = False
    wiring: str = ""

    def __post_init__(self) -> None:
        for what in ("name", "suite", "model"):
            if not re.match(NAME, getattr(self, what)):
                raise RequestError(f"{what} is {getattr(self, what)!r}; {NAME_IN_WORDS}")
        if not self.parameters.exact or self.parameters.log_count is not None:
            raise RequestError(
                "a training is recorded by the exact analysis on integer radii; leave nodes_per_layer, samples, seed and radii out"
            )
        if self.snapshot:
            check_counted(self.parameters)
        dag_of(self.described())

    def described(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "suite": self.suite,
            "model": self.model,
            "analysis": _analysis(self.parameters),
            "architecture": _architecture(self.parameters.architecture),
            "controls": self.controls,
            "seed": self.seed,
            "snapshot": self.snapshot,
            "every": self.every,
            "trust_unlike_counts": self.trust_unlike_counts,
        }


# Of a request, what is the same in all sessions of a training.
EXPERIMENT = ("suite", "model", "analysis", "architecture", "controls", "seed")


def dag_of(described: Mapping[str, Any], baseline: int | None = None) -> Dag:
    """The DAG file that asks for what a training has recorded. baseline: the step of its first row.

    Raises RequestError where no run can ask for that.
    """
    model = {"suite": described["suite"], "model": described["model"], "source": TRAINING}
    raw = {
        "name": described["name"],
        "models": [model | {"baseline": baseline} if baseline else model],  # of step 0 anyway
        "analysis": dict(described["analysis"]),
        # Equal weights at two steps are no fault of a copy here: a rate that begins at 0 leaves them as they are.
        "emergence": {"trust_duplicates": True, "trust_unlike_counts": described["trust_unlike_counts"]},
        "weights": {"changes": False},
        "controls": {"seed": described["seed"]} if described["controls"] else None,
        "architecture": described["architecture"],
    }
    try:
        return dag_type().model_validate({key: value for key, value in raw.items() if value is not None})
    except ValidationError as error:
        raise RequestError(f"a training cannot be recorded so: {first_error(error, raw)}") from None


def _analysis(parameters: Parameters) -> dict[str, Any]:
    """The section [analysis] that asks for these parameters, without what is the default."""
    given: dict[str, Any] = {"nodes_per_layer": "all"}
    for name in _AS_THEY_ARE:
        value = getattr(parameters, name)
        if value != getattr(Parameters, name):
            given[name] = value.item() if isinstance(value, np.generic) else value
    if "max_distance" in given:
        given["max_distance"] = float(given["max_distance"])
    if not np.array_equal(parameters.q, Parameters().q):
        given["q"] = parameters.q.tolist()
    if parameters.parts:
        given["parts"] = list(parameters.parts)
    if parameters.fit_radii is not None:
        given["fit_radii"] = [float(end) for end in parameters.fit_radii]
    for name in ("layers_crossed", "direction"):
        if getattr(parameters, name) != getattr(Parameters, name):
            given[name] = getattr(parameters, name)
    return given


def _architecture(description: Any) -> dict[str, Any] | None:
    """The table [architecture] of a description."""
    if not isinstance(description, Description):
        return None
    table = asdict(description)
    unknown_only = table.pop("unknown_only")
    entries = {name: [dict(entry) for entry in table[name]] for name in ("blocks", "layers", "links")}
    return {"name": table["name"], "override": not unknown_only} | entries


def fit_name(text: str) -> str:
    """A text as a name of a run, a suite or a model: what may not stand in one becomes a hyphen."""
    fit = re.sub(r"-+", "-", re.sub(r"[^A-Za-z0-9._]", "-", text)).lstrip("-._")[:_LONGEST_NAME].rstrip("-")
    return fit or "training"


def norms_alone(
    weights: int, norm: float, rms: float, mean: float = math.nan, std: float = math.nan
) -> WeightStatistics:
    """Statistics of so many weights of which no more is known."""
    known = {"norm": norm, "rms": rms, "mean": mean, "std": std}
    return WeightStatistics(weights, **{name: known.get(name, math.nan) for name in STATISTICS[1:]})


# What a row may say; "duplicate" is found by the audit, and such a row is handed over as any that was measured.
STATUSES = ("ok", "duplicate", "nonfinite", "unsupported", "corrupt", "missing", "failed")


@dataclass(frozen=True, kw_only=True)
class LiveResult:
    """One step of a training.

    status, message: as in the table `checkpoints`; of what was not measured there is no measurement. network, parameters_count:
    of the model, where it could be read. measurement: exact. norms: statistics of every matrix by its name and of all together
    ("all"); `norms_alone` makes them. readings, note: what `control_readings` gave; None where it failed, of which the note says
    why. counts, totals, squares: as `ninscope.exact.snapshots.snapshot_of` takes them, where a snapshot is kept. content: sha256
    (hex) of what the weights of the network are told by, where the caller has one: the same of the same weights, however they are
    spread; else it is made of norms, sums and measurement.
    """

    step: int
    status: str = "ok"
    message: str = ""
    network: NeuronNetwork | None = None
    parameters_count: int | None = None
    measurement: Measurement | None = None
    norms: Mapping[str, WeightStatistics] = field(default_factory=dict)
    readings: Mapping[str, ControlReading] | None = None
    note: str = ""
    counts: Mapping[str, LayerCounts] | None = None
    totals: Mapping[str, np.ndarray] = field(default_factory=dict)
    squares: Mapping[str, np.ndarray] = field(default_factory=dict)
    content: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for what is no step, or says two things at once."""
        if isinstance(self.step, bool) or not isinstance(self.step, int) or not 0 <= self.step < 10**_LONGEST_STEP:
            raise ValueError(f"step is {self.step!r}; an integer from 0 on was expected")
        if self.status not in STATUSES:
            raise ValueError(f"status is {self.status!r}; one of {', '.join(STATUSES)} was expected")
        if self.is_measured and (self.measurement is None or self.network is None or "all" not in self.norms):
            raise ValueError(f"step {self.step} is {self.status}, and has no measurement, network or norms")

    @property
    def is_measured(self) -> bool:
        return self.status in ("ok", "duplicate")

    @property
    def revision(self) -> str:
        return f"step{self.step}"


@dataclass(frozen=True)
class LiveStart:
    """What E and controls of a training compare with: its first row that was measured. content: as in LiveResult."""

    step: int
    revision: str
    measurement: Measurement
    rms: Mapping[str, float]
    content: str
