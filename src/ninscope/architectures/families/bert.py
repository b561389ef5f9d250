"""BERT and RoBERTa encoders: seven node layers a block (transformer_blocks.py) and the final residual, 7B+1 in all.

Left out: embeddings, and the heads. The pooler counts as a head, since masked language models lack it. So an encoder is the same
network under every head.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.declarations import heads, plain_units, stream_norm
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.transformer_blocks import following, plain_blocks

MODEL_TYPES = ("bert", "roberta")
PREFIXES = ("bert.", "roberta.", "")
NAMES = {
    "q": "encoder.layer.{}.attention.self.query.weight",
    "k": "encoder.layer.{}.attention.self.key.weight",
    "v": "encoder.layer.{}.attention.self.value.weight",
    "o": "encoder.layer.{}.attention.output.dense.weight",
    "up": "encoder.layer.{}.intermediate.dense.weight",
    "down": "encoder.layer.{}.output.dense.weight",
}


@register(*MODEL_TYPES, gauge=True)
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt, unsupported)."""
    sizes.refuse_cross_attention(config)
    count = sizes.block_count(config)
    width = sizes.width(config)
    heads_count = sizes.width(config, "num_attention_heads")
    head_dim = sizes.multiple(width, "hidden_size", heads_count, "num_attention_heads")
    hidden = sizes.width(config, "intermediate_size")
    net = Builder(sizes.model_type(config, MODEL_TYPES), PREFIXES)
    plain_blocks(net, count, width, hidden, NAMES)
    net.layer("output", "x", width)
    if config.get("position_embedding_type", "absolute") == "absolute":  # others multiply q with vectors of their own
        _declare(net, config, count, head_dim)
    return net.architecture()


def _declare(net: Builder, config: Mapping, count: int, head_dim: int) -> None:
    stream_norm(net, "embeddings.LayerNorm.weight", "block0.x")
    for number in range(count):
        block = f"block{number}"
        stream_norm(net, f"encoder.layer.{number}.attention.output.LayerNorm.weight", f"{block}.a")
        stream_norm(net, f"encoder.layer.{number}.output.LayerNorm.weight", following(number, count))
        heads(net, block, head_dim)
        plain_units(net, block, config.get("hidden_act", "gelu"))
