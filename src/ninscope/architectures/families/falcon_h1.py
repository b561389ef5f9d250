"""Falcon-H1: attention and a state space side by side, then a gated MLP: 15B+1 node layers.

Both read x, and what they give is added to it: a. Attention's node layers are a llama's (families/llama.py): q, k, v, c; the state
space's Mamba-2's (families/mamba2.py): z, h, B, C, dt, s; the MLP's g, u, m. Left out: token embedding, LM head, and what joins no
two neurons: the convolution along time, which has one channel a group, and A.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.decoder_blocks import ATTENTION, PREFIXES, grouped_heads
from ninscope.architectures.families.mamba2 import StateSpace
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.transformer_blocks import following, formatted, gated_mlp

NAMES = (
    ATTENTION
    | {part: f"layers.{{}}.feed_forward.{part}_proj.weight" for part in ("gate", "up", "down")}
    | {part: f"layers.{{}}.mamba.{part}_proj.weight" for part in ("in", "out")}
)


@register("falcon_h1")
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    count = sizes.block_count(config)
    width = sizes.width(config)
    heads = grouped_heads(config, width, count)
    hidden = sizes.width(config, "intermediate_size")
    space = _state_space(config, width)
    net = Builder("falcon_h1", PREFIXES)
    for number in range(count):
        block, names = f"block{number}", formatted(NAMES, number)
        heads.attention(net, block, width, names)
        space.add(net, block, f"{block}.x", f"{block}.a", names["in"], names["out"])
        gated_mlp(net, block, hidden, following(number, count), names)
    net.layer("output", "x", width)
    return net.architecture()


def _state_space(config: Mapping, width: int) -> StateSpace:
    """Raises CheckpointError (corrupt). Defaults are the library's."""
    if "mamba_d_ssm" in config and config["mamba_d_ssm"] is None:
        channels = width * sizes.positive_integer(config, "mamba_expand", sizes.MAX_WIDTH, 2)
    else:
        channels = sizes.width(config, "mamba_d_ssm", 1024)
    heads = sizes.width(config, "mamba_n_heads", 128)
    sizes.multiple(channels, "mamba_d_ssm", heads, "mamba_n_heads")
    state = sizes.width(config, "mamba_n_groups", 1) * sizes.width(config, "mamba_d_state", 256)
    return StateSpace(channels, state, heads)
