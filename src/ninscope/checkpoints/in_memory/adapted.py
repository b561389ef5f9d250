"""Weights under adapters of peft, as the model uses them: what peft's merge would leave, computed by peft on twins of its layers.

The bits are those of `merge_and_unload` and a save. peft multiplies B A in the adapter's type (float32 on a CPU where that is a
narrow one), rounds that, and adds; adapters of files (`checkpoints/lora/merged.py`) are summed in float64 and rounded once, which
may differ in the last bit. Where an adapter is merged already the weight is as it lies there; where adapters are disabled it is
the base's. Tied weights are merged into one tensor, as peft does it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ninscope.checkpoints.in_memory.twins import Copies, TensorOf, same, tensors_of, twin
from ninscope.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

ADVICE = "measure the model without this adapter (peft's disable_adapter), or a copy that is merged"
# What decides for every token anew, so that no one matrix stands for it, or puts modules of its own into the model.
_UNMERGED = ("XLORA", "ADAPTION_PROMPT")


@dataclass(frozen=True)
class AdaptedLayer:
    """layer: one of peft's, outermost. tensors: those of the module within, by its names, whose values the adapter may change."""

    layer: Module
    tensors: Mapping[str, Tensor]

    @property
    def inputs(self) -> list[Tensor]:
        return list(tensors_of(self.layer))


def is_adapted(kind: type) -> bool:
    """Whether modules of a class are layers that peft puts around those of a model."""
    kinds = _kinds("tuners.tuners_utils", "BaseTunerLayer") + _kinds("utils.other", "AuxiliaryTrainingWrapper")
    return issubclass(kind, kinds)


def without_adapter(model: Module) -> Module | None:
    """The model inside peft's; None of any other. Raises CheckpointError (unsupported)."""
    if isinstance(model, _kinds("peft_model", "PeftModel") + _kinds("mixed_model", "PeftMixedModel")):
        _check_merged(model)
        return _child(model, "base_model")
    if isinstance(model, _kinds("tuners.tuners_utils", "BaseTuner")):
        _check_merged(model)
        return _child(model, "model")
    return None


def without_layer(module: Module) -> tuple[Module, AdaptedLayer | None]:
    """(the model's module inside one of peft's, with the model's own tensors; what is to be computed of it, if anything is)."""
    if isinstance(module, _kinds("utils.other", "ModulesToSaveWrapper")):
        return _chosen_module(module), None
    inside = _unloaded(twin(module, same), merge=False)
    acts = any(_acts(layer) for layer in _layers(module))
    return inside, AdaptedLayer(module, inside.state_dict(keep_vars=True)) if acts else None


def together(adapted: Sequence[AdaptedLayer]) -> list[list[AdaptedLayer]]:
    """Layers whose modules share a tensor, in one list each: a tied embedding and head are merged into the same."""
    groups: list[tuple[set[int], list[AdaptedLayer]]] = []
    for one in adapted:
        tensors = {id(tensor) for tensor in one.tensors.values()}
        joined = [group for group in groups if group[0] & tensors]
        groups = [group for group in groups if not group[0] & tensors]
        for ids, _ in joined:
            tensors |= ids
        groups.append((tensors, [layer for _, layers in joined for layer in layers] + [one]))
    return [layers for _, layers in groups]


def merged_tensors(layers: Sequence[AdaptedLayer]) -> dict[str, Tensor]:
    """The tensors of the modules within, with their adapters, by "number of the layer:name". The model stays as it is."""
    copy_of: TensorOf = Copies()
    inside = [_used(twin(one.layer, copy_of)) for one in layers]
    return {
        f"{number}:{name}": tensor for number, one in enumerate(inside) for name, tensor in one.state_dict().items()
    }


def is_tied_no_more(model: Any) -> bool:
    """Whether the embedding and the head of a model of transformers are two tensors: peft then saves it as untied."""
    try:
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        return embedding is not None and head is not None and embedding.weight is not head.weight
    except (AttributeError, NotImplementedError):
        return False


def check_adapters(model: Module) -> None:
    """Raises CheckpointError: unsupported (adapters of layers that share their weights, each with another)."""
    configs = getattr(model, "peft_config", None)
    for name, config in configs.items() if isinstance(configs, Mapping) else ():
        if getattr(config, "layer_replication", None):
            raise CheckpointError(
                "unsupported",
                f"adapter {name}: layer_replication is set, and such an adapter is not merged; measure the model before peft "
                "wraps it",
            )


def _check_merged(model: Any) -> None:
    """Raises CheckpointError: unsupported (an adapter that is no change of weights)."""
    configs = getattr(model, "peft_config", None)
    for name, config in configs.items() if isinstance(configs, Mapping) else ():
        kind = str(getattr(getattr(config, "peft_type", None), "value", getattr(config, "peft_type", None)))
        if kind in _UNMERGED:
            raise CheckpointError(
                "unsupported",
                f"adapter {name} is of peft's type {kind}, which no weights stand for; measure the model before peft wraps it",
            )
    check_adapters(model)


def _chosen_module(wrapper: Any) -> Module:
    """The module that a wrapper of modules_to_save uses."""
    if wrapper.disable_adapters or not wrapper.active_adapters:
        return _child(wrapper, "original_module")
    return _child(_child(wrapper, "modules_to_save"), wrapper.active_adapters[0])


def _child(module: Any, name: str) -> Module:
    child: Module = module._modules[name]
    return child


def _layers(module: Any) -> Iterator[Any]:
    """The layer of an adapter, and those of others within it."""
    layer: Any = module._modules.get("token_adapter", module)  # of a wrapper of trainable tokens
    while issubclass(type(layer), _kinds("tuners.tuners_utils", "BaseTunerLayer")):
        yield layer
        layer = layer._modules.get("base_layer")


def _acts(layer: Any) -> bool:
    """Whether a layer's weight is another than the base's tensor, as it lies there now."""
    if layer.disable_adapters:
        return bool(layer.merged)  # it is taken out before the next pass
    return not layer.merged and bool(set(layer.active_adapters) & layer._get_available_adapters())


def _used(module: Any) -> Module:
    """The module inside a twin of a layer, with the weights that the layer uses."""
    for layer in _layers(module):
        if layer.disable_adapters and layer.merged:
            layer.unmerge()
    return _unloaded(module, merge=any(_acts(layer) for layer in _layers(module)))


def _unloaded(module: Any, merge: bool) -> Module:
    """As peft's own `_unload_and_optionally_merge` of models of one kind of adapter, and of several."""
    if hasattr(module, "unload_and_optionally_merge_module"):
        inside: Module = module.unload_and_optionally_merge_module(merge=merge, safe_merge=False, adapter_names=None)
        return inside
    if merge:
        outer, *inner = _layers(module)
        for layer in (*inner, outer):
            layer.merge()
    return module.get_base_layer()


def _kinds(module: str, name: str) -> tuple[type, ...]:
    """A class of peft, where peft has been imported."""
    kind = getattr(sys.modules.get(f"peft.{module}"), name, None)
    return () if kind is None else (kind,)
