"""Mamba: eight node layers a block and the final residual, 8B+1 in all.

A block's node layers: residual x; the channels h that the state space mixes and their gate z; of h the step t, of few neurons,
and B and C, what enters and leaves the state; the step dt, made of t; s, what the state space gives, gated. x->h, x->z, h->t,
h->B, h->C, t->dt, s->x of the next block. Left out: embeddings, LM head, and what joins no two neurons: the convolution along
time, which has one channel a group, and A.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.transformer_blocks import following

PREFIXES = ("backbone.", "")
MIXER = "layers.{}.mixer.{}_proj.weight"
KIND = "state_space"


@register("mamba")
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    count = sizes.block_count(config)
    width = sizes.width(config)
    channels = width * sizes.positive_integer(config, "expand", sizes.MAX_WIDTH, 2)
    state = sizes.width(config, "state_size")
    rank = config.get("time_step_rank", "auto")
    rank = -(-width // 16) if rank == "auto" else sizes.width(config, "time_step_rank")
    net = Builder("mamba", PREFIXES)
    for number in range(count):
        block, after = f"block{number}", following(number, count)
        x = net.layer(block, "x", width, KIND)
        h, z, dt, s = (net.layer(block, part, channels, KIND, "channels") for part in ("h", "z", "dt", "s"))
        t, entering, leaving = (
            net.layer(block, "t", rank, KIND),
            net.layer(block, "B", state, KIND),
            net.layer(block, "C", state, KIND),
        )
        net.join(x, (h, z), MIXER.format(number, "in"))
        net.join(h, (t, entering, leaving), MIXER.format(number, "x"))
        net.join(t, dt, MIXER.format(number, "dt"))
        net.join(s, after, MIXER.format(number, "out"))
        for source in (h, z, dt):
            net.link(source, s)
        net.link(x, after, skip=True)
    net.layer("output", "x", width)
    return net.architecture()
