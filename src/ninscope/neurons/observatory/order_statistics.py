"""Exact quantiles of the sizes of activations, of each neuron and of whole layers, without keeping any.

A float's bits, read as a whole number, are in the order of the numbers, if none is negative. So the number of a given rank is
found digit by digit: one forward pass counts the numbers by their first bits, and the next ones count, of the numbers that begin
as the wanted one does, how they go on. Four passes find all 31 bits of a float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ninscope.neurons.observatory.measure import HIDDEN, Batch, Place

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject

_DIGITS = (8, 8, 8, 7)  # bits of each pass: of float32 without its sign


@dataclass(frozen=True)
class Quantiles:
    """Of one layer, the smallest number that a share of all |h| does not exceed. neurons: float32 [neurons, levels], over
    positions; layer: float32 [levels], over positions and neurons."""

    neurons: np.ndarray
    layer: np.ndarray


def size_quantiles(subject: Subject, levels: Sequence[float]) -> Mapping[str, Quantiles]:
    """Quantiles of |h| of every hidden layer. levels: 0 to 1. Four forward passes.

    Memory: 6 KB a neuron with six levels. Activations count as float32; they have to be finite.
    """
    searches: dict[str, _Search] = {}
    for digit in _DIGITS:

        def see(place: Place, values: Tensor, batch: Batch) -> None:
            if place.layer not in searches:
                searches[place.layer] = _Search(values.shape[-1], len(levels))
            searches[place.layer].count(values, digit)  # noqa: B023  the passes of this digit end before the next begins

        subject.run((HIDDEN,), see)
        for search in searches.values():
            search.go_on(levels, digit)
    return {layer: search.found() for layer, search in searches.items()}


class _Search:
    """Of one layer. The last group is that of all neurons together.

    prefixes: int64 [groups, levels], the bits that are known. ranks: int64 of the same shape, which of the numbers that begin so
    is wanted, from 1; empty before the first pass.
    """

    def __init__(self, neurons: int, levels: int) -> None:
        self._neurons, self._levels, self._rest = neurons, levels, sum(_DIGITS)
        self._prefixes = np.zeros((neurons + 1, levels), np.int64)
        self._ranks = np.zeros((0, levels), np.int64)
        self._counts: Tensor | None = None

    def count(self, values: Tensor, digit: int) -> None:
        """How the numbers of a batch go on. values: floats [n, t, neurons]."""
        import torch

        codes = values.reshape(-1, self._neurons).float().abs().contiguous().view(torch.int32)
        size, shift = 1 << digit, self._rest - digit
        if self._counts is None:
            groups = (self._neurons + 1) * (self._levels if len(self._ranks) else 1)
            self._counts = torch.zeros(groups * size, dtype=torch.float64, device=codes.device)
        if not len(self._ranks):
            own = torch.arange(self._neurons, device=codes.device) * size
            counts = torch.bincount(((codes >> shift) + own).view(-1), minlength=self._neurons * size)
            self._counts[: len(counts)] += counts
            self._counts[len(counts) :] += counts.view(self._neurons, size).sum(0)
            return
        leading, prefixes = codes >> self._rest, torch.from_numpy(self._prefixes).to(codes.device, torch.int32)
        for level in range(self._levels):
            for group, same in (
                (None, leading == prefixes[:-1, level]),
                (self._neurons, leading == prefixes[-1, level]),
            ):
                row, neuron = same.nonzero(as_tuple=True)
                digits = (codes[row, neuron] >> shift) & (size - 1)
                place = (neuron if group is None else torch.full_like(neuron, group)) * self._levels + level
                one = torch.ones(1, dtype=torch.float64, device=codes.device).expand(len(digits))
                self._counts.index_add_(0, place * size + digits, one)

    def go_on(self, levels: Sequence[float], digit: int) -> None:
        """Choose the next bits, once all batches were counted."""
        size = 1 << digit
        counts = np.zeros(0, np.int64) if self._counts is None else self._counts.cpu().numpy().astype(np.int64)
        if not len(self._ranks):
            counts = np.repeat(counts.reshape(-1, 1, size), self._levels, axis=1)
            totals = counts.sum(axis=2)
            # The share times the number, which rounding must not lift above a whole number.
            self._ranks = np.maximum(np.ceil(totals * np.asarray(levels) - 1e-9).astype(np.int64), 1)
        counts = counts.reshape(self._neurons + 1, self._levels, size)
        up_to = counts.cumsum(axis=2)
        digits = (up_to < self._ranks[:, :, None]).sum(axis=2)
        at = np.take_along_axis(up_to - counts, digits[:, :, None], axis=2)[:, :, 0]
        self._ranks, self._prefixes = self._ranks - at, self._prefixes << digit | digits
        self._rest -= digit
        self._counts = None

    def found(self) -> Quantiles:
        numbers = self._prefixes.astype(np.int32).view(np.float32)
        return Quantiles(numbers[:-1].copy(), numbers[-1].copy())
