"""How alike two representations are: kernel alignment and shape distance, from a bounded number of tokens of each batch.

Both are the same whatever rotation or scaling a representation is seen in. What they compare is always the same tokens,
drawn once.

Kernel alignment (CKA) follows Kornblith, Norouzi, Lee and Hinton, "Similarity of Neural Network Representations Revisited"
(2019), with the unbiased estimator of HSIC of Song, Smola, Gretton, Bedo and Borgwardt, "Feature Selection via Dependence
Maximization" (2012), equation 5, which Nguyen, Raghu and Kornblith, "Do Wide and Deep Networks Learn the Same Things?"
(2021), sum over mini-batches before they divide. The estimator is the inner product of two U-centred kernel matrices
(Szekely and Rizzo 2014), so that all pairs of layers of a batch cost one matrix product. Mini-batches, and not moments
[width, width] of all tokens: these need 2 width^2 operations a token for each pair of layers, a twelfth of what a block of a
transformer computes, and mini-batches need few for any number of pairs.

The shape distance is that of Williams, Kunz, Kornblith and Linderman, "Generalized Shape Metrics on Neural Representations"
(2021), for rotations: the angle between the centred representations after the best rotation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ninscope.neurons.observatory.measure import NEXT_TOKENS, TOKENS, Batch
from ninscope.neurons.observatory.similarity_kernel import u_centre
from ninscope.seeding import keyed_bits

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject

CHOSEN = 128  # tokens of a batch
_COLUMNS = 4096  # of outputs that are looked at together
_FEWEST = 4  # samples: below, the unbiased estimator divides by zero


class Choice:
    """Which samples of a batch are compared.

    Of a model that gives an output for each token: tokens, CHOSEN of each batch, drawn anew for each, the same at every
    checkpoint and layer. The first token of a window is left out, because its massive activations, where there are any,
    would decide a linear kernel alone, and so is the last, which has no next token. Of other models: all samples, each the
    mean over its positions.
    """

    def __init__(self, subject: Subject) -> None:
        self.seed, self.tokens = subject.seed, tokens_are_samples(subject)
        self.next_tokens = NEXT_TOKENS in subject.has
        self._number = -1
        self._where: Tensor | None = None

    def where(self, batch: Batch) -> Tensor | None:
        """int64 [chosen], numbers of tokens in the batch, window after window; None: all samples."""
        if not self.tokens:
            return None
        if batch.number != self._number:
            self._number, self._where = batch.number, self._drawn(batch)
        return self._where

    def _drawn(self, batch: Batch) -> Tensor:
        import torch

        assert batch.tokens is not None
        n, t = batch.tokens.shape
        stop = max(t - 1, 1)
        start = 1 if stop > 1 else 0
        of_window = stop - start
        draw = np.random.Generator(keyed_bits("neurons: tokens that are compared", self.seed, batch.number))
        size = min(CHOSEN, n * of_window)
        drawn = np.sort(draw.choice(n * of_window, size, replace=False, shuffle=False))
        numbers = drawn // of_window * t + start + drawn % of_window
        return torch.from_numpy(numbers.astype(np.int64)).to(batch.tokens.device)

    def rows(self, values: Tensor, batch: Batch) -> Tensor:
        """float64 [samples, features] of values [n, t, features]."""
        where = self.where(batch)
        if where is None:
            return values.double().mean(1)
        return values.reshape(-1, values.shape[-1]).index_select(0, where).double()

    def output_kernel(self, logits: Tensor, batch: Batch) -> Tensor:
        """U-centred float64 [samples, samples] of logits [n, t, vocabulary], less their mean over the vocabulary.

        What is added to all logits of a token changes no probability. Products are summed in float32 over 4,096 columns,
        and these in float64, so that no copy is larger.
        """
        import torch

        flat, where = logits.reshape(-1, logits.shape[-1]), self.where(batch)
        if where is None:
            flat = logits.mean(1)
        kernel, sums, origin = None, None, None
        for first in range(0, flat.shape[1], _COLUMNS):
            part = flat[:, first : first + _COLUMNS]
            part = (part if where is None else part.index_select(0, where)).float()
            # A rough origin of each row costs no digits where all logits of a token are far from 0; the sums do the rest.
            origin = part.mean(1, keepdim=True) if origin is None else origin
            part = part - origin
            part -= part.mean(0)
            product, row_sums = (part @ part.T).double(), part.sum(1, dtype=torch.float64)
            kernel = product if kernel is None else kernel.add_(product)
            sums = row_sums if sums is None else sums.add_(row_sums)
        assert kernel is not None
        assert sums is not None
        return u_centred(kernel.sub_(torch.outer(sums, sums / flat.shape[1])))

    def target_kernel(self, batch: Batch) -> Tensor | None:
        """U-centred float64 [samples, samples]: 1 where two next tokens, or two labels of samples, are the same.

        None where there is nothing to be predicted.
        """
        where = self.where(batch)
        if where is not None and self.next_tokens and batch.tokens is not None and batch.tokens.shape[1] > 1:
            targets = batch.tokens.reshape(-1)[where + 1]
        elif where is None and batch.labels is not None:
            targets = batch.labels
        else:
            return None
        return u_centred((targets[:, None] == targets[None, :]).double())


def tokens_are_samples(subject: Subject) -> bool:
    """Whether the model gives an output for each token of text."""
    if TOKENS not in subject.has or NEXT_TOKENS in subject.has:
        return NEXT_TOKENS in subject.has
    batch = next(iter(subject.batches()))
    one = Batch(0, 0, {name: values[:1] for name, values in batch.inputs.items()})
    return subject.outputs(one).shape[1] == subject.examples.positions


def kernel_of(rows: Tensor) -> Tensor:
    """The U-centred linear kernel, float64 [m, m], of rows [m, features]. It is the same wherever the rows' origin is."""
    centred = rows - rows.mean(0)
    return u_centred(centred @ centred.T)


def u_centred(kernel: Tensor) -> Tensor:
    """A symmetric kernel [m, m], changed in place so that its diagonal is 0 and so is every sum of a row.

    Its inner product with another's, over m (m - 3), is the unbiased estimator of HSIC.
    """
    m = len(kernel)
    if m < _FEWEST:
        return kernel.zero_()  # nothing can be said of fewer
    if kernel.device.type == "cpu" and kernel.is_contiguous():
        u_centre(kernel.numpy())
        return kernel
    kernel.fill_diagonal_(0)
    of_rows = kernel.sum(1).div_(m - 2)
    kernel.sub_(of_rows[:, None]).sub_(of_rows - of_rows.sum() / (m - 1))
    return kernel.fill_diagonal_(0)


class KernelSums:
    """Inner products of kernels, summed over batches: alignment of each pair of representations.

    samples: how many tokens or samples were seen, those of batches with fewer than 4 left out.
    """

    def __init__(self) -> None:
        self.samples = 0
        self._sums: np.ndarray | None = None

    def add(self, kernels: Sequence[Tensor]) -> None:
        """kernels: U-centred, of the same samples, one of each representation, in the same order each time."""
        import torch

        m = len(kernels[0])
        if m < _FEWEST:
            return
        flat = torch.stack([kernel.reshape(-1) for kernel in kernels])
        products = (flat @ flat.T).cpu().numpy()
        self._sums = products if self._sums is None else self._sums + products
        self.samples += m

    def alignment(self, first: int, second: int) -> float:
        """Debiased CKA of two representations: 1 for the same up to rotation and scale, about 0 for independent ones, where
        it may be negative. NaN: too few samples, or a representation that is constant."""
        if self._sums is None:
            return math.nan
        norms = float(self._sums[first, first] * self._sums[second, second])
        return float(self._sums[first, second]) / math.sqrt(norms) if norms > 0 else math.nan


class ShapeSums:
    """Moments of two representations of the same samples, [m, d] and [m, e]: the angle between their shapes.

    Values are counted from the first batch's mean, so that a far origin costs no digits.
    """

    def __init__(self) -> None:
        self.samples = 0

    def add(self, rows: Tensor, others: Tensor) -> None:
        """rows, others: float64."""
        if self.samples == 0:
            self._origins = rows.mean(0), others.mean(0)
            self._cross = rows.new_zeros(rows.shape[1], others.shape[1])
            self._sums = rows.new_zeros(rows.shape[1]), others.new_zeros(others.shape[1])
            self._squares = [0.0, 0.0]
        shifted = rows - self._origins[0], others - self._origins[1]
        self._cross.addmm_(shifted[0].T, shifted[1])
        for side, part in enumerate(shifted):
            self._sums[side].add_(part.sum(0))
            self._squares[side] += float(part.square().sum())
        self.samples += len(rows)

    def distance(self) -> float:
        """Radians, from 0 (the same up to rotation, shift and scale) to pi / 2; of different widths as with zeros appended.

        NaN: a representation that is constant. Finite samples make it too small, the more so the wider the representations.
        """
        import torch

        if self.samples == 0:
            return math.nan
        n, (sums, others) = self.samples, self._sums
        cross = self._cross - torch.outer(sums, others) / n
        squares = [
            square - float(part.square().sum()) / n for square, part in zip(self._squares, self._sums, strict=True)
        ]
        if min(squares) <= 0:
            return math.nan
        closeness = float(torch.linalg.svdvals(cross).sum()) / math.sqrt(squares[0]) / math.sqrt(squares[1])
        return math.acos(min(closeness, 1.0))
