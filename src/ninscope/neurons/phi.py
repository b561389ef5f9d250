"""How the monosemantic scale is distributed over the activations of a model's layers, in memory that does not grow with them."""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ninscope.errors import CheckpointError, NonFiniteError, RequestError
from ninscope.neurons.inhibition import EPSILON, NEURONS
from ninscope.neurons.kernel_threads import in_threads
from ninscope.neurons.memel.finding import feature_dim_of
from ninscope.neurons.memel.scale import MonosemanticScale
from ninscope.neurons.observatory.channel_moments import ChannelMoments
from ninscope.neurons.phi_kernels import count_phi
from ninscope.neurons.watching import watched

# A float32 without sign and with 12 of its 23 digits: values of one bin differ by less than 2.5e-4 of themselves.
_DROPPED = 11
_BINS = 1 << (31 - _DROPPED)
_MOST = (1 << 31) - 1  # values that int32 can count
BatchType = TypeVar("BatchType")
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
# Edges of the coarse histogram that is kept of a distribution, as powers of two; what is below the first has a bin of its own.
OCTAVES = np.arange(-16, 17)


@dataclass(frozen=True)
class PhiSummary:
    """phi of many values: their number, mean, quantiles (to 2.5e-4 of themselves) and largest; NaN where there are no values.

    largest_mean: the mean over samples of the sample's largest phi, the value that MEmeL selects. counts: int64
    [len(OCTAVES) + 1], values below 2^OCTAVES[0], then from 2^OCTAVES[i] to 2^OCTAVES[i + 1]; the last has no upper bound.
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

    def __init__(self) -> None:
        self.counts = np.zeros(_BINS, np.int64)
        self.lowest = _BINS  # no bin below is used but bin 0
        self.sum, self.values, self.largest = 0.0, 0, 0.0
        self.sum_of_largest, self.samples = 0.0, 0

    def add(self, phi: Tensor, kept: Tensor | None = None) -> None:
        """phi: float32 [samples, ...], not negative. kept: bool of the same shape, False where a value does not count."""
        samples = phi.flatten(1)
        largest = samples.amax(1) if phi.numel() else samples.new_zeros(0)  # phi of padding is 0
        flat = phi.flatten() if kept is None else phi[kept]
        bins = flat.contiguous().view(torch.int32).bitwise_right_shift(_DROPPED)
        if len(bins) < _BINS // 8:  # a pass over all bins would take longer
            used, counts = bins.unique(return_counts=True)
            self.counts[used.cpu().numpy()] += counts.cpu().numpy()
        else:
            self.counts += torch.bincount(bins.long(), minlength=_BINS).cpu().numpy()
        self.lowest = 1
        self.sum += float(flat.sum(dtype=torch.float64))
        self.values += flat.numel()
        self.largest = max(self.largest, float(largest.max())) if largest.numel() else self.largest
        self.sum_of_largest += float(largest.sum(dtype=torch.float64))
        self.samples += len(largest)

    def __iadd__(self, other: "PhiDistribution") -> "PhiDistribution":
        used, counts = other.used()
        self.counts[used] += counts
        self.lowest = min(self.lowest, other.lowest)
        for name in ("sum", "values", "sum_of_largest", "samples"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest = max(self.largest, other.largest)
        return self

    def used(self) -> tuple[np.ndarray, np.ndarray]:
        """(bins that hold values, int64, rising; how many each holds, int64)."""
        return _used_of(self.counts, self.lowest, self.largest)

    def quantile(self, part: float) -> float:
        """The smallest value that at least this part of all values does not exceed, as its bin's middle; NaN without values."""
        (value,) = self._quantiles([part], *self.used())
        return value

    def _quantiles(self, parts: Iterable[float], used: np.ndarray, counts: np.ndarray) -> list[float]:
        if not self.values:
            return [float("nan") for _ in parts]
        reached = np.cumsum(counts)
        bins = [int(used[np.searchsorted(reached, part * self.values)]) for part in parts]
        return [(_edge(number) + _edge(number + 1)) / 2 if number else 0.0 for number in bins]

    def summary(self) -> PhiSummary:
        nothing = float("nan")
        used, counts = self.used()
        octaves = np.zeros(len(OCTAVES) + 1, np.int64)
        np.add.at(octaves, np.searchsorted(_first_bins(), used, side="right") - 1, counts)
        return PhiSummary(
            self.values,
            mean=self.sum / self.values if self.values else nothing,
            **dict(zip(QUANTILES, self._quantiles(QUANTILES.values(), used, counts), strict=True)),
            largest=self.largest if self.values else nothing,
            largest_mean=self.sum_of_largest / self.samples if self.samples else nothing,
            counts=octaves,
        )


def _used_of(counts: np.ndarray, lowest: int, largest: float) -> tuple[np.ndarray, np.ndarray]:
    """As `PhiDistribution.used`, of counts of which none from 1 to lowest - 1 is used, nor any above the bin of `largest`.

    Pages of memory that were never touched are left so, which is most of them.
    """
    used = np.flatnonzero(counts[lowest : _bin(largest) + 1]) + lowest
    used = np.append(0, used) if counts[0] else used
    return used, counts[used].astype(np.int64)


def _bin(value: float) -> int:
    """The bin of a number from 0."""
    return int(np.array([value], np.float32).view(np.int32)[0] >> _DROPPED)


def _edge(number: int) -> float:
    return float(np.array([number << _DROPPED], np.uint32).view(np.float32)[0])


@cache
def _first_bins() -> np.ndarray:
    """The first bin of every octave, int64 [len(OCTAVES) + 1]: every power of two is the lower edge of a bin."""
    edges = np.array(2.0**OCTAVES, np.float32).view(np.uint32) >> _DROPPED
    return np.concatenate([[0], edges.astype(np.int64)])


class PhiOfLayers:
    """phi of the activations of some layers of a model, by statistics of earlier activations (MEmeL, Definition 3.1).

    The model is run by others, inside `learning` and then inside `looking`, in the mode it is in. Both raise CheckpointError
    (nonfinite): activations that are not finite, and RequestError as `MonosemanticScale.observe`.
    """

    def __init__(
        self, model: nn.Module, layers: Mapping[str, nn.Module], neurons: str = NEURONS[0], epsilon: float = EPSILON
    ) -> None:
        self.model, self.layers = model, layers
        self._scales = {
            name: MonosemanticScale(neurons, feature_dim_of(module, neurons), epsilon=epsilon, layer=name)
            for name, module in layers.items()
        }
        self._distributions = {name: PhiDistribution() for name in layers}

    def learning(self) -> AbstractContextManager:
        """Activations meanwhile are history."""
        return watched(self.model, self.layers, self._learn)

    def looking(self) -> AbstractContextManager:
        """phi of activations meanwhile is counted."""
        return watched(self.model, self.layers, self._look)

    def distributions(self) -> dict[str, PhiDistribution]:
        """By layer. Raises RequestError: a layer that gave no activations."""
        if silent := [name for name, distribution in self._distributions.items() if not distribution.values]:
            raise RequestError(f"layer {silent[0]} gives no activations on these examples; take another layer")
        return self._distributions

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
        self._distributions[name].add(phi, kept)


class CountedPhi:
    """phi of one layer's activations, as `PhiOfLayers` has it, and each neuron's mean of it; one pass over activations on the CPU.

    layer: its name in messages. Both methods take floats [samples, tokens, neurons] and raise NonFiniteError: they are not finite.
    """

    def __init__(self, layer: str, epsilon: float = EPSILON) -> None:
        self.layer, self.values = layer, 0
        self._epsilon, self._history = epsilon, ChannelMoments()
        self._made: MonosemanticScale | None = None
        self._distribution = PhiDistribution()
        self._counts: list[np.ndarray] = []  # int32 [bins] of each thread, half as much memory to go about in
        self._counted, self._lowest = 0, _BINS
        self._sums = np.zeros(0)

    @torch.no_grad()
    def learn(self, h: Tensor) -> None:
        """These activations are history."""
        from ninscope.neurons.observatory.state_statistics import moments_of

        moments = moments_of(h)
        if not (np.isfinite(moments.means).all() and np.isfinite(moments.squares).all()):
            raise NonFiniteError(f"{self.layer}: activations are not finite (NaN or infinity)")
        self._history.add(moments)
        self._made = None

    @torch.no_grad()
    def look(self, h: Tensor) -> None:
        """phi of these is counted; nothing is where there is no history."""
        if not self._history.rows:
            return
        rows = h.float()
        sums = self._scan(rows) if h.device.type == "cpu" else self._add(self._scale.to(h.device).phi(rows))
        if not np.isfinite(sums).all():
            raise NonFiniteError(f"{self.layer}: activations, or their phi, are not finite (NaN or infinity)")
        self._sums = sums if not len(self._sums) else self._sums + sums
        self.values += rows.numel()

    @property
    def _scale(self) -> MonosemanticScale:
        """By all history so far."""
        if self._made is None:
            history = self._history
            self._made = MonosemanticScale(epsilon=self._epsilon, layer=self.layer)
            self._made.observe_moments(history.rows, torch.from_numpy(history.mean), torch.from_numpy(history.variance))
        return self._made

    def distribution(self) -> PhiDistribution:
        """phi of all that was looked at."""
        self._gather()
        self._distribution.sum = math.fsum(self._sums)
        return self._distribution

    def _gather(self) -> None:
        """What threads have counted goes into the distribution."""
        whole = self._distribution
        whole.lowest = min(whole.lowest, self._lowest)
        for counts in self._counts:
            used, numbers = _used_of(counts, self._lowest, whole.largest)
            whole.counts[used] += numbers
            counts[used] = 0
        self._counted = 0

    def of_neurons(self) -> np.ndarray:
        """Each neuron's mean phi, float64 [neurons]."""
        return self._sums * (len(self._sums) / self.values)

    def _scan(self, rows: Tensor) -> np.ndarray:
        """Count phi of [samples, rows, neurons]; its sum by neuron, float64 [neurons]."""
        values = rows.contiguous().numpy()
        mean, inverse = self._scale.mean.numpy(), self._scale.inverse().numpy()
        sums, (largest, smallest) = np.zeros((len(values), values.shape[2])), np.zeros((2, len(values)), np.float32)
        threads = min(torch.get_num_threads(), len(values))
        while len(self._counts) < threads:
            self._counts.append(np.zeros(_BINS, np.int32))
        if self._counted + values.size > _MOST:
            self._gather()
        self._counted += values.size

        def scan(number: int, first: int, last: int) -> None:
            count_phi(values, mean, inverse, _DROPPED, first, last, self._counts[number], sums, largest, smallest)

        in_threads(scan, len(values), threads)
        distribution = self._distribution
        distribution.values += values.size
        distribution.samples += len(values)
        distribution.largest = max(distribution.largest, float(largest.max()))
        distribution.sum_of_largest += float(largest.sum(dtype=np.float64))
        self._lowest = min(self._lowest, _bin(float(smallest.min())))
        total: np.ndarray = sums.sum(0)
        return total

    def _add(self, phi: Tensor) -> np.ndarray:
        """As `_scan`, on another device."""
        self._distribution.add(phi)
        total: np.ndarray = phi.double().sum((0, 1)).cpu().numpy()
        return total


def phi_of_layers(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    run: Callable[[BatchType], object],
    history: Iterable[BatchType],
    new: Iterable[BatchType],
    neurons: str = NEURONS[0],
    epsilon: float = EPSILON,
) -> dict[str, PhiDistribution]:
    """phi of every layer's activations on `new` batches, by the statistics of its activations on `history`.

    run(batch): runs the model on a batch. Raises CheckpointError, RequestError: as `PhiOfLayers`.
    """
    looked = PhiOfLayers(model, layers, neurons, epsilon)
    with torch.no_grad():
        for watching, batches in ((looked.learning, history), (looked.looking, new)):
            with watching():
                for batch in batches:
                    run(batch)
    return looked.distributions()


def together(distributions: Iterable[PhiDistribution]) -> PhiDistribution:
    """The distribution of all their values."""
    whole = PhiDistribution()
    for distribution in distributions:
        whole += distribution
    return whole
