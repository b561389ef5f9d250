"""ConvGRU (ninscope.neurons.convgru), whose neurons are channels, unrolled for one step of encoder and forecaster: 12L + 3 node
layers of L levels.

Node layers: the frame, input.x; for every level of the encoder what its convolution gives, x, the hidden state before the step,
state, the gates reset and update, the candidate, and the hidden state after the step, h; the same for every level of the
forecaster, whose coarsest level has no x. Weights lead from x and from state to the gates and the candidate (each of the two
tensors holds three matrices one after the other), and from h to the next level's x: by a convolution down, by a transposed one up.
Then come final.x, which the last transposed convolution gives, final.h, and the forecast frame, output.x.

Gates multiply, and states are added, neuron by neuron: these are links. The forecaster of a level begins with the encoder's hidden
state, which is a link too. Left out: biases.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.errors import CheckpointError

PREFIXES = ("",)
FINAL_KERNEL = (3, 3)
GATED = ("reset", "update", "candidate")
LISTS = (
    "convolution_channels", "convolution_kernels", "hidden_channels", "input_kernels", "recurrent_kernels",
    "upsampling_kernels",
)  # fmt: skip


@register("convgru")
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    lists = {key: sizes.stages(config, key, _limit(key)) for key in LISTS}
    levels = len(lists["hidden_channels"])
    for key, values in lists.items():
        if len(values) != levels:
            raise CheckpointError(
                "corrupt",
                f"config.json: hidden_channels {lists['hidden_channels']} and {key} {values} differ in length",
            )
    net = Builder("convgru", PREFIXES)
    now = net.layer("input", "x", 1, "convolution")
    for level in range(levels):
        x = net.layer(f"encoder{level}", "x", lists["convolution_channels"][level], "input_to_hidden")
        net.join(now, x, f"down.{level}.weight", "convolution", _kernel(lists, "convolution", level))
        now = _recurrent_layer(net, "encoder", level, x, lists)
    x = ""
    for level in reversed(range(levels)):
        now = _recurrent_layer(net, "forecaster", level, x, lists)
        net.link(f"encoder{level}.h", f"forecaster{level}.state")
        block, kind = (f"forecaster{level - 1}", "input_to_hidden") if level else ("final", "convolution")
        x = net.layer(block, "x", lists["convolution_channels"][level], kind)
        kernel = _kernel(lists, "upsampling", level)
        net.join(now, x, f"up.{level}.weight", "transposed_convolution", kernel)
    hidden = net.layer("final", "h", lists["convolution_channels"][0], "convolution")
    net.join(x, hidden, "final.weight", "convolution", FINAL_KERNEL)
    net.join(hidden, net.layer("output", "x", 1), "output.weight", "convolution", (1, 1))
    return net.architecture()


def _recurrent_layer(net: Builder, side: str, level: int, x: str, lists: Mapping[str, list[int]]) -> str:
    """A level's node layers besides x, which the coarsest of the forecaster does not have (""). Returns h.

    The layers share sampled neurons, since links join them one by one.
    """
    channels = lists["hidden_channels"]
    block, hidden = f"{side}{level}", channels[level]
    number = level if side == "encoder" else 2 * len(channels) - 1 - level  # in the order in which layers are run
    names = f"recurrent.{number}."
    state = net.layer(block, "state", hidden, "hidden_to_hidden", "h")
    gated = tuple(net.layer(block, part, hidden, "", "h") for part in GATED)
    h = net.layer(block, "h", hidden, "convolution")
    if x:
        net.join(x, gated, names + "input_to_hidden.weight", "convolution", _kernel(lists, "input", level))
    net.join(state, gated, names + "hidden_to_hidden.weight", "convolution", _kernel(lists, "recurrent", level))
    reset, update, candidate = gated
    net.link(reset, candidate)
    net.link(update, h)
    net.link(candidate, h)
    net.link(state, h, skip=True)
    return h


def _kernel(lists: Mapping[str, list[int]], kind: str, level: int) -> tuple[int, int]:
    side = lists[f"{kind}_kernels"][level]
    return side, side


def _limit(key: str) -> int:
    return sizes.MAX_KERNEL if key.endswith("kernels") else sizes.MAX_WIDTH
