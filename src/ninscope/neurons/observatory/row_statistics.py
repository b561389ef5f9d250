"""Statistics of attention rows, and medians of states, of tensors: by kernels where they lie on the CPU, else by torch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ninscope.neurons.kernel_threads import WORTH_THREADS, in_threads
from ninscope.neurons.observatory.entropy_kernel import add_row_entropies
from ninscope.neurons.observatory.median_kernel import magnitude_medians


@dataclass(frozen=True)
class PatternStatistics:
    """Of an attention pattern a [samples, heads, rows, columns].

    entropies: float64 [heads, rows], the sum over samples of -sum_j a_ij ln a_ij in nats. ahead: some a_ij with j > i is not 0.
    starts: float32 [samples, heads, rows], each row's first entry.
    """

    entropies: np.ndarray
    ahead: bool
    starts: Tensor


def summed_row_entropies(pattern: Tensor) -> tuple[np.ndarray, bool]:
    """`PatternStatistics.entropies` and `ahead`. pattern: floats [samples, heads, rows, columns], none negative."""
    found = pattern_statistics(pattern)
    return found.entropies, found.ahead


def pattern_statistics(pattern: Tensor) -> PatternStatistics:
    """In one pass over the pattern: floats [samples, heads, rows, columns], none negative."""
    pattern = pattern.detach().float().contiguous()
    if pattern.device.type != "cpu":
        return PatternStatistics(*entropies_by_torch(pattern), pattern[..., 0])
    samples, heads, rows, _ = pattern.shape
    sums, values = np.zeros((heads, rows)), pattern.numpy()
    starts = np.empty((samples, heads, rows), np.float32)
    threads = _threads(pattern, heads)
    reached = np.zeros(threads, np.bool_)

    def work(number: int, first: int, last: int) -> None:
        reached[number] = add_row_entropies(values, values.view(np.int32), first, last, sums, starts)

    in_threads(work, heads, threads)
    return PatternStatistics(sums, bool(reached.any()), torch.from_numpy(starts))


def entropies_by_torch(pattern: Tensor) -> tuple[np.ndarray, bool]:
    """As `summed_row_entropies`, of float32 on any device, with an array of the pattern's size beside it."""
    sums = torch.special.entr(pattern).sum(-1).sum(0, dtype=torch.float64)
    return sums.cpu().numpy(), bool(pattern.triu(1).any())


def medians_and_largest(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(the lower middle |x|, as torch.median has it, the largest |x|) of every row, float32 [n] each.

    rows: floats [n, values], finite.
    """
    rows = rows.detach().float().contiguous()
    if rows.device.type != "cpu":
        sizes = rows.abs()
        return sizes.median(1).values, sizes.amax(1)
    bits = rows.view(torch.int32).numpy()
    medians, largest = np.empty((2, len(rows)), np.int32)

    def work(number: int, first: int, last: int) -> None:
        magnitude_medians(bits, first, last, medians, largest)

    in_threads(work, len(rows), _threads(rows, len(rows)))
    return torch.from_numpy(medians.view(np.float32)), torch.from_numpy(largest.view(np.float32))


def _threads(values: Tensor, parts: int) -> int:
    return max(min(torch.get_num_threads(), parts), 1) if values.numel() >= WORTH_THREADS else 1
