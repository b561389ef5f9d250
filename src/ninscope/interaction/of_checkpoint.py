"""The interactions of a checkpoint that is opened: its architecture, its matrices and the gains beside them."""

from collections.abc import Mapping

import numpy as np

from ninscope.architectures import DEFAULT_READING, Reading, architecture_of
from ninscope.architectures.layout import Architecture
from ninscope.checkpoints.reparametrised import effective_tensors
from ninscope.checkpoints.tensors import STORED_TYPES, Checkpoint, Tensor, as_float
from ninscope.checkpoints.wrapped_names import unwrapped
from ninscope.errors import CheckpointError
from ninscope.interaction.pairs import Wired
from ninscope.interaction.whole import Interactions, Options, network_interactions


def checkpoint_interactions(
    checkpoint: Checkpoint, options: Options, reading: Reading = DEFAULT_READING
) -> Interactions:
    """reading: as of the network; a wiring that is a fiction (GPT-NeoX's chain) is followed where the model goes.

    Raises CheckpointError: as `neuron_network` and reading do, corrupt where a gain is absent or has another length.
    """
    tensors = effective_tensors(checkpoint.tensors)
    architecture = architecture_of(checkpoint.config, tensors, reading)
    wired = Wired(architecture.layers, architecture.blocks, architecture.links, architecture.gauge)
    return network_interactions(wired, architecture.tensors(tensors), _Gains(architecture, tensors), options)


class _Gains:
    """Reads vectors by the names that a family gives them."""

    def __init__(self, architecture: Architecture, tensors: Mapping[str, Tensor]) -> None:
        self._family = architecture.family
        self._tensors = unwrapped(tensors)
        prefix = architecture.prefix_in(self._tensors)
        self._prefix = architecture.prefixes[0] if prefix is None else prefix

    def __call__(self, name: str) -> np.ndarray:
        """float64 [n]. Raises CheckpointError: corrupt, unsupported, nonfinite."""
        tensor = self._tensors.get(self._prefix + name)
        if tensor is None:
            raise CheckpointError(
                "corrupt", f"tensor {self._prefix}{name} is absent, though config.json ({self._family}) implies it"
            )
        if tensor.dtype not in STORED_TYPES or len(tensor.shape) != 1:
            raise CheckpointError(
                "unsupported",
                f"tensor {tensor.name} is of type {tensor.dtype} and shape {list(tensor.shape)}; a vector of floats was expected",
            )
        (raw,) = tensor.file.read_ranges([(tensor.entry.start, tensor.entry.stop)])
        values = as_float(np.frombuffer(raw, STORED_TYPES[tensor.dtype]), tensor.dtype).astype(np.float64)
        if not np.isfinite(values).all():
            raise CheckpointError(
                "nonfinite", f"tensor {tensor.name} holds NaN or infinity; no interaction can be measured through it"
            )
        return values
