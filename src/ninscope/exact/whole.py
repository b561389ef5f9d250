"""From counts to the spectrum of a whole network, in threads or in pieces that come from many machines.

Counts are integers, so a tensor may be read in bands of rows, by any number of threads, in any order; partition sums of the
node layers are added in the architecture's order. So the result does not depend on how the work was split, to the last bit.
"""

import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from ninscope.architectures.layout import Architecture, parts_of
from ninscope.checkpoints.tensors import Checkpoint
from ninscope.exact.bands import Band, BandReader, Chosen, bands_of, outgoing
from ninscope.exact.blocks import BlockTally, merged
from ninscope.exact.counting import LayerCounts, Tally, count_band, radii_of
from ninscope.exact.layers import LayerResult, LayerStatistics, NodeValues, layer_result
from ninscope.exact.null_models import Matrix, matrices_of
from ninscope.multifractal.partition import PartitionSums
from ninscope.multifractal.spectrum import Spectrum, mass_quality, spectrum_of_sums
from ninscope.networks.bin_table import BinTable, bin_table
from ninscope.networks.radii import Radii
from ninscope.parameters import Parameters

# What is known of each node layer from one piece of the work: the layer's result where all of it was there, else its counts.
Piece = Mapping[str, LayerResult | LayerCounts]


@dataclass(frozen=True)
class ExactAnalysis:
    """The whole network (or the part of it that was chosen). edges: within the bounds; nodes: all, of every node layer;
    layers: of every layer with outgoing edges; values: of their nodes, where Parameters.per_node asks; matrices: where null
    models are wanted; parts: where Parameters.parts asks, spectra by the part's name.
    """

    spectrum: Spectrum
    nodes: int
    edges: int
    layers: tuple[LayerStatistics, ...]
    values: Mapping[str, NodeValues]
    radii: Radii
    matrices: tuple[Matrix, ...] = ()
    parts: Mapping[str, Spectrum] = field(default_factory=dict)


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
    (analysis,) = analyse_networks(checkpoint, architecture, parameters, radii, [None], workers, matrices)
    return analysis


def analyse_networks(
    checkpoint: Checkpoint,
    architecture: Architecture,
    parameters: Parameters,
    radii: Radii,
    networks: Sequence[Chosen],
    workers: int = 1,
    matrices: bool = False,
) -> list[ExactAnalysis]:
    """Analyse several networks of a checkpoint, each all of it or chosen neurons, from one pass over its weights.

    A layer's sums are added as soon as they are there, so what is held does not grow with layers. Raises CheckpointError.
    """
    growing = [_Growing(architecture, parameters, radii, chosen) for chosen in networks]
    for _, found in _layers(checkpoint, architecture, parameters, radii, 0, 1, workers, networks, matrices):
        for one, result in zip(growing, found, strict=True):
            one.add(result)
    return [one.analysis() for one in growing]


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
    pieces: list[dict] = [{} for _ in networks]
    for layer, found in _layers(
        checkpoint, architecture, parameters, radii, number, count, workers, networks, matrices
    ):
        for piece, part in zip(pieces, found, strict=True):
            piece[layer] = part
    return pieces


def combine(
    pieces: Sequence[Piece],
    architecture: Architecture,
    parameters: Parameters,
    radii: Radii,
    chosen: Chosen = None,
) -> ExactAnalysis:
    """The analysis of one network from all its pieces, in any order."""
    growing = _Growing(architecture, parameters, radii, chosen)
    for layer in growing.layers:
        parts = [piece[layer] for piece in pieces if layer in piece]
        if not parts:
            raise ValueError(f"no piece holds the counts of {layer}")
        whole = next((part for part in parts if isinstance(part, LayerResult)), None)
        growing.add(whole or layer_result(layer, sum(parts[1:], start=parts[0]), radii, parameters))
    return growing.analysis()


def _layers(
    checkpoint: Checkpoint,
    architecture: Architecture,
    parameters: Parameters,
    radii: Radii,
    number: int,
    count: int,
    workers: int,
    networks: Sequence[Chosen],
    matrices: bool,
) -> Iterator[tuple[str, list[LayerResult | LayerCounts]]]:
    """The layers of a piece in the architecture's order, one entry a network each, as they are done."""
    every, here = bands_of(outgoing(architecture, architecture.tensors(checkpoint.tensors), networks), number, count)
    wanted: dict[str, list[Band]] = {}
    for band in here:
        wanted.setdefault(band.part.layer, []).append(band)
    bands = Counter(band.part.layer for band in every)
    reader = BandReader(here)
    with ThreadPoolExecutor(workers) as pool:
        started = deque(
            _LayerWork(name, of_layer, reader, radii, parameters, len(of_layer) == bands[name], matrices).start(pool)
            for name, of_layer in wanted.items()
        )
        try:
            while started:
                work = started.popleft()
                yield work.layer, work.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


class _Growing:
    """The analysis of one network, layer after layer in the architecture's order."""

    def __init__(self, architecture: Architecture, parameters: Parameters, radii: Radii, chosen: Chosen):
        sources = {block.source for block in architecture.blocks}
        self.layers = [layer.name for layer in architecture.layers if layer.name in sources]
        self._nodes = sum(layer.size if chosen is None else chosen[layer.name].size for layer in architecture.layers)
        self._architecture, self._parameters, self._radii = architecture, parameters, radii
        self._whole = _Sums()
        asked = parts_of([layer for layer in architecture.layers if layer.name in sources], parameters.parts)
        self._parts = {name: (set(names), _Sums()) for name, names in asked.items()}
        self._edges = 0
        self._silent: list[str] = []
        self._statistics: list[LayerStatistics] = []
        self._values: dict[str, NodeValues] = {}
        self._tallies: dict[str, BlockTally] = {}

    def add(self, result: LayerResult) -> None:
        self._whole.add(result)
        for names, sums in self._parts.values():
            if result.layer in names:
                sums.add(result)
        self._edges += int(result.nodes.edges.sum())
        if result.sums.nodes == 0:
            self._silent.append(result.layer)
        self._statistics.append(result.statistics(self._parameters.min_degree))
        if self._parameters.per_node:
            self._values[result.layer] = result.nodes
        self._tallies |= result.matrices

    def analysis(self) -> ExactAnalysis:
        parameters, radii = self._parameters, self._radii
        spectrum = self._whole.spectrum(parameters, radii)
        if self._silent and not spectrum.message:
            spectrum = replace(spectrum, message=uncounted_layers(self._silent))
        matrices = matrices_of(self._tallies, self._architecture) if self._tallies else ()
        parts = {name: sums.spectrum(parameters, radii) for name, (_, sums) in self._parts.items()}
        return ExactAnalysis(
            spectrum, self._nodes, self._edges, tuple(self._statistics), self._values, radii, matrices, parts
        )


class _Sums:
    """What a spectrum needs of some layers, added layer after layer."""

    def __init__(self):
        self._sums: PartitionSums | None = None
        self._r2: list[np.ndarray] = []

    def add(self, result: LayerResult) -> None:
        self._sums = result.sums if self._sums is None else self._sums + result.sums
        self._r2.append(result.nodes.r2[~np.isnan(result.nodes.r2)])

    def spectrum(self, parameters: Parameters, radii: Radii) -> Spectrum:
        quality = mass_quality(np.concatenate(self._r2))
        return spectrum_of_sums(self._sums, parameters.q, radii.logarithms, parameters.derivative, **quality)


def uncounted_layers(names: list[str]) -> str:
    """One clause that says in which node layers no node had enough edges to count."""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"no node of {shown} has enough edges within the distance bounds; the rest was analysed without"


class _LayerWork:
    """The bands of one node layer, counted by the pool's threads; whoever finishes the last one takes the sums."""

    def __init__(
        self,
        layer: str,
        bands: list[Band],
        reader: BandReader,
        radii: Radii,
        parameters: Parameters,
        complete: bool,
        matrices: bool,
    ):
        self.layer, self.bands, self.reader, self.radii, self.parameters = layer, bands, reader, radii, parameters
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
        table = bin_table(band.part.matrix.dtype, self.radii)
        tallies = self._taken(band, table)
        blocks = count_band(band, self.reader.raw(band), table, tallies, self.matrices)
        with self._lock:
            self._idle.append(tallies)
            self._blocks = merged(self._blocks, blocks)
            self._left -= 1
            if self._left:
                return
        self._finish()

    def _taken(self, band: Band, table: BinTable) -> list[Tally]:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        every = band.part.matrix.size[1]
        tallies = [Tally(every if nodes is None else nodes.size, table) for nodes in band.part.nodes]
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
