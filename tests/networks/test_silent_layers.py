"""A layer whose nodes have no edges to count is left out, and the result says which one it was."""

import numpy as np
import pytest
from suites import neox_tensors, write_checkpoint

import ninscope

SHAPE = {"blocks": 2, "width": 24, "heads": 3, "seed": 5}
DENSE = "gpt_neox.layers.1.attention.dense.weight"


@pytest.fixture
def folder(tmp_path):
    tensors = neox_tensors(**SHAPE)
    tensors[DENSE][...] = 0
    return write_checkpoint(tmp_path / "step0", tensors)


@pytest.mark.parametrize("how", [{"exact": True}, {"nodes_per_layer": 20, "samples": 3}])
def test_a_zero_matrix_is_named_and_the_rest_analysed(folder, how):
    measured = ninscope.measure(folder, **how)
    assert not np.isnan(measured.alpha0)
    assert measured.message.startswith("no node of block1.c has enough edges within the distance bounds")


def test_nothing_is_said_where_every_layer_counts(tmp_path):
    whole = write_checkpoint(tmp_path / "step0", neox_tensors(**SHAPE))
    assert ninscope.measure(whole, exact=True).message == ""
    assert ninscope.measure(whole, nodes_per_layer=20, samples=3).message == ""


def test_many_layers_are_counted_rather_than_listed(tmp_path):
    tensors = neox_tensors(**SHAPE)
    for name, values in tensors.items():
        if "layers." in name and not name.startswith("gpt_neox.layers.0.attention.query"):
            values[...] = 0
    message = ninscope.measure(write_checkpoint(tmp_path / "step0", tensors), exact=True).message
    assert message.startswith("no node of block0.c, block0.a, block0.m and 4 more has enough edges")
