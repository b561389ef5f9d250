"""Measure 15: how large the signal is at every depth, and what each branch adds to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ninscope.neurons.observatory.channel_moments import ChannelMoments
from ninscope.neurons.observatory.measure import (
    RESIDUAL,
    WRITTEN,
    Batch,
    Fact,
    Found,
    Place,
    StreamedMeasure,
    Tally,
)
from ninscope.neurons.observatory.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject


@register
class SignalPropagation(StreamedMeasure):
    """Follows the size of the signal through the depth of a network: a variance that grows without end, or a mean that takes over,
    is trouble that a loss shows late.

    Over all tokens of all samples, of the residual stream at each depth: the mean over channels of the variance, and the mean
    over channels of the squared mean. Of what each attention and MLP writes, before it is added: the mean over channels of the
    variance ("residual branch").

    Follows: Brock et al., "Characterizing Signal Propagation to Close the Performance Gap in Unnormalized ResNets", 2021, with the
    three curves of their signal propagation plots at second hand, from the public code of timm (avg_sq_ch_mean, avg_ch_var,
    avg_ch_var_residual; read). Variances are over the number of tokens; timm's are over one less. Tokens take the place of
    samples and pixels.

    Pitfalls: their plots are of noise through a network at its start; here it is of text or images, at every checkpoint. A massive
    activation at one dimension decides both means: see `massive_activations`.
    """

    name = "signal_propagation"
    title = "Signal propagation"
    source = "Brock et al. 2021, signal propagation plots; the code of timm"
    facts: ClassVar = {
        "signal_propagation": "variance of the residual stream over tokens, mean over channels; count: channels",
        "signal_propagation_squared_mean": "squared mean of the residual stream, mean over channels; count: channels",
        "signal_propagation_branch": "variance of what attention or MLP writes, mean over channels; count: channels",
    }
    reads = frozenset({RESIDUAL, WRITTEN})

    def tally(self, subject: Subject) -> Tally:
        return _Signals()


class _Signals(Tally):
    def __init__(self) -> None:
        self._moments: dict[tuple[str, str], ChannelMoments] = {}

    def see(self, place: Place, values: Tensor, batch: Batch) -> None:
        from ninscope.neurons.observatory.state_statistics import moments_of

        moments = batch.shared.of(values, moments_of)
        self._moments.setdefault((place.kind, place.layer), ChannelMoments()).add(moments)

    def found(self) -> Found:
        facts = []
        for (kind, layer), moments in self._moments.items():
            if kind == WRITTEN:
                facts.append(_mean("signal_propagation_branch", layer, moments.variance))
            else:
                facts.append(_mean("signal_propagation", layer, moments.variance))
                facts.append(_mean("signal_propagation_squared_mean", layer, moments.mean**2))
        return Found(tuple(facts))


def _mean(name: str, layer: str, channels: np.ndarray) -> Fact:
    return Fact(name, layer, float(channels.mean()), None, len(channels))
