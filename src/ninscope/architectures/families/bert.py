"""BERT and RoBERTa encoders: seven node layers a block (transformer_blocks.py) and the final residual, 7B+1 in all.

Left out: embeddings, and the heads. The pooler counts as a head, since masked language models lack it. So an encoder is the same
network under every head.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.transformer_blocks import plain_blocks

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


@register(*MODEL_TYPES)
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt, unsupported)."""
    sizes.refuse_cross_attention(config)
    count = sizes.block_count(config)
    width = sizes.width(config)
    sizes.multiple(width, "hidden_size", sizes.width(config, "num_attention_heads"), "num_attention_heads")
    hidden = sizes.width(config, "intermediate_size")
    net = Builder(sizes.model_type(config, MODEL_TYPES), PREFIXES)
    plain_blocks(net, count, width, hidden, NAMES)
    net.layer("output", "x", width)
    return net.architecture()
