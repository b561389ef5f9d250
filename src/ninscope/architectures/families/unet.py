"""UNet2DModel and UNet2DConditionModel (Stable Diffusion's) of diffusers, from their config.json.

What the two share, levels down and up, is in unet_levels.py. Here is what each reads from its configuration. Embedding tables (of
classes, of a learned time) are not weights between neurons and are left out, as a language model's are.
"""

from collections.abc import Collection, Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.diffusion_blocks import (
    ATTENTION,
    LIMITS,
    MAX_DEPTH,
    MAX_LEVELS,
    OLDER_ATTENTION,
    linear,
    two_layers,
)
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.unet_levels import Level, UNet
from ninscope.errors import CheckpointError

# What stands behind each residual block of a level.
BEHIND = {"": "nothing", "Resnet": "nothing", "Attn": "attention", "CrossAttn": "transformer"}
DOWN_TYPES = {f"{kind}DownBlock2D": what for kind, what in BEHIND.items() if kind != "Resnet"}
DOWN_TYPES["ResnetDownsampleBlock2D"] = "nothing"
UP_TYPES = {f"{kind}UpBlock2D": what for kind, what in BEHIND.items() if kind != "Resnet"}
UP_TYPES["ResnetUpsampleBlock2D"] = "nothing"
SCALES = {"default": False, "scale_shift": True}
LEGACY_PREFIX = "UNetRes"  # of block types, once


def _behind(config: Mapping, key: str, known: Mapping[str, str], default: tuple[str, ...]) -> list[tuple[str, str]]:
    """(block type, what stands behind its residual blocks) of every level. Raises CheckpointError (unsupported, corrupt)."""
    types = config.get(key) or default
    if not isinstance(types, list | tuple) or not 1 <= len(types) <= MAX_LEVELS:
        raise CheckpointError("corrupt", f"config.json: {key} is not a list of 1 to {MAX_LEVELS} block types")
    levels = []
    for kind in types:
        plain = kind.removeprefix(LEGACY_PREFIX) if isinstance(kind, str) else kind
        if not isinstance(plain, str) or plain not in known:
            raise CheckpointError(
                "unsupported",
                f"config.json: {key} names {kind!r}, which is not supported; supported: {', '.join(known)}",
            )
        levels.append((plain, known[plain]))
    return levels


_Types = list[tuple[str, str]]


def _levels(
    config: Mapping, down_default: tuple[str, ...], up_default: tuple[str, ...], channels_default: tuple[int, ...]
) -> tuple[_Types, _Types, list[int]]:
    """(block type, what stands behind) of the levels down and up, and the channels of all levels. Raises CheckpointError."""
    down = _behind(config, "down_block_types", DOWN_TYPES, down_default)
    up = _behind(config, "up_block_types", UP_TYPES, up_default)
    channels = sizes.integers(config, "block_out_channels", None, sizes.MAX_WIDTH, channels_default)
    if not len(down) == len(up) == len(channels):
        raise CheckpointError(
            "corrupt",
            f"config.json: {len(down)} down_block_types, {len(up)} up_block_types and {len(channels)} block_out_channels; "
            "as many of each were expected",
        )
    return down, up, channels


def _sampler(kind: str, choosable: str) -> str:
    """How a level resamples, "conv" or "resnet": only levels of attention have the choice that is given."""
    if kind.startswith("Resnet"):
        return "resnet"
    return choosable if kind.startswith(("AttnDown", "AttnUp")) else "conv"


@register("UNet2DModel", needs_names=True)
def unconditional(config: Mapping, names: Collection[str]) -> Architecture:
    """UNet2DModel. names: the file's tensors, which tell how it calls attention.

    Raises CheckpointError: corrupt (senseless sizes), unsupported (a block type or option not known here).
    """
    default_down = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    default_up = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    down, up, channels = _levels(config, default_down, default_up, (224, 448, 672, 896))
    for kind, behind in down + up:
        if behind == "transformer":
            raise CheckpointError("corrupt", f"config.json: a UNet2DModel has no encoder for {kind} to read")
    layers = sizes.width(config, "layers_per_block", 2)
    head = config.get("attention_head_dim", 8)
    heads = [size if head is None else sizes.width(config, "attention_head_dim", 8) for size in channels]
    samplers = [sizes.choice(config, f"{way}sample_type", ("conv", "resnet"), "conv") for way in ("down", "up")]
    older = any(name.endswith(f".{OLDER_ATTENTION['q']}.weight") for name in names)
    shift = SCALES[sizes.choice(config, "resnet_time_scale_shift", tuple(SCALES), "default")]
    unet = UNet(Builder("UNet2DModel", limits=LIMITS), shift, modules=OLDER_ATTENTION if older else ATTENTION)
    kind = sizes.choice(config, "time_embedding_type", ("positional", "fourier", "learned"), "positional")
    _time(unet, config, channels[0] * (2 if kind == "fourier" else 1), 4 * channels[0])
    middle = None
    if config.get("mid_block_type", "UNetMidBlock2D") is not None:
        behind = "attention" if sizes.flag(config, "add_attention", True) else "nothing"
        middle = Level("", behind, channels[-1], 2, heads[-1])
    unet.walk(
        config,
        [
            Level(kind, behind, channels[i], layers, heads[i], sampler=_sampler(kind, samplers[0]))
            for i, (kind, behind) in enumerate(down)
        ],
        middle,
        [
            Level(kind, behind, channels[-1 - i], layers + 1, heads[-1 - i], sampler=_sampler(kind, samplers[1]))
            for i, (kind, behind) in enumerate(up)
        ],
    )
    return unet.net.architecture()


@register("UNet2DConditionModel")
def conditional(config: Mapping) -> Architecture:
    """UNet2DConditionModel. Raises CheckpointError as `unconditional` does."""
    default_down = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    default_up = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")
    down, up, channels = _levels(config, default_down, default_up, (320, 640, 1280, 1280))
    count = len(channels)
    for key, known in _ONLY.items():
        sizes.choice(config, key, known, known[0])
    layers = sizes.integers(config, "layers_per_block", count, MAX_DEPTH - 1, 2)  # levels up have one more
    # For attention without an encoder it is what its name says, the width of a head; for a transformer the number of heads.
    heads = sizes.integers(config, "attention_head_dim", count, sizes.MAX_WIDTH, 8)
    down_depths, up_depths = _depths(config, layers)
    only = _only_cross_attention(config, count)
    shift = SCALES[sizes.choice(config, "resnet_time_scale_shift", tuple(SCALES), "default")]
    unet = UNet(Builder("UNet2DConditionModel", limits=LIMITS), shift, default_channels=4)
    unet.linear_projection = sizes.flag(config, "use_linear_projection")
    kind = sizes.choice(config, "time_embedding_type", ("positional", "fourier"), "positional")
    if kind == "fourier":
        width = sizes.width(config, "time_embedding_dim", 2 * channels[0])
        _time(unet, config, width, width)
    else:
        _time(unet, config, channels[0], 4 * channels[0])
    _conditions(unet, config)
    _encoder(unet, config, count)
    middle_type = sizes.choice(config, "mid_block_type", (_MIDDLE, "UNetMidBlock2D", None), _MIDDLE)
    middle = None
    if middle_type == _MIDDLE:
        middle = Level(_MIDDLE, "transformer", channels[-1], 2, 1, heads[-1], down_depths[-1][:1])
    elif middle_type:
        middle = Level(middle_type, "nothing", channels[-1], 1, 1)
    unet.walk(
        config,
        [
            Level(kind, behind, channels[i], layers[i], heads[i], heads[i], down_depths[i], only[i], _sampler(kind, "conv"))
            for i, (kind, behind) in enumerate(down)
        ],
        middle,
        [
            # diffusers gives the levels up the widths of heads in the order of those down, and all else reversed.
            Level(
                kind, behind, channels[-1 - i], layers[-1 - i] + 1, heads[i], heads[-1 - i], up_depths[i], only[-1 - i],
                _sampler(kind, "conv"),
            )
            for i, (kind, behind) in enumerate(up)
        ],
        (sizes.width(config, "conv_in_kernel", 3), sizes.width(config, "conv_out_kernel", 3)),
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


def _only_cross_attention(config: Mapping, count: int) -> list[bool]:
    """Whether the first attention of a level's transformers reads the encoder too. Raises CheckpointError (corrupt)."""
    value = config.get("only_cross_attention", False)
    values = list(value) if isinstance(value, list | tuple) else [value] * count
    if len(values) != count or not all(type(entry) is bool for entry in values):
        raise CheckpointError(
            "corrupt", f"config.json: only_cross_attention is not true, false or a list of {count} of these"
        )
    return values


def _time(unet: UNet, config: Mapping, sinusoids: int, default: int) -> None:
    """The time embedding, whose output every residual block reads."""
    net = unet.net
    net.part = "time"
    width = sizes.width(config, "time_embedding_dim", default)
    source = net.named_layer("time_proj", sinusoids)
    unet.time = net.named_layer("time_embedding", width)
    two_layers(net, "time_embedding", source, unet.time, width)
    condition = config.get("time_cond_proj_dim")
    if unet.net.family == "UNet2DConditionModel" and condition is not None:
        guidance = net.named_layer("guidance", sizes.width(config, "time_cond_proj_dim"))
        linear(net, guidance, source, "time_embedding.cond_proj", "conditioning")
    known = [None, "timestep", "identity"]
    if unet.net.family == "UNet2DConditionModel":
        known += ["projection", "simple_projection"]
    kind = sizes.choice(config, "class_embed_type", known, None)
    if kind == "timestep":
        two_layers(net, "class_embedding", net.named_layer("class_proj", sinusoids), unet.time, width)
    elif kind in ("projection", "simple_projection"):
        labels = net.named_layer("class_labels", sizes.width(config, "projection_class_embeddings_input_dim"))
        if kind == "projection":
            two_layers(net, "class_embedding", labels, unet.time, width)
        else:
            linear(net, labels, unet.time, "class_embedding", "conditioning")


def _conditions(unet: UNet, config: Mapping) -> None:
    """What is added to the time embedding (SDXL: sizes and the pooled text)."""
    if sizes.choice(config, "addition_embed_type", (None, "text_time"), None):
        added = unet.net.named_layer("add_text_time", sizes.width(config, "projection_class_embeddings_input_dim"))
        two_layers(unet.net, "add_embedding", added, unet.time, unet.net.size(unet.time))


def _encoder(unet: UNet, config: Mapping, count: int) -> None:
    """What cross attention reads: the encoder's output, as it is or projected."""
    kind = sizes.choice(config, "encoder_hid_dim_type", (None, "text_proj"), None)
    if config.get("cross_attention_dim", 0) is None:
        return
    widths = set(sizes.integers(config, "cross_attention_dim", None, sizes.MAX_WIDTH, 1280))
    if len(widths) > 1:
        raise CheckpointError(
            "unsupported", "config.json: cross_attention_dim differs between levels; one width is supported"
        )
    net = unet.net
    net.part = "encoder"
    unet.encoder = net.named_layer("encoder_hidden_states", widths.pop())
    if kind or config.get("encoder_hid_dim") is not None:
        text = net.named_layer("text", sizes.width(config, "encoder_hid_dim"))
        linear(net, text, unet.encoder, "encoder_hid_proj", "conditioning")


def _depths(config: Mapping, layers: list[int]) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Blocks of the transformer behind each residual block, of the levels down and (in their order) up.

    transformer_layers_per_block is a number, a list of one number a level, or a list of one list a level; in the last case
    reverse_transformer_layers_per_block says as much of the levels up. Raises CheckpointError (corrupt).
    """
    key, up_key = "transformer_layers_per_block", "reverse_transformer_layers_per_block"
    value = config.get(key)
    value = 1 if value is None else value
    up_value = config.get(up_key)
    if up_value is None:
        if isinstance(value, list | tuple) and any(isinstance(entry, list | tuple) for entry in value):
            raise CheckpointError("corrupt", f"config.json: {key} has a list for a level, and then {up_key} is needed")
        up_value = list(reversed(value)) if isinstance(value, list | tuple) else value
    up_layers = [layer + 1 for layer in reversed(layers)]
    return _depths_of(key, value, layers), _depths_of(up_key, up_value, up_layers)


def _depths_of(key: str, value: object, layers: list[int]) -> list[tuple[int, ...]]:
    """What a key says of every level. layers: residual blocks of each. Raises CheckpointError (corrupt)."""
    entries = value if isinstance(value, list | tuple) else [value] * len(layers)
    if len(entries) != len(layers):
        raise CheckpointError("corrupt", f"config.json: {key} has {len(entries)} entries, not {len(layers)}")
    depths = []
    for entry, number in zip(entries, layers, strict=True):
        count = len(entry) if isinstance(entry, list | tuple) else number
        if count < number:
            raise CheckpointError("corrupt", f"config.json: {key} has too few numbers for {number} layers of a level")
        depths.append(tuple(sizes.integers({key: entry}, key, count, MAX_DEPTH)))
    return depths
