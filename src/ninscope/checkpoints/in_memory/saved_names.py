"""Names of a model's tensors as its library saves them: those of transformers have others in memory, and ties are saved once."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary


def is_pretrained(model: object) -> bool:
    """Whether a model is one of transformers."""
    return any(kind.__module__.startswith("transformers.") for kind in type(model).__mro__)


# Names as saved, by names in memory, of models that were asked for; of those alone where each tensor is saved as it is. To find
# out takes the library milliseconds.
_RENAMED: WeakKeyDictionary[Any, dict[tuple[str, ...], tuple[str, ...]]] = WeakKeyDictionary()


def as_saved(model: Any, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict by the names under which transformers saves it: since version 5 modules may have others.

    What is only renamed is the same tensor. What is stored in another way, as experts that modules hold together, is copied.
    """
    loading = sys.modules.get("transformers.core_model_loading")
    revert = getattr(loading, "revert_weight_conversion", None)
    if revert is None or not is_pretrained(model):
        return state_dict
    names = tuple(state_dict)
    known = _RENAMED.setdefault(model, {})
    if names not in known:
        with sys.modules["torch"].no_grad():
            converted: Mapping[str, Any] = revert(model, dict(state_dict))
        new_names = {id(tensor): name for name, tensor in converted.items()}
        tensors = {id(tensor) for tensor in state_dict.values()}
        if not len(converted) == len(state_dict) == len(tensors) or new_names.keys() != tensors:
            return converted
        known[names] = tuple(new_names[id(tensor)] for tensor in state_dict.values())
    return dict(zip(known[names], state_dict.values(), strict=True))


def without_copies(model: object, state_dict: Mapping[str, Any], place: Callable[[Any], Hashable]) -> Mapping[str, Any]:
    """Without what transformers leaves out when it saves a model: the further names of tied tensors, and what the class says.

    place: tells a tensor from those that lie elsewhere. Ties that the class does not state stay.
    """
    if not is_pretrained(model):
        return state_dict
    left_out = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    names_at: dict[Hashable, list[str]] = {}
    for name, tensor in state_dict.items():
        names_at.setdefault(place(tensor), []).append(name)
    shared = [sorted(names) for names in names_at.values() if len(names) > 1]
    if shared:
        stated = [re.compile(pattern) for pattern in _tied_names(model)]
        for names in shared:
            copies = [name for name in names if any(pattern.search(name) for pattern in stated)]
            left_out |= set(copies[: len(names) - 1])
    return {name: tensor for name, tensor in state_dict.items() if name not in left_out}


def _tied_names(module: Any, name: str = "") -> Iterator[str]:
    """Patterns of the names that classes of transformers say are tied to others."""
    tied = getattr(module, "_tied_weights_keys", None) or ()
    yield from (f"{name}.{pattern}" if name else pattern for pattern in tied)
    for child_name, child in module._modules.items():
        if child is not None:
            yield from _tied_names(child, f"{name}.{child_name}" if name else child_name)
