"""Wan, text to video (WanTransformer3DModel of diffusers): a transformer over patches of space and time.

Node layers: sample, patch_embedding (a convolution); encoder_hidden_states and condition_embedder.text_embedder, which cross
attention reads; condition_embedder.time_embedder and the six modulations of all blocks; of a block attn1, attn2 and its output.
Left out: the tables of shifts and scales. A model that also takes an image (image_dim, added_kv_proj_dim) is unsupported.
"""

from collections.abc import Mapping
from math import prod

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.diffusion_blocks import (
    LIMITS,
    MAX_DEPTH,
    MODULATIONS,
    attention,
    feed_forward,
    linear,
    modulate,
    modulations,
    two_layers,
)
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register

CONDITION = "condition_embedder"


@register("WanTransformer3DModel")
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt, unsupported)."""
    sizes.choice(config, "image_dim", (None,), None)
    sizes.choice(config, "added_kv_proj_dim", (None,), None)
    net = Builder("WanTransformer3DModel", limits=LIMITS)
    width = sizes.width(config, "num_attention_heads", 40) * sizes.width(config, "attention_head_dim", 128)
    channels = sizes.width(config, "in_channels", 16)
    patch = sizes.integers(config, "patch_size", 3, sizes.MAX_KERNEL, (1, 2, 2))
    net.part = "time"
    time = net.named_layer(f"{CONDITION}.time_embedder", width)
    sinusoids = net.named_layer(f"{CONDITION}.timesteps_proj", sizes.width(config, "freq_dim", 256))
    two_layers(net, f"{CONDITION}.time_embedder", sinusoids, time, width)
    layers = modulations(net, f"{CONDITION}.time_proj", time, width, MODULATIONS, f"{CONDITION}.time_proj")
    net.part = "encoder"
    encoder = net.named_layer(f"{CONDITION}.text_embedder", width)
    text = net.named_layer("encoder_hidden_states", sizes.width(config, "text_dim", 4096))
    two_layers(net, f"{CONDITION}.text_embedder", text, encoder, width)
    net.part = "input"
    now = net.named_layer("patch_embedding", width)
    sample = net.named_layer("sample", channels)
    net.join(sample, now, "patch_embedding.weight", "convolution", tuple(patch), "convolution")
    hidden = sizes.width(config, "ffn_dim", 13824)
    for number in range(sizes.positive_integer(config, "num_layers", MAX_DEPTH, 40)):
        net.part = f"block{number}"
        block, source = f"blocks.{number}", now
        after, crossed, now = (net.named_layer(name, width) for name in (f"{block}.attn1", f"{block}.attn2", block))
        attention(net, f"{block}.attn1", source, after, width)
        attention(net, f"{block}.attn2", after, crossed, width, encoder)
        feed_forward(net, f"{block}.ffn", crossed, now, "gelu-approximate", hidden)
        modulate(net, layers, source, source, after, crossed, crossed, now)
    net.part = "output"
    linear(
        net,
        now,
        net.named_layer("proj_out", sizes.width(config, "out_channels", channels) * prod(patch)),
        "proj_out",
        "output",
    )
    return net.architecture()
