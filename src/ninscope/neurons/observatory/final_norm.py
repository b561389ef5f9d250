"""What the norm between the residual stream and the unembedding does, told by what it makes of a few streams."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_SHORT = 1e-3  # the length of a stream at which a norm's epsilon is felt
_FAINT = 1e-11  # what rounding can make of an epsilon of 0


@dataclass(frozen=True)
class FinalNorm:
    """The norm between stream and unembedding. centred: it takes the mean away. epsilon: added to the mean square. gain: float32
    [width], by which it multiplies, or None for 1. scaled: it divides; False where there is no norm at all."""

    centred: bool
    epsilon: float
    gain: Tensor | None = None
    scaled: bool = True

    def centre(self, stream: Tensor) -> Tensor:
        """c(x), float32 [..., width]."""
        return stream - stream.mean(-1, keepdim=True) if self.centred else stream

    def scales(self, squares: Tensor) -> Tensor:
        """s(x) of mean squares of c(x)."""
        return (squares + self.epsilon).sqrt() if self.scaled else torch.ones_like(squares)

    def unembedding(self, head: Tensor) -> Tensor:
        """U, float32 [vocabulary, width], of the matrix that gives the logits: with the gain, and blind to what is taken away."""
        return self.centre(head if self.gain is None else head * self.gain)


def final_norm_of(module: nn.Module | None, width: int) -> FinalNorm | None:
    """What a norm does, from what it makes of a few streams, so that every library's norms are known. None: it is no such norm.

    With v of mean 0 and mean square q, LayerNorm and RMSNorm make gain v t / sqrt(q t^2 + epsilon) + bias of t v; of a stream in
    which all is 1, LayerNorm makes the bias alone.
    """
    if module is None:
        return FinalNorm(False, 0.0, scaled=False)
    part = next(module.parameters(), torch.empty(0))
    still = copy.deepcopy(module).float()
    signs = torch.ones(width, dtype=torch.float64)
    signs[1::2] = -1
    if width % 2:
        signs[-3:] = torch.tensor([1.0, 1.0, -2.0])
    streams = torch.stack([torch.zeros_like(signs), signs, _SHORT * signs, torch.ones_like(signs)])
    with torch.no_grad():
        bias, long, short, ones = still(streams.float().to(part.device)).double().cpu()
    ratio = (short - bias).norm() / (long - bias).norm()
    square = signs.square().mean()
    epsilon = (square * _SHORT**2 * (1 - ratio**2) / (ratio**2 - _SHORT**2)).item()
    gain = (long - bias) / signs * (square + epsilon).sqrt()
    if not (-_FAINT < epsilon < 1 and bool(gain.isfinite().all())):
        return None
    centred = bool((ones - bias).norm() < 1e-3 * gain.norm())
    return FinalNorm(centred, max(epsilon, 0.0), gain.float().to(part.device))
