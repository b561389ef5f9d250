"""Facts of numbers that each neuron has: a row of every layer, and one of all their neurons together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ninscope.errors import CheckpointError
from ninscope.neurons.observatory.measure import ALL, Fact, NeuronValues, distribution


def shares(name: str, flags: Mapping[str, np.ndarray]) -> tuple[Fact, ...]:
    """The share of neurons that have a property. flags: bool [neurons] of each layer; the count is that of the neurons.

    NaN where there is no neuron to speak of.
    """
    return tuple(
        Fact(name, layer, float(given.mean()) if len(given) else float("nan"), count=len(given))
        for layer, given in _with_all(flags).items()
    )


def distributions(name: str, values: Mapping[str, np.ndarray]) -> tuple[Fact, ...]:
    """Mean and quantiles over neurons. values: float [neurons] of each layer; NaN is left out."""
    return tuple(distribution(name, layer, given, keep=False)[0] for layer, given in _with_all(values).items())


def neuron_values(name: str, values: Mapping[str, np.ndarray]) -> tuple[NeuronValues, ...]:
    """The numbers themselves, of each layer, as float64."""
    return tuple(NeuronValues(name, layer, np.asarray(given, np.float64)) for layer, given in values.items())


def something_seen(measure: str, layers: Mapping[str, object]) -> None:
    """Raises CheckpointError: the model gave no activation of any hidden layer."""
    if not layers:
        raise CheckpointError(
            "unsupported", f"{measure}: no activation of a hidden neuron was seen; no example reached one"
        )


def _with_all(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**arrays, ALL: np.concatenate([np.reshape(array, -1) for array in arrays.values()])}
