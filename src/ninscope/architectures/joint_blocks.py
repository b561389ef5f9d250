"""Blocks of two streams that attend to each other: image and text (MMDiT, of Stable Diffusion 3, FLUX, Qwen-Image).

A block has matrices for each stream. Their tokens stand in one sequence for attention: q, k, v and the context c are the image's,
add_q, add_k, add_v and add_c the text's. Each v is linked to both contexts, since either stream reads the values of both. to_out
leads from c to the image, to_add_out from add_c to the text; a feed-forward of its own follows in each stream. The time embedding
makes six modulations for each stream: shift, scale and gate of attention, and of feed-forward. Output layers are called after the
modules whose output is added: <block>.attn, <block>.attn.to_add_out, then the feed-forwards.
"""

from dataclasses import dataclass

from ninscope.architectures.builder import Builder
from ninscope.architectures.diffusion_blocks import MODULATIONS, feed_forward, linear, modulate, modulations, two_layers

SINUSOIDS = 256
ACTIVATION = "gelu-approximate"


@dataclass(frozen=True)
class JointNames:
    """The modules of a block that makers call differently: what makes a stream's modulations, and its feed-forward."""

    image_modulations: str = "norm1.linear"
    text_modulations: str = "norm1_context.linear"
    image_mlp: str = "ff"
    text_mlp: str = "ff_context"


def conditioning(net: Builder, width: int, embedded: tuple[tuple[str, str, int], ...]) -> str:
    """The node layer time_text_embed: the sum of what is embedded. embedded: (module, node layer that it reads, its neurons)."""
    net.part = "time"
    time = net.named_layer("time_text_embed", width)
    for module, source, size in embedded:
        two_layers(net, f"time_text_embed.{module}", net.named_layer(f"time_text_embed.{source}", size), time, width)
    return time


def joint_attention(net: Builder, name: str, image: str, text: str, text_goes_on: bool = True) -> tuple[str, str]:
    """Attention of both streams, added to each. Returns their node layers; the text's is "" where it does not go on."""
    width = net.size(image)
    q, k, v, c, tq, tk, tv, tc = (
        net.named_layer(f"{name}.{part}", width, "", "attention", f"{name}.heads")
        for part in ("q", "k", "v", "c", "add_q", "add_k", "add_v", "add_c")
    )
    for source, parts in (
        (image, ((q, "to_q"), (k, "to_k"), (v, "to_v"))),
        (text, ((tq, "add_q_proj"), (tk, "add_k_proj"), (tv, "add_v_proj"))),
    ):
        for target, module in parts:
            linear(net, source, target, f"{name}.{module}", "attention")
    for value in (v, tv):
        net.link(value, c)
        net.link(value, tc)
    outputs = [(image, c, name, "to_out.0")] + [(text, tc, f"{name}.to_add_out", "to_add_out")] * text_goes_on
    for stream, context, output, module in outputs:
        linear(net, context, net.named_layer(output, width), f"{name}.{module}", "attention")
        net.link(stream, output, skip=True)
    return name, f"{name}.to_add_out" if text_goes_on else ""


def joint_block(net: Builder, block: str, image: str, text: str, time: str, names: JointNames) -> tuple[str, str]:
    """A block of both streams. Returns the node layers of what it gives each."""
    after_image, after_text = joint_attention(net, f"{block}.attn", image, text)
    streams = (
        (image, after_image, names.image_modulations, names.image_mlp),
        (text, after_text, names.text_modulations, names.text_mlp),
    )
    outputs = []
    for stream, after, module, mlp in streams:
        outputs.append(_modulated_feed_forward(net, block, stream, after, time, module, mlp))
    return outputs[0], outputs[1]


def _modulated_feed_forward(net: Builder, block: str, stream: str, after: str, time: str, module: str, mlp: str) -> str:
    """One stream behind its attention. Returns the node layer of what it gives."""
    width, output = net.size(stream), net.named_layer(f"{block}.{mlp}", net.size(stream))
    layers = modulations(net, f"{block}.{module.split('.')[0]}", time, width, MODULATIONS, f"{block}.{module}")
    feed_forward(net, output, after, output, ACTIVATION)
    modulate(net, layers, stream, stream, after, after, after, output)
    return output


def scaled_output(net: Builder, image: str, time: str, patch: int) -> None:
    """AdaLayerNormContinuous, which scales and shifts what the last block gives, and the projection to pixels of a patch."""
    net.part = "output"
    layers = modulations(net, "norm_out", time, net.size(image), ("scale", "shift"), "norm_out.linear")
    modulate(net, layers, image, image)
    linear(net, image, net.named_layer("proj_out", patch), "proj_out", "output")


def embedding(net: Builder, part: str, name: str, source: str, size: int, width: int) -> str:
    """Add the node layer `name` of `width` neurons that a matrix of that name makes of `source`, of `size`; returns it."""
    net.part = part
    target = net.named_layer(name, width)
    linear(net, net.named_layer(source, size), target, name, "embedding")
    return target
