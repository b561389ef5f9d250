"""Small faults in exact analyses that no larger test would notice."""

import numpy as np
import pytest
from suites import neox_tensors, used_names, write_checkpoint

from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError
from ninscope.exact import bands, counting
from ninscope.exact.bands import outgoing
from ninscope.exact.counting import Tally, magnitudes
from ninscope.networks.bin_table import bin_table
from ninscope.networks.neuron_network import neuron_network
from ninscope.networks.radii import IntegerRadii
from ninscope.parameters import Parameters


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_logarithmic_grid_is_not_spanned_by_what_is_not_finite(tmp_path, value):
    tensors = neox_tensors(1, 16, 2, seed=3)
    tensors[used_names(tensors)[1]][2, 3] = value
    source = open_source(write_checkpoint(tmp_path / "step0", tensors))
    checkpoint = source.open("step0")
    with pytest.raises(CheckpointError, match="NaN or infinity, first at row 2, column 3"):
        magnitudes(neuron_network(checkpoint))


@pytest.mark.parametrize("zeros", [0, 8, 16])
def test_the_smallest_and_the_largest_weight_of_a_checkpoint(tmp_path, zeros):
    tensors = neox_tensors(1, 16, 2, seed=3)
    for name in used_names(tensors)[:2]:
        tensors[name][:zeros] = 0
    source = open_source(write_checkpoint(tmp_path / "step0", tensors))
    checkpoint = source.open("step0")
    found = magnitudes(neuron_network(checkpoint))
    weights = np.abs(np.concatenate([tensors[name].ravel() for name in used_names(tensors)]))
    assert found.max() == weights.max()
    assert found[found > 0].min() == weights[weights > 0].min()


def test_how_much_memory_counts_would_take_is_told(monkeypatch):
    monkeypatch.setattr(counting, "MAX_TALLY_BYTES", 2_000_000_000)
    table = bin_table("F16", IntegerRadii("reciprocal", 997.0))
    with pytest.raises(CheckpointError, match=r"radii would take 4 GB, more than 2;"):
        Tally(1_000_000, table)


def test_the_edges_of_a_neuron_are_counted_before_they_are_summed(tmp_path, monkeypatch):
    """Two kernels of 3 x 3 taps to 20 channels and to 30: 9 * 50 edges."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(0, 0.1, (size, 4, 3, 3)).astype(np.float32) for name, size in (("v", 20), ("w", 30))}
    folder = write_checkpoint(tmp_path / "step0", arrays, {"model_type": "mine"})
    blocks = [
        {"tensor": name, "source": "in.x", "target": f"out.{name}", "order": "convolution"} for name in ("v", "w")
    ]
    asked = Parameters(nodes_per_layer="all", convolutions="per_tap", architecture={"blocks": blocks})
    checkpoint = open_source(str(folder)).open("step0")
    network = neuron_network(checkpoint, asked.reading)
    monkeypatch.setattr(bands, "MAX_EDGES_OF_A_NODE", 450)
    assert [part.layer for part in outgoing(network)] == ["in.x", "in.x"]
    monkeypatch.setattr(bands, "MAX_EDGES_OF_A_NODE", 449)
    with pytest.raises(CheckpointError, match=r"a neuron of in\.x may have 450 edges, more than 449"):
        outgoing(network)


def test_nodes_without_weights_do_not_hide_the_smallest_weight_of_others(tmp_path):
    """Nodes are counted some at a time; the first of these have no edge."""
    weights = np.random.default_rng(0).uniform(0.01, 0.5, (2000, 3, 1, 1)).astype(np.float32)
    weights[:1500] = 0
    folder = write_checkpoint(tmp_path / "step0", {"w": weights}, {"model_type": "mine"})
    block = {"tensor": "w", "source": "in.x", "target": "out.x", "order": "transposed_convolution"}
    asked = Parameters(nodes_per_layer="all", architecture={"blocks": [block]})
    checkpoint = open_source(str(folder)).open("step0")
    found = magnitudes(neuron_network(checkpoint, asked.reading))
    assert (found.min(), found.max()) == (weights[weights > 0].min(), weights.max())
