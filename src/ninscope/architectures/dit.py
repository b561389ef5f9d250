"""DiT and PixArt: transformers over patches of an image (DiTTransformer2DModel, PixArtTransformer2DModel of diffusers).

Patches are embedded by a convolution, and blocks of attention and feed-forward follow. The time embedding makes the six
modulations of a block (adaLN): shift, scale and gate of attention, and of feed-forward; DiT has its own embedding and modulations
in each block, PixArt one for all, and cross attention to the caption. Both were saved as Transformer2DModel once. Tables (of
classes, PixArt's of shifts and scales) are no weights between neurons and are left out.
"""

from collections.abc import Mapping, Sequence

from ninscope.architectures.diffusion_blocks import (
    ACTIVATIONS,
    MAX_DEPTH,
    MODULATIONS,
    Wiring,
    choice,
    flag,
    transformer_block,
    two_layers,
    width_of,
)
from ninscope.architectures.layout import Architecture, positive_integer
from ninscope.errors import CheckpointError

SINUSOIDS = 256
MAX_PATCH = 1_024
SIZES_OF_A_PICTURE = 2  # height and width, each embedded by itself


class _Model:
    """What both share: sizes from config.json, the embedded patches, the blocks and the output's patches."""

    def __init__(self, family: str, config: Mapping, default_out: int | None):
        self.net, self.config = Wiring(family), config
        self.width = width_of(config, "num_attention_heads", 16) * width_of(config, "attention_head_dim", 72)
        self.channels = width_of(config, "in_channels", 4)
        # null means as many as the input has, in both; absent, each class has its own number.
        default_out = self.channels if default_out is None or "out_channels" in config else default_out
        self.out = width_of(config, "out_channels", default_out)
        self.patch = positive_integer(config, "patch_size", MAX_PATCH, 2)
        self.activation = str(choice(config, "activation_fn", ACTIVATIONS, "gelu-approximate"))

    def patches(self) -> str:
        net = self.net
        net.part = "input"
        sample = net.layer("sample", self.channels)
        embedded = net.layer("pos_embed", self.width)
        net.convolve(sample, embedded, "pos_embed.proj", self.patch)
        return embedded

    def time(self, name: str) -> str:
        """CombinedTimestep...Embeddings: the sinusoids' two layers; the node layer of what they give."""
        sinusoids = self.net.layer(f"{name}.time_proj", SINUSOIDS)
        embedded = self.net.layer(name, self.width)
        two_layers(self.net, f"{name}.timestep_embedder", sinusoids, embedded, self.width)
        return embedded

    def modulations(self, name: str, time: str) -> list[str]:
        parts = [self.net.layer(f"{name}.{part}", self.width, name) for part in MODULATIONS]
        self.net.linear(time, parts, f"{name}.linear", "conditioning")
        return parts

    def block(self, number: int, source: str, modulations: Sequence[str], encoder: str = "") -> str:
        """One block, and what its modulations shift, scale and gate."""
        name = f"transformer_blocks.{number}"
        output = transformer_block(self.net, name, source, self.activation, encoder)
        after = f"{name}.attn1"
        before_mlp = f"{name}.attn2" if encoder else after
        for part, target in zip(modulations, (source, source, after, before_mlp, before_mlp, output), strict=True):
            self.net.link(part, target)
        return output

    def output(self, source: str, module: str) -> None:
        self.net.part = "output"
        patches = self.net.layer(module, self.patch * self.patch * self.out)
        self.net.linear(source, patches, module, "output")


def dit(config: Mapping) -> Architecture:
    """DiTTransformer2DModel. Raises CheckpointError: corrupt (senseless sizes), unsupported (an option not known here)."""
    choice(config, "norm_type", ("ada_norm_zero",), "ada_norm_zero")
    model = _Model("DiTTransformer2DModel", config, None)
    net = model.net
    now = model.patches()
    times = []
    for number in range(positive_integer(config, "num_layers", MAX_DEPTH, 28)):
        net.part = f"block{number}"
        name = f"transformer_blocks.{number}.norm1"
        times.append(model.time(f"{name}.emb"))
        now = model.block(number, now, model.modulations(name, times[-1]))
    net.part = "output"
    parts = [net.layer(f"proj_out_1.{part}", model.width, "proj_out_1") for part in ("shift", "scale")]
    net.linear(times[0], parts, "proj_out_1", "conditioning")  # of the first block's embedding
    for part in parts:
        net.link(part, now)
    model.output(now, "proj_out_2")
    return net.architecture()


def pixart(config: Mapping) -> Architecture:
    """PixArtTransformer2DModel. Raises CheckpointError as `dit` does."""
    choice(config, "norm_type", ("ada_norm_single",), "ada_norm_single")
    choice(config, "attention_type", ("default", None), "default")
    model = _Model("PixArtTransformer2DModel", config, 8)
    net = model.net
    net.part = "time"
    time = model.time("adaln_single.emb")
    additional = config.get("use_additional_conditions")
    if additional is None:
        additional = positive_integer(config, "sample_size", 1_000_000, 128) == 128
    elif type(additional) is not bool:
        additional = flag(config, "use_additional_conditions")
    if additional:
        _picture_sizes(net, time)
    modulations = model.modulations("adaln_single", time)
    encoder = _caption(model)
    now = model.patches()
    for number in range(positive_integer(config, "num_layers", MAX_DEPTH, 28)):
        net.part = f"block{number}"
        now = model.block(number, now, modulations, encoder)
    model.output(now, "proj_out")
    return net.architecture()


def _picture_sizes(net: Wiring, time: str) -> None:
    """Embeddings of height, width and aspect ratio, each a third of what is added to the time's."""
    third = net.size(time) // 3
    if third * 3 != net.size(time):
        raise CheckpointError(
            "corrupt",
            f"config.json: {net.size(time)} channels are no multiple of 3, as use_additional_conditions needs",
        )
    for name, first, times in (("resolution", 0, SIZES_OF_A_PICTURE), ("aspect_ratio", SIZES_OF_A_PICTURE, 1)):
        module = f"adaln_single.emb.{name}_embedder"
        sinusoids, embedded = net.layer(f"{module}.proj", SINUSOIDS), net.layer(module, third)
        two_layers(net, module, sinusoids, embedded, third)
        for part in range(first, first + times):
            net.link(embedded, time, part * third)


def _caption(model: _Model) -> str:
    """The node layer that cross attention reads; "" where there is none."""
    net, config = model.net, model.config
    net.part = "encoder"
    captions = config.get("caption_channels")
    if config.get("cross_attention_dim", 0) is None:
        return ""
    encoder = net.layer("encoder_hidden_states", width_of(config, "cross_attention_dim", 1152))
    if captions is not None:
        if net.size(encoder) != model.width:
            raise CheckpointError(
                "corrupt",
                f"config.json: cross_attention_dim {net.size(encoder)}, but captions are projected to {model.width}",
            )
        two_layers(
            net, "caption_projection", net.layer("caption", width_of(config, "caption_channels")), encoder, model.width
        )
    return encoder


def by_norm(config: Mapping) -> Architecture:
    """Transformer2DModel, as DiT and PixArt were saved before they had classes of their own: told apart by norm_type."""
    kinds = {"ada_norm_zero": dit, "ada_norm_single": pixart}
    if config.get("patch_size") is None:
        raise CheckpointError("unsupported", "config.json: a Transformer2DModel without patch_size is not supported")
    return kinds[str(choice(config, "norm_type", tuple(kinds), None))](config)
