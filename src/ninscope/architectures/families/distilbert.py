"""DistilBERT: seven node layers a block (transformer_blocks.py) and the final residual, 7B+1 in all.

Left out: embeddings, and the heads (vocab_transform, pre_classifier and their like).
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.declarations import heads, plain_units, stream_norm
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.transformer_blocks import following, plain_blocks

PREFIXES = ("distilbert.", "")
NAMES = {part: f"transformer.layer.{{}}.attention.{part}_lin.weight" for part in "qkv"} | {
    "o": "transformer.layer.{}.attention.out_lin.weight",
    "up": "transformer.layer.{}.ffn.lin1.weight",
    "down": "transformer.layer.{}.ffn.lin2.weight",
}


@register("distilbert", gauge=True)
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    count = sizes.block_count(config, "n_layers")
    width = sizes.width(config, "dim")
    head_dim = sizes.multiple(width, "dim", sizes.width(config, "n_heads"), "n_heads")
    hidden = sizes.width(config, "hidden_dim")
    net = Builder("distilbert", PREFIXES)
    plain_blocks(net, count, width, hidden, NAMES)
    net.layer("output", "x", width)
    stream_norm(net, "embeddings.LayerNorm.weight", "block0.x")
    for number in range(count):
        block, module = f"block{number}", f"transformer.layer.{number}"
        stream_norm(net, f"{module}.sa_layer_norm.weight", f"{block}.a")
        stream_norm(net, f"{module}.output_layer_norm.weight", following(number, count))
        heads(net, block, head_dim)
        plain_units(net, block, config.get("activation", "gelu"))
    return net.architecture()
