"""From counts to the spectrum of a whole network, in threads or in pieces that come from many machines.

Counts are integers, so a tensor may be read in bands of rows, by any number of threads, in any order; partition sums of the
node layers are added in the architecture's order. So the result does not depend on how the work was split, to the last bit.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from ninscope.architectures.layout import parts_of
from ninscope.checkpoints.matrix import WeightTile
from ninscope.checkpoints.verification import Verification, unverified
from ninscope.exact.bands import Band, BandReader, ChosenNeurons, Outgoing, bands_of, outgoing
from ninscope.exact.blocks import BlockTally, merged
from ninscope.exact.counting import LayerCounts, Tally, check_finite, count_band, radii_of
from ninscope.exact.layers import LayerResult, LayerStatistics, NodeValues, layer_result
from ninscope.exact.null_models import MatrixBins, matrices_of
from ninscope.exact.paths import analyse_paths
from ninscope.multifractal.jackknife import left_out_values
from ninscope.multifractal.partition import PartitionSums
from ninscope.multifractal.spectrum import Spectrum, mass_quality, spectrum_of_sums
from ninscope.networks.bin_table import BinTable, bin_table
from ninscope.networks.neuron_network import NeuronNetwork
from ninscope.networks.radii import Radii
from ninscope.parameters import Parameters
from ninscope.wording import first_names

# Sums of single layers are kept up to this size, to leave out one at a time: 169 layers at the default radii and q take 25 MB.
MAX_LEFT_OUT_BYTES = 400_000_000

# One piece of the work on a network, by node layer: the layer's result where all its bands were in the piece, else its counts.
PartialAnalysis = Mapping[str, LayerResult | LayerCounts]


class Passenger(Protocol):
    """What else wants to see the weights while they are read for the exact analysis (a `weights.counting.WeightCounter`)."""

    def see(self, part: Outgoing, tile: WeightTile, dtype: str) -> bool:
        """Takes a tile of weights of the type dtype; each comes once, in any order, from any thread.

        False where one of them is not finite, which those of an exact analysis are.
        """


@dataclass(frozen=True)
class ExactAnalysis:
    """The exact analysis of a whole network, or of chosen neurons of it.

    edges: those within the distance bounds; nodes: those of every node layer; layers: statistics of every layer that edges
    leave; values: of the single nodes of these layers, where Parameters.per_node asks for them; matrices: what null models need,
    where it was asked for; parts: where Parameters.parts asks for them, spectra of parts of the network by the part's name;
    layers_counted: layers with a node that counts; counted_layers: their names. unverified: a clause on files from a Hub whose
    hash could not be checked, or empty.
    """

    spectrum: Spectrum
    nodes: int
    edges: int
    layers: tuple[LayerStatistics, ...]
    values: Mapping[str, NodeValues]
    radii: Radii
    matrices: tuple[MatrixBins, ...] = ()
    parts: Mapping[str, Spectrum] = field(default_factory=dict)
    layers_counted: int | None = None
    unverified: str = ""
    counted_layers: frozenset[str] | None = None


def exact_analysis(
    network: NeuronNetwork,
    parameters: Parameters,
    workers: int = 1,
    matrices: bool = False,
    statistics: bool = True,
    passenger: Passenger | None = None,
) -> ExactAnalysis:
    """Analyse a whole network. workers: threads; matrices: keep what null models need; statistics: of every node layer; passenger:
    sees every weight too.

    Across several layers (Parameters.layers_crossed) it has neither matrices nor statistics, and its edges are the pairs of
    neurons that a path joins. Raises CheckpointError.
    """
    if parameters.layers_crossed > 1:
        return _across_layers(network, parameters, workers)
    reads_twice = parameters.log_count is not None  # and each time what is read must be right
    verification = Verification(network.tensors if reads_twice else ())
    radii = radii_of(network, parameters, workers)
    verification.finish()
    (analysis,) = analyse_networks(network, parameters, radii, [None], workers, matrices, statistics, passenger)
    return analysis


def _across_layers(network: NeuronNetwork, parameters: Parameters, workers: int) -> ExactAnalysis:
    found = analyse_paths(network, parameters, workers)
    spectrum = found.spectrum
    if found.silent and not spectrum.message:
        spectrum = replace(spectrum, message=uncounted_layers(list(found.silent)))
    nodes = sum(layer.size for layer in network.layers)
    return ExactAnalysis(
        spectrum,
        nodes,
        found.reached,
        (),
        {},
        parameters.integer_radii,
        parts=found.parts,
        layers_counted=len(network.source_layers) - len(found.silent),
        unverified=found.unverified,
        counted_layers=_names_without(network, found.silent),
    )


def _names_without(network: NeuronNetwork, silent: Sequence[str]) -> frozenset[str]:
    return frozenset(layer.name for layer in network.source_layers) - frozenset(silent)


def analyse_networks(
    network: NeuronNetwork,
    parameters: Parameters,
    radii: Radii,
    choices: Sequence[ChosenNeurons],
    workers: int = 1,
    matrices: bool = False,
    statistics: bool = True,
    passenger: Passenger | None = None,
) -> list[ExactAnalysis]:
    """Analyse the whole network, or the network of chosen neurons, for each entry of `choices`, in one pass over the weights.

    A layer's sums are added as soon as they are there, so memory does not grow with the number of layers. Raises
    CheckpointError.
    """
    growing = [GrowingAnalysis(network, parameters, radii, chosen, statistics) for chosen in choices]
    verification = Verification(network.tensors)
    for _, results in _layers(network, parameters, radii, 0, 1, workers, choices, matrices, passenger):
        for analysis, result in zip(growing, results, strict=True):
            assert isinstance(result, LayerResult)  # of one piece, every layer is complete
            analysis.add(result)
    note = verification.finish()
    return [replace(analysis.analysis(), unverified=note) for analysis in growing]


def analyse_piece(
    network: NeuronNetwork,
    parameters: Parameters,
    radii: Radii,
    number: int = 0,
    count: int = 1,
    workers: int = 1,
    choices: Sequence[ChosenNeurons] = (None,),
    matrices: bool = False,
    passenger: Passenger | None = None,
) -> list[PartialAnalysis]:
    """Piece `number` of `count` of the work on a network, one entry for each of `choices`. Raises CheckpointError."""
    pieces: list[dict[str, LayerResult | LayerCounts]] = [{} for _ in choices]
    for layer, results in _layers(network, parameters, radii, number, count, workers, choices, matrices, passenger):
        for piece, result in zip(pieces, results, strict=True):
            piece[layer] = result
    return list(pieces)


def combine(
    pieces: Sequence[PartialAnalysis],
    network: NeuronNetwork,
    parameters: Parameters,
    radii: Radii,
    chosen: ChosenNeurons = None,
) -> ExactAnalysis:
    """The analysis of one network from all its pieces, in any order. Raises ValueError where a layer is in no piece."""
    growing = GrowingAnalysis(network, parameters, radii, chosen)
    for layer in network.source_layers:
        growing.add(_whole_layer(layer.name, pieces, radii, parameters))
    return replace(growing.analysis(), unverified=unverified(network.matrices.values()))


def _whole_layer(layer: str, pieces: Sequence[PartialAnalysis], radii: Radii, parameters: Parameters) -> LayerResult:
    parts = [piece[layer] for piece in pieces if layer in piece]
    if not parts:
        raise ValueError(f"no piece holds the counts of {layer}")
    counts = []
    for part in parts:
        if isinstance(part, LayerResult):
            return part
        counts.append(part)
    return layer_result(layer, sum(counts[1:], start=counts[0]), radii, parameters)


def _layers(
    network: NeuronNetwork,
    parameters: Parameters,
    radii: Radii,
    number: int,
    count: int,
    workers: int,
    choices: Sequence[ChosenNeurons],
    matrices: bool,
    passenger: Passenger | None,
) -> Iterator[tuple[str, list[LayerResult | LayerCounts]]]:
    """The layers of a piece in the network's order, as they are done, each with one entry for each of `choices`."""
    all_bands, own_bands = bands_of(outgoing(network, choices), number, count)
    totals, own = (Counter(band.part.layer for band in bands) for bands in (all_bands, own_bands))
    complete = {layer for layer, bands in own.items() if bands == totals[layer]}
    yield from counted_layers(own_bands, parameters, radii, complete, workers, matrices, passenger)


def counted_layers(
    own_bands: Sequence[Band],
    parameters: Parameters,
    radii: Radii,
    complete: Collection[str],
    workers: int,
    matrices: bool = False,
    passenger: Passenger | None = None,
) -> Iterator[tuple[str, list[LayerResult | LayerCounts]]]:
    """The layers that bands belong to, in their order, as they are done, each with one entry for each network that is analysed.

    complete: the layers all of whose bands are there; of others the counts are given. Raises CheckpointError.
    """
    bands_by_layer: dict[str, list[Band]] = {}
    for band in own_bands:
        bands_by_layer.setdefault(band.part.layer, []).append(band)
    reader = BandReader(own_bands)
    works = (  # made one by one: a list would keep the counts of every layer until the last is done
        _LayerWork(layer, bands, reader, radii, parameters, layer in complete, matrices, passenger)
        for layer, bands in bands_by_layer.items()
    )
    if workers == 1:  # a thread of its own would take turns with this one, and each turn costs
        for work in works:
            work.count_all()
            yield work.layer, work.result()
        return
    with ThreadPoolExecutor(workers) as pool:
        started = deque(work.start(pool) for work in works)
        try:
            while started:
                work = started.popleft()
                yield work.layer, work.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


class GrowingAnalysis:
    """The analysis of one network, to which layers are added one after another, in the network's order."""

    def __init__(
        self,
        network: NeuronNetwork,
        parameters: Parameters,
        radii: Radii,
        chosen: ChosenNeurons = None,
        statistics: bool = True,
    ) -> None:
        self._keeps_statistics = statistics
        self._nodes = sum(layer.size if chosen is None else chosen[layer.name].size for layer in network.layers)
        self._network, self._parameters, self._radii = network, parameters, radii
        self._whole = _LayerSums()
        layers_of = parts_of(network.source_layers, parameters.parts)
        self._parts = {part: (set(layers), _LayerSums()) for part, layers in layers_of.items()}
        self._edges = 0
        self._silent: list[str] = []
        self._statistics: list[LayerStatistics] = []
        self._values: dict[str, NodeValues] = {}
        self._tallies: dict[str, BlockTally] = {}
        self._layers: list[PartitionSums] | None = [] if statistics else None

    def add(self, result: LayerResult) -> None:
        self._whole.add(result)
        for names, sums in self._parts.values():
            if result.layer in names:
                sums.add(result)
        self._edges += int(result.nodes.edges.sum())
        if result.sums.nodes == 0:
            self._silent.append(result.layer)
        if self._keeps_statistics:
            self._statistics.append(result.statistics(self._parameters.min_degree))
            self._keep(result.sums)
        if self._parameters.per_node:
            self._values[result.layer] = result.nodes
        self._tallies |= result.matrices

    def _keep(self, sums: PartitionSums) -> None:
        """Keep a layer's sums, to leave it out later, as long as those of all fit into memory."""
        if self._layers is not None:
            self._layers.append(sums)
            if len(self._layers) * (sums.z.nbytes + sums.m.nbytes) > MAX_LEFT_OUT_BYTES:
                self._layers = None

    def _layer_statistics(self) -> tuple[LayerStatistics, ...]:
        if not self._layers:
            return tuple(self._statistics)
        parameters = self._parameters
        values = left_out_values(self._layers, parameters.q, parameters.log_radii(self._radii), parameters.derivative)
        return tuple(
            replace(layer, alpha0_without=alpha0, width_without=width)
            for layer, (alpha0, width) in zip(self._statistics, values.tolist(), strict=True)
        )

    def analysis(self) -> ExactAnalysis:
        parameters, radii = self._parameters, self._radii
        spectrum = self._whole.spectrum(parameters, radii)
        if self._silent and not spectrum.message:
            spectrum = replace(spectrum, message=uncounted_layers(self._silent))
        matrices = matrices_of(self._tallies, self._network) if self._tallies else ()
        parts = {name: sums.spectrum(parameters, radii) for name, (_, sums) in self._parts.items()}
        return ExactAnalysis(
            spectrum,
            self._nodes,
            self._edges,
            self._layer_statistics(),
            self._values,
            radii,
            matrices,
            parts,
            len(self._network.source_layers) - len(self._silent),
            counted_layers=_names_without(self._network, self._silent),
        )


class _LayerSums:
    """What a spectrum needs of some layers, added layer after layer."""

    def __init__(self) -> None:
        self._sums: PartitionSums | None = None
        self._r2: list[np.ndarray] = []

    def add(self, result: LayerResult) -> None:
        self._sums = result.sums if self._sums is None else self._sums + result.sums
        self._r2.append(result.nodes.r2[~np.isnan(result.nodes.r2)])

    def spectrum(self, parameters: Parameters, radii: Radii) -> Spectrum:
        """Raises ValueError where no layer was added."""
        if self._sums is None:
            raise ValueError("a network without a layer that edges leave has no spectrum")
        quality = mass_quality(np.concatenate(self._r2))
        return spectrum_of_sums(self._sums, parameters.q, parameters.log_radii(radii), parameters.derivative, **quality)


def uncounted_layers(names: list[str]) -> str:
    """One clause that says in which node layers no node had enough edges to count."""
    shown = first_names(names)
    return f"no node of {shown} has enough edges within the distance bounds; the rest was analysed without"


class _LayerWork:
    """The bands of one node layer, counted here or by a pool's threads; whoever finishes the last one takes the sums."""

    def __init__(
        self,
        layer: str,
        bands: list[Band],
        reader: BandReader,
        radii: Radii,
        parameters: Parameters,
        complete: bool,
        matrices: bool,
        passenger: Passenger | None,
    ) -> None:
        self.layer, self.bands, self.reader, self.radii, self.parameters = layer, bands, reader, radii, parameters
        self.complete, self.matrices, self.passenger = complete, matrices, passenger
        self._lock = threading.Lock()
        self._left = len(bands)
        # As many as threads ever worked at this layer at once, each with a tally for every network.
        self._tallies: list[list[Tally]] = []
        self._idle: list[list[Tally]] = []
        self._blocks: dict[str, BlockTally] = {}
        self._results: list[LayerResult | LayerCounts] = []
        self._futures: list[Future[None]] = []

    def count_all(self) -> None:
        """Count every band in this thread."""
        for band in self.bands:
            self._count(band)

    def start(self, pool: ThreadPoolExecutor) -> "_LayerWork":
        self._futures = [pool.submit(self._count, band) for band in self.bands]
        return self

    def result(self) -> list[LayerResult | LayerCounts]:
        """One entry a network."""
        for future in self._futures:
            future.result()
        return self._results

    def _count(self, band: Band) -> None:
        table = bin_table(band.part.matrix.dtype, self.radii)
        tallies = self._taken(band, table)
        blocks = count_band(band, self.reader.raw(band), table, tallies, self.matrices, self._see_along(band))
        with self._lock:
            self._idle.append(tallies)
            self._blocks = merged(self._blocks, blocks)
            self._left -= 1
            if self._left:
                return
        self._finish()

    def _see_along(self, band: Band) -> Callable[[WeightTile], object] | None:
        see = None if self.passenger is None else self.passenger.see
        return None if see is None else lambda tile: see(band.part, tile, band.part.matrix.dtype)

    def _taken(self, band: Band, table: BinTable) -> list[Tally]:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        all_nodes = band.part.matrix.size[1]
        tallies = [Tally(all_nodes if nodes is None else nodes.size, table) for nodes in band.part.nodes]
        with self._lock:
            self._tallies.append(tallies)
        return tallies

    def _finish(self) -> None:
        check_finite((tally for tallies in self._tallies for tally in tallies), self.bands)
        sums = [
            sum((tally.counts for tally in others), start=first.counts)
            for first, *others in zip(*self._tallies, strict=True)
        ]
        self._tallies, self._idle = [], []
        sums = [replace(counts, matrices=self._blocks) for counts in sums]
        if self.complete:
            self._results = [layer_result(self.layer, counts, self.radii, self.parameters) for counts in sums]
        else:
            self._results = list(sums)
