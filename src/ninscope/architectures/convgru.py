"""ConvGRU (ninscope.neurons.convgru), whose neurons are channels, unrolled for one step of encoder and forecaster: 12L + 3 node
layers of L levels.

Node layers: the frame, input.x; of every level of the encoder what its convolution gives, x, the hidden state before the step,
state, the gates reset and update, the candidate, and the hidden state after the step, h; the same of every level of the
forecaster, whose coarsest has no x. Weights lead from x and from state to the gates and the candidate, each of the two tensors
holding three matrices one after the other, and from h to the next level's x: by a convolution down, by a transposed one up. Then
come final.x, what the last transposed convolution gives, final.h and output.x, the forecast frame.

Gates multiply and states are added neuron by neuron: links. The hidden state of the encoder is where the forecaster of that level
begins, a link too. Left out: biases.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.layout import Architecture
from ninscope.errors import CheckpointError

MODEL_TYPE = "convgru"
PREFIXES = ("",)
FINAL_KERNEL = (3, 3)
GATED = ("reset", "update", "candidate")
LISTS = (
    "convolution_channels", "convolution_kernels", "hidden_channels", "input_kernels", "recurrent_kernels",
    "upsampling_kernels",
)  # fmt: skip


def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    given = {key: sizes.stages(config, key, _limit(key)) for key in LISTS}
    levels = len(given["hidden_channels"])
    for key, values in given.items():
        if len(values) != levels:
            raise CheckpointError(
                "corrupt",
                f"config.json: hidden_channels {given['hidden_channels']} and {key} {values} differ in length",
            )
    net = Builder(MODEL_TYPE, PREFIXES)
    now = net.layer("input", "x", 1, "convolution")
    for level in range(levels):
        x = net.layer(f"encoder{level}", "x", given["convolution_channels"][level], "input_to_hidden")
        net.join(now, x, f"down.{level}.weight", "convolution", _kernel(given, "convolution", level))
        now = _recurrent_layer(net, "encoder", level, x, given)
    x = None
    for level in reversed(range(levels)):
        now = _recurrent_layer(net, "forecaster", level, x, given)
        net.link(f"encoder{level}.h", f"forecaster{level}.state")
        below = ("final", "x", "convolution") if level == 0 else (f"forecaster{level - 1}", "x", "input_to_hidden")
        block, part, kind = below
        x = net.layer(block, part, given["convolution_channels"][level], kind)
        name = f"up.{level}.weight"
        net.join(now, x, name, "transposed_convolution", _kernel(given, "upsampling", level))
    hidden = net.layer("final", "h", given["convolution_channels"][0], "convolution")
    net.join(x, hidden, "final.weight", "convolution", FINAL_KERNEL)
    net.join(hidden, net.layer("output", "x", 1), "output.weight", "convolution", (1, 1))
    return net.architecture()


def _recurrent_layer(net: Builder, side: str, level: int, x: str | None, given: Mapping[str, list[int]]) -> str:
    """A level's node layers beside x; returns h. They share sampled neurons, since links join them one by one."""
    channels = given["hidden_channels"]
    block, hidden = f"{side}{level}", channels[level]
    place = level if side == "encoder" else 2 * len(channels) - 1 - level  # in the order in which they are run
    names = f"recurrent.{place}."
    state = net.layer(block, "state", hidden, "hidden_to_hidden", "h")
    gated = tuple(net.layer(block, part, hidden, "", "h") for part in GATED)
    h = net.layer(block, "h", hidden, "convolution")
    if x is not None:
        net.join(x, gated, names + "input_to_hidden.weight", "convolution", _kernel(given, "input", level))
    net.join(state, gated, names + "hidden_to_hidden.weight", "convolution", _kernel(given, "recurrent", level))
    reset, update, candidate = gated
    net.link(reset, candidate)
    net.link(update, h)
    net.link(candidate, h)
    net.link(state, h, skip=True)
    return h


def _kernel(given: Mapping[str, list[int]], of: str, level: int) -> tuple[int, int]:
    side = given[f"{of}_kernels"][level]
    return side, side


def _limit(key: str) -> int:
    return sizes.MAX_KERNEL if key.endswith("kernels") else sizes.MAX_WIDTH
