"""The interactions of one checkpoint: coupling of every pair of matrices, and spikes of every matrix; each matrix is read once.

Pairs are taken in the order of their readers, which is that in which a model runs. A writer to a residual stream is carried
(`sketches`) from when it is first read, and every reader behind it takes it from there.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ninscope.architectures.layout import WeightBlock
from ninscope.checkpoints.matrix import WeightMatrix
from ninscope.interaction.coupling import Coupling, Exactness, coupling, mean_coupling
from ninscope.interaction.matrices import Folding, Taps, Vector, block_weights
from ninscope.interaction.pairs import MAX_ACROSS, QK, Across, Neurons, Pair, Wired, Within, across_pairs, within_pairs
from ninscope.interaction.sketches import Carried, carried, coupling_carried
from ninscope.interaction.spikes import Spikes, spikes
from ninscope.wording import joined_clauses

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Options:
    """What is asked for. across: pairs through residual streams. spikes: of every matrix. exactness: see `coupling.Exactness`."""

    across: bool = True
    spikes: bool = True
    exactness: Exactness = field(default=Exactness())


@dataclass(frozen=True)
class Interactions:
    """pairs: every pair with its coupling, in the order of the readers. spikes: by the matrix's name. note: what was left out, or
    is not known, one clause, or empty. names: of the matrices, by the (source, target) that a pair's blocks have.
    """

    pairs: tuple[tuple[Pair, Coupling], ...]
    spikes: Mapping[str, Spikes]
    note: str
    names: Mapping[tuple[str, str], str]

    def rows(self) -> list[dict[str, Any]]:
        """One row a pair: the columns of the table `interactions` without its keys; missing numbers are NaN."""
        return [
            {
                "writer": self.names[pair.writer.source, pair.writer.target],
                "reader": self.names[pair.reader.source, pair.reader.target],
                "kind": pair.kind,
                "distance": pair.distance,
                **{name: getattr(found, name) for name in COUPLING},
                "message": found.message,
            }
            for pair, found in self.pairs
        ]

    def to_frame(self) -> "pd.DataFrame":
        import pandas as pd

        return pd.DataFrame(self.rows(), columns=["writer", "reader", "kind", "distance", *COUPLING, "message"])


COUPLING = ("coupling", "error", "heads", "vectors", "estimate_error", "error_vectors")


def network_interactions(
    wired: Wired, matrices: Mapping[str, WeightMatrix], vector: Vector, options: Options
) -> Interactions:
    """wired, matrices: of a network, as its architecture has them. vector: reads a gain by its tensor's name, float64 [n].

    Raises CheckpointError: what reading raises, nonfinite among them.
    """
    within = list(within_pairs(wired))
    across = list(across_pairs(wired)) if options.across else []
    notes = [] if wired.gauge is not None else ["heads and gains of normalisations are not known of this family"]
    if len(across) > MAX_ACROSS:
        notes.append(f"left out: {len(across)} pairs across blocks, more than {MAX_ACROSS}")
        across = []
    if not within and not across:
        notes.append("no pair of matrices is known of which one reads what the other writes")
    work = _Work(wired, matrices, Folding(wired.gauge, wired.true_blocks, vector), options, within, across)
    pairs_of: dict[tuple[str, str], list[Within | Across]] = {_key(block): [] for block in wired.true_blocks}
    every: list[Within | Across] = [*within, *across]
    for pair in every:
        pairs_of[_key(pair.reader)].append(pair)
    pairs: list[tuple[Pair, Coupling]] = []
    for reader in wired.true_blocks:
        work.read(reader)  # be it in no pair: of every matrix there are spikes
        pairs += [(pair, work.coupling(pair)) for pair in pairs_of[_key(reader)]]
        work.done_with(reader)
    return Interactions(tuple(pairs), work.spikes, joined_clauses(*notes), wired.names)


class _Work:
    """Reads each matrix once, keeps it while pairs need it, and keeps of writers on a stream what later readers need."""

    def __init__(
        self,
        wired: Wired,
        matrices: Mapping[str, WeightMatrix],
        folding: Folding,
        options: Options,
        within: Sequence[Within],
        across: Sequence[Across],
    ) -> None:
        self._wired, self._matrices, self._folding, self._options = wired, matrices, folding, options
        self._kept: dict[tuple[str, str], Taps] = {}
        self._uses = Counter(_key(block) for block in wired.true_blocks)
        self._uses.update(_key(block) for pair in within for block in (pair.writer, pair.reader))
        self._buffers: dict[tuple[int, ...], list[np.ndarray]] = {}  # memory is slow when it is new
        self._written: dict[tuple[str, str], Carried] = {}
        self._read: dict[tuple, Carried] = {}
        self._ways: dict[tuple[str, str], dict[tuple[str, ...], None]] = {}
        self._readers = Counter(_key(pair.writer) for pair in across)  # to come
        self.spikes: dict[str, Spikes] = {}
        for pair in across:
            self._ways.setdefault(_key(pair.writer), {})[self._way(pair)] = None

    def coupling(self, pair: Within | Across) -> Coupling:
        return self._within(pair) if isinstance(pair, Within) else self._across(pair)

    def _within(self, pair: Within) -> Coupling:
        writer, reader = self.read(pair.writer), self.read(pair.reader)
        a, b = writer.as_writer, reader.as_writer.T if pair.kind == QK else reader.as_reader
        heads = [
            coupling(a[_all(written)], b[:, _all(read)], self._options.exactness, pair.rotary)
            for written, read in pair.heads
        ]
        self.done_with(pair.writer)
        self.done_with(pair.reader)
        return mean_coupling(heads)

    def _across(self, pair: Across) -> Coupling:
        way, key = self._way(pair), _key(pair.writer)
        if key not in self._written:
            self.read(pair.writer)
        found = coupling_carried(self._written[key], self._carried_reader(pair), way, self._folding.stream)
        self._readers[key] -= 1
        if not self._readers[key]:
            del self._written[key]
        return found

    def read(self, block: WeightBlock) -> Taps:
        """A block's matrix, with what is folded into it; what the writer carries, and spikes, are taken when it is first read."""
        key = _key(block)
        if key in self._kept:
            return self._kept[key]
        stored = block_weights(self._matrices[block.tensor], block, self._wired.sizes[block.target])
        name = self._wired.names[key]
        if self._options.spikes and name not in self.spikes:
            self.spikes[name] = spikes(stored.reshape(len(stored), -1), name, self._options.exactness.seed)
        free = self._buffers.get(stored.shape)
        matrix = Taps(self._folding.folded(block, stored, free.pop() if free else np.empty(stored.shape)))
        if self._readers[key] and key not in self._written:
            ways, norms = tuple(self._ways[key]), self._folding.stream
            self._written[key] = carried(matrix.as_writer, f"{name} writes", self._options.exactness, ways, norms)
        self._kept[key] = matrix
        return matrix

    def done_with(self, block: WeightBlock) -> None:
        """One use of a matrix has ended; after the last one its memory is another's."""
        key = _key(block)
        self._uses[key] -= 1
        if not self._uses[key]:
            weights = self._kept.pop(key).weights
            self._buffers.setdefault(weights.shape, []).append(weights)

    def _carried_reader(self, pair: Across) -> Carried:
        """What is kept of the reader, for the writers that lead to these of its neurons; the next pairs are mostly its own too."""
        key = (_key(pair.reader), None if pair.places is None else pair.places.tobytes())
        if key not in self._read:
            self._read = {other: kept for other, kept in self._read.items() if other[0] == key[0]}
            matrix = self.read(pair.reader).as_reader
            columns = matrix if pair.places is None else matrix[:, pair.places]
            name = f"{self._wired.names[_key(pair.reader)]} reads"
            self._read[key] = carried(columns.T, name, self._options.exactness)
        return self._read[key]

    def _way(self, pair: Across) -> tuple[str, ...]:
        """The normalisations of the stream that it passes; the last layer's is folded into the reader."""
        return tuple(layer for layer in pair.layers[:-1] if layer in self._folding.stream)


def _all(neurons: Neurons) -> np.ndarray | slice:
    return slice(None) if neurons is None else neurons


def _key(block: WeightBlock) -> tuple[str, str]:
    return block.source, block.target
