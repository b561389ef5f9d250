"""ViT: image channels, seven node layers a block (transformer_blocks.py) and the final residual, 7B+2 in all.

The patch embedding is a convolution whose nodes are the image's channels: input.x -> block0.x. Left out: position embeddings
and class token, which are vectors, and the heads (classifier, pooler, and the decoder of masked image modelling).

Files name tensors as the Hub does, which save_pretrained writes by default, or as the library's modules are named.
"""

from collections.abc import Collection, Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder, spelling
from ninscope.architectures.declarations import heads, layer_norm, plain_units
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.transformer_blocks import plain_blocks

PREFIXES = ("vit.", "")
HUB = {
    "q": "encoder.layer.{}.attention.attention.query.weight",
    "k": "encoder.layer.{}.attention.attention.key.weight",
    "v": "encoder.layer.{}.attention.attention.value.weight",
    "o": "encoder.layer.{}.attention.output.dense.weight",
    "up": "encoder.layer.{}.intermediate.dense.weight",
    "down": "encoder.layer.{}.output.dense.weight",
}
MODULES = {part: f"layers.{{}}.attention.{part}_proj.weight" for part in "qkvo"} | {
    "up": "layers.{}.mlp.fc1.weight",
    "down": "layers.{}.mlp.fc2.weight",
}
PATCHES = "embeddings.patch_embeddings.projection.weight"


@register("vit", needs_names=True, gauge=True)
def architecture(config: Mapping, names: Collection[str]) -> Architecture:
    """The wiring that config.json implies, for a file with tensors of these names. Raises CheckpointError (corrupt)."""
    count = sizes.block_count(config)
    width = sizes.width(config)
    heads_count = sizes.width(config, "num_attention_heads")
    head_dim = sizes.multiple(width, "hidden_size", heads_count, "num_attention_heads")
    hidden = sizes.width(config, "intermediate_size")
    templates = spelling(names, PREFIXES, (HUB, MODULES), ((number,) for number in range(count)))
    net = Builder("vit", PREFIXES)
    channels = net.layer("input", "x", sizes.width(config, "num_channels", default=3), "embedding")
    net.join(channels, "block0.x", PATCHES, "convolution", sizes.pair(config, "patch_size", default=16))
    plain_blocks(net, count, width, hidden, templates)
    net.layer("output", "x", width)
    module = "encoder.layer.{}." if templates is HUB else "layers.{}."
    for number in range(count):
        block = f"block{number}"
        layer_norm(net, f"{module.format(number)}layernorm_before.weight", f"{block}.x")
        layer_norm(net, f"{module.format(number)}layernorm_after.weight", f"{block}.a")
        heads(net, block, head_dim)
        plain_units(net, block, config.get("hidden_act", "gelu"))
    return net.architecture()
