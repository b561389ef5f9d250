"""The weights that a model uses, where its file holds what they are computed from: found by the names and shapes of tensors.

Of a weight X.w (w is "weight", or a name with it, as in_proj_weight), torch.nn.utils stores
- weight_norm: X.w_g and X.w_v, or X.parametrizations.w.original0 and original1;
- spectral_norm: X.w_orig, X.w_u and X.w_v, or X.parametrizations.w.original, .0._u and .0._v;
- prune: X.w_orig and X.w_mask.
Any other parametrization is code that the file does not hold: what uses such a weight is refused by its name. A parametrization
that stores nothing beside these leaves no trace, so weight_norm under one more cannot be told from weight_norm.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ninscope.checkpoints.effective_weights import EffectiveFile, Formula, Masked, Normed, SpectrallyNormed, untold
from ninscope.checkpoints.tensors import STORED_TYPES, Tensor
from ninscope.errors import CheckpointError

_SUFFIXES = ("g", "v", "orig", "u", "mask")

Parts = Mapping[str, Tensor]  # the tensors of one weight, by what follows its name


@dataclass(frozen=True)
class UnknownWeight(Tensor):
    """A weight that the file does not tell: it has a name, and refuses to be read."""

    stored: tuple[str, ...]

    def check_readable(self) -> None:
        raise CheckpointError(
            "unsupported",
            f"tensor {self.name} is reparametrised in a way that {untold(self, ', '.join(self.stored))}",
        )


def effective_tensors(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors with each reparametrised weight in place of what it is computed from; nothing is read yet."""
    by_weight = _by_weight(tensors)
    if not by_weight:
        return tensors
    used = {id(part) for parts in by_weight.values() for part in parts.values()}
    effective = {name: tensor for name, tensor in tensors.items() if id(tensor) not in used}
    for target, parts in by_weight.items():
        if target in tensors:  # old files of spectral_norm hold the weight beside what it is computed from
            continue
        placeholder = next((part for part in parts.values() if 0 in part.shape), None)
        formula = None if placeholder is not None else _formula(parts)
        if placeholder is not None:
            effective[target] = placeholder  # which says so, by its own name, where it is used
        elif formula is not None:
            effective[target] = Tensor(replace(formula.stored.entry, name=target), EffectiveFile(formula))
        else:
            largest = max(parts.values(), key=lambda tensor: math.prod(tensor.shape))
            names = tuple(sorted(tensor.name for tensor in parts.values()))
            effective[target] = UnknownWeight(replace(largest.entry, name=target), largest.file, names)
    return effective


def _by_weight(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """By the name of each weight of two or more axes that is reparametrised, or looks so, placeholders among them."""
    parametrized: dict[str, dict[str, Tensor]] = {}
    suffixed: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if weight_and_part := _parametrized(name):
            parametrized.setdefault(weight_and_part[0], {})[weight_and_part[1]] = tensor
        elif weight_and_part := _suffixed(name):
            suffixed.setdefault(weight_and_part[0], {})[weight_and_part[1]] = tensor
    stored = parametrized | {
        target: parts
        for target, parts in suffixed.items()
        if "orig" in parts or (set(parts) == {"g", "v"} and target not in tensors)
    }
    return {
        target: parts
        for target, parts in stored.items()
        if max(len(part.shape) for part in parts.values()) > 1 or any(0 in part.shape for part in parts.values())
    }


def _parametrized(name: str) -> tuple[str, str] | None:
    """(weight, part) of a tensor of torch.nn.utils.parametrize, module.parametrizations.weight.part; None of any other."""
    module, mark, rest = name.partition("parametrizations.")
    weight, _, part = rest.partition(".")
    if not mark or (module and not module.endswith(".")):
        return None
    is_state = part.startswith("original") or part.partition(".")[0].isdigit()
    return (module + weight, part) if is_state else None


def _suffixed(name: str) -> tuple[str, str] | None:
    """(weight, part) of a tensor that the older functions of torch.nn.utils may have stored, weight_part; None of any other."""
    weight, _, part = name.rpartition("_")
    return (weight, part) if part in _SUFFIXES and "weight" in weight.rpartition(".")[2] else None


def _formula(parts: Parts) -> Formula | None:
    """How a weight is computed; None where that cannot be told."""
    if not all(tensor.dtype in STORED_TYPES for tensor in parts.values()):
        return None
    names = set(parts)
    if names == {"original0", "original1"}:
        return _normed(parts["original0"], parts["original1"])
    if names == {"g", "v"}:
        return _normed(parts["g"], parts["v"])
    if names == {"original", "0._u", "0._v"}:
        return _spectrally_normed(parts["original"], parts["0._u"], parts["0._v"])
    if names == {"orig", "u", "v"}:
        return _spectrally_normed(parts["orig"], parts["u"], parts["v"])
    if names == {"orig", "mask"} and parts["orig"].shape == parts["mask"].shape:
        return Masked(parts["orig"], parts["mask"])
    return None


def _normed(g: Tensor, v: Tensor) -> Normed | None:
    """None where g has not the shape of norms of v."""
    kept = [axis for axis, size in enumerate(g.shape) if size != 1]
    if not kept and len(g.shape) in (0, len(v.shape)):
        return Normed(v, g, None)
    if len(kept) == 1 and len(g.shape) == len(v.shape) and g.shape[kept[0]] == v.shape[kept[0]]:
        return Normed(v, g, kept[0])
    return None


def _spectrally_normed(weight: Tensor, u: Tensor, v: Tensor) -> SpectrallyNormed | None:
    """None where u and v do not belong to it. A matrix has its rows first; convolutions may be transposed."""
    numbers = math.prod(weight.shape)
    axes = tuple(
        axis for axis, size in enumerate(weight.shape) if u.shape == (size,) and size and v.shape == (numbers // size,)
    )
    if not axes:
        return None
    return SpectrallyNormed(weight, u, v, axes[:1] if len(weight.shape) == 2 else axes)
