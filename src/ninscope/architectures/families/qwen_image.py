"""Qwen-Image (QwenImageTransformer2DModel of diffusers): blocks of two streams (joint_blocks.py).

Node layers: sample, img_in; encoder_hidden_states, txt_in; time_text_embed of the time. Behind the last block the text goes
nowhere.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.diffusion_blocks import LIMITS, MAX_DEPTH
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

NAMES = JointNames("img_mod.1", "txt_mod.1", "img_mlp", "txt_mlp")


@register("QwenImageTransformer2DModel")
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    net = Builder("QwenImageTransformer2DModel", limits=LIMITS)
    width = sizes.width(config, "num_attention_heads", 24) * sizes.width(config, "attention_head_dim", 128)
    channels = sizes.width(config, "in_channels", 64)
    time = conditioning(net, width, (("timestep_embedder", "time_proj", SINUSOIDS),))
    features = sizes.width(config, "joint_attention_dim", 3584)
    text = embedding(net, "encoder", "txt_in", "encoder_hidden_states", features, width)
    image = embedding(net, "input", "img_in", "sample", channels, width)
    for number in range(sizes.positive_integer(config, "num_layers", MAX_DEPTH, 60)):
        net.part = f"block{number}"
        image, text = joint_block(net, f"transformer_blocks.{number}", image, text, time, NAMES)
    patch = sizes.positive_integer(config, "patch_size", sizes.MAX_KERNEL, 2)
    scaled_output(net, image, time, patch * patch * sizes.width(config, "out_channels", channels))
    return net.architecture()
