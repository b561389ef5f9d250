"""How a network is drawn and analysed: the parameters of `ninscope.measure`, checked."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ninscope.architectures import Reading
from ninscope.architectures.described import Description, description_of
from ninscope.errors import RequestError
from ninscope.multifractal.spectrum import DERIVATIVES, checked_bounds, checked_q, default_q
from ninscope.networks.radii import IntegerRadii, checked_radii
from ninscope.networks.transfer import TRANSFERS

ALL = "all"
MAX_SAMPLES = 10_000
MAX_NODES_PER_LAYER = 100_000
MAX_CROSSED = 8
PARTS = ("block", "kind", "layer")


@dataclass(frozen=True)
class Parameters:
    """How a network is drawn and analysed; the defaults are those of NeuroMFA's code (docs/method.md).

    nodes_per_layer: neurons sampled from each node layer, or "all", the exact analysis, which knows no samples and no seed.
    radii: "integer", whole distances of which those in (1, max_distance] count, or {"log": K}, K radii evenly spaced in ln d
    between the smallest and the largest distance of the network, where every weight but 0 is an edge and max_distance has no
    part. per_node: keep the exact analysis's values of every single neuron. convolutions, wiring: as Reading; architecture: a
    description of the model (architectures.described), instead of what its config.json says. parts: also a spectrum of every
    "block", every "kind" (attention, mlp, ...) or every "layer" of the network. layers_crossed: how many weight blocks a path
    may cross whose length counts as a distance; more than 1 only of samples (NeuroMFA, B.1).
    """

    nodes_per_layer: int | str = 64
    samples: int = 10
    seed: int = 0
    transfer: str = "reciprocal"
    max_distance: float = 150.0
    min_degree: int = 10
    q: np.ndarray = field(default_factory=default_q)
    derivative: str = "exact"
    radii: str | Mapping[str, int] = "integer"
    per_node: bool = False
    convolutions: str = "norm"
    wiring: str = "chain"
    architecture: Mapping | Description | None = None
    parts: Sequence[str] = ()
    layers_crossed: int = 1

    @property
    def reading(self) -> Reading:
        """How checkpoints are read; of checked parameters."""
        return Reading(self.convolutions, self.wiring, self.architecture)

    @property
    def exact(self) -> bool:
        return self.nodes_per_layer == ALL

    @property
    def log_count(self) -> int | None:
        """How many logarithmic radii are asked for; None for integer ones."""
        return None if isinstance(self.radii, str) else self.radii["log"]

    @property
    def edge_bound(self) -> float:
        """The distance up to which a sampled network keeps edges: logarithmic radii know no bound."""
        return float(self.max_distance) if self.log_count is None else math.inf

    @property
    def integer_radii(self) -> IntegerRadii:
        return IntegerRadii(self.transfer, float(self.max_distance))

    def checked(self) -> "Parameters":
        """Itself, with q as an array. Raises RequestError for a value that makes no sense."""
        for name, low, high in (
            ("nodes_per_layer", 1, MAX_NODES_PER_LAYER),
            ("samples", 1, MAX_SAMPLES),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if name == "nodes_per_layer" and isinstance(value, str) and value == ALL:
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
                choice = ', or "all",' if name == "nodes_per_layer" else ""
                raise RequestError(f"{name} is {value!r}; an integer from {low} to {high}{choice} was expected")
        for name, known in (("transfer", TRANSFERS), ("derivative", DERIVATIVES)):
            if getattr(self, name) not in known:
                raise RequestError(f"{name} is {getattr(self, name)!r}; one of {', '.join(known)}")
        if not isinstance(self.per_node, bool):
            raise RequestError(f"per_node is {self.per_node!r}; true or false was expected")
        if isinstance(self.parts, str) or [part for part in self.parts if part not in PARTS]:
            raise RequestError(f"parts is {self.parts!r}; a list of {', '.join(PARTS)} was expected")
        crossed = self.layers_crossed
        if isinstance(crossed, bool) or not isinstance(crossed, int | np.integer) or not 1 <= crossed <= MAX_CROSSED:
            raise RequestError(f"layers_crossed is {crossed!r}; an integer from 1 to {MAX_CROSSED} was expected")
        if crossed > 1 and (self.exact or self.log_count is not None):
            raise RequestError("layers_crossed above 1 goes with samples and integer radii")
        if self.architecture is not None and not isinstance(self.architecture, Description):
            object.__setattr__(self, "architecture", description_of(self.architecture))
        object.__setattr__(self, "parts", tuple(part for part in PARTS if part in self.parts))
        _ = self.reading  # which checks itself
        checked_bounds(self.max_distance, self.min_degree)
        object.__setattr__(self, "q", checked_q(self.q))
        object.__setattr__(self, "radii", checked_radii(self.radii, self.transfer))
        return self
