"""What gradients, activations and weights tell of the features that neurons represent, where the features are known.

Gradients are [neurons, features]: the partial derivative of every neuron's activation by every feature, exact or integrated
(`gradients.py`). A neuron all of whose partial derivatives are 0 is dead. Sources: the thesis "polysemanticity under pruning",
sections 2.2.3 and 3.3; docs/method.md. Every function takes anything that numpy reads as real numbers, or a tensor of torch on
any device, and computes in float64. All raise RequestError: another number of dimensions than two, no features, values that are
no real numbers, NaN or infinity.
"""

import math
from typing import Any

import numpy as np
from scipy.special import entr

from ninscope.checks import is_number
from ninscope.errors import RequestError
from ninscope.neurons.polysemanticity.given_arrays import given_floats

DELTA = 1e-10  # of the thesis, section 2.2.3 "Monosemanticity"
STEPS = 50  # of integrated gradients; the thesis, section 3.3.2


def degree_of_polysemanticity(gradients: Any) -> np.ndarray:
    """P(n) = sum_i |dn/df_i| / max_i |dn/df_i|: how many features a neuron represents, from 1 to the number of features.

    gradients: [neurons, features]. Returns float64 [neurons], 0 where a neuron is dead. Two equal partial derivatives give
    exactly 2. Source: the thesis, Definition 14. Raises RequestError: gradients are no matrix of finite real numbers with a
    feature or more.
    """
    return _of_largest(_matrix(gradients, "gradients")).sum(axis=1)


def normalised_entropy(gradients: Any) -> np.ndarray:
    """The entropy of a neuron's shares |dn/df_i| / sum_j |dn/df_j|, divided by ln(features), which is the largest possible.

    gradients: [neurons, features]. Returns float64 [neurons], from 0 for one feature to 1 where all features have equal shares. A
    dead neuron has 0, as one of a single feature has: the thesis (section 3.3.1) names that as the drawback of this measure.
    Raises RequestError: gradients are no matrix of finite real numbers with a feature or more.
    """
    shares = feature_dimensionality(gradients)
    if shares.shape[1] == 1:
        return np.zeros(len(shares))
    return np.clip(entr(shares).sum(axis=1) / math.log(shares.shape[1]), 0.0, 1.0) + 0.0  # no -0


def monosemanticity(activations: Any, delta: float = DELTA) -> np.ndarray:
    """r_i = max_j h_i(F_j) / (delta + sum_j max(0, h_i(F_j))): 1 for a neuron that one feature activates, less for several.

    activations: [neurons, features], h_i(F_j), the activation of neuron i where feature j is 1 and all others are 0. delta: a
    small number above 0, in units of activations. Returns float64 [neurons], 0 where no feature gives an activation above 0.
    There the formula as printed divides the largest, negative activation by delta: a large negative number that tells of delta
    alone. Source: the thesis, section 2.2.3, after Jermyn, Schiefer and Hubinger (2022). Raises RequestError: delta is no number
    above 0, or as the module says.
    """
    if not is_number(delta) or not 0 < delta < math.inf:
        raise RequestError(f"delta is {delta!r}; a number above 0 was expected")
    active = np.maximum(_matrix(activations, "activations"), 0.0)
    largest = active.max(axis=1)
    scale = np.where(largest > 0, largest, 1.0)  # a sum of large activations stays finite
    with np.errstate(over="ignore"):  # activations far below delta count as none
        return (largest / scale) / (delta / scale + (active / scale[:, None]).sum(axis=1))


def capacity(weights: Any) -> np.ndarray:
    """C_i = (W_i . W_i)^2 / sum_j (W_i . W_j)^2: the part of a dimension that an embedding keeps for feature i alone.

    weights: [neurons, features], the embedding's matrix; column i is feature i's vector. Returns float64 [features], from 0 to 1:
    1 where the column is orthogonal to all others, 0 where it is 0. Their sum is at most the number of neurons. It tells of one
    linear layer, not of a model. Source: the thesis, section 2.2.3, after Scherlis et al. (2022). Raises RequestError: as the
    module says.
    """
    columns = _matrix(weights, "weights")
    largest = np.abs(columns).max(axis=0, initial=0.0)
    present = largest > 0
    unit = columns[:, present] / largest[present]
    lengths = np.sqrt((unit * unit).sum(axis=0))  # in units of the largest, so that no square is lost
    unit /= lengths
    cosines = unit.T @ unit
    # C_i divided by |W_i|^4 above and below: 1 / sum_j (cosine_ij |W_j| / |W_i|)^2
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        longer = (np.divide.outer(largest[present], largest[present]) * np.divide.outer(lengths, lengths)).T
        interference = np.where(cosines == 0, 0.0, (cosines * longer) ** 2)
    np.fill_diagonal(interference, 1.0)
    found = np.zeros(columns.shape[1])
    found[present] = 1 / interference.sum(axis=1)
    return found


def feature_dimensionality(gradients: Any) -> np.ndarray:
    """D_n(i) = |dn/df_i| / sum_j |dn/df_j|: the share of feature i in neuron n.

    gradients: [neurons, features]. Returns float64 [neurons, features], rows that sum to 1; those of dead neurons are 0.
    Source: the thesis, Definition 10. Raises RequestError: weights are no matrix of finite real numbers with a feature or more.
    """
    sizes = _of_largest(_matrix(gradients, "gradients"))
    sums = sizes.sum(axis=1, keepdims=True)
    return sizes / np.where(sums > 0, sums, 1.0)


def total_feature_dimensionality(gradients: Any) -> float:
    """D = mean over features of min(1, sum_n D_n(i)): the part of all features that a model represents, from 0 to 1.

    gradients: [neurons, features], with a row for every neuron of the model, whatever its layer. Source: the thesis, Definition
    11. Raises RequestError: gradients are no matrix of finite real numbers with a feature or more.
    """
    return float(np.minimum(feature_dimensionality(gradients).sum(axis=0), 1.0).mean())


def _of_largest(gradients: np.ndarray) -> np.ndarray:
    """|gradients| in units of each row's largest, so that neither large nor small ones are lost; rows of 0 stay 0."""
    sizes = np.abs(gradients)
    largest = sizes.max(axis=1, keepdims=True)
    return sizes / np.where(largest > 0, largest, 1.0)


def _matrix(values: Any, name: str) -> np.ndarray:
    """float64 [neurons, features] of an array or a tensor."""
    array = given_floats(values, name)
    if array.ndim != 2 or array.shape[1] == 0:
        raise RequestError(
            f"{name} have the shape {list(array.shape)}; [neurons, features] was expected, with a feature or more"
        )
    if not np.isfinite(array).all():
        neuron, feature = np.argwhere(~np.isfinite(array))[0]
        raise RequestError(
            f"{name} of neuron {neuron} for feature {feature} are not finite (NaN or infinity); leave that neuron out"
        )
    return array
