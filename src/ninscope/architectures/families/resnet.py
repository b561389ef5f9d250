"""ResNet, whose neurons are channels: 2R+2 node layers of R basic layers, 3R+2 of R bottlenecks.

Node layers: the image's channels, input.x; for every residual layer stage<s>.layer<l> what enters it, x, and what its convolutions
but the last give, h0 and, in a bottleneck, h1; output.x. x has the edges of the first convolution and, where width or
resolution changes, those of the shortcut's to the next x. Elsewhere the skip connection adds x to the next x without weights: a
link. Left out: batch normalisation and pooling, which join no two channels, and the classifier.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.errors import CheckpointError

PREFIXES = ("resnet.", "")
STEM = "embedder.embedder.convolution.weight"
LAYER = "encoder.stages.{}.layers.{}."
KERNELS: dict[str, tuple[int, ...]] = {"basic": (3, 3), "bottleneck": (1, 3, 1)}
REDUCTION = 4  # a bottleneck's


@register("resnet")
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    depths = sizes.depths(config)
    widths = sizes.stages(config, "hidden_sizes", sizes.MAX_WIDTH)
    if len(depths) != len(widths):
        raise CheckpointError("corrupt", f"config.json: depths {depths} and hidden_sizes {widths} differ in length")
    kind = config.get("layer_type", "bottleneck")
    if not isinstance(kind, str) or kind not in KERNELS:
        raise CheckpointError("corrupt", f"config.json: layer_type is {kind!r}; basic or bottleneck was expected")
    if kind == "bottleneck" and min(widths) < REDUCTION:
        raise CheckpointError("corrupt", f"config.json: hidden_sizes {widths}; a bottleneck needs {REDUCTION} or more")
    width = sizes.width(config, "embedding_size")
    numbers = [(stage, layer) for stage, depth in enumerate(depths) for layer in range(depth)]
    following = ["stage{}.layer{}.x".format(*pair) for pair in numbers[1:]] + ["output.x"]
    net = Builder("resnet", PREFIXES)
    channels = net.layer("input", "x", sizes.width(config, "num_channels", default=3), "convolution")
    net.join(channels, "stage0.layer0.x", STEM, "convolution", (7, 7))
    for (stage, layer), after in zip(numbers, following, strict=True):
        halves = layer == 0 and (stage > 0 or bool(config.get("downsample_in_first_stage", False)))
        leaving = widths[stage]
        x = net.layer(f"stage{stage}.layer{layer}", "x", width, "convolution")
        _convolutions(net, stage, layer, leaving, after, KERNELS[kind])
        if halves or width != leaving:
            shortcut = LAYER.format(stage, layer) + "shortcut.convolution.weight"
            net.join(x, after, shortcut, "convolution", (1, 1))
        else:
            net.link(x, after, skip=True)
        width = leaving
    net.layer("output", "x", width)
    return net.architecture()


def _convolutions(net: Builder, stage: int, layer: int, leaving: int, after: str, kernels: tuple[int, ...]) -> None:
    """A residual layer's convolutions, from its x to the next one's."""
    block, names = f"stage{stage}.layer{layer}", LAYER.format(stage, layer)
    within = leaving if len(kernels) == 2 else leaving // REDUCTION
    inner = [net.layer(block, f"h{number}", within, "convolution") for number in range(len(kernels) - 1)]
    ends = zip([f"{block}.x", *inner], [*inner, after], kernels, strict=True)
    for number, (source, target, kernel) in enumerate(ends):
        net.join(source, target, f"{names}layer.{number}.convolution.weight", "convolution", (kernel, kernel))
