"""What an architecture is, as data: node layers, and the weight blocks that join them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from ninscope.checkpoints.tensors import Tensor
from ninscope.errors import CheckpointError


@dataclass(frozen=True)
class NodeLayer:
    """A layer of neurons. Layers of one `sample_group` have the same size and share sampled neurons (q, k, v and c)."""

    name: str
    size: int
    sample_group: str


@dataclass(frozen=True)
class RowLayout:
    """Which rows of a weight matrix belong to a block's target layer.

    The rows come in groups of `parts` x `group` and the block takes part number `part` of each: row of neuron j is
    (j // group) * parts * group + part * group + j % group. One part means the plain matrix, row j. GPT-NeoX's fused
    query_key_value is [head, (q|k|v), head_dim]: parts 3, group head_dim.
    """

    part: int = 0
    parts: int = 1
    group: int = 1

    def rows(self, neurons: np.ndarray) -> np.ndarray:
        """Row numbers of `neurons` (int64 [n]), int64 [n]; increasing where neurons are."""
        neurons = np.asarray(neurons, dtype=np.int64)
        return neurons // self.group * (self.parts * self.group) + self.part * self.group + neurons % self.group


@dataclass(frozen=True)
class WeightBlock:
    """Edges from node layer `source` to `target`: W[out, in] in rows `rows` of the 2-D tensor `tensor` [out, in]."""

    source: str
    target: str
    tensor: str
    rows: RowLayout = RowLayout()


@dataclass(frozen=True)
class Architecture:
    """A network's wiring. shapes: the shape each used tensor must have; prefixes: what may stand before tensor names."""

    family: str
    layers: tuple[NodeLayer, ...]
    blocks: tuple[WeightBlock, ...]
    shapes: Mapping[str, tuple[int, int]]
    prefixes: tuple[str, ...] = ("",)

    @property
    def digest(self) -> str:
        """sha256 of the wiring: checkpoints with the same weights and digest have the same network."""
        described = {
            "family": self.family,
            "layers": [asdict(layer) for layer in self.layers],
            "blocks": [asdict(block) for block in self.blocks],
        }
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    def tensors(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The used tensors by the names in `blocks`, present and of the right shape.

        Raises CheckpointError: corrupt (a tensor is absent, or its shape differs from what the configuration implies),
        unsupported (a tensor holds no plain floats).
        """
        prefix = next((p for p in self.prefixes if any(p + name in found for name in self.shapes)), self.prefixes[0])
        used = {}
        for name, shape in self.shapes.items():
            tensor = found.get(prefix + name)
            if tensor is None:
                raise CheckpointError(
                    "corrupt",
                    f"tensor {prefix + name} is absent, though config.json ({self.family}) implies it",
                )
            if tensor.shape != shape:
                raise CheckpointError(
                    "corrupt",
                    f"tensor {prefix + name} has shape {list(tensor.shape)}, config.json ({self.family}) implies {list(shape)}",
                )
            tensor.checked_float_type()
            used[name] = tensor
        return used


def positive_integer(config: dict, key: str, limit: int) -> int:
    """config[key] as an integer in 1..limit: sizes are checked before anything is allocated. Raises CheckpointError."""
    value = config.get(key)
    if type(value) is not int or not 1 <= value <= limit:
        raise CheckpointError("corrupt", f"config.json: {key} is {value!r}; an integer from 1 to {limit} was expected")
    return value
