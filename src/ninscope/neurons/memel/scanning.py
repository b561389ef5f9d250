"""One batch of activations: mean and variance of every neuron, and the largest monosemantic scales of each sample.

It is an operator of its own, `torch.ops.ninscope.scan_activations`, so that torch.compile takes it as it is. For float32 on the
CPU, one pass of `kernels` gives the statistics and the largest scale of each sample; everything else is torch's.
"""

import numpy as np
import torch
from torch import Tensor

from ninscope.errors import NonFiniteError, RequestError
from ninscope.neurons.kernel_threads import WORTH_THREADS, in_threads
from ninscope.neurons.memel.kernels import finish, scan_positions, scan_samples

POSITIONS = 0  # as a neuron dimension: every value but the batch's is a neuron of its own


def rows_of(h: Tensor, dim: int) -> Tensor:
    """[samples, rows, neurons]. dim: the dimension of h that counts neurons, or POSITIONS."""
    if dim == POSITIONS or h.ndim == 2:
        return h.flatten(1).unsqueeze(1)
    return h.movedim(dim, -1).flatten(1, -2)


def kept_of(mask: Tensor, h: Tensor, dim: int) -> Tensor:
    """A mask over leading dimensions of h as bool [samples, rows, neurons or 1]. Raises RequestError: it fits none."""
    fits = mask.ndim < h.ndim and mask.shape == h.shape[: mask.ndim] and not mask.ndim > dim > POSITIONS
    if not fits:
        raise RequestError(
            f"a mask of shape {tuple(mask.shape)} does not fit activations of shape {tuple(h.shape)}; its dimensions must be "
            "the first ones of theirs, without the neurons'"
        )
    mask = mask.bool()[(...,) + (None,) * (h.ndim - mask.ndim)]
    if dim == POSITIONS:
        return mask.expand(h.shape).reshape(h.shape[0], 1, -1)
    return mask.expand([*h.shape[:dim], 1, *h.shape[dim + 1 :]]).movedim(dim, -1).reshape(h.shape[0], -1, 1)


@torch.library.custom_op("ninscope::scan_activations", mutates_args=())
def scan_activations(
    h: Tensor, kept: Tensor | None, mean: Tensor, inverse: Tensor, dim: int, largest: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(count, mean, variance, phi, index) of a batch.

    h: floats, [samples, ...]. kept: of `kept_of`, or None. mean, inverse: float32 [neurons], of the statistics so far; phi of a
    value is (h - mean)^2 * inverse. dim: the dimension of h that counts neurons, or POSITIONS. count: int64 [neurons], mean,
    variance (with the count as denominator): float64 [neurons], of the batch. phi, index: float32, int64 [samples, largest],
    the largest scales of every sample and where in h.reshape(samples, -1) they are, descending.
    """
    rows = rows_of(h, dim)
    if h.device.type == "cpu" and h.dtype == torch.float32 and dim in (POSITIONS, h.ndim - 1):
        count, batch_mean, variance, best = _scan_in_one_pass(rows.detach(), kept, mean, inverse)
        if largest <= 1:
            phi, index = (part[:, None][:, :largest] for part in best)
            return count, batch_mean, variance, phi, index
    else:
        count, batch_mean, variance = _statistics(rows, kept)
    phi, index = phi_of(rows, kept, mean, inverse).flatten(1).topk(largest, dim=1)
    return count, batch_mean, variance, phi.float(), _index_in(h, dim, index) if 0 < dim < h.ndim - 1 else index


@scan_activations.register_fake
def _(
    h: Tensor, kept: Tensor | None, mean: Tensor, inverse: Tensor, dim: int, largest: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    neurons, wide = mean.numel(), torch.float64
    return (
        h.new_empty(neurons, dtype=torch.int64),
        h.new_empty(neurons, dtype=wide),
        h.new_empty(neurons, dtype=wide),
        h.new_empty((h.shape[0], largest), dtype=torch.float32),
        h.new_empty((h.shape[0], largest), dtype=torch.int64),
    )


@torch.library.custom_op("ninscope::checked_finite", mutates_args=())
def checked_finite(mean: Tensor, variance: Tensor, samples: int, layer: str) -> Tensor:
    """The mean of a batch. Raises NonFiniteError: the mean or the variance is not finite, so some value that counts is not.

    It is called with the statistics of all ranks, so that all of them raise and none waits for another that has raised.
    """
    if not bool(torch.isfinite(mean).all() & torch.isfinite(variance).all()):
        raise NonFiniteError(
            f"{layer}: activations are not finite (NaN or infinity) in a batch of {samples}; lower the learning rate, or look "
            "for what overflows before this layer"
        )
    return mean.clone()


@checked_finite.register_fake
def _(mean: Tensor, variance: Tensor, samples: int, layer: str) -> Tensor:
    return torch.empty_like(mean)


def phi_of(rows: Tensor, kept: Tensor | None, mean: Tensor, inverse: Tensor) -> Tensor:
    """(h - mean)^2 * inverse of every value, float32 (float64 of float64) of the shape of `rows`; 0 of padding, whatever it
    holds. It is the only array of that size."""
    phi = (rows - mean).square_().mul_(inverse)
    return phi if kept is None else phi.masked_fill_(~kept, 0)


def _statistics(rows: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """In two passes, so that a large mean costs no digits; one array of the size of `rows` beside it."""
    samples, rows_each, neurons = rows.shape
    off = rows.to(torch.promote_types(rows.dtype, torch.float32), copy=True)
    if kept is None:
        count = torch.full((neurons,), samples * rows_each, dtype=torch.int64, device=rows.device)
    else:
        off.masked_fill_(~kept, 0)  # whatever padding holds, NaN too
        count = kept.sum((0, 1)).expand(neurons).clone()
    known = count.clamp(min=1)
    centre = off.sum((0, 1)) / known
    off -= centre
    if kept is not None:
        off.masked_fill_(~kept, 0)
    rest = off.sum((0, 1)).double() / known  # what rounding left of the mean
    # A sum is cascaded, where a norm adds one value after another and loses digits of millions.
    squares = off.square_().sum((0, 1)).double() / known
    return count, centre.double() + rest, (squares - rest.square()).clamp(min=0)


def _index_in(h: Tensor, dim: int, index: Tensor) -> Tensor:
    """Indices of rows x neurons as indices of h.reshape(samples, -1), where neurons are not the last dimension."""
    neurons, after = h.shape[dim], h.shape[dim + 1 :].numel()
    row, neuron = index // neurons, index % neurons
    return (row // after * neurons + neuron) * after + row % after


def _scan_in_one_pass(
    rows: Tensor, kept: Tensor | None, mean: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """(count, mean, variance, (largest phi, its index) of every sample) by the kernels. Split over torch's threads; no bit
    depends on their number."""
    values = rows.contiguous().numpy()
    one_row = values.shape[1] == 1  # as positions are
    values = values[:, 0] if one_row else values
    counted = np.zeros((rows.shape[0], 0), np.bool_)
    if kept is not None:
        counted = (kept[:, 0].expand(values.shape) if one_row else kept[..., 0]).contiguous().numpy()
    shift, scale = mean.numpy(), inverse.numpy()
    if values.size and not scale.all():
        # Where nothing is known yet: near the values, or squares of a large mean drown the variance.
        shift = np.where(scale > 0, shift, _first_counted(values, counted))
    threads = torch.get_num_threads() if values.size >= WORTH_THREADS else 1
    scan = _positions_in_threads if one_row else _samples_in_threads
    sums, squares, best, index = scan(values, counted, shift, scale, threads)
    number = rows.shape[0] * rows.shape[1] if kept is None else counted.sum(0 if one_row else None)
    count = np.broadcast_to(number, sums.shape).astype(np.int64)
    with np.errstate(invalid="ignore"):  # the caller looks for infinities
        finish(count, shift, sums, squares)
    statistics = torch.from_numpy(count), torch.from_numpy(sums), torch.from_numpy(squares)
    return *statistics, (torch.from_numpy(best), torch.from_numpy(index))


def _first_counted(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """A value of every neuron that counts, float32 [neurons]; 0 where none does."""
    if values.ndim == 3:
        return values[np.unravel_index(counted.argmax(), counted.shape) if counted.size else (0, 0)].copy()
    if not counted.size:
        return values[0].copy()
    first = np.take_along_axis(values, counted.argmax(0)[None], 0)[0]
    return np.where(counted.any(0), first, np.float32(0))


def _samples_in_threads(
    values: np.ndarray, counted: np.ndarray, shift: np.ndarray, scale: np.ndarray, threads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    samples, _, neurons = values.shape
    sums, squares = np.zeros((2, samples, neurons))
    best, index = np.zeros(samples, np.float32), np.zeros(samples, np.int64)

    def scan(number: int, first: int, last: int) -> None:
        scan_samples(values, counted, shift, scale, first, last, sums, squares, best, index)

    in_threads(scan, samples, max(min(threads, samples), 1))
    return sums.sum(0), squares.sum(0), best, index  # samples in their order


def _positions_in_threads(
    values: np.ndarray, counted: np.ndarray, shift: np.ndarray, scale: np.ndarray, threads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    samples, neurons = values.shape
    sums, squares = np.zeros((2, neurons))
    best, index = np.zeros((threads, samples), np.float32), np.zeros((threads, samples), np.int64)

    def scan(number: int, first: int, last: int) -> None:
        scan_positions(values, counted, shift, scale, first, last, sums, squares, best[number], index[number])

    in_threads(scan, neurons, threads)
    first = best.argmax(0)[None]  # the first of equals, in the order of positions
    return sums, squares, np.take_along_axis(best, first, 0)[0], np.take_along_axis(index, first, 0)[0]
