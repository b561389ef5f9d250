"""The score that tells a dormant neuron: its mean activation, without sign, beside that of its layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ninscope.neurons.observatory.firing import over_neurons, processor_values
from ninscope.neurons.observatory.measure import Place

if TYPE_CHECKING:
    from torch import Tensor

TAU = 0.025  # at or below this score a neuron is dormant
WIDE_TAU = 0.1
# Added to the layer's mean by the authors' code, so that a layer of zeros has scores of zero.
EPSILON = 1e-9


class Scores:
    """Sums of |h| of every hidden neuron of a model, over all examples and positions, space among them."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._rows: dict[str, int] = {}

    def see(self, place: Place, values: Tensor) -> None:
        """values: [n, t, neurons]; sums over many are float64."""
        import torch

        from ninscope.neurons.observatory.counting_kernels import add_sizes

        if not values.numel():
            return
        sums = self._sums.get(place.layer)
        if sums is None:
            sums = torch.zeros(values.shape[-1], dtype=torch.float64, device=values.device)
            self._sums[place.layer] = sums
        held = processor_values(values)
        if held is None:
            sums += values.float().abs().sum(1).sum(0, dtype=torch.float64)
        else:
            rows, mine = held.reshape(-1, held.shape[-1]), sums.numpy()
            over_neurons(rows, lambda first, last: add_sizes(rows, first, last, mine))
        self._rows[place.layer] = self._rows.get(place.layer, 0) + values.shape[0] * values.shape[1]

    def scores(self) -> Mapping[str, np.ndarray]:
        """s_i = mean |h_i| / (mean over the layer of mean |h_k| + 1e-9), float64 [neurons], of each layer."""
        found = {}
        for layer, sums in self._sums.items():
            means = sums.cpu().numpy() / self._rows[layer]
            found[layer] = means / (means.mean() + EPSILON)
        return found
