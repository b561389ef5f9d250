"""Make a model's base from a checkpoint of any source, and a checkpoint from a model's weights."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from torch import nn

from ninscope.checkpoints.source import open_source
from ninscope.checkpoints.tensors import STORED_TYPES, Checkpoint, Tensor, as_float
from ninscope.checkpoints.verification import Verification
from ninscope.errors import CheckpointError
from ninscope.exact.whole import exact_analysis
from ninscope.measurement import exact_measurement
from ninscope.networks.incoming import directed
from ninscope.networks.neuron_network import neuron_network
from ninscope.neurons.memel.inserting import CHILD
from ninscope.neurons.tasks.base_models import quiet
from ninscope.neurons.tasks.task import Base
from ninscope.parameters import Parameters


@dataclass(frozen=True)
class Analysed:
    """The exact spectrum of a model's network: alpha0, width, and a warning where a power law holds badly."""

    alpha0: float
    width: float
    warning: str


Analyse = Callable[[nn.Module], Analysed]


class _SavesItself(Protocol):
    def save_pretrained(self, folder: Path, *, state_dict: dict[str, torch.Tensor]) -> None: ...


def base_of(checkpoint: Checkpoint, name: str, folder: Path | str | None, revision: str | None) -> Base:
    """All floats of a checkpoint, as float32; a model makes what is no float (masks, positions) itself.

    What comes from a Hub is checked against the hash that it states. folder, revision: where its tokenizer would be. Raises
    CheckpointError: what reading raises, NaN and other bytes than the Hub's among it.
    """
    floats = {key: tensor for key, tensor in checkpoint.tensors.items() if tensor.dtype in STORED_TYPES}
    verification = Verification(floats.values(), least=0)  # what is no float is fetched for that, too
    weights = {key: _read(tensor) for key, tensor in floats.items()}
    verification.finish()
    return Base(name, checkpoint.config, weights, folder, revision)


def _read(tensor: Tensor) -> torch.Tensor:
    (piece,) = tensor.file.read_ranges([(tensor.entry.start, tensor.entry.stop)])
    stored = np.frombuffer(piece, STORED_TYPES[tensor.dtype])
    values = as_float(stored, tensor.dtype).astype(np.float32)
    if not np.isfinite(values).all():
        raise CheckpointError(
            "nonfinite", f"tensor {tensor.name} holds NaN or infinity; no model can be trained from it"
        )
    return torch.from_numpy(values.reshape(tensor.shape))


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's own state, without that of MEmeL layers in it, on the CPU."""
    own = {name: tensor for name, tensor in model.state_dict().items() if CHILD not in name.split(".")}
    return {name: tensor.detach().cpu() for name, tensor in own.items()}


def save_model(model: nn.Module, folder: Path) -> None:
    """Write config.json and model.safetensors of a model of transformers, or of one that saves itself in the same way."""
    with quiet():
        cast(_SavesItself, model).save_pretrained(folder, state_dict=weights_of(model))


def analyse_with(parameters: Parameters) -> Analyse:
    """A function that analyses a model as its base was: the whole network, with these parameters, by the same reading."""

    def analyse(model: nn.Module) -> Analysed:
        with tempfile.TemporaryDirectory(prefix="ninscope-") as scratch:
            folder = Path(scratch) / "step0"
            save_model(model, folder)
            checkpoint = open_source(folder).open(folder.name)
            network = directed(neuron_network(checkpoint, parameters.reading), parameters.direction)
            measured = exact_measurement(exact_analysis(network, parameters))
        return Analysed(measured.alpha0, measured.width, measured.warning)

    return analyse
