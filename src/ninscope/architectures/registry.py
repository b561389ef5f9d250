"""The known families. A module of `families/` registers the functions that know a family's wiring; nothing else lists them."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from ninscope.architectures.layout import Architecture
from ninscope.errors import CheckpointError

CHAIN = "chain"  # the wiring that every family has: NeuroMFA's, in which one node layer follows the other


@dataclass(frozen=True)
class Wiring:
    """One way to wire a family's models.

    function: of the configuration and, with needs_names, of the file's tensor names, or, with needs_tensors, of its tensors by
    name. mark: a pattern that ends the name of some tensor of every model of the family ("": not asked).
    """

    function: Callable[..., Architecture]
    needs_names: bool = False
    needs_tensors: bool = False
    mark: str = ""

    def may_have(self, names: Collection[str]) -> bool:
        """Whether these may be names of the family's tensors, whatever stands before them."""
        return not self.mark or any(re.search(rf"(^|\.){self.mark}$", name) for name in names)

    def architecture(self, config: Mapping, names: Collection[str] = ()) -> Architecture:
        """names: the file's tensors; () where they are not known. Raises CheckpointError (corrupt, unsupported)."""
        if not self.needs_tensors:
            return self.function(config, names) if self.needs_names else self.function(config)
        if not names or not isinstance(names, Mapping):
            raise CheckpointError("unsupported", "its sizes follow from its tensors, which are not known here")
        return self.function(config, names)


# By `model_type` (transformers, and models of this package), `_class_name` (diffusers) or what `family_of` makes of
# `architecture` (timm), then by the wiring's name.
FAMILIES: dict[str, dict[str, Wiring]] = {}
# The families of which a module says all that is known of a model's function beside its wiring (`gauge`).
WITH_GAUGE: set[str] = set()
# Models that are known and not read: what they are, and what to do.
REFUSED: dict[str, str] = {}

# Models of text and images (or sound), whose text model is read: by `model_type`, the family of the text model that
# text_config means where it names none.
WRAPPERS: dict[str, str] = {}
# What stands before the names of the text model's tensors, in files of the Hub and of any version of transformers.
_TEXT_PREFIXES = ("language_model.model.", "model.language_model.", "model.language_model.model.", "language_model.")

_Function = TypeVar("_Function", bound=Callable[..., Architecture])


def family_of(config: Mapping) -> object:
    """What config.json calls the model, which need not be a family that is known, nor a text.

    timm's `architecture` is a model's name: vit_tiny_patch16_224 is of timm_vit, resnet50d of timm_resnet, swinv2_tiny_window8_256
    of none that is known.
    """
    family = config.get("model_type")
    if isinstance(family, str) and family in WRAPPERS and (unknown := _unknown_text(config)):
        return f"{family} over {unknown}"
    family = config.get("_class_name") if family is None else family
    named = config.get("architecture")
    if family is None and isinstance(named, str):
        letters = re.match(r"[a-z]*", named.split("_")[0])
        return f"timm_{letters[0]}" if letters and f"timm_{letters[0]}" in FAMILIES else named
    return family


def register(
    *families: str,
    wiring: str = CHAIN,
    needs_names: bool = False,
    needs_tensors: bool = False,
    mark: str = "",
    gauge: bool = False,
) -> Callable[[_Function], _Function]:
    """A decorator: the function gives the architecture of these families' models from their config.json.

    families: values of `model_type` or `_class_name`. wiring: which wiring the function gives. needs_names: files name the
    same tensors in several ways, so the function takes the names of a file's tensors as its second argument. needs_tensors:
    configurations do not say the sizes, so the function takes the tensors by name. mark: as in `Wiring`; a file without such a
    tensor is read as generic, since its configuration gives only a name. gauge: what the function declares of these models is
    true of them and is all; without it it does not count, for a family that is built like another need not work like it.
    Raises ValueError where another function is registered for that family and wiring.
    """

    def add(function: _Function) -> _Function:
        WITH_GAUGE.update(families if gauge else ())
        for family in families:
            wirings = FAMILIES.setdefault(family, {})
            if wiring in wirings:
                raise ValueError(f"the wiring {wiring!r} of {family} is registered twice")
            wirings[wiring] = Wiring(function, needs_names, needs_tensors, mark)
        return function

    return add


def register_wrapper(model_type: str, text: str, missing: Mapping | None = None) -> None:
    """Have the text model of a model of text and images read by the family that text_config names; the rest is left out.

    text: the family where it names none. missing: sizes of that family that text_config may leave out.
    """

    def architecture(config: Mapping) -> Architecture:
        inner = config.get("text_config")
        if not isinstance(inner, Mapping):
            raise CheckpointError(
                "corrupt", f"config.json: text_config is {inner!r}; the text model's settings were expected"
            )
        family = inner.get("model_type", text)
        settings = {**((missing or {}) if family == text else {}), **inner, "model_type": family}
        found = FAMILIES[family][CHAIN].architecture(settings)
        note = ", ".join(filter(None, (found.note, "left out: all but the text model")))
        return replace(found, family=model_type, prefixes=_TEXT_PREFIXES, note=note)

    register(model_type)(architecture)
    WRAPPERS[model_type] = text


def _unknown_text(config: Mapping) -> str:
    """The family of a wrapped text model that is none that is known by its settings alone; empty where it is one."""
    inner = config.get("text_config")
    family = inner.get("model_type", WRAPPERS[config["model_type"]]) if isinstance(inner, Mapping) else None
    if family is None:
        return ""  # which is said where it is read
    wirings = FAMILIES.get(family) if isinstance(family, str) and family not in WRAPPERS else None
    return "" if wirings and not (wirings[CHAIN].needs_names or wirings[CHAIN].needs_tensors) else str(family)


def refuse(family: str, why: str) -> None:
    """Have a `model_type` or `_class_name` refused that would be read as generic. why: what it is, and what to do."""
    REFUSED[family] = why


def wiring_names() -> list[str]:
    """The wirings that at least one family has."""
    return sorted({wiring for wirings in FAMILIES.values() for wiring in wirings})


def families_wired(wiring: str) -> list[str]:
    """The families that have this wiring."""
    return sorted(family for family, wirings in FAMILIES.items() if wiring in wirings)
