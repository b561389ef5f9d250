"""How weights changed between two checkpoints: the numbers of the definitions, and what is missing."""

import math
from dataclasses import replace

import numpy as np
import pytest
from naive_weights import change, neox_matrices
from suites import neox_tensors, write_checkpoint, written

import ninscope
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError
from ninscope.exact import bands
from ninscope.networks.neuron_network import neuron_network
from ninscope.weights import changes as changes_module
from ninscope.weights.changes import network_changes

SHAPE = {"blocks": 2, "width": 12, "heads": 2}


def network_of(folder):
    source = open_source(folder)
    return neuron_network(source.open(source.revisions()[0]))


def both(tmp_path, now, before, dtypes=("F16", "F16")):
    folders = [tmp_path / "now", tmp_path / "before"]
    stored = [
        written(folder, tensors, dtype)[1]
        for folder, tensors, dtype in zip(folders, (now, before), dtypes, strict=True)
    ]
    return [network_of(folder) for folder in folders], stored


@pytest.mark.parametrize("dtypes", [("F16", "F16"), ("BF16", "F32"), ("F64", "F16")])
def test_every_matrix_and_all_of_them(tmp_path, monkeypatch, dtypes):
    start, other = (neox_tensors(seed=seed, dtype=np.float64, **SHAPE) for seed in (1, 2))
    later = {name: start[name] + 0.4 * other[name] for name in start}
    networks, stored = both(tmp_path, type(start)(later, start.config), start, dtypes)
    found = network_changes(*networks, "before")
    now, before = (neox_matrices(tensors, 2, 2) for tensors in stored)
    for name in now:
        for column, value in change(now[name], before[name]).items():
            assert getattr(found.changes[name], column) == pytest.approx(value, rel=1e-12)
    whole = [np.concatenate([matrix.ravel() for matrix in matrices.values()]) for matrices in (now, before)]
    for column, value in change(*whole).items():
        assert getattr(found.changes["all"], column) == pytest.approx(value, rel=1e-12)
    assert not any(one.message for one in found.changes.values())
    monkeypatch.setattr(changes_module, "BAND_BYTES", 300)
    assert network_changes(*networks, "before") == found
    assert bands.BAND_BYTES > 300


def test_what_theory_says(tmp_path):
    tensors = neox_tensors(seed=3, **SHAPE)
    halved = type(tensors)({name: -array / 2 for name, array in tensors.items()}, tensors.config)
    networks, _ = both(tmp_path, halved, tensors)
    for one in network_changes(*networks, "before").changes.values():
        assert (one.distance, one.cosine, one.sign_flips) == (1.5, pytest.approx(-1), 1)
    for one in network_changes(networks[0], networks[0], "itself").changes.values():
        assert (one.distance, one.cosine, one.sign_flips) == (0, pytest.approx(1), 0)


def test_zeros_have_no_sign_and_no_distance(tmp_path):
    tensors = neox_tensors(seed=4, **SHAPE)
    without = type(tensors)(tensors, tensors.config)
    name = "gpt_neox.layers.0.attention.dense.weight"
    without[name] = np.zeros_like(tensors[name])
    networks, _ = both(tmp_path, tensors, without)
    grown = network_changes(*networks, "before").changes["block0.c -> block0.a"]
    assert math.isnan(grown.distance)
    assert math.isnan(grown.cosine)
    assert (grown.sign_flips, grown.message) == (0, "all weights are 0 in before: no distance, no cosine")
    vanished = network_changes(*networks[::-1], "now").changes["block0.c -> block0.a"]
    assert (vanished.distance, vanished.message) == (1, "all weights are 0: no cosine")


def test_a_start_of_another_shape(tmp_path):
    """Attention is compared, the MLP is not."""
    start = neox_tensors(seed=5, **SHAPE, intermediate=24)
    now = neox_tensors(seed=6, **SHAPE)
    networks, _ = both(tmp_path, now, start)
    found = network_changes(*networks, "step0").changes
    assert found["block0.x -> block0.q"].distance > 0
    missing = found["block0.a -> block0.m"]
    assert math.isnan(missing.distance)
    assert missing.message == "step0 has no such matrix of the same shape"
    assert found["all"].message == "without 4 matrices that step0 has not in the same shape"
    narrow = network_of(write_checkpoint(tmp_path / "narrow", neox_tensors(1, 8, 2, seed=1)))
    assert network_changes(networks[0], narrow, "step0").changes["all"].message == (
        "step0 has no matrix of the same shape"
    )


def test_rows_that_lead_elsewhere_are_not_compared(tmp_path):
    part = bands.outgoing(network_of(write_checkpoint(tmp_path / "step0", neox_tensors(seed=8, **SHAPE))))[0]
    assert list(part.leads_to) == ["block0.q", "block0.k", "block0.v"]
    fewer = replace(part, leads_to={"block0.q": part.leads_to["block0.q"]})
    turned = replace(part, leads_to=dict(reversed(part.leads_to.items())))
    assert changes_module._are_alike(part, part)
    assert not any(
        changes_module._are_alike(*pair) for pair in ((fewer, part), (part, fewer), (part, turned), (turned, part))
    )


def test_what_is_read_whole_is_verified(tmp_path, monkeypatch):
    class Unfinished:
        def __init__(self, tensors):
            self.count = len(tensors)

        def finish(self):
            return f"{self.count} tensors"

    monkeypatch.setattr(changes_module, "Verification", Unfinished)
    networks, _ = both(tmp_path, *(neox_tensors(seed=seed, **SHAPE) for seed in (1, 2)))
    assert network_changes(*networks, "before").unverified == f"{len(networks[0].tensors)} tensors"
    other = network_of(write_checkpoint(tmp_path / "wide", neox_tensors(seed=3, **SHAPE, intermediate=24)))
    assert network_changes(networks[0], other, "wide").unverified == ""  # of local files, which were hashed


def test_numbers_that_are_none_are_refused(tmp_path):
    tensors = neox_tensors(seed=7, **SHAPE)
    broken = type(tensors)(tensors, tensors.config)
    broken["gpt_neox.layers.1.attention.dense.weight"] = tensors["gpt_neox.layers.1.attention.dense.weight"] * np.nan
    networks, _ = both(tmp_path, tensors, broken)
    with pytest.raises(CheckpointError, match=r"layers.1.attention.dense.weight holds NaN or infinity"):
        network_changes(*networks, "before")


def test_in_python(tmp_path):
    for step in (0, 5):
        write_checkpoint(tmp_path / f"step{step}", neox_tensors(seed=step, **SHAPE))
    rows = ninscope.weight_statistics(tmp_path, "step5", against="step0", singular_values=True)
    assert rows["matrix"].tolist()[::12] == ["block0.x -> block0.q", "all"]
    assert rows["distance"].between(1, 2).all()
    assert rows["condition_number"].gt(1).all()
    assert (rows["message"] == "").all()
