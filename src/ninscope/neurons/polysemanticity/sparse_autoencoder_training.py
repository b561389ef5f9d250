"""Train a small sparse autoencoder on activations: a topk one (Gao et al. 2024), or a standard one with an L1 penalty (Bricken et
al. 2023). It is for models of the size that a laptop trains; sae-lens trains large ones.

Activations are scaled to a mean squared length of their width while it trains, so that a rate and a penalty mean the same for
every layer, and the scale is put back into the biases. Rows of the decoder start in random directions, the encoder as its
transpose, b_dec at the mean activation. After every step the rows are set back to length 1, without which small features and
long rows evade an L1 penalty. Every batch is drawn anew from all samples, by a generator of its own: nothing global is read or
changed.
"""

import math
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ninscope.errors import NonFiniteError, RequestError
from ninscope.neurons.polysemanticity.given_arrays import given_floats
from ninscope.neurons.polysemanticity.sparse_autoencoders import SparseAutoencoder

_PURPOSE = 0x5AE  # keeps its random numbers apart from others of the same seed


def train_sparse_autoencoder(
    activations: ArrayLike,
    features: int,
    *,
    top_k: int | None = None,
    l1: float | None = None,
    steps: int = 1000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> SparseAutoencoder:
    """A sparse autoencoder of activations [samples, width] with `features` features; its `quality` tells how good it is.

    Give one of: top_k, the number of features that are active in a sample; l1, the weight of the sum of features (of a sample, at
    the training's scale) beside the sum of squared errors. Adam takes `steps` updates on `batch_size` random samples each, and its
    rate falls to 0 linearly over the last fifth. The same input gives the same bytes on one machine with as many torch threads.
    about["metadata"] has these settings.

    Raises RequestError: both or none of top_k and l1, a number out of range, activations of another shape, not finite, or all
    alike. NonFiniteError: the training diverged.
    """
    x = _checked(activations)
    for name, value in (("features", features), ("steps", steps), ("batch_size", batch_size)):
        _check_count(name, value)
    _check_sparsity(top_k, l1, features)
    _check_rate_and_seed(learning_rate, seed)
    mean = x.mean(0, dtype=np.float64)
    spread = float(np.square(x - mean).sum(1, dtype=np.float64).mean())
    if spread == 0:
        raise RequestError("all activations are alike, so there are no features in them; give those of several inputs")
    scale = math.sqrt(x.shape[1] / spread)
    with torch.inference_mode(False):  # a caller's would leave nothing to train by
        centred = (torch.from_numpy(x) - torch.from_numpy(mean).float()) * scale
        training = _Training(centred, features, top_k, l1, seed)
        training.run(steps, batch_size, learning_rate)
    settings = {"top_k": top_k, "l1": l1, "steps": steps, "batch_size": batch_size, "seed": seed}
    metadata = {"trained_by": "ninscope", "learning_rate": learning_rate, "samples": len(x)} | settings
    encoder, decoder, b_enc, b_dec = (tensor.numpy().astype(np.float64) for tensor in training.tensors())
    about: dict[str, Any] = {
        "format": "trained here",
        "architecture": "topk" if top_k else "standard",
        "stored_type": "F32",
        "decoder_norms": "all 1",
        "message": "trained here; its decoder's rows have length 1",
        "metadata": {name: value for name, value in metadata.items() if value is not None},
    }
    return SparseAutoencoder(
        encoder=encoder,
        decoder=decoder,
        b_enc=b_enc / scale,
        b_dec=mean + b_dec / scale,
        kind="topk" if top_k else "standard",
        k=top_k,
        about=about,
    )


class _Training:
    """x: float32 [samples, width], of mean 0 and mean squared length `width`."""

    def __init__(self, x: Tensor, features: int, top_k: int | None, l1: float | None, seed: int) -> None:
        self.x, self.top_k, self.l1 = x, top_k, l1
        entropy = np.random.SeedSequence((_PURPOSE, seed)).generate_state(1, np.uint64)[0]
        self.generator = torch.Generator("cpu").manual_seed(int(entropy >> np.uint64(1)))
        width = x.shape[1]
        rows = torch.randn(features, width, generator=self.generator, dtype=torch.float32, device="cpu")
        self.decoder = (rows / rows.norm(dim=1, keepdim=True)).requires_grad_()
        self.encoder = self.decoder.detach().T.clone().contiguous().requires_grad_()
        self.b_enc = torch.zeros(features, dtype=torch.float32, device="cpu", requires_grad=True)
        self.b_dec = torch.zeros(width, dtype=torch.float32, device="cpu", requires_grad=True)

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(tensor.detach() for tensor in (self.encoder, self.decoder, self.b_enc, self.b_dec))

    def run(self, steps: int, batch_size: int, learning_rate: float) -> None:
        """Raises NonFiniteError: numbers that are not finite."""
        parameters = [self.encoder, self.decoder, self.b_enc, self.b_dec]
        optimizer = torch.optim.Adam(parameters, lr=learning_rate, betas=(0.9, 0.999))
        with torch.enable_grad():
            for step in range(steps):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate * min(1.0, (steps - step) / max(steps / 5, 1))
                rows = torch.randint(len(self.x), (batch_size,), generator=self.generator, device="cpu")
                optimizer.zero_grad()
                self._loss(self.x[rows]).backward()
                self._along_the_sphere()
                optimizer.step()
                with torch.no_grad():
                    self.decoder /= self.decoder.norm(dim=1, keepdim=True).clamp(min=1e-12)
        if not all(bool(tensor.isfinite().all()) for tensor in self.tensors()):
            raise NonFiniteError("the training of the autoencoder diverged; take a smaller learning_rate")

    def _loss(self, x: Tensor) -> Tensor:
        p = (x - self.b_dec) @ self.encoder + self.b_enc
        if self.top_k is not None:
            largest = p.topk(self.top_k, dim=1)
            features = torch.zeros_like(p).scatter(1, largest.indices, largest.values.relu())
        else:
            features = p.relu()
        loss = (features @ self.decoder + self.b_dec - x).square().sum(1).mean()
        return loss if self.l1 is None else loss + self.l1 * features.sum(1).mean()

    @torch.no_grad()
    def _along_the_sphere(self) -> None:
        """Take out of the decoder's gradient what would change the lengths of its rows."""
        gradient = self.decoder.grad
        if gradient is not None:
            gradient -= (gradient * self.decoder).sum(1, keepdim=True) * self.decoder


def _checked(activations: ArrayLike) -> np.ndarray:
    x = np.ascontiguousarray(given_floats(activations, "activations", np.float32))
    if x.ndim != 2 or len(x) < 2 or not x.shape[1]:
        raise RequestError(f"activations have shape {list(x.shape)}; [samples, width], two or more, was expected")
    if not np.isfinite(x).all():
        raise RequestError("activations hold NaN or infinity; give those of a model that works")
    return x


def _check_count(name: str, value: object) -> None:
    if type(value) is not int or value < 1:
        raise RequestError(f"{name} is {value!r}; a positive integer was expected")


def _check_rate_and_seed(learning_rate: object, seed: object) -> None:
    if not _is_number(learning_rate) or learning_rate <= 0:
        raise RequestError(f"learning_rate is {learning_rate!r}; a positive number was expected")
    if type(seed) is not int or seed < 0:
        raise RequestError(f"seed is {seed!r}; an integer that is not negative was expected")


def _check_sparsity(top_k: int | None, l1: float | None, features: int) -> None:
    if (top_k is None) == (l1 is None):
        raise RequestError(f"top_k is {top_k!r} and l1 is {l1!r}; give one of the two")
    if top_k is not None:
        _check_count("top_k", top_k)
        if top_k > features:
            raise RequestError(f"top_k is {top_k}, more than the {features} features; take fewer")
    elif not _is_number(l1) or l1 < 0:
        raise RequestError(f"l1 is {l1!r}; a number that is not negative was expected")


def _is_number(value: object) -> TypeGuard[float]:
    """Finite, and of Python: metadata has it as JSON."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
