"""DiT and PixArt: transformers over patches of an image (DiTTransformer2DModel, PixArtTransformer2DModel of diffusers).

Patches are embedded by a convolution, and blocks of attention and feed-forward follow. The time embedding makes the six
modulations of a block (adaLN): shift, scale and gate of attention, and of feed-forward. DiT has an embedding and modulations in
each block, PixArt one of each for all blocks, and cross attention to the caption. Both were once saved as Transformer2DModel.
Tables (of classes, PixArt's of shifts and scales) are not weights between neurons and are left out.
"""

from collections.abc import Mapping, Sequence

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.diffusion_blocks import (
    ACTIVATIONS,
    LIMITS,
    MAX_DEPTH,
    MODULATIONS,
    convolve,
    linear,
    modulate,
    modulations,
    transformer_block,
    two_layers,
)
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.errors import CheckpointError

SINUSOIDS = 256
MAX_PATCH = 1_024
MAX_PICTURE = 1_000_000
PIXART_BY_DEFAULT = (
    128  # the sample_size at which PixArt embeds the picture's size, unless its configuration says otherwise
)
SIZES_OF_A_PICTURE = 2  # height and width, each embedded by itself


class _Model:
    """What both share: sizes from config.json, the embedded patches, the blocks and the output's patches."""

    def __init__(self, family: str, config: Mapping, default_out: int | None):
        self.net, self.config = Builder(family, limits=LIMITS), config
        self.width = sizes.width(config, "num_attention_heads", 16) * sizes.width(config, "attention_head_dim", 72)
        self.channels = sizes.width(config, "in_channels", 4)
        # null means as many as the input has, in both; where the key is absent, each class has its own number.
        default_out = self.channels if default_out is None or "out_channels" in config else default_out
        self.out = sizes.width(config, "out_channels", default_out)
        self.patch = sizes.positive_integer(config, "patch_size", MAX_PATCH, 2)
        self.activation = sizes.choice(config, "activation_fn", ACTIVATIONS, "gelu-approximate")

    def patches(self) -> str:
        """Returns the node layer of the embedded patches."""
        net = self.net
        net.part = "input"
        sample = net.named_layer("sample", self.channels)
        embedded = net.named_layer("pos_embed", self.width)
        convolve(net, sample, embedded, "pos_embed.proj", self.patch)
        return embedded

    def time(self, name: str) -> str:
        """CombinedTimestep...Embeddings: two layers behind the sinusoids. Returns the node layer of what they give."""
        sinusoids = self.net.named_layer(f"{name}.time_proj", SINUSOIDS)
        embedded = self.net.named_layer(name, self.width)
        two_layers(self.net, f"{name}.timestep_embedder", sinusoids, embedded, self.width)
        return embedded

    def modulations(self, name: str, time: str, parts: Sequence[str] = MODULATIONS, module: str = "") -> list[str]:
        """Node layers that shift, scale and gate others, which the time embedding leads to. module: default `name`.linear."""
        return modulations(self.net, name, time, self.width, parts, module or f"{name}.linear")

    def block(self, number: int, source: str, modulated_by: Sequence[str], encoder: str = "") -> str:
        """One block, and what its modulations shift, scale and gate. Returns its output's node layer."""
        name = f"transformer_blocks.{number}"
        output = transformer_block(self.net, name, source, self.activation, encoder)
        after = f"{name}.attn1"
        before_mlp = f"{name}.attn2" if encoder else after
        modulated = (source, source, after, before_mlp, before_mlp, output)
        modulate(self.net, modulated_by, *modulated)
        return output

    def output(self, source: str, module: str) -> None:
        self.net.part = "output"
        patches = self.net.named_layer(module, self.patch * self.patch * self.out)
        linear(self.net, source, patches, module, "output")


@register("DiTTransformer2DModel")
def dit(config: Mapping) -> Architecture:
    """DiTTransformer2DModel. Raises CheckpointError: corrupt (senseless sizes), unsupported (an option not known here)."""
    sizes.choice(config, "norm_type", ("ada_norm_zero",), "ada_norm_zero")
    model = _Model("DiTTransformer2DModel", config, None)
    net = model.net
    now = model.patches()
    times = []
    for number in range(sizes.positive_integer(config, "num_layers", MAX_DEPTH, 28)):
        net.part = f"block{number}"
        name = f"transformer_blocks.{number}.norm1"
        times.append(model.time(f"{name}.emb"))
        now = model.block(number, now, model.modulations(name, times[-1]))
    net.part = "output"
    # The last modulations read the first block's time embedding.
    for modulation in model.modulations("proj_out_1", times[0], ("shift", "scale"), "proj_out_1"):
        net.link(modulation, now)
    model.output(now, "proj_out_2")
    return net.architecture()


@register("PixArtTransformer2DModel")
def pixart(config: Mapping) -> Architecture:
    """PixArtTransformer2DModel. Raises CheckpointError as `dit` does."""
    sizes.choice(config, "norm_type", ("ada_norm_single",), "ada_norm_single")
    sizes.choice(config, "attention_type", ("default", None), "default")
    model = _Model("PixArtTransformer2DModel", config, 8)
    net = model.net
    net.part = "time"
    time = model.time("adaln_single.emb")
    if config.get("use_additional_conditions") is None:
        additional = sizes.positive_integer(config, "sample_size", MAX_PICTURE, 128) == PIXART_BY_DEFAULT
    else:
        additional = sizes.flag(config, "use_additional_conditions")
    if additional:
        _picture_sizes(net, time)
    modulated_by = model.modulations("adaln_single", time)
    encoder = _caption(model)
    now = model.patches()
    for number in range(sizes.positive_integer(config, "num_layers", MAX_DEPTH, 28)):
        net.part = f"block{number}"
        now = model.block(number, now, modulated_by, encoder)
    model.output(now, "proj_out")
    return net.architecture()


@register("Transformer2DModel")
def by_norm(config: Mapping) -> Architecture:
    """Transformer2DModel, as DiT and PixArt were saved before they had classes of their own. norm_type tells them apart."""
    if config.get("patch_size") is None:
        raise CheckpointError("unsupported", "config.json: a Transformer2DModel without patch_size is not supported")
    norms = ("ada_norm_zero", "ada_norm_single", None)
    if sizes.choice(config, "norm_type", norms[:2], None) == "ada_norm_zero":
        return dit(config)
    return pixart(config)


def _picture_sizes(net: Builder, time: str) -> None:
    """Embeddings of height, width and aspect ratio, each a third of what is added to the time's."""
    third = net.size(time) // 3
    if third * 3 != net.size(time):
        raise CheckpointError(
            "corrupt",
            f"config.json: {net.size(time)} channels are not a multiple of 3, as use_additional_conditions needs",
        )
    for name, first, times in (("resolution", 0, SIZES_OF_A_PICTURE), ("aspect_ratio", SIZES_OF_A_PICTURE, 1)):
        module = f"adaln_single.emb.{name}_embedder"
        sinusoids, embedded = net.named_layer(f"{module}.proj", SINUSOIDS), net.named_layer(module, third)
        two_layers(net, module, sinusoids, embedded, third)
        for part in range(first, first + times):
            net.link(embedded, time, part * third)


def _caption(model: _Model) -> str:
    """The node layer that cross attention reads; "" where there is none."""
    net, config = model.net, model.config
    net.part = "encoder"
    if config.get("cross_attention_dim", 0) is None:
        return ""
    encoder = net.named_layer("encoder_hidden_states", sizes.width(config, "cross_attention_dim", 1152))
    if config.get("caption_channels") is not None:
        if net.size(encoder) != model.width:
            raise CheckpointError(
                "corrupt",
                f"config.json: cross_attention_dim {net.size(encoder)}, but captions are projected to {model.width}",
            )
        caption = net.named_layer("caption", sizes.width(config, "caption_channels"))
        two_layers(net, "caption_projection", caption, encoder, model.width)
    return encoder
