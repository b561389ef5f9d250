"""The feature autoencoder: its encoder maps features to inputs (thesis "Polysemanticity under Pruning", section 3.2.2)."""

import numpy as np
import torch
from torch import nn

from ninscope.errors import RequestError
from ninscope.neurons.polysemanticity.perceptron import initial_perceptron

RATE, BATCH = 1e-3, 64  # the thesis', of all its training (section 3.1)
MIN_EPOCHS, MIN_UPDATES = 50, 5_000


class FeatureAutoencoder(nn.Module):
    """An encoder, features -> floor(features / 2) -> inputs, and a decoder that mirrors it.

    linear: no activation functions; otherwise the two hidden layers have ReLU. Inputs and reconstruction have none. Weights and
    biases are drawn as nn.Linear draws them, uniform on (-1, 1) / sqrt(in), from the generator alone.
    """

    def __init__(self, features: int, inputs: int, linear: bool, generator: np.random.Generator) -> None:
        super().__init__()
        self.encoder = initial_perceptron((features, features // 2, inputs), linear, generator).module()
        self.decoder = initial_perceptron((inputs, features // 2, features), linear, generator).module()

    def encode(self, features: torch.Tensor) -> torch.Tensor:
        """The inputs [batch, inputs] that features [batch, features] become."""
        inputs: torch.Tensor = self.encoder(features)
        return inputs

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The features as the decoder reads them back from the inputs, [batch, features]."""
        reconstruction: torch.Tensor = self.decoder(self.encode(features))
        return reconstruction

    def loss(self, features: torch.Tensor) -> float:
        """The reconstruction loss: mean squared error over all samples and features [batch, features]."""
        with torch.no_grad():
            return float((self(features) - features).square().mean(dtype=torch.float64))


def epochs_of(samples: int) -> int:
    """How often an autoencoder is shown all its samples.

    The thesis gives no number. Its 50 of the observed networks are the least; where they would be fewer than 5,000 updates, it is
    as many as make those: in N1, of 1,600 samples, 50 epochs keep 0.44 of the features' variance, 200 keep 0.59 and 800 keep 0.60.
    """
    return max(MIN_EPOCHS, -(-MIN_UPDATES // -(-samples // BATCH)))


def train_autoencoder(autoencoder: FeatureAutoencoder, features: torch.Tensor, generator: np.random.Generator) -> None:
    """Train it in place on feature vectors, float32 [samples, features], all of them, as the thesis does.

    Adam (rate 0.001, batches of 64) minimises the reconstruction loss for `epochs_of` the samples. The generator draws each
    epoch's order. Raises RequestError: features that are no matrix, or of which there are none.
    """
    if features.ndim != 2 or not features.numel():
        raise RequestError(f"features have the shape {list(features.shape)}; [samples, features] was expected")
    adam = torch.optim.Adam(autoencoder.parameters(), lr=RATE, fused=True)
    for _ in range(epochs_of(len(features))):
        order = torch.from_numpy(generator.permutation(len(features)))
        for batch in features[order].split(BATCH):
            loss = nn.functional.mse_loss(autoencoder(batch), batch)
            adam.zero_grad()
            loss.backward()
            adam.step()
