"""UNet2DModel and UNet2DConditionModel (Stable Diffusion's) of diffusers, from their config.json.

Levels go down, each of some residual blocks (with attention behind each, or a transformer that reads the encoder's output) and a
convolution that halves the image; then come a middle and as many levels up, whose residual blocks read the hidden channels and,
behind them, those of the level that went down: that concatenation is a node layer of its own, which two links lead to.
Embedding tables (of classes, of a learned time) are no weights between neurons and are left out, as a language model's are.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ninscope.architectures.diffusion_blocks import (
    ATTENTION,
    MAX_DEPTH,
    MAX_LEVELS,
    MAX_WIDTH,
    OLDER_ATTENTION,
    Wiring,
    attention,
    choice,
    flag,
    integers,
    residual_block,
    transformer_block,
    two_layers,
    width_of,
)
from ninscope.architectures.layout import Architecture
from ninscope.errors import CheckpointError

# What stands behind each residual block of a level.
BEHIND = {"": "nothing", "Resnet": "nothing", "Attn": "attention", "CrossAttn": "transformer"}
DOWN_TYPES = {f"{kind}DownBlock2D": what for kind, what in BEHIND.items() if kind != "Resnet"}
DOWN_TYPES["ResnetDownsampleBlock2D"] = "nothing"
UP_TYPES = {f"{kind}UpBlock2D": what for kind, what in BEHIND.items() if kind != "Resnet"}
UP_TYPES["ResnetUpsampleBlock2D"] = "nothing"
SCALES = {"default": False, "scale_shift": True}
LEGACY_PREFIX = "UNetRes"  # of block types, once


@dataclass(frozen=True)
class _Level:
    """One level, down or up. heads: width of a head for attention, number of heads for a transformer; depths: a transformer's
    blocks, behind each residual block.
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
class _UNet:
    """A walk through the model. Both classes share it; they differ in what they read from config.json."""

    net: Wiring
    scale_shift: bool
    time: str = ""
    encoder: str = ""
    linear_projection: bool = False

    def residual(self, name: str, source: str, channels: int) -> str:
        return residual_block(self.net, name, source, channels, self.time, self.scale_shift)

    def attend(self, name: str, source: str, level: _Level, number: int) -> str:
        """What stands behind residual block `number` of a level; its output, which is the source where that is nothing."""
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
        output = self.net.layer(name, channels)
        attention(self.net, name, source, output, heads * head_width)
        return output

    def transformer(self, name: str, source: str, level: _Level, number: int) -> str:
        """Transformer2DModel: projections in and out, and its blocks between them, added to the source."""
        net, channels = self.net, self.net.size(source)
        if level.heads > channels:
            raise CheckpointError(
                "corrupt", f"config.json: attention_head_dim {level.heads}, which is the number of heads, is more than"
                f" the {channels} channels of {name}",
            )  # fmt: skip
        if not self.encoder:
            raise CheckpointError("corrupt", f"config.json: cross_attention_dim is absent, though {name} needs it")
        inner = net.layer(f"{name}.proj_in", channels // level.heads * level.heads)
        self._project(source, inner, f"{name}.proj_in")
        for block in range(level.depths[number]):
            inner = transformer_block(
                net, f"{name}.transformer_blocks.{block}", inner, "geglu", self.encoder, level.only_cross
            )
        output = net.layer(name, channels)
        self._project(inner, output, f"{name}.proj_out")
        net.link(source, output, skip=True)
        return output

    def _project(self, source: str, target: str, module: str) -> None:
        if self.linear_projection:
            self.net.linear(source, target, module, "attention")
        else:
            self.net.convolve(source, target, module, 1)

    def walk(
        self, config: Mapping, down: list[_Level], middle: _Level | None, up: list[_Level], kernels: tuple
    ) -> None:
        """From the noisy sample to the predicted one; the time embedding is there already."""
        net = self.net
        net.part = "input"
        sample = net.layer("sample", width_of(config, "in_channels", self.default_channels))
        now = net.layer("conv_in", down[0].channels)
        net.convolve(sample, now, "conv_in", kernels[0])
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
        net.part = "mid"
        for layer in range(middle.layers if middle else 0):
            now = self.residual(f"mid_block.resnets.{layer}", now, middle.channels)
            if layer + 1 < middle.layers:
                now = self.attend(f"mid_block.attentions.{layer}", now, middle, layer)
        for number, level in enumerate(up):
            net.part = f"up{number}"
            name = f"up_blocks.{number}"
            for layer in range(level.layers):
                joined = net.concatenate(f"{name}.resnets.{layer}.concatenated", (now, skipped.pop()))
                now = self.residual(f"{name}.resnets.{layer}", joined, level.channels)
                now = self.attend(f"{name}.attentions.{layer}", now, level, layer)
            if number + 1 < len(up):
                now = self.resample(f"{name}.upsamplers.0", now, level)
        net.part = "output"
        output = net.layer("conv_out", width_of(config, "out_channels", self.default_channels))
        net.convolve(now, output, "conv_out", kernels[1])

    def resample(self, name: str, source: str, level: _Level) -> str:
        if level.sampler == "resnet":
            return self.residual(name, source, level.channels)
        output = self.net.layer(name, level.channels)
        self.net.convolve(source, output, f"{name}.conv", 3)
        return output

    default_channels: int = 3


def _behind(config: Mapping, key: str, known: Mapping[str, str], default: tuple[str, ...]) -> list[tuple[str, str]]:
    """(block type, what stands behind its residual blocks) of every level. Raises CheckpointError (unsupported, corrupt)."""
    types = config.get(key) or default
    if not isinstance(types, list | tuple) or not 1 <= len(types) <= MAX_LEVELS:
        raise CheckpointError("corrupt", f"config.json: {key} is no list of 1 to {MAX_LEVELS} block types")
    found = []
    for kind in types:
        plain = kind.removeprefix(LEGACY_PREFIX) if isinstance(kind, str) else kind
        if not isinstance(plain, str) or plain not in known:
            raise CheckpointError(
                "unsupported",
                f"config.json: {key} names {kind!r}, which is not supported; supported: {', '.join(known)}",
            )
        found.append((plain, known[plain]))
    return found


def _levels(
    config: Mapping, down_default: tuple, up_default: tuple, channels_default: tuple
) -> tuple[list, list, list[int]]:
    """Block types down and up, and channels, of all levels. Raises CheckpointError."""
    down = _behind(config, "down_block_types", DOWN_TYPES, down_default)
    up = _behind(config, "up_block_types", UP_TYPES, up_default)
    channels = integers(config, "block_out_channels", None, MAX_WIDTH, channels_default)
    if not len(down) == len(up) == len(channels):
        raise CheckpointError(
            "corrupt", f"config.json: {len(down)} down_block_types, {len(up)} up_block_types and {len(channels)} "
            "block_out_channels; as many of each were expected",
        )  # fmt: skip
    return down, up, channels


def _sampler(kind: str, choosable: str) -> str:
    """ "conv" or "resnet": only attention's levels have a choice."""
    if kind.startswith("Resnet"):
        return "resnet"
    return choosable if kind.startswith(("AttnDown", "AttnUp")) else "conv"


def unconditional(config: Mapping, names: Collection[str] = ()) -> Architecture:
    """UNet2DModel. names: of the file's tensors, which tell how it calls attention.

    Raises CheckpointError: corrupt (senseless sizes), unsupported (a block type or option not known here).
    """
    default_down = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    default_up = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    down, up, channels = _levels(config, default_down, default_up, (224, 448, 672, 896))
    for kind, behind in down + up:
        if behind == "transformer":
            raise CheckpointError("corrupt", f"config.json: {kind} in a UNet2DModel, which has no encoder to read")
    layers = width_of(config, "layers_per_block", 2)
    head = config.get("attention_head_dim", 8)
    heads = [size if head is None else width_of(config, "attention_head_dim", 8) for size in channels]
    samplers = [choice(config, f"{way}sample_type", ("conv", "resnet"), "conv") for way in ("down", "up")]
    older = any(name.endswith(f".{OLDER_ATTENTION['q']}.weight") for name in names)
    unet = _UNet(
        Wiring("UNet2DModel", OLDER_ATTENTION if older else ATTENTION),
        SCALES[choice(config, "resnet_time_scale_shift", tuple(SCALES), "default")],
    )
    kind = choice(config, "time_embedding_type", ("positional", "fourier", "learned"), "positional")
    _time(unet, config, channels[0] * (2 if kind == "fourier" else 1), 4 * channels[0])
    middle = None
    if config.get("mid_block_type", "UNetMidBlock2D") is not None:
        behind = "attention" if flag(config, "add_attention", True) else "nothing"
        middle = _Level("", behind, channels[-1], 2, heads[-1])
    unet.walk(
        config,
        [
            _Level(kind, behind, channels[i], layers, heads[i], sampler=_sampler(kind, samplers[0]))
            for i, (kind, behind) in enumerate(down)
        ],
        middle,
        [
            _Level(kind, behind, channels[-1 - i], layers + 1, heads[-1 - i], sampler=_sampler(kind, samplers[1]))
            for i, (kind, behind) in enumerate(up)
        ],
        (3, 3),
    )
    return unet.net.architecture()


def conditional(config: Mapping) -> Architecture:
    """UNet2DConditionModel. Raises CheckpointError as `unconditional` does."""
    default_down = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    default_up = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")
    down, up, channels = _levels(config, default_down, default_up, (320, 640, 1280, 1280))
    count = len(channels)
    for key, known in _ONLY.items():
        choice(config, key, known, known[0])
    layers = integers(config, "layers_per_block", count, MAX_DEPTH - 1, 2)  # levels up have one more
    # Called the width of a head, and it is that of attention without an encoder; of a transformer it is the number of heads.
    heads = integers(config, "attention_head_dim", count, MAX_WIDTH, 8)
    down_depths, up_depths = _depths(config, layers)
    only = config.get("only_cross_attention", False)
    only = list(only) if isinstance(only, list | tuple) else [only] * count
    if len(only) != count or not all(type(value) is bool for value in only):
        raise CheckpointError(
            "corrupt", f"config.json: only_cross_attention is neither true, false nor {count} of them"
        )
    shift = SCALES[choice(config, "resnet_time_scale_shift", tuple(SCALES), "default")]
    unet = _UNet(Wiring("UNet2DConditionModel"), shift, default_channels=4)
    unet.linear_projection = flag(config, "use_linear_projection")
    kind = choice(config, "time_embedding_type", ("positional", "fourier"), "positional")
    if kind == "fourier":
        width = width_of(config, "time_embedding_dim", 2 * channels[0])
        _time(unet, config, width, width)
    else:
        _time(unet, config, channels[0], 4 * channels[0])
    _conditions(unet, config)
    _encoder(unet, config, count)
    middle_type = choice(config, "mid_block_type", ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None), _MIDDLE)
    middle = {
        "UNetMidBlock2DCrossAttn": _Level(_MIDDLE, "transformer", channels[-1], 2, 1, heads[-1], down_depths[-1][:1]),
        "UNetMidBlock2D": _Level("UNetMidBlock2D", "nothing", channels[-1], 1, 1),
    }.get(middle_type)
    unet.walk(
        config,
        [
            _Level(kind, behind, channels[i], layers[i], heads[i], heads[i], down_depths[i], only[i], _sampler(kind, "conv"))
            for i, (kind, behind) in enumerate(down)
        ],
        middle,
        [
            # diffusers gives the levels up the widths of heads in the order of those down, and all else reversed.
            _Level(
                kind, behind, channels[-1 - i], layers[-1 - i] + 1, heads[i], heads[-1 - i], up_depths[i], only[-1 - i],
                _sampler(kind, "conv"),
            )
            for i, (kind, behind) in enumerate(up)
        ],
        (width_of(config, "conv_in_kernel", 3), width_of(config, "conv_out_kernel", 3)),
    )  # fmt: skip
    return unet.net.architecture()


_MIDDLE = "UNetMidBlock2DCrossAttn"
# Options of UNet2DConditionModel that would need modules which are not read here: the values that do not.
_ONLY: dict[str, tuple] = {
    "attention_type": ("default",),
    "dual_cross_attention": (False,),
    "class_embeddings_concat": (False,),
    "num_attention_heads": (None,),
}


def _time(unet: _UNet, config: Mapping, sinusoids: int, default: int) -> None:
    """The time embedding, whose output every residual block reads."""
    net = unet.net
    net.part = "time"
    width = width_of(config, "time_embedding_dim", default)
    source = net.layer("time_proj", sinusoids)
    unet.time = net.layer("time_embedding", width)
    two_layers(net, "time_embedding", source, unet.time, width)
    condition = config.get("time_cond_proj_dim")
    if unet.net.family == "UNet2DConditionModel" and condition is not None:
        guidance = net.layer("guidance", width_of(config, "time_cond_proj_dim"))
        net.linear(guidance, source, "time_embedding.cond_proj", "conditioning")
    known = (None, "timestep", "identity")
    if unet.net.family == "UNet2DConditionModel":
        known += ("projection", "simple_projection")
    kind = choice(config, "class_embed_type", known, None)
    if kind == "timestep":
        two_layers(net, "class_embedding", net.layer("class_proj", sinusoids), unet.time, width)
    elif kind in ("projection", "simple_projection"):
        labels = net.layer("class_labels", width_of(config, "projection_class_embeddings_input_dim"))
        if kind == "projection":
            two_layers(net, "class_embedding", labels, unet.time, width)
        else:
            net.linear(labels, unet.time, "class_embedding", "conditioning")


def _conditions(unet: _UNet, config: Mapping) -> None:
    """What is added to the time embedding (SDXL: sizes and the pooled text)."""
    if choice(config, "addition_embed_type", (None, "text_time"), None):
        added = unet.net.layer("add_text_time", width_of(config, "projection_class_embeddings_input_dim"))
        two_layers(unet.net, "add_embedding", added, unet.time, unet.net.size(unet.time))


def _encoder(unet: _UNet, config: Mapping, count: int) -> None:
    """What cross attention reads: the encoder's output, as it is or projected."""
    kind = choice(config, "encoder_hid_dim_type", (None, "text_proj"), None)
    if config.get("cross_attention_dim", 0) is None:
        return
    widths = set(integers(config, "cross_attention_dim", None, MAX_WIDTH, 1280))
    if len(widths) > 1:
        raise CheckpointError(
            "unsupported", "config.json: cross_attention_dim differs between levels; one width is supported"
        )
    net = unet.net
    net.part = "encoder"
    unet.encoder = net.layer("encoder_hidden_states", widths.pop())
    if kind or config.get("encoder_hid_dim") is not None:
        text = net.layer("text", width_of(config, "encoder_hid_dim"))
        net.linear(text, unet.encoder, "encoder_hid_proj", "conditioning")


def _depths(config: Mapping, layers: list[int]) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Blocks of the transformer behind each residual block, of the levels down and (in their order) up.

    transformer_layers_per_block is a number, one a level, or a list a level; then the levels up have a list of their own.
    """
    key, back = "transformer_layers_per_block", "reverse_transformer_layers_per_block"

    def listed(name: str, values: object, counts: list[int]) -> list[tuple[int, ...]]:
        values = values if isinstance(values, list | tuple) else [values] * len(counts)
        if len(values) != len(counts):
            raise CheckpointError("corrupt", f"config.json: {name} has {len(values)} entries, not {len(counts)}")
        found = []
        for value, number in zip(values, counts, strict=True):
            count = len(value) if isinstance(value, list | tuple) else number
            if count < number:
                raise CheckpointError(
                    "corrupt", f"config.json: {name} has too few numbers for {number} layers of a level"
                )
            found.append(tuple(integers({name: value}, name, count, MAX_DEPTH)))
        return found

    value = config.get(key)
    value = 1 if value is None else value
    up = config.get(back)
    if up is None:
        if isinstance(value, list | tuple) and any(isinstance(one, list | tuple) for one in value):
            raise CheckpointError("corrupt", f"config.json: {key} has a list for a level, and then {back} is needed")
        up = list(reversed(value)) if isinstance(value, list | tuple) else value
    return listed(key, value, layers), listed(back, up, [layer + 1 for layer in reversed(layers)])
