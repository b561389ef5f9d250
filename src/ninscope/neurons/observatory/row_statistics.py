"""Entropies of attention rows and medians of states, of tensors: by kernels where they lie on the CPU, else by torch."""

import numpy as np
import torch
from torch import Tensor

from ninscope.neurons.kernel_threads import WORTH_THREADS, in_threads
from ninscope.neurons.observatory.entropy_kernel import add_row_entropies
from ninscope.neurons.observatory.median_kernel import magnitude_medians


def summed_row_entropies(pattern: Tensor) -> tuple[np.ndarray, bool]:
    """(the sum over samples of -sum_j a_ij ln a_ij in nats, whether some a_ij with j > i is not 0).

    pattern: floats [samples, heads, rows, columns], none negative. The sums: float64 [heads, rows].
    """
    pattern = pattern.detach().float().contiguous()
    if pattern.device.type != "cpu":
        return entropies_by_torch(pattern)
    heads, rows = pattern.shape[1:3]
    sums, values = np.zeros((heads, rows)), pattern.numpy()
    threads = _threads(pattern, heads)
    reached = np.zeros(threads, np.bool_)

    def work(number: int, first: int, last: int) -> None:
        reached[number] = add_row_entropies(values, values.view(np.int32), first, last, sums)

    in_threads(work, heads, threads)
    return sums, bool(reached.any())


def entropies_by_torch(pattern: Tensor) -> tuple[np.ndarray, bool]:
    """As `summed_row_entropies`, of float32 on any device, with an array of the pattern's size beside it."""
    sums = torch.special.entr(pattern).sum(-1).sum(0, dtype=torch.float64)
    return sums.cpu().numpy(), bool(pattern.triu(1).any())


def medians_of_magnitudes(rows: Tensor) -> Tensor:
    """The lower middle |x| of every row, float32 [n], as torch.median has it. rows: floats [n, values], finite."""
    rows = rows.detach().float().contiguous()
    if rows.device.type != "cpu":
        return rows.abs().median(1).values
    bits, medians = rows.view(torch.int32).numpy(), np.empty(len(rows), np.int32)

    def work(number: int, first: int, last: int) -> None:
        magnitude_medians(bits, first, last, medians)

    in_threads(work, len(rows), _threads(rows, len(rows)))
    return torch.from_numpy(medians.view(np.float32))


def _threads(values: Tensor, parts: int) -> int:
    return max(min(torch.get_num_threads(), parts), 1) if values.numel() >= WORTH_THREADS else 1
