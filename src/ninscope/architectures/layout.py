"""What an architecture is, as data: node layers, the weight blocks that join them, and how tensors hold their weights."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ninscope.checkpoints.matrix import MatrixLayout, WeightMatrix
from ninscope.checkpoints.tensors import Tensor
from ninscope.errors import CheckpointError

_NUMBERS = re.compile(r"\d+")
CONVOLUTIONS = ("norm", "per_tap")


@dataclass(frozen=True)
class NodeLayer:
    """A layer of neurons. Layers of one `sample_group` have the same size and share sampled neurons (q, k, v and c).

    block: the part of the model it belongs to ("block0", "down1", "output"); kind: what the weights that leave it are part of
    ("attention", "mlp", "convolution", ...). Spectra of parts are grouped by them; both may be empty.
    """

    name: str
    size: int
    sample_group: str
    block: str = ""
    kind: str = ""


@dataclass(frozen=True)
class RowLayout:
    """Which rows of a weight matrix W[out, in] belong to a block's target layer.

    After `first` rows that do not, the rows come in groups of `parts` x `group` and the block takes part number `part` of
    each: row of neuron j is first + (j // group) * parts * group + part * group + j % group. One part means consecutive rows.
    GPT-NeoX's fused query_key_value is [head, (q|k|v), head_dim]: parts 3, group head_dim.
    """

    part: int = 0
    parts: int = 1
    group: int = 1
    first: int = 0

    def rows(self, neurons: np.ndarray) -> np.ndarray:
        """Row numbers of `neurons` (int64 [n]), int64 [n]; increasing where neurons are."""
        neurons = np.asarray(neurons, dtype=np.int64)
        within = neurons // self.group * (self.parts * self.group) + self.part * self.group + neurons % self.group
        return self.first + within

    def row(self, neuron: int) -> int:
        """That of one neuron, at any size: Python's integers do not overflow, and for one they are faster than an array."""
        place = neuron // self.group * (self.parts * self.group) + self.part * self.group + neuron % self.group
        return self.first + place


@dataclass(frozen=True)
class WeightBlock:
    """Edges from node layer `source` to `target`: W[out, in] in rows `rows` of the matrix `tensor`, whose columns are all of
    the source layer's neurons.
    """

    source: str
    target: str
    tensor: str
    rows: RowLayout = RowLayout()


@dataclass(frozen=True)
class Link:
    """A connection without weights: neuron i of `source` is, or is added to, one neuron of `target`, by default first + i.

    part, parts, group: as RowLayout, for grouped-query attention: each head of v is read by `parts` heads of c.
    No edge of the network (an edge has a weight), so no single-layer result depends on it. Paths across several layers pass
    through it at no distance (v -> c of an attention, neurons that are concatenated or multiplied), unless it is a skip
    connection (skip: a residual stream, the far end of a U-Net's bridge), which leaves out layers that they are to cross.
    """

    source: str
    target: str
    first: int = 0
    part: int = 0
    parts: int = 1
    group: int = 1
    skip: bool = False

    def targets(self, neurons: np.ndarray) -> np.ndarray:
        """The target's neurons that `neurons` (int64 [n]) lead to, int64 [n]; increasing where neurons are."""
        return RowLayout(self.part, self.parts, self.group, self.first).rows(neurons)


@dataclass(frozen=True)
class StoredMatrix:
    """How a tensor must be shaped and how it holds a matrix.

    shape: of the tensor in the file. tensor: its name there, where that is not the matrix's own; index: which slice of its
    first axis the matrix is (experts that are stored together), and then `layout` is of that slice.
    """

    shape: tuple[int, ...]
    layout: MatrixLayout = MatrixLayout()  # noqa: RUF009  frozen
    tensor: str = ""
    index: int | None = None

    @property
    def slice_shape(self) -> tuple[int, ...]:
        """The shape of what holds the matrix: the tensor, or one slice of it."""
        return self.shape if self.index is None else self.shape[1:]


@dataclass(frozen=True)
class Architecture:
    """A network's wiring. matrices: every used matrix by the name that blocks give it, which is the tensor's unless
    StoredMatrix says another; prefixes: what may stand before tensor names; links: weightless connections; note: what a user
    should know of how the model was read, one clause; complete: there are no blocks beside these, as a family's module knows.
    """

    family: str
    layers: tuple[NodeLayer, ...]
    blocks: tuple[WeightBlock, ...]
    matrices: Mapping[str, StoredMatrix]
    prefixes: tuple[str, ...] = ("",)
    links: tuple[Link, ...] = field(default=())
    note: str = ""
    complete: bool = True

    def __post_init__(self):
        """Raises ValueError: a family's module, not a checkpoint, is wrong."""
        sizes = {layer.name: layer.size for layer in self.layers}
        joined = {(block.source, block.target) for block in self.blocks}
        if len(sizes) < len(self.layers) or len(joined) < len(self.blocks):
            raise ValueError(f"{self.family}: two layers of one name, or two blocks that join the same two")
        for block in self.blocks:
            stored = self.matrices[block.tensor]
            targets, nodes = stored.layout.size(stored.slice_shape)
            if nodes != sizes[block.source] or block.rows.row(sizes[block.target] - 1) >= targets:
                raise ValueError(f"{self.family}: {block} does not fit {stored}")
        for link in self.links:
            places = RowLayout(link.part, link.parts, link.group, link.first)
            if places.row(sizes[link.source] - 1) >= sizes[link.target]:
                raise ValueError(f"{self.family}: {link} reaches beyond its target")

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return {layer.name: layer.size for layer in self.layers}

    @cached_property
    def digest(self) -> str:
        """sha256 of the wiring: checkpoints with the same weights and digest have the same network."""
        described = {
            "family": self.family,
            "layers": self.layers,
            "blocks": self.blocks,
            "matrices": dict(self.matrices),
            "links": self.links,
        }
        # vars: what `asdict` gives of these classes, without its copies, which take longer than all the rest.
        return hashlib.sha256(json.dumps(described, sort_keys=True, default=vars).encode()).hexdigest()

    def with_convolutions(self, kernels: str) -> "Architecture":
        """The same wiring with every convolution read so: "norm", one edge a pair of channels, or "per_tap"."""
        changed = {
            name: replace(matrix, layout=replace(matrix.layout, kernels=kernels))
            for name, matrix in self.matrices.items()
            if matrix.layout.convolves and matrix.layout.kernels != kernels
        }
        return replace(self, matrices={**self.matrices, **changed}) if changed else self

    def edges_of(self, block: WeightBlock) -> tuple[int, int]:
        """(edges that a source neuron of a block has, source neurons) if no weight is out of bounds."""
        stored = self.matrices[block.tensor]
        taps = stored.layout.taps(stored.slice_shape)
        return self._sizes[block.target] * taps // stored.layout.groups, self._sizes[block.source]

    def taps_of_norms(self, block: WeightBlock) -> int:
        """Of how many taps each weight of a block is the norm; 1 where it is no norm."""
        stored = self.matrices[block.tensor]
        return stored.layout.kernel_size(stored.slice_shape) if stored.layout.kernels == "norm" else 1

    def tensors(self, found: Mapping[str, Tensor]) -> dict[str, WeightMatrix]:
        """The used matrices by the names in `blocks`, present and of the right shape.

        Raises CheckpointError: corrupt (a tensor is absent, or its shape differs from what the configuration implies),
        unsupported (a tensor holds no plain floats).
        """
        names = {name: stored.tensor or name for name, stored in self.matrices.items()}
        prefix = next((p for p in self.prefixes if any(p + name in found for name in names.values())), self.prefixes[0])
        used = {}
        for name, stored in self.matrices.items():
            full = prefix + names[name]
            tensor = found.get(full)
            if tensor is None:
                raise CheckpointError(
                    "corrupt", f"tensor {full} is absent, though config.json ({self.family}) implies it"
                )
            if tensor.shape != stored.shape:
                raise CheckpointError(
                    "corrupt",
                    f"tensor {full} has shape {list(tensor.shape)}, config.json ({self.family}) implies {list(stored.shape)}",
                )
            tensor.checked_float_type()
            used[name] = WeightMatrix(tensor if stored.index is None else tensor.slice(stored.index), stored.layout)
        if self.complete:
            self._check_all_are_used({prefix + name for name in names.values()}, found)
        return used

    def _check_all_are_used(self, used: set[str], found: Mapping[str, Tensor]) -> None:
        """Raises CheckpointError (corrupt) for a tensor called as a used one is, but for its numbers: a block too many."""
        alike = {_NUMBERS.sub("#", name) for name in used if _NUMBERS.search(name)}
        extra = next((name for name in found if name not in used and _NUMBERS.sub("#", name) in alike), None)
        if extra is not None:
            raise CheckpointError(
                "corrupt",
                f"tensor {extra} is there, though config.json ({self.family}) implies none of that number; one of them is another "
                "model's",
            )


def parts_of(layers: Sequence[NodeLayer], groupings: Sequence[str]) -> dict[str, list[str]]:
    """Names of the layers that belong together, by the part's name: grouping "/" block, kind or layer ("block/block0").

    groupings: "block", "kind" and "layer", each of which is a partition of the layers.
    """
    found: dict[str, list[str]] = {}
    for grouping in groupings:
        for layer in layers:
            label = layer.name if grouping == "layer" else getattr(layer, grouping) or "other"
            found.setdefault(f"{grouping}/{label}", []).append(layer.name)
    return found


def positive_integer(config: Mapping, key: str, limit: int, default: int | None = None) -> int:
    """config[key] as an integer in 1..limit: sizes are checked before anything is allocated. default: where it is absent or
    null. Raises CheckpointError (corrupt).
    """
    value = config.get(key)
    if value is None and default is not None:
        return default
    if type(value) is not int or not 1 <= value <= limit:
        raise CheckpointError("corrupt", f"config.json: {key} is {value!r}; an integer from 1 to {limit} was expected")
    return value
