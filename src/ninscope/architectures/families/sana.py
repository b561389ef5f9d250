"""Sana (SanaTransformer2DModel of diffusers): linear attention, cross attention to the caption, a feed-forward of convolutions.

Node layers: sample, patch_embed (a convolution); caption, caption_projection, which cross attention reads; time_embed.emb, of the
time and, where guidance_embeds says so, the guidance, and the six modulations of all blocks; of a block attn1, attn2 and its
output. The feed-forward is gated: u and g by a 1x1 convolution, m = u * silu(g), and m leads to the output by another. Between
them a convolution of one channel a group joins no two neurons and is left out, as are the tables of shifts and scales.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.diffusion_blocks import (
    LIMITS,
    MAX_DEPTH,
    MODULATIONS,
    attention,
    convolve,
    linear,
    modulate,
    modulations,
    two_layers,
)
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.errors import CheckpointError

SINUSOIDS = 256


@register("SanaTransformer2DModel")
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    net = Builder("SanaTransformer2DModel", limits=LIMITS)
    width = sizes.width(config, "num_attention_heads", 70) * sizes.width(config, "attention_head_dim", 32)
    if sizes.width(config, "cross_attention_dim", 2240) != width:
        raise CheckpointError(
            "corrupt", f"config.json: cross_attention_dim is not {width}, to which captions are projected"
        )
    crossed = sizes.width(config, "num_cross_attention_heads", 20) * sizes.width(
        config, "cross_attention_head_dim", 112
    )
    layers = _time(net, width, sizes.flag(config, "guidance_embeds"))
    net.part = "encoder"
    encoder = net.named_layer("caption_projection", width)
    caption = net.named_layer("caption", sizes.width(config, "caption_channels", 2304))
    two_layers(net, "caption_projection", caption, encoder, width)
    net.part = "input"
    channels = sizes.width(config, "in_channels", 32)
    patch = sizes.positive_integer(config, "patch_size", sizes.MAX_KERNEL, 1)
    now = net.named_layer("patch_embed", width)
    convolve(net, net.named_layer("sample", channels), now, "patch_embed.proj", patch)
    hidden = int(sizes.ratio(config, "mlp_ratio", 2.5, width) * width)
    for number in range(sizes.positive_integer(config, "num_layers", MAX_DEPTH, 20)):
        net.part = f"block{number}"
        block, source = f"transformer_blocks.{number}", now
        after, across, now = (net.named_layer(name, width) for name in (f"{block}.attn1", f"{block}.attn2", block))
        attention(net, f"{block}.attn1", source, after, width)
        attention(net, f"{block}.attn2", after, across, crossed, encoder)
        _feed_forward(net, f"{block}.ff", across, now, hidden)
        modulate(net, layers, source, source, after, across, across, now)
    net.part = "output"
    pixels = net.named_layer("proj_out", patch * patch * sizes.width(config, "out_channels", channels))
    linear(net, now, pixels, "proj_out", "output")
    return net.architecture()


def _time(net: Builder, width: int, guided: bool) -> list[str]:
    """The time's embedding. Returns the modulations that it makes."""
    net.part = "time"
    name = "time_embed" if guided else "time_embed.emb"
    time = net.named_layer(f"{name}.conditioning", width)
    parts = [("timestep_embedder", "time_proj")] + [("guidance_embedder", "guidance_condition_proj")] * guided
    for module, sinusoids in parts:
        two_layers(net, f"{name}.{module}", net.named_layer(f"{name}.{sinusoids}", SINUSOIDS), time, width)
    return modulations(net, "time_embed", time, width, MODULATIONS, "time_embed.linear")


def _feed_forward(net: Builder, name: str, source: str, output: str, hidden: int) -> None:
    u, g, m = (net.named_layer(f"{name}.{part}", hidden, "", "convolution", f"{name}.hidden") for part in "ugm")
    net.join(source, (u, g), f"{name}.conv_inverted.weight", "convolution", (1, 1), "convolution")
    convolve(net, m, output, f"{name}.conv_point", 1)
    net.link(u, m)
    net.link(g, m)
    net.link(source, output, skip=True)
