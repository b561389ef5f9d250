"""The monosemantic scale of activations, from running statistics (MEmeL, Definition 3.1, Lemma 3.2, Algorithm 1)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ninscope.errors import RequestError
from ninscope.neurons.inhibition import EPSILON, NEURONS, check_epsilon, check_forget, check_neurons
from ninscope.neurons.memel.scanning import POSITIONS, checked_finite, kept_of, phi_of, rows_of, scan_activations


class MonosemanticScale(nn.Module):
    """phi = (h - mean)^2 / variance of every value, from the mean and variance of its neuron over all earlier batches.

    neurons: "features", a neuron is an index of `feature_dim` and its values are those of all samples and tokens; "positions",
    as in the authors' code, every value of a sample is a neuron of its own, and all batches must have the same shape beyond the
    first dimension. feature_dim: a dimension (default: the last, the hidden size; 1 for images), or a function that tells it from
    the activations' shape, None where it cannot.
    forget: the number of batches n_f after which earlier batches weigh as n_f batches of the present size (Algorithm 1), or as
    what they are where that is less (default: never). epsilon: the denominator is variance + epsilon * the mean variance of the
    layer's neurons that have a variance (appendix E); where the denominator is 0, or a neuron had fewer than two values, its
    scale is not known and phi is 0. shape: of the statistics (default: the first batch sizes them). layer: its name in messages.

    Buffers: mean, variance (n-1 in the denominator; 0 before a second value), float32 [neurons], or
    [sample's shape] of positions; count, int64 alike, values so far; steps, int64, batches so far. They stay float32 whatever
    the model is cast to. In a process group all ranks have the statistics of all their batches together.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor
    steps: Tensor

    def __init__(
        self,
        neurons: str = NEURONS[0],
        feature_dim: int | Callable[[torch.Size], int | None] = -1,
        forget: int | None = None,
        epsilon: float = EPSILON,
        shape: Sequence[int] | None = None,
        layer: str = "MonosemanticScale",
    ) -> None:
        super().__init__()
        check_neurons(neurons)
        check_forget(forget)
        check_epsilon(epsilon)
        self.neurons, self.feature_dim, self.forget, self.epsilon = neurons, feature_dim, forget, epsilon
        self.layer = layer
        for name, dtype in (("mean", torch.float32), ("variance", torch.float32), ("count", torch.int64)):
            self.register_buffer(name, torch.zeros(tuple(shape or (0,)), dtype=dtype))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def extra_repr(self) -> str:
        return f"neurons={self.neurons!r}, forget={self.forget}, epsilon={self.epsilon}"

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """phi of every value, float32 (float64 of float64) of h's shape, from earlier batches; in training mode the batch then
        counts as one of them. mask: as in `observe`; phi of padding is 0.

        Raises RequestError: what `observe` raises.
        """
        phi = self.phi(h, mask)
        if self.training:
            self.observe(h, mask, 0)
        return phi

    @torch.no_grad()
    def phi(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """`forward` without taking the batch into the statistics."""
        dim = self.prepare(h)
        kept = None if mask is None else kept_of(mask, h, dim)
        phi = phi_of(rows_of(h, dim), kept, self.mean.flatten(), self.inverse())
        if dim == POSITIONS:
            return phi.view(h.shape)
        return phi.view(h.movedim(dim, -1).shape).movedim(-1, dim)

    @torch.no_grad()
    def observe(self, h: Tensor, mask: Tensor | None = None, largest: int = 0) -> tuple[Tensor, Tensor]:
        """(phi, index): the `largest` scales of every sample by earlier batches, float32 [samples, largest], and where in
        h.reshape(samples, -1) they are, int64; then the batch is taken into the statistics.

        h: floats [samples, ...]. mask: nonzero where a value counts, over h's leading dimensions ([samples, tokens] of text);
        what is padding has no part in anything. Raises RequestError: another shape than before, a mask that does not fit,
        values that are not finite.
        """
        dim = self.prepare(h)
        kept = None if mask is None else kept_of(mask, h, dim)
        count, mean, variance, phi, index = scan_activations(
            h.detach(), kept, self.mean.flatten(), self.inverse(), dim, largest
        )
        if is_one_of_several():
            count, mean, variance = _over_all_ranks(count, mean, variance, self.mean.flatten())
        self._take_in(count, checked_finite(mean, variance, h.shape[0], self.layer), variance)
        return phi, index

    @torch.no_grad()
    def observe_moments(self, rows: int, mean: Tensor, variance: Tensor) -> None:
        """As `observe`, of a batch of which these are known: float64 [neurons], the variance over `rows`; neurons are features.

        Raises NonFiniteError: as `observe`; RequestError: another number of neurons than before.
        """
        self.prepare(mean[None])
        self._take_in(
            torch.full_like(mean, rows, dtype=torch.int64), checked_finite(mean, variance, rows, self.layer), variance
        )

    def inverse(self) -> Tensor:
        """1 / (variance + epsilon * mean variance), float32 [neurons]; 0 where that is not finite, and of neurons without a
        variance, which need two values and have no part in the mean."""
        known = self.count.flatten() > 1
        variance = torch.where(known, self.variance.flatten(), 0.0)
        denominator = variance + self.epsilon * (variance.sum() / known.sum().clamp(min=1))
        # No scale is known where the denominator has no finite inverse: where it is zero or next to it.
        known &= denominator > torch.finfo(torch.float32).tiny
        return torch.where(known, 1 / denominator, 0.0)

    def dim_of(self, h: Tensor) -> int:
        """The dimension that counts neurons, or POSITIONS. Raises RequestError."""
        if h.ndim < 2 or not h.is_floating_point():
            raise RequestError(
                f"{self.layer}: activations of shape {tuple(h.shape)} and type {h.dtype}; floats of a batch dimension and at "
                "least one more were expected"
            )
        if self.neurons == "positions":
            return POSITIONS
        feature_dim = self.feature_dim(h.shape) if callable(self.feature_dim) else self.feature_dim
        if feature_dim is None:
            raise RequestError(
                f"{self.layer}: activations of shape {tuple(h.shape)} may count features in dimension 1 or in the last; give "
                "feature_dim, or take layers inside it"
            )
        dim = feature_dim + h.ndim if feature_dim < 0 else feature_dim
        if not 1 <= dim < h.ndim:
            raise RequestError(f"{self.layer}: feature_dim {feature_dim} is no dimension of {tuple(h.shape)}")
        return dim

    def prepare(self, h: Tensor) -> int:
        """`dim_of`; the statistics get the size that these activations need. Raises RequestError: they have another size."""
        dim = self.dim_of(h)
        shape = tuple(h.shape[1:]) if dim == POSITIONS else (h.shape[dim],)
        if self.mean.numel() == 0:
            for name in ("mean", "variance", "count"):
                setattr(self, name, torch.zeros(shape, dtype=getattr(self, name).dtype, device=h.device))
        elif tuple(self.mean.shape) != shape:
            mend = (
                "pad all batches to one length, or take neurons = 'features'"
                if dim == POSITIONS
                else "take another layer"
            )
            raise RequestError(
                f"{self.layer}: activations have {shape} neurons, earlier ones had {tuple(self.mean.shape)}; {mend}"
            )
        return dim

    def _take_in(self, count: Tensor, mean: Tensor, variance: Tensor) -> None:
        """Lemma 3.2, or its form with forgetting, in float64: one formula, with another weight of what was before."""
        shape = self.mean.shape
        new = count.double()
        old = self.count.flatten().double()
        if self.forget is not None:
            old = torch.where(self.steps >= self.forget, torch.minimum(new * self.forget, old), old)
        total = (old + new).clamp_(min=1)
        off = mean - self.mean.flatten()
        moved = off * (new / total)
        rest = (total - 1).clamp_(min=1)
        before = (old - 1).clamp_(min=0).mul_(self.variance.flatten())
        joined = (old * moved * off + new * variance + before) / rest
        self.mean.add_(moved.view(shape))
        self.variance.copy_(torch.where(new > 0, joined, self.variance.flatten()).view(shape))
        self.count.add_(count.view(shape))
        self.steps.add_(1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Casting a model moves the statistics with it, and does not round them."""
        before = {name: getattr(self, name) for name in ("mean", "variance")}
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            setattr(self, name, buffer.to(getattr(self, name).device))
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any) -> None:
        """Statistics of any size can be loaded before the first batch, and statistics without a batch can always be."""
        for name in ("mean", "variance", "count"):
            stored, held = state_dict.get(prefix + name), getattr(self, name)
            if stored is not None and 0 in (held.numel(), stored.numel()):
                setattr(self, name, held.new_zeros(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def is_one_of_several() -> bool:
    """Whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _over_all_ranks(count: Tensor, mean: Tensor, variance: Tensor, centre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Statistics of the batches of all ranks together: float64 sums, in one exchange. centre: what all ranks have for a mean so
    far, off which sums lose no digits."""
    number, off = count.double(), mean - centre
    sums = torch.stack([number, number * off, number * (variance + off.square())])
    dist.all_reduce(sums)
    known = sums[0].clamp(min=1)
    off = sums[1] / known
    return sums[0].long(), centre + off, (sums[2] / known - off.square()).clamp(min=0)
