"""Norms beside the exact analysis: those of the weights, whatever the type, the split of the work and where the weights lie."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from naive_weights import neox_matrices
from suites import neox_tensors, write_checkpoint, written

from ninscope.architectures import Reading
from ninscope.architectures.described import description_of
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError
from ninscope.exact import bands
from ninscope.exact.bands import Band, BandReader, outgoing
from ninscope.exact.whole import exact_analysis
from ninscope.networks.neuron_network import neuron_network
from ninscope.parameters import Parameters
from ninscope.weights.counting import count_piece, network_weights
from ninscope.weights.exact_sums import added, square_sums
from ninscope.weights.norms import NetworkNorms, NormCounter, norms_of_sums

SHAPE = {"blocks": 2, "width": 12, "heads": 2}


def network_of(folder, description=None):
    source = open_source(folder)
    reading = Reading(description=description and description_of(description))
    return neuron_network(source.open(source.revisions()[0]), reading)


def assert_norms(found, matrices):
    assert list(found.rms) == list(found.norms) == list(matrices)
    for name, weights in matrices.items():
        assert found.norms[name] == pytest.approx(np.linalg.norm(np.float64(weights)), rel=1e-14)
        assert found.rms[name] == pytest.approx(np.sqrt((np.float64(weights) ** 2).mean()), rel=1e-14)
    everything = np.concatenate([np.float64(weights).ravel() for weights in matrices.values()])
    assert found.norm == pytest.approx(np.linalg.norm(everything), rel=1e-14)


def norms_in_statistics(network):
    """What the statistics of a network have of it."""
    found = network_weights(network)
    norms = {name: one.norm for name, one in found.statistics.items()}
    return NetworkNorms(found.rms, norms, norms.pop("all"))


def two_types(folder, first, second):
    """The second MLP's output of one type, all else of another."""
    tensors = neox_tensors(seed=3, dtype=first, **SHAPE)
    name = "gpt_neox.layers.1.mlp.dense_4h_to_h.weight"
    tensors[name] = np.float32(1.001) * tensors[name].astype(second)
    return network_of(write_checkpoint(folder, tensors)), neox_matrices(tensors, 2, 2)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_norms_are_those_of_the_weights(tmp_path, monkeypatch, dtype):
    _, stored = written(tmp_path, neox_tensors(seed=1, dtype=np.float64, **SHAPE), dtype)
    network, parameters = network_of(tmp_path), Parameters(nodes_per_layer="all", min_degree=2)
    counter = NormCounter(network)
    with pytest.raises(ValueError, match="12 matrices were not seen whole, first block0"):
        counter.norms()
    exact_analysis(network, parameters, passenger=counter)
    norms = counter.norms()
    assert_norms(norms, neox_matrices(stored, SHAPE["blocks"], SHAPE["heads"]))
    assert norms == norms_in_statistics(network)
    monkeypatch.setattr(bands, "BAND_BYTES", 1500)
    counters = [NormCounter(network, sharded=dtype != "F64") for _ in range(2)]
    for number in range(3):
        count_piece(network, counters[number % 2 if dtype != "F64" else 0], number, 3, workers=2)
    if dtype == "F64":
        assert counters[0].norms() == norms
        return
    weights = {name: counters[0].weights[name] + counters[1].weights[name] for name in counter.weights}
    assert weights == counter.weights
    squares = {name: added(*(one.squares[name] for one in counters)) for name in weights}
    assert norms_of_sums(squares, weights) == norms


def test_types_side_by_side(tmp_path):
    for number, types in enumerate([(np.float16, np.float32), (np.float64, np.float32), (np.float32, np.float64)]):
        network, matrices = two_types(tmp_path / str(number), *types)
        counter = NormCounter(network)
        count_piece(network, counter, 0, 1)
        assert_norms(counter.norms(), matrices)
        assert counter.norms() == norms_in_statistics(network)


def test_shards_of_f64_are_refused(tmp_path):
    network, _ = two_types(tmp_path, np.float32, np.float64)
    with pytest.raises(
        CheckpointError,
        match=r"^tensor gpt_neox\.layers\.1\.mlp\.dense_4h_to_h\.weight: norms of F64 .* convert the model to float32 ",
    ):
        NormCounter(network, sharded=True)


def test_numbers_that_are_none_are_told(tmp_path):
    tensors = neox_tensors(seed=5, dtype=np.float32, **SHAPE)
    tensors["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"][2, 3] = -np.inf
    network = network_of(write_checkpoint(tmp_path, tensors))
    with pytest.raises(CheckpointError, match=r"dense_h_to_4h.weight holds NaN or infinity, first at row 2, column 3"):
        count_piece(network, NormCounter(network), 0, 1)


@pytest.mark.parametrize("columns", [None, 2, 4], ids=["rows, head by head", "columns, head by head", "columns"])
def test_weights_on_a_device_are_summed_there(tmp_path, monkeypatch, columns):
    """Tiles of torch tensors, whose kernel is stood in for; q, k and v share a tensor. columns: of each that lie side by side."""
    if columns is None:
        written(tmp_path, neox_tensors(seed=2, dtype=np.float64, **SHAPE), "F32")
        network = network_of(tmp_path)
    else:
        fused = np.random.default_rng(6).standard_normal((4, 12)).astype(np.float32)
        write_checkpoint(tmp_path, {"a.weight": fused}, {"model_type": "of my own"})
        fused_parts = {"tensor": "a.weight", "source": "x", "order": "transposed", "parts": 3, "group": columns}
        blocks = [fused_parts | {"target": name, "part": number} for number, name in enumerate("qkv")]
        network = network_of(tmp_path, {"blocks": blocks})
    seen = []

    class Sums:
        def __init__(self, count, device):
            self.of_matrices = np.zeros((count, 256, 4), np.int64)

        def add(self, number, values):
            seen.append(values)
            self.of_matrices[number] += square_sums(values.contiguous().numpy().view(np.uint32), "F32")

        def sums(self):
            return self.of_matrices

    monkeypatch.setattr("ninscope.weights.norms.kernel_of", lambda device: SimpleNamespace(squares=Sums))
    on_device, here = NormCounter(network), NormCounter(network)
    for part in outgoing(network):
        matrix = part.matrix
        reader = BandReader([Band(part, 0, matrix.slices)])
        for tile in matrix.tiles(reader.raw(Band(part, 0, matrix.slices)), 0):
            assert here.see(part, tile, "F32")
            assert on_device.see(part, replace(tile, bits=torch.from_numpy(tile.bits.view(np.float32).copy())), "F32")
    assert all(isinstance(values, torch.Tensor) for values in seen)
    assert len(seen) == len(on_device.squares)
    assert on_device.norms() == here.norms()
    for name, sums in here.squares.items():
        np.testing.assert_array_equal(on_device.squares[name], sums)
