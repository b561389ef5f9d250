"""The known families. A module of `families/` registers the functions that know a family's wiring; nothing else lists them."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

from ninscope.architectures.layout import Architecture

CHAIN = "chain"  # the wiring that every family has: NeuroMFA's, in which one node layer follows the other


@dataclass(frozen=True)
class Wiring:
    """One way to wire a family's models. function: of the configuration and, with needs_names, of the file's tensor names."""

    function: Callable[..., Architecture]
    needs_names: bool = False

    def architecture(self, config: Mapping, names: Collection[str] = ()) -> Architecture:
        """names: the file's tensors; () where they are not known. Raises CheckpointError (corrupt, unsupported)."""
        return self.function(config, names) if self.needs_names else self.function(config)


# By `model_type` (transformers, and models of this package) or `_class_name` (diffusers), then by the wiring's name.
FAMILIES: dict[str, dict[str, Wiring]] = {}
# Models that are known and not read: what they are, and what to do.
REFUSED: dict[str, str] = {}

_Function = TypeVar("_Function", bound=Callable[..., Architecture])


def register(*families: str, wiring: str = CHAIN, needs_names: bool = False) -> Callable[[_Function], _Function]:
    """A decorator: the function gives the architecture of these families' models from their config.json.

    families: values of `model_type` or `_class_name`. wiring: which wiring the function gives. needs_names: files name the
    same tensors in several ways, so the function takes the names of a file's tensors as its second argument.
    Raises ValueError where another function is registered for that family and wiring.
    """

    def add(function: _Function) -> _Function:
        for family in families:
            wirings = FAMILIES.setdefault(family, {})
            if wiring in wirings:
                raise ValueError(f"the wiring {wiring!r} of {family} is registered twice")
            wirings[wiring] = Wiring(function, needs_names)
        return function

    return add


def refuse(family: str, why: str) -> None:
    """Have a `model_type` or `_class_name` refused that would be read as generic. why: what it is, and what to do."""
    REFUSED[family] = why


def wiring_names() -> list[str]:
    """The wirings that at least one family has."""
    return sorted({wiring for wirings in FAMILIES.values() for wiring in wirings})


def families_wired(wiring: str) -> list[str]:
    """The families that have this wiring."""
    return sorted(family for family, wirings in FAMILIES.items() if wiring in wirings)
