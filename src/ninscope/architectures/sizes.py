"""Sizes out of a config.json, which a stranger wrote: checked before anything is made of them."""

from collections.abc import Collection, Mapping

from ninscope.architectures.layout import positive_integer
from ninscope.errors import CheckpointError

MAX_BLOCKS = 10_000
MAX_WIDTH = 10_000_000
MAX_STAGES = 100
MAX_KERNEL = 10_000


def model_type(config: Mapping, known: Collection[str]) -> str:
    """Which of a module's families this is. Raises CheckpointError (unsupported)."""
    value = config.get("model_type")
    if not isinstance(value, str) or value not in known:
        raise CheckpointError(
            "unsupported", f"config.json: model_type is {value!r}; one of {', '.join(known)} was expected"
        )
    return value


def block_count(config: Mapping, key: str = "num_hidden_layers") -> int:
    return positive_integer(config, key, MAX_BLOCKS)


def width(config: Mapping, key: str = "hidden_size", default: int | None = None) -> int:
    """How many neurons (or heads, or channels) a key says. Raises CheckpointError (corrupt)."""
    return positive_integer(config, key, MAX_WIDTH, default)


def stages(config: Mapping, key: str, limit: int) -> list[int]:
    """config[key] as a list of 1 to MAX_STAGES integers in 1..limit. Raises CheckpointError (corrupt)."""
    values = config.get(key)
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_STAGES:
        raise CheckpointError("corrupt", f"config.json: {key} is {values!r}; a list was expected, one integer a stage")
    return [positive_integer({f"{key}[{n}]": value}, f"{key}[{n}]", limit) for n, value in enumerate(values)]


def depths(config: Mapping) -> list[int]:
    """Blocks of every stage. Raises CheckpointError (corrupt)."""
    values = stages(config, "depths", MAX_BLOCKS)
    if sum(values) > MAX_BLOCKS:
        raise CheckpointError("corrupt", f"config.json: depths {values}; at most {MAX_BLOCKS} in all were expected")
    return values


def pair(config: Mapping, key: str, default: int) -> tuple[int, int]:
    """config[key], one integer or two, as (height, width) of a kernel. Raises CheckpointError (corrupt)."""
    value = config.get(key)
    if isinstance(value, list) and len(value) == 2:
        first, second = stages(config, key, MAX_KERNEL)
        return first, second
    both = positive_integer(config, key, MAX_KERNEL, default)
    return both, both


def multiple(value: int, name: str, divisor: int, divisor_name: str) -> int:
    """value / divisor. Raises CheckpointError (corrupt) where something is left."""
    if value % divisor:
        raise CheckpointError("corrupt", f"config.json: {name} {value} is no multiple of {divisor_name} {divisor}")
    return value // divisor


def refuse_cross_attention(config: Mapping) -> None:
    """Raises CheckpointError (unsupported) where blocks also read another model's output."""
    if config.get("add_cross_attention"):
        raise CheckpointError(
            "unsupported",
            "config.json: add_cross_attention is set; blocks that also read another model's output are not supported",
        )
