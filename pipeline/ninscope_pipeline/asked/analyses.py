"""The sections [analysis], [[variants]] and [nulls] of a DAG file: which analyses are made of every checkpoint."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError, field_validator, model_validator

from ninscope.errors import RequestError
from ninscope.multifractal.nulls import NULLS
from ninscope.parameters import ALL, Parameters
from ninscope_pipeline.asked.models import Name, Strict

DEFAULT = "default"  # the variant that [analysis] itself is
SAMPLED, EXACT, OF_NULLS = "sampled", "exact", "nulls"
NETWORK = "network"  # that a sampled analysis is made from


def named(variant: str, what: str) -> str:
    """The name of an analysis of a variant, or of its network: no two of a DAG file have the same."""
    return what if variant == DEFAULT else f"{variant} {what}"


class QGrid(Strict):
    start: float
    stop: float
    step: float = Field(gt=0)

    def values(self) -> np.ndarray:
        steps = (self.stop - self.start) / self.step if math.isfinite(self.step) else math.nan
        count = round(steps) if abs(steps) < 1e6 else 0  # NaN and infinity are neither
        if not 1 <= count <= 10_000 or abs(self.start + count * self.step - self.stop) > 1e-9 * max(
            1.0, abs(self.stop)
        ):
            raise RequestError(f"q from {self.start} to {self.stop} is not a whole number of steps of {self.step}")
        return np.round(self.start + np.arange(count + 1) * self.step, 12)


class LogRadii(Strict):
    """K radii evenly spaced in the logarithm of distance."""

    log: int


class Nulls(Strict):
    """Null models of every checkpoint's whole network, drawn `samples` times each (analytic: once)."""

    models: list[Literal["shuffled", "gaussian", "analytic"]] = Field(default=list(NULLS), min_length=1)
    samples: int = Field(default=3, ge=1, le=1000)
    seed: int = Field(default=0, ge=0)

    @field_validator("models")
    @classmethod
    def _distinct(cls, value):
        if len(set(value)) != len(value):
            raise ValueError("give distinct null models")
        return value


@dataclass(frozen=True, eq=False)
class Wanted:
    """One analysis that is made of every checkpoint.

    method: sampled or exact, which have spectra, or nulls. parameters: of the network's analysis, for null models that of
    their original. nulls: which null models are made of it.
    """

    variant: str
    method: str
    parameters: Parameters
    nulls: Nulls | None = None

    @property
    def name(self) -> str:
        """By which keys and outcomes are kept, and what a user reads."""
        return named(self.variant, self.method)

    @property
    def has_spectra(self) -> bool:
        return self.method != OF_NULLS


class _Keys(Strict):
    """The parameters of `ninscope.measure`, by the same names.

    exact: the whole network beside samples; nodes_per_layer = "all": the whole network and no samples.
    """

    exact: bool | None = None
    nodes_per_layer: int | Literal["all"] = Parameters.nodes_per_layer
    samples: int = Parameters.samples
    seed: int = Parameters.seed
    transfer: str = Parameters.transfer
    max_distance: float = Parameters.max_distance
    min_degree: int = Parameters.min_degree
    q: QGrid | list[float] = QGrid(start=-3.0, stop=3.0, step=0.1)
    derivative: str = Parameters.derivative
    radii: Literal["integer"] | LogRadii = "integer"
    per_node: bool = Parameters.per_node
    parts: list[str] = Field(default=[])
    convolutions: str = Parameters.convolutions
    wiring: str = Parameters.wiring
    layers_crossed: int = Parameters.layers_crossed


class Analysis(_Keys):
    """The section [analysis]."""

    def methods(self) -> dict[str, Parameters]:
        """The parameters of each analysis that is asked for, by its method: sampled, exact or both. Raises RequestError."""
        q = self.q.values() if isinstance(self.q, QGrid) else np.array(self.q, dtype=np.float64)
        given = {**self.model_dump(exclude={"exact"}), "q": q}
        found = {}
        if self.nodes_per_layer != ALL:
            found[SAMPLED] = Parameters(**{**given, "per_node": False}).checked()
        if self.exact or self.nodes_per_layer == ALL:
            unused = {name: getattr(Parameters, name) for name in ("samples", "seed")}
            found[EXACT] = Parameters(**{**given, **unused, "nodes_per_layer": ALL}).checked()
        return found

    def given(self) -> dict:
        """The keys that the file gives, with their values."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}

    @model_validator(mode="after")
    def _makes_sense(self):
        if self.nodes_per_layer == ALL:
            if self.exact is False:
                raise ValueError('nodes_per_layer = "all" is the exact analysis; exact = false contradicts it')
            if useless := [name for name in ("samples", "seed") if name in self.model_fields_set]:
                raise ValueError(f'nodes_per_layer = "all" takes every neuron; leave out {" and ".join(useless)}')
        try:
            methods = self.methods()
        except RequestError as error:
            raise ValueError(str(error)) from None
        if self.per_node and EXACT not in methods:
            raise ValueError("per_node is of the exact analysis; add exact = true")
        return self


class Variant(_Keys):
    """One of [[variants]]: [analysis] with some of its keys changed, beside which it is made of every checkpoint."""

    name: Name

    @field_validator("name")
    @classmethod
    def _is_its_own(cls, value):
        if value in (DEFAULT, SAMPLED, EXACT, OF_NULLS):
            raise ValueError("the name means something else in the tables; choose another")
        return value

    def changes(self) -> dict:
        """The keys of [analysis] that it gives, with their values."""
        return {name: getattr(self, name) for name in _Keys.model_fields if name in self.model_fields_set}

    def of(self, analysis: Analysis) -> Analysis:
        """[analysis] with its changes. Raises ValueError: they contradict what stays, or change nothing."""
        changes, kept = self.changes(), analysis.given()
        if changes.get("nodes_per_layer") == ALL:  # then these have no part any more
            kept = {name: value for name, value in kept.items() if name not in ("exact", "samples", "seed")}
        try:
            changed = Analysis(**(kept | changes))
        except ValidationError as error:
            why = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise ValueError(f"variant {self.name}: {why}") from None
        before = _described(analysis)
        if all(before.get(method) == described for method, described in _described(changed).items()):
            raise ValueError(f"variant {self.name}: it changes nothing of [analysis]; leave it out")
        return changed


def _described(analysis: Analysis) -> dict[str, dict]:
    """What the results of an analysis depend on, by method: not what is told of them (single nodes, parts)."""
    found = {}
    for method, parameters in analysis.methods().items():
        values = asdict(parameters) | {"q": parameters.q.tolist(), "per_node": None, "parts": None}
        found[method] = values if parameters.log_count is None else values | {"max_distance": None}
    return found


def analyses(analysis: Analysis, variants: Sequence[Variant], nulls: Nulls | None) -> tuple[Wanted, ...]:
    """Everything that is made of a checkpoint, in the order of the tables: that of [analysis] first, then of each variant.

    Raises ValueError: null models without an original, two variants of one name, or what `Variant.of` raises.
    """
    names = [variant.name for variant in variants]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"the variant {twice[0]} is listed twice; give each a name of its own")
    methods = analysis.methods()
    if nulls is not None and EXACT not in methods:
        raise ValueError("[nulls] are compared with the exact analysis; add exact = true to [analysis]")
    found = [Wanted(DEFAULT, name, own, nulls if name == EXACT else None) for name, own in methods.items()]
    if nulls is not None:
        found.append(Wanted(DEFAULT, OF_NULLS, methods[EXACT], nulls))
    for variant in variants:
        found += [Wanted(variant.name, name, own) for name, own in variant.of(analysis).methods().items()]
    return tuple(found)
