"""Swin, stages of blocks, each of twice the width of the one before: 7B + 2S node layers of B blocks in S stages.

Node layers: the image's channels, input.x; seven for every block stage<s>.block<b> (transformer_blocks.py); between two stages
what the last block gives, stage<s>.merge.x, and 2 x 2 neighbouring patches side by side, stage<s>.merge.n, of four times its size,
from which the reduction leads to the next stage; output.x. The patch embedding is a convolution. So is patch merging, 2 x 2 with
a stride of 2, though it is stored as a matrix. Left out: relative position biases, which join no neurons, and the heads
(classifier, and the decoder of masked image modelling).

Files name tensors as the Hub does, which save_pretrained writes by default, or as the library's modules are named.
"""

from collections.abc import Collection, Mapping, Sequence

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder, spelling
from ninscope.architectures.declarations import added_norm, heads, layer_norm, plain_units
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.transformer_blocks import Names, attention, formatted, mlp
from ninscope.errors import CheckpointError

PREFIXES = ("swin.", "")
BLOCK = "encoder.layers.{}.blocks.{}."
HUB = {
    "q": BLOCK + "attention.self.query.weight",
    "k": BLOCK + "attention.self.key.weight",
    "v": BLOCK + "attention.self.value.weight",
    "o": BLOCK + "attention.output.dense.weight",
    "up": BLOCK + "intermediate.dense.weight",
    "down": BLOCK + "output.dense.weight",
}
MODULES = {part: f"{BLOCK}attention.{part}_proj.weight" for part in "qkvo"} | {
    "up": BLOCK + "mlp.fc1.weight",
    "down": BLOCK + "mlp.fc2.weight",
}
PATCHES = "embeddings.patch_embeddings.projection.weight"
NORM = "encoder.layers.{}.downsample.norm.weight"
REDUCTION = "encoder.layers.{}.downsample.reduction.weight"


@register("swin", needs_names=True, gauge=True)
def architecture(config: Mapping, names: Collection[str]) -> Architecture:
    """The wiring that config.json implies, for a file with tensors of these names. Raises CheckpointError (corrupt)."""
    depths, widths = _stages(config)
    ratio = sizes.ratio(config, "mlp_ratio", 4.0, widths[0])
    templates = spelling(names, PREFIXES, (HUB, MODULES), block_numbers(depths))
    net = Builder("swin", PREFIXES)
    channels = net.layer("input", "x", sizes.width(config, "num_channels", default=3), "embedding")
    net.join(channels, "stage0.block0.x", PATCHES, "convolution", sizes.pair(config, "patch_size", default=4))
    add_stages(net, depths, widths, [int(ratio * width) for width in widths], dict(templates) | {"merge": REDUCTION})
    added_norm(net, "embeddings.norm.weight", PATCHES, centred=True)
    dims = [
        width // count for width, count in zip(widths, sizes.stages(config, "num_heads", sizes.MAX_WIDTH), strict=True)
    ]
    norms = (BLOCK + "layernorm_before.weight", BLOCK + "layernorm_after.weight", NORM)
    declare_stages(net, depths, dims, norms, config.get("hidden_act", "gelu"))
    return net.architecture()


def block_numbers(depths: Sequence[int]) -> list[tuple[int, int]]:
    """(stage, block) of every block."""
    return [(stage, number) for stage, depth in enumerate(depths) for number in range(depth)]


def add_stages(
    net: Builder, depths: Sequence[int], widths: Sequence[int], hidden: Sequence[int], templates: Names
) -> None:
    """Add all blocks and what lies between stages. hidden: neurons of the MLP, of every stage.

    templates: of the tensors, with the numbers of stage and block; "merge" with those of the stages before and behind it.
    """
    numbers = block_numbers(depths)
    following = [f"stage{stage}.block{number}.x" if number else "" for stage, number in numbers[1:]] + ["output.x"]
    blocks = {part: template for part, template in templates.items() if part != "merge"}
    for (stage, number), after in zip(numbers, following, strict=True):
        block, width, tensors = f"stage{stage}.block{number}", widths[stage], formatted(blocks, stage, number)
        attention(net, block, width, tensors)
        mlp(net, block, hidden[stage], after or f"stage{stage}.merge.x", tensors)
        if not after:
            merged = net.layer(f"stage{stage}.merge", "x", width)
            beside = net.layer(f"stage{stage}.merge", "n", 4 * width, "convolution")
            for neighbour in range(4):
                net.link(merged, beside, first=neighbour * width)
            net.join(beside, f"stage{stage + 1}.block0.x", templates["merge"].format(stage, stage + 1))
    net.layer("output", "x", widths[-1])


def declare_stages(
    net: Builder, depths: Sequence[int], head_dims: Sequence[int], norms: tuple[str, str, str], activation: object
) -> None:
    """What is known of blocks that were added. norms: templates of the gains before attention, MLP and reduction."""
    for stage, number in block_numbers(depths):
        block = f"stage{stage}.block{number}"
        layer_norm(net, norms[0].format(stage, number), f"{block}.x")
        layer_norm(net, norms[1].format(stage, number), f"{block}.a")
        heads(net, block, head_dims[stage])
        plain_units(net, block, activation)
    for stage in range(len(depths) - 1):
        layer_norm(net, norms[2].format(stage, stage + 1), f"stage{stage}.merge.n")


def _stages(config: Mapping) -> tuple[list[int], list[int]]:
    """The number of blocks, and the width, of every stage. Raises CheckpointError (corrupt)."""
    depths = sizes.depths(config)
    heads = sizes.stages(config, "num_heads", sizes.MAX_WIDTH)
    if len(heads) != len(depths):
        raise CheckpointError("corrupt", f"config.json: depths {depths} and num_heads {heads} differ in length")
    first = sizes.width(config, "embed_dim")
    widths = [first << stage for stage in range(len(depths))]
    if widths[-1] > sizes.MAX_WIDTH:
        raise CheckpointError("corrupt", f"config.json: embed_dim {first} doubled for {len(depths)} stages is too wide")
    for width, count in zip(widths, heads, strict=True):
        sizes.multiple(width, "a stage's width", count, "num_heads")
    return depths, widths
