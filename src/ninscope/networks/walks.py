"""What paths across layers are made of, whether a network is sampled or whole: blocks of distances, and links between them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ninscope.networks.min_plus import min_plus
from ninscope.networks.radii import IntegerRadii
from ninscope.networks.transfer import UNCOUNTED


@dataclass(frozen=True)
class BlockPart:
    """The columns of a source layer's block that are one matrix, to one target layer.

    columns: which of the block's. groups: (numbers of nodes, numbers of columns of the block) that weights join, int64, one entry
    unless the matrix is a grouped convolution. taps: where the weights are norms of kernels, the taps of one; apart: edges between
    two neurons, the taps of kernels that are kept apart, of which the block has the shortest. std, node_norms, target_norms: of
    the matrix, deviation of its weights (of one tap), norms of each node's and of each target's weights, float64; missing where
    the weights are not all known, in a sample.
    """

    source: str
    target: str
    columns: slice
    groups: Sequence[tuple[np.ndarray, np.ndarray]] = ()
    taps: int = 1
    apart: int = 1
    std: float | None = None
    node_norms: np.ndarray = field(default_factory=lambda: np.zeros(0))
    target_norms: np.ndarray = field(default_factory=lambda: np.zeros(0))


class Redrawing(Protocol):
    """A null model of paths: what it makes of a network, layer by layer."""

    def order(self, layer: str, size: int) -> np.ndarray | None:
        """A permutation of the layer's neurons, int64 [size]: a path that arrives at neuron i leaves from order[i]; None: from
        i.
        """

    def block(self, layer: str, parts: Sequence[BlockPart], distances: np.ndarray) -> np.ndarray:
        """The block that stands for this one, float64 of its shape; the same array where nothing is drawn."""


class Walk(ABC):
    """Paths through one network, or through what a null model makes of it.

    number: of every node layer, in order; sources: layers that edges leave; links: by layer, (layer, positions here, positions
    there), int64; targets: by source layer, the layers that its block's columns are of, in order. redrawing: the null model; None:
    the network itself.
    """

    def __init__(self, sizes: Mapping[str, int], sources: Sequence[str], redrawing: Redrawing | None = None) -> None:
        self.sizes = sizes
        self.number = {name: number for number, name in enumerate(sizes)}
        self.sources = list(sources)
        self.links: dict[str, list[tuple[str, np.ndarray, np.ndarray]]] = {}
        self.targets: dict[str, list[str]] = {}
        self.redrawing = redrawing

    @abstractmethod
    def block(self, layer: str) -> np.ndarray:
        """Distances from a source layer's neurons to all its targets, float64 [neurons, targets], infinity where no edge
        counts.
        """

    def product(self, first: np.ndarray, second: np.ndarray, name: str) -> np.ndarray:
        """name: tells this product from all others of the walk."""
        return min_plus(first, second)

    def from_layer(self, source: str, k: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """Shortest distances from (some of) a source layer's nodes to the layers reached across k, float64 [nodes, layer]."""
        ends = self._apart(source, self.block(source)[rows])  # of the paths of exactly so many edges
        shortest = dict(ends)
        for crossed in range(2, k + 1):
            passing, ends = self._through_links(ends), {}
            for layer in sorted(set(passing) & set(self.sources), key=self.number.__getitem__):
                first = self._reordered(layer, passing[layer])
                _merge(ends, self._apart(layer, self.product(first, self.block(layer), f"{source}>{crossed}>{layer}")))
            if not ends:
                break
            _merge(shortest, ends)
        return shortest

    def reaches(self, source: str, k: int) -> list[list[str]]:
        """The layers whose blocks paths from a source layer go through, one entry an edge."""
        through = [[source]]
        for _ in range(k - 1):
            ends = {target for layer in through[-1] for target in self.targets[layer]}
            waiting = list(ends)
            while waiting:
                linked = {target for target, _, _ in self.links.get(waiting.pop(), ())} - ends
                ends |= linked
                waiting += linked
            through.append(sorted(ends & set(self.sources), key=self.number.__getitem__))
        return through

    def _reordered(self, layer: str, arriving: np.ndarray) -> np.ndarray:
        """Distances to a layer's neurons as distances to the rows of its block that paths go on from."""
        order = None if self.redrawing is None else self.redrawing.order(layer, self.sizes[layer])
        if order is None:
            return arriving
        leaving = np.empty_like(arriving)
        leaving[:, order] = arriving
        return leaving

    def _apart(self, source: str, block: np.ndarray) -> dict[str, np.ndarray]:
        """A block's columns by target layer."""
        columns, start = {}, 0
        for target in self.targets[source]:
            columns[target] = block[:, start : start + self.sizes[target]]
            start += self.sizes[target]
        return columns

    def _through_links(self, ends: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Where a path may go on from: its end, and all that any number of links leads to from there."""
        reached = dict(ends)
        waiting = list(reached)
        while waiting:
            layer = min(waiting, key=self.number.__getitem__)  # in the network's order most layers come up only once
            waiting.remove(layer)
            for target, here, there in self.links.get(layer, ()):
                arriving = reached[layer][:, here]
                before = reached.get(target)
                if before is None:
                    before = np.full((arriving.shape[0], self.sizes[target]), np.inf)
                if (arriving < before[:, there]).any():
                    after = before.copy()  # what it was may be the end of another path
                    after[:, there] = np.minimum(before[:, there], arriving)
                    reached[target] = after
                    if target not in waiting:
                        waiting.append(target)
        return reached


def _merge(shortest: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    for layer, reached in other.items():
        before = shortest.get(layer)
        shortest[layer] = reached if before is None else np.minimum(before, reached)


def distances_of(weights: np.ndarray, radii: IntegerRadii) -> np.ndarray:
    """f(|w|) of weights [n], float64 [n], infinity where the edge does not count."""
    counted = radii.bins(weights) != UNCOUNTED
    magnitudes = np.where(counted, np.abs(weights.astype(np.float64)), 0.5)
    return np.where(counted, radii.distances(magnitudes), np.inf)


def classes_of(distances: np.ndarray, radii: IntegerRadii, step: float) -> np.ndarray:
    """The bin of each distance, count + 1 where it is infinite, int32 of their shape: those in which edges are counted."""
    with np.errstate(invalid="ignore"):
        steps = np.minimum(np.rint(distances / step), radii.count)
    return np.where(np.isfinite(distances), steps, radii.count + 1).astype(np.int32)
