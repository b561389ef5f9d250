"""GPT-2: seven node layers a block (transformer_blocks.py) and the final residual, 7B+1 in all.

Weights are those of Conv1D modules, stored [in, out]. c_attn holds q, k and v one after the other. Left out: token and position
embeddings and the LM head, which is the token embedding once more.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.declarations import heads, layer_norm, plain_units
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.transformer_blocks import plain_blocks

PREFIXES = ("transformer.", "", "model.")
NAMES = {
    "qkv": "h.{}.attn.c_attn.weight",
    "o": "h.{}.attn.c_proj.weight",
    "up": "h.{}.mlp.c_fc.weight",
    "down": "h.{}.mlp.c_proj.weight",
}


@register("gpt2", gauge=True)
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt, unsupported)."""
    sizes.refuse_cross_attention(config)
    count = sizes.block_count(config, "n_layer")
    width = sizes.width(config, "n_embd")
    head_dim = sizes.multiple(width, "n_embd", sizes.width(config, "n_head"), "n_head")
    hidden = sizes.width(config, "n_inner", default=4 * width)
    net = Builder("gpt2", PREFIXES)
    plain_blocks(net, count, width, hidden, NAMES, order="transposed")
    net.layer("output", "x", width)
    for number in range(count):
        block = f"block{number}"
        layer_norm(net, f"h.{number}.ln_1.weight", f"{block}.x")
        layer_norm(net, f"h.{number}.ln_2.weight", f"{block}.a")
        heads(net, block, head_dim)
        plain_units(net, block, config.get("activation_function", "gelu_new"))
    return net.architecture()
