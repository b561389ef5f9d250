"""How a network is drawn and analysed: the parameters of `ninscope.measure`, checked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ninscope.errors import RequestError
from ninscope.multifractal.spectrum import DERIVATIVES, checked_bounds, checked_q, default_q
from ninscope.networks.radii import IntegerRadii, checked_radii
from ninscope.networks.transfer import TRANSFERS

ALL = "all"
MAX_SAMPLES = 10_000
MAX_NODES_PER_LAYER = 100_000


@dataclass(frozen=True)
class Parameters:
    """How a network is drawn and analysed; the defaults are the papers' (METHOD sections 1 to 3).

    nodes_per_layer: neurons sampled from each node layer, or "all", the exact analysis, which knows no samples and no seed.
    radii: "integer", whole distances of which those in (1, max_distance] count, or {"log": K}, K radii evenly spaced in ln d
    between the smallest and the largest distance of the network, where every weight but 0 is an edge and max_distance has no
    part. per_node: keep the exact analysis's values of every single neuron.
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
        checked_bounds(self.max_distance, self.min_degree)
        object.__setattr__(self, "q", checked_q(self.q))
        object.__setattr__(self, "radii", checked_radii(self.radii, self.transfer))
        return self
