"""A sparse autoencoder: features of a model's activations, found without labels, and the direction of each. Needs numpy alone.

With x the activations of a layer, W_enc, W_dec, b_enc and b_dec as SAELens names them, and a = x, or x - b_dec:

    standard    f = relu(a W_enc + b_enc)
    jumprelu    f = relu(p) where p > threshold, else 0;   p = a W_enc + b_enc
    topk        f = relu of the k largest p of a sample, else 0
    gated       f = relu(a (W_enc exp(r_mag)) + b_mag) where a W_enc + b_gate > 0, else 0

and x is reconstructed as f W_dec + b_dec (Cunningham et al. 2023; Rajamanoharan et al. 2024, "Jumping ahead" and "Gated"; Gao et
al. 2024). Row i of W_dec is the direction of feature i: what one unit of it adds to the activations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons.polysemanticity.given_arrays import given_floats

KINDS = ("standard", "jumprelu", "topk", "gated")
# Tensors of each kind by their name in files, with the sizes of their axes.
TENSORS: dict[str, dict[str, tuple[str, ...]]] = {
    "standard": {"b_enc": ("features",)},
    "jumprelu": {"b_enc": ("features",), "threshold": ("features",)},
    "topk": {"b_enc": ("features",)},
    "gated": {"r_mag": ("features",), "b_gate": ("features",), "b_mag": ("features",)},
}
for _tensors in TENSORS.values():
    _tensors |= {"W_enc": ("width", "features"), "W_dec": ("features", "width"), "b_dec": ("width",)}
_FIELDS = {"W_enc": "encoder", "W_dec": "decoder"}
NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale")
_LAYER_NORM_EPSILON = 1e-5
_UNIT_TOLERANCE = 1e-3  # a bfloat16 row of length 1 has it to about 5e-4


@dataclass(frozen=True)
class AutoencoderQuality:
    """How well activations are reconstructed. samples: their number.

    explained_variance: 1 - (sum of squared errors) / (sum of squared distances to the mean activation). active_features: mean
    number of features that are not 0 in a sample (L0). dead_features: number of those that are 0 in every sample.
    """

    samples: int
    explained_variance: float
    active_features: float
    dead_features: int


@dataclass(frozen=True)
class SparseAutoencoder:
    """A sparse autoencoder of activations of `width` neurons, with `features` features.

    encoder: W_enc, float32 [width, features]. decoder: W_dec, float32 [features, width]. b_dec: float32 [width]. kind: one of
    KINDS, which decides what else there is (float32 [features]): b_enc (not for gated), threshold (jumprelu), r_mag, b_gate and
    b_mag (gated), and k (topk). centred: whether b_dec is subtracted from activations before they are encoded.

    normalisation: "none"; "layer_norm", activations are encoded less their mean and divided by their standard deviation;
    "constant_norm_rescale", activations are encoded at length sqrt(width). Both are undone by the decoder, as in SAELens.
    about: facts on where it comes from, for people.

    Raises RequestError: an unknown kind or normalisation, a tensor that is absent or of another shape, NaN or infinity, a k out
    of range.
    """

    encoder: np.ndarray
    decoder: np.ndarray
    b_dec: np.ndarray
    kind: str = "standard"
    b_enc: np.ndarray | None = None
    threshold: np.ndarray | None = None
    r_mag: np.ndarray | None = None
    b_gate: np.ndarray | None = None
    b_mag: np.ndarray | None = None
    k: int | None = None
    centred: bool = True
    normalisation: str = "none"
    about: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        kind = self.kind if self.k is None else f"{self.kind}, k {self.k}"
        return f"<SparseAutoencoder: {kind}, {self.features:,} features of {self.width:,} neurons; .directions, .about>"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise RequestError(f"kind is {self.kind!r}; one of {', '.join(KINDS)}")
        if self.normalisation not in NORMALISATIONS:
            raise RequestError(f"normalisation is {self.normalisation!r}; one of {', '.join(NORMALISATIONS)}")
        for name in ("encoder", "decoder", "b_dec", "b_enc", "threshold", "r_mag", "b_gate", "b_mag"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, np.ascontiguousarray(value, np.float32))
        if self.encoder.ndim != 2 or 0 in self.encoder.shape:
            raise RequestError(f"W_enc has shape {list(self.encoder.shape)}; [width, features] was expected")
        check_shapes({name: tensor.shape for name, tensor in self.tensors.items()}, self.kind)
        for name, tensor in self.tensors.items():
            if not np.isfinite(tensor).all():
                raise RequestError(f"{name} holds NaN or infinity; take another autoencoder")
        if self.kind == "topk" and (type(self.k) is not int or not 1 <= self.k <= self.features):
            raise RequestError(f"k is {self.k!r}; a number of features from 1 to {self.features} was expected")

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, np.ndarray], kind: str, **settings: Any) -> "SparseAutoencoder":
        """From tensors by their names in files. settings: the other fields. Raises RequestError: as the class."""
        fields: dict[str, Any] = {_FIELDS.get(name, name): tensor for name, tensor in tensors.items()}
        return cls(kind=kind, **fields, **settings)

    @property
    def width(self) -> int:
        """Number of neurons whose activations it reads."""
        return int(self.encoder.shape[0])

    @property
    def features(self) -> int:
        return int(self.encoder.shape[1])

    @property
    def directions(self) -> np.ndarray:
        """float32 [features, width]: what one unit of each feature adds to the activations (to normalised ones, if they are)."""
        return self.decoder

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        """Its tensors by their names in files."""
        named = {"W_enc": self.encoder, "W_dec": self.decoder, "b_dec": self.b_dec}
        others = {name: getattr(self, name) for name in ("b_enc", "threshold", "r_mag", "b_gate", "b_mag")}
        return named | {name: tensor for name, tensor in others.items() if tensor is not None}

    def encode(self, activations: ArrayLike) -> np.ndarray:
        """Features, float32 [..., features]. activations: [..., width], of the layer that it was trained on.

        Raises RequestError: activations of another width, or that are not finite.
        """
        x, _, _ = self._normalised(activations)
        x = x - self.b_dec if self.centred else x
        p, biases = x @ self.encoder, self.tensors
        if self.kind == "gated":
            magnitudes = x @ (self.encoder * np.exp(biases["r_mag"])) + biases["b_mag"]
            return np.where(p + biases["b_gate"] > 0, np.maximum(magnitudes, 0), 0)
        p += biases["b_enc"]
        if self.kind == "topk":
            p = _largest(p, self.k or 0)
        elif self.kind == "jumprelu":
            p = np.where(p > biases["threshold"], p, 0)
        return np.maximum(p, 0)

    def decode(self, features: ArrayLike, activations: ArrayLike | None = None) -> np.ndarray:
        """Reconstructed activations, float32 [..., width]. features: [..., features].

        activations: what the features were encoded from, [..., width]; needed if the autoencoder normalises activations.

        Raises RequestError: another number of features, no activations though they are needed, or ones of another width.
        """
        values = given_floats(features, "features", np.float32)
        if values.ndim < 1 or values.shape[-1] != self.features:
            raise RequestError(f"features have shape {list(values.shape)}; [..., {self.features}] was expected")
        reconstructed: np.ndarray = values @ self.decoder + self.b_dec
        if self.normalisation == "none":
            return reconstructed
        if activations is None:
            raise RequestError(
                f"this autoencoder normalises activations ({self.normalisation}); give those that were encoded, too"
            )
        _, scale, shift = self._normalised(activations)
        return reconstructed * scale + shift

    def quality(self, activations: ArrayLike) -> AutoencoderQuality:
        """How well it reconstructs activations [samples, width]. Raises RequestError: as `encode`, or fewer than two samples."""
        x = given_floats(activations, "activations", np.float32)
        if x.ndim != 2 or len(x) < 2:
            raise RequestError(f"activations have shape {list(x.shape)}; [samples, width], two or more, was expected")
        features = self.encode(x)
        errors = self.decode(features, x) - x
        spread = np.square(x - x.mean(0, dtype=np.float64)).sum(dtype=np.float64)
        explained = 1 - np.square(errors).sum(dtype=np.float64) / spread if spread else float("nan")
        active = features != 0
        return AutoencoderQuality(len(x), float(explained), float(active.sum(1).mean()), int((~active.any(0)).sum()))

    def _normalised(self, activations: ArrayLike) -> tuple[np.ndarray, np.ndarray | float, np.ndarray | float]:
        """(activations as they are encoded, scale, shift): scale and shift take reconstructions back."""
        x = given_floats(activations, "activations", np.float32)
        if x.ndim < 1 or x.shape[-1] != self.width:
            raise RequestError(
                f"activations have shape {list(x.shape)}, the autoencoder reads {self.width} neurons; "
                "give the activations of the layer that it was trained on"
            )
        if not np.isfinite(x).all():
            raise RequestError("activations hold NaN or infinity; give those of a model that works")
        if self.normalisation == "layer_norm":
            shift = x.mean(-1, keepdims=True)
            scale = x.std(-1, keepdims=True, ddof=1)
            return (x - shift) / (scale + np.float32(_LAYER_NORM_EPSILON)), scale, shift
        if self.normalisation == "constant_norm_rescale":
            length = np.linalg.norm(x, axis=-1, keepdims=True)
            scale = np.where(length > 0, length, 1) / np.float32(np.sqrt(self.width))
            return x / scale, scale, 0.0
        return x, 1.0, 0.0


def check_shapes(shapes: Mapping[str, tuple[int, ...]], kind: str) -> None:
    """shapes: of an autoencoder's tensors by name, W_enc with two axes among them. Raises RequestError: they do not fit."""
    width, features = shapes["W_enc"]
    sizes = {"width": width, "features": features}
    for name, axes in TENSORS[kind].items():
        expected = tuple(sizes[axis] for axis in axes)
        if name not in shapes:
            raise RequestError(f"{name} is absent; a {kind} autoencoder has {', '.join(TENSORS[kind])}")
        if tuple(shapes[name]) != expected:
            raise RequestError(
                f"{name} has shape {list(shapes[name])}; {list(expected)} was expected beside W_enc of shape {[width, features]}"
            )
    if extra := sorted(set(shapes) - set(TENSORS[kind])):
        raise RequestError(f"{extra[0]} is there; a {kind} autoencoder has {', '.join(TENSORS[kind])}")


def check_width(found: int, width: int | None, name: str) -> None:
    """Raises RequestError: the autoencoder `name` is of another width."""
    if width is not None and found != width:
        raise RequestError(
            f"{name}: the autoencoder reads {found} neurons and the layer has {width}; choose an autoencoder of that layer"
        )


def checked_finite(values: np.ndarray, name: str) -> np.ndarray:
    """values as float32. Raises CheckpointError (nonfinite): NaN, infinity, or numbers too large for float32."""
    with np.errstate(over="ignore"):
        tensor = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(tensor).all():
        raise CheckpointError("nonfinite", f"{name} holds NaN or infinity; take another autoencoder")
    return tensor


def _largest(p: np.ndarray, k: int) -> np.ndarray:
    """p [..., features] with all but the k largest of each row set to 0; among equal ones those of lower number are kept."""
    kept = np.argsort(-p, axis=-1, kind="stable")[..., :k]
    result = np.zeros_like(p)
    np.put_along_axis(result, kept, np.take_along_axis(p, kept, -1), -1)
    return result


def decoder_norms(decoder: np.ndarray) -> str:
    """In words, the lengths of a decoder's rows [features, width]."""
    lengths = np.linalg.norm(decoder.astype(np.float64), axis=1)
    if np.abs(lengths - 1).max() <= _UNIT_TOLERANCE:
        return "all 1"
    return f"{lengths.min():.3g} to {lengths.max():.3g}"
