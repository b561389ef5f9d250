"""Put MEmeL behind layers of a model, whatever it is, and take it out again: by hooks, without touching its code."""

import warnings
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn

from ninscope.errors import RequestError
from ninscope.neurons.inhibition import LAYERS, NEURONS
from ninscope.neurons.memel.finding import ChannelDimension, feature_dim_of, layers_of
from ninscope.neurons.memel.layer import MEmeL
from ninscope.neurons.memel.padding import Padding, is_floating
from ninscope.neurons.selection import NeuronSelection
from ninscope.wording import first_names

CHILD = "memel"  # what the layer is called inside the module whose output it takes
SILENT_PASSES = 10
_INSERTED = "_memel_inserted"  # of a model: its hooks and the modules that have such a child
_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)  # whose forward, where they have one, runs all their children


class _Hook:
    """After a module: its output, or the first tensor of its output, through MEmeL."""

    def __init__(self, name: str, memel: MEmeL, padding: Padding) -> None:
        self.name, self.memel, self.padding = name, memel, padding
        self.ran = self.passing = False

    def __call__(self, module: nn.Module, arguments: tuple, output: Any) -> Any:
        if not torch.compiler.is_compiling():
            self.ran = True
        if not self.memel.training:
            return output
        if is_floating(output):
            return self._through(output)
        if isinstance(output, MutableMapping):  # transformers' outputs, which are ordered
            key = next((key for key, value in output.items() if is_floating(value)), None)
            if key is not None:
                output[key] = self._through(output[key])
                return output
        if isinstance(output, tuple | list):
            first = next((number for number, value in enumerate(output) if is_floating(value)), None)
            if first is not None:
                parts = [self._through(part) if number == first else part for number, part in enumerate(output)]
                return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
        raise RequestError(
            f"layer {self.name} returns a {type(output).__name__} without activations; take another layer"
        )

    def _through(self, h: Tensor) -> Tensor:
        mask = self.padding.of(self.name, h)
        self.passing = True
        try:
            return self.memel(h, mask)
        finally:
            self.passing = False

    def only_here(self, memel: MEmeL, arguments: tuple) -> None:
        """Called before MEmeL runs. Raises RequestError: the layer runs all its children, so MEmeL too, beside this hook."""
        if not self.passing:
            raise RequestError(
                f"layer {self.name} runs all modules in it, and its MEmeL as one of them; take a module inside it, or the one "
                "around it"
            )


class _Around:
    """Before the module that a layer is in: how often that module has run in training."""

    def __init__(self, name: str) -> None:
        self.name, self.passes = name, 0

    def __call__(self, module: nn.Module, arguments: tuple) -> None:
        if module.training and not torch.compiler.is_compiling():
            self.passes += 1


class _Watch:
    """After a training pass of a model: warns, once, of layers that never run.

    The module around such a layer has run SILENT_PASSES times by then, so the layer is hardly one that is dropped at random or
    waits for another task's turn. Nothing is counted under torch.compile, which would compile once more at every pass.
    """

    def __init__(self, layers: list[tuple[_Hook, _Around]]) -> None:
        self.layers, self.over = layers, False

    def __call__(self, model: nn.Module, arguments: tuple, output: object) -> None:
        if self.over or not model.training or torch.compiler.is_compiling():
            return
        waiting = [(hook.name, around) for hook, around in self.layers if not hook.ran]
        silent = [(name, around) for name, around in waiting if around.passes >= SILENT_PASSES]
        self.over = bool(silent) or not waiting
        if silent:
            around = silent[0][1].name
            warnings.warn(
                f"no MEmeL has run behind {first_names([name for name, _ in silent])} in {SILENT_PASSES} training passes: "
                "the model does not call what it has there, or only takes its weights; take another layer"
                + (f", such as {around}" if around else ""),
                stacklevel=2,
            )


class MEmeLArguments(TypedDict, total=False):
    """Arguments of `MEmeL` that `insert_memel` passes on."""

    method: str
    select: NeuronSelection | str | Mapping[str, float]
    late_start: int
    neurons: str
    feature_dim: int | ChannelDimension
    forget: int | None
    epsilon: float
    shape: Sequence[int] | None


def insert_memel(
    model: nn.Module, layers: str | Sequence[str] = LAYERS, **settings: Unpack[MEmeLArguments]
) -> dict[str, MEmeL]:
    """Put a `MEmeL(**settings)` behind layers of a model; returns them by the layers' names.

    layers: "middle:4", the middle four attention layers (MEmeL, appendix F.1; of a model without any, its repeated blocks), or
    names of modules as in model.named_modules(). Each MEmeL becomes a child of the module whose output it takes (for an
    nn.Sequential or another list of modules, of the last module in it), so that its statistics are saved, loaded, moved and cast
    with the model, and train() and eval() reach it. Where a layer gives several tensors, MEmeL takes the first; its first
    dimension is samples, which Swin's attention splits into windows.

    The model's argument attention_mask tells what is padding, or for torch's modules key_padding_mask, src_key_padding_mask and
    tgt_key_padding_mask, where it is [samples, tokens]. A model without such an argument (a wrapper, or DistributedDataParallel)
    has the masks of the modules inside it. feature_dim (default: by the module): 1 for convolutions, the last where they give
    tokens; it has no meaning for neurons "positions".

    Raises RequestError: layers that are not there (with near names), settings that make no sense, MEmeL inserted already, layers
    without a batch first, gradient checkpointing, which would pass every batch twice. The layers raise what `MEmeL` does. Warns
    about layers that do not run in ten training passes of the module around them.
    """
    if any(hasattr(module, _INSERTED) for module in model.modules()):
        raise RequestError(f"MEmeL is in this {type(model).__name__} already; remove_memel takes it out")
    if any(getattr(module, "gradient_checkpointing", False) is True for module in model.modules()):
        raise RequestError(
            "gradient checkpointing passes every batch twice, and statistics would count it twice; disable it"
        )
    modules = layers_of(model, layers)
    behind = {name: _module_and_host(name, module, model) for name, module in modules.items()}
    for name, (_, host) in behind.items():
        if (other := next(earlier for earlier in behind if behind[earlier][1] is host)) != name:
            raise RequestError(f"layers {other} and {name} end in one module; name one of them")
    inserted = {}
    for name, module in modules.items():
        own = settings.copy()
        if "feature_dim" not in settings:
            own["feature_dim"] = feature_dim_of(module, settings.get("neurons", NEURONS[0]))
        inserted[name] = MEmeL(**own, layer=name)
    padding = Padding(model)
    handles, watched = padding.hook(model), []
    for name, (module, host) in behind.items():
        memel = inserted[name].train(module.training)
        parameter = next(module.parameters(), next(model.parameters(), None))
        host.add_module(CHILD, memel if parameter is None else memel.to(parameter.device))
        hook, around = _Hook(name, memel, padding), _Around(name.rpartition(".")[0])
        handles += [
            module.register_forward_hook(hook),
            memel.register_forward_pre_hook(hook.only_here),
            model.get_submodule(around.name).register_forward_pre_hook(around),
        ]
        watched.append((hook, around))
    handles.append(model.register_forward_hook(_Watch(watched)))
    setattr(model, _INSERTED, (handles, [host for _, host in behind.values()]))
    return inserted


def remove_memel(model: nn.Module) -> None:
    """Take out what `insert_memel` put in; the model is as it was, but for its weights. Raises RequestError: nothing is in it."""
    if not hasattr(model, _INSERTED):
        raise RequestError(f"no MEmeL was inserted into this {type(model).__name__}; insert_memel does it")
    handles, modules = getattr(model, _INSERTED)
    for handle in handles:
        handle.remove()
    for module in modules:
        delattr(module, CHILD)
    delattr(model, _INSERTED)


def _module_and_host(name: str, layer: nn.Module, model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The module whose output a MEmeL behind the layer takes, and the module whose child it becomes. Raises RequestError: there
    is none."""
    module = layer
    while isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and len(module):
        module = module[-1]
    if type(module).forward is nn.Module.forward:
        raise RequestError(
            f"layer {name} is a {type(module).__name__}, which is not passed as a whole; name modules inside it"
        )
    host = module
    while isinstance(host, _LISTS):  # they would pass any child of their own as one of their modules
        if not list(host.children()):
            raise RequestError(
                f"layer {name} {'is' if host is layer else 'ends in'} an empty {type(host).__name__}, which only hands on what "
                "it is given; name the module before it"
            )
        host = list(host.children())[-1]
    if host is not layer and sum(part is host for _, part in model.named_modules(remove_duplicate=False)) > 1:
        raise RequestError(
            f"the last module of layer {name} stands in other places of the model too; name another layer"
        )
    if hasattr(host, CHILD):
        raise RequestError(f"layer {name} has something called {CHILD} already; take another layer")
    if getattr(getattr(module, "self_attn", module), "batch_first", True) is False:
        raise RequestError(f"layer {name} is of batch_first=False, so its first dimension is not samples; make it True")
    return module, host
