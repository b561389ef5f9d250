"""Means and variances of channels over all batches, and correlations of the channels of two layers.

Batches are joined by the means and the squared deviations of each (Chan, Golub and LeVeque 1979), in float64: a channel with a
large mean, a massive activation, loses no digits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ninscope.neurons.observatory.state_statistics import Moments


class ChannelMoments:
    """Mean and variance of every channel of what was added, with the number of rows as denominator."""

    def __init__(self) -> None:
        self.rows = 0
        self.mean = self.squares = np.zeros(0)

    def add(self, batch: Moments) -> None:
        """Add the rows of a batch."""
        before, self.rows = self.rows, self.rows + batch.rows
        if not before:
            self.mean, self.squares = batch.means.copy(), batch.squares.copy()
            return
        off = batch.means - self.mean
        self.squares += batch.squares + off * off * (before * batch.rows / self.rows)
        self.mean += off * (batch.rows / self.rows)

    @property
    def variance(self) -> np.ndarray:
        """float64 [channels], never negative."""
        return self.squares / self.rows


class ChannelCorrelations:
    """Correlation of each channel of one layer with the same one of another, over all rows that were added."""

    def __init__(self) -> None:
        self._first, self._second = ChannelMoments(), ChannelMoments()
        self._products = np.zeros(0)

    def add(self, first: Moments, second: Moments, products: np.ndarray) -> None:
        """first, second: of the same rows of the two layers. products: float64 [channels], sums of (x - mean) (y - mean)."""
        before = self._first.rows
        if before:
            off = (first.means - self._first.mean) * (second.means - self._second.mean)
            self._products += products + off * (before * first.rows / (before + first.rows))
        else:
            self._products = products.copy()
        self._first.add(first)
        self._second.add(second)

    def found(self) -> np.ndarray:
        """Pearson's, float64 [channels]; NaN of a channel that is constant in either."""
        spread = np.sqrt(self._first.squares * self._second.squares)
        out = np.full(len(spread), np.nan)
        return np.divide(self._products, spread, out=out, where=spread > 0).clip(-1.0, 1.0)
