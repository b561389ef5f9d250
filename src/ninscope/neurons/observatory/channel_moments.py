"""Means and variances of channels, a batch at a time, in two dimensions where two layers are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


class ChannelMoments:
    """Mean and variance of every channel of what was added, with the number of rows as denominator.

    Sums are of x - shift, where the shift is the first batch's mean: a channel with a large mean (a massive activation) loses no
    digits. A batch is summed in float32, batches in float64.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._shift: Tensor | None = None
        self._sums = self._squares = np.zeros(0)

    def add(self, rows: Tensor) -> Tensor:
        """Add rows [n, channels]. Returns rows - shift, float32, which the caller may keep."""
        rows = rows.float()
        if self._shift is None:
            self._shift = rows.mean(0)
            self._sums, self._squares = np.zeros((2, rows.shape[1]))
        off = rows - self._shift
        self.rows += len(off)
        self._sums += _wide(off.sum(0))
        self._squares += _wide((off * off).sum(0))
        return off

    @property
    def off(self) -> np.ndarray:
        """Mean of x - shift, float64 [channels]."""
        return self._sums / self.rows

    @property
    def mean(self) -> np.ndarray:
        """float64 [channels]."""
        return self.off if self._shift is None else self.off + _wide(self._shift)

    @property
    def variance(self) -> np.ndarray:
        """float64 [channels], never negative."""
        return np.maximum(self._squares / self.rows - self.off**2, 0.0)


class ChannelProducts:
    """Sums of products of two layers' channels, one by one, as `ChannelMoments.add` returns them."""

    def __init__(self) -> None:
        self._sums = np.zeros(0)

    def add(self, first: Tensor, second: Tensor) -> None:
        """first, second: [n, channels], of the same rows."""
        part = _wide((first * second).sum(0))
        self._sums = self._sums + part if self._sums.size else part

    def correlations(self, first: ChannelMoments, second: ChannelMoments) -> np.ndarray:
        """Pearson's, float64 [channels]; NaN of a channel that is constant in either."""
        covariance = self._sums / first.rows - first.off * second.off
        spread = np.sqrt(first.variance * second.variance)
        return np.divide(covariance, spread, out=np.full(len(spread), np.nan), where=spread > 0).clip(-1.0, 1.0)


def _wide(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
