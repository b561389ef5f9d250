"""How a network is drawn and analysed: the parameters of `ninscope.measure`, checked."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from ninscope.architectures import Reading
from ninscope.architectures.described import Description, description_of
from ninscope.checks import MAX_SEED, checked_integer, did_you_mean
from ninscope.errors import RequestError
from ninscope.multifractal.spectrum import DERIVATIVES, MIN_DEGREE, checked_bounds, checked_moments, default_q
from ninscope.networks.incoming import DIRECTIONS
from ninscope.networks.radii import FitRadii, IntegerRadii, Radii, checked_fit_radii, checked_radii
from ninscope.networks.transfer import TRANSFERS
from ninscope.shown import Shown

ALL = "all"
MAX_SAMPLES = 10_000
MAX_NODES_PER_LAYER = 100_000
MAX_CROSSED = 8
PARTS = ("block", "kind", "layer")


@dataclass(frozen=True, repr=False)
class Parameters(Shown):
    """How a network is drawn and analysed, checked when it is made. The defaults are those of NeuroMFA's code (docs/method.md).

    These are the only defaults: `ninscope.measure`, `network`, `sampling_bias` and the section [analysis] of a DAG file take
    theirs from here.

    nodes_per_layer: neurons that are sampled from each node layer, or "all" for the exact analysis, which has no samples and no
    seed. transfer, max_distance, min_degree: what the distance of an edge is, up to which distance edges count, and how many
    edges a node must exceed to count. q: orders of the moments, increasing, with 0, kept as float64 [n]. derivative: "exact", or
    "forward" differences of tau. radii: "integer" takes whole distances and counts those in (1, max_distance]; {"log": K} takes
    K radii, evenly spaced in ln d between the smallest and the largest distance of the network: every weight but 0 is then an
    edge, and max_distance has no effect. per_node: keep the exact analysis's values of every single neuron. convolutions,
    wiring, gauge: as in Reading. architecture: a description of the model (architectures.described) that replaces its config.json.
    parts: take a spectrum of every "block", every "kind" (attention, mlp, ...) or every "layer" as well. layers_crossed: how
    many weight blocks a path may cross whose length counts as a distance (the paper's appendix B.1). direction: "out" counts a
    neuron's out-going edges, "in" those that lead to it. fit_radii: the shortest and the longest distance (a, b) of the radii
    that enter fits; None: all of them.

    Raises RequestError for a value that makes no sense.
    """

    nodes_per_layer: int | str = 64
    samples: int = 10
    seed: int = 0
    transfer: str = IntegerRadii.transfer
    max_distance: float = IntegerRadii.max_distance
    min_degree: int = MIN_DEGREE
    q: np.ndarray = field(default_factory=default_q)
    derivative: str = DERIVATIVES[0]
    radii: str | Mapping[str, int] = "integer"
    per_node: bool = False
    convolutions: str = Reading.convolutions
    wiring: str = Reading.wiring
    architecture: Mapping | Description | None = None
    parts: Sequence[str] = ()
    layers_crossed: int = 1
    gauge: str = Reading.gauge
    fit_radii: FitRadii = None
    direction: str = DIRECTIONS[0]

    def facts(self) -> dict[str, object]:
        """What a terminal or a notebook shows: what is not the default."""
        default = Parameters()
        names = [name for name in self.__dataclass_fields__ if not _equal(getattr(self, name), getattr(default, name))]
        return {name: getattr(self, name) for name in names} or {"all": "defaults"}

    def __post_init__(self) -> None:
        if not (isinstance(self.nodes_per_layer, str) and self.nodes_per_layer == ALL):
            checked_integer("nodes_per_layer", self.nodes_per_layer, 1, MAX_NODES_PER_LAYER, f', or "{ALL}",')
        checked_integer("samples", self.samples, 1, MAX_SAMPLES)
        checked_integer("seed", self.seed, 0, MAX_SEED)
        checked_integer("layers_crossed", self.layers_crossed, 1, MAX_CROSSED)
        for name, choices in (("transfer", TRANSFERS), ("derivative", DERIVATIVES), ("direction", DIRECTIONS)):
            if getattr(self, name) not in choices:
                raise RequestError(f"{name} is {getattr(self, name)!r}; one of {', '.join(choices)} was expected")
        if not isinstance(self.per_node, bool):
            raise RequestError(f"per_node is {self.per_node!r}; true or false was expected")
        if isinstance(self.parts, str) or [part for part in self.parts if part not in PARTS]:
            raise RequestError(f"parts is {self.parts!r}; a list of {', '.join(PARTS)} was expected")
        checked_bounds(self.max_distance, self.min_degree)
        if self.architecture is not None and not isinstance(self.architecture, Description):
            self._set("architecture", description_of(self.architecture))
        self._set("parts", tuple(part for part in PARTS if part in self.parts))
        self._set("q", checked_moments(self.q, self.derivative))
        self._set("radii", checked_radii(self.radii, self.transfer))
        _ = self.reading  # which checks itself
        if self.layers_crossed > 1 and self.log_count is not None:
            raise RequestError(
                'layers_crossed above 1 goes with radii "integer"; logarithmic ones span the edges of one layer'
            )
        if self.layers_crossed > 1 and self.per_node:
            raise RequestError("per_node goes with layers_crossed 1: values of single nodes are those of their edges")
        grid = self.integer_radii if self.log_count is None else None
        self._set("fit_radii", checked_fit_radii(self.fit_radii, grid, self.layers_crossed))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the class is frozen for everyone else

    @property
    def reading(self) -> Reading:
        """How checkpoints are read."""
        assert not isinstance(self.architecture, Mapping)  # a description since it was made
        return Reading(self.convolutions, self.wiring, self.architecture, self.gauge)

    @property
    def exact(self) -> bool:
        """Whether every neuron is taken, and no sample is drawn."""
        return self.nodes_per_layer == ALL

    @property
    def sampled_nodes(self) -> int:
        """Neurons that are sampled from each node layer. Raises ValueError: an exact analysis samples none."""
        if isinstance(self.nodes_per_layer, str):
            raise ValueError("an exact analysis takes no samples")
        return int(self.nodes_per_layer)

    @property
    def log_count(self) -> int | None:
        """The number of logarithmic radii; None for integer radii."""
        return None if isinstance(self.radii, str) else self.radii["log"]

    @property
    def edge_bound(self) -> float:
        """The distance up to which a sampled network keeps edges: infinity for logarithmic radii."""
        return float(self.max_distance) if self.log_count is None else math.inf

    @property
    def integer_radii(self) -> IntegerRadii:
        """The grid of whole distances up to max_distance."""
        return IntegerRadii(self.transfer, float(self.max_distance))

    def log_radii(self, radii: Radii) -> np.ndarray:
        """ln r of every radius of a grid, float64 [K + 1], NaN of those that enter no fit."""
        return radii.fitted_logarithms(self.fit_radii)


def _equal(value: Any, default: Any) -> bool:
    return bool(np.array_equal(value, default)) if isinstance(value, np.ndarray) else value == default


# What each parameter means, with its unit, for `help(ninscope.measure)`; the defaults are those of Parameters.
MEANINGS = {
    "nodes_per_layer": 'neurons that are sampled from each node layer, or "all" for the whole network; only of samples',
    "samples": "number of samples; only of samples",
    "seed": "which neurons are sampled, an integer; only of samples",
    "transfer": f"distance of a weight: {', '.join(TRANSFERS)} (1/|w|, coth |w|, -ln |w|)",
    "max_distance": "largest distance (in units of the transfer function) at which an edge counts",
    "min_degree": "number of edges that a node must exceed to count",
    "q": "orders of the moments, increasing numbers without unit; default -3 to 3 in steps of 0.1",
    "derivative": f"of tau: {', '.join(DERIVATIVES)} (differences, as in the authors' code)",
    "radii": '"integer": whole distances; {"log": K}: K radii even in ln d, without bounds',
    "per_node": "keep the values of every single neuron; needs the whole network",
    "convolutions": 'a kernel is one edge ("norm"), or one for every tap ("per_tap")',
    "wiring": 'the paper\'s "chain", or "parallel": the MLP of GPT-NeoX reads x',
    "architecture": "a description of a model of no known family, as the table [architecture] of a DAG file",
    "parts": f"spectra of parts as well: any of {', '.join(PARTS)}",
    "layers_crossed": "weight blocks that a path may cross",
    "direction": '"out": a neuron\'s out-going edges; "in": those that lead to it',
    "gauge": 'weights as "stored", or "fixed": one choice of all rescalings that leave the model\'s function as it is',
    "fit_radii": "the shortest and the longest distance (a, b) of the radii that enter fits; default all radii",
}

Function = TypeVar("Function", bound=Callable[..., Any])


def lists_parameters(function: Function) -> Function:
    """A function that takes the parameters as **parameters shows them in its signature and its help, each with its default."""
    default = Parameters()
    lines, shown = [], []
    for name, meaning in MEANINGS.items():
        value = getattr(default, name)
        text = "-3, -2.9, ..., 3" if isinstance(value, np.ndarray) else repr(value)
        lines.append(f"        {name} (default {text}): {meaning}.")
        kept = None if isinstance(value, np.ndarray) else value
        shown.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=kept, annotation=Any))
    signature = inspect.signature(function)
    own = [given for given in signature.parameters.values() if given.kind is not inspect.Parameter.VAR_KEYWORD]
    function.__signature__ = signature.replace(parameters=[*own, *shown])  # type: ignore[attr-defined]
    function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nparameters:\n" + "\n".join(lines)
    return function


def parameters_of_call(values: Mapping[str, Any], exact: bool | None, others: Iterable[str] = ()) -> Parameters:
    """The parameters that a caller of `ninscope.measure` gives; None stands for a default. Raises RequestError.

    exact: None takes samples where nodes_per_layer, samples or seed is given, and else the whole network. others: further
    arguments of the function, for the message alone.
    """
    known = Parameters.__dataclass_fields__
    if unknown := sorted(set(values) - set(known)):
        near = did_you_mean(unknown[0], {*known, *others})
        raise RequestError(f"unknown parameter {', '.join(unknown)}{near}; known: {', '.join(known)}")
    given = {name: value for name, value in values.items() if value is not None}
    sampling = [name for name in ("nodes_per_layer", "samples", "seed") if name in given]
    if given.get("nodes_per_layer") == ALL:
        if exact is False:
            raise RequestError('nodes_per_layer "all" is the exact measurement; leave exact=False out')
        exact = True
        sampling.remove("nodes_per_layer")
    if exact is None:
        exact = not sampling
    if exact and sampling:
        raise RequestError(f"an exact measurement takes every neuron; leave out {' and '.join(sampling)}")
    if not exact and given.get("per_node"):
        raise RequestError("only the exact measurement knows single nodes; leave out per_node, or the sampling")
    return Parameters(**(given | {"nodes_per_layer": ALL} if exact else given))
