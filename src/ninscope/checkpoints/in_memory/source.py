"""A model that lies in memory as a source with one revision: a torch module, or a state dict of tensors or arrays.

torch is not imported here: who holds a module has done so. Nothing is copied before it is read, one tensor at a time, so that a
model on an accelerator is measured where it stands. A source stands for the model as it is now: what it computes it may keep.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ninscope.checkpoints.identity import FileIdentity, Identity, shape_of
from ninscope.checkpoints.in_memory.held_tensor import HeldTensor
from ninscope.checkpoints.in_memory.used_weights import held_tensors, inner_model, is_tensor, used_weights
from ninscope.checkpoints.tensors import Checkpoint, Tensor
from ninscope.errors import CheckpointError, RequestError
from ninscope.ranks import ALONE, Ranks

if TYPE_CHECKING:
    import torch

REVISION = "in memory"
_HASHED_BYTES = 8_000_000  # at a time


@dataclass(frozen=True)
class InMemorySource:
    """label: the model's class. configuration: as config.json has it. held: its tensors by name. refused: why it has none."""

    kind = "local"

    label: str
    configuration: dict[str, Any]
    held: Mapping[str, HeldTensor]
    refused: CheckpointError | None = None

    def __repr__(self) -> str:
        return f"<model in memory: {self.label}, {len(self.held)} tensors>"

    @property
    def ranks(self) -> Ranks:
        """Who holds the model together; each of them has to measure it."""
        return next((tensor.ranks for tensor in self.held.values() if tensor.is_spread), ALONE)

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
        """Raises CheckpointError (missing, unsupported)."""
        self._check(revision)
        digest = hashlib.sha256(json.dumps(self.configuration, sort_keys=True, default=str).encode())
        for name, tensor in self.held.items():
            digest.update(f"{name}\0{tensor.dtype}\0{tensor.shape}\0".encode())
            for start in range(0, tensor.size, _HASHED_BYTES):
                digest.update(tensor.read_ranges([(start, min(start + _HASHED_BYTES, tensor.size))])[0])
        size = sum(tensor.size for tensor in self.held.values())
        file = FileIdentity(REVISION, size, digest.hexdigest())
        return Identity(revision, None, (file,), shape=shape_of(self.configuration))

    def fingerprint(self, revision: str) -> str | None:
        return None

    def open(self, revision: str, identity: Identity | None = None) -> Checkpoint:
        """Raises CheckpointError (missing, unsupported)."""
        self._check(revision)
        tensors = {name: Tensor(tensor.entry(name), tensor) for name, tensor in self.held.items()}
        return Checkpoint(revision, None, self.configuration, tensors)

    def check_unchanged(self, identity: Identity) -> None:
        """A model that trains on meanwhile is measured as it was read."""

    def stamp_path(self, revision: str, file: FileIdentity) -> str:
        return file.name

    def _check(self, revision: str) -> None:
        """Raises CheckpointError."""
        if self.refused is not None:
            raise self.refused
        if revision != REVISION:
            raise CheckpointError("missing", f"{self.label}: a model in memory has no revision {revision}")


def in_memory_source(model: object) -> InMemorySource:
    """A torch module (with the configuration that it carries, as models of transformers and diffusers do) or a state dict.

    Of a module the tensors are those that the model uses: parametrizations are computed and adapters of peft merged, one matrix at
    a time. Of a state dict they are what it holds. Without a configuration the model is read as generic, unless a description
    (architecture) is given. Raises RequestError.
    """
    label = "a state dict" if isinstance(model, Mapping) else type(model).__name__
    try:
        if isinstance(model, Mapping):
            return InMemorySource(label, {}, held_tensors(_checked(model)))
        if not is_module(model):
            raise RequestError(
                f"an object of type {label} is no source; give a path, a repository id, a torch module or a state dict"
            )
        return _of_module(model)
    except CheckpointError as error:
        return InMemorySource(label, {}, {}, error)


def is_module(model: object) -> bool:
    """Whether it is a torch module, or behaves like one. An optimizer has a state dict too, and no modules."""
    return not isinstance(model, type) and hasattr(model, "state_dict") and hasattr(model, "_modules")


def _of_module(model: Any) -> InMemorySource:
    """Raises CheckpointError (unsupported)."""
    inner = inner_model(model)
    used = used_weights(inner)
    configuration = _configuration(inner)
    if used.is_untied and configuration.get("tie_word_embeddings"):
        configuration["tie_word_embeddings"] = False
    return InMemorySource(type(inner).__name__, configuration, used.tensors)


def saved_tensors(model: object) -> "Mapping[str, torch.Tensor]":
    """The tensors of a module by the names under which it is saved, without wrappers; those that lie in memory as they are used.

    Raises CheckpointError (unsupported).
    """
    return used_weights(inner_model(model)).own


def _checked(state_dict: Mapping[Any, Any]) -> Mapping[str, Any]:
    """Raises RequestError where something is no tensor by its name."""
    for name, tensor in state_dict.items():
        if not isinstance(name, str) or not is_tensor(tensor):
            raise RequestError(
                f"{name!r} of the state dict is no tensor but a {type(tensor).__name__}; give tensors by name"
            )
    return state_dict


def _configuration(model: object) -> dict[str, Any]:
    """As config.json has it, of a model that brings one; empty where it does not."""
    config = getattr(model, "config", None)
    described = config.to_dict() if config is not None and hasattr(config, "to_dict") else config
    if isinstance(described, Mapping) and ({"model_type", "_class_name"} & described.keys()):
        return dict(described)
    return {}
