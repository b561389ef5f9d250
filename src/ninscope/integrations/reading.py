"""One look at a model that trains: its network, counted where it lies, and what of it later looks are compared with."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ninscope.checkpoints.in_memory import REVISION, in_memory_source
from ninscope.checkpoints.saved_pieces import SavedPieces
from ninscope.checkpoints.tensors import Tensor
from ninscope.errors import CheckpointError
from ninscope.exact.controls import ControlReading, RootMeanSquares, Start, control_readings, unit_readings
from ninscope.exact.counting import LayerCounts
from ninscope.exact.live import (
    LiveReading,
    bins_of_matrices,
    check_held_alike,
    live_analysis,
    live_rescaling,
    ranks_of,
)
from ninscope.measurement import Measurement, exact_measurement, origin_of, with_origin
from ninscope.networks.neuron_network import NeuronNetwork, neuron_network
from ninscope.parameters import Parameters
from ninscope.ranks import Ranks, on_all_ranks, together
from ninscope.weights.norms import NetworkNorms
from ninscope.wording import joined_clauses


@dataclass(frozen=True)
class OpenedModel:
    """A model as it lies in memory now. parameters_count: numbers in it. ranks: who holds it, and counts it, together."""

    network: NeuronNetwork
    parameters_count: int
    ranks: Ranks


@dataclass(frozen=True)
class Look:
    """What was found at one step. norms, squares, counts: as of a `LiveReading`. fingerprint: sha256 in hex, the same of looks at
    the same weights, however they are spread, and of no others.
    """

    opened: OpenedModel
    measurement: Measurement
    norms: NetworkNorms
    squares: Mapping[str, np.ndarray]
    counts: Mapping[str, LayerCounts]
    fingerprint: str

    @property
    def network(self) -> NeuronNetwork:
        return self.opened.network


@dataclass(frozen=True)
class Found:
    """All that a row is made of.

    readings, note: as of `control_readings`; None where there are none. bins: for a snapshot, weights per distance bin by the
    matrix's name.
    """

    look: Look
    readings: dict[str, ControlReading] | None
    note: str
    bins: dict[str, np.ndarray]


@dataclass(frozen=True)
class Baseline:
    """What looks are compared with. measurement: None on ranks that make no rows. weights: its matrices, None where they were not
    kept, of which `without_weights` says why.
    """

    step: int
    revision: str
    measurement: Measurement | None
    rms: RootMeanSquares
    weights: SavedPieces | None = None
    without_weights: str = ""
    fingerprint: str = ""


def open_model(model: object, parameters: Parameters) -> OpenedModel:
    """Every rank that holds a part of a model calls this. Raises RequestError, CheckpointError: it is no model, or one that cannot
    be read (its `status`).
    """
    source = in_memory_source(model)

    def opened() -> tuple[NeuronNetwork, int]:
        checkpoint = source.open(REVISION)
        return neuron_network(checkpoint, parameters.reading), checkpoint.parameters

    network, parameters_count = on_all_ranks(source.ranks, opened)
    ranks = ranks_of(network)
    check_held_alike(network, ranks)
    return OpenedModel(network, parameters_count, ranks)


def look_at(opened: OpenedModel, parameters: Parameters, threads: int, keep_counts: bool = False) -> Look:
    """Measure a model; every rank that holds a part of it calls this. Raises CheckpointError, the same on all of them."""
    network = opened.network
    reading = live_analysis(network, parameters, opened.ranks, threads, keep_counts)
    measurement = exact_measurement(reading.analysis)
    measurement = replace(
        with_origin(measurement, origin_of(parameters, network.digest, network.family)),
        message=joined_clauses(network.note, measurement.message),
        reading_warning=network.warning,
    )
    fingerprint = _fingerprint(network, reading)
    return Look(opened, measurement, reading.norms, reading.squares, reading.counts, fingerprint)


def _fingerprint(network: NeuronNetwork, reading: LiveReading) -> str:
    digest = hashlib.sha256(network.digest.encode())
    for name, squares in reading.squares.items():
        digest.update(name.encode() + np.ascontiguousarray(squares, "<i8").tobytes())
    spectrum = reading.analysis.spectrum
    floats = [spectrum.alpha0, spectrum.width, *reading.norms.rms.values()]  # of F64 there are no sums
    digest.update(np.array(floats, "<f8").tobytes())
    return digest.hexdigest()


def tensors_of(network: NeuronNetwork) -> dict[str, Tensor]:
    """What of a network is to be kept: its matrices' tensors, by the names that blocks give them."""
    return {name: matrix.tensor for name, matrix in network.matrices.items()}


def network_of(network: NeuronNetwork, weights: SavedPieces) -> NeuronNetwork:
    """A network wired like this one, with weights that were kept. Raises CheckpointError: they are gone, or do not fit."""
    weights.check()
    kept = {name: (tensor.shape, tensor.dtype) for name, tensor in weights.tensors.items()}
    now = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors_of(network).items()}
    if kept.keys() != now.keys() or any(kept[name][0] != now[name][0] for name in now):
        raise CheckpointError("unsupported", "the matrices of the model are others now")
    matrices = {name: replace(matrix, tensor=weights.tensors[name]) for name, matrix in network.matrices.items()}
    return replace(network, matrices=matrices)


def look_at_kept(opened: OpenedModel, weights: SavedPieces, parameters: Parameters, threads: int) -> Look:
    """Measure a model with weights that were kept of it, as `look_at`. Raises CheckpointError, the same on all ranks."""
    network = on_all_ranks(opened.ranks, lambda: network_of(opened.network, weights))
    return look_at(replace(opened, network=network), parameters, threads)


def readings_of(
    look: Look, baseline: Baseline | None, parameters: Parameters, seed: int
) -> tuple[dict[str, ControlReading], str]:
    """(controls of a look, one clause on what is not as it should be), on all ranks together. baseline: None of the baseline
    itself, and where nothing is compared with it.

    Raises CheckpointError.
    """
    network, rms, ranks = look.network, look.norms.rms, look.opened.ranks
    rescaled = live_rescaling(ranks)
    start, note = (None, "") if baseline is None else _start(look.opened, baseline)
    if baseline is None or start is not None:
        return together(ranks, lambda: control_readings(network, rms, parameters, start, seed, rescaled))
    before = baseline.rms if baseline.rms.keys() == rms.keys() else None
    readings = together(ranks, lambda: unit_readings(network, rms, parameters, before, seed, rescaled))
    return readings, f"no growth: {note}"


def _start(opened: OpenedModel, baseline: Baseline) -> tuple[Start | None, str]:
    """(the baseline with its weights, or why it has none), the same on all ranks."""
    weights = baseline.weights
    if weights is None:
        return None, baseline.without_weights
    try:
        network = on_all_ranks(opened.ranks, lambda: network_of(opened.network, weights))
    except CheckpointError as error:
        return None, str(error)
    return Start(network, baseline.rms, baseline.revision), ""


def bins_of(look: Look, parameters: Parameters) -> dict[str, np.ndarray]:
    """Weights per distance bin of every matrix, as of `exact.live.bins_of_matrices`, on all ranks together."""
    return bins_of_matrices(look.network, parameters, look.opened.ranks)
