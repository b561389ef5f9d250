"""An architecture as data: node layers, the weight blocks that join them, and how tensors hold the blocks' weights."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ninscope.architectures.gauge import Gauge
from ninscope.checkpoints.matrix import MatrixLayout, WeightMatrix
from ninscope.checkpoints.tensors import Tensor
from ninscope.checkpoints.wrapped_names import unwrapped
from ninscope.errors import CheckpointError

_NUMBERS = re.compile(r"\d+")
CONVOLUTIONS = ("norm", "per_tap")


@dataclass(frozen=True)
class NodeLayer:
    """A layer of neurons. Layers of the same `sample_group` have the same size and share their sampled neurons (q, k, v, c).

    block: the part of the model that the layer belongs to ("block0", "down1", "output"). kind: what the weights that leave the
    layer do ("attention", "mlp", "convolution", ...). Spectra of parts are grouped by block and by kind; both may be empty.
    """

    name: str
    size: int
    sample_group: str
    block: str = ""
    kind: str = ""


@dataclass(frozen=True)
class RowLayout:
    """Which rows of a weight matrix W[out, in] belong to a block's target layer.

    The first `first` rows do not. The rows after them come in groups of `parts` x `group`, and the block takes part number
    `part` of each group: neuron j has row first + (j // group) * parts * group + part * group + j % group. With one part the
    rows are consecutive. GPT-NeoX's fused query_key_value is [head, (q|k|v), head_dim]: parts is 3, group is head_dim.
    """

    part: int = 0
    parts: int = 1
    group: int = 1
    first: int = 0

    @property
    def stride(self) -> int:
        """Rows from one group's begin to the next one's."""
        return self.parts * self.group

    def rows(self, neurons: np.ndarray) -> np.ndarray:
        """The rows of `neurons` (int64 [n]), int64 [n]. Rows increase where neurons do."""
        neurons = np.asarray(neurons, dtype=np.int64)
        within = neurons // self.group * self.stride + self.part * self.group + neurons % self.group
        return self.first + within

    def row(self, neuron: int) -> int:
        """The row of one neuron. Python's integers do not overflow, and for one neuron they are faster than an array."""
        within = neuron // self.group * self.stride + self.part * self.group + neuron % self.group
        return self.first + within


@dataclass(frozen=True)
class UnevenRowLayout(RowLayout):
    """As RowLayout, where the parts of a group differ in size: from row `first` on, `group` of every `every` rows are the block's.

    DeepSeek's kv_b_proj is [head, (k|v)], and a head's k need not be as large as its v.
    """

    every: int = 1

    @property
    def stride(self) -> int:
        return self.every


@dataclass(frozen=True)
class WeightBlock:
    """Edges from node layer `source` to node layer `target`. Their weights are the rows `rows` of the matrix `tensor`, whose
    columns are the source layer's neurons.
    """

    source: str
    target: str
    tensor: str
    rows: RowLayout = RowLayout()


@dataclass(frozen=True)
class Link:
    """A connection without weights: neuron i of `source` is, or is added to, one neuron of `target` (default: first + i).

    part, parts, group: as in RowLayout. Grouped-query attention needs them: `parts` heads of c read each head of v.
    A link is not an edge (an edge has a weight), so single-layer results do not depend on links. Paths across several layers
    follow links at no distance (v -> c of an attention, neurons that are concatenated or multiplied), except skip connections
    (skip: a residual stream, the far end of a U-Net's bridge), which would pass by the layers that paths are meant to cross.
    """

    source: str
    target: str
    first: int = 0
    part: int = 0
    parts: int = 1
    group: int = 1
    skip: bool = False

    def targets(self, neurons: np.ndarray) -> np.ndarray:
        """The target's neurons that `neurons` (int64 [n]) are linked to, int64 [n]. They increase where neurons do."""
        return self.rows.rows(neurons)

    @property
    def rows(self) -> RowLayout:
        """Where the source's neurons lie among the target's."""
        return RowLayout(self.part, self.parts, self.group, self.first)


@dataclass(frozen=True)
class MatrixSpec:
    """The shape that a tensor must have, and how the tensor holds a matrix.

    shape: the tensor's shape in the file. tensor: the tensor's name (default: the matrix's name). index: which slice of the
    tensor's first axis the matrix is, where experts are stored together; `layout` then describes that slice.
    """

    shape: tuple[int, ...]
    layout: MatrixLayout = MatrixLayout()  # noqa: RUF009  frozen
    tensor: str = ""
    index: int | None = None

    @property
    def slice_shape(self) -> tuple[int, ...]:
        """The shape of the tensor, or of the one slice of it, that holds the matrix."""
        return self.shape if self.index is None else self.shape[1:]


@dataclass(frozen=True)
class Architecture:
    """A network's wiring.

    matrices: every used matrix, by the name that blocks give it; that is the tensor's name unless MatrixSpec says another.
    prefixes: what may stand before the tensors' names in a file. links: connections without weights. note: what a user should
    know about how the model was read, one clause. warning: why not to trust what is measured of it, one clause, or empty.
    complete: the model has no weight blocks besides these, so a tensor whose name differs from a used one's only in its numbers
    belongs to another model. gauge: what the family says of the model's function beside the wiring; None where it says nothing.
    gauge_fixed: weights are read as `networks.fixed_gauge` says, so the network is another one.
    """

    family: str
    layers: tuple[NodeLayer, ...]
    blocks: tuple[WeightBlock, ...]
    matrices: Mapping[str, MatrixSpec]
    prefixes: tuple[str, ...] = ("",)
    links: tuple[Link, ...] = field(default=())
    note: str = ""
    complete: bool = True
    warning: str = ""
    gauge: Gauge | None = None
    gauge_fixed: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError: the family's module is wrong, not the checkpoint."""
        sizes = self._sizes
        joined = {(block.source, block.target) for block in self.blocks}
        if len(sizes) < len(self.layers) or len(joined) < len(self.blocks):
            raise ValueError(f"{self.family}: two layers have one name, or two blocks join the same two layers")
        for block in self.blocks:
            matrix = self.matrices[block.tensor]
            targets, nodes = matrix.layout.size(matrix.slice_shape)
            if nodes != sizes[block.source] or block.rows.row(sizes[block.target] - 1) >= targets:
                raise ValueError(f"{self.family}: {block} does not fit {matrix}")
        for link in self.links:
            if link.rows.row(sizes[link.source] - 1) >= sizes[link.target]:
                raise ValueError(f"{self.family}: {link} reaches beyond its target")
        if self.gauge is not None:
            self._check_gauge(self.gauge)

    def _check_gauge(self, gauge: Gauge) -> None:
        """Raises ValueError where it names a layer, matrix or block that is not there."""
        matrices = {name for gain in gauge.gains for name in (*gain.readers, *gain.writers)}
        matrices |= {attention.output for attention in gauge.attentions}
        layers = {name for one in gauge.attentions for name in (one.q, one.k, one.v, one.c)}
        layers |= {name for units in gauge.units for name in (*units.entered, units.left)}
        layers |= {name for detour in gauge.detours for name in (detour.reads, detour.writes)}
        layers |= {name for skip in gauge.skips for name in (skip.source, skip.target)}
        joined = {(block.source, block.target) for block in self.blocks}
        unknown = (matrices - self.matrices.keys()) | (layers - self._sizes.keys())
        if unknown or any((detour.source, detour.target) not in joined for detour in gauge.detours):
            raise ValueError(f"{self.family}: its gauge is of parts that are not there: {sorted(unknown)}")

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return {layer.name: layer.size for layer in self.layers}

    @cached_property
    def digest(self) -> str:
        """sha256 of the wiring: checkpoints with the same weights and the same digest have the same network."""
        described = {
            "family": self.family,
            "layers": self.layers,
            "blocks": self.blocks,
            "matrices": dict(self.matrices),
            "links": self.links,
        }
        if self.gauge_fixed:
            described["gauge"] = "fixed"
        # vars: what `asdict` gives of these classes, without its copies, which take longer than all the rest.
        return hashlib.sha256(json.dumps(described, sort_keys=True, default=vars).encode()).hexdigest()

    def with_convolutions(self, kernels: str) -> "Architecture":
        """The same wiring with convolutions read as `kernels` says: "norm", one edge for a pair of channels, or "per_tap"."""
        changed = {
            name: replace(matrix, layout=replace(matrix.layout, kernels=kernels))
            for name, matrix in self.matrices.items()
            if matrix.layout.convolves and matrix.layout.kernels != kernels
        }
        return replace(self, matrices={**self.matrices, **changed}) if changed else self

    @property
    def tensor_names(self) -> dict[str, str]:
        """The tensor that holds each matrix, by the matrix's name, without what may stand before it in a file."""
        return {name: matrix.tensor or name for name, matrix in self.matrices.items()}

    def prefix_in(self, names: Collection[str]) -> str | None:
        """Which of the prefixes stands before the tensors' names in a file with these names; None where no tensor is there."""
        tensors = self.tensor_names.values()
        return next((prefix for prefix in self.prefixes if any(prefix + name in names for name in tensors)), None)

    def edges_of(self, block: WeightBlock) -> tuple[int, int]:
        """(edges of each source neuron of a block, source neurons), if no weight is out of bounds."""
        matrix = self.matrices[block.tensor]
        taps = matrix.layout.taps(matrix.slice_shape)
        return self._sizes[block.target] * taps // matrix.layout.groups, self._sizes[block.source]

    def taps_of_norms(self, block: WeightBlock) -> int:
        """The number of taps whose norm each weight of a block is; 1 where weights are not norms."""
        matrix = self.matrices[block.tensor]
        return matrix.layout.kernel_size(matrix.slice_shape) if matrix.layout.kernels == "norm" else 1

    def named(self, stored: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], str]:
        """(the file's tensors without what wrappers put into their names, what stands before the model's own names)."""
        if self.complete or any(name not in stored for name in self.tensor_names.values()):
            stored = unwrapped(stored)
        prefix = self.prefix_in(stored)
        return stored, self.prefixes[0] if prefix is None else prefix

    def tensors(self, stored: Mapping[str, Tensor]) -> dict[str, WeightMatrix]:
        """The used matrices, by the names that blocks give them, each present and of the right shape. stored: the file's tensors.

        Raises CheckpointError: corrupt (a tensor is absent, has another shape than the configuration implies, or is one too
        many), unsupported (a tensor does not hold plain floats).
        """
        names = self.tensor_names
        stored, prefix = self.named(stored)
        used = {}
        for name, matrix in self.matrices.items():
            full_name = prefix + names[name]
            tensor = stored.get(full_name)
            if tensor is None:
                raise CheckpointError(
                    "corrupt", f"tensor {full_name} is absent, though config.json ({self.family}) implies it"
                )
            tensor.check_readable()
            if tensor.shape != matrix.shape:
                raise CheckpointError(
                    "corrupt",
                    f"tensor {full_name} has shape {list(tensor.shape)}, config.json ({self.family}) implies "
                    f"{list(matrix.shape)}",
                )
            tensor.checked_float_type()
            used[name] = WeightMatrix(tensor if matrix.index is None else tensor.slice(matrix.index), matrix.layout)
        if self.complete:
            self._refuse_more_blocks({prefix + name for name in names.values()}, stored)
        return used

    def _refuse_more_blocks(self, used: set[str], stored: Mapping[str, Tensor]) -> None:
        """Raises CheckpointError (corrupt) for a matrix whose name differs from a used one's in its numbers: a block too many.

        A vector of such a name is none: modules in a row have numbers too (cap_embedder.0.weight is a normalisation).
        """
        patterns = {_NUMBERS.sub("#", name) for name in used if _NUMBERS.search(name)}
        extra = next(
            (
                name
                for name, tensor in stored.items()
                if name not in used and _NUMBERS.sub("#", name) in patterns and len(tensor.shape) > 1
            ),
            None,
        )
        if extra is not None:
            raise CheckpointError(
                "corrupt",
                f"tensor {extra} is there, though config.json ({self.family}) implies no block of that number; the tensors or "
                "config.json belong to another model",
            )


def parts_of(layers: Sequence[NodeLayer], groupings: Sequence[str]) -> dict[str, list[str]]:
    """Names of the layers of each part, by the part's name: grouping "/" block, kind or layer ("block/block0").

    groupings: of "block", "kind" and "layer", each of which is a partition of the layers.
    """
    parts: dict[str, list[str]] = {}
    for grouping in groupings:
        for layer in layers:
            label = layer.name if grouping == "layer" else getattr(layer, grouping) or "other"
            parts.setdefault(f"{grouping}/{label}", []).append(layer.name)
    return parts
