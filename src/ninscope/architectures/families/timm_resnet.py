"""timm's ResNet: as transformers' (families/resnet.py), 2R+2 node layers of R basic layers, 3R+2 of R bottlenecks.

Models whose first convolution is three small ones (resnet50d) have the channels between them besides: input.h0, input.h1. The
shortcut has a number of its own where an average pooling stands before it. Left out: normalisation, pooling, and the classifier.
"""

from collections.abc import Mapping, Sequence

from ninscope.architectures.builder import Builder
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.timm_files import count_of, shape_of, whole
from ninscope.checkpoints.tensors import Tensor

STEMS = (("conv1.weight",), ("conv1.0.weight", "conv1.3.weight", "conv1.6.weight"))
CONVOLUTION = "layer{}.{}.conv{}.weight"
SHORTCUTS = ("layer{}.{}.downsample.0.weight", "layer{}.{}.downsample.1.weight")
LEFT_OUT = r"fc\."


@register("timm_resnet", needs_tensors=True, mark=r"layer\d+\.\d+\.conv\d\.weight")
def architecture(config: Mapping, tensors: Mapping[str, Tensor]) -> Architecture:
    """The wiring of a file of these tensors. Raises CheckpointError (corrupt, unsupported)."""
    stages = count_of(tensors, CONVOLUTION.format("{}", 0, 1))
    numbers = [
        (stage, layer)
        for stage in range(stages)
        for layer in range(count_of(tensors, CONVOLUTION.format(stage + 1, "{}", 1)))
    ]
    ends = [f"stage{stage}.layer{layer}.x" for stage, layer in numbers] + ["output.x"]
    net = Builder("timm_resnet")
    stem = STEMS[STEMS[1][0] in tensors]
    _convolutions(net, tensors, net.layer("input", "x", shape_of(tensors, stem[0], 4)[1], "convolution"), ends[0], stem)
    width = shape_of(tensors, stem[-1], 4)[0]
    for (stage, layer), source, after in zip(numbers, ends[:-1], ends[1:], strict=True):
        net.named_layer(source, width, source.removesuffix(".x"), "convolution")
        third = CONVOLUTION.format(stage + 1, layer, 3)
        names = [CONVOLUTION.format(stage + 1, layer, number) for number in (1, 2)] + [third] * (third in tensors)
        width = _convolutions(net, tensors, source, after, names)
        shortcut = next((name for name in (s.format(stage + 1, layer) for s in SHORTCUTS) if name in tensors), "")
        if shortcut:
            net.join(source, after, shortcut, "convolution", shape_of(tensors, shortcut, 4)[2:])
        elif net.size(source) == width:
            net.link(source, after, skip=True)
    net.layer("output", "x", width)
    return whole(net, config, tensors, LEFT_OUT)


def _convolutions(net: Builder, tensors: Mapping[str, Tensor], source: str, after: str, names: Sequence[str]) -> int:
    """Convolutions one behind the other, with node layers h0, h1 of the source's block between them.

    Returns the number of channels that the last one gives.
    """
    block = source.removesuffix(".x")
    channels = [shape_of(tensors, name, 4)[0] for name in names]
    between = [net.layer(block, f"h{number}", size, "convolution") for number, size in enumerate(channels[:-1])]
    for name, start, end in zip(names, [source, *between], [*between, after], strict=True):
        net.join(start, end, name, "convolution", shape_of(tensors, name, 4)[2:])
    return channels[-1]
