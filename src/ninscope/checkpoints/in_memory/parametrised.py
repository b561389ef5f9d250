"""Weights under a parametrization of torch, as the module uses them: what removing the parametrization would leave.

torch.nn.utils.parametrize (weight_norm, spectral_norm, orthogonal, anyone's own), and the older weight_norm, spectral_norm and
prune, which are hooks. The new spectral_norm in training mode takes a step of its power iteration whenever the weight is asked
for, and that step is in the weight that it gives; removing the old one takes none. All that is done is done to twins.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ninscope.checkpoints.in_memory.twins import Copies, tensors_of, twin

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

ADVICE = "remove the parametrization (torch.nn.utils.parametrize.remove_parametrizations), or measure a copy without it"
_PARAMETRIZATIONS = "parametrizations"


@dataclass(frozen=True)
class Parametrised:
    """One tensor of a module that is computed.

    name: in the module. module: holds what it is computed from. compute: gives it, of a twin of that module. stored: the names in
    the module itself of what it is computed from, where they are not in a module of their own. like: has its shape, if known.
    """

    name: str
    module: Module
    compute: Callable[[Module], Tensor]
    stored: tuple[str, ...] = ()
    like: Tensor | None = None

    @property
    def inputs(self) -> list[Tensor]:
        return list(tensors_of(self.module))

    def value(self) -> Tensor:
        """The weight, computed without a trace in the model."""
        return self.compute(twin(self.module, Copies()))


def parametrised(module: Module) -> list[Parametrised]:
    """The tensors of a module itself, not of its children, that are computed."""
    if not module._forward_pre_hooks and _PARAMETRIZATIONS not in module._modules:
        return []
    return [*_of_parametrize(module), *_of_hooks(module)]


def without_parametrizations(module: Module, names: Mapping[str, Tensor], computed: list[Parametrised]) -> None:
    """Put placeholders by the weights' names into a twin, in place of what the weights are computed from."""
    module._modules.pop(_PARAMETRIZATIONS, None)
    for one in computed:
        for stored in one.stored:
            module._parameters.pop(stored, None)
            module._buffers.pop(stored, None)
    for name, placeholder in names.items():
        module._buffers.pop(name, None)  # of the old spectral_norm
        module._parameters[name] = placeholder  # type: ignore[assignment]


def _of_parametrize(module: Module) -> Iterator[Parametrised]:
    from torch.nn.utils.parametrize import ParametrizationList

    held = module._modules.get(_PARAMETRIZATIONS)
    for name, parametrizations in held._modules.items() if held is not None else ():
        if isinstance(parametrizations, ParametrizationList):
            # Not by the name, which may be cached.
            yield Parametrised(name, parametrizations, lambda copied: copied(), like=_like(parametrizations))


def _like(parametrizations: Any) -> Tensor | None:
    """What is stored in a weight's shape and type, of a ParametrizationList, where that is known."""
    first, *others = parametrizations
    like: Tensor | None = None
    if parametrizations.is_tensor and all(_keeps_shape(one, parametrizations) for one in (first, *others)):
        like = parametrizations.original
    elif type(first).__name__ == "_WeightNorm" and all(_keeps_shape(one, parametrizations) for one in (first, *others)):
        like = parametrizations.original1
    return like


def _keeps_shape(one: Any, parametrizations: Any) -> bool:
    """Whether what a parametrization gives is like what it is given: torch's own, and those that torch has checked."""
    is_own = type(one).__module__ == "torch.nn.utils.parametrizations"
    return is_own or not (parametrizations.unsafe or hasattr(one, "right_inverse"))


def _of_hooks(module: Module) -> Iterator[Parametrised]:
    from torch.nn.utils.spectral_norm import SpectralNorm
    from torch.nn.utils.weight_norm import WeightNorm

    prune = sys.modules.get("torch.nn.utils.prune")  # who prunes has imported it
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            yield _hooked(module, hook.name, hook.compute_weight, "v", "g")
        elif isinstance(hook, SpectralNorm):
            yield _hooked(module, hook.name, _without_iteration(hook), "orig", "u", "v")
        elif prune is not None and isinstance(hook, prune.BasePruningMethod):
            yield _hooked(module, hook._tensor_name, hook.apply_mask, "orig", "mask")


def _without_iteration(hook: Any) -> Callable[[Module], Tensor]:
    return lambda module: hook.compute_weight(module, do_power_iteration=False)


def _hooked(module: Module, name: str, compute: Callable[[Module], Tensor], like: str, *others: str) -> Parametrised:
    """like, others: what follows the weight's name in the names of the tensors that it is computed from; like has its shape."""
    stored = tuple(f"{name}_{part}" for part in (like, *others))
    return Parametrised(name, module, compute, stored, getattr(module, stored[0]))
