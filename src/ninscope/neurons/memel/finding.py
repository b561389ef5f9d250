"""Which layers of a model are meant: by name, or the middle ones of its attention layers or repeated blocks."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ninscope.errors import RequestError

_MIDDLE = re.compile(r"middle:(\d{1,6})")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CHANNEL_NORMALISATIONS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
)


def layers_of(model: nn.Module, asked: str | Sequence[str]) -> dict[str, nn.Module]:
    """The modules that are meant, by name, in the model's order.

    asked: "middle:4", the four middle ones of `candidates`; or names as in model.named_modules(), of which the beginning may be
    left out where that leaves one meaning. Raises RequestError: too few candidates, a name that matches nothing (with near ones)
    or several.
    """
    if isinstance(asked, str) and (found := _MIDDLE.fullmatch(asked)):
        return _middle(model, int(found[1]))
    if asked == "all" and (found := candidates(model)):
        return found
    if isinstance(asked, str) and asked.startswith("middle"):
        raise RequestError(f'layers is {asked!r}; "middle:4" was expected, or names of modules')
    names = [asked] if isinstance(asked, str) else list(asked)
    if not names:
        raise RequestError('layers is empty; give "middle:4", or names of modules')
    modules = {name: module for name, module in model.named_modules() if name}
    chosen = {_named(name, modules) for name in names}
    return {name: module for name, module in modules.items() if name in chosen}


def candidates(model: nn.Module) -> dict[str, nn.Module]:
    """The model's attention layers, outermost modules whose class is called so; where it has none, the blocks of its longest
    list of modules of one class."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if (
            name
            and not inside
            and "attention" in type(module).__name__.lower()
            and not isinstance(module, nn.ModuleList)
        ):
            found[name] = module
    if found:
        return found
    longest: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential):
            blocks = {f"{name}.{key}" if name else key: block for key, block in module.named_children()}
            alike = len({type(block) for block in blocks.values()}) == 1
            if alike and len(blocks) > max(len(longest), 1):
                longest = blocks
    return longest


@dataclass(frozen=True)
class ChannelDimension:
    """Which dimension of the output of a block of convolutions counts features, by its shape: 1, or the last where it is tokens.
    The block may end in another convolution than its last one, so that `channels` may be those of a part.

    dimensions: of what the last convolution gives, batch and channels with them. channels: how many those are.
    """

    dimensions: int
    channels: int

    def __call__(self, shape: torch.Size) -> int | None:
        """None: as many dimensions as a convolution gives, and the channels may be the last of them."""
        first, last = shape[1] == self.channels, shape[-1] == self.channels
        if len(shape) < self.dimensions:  # flattened, as patches are, which then come before their features
            return 1 if first and not last else -1
        square = shape[-1] == shape[-2]  # an image as wide as there are channels
        return None if last and not first and not square else 1


def feature_dim_of(module: nn.Module, neurons: str = "features") -> int | ChannelDimension:
    """Which dimension of a module's output counts features: 1 of convolutions and of normalisations that go with them, or what
    tells it of a block of them; else the last, also of neurons "positions", which no dimension counts. Raises RequestError: a
    block of both convolutions and matrices, whose output may be either."""
    if neurons == "positions":
        return -1
    inside = list(module.modules())
    inner = [each for each in inside if isinstance(each, (*_CONVOLUTIONS, nn.Linear))]
    inner = inner or [each for each in inside if isinstance(each, _CHANNEL_NORMALISATIONS)] or [module]
    of_channels = {isinstance(each, (*_CONVOLUTIONS, *_CHANNEL_NORMALISATIONS)) for each in inner}
    if len(of_channels) > 1:
        raise RequestError(
            f"a {type(module).__name__} has convolutions and matrices, and its output may count features in dimension 1 or in the "
            "last; give feature_dim, or take layers inside it"
        )
    if not of_channels.pop():
        return -1
    last = inner[-1]
    if last is module or not isinstance(last, _CONVOLUTIONS):
        return 1
    return ChannelDimension(2 + len(last.kernel_size), last.out_channels)


def _middle(model: nn.Module, number: int) -> dict[str, nn.Module]:
    found = candidates(model)
    if not 1 <= number <= len(found):
        raise RequestError(
            f"middle:{number} of {len(found)} attention layers or repeated blocks that {type(model).__name__} has; give "
            + (f"middle:1 to middle:{len(found)}, or names" if found else "names of modules")
        )
    first = (len(found) - number) // 2
    return dict(list(found.items())[first : first + number])


def _named(asked: str, modules: dict[str, nn.Module]) -> str:
    if asked in modules:
        return asked
    ends = [name for name in modules if name.endswith(f".{asked}")]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise RequestError(f"layer {asked!r} is {len(ends)} modules: {listed(ends)}; give the whole name of each")
    near = difflib.get_close_matches(asked, modules, n=3, cutoff=0.3) or list(modules)[:3]
    raise RequestError(f"layer {asked!r} matches no module of the model; near: {listed(near)}")


def listed(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
