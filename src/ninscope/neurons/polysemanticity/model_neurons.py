"""The neurons of any model as one function of features, which `feature_gradients` differentiates.

Hooks see what modules give. Which activation module belongs to a layer is not read from the order of modules, which says little
of a model that is not sequential: it is the one that is given the tensor that the layer gave.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import activation as activations
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from ninscope.checks import did_you_mean
from ninscope.errors import RequestError
from ninscope.neurons.memel.finding import feature_dim_of
from ninscope.neurons.watching import activations_of, evaluation_mode
from ninscope.wording import first_names

_BETWEEN = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, _DropoutNd, nn.Identity)


def neurons_of(
    model: nn.Module, layers: str | Sequence[str] | None = None, encode: Callable[[Tensor], Any] | None = None
) -> "ModelNeurons":
    """All neurons of a model's layers, as a function of features that `feature_gradients` takes.

    model: takes one tensor, whose first dimension is the batch. layers: names of modules, as in model.named_modules(); None: every
    Linear and convolution layer but the last in the order of named_modules(), which is taken for the output. encode: gives the
    model's input from features [batch, features]; None: features are the input. Modules among the two run in evaluation mode.

    A Linear or convolution layer stands for its neurons: what the activation module that is given its output makes of it, also
    through normalisation, dropout or pooling; its own output, if no activation module is (torch.relu, a call, is none, and no
    hook sees it). Any other module stands for its output.

    Convolution: every channel is a neuron, its activation the mean over space. Tokens: the mean over all positions. A layer that
    gives several tensors: the first one of floats. Raises RequestError: a model without a Linear or convolution layer, or with
    none but its output; a name that is no module of the model, or is given twice; a model that is no torch.nn.Module.
    """
    check_module(model)
    modules = dict(model.named_modules())
    if layers is None:
        return ModelNeurons(model, _hidden(model), encode)
    names = [layers] if isinstance(layers, str) else list(layers)
    if not names or len(set(names)) < len(names):
        raise RequestError(f"layers is {names}; names of modules were expected, each once")
    for name in names:
        if name not in modules:
            near = did_you_mean(name, modules) or f"; it has {first_names([known for known in modules if known])}"
            raise RequestError(f"layer {name!r} is no module of the model{near}")
    return ModelNeurons(model, {name: modules[name] for name in names}, encode)


def check_module(model: object) -> None:
    """Raises RequestError: it is no torch.nn.Module, whose layers hooks can see."""
    if not isinstance(model, nn.Module):
        raise RequestError(
            f"the model is a {type(model).__name__}; a torch.nn.Module was expected, whose layers can be seen"
        )


def _hidden(model: nn.Module) -> dict[str, nn.Module]:
    """Linear and convolution layers but the last. Those inside an attention module are never called, which reads their weights."""
    found = {
        name: module
        for name, module in model.named_modules()
        if _has_weights(module) and not isinstance(module, NonDynamicallyQuantizableLinear)
    }
    if not found:
        raise RequestError(
            f"a {type(model).__name__} has no Linear or convolution layer; name the modules whose outputs are neurons"
        )
    output = list(found)[-1]
    if len(found) == 1:
        raise RequestError(
            f"the only Linear or convolution layer of the {type(model).__name__} is {output!r}, its output; name it in layers if "
            "its outputs are the neurons to look at"
        )
    return {name: module for name, module in found.items() if name != output}


def _has_weights(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | _ConvNd)


class ModelNeurons:
    """Gives the neurons of some layers of a model, side by side in the order of the layers. `neurons_of` makes it.

    features: float [batch, features]. Returns a tensor [batch, neurons], with gradients if torch records them. The model and its
    encoder are afterwards as they were: hooks, modes and gradients. Raises RequestError: a layer gets an input of another width
    than it has, does not run or runs more than once, gives no floats or not one row for each row of features, or has several
    dimensions of which it is not known which counts neurons.
    """

    def __init__(
        self, model: nn.Module, layers: Mapping[str, nn.Module], encode: Callable[[Tensor], Any] | None = None
    ) -> None:
        self.model, self.layers, self.encode = model, dict(layers), encode
        # A bound method, as autoencoder.encode, runs the module that it is of.
        encoder = encode if isinstance(encode, nn.Module) else getattr(encode, "__self__", None)
        self._modules = [part for part in (encoder, model) if isinstance(part, nn.Module)]
        self._sizes = {name: _width(module) for name, module in layers.items()}

    def __call__(self, features: Tensor) -> Tensor:
        seen = _Pass(self.layers, features)
        with evaluation_mode(*self._modules), seen.hooked(self._modules):
            self.model(features if self.encode is None else self.encode(features))
        neurons = seen.neurons()
        self._sizes = {name: values.shape[1] for name, values in neurons.items()}
        return torch.cat(list(neurons.values()), dim=1)

    @property
    def sizes(self) -> dict[str, int]:
        """The number of neurons of every layer, by its name.

        Raises RequestError: a layer is no Linear or convolution layer, and the model has not yet been run.
        """
        known = {name: size for name, size in self._sizes.items() if size is not None}
        if missing := [name for name in self._sizes if name not in known]:
            raise RequestError(
                f"the size of layer {missing[0]!r} is known once the model has been run; call this on features first"
            )
        return known

    @property
    def like(self) -> Tensor:
        """A tensor of the type and on the device of the first weights that read features."""
        return first_weights(self._modules)


def first_weights(modules: Iterable[nn.Module]) -> Tensor:
    """The first parameter of floats, whose type and device tell what modules read; an empty float32 where there is none."""
    for module in modules:
        for weights in module.parameters():
            if weights.is_floating_point():
                return weights.detach()
    return torch.empty(0, dtype=torch.float32)


def _width(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, _ConvNd) else None


@dataclass(frozen=True)
class _Made:
    """An output that a layer with weights made, perhaps with modules after it that keep its neurons apart."""

    output: Tensor  # kept, or another tensor could get its id
    layer: nn.Module
    activated: bool = False


class _Pass:
    """What one run of the model shows of its layers."""

    def __init__(self, layers: Mapping[str, nn.Module], features: Tensor) -> None:
        self._features = features
        self._names = {module: name for name, module in layers.items()}
        self._layers = layers
        self._neurons: dict[str, Tensor] = {}
        self._made: dict[int, _Made] = {}

    @contextmanager
    def hooked(self, models: Sequence[nn.Module]) -> Iterator[None]:
        """Hooks on all that tells where neurons are, and on nothing afterwards."""
        handles = []
        modules = {module: name for model in models for name, module in model.named_modules()}
        try:
            for module, name in modules.items():
                if _has_weights(module):
                    handles.append(module.register_forward_pre_hook(partial(self._check_input, name)))
                if _has_weights(module) or module in self._names or _is_activation(module) or _keeps_neurons(module):
                    handles.append(module.register_forward_hook(self._see))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def neurons(self) -> dict[str, Tensor]:
        """[batch, neurons] by layer."""
        if silent := [name for name in self._layers if name not in self._neurons]:
            raise RequestError(f"layer {silent[0]!r} does not run, or gives no floats; take other layers")
        return {name: self._neurons[name] for name in self._layers}

    def _see(self, module: nn.Module, arguments: tuple, output: Any) -> None:
        if (h := activations_of(output)) is None:
            return
        before, made = self._before(module, arguments), None
        if _has_weights(module):
            made = _Made(h, module)
        elif before:
            made = _Made(h, before.layer, before.activated or _is_activation(module))
        if made:
            self._made[id(h)] = made
        if module in self._names:
            name = self._names[module]
            if name in self._neurons:
                raise RequestError(f"layer {name!r} runs more than once for one input; take layers that run once")
            self._neurons[name] = self._per_neuron(name, h, made.layer if made else module)
        elif before and made and made.activated and not before.activated and made.layer in self._names:
            name = self._names[made.layer]
            self._neurons[name] = self._per_neuron(name, h, made.layer)

    def _before(self, module: nn.Module, arguments: tuple) -> _Made | None:
        """What made the input of an activation module, or of another that keeps neurons apart."""
        if not arguments or not (_is_activation(module) or _keeps_neurons(module)):
            return None
        return self._made.get(id(arguments[0]))

    def _per_neuron(self, name: str, h: Tensor, layer: nn.Module) -> Tensor:
        """[batch, neurons]. A copy, because a later layer may write over its input."""
        if len(h) != len(self._features):
            raise RequestError(
                f"layer {name!r} gives {list(h.shape)} for {len(self._features)} rows of features; its first dimension must be "
                "the batch"
            )
        if h.ndim == 2:
            return h.clone()
        dimension = _dimension_of_neurons(layer, h.shape)
        if dimension is None:
            raise RequestError(
                f"layer {name!r} gives {list(h.shape)}, and which dimension counts neurons is not known; take a Linear or "
                "convolution layer inside it or before it"
            )
        return h.movedim(dimension, 1).flatten(2).mean(2)

    def _check_input(self, name: str, module: nn.Module, arguments: tuple) -> None:
        if not arguments or not isinstance(given := arguments[0], Tensor):
            return
        if isinstance(module, _ConvNd):
            dimensions = len(module.kernel_size) + 2
            if given.ndim != dimensions:
                raise RequestError(
                    f"layer {name!r} is given {list(given.shape)}, and takes {dimensions} dimensions, the batch first; give "
                    "encode (to polysemanticity_of_module: shape), which makes the model's input from features"
                )
            wanted, width = module.in_channels, given.shape[1]
        else:
            wanted, width = cast(nn.Linear, module).in_features, given.shape[-1]
        if width != wanted:
            direct = given is self._features
            what = "features have" if direct else "its input has"
            advice = (
                "give as many features as it takes, or encode, which makes the model's input from features"
                if direct
                else "give directions of that width, or a function that makes such an input (shape, or encode)"
            )
            raise RequestError(f"layer {name!r} takes inputs of width {wanted}, and {what} width {width}; {advice}")


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ == activations.__name__ and not isinstance(module, nn.MultiheadAttention)


def _keeps_neurons(module: nn.Module) -> bool:
    return isinstance(module, _BETWEEN) or type(module).__module__ == "torch.nn.modules.pooling"


def _dimension_of_neurons(layer: nn.Module, shape: torch.Size) -> int | None:
    """None: not known, as of a block with both convolutions and matrices, or of a module without weights."""
    kinds = {
        isinstance(part, _ConvNd) for part in layer.modules() if isinstance(part, nn.Linear | nn.RNNBase | _ConvNd)
    }
    if len(kinds) != 1:
        return None
    dimension = feature_dim_of(layer)
    return dimension if isinstance(dimension, int) else dimension(shape)
