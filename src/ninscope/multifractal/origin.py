"""How a spectrum was made, so that only spectra of one kind are compared."""

from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Origin:
    """What decides a spectrum beside the weights and q; None: not known, or of no meaning there.

    method: "exact" or "sampled". nodes_per_layer, samples, seed: of samples. radii: "integer" or {"log": K}, of which
    max_distance means nothing. wiring: sha256 of the network's wiring, and family: what a user calls that. models: names of the
    model that it is of, by the place where it lies; (): not known. part: of the network, "" for the whole. The others are as in
    Parameters.
    """

    method: str | None = None
    nodes_per_layer: int | None = None
    samples: int | None = None
    seed: int | None = None
    transfer: str | None = None
    radii: str | Mapping[str, int] | None = None
    max_distance: float | None = None
    min_degree: int | None = None
    derivative: str | None = None
    layers_crossed: int | None = None
    direction: str | None = None
    wiring: str | None = None
    family: str | None = None
    models: tuple[str, ...] = ()
    part: str | None = None
    gauge: str | None = None

    def differences(self, other: "Origin", same_training: bool = False) -> list[str]:
        """A clause for everything that is known of both and not the same ("transfer is coth and reciprocal").

        same_training: models that lie in two places are one.
        """
        if self.method and other.method and self.method != other.method:
            return [f"method is {self.method} and {other.method}"]  # what follows from that is no news
        pairs = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        known = {name: pair for name, pair in pairs.items() if None not in pair and pair[0] != pair[1]}
        clauses = [f"{name} is {own} and {others}" for name, (own, others) in known.items() if name not in _IN_WORDS]
        if "part" in known:
            clauses.append("part is {} and {}".format(*(part or "the whole network" for part in known["part"])))
        if "wiring" in known and "gauge" not in known:  # which is part of the wiring's digest
            families = " ({} and {})".format(*known["family"]) if "family" in known else ""
            clauses.append(f"the networks are wired otherwise{families}")
        elif not same_training and self._is_elsewhere(other):
            clauses.append(
                f"the models are {self.models[0]} and {other.models[0]} (same_training=True where both are of one training)"
            )
        return clauses

    def _is_elsewhere(self, other: "Origin") -> bool:
        return bool(self.models and other.models) and not set(self.models) & set(other.models)


_IN_WORDS = ("part", "wiring", "family", "models")
