"""Toy data whose features are known (thesis "Polysemanticity under Pruning", section 3.2.3 and Figure 5).

Sparse random targets become seed vectors of a feature model. Its hidden activations are the features, and its outputs the desired
outputs; an autoencoder's encoder squeezes the features into the inputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons.polysemanticity.autoencoder import FeatureAutoencoder, train_autoencoder
from ninscope.neurons.polysemanticity.experiments import Experiment
from ninscope.neurons.polysemanticity.feature_model import FeatureModel, random_feature_model, seed_vectors
from ninscope.neurons.polysemanticity.keyed_randomness import generator
from ninscope.neurons.torch_threads import threads


@dataclass(frozen=True, eq=False)
class ToyData:
    """The toy data of an experiment at a seed.

    features: float32 [samples, features], the hidden activations of the feature model. inputs: float32 [samples, inputs], what the
    encoder makes of them. outputs: float32 [samples, outputs], what the feature model gives. train, test: int64, the samples of
    the two parts, in rising order. seed_loss: mean squared error between features and the sparse vectors that were aimed at.
    reconstruction_loss: mean squared error of the autoencoder over all samples.
    """

    experiment: Experiment
    seed: int
    features: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray
    train: np.ndarray
    test: np.ndarray
    feature_model: FeatureModel
    autoencoder: FeatureAutoencoder
    seed_loss: float
    reconstruction_loss: float

    @property
    def encoder(self) -> nn.Module:
        """From features [batch, features] to inputs [batch, inputs], float32."""
        return self.autoencoder.encoder

    @property
    def variance_kept(self) -> float:
        """Share of the features' variance that the inputs keep: 1 - reconstruction loss / variance, the mean over features.

        Below 0 if the mean of each feature would be a better reconstruction; NaN if no feature varies.
        """
        variance = float(self.features.var(axis=0, dtype=np.float64).mean())
        return 1 - self.reconstruction_loss / variance if variance > 0 else float("nan")

    @property
    def message(self) -> str:
        """How much of the features the inputs keep, in words."""
        width = self.experiment.inputs
        if not np.isfinite(self.variance_kept):
            return "no feature varies: all samples are alike"
        return (
            f"{width} input{'s keep' if width > 1 else ' keeps'} {100 * self.variance_kept:.0f} % of the variance of "
            f"{self.experiment.features} features, as far as the autoencoder reads them back"
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it by name, to be stored; `of_arrays` reads it back exactly."""
        data = {name: getattr(self, name) for name in ("features", "inputs", "outputs", "train", "test")}
        losses = {
            name: np.array([getattr(self, name)], dtype=np.float64) for name in ("seed_loss", "reconstruction_loss")
        }
        return data | losses | _state("feature_model", self.feature_model) | _state("autoencoder", self.autoencoder)

    @classmethod
    def of_arrays(cls, experiment: Experiment, seed: int, arrays: Mapping[str, np.ndarray]) -> "ToyData":
        """What `arrays` gave. Raises RequestError: an array that is missing, unknown, or of another shape or dtype."""
        model, autoencoder = _blank_models(experiment)
        _check_arrays(experiment, arrays, _state("feature_model", model) | _state("autoencoder", autoencoder))
        for name, module in (("feature_model", model), ("autoencoder", autoencoder)):
            module.load_state_dict(
                {key: torch.from_numpy(arrays[f"{name}.{key}"].copy()) for key in module.state_dict()}
            )
        features, inputs, outputs, train, test = (
            np.array(arrays[name]) for name in ("features", "inputs", "outputs", "train", "test")
        )
        seed_loss, reconstruction_loss = (float(arrays[name][0]) for name in ("seed_loss", "reconstruction_loss"))
        return cls(
            experiment,
            seed,
            features,
            inputs,
            outputs,
            train,
            test,
            model,
            autoencoder,
            seed_loss,
            reconstruction_loss,
        )


def make_toy_data(experiment: Experiment, seed: int) -> ToyData:
    """The toy data of an experiment at a seed from 0 to 2^63 - 1; the same bytes each time, on one machine.

    The targets: a feature is absent from a sample with a probability of its own, drawn evenly from experiment.sparsity, and is
    else uniform on (0, 1). The thesis leaves open whether they are the features, or the activations that their seed vectors
    cause. Here it is the activations: Figure 5 leads these into the encoder, and only these give baselines like the thesis'.
    With the targets N4 ends with a test loss above the outputs' variance, and the total feature dimensionality of N3 and N4 is
    0.75 to 0.90, where the thesis has 0.98 (docs/method.md, errata). The reason is that activations of later layers come nowhere
    near sparse targets. torch computes with one thread meanwhile; its global state is left as it was. Raises
    RequestError: a seed out of range. Raises CheckpointError (nonfinite): a feature model so deep that its activations, or their
    squares, exceed float32.
    """
    sizes = (experiment.features, *experiment.feature_layers, experiment.outputs)
    key = (experiment.name, seed)
    with threads(1), torch.inference_mode(False), torch.enable_grad():
        model = random_feature_model(sizes, experiment.linear, experiment.threshold, generator("feature model", *key))
        targets = sparse_targets(experiment, generator("targets", *key))
        seeds = seed_vectors(model, targets, generator("seed vectors", *key))
        with torch.no_grad():
            features, outputs = model.features(seeds.inputs), model(seeds.inputs)
        _check_finite(experiment, features.square(), outputs.square())  # or no loss is finite
        autoencoder = FeatureAutoencoder(
            experiment.features, experiment.inputs, experiment.linear, generator("autoencoder", *key)
        )
        train_autoencoder(autoencoder, features, generator("autoencoder's order", *key))
        with torch.no_grad():
            inputs = autoencoder.encode(features)
        _check_finite(experiment, inputs)
        reconstruction_loss = autoencoder.loss(features)
    train, test = _split(experiment, generator("split", *key))
    return ToyData(
        experiment,
        seed,
        features.numpy(),
        inputs.numpy(),
        outputs.numpy(),
        train,
        test,
        model,
        autoencoder,
        seeds.loss,
        reconstruction_loss,
    )


def _check_finite(experiment: Experiment, *values: torch.Tensor) -> None:
    """Raises CheckpointError (nonfinite)."""
    if not all(bool(part.isfinite().all()) for part in values):
        raise CheckpointError(
            "nonfinite",
            f"toy data of {experiment.name} are not finite: the weights of its {len(experiment.feature_layers)} feature layers "
            "make activations larger than float32 holds; ask for fewer, or smaller ones",
        )


def sparse_targets(experiment: Experiment, generator: np.random.Generator) -> np.ndarray:
    """Sparse random feature vectors, float32 [samples, features], from 0 to 1: what seed vectors are searched for."""
    shape = (experiment.samples, experiment.features)
    absent = generator.uniform(*experiment.sparsity, experiment.features)
    present = generator.random(shape, dtype=np.float32) >= absent
    return np.where(present, generator.random(shape, dtype=np.float32), np.float32(0))


def _split(experiment: Experiment, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Samples for training and for the test, int64, each in rising order."""
    order = generator.permutation(experiment.samples)
    return np.sort(order[experiment.test_samples :]), np.sort(order[: experiment.test_samples])


def _state(prefix: str, module: nn.Module) -> dict[str, np.ndarray]:
    return {f"{prefix}.{name}": tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()}


def _blank_models(experiment: Experiment) -> tuple[FeatureModel, FeatureAutoencoder]:
    """Models of an experiment's shape, whose weights are to be replaced."""
    sizes = (experiment.features, *experiment.feature_layers, experiment.outputs)
    weights = [np.zeros((above, below), np.float32) for below, above in pairwise(sizes)]
    model = FeatureModel(weights, [np.zeros(size, np.float32) for size in sizes[1:]], experiment.linear)
    blank = np.random.default_rng(0)
    return model, FeatureAutoencoder(experiment.features, experiment.inputs, experiment.linear, blank)


def _check_arrays(experiment: Experiment, arrays: Mapping[str, np.ndarray], states: dict[str, np.ndarray]) -> None:
    samples, test = experiment.samples, experiment.test_samples
    expected: dict[str, tuple[tuple[int, ...], str]] = {
        "features": ((samples, experiment.features), "float32"),
        "inputs": ((samples, experiment.inputs), "float32"),
        "outputs": ((samples, experiment.outputs), "float32"),
        "train": ((samples - test,), "int64"),
        "test": ((test,), "int64"),
        "seed_loss": ((1,), "float64"),
        "reconstruction_loss": ((1,), "float64"),
    }
    expected |= {name: (state.shape, "float32") for name, state in states.items()}
    for name in sorted(expected.keys() | arrays.keys()):
        shape, dtype = expected.get(name, (None, None))
        found = arrays.get(name)
        if found is None or found.shape != shape or found.dtype != dtype:
            is_there = "is missing" if found is None else f"is {found.dtype} {list(found.shape)}"
            wanted = "no such array" if shape is None else f"{dtype} {list(shape)}"
            raise RequestError(
                f"toy data of {experiment.name}: {name!r} {is_there}, and {wanted} was expected; make the toy data again"
            )
    parts = np.sort(np.concatenate([arrays["train"], arrays["test"]]))
    if not np.array_equal(parts, np.arange(samples)):
        raise RequestError(
            f"toy data of {experiment.name}: 'train' and 'test' do not hold each of {samples} samples once; "
            "make the toy data again"
        )
