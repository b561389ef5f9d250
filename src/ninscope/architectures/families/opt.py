"""OPT: seven node layers a block (transformer_blocks.py) and the final residual, 7B+1 in all.

Where word_embed_proj_dim is not hidden_size (opt-350m), two matrices of the decoder lead from the embedding's neurons to the
first block and from the last block back. Each adds a node layer: input.e -> block0.x (project_in) and output.x -> output.e
(project_out). do_layer_norm_before only moves a normalisation, which joins no two neurons. Left out: token and position
embeddings and the LM head, which is the token embedding once more.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.transformer_blocks import plain_blocks

PREFIXES = ("model.decoder.", "decoder.", "")
NAMES = {part: f"layers.{{}}.self_attn.{part}_proj.weight" for part in "qkv"} | {
    "o": "layers.{}.self_attn.out_proj.weight",
    "up": "layers.{}.fc1.weight",
    "down": "layers.{}.fc2.weight",
}


@register("opt")
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    count = sizes.block_count(config)
    width = sizes.width(config)
    sizes.multiple(width, "hidden_size", sizes.width(config, "num_attention_heads"), "num_attention_heads")
    hidden = sizes.width(config, "ffn_dim")
    embedded = sizes.width(config, "word_embed_proj_dim", default=width)
    net = Builder("opt", PREFIXES)
    if embedded != width:
        net.join(net.layer("input", "e", embedded, "embedding"), "block0.x", "project_in.weight")
    plain_blocks(net, count, width, hidden, NAMES)
    output = net.layer("output", "x", width, "head" if embedded != width else "")
    if embedded != width:
        net.join(output, net.layer("output", "e", embedded), "project_out.weight")
    return net.architecture()
