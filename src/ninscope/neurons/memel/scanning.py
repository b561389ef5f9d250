"""What one batch of activations says: mean and variance of every neuron, and each sample's largest monosemantic scales.

An operator of its own, `torch.ops.ninscope.scan_activations`, so that torch.compile takes it as it is. Statistics of float32 on
the CPU, and the largest scale of each sample with them, are one pass of `kernels`; everything else is torch's.
"""

import itertools
import os
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ninscope.errors import NonFiniteError, RequestError
from ninscope.neurons.memel.kernels import finish, scan_positions, scan_samples

POSITIONS = 0  # as a neuron dimension: every value but the batch's is a neuron of its own
_WORTH_THREADS = 1 << 17  # values, for which waking a thread costs little beside the work


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
    """(count, mean, variance, phi, place) of a batch.

    h: floats, [samples, ...]. kept: of `kept_of`, or None. mean, inverse: float32 [neurons], of the statistics so far; phi of a
    value is (h - mean)^2 * inverse. dim: the dimension of h that counts neurons, or POSITIONS. count: int64 [neurons], mean,
    variance (with the count as denominator): float64 [neurons], of the batch. phi, place: float32, int64 [samples, largest],
    the largest scales of every sample and where in h.reshape(samples, -1) they are, descending.
    """
    rows = rows_of(h, dim)
    if h.device.type == "cpu" and h.dtype == torch.float32 and dim in (POSITIONS, h.ndim - 1):
        found = _scan_in_one_pass(rows.detach(), kept, mean, inverse, largest)
    else:
        found = _statistics(rows, kept)
    if len(found) == 3:
        phi, place = phi_of(rows, kept, mean, inverse).flatten(1).topk(largest, dim=1)
        found = *found, phi.float(), _place_in(h, dim, place) if 0 < dim < h.ndim - 1 else place
    return found


@scan_activations.register_fake
def _(h, kept, mean, inverse, dim, largest):
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
    """The mean of a batch. Raises NonFiniteError: it, or the variance, is not finite, so some value was not, padding aside.

    After all ranks' batches are one, so that all of them raise, and none waits for another that has.
    """
    if not bool(torch.isfinite(mean).all() & torch.isfinite(variance).all()):
        raise NonFiniteError(
            f"{layer}: activations are not finite (NaN or infinity) in a batch of {samples}; lower the learning rate, or look "
            "for what overflows before this layer"
        )
    return mean.clone()


@checked_finite.register_fake
def _(mean, variance, samples, layer):
    return torch.empty_like(mean)


def phi_of(rows: Tensor, kept: Tensor | None, mean: Tensor, inverse: Tensor) -> Tensor:
    """(h - mean)^2 * inverse of every value, float32 (float64 of float64) of the shape of `rows`; 0 of padding, whatever it
    holds. The one array of that size."""
    phi = (rows - mean).square_().mul_(inverse)
    return phi if kept is None else phi.masked_fill_(~kept, 0)


def _statistics(rows: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """In two passes, so that a large mean costs no digits; one array of the size of `rows` beside it."""
    samples, each, neurons = rows.shape
    off = rows.to(torch.promote_types(rows.dtype, torch.float32), copy=True)
    if kept is None:
        count = torch.full((neurons,), samples * each, dtype=torch.int64, device=rows.device)
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


def _place_in(h: Tensor, dim: int, place: Tensor) -> Tensor:
    """Places in rows x neurons as places in h.reshape(samples, -1), where neurons are not the last dimension."""
    neurons, after = h.shape[dim], h.shape[dim + 1 :].numel()
    row, neuron = place // neurons, place % neurons
    return (row // after * neurons + neuron) * after + row % after


def _scan_in_one_pass(
    rows: Tensor, kept: Tensor | None, mean: Tensor, inverse: Tensor, largest: int
) -> tuple[Tensor, ...]:
    """(count, mean, variance) by the kernels, and (phi, place) where no more than one a sample is asked. Split over torch's
    threads; no bit depends on how many they are."""
    values = rows.contiguous().numpy()
    of_positions = values.shape[1] == 1
    values = values[:, 0] if of_positions else values
    counted = np.zeros((rows.shape[0], 0), np.bool_)
    if kept is not None:
        counted = (kept[:, 0].expand(values.shape) if of_positions else kept[..., 0]).contiguous().numpy()
    shift, scale = mean.numpy(), inverse.numpy()
    if values.size and not scale.all():
        # Where nothing is known yet: near the values, or squares of a large mean drown the variance.
        shift = np.where(scale > 0, shift, _first_counted(values, counted))
    every = rows.shape[0] * rows.shape[1]
    count = every if kept is None else counted.sum(0 if of_positions else None)
    threads = torch.get_num_threads() if values.size >= _WORTH_THREADS else 1
    scan = _positions_in_threads if of_positions else _samples_in_threads
    sums, squares, best, place = scan(values, counted, shift, scale, threads)
    count = np.broadcast_to(count, sums.shape).astype(np.int64)
    with np.errstate(invalid="ignore"):  # infinities are found by whoever called
        finish(count, shift, sums, squares)
    statistics = torch.from_numpy(count), torch.from_numpy(sums), torch.from_numpy(squares)
    if largest > 1:
        return statistics
    return *statistics, torch.from_numpy(best[:, None][:, :largest]), torch.from_numpy(place[:, None][:, :largest])


def _first_counted(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Of every neuron a value that counts, float32 [neurons]; 0 where none does."""
    if values.ndim == 3:
        return values[np.unravel_index(counted.argmax(), counted.shape) if counted.size else (0, 0)].copy()
    if not counted.size:
        return values[0].copy()
    found = np.take_along_axis(values, counted.argmax(0)[None], 0)[0]
    return np.where(counted.any(0), found, np.float32(0))


def _samples_in_threads(values, counted, shift, scale, threads: int):
    samples, _, neurons = values.shape
    sums, squares = np.zeros((2, samples, neurons))
    best, place = np.zeros(samples, np.float32), np.zeros(samples, np.int64)

    def scan(number: int, first: int, last: int) -> None:
        scan_samples(values, counted, shift, scale, first, last, sums, squares, best, place)

    _in_threads(scan, samples, max(min(threads, samples), 1))
    return sums.sum(0), squares.sum(0), best, place  # samples in their order


def _positions_in_threads(values, counted, shift, scale, threads: int):
    samples, neurons = values.shape
    sums, squares = np.zeros((2, neurons))
    best, place = np.zeros((threads, samples), np.float32), np.zeros((threads, samples), np.int64)

    def scan(number: int, first: int, last: int) -> None:
        scan_positions(values, counted, shift, scale, first, last, sums, squares, best[number], place[number])

    _in_threads(scan, neurons, threads)
    first = best.argmax(0)[None]  # of equals the first, in the order of positions
    return sums, squares, np.take_along_axis(best, first, 0)[0], np.take_along_axis(place, first, 0)[0]


def _in_threads(scan, size: int, threads: int) -> None:
    """scan(number, first, last) of each of so many parts of 0..size-1, the first in this thread."""
    bounds = np.linspace(0, size, threads + 1).astype(int).tolist()
    parts = [(number, *pair) for number, pair in enumerate(itertools.pairwise(bounds))]
    futures: list[Future] = [_pool(os.getpid(), threads).submit(scan, *part) for part in parts[1:]]
    scan(*parts[0])
    for future in futures:
        future.result()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Of this process: threads do not survive a fork."""
    return ThreadPoolExecutor(max(threads - 1, 1), thread_name_prefix="memel")
