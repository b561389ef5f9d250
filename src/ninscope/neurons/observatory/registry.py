"""All measures of neurons. Each is one file of `measures/`, with the decorator `register` on its class."""

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType
from typing import TypeVar

from ninscope.checks import did_you_mean
from ninscope.errors import RequestError
from ninscope.neurons.observatory import measures as folder
from ninscope.neurons.observatory.measure import Measure

_MEASURES: dict[str, Measure] = {}
M = TypeVar("M", bound=type[Measure])


def register(measure: M) -> M:
    """A class decorator. Raises ValueError: a name that is taken, or facts of which the first is not called as the measure."""
    if measure.name in _MEASURES or next(iter(measure.facts), None) != measure.name:
        raise ValueError(f"{measure.__name__}: the name {measure.name!r} is taken, or is not that of its first fact")
    _MEASURES[measure.name] = measure()
    return measure


@cache
def _load() -> None:
    for module in sorted(found.name for found in iter_modules(folder.__path__)):
        import_module(f"{folder.__name__}.{module}")


def measures() -> MappingProxyType[str, Measure]:
    """Every measure by its name, in the order of names. Needs no torch."""
    _load()
    return MappingProxyType(dict(sorted(_MEASURES.items())))


def chosen(names: str | Sequence[str]) -> tuple[Measure, ...]:
    """Measures of these names, each once, in the order of names; "all" for all there are. Raises RequestError: no such measure."""
    known = measures()
    listed = list(known) if names == "all" else [names] if isinstance(names, str) else list(names)
    if not listed:
        raise RequestError(f'no measure is named; give some of {", ".join(known)}, or "all"')
    for name in listed:
        if name not in known:
            near = did_you_mean(str(name), known) or f"; the measures are {', '.join(known)}"
            raise RequestError(f"measure {name!r} is not known{near}")
    return tuple(known[name] for name in known if name in listed)
