"""T5, encoder and decoder: 7B + 12D + 2 node layers of B and D blocks, 9B + 14D + 2 where the MLP is gated (T5 1.1, Flan-T5).

Node layers of the encoder's blocks encoder.block<n> are the usual ones (transformer_blocks.py). The decoder's have xq, xk, xv, xc
and b besides: attention from a to encoder.output.x, added to a; the MLP reads b. Heads of d_kv neurons need not fill d_model. A
model that is only the encoder (T5EncoderModel) has 7B + 1. Left out: token embedding, LM head, and the table of positions.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.declarations import gated_units, heads, plain_units, rms_norm
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.transformer_blocks import attention, cross_attention, following, formatted, gated_mlp, mlp

PREFIXES = ("", "transformer.")
ONLY_ENCODER = ("T5EncoderModel", "T5ForTokenClassification")
SELF = {part: f"block.{{}}.layer.0.SelfAttention.{part}.weight" for part in "qkvo"}
CROSS = {f"x{part}": f"block.{{}}.layer.1.EncDecAttention.{part}.weight" for part in "qkvo"}


@register("t5", gauge=True)
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    count = sizes.block_count(config, "num_layers")
    net = Builder("t5", PREFIXES)
    width = sizes.width(config, "d_model")
    _blocks(net, config, "encoder.", count)
    alone = sizes.saved_as(config, ONLY_ENCODER)
    encoder = net.layer("encoder.output", "x", width, "" if alone else "attention")
    if not alone:
        count = sizes.positive_integer(config, "num_decoder_layers", sizes.MAX_BLOCKS, count)
        _blocks(net, config, "decoder.", count, encoder)
        net.layer("decoder.output", "x", width)
        rms_norm(net, "encoder.final_layer_norm.weight", encoder)
    return net.architecture()


def _blocks(net: Builder, config: Mapping, tower: str, count: int, encoder: str = "") -> None:
    """The blocks of encoder or decoder. encoder: the node layer that the decoder's cross attention reads."""
    width = sizes.width(config, "d_model")
    queries = sizes.width(config, "num_heads") * sizes.width(config, "d_kv")
    hidden = sizes.width(config, "d_ff")
    templates = SELF | (CROSS if encoder else {}) | _mlp_names(config, 2 if encoder else 1)
    for number in range(count):
        block = f"{tower}block{number}"
        names = {part: tower + name for part, name in formatted(templates, number).items()}
        attention(net, block, width, names, queries, leads_to="attention" if encoder else "mlp")
        if encoder:
            cross_attention(net, block, names, encoder, queries)
        after, reads = following(number, count, tower), "b" if encoder else "a"
        if "gate" in names:
            gated_mlp(net, block, hidden, after, names, reads)
        else:
            mlp(net, block, hidden, after, names, reads=reads)
        _declare(net, config, f"{tower}block.{number}.layer.", block, bool(encoder))


def _declare(net: Builder, config: Mapping, module: str, block: str, crossed: bool) -> None:
    """Positions add to the products of q and k, and turn nothing."""
    for number, part in enumerate("xab" if crossed else "xa"):
        rms_norm(net, f"{module}{number}.layer_norm.weight", f"{block}.{part}")
    head_dim = sizes.width(config, "d_kv")
    heads(net, block, head_dim)
    if crossed:
        heads(net, block, head_dim, parts=("xq", "xk", "xv", "xc"))
    activation = str(config.get("feed_forward_proj", "relu"))
    if activation.startswith("gated-"):
        gated_units(net, block, activation.removeprefix("gated-"))
    else:
        plain_units(net, block, activation)


def _mlp_names(config: Mapping, layer: int) -> dict[str, str]:
    """layer: the number of the MLP within a block."""
    module = f"block.{{}}.layer.{layer}.DenseReluDense."
    names = {"down": module + "wo.weight"}
    if str(config.get("feed_forward_proj", "relu")).startswith("gated-"):
        return names | {"gate": module + "wi_0.weight", "up": module + "wi_1.weight"}
    return names | {"up": module + "wi.weight"}
