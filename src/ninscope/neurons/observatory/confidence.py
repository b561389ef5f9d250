"""What one neuron of the last layer does to the next token's distribution: directly, and through the scale of the final norm.

Logits are U c(x) / s(x) + constant, with x the last residual stream, c(x) = x less its mean (LayerNorm) or x (RMSNorm), s(x)
the root of mean c(x)^2 + epsilon, and U the unembedding with the norm's gain. A neuron's activation that is d larger adds d w to
x. So its logits come from the ones that are there, without another pass: with the scale that follows, or with the old one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ninscope.neurons.observatory.final_norm import FinalNorm

BLOCK = 2**18  # numbers that are worked on at a time: more no longer stay in the processor's cache


@dataclass(frozen=True)
class Directions:
    """What logits make of directions of the stream. rows: float64 [width, width], the mean of U_v U_v^T over the vocabulary.
    cosines: the covariance of U_v / ||U_v||. U's mean over the vocabulary is taken out first, as it moves all logits alike.
    """

    rows: Tensor
    cosines: Tensor

    @staticmethod
    def of(unembedding: Tensor) -> Directions:
        """unembedding: float32 [vocabulary, width]."""
        mean = unembedding.mean(0, dtype=torch.float64)
        width = len(mean)
        rows, cosines = mean.new_zeros(width, width), mean.new_zeros(width, width)
        unit_mean = torch.zeros_like(mean)
        for part in unembedding.split(max(BLOCK // width, 1)):
            centred = (part - mean).float()  # products in float32, sums of blocks in float64
            unit = centred / centred.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
            rows += centred.T @ centred
            cosines += unit.T @ unit
            unit_mean += unit.sum(0, dtype=torch.float64)
        unit_mean /= len(unembedding)
        return Directions(rows / len(unembedding), cosines / len(unembedding) - torch.outer(unit_mean, unit_mean))

    def logit_variances(self, weights: Tensor) -> Tensor:
        """Var over the vocabulary of the cosine between what a neuron writes and each token's row of U; float64 [neurons].

        weights: float32 [width, neurons]. A neuron that writes nothing has NaN.
        """
        double = weights.double()
        return ((self.cosines @ double) * double).sum(0).clamp_min(0) / double.square().sum(0)

    def null_shares(self, weights: Tensor, count: int) -> Tensor:
        """Which part of ||w|| lies in the directions that logits depend on least; float64 [neurons], 0 to 1, or NaN.

        weights: as above. count: how many directions, those of U's smallest singular values.
        """
        least = torch.linalg.eigh(self.rows).eigenvectors[:, :count]
        double = weights.double()
        return (least.T @ double).norm(dim=0) / double.norm(dim=0)


def constant_logits(stream: Tensor, logits: Tensor, unembedding: Tensor, norm: FinalNorm) -> tuple[Tensor, float]:
    """What logits hold beside the product with the normalised stream, float32 [vocabulary], and how far any is off at most.

    stream: float32 [positions, width]. logits: float32 [positions, vocabulary].
    """
    rest = logits - tail(stream, unembedding, norm)
    constant = rest.mean(0)
    return constant, (rest - constant).abs().max().item()


def tail(stream: Tensor, unembedding: Tensor, norm: FinalNorm) -> Tensor:
    """U c(x) / s(x), float32 [positions, vocabulary]."""
    centred = norm.centre(stream)
    return (centred / norm.scales(centred.square().mean(-1, keepdim=True))) @ unembedding.T


def entropy_and_loss(logits: Tensor, targets: Tensor, scratch: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Entropy of the next token and cross-entropy of the one that follows, nats, [positions].

    logits: float32 [positions, vocabulary]. targets: int64 [positions]. scratch: of the logits' shape, is written over.
    """
    highest = logits.amax(-1, keepdim=True)
    powers = torch.sub(logits, highest, out=scratch).exp_()
    total = powers.sum(-1)
    log_total = total.log() + highest[:, 0]
    entropy = log_total - torch.linalg.vecdot(powers, logits) / total
    return entropy, log_total - logits.gather(-1, targets[:, None])[:, 0]


class Shifts:
    """Sums of what happens at all positions when single neurons are fixed.

    weights: float32 [width, neurons], what each writes, `centre`d. unembedding, constant: of the logits. values: float32
    [variants, neurons], what a neuron is fixed at, one after the other. frozen: [variants], whether the norm's scale stays.
    sums: float64 [variants, neurons, 4]: changes of entropy and loss, and their absolute values. count: of positions.
    """

    def __init__(
        self,
        weights: Tensor,
        unembedding: Tensor,
        constant: Tensor,
        norm: FinalNorm,
        values: Tensor,
        frozen: list[bool],
    ) -> None:
        self.weights, self.constant, self.norm = weights, constant, norm
        self.values, self.frozen = values, frozen
        self.directions = (unembedding @ weights).T.contiguous()  # [neurons, vocabulary]
        self.squares = weights.double().square().mean(0)
        self.sums = torch.zeros(*values.shape, 4, dtype=torch.float64, device=values.device)
        self.count = 0

    def add(self, rows: Tensor, stream: Tensor, hidden: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Some positions. rows: int64, their numbers in the next three, which are of all. stream: [all, width]. hidden: [all,
        neurons], of these neurons. logits: [all, vocabulary]. targets: int64 [positions]."""
        step = max(BLOCK // logits.shape[1], 1)
        for part, target in zip(rows.split(step), targets.split(step), strict=True):
            self._add(stream[part].float(), hidden[part].float(), logits[part].float(), target)
        self.count += len(rows)

    def _add(self, stream: Tensor, hidden: Tensor, logits: Tensor, targets: Tensor) -> None:
        centred = self.norm.centre(stream)
        before = centred.double().square().mean(-1)
        scale = self.norm.scales(before)
        beside = (centred @ self.weights).double() / stream.shape[1]  # mean of c(x) w: [positions, neurons]
        entropy, loss = entropy_and_loss(logits, targets)
        free = logits - self.constant
        moved, scratch = torch.empty_like(free), torch.empty_like(free)
        for neuron in range(hidden.shape[1]):
            for variant, frozen in enumerate(self.frozen):
                added = self.values[variant, neuron].double() - hidden[:, neuron].double()
                after = before + 2 * added * beside[:, neuron] + added.square() * self.squares[neuron]
                new = scale if frozen else self.norm.scales(after.clamp_min(0))
                torch.mul(free, (scale / new).float()[:, None], out=moved)
                moved.addcmul_((added / new).float()[:, None], self.directions[neuron])
                moved += self.constant
                new_entropy, new_loss = entropy_and_loss(moved, targets, scratch)
                changes = torch.stack([new_entropy - entropy, new_loss - loss]).double()
                self.sums[variant, neuron] += torch.cat([changes.sum(1), changes.abs().sum(1)])
