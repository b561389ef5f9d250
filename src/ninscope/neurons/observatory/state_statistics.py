"""Moments of channels and norms of tokens, of tensors: by kernels where they lie on the CPU, else by torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ninscope.neurons.kernel_threads import in_threads
from ninscope.neurons.observatory.state_kernels import channel_moments, channel_products, head_norms, token_steps

_WORTH_THREADS = 1 << 19  # values; these kernels take a tenth of a millisecond for so many


@dataclass(frozen=True)
class Moments:
    """Of the channels of some rows. means, squares: float64 [channels], squares being sums of squared deviations from them."""

    rows: int
    means: np.ndarray
    squares: np.ndarray


def moments_of(values: Tensor) -> Moments:
    """Over all but the last dimension; neither is finite where a channel's values are not. values: floats [..., channels]."""
    rows = values.detach().float().reshape(-1, values.shape[-1])
    if rows.device.type != "cpu":
        return _moments_by_torch(rows)
    means, squares = np.empty((2, rows.shape[1]))
    array = rows.contiguous().numpy()

    def work(number: int, first: int, last: int) -> None:
        channel_moments(array, first, last, means, squares)

    in_threads(work, rows.shape[1], _threads(rows, rows.shape[1]))
    return Moments(len(rows), means, squares)


def _moments_by_torch(rows: Tensor) -> Moments:
    centre = rows.mean(0)
    off = rows - centre
    rest = off.sum(0, dtype=torch.float64) / len(rows)
    squares = (off.square_().sum(0, dtype=torch.float64) - len(rows) * rest.square()).clamp_(min=0)
    return Moments(len(rows), (centre + rest).cpu().numpy(), squares.cpu().numpy())


def products_of(values: Tensor, others: Tensor, moments: Moments, other_moments: Moments) -> np.ndarray:
    """Sums of (x - mean) (y - mean) over the rows of two places, channel by channel: float64 [channels].

    values, others: floats [..., channels], of the same shape; moments: theirs.
    """
    rows, other_rows = (one.detach().float().reshape(-1, one.shape[-1]) for one in (values, others))
    if rows.device.type != "cpu":
        means, other_means = (
            torch.from_numpy(one.means).to(rows.device, torch.float32) for one in (moments, other_moments)
        )
        found: np.ndarray = ((rows - means) * (other_rows - other_means)).sum(0, dtype=torch.float64).cpu().numpy()
        return found
    arrays, sums = (rows.contiguous().numpy(), other_rows.contiguous().numpy()), np.empty(rows.shape[1])

    def work(number: int, first: int, last: int) -> None:
        channel_products(*arrays, moments.means, other_moments.means, first, last, sums)

    in_threads(work, rows.shape[1], _threads(rows, rows.shape[1]))
    return sums


def norms_of(values: Tensor, heads: int) -> Tensor:
    """Norms of the parts of each token that lie side by side: float32 [samples, heads, tokens].

    values: floats [samples, tokens, heads * size].
    """
    values = values.detach().float()
    if values.device.type != "cpu":
        return torch.linalg.vector_norm(values.unflatten(2, (heads, -1)), dim=3).transpose(1, 2)
    array = values.contiguous().numpy()
    norms = np.empty((len(array), heads, array.shape[1]), np.float32)

    def work(number: int, first: int, last: int) -> None:
        head_norms(array, first, last, norms)

    in_threads(work, len(array), _threads(values, len(array)))
    return torch.from_numpy(norms)


def token_norms(values: Tensor) -> Tensor:
    """Norms of tokens, float32 [samples, tokens], of floats [samples, tokens, width]."""
    return norms_of(values, 1)[:, 0]


def steps_of(values: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """(||other - value||, value . other) of every token of two places: float32 [samples, tokens] each.

    values, others: floats [samples, tokens, width].
    """
    values, others = values.detach().float(), others.detach().float()
    if values.device.type != "cpu":
        return torch.linalg.vector_norm(others - values, dim=2), torch.linalg.vecdot(values, others)
    rows, other_rows = (one.contiguous().numpy().reshape(-1, one.shape[2]) for one in (values, others))
    steps, products = np.empty((2, len(rows)), np.float32)

    def work(number: int, first: int, last: int) -> None:
        token_steps(rows, other_rows, first, last, steps, products)

    in_threads(work, len(rows), _threads(values, len(rows)))
    shape = values.shape[:2]
    return torch.from_numpy(steps).view(shape), torch.from_numpy(products).view(shape)


def _threads(values: Tensor, parts: int) -> int:
    return max(min(torch.get_num_threads(), parts), 1) if values.numel() >= _WORTH_THREADS else 1
