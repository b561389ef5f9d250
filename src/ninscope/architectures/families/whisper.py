"""Whisper, encoder and decoder: 7B + 12D + 4 node layers of B and D blocks.

Node layers: the spectrogram's channels, input.x, and what the first convolution makes of them, input.h, from which the second
leads to encoder.block0.x; the encoder's blocks encoder.block<n> (transformer_blocks.py), encoder.output.x; the decoder's, which
have xq, xk, xv, xc and b besides: attention from a to encoder.output.x, added to a; the MLP reads b; decoder.output.x. A
classifier of sounds is only the encoder: 7B + 3. Left out: token and position embeddings, and the heads.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.declarations import heads, layer_norm, plain_units
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.transformer_blocks import attention, cross_attention, following, formatted, mlp

PREFIXES = ("model.", "")
ONLY_ENCODER = ("WhisperForAudioClassification",)
SELF = {
    **{part: f"layers.{{}}.self_attn.{part}_proj.weight" for part in "qkv"},
    "o": "layers.{}.self_attn.out_proj.weight",
    "up": "layers.{}.fc1.weight",
    "down": "layers.{}.fc2.weight",
}
CROSS = {f"x{part}": f"layers.{{}}.encoder_attn.{part}_proj.weight" for part in "qkv"} | {
    "xo": "layers.{}.encoder_attn.out_proj.weight"
}


@register("whisper", gauge=True)
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    net = Builder("whisper", PREFIXES)
    width = sizes.width(config, "d_model")
    alone = sizes.saved_as(config, ONLY_ENCODER)
    channels = net.layer("input", "x", sizes.width(config, "num_mel_bins"), "embedding")
    hidden = net.layer("input", "h", width, "embedding")
    net.join(channels, hidden, "encoder.conv1.weight", "convolution", (3,))
    net.join(hidden, "encoder.block0.x", "encoder.conv2.weight", "convolution", (3,))
    _blocks(net, config, "encoder")
    encoder = net.layer("encoder.output", "x", width, "" if alone else "attention")
    if not alone:
        _blocks(net, config, "decoder", encoder)
        net.layer("decoder.output", "x", width)
        layer_norm(net, "encoder.layer_norm.weight", encoder)
    return net.architecture()


def _blocks(net: Builder, config: Mapping, tower: str, encoder: str = "") -> None:
    """The blocks of encoder or decoder. encoder: the node layer that the decoder's cross attention reads."""
    width = sizes.width(config, "d_model")
    count = sizes.block_count(config, f"{tower}_layers")
    key = f"{tower}_attention_heads"
    head_dim = sizes.multiple(width, "d_model", sizes.width(config, key), key)
    hidden = sizes.width(config, f"{tower}_ffn_dim")
    templates = SELF | (CROSS if encoder else {})
    for number in range(count):
        block = f"{tower}.block{number}"
        names = {part: f"{tower}.{name}" for part, name in formatted(templates, number).items()}
        attention(net, block, width, names, leads_to="attention" if encoder else "mlp")
        if encoder:
            cross_attention(net, block, names, encoder)
        mlp(net, block, hidden, following(number, count, f"{tower}."), names, reads="b" if encoder else "a")
        norms = {"self_attn": "x"} | ({"encoder_attn": "a", "final": "b"} if encoder else {"final": "a"})
        for norm, part in norms.items():
            layer_norm(net, f"{tower}.layers.{number}.{norm}_layer_norm.weight", f"{block}.{part}")
        heads(net, block, head_dim)
        if encoder:
            heads(net, block, head_dim, parts=("xq", "xk", "xv", "xc"))
        plain_units(net, block, config.get("activation_function", "gelu"))
