"""Stable Diffusion 3 and 3.5 (SD3Transformer2DModel of diffusers): blocks of two streams (joint_blocks.py).

Node layers: sample, pos_embed (patches); encoder_hidden_states, context_embedder; time_text_embed of the time and the pooled text.
The last block has no text behind its attention: of the text's modulations only scale and shift. Blocks in dual_attention_layers
have a second attention of the image to itself, attn2, which reads what enters the block, with three modulations of its own.
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
    feed_forward,
    modulate,
    modulations,
)
from ninscope.architectures.joint_blocks import (
    ACTIVATION,
    SINUSOIDS,
    conditioning,
    embedding,
    joint_attention,
    scaled_output,
)
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.errors import CheckpointError

DUAL = ("shift3", "scale3", "gate3")


@register("SD3Transformer2DModel")
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    net = Builder("SD3Transformer2DModel", limits=LIMITS)
    width = sizes.width(config, "num_attention_heads", 18) * sizes.width(config, "attention_head_dim", 64)
    if sizes.width(config, "caption_projection_dim", 1152) != width:
        raise CheckpointError(
            "corrupt", f"config.json: caption_projection_dim is not {width}, the neurons of num_attention_heads heads"
        )
    pooled = sizes.width(config, "pooled_projection_dim", 2048)
    time = conditioning(
        net, width, (("timestep_embedder", "time_proj", SINUSOIDS), ("text_embedder", "pooled_projections", pooled))
    )
    features = sizes.width(config, "joint_attention_dim", 4096)
    text = embedding(net, "encoder", "context_embedder", "encoder_hidden_states", features, width)
    net.part = "input"
    channels = sizes.width(config, "in_channels", 16)
    patch = sizes.positive_integer(config, "patch_size", sizes.MAX_KERNEL, 2)
    image = net.named_layer("pos_embed", width)
    convolve(net, net.named_layer("sample", channels), image, "pos_embed.proj", patch)
    count = sizes.positive_integer(config, "num_layers", MAX_DEPTH, 18)
    dual = _dual(config)
    for number in range(count):
        net.part = f"block{number}"
        image, text = _block(
            net, f"transformer_blocks.{number}", image, text, time, number in dual, number + 1 == count
        )
    scaled_output(net, image, time, patch * patch * sizes.width(config, "out_channels", channels))
    return net.architecture()


def _block(net: Builder, block: str, image: str, text: str, time: str, dual: bool, last: bool) -> tuple[str, str]:
    """Returns the node layers of what the block gives image and text; the text's is "" behind the last block."""
    width = net.size(image)
    after, after_text = joint_attention(net, f"{block}.attn", image, text, not last)
    parts = MODULATIONS + (DUAL if dual else ())
    layers = modulations(net, f"{block}.norm1", time, width, parts, f"{block}.norm1.linear")
    modulate(net, layers[:3], image, image, after)
    if dual:
        second = net.named_layer(f"{block}.attn2", width)
        attention(net, f"{block}.attn2", image, second, width, added=after)
        modulate(net, layers[6:], image, image, second)
        after = second
    output = net.named_layer(f"{block}.ff", width)
    feed_forward(net, output, after, output, ACTIVATION)
    modulate(net, layers[3:6], after, after, output)
    context = f"{block}.norm1_context"
    if last:
        modulate(net, modulations(net, context, time, width, ("scale", "shift"), f"{context}.linear"), text, text)
        return output, ""
    layers = modulations(net, context, time, width, MODULATIONS, f"{context}.linear")
    text_output = net.named_layer(f"{block}.ff_context", width)
    feed_forward(net, text_output, after_text, text_output, ACTIVATION)
    modulate(net, layers, text, text, after_text, after_text, after_text, text_output)
    return output, text_output


def _dual(config: Mapping) -> list[int]:
    """Raises CheckpointError (corrupt)."""
    numbers = config.get("dual_attention_layers") or []
    if not isinstance(numbers, list | tuple) or not all(type(number) is int for number in numbers):
        raise CheckpointError(
            "corrupt", f"config.json: dual_attention_layers is {numbers!r}; a list of blocks' numbers was expected"
        )
    return list(numbers)
