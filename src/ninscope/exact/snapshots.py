"""What an exact analysis needs of a network without its weights: counts of node layers, and bins and sums of matrices.

A training that keeps a snapshot of a step can be asked later for other moments, derivatives, parts and null models, to the bit
what its weights would have given. Whatever moves a weight to another bin (another transfer function, other radii, a gauge) needs
the weights themselves.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ninscope.architectures.layout import NodeLayer, WeightBlock
from ninscope.checks import MAX_SEED, checked_integer, did_you_mean
from ninscope.errors import RequestError
from ninscope.exact.blocks import matrix_name
from ninscope.exact.counting import LayerCounts
from ninscope.exact.null_models import NULLS, MatrixBins, null_spectrum
from ninscope.exact.whole import combine
from ninscope.measurement import Measurement, exact_measurement, origin_of, with_origin
from ninscope.multifractal.spectrum import Spectrum
from ninscope.networks.neuron_network import NeuronNetwork
from ninscope.parameters import Parameters
from ninscope.shown import Shown
from ninscope.weights.exact_sums import DTYPES, rms_of_sums, std_of
from ninscope.wording import joined_clauses

# What counts can still be asked for; every other parameter decides the counts.
CHANGEABLE = ("q", "derivative", "parts", "min_degree", "per_node", "fit_radii")
MAX_DRAWS = 1000


@dataclass(frozen=True)
class SnapshotMatrix:
    """One matrix W[out, in], which joins two node layers.

    edges: that a node of the source has in it; nodes: of the source; taps: as in MatrixBins. totals: int64 [K + 2], its weights
    per distance bin, then those that are no edges. squares: int64 [256, 4], its exact sums (`weights.exact_sums.square_sums`);
    None where they were not taken.
    """

    source: str
    target: str
    edges: int
    nodes: int
    taps: int
    totals: np.ndarray
    squares: np.ndarray | None = None

    @property
    def name(self) -> str:
        return matrix_name(self.source, self.target)

    @property
    def weights(self) -> int:
        return self.edges * self.nodes

    @property
    def std(self) -> float:
        """Standard deviation of the weights, n in the denominator; of norms of kernels the root mean square of one tap.

        Raises RequestError: its sums were not kept.
        """
        if self.squares is None:
            raise RequestError(
                f"the sums of {self.name} were not kept, and this null model needs its standard deviation; ask for shuffled"
            )
        if self.taps > 1:
            return rms_of_sums(self.squares, self.weights * self.taps)
        return std_of(self.squares, self.weights)


@dataclass(frozen=True, repr=False)
class Snapshot(Shown):
    """A network as its counts: what `measure` and `nulls` need.

    layers: every node layer, in the network's order; matrices: in the order of its blocks; counts: by the layer's name, of those
    that edges leave, in order. parameters: with which they were counted, on integer radii; they are what is not asked otherwise.
    family, digest, note, warning: as in NeuronNetwork.
    """

    layers: tuple[NodeLayer, ...]
    matrices: tuple[SnapshotMatrix, ...]
    counts: Mapping[str, LayerCounts]
    parameters: Parameters
    family: str
    digest: str
    note: str = ""
    warning: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError where counts and matrices are not of one network."""
        bins = self.parameters.integer_radii.count + 1
        sizes = {layer.name: layer.size for layer in self.layers}
        sources = dict.fromkeys(matrix.source for matrix in self.matrices)
        if [name for name in sizes if name in sources] != list(self.counts):
            raise ValueError(f"counts of the layers {list(self.counts)}, and edges leave {list(sources)}")
        for name, counts in self.counts.items():
            if counts.histogram.shape != (sizes[name], bins) or counts.distances.shape != (sizes[name],):
                raise ValueError(f"{name}: counts {counts.histogram.shape} of {sizes[name]} nodes and {bins} bins")
            totals = sum(matrix.totals[:bins] for matrix in self.matrices if matrix.source == name)
            if not np.array_equal(counts.histogram.sum(axis=0, dtype=np.int64), totals):
                raise ValueError(f"{name}: the bins of its matrices are not those of its nodes")

    def facts(self) -> dict[str, object]:
        """What a terminal or a notebook shows of it."""
        return {
            "family": self.family,
            "layers": len(self.layers),
            "matrices": len(self.matrices),
            "weights": sum(matrix.weights for matrix in self.matrices),
            "max_distance": self.parameters.max_distance,
        }

    def measure(self, **parameters: Any) -> Measurement:
        """The exact measurement, to the bit what `ninscope.measure` gives of the weights.

        parameters: of CHANGEABLE, as in `ninscope.measure`; what is not given is as when the step was measured. Raises
        RequestError: one that makes no sense, or that needs the weights.
        """
        asked = self._asked(parameters)
        network = self._network()
        analysis = combine([self.counts], network, asked, asked.integer_radii)
        measurement = exact_measurement(analysis)
        measurement = with_origin(measurement, origin_of(asked, self.digest, self.family))
        message = joined_clauses(self.note, measurement.message)
        return replace(measurement, message=message, reading_warning=self.warning)

    def nulls(
        self,
        models: Sequence[str] = ("shuffled", "gaussian", "analytic"),
        samples: int = 3,
        seed: int = 0,
        **parameters: Any,
    ) -> dict[str, list[Spectrum]]:
        """The spectra of null models by their names, as a run with [nulls] takes them: `samples` draws each, one where nothing is
        drawn.

        "shuffled" is to the bit that of the weights. The standard deviation that "gaussian" and "analytic" need is that of exact
        sums here, and of rows' rounded moments there: it may differ in its last bits, and then "analytic" does too, and "gaussian"
        where a random number falls between. parameters: as in `measure`. Raises RequestError: a null model that needs the weights,
        or parameters that make no sense.
        """
        asked = self._asked(parameters)
        known = [name for name, null in NULLS.items() if not null.needs_norms]
        if isinstance(models, str) or not models or (unknown := [name for name in models if name not in known]):
            first = repr(models) if isinstance(models, str) or not models else repr(unknown[0])
            raise RequestError(f"null models {first}: a snapshot knows {', '.join(known)}; list some of them")
        samples, seed = checked_integer("samples", samples, 1, MAX_DRAWS), checked_integer("seed", seed, 0, MAX_SEED)
        with_std = any(name != "shuffled" for name in models)
        matrices = [
            MatrixBins(
                one.source, one.target, one.edges, one.nodes, one.std if with_std else math.nan, one.totals, one.taps
            )
            for one in self.matrices
        ]
        return {
            name: [
                null_spectrum(name, matrices, asked.integer_radii, asked, seed, sample)
                for sample in range(1 if NULLS[name].draw is None else samples)
            ]
            for name in models
        }

    def _asked(self, changes: Mapping[str, Any]) -> Parameters:
        """The parameters with these changes. Raises RequestError."""
        known = Parameters.__dataclass_fields__
        if unknown := [name for name in changes if name not in known]:
            near = did_you_mean(unknown[0], known)
            raise RequestError(f"unknown parameter {unknown[0]}{near}; a snapshot takes {', '.join(CHANGEABLE)}")
        parameters = replace(self.parameters, **changes)
        for name in changes:
            if name not in CHANGEABLE and getattr(parameters, name) != getattr(self.parameters, name):
                held = f"{name} = {getattr(self.parameters, name)!r}"
                raise RequestError(
                    f"a snapshot holds counts with {held}, and another one needs the weights; measure a checkpoint, or leave "
                    f"{name} out (it takes {', '.join(CHANGEABLE)})"
                )
        return parameters

    def _network(self) -> NeuronNetwork:
        """The wiring as far as an analysis of counts looks at it."""
        blocks = tuple(WeightBlock(matrix.source, matrix.target, matrix.name) for matrix in self.matrices)
        return NeuronNetwork("", None, self.family, self.layers, blocks, (), {}, self.note, self.digest, self.warning)


def snapshot_of(
    network: NeuronNetwork,
    parameters: Parameters,
    counts: Mapping[str, LayerCounts],
    totals: Mapping[str, np.ndarray],
    squares: Mapping[str, np.ndarray],
) -> Snapshot:
    """The snapshot of a network that was counted.

    counts: by node layer. totals, squares: by the matrix's name, as in SnapshotMatrix; squares may lack some. Raises ValueError:
    these are not of one network. Raises RequestError: an analysis that is none of single layers on integer radii.
    """
    check_counted(parameters)
    matrices = []
    for block in network.blocks:
        name = matrix_name(block.source, block.target)
        edges, nodes = network.edges_of(block)
        if name not in totals:
            raise ValueError(f"no bins of the matrix {name}")
        summed = network.matrices[block.tensor].dtype in DTYPES  # of others there are no exact sums
        matrices.append(
            SnapshotMatrix(
                block.source,
                block.target,
                edges,
                nodes,
                network.taps_of_norms(block),
                totals[name],
                squares.get(name) if summed else None,
            )
        )
    ordered = {layer.name: counts[layer.name] for layer in network.source_layers if layer.name in counts}
    about = network.family, network.digest, network.note, network.warning
    return Snapshot(network.layers, tuple(matrices), ordered, parameters, *about)


def check_counted(parameters: Parameters) -> None:
    """Raises RequestError where counts of edges at whole radii are not all that such an analysis needs."""
    crossed = parameters.layers_crossed > 1 or parameters.direction != Parameters.direction
    if not parameters.exact or parameters.log_count is not None or crossed:
        raise RequestError(
            "a snapshot is of the whole network, of the edges that leave neurons, one layer at a time, on integer radii; leave "
            "nodes_per_layer, radii, layers_crossed and direction out"
        )
