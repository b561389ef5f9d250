"""The sections [analysis] and [[variants]] of a DAG file: which analyses are made of every checkpoint."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError, field_validator, model_validator

from ninscope.errors import RequestError
from ninscope.parameters import ALL, Parameters
from ninscope.report import analysis_rows
from ninscope_pipeline.request.models import Name, Strict

DEFAULT = analysis_rows.DEFAULT
SAMPLED, EXACT = "sampled", "exact"
NETWORK = "network"  # that a sampled analysis is made from
RESERVED = (DEFAULT, SAMPLED, EXACT, "nulls")  # no name of a variant


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
            raise RequestError(
                f"q: {self.start} to {self.stop} is not a whole number of steps of {self.step} (at most 10,000)"
            )
        return np.round(self.start + np.arange(count + 1) * self.step, 12)

    @classmethod
    def of(cls, q: np.ndarray) -> "QGrid":
        """The grid that has these values, float64 [n]. Raises ValueError where they are not evenly spaced."""
        start, stop = float(q[0]), float(q[-1])
        grid = cls(start=start, stop=stop, step=round((stop - start) / max(q.size - 1, 1), 12))
        if not np.array_equal(grid.values(), q):
            raise ValueError("these q are not evenly spaced; list them one by one")
        return grid


class LogRadiiKey(Strict):
    """K radii evenly spaced in the logarithm of distance."""

    log: int


@dataclass(frozen=True, eq=False)
class Analysis:
    """One analysis that is made of every checkpoint.

    method: "sampled" or "exact". with_matrices: whether what null models need of every matrix is kept.
    """

    variant: str
    method: str
    parameters: Parameters
    with_matrices: bool = False

    @property
    def name(self) -> str:
        """Under which the tables know it, and what a user reads."""
        return named(self.variant, self.method)

    @property
    def network_name(self) -> str:
        """The same for the network that a sampled analysis is made from."""
        return named(self.variant, NETWORK)


class _Keys(Strict):
    """The parameters of `ninscope.measure`, by the same names.

    exact: the whole network beside samples; nodes_per_layer = "all": the whole network and no samples. Where the type of a key is
    narrower here than there, pydantic checks its default too.
    """

    exact: bool | None = None
    nodes_per_layer: int | Literal["all"] = Field(default=Parameters.nodes_per_layer, validate_default=True)
    samples: int = Parameters.samples
    seed: int = Parameters.seed
    transfer: str = Parameters.transfer
    max_distance: float = Parameters.max_distance
    min_degree: int = Parameters.min_degree
    q: QGrid | list[float] = QGrid.of(Parameters().q)
    derivative: str = Parameters.derivative
    radii: Literal["integer"] | LogRadiiKey = Field(default=Parameters.radii, validate_default=True)
    per_node: bool = Parameters.per_node
    parts: list[str] = Field(default=list(Parameters.parts))
    convolutions: str = Parameters.convolutions
    wiring: str = Parameters.wiring
    layers_crossed: int = Parameters.layers_crossed
    gauge: str = Parameters.gauge
    fit_radii: list[float] | None = None
    direction: str = Parameters.direction


class AnalysisSection(_Keys):
    """The section [analysis]."""

    def methods(self) -> dict[str, Parameters]:
        """The parameters of each analysis that is asked for, by its method: sampled, exact or both. Raises RequestError."""
        q = self.q.values() if isinstance(self.q, QGrid) else np.array(self.q, dtype=np.float64)
        given = {**self.model_dump(exclude={"exact"}), "q": q}
        methods = {}
        if self.nodes_per_layer != ALL:
            methods[SAMPLED] = Parameters(**{**given, "per_node": False})
        if self.exact or self.nodes_per_layer == ALL:
            unused = {name: getattr(Parameters, name) for name in ("samples", "seed")}
            methods[EXACT] = Parameters(**{**given, **unused, "nodes_per_layer": ALL})
        return methods

    def given(self) -> dict[str, Any]:
        """The keys that the file gives, with their values."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}

    @model_validator(mode="after")
    def _makes_sense(self) -> "AnalysisSection":
        if self.nodes_per_layer == ALL:
            if self.exact is False:
                raise ValueError(
                    'nodes_per_layer = "all" asks for the exact analysis, and exact = false forbids it; leave one of them out'
                )
            if useless := [name for name in ("samples", "seed") if name in self.model_fields_set]:
                raise ValueError(
                    f'nodes_per_layer = "all" takes every neuron and no samples; leave out {" and ".join(useless)}'
                )
        try:
            methods = self.methods()
        except RequestError as error:
            raise ValueError(str(error)) from None
        if self.per_node and EXACT not in methods:
            raise ValueError("per_node needs an exact analysis; add exact = true")
        return self


class VariantSection(_Keys):
    """One of [[variants]]: [analysis] with some of its keys changed, beside which it is made of every checkpoint."""

    name: Name

    @field_validator("name")
    @classmethod
    def _is_not_reserved(cls, value: str) -> str:
        if value in RESERVED:
            raise ValueError("this name has another meaning in the tables; choose another name")
        return value

    def changes(self) -> dict[str, Any]:
        """The keys of [analysis] that it gives, with their values."""
        return {name: getattr(self, name) for name in _Keys.model_fields if name in self.model_fields_set}

    def applied_to(self, analysis: AnalysisSection) -> AnalysisSection:
        """[analysis] with its changes. Raises ValueError: they contradict what stays, or change nothing."""
        changes, kept = self.changes(), analysis.given()
        if changes.get("nodes_per_layer") == ALL:  # then these have no part any more
            kept = {name: value for name, value in kept.items() if name not in ("exact", "samples", "seed")}
        try:
            changed = AnalysisSection(**(kept | changes))
        except ValidationError as error:
            why = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise ValueError(f"variant {self.name}: {why}") from None
        before = _described(analysis)
        if all(before.get(method) == described for method, described in _described(changed).items()):
            raise ValueError(f"variant {self.name} changes nothing in [analysis]; leave it out")
        return changed


def _described(analysis: AnalysisSection) -> dict[str, dict[str, Any]]:
    """What the results of an analysis depend on, by method: not what is told of them (single nodes, parts)."""
    described = {}
    for method, parameters in analysis.methods().items():
        values = asdict(parameters) | {"q": parameters.q.tolist(), "per_node": None, "parts": None}
        described[method] = values if parameters.log_count is None else values | {"max_distance": None}
    return described


def analyses(
    analysis: AnalysisSection, variants: Sequence[VariantSection], with_matrices: bool = False
) -> tuple[Analysis, ...]:
    """Everything that is measured of a checkpoint, in the order of the tables: [analysis] first, then each variant.

    with_matrices: of the exact analysis by [analysis]. Raises ValueError: two variants of one name, or what
    `VariantSection.applied_to` raises.
    """
    names = [variant.name for variant in variants]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two variants are called {twice[0]!r}; give each its own name")
    listed = [
        Analysis(DEFAULT, method, parameters, with_matrices and method == EXACT)
        for method, parameters in analysis.methods().items()
    ]
    for variant in variants:
        methods = variant.applied_to(analysis).methods()
        listed += [Analysis(variant.name, method, parameters) for method, parameters in methods.items()]
    return tuple(listed)
