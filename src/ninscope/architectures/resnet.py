"""ResNet, whose neurons are channels: 2R+2 node layers of R basic layers, 3R+2 of R bottlenecks.

Node layers: the image's channels, input.x; of every residual layer stage<s>.layer<l> what enters it, x, and what its convolutions
but the last give, h0 and, in a bottleneck, h1; output.x. x has the edges of the first convolution and, where width or
resolution changes, of the shortcut's to the next x; elsewhere the skip connection adds x to the next x without weights, a link.
Left out: batch normalisation and pooling, which join no two channels, and the classifier.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.layout import Architecture
from ninscope.errors import CheckpointError

MODEL_TYPE = "resnet"
PREFIXES = ("resnet.", "")
STEM = "embedder.embedder.convolution.weight"
LAYER = "encoder.stages.{}.layers.{}."
KERNELS = {"basic": (3, 3), "bottleneck": (1, 3, 1)}
REDUCTION = 4  # a bottleneck's


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
    places = [(stage, number) for stage, depth in enumerate(depths) for number in range(depth)]
    net = Builder(MODEL_TYPE, PREFIXES)
    channels = net.layer("input", "x", sizes.width(config, "num_channels", default=3), "convolution")
    net.join(channels, "stage0.layer0.x", STEM, "convolution", (7, 7))
    for place, (stage, number) in enumerate(places):
        after = "stage{}.layer{}.x".format(*places[place + 1]) if place + 1 < len(places) else "output.x"
        halves = number == 0 and (stage > 0 or bool(config.get("downsample_in_first_stage", False)))
        shortcut = halves or width != widths[stage]
        _residual_layer(net, stage, number, width, widths[stage], after, KERNELS[kind], shortcut)
        width = widths[stage]
    net.layer("output", "x", width)
    return net.architecture()


def _residual_layer(net: Builder, stage, number, entering, leaving, after, kernels, shortcut) -> None:
    block, names = f"stage{stage}.layer{number}", LAYER.format(stage, number)
    within = leaving if len(kernels) == 2 else leaving // REDUCTION
    x = net.layer(block, "x", entering, "convolution")
    inner = [net.layer(block, f"h{place}", within, "convolution") for place in range(len(kernels) - 1)]
    for place, (source, target) in enumerate(zip([x, *inner], [*inner, after], strict=True)):
        kernel = (kernels[place], kernels[place])
        net.join(source, target, f"{names}layer.{place}.convolution.weight", "convolution", kernel)
    if shortcut:
        net.join(x, after, names + "shortcut.convolution.weight", "convolution", (1, 1))
    else:
        net.link(x, after, skip=True)
