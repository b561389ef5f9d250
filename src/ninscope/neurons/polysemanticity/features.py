"""Features of a trained model as directions in the space of its activations, and dictionaries of directions to compare them with.

A direction is what one unit of a feature adds to the activations of a layer. It comes from a sparse autoencoder's decoder
(`sparse_autoencoders.py`), or from labelled examples, here. Needs no torch.

Directions of means correlate with what is labelled. They do not show that the model uses the feature, and classes that go with
each other in the data have similar directions, whatever the model does with them.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ninscope.errors import RequestError
from ninscope.neurons.polysemanticity.given_arrays import given_array

CONTROLS = ("rotated", "shuffled", "random")


def mean_difference_directions(activations: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """The mean activation of every class less the mean of all other samples, float64 [classes, width].

    activations: [samples, width]. labels: the class of each sample, [samples], whole numbers or strings; rows are in the order of
    numpy.unique(labels). Or bool [samples, concepts], whether each sample has each concept, of which it may have several; a row a
    concept. A direction has its natural length: one unit of the feature is what a sample of the class has more than others have.

    Raises RequestError: shapes that do not fit, activations that are not finite, labels of another type, a single class, a concept
    that all samples have, or none.
    """
    x = _matrix(activations, "activations")
    has = _memberships(_labels(labels), len(x))
    counts = has.sum(0)
    sums = has.T.astype(np.float64) @ x
    within = sums / counts[:, None]
    rest = (x.sum(0) - sums) / (len(x) - counts)[:, None]
    directions: np.ndarray = within - rest
    return directions


def typical_strengths(features: ArrayLike) -> np.ndarray:
    """The mean of each feature over the samples where it is not 0, float64 [features]; 0 for one that is 0 everywhere.

    features: [samples, features], as `SparseAutoencoder.encode` gives them. Raises RequestError: another shape, not finite.
    """
    values = _matrix(features, "features")
    return values.sum(0) / np.maximum(np.count_nonzero(values, axis=0), 1)


def control_directions(directions: ArrayLike, control: str = "rotated", seed: int = 0) -> np.ndarray:
    """Directions that share something with those given, float64 [features, width]: what a measure finds in both, it says of that.

    control: "rotated", all of them turned by one random rotation, which keeps lengths and angles and loses what is special about
    single neurons; "shuffled", the entries of each in a random order of its own, which keeps how few neurons a direction is made
    of; "random", Gaussian directions of the same lengths. Raises RequestError: another control or shape, not finite.
    """
    given = _matrix(directions, "directions")
    if control not in CONTROLS:
        raise RequestError(f"control is {control!r}; one of {', '.join(CONTROLS)}")
    if type(seed) is not int or seed < 0:
        raise RequestError(f"seed is {seed!r}; an integer that is not negative was expected")
    generator = np.random.default_rng(np.random.SeedSequence((CONTROLS.index(control), seed)))
    if control == "rotated":
        q, r = np.linalg.qr(generator.standard_normal((given.shape[1], given.shape[1])))
        return given @ (q * np.sign(np.diag(r)))  # with these signs all rotations are equally likely (Mezzadri 2007)
    if control == "shuffled":
        return generator.permuted(given, axis=1)
    drawn = generator.standard_normal(given.shape)
    lengths = np.linalg.norm(given, axis=1, keepdims=True)
    return drawn * lengths / np.linalg.norm(drawn, axis=1, keepdims=True)


def _matrix(values: Any, name: str) -> np.ndarray:
    """float64 [rows, columns] of an array or a tensor."""
    array = given_array(values, name)
    if array.dtype.kind not in "biuf" or array.ndim != 2 or 0 in array.shape:
        raise RequestError(
            f"{name} have shape {list(array.shape)} and type {array.dtype}; numbers [n, m] were expected"
        )
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise RequestError(f"{name} hold NaN or infinity; give finite numbers")
    return array


def _labels(values: Any) -> np.ndarray:
    """As an array; strings that pandas holds as objects as strings of numpy."""
    labels = given_array(values, "labels")
    if labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels.flat):
        return labels.astype(str)
    return labels


def _memberships(labels: np.ndarray, samples: int) -> np.ndarray:
    """bool [samples, classes]."""
    if labels.ndim not in (1, 2) or len(labels) != samples:
        raise RequestError(f"labels have shape {list(labels.shape)}; {samples} were expected, one for each sample")
    if labels.ndim == 1:
        if labels.dtype.kind not in "biuUS":
            raise RequestError(f"labels are of type {labels.dtype}; whole numbers or strings were expected")
        classes = np.unique(labels)
        if len(classes) < 2:
            raise RequestError(f"all labels are {classes[0]!s}; two classes or more were expected")
        return labels[:, None] == classes
    if labels.dtype.kind != "b":
        raise RequestError(f"labels are of type {labels.dtype}; a matrix [samples, concepts] must be bool: labels > 0")
    counts = labels.sum(0)
    for concept in np.flatnonzero((counts == 0) | (counts == samples)):
        which = "no sample has" if counts[concept] == 0 else "all samples have"
        raise RequestError(f"{which} concept {concept}, so it has no direction; leave it out")
    return labels
