"""MEmeL as a layer: monosemantic values are replaced by their neuron's mean (MEmeL, sections 3.2 and 3.3, Algorithm 2)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ninscope.errors import RequestError
from ninscope.neurons.inhibition import EPSILON, LATE_START, METHODS, NEURONS, SELECT, check_late_start, check_method
from ninscope.neurons.memel.scale import MonosemanticScale, is_one_of_several
from ninscope.neurons.memel.scanning import POSITIONS, kept_of, rows_of
from ninscope.neurons.selection import NeuronSelection


class MEmeL(nn.Module):
    """Deactivates the most monosemantic values of every sample while training; in evaluation mode it is the identity.

    method: what a deactivated value's gradient becomes: "reversed" (Reversed Deactivation, h' = -h + (mean + h) without
    gradient: -1 times what comes), "naive_mean" (h' = mean: none), "naive_shift" (h' = h + (mean - h) without gradient: as it
    is). All three give the mean. select: which values of every sample, as `NeuronSelection.of` says. late_start: the number of
    batches that only give statistics (Algorithm 2 prints the condition the other way round; appendix E's text counts).
    neurons, feature_dim, forget, epsilon, shape: as in `MonosemanticScale`, whose buffers are this layer's only state.
    layer: its name in messages.

    Output: of h's shape, dtype and device. Raises RequestError: arguments that make no sense, and what
    `MonosemanticScale.observe` raises.
    """

    def __init__(
        self,
        method: str = "reversed",
        select: NeuronSelection | str | Mapping[str, float] = SELECT,
        late_start: int = LATE_START,
        neurons: str = NEURONS[0],
        feature_dim: int | Callable[[torch.Size], int | None] = -1,
        forget: int | None = None,
        epsilon: float = EPSILON,
        shape: Sequence[int] | None = None,
        layer: str = "MEmeL",
    ) -> None:
        super().__init__()
        check_method(method)
        check_late_start(late_start)
        self.method, self.late_start = method, late_start
        self.selection = NeuronSelection.of(select)
        self.scale = MonosemanticScale(neurons, feature_dim, forget, epsilon, shape, layer)

    @property
    def layer(self) -> str:
        return self.scale.layer

    def extra_repr(self) -> str:
        return f"method={self.method!r}, select={self.selection.kind} {self.selection.amount}, late_start={self.late_start}"

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """h with its most monosemantic values at their means. h: floats [samples, ...]; mask: nonzero where a value counts, over
        leading dimensions of h ([samples, tokens] of text)."""
        if not self.training:
            return h
        if h.numel() == 0:
            if is_one_of_several():  # the others wait for this rank's statistics, even of no values
                self.scale.observe(h, mask)
            return h
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            raise RequestError(
                f"{self.layer}: passed again while gradients are computed (activation checkpointing), which would count the batch "
                "twice; leave this layer out of it"
            )
        if self.selection.kind == "threshold":
            return self._above_threshold(h, mask)
        scale = self.scale
        with torch.no_grad():
            dim = scale.prepare(h)
            values = h[0].numel()
            most = self.selection.most(values)
            started = scale.steps >= self.late_start  # before this batch counts
            means = scale.mean.flatten().clone()
            phi, index = scale.observe(h, mask, most)
            chosen = (phi > 0) & started
            if self.selection.kind == "fraction" and mask is not None:
                counted = kept_of(mask, h, dim).expand(rows_of(h, dim).shape).sum((1, 2))
                chosen &= torch.arange(most, device=h.device) < self.selection.fraction_of(counted)[:, None]
            mean = means[_neuron_of(h, dim, index)].to(h.dtype)
            value = torch.where(chosen, mean, h.detach().reshape(h.shape[0], -1).gather(1, index))
            factor = torch.where(chosen, METHODS[self.method], 1.0).to(h.dtype)
        replaced: Tensor = _ReplaceAtIndices.apply(h, index, value, factor, self.method == "naive_shift")
        return replaced

    def _above_threshold(self, h: Tensor, mask: Tensor | None) -> Tensor:
        scale = self.scale
        with torch.no_grad():
            dim = scale.prepare(h)
            started = scale.steps >= self.late_start
            mean = scale.mean.clone()
            chosen = (scale.phi(h, mask) > self.selection.amount) & started
            scale.observe(h, mask, 0)
            if dim != POSITIONS:
                mean = mean.view([-1] + [1] * (h.ndim - 1 - dim))
        replaced: Tensor = _ReplaceChosen.apply(h, chosen, mean.to(h.dtype), METHODS[self.method])
        return replaced


def _neuron_of(h: Tensor, dim: int, index: Tensor) -> Tensor:
    """The neuron that an index of h.reshape(samples, -1) belongs to."""
    return index if dim == POSITIONS else index // h.shape[dim + 1 :].numel() % h.shape[dim]


class _ReplaceAtIndices(torch.autograd.Function):
    """h with values [samples, k] at indices [samples, k] of h.reshape(samples, -1), whose gradients are multiplied by factor."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, index: Tensor, value: Tensor, factor: Tensor, unchanged: bool) -> Tensor:
        ctx.save_for_backward(index, factor)
        ctx.unchanged = unchanged
        out = h.clone(memory_format=torch.contiguous_format)
        out.view(h.shape[0], -1).scatter_(1, index, value)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        if ctx.unchanged:
            return grad, None, None, None, None
        index, factor = ctx.saved_tensors
        flat = grad.flatten(1)
        return flat.scatter(1, index, flat.gather(1, index) * factor).view(grad.shape), None, None, None, None


class _ReplaceChosen(torch.autograd.Function):
    """h with its chosen values at their means, whose gradients are multiplied by factor."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, chosen: Tensor, mean: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(chosen)
        ctx.factor = factor
        return torch.where(chosen, mean, h)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (chosen,) = ctx.saved_tensors
        return (grad if ctx.factor == 1 else torch.where(chosen, grad * ctx.factor, grad)), None, None, None
