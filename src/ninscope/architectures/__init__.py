"""Which matrices join which node layers, from a checkpoint's config.json. Each family is a module of `families/`."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

from ninscope.architectures import described, families, generic, lora
from ninscope.architectures.described import Description
from ninscope.architectures.gauge import FIXED, GAUGES, STORED
from ninscope.architectures.layout import CONVOLUTIONS, Architecture
from ninscope.architectures.quantised import check_plain
from ninscope.architectures.registry import (
    CHAIN,
    FAMILIES,
    REFUSED,
    WITH_GAUGE,
    WRAPPERS,
    Wiring,
    families_wired,
    family_of,
    wiring_names,
)
from ninscope.checkpoints.file_names import ADAPTER_CONFIG, LITGPT_NAME
from ninscope.checkpoints.tensors import Tensor
from ninscope.checkpoints.wrapped_names import outer_prefixes, unwrapped
from ninscope.errors import CheckpointError, RequestError, one_line

families.load()


@dataclass(frozen=True)
class Reading:
    """How a checkpoint's tensors become a network, as far as the user chooses.

    convolutions: "norm", a kernel is one edge whose weight is the kernel's Euclidean norm, or "per_tap", each of its weights is
    an edge. wiring: "chain", NeuroMFA's, or "parallel", what GPT-NeoX does: MLP and attention both read x. description: what the
    user says of the model (default: config.json says it). gauge: "stored", weights as they are, or "fixed", one choice of all that
    have the same function (networks.fixed_gauge).

    Raises RequestError for an unknown value, and for a wiring beside a description.
    """

    convolutions: str = "norm"
    wiring: str = CHAIN
    description: Description | None = None
    gauge: str = STORED

    def __post_init__(self) -> None:
        for name, known in (("convolutions", CONVOLUTIONS), ("wiring", wiring_names()), ("gauge", GAUGES)):
            if getattr(self, name) not in known:
                raise RequestError(f"{name} is {getattr(self, name)!r}; one of {', '.join(known)} was expected")
        if self.description is not None and self.wiring != CHAIN:
            raise RequestError(
                f"wiring {self.wiring!r} needs a model of a known family; leave it out where [architecture] describes the model"
            )

    @property
    def key(self) -> str:
        """A text that is the same for equal readings and differs for others."""
        described = asdict(self)
        if self.gauge == STORED:
            del described["gauge"]  # what was stored before there was this choice keeps its key
        return json.dumps(described, sort_keys=True)


DEFAULT_READING = Reading()


def architecture_of(
    config: Mapping, tensors: Mapping[str, Tensor] | None = None, reading: Reading = DEFAULT_READING
) -> Architecture:
    """The architecture that a config.json, or the user, describes; for an unknown model, what its tensors tell.

    tensors: the checkpoint's (default: not known, and then a model of no known family is unsupported).
    Raises CheckpointError: unsupported (quantised weights, nothing to read, a wiring that the family does not have, a
    gauge that is not known), corrupt (sizes that make no sense).
    """
    note = check_plain(config, tensors)
    architecture = _as_stored(config, tensors, reading).with_convolutions(reading.convolutions)
    if reading.gauge == FIXED:
        _check_gauge(architecture)
        architecture = replace(architecture, gauge_fixed=True)
    return replace(architecture, note=", ".join(filter(None, (architecture.note, note)))) if note else architecture


def _check_gauge(architecture: Architecture) -> None:
    """Raises CheckpointError (unsupported) where it is not known which rescalings leave the model's function as it is."""
    if architecture.gauge is not None:
        return
    if architecture.family in WITH_GAUGE:
        which = f"this {architecture.family} has a part beside those that are known of its family"
    else:
        which = f"of {architecture.family} that is not known (but of {', '.join(sorted(WITH_GAUGE))})"
    raise CheckpointError(
        "unsupported",
        f"gauge 'fixed' needs to know which rescalings leave a model's function as it is; {which}; leave gauge out",
    )


def implied_wiring(config: Mapping) -> str:
    """The digest of the wiring that a config.json implies by itself; empty where that takes the tensors, or makes no sense.

    Two configurations that differ in how they are written imply the same wiring where what one leaves out is the default.
    """
    try:
        return _implied_wiring(json.dumps(config, sort_keys=True))
    except (TypeError, ValueError, RecursionError):
        return ""


@lru_cache(256)
def _implied_wiring(config: str) -> str:
    """Revisions of one model mostly have the same config.json."""
    try:
        return architecture_of(json.loads(config)).digest
    except CheckpointError:
        return ""


def _as_stored(config: Mapping, tensors: Mapping[str, Tensor] | None, reading: Reading) -> Architecture:
    description = reading.description
    if ADAPTER_CONFIG in config:
        if reading.wiring != CHAIN or description is not None:
            raise CheckpointError(
                "unsupported",
                "an adapter alone has a wiring of its own; leave wiring and [architecture] out, or give its base",
            )
        return lora.architecture(config[ADAPTER_CONFIG], tensors)
    family = family_of(config)
    wirings = FAMILIES.get(family) if isinstance(family, str) else None
    if description is not None and tensors is not None and not (wirings and description.unknown_only):
        return described.architecture(description, described.fitting_names(description, tensors))
    if isinstance(family, str) and family in REFUSED:
        raise CheckpointError("unsupported", REFUSED[family])
    if wirings is None and (tensors is None or not isinstance(family, str | None)):
        raise CheckpointError(
            "unsupported",
            f"config.json: model_type {family!r} is not supported; docs/architectures.md lists the {len(FAMILIES)} families that "
            "are, and [architecture] describes others",
        )
    if reading.wiring not in (wirings or {CHAIN}):
        raise CheckpointError(
            "unsupported",
            f"{family} has no wiring {reading.wiring!r}, only {', '.join(families_wired(reading.wiring))}; leave wiring out",
        )
    if wirings is not None and (not tensors or wirings[CHAIN].may_have(tensors)):
        return _of_family(wirings[reading.wiring], config, unwrapped(tensors or {}))
    return generic.architecture(tensors or {}, _why_generic(config), config)


def _why_generic(config: Mapping) -> str:
    """One clause that says why a model is not read as its own family."""
    known, named = family_of(config), config.get("architecture")
    if isinstance(known, str) and known in FAMILIES and isinstance(named, str):
        return f"config.json names timm's {one_line(named)!r}, and no tensor is named as timm names them"
    family = next((name for key in ("model_type", "_class_name") if (name := config.get(key)) is not None), None)
    family = known if isinstance(family, str) and family in WRAPPERS else family
    if family is not None:
        return f"model_type {one_line(str(family))!r} is not a known family"
    if LITGPT_NAME in config:
        return f"config.json does not apply to {LITGPT_NAME}, whose tensors litgpt names in its own way"
    if not config:
        return "there is no configuration with a model_type"
    return "config.json has no model_type" + (f" (architecture {one_line(named)!r})" if isinstance(named, str) else "")


def _of_family(wiring: Wiring, config: Mapping, tensors: Mapping[str, Tensor]) -> Architecture:
    """A family's architecture, with what stands before the names of its tensors in a trainer's file. Raises CheckpointError."""
    plain = _at(wiring, config, tensors, "")
    if isinstance(plain, Architecture) and (not tensors or plain.prefix_in(tensors) is not None):
        return plain
    placed: dict[str, Architecture] = {}  # by what stands before
    for outer in outer_prefixes(tensors):
        inner = {name.removeprefix(outer): tensor for name, tensor in tensors.items() if name.startswith(outer)}
        wired = None if outer.startswith(tuple(placed)) else _at(wiring, config, inner, outer)
        if isinstance(wired, Architecture) and wired.prefix_in(tensors) is not None:
            placed[outer] = wired
    if len(placed) > 1:
        family = next(iter(placed.values())).family
        raise CheckpointError(
            "unsupported",
            f"tensors of a {family} are there {len(placed)} times, under {', '.join(placed)}; save the one that is meant by "
            "itself",
        )
    wired = next(iter(placed.values()), plain)
    if isinstance(wired, CheckpointError):
        raise wired
    return wired


def _at(wiring: Wiring, config: Mapping, tensors: Mapping[str, Tensor], outer: str) -> Architecture | CheckpointError:
    """The architecture where `outer` stands before the names of these tensors, or why it cannot be that."""
    try:
        architecture = wiring.architecture(config, tensors)
    except CheckpointError as error:
        return error
    return (
        replace(architecture, prefixes=tuple(outer + prefix for prefix in architecture.prefixes))
        if outer
        else architecture
    )


def unlike(notes: Mapping[str, Mapping[str, str]]) -> dict[str, CheckpointError]:
    """Revisions that cannot be compared with the other revisions of their model, each with its error (unsupported).

    They are those of an unknown type beside revisions of a known family. notes: by revision, the note of each way in which the
    revision is read, by its family.
    """
    known = sorted({family for note_by_family in notes.values() for family in note_by_family} - {generic.FAMILY})
    return {
        revision: CheckpointError(
            "unsupported",
            f"{note_by_family[generic.FAMILY].split(';')[0]}, but its siblings are {known[0]}: read as generic, it could not be "
            "compared with them",
        )
        for revision, note_by_family in notes.items()
        if known and generic.FAMILY in note_by_family
    }
