"""Polysemanticity of a trained model's neurons, against features that are given as directions.

In the laboratory features are inputs. In a trained model they are directions in the space of some layer's activations, and one
unit of feature i adds strengths[i] * directions[i] there. Then a neuron's gradient by feature i is

- strengths[i] * directions[i, neuron], exactly, if the space is that of the neurons themselves (`polysemanticity_of_neurons`);
- an integrated gradient on the way from a baseline to the baseline plus one unit, if the neurons come later
  (`polysemanticity_of_module`; `gradients.py`).

P depends on the units: make one feature ten times as strong, and it weighs ten times as much in every neuron. P does not depend on
a factor common to all features, nor on the scale of a neuron. Strengths 1 take directions at the length they have: unit vectors of
most autoencoders, differences of means as large as they are. `typical_strengths` gives every feature the size that it has when it
is there. P is at most the number of features, so compare dictionaries of one size, and beside `control_directions`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ninscope.errors import RequestError
from ninscope.neurons.polysemanticity.given_arrays import given_array, given_floats
from ninscope.neurons.polysemanticity.measures import (
    STEPS,
    degree_of_polysemanticity,
    feature_dimensionality,
    normalised_entropy,
    total_feature_dimensionality,
)

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class NeuronPolysemanticity:
    """What neurons represent of some features.

    neurons: a row for each neuron: layer, neuron (its number in the layer), P (degree of polysemanticity, 0 for a dead neuron),
    entropy (normalised, 0 to 1), strongest (the name or number of the feature with the largest gradient, missing for a dead
    neuron), share (of the strongest: |gradient| over the sum of all, which is 1 / P). feature_dimensionality: D, the part of all
    features that these neurons represent, 0 to 1. gradients: float64 [neurons, features].
    """

    neurons: pd.DataFrame
    feature_dimensionality: float
    gradients: np.ndarray

    def __repr__(self) -> str:
        neurons, features = self.gradients.shape
        return (
            f"<NeuronPolysemanticity: {neurons:,} neurons, {features:,} features, mean P {self.neurons['P'].mean():.4g}, "
            f"D {self.feature_dimensionality:.4g}; .neurons is a table>"
        )


def polysemanticity_of_neurons(
    directions: ArrayLike,
    strengths: ArrayLike | None = None,
    *,
    names: Sequence[str] | None = None,
    layer: str = "neurons",
) -> NeuronPolysemanticity:
    """Of neurons in whose own space the features live, as those of an autoencoder of their activations: exact.

    directions: [features, neurons]. strengths: [features] (default: 1 each). names: of the features (default: their numbers).
    layer: what the table calls the layer. Raises RequestError: shapes that do not fit, numbers that are not finite, strengths
    below 0.
    """
    scaled = _scaled(directions, strengths)
    return _measured(scaled.T.copy(), {layer: scaled.shape[1]}, names)


def polysemanticity_of_module(
    module: "torch.nn.Module",
    directions: ArrayLike,
    strengths: ArrayLike | None = None,
    *,
    layers: str | Sequence[str] | None = None,
    baseline: ArrayLike | None = None,
    steps: int = STEPS,
    names: Sequence[str] | None = None,
    shape: Callable[["torch.Tensor"], Any] | None = None,
) -> NeuronPolysemanticity:
    """Of neurons that a part of a model computes from activations in which the features live: integrated gradients.

    module: takes activations [batch, width], as the MLP of a block does; neurons are found in it as by `neurons_of`, by the names
    `layers` (default: every Linear and convolution layer but the last, after the activation module that follows). directions:
    [features, width]. strengths: [features] (default: 1 each). baseline: activations that features are added to, [width], for
    example their mean (default: zeros). steps: of the Riemann sum. names: of the features. shape: makes the module's arguments of
    activations [batch, width], where it takes something else (attention takes [batch, tokens, width]).

    Raises RequestError: another width than the module takes, no Linear or convolution layer, shapes that do not fit, numbers that
    are not finite, strengths below 0, a shape that is no function, and as `neurons_of` and `feature_gradients`.
    """
    import torch

    from ninscope.neurons.polysemanticity.gradients import feature_gradients
    from ninscope.neurons.polysemanticity.model_neurons import check_module, first_weights, neurons_of

    if shape is not None and not callable(shape):
        raise RequestError(
            f"shape is {shape!r}; a function was expected that makes the module's arguments of activations [batch, width]: "
            "lambda activations: activations.unflatten(1, (1, 8, 8))"
        )
    check_module(module)
    scaled = _scaled(directions, strengths)
    start = np.zeros(scaled.shape[1]) if baseline is None else given_floats(baseline, "baseline activations")
    if start.shape != scaled.shape[1:] or not np.isfinite(start).all():
        raise RequestError(
            f"baseline has shape {list(start.shape)}; {scaled.shape[1]} finite numbers were expected, the width of the directions"
        )
    units, origin = (torch.as_tensor(values).to(first_weights([module])) for values in (scaled, start))

    def encode(features: torch.Tensor) -> Any:
        activations = origin + features @ units
        return activations if shape is None else shape(activations)

    neurons = neurons_of(module, layers, encode)
    gradients = feature_gradients(neurons, len(scaled), steps=steps)
    return _measured(gradients, neurons.sizes, names)


def _measured(gradients: np.ndarray, sizes: Mapping[str, int], names: Sequence[str] | None) -> NeuronPolysemanticity:
    """gradients: float64 [neurons, features]; sizes: neurons of each layer, in order."""
    features = gradients.shape[1]
    if names is not None and len(names) != features:
        raise RequestError(f"names are {len(names)}, and there are {features} features; give a name to each")
    degrees = degree_of_polysemanticity(gradients)
    largest = np.abs(gradients).argmax(1)
    strongest: pd.Series = pd.Series(largest, dtype="Int64")
    if names is not None:
        strongest = pd.Series([str(names[feature]) for feature in largest], dtype="string")
    table = pd.DataFrame(
        {
            "layer": [name for name, size in sizes.items() for _ in range(size)],
            "neuron": np.concatenate([np.arange(size) for size in sizes.values()]),
            "P": degrees,
            "entropy": normalised_entropy(gradients),
            "strongest": strongest.mask(degrees == 0),
            "share": feature_dimensionality(gradients).max(1),
        }
    )
    return NeuronPolysemanticity(table, total_feature_dimensionality(gradients), gradients)


def _scaled(directions: ArrayLike, strengths: ArrayLike | None) -> np.ndarray:
    """strengths * directions, float64 [features, width]."""
    rows = given_array(directions, "directions")
    if rows.dtype.kind not in "iuf" or rows.ndim != 2 or 0 in rows.shape:
        raise RequestError(f"directions have shape {list(rows.shape)}; numbers [features, width] were expected")
    rows = rows.astype(np.float64)
    if not np.isfinite(rows).all():
        raise RequestError(f"direction {np.argwhere(~np.isfinite(rows))[0][0]} holds NaN or infinity; leave it out")
    if strengths is None:
        return rows
    factors = given_floats(strengths, "strengths")
    if factors.shape != rows.shape[:1]:
        raise RequestError(f"strengths have shape {list(factors.shape)}; {len(rows)} were expected, one a direction")
    if not (np.isfinite(factors) & (factors >= 0)).all():
        raise RequestError("strengths must be finite and not negative; a sign belongs to the direction")
    return rows * factors[:, None]
