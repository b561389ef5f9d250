"""Put MEmeL behind layers of a model, whatever it is, and take it out again: by hooks, without touching its code."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ninscope.errors import RequestError
from ninscope.neurons.memel.finding import feature_dim_of, layers_of
from ninscope.neurons.memel.layer import MEmeL
from ninscope.neurons.memel.padding import Padding, is_floating

CHILD = "memel"  # what the layer is called inside the module whose output it takes
_INSERTED = "_memel_inserted"  # of a model: its hooks and the modules that have such a child


class _Hook:
    """After a module: its output, or the first tensor of its output, through MEmeL."""

    def __init__(self, name: str, memel: MEmeL, padding: Padding):
        self.name, self.memel, self.padding = name, memel, padding

    def __call__(self, module: nn.Module, arguments: tuple, output):
        if not self.memel.training:
            return output
        if is_floating(output):
            return self._through(output)
        if isinstance(output, Mapping):  # transformers' outputs, which are ordered
            key = next((key for key, value in output.items() if is_floating(value)), None)
            if key is not None:
                output[key] = self._through(output[key])
                return output
        if isinstance(output, tuple | list):
            place = next((place for place, value in enumerate(output) if is_floating(value)), None)
            if place is not None:
                parts = [self._through(part) if number == place else part for number, part in enumerate(output)]
                return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
        raise RequestError(
            f"layer {self.name} returns a {type(output).__name__} without activations; take another layer"
        )

    def _through(self, h: Tensor) -> Tensor:
        return self.memel(h, self.padding.of(self.name, h))


def insert_memel(model: nn.Module, layers: str | Sequence[str] = "middle:4", **settings) -> dict[str, MEmeL]:
    """Put a `MEmeL(**settings)` behind layers of a model; returns them by the layers' names.

    layers: "middle:4", the four middle attention layers (paper B, appendix F.1; where there is none, repeated blocks), or names
    of modules as in model.named_modules(). Each MEmeL is a child of the module whose output it takes (of an nn.Sequential, of
    the last in it), so that its statistics are saved, loaded, moved and cast with the model, and train() and eval() reach it. Of
    an output of several tensors the first is taken; its first dimension is samples, which Swin's attention splits into windows.
    What is padding is told by the model's argument attention_mask, or of torch's modules key_padding_mask, src_key_padding_mask
    and tgt_key_padding_mask, where it is [samples, tokens]. feature_dim is taken from the module, 1 of convolutions, unless it is
    given.

    Raises RequestError: layers that are not there (with near names), settings that make no sense, MEmeL inserted already, layers
    without a batch first, gradient checkpointing, which would pass every batch twice. The layers raise what `MEmeL` does.
    """
    if any(hasattr(module, _INSERTED) for module in model.modules()):
        raise RequestError(f"MEmeL is in this {type(model).__name__} already; remove_memel takes it out")
    if any(getattr(module, "gradient_checkpointing", False) is True for module in model.modules()):
        raise RequestError(
            "gradient checkpointing passes every batch twice, and statistics would count it twice; disable it"
        )
    found = layers_of(model, layers)
    places = {name: _place_behind(name, module, model) for name, module in found.items()}
    for name, module in places.items():
        if (other := next(each for each in places if places[each] is module)) != name:
            raise RequestError(f"layers {other} and {name} end in one module; name one of them")
    inserted = {}
    for name, module in found.items():
        own = {} if "feature_dim" in settings else {"feature_dim": feature_dim_of(module)}
        inserted[name] = MEmeL(**own, **settings, layer=name)
    padding = Padding(model)
    handles = [
        model.register_forward_pre_hook(padding.before, with_kwargs=True),
        model.register_forward_hook(padding.after, always_call=True),
    ]
    for name, module in places.items():
        memel = inserted[name].train(module.training)
        parameter = next(module.parameters(), next(model.parameters(), None))
        module.add_module(CHILD, memel if parameter is None else memel.to(parameter.device))
        handles.append(module.register_forward_hook(_Hook(name, memel, padding)))
    setattr(model, _INSERTED, (handles, list(places.values())))
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


def _place_behind(name: str, asked: nn.Module, model: nn.Module) -> nn.Module:
    """The module whose child a MEmeL behind the asked one becomes. Raises RequestError: there is none."""
    module = asked
    # A sequence would pass any child of its own as one of its modules.
    while isinstance(module, nn.Sequential) and len(module):
        module = module[-1]
    if module is not asked and sum(each is module for _, each in model.named_modules(remove_duplicate=False)) > 1:
        raise RequestError(
            f"the last module of layer {name} stands in other places of the model too; name another layer"
        )
    if type(module).forward is nn.Module.forward:
        raise RequestError(
            f"layer {name} is a {type(module).__name__}, which is not passed as a whole; name modules inside it"
        )
    if hasattr(module, CHILD):
        raise RequestError(f"layer {name} has something called {CHILD} already; take another layer")
    if getattr(getattr(module, "self_attn", module), "batch_first", True) is False:
        raise RequestError(f"layer {name} is of batch_first=False, so its first dimension is not samples; make it True")
    return module
