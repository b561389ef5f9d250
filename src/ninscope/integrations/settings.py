"""What a monitor is asked for, checked when it is made: a wrong request is told before the training begins, and never later."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ninscope.checkpoints.in_memory.source import is_module
from ninscope.checks import MAX_SEED, checked_integer, did_you_mean
from ninscope.errors import RequestError
from ninscope.parameters import ALL, Parameters

Log = Callable[[dict[str, float], int], object]  # log(values, step)

BLOCK = "block"
MOST_STEPS = 2**53
PARAMETERS = (
    "transfer", "max_distance", "min_degree", "q", "derivative", "convolutions", "wiring", "architecture", "parts", "gauge",
    "fit_radii",
)  # fmt: skip
_ALWAYS = ("every", "log")
_SWITCHES = ("blocks", "controls", "snapshot", "trust_unlike_counts")


@dataclass(frozen=True)
class Settings:
    """folder: of the run that rows are appended to. functions: that values are logged with."""

    every: int
    folder: Path | None
    functions: tuple[Log, ...]
    controls: bool
    snapshot: bool
    trust_unlike_counts: bool
    seed: int
    parameters: Parameters


def checked_settings(
    every: object, log: object, switches: Mapping[str, object], parameters: Mapping[str, Any]
) -> Settings:
    """Raises RequestError."""
    known = [*_ALWAYS, *switches, *PARAMETERS]
    for name in parameters:
        if name not in PARAMETERS:
            raise RequestError(_unknown(name, known))
    for name in _SWITCHES:
        if not isinstance(switches[name], bool):
            raise RequestError(f"{name} is {switches[name]!r}; True or False was expected")
    if hasattr(every, "state_dict"):
        raise RequestError(
            f"every is a {type(every).__name__}; the number of steps between measures was expected: a callback is given the model "
            "by its trainer"
        )
    folder, functions = checked_log(log)
    return Settings(
        checked_integer("every", every, 1, MOST_STEPS),
        folder,
        functions,
        bool(switches["controls"]),
        bool(switches["snapshot"]),
        bool(switches["trust_unlike_counts"]),
        checked_integer("seed", switches["seed"], 0, MAX_SEED),
        _parameters(bool(switches["blocks"]), parameters),
    )


def _parameters(blocks: bool, given: Mapping[str, Any]) -> Parameters:
    """Raises RequestError."""
    chosen = {name: value for name, value in given.items() if value is not None}
    parts = chosen.get("parts", ())
    if blocks and isinstance(parts, list | tuple):
        parts = [*parts, BLOCK]
    return Parameters(**chosen | {"nodes_per_layer": ALL, "parts": parts})


def _unknown(name: str, known: Sequence[str]) -> str:
    if name in Parameters.__dataclass_fields__:
        return f"{name} is no parameter of a monitor, which measures every neuron by its own edges at integer radii; leave it out"
    return f"unknown parameter {name}{did_you_mean(name, known)}; known: {', '.join(known)}"


def checked_log(log: object) -> tuple[Path | None, tuple[Log, ...]]:
    """(the folder, the functions) that `log` names. Raises RequestError."""
    if log is None:
        return None, ()
    several = list(log) if isinstance(log, list | tuple) else [log]
    folders = [_path(item) for item in several if isinstance(item, str | Path)]
    functions = tuple(item for item in several if callable(item))
    for item in several:
        if not isinstance(item, str | Path) and not callable(item):
            raise RequestError(
                f"log is {item!r}; a folder, a function log(values, step), or a list of these was expected"
            )
    if len(folders) > 1:
        raise RequestError(f"log names {len(folders)} folders ({folders[0]}, {folders[1]}); give one")
    return (folders[0] if folders else None), functions


def _path(given: str | Path) -> Path:
    """Raises RequestError."""
    try:
        path = Path(given).expanduser()
    except RuntimeError:  # an unknown user's home
        path = Path()
    if path == Path() or "\0" in str(path):
        raise RequestError(f"log is {str(given)!r}; name a folder for this run, such as runs/mine")
    return path


def checked_model(model: object) -> None:
    """Raises RequestError: neither a module nor a state dict."""
    if not is_module(model) and not isinstance(model, Mapping):
        raise RequestError(
            f"an object of type {type(model).__name__} is no model; give a torch module, or a state dict"
        )


def name_of_model(model: object) -> str:
    """Its class, whatever wraps it: the same whether it is compiled, sharded or neither."""
    if isinstance(model, Mapping):
        return "state-dict"
    inside = getattr(model, "_modules", {})
    for wrapper in ("_orig_mod", "module"):
        if list(inside) == [wrapper]:
            return name_of_model(inside[wrapper])
    return next(kind.__name__ for kind in type(model).__mro__ if not kind.__module__.startswith("torch.distributed."))


def with_default_folder(settings: Settings, folder: Path | None) -> Settings:
    """The same with the folder that a trainer's own settings lead to."""
    return replace(settings, folder=folder)
