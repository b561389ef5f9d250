"""How large activations are, counted in bins, and models that run without those below a limit.

What is counted are numbers from 0, float32, in bins that grow with them: STEPS bins to an octave, so that an edge is at most
1/STEPS above the one before, and OCTAVES octaves below the largest number. Bin 0 holds what is 0, bin 1 all else that is below the
smallest edge. A bin is read from a float's bits, so that a number is below an edge exactly if its bin is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons.observatory.measure import HIDDEN

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject

STEPS = 16
OCTAVES = 24
BINS = STEPS * OCTAVES + 1
_SHIFT = 23 - 4  # float32 has 23 bits behind the point; STEPS = 2^4


def _lowest(largest: float) -> int:
    """The leading bits of the numbers in bin 1 that lie highest."""
    bits = int(np.float32(largest).view(np.int32)) >> _SHIFT
    return max(bits - (BINS - 2), 0)


def bins_of(values: Tensor, largest: float) -> Tensor:
    """The bin of each number. values: float32 from 0, none above `largest`. int32 of the same shape, below BINS."""
    import torch

    codes = (values.contiguous().view(torch.int32) >> _SHIFT) - (_lowest(largest) - 1)
    return codes.clamp_(1, BINS - 1).masked_fill_(values == 0, 0)


def edges_of(largest: float) -> np.ndarray:
    """Where bins end: float32 [BINS]. A number is below edge j exactly if its bin is j or less; the last is above `largest`."""
    codes = np.arange(_lowest(largest), _lowest(largest) + BINS, dtype=np.int64) << _SHIFT
    edges = codes.astype(np.int32).view(np.float32).copy()
    edges[0] = np.finfo(np.float32).smallest_subnormal
    return edges


def between(low: np.ndarray, high: np.ndarray, part: np.ndarray) -> np.ndarray:
    """What lies a part of the way from one edge to the next, in logarithms; from the edge of what is 0, in a straight line."""
    low, high, part = np.broadcast_arrays(np.float64(low), np.float64(high), np.float64(part))
    first = np.float64(np.finfo(np.float32).smallest_subnormal)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(low <= first, high * part, low * (high / low) ** part)


def objection_to_changes(subject: Subject) -> str | None:
    """Why hidden neurons cannot be turned off and the loss be measured, one clause; None where they can."""
    if subject.predicts is None:
        return f"{subject.name} predicts neither next tokens nor labels, so that there is no loss; give a model with its head"
    if any(place.routed for place in subject.places_of(HIDDEN)):
        return f"{subject.name} has experts, and activations of experts cannot be changed while it runs"
    try:
        with subject.changed({layer: lambda values: values for layer in subject.hidden_layers}):
            return None
    except RequestError as error:
        return str(error)


def weighed(values: Tensor, weights: Tensor | None) -> Tensor:
    """|values| * weights in float32 [rows, neurons]. weights: float32 [neurons], or None for 1.

    Raises CheckpointError (unsupported): there is not one weight to each neuron, as in a convolution.
    """
    rows = values.reshape(-1, values.shape[-1]).float().abs()
    if weights is None:
        return rows
    if len(weights) != rows.shape[1]:
        raise CheckpointError(
            "unsupported",
            f"{rows.shape[1]} neurons are read by a matrix of {len(weights)} columns; only linear layers are measured",
        )
    return rows.mul_(weights)


def loss_and_largest(subject: Subject, weights: Mapping[str, Tensor] | None = None) -> tuple[float, dict[str, float]]:
    """One forward pass: the mean loss in nats, and for each hidden layer that is computed the largest `weighed` activation.

    Raises CheckpointError: activations that are NaN or infinite (nonfinite), of a layer that it names; none at all (unsupported).
    """
    largest: dict[str, float] = {}

    def look(layer: str) -> Callable[[Tensor], Tensor]:
        def see(values: Tensor) -> Tensor:
            top = weighed(values, None if weights is None else weights[layer]).max().item()
            if not np.isfinite(top):
                raise CheckpointError("nonfinite", f"{subject.name}, {layer}: hidden values are NaN or infinite")
            largest[layer] = max(largest.get(layer, 0.0), top)
            return values

        return see

    loss = subject.mean_loss({layer: look(layer) for layer in subject.hidden_layers})
    if not largest:
        raise CheckpointError("unsupported", f"{subject.name} computes none of its hidden layers on these examples")
    return loss, largest


class Silencing:
    """Activations whose size is below a limit are 0 while a model runs; counted for each neuron.

    limits: for each layer one number, or float32 [neurons]. weights: as `weighed`. inclusive: what is just at the limit is 0 too.
    """

    def __init__(
        self,
        limits: Mapping[str, Tensor | float],
        weights: Mapping[str, Tensor] | None = None,
        inclusive: bool = False,
    ) -> None:
        self.limits, self.weights, self.inclusive = limits, weights, inclusive
        self._silent: dict[str, Tensor] = {}
        self._rows = dict.fromkeys(limits, 0)

    def mean_loss(self, subject: Subject) -> float:
        """Nats, in one forward pass. Raises CheckpointError (nonfinite)."""
        return subject.mean_loss({layer: self._change(layer) for layer in self.limits})

    def shares(self) -> dict[str, np.ndarray]:
        """For each layer and neuron the share of positions at which it was silent, float64 [neurons]."""
        return {layer: counts.cpu().double().numpy() / self._rows[layer] for layer, counts in self._silent.items()}

    def _change(self, layer: str) -> Callable[[Tensor], Tensor]:
        limit, weights = self.limits[layer], None if self.weights is None else self.weights[layer]

        def silence(values: Tensor) -> Tensor:
            sizes = weighed(values, weights)
            silent = sizes <= limit if self.inclusive else sizes < limit
            counts = silent.sum(0)
            self._silent[layer] = self._silent[layer] + counts if layer in self._silent else counts
            self._rows[layer] += len(silent)
            return values.masked_fill(silent.view(values.shape), 0)

        return silence


def loss_without(subject: Subject, layers: Iterable[str]) -> float:
    """Nats, in one forward pass in which all neurons of these layers are 0."""
    return subject.mean_loss({layer: lambda values: values.new_zeros(values.shape) for layer in layers})
