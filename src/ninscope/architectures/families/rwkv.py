"""RWKV-4: eight node layers a block and the final residual, 8B+1 in all.

A block's node layers: residual x; receptance r, k and v; the context c, which r gates; a, what c gives, added to x; of the
feed-forward the hidden m and the receptance g, which gates what m gives, added to x of the next block. x->r, x->k, x->v, c->a,
a->m, a->g, m->x of the next block. Left out: embeddings, head, and the vectors that mix and decay along time.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.transformer_blocks import following, formatted

PREFIXES = ("rwkv.", "")
NAMES = {part: f"blocks.{{}}.attention.{part}.weight" for part in ("receptance", "key", "value", "output")}
NAMES |= {
    part: f"blocks.{{}}.feed_forward.{name}.weight"
    for part, name in (("up", "key"), ("gate", "receptance"), ("down", "value"))
}


@register("rwkv")
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    count = sizes.block_count(config)
    width = sizes.width(config)
    channels = sizes.width(config, "attention_hidden_size", width)
    hidden = sizes.width(config, "intermediate_size", 4 * width)
    net = Builder("rwkv", PREFIXES)
    for number in range(count):
        block, names, after = f"block{number}", formatted(NAMES, number), following(number, count)
        x = net.layer(block, "x", width, "attention")
        r, k, v, c = (net.layer(block, part, channels, "attention", "attention") for part in "rkvc")
        a, m, g = (
            net.layer(block, "a", width, "mlp"),
            net.layer(block, "m", hidden, "mlp"),
            net.layer(block, "g", width, "mlp"),
        )
        joins = (
            (x, r, "receptance"),
            (x, k, "key"),
            (x, v, "value"),
            (c, a, "output"),
            (a, m, "up"),
            (a, g, "gate"),
            (m, after, "down"),
        )
        for source, target, part in joins:
            net.join(source, target, names[part])
        for source in (r, v):
            net.link(source, c)
        net.link(g, after)
        net.link(x, a, skip=True)
        net.link(a, after, skip=True)
    net.layer("output", "x", width)
    return net.architecture()
