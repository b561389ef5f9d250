"""Names of tensors as a model calls them, whatever it was wrapped in when it was saved.

torch.compile, DistributedDataParallel, FSDP and activation checkpointing put a component of their own into the names of what they
wrap, be it the whole model (module._orig_mod.layers.0) or a block (layers.0._orig_mod.attn). A trainer's module puts one of the
user's before all of them (net.layers.0).
"""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import TypeVar

# No known family calls a part of its models so.
_WRAPPERS = frozenset(("_orig_mod", "module", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module"))
_DEPTH, _TRIED = 3, 16  # components of an outer prefix, and how many of them are tried

Value = TypeVar("Value")


def unwrapped(tensors: Mapping[str, Value]) -> Mapping[str, Value]:
    """The same by names without the components of wrappers; as it is where there are none, or where two would have one name."""
    names = {name: _plain(name) for name in tensors}
    if all(name == plain for name, plain in names.items()) or len(set(names.values())) < len(names):
        return tensors
    return {names[name]: tensor for name, tensor in tensors.items()}


def _plain(name: str) -> str:
    if not any(wrapper in name for wrapper in _WRAPPERS):
        return name
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def outer_prefixes(names: Collection[str]) -> list[str]:
    """What may stand before all names of a model, short ones first: "net.", "net.backbone.". A numbered part is the model's."""
    counted: Counter[str] = Counter()
    for name in names:
        prefix = ""
        for part in name.split(".")[:-1][:_DEPTH]:
            if part.isdecimal():
                break
            prefix += f"{part}."
            counted[prefix] += 1
    return sorted((prefix for prefix, _ in counted.most_common(_TRIED)), key=lambda prefix: (prefix.count("."), prefix))
