"""A model that lies in memory as a source with one revision: a torch module, or a state dict of tensors or arrays.

torch is not imported here: who holds a module has done so. Nothing is copied before it is read, one tensor at a time, so that a
model on an accelerator is measured where it stands.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ninscope.checkpoints.formats.weight_file import TensorEntry
from ninscope.checkpoints.identity import FileIdentity, Identity, shape_of
from ninscope.checkpoints.tensors import Checkpoint, Tensor
from ninscope.errors import CheckpointError, RequestError

REVISION = "in memory"
_TYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}


class _HeldTensor:
    """The bytes of one tensor, as a file of weights."""

    reads_are_free = False  # of a sample, only the rows that it needs
    is_in_memory = True

    def __init__(self, name: str, tensor: Any):
        self.name, self._tensor = name, tensor
        self.shape = tuple(int(size) for size in tensor.shape)
        stored = str(tensor.dtype).removeprefix("torch.")
        self.dtype = _TYPES.get(stored, stored)
        items = int(np.prod(self.shape, dtype=object))
        self.size = items * int(getattr(tensor, "itemsize", 1))

    def entry(self) -> TensorEntry:
        return TensorEntry(self.name, self.dtype, self.shape, 0, self.size)

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Raises CheckpointError: unsupported (a tensor without values, as of a model that is sharded or not made yet)."""
        try:
            content = np.ascontiguousarray(self._array()).view(np.uint8).data
        except (RuntimeError, NotImplementedError, TypeError) as error:
            raise CheckpointError(
                "unsupported",
                f"tensor {self.name}: its values cannot be had here ({type(error).__name__}); gather the model first",
            ) from None
        return [content[start:stop] for start, stop in ranges]

    def _array(self) -> np.ndarray:
        if isinstance(self._tensor, np.ndarray):
            return self._tensor.astype(self._tensor.dtype.newbyteorder("<"), copy=False).reshape(-1)
        held = self._tensor.detach().cpu().contiguous().reshape(-1)
        return held.view(sys.modules["torch"].uint16).numpy() if self.dtype == "BF16" else held.numpy()

    def start_ranges(self, ranges: Sequence[tuple[int, int]]) -> Callable[[], list[memoryview]]:
        ranges = list(ranges)
        return lambda: self.read_ranges(ranges)

    def spans(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        return list(ranges)


@dataclass(frozen=True)
class InMemorySource:
    """label: the model's class. configuration: as config.json has it. held: its tensors by name."""

    kind = "local"

    label: str
    configuration: dict[str, Any]
    held: Mapping[str, _HeldTensor]

    def __repr__(self) -> str:
        return f"<model in memory: {self.label}, {len(self.held)} tensors>"

    def revisions(self) -> list[str]:
        return [REVISION]

    def names(self) -> list[str]:
        return [REVISION]

    def step_of(self, revision: str) -> int | None:
        return None

    def models_of(self, revision: str) -> tuple[str, ...]:
        """Not known: where a model lies in memory says nothing, and one that trains is compared with itself."""
        return ()

    def config(self, revision: str) -> dict[str, Any]:
        return self.configuration

    def identify(
        self, revision: str, known: Mapping[str, FileIdentity] | None = None, thorough: bool = True
    ) -> Identity:
        """Raises CheckpointError (missing)."""
        self._check(revision)
        digest = hashlib.sha256(json.dumps(self.configuration, sort_keys=True, default=str).encode())
        for name, tensor in self.held.items():
            digest.update(f"{name}\0{tensor.dtype}\0{tensor.shape}\0".encode())
            digest.update(tensor.read_ranges([(0, tensor.size)])[0])
        size = sum(tensor.size for tensor in self.held.values())
        file = FileIdentity(REVISION, size, digest.hexdigest())
        return Identity(revision, None, (file,), shape=shape_of(self.configuration))

    def fingerprint(self, revision: str) -> str | None:
        return None

    def open(self, revision: str, identity: Identity | None = None) -> Checkpoint:
        """Raises CheckpointError (missing)."""
        self._check(revision)
        tensors = {name: Tensor(tensor.entry(), tensor) for name, tensor in self.held.items()}
        return Checkpoint(revision, None, self.configuration, tensors)

    def check_unchanged(self, identity: Identity) -> None:
        """A model that trains on meanwhile is measured as it was read."""

    def stamp_path(self, revision: str, file: FileIdentity) -> str:
        return file.name

    def _check(self, revision: str) -> None:
        if revision != REVISION:
            raise CheckpointError("missing", f"{self.label}: a model in memory has no revision {revision}")


def in_memory_source(model: object) -> InMemorySource:
    """A torch module (with the configuration that it carries, as models of transformers and diffusers do) or a state dict.

    Without a configuration the model is read as generic, unless a description (architecture) is given. Raises RequestError.
    """
    if isinstance(model, Mapping):
        return InMemorySource("a state dict", {}, _held(model))
    state_dict = getattr(model, "state_dict", None)
    if state_dict is None or isinstance(model, type):
        raise RequestError(
            f"an object of type {type(model).__name__} is no source; give a path, a repository id, a torch module or a state dict"
        )
    return InMemorySource(type(model).__name__, _configuration(model), _held(as_saved(model, state_dict())))


def _held(tensors: Mapping[str, Any]) -> dict[str, _HeldTensor]:
    """Tensors that are one and the same (tied) are held once, by the name that comes first. Raises RequestError."""
    held: dict[str, _HeldTensor] = {}
    seen: set[tuple] = set()
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not hasattr(tensor, "shape") or not hasattr(tensor, "dtype"):
            raise RequestError(
                f"{name!r} of the state dict is no tensor but a {type(tensor).__name__}; give tensors by name"
            )
        memory = _memory_of(tensor)
        if memory is None or memory not in seen:
            held[name] = _HeldTensor(name, tensor)
        if memory is not None:
            seen.add(memory)
    return held


def _memory_of(tensor: Any) -> tuple | None:
    """Where a tensor of torch lies; None of what has no place (arrays, models that are not made yet)."""
    pointer = getattr(tensor, "data_ptr", None)
    address = pointer() if pointer is not None and str(getattr(tensor, "device", "")) != "meta" else 0
    return (str(tensor.device), address, tuple(tensor.shape), tuple(tensor.stride())) if address else None


def _configuration(model: object) -> dict[str, Any]:
    config = getattr(model, "config", None)
    inside = getattr(model, "_modules", {})
    if (
        config is None and isinstance(inside, Mapping) and list(inside) == ["module"]
    ):  # DistributedDataParallel, DataParallel
        return _configuration(inside["module"])
    described = config.to_dict() if config is not None and hasattr(config, "to_dict") else config
    if isinstance(described, Mapping) and ({"model_type", "_class_name"} & described.keys()):
        return dict(described)
    return {}


def as_saved(model: object, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict by the names under which transformers saves it: since version 5 modules may have others."""
    loading = sys.modules.get("transformers.core_model_loading")
    revert = getattr(loading, "revert_weight_conversion", None)
    is_pretrained = any(base.__module__.startswith("transformers.") for base in type(model).__mro__)
    return revert(model, state_dict) if revert is not None and is_pretrained else state_dict
