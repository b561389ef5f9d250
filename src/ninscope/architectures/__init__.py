"""Which matrices join which node layers, from a checkpoint's config.json: one small module a model family."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from ninscope.architectures import described, generic, lora
from ninscope.architectures.described import Description
from ninscope.architectures.families import FAMILIES, PARALLEL, SPELLED
from ninscope.architectures.layout import CONVOLUTIONS, Architecture
from ninscope.architectures.quantised import check_plain
from ninscope.checkpoints.index_format import ADAPTER_CONFIG
from ninscope.checkpoints.tensors import Tensor
from ninscope.errors import CheckpointError, RequestError

WIRINGS = ("chain", "parallel")


@dataclass(frozen=True)
class Reading:
    """How a checkpoint's tensors become a network, as far as the user chooses.

    convolutions: "norm", a kernel is one edge whose weight is the kernel's Euclidean norm, or "per_tap", an edge for each of its
    weights. wiring: "chain", the paper's, or "parallel", GPT-NeoX's true one, in which MLP and attention both read x.
    description: instead of what config.json says.
    """

    convolutions: str = "norm"
    wiring: str = "chain"
    description: Description | None = None

    @property
    def key(self) -> str:
        """The same for equal ways of reading, another for others."""
        return json.dumps(asdict(self), sort_keys=True)

    def checked(self) -> "Reading":
        """Itself. Raises RequestError."""
        for name, known in (("convolutions", CONVOLUTIONS), ("wiring", WIRINGS)):
            if getattr(self, name) not in known:
                raise RequestError(f"{name} is {getattr(self, name)!r}; one of {', '.join(known)}")
        if self.description is not None and self.wiring != "chain":
            raise RequestError(
                f"wiring {self.wiring} is of a family; leave it out where [architecture] says the wiring"
            )
        return self


DEFAULT_READING = Reading()


def architecture_of(
    config: Mapping, tensors: Mapping[str, Tensor] | None = None, reading: Reading = DEFAULT_READING
) -> Architecture:
    """The architecture that a config.json, or the user, describes; of an unknown model what its tensors tell.

    tensors: those of the checkpoint; without them an unknown model is unsupported.
    Raises CheckpointError: unsupported (quantised weights, nothing to read, a wiring that the family has not), corrupt (sizes
    that make no sense).
    """
    check_plain(config, tensors or {})
    if ADAPTER_CONFIG in config:
        if reading.wiring != "chain" or reading.description is not None:
            raise CheckpointError(
                "unsupported", "an adapter alone has no wiring but its own; name its base to merge it"
            )
        return lora.architecture(config[ADAPTER_CONFIG], tensors).with_convolutions(reading.convolutions)
    family = config.get("model_type")
    family = config.get("_class_name") if family is None else family
    known = isinstance(family, str) and family in FAMILIES
    if reading.description is not None and tensors is not None and not (known and reading.description.unknown_only):
        return described.architecture(reading.description, tensors).with_convolutions(reading.convolutions)
    if known:
        families = _wired_so(family, reading)
        named = {"names": tensors} if family in SPELLED and tensors else {}
        return families[family](config, **named).with_convolutions(reading.convolutions)
    if tensors is None or not isinstance(family, str):
        raise CheckpointError(
            "unsupported",
            f"config.json: model_type {family!r} is not supported; supported: {', '.join(sorted(FAMILIES))}",
        )
    _wired_so(family, reading)
    why = f"model_type {family!r} is no known family"
    return generic.architecture(tensors, why).with_convolutions(reading.convolutions)


def _wired_so(family: str, reading: Reading) -> Mapping[str, Callable[..., Architecture]]:
    """The families that have the wiring which is asked for. Raises CheckpointError where this one, or an unknown one, has not."""
    families = PARALLEL if reading.wiring == "parallel" else FAMILIES
    if reading.wiring != "chain" and family not in families:
        raise CheckpointError(
            "unsupported",
            f"{family} has no wiring {reading.wiring}, only {', '.join(sorted(families))}; leave wiring out",
        )
    return families


def unlike(families: Mapping[str, Mapping[str, str]]) -> dict[str, CheckpointError]:
    """Revisions of one model that cannot be compared with the others, by name, each with its error (unsupported): those of an
    unknown type beside revisions of a known family. families: by revision, of each way in which it is read, family and note.
    """
    known = sorted({family for of_revision in families.values() for family in of_revision} - {generic.FAMILY})
    return {
        revision: CheckpointError(
            "unsupported",
            f"{of_revision[generic.FAMILY].split(';')[0]} and its siblings are of {known[0]}: read as generic, it could not be "
            "compared with them",
        )
        for revision, of_revision in families.items()
        if known and generic.FAMILY in of_revision
    }
