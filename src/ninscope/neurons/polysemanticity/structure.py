"""What the weights of a perceptron say of its structure: the exact analysis of its network, E and the controls of E.

A checkpoint of a training is analysed as `ninscope run` with [controls] analyses a file of it, by the same functions: its weights
are named as a state dict would name them, and a description (`chain`) says that each layer reads the one before. So every number
is the one of a run over safetensors files with that table [architecture]; nothing is written to a disk for it.

Networks this small leave much to chance. Over 30 initialisations, where nothing is learned, the structure index has a standard
deviation of .12 at sizes 10-128-32-2, .05 at 10-512-128-128-2 and .19 at 5-64-16-16-2, and over seeds of what is shuffled, of one
network, .12, .07 and .04: only means over many checkpoints or seeds say anything.

The biases have no part in it. Nor have the neurons of the last hidden layer, where the model has few outputs: a neuron counts from
`min_degree` + 1 edges on (docs/method.md), and the message names the layers without one.

A pruned network has other neurons than the start of its training, and E compares networks of the same ones. Its start is therefore
the sub-network (`sub_network`) of the initial weights among the neurons that pruning kept, at which training would have begun had
the others never been there. Against the whole initial network E would be withheld for unlike counts, and matrices of other sizes
could not be brought to each other's norms. What was kept was chosen by trained weights, so this start is no random draw of
initial weights.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np

from ninscope.architectures.described import DescribedBlock, Description
from ninscope.checkpoints.in_memory import REVISION, in_memory_source
from ninscope.errors import RequestError
from ninscope.exact.blocks import matrix_name
from ninscope.exact.control_columns import Against, control_columns
from ninscope.exact.controls import RootMeanSquares, Start, control_readings
from ninscope.measurement import Measurement
from ninscope.measuring import measured_network
from ninscope.multifractal.emergence import Bootstrap
from ninscope.networks.incoming import DIRECTIONS
from ninscope.networks.neuron_network import NeuronNetwork, neuron_network
from ninscope.neurons.polysemanticity.perceptron import weights_among
from ninscope.parameters import ALL, Parameters
from ninscope.weights.statistics import rms_of
from ninscope.wording import joined_clauses

START = "the start"  # what messages call what E compares with
Weights = Sequence[np.ndarray]


@dataclass(frozen=True)
class NetworkMeasures:
    """What a network's weights say; NaN where a number does not exist, of which `message` says why.

    alpha0, width: of the exact analysis. emergence: E against the start, emergence_growth and emergence_fixed: of growth of norms
    alone and without it. alpha0_unit, width_unit: with every matrix at rms 0.1. structure: ln(width_unit / that of the weights
    shuffled within each matrix). message: clauses on what is missing and which node layers have no neuron that counts, or empty.
    warning: why not to trust the spectrum, or empty. Source: docs/method.md, "Controls".
    """

    alpha0: float
    width: float
    emergence: float
    emergence_growth: float
    emergence_fixed: float
    alpha0_unit: float
    width_unit: float
    structure: float
    message: str = ""
    warning: str = ""


@dataclass(frozen=True)
class PreparedStart:
    """The start of a training, analysed once for all its checkpoints (`prepared_start`)."""

    weights: tuple[np.ndarray, ...]
    parameters: Parameters
    measurement: Measurement
    network: NeuronNetwork
    rms: RootMeanSquares


def network_measures(
    weights: Weights,
    start: "Weights | PreparedStart | None" = None,
    parameters: Parameters | None = None,
    seed: int = 0,
    trust_unlike_counts: bool = False,
) -> NetworkMeasures:
    """The analysis of one checkpoint of a perceptron, with E and its controls against the start of its training.

    weights: float32 [out, in] of every layer, from the inputs to the outputs. start: those of a network of the same shape, or
    what `prepared_start` made of them; without one there is no E. parameters: of an exact analysis (default: the defaults of
    `ninscope.measure`, or those of a prepared start). seed: of the shuffled weights. trust_unlike_counts: E also where other
    layers count than at the start, or 10 % more or fewer nodes; else it is withheld, and the message says why.

    Raises RequestError: matrices that do not follow each other, a start of another shape, parameters without controls. Raises
    CheckpointError: nonfinite (NaN or infinity among the weights), unsupported.
    """
    before = _prepared(start, parameters)
    chosen = before.parameters if before is not None else _checked_parameters(parameters)
    matrices = _checked_weights(weights)
    if before is not None and [matrix.shape for matrix in matrices] != [matrix.shape for matrix in before.weights]:
        raise RequestError(
            f"a network of {_sizes(matrices)} neurons cannot be compared with a start of {_sizes(before.weights)}; give the "
            "sub-network of the start that has the same neurons (sub_network)"
        )
    return _measures(matrices, before, chosen, seed, trust_unlike_counts)


def _prepared(start: "Weights | PreparedStart | None", parameters: Parameters | None) -> PreparedStart | None:
    if start is None:
        return None
    if not isinstance(start, PreparedStart):
        return prepared_start(start, parameters)
    if parameters is not None:
        raise RequestError("parameters are those of the prepared start; give them to prepared_start alone")
    return start


def prepared_start(weights: Weights, parameters: Parameters | None = None) -> PreparedStart:
    """The start of a training, to be given to `network_measures` for each of its checkpoints.

    Raises RequestError, CheckpointError as `network_measures`.
    """
    chosen, matrices = _checked_parameters(parameters), _checked_weights(weights)
    kept = tuple(np.array(matrix) for matrix in matrices)  # whoever trains on in the same arrays does not change it
    return PreparedStart(kept, chosen, *_analysed(kept, chosen))


def sub_network(weights: Weights, kept: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The weights among chosen neurons: all inputs, all outputs and the kept neurons of every hidden layer.

    weights: [out, in] of every layer. kept: int64, one array a hidden layer, the numbers of its neurons that stay, in their new
    order. Raises RequestError: kept does not fit the weights, or leaves a layer without neurons.
    """
    matrices = _checked_weights(weights)
    if len(kept) != len(matrices) - 1:
        raise RequestError(
            f"kept lists neurons of {len(kept)} layers; the network has {len(matrices) - 1} hidden ones, give one array for each"
        )
    chosen = [
        _checked_kept(number, neurons, matrix.shape[0])
        for number, (neurons, matrix) in enumerate(zip(kept, matrices, strict=False), 1)
    ]
    return weights_among(matrices, chosen)


@cache
def chain(layers: int) -> Description:
    """A perceptron of so many weight matrices, "layers.0.weight" and so on: input -> hidden1 -> hidden2 -> ... -> output.

    As the table [architecture] of a DAG file it makes `ninscope run` read a file of these tensors as `network_measures` does.
    """
    pairs = itertools.pairwise(_layers(layers))
    blocks = [DescribedBlock(_tensor(number), *pair) for number, pair in enumerate(pairs)]
    return Description(tuple(blocks), name="perceptron")


def _layers(layers: int) -> list[str]:
    """Names of the node layers that so many matrices join, from the inputs to the outputs."""
    return ["input", *(f"hidden{number}" for number in range(1, layers)), "output"]


def _tensor(number: int) -> str:
    return f"layers.{number}.weight"


def _analysed(matrices: Weights, parameters: Parameters) -> tuple[Measurement, NeuronNetwork, RootMeanSquares]:
    """(the exact measurement of a network, the network, the root mean squares of its matrices). Raises CheckpointError."""
    reading = replace(parameters.reading, description=chain(len(matrices)))
    pairs = itertools.pairwise(_layers(len(matrices)))
    held = in_memory_source({_tensor(number): matrix for number, matrix in enumerate(matrices)})
    network = neuron_network(held.open(REVISION), reading)
    measurement = measured_network(network, parameters)
    rms = {matrix_name(*pair): rms_of(matrix) for pair, matrix in zip(pairs, matrices, strict=True)}
    return measurement, network, rms


def _measures(
    matrices: Weights, start: PreparedStart | None, parameters: Parameters, seed: int, trust_unlike_counts: bool
) -> NetworkMeasures:
    is_start = start is not None and all(map(np.array_equal, matrices, start.weights))
    if start is not None and is_start:
        measurement, network, rms = start.measurement, start.network, start.rms
    else:
        measurement, network, rms = _analysed(matrices, parameters)
    normed = None if start is None or is_start else Start(start.network, start.rms, START)
    readings, note = control_readings(network, rms, parameters, normed, seed)
    against = Against(
        None if start is None else start.measurement,
        START,
        Bootstrap.confidence,
        is_start,
        "no E: no start was given" if start is None else "",
        trust_unlike_counts,
    )
    columns: dict[str, Any] = {"alpha0": measurement.alpha0, "width": measurement.width}
    columns |= control_columns(measurement, against, readings, note)
    columns |= {
        "message": joined_clauses(measurement.message, columns["message"]),
        "warning": measurement.warning,
    }
    return NetworkMeasures(**{field.name: columns.get(field.name, math.nan) for field in fields(NetworkMeasures)})


def _checked_parameters(parameters: Parameters | None) -> Parameters:
    """Those of an exact analysis with controls. Raises RequestError."""
    if parameters is None:
        return Parameters(ALL)
    if not parameters.exact or parameters.layers_crossed > 1 or parameters.direction != DIRECTIONS[0]:
        raise RequestError(
            "controls are of whole networks and of the edges that leave neurons, one layer at a time; give "
            f'nodes_per_layer = "{ALL}", and leave layers_crossed and direction out'
        )
    if parameters.log_count is not None:
        raise RequestError(
            'controls multiply weights under fixed radii, and logarithmic ones follow the weights; give radii = "integer"'
        )
    if parameters.architecture is not None:
        raise RequestError("a perceptron is read as a chain of its layers; leave architecture out")
    return parameters


def _checked_weights(weights: Weights) -> list[np.ndarray]:
    """Raises RequestError unless every matrix reads what the one before it writes."""
    matrices = [np.asarray(matrix) for matrix in weights]
    if not matrices:
        raise RequestError("a network without weights has nothing to analyse; give one matrix [out, in] for each layer")
    for number, matrix in enumerate(matrices):
        if matrix.ndim != 2 or not matrix.size or matrix.dtype != np.float32:
            raise RequestError(
                f"weights of layer {number + 1} are {matrix.dtype} of shape {list(matrix.shape)}; float32 [out, in] was expected"
            )
        if number and matrix.shape[1] != matrices[number - 1].shape[0]:
            raise RequestError(
                f"weights of layer {number + 1} read {matrix.shape[1]} neurons, and layer {number} has "
                f"{matrices[number - 1].shape[0]}; give the matrices from the inputs to the outputs"
            )
    return matrices


def _checked_kept(layer: int, kept: np.ndarray, neurons: int) -> np.ndarray:
    """Raises RequestError."""
    numbers = np.asarray(kept)
    if numbers.ndim != 1 or not numbers.size or not np.issubdtype(numbers.dtype, np.integer):
        raise RequestError(
            f"kept neurons of hidden layer {layer} are {numbers.dtype} of shape {list(numbers.shape)}; a list of at least one "
            "neuron's number was expected"
        )
    if numbers.min() < 0 or numbers.max() >= neurons or np.unique(numbers).size < numbers.size:
        raise RequestError(f"kept neurons of hidden layer {layer} must be different numbers from 0 to {neurons - 1}")
    return numbers


def _sizes(matrices: Weights) -> str:
    return "-".join(str(size) for size in (matrices[0].shape[1], *(matrix.shape[0] for matrix in matrices)))
