"""FLUX.1 (FluxTransformer2DModel of diffusers): blocks of two streams (joint_blocks.py), then blocks of one.

Node layers: sample, x_embedder; encoder_hidden_states, context_embedder; time_text_embed of the time, the pooled text and, where
guidance_embeds says so, the guidance. Both streams go on as one, `joined`, in blocks whose attention and feed-forward stand side
by side: shift, scale, gate; q, k, v and c; m; proj_out reads c and, behind it, m: the node layer `concatenated`, which links
lead to.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.diffusion_blocks import LIMITS, MAX_DEPTH, concatenate, linear, modulate, modulations
from ninscope.architectures.joint_blocks import (
    SINUSOIDS,
    JointNames,
    conditioning,
    embedding,
    joint_block,
    scaled_output,
)
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register

FEED_FORWARD_MULTIPLE = 4


@register("FluxTransformer2DModel")
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    net = Builder("FluxTransformer2DModel", limits=LIMITS)
    width = sizes.width(config, "num_attention_heads", 24) * sizes.width(config, "attention_head_dim", 128)
    channels = sizes.width(config, "in_channels", 64)
    embedded = [("timestep_embedder", "time_proj", SINUSOIDS)]
    embedded += [("guidance_embedder", "guidance_proj", SINUSOIDS)] * sizes.flag(config, "guidance_embeds")
    embedded += [("text_embedder", "pooled_projections", sizes.width(config, "pooled_projection_dim", 768))]
    time = conditioning(net, width, tuple(embedded))
    features = sizes.width(config, "joint_attention_dim", 4096)
    text = embedding(net, "encoder", "context_embedder", "encoder_hidden_states", features, width)
    image = embedding(net, "input", "x_embedder", "sample", channels, width)
    joint = sizes.positive_integer(config, "num_layers", MAX_DEPTH, 19)
    for number in range(joint):
        net.part = f"block{number}"
        image, text = joint_block(net, f"transformer_blocks.{number}", image, text, time, JointNames())
    net.part = f"block{joint}"
    now = net.named_layer("joined", width)
    net.link(image, now)
    net.link(text, now)
    for number in range(sizes.positive_integer(config, "num_single_layers", MAX_DEPTH, 38)):
        net.part = f"block{joint + number}"
        now = _single_block(net, f"single_transformer_blocks.{number}", now, time)
    patch = sizes.positive_integer(config, "patch_size", sizes.MAX_KERNEL, 1)
    scaled_output(net, now, time, patch * patch * sizes.width(config, "out_channels", channels))
    return net.architecture()


def _single_block(net: Builder, block: str, source: str, time: str) -> str:
    """Returns the node layer of what the block gives."""
    width = net.size(source)
    layers = modulations(net, f"{block}.norm", time, width, ("shift", "scale", "gate"), f"{block}.norm.linear")
    q, k, v, c = (net.named_layer(f"{block}.attn.{part}", width, "", "attention", f"{block}.heads") for part in "qkvc")
    hidden = net.named_layer(f"{block}.m", FEED_FORWARD_MULTIPLE * width)
    for target, part in ((q, "q"), (k, "k"), (v, "v")):
        linear(net, source, target, f"{block}.attn.to_{part}", "attention")
    linear(net, source, hidden, f"{block}.proj_mlp", "attention")
    net.link(v, c)
    both = concatenate(net, f"{block}.concatenated", (c, hidden), skip=False)
    output = net.named_layer(f"{block}.proj_out", width)
    linear(net, both, output, f"{block}.proj_out", "mlp")
    net.link(source, output, skip=True)
    modulate(net, layers, source, source, output)
    return output
