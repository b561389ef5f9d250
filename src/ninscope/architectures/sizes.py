"""Sizes and options out of a config.json, which a stranger wrote: each is checked before anything is made of it."""

from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

from ninscope.errors import CheckpointError

MAX_BLOCKS = 10_000
MAX_WIDTH = 10_000_000
MAX_STAGES = 100
MAX_KERNEL = 10_000
MAX_LIST = 1_000
MAX_RATIO = 1000

Option = TypeVar("Option", bound=str | bool | None)


def positive_integer(config: Mapping, key: str, limit: int, default: int | None = None) -> int:
    """config[key], an integer from 1 to `limit`. default: where the key is absent or null (default: refused).

    Raises CheckpointError (corrupt).
    """
    value = config.get(key)
    if value is None and default is not None:
        return default
    if type(value) is not int or not 1 <= value <= limit:
        raise CheckpointError("corrupt", f"config.json: {key} is {value!r}; an integer from 1 to {limit} was expected")
    return value


def block_count(config: Mapping, key: str = "num_hidden_layers") -> int:
    """The number of blocks. Raises CheckpointError (corrupt)."""
    return positive_integer(config, key, MAX_BLOCKS)


def width(config: Mapping, key: str = "hidden_size", default: int | None = None) -> int:
    """The number of neurons, heads or channels that a key gives. Raises CheckpointError (corrupt)."""
    return positive_integer(config, key, MAX_WIDTH, default)


def stages(config: Mapping, key: str, limit: int) -> list[int]:
    """config[key], a list of 1 to MAX_STAGES integers from 1 to `limit`. Raises CheckpointError (corrupt)."""
    values = config.get(key)
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_STAGES:
        raise CheckpointError(
            "corrupt", f"config.json: {key} is {values!r}; a list of integers was expected, one for each stage"
        )
    return [positive_integer({f"{key}[{n}]": value}, f"{key}[{n}]", limit) for n, value in enumerate(values)]


def depths(config: Mapping) -> list[int]:
    """The number of blocks of every stage. Raises CheckpointError (corrupt)."""
    values = stages(config, "depths", MAX_BLOCKS)
    if sum(values) > MAX_BLOCKS:
        raise CheckpointError(
            "corrupt", f"config.json: depths is {values}; at most {MAX_BLOCKS} blocks in all were expected"
        )
    return values


def integers(
    config: Mapping, key: str, count: int | None, limit: int, default: int | Sequence[int] | None = None
) -> list[int]:
    """config[key], a list of `count` integers from 1 to `limit`, or one integer that stands for each of them.

    count: None for a list of any length up to MAX_LIST. default: where the key is absent or null (default: refused).
    Raises CheckpointError (corrupt).
    """
    value = config.get(key)
    value = default if value is None else value
    values = value if isinstance(value, list | tuple) else [value] * (count or 1)
    if not 1 <= len(values) <= MAX_LIST or (count is not None and len(values) != count):
        expected = str(count) if count else f"1 to {MAX_LIST}"
        raise CheckpointError("corrupt", f"config.json: {key} has {len(values)} entries; {expected} were expected")
    return [positive_integer({key: entry}, key, limit) for entry in values]


def pair(config: Mapping, key: str, default: int) -> tuple[int, int]:
    """config[key], one integer or two, as (height, width) of a kernel. Raises CheckpointError (corrupt)."""
    value = config.get(key)
    if isinstance(value, list) and len(value) == 2:
        first, second = stages(config, key, MAX_KERNEL)
        return first, second
    both = positive_integer(config, key, MAX_KERNEL, default)
    return both, both


def multiple(value: int, name: str, divisor: int, divisor_name: str) -> int:
    """value / divisor. Raises CheckpointError (corrupt) where the division leaves a rest."""
    if value % divisor:
        raise CheckpointError("corrupt", f"config.json: {name} {value} is not a multiple of {divisor_name} {divisor}")
    return value // divisor


def ratio(config: Mapping, key: str, default: float, width: int) -> float:
    """config[key], a number by which `width` neurons are multiplied, so that one is left at least.

    Raises CheckpointError (corrupt).
    """
    value = config.get(key, default)
    if type(value) not in (int, float) or not 1 / width <= value <= MAX_RATIO:
        raise CheckpointError("corrupt", f"config.json: {key} is {value!r}; a number up to {MAX_RATIO} was expected")
    return float(value)


def choice(config: Mapping, key: str, known: Sequence[Option], default: Option) -> Option:
    """config[key] (default: `default`), which must be one of `known`. Raises CheckpointError (unsupported)."""
    value = config.get(key, default)
    for option in known:
        if value is option or (type(value) is type(option) and value == option):
            return option
    supported = [repr(option) for option in known if option is not None]
    only = f"supported: {', '.join([*supported, 'null'][: len(known)])}" if supported else "only models without it are"
    raise CheckpointError("unsupported", f"config.json: {key} {value!r} is not supported; {only}")


def flag(config: Mapping, key: str, default: bool = False) -> bool:
    """config[key], true or false. Raises CheckpointError (corrupt)."""
    value = config.get(key, default)
    if type(value) is not bool:
        raise CheckpointError("corrupt", f"config.json: {key} is {value!r}; true or false was expected")
    return value


def model_type(config: Mapping, known: Collection[str]) -> str:
    """Which of a module's families the model is of. Raises CheckpointError (unsupported)."""
    value = config.get("model_type")
    if not isinstance(value, str) or value not in known:
        raise CheckpointError(
            "unsupported", f"config.json: model_type is {value!r}; one of {', '.join(known)} was expected"
        )
    return value


def saved_as(config: Mapping, classes: Collection[str]) -> bool:
    """Whether the file holds a model of one of these classes, of several that share a configuration (`architectures`)."""
    names = config.get("architectures")
    return isinstance(names, list) and any(name in classes for name in names[:1] if isinstance(name, str))


def section(config: Mapping, key: str) -> dict[str, object]:
    """config[key], the configuration of a part of the model, with "key." before its keys, so that errors name them whole.

    Raises CheckpointError (corrupt).
    """
    values = config.get(key)
    if not isinstance(values, Mapping):
        raise CheckpointError("corrupt", f"config.json: {key} is {values!r}; the configuration of a part was expected")
    return {f"{key}.{name}": value for name, value in values.items()}


def refuse_cross_attention(config: Mapping) -> None:
    """Raises CheckpointError (unsupported) where blocks also read another model's output."""
    if config.get("add_cross_attention"):
        raise CheckpointError(
            "unsupported",
            "config.json: add_cross_attention is set; blocks that also read another model's output are not supported",
        )
