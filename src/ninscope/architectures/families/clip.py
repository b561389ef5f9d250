"""CLIP: a transformer over text and one over images, 7B + 7D + 3 node layers of B and D blocks.

Node layers of the text's are text.block<n> (transformer_blocks.py) and text.output.x; of the image's the channels
vision.input.x, from which the patch embedding, a convolution, leads to vision.block0.x, then vision.block<n> and
vision.output.x. A model of one of the two has the same layers without "text." or "vision.": 7B + 1, 7B + 2. Left out: embeddings
of tokens and positions, and the projections into the space that texts and images share, which count as heads, since models of
one of the two may lack them.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.declarations import heads, layer_norm, plain_units
from ninscope.architectures.gauge import STREAM, Gain
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.transformer_blocks import attention, following, formatted, mlp

ONLY_VISION = ("CLIPForImageClassification",)
NAMES = {
    **{part: f"encoder.layers.{{}}.self_attn.{part}_proj.weight" for part in "qkv"},
    "o": "encoder.layers.{}.self_attn.out_proj.weight",
    "up": "encoder.layers.{}.mlp.fc1.weight",
    "down": "encoder.layers.{}.mlp.fc2.weight",
}
PATCHES = "embeddings.patch_embedding.weight"
Defaults = tuple[int, int, int, int] | tuple[None, None, None, None]
# The library's: width, blocks, heads, hidden neurons of the MLP. Files may leave them out of configurations of parts.
TEXT, VISION, REQUIRED = (512, 12, 8, 2048), (768, 12, 12, 3072), (None, None, None, None)


@register("clip", gauge=True)
def architecture(config: Mapping) -> Architecture:
    """Both transformers. Raises CheckpointError (corrupt)."""
    net = Builder("clip")
    if not sizes.saved_as(config, ONLY_VISION):
        _tower(net, sizes.section(config, "text_config"), "text_config.", "text.", "text_model.", TEXT)
    vision = sizes.section(config, "vision_config")
    _patches(net, vision, "vision_config.", "vision.", "vision_model.")
    _tower(net, vision, "vision_config.", "vision.", "vision_model.", VISION)
    return net.architecture()


@register("clip_text_model", gauge=True)
def text(config: Mapping) -> Architecture:
    """The text's transformer alone, as Stable Diffusion has it. Raises CheckpointError (corrupt)."""
    net = Builder("clip_text_model", ("text_model.", ""))
    _tower(net, config, "", "", "", REQUIRED)
    return net.architecture()


@register("clip_vision_model", gauge=True)
def vision(config: Mapping) -> Architecture:
    """The image's transformer alone. Raises CheckpointError (corrupt)."""
    net = Builder("clip_vision_model", ("vision_model.", ""))
    _patches(net, config, "", "", "")
    _tower(net, config, "", "", "", REQUIRED)
    return net.architecture()


def _patches(net: Builder, config: Mapping, keys: str, tower: str, module: str) -> None:
    channels = net.layer(f"{tower}input", "x", sizes.width(config, f"{keys}num_channels", 3), "embedding")
    kernel = sizes.pair(config, f"{keys}patch_size", 32)
    net.join(channels, f"{tower}block0.x", module + PATCHES, "convolution", kernel)
    net.declare(Gain(f"{module}pre_layrnorm.weight", STREAM, centred=True))  # of patches, class and positions together


def _tower(net: Builder, config: Mapping, keys: str, tower: str, module: str, defaults: Defaults) -> None:
    """keys, tower, module: what stands before the configuration's keys, the node layers' names and the tensors' names."""
    width = sizes.width(config, f"{keys}hidden_size", defaults[0])
    count = sizes.positive_integer(config, f"{keys}num_hidden_layers", sizes.MAX_BLOCKS, defaults[1])
    key = f"{keys}num_attention_heads"
    head_dim = sizes.multiple(width, f"{keys}hidden_size", sizes.width(config, key, defaults[2]), key)
    hidden = sizes.width(config, f"{keys}intermediate_size", defaults[3])
    for number in range(count):
        block = f"{tower}block{number}"
        names = {part: module + name for part, name in formatted(NAMES, number).items()}
        attention(net, block, width, names)
        mlp(net, block, hidden, following(number, count, tower), names)
        layer_norm(net, f"{module}encoder.layers.{number}.layer_norm1.weight", f"{block}.x")
        layer_norm(net, f"{module}encoder.layers.{number}.layer_norm2.weight", f"{block}.a")
        heads(net, block, head_dim)
        plain_units(net, block, config.get(f"{keys}hidden_act", "quick_gelu"))
    net.layer(f"{tower}output", "x", width)
