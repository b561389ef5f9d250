"""A UNet of diffusers, level by level.

Levels go down, each of some residual blocks (with attention behind each, or a transformer that reads the encoder's output) and a
convolution that halves the image; then come a middle and as many levels up, whose residual blocks read the hidden channels and,
behind them, those of the level that went down: that concatenation is a node layer of its own, which two links lead to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.diffusion_blocks import (
    ATTENTION,
    attention,
    concatenate,
    convolve,
    linear,
    residual_block,
    transformer_block,
)
from ninscope.errors import CheckpointError


@dataclass(frozen=True)
class Level:
    """One level, down or up.

    behind: what stands behind each residual block. layers: residual blocks. head_width: of attention. heads: of a transformer.
    depths: the number of a transformer's blocks, behind each residual block.
    """

    kind: str
    behind: str
    channels: int
    layers: int
    head_width: int
    heads: int = 1
    depths: tuple[int, ...] = ()
    only_cross: bool = False
    sampler: str = "conv"


@dataclass
class UNet:
    """A walk through the model. Both classes share it; they differ in what they read from config.json.

    time, encoder: the node layers that residual blocks and cross attention read. modules: the names of attention's modules.
    """

    net: Builder
    scale_shift: bool
    time: str = ""
    encoder: str = ""
    linear_projection: bool = False
    default_channels: int = 3
    modules: Mapping[str, str] = field(default_factory=lambda: ATTENTION)

    def residual(self, name: str, source: str, channels: int) -> str:
        return residual_block(self.net, name, source, channels, self.time, self.scale_shift)

    def attend(self, name: str, source: str, level: Level, number: int) -> str:
        """Add what stands behind residual block `number` of a level. Returns its output, the source where that is nothing."""
        if level.behind == "attention":
            return self.attention(name, source, level.head_width)
        if level.behind == "transformer":
            return self.transformer(name, source, level, number)
        return source

    def attention(self, name: str, source: str, head_width: int) -> str:
        channels = self.net.size(source)
        heads = channels // head_width
        if not heads:
            raise CheckpointError(
                "corrupt",
                f"config.json: attention_head_dim {head_width} is more than the {channels} channels of {name}",
            )
        output = self.net.named_layer(name, channels)
        attention(self.net, name, source, output, heads * head_width, modules=self.modules)
        return output

    def transformer(self, name: str, source: str, level: Level, number: int) -> str:
        """Transformer2DModel: projections in and out, and its blocks between them, added to the source."""
        net, channels = self.net, self.net.size(source)
        if level.heads > channels:
            raise CheckpointError(
                "corrupt",
                f"config.json: attention_head_dim {level.heads}, which is the number of heads, is more than the {channels} "
                f"channels of {name}",
            )
        if not self.encoder:
            raise CheckpointError("corrupt", f"config.json: cross_attention_dim is absent, though {name} needs it")
        inner = net.named_layer(f"{name}.proj_in", channels // level.heads * level.heads)
        self._project(source, inner, f"{name}.proj_in")
        for block in range(level.depths[number]):
            inner = transformer_block(
                net, f"{name}.transformer_blocks.{block}", inner, "geglu", self.encoder, level.only_cross
            )
        output = net.named_layer(name, channels)
        self._project(inner, output, f"{name}.proj_out")
        net.link(source, output, skip=True)
        return output

    def _project(self, source: str, target: str, module: str) -> None:
        if self.linear_projection:
            linear(self.net, source, target, module, "attention")
        else:
            convolve(self.net, source, target, module, 1)

    def walk(
        self,
        config: Mapping,
        down: list[Level],
        middle: Level | None,
        up: list[Level],
        kernels: tuple[int, int] = (3, 3),
    ) -> None:
        """From the noisy sample to the predicted one. kernels: of the convolutions in and out."""
        net = self.net
        net.part = "input"
        sample = net.named_layer("sample", sizes.width(config, "in_channels", self.default_channels))
        now = net.named_layer("conv_in", down[0].channels)
        convolve(net, sample, now, "conv_in", kernels[0])
        skipped = [now]
        for number, level in enumerate(down):
            net.part = f"down{number}"
            name = f"down_blocks.{number}"
            for layer in range(level.layers):
                now = self.residual(f"{name}.resnets.{layer}", now, level.channels)
                now = self.attend(f"{name}.attentions.{layer}", now, level, layer)
                skipped.append(now)
            if number + 1 < len(down):
                now = self.resample(f"{name}.downsamplers.0", now, level)
                skipped.append(now)
        if middle:
            net.part = "mid"
            now = self.residual("mid_block.resnets.0", now, middle.channels)
            for layer in range(1, middle.layers):
                now = self.attend(f"mid_block.attentions.{layer - 1}", now, middle, layer - 1)
                now = self.residual(f"mid_block.resnets.{layer}", now, middle.channels)
        for number, level in enumerate(up):
            net.part = f"up{number}"
            name = f"up_blocks.{number}"
            for layer in range(level.layers):
                joined = concatenate(net, f"{name}.resnets.{layer}.concatenated", (now, skipped.pop()))
                now = self.residual(f"{name}.resnets.{layer}", joined, level.channels)
                now = self.attend(f"{name}.attentions.{layer}", now, level, layer)
            if number + 1 < len(up):
                now = self.resample(f"{name}.upsamplers.0", now, level)
        net.part = "output"
        output = net.named_layer("conv_out", sizes.width(config, "out_channels", self.default_channels))
        convolve(net, now, output, "conv_out", kernels[1])

    def resample(self, name: str, source: str, level: Level) -> str:
        if level.sampler == "resnet":
            return self.residual(name, source, level.channels)
        output = self.net.named_layer(name, level.channels)
        convolve(self.net, source, output, f"{name}.conv", 3)
        return output
