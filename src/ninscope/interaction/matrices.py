"""The matrices of a network as pairs need them: whole, in float64, with what normalisations multiply folded into them.

A gain that scales what a matrix reads is folded into its columns. One that scales what it writes (a normalisation of a part's
output, or of q or k; LayerScale) is folded into its rows. That a LayerNorm takes off the mean is folded in too. So it makes no
difference whether a factor stands in the gain or in the matrix. The taps of a convolution are edges of their own: rows of a
reader, columns of a writer.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ninscope.architectures.gauge import STREAM, Gauge, HeadNorm
from ninscope.architectures.layout import WeightBlock
from ninscope.checkpoints.matrix import WeightMatrix
from ninscope.checkpoints.tensors import as_float
from ninscope.errors import CheckpointError
from ninscope.interaction.sketches import Norm

Vector = Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Taps:
    """A block's weights, float64 [targets, nodes, taps]."""

    weights: np.ndarray

    @property
    def as_writer(self) -> np.ndarray:
        """A: [targets, nodes * taps]."""
        return self.weights.reshape(len(self.weights), -1)

    @property
    def as_reader(self) -> np.ndarray:
        """B: [targets * taps, nodes]."""
        if self.weights.shape[2] == 1:
            return self.weights[:, :, 0]
        return self.weights.transpose(0, 2, 1).reshape(-1, self.weights.shape[1])


def block_weights(matrix: WeightMatrix, block: WeightBlock, targets: int) -> np.ndarray:
    """A block's weights as they are stored, floats [targets, nodes, taps]; 0 where a convolution's groups do not join two.

    Raises CheckpointError, as reading does (nonfinite among them).
    """
    matrix = replace(matrix, layout=replace(matrix.layout, kernels="per_tap"))
    rows = block.rows.rows(np.arange(targets))
    if matrix.layout.order == "linear":  # what most matrices are, without the copies of the rest
        wanted = np.sort(rows)
        values, position = matrix.tensor.rows(wanted)
        if not np.array_equal(position, np.arange(len(values))) or not np.array_equal(wanted, rows):
            values = values.take(position[np.searchsorted(wanted, rows)], axis=0)
        return as_float(values, matrix.dtype)[:, :, None]
    nodes = np.arange(matrix.size[1])
    slices = matrix.slices_of(rows, nodes)
    wanted = np.unique(slices)
    values, position = matrix.tensor.rows(wanted)
    weights = matrix.taken(matrix.weights(values), position[np.searchsorted(wanted, slices)], rows, nodes)
    return weights.reshape(targets, matrix.taps, nodes.size).transpose(0, 2, 1)


class Folding:
    """What is multiplied into each matrix. gauge: None where the family says nothing, and then nothing is."""

    def __init__(self, gauge: Gauge | None, blocks: tuple[WeightBlock, ...], vector: Vector) -> None:
        self._vector = vector
        self._columns: dict[str, list[Norm]] = {}  # by the matrix's name, what it reads last first
        self._rows: dict[str, list[Norm]] = {}
        self._head_norms: dict[str, tuple[HeadNorm, int]] = {}  # by the target layer
        self.stream: dict[str, Norm] = {}  # normalisations of a residual stream, by the layer that they give
        sources = {block.tensor: block.source for block in blocks}
        for gain in gauge.gains if gauge is not None else ():
            norm = Norm(gain.offset + vector(gain.tensor), gain.centred)
            for name in gain.readers:
                self._columns.setdefault(name, []).append(norm)
                if gain.place == STREAM and name in sources:
                    self.stream[sources[name]] = norm
            for name in gain.writers:
                self._rows.setdefault(name, []).append(norm)
        for attention in gauge.attentions if gauge is not None else ():
            for layer, head_norm in ((attention.q, attention.q_norm), (attention.k, attention.k_norm)):
                if head_norm is not None and head_norm.tensor:
                    self._head_norms[layer] = head_norm, attention.head_dim

    def folded(self, block: WeightBlock, weights: np.ndarray, out: np.ndarray) -> np.ndarray:
        """weights: floats [targets, nodes, taps]. out: float64 of that shape, which is filled and returned. Raises CheckpointError
        (corrupt)."""
        np.copyto(out, weights)
        folded = out
        for norm in self._columns.get(block.tensor, ()):
            _check_length(norm.gain, folded.shape[1], block)
            folded *= norm.gain[:, None]
            if norm.centred:
                folded -= folded.mean(axis=1, keepdims=True)
        for norm in self._rows.get(block.tensor, ()):
            _check_length(norm.gain, len(folded), block)
            if norm.centred:
                folded -= folded.mean(axis=0)
            folded *= norm.gain[:, None, None]
        if block.target in self._head_norms:
            head_norm, head_dim = self._head_norms[block.target]
            gain = head_norm.offset + self._vector(head_norm.tensor)
            if head_norm.per_head:
                _check_length(gain, head_dim, block)
                gain = np.tile(gain, len(folded) // head_dim)
            _check_length(gain, len(folded), block)
            folded *= gain[:, None, None]
        return folded


def _check_length(gain: np.ndarray, neurons: int, block: WeightBlock) -> None:
    if gain.size != neurons:
        raise CheckpointError(
            "corrupt", f"{block.tensor}: a gain of {gain.size} numbers belongs to it, where {neurons} were expected"
        )
