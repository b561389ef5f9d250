"""Positional neurons: those that are on or off by where in the window a token stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ninscope.errors import CheckpointError
from ninscope.neurons.observatory.by_layer import distributions, neuron_values, shares, something_seen
from ninscope.neurons.observatory.firing import Firing, is_on, over_neurons, processor_values, told_facts
from ninscope.neurons.observatory.measure import HIDDEN, TOKENS, Batch, Found, Place, StreamedMeasure, Tally
from ninscope.neurons.observatory.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject

NATS = 0.05  # above so much mutual information with the position a neuron is positional (the paper's section 5.1)
# The shape of a neuron's frequency over positions is judged on means of equal stretches of the window, at most so many.
STRETCHES = 32
OFF, ON = 0.05, 0.95  # a stretch is off, or on, where the neuron's frequency is at most, or at least, this
EARLY_PART, EARLY_SHARE = 0.1, 0.5  # early: the first tenth of positions has at least half of what the neuron fires
_BLOCK = 1 << 20  # probabilities that are computed at once


@register
class Positional(StreamedMeasure):
    """The share of hidden neurons whose being on tells, by more than .05 nats, the position of the token in its window.

    I = (1/T) sum over positions of [f ln(f/F) + (1 - f) ln((1 - f)/(1 - F))], where f is the share of windows in which
    the neuron is on at that position (`firing.py` says what on is), F the mean of f, and T the number of positions.
    Windows are full, so that positions are equally frequent. ln 2 is the most.

    Few windows bias I upwards: a neuron that knows nothing of positions has about 1/(2 windows) nats by chance, so
    that with 10 windows or fewer half of all neurons, or more, seem positional. What chance gives to each neuron is
    computed exactly (the mean of I over all ways to distribute what it fires over positions and windows), is a fact,
    and `positional_corrected` takes it off before it counts. That is the mean of what chance gives, not its spread:
    with 4 windows of 50 tokens one neuron in 20 is still above by chance, with 8 hardly one.

    The kinds of shape are the paper's, their bounds ours: f is averaged over 32 stretches of the window; a stretch is
    on where this is at least .95, off where at most .05. Oscillatory: of stretches that are on or off, neighbours
    differ at least twice. Two extremes: they differ once. One extreme: all are on, or all off. Other: there is none.
    Early: half of what the neuron fires is in the first tenth of the window.

    Source: Voita et al., "Neurons in Large Language Models: Dead, N-gram, Positional" (2023), section 5, appendix B.
    Paper read.
    """

    name: ClassVar[str] = "positional"
    title: ClassVar[str] = "Positional neurons"
    source: ClassVar[str] = "Voita et al. 2023, Neurons in Large Language Models, section 5"
    facts: ClassVar = {
        "positional": "share of neurons with more than 0.05 nats of information on the position, 0 to 1",
        "positional_corrected": "the same after what chance gives with so many windows is taken off, 0 to 1",
        "positional_information": "mutual information of on and position, nats, 0 to ln 2",
        "positional_information_by_chance": "its mean where positions are permuted, nats: the bias of few windows",
        "positional_oscillatory": "share of neurons: positional, and on and off in turn, with at least two changes",
        "positional_two_extremes": "share of neurons: positional, with stretches always on and stretches never on, and one change",
        "positional_one_extreme": "share of neurons: positional, with stretches always on, or stretches never on, not both",
        "positional_other": "share of neurons: positional, with neither",
        "positional_early": "share of neurons: positional, and half of what they fire is in the first tenth of positions",
        **told_facts("positional"),
    }
    needs: ClassVar[frozenset[str]] = frozenset({TOKENS})
    reads: ClassVar[frozenset[str]] = frozenset({HIDDEN})

    def objection(self, subject: Subject) -> str | None:
        """Windows of one token, and layers of which only experts are left, have no positions."""
        if subject.examples.positions < 2:
            return "windows have one token, so there are no positions"
        return no_tokens_in_order(subject)

    def tally(self, subject: Subject) -> Tally:
        """How often each neuron is on at each position: positions x neurons float32 numbers of each layer."""
        return _Tally(subject)


def no_tokens_in_order(subject: Subject) -> str | None:
    """Experts are shown their tokens in no order; an objection where a model has no other hidden neurons."""
    if all(place.routed for place in subject.places_of(HIDDEN)):
        return "its hidden neurons are experts', whose tokens come in no order"
    return None


class _Tally(Tally):
    def __init__(self, subject: Subject) -> None:
        self._firing = Firing(subject)
        self._on: dict[str, Tensor] = {}
        self._windows: dict[str, int] = {}

    def see(self, place: Place, values: Tensor, batch: Batch) -> None:
        import torch

        from ninscope.neurons.observatory.counting_kernels import add_on_by_position

        if place.routed or not values.numel():
            return
        rule, held = self._firing.rule(place, values), processor_values(values)
        if place.layer not in self._on:
            self._on[place.layer] = torch.zeros(values.shape[1:], device=values.device)
        on = self._on[place.layer]
        if on.shape != values.shape[1:]:
            text = f"positional: windows of {len(on)} and of {values.shape[1]} tokens at layer {place.layer}; all must be full"
            raise CheckpointError("unsupported", text)
        if held is None:
            on += is_on(rule, values).sum(0)
        else:
            sums = on.numpy()
            over_neurons(held, lambda first, last: add_on_by_position(held, *rule.bounds, first, last, sums))
        self._windows[place.layer] = self._windows.get(place.layer, 0) + len(values)

    def found(self) -> Found:
        something_seen("positional", self._on)
        information, chance, flags = {}, {}, {}
        for layer, tensor in self._on.items():
            on, windows = tensor.double().cpu().numpy(), self._windows[layer]
            information[layer] = information_of(on / windows)
            chance[layer] = information_by_chance(on.sum(0).astype(np.int64), len(on), windows)
            flags[layer] = {
                "positional": information[layer] > NATS,
                "positional_corrected": information[layer] - chance[layer] > NATS,
                **shapes_of(on / windows, information[layer] > NATS),
            }
        names = list(next(iter(flags.values())))
        facts = (
            *(fact for name in names for fact in shares(name, {layer: found[name] for layer, found in flags.items()})),
            *distributions("positional_information", information),
            *distributions("positional_information_by_chance", chance),
            *self._firing.facts("positional"),
        )
        return Found(facts, neuron_values("positional_information", information))


def _negative_entropy(frequency: np.ndarray) -> np.ndarray:
    """f ln f + (1 - f) ln(1 - f), 0 at f = 0 and 1."""
    off = 1 - frequency
    return frequency * np.log(np.where(frequency > 0, frequency, 1)) + off * np.log(np.where(off > 0, off, 1))


def information_of(frequency: np.ndarray) -> np.ndarray:
    """I of each neuron, nats. frequency: f, float64 [positions, neurons]; gives float64 [neurons], not negative.

    The sum of the class's formula is the mean of f ln f + (1 - f) ln(1 - f), less the same of the mean of f.
    """
    found = _negative_entropy(frequency).mean(0) - _negative_entropy(frequency.mean(0))
    return np.maximum(found, 0)


def information_by_chance(fired: np.ndarray, positions: int, windows: int) -> np.ndarray:
    """The mean of I where what a neuron fires is distributed over positions and windows at random; float64 [neurons].

    fired: int64 [neurons], how often a neuron was on. At one position it then is on in a hypergeometric number of
    windows.
    """
    total = positions * windows
    gammaln = _log_factorials(total)
    sums, back = np.unique(fired, return_inverse=True)
    there = np.arange(windows + 1)  # times a neuron is on at one position
    information = _negative_entropy(there / windows)
    ways = -gammaln(there + 1) - gammaln(windows - there + 1) + gammaln(windows + 1)
    found = np.empty(len(sums))
    rows = max(1, _BLOCK // len(there))
    for first in range(0, len(sums), rows):
        block = sums[first : first + rows, None]
        elsewhere = block - there  # of the total - windows other places
        free = total - windows - elsewhere
        possible = (elsewhere >= 0) & (free >= 0)
        logs = ways + gammaln(total - windows + 1)
        logs = logs - gammaln(np.where(possible, elsewhere, 0) + 1) - gammaln(np.where(possible, free, 0) + 1)
        logs = logs + gammaln(block + 1) + gammaln(total - block + 1) - gammaln(total + 1)
        chances = np.exp(np.where(possible, logs, -np.inf))
        found[first : first + rows] = chances @ information / chances.sum(1)
    return np.maximum(found - _negative_entropy(sums / total), 0)[back]


def _log_factorials(most: int) -> Callable[[np.ndarray | int], np.ndarray]:
    """ln Gamma of whole numbers from 1 to most + 1; looked up in a table where that is no larger than `_BLOCK`."""
    from scipy.special import gammaln

    if most > _BLOCK:
        return lambda number: np.asarray(gammaln(number))
    table = gammaln(np.arange(most + 2.0))
    return lambda number: table[number]


def shapes_of(frequency: np.ndarray, positional: np.ndarray) -> dict[str, np.ndarray]:
    """The kinds of shape that neurons have. frequency: float64 [positions, neurons]; positional: bool [neurons]; gives
    bool.
    """
    positions = len(frequency)
    edges = np.arange(min(positions, STRETCHES)) * positions // min(positions, STRETCHES)
    means = np.add.reduceat(frequency, edges, axis=0) / np.diff([*edges, positions])[:, None]
    is_on, is_off = means >= ON, means <= OFF
    changes = _changes(is_on, is_off)
    one, both = is_on.any(0) ^ is_off.any(0), is_on.any(0) & is_off.any(0)
    early = frequency[: max(1, int(positions * EARLY_PART))].sum(0) >= EARLY_SHARE * frequency.sum(0)
    kinds = {
        "positional_oscillatory": changes >= 2,
        "positional_two_extremes": both & (changes < 2),
        "positional_one_extreme": one,
        "positional_other": ~one & ~both,
        "positional_early": early,
    }
    return {name: flags & positional for name, flags in kinds.items()}


def _changes(is_on: np.ndarray, is_off: np.ndarray) -> np.ndarray:
    """How often neighbours among the stretches that are on or off differ: int64 [neurons]."""
    last = np.zeros(is_on.shape[1], np.int64)
    changes = np.zeros(is_on.shape[1], np.int64)
    for state in is_on.astype(np.int64) - is_off:
        changes += (state != 0) & (last != 0) & (state != last)
        last = np.where(state != 0, state, last)
    return changes
