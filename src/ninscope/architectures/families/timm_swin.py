"""timm's Swin: as transformers' (families/swin.py), 7B + 2S node layers. qkv is all of q, then k, then v.

The matrix that merges patches belongs to the stage that it leads to, here. Left out: relative position biases, and the heads.
"""

from collections.abc import Mapping

from ninscope.architectures.builder import Builder
from ninscope.architectures.declarations import added_norm
from ninscope.architectures.families.swin import add_stages, declare_stages
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.timm_files import count_of, only_known_vectors, shape_of, whole
from ninscope.checkpoints.tensors import Tensor

PATCHES = "patch_embed.proj.weight"
BLOCK = "layers.{}.blocks.{}."
NAMES = {
    "qkv": BLOCK + "attn.qkv.weight",
    "o": BLOCK + "attn.proj.weight",
    "up": BLOCK + "mlp.fc1.weight",
    "down": BLOCK + "mlp.fc2.weight",
}
MERGE = "layers.{1}.downsample.reduction.weight"
NORMS = (BLOCK + "norm1.weight", BLOCK + "norm2.weight", "layers.{1}.downsample.norm.weight")
PATCH_NORM = "patch_embed.norm.weight"
LEFT_OUT = r".*\.relative_position_(bias_table|index)$|.*\.attn_mask$|head\."


@register(
    "timm_swin",
    needs_tensors=True,
    mark=r"layers\.\d+\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])\.weight",
    gauge=True,
)
def architecture(config: Mapping, tensors: Mapping[str, Tensor]) -> Architecture:
    """The wiring of a file of these tensors. Raises CheckpointError (corrupt, unsupported)."""
    width, channels, *kernel = shape_of(tensors, PATCHES, 4)
    stages = max(count_of(tensors, NAMES["qkv"].format("{}", 0)), 1)
    depths = [max(count_of(tensors, NAMES["qkv"].format(stage, "{}")), 1) for stage in range(stages)]
    hidden = [shape_of(tensors, NAMES["up"].format(stage, 0), 2)[0] for stage in range(stages)]
    widths = [shape_of(tensors, NAMES["up"].format(stage, 0), 2)[1] for stage in range(stages)]
    net = Builder("timm_swin")
    net.join(net.layer("input", "x", channels, "embedding"), "stage0.block0.x", PATCHES, "convolution", tuple(kernel))
    add_stages(net, depths, [width, *widths[1:]], hidden, NAMES | {"merge": MERGE})
    if only_known_vectors(tensors, (*NORMS, PATCH_NORM, "norm.weight"), LEFT_OUT):
        if PATCH_NORM in tensors:
            added_norm(net, PATCH_NORM, PATCHES, centred=True)
        declare_stages(net, depths, [0] * len(depths), NORMS, "gelu")
    return whole(net, config, tensors, LEFT_OUT)
