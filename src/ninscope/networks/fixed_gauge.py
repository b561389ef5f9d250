"""The gauge-fixed reading: of all weights with the same function, as far as rescalings lead from one to the other, one choice.

1. Gains are folded into what reads what they scale (columns), and those of LayerScale into what wrote it (rows).
2. q and k, and v and the output's matrix, are balanced: the same Euclidean norm on both sides of every dimension of a head (and
   so of every head), of every pair of dimensions that positions turn together. A head that several others read is held against
   all of them. Where q and k are normalised head by head, every head of them gets norm 1.
3. Units that may be rescaled are balanced: all weights that enter one have the norm of all that leave it.
4. Every weight block is brought to a root mean square of UNIT.

Each weight is so multiplied by a factor of its target and one of its node. They follow from norms, for which every tensor is
read once, when a factor of it is first needed. What has the norm 0 on a side is left as it is. Source: docs/method.md, "Gauge".
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from ninscope.architectures.gauge import READ, STREAM, WRITTEN, Attention, Gain, Gauge, Units
from ninscope.architectures.layout import Architecture, WeightBlock
from ninscope.checkpoints.effective_weights import whole
from ninscope.checkpoints.matrix import WeightMatrix
from ninscope.checkpoints.rescaled import rescaled, squared_norms
from ninscope.checkpoints.tensors import STORED_TYPES, Tensor
from ninscope.errors import CheckpointError

UNIT = 0.1  # the bounds on weights, 1 and 1/150, then lie at 10 and at 1/15 of the root mean square

Gains = list[tuple[Gain, Tensor]]


def with_fixed_gauge(
    architecture: Architecture, matrices: Mapping[str, WeightMatrix], stored: Mapping[str, Tensor]
) -> dict[str, WeightMatrix]:
    """The matrices, each read as the gauge-fixed one; no weight is read yet.

    matrices: as `Architecture.tensors` gives them. stored: the file's tensors, by name.
    Raises CheckpointError: corrupt (a gain is absent, or of another size), unsupported (a gain is not of plain floats).
    """
    if architecture.gauge is None:
        raise ValueError(f"{architecture.family}: its gauge is not known")  # `architecture_of` refuses it before
    factors = _Factors(architecture, architecture.gauge, matrices, stored)
    return {name: rescaled(matrix, partial(factors.of, name)) for name, matrix in matrices.items()}


def balanced(sides: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each side the factors that bring the norms of all sides to their geometric mean; their product is 1.

    sides: squared norms, float64 [n] each. Where one of them is 0 no factor can do that, and all are 1.
    """
    free = np.all([side > 0 for side in sides], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.prod([side ** (1 / len(sides)) for side in sides], axis=0)
        return [np.where(free, np.sqrt(mean / side), 1.0) for side in sides]


class _Factors:
    """The factors of every matrix, found when they are first asked for, by any thread."""

    def __init__(
        self,
        architecture: Architecture,
        gauge: Gauge,
        matrices: Mapping[str, WeightMatrix],
        stored: Mapping[str, Tensor],
    ):
        self._matrices = matrices
        self._sizes = {layer.name: layer.size for layer in architecture.layers}
        self._into: dict[str, list[WeightBlock]] = {}  # by the layer that blocks lead to
        self._from: dict[str, list[WeightBlock]] = {}
        self._blocks: dict[str, list[WeightBlock]] = {}  # by matrix
        for block in architecture.blocks:
            self._into.setdefault(block.target, []).append(block)
            self._from.setdefault(block.source, []).append(block)
            self._blocks.setdefault(block.tensor, []).append(block)
        # By node layer: the factors of rows that lead to it, and of columns of what leaves it.
        self._entering: dict[str, Callable[[], np.ndarray]] = {}
        self._leaving: dict[str, Callable[[], np.ndarray]] = {}
        for attention in gauge.attentions:
            self._add_attention(attention)
        for units in gauge.units:
            for side, layer in enumerate(units.entered):
                self._entering[layer] = partial(self._of_units, units, side)
            self._leaving[units.left] = partial(self._of_units, units, -1)
        self._gains = _gains(architecture, gauge, matrices, stored)
        self._locks = {name: threading.Lock() for name in matrices}
        self._norms: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._found: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def of(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The factors of a matrix's targets and of its nodes, float64. Raises CheckpointError."""
        if name not in self._found:
            self._found[name] = self._factors(name)  # the same numbers, whoever is first
        return self._found[name]

    def _factors(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        blocks = self._blocks[name]
        targets, nodes = self._folded(name)
        into, out_of = self._squares(name)
        leaving = self._leaving.get(blocks[0].source)
        if leaving is not None:
            factors = leaving()
            nodes *= factors
            # What balances both sides of one matrix would take one more pass; no family has that.
            if len(blocks) > 1 or blocks[0].target in self._entering:
                raise ValueError(f"{name}: both its rows and its columns are balanced")
            into = np.array([(out_of * factors**2).sum()])  # of all targets together
        for block in blocks:
            rows = self._rows(block)
            entering = self._entering.get(block.target)
            if entering is not None:
                factors = entering()
                targets[rows] *= factors * self._unit(name, rows.size, (into[rows] * factors**2).sum())
            else:
                squares = into.sum() if leaving is not None else into[rows].sum()
                targets[rows] *= self._unit(name, rows.size, squares)
        return targets, nodes

    def _unit(self, name: str, targets: int, squares: float) -> float:
        """What brings a block to the root mean square UNIT. squares: the sum of the squares of its weights."""
        matrix = self._matrices[name]
        edges = targets * matrix.size[1] * matrix.taps // matrix.layout.groups
        return UNIT / float(np.sqrt(squares / edges)) if squares > 0 else 1.0

    def _rows(self, block: WeightBlock) -> np.ndarray:
        return block.rows.rows(np.arange(self._sizes[block.target]))

    def _folded(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The factors of targets and nodes that gains are."""
        targets, nodes = (np.ones(count) for count in self._matrices[name].size)
        for gain, tensor in self._gains.get(name, ()):
            folded = targets if gain.place == WRITTEN else nodes
            folded *= gain.offset + _finite(tensor)
        return targets, nodes

    def _squares(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Squared norms of the matrix's targets and nodes, with gains folded in."""
        with self._locks[name]:
            if name not in self._norms:
                self._norms[name] = squared_norms(self._matrices[name], *self._folded(name))
            return self._norms[name]

    def _entered(self, layer: str) -> np.ndarray:
        """Squared norm of all weights that lead to each neuron."""
        return np.sum([self._squares(block.tensor)[0][self._rows(block)] for block in self._into[layer]], axis=0)

    def _left(self, layer: str) -> np.ndarray:
        """Squared norm of all weights that leave each neuron."""
        return np.sum([self._squares(name)[1] for name in {block.tensor: 0 for block in self._from[layer]}], axis=0)

    def _add_attention(self, attention: Attention) -> None:
        if not attention.clipped:
            self._entering[attention.v] = partial(self._of_values, attention, 0)
            self._leaving[attention.c] = partial(self._of_values, attention, 1)
            if attention.q_norm is None and attention.k_norm is None:
                self._entering[attention.q] = partial(self._of_products, attention, 0)
                self._entering[attention.k] = partial(self._of_products, attention, 1)
        for layer, norm in ((attention.q, attention.q_norm), (attention.k, attention.k_norm)):
            if norm is not None and norm.per_head and not attention.clipped:
                self._entering[layer] = partial(self._of_heads, layer, attention.head_dim)

    def _of_units(self, units: Units, side: int) -> np.ndarray:
        return balanced([*(self._entered(layer) for layer in units.entered), self._left(units.left)])[side]

    def _of_values(self, attention: Attention, side: int) -> np.ndarray:
        """side: 0 of v, 1 of c."""
        count = self._sizes[attention.v]
        read = _read_by(attention, self._sizes[attention.c])
        sides = balanced([self._entered(attention.v), np.bincount(read, self._left(attention.c), count)])
        return sides[1][read] if side else sides[0]

    def _of_products(self, attention: Attention, side: int) -> np.ndarray:
        """side: 0 of q, 1 of k."""
        count = self._sizes[attention.k]
        pairs = _paired(attention, count)
        groups = pairs[_read_by(attention, self._sizes[attention.q])], pairs
        layers = attention.q, attention.k
        norms = [np.bincount(group, self._entered(layer), count) for group, layer in zip(groups, layers, strict=True)]
        return balanced(norms)[side][groups[side]]

    def _of_heads(self, layer: str, head_dim: int) -> np.ndarray:
        """Of q or k whose heads are normalised one by one: each head to norm 1."""
        squares = self._entered(layer).reshape(-1, head_dim).sum(axis=1)
        with np.errstate(divide="ignore"):
            factors = np.where(squares > 0, 1 / np.sqrt(squares), 1.0)
        return np.repeat(factors, head_dim)


def _read_by(attention: Attention, size: int) -> np.ndarray:
    """For each of `size` neurons of q (or c) the number of the neuron of k (or v) that it meets, int64."""
    neurons = np.arange(size)
    if attention.shared == 1:
        return neurons
    head, dimension = np.divmod(neurons, attention.head_dim)
    return head // attention.shared * attention.head_dim + dimension


def _paired(attention: Attention, size: int) -> np.ndarray:
    """For each neuron of k the first of those that are turned with it, int64 [size]."""
    if attention.rotary is None:
        return np.arange(size)
    within = np.array([attention.rotary.pair_of(dimension) for dimension in range(attention.head_dim)])
    head, dimension = np.divmod(np.arange(size), attention.head_dim)
    return head * attention.head_dim + within[dimension]


def _gains(
    architecture: Architecture, gauge: Gauge, matrices: Mapping[str, WeightMatrix], stored: Mapping[str, Tensor]
) -> dict[str, Gains]:
    """The gains that are folded into each matrix, and their tensors. Raises CheckpointError (corrupt, unsupported)."""
    stored, prefix = architecture.named(stored)
    folded: dict[str, Gains] = {}
    for gain in gauge.gains:
        ends = {READ: gain.readers, STREAM: gain.readers, WRITTEN: gain.writers}.get(gain.place, ())
        for matrix in ends:
            size = matrices[matrix].size[0 if gain.place == WRITTEN else 1]
            tensor = _gain_tensor(stored, prefix + gain.tensor, size, architecture.family)
            folded.setdefault(matrix, []).append((gain, tensor))
    return folded


def _gain_tensor(stored: Mapping[str, Tensor], name: str, size: int, family: str) -> Tensor:
    """The tensor of a gain; older files of BERT call it gamma. Raises CheckpointError (corrupt, unsupported)."""
    old = name.removesuffix(".weight") + ".gamma"
    tensor = stored.get(name, stored.get(old))
    if tensor is None:
        raise CheckpointError(
            "corrupt", f"tensor {name} is absent, the gain of a normalisation, though config.json ({family}) implies it"
        )
    tensor.check_readable()
    if tensor.shape != (size,):
        raise CheckpointError(
            "corrupt", f"tensor {tensor.name} has shape {list(tensor.shape)}, but {[size]} neurons have that gain"
        )
    if tensor.dtype not in STORED_TYPES:
        raise CheckpointError(
            "unsupported",
            f"tensor {tensor.name} is of type {tensor.dtype}; only F16, BF16, F32 and F64 gains are folded",
        )
    return tensor


def _finite(tensor: Tensor) -> np.ndarray:
    """All numbers of a vector, float64. Raises CheckpointError (nonfinite)."""
    values = whole(tensor)
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        raise CheckpointError(
            "nonfinite", f"tensor {tensor.name} holds NaN or infinity, first at {wrong[0]}; no gain can be folded there"
        )
    return values
