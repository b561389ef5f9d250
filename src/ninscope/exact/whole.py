"""From counts to the spectrum of a whole network, in threads or in pieces that come from many machines.

Counts are integers, so a tensor may be read in bands of rows, by any number of threads, in any order; partition sums of the
node layers are added in the architecture's order. So the result does not depend on how the work was split, to the last bit.
"""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from ninscope.architectures.layout import Architecture
from ninscope.checkpoints.tensors import Checkpoint
from ninscope.exact.bands import Band, Chosen, bands_of, outgoing
from ninscope.exact.blocks import BlockTally
from ninscope.exact.counting import LayerCounts, Tally, count_band, radii_of
from ninscope.exact.layers import LayerResult, LayerStatistics, NodeValues, layer_result
from ninscope.exact.null_models import Matrix, matrices_of
from ninscope.multifractal.spectrum import Spectrum, mass_quality, spectrum_of_sums
from ninscope.networks.bin_table import BinTable, bin_table
from ninscope.networks.radii import IntegerRadii, LogRadii
from ninscope.parameters import Parameters

Radii = IntegerRadii | LogRadii
# What is known of each node layer from one piece of the work: the layer's result where all of it was there, else its counts.
Piece = Mapping[str, LayerResult | LayerCounts]


@dataclass(frozen=True)
class ExactAnalysis:
    """The whole network (or the part of it that was chosen). edges: within the bounds; nodes: all, of every node layer;
    layers, values: of every layer with outgoing edges; matrices: where null models are wanted.
    """

    spectrum: Spectrum
    nodes: int
    edges: int
    layers: tuple[LayerStatistics, ...]
    values: Mapping[str, NodeValues]
    radii: Radii
    matrices: tuple[Matrix, ...] = ()


def exact_analysis(
    checkpoint: Checkpoint,
    architecture: Architecture,
    parameters: Parameters,
    workers: int = 1,
    matrices: bool = False,
) -> ExactAnalysis:
    """Analyse the whole network of a checkpoint. workers: threads; matrices: keep what null models need.

    Raises CheckpointError.
    """
    radii = radii_of(checkpoint, architecture, parameters, workers)
    (piece,) = analyse_piece(checkpoint, architecture, parameters, radii, workers=workers, matrices=matrices)
    return combine([piece], architecture, parameters, radii)


def analyse_piece(
    checkpoint: Checkpoint,
    architecture: Architecture,
    parameters: Parameters,
    radii: Radii,
    number: int = 0,
    count: int = 1,
    workers: int = 1,
    networks: Sequence[Chosen] = (None,),
    matrices: bool = False,
) -> list[Piece]:
    """Piece `number` of `count` of the work on a checkpoint, for each network that is looked at. Raises CheckpointError."""
    parts = outgoing(architecture, architecture.tensors(checkpoint.tensors), networks)
    every, here = bands_of(parts, number, count)
    wanted: dict[str, list[Band]] = {}
    for band in here:
        wanted.setdefault(band.part.layer, []).append(band)
    bands = {name: sum(band.part.layer == name for band in every) for name in wanted}
    with ThreadPoolExecutor(workers) as pool:
        started = [
            _LayerWork(name, of_layer, radii, parameters, len(of_layer) == bands[name], matrices).start(pool)
            for name, of_layer in wanted.items()
        ]
        try:
            found = [work.result() for work in started]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [
        {work.layer: results[at] for work, results in zip(started, found, strict=True)} for at in range(len(networks))
    ]


def combine(
    pieces: Sequence[Piece],
    architecture: Architecture,
    parameters: Parameters,
    radii: Radii,
    chosen: Chosen = None,
) -> ExactAnalysis:
    """The analysis of one network from all its pieces, in any order."""
    sizes = {layer.name: layer.size if chosen is None else chosen[layer.name].size for layer in architecture.layers}
    sources = {block.source for block in architecture.blocks}
    results = []
    for layer in (layer.name for layer in architecture.layers if layer.name in sources):
        parts = [piece[layer] for piece in pieces if layer in piece]
        whole = next((part for part in parts if isinstance(part, LayerResult)), None)
        if whole is None:
            nothing = LayerCounts(np.zeros((sizes[layer], radii.count + 1), np.int32), np.zeros(sizes[layer], np.int64))
            counts = sum(parts[1:], start=parts[0]) if parts else nothing
            whole = layer_result(layer, counts, radii, parameters)
        results.append(whole)
    analysis = _analysis(results, sizes, radii, parameters)
    tallies = {name: tally for result in results for name, tally in result.matrices.items()}
    return replace(analysis, matrices=matrices_of(tallies, architecture)) if tallies else analysis


def _analysis(results: list[LayerResult], sizes: dict[str, int], radii: Radii, parameters: Parameters) -> ExactAnalysis:
    r2 = np.concatenate([result.nodes.r2 for result in results])
    total = results[0].sums
    for result in results[1:]:
        total = total + result.sums
    quality = mass_quality(r2[~np.isnan(r2)])
    spectrum = spectrum_of_sums(total, parameters.q, radii.logarithms, parameters.derivative, **quality)
    silent = [result.layer for result in results if result.sums.nodes == 0]
    if silent and not spectrum.message:
        spectrum = replace(spectrum, message=uncounted_layers(silent))
    edges = int(sum(result.nodes.edges.sum() for result in results))
    layers = tuple(result.statistics(parameters.min_degree) for result in results)
    values = {result.layer: result.nodes for result in results}
    return ExactAnalysis(spectrum, sum(sizes.values()), edges, layers, values, radii)


def uncounted_layers(names: list[str]) -> str:
    """One clause that says in which node layers no node had enough edges to count."""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"no node of {shown} has enough edges within the distance bounds; the rest was analysed without"


class _LayerWork:
    """The bands of one node layer, counted by the pool's threads; whoever finishes the last one takes the sums."""

    def __init__(self, layer, bands: list[Band], radii: Radii, parameters: Parameters, complete: bool, matrices: bool):
        self.layer, self.bands, self.radii, self.parameters = layer, bands, radii, parameters
        self.complete, self.matrices = complete, matrices
        self._lock = threading.Lock()
        self._left = len(bands)
        # As many as threads ever worked at this layer at once, each with a tally for every network.
        self._tallies: list[list[Tally]] = []
        self._idle: list[list[Tally]] = []
        self._blocks: dict[str, BlockTally] = {}
        self._found: list[LayerResult | LayerCounts] = []
        self._futures: list = []

    def start(self, pool: ThreadPoolExecutor) -> "_LayerWork":
        self._futures = [pool.submit(self._count, band) for band in self.bands]
        return self

    def result(self) -> list[LayerResult | LayerCounts]:
        """One entry a network."""
        for future in self._futures:
            future.result()
        return self._found

    def _count(self, band: Band) -> None:
        table = bin_table(band.part.tensor.checked_float_type(), self.radii)
        tallies = self._taken(band, table)
        blocks = count_band(band, table, tallies, self.matrices)
        with self._lock:
            self._idle.append(tallies)
            for name, block in blocks.items():
                self._blocks[name] = self._blocks[name] + block if name in self._blocks else block
            self._left -= 1
            if self._left:
                return
        self._finish()

    def _taken(self, band: Band, table: BinTable) -> list[Tally]:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        nodes = band.part.tensor.shape[1]
        tallies = [Tally(nodes if columns is None else columns.size, table) for columns in band.part.columns]
        with self._lock:
            self._tallies.append(tallies)
        return tallies

    def _finish(self) -> None:
        added = [
            sum((tally.counts for tally in others), start=first.counts)
            for first, *others in zip(*self._tallies, strict=True)
        ]
        self._tallies, self._idle = [], []
        added = [replace(counts, matrices=self._blocks) for counts in added]
        if self.complete:
            added = [layer_result(self.layer, counts, self.radii, self.parameters) for counts in added]
        self._found = added
