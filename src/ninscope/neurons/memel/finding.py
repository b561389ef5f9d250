"""Find layers of a model: by name, or the middle ones of its attention layers or repeated blocks."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ninscope.errors import RequestError
from ninscope.neurons.inhibition import LAYERS, NEURONS, check_layers
from ninscope.wording import first_names

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


def layers_of(model: nn.Module, layers: str | Sequence[str]) -> dict[str, nn.Module]:
    """The modules that `layers` names, by name, in the model's order.

    layers: "middle:4", the middle four of `candidates`; "all" of them; or names as in model.named_modules(), whose beginning may
    be left out where the rest has one meaning. Raises RequestError: too few candidates, or a name that matches no module or
    several.
    """
    if isinstance(layers, str) and (middle := _MIDDLE.fullmatch(layers)):
        return _middle(model, int(middle[1]))
    if layers == "all" and (every := candidates(model)):
        return every
    if isinstance(layers, str) and layers.startswith("middle"):
        raise RequestError(f'layers is {layers!r}; "{LAYERS}" was expected, or names of modules')
    names = [layers] if isinstance(layers, str) else list(layers)
    check_layers(names)
    modules = {name: module for name, module in model.named_modules() if name}
    chosen = {_named(name, modules) for name in names}
    return {name: module for name, module in modules.items() if name in chosen}


def candidates(model: nn.Module) -> dict[str, nn.Module]:
    """The model's attention layers: the outermost modules that have "attention" in the name of their class. A model without any
    gives the blocks of its longest list of modules of one class."""
    attention: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in attention)
        named = "attention" in type(module).__name__.lower() and not isinstance(module, nn.ModuleList)
        if name and not inside and named:
            attention[name] = module
    return attention or _longest_list(model)


def _longest_list(model: nn.Module) -> dict[str, nn.Module]:
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
    """Tells from the shape of a block of convolutions' output which dimension counts features: 1, or the last where it is tokens.

    The block may end in another convolution than its last one, so `channels` may count a part of the output's channels.

    dimensions: of the last convolution's output, batch and channels included. channels: of that output.
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


def feature_dim_of(module: nn.Module, neurons: str = NEURONS[0]) -> int | ChannelDimension:
    """The dimension of a module's output that counts features: 1 for convolutions and the normalisations that go with them, or,
    for a block of them, a function that tells it; else the last, also for neurons "positions", which no dimension counts.

    Raises RequestError: a block with both convolutions and matrices, whose output may be either.
    """
    if neurons == "positions":
        return -1
    inside = list(module.modules())
    inner: list[nn.Module] = [part for part in inside if isinstance(part, (*_CONVOLUTIONS, nn.Linear))]
    inner = inner or [part for part in inside if isinstance(part, _CHANNEL_NORMALISATIONS)] or [module]
    channelled = {isinstance(part, (*_CONVOLUTIONS, *_CHANNEL_NORMALISATIONS)) for part in inner}
    if len(channelled) > 1:
        raise RequestError(
            f"a {type(module).__name__} has convolutions and matrices, and its output may count features in dimension 1 or in the "
            "last; give feature_dim, or take layers inside it"
        )
    if not channelled.pop():
        return -1
    last = inner[-1]
    if last is module or not isinstance(last, _CONVOLUTIONS):
        return 1
    return ChannelDimension(2 + len(last.kernel_size), last.out_channels)


def _middle(model: nn.Module, number: int) -> dict[str, nn.Module]:
    layers = candidates(model)
    if not 1 <= number <= len(layers):
        raise RequestError(
            f"middle:{number} of {len(layers)} attention layers or repeated blocks that {type(model).__name__} has; give "
            + (f"middle:1 to middle:{len(layers)}, or names" if layers else "names of modules")
        )
    first = (len(layers) - number) // 2
    return dict(list(layers.items())[first : first + number])


def _named(given: str, modules: dict[str, nn.Module]) -> str:
    """The whole name of the module that `given` is the end of."""
    if given in modules:
        return given
    ends = [name for name in modules if name.endswith(f".{given}")]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise RequestError(f"layer {given!r} is {len(ends)} modules: {first_names(ends)}; give the whole name of each")
    near = difflib.get_close_matches(given, modules, n=3, cutoff=0.3) or list(modules)[:3]
    raise RequestError(f"layer {given!r} matches no module of the model; near: {first_names(near)}")
