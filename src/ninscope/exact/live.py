"""The exact analysis of a model that lies in memory, whole or in pieces on many ranks, on CPUs or on devices that count.

Each rank counts the pieces that it holds, layer by layer; counts are added over the ranks, and what follows from them is what
follows from the counts of a file: the same bits. No rank sees more of a matrix than its pieces.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from ninscope.checkpoints import held_pieces
from ninscope.distributed.shards import check_same_model
from ninscope.errors import CheckpointError, RequestError
from ninscope.exact.bands import Band, counted_in_place, held_bands, outgoing
from ninscope.exact.blocks import matrix_name
from ninscope.exact.controls import Rescaling
from ninscope.exact.counting import LayerCounts
from ninscope.exact.layers import LayerResult, layer_result
from ninscope.exact.rescaled import Factors, RescaledLayer, rescaled_counts, rescaled_layer
from ninscope.exact.whole import ExactAnalysis, GrowingAnalysis, Passenger, counted_layers
from ninscope.networks.incoming import DIRECTIONS
from ninscope.networks.neuron_network import NeuronNetwork
from ninscope.networks.radii import Radii
from ninscope.parameters import Parameters
from ninscope.ranks import ALONE, Ranks
from ninscope.weights.counting import weights_of_matrices
from ninscope.weights.norms import NetworkNorms, NormCounter, norms_of_sums

T = TypeVar("T")


@dataclass(frozen=True)
class LiveReading:
    """What one look at a model found.

    norms: of its matrices. squares: by the matrix's name, int64 [256, 4], the sums that these follow from (`weights.exact_sums`),
    zeros of F64. counts: by node layer, where they were kept.
    """

    analysis: ExactAnalysis
    norms: NetworkNorms
    squares: Mapping[str, np.ndarray]
    counts: Mapping[str, LayerCounts] = field(default_factory=dict)


def is_spread(network: NeuronNetwork) -> bool:
    """Whether several ranks hold the network together, so that they must count it together."""
    return any(held_pieces.is_spread(tensor) for tensor in network.tensors)


def ranks_of(network: NeuronNetwork) -> Ranks:
    """Who counts a network together: the ranks that share its tensors."""
    files = (tensor.file for tensor in network.tensors if held_pieces.is_spread(tensor))
    return next((getattr(file, "ranks", ALONE) for file in files), ALONE)


def check_held_alike(network: NeuronNetwork, ranks: Ranks) -> None:
    """Make sure that ranks hold the same network. All of them call this. Raises CheckpointError, as `shards.check_same_model`."""
    files: dict[str, Any] = {tensor.name: tensor.file for tensor in network.tensors}
    check_same_model({name: file for name, file in files.items() if getattr(file, "is_in_memory", False)}, ranks)


def lies_on_devices(network: NeuronNetwork) -> bool:
    """Whether some of its weights lie on a device that counts them itself."""
    pieces = (piece for tensor in network.tensors for piece in held_pieces.lying_pieces(tensor) or ())
    return any(counted_in_place(piece.values) for piece in pieces)


def live_analysis(
    network: NeuronNetwork, parameters: Parameters, ranks: Ranks = ALONE, workers: int = 1, keep_counts: bool = False
) -> LiveReading:
    """Analyse a network that lies in memory, each rank what it holds of it.

    ranks: who counts together: every one calls this. workers: threads of each. keep_counts: of every layer, for a snapshot.
    Raises RequestError: the parameters are none of an exact analysis layer by layer on integer radii. Raises CheckpointError, the
    same on every rank.
    """
    norms = NormCounter(network, sharded=ranks.count > 1)
    kept: dict[str, LayerCounts] | None = {} if keep_counts else None
    analysis = held_analysis(network, parameters, ranks, workers, kept=kept, passenger=norms)
    return LiveReading(analysis, *_norms(norms, ranks), kept or {})


def held_analysis(
    network: NeuronNetwork,
    parameters: Parameters,
    ranks: Ranks = ALONE,
    workers: int = 1,
    statistics: bool = True,
    kept: dict[str, LayerCounts] | None = None,
    passenger: Passenger | None = None,
) -> ExactAnalysis:
    """As `live_analysis`, the analysis alone. statistics: of every node layer; kept: takes the counts of each layer; passenger:
    sees every weight that this rank holds.
    """
    radii = checked_radii(parameters)
    growing = GrowingAnalysis(network, parameters, radii, statistics=statistics)
    # Where nothing is to be added to its counts, the threads that count a layer finish it too.
    complete = {layer.name for layer in network.source_layers} if ranks.count == 1 and kept is None else set()
    counted = _own_layers(network, parameters, ranks, workers, complete, passenger)
    for layer, own, error in _each_layer(network, ranks, counted):
        if isinstance(own, LayerResult):
            growing.add(own)
            continue
        if own is None:
            nodes = network.sizes[layer]
            own = LayerCounts(np.zeros((nodes, radii.count + 1), np.int32), np.zeros(nodes, np.int64))
        histogram, distances = ranks.added([own.histogram, own.distances], error)
        counts = LayerCounts(histogram, distances)
        growing.add(layer_result(layer, counts, radii, parameters))
        if kept is not None:
            kept[layer] = counts
    return growing.analysis()


def _own_layers(
    network: NeuronNetwork,
    parameters: Parameters,
    ranks: Ranks,
    workers: int,
    complete: Collection[str],
    passenger: Passenger | None,
) -> Iterator[tuple[str, LayerCounts | LayerResult]]:
    """What this rank counts of the layers that it holds something of, in the network's order. Raises CheckpointError."""
    bands, radii = _bands(network, ranks), parameters.integer_radii
    for layer, (own,) in counted_layers(bands, parameters, radii, complete, workers, passenger=passenger):
        yield layer, own


def _norms(counter: NormCounter, ranks: Ranks) -> tuple[NetworkNorms, dict[str, np.ndarray]]:
    """(norms of all that was seen on all ranks, the sums that they follow from)."""
    if ranks.count == 1:
        return counter.norms(), counter.squares
    squares, numbers = ranks.added(
        [np.stack(list(counter.squares.values())), np.array(list(counter.weights.values()), np.int64)]
    )
    by_name = dict(zip(counter.squares, squares, strict=True))
    return norms_of_sums(by_name, dict(zip(counter.weights, numbers.tolist(), strict=True))), by_name


def live_rescaling(ranks: Ranks = ALONE) -> Rescaling:
    """What `exact.controls.control_readings` takes to count networks that lie in memory, on all ranks together."""

    def rescaled(
        network: NeuronNetwork, parameters: Parameters, radii: Radii, readings: Sequence[Factors]
    ) -> Iterator[RescaledLayer]:
        matrices = _matrices_of_layers(network)
        own = rescaled_counts(network, _bands(network, ranks), radii, readings)
        each = ((name, (counts, totals)) for name, counts, totals in own)
        for layer, mine, error in _each_layer(network, ranks, each):
            names = matrices[layer]
            shape = len(readings), network.sizes[layer], radii.count + 1
            counts, totals = mine if mine is not None else (np.zeros(shape, np.int32), {})
            nothing = np.zeros((len(readings), radii.count + 2), np.int64)
            of_matrices = np.stack([totals.get(name, nothing) for name in names])
            counts, of_matrices = ranks.added([counts, of_matrices], error)
            yield rescaled_layer(layer, counts, dict(zip(names, of_matrices, strict=True)), parameters)

    return rescaled


def bins_of_matrices(network: NeuronNetwork, parameters: Parameters, ranks: Ranks = ALONE) -> dict[str, np.ndarray]:
    """By the matrix's name, int64 [K + 2]: its weights per distance bin, then those that are no edges. Raises CheckpointError."""
    as_they_are = dict.fromkeys(weights_of_matrices(network), 1.0)
    layers = live_rescaling(ranks)(network, parameters, checked_radii(parameters), [as_they_are])
    return {name: totals[0] for layer in layers for name, totals in layer.totals.items()}


def counts_alone(parameters: Parameters) -> bool:
    """Whether counts of edges at whole radii are all that such an analysis needs."""
    return not _beyond_counts(parameters)


def checked_radii(parameters: Parameters) -> Radii:
    """The radii of an analysis of what lies in memory. Raises RequestError."""
    if problem := _beyond_counts(parameters):
        raise RequestError(f"a model that trains, or lies on several ranks, is measured {problem}")
    return parameters.integer_radii


def _beyond_counts(parameters: Parameters) -> str:
    """What of the parameters needs more than counts, as a message says it; empty where nothing does."""
    if not parameters.exact:
        return "exactly; leave nodes_per_layer, samples and seed out"
    if parameters.log_count is not None:
        return "on integer radii; leave radii out"
    if parameters.layers_crossed > 1 or parameters.direction != DIRECTIONS[0]:
        return "layer by layer, by the edges that leave neurons; leave layers_crossed and direction out"
    return ""


def _bands(network: NeuronNetwork, ranks: Ranks) -> list[Band]:
    return held_bands(outgoing(network), counts_whole=ranks.number == 0)


def _each_layer(
    network: NeuronNetwork, ranks: Ranks, counted: Iterator[tuple[str, T]]
) -> Iterator[tuple[str, T | None, CheckpointError | None]]:
    """(layer, what was counted of it here, what went wrong here) of every layer that edges leave, in the network's order.

    Every rank gives the same layers, whatever it holds: after an error the rest is not counted, but told all the same.
    """
    error = None
    ahead: tuple[str, T] | None = None
    for layer in network.source_layers:
        if error is None and ahead is None:
            try:
                ahead = next(counted, None)
            except CheckpointError as raised:
                error = raised
            except Exception as raised:  # of which the other ranks, which wait for this one, must know
                if ranks.count == 1:
                    raise
                told = f"rank {ranks.number} could not count {layer.name} ({type(raised).__name__}: {raised})"
                error = CheckpointError("unsupported", told)
        mine, ahead = (ahead[1], None) if ahead is not None and ahead[0] == layer.name else (None, ahead)
        yield layer.name, mine, error


def _matrices_of_layers(network: NeuronNetwork) -> dict[str, list[str]]:
    """The names of the matrices that leave each layer, in the network's order."""
    found: dict[str, dict[str, None]] = {}
    for block in network.blocks:
        found.setdefault(block.source, {})[matrix_name(block.source, block.target)] = None
    return {layer: list(names) for layer, names in found.items()}
