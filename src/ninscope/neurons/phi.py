"""How the monosemantic scale is distributed over the activations of a model's layers, in memory that no number of them grows."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ninscope.errors import CheckpointError, NonFiniteError, RequestError
from ninscope.neurons.memel.finding import feature_dim_of
from ninscope.neurons.memel.scale import EPSILON, MonosemanticScale
from ninscope.neurons.watching import watched

# A float32 without sign and with 12 of its 23 digits: values of one bin differ by less than 2.5e-4 of themselves.
_DROPPED = 11
_BINS = 1 << (31 - _DROPPED)
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
# Of the coarse histogram that is kept of a distribution: powers of two, and what is below the first.
OCTAVES = np.arange(-16, 17)


@dataclass(frozen=True)
class PhiSummary:
    """Of phi of many values: how many, their mean, quantiles (to 2.5e-4 of themselves) and largest; largest_mean: the mean over
    samples of each one's largest, which is what MEmeL selects. counts: int64 [len(OCTAVES) + 1], values below 2^OCTAVES[0],
    then from 2^OCTAVES[i] to 2^OCTAVES[i + 1]; the last has no upper bound. NaN where there are no values.
    """

    values: int
    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    largest: float
    largest_mean: float
    counts: np.ndarray


class PhiDistribution:
    """Values of phi, counted as they come; distributions add."""

    def __init__(self):
        self.counts = np.zeros(_BINS, np.int64)
        self.sum, self.values, self.largest = 0.0, 0, 0.0
        self.sum_of_largest, self.samples = 0.0, 0

    def add(self, phi: Tensor, kept: Tensor | None = None) -> None:
        """phi: float32 [samples, ...], not negative. kept: bool of the same shape, False where a value does not count."""
        of_samples = phi.flatten(1)
        largest = of_samples.amax(1) if phi.numel() else of_samples.new_zeros(0)  # phi of padding is 0
        flat = phi.flatten() if kept is None else phi[kept]
        bins = flat.contiguous().view(torch.int32).bitwise_right_shift(_DROPPED)
        self.counts += torch.bincount(bins.long(), minlength=_BINS).cpu().numpy()
        self.sum += float(flat.sum(dtype=torch.float64))
        self.values += flat.numel()
        self.largest = max(self.largest, float(largest.max())) if largest.numel() else self.largest
        self.sum_of_largest += float(largest.sum(dtype=torch.float64))
        self.samples += len(largest)

    def __iadd__(self, other: "PhiDistribution") -> "PhiDistribution":
        self.counts += other.counts
        for name in ("sum", "values", "sum_of_largest", "samples"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest = max(self.largest, other.largest)
        return self

    def quantile(self, part: float) -> float:
        """The smallest value that at least such a part of all do not exceed, as the middle of its bin; NaN of no values."""
        if not self.values:
            return float("nan")
        reached = np.cumsum(self.counts)
        at = int(np.searchsorted(reached, part * self.values))
        low, high = _edge(at), _edge(at + 1)
        return (low + high) / 2 if at else 0.0

    def summary(self) -> PhiSummary:
        nothing = float("nan")
        fine = np.searchsorted(2.0**OCTAVES, _edges(), side="right")
        octaves = np.bincount(fine, weights=self.counts, minlength=len(OCTAVES) + 1).astype(np.int64)
        return PhiSummary(
            self.values,
            self.sum / self.values if self.values else nothing,
            *(self.quantile(part) for part in QUANTILES.values()),
            self.largest if self.values else nothing,
            self.sum_of_largest / self.samples if self.samples else nothing,
            octaves,
        )


def _edge(number: int) -> float:
    return float(np.array([number << _DROPPED], np.uint32).view(np.float32)[0])


def _edges() -> np.ndarray:
    """The lower edge of every bin; of those that no finite number falls into, infinity."""
    edges = (np.arange(_BINS, dtype=np.uint32) << np.uint32(_DROPPED)).view(np.float32)
    return np.where(np.isnan(edges), np.float32(np.inf), edges)


class PhiOfLayers:
    """phi of the activations of some layers of a model, by statistics of earlier ones (Definition 3.1).

    The model is run by others, inside `learning` and then inside `looking`, in the mode it is in. Both raise CheckpointError
    (nonfinite): activations that are not finite, and RequestError as `MonosemanticScale.observe`.
    """

    def __init__(
        self, model: nn.Module, layers: Mapping[str, nn.Module], neurons: str = "features", epsilon: float = EPSILON
    ):
        self.model, self.layers = model, layers
        self._scales = {
            name: MonosemanticScale(neurons, feature_dim_of(module, neurons), epsilon=epsilon, layer=name)
            for name, module in layers.items()
        }
        self._found = {name: PhiDistribution() for name in layers}

    def learning(self) -> AbstractContextManager:
        """Activations meanwhile are history."""
        return watched(self.model, self.layers, self._learn)

    def looking(self) -> AbstractContextManager:
        """phi of activations meanwhile is counted."""
        return watched(self.model, self.layers, self._look)

    def found(self) -> dict[str, PhiDistribution]:
        """By layer. Raises RequestError: a layer that gave no activations."""
        if silent := [name for name, distribution in self._found.items() if not distribution.values]:
            raise RequestError(f"layer {silent[0]} gives no activations on these examples; take another layer")
        return self._found

    @torch.no_grad()
    def _learn(self, name: str, h: Tensor, mask: Tensor | None) -> None:
        try:
            self._scales[name].to(h.device).observe(h.float(), mask)
        except NonFiniteError as error:
            raise CheckpointError("nonfinite", str(error)) from None

    @torch.no_grad()
    def _look(self, name: str, h: Tensor, mask: Tensor | None) -> None:
        if not bool(torch.isfinite(h).all() if mask is None else torch.isfinite(h[mask.bool()]).all()):
            raise CheckpointError("nonfinite", f"{name}: activations are not finite (NaN or infinity)")
        phi = self._scales[name].to(h.device).phi(h.float(), mask)
        kept = None if mask is None else mask.bool()[(...,) + (None,) * (h.ndim - mask.ndim)].expand(h.shape)
        self._found[name].add(phi, kept)


def phi_of_layers(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    passed: Callable[[object], object],
    history: Iterable,
    new: Iterable,
    neurons: str = "features",
    epsilon: float = EPSILON,
) -> dict[str, PhiDistribution]:
    """Of every layer, phi of the activations on `new` batches, by the statistics of those on `history`.

    passed(batch): runs the model on a batch. Raises CheckpointError, RequestError: as `PhiOfLayers`.
    """
    looked = PhiOfLayers(model, layers, neurons, epsilon)
    with torch.no_grad():
        for watching, batches in ((looked.learning, history), (looked.looking, new)):
            with watching():
                for batch in batches:
                    passed(batch)
    return looked.found()


def together(distributions: Iterable[PhiDistribution]) -> PhiDistribution:
    """All of them as one."""
    whole = PhiDistribution()
    for one in distributions:
        whole += one
    return whole
