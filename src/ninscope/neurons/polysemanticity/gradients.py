"""Gradients of all neurons by all features: exact ones of linear models, integrated ones of others.

The integrated gradient of a neuron by feature i is the mean of its partial derivative by feature i on the way from a baseline to
the baseline with feature i raised by 1, at the parts k / steps of it, k = 1 to steps: a right Riemann sum (the thesis
"polysemanticity under pruning", Definition 12 and section 3.3.2; docs/method.md). The thesis asks captum for one neuron and one
feature at a time, which runs a model backwards. All neurons change together when one feature does, so one pass forwards with its
derivative along the feature's axis (forward-mode differentiation) gives the column of all neurons, and features and steps are
rows of one batch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from ninscope.checks import checked_integer
from ninscope.errors import NonFiniteError, RequestError, described
from ninscope.neurons.polysemanticity.given_arrays import given_floats
from ninscope.neurons.polysemanticity.measures import STEPS
from ninscope.neurons.polysemanticity.model_neurons import ModelNeurons
from ninscope.neurons.watching import evaluation_mode

Neurons = Callable[[Tensor], Tensor]
_Slopes = Callable[[Neurons, Tensor, Tensor], Tensor]  # as `_forward_slopes`

METHODS = ("forward", "reverse", "captum")
_MOST = 2**24


def feature_gradients(
    neurons: Neurons,
    features: int,
    *,
    linear: bool = False,
    steps: int = STEPS,
    baseline: Any = None,
    method: str = METHODS[0],
    batch_size: int = 512,
) -> np.ndarray:
    """The gradient of every neuron by every feature, float64 [neurons, features].

    neurons: gives from features [batch, features] the activations [batch, neurons], each row by itself; `neurons_of` makes it of
    a model. linear: neurons are linear in features, so that one partial derivative, at the baseline, is exact; else integrated
    gradients. steps: points on the way of each feature. baseline: float [features], an array or a tensor (default: zeros); a
    tensor's type and device are those of the features that neurons are given, unless a model's are known. batch_size: rows of
    features that neurons are given at once, which bounds memory; the rounding of results depends on it.

    method: "forward", forward-mode differentiation. "reverse", one pass backwards a neuron, for what has no derivative in forward
    mode. "captum", one call of captum's NeuronIntegratedGradients (or NeuronGradient, if linear) a neuron and feature: the slow
    reference.

    Raises RequestError: a value out of its range; neurons fail on so many features, give no [batch, neurons] or something else
    each time, do not depend on features in a way that torch can differentiate, or not by this method; captum is not installed.
    Raises NonFiniteError: a gradient is not finite.
    """
    checked_integer("features", features, 1, _MOST)
    checked_integer("steps", steps, 2 if method == "captum" else 1, _MOST)  # captum takes no single step
    checked_integer("batch_size", batch_size, 1, _MOST)
    if method not in METHODS:
        raise RequestError(f"method is {method!r}; one of {', '.join(METHODS)} was expected")
    mode = evaluation_mode(neurons) if isinstance(neurons, nn.Module) else nullcontext()
    with torch.inference_mode(False), mode:
        start = _start(neurons, features, baseline)
        width = _checked_width(neurons, start)
        with _told(method):
            if method == "captum":
                found = _by_captum(neurons, start, width, 0 if linear else steps)
            else:
                parts = torch.zeros(1) if linear else torch.arange(1, steps + 1, dtype=torch.float64) / steps
                found = _mean_slopes(neurons, start, parts.to(start), _SLOPES[method], batch_size, width)
    if not np.isfinite(found).all():
        neuron, feature = np.argwhere(~np.isfinite(found))[0]
        raise NonFiniteError(
            f"the gradient of neuron {neuron} by feature {feature} is not finite (NaN or infinity); look at the model's weights"
        )
    return found


def _start(neurons: Neurons, features: int, baseline: Any) -> Tensor:
    """The baseline [features], of the type and on the device of the model that reads it."""
    like = neurons.like if isinstance(neurons, ModelNeurons) else torch.empty(0, dtype=torch.float32)
    if baseline is None:
        return torch.zeros(features, dtype=like.dtype, device=like.device)
    if isinstance(baseline, Tensor) and baseline.is_floating_point() and not isinstance(neurons, ModelNeurons):
        like = baseline
    given = baseline if isinstance(baseline, Tensor) else given_floats(baseline, "numbers of baseline")
    start = torch.as_tensor(given, dtype=like.dtype, device=like.device).detach().clone()
    if start.shape != (features,):
        raise RequestError(
            f"baseline has the shape {list(start.shape)}; [{features}] was expected, a number for each feature"
        )
    if not torch.isfinite(start).all():
        raise RequestError("baseline is not finite (NaN or infinity); give numbers")
    return start


def _checked_width(neurons: Neurons, start: Tensor) -> int:
    """How many neurons there are, from a run at the baseline."""
    try:
        with torch.no_grad():
            once, again = neurons(start[None].clone()), neurons(start[None].clone())
    except RequestError:
        raise
    except Exception as error:  # of somebody else's code, which may raise anything
        raise RequestError(f"neurons cannot be computed from {len(start)} features: {described(error)}") from error
    if not isinstance(once, Tensor) or once.ndim != 2 or len(once) != 1 or not once.is_floating_point():
        shape = f"{once.dtype} {list(once.shape)}" if isinstance(once, Tensor) else type(once).__name__
        raise RequestError(f"neurons give {shape} for one row of features; floats [1, neurons] were expected")
    if not torch.allclose(once, again, rtol=1e-3, atol=1e-6, equal_nan=True):
        raise RequestError(
            "neurons give something else each time for the same features; put the model into evaluation mode"
        )
    return once.shape[1]


@contextmanager
def _told(method: str) -> Iterator[None]:
    """An error of torch is a request that torch cannot meet: the neurons themselves have been computed before."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        instead = '; give method="reverse"' if method == "forward" else ""
        raise RequestError(
            f"torch cannot differentiate these neurons (method {method!r}): {reason}{instead}"
        ) from error


def _mean_slopes(
    neurons: Neurons, start: Tensor, parts: Tensor, slopes: _Slopes, batch_size: int, width: int
) -> np.ndarray:
    """float64 [neurons, features]. parts: float [steps], how far each feature is raised."""
    found = torch.empty((width, len(start)), dtype=torch.float64)
    at_once = max(batch_size // len(parts), 1)
    for features in torch.arange(len(start), device=start.device).split(at_once):
        sums = torch.zeros((len(features), width), dtype=torch.float64)
        for raised in parts.split(batch_size):
            directions = nn.functional.one_hot(features, len(start)).to(start).repeat_interleave(len(raised), dim=0)
            points = start + directions * raised.repeat(len(features))[:, None]
            of_rows = slopes(neurons, points, directions).cpu()
            sums += of_rows.view(len(features), len(raised), width).sum(1, dtype=torch.float64)
        found[:, features.cpu()] = sums.T / len(parts)
    return found.numpy()


def _forward_slopes(neurons: Neurons, points: Tensor, directions: Tensor) -> Tensor:
    """[rows, neurons]: the derivative at each point along its direction. points, directions: [rows, features]."""
    with torch.no_grad(), _attention_written_out(), forward_ad.dual_level():
        slopes = forward_ad.unpack_dual(neurons(forward_ad.make_dual(points, directions))).tangent
        if slopes is None:
            raise _independent()
        return slopes


@contextmanager
def _attention_written_out() -> Iterator[None]:
    """Fused attention has no derivative in forward mode; its formula, operation by operation, has one."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _reverse_slopes(neurons: Neurons, points: Tensor, directions: Tensor) -> Tensor:
    """As `_forward_slopes`."""
    with torch.enable_grad():
        points.requires_grad_()
        columns = neurons(points).sum(0)
        by_neuron = [_own_gradient(column, points) for column in columns]
    if all(gradient is None for gradient in by_neuron):
        raise _independent()
    zero = torch.zeros_like(points)
    return torch.stack([((zero if found is None else found) * directions).sum(1) for found in by_neuron], dim=1)


def _own_gradient(column: Tensor, points: Tensor) -> Tensor | None:
    if not column.requires_grad:
        return None
    return torch.autograd.grad(column, points, retain_graph=True, allow_unused=True)[0]


def _independent() -> RequestError:
    return RequestError(
        "torch sees no way from features to neurons; on it may stand detach(), numpy, or in reverse mode no_grad(): leave them out"
    )


_SLOPES: dict[str, _Slopes] = {"forward": _forward_slopes, "reverse": _reverse_slopes}


class _Captured(nn.Module):
    """Neurons as the layer of a module, where captum looks for them."""

    def __init__(self, neurons: Neurons) -> None:
        super().__init__()
        self.compute, self.layer = (neurons,), nn.Identity()  # in a tuple, so that a model is no part of this module

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(self.compute[0](features))


def _by_captum(neurons: Neurons, start: Tensor, width: int, steps: int) -> np.ndarray:
    """float64 [neurons, features]. steps: 0 for partial derivatives at the baseline."""
    try:
        from captum.attr import NeuronGradient, NeuronIntegratedGradients
    except ImportError:
        raise RequestError(
            "method 'captum' needs captum, which is not installed: pip install 'ninscope[polysemanticity]'"
        ) from None
    captured = _Captured(neurons)
    found = np.empty((width, len(start)))
    for feature, unit in enumerate(torch.eye(len(start)).to(start)):
        for neuron in range(width):
            if steps:
                point, origin = (start + unit)[None].requires_grad_(), start[None]
                integrated = NeuronIntegratedGradients(captured, captured.layer)
                gradient = integrated.attribute(point, neuron, origin, n_steps=steps, method="riemann_right")
            else:
                gradient = NeuronGradient(captured, captured.layer).attribute(start[None].requires_grad_(), neuron)
            found[neuron, feature] = gradient[0, feature].item()
    return found
