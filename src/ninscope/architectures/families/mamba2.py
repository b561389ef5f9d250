"""Mamba-2: seven node layers a block and the final residual, 7B+1 in all.

A block's node layers: residual x; the gate z and the channels h that the state space mixes; B and C, what enters and leaves the
state, n_groups * state_size each; the step dt, one neuron a head; s, what the state space gives, gated. in_proj leads from x
to z, h, B, C and dt, out_proj from s to x of the next block. Left out: embeddings, LM head, and what joins no two neurons: the
convolution along time, which has one channel a group, and A.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.families.mamba import KIND, MIXER, PREFIXES
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.transformer_blocks import following


@dataclass(frozen=True)
class StateSpace:
    """Neurons of z, h and s, of B and C, and of dt."""

    channels: int
    state: int
    heads: int

    def add(self, net: Builder, block: str, x: str, after: str, into: str, out: str) -> None:
        """Add z, h, B, C, dt and s of a block, which lead from x to `after`. into, out: the tensors of in_proj and out_proj."""
        z, h, s = (net.layer(block, part, self.channels, KIND, "channels") for part in "zhs")
        entering, leaving = (net.layer(block, part, self.state, KIND, "state") for part in "BC")
        step = net.layer(block, "dt", self.heads, KIND)
        net.join(x, (z, h, entering, leaving, step), into)
        net.join(s, after, out)
        net.link(z, s)
        net.link(h, s)


@register("mamba2")
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    count = sizes.block_count(config)
    width = sizes.width(config)
    channels = width * sizes.positive_integer(config, "expand", sizes.MAX_WIDTH, 2)
    heads = sizes.width(config, "num_heads")
    sizes.multiple(channels, "expand * hidden_size", heads, "num_heads")
    state = sizes.width(config, "n_groups", 8) * sizes.width(config, "state_size")
    space = StateSpace(channels, state, heads)
    net = Builder("mamba2", PREFIXES)
    for number in range(count):
        block, after = f"block{number}", following(number, count)
        x = net.layer(block, "x", width, KIND)
        space.add(net, block, x, after, MIXER.format(number, "in"), MIXER.format(number, "out"))
        net.link(x, after, skip=True)
    net.layer("output", "x", width)
    return net.architecture()
