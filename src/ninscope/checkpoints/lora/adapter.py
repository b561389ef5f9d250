"""What a LoRA adapter holds (Hu et al. 2022, arXiv:2106.09685), as peft saves it: beside a weight W[out, in] the matrices
A[r, in] and B[out, r] of the update W + scale * B A, and with DoRA (Liu et al. 2024, arXiv:2402.09353) a magnitude m[out].
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ninscope.checkpoints.file_names import ADAPTER_CONFIG
from ninscope.checkpoints.lora.settings import AdapterSettings
from ninscope.checkpoints.tensors import STORED_TYPES, Tensor
from ninscope.errors import CheckpointError

MAX_RANK = 65_536
MAX_DIMENSIONS = 5  # of a 3-D convolution
PREFIX = "base_model.model."  # what peft puts before the names of the model that it wraps
# Before what peft wraps: a copy of the base's own tensor, or a further wrapper of the same module.
_WRAPPED = ".base_layer"
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?:(?P<which>[AB])\.weight|embedding_(?P<table>[AB]))")
_MAGNITUDE = re.compile(r"(?P<module>.+)\.lora_magnitude_vector(?:\.weight)?")


@dataclass(frozen=True)
class Factors:
    """The update of one module's weight, or of one of its parameters.

    module: its name in the base. key: that by which the adapter's settings know it. a: [r, in] or, of a convolution,
    [r, in, *kernel]; b: [out, r], or [out, r, 1, ...]. Of experts that are stored together a and b hold the ranks of all.
    magnitude: of DoRA, out numbers, or None. table: the module is an embedding, whose weight is [in, out].
    """

    module: str
    key: str
    a: Tensor
    b: Tensor
    magnitude: Tensor | None = None
    table: bool = False

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.a, self.b) if self.magnitude is None else (self.a, self.b, self.magnitude)

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def pair(self) -> tuple[int, int]:
        """(out, in)"""
        return self.b.shape[0], self.a.shape[1]


@dataclass(frozen=True)
class Adapter:
    """factors: of every module, in the file's order. whole: by name, tensors that take the place of the base's (modules_to_save).

    copies: by name, what the file holds of the base's own tensors that the factors are of (heads, embeddings).
    """

    settings: AdapterSettings
    factors: tuple[Factors, ...]
    whole: Mapping[str, Tensor]
    copies: Mapping[str, Tensor]


def adapter_of(config: Mapping, tensors: Mapping[str, Tensor]) -> Adapter:
    """The factors of an adapter. config: of adapter_config.json.

    Raises CheckpointError: unsupported (not LORA, or with more than lora_A, lora_B and magnitudes), corrupt (shapes that do not go
    together).
    """
    settings = AdapterSettings(config)
    settings.check_readable()
    parts: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    copies: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        bare = name.removeprefix(PREFIX)
        if (factor := _FACTOR.fullmatch(bare)) is not None:
            parts.setdefault(factor["module"], {})[factor["which"] or f"embedding_{factor['table']}"] = tensor
        elif (magnitude := _MAGNITUDE.fullmatch(bare)) is not None:
            parts.setdefault(magnitude["module"], {})["magnitude"] = tensor
        elif "lora_" in name:
            raise CheckpointError(
                "unsupported",
                f"tensor {name}: only lora_A, lora_B and lora_magnitude_vector of modules and embeddings can be read",
            )
        elif _WRAPPED in bare:
            copies[bare.replace(_WRAPPED, "")] = tensor
        else:
            whole[bare] = tensor
    if not parts:
        raise CheckpointError("unsupported", f"{ADAPTER_CONFIG}: LORA, but no tensor is a lora_A.weight")
    return Adapter(settings, tuple(_factors(module, of) for module, of in parts.items()), whole, copies)


def _factors(module: str, parts: Mapping[str, Tensor]) -> Factors:
    """Raises CheckpointError."""
    table = any(name.startswith("embedding") for name in parts)
    a, b = (parts.get(f"{'embedding_' if table else ''}{which}") for which in "AB")
    if a is None or b is None:
        which = next(iter(parts))
        raise CheckpointError("corrupt", f"{module} has lora_{which}, but not the other of lora_A and lora_B")
    magnitude = parts.get("magnitude")
    for tensor in (a, b, *(() if magnitude is None else (magnitude,))):
        if tensor.dtype not in STORED_TYPES:
            raise CheckpointError(
                "unsupported",
                f"tensor {tensor.name} is of type {tensor.dtype}; only F16, BF16, F32 and F64 can be read",
            )
    _check_shapes(module, a, b, magnitude)
    # The parts of a wrapped module (out_proj of an attention) have its settings.
    return Factors(module.replace(_WRAPPED, ""), module.partition(_WRAPPED)[0], a, b, magnitude, table)


def _check_shapes(module: str, a: Tensor, b: Tensor, magnitude: Tensor | None) -> None:
    """Raises CheckpointError."""
    if len(a.shape) == len(b.shape) > 2 and 0 < b.shape[1] < a.shape[0] and a.shape[0] % b.shape[1] == 0:
        raise CheckpointError(
            "unsupported",
            f"{module} is a convolution in {a.shape[0] // b.shape[1]} groups, whose update peft does not merge",
        )
    fits = MAX_DIMENSIONS >= len(a.shape) == len(b.shape) >= 2 and b.shape[1] == a.shape[0] and set(b.shape[2:]) <= {1}
    if not fits or 0 in (*a.shape, *b.shape):
        raise CheckpointError(
            "corrupt", f"tensor {b.name} of shape {list(b.shape)} does not go with lora_A of shape {list(a.shape)}"
        )
    if a.shape[0] > MAX_RANK:
        raise CheckpointError("unsupported", f"tensor {a.name} is of rank {a.shape[0]}; at most {MAX_RANK} can be read")
    if magnitude is not None and [size for size in magnitude.shape if size != 1] != [b.shape[0]] * (b.shape[0] != 1):
        raise CheckpointError(
            "corrupt", f"tensor {magnitude.name} has shape {list(magnitude.shape)}; {b.shape[0]} numbers were expected"
        )
