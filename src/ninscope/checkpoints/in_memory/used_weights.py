"""The tensors of a module as the model uses them, by the names that it would have without wrappers, parametrizations and adapters.

What is computed is computed when it is read. All else is the module's own tensor, on the device where it is.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ninscope.checkpoints.in_memory import adapted as adapters
from ninscope.checkpoints.in_memory import parametrised as parametrizations
from ninscope.checkpoints.in_memory.computed import Computation, Results
from ninscope.checkpoints.in_memory.held_tensor import HeldTensor, is_sharded
from ninscope.checkpoints.in_memory.saved_names import as_saved, is_pretrained, without_copies
from ninscope.checkpoints.in_memory.twins import modules_of, twin
from ninscope.checkpoints.wrapped_names import unwrapped
from ninscope.errors import CheckpointError
from ninscope.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

# By the class of a wrapper, what it calls the module within.
_WRAPPERS = {
    "OptimizedModule": "_orig_mod", "DistributedDataParallel": "module", "DataParallel": "module",
    "AveragedModel": "module", "DeepSpeedEngine": "module", "CheckpointWrapper": "_checkpoint_wrapped_module",
    "OffloadWrapper": "_checkpoint_wrapped_module",
}  # fmt: skip
_FSDP1, _FSDP2 = "FullyShardedDataParallel", "FSDPModule"


@dataclass(frozen=True)
class UsedWeights:
    """tensors: by name, in the model's order; those that are one (tied) are one object. own: the same as tensors of torch, without
    what is computed. is_untied: adapters have made two tensors of an embedding and its head.
    """

    tensors: Mapping[str, HeldTensor]
    own: Mapping[str, Tensor]
    is_untied: bool = False


def inner_model(model: Any) -> Module:
    """The model inside what DistributedDataParallel, torch.compile, peft and their like made of it.

    Raises CheckpointError: unsupported (an adapter that no weights stand for).
    """
    inside = _within(model)
    inside = adapters.without_adapter(model) if inside is None else inside
    if inside is None and list(model._modules) == ["module"] and hasattr(model._modules["module"], "config"):
        inside = model._modules["module"]  # another wrapper, of a model that brings its configuration
    return model if inside is None else inner_model(inside)


def used_weights(model: Module) -> UsedWeights:
    """Of a model without wrappers around all of it. Raises CheckpointError (unsupported): what cannot be told of its weights."""
    modules = list(modules_of(model))
    kinds = {type(module) for module in modules}  # a few, of the many modules of a large model
    if any(_is(kind, _FSDP1) for kind in kinds):
        raise CheckpointError(
            "unsupported",
            f"{type(model).__name__} is sharded by {_FSDP1}, whose tensors are flat; shard it by fully_shard (FSDP2), or measure "
            "its full state dict (get_model_state_dict of torch.distributed.checkpoint.state_dict, with full_state_dict)",
        )
    adapters.check_adapters(model)
    is_plain = not any(_wrapped_as(kind) or adapters.is_adapted(kind) for kind in kinds)
    if is_plain and not any(map(parametrizations.parametrised, modules)):
        state: Mapping[str, Any] = _tensors(model.state_dict(keep_vars=True))
        state = unwrapped(state) if is_pretrained(model) else state  # of a wrapper that is not known here
        saved = as_saved(model, without_copies(model, state, place_of))
        return UsedWeights(held_tensors(saved), saved)
    if any(_is(kind, _FSDP2) for kind in kinds):
        model.state_dict(keep_vars=True)  # it puts shards in their place before, in this model and not in its twin
    return _of_twin(model)


def _of_twin(model: Module) -> UsedWeights:
    """Of a model some of whose weights are computed: those of its twin, in which they have places. Raises CheckpointError."""
    plain = _PlainTwin()
    used = plain.of(model, "")
    computed = plain.computed()
    state = without_copies(used, _tensors(used.state_dict(keep_vars=True)), place_of)
    saved = _saved(used, state, computed)
    own = {name: tensor for name, tensor in saved.items() if id(tensor) not in computed}
    is_untied = bool(plain.adapted) and adapters.is_tied_no_more(used)
    return UsedWeights(held_tensors(saved, computed), own, is_untied)


@dataclass(frozen=True)
class _Computed:
    """A tensor that is computed. place: the tensor that stands in its place, which is here so that its id stays its own."""

    place: Tensor
    computation: Computation
    key: str
    results: Results

    def value(self) -> Tensor:
        """Raises CheckpointError: unsupported (what is computed is not of the shape and type that its place has)."""
        found = self.results.of(self.computation)[self.key]
        if (found.shape, found.dtype) != (self.place.shape, self.place.dtype):
            raise CheckpointError(
                "unsupported",
                f"tensor {self.computation.name} is computed as {found.dtype} {list(found.shape)}, and {self.place.dtype} "
                f"{list(self.place.shape)} was expected; {self.computation.advice}",
            )
        return found


Computed = Mapping[int, _Computed]  # by the id of the tensor in its place


class _PlainTwin:
    """Makes the twin of a model without wrappers, parametrizations and adapters, and gathers what is to be computed for it."""

    def __init__(self) -> None:
        self.adapted: list[tuple[str, adapters.AdaptedLayer]] = []
        self._parametrised: list[_Computed] = []
        self._made: dict[int, tuple[Module, Module]] = {}  # by the id of a module: it and its twin
        self._results = Results()

    def of(self, module: Module, name: str) -> Module:
        """name: the module's, with a dot after it; of the whole model empty. Raises CheckpointError."""
        if id(module) not in self._made:
            self._made[id(module)] = module, self._twin(module, name)
        return self._made[id(module)][1]

    def computed(self) -> Computed:
        """What is computed of the twins that were made."""
        return {id(one.place): one for one in (*self._parametrised, *self._of_adapters())}

    def _twin(self, module: Module, name: str) -> Module:
        inside = _within(module)
        if inside is not None:
            return self.of(inside, name)
        if adapters.is_adapted(type(module)):
            inside, adapted = adapters.without_layer(module)
            if adapted is not None:
                self.adapted.append((name, adapted))
            return self.of(inside, name)
        computed = parametrizations.parametrised(module)
        numbered = {id(child): key for key, child in module._modules.items()}
        made = twin(module, child_of=lambda child: self.of(child, f"{name}{numbered[id(child)]}."))
        if computed:
            places = {one.name: self._place(one, name) for one in computed}
            parametrizations.without_parametrizations(made, places, computed)
        return made

    def _place(self, parametrised: parametrizations.Parametrised, module: str) -> Tensor:
        """What stands in the place of a weight that is computed. Raises CheckpointError."""
        from torch import empty_like

        computation = Computation(
            f"{module}{parametrised.name}",
            parametrised.inputs,
            lambda: {"": parametrised.value()},
            parametrizations.ADVICE,
        )
        like = parametrised.like  # else its shape takes its values
        place = empty_like(self._results.of(computation)[""] if like is None else like, device="meta")
        self._parametrised.append(_Computed(place, computation, "", self._results))
        return place

    def _of_adapters(self) -> Iterator[_Computed]:
        names = {id(layer): name for name, layer in self.adapted}
        for layers in adapters.together([layer for _, layer in self.adapted]):
            inputs = [tensor for layer in layers for tensor in layer.inputs]
            first = f"{names[id(layers[0])]}{next(iter(layers[0].tensors))}"
            computation = Computation(first, inputs, partial(adapters.merged_tensors, layers), adapters.ADVICE)
            for number, layer in enumerate(layers):
                for key, tensor in layer.tensors.items():
                    yield _Computed(tensor, computation, f"{number}:{key}", self._results)


def _saved(model: Module, state: Mapping[str, Tensor], computed: Computed) -> Mapping[str, Tensor]:
    """The state as it is saved. What is stored in another way than the model holds it, of what is computed, is computed for that.

    Raises CheckpointError.
    """
    try:
        saved = as_saved(model, state)
        kept = {id(tensor) for tensor in saved.values()}
    except (NotImplementedError, RuntimeError):  # tensors without values and others do not go together
        kept = set()
    changed = {
        name: computed[id(tensor)].value()
        for name, tensor in state.items()
        if id(tensor) in computed and id(tensor) not in kept
    }
    return as_saved(model, {**state, **changed}) if changed else saved


def held_tensors(tensors: Mapping[str, Any], computed: Computed | None = None) -> dict[str, HeldTensor]:
    """Tensors that are one and the same (tied, or views of the same numbers) are held once, by each of their names.

    Raises CheckpointError: unsupported (a tensor that has no shape yet).
    """
    held: dict[str, HeldTensor] = {}
    first: dict[Hashable, HeldTensor] = {}
    ranks = _ranks_of(tensors)
    for name, tensor in tensors.items():
        _check_shape(name, tensor)
        one = (computed or {}).get(id(tensor))
        place = place_of(tensor) if one is None else ("computed", id(tensor))
        if place not in first:
            first[place] = HeldTensor(name, tensor, None if one is None else one.value, ranks)
        held[name] = first[place]
    return held


def _ranks_of(tensors: Mapping[str, Any]) -> Ranks:
    """Who holds a model together; nobody else of one without sharded tensors."""
    if not any(map(is_sharded, tensors.values())):
        return ALONE
    from ninscope.distributed.ranks import ranks_of  # what torch has of ranks, which few models need

    return ranks_of(tensors)


def place_of(tensor: Any) -> Hashable:
    """What two tensors share that are one: where they lie, and how. An array is none but itself."""
    if not hasattr(tensor, "data_ptr"):
        return object()
    try:
        address = tensor.data_ptr()
        return (address, tensor.device, tensor.dtype, tensor.shape, tensor.stride()) if address else id(tensor)
    except RuntimeError:  # of what has no memory of its own
        return id(tensor)


def _tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    """Without what modules keep besides, which is no tensor (TransformerEngine's _extra_state)."""
    return {name: value for name, value in state.items() if is_tensor(value)}


def is_tensor(value: object) -> bool:
    """Whether it has a shape, even if that cannot be had yet, and a type."""
    return hasattr(value, "dtype") and (hasattr(type(value), "shape") or hasattr(value, "shape"))


def _check_shape(name: str, tensor: Any) -> None:
    """Raises CheckpointError (unsupported)."""
    if type(tensor).__name__ in ("UninitializedParameter", "UninitializedBuffer"):
        raise CheckpointError(
            "unsupported", f"tensor {name} has no shape yet, for its module is lazy; run the model once first"
        )


def _within(module: Any) -> Module | None:
    """The module inside a wrapper; None of what is none."""
    inside: Module | None = module._modules.get(_wrapped_as(type(module)))
    return inside


def _wrapped_as(kind: type) -> str | None:
    """What a class of wrappers calls the module within; None of a class that wraps none."""
    return next((name for wrapper, name in _WRAPPERS.items() if _is(kind, wrapper)), None)


def _is(kind: type, name: str) -> bool:
    """Whether a class is one of torch, or of DeepSpeed, that is called so; none needs to be imported for that."""
    return any(one.__name__ == name and one.__module__.startswith(("torch.", "deepspeed.")) for one in kind.__mro__)
