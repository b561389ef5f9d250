"""timm's ViT and DeiT: as transformers' ViT (families/vit.py), 7B+2 node layers. qkv is all of q, then k, then v.

Left out: position embeddings, class and register tokens, and the heads, to which what pools belongs (fc_norm, attn_pool).
"""

from collections.abc import Mapping

from ninscope.architectures.builder import Builder
from ninscope.architectures.declarations import heads, layer_norm
from ninscope.architectures.gauge import WRITTEN, Gain
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.timm_files import count_of, only_known_vectors, shape_of, whole
from ninscope.architectures.transformer_blocks import attention, following, formatted, mlp
from ninscope.checkpoints.tensors import Tensor

PATCHES = "patch_embed.proj.weight"
NAMES = {
    "qkv": "blocks.{}.attn.qkv.weight",
    "o": "blocks.{}.attn.proj.weight",
    "up": "blocks.{}.mlp.fc1.weight",
    "down": "blocks.{}.mlp.fc2.weight",
}
NORMS = {"norm1.weight": "x", "norm2.weight": "a"}
SCALES = {"ls1.gamma": "o", "ls2.gamma": "down"}  # LayerScale
LEFT_OUT = r"pos_embed|cls_token|dist_token|reg_token|head|attn_pool\.|pre_logits\."


@register(
    "timm_vit",
    "timm_deit",
    needs_tensors=True,
    mark=r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])\.weight",
    gauge=True,
)
def architecture(config: Mapping, tensors: Mapping[str, Tensor]) -> Architecture:
    """The wiring of a file of these tensors. Raises CheckpointError (corrupt, unsupported)."""
    width, channels, *kernel = shape_of(tensors, PATCHES, 4)
    count = count_of(tensors, NAMES["qkv"])
    net = Builder("timm_vit")
    first = following(-1, count)
    net.join(net.layer("input", "x", channels, "embedding"), first, PATCHES, "convolution", tuple(kernel))
    for number in range(count):
        block, names = f"block{number}", formatted(NAMES, number)
        attention(net, block, width, names, queries=max(shape_of(tensors, names["qkv"], 2)[0] // 3, 1))
        mlp(net, block, shape_of(tensors, names["up"], 2)[0], following(number, count), names)
    net.layer("output", "x", width)
    known = [f"blocks.{{}}.{vector}" for vector in (*NORMS, *SCALES)]
    turned = "rope" in str(config.get("architecture"))  # a relative of another class, which leaves no trace in tensors
    if not turned and only_known_vectors(tensors, (*known, "norm.weight", "fc_norm.weight"), LEFT_OUT):
        for number in range(count):
            _declare(net, tensors, number)
    return whole(net, config, tensors, LEFT_OUT)


def _declare(net: Builder, tensors: Mapping[str, Tensor], number: int) -> None:
    block, names, module = f"block{number}", formatted(NAMES, number), f"blocks.{number}."
    for norm, part in NORMS.items():
        layer_norm(net, module + norm, f"{block}.{part}")
    for scale, part in SCALES.items():
        if module + scale in tensors:
            net.declare(Gain(module + scale, WRITTEN, writers=(names[part],)))
    heads(net, block, 0)
