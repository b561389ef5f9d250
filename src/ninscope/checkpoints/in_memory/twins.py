"""Twins of modules: the same structure in other objects, so that what is done to one leaves the model as it is.

A module's own containers are copied, its children have twins, and what becomes of its tensors is for the caller to say. What it
holds besides, as a configuration, is shared. `copy.deepcopy` is not used: it would copy all that a module refers to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

TensorOf = Callable[["Tensor"], "Tensor"]


def same(tensor: Tensor) -> Tensor:
    """Of a twin that shares its model's tensors."""
    return tensor


class Copies:
    """Of a twin with tensors of its own: each is copied once, so that what is tied stays so."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Tensor, Tensor]] = {}  # with the original, whose id no other has while it is here

    def __call__(self, tensor: Tensor) -> Tensor:
        from torch.nn import Parameter

        if id(tensor) not in self._made:
            copied = tensor.detach().clone()
            is_parameter = isinstance(tensor, Parameter)
            self._made[id(tensor)] = tensor, Parameter(copied, requires_grad=False) if is_parameter else copied
        return self._made[id(tensor)][1]


def twin(module: Module, tensor_of: TensorOf = same, child_of: Callable[[Module], Module] | None = None) -> Module:
    """child_of: the twin of a child (default: made in the same way). One that torch has compiled to a script is itself."""
    from torch import Tensor
    from torch.jit import ScriptModule

    made: dict[int, Module] = {}

    def twin_of(original: Module, child: Callable[[Module], Module]) -> Module:
        if isinstance(original, ScriptModule):
            return original
        copied = object.__new__(type(original))  # FSDP2's own __new__ makes another class
        made[id(original)] = copied
        attributes = dict(vars(original))
        for name, value in vars(original).items():
            if isinstance(value, dict | list | set):
                attributes[name] = value.copy()
            elif isinstance(value, Tensor):  # that is no parameter, and no buffer
                attributes[name] = tensor_of(value)
        for kind in ("_parameters", "_buffers"):
            held = attributes[kind].items()
            attributes[kind] = {name: None if tensor is None else tensor_of(tensor) for name, tensor in held}
        children = attributes["_modules"].items()
        attributes["_modules"] = {name: None if one is None else child(one) for name, one in children}
        vars(copied).update(attributes)
        return copied

    def inner_twin(original: Module) -> Module:
        return made[id(original)] if id(original) in made else twin_of(original, inner_twin)

    return twin_of(module, child_of or inner_twin)


def modules_of(module: Module) -> Iterator[Module]:
    """A module and all within it, each once. Not by `modules()`, which some of peft's classes change their tensors in."""
    seen: set[int] = set()
    waiting = [module]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [child for child in one._modules.values() if child is not None]


def tensors_of(module: Module) -> Iterator[Tensor]:
    """The parameters and buffers of a module and of all within it."""
    for one in modules_of(module):
        for tensors in (one._parameters, one._buffers):
            yield from (tensor for tensor in tensors.values() if tensor is not None)
