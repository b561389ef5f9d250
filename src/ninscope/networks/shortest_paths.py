"""Shortest paths across several layers of a sampled network (NeuroMFA, 5.4, B.1, Algorithms 3 and 4).

A *path across k layers* starts and ends with an edge and crosses at most k weight blocks: it has 1 to k edges, each from a
node to a target of one of its layer's blocks. Between two edges it may pass through any number of links (`layout.Link`, as
v -> c of an attention), which add no distance and are no crossing; a link joins two sampled neurons, and is absent where its
partner is not sampled. Skip connections (the residual stream) are passed through only where `skips` asks for it, since they
lead around the layers that are to be crossed. Its length is the sum of its edges' distances f(|w|), those within the
bounds 1 < 1/|w| <= max_distance; the distance of two nodes is the length of the shortest such path, over all routes.

So N_i(r) of a node i counts, besides i, the nodes of all layers reached by 1 to k weight blocks, each once, at its distance.
With k = 1 there are only edges: the single-layer network, the same counts to the last one.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from ninscope.checks import MAX_SEED, checked_integer
from ninscope.errors import RequestError
from ninscope.networks.min_plus import count_distances, dense_block, min_plus_estimate
from ninscope.networks.radii import FitRadii, IntegerRadii, Radii, fitted_logarithms
from ninscope.networks.sampled import SampledNetwork
from ninscope.networks.transfer import UNCOUNTED, radius_step
from ninscope.networks.walks import BlockPart, Redrawing, Walk, distances_of
from ninscope.seeding import keyed_bits

Result = TypeVar("Result")

MAX_LAYERS_CROSSED = 1000
MAX_PATHS = 200_000_000  # 1.6 GB of distances; whoever wants more wants counts, which are taken layer by layer


def path_radii(radii: IntegerRadii, k: int, fit_radii: FitRadii = None) -> np.ndarray:
    """ln r of the radii 0..k * radii.count of paths across k layers, float64 [k * radii.count + 1], for `spectrum_of_counts`.

    Paths reach k times as far as edges, and the grid's step stays. Entry 0 stands for radius 0, which is no radius. fit_radii: as
    in Parameters; radii outside are NaN.
    """
    steps = np.arange(k * radii.count + 1)
    lengths = steps * radius_step(radii.transfer, radii.max_distance)
    return fitted_logarithms(np.log(np.maximum(steps, 1)), lengths, fit_radii)


def path_histograms(
    network: SampledNetwork,
    k: int,
    radii: IntegerRadii | None = None,
    budget: int | None = None,
    seed: int = 0,
    skips: bool = False,
    threads: int = 1,
    redrawing: Callable[[int], Redrawing | None] = lambda sample: None,
) -> Iterator[np.ndarray]:
    """For every sample the nodes that each node reaches across k layers, by rounded distance, int32 [nodes, k * count + 1].

    Like `box_histogram`: column r counts the nodes whose distance rounds to r steps of the grid (half to even), and the
    running sum plus 1 is N_i(r). Lengths go up to k * max_distance; what rounds beyond k * radii.count belongs to the last
    radius. A node then counts when it reaches more than min_degree nodes. With k = 1 parallel edges (the taps of a kernel)
    are counted one by one, as in the single-layer analysis; with k > 1 a node is counted once.

    budget, seed, skips: see `path_distances`. threads: results do not depend on it. redrawing: the null model of every sample;
    None for the network itself. Raises RequestError.
    """
    radii = _checked(k, radii, budget, seed)
    step = radius_step(radii.transfer, radii.max_distance)
    for sample in range(network.samples):
        drawn = redrawing(sample)
        if k == 1 and drawn is None:
            yield _edge_histogram(network, sample, radii)
            continue
        counts = np.zeros((network.nodes, k * radii.count + 1), np.int32)
        paths = _Paths(network, sample, radii, _Estimate.of(budget, seed, sample, k, radii), skips, drawn)
        _for_each(partial(_count, paths, k, step, counts), paths.sources, threads)
        yield counts


def _count(paths: "_Paths", k: int, step: float, counts: np.ndarray, source: str) -> None:
    """Count what the nodes of a source layer reach into their rows of `counts`."""
    for reached in paths.from_layer(source, k).values():
        count_distances(reached, step, counts[paths.rows[source]])


def path_distances(
    network: SampledNetwork,
    sample: int,
    k: int,
    radii: IntegerRadii | None = None,
    budget: int | None = None,
    seed: int = 0,
    skips: bool = False,
    threads: int = 1,
) -> dict[tuple[str, str], np.ndarray]:
    """Distances between the nodes of all pairs (source layer, layer it reaches across k layers) of one sample.

    Each is float64 [neurons of the source, neurons of the other] in the order of network.neurons, not rounded, infinity where
    no path leads. radii: transfer function and bounds, the default those of `IntegerRadii`. budget: None for the exact
    distances; else Algorithm 4's estimates from above, that many passing nodes a draw (`min_plus_estimate`), exact where
    budget reaches the size of the layers; `seed` decides which are drawn. The estimate saves nothing: with a
    budget of one it takes several times as long as the exact distances (benchmarks/paths.py). It is there to be compared with.
    skips: whether paths pass through skip connections too, at no distance.

    Raises RequestError: sample, k or budget out of range, more than MAX_PATHS distances.
    """
    radii = _checked(k, radii, budget, seed)
    if not 0 <= sample < network.samples:
        raise RequestError(f"sample is {sample!r}; the network has samples 0 to {network.samples - 1}")
    paths = _Paths(network, sample, radii, _Estimate.of(budget, seed, sample, k, radii), skips)
    most = sum(paths.sizes[source] for source in paths.sources) * network.nodes
    if most > MAX_PATHS:
        raise RequestError(
            f"up to {most:.2g} distances, more than {MAX_PATHS:.2g}; take fewer neurons, or path_histograms, which counts"
        )
    reached_by_source = _for_each(lambda source: paths.from_layer(source, k), paths.sources, threads)
    return {
        (source, layer): reached
        for source, layers in zip(paths.sources, reached_by_source, strict=True)
        for layer, reached in sorted(layers.items(), key=lambda item: paths.number[item[0]])
    }


def sampled_links(
    network: SampledNetwork, sample: int, skips: bool = True
) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """Links of which both ends are sampled: (source layer, target layer, positions in the source, positions in the target); of a
    network that is read from its targets against the links' own direction.

    Positions are int64, among a layer's sampled neurons. Links without any are left out, and with skips=False those
    that are skip connections.
    """
    rows = layer_rows(network)
    neurons = {name: network.neurons[sample, part] for name, part in rows.items()}
    links = []
    for link in network.links:
        if link.skip and not skips:
            continue
        _, here, there = np.intersect1d(
            link.targets(neurons[link.source]), neurons[link.target], assume_unique=True, return_indices=True
        )
        if here.size and network.incoming:
            links.append((link.target, link.source, there, here))
        elif here.size:
            links.append((link.source, link.target, here, there))
    return links


def layer_rows(network: SampledNetwork) -> dict[str, slice]:
    """The rows of each node layer among those of one sample, in order."""
    ends = np.cumsum(network.layer_sizes)
    named = zip(network.layer_names, network.layer_sizes, ends, strict=True)
    return {name: slice(int(end - size), int(end)) for name, size, end in named}


@dataclass(frozen=True)
class _Estimate:
    """How Algorithm 4 draws: what it needs beside the two matrices."""

    budget: int
    seed: int
    sample: int
    longest: float
    tolerance: float

    @classmethod
    def of(cls, budget: int | None, seed: int, sample: int, k: int, radii: IntegerRadii) -> "_Estimate | None":
        # Half a step: distances are rounded to the grid afterwards.
        tolerance = radius_step(radii.transfer, radii.max_distance) / 2
        return None if budget is None else cls(budget, seed, sample, k * radii.largest_distance, tolerance)

    def product(self, first: np.ndarray, second: np.ndarray, name: str) -> np.ndarray:
        # Each product has a generator of its own, so that threads do not matter.
        generator = keyed_bits(name, self.seed, self.sample)
        return min_plus_estimate(first, second, self.budget, self.longest, self.tolerance, generator)


class _Paths(Walk):
    """One sample's edges as dense blocks, a source layer each: the columns are all of its targets."""

    def __init__(
        self,
        network: SampledNetwork,
        sample: int,
        radii: IntegerRadii,
        estimate: _Estimate | None,
        skips: bool,
        redrawing: Redrawing | None = None,
    ):
        self.rows = layer_rows(network)
        sizes = {name: rows.stop - rows.start for name, rows in self.rows.items()}
        super().__init__(sizes, [name for name in self.rows if name in set(network.sources)], redrawing)
        self._estimate = estimate
        for source, target, here, there in sampled_links(network, sample, skips):
            self.links.setdefault(source, []).append((target, here, there))
        self._blocks = self._dense(network, sample, radii)

    def block(self, layer: str) -> np.ndarray:
        return self._blocks[layer]

    def product(self, first: np.ndarray, second: np.ndarray, name: str) -> np.ndarray:
        return (
            super().product(first, second, name)
            if self._estimate is None
            else self._estimate.product(first, second, name)
        )

    def _dense(self, network: SampledNetwork, sample: int, radii: IntegerRadii) -> dict[str, np.ndarray]:
        indptr, part = network.row_pointer(sample)
        columns = network.matrix.indices[part] - sample * network.nodes
        lengths = distances_of(network.matrix.data[part], radii)
        layer_of = np.repeat(np.arange(len(self.rows)), [self.sizes[name] for name in self.rows])
        names = list(self.rows)
        blocks = {}
        position = np.full(network.nodes, -1)
        for source in self.sources:
            rows = self.rows[source]
            pointer = indptr[rows.start : rows.stop + 1].astype(np.int64)
            edges = slice(int(pointer[0]), int(pointer[-1]))
            targets = self.targets[source] = [names[number] for number in np.unique(layer_of[columns[edges]])]
            width, parts = 0, []
            for target in targets:
                position[self.rows[target]] = width + np.arange(self.sizes[target])
                part_columns = np.arange(width, width + self.sizes[target])
                width += self.sizes[target]
                joined = [(np.arange(self.sizes[source]), part_columns)]
                parts.append(BlockPart(source, target, slice(width - self.sizes[target], width), joined))
            block = dense_block(pointer - pointer[0], position[columns[edges]], lengths[edges], width)
            blocks[source] = block if self.redrawing is None else self.redrawing.block(source, parts, block)
        return blocks


def _edge_histogram(network: SampledNetwork, sample: int, radii: IntegerRadii) -> np.ndarray:
    indptr, part = network.row_pointer(sample)
    bins = radii.bins(network.matrix.data[part]).astype(np.int64)
    nodes = np.repeat(np.arange(network.nodes), np.diff(indptr))
    counted = bins != UNCOUNTED
    width = radii.count + 1
    flat = np.bincount(nodes[counted] * width + bins[counted], minlength=network.nodes * width)
    return flat.astype(np.int32).reshape(network.nodes, width)


def _for_each(work: Callable[[str], Result], sources: list[str], threads: int) -> list[Result]:
    """What `work` returns for each source layer, in order."""
    if threads == 1:
        return [work(source) for source in sources]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, sources))


def _checked(k: int, radii: Radii | None, budget: int | None, seed: int) -> IntegerRadii:
    checked_integer("k", k, 1, MAX_LAYERS_CROSSED, ", the number of layers that paths cross,")
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int | np.integer) or budget < 1):
        raise RequestError(
            f"budget is {budget!r}; a positive number of passing nodes was expected, or None for exact distances"
        )
    checked_integer("seed", seed, 0, MAX_SEED)
    radii = IntegerRadii() if radii is None else radii
    if not isinstance(radii, IntegerRadii):
        raise RequestError('paths across layers go with radii "integer"; logarithmic ones span the edges of one layer')
    return radii
