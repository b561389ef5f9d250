"""Dead neurons, and how often and how evenly the others fire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ninscope.neurons.kernel_threads import WORTH_THREADS, in_threads
from ninscope.neurons.observatory.by_layer import distributions, neuron_values, shares, something_seen
from ninscope.neurons.observatory.firing import Firing, Rule, is_on, processor_values, told_facts
from ninscope.neurons.observatory.measure import ALL, HIDDEN, Batch, Fact, Found, Place, StreamedMeasure, Tally
from ninscope.neurons.observatory.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject

# A neuron of a smooth layer is dead where its largest |h| is at most this part of the root mean square of its layer.
SMOOTH_PART = 0.01
# A kurtosis is not known where the neuron's variance is less than this part of its mean square distance from the first
# batch's mean: the digits that float32 sums of powers leave would be noise.
LEAST_VARIANCE = 0.01
_PARTS = 8  # of a batch's rows, which threads share
_ROUNDING = 1e-12  # nor where that distance is what float32 makes of a constant's mean


@register
class Dead(StreamedMeasure):
    """The share of hidden neurons that are never anything but zero, over all tokens that were seen.

    dead_i = [h_ti = 0 for all tokens t]. That is for rectified activations. Smooth ones (GELU, SiLU) are never zero,
    and there a neuron is dead where max over t of |h_ti| <= 0.01 r, r being the root mean square of its layer's
    activations: a choice of ours, and a relative one. The bound that was used is a fact. Beside it stands the share of
    neurons that are never on (`firing.py` says what on is; the same for ReLU), for the rest how often they are on, and
    the kurtosis of every neuron's activations: E (h - m)^4 / (E (h - m)^2)^2, 3 for a normal distribution; not known
    of a neuron that is constant.

    A neuron that fires on rare tokens looks dead on few of them, so the number of tokens is a fact too: the source
    takes 20 million. Numbers of texts of different lengths are not to be compared.

    Source: Voita et al., "Neurons in Large Language Models: Dead, N-gram, Positional" (2023), section 3. Paper read.
    """

    name: ClassVar[str] = "dead"
    title: ClassVar[str] = "Dead neurons"
    source: ClassVar[str] = "Voita et al. 2023, Neurons in Large Language Models, section 3"
    facts: ClassVar = {
        "dead": "share of neurons that are never non-zero, or, where activations are smooth, never beyond dead_bound; 0 to 1",
        "dead_never_on": "share of neurons that are never on, 0 to 1",
        "dead_tokens": "tokens (or other positions) over which this was measured; of all: those of the layer that saw most",
        "dead_bound": "what the largest |h| of a dead neuron does not exceed: 0 where activations are rectified",
        "dead_firing_frequency": "share of tokens on which a neuron is on, 0 to 1, of neurons that are not dead",
        "dead_kurtosis": "kurtosis of a neuron's activations, 1 or more; 3 of a normal distribution",
        **told_facts("dead"),
    }
    reads: ClassVar[frozenset[str]] = frozenset({HIDDEN})

    def tally(self, subject: Subject) -> Tally:
        """Counts, extremes and power sums of each neuron."""
        return _Tally(subject)


@dataclass
class _Sums:
    """Of one layer: tokens, and for each neuron the times it was on, its largest |h|, and sums of powers of h - centre.

    centre, largest: float32 [neurons]. on: float64 [neurons]. powers: float64 [4, neurons].
    """

    centre: Tensor
    on: Tensor
    largest: Tensor
    powers: Tensor
    tokens: int = 0


class _Tally(Tally):
    def __init__(self, subject: Subject) -> None:
        self._firing = Firing(subject)
        self._layers: dict[str, _Sums] = {}

    def see(self, place: Place, values: Tensor, batch: Batch) -> None:
        if not values.numel():
            return
        sums = self._layers.get(place.layer)
        if sums is None:
            sums = self._layers[place.layer] = _empty(values)
        sums.tokens += values.shape[0] * values.shape[1]
        rule, held = self._firing.rule(place, values), processor_values(values)
        if held is None:
            _add(sums, rule, values)
        else:
            _add_in_threads(sums, rule, held.reshape(-1, held.shape[-1]))

    def found(self) -> Found:
        something_seen("dead", self._layers)
        dead, never, frequency, kurtosis, bounds = {}, {}, {}, {}, {}
        for layer, sums in self._layers.items():
            on, rule = sums.on.cpu().numpy(), self._firing.rules[layer]
            bounds[layer] = _bound(sums) if rule.smooth else 0.0
            never[layer], dead[layer] = on == 0, sums.largest.cpu().numpy() <= bounds[layer]
            frequency[layer], kurtosis[layer] = on / sums.tokens, _kurtosis(sums)
        alive = {layer: np.where(dead[layer], np.nan, frequency[layer]) for layer in frequency}
        tokens = {layer: sums.tokens for layer, sums in self._layers.items()}
        facts = (
            *shares("dead", dead),
            *shares("dead_never_on", never),
            *(
                Fact("dead_tokens", layer, float(number))
                for layer, number in {**tokens, ALL: max(tokens.values())}.items()
            ),
            *(Fact("dead_bound", layer, bound) for layer, bound in bounds.items()),
            *distributions("dead_firing_frequency", alive),
            *distributions("dead_kurtosis", kurtosis),
            *self._firing.facts("dead"),
        )
        return Found(
            facts, (*neuron_values("dead_firing_frequency", frequency), *neuron_values("dead_kurtosis", kurtosis))
        )


def _empty(values: Tensor) -> _Sums:
    """values: the first batch's; their mean is the centre, so that sums of powers lose no digits to a large mean."""
    import torch

    neurons = values.shape[-1]
    return _Sums(
        centre=values.float().mean((0, 1)),
        on=torch.zeros(neurons, dtype=torch.float64, device=values.device),
        largest=torch.zeros(neurons, device=values.device),
        powers=torch.zeros((4, neurons), dtype=torch.float64, device=values.device),
    )


def _add_in_threads(sums: _Sums, rule: Rule, rows: np.ndarray) -> None:
    """By the kernel `add_powers`. rows: float32 [rows, neurons], parted alike whatever threads there are, so that sums are."""
    import torch

    from ninscope.neurons.observatory.counting_kernels import add_powers

    parts = np.array_split(rows, _PARTS if rows.size >= WORTH_THREADS else 1)
    neurons, centre = rows.shape[1], sums.centre.numpy()
    on, powers = np.zeros((len(parts), neurons)), np.zeros((len(parts), 4, neurons))
    largest = np.zeros((len(parts), neurons), np.float32)

    def work(_: int, first: int, last: int) -> None:
        for part in range(first, last):
            add_powers(parts[part], *rule.bounds, centre, on[part], powers[part], largest[part])

    in_threads(work, len(parts), min(torch.get_num_threads(), len(parts)))
    sums.on.numpy()[:] += on.sum(0)
    sums.powers.numpy()[:] += powers.sum(0)
    np.maximum(sums.largest.numpy(), largest.max(0), out=sums.largest.numpy())


def _add(sums: _Sums, rule: Rule, values: Tensor) -> None:
    """As the kernel `add_powers`."""
    import torch

    power = values.float() - sums.centre
    square = power * power
    sums.on += _sum(is_on(rule, values))
    torch.maximum(sums.largest, values.float().abs().amax((0, 1)), out=sums.largest)
    sums.powers += torch.stack([_sum(power), _sum(square), _sum(power * square), _sum(square * square)])


def _sum(values: Tensor) -> Tensor:
    """Sums over samples and positions, float64 [neurons]: of a sample in float32, of samples in float64."""
    import torch

    return values.sum(1).sum(0, dtype=torch.float64)


def _bound(sums: _Sums) -> float:
    """The part SMOOTH_PART of the root mean square of a layer's activations."""
    offset, square = sums.powers[0] / sums.tokens, sums.powers[1] / sums.tokens
    centre = sums.centre.double()
    mean_squares = square + 2 * centre * offset + centre * centre
    return SMOOTH_PART * float(mean_squares.mean().clamp(min=0).sqrt())


def _kurtosis(sums: _Sums) -> np.ndarray:
    """Of each neuron, float64; NaN where it is constant, or its variance not known."""
    first, second, third, fourth = sums.powers.cpu().numpy() / sums.tokens
    variance = second - first**2
    moment = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
    known = (variance > LEAST_VARIANCE * second) & (second > _ROUNDING * sums.centre.double().cpu().numpy() ** 2)
    return np.where(known, moment / np.where(known, variance, 1) ** 2, np.nan)
