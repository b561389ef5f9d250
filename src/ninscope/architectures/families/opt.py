"""OPT: seven node layers a block (transformer_blocks.py) and the final residual, 7B+1 in all.

Where word_embed_proj_dim is not hidden_size (opt-350m), two matrices of the decoder lead from the embedding's neurons to the
first block and from the last block back. Each adds a node layer: input.e -> block0.x (project_in) and output.x -> output.e
(project_out). do_layer_norm_before only moves a normalisation, which joins no two neurons. Left out: token and position
embeddings and the LM head, which is the token embedding once more.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.declarations import heads, layer_norm, plain_units
from ninscope.architectures.gauge import READ, STREAM
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.transformer_blocks import following, plain_blocks

PREFIXES = ("model.decoder.", "decoder.", "")
NAMES = {part: f"layers.{{}}.self_attn.{part}_proj.weight" for part in "qkv"} | {
    "o": "layers.{}.self_attn.out_proj.weight",
    "up": "layers.{}.fc1.weight",
    "down": "layers.{}.fc2.weight",
}


@register("opt", gauge=True)
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    count = sizes.block_count(config)
    width = sizes.width(config)
    heads_count = sizes.width(config, "num_attention_heads")
    head_dim = sizes.multiple(width, "hidden_size", heads_count, "num_attention_heads")
    hidden = sizes.width(config, "ffn_dim")
    embedded = sizes.width(config, "word_embed_proj_dim", default=width)
    net = Builder("opt", PREFIXES)
    if embedded != width:
        net.join(net.layer("input", "e", embedded, "embedding"), "block0.x", "project_in.weight")
    plain_blocks(net, count, width, hidden, NAMES)
    output = net.layer("output", "x", width, "head" if embedded != width else "")
    if embedded != width:
        net.join(output, net.layer("output", "e", embedded), "project_out.weight")
    _declare(net, config, count, head_dim)
    return net.architecture()


def _declare(net: Builder, config: Mapping, count: int, head_dim: int) -> None:
    """Normalisations stand before the parts, or of the stream behind them; with gains, or without."""
    before = config.get("do_layer_norm_before", True) is True
    gains = config.get("layer_norm_elementwise_affine", True) is True
    place = READ if before else STREAM
    for number in range(count):
        block, module = f"block{number}", f"layers.{number}"
        for norm, reads, behind in (("self_attn", "x", f"{block}.a"), ("final", "a", following(number, count))):
            if gains:
                layer_norm(net, f"{module}.{norm}_layer_norm.weight", f"{block}.{reads}" if before else behind, place)
        heads(net, block, head_dim)
        plain_units(net, block, config.get("activation_function", "relu"))
    last = before and gains and config.get("_remove_final_layer_norm", False) is not True
    if last and net.reading("output.x"):
        layer_norm(net, "final_layer_norm.weight", "output.x")
