"""Readings at other norms are those of scaled weights, the shuffled null is that of a shuffled matrix, E splits as it should."""

import math
from dataclasses import replace

import naive
import numpy as np
import pytest
from suites import neox_tensors, used_names, write_bf16, write_checkpoint

import ninscope
from ninscope.checkpoints.source import open_source
from ninscope.exact.blocks import matrix_name
from ninscope.exact.control_columns import Against, control_columns
from ninscope.exact.controls import (
    FIXED,
    GROWTH,
    UNIT_RMS,
    Start,
    control_readings,
    growth_reading,
    matrices_alike,
    structure,
    unit_readings,
)
from ninscope.exact.rescaled import rescaled_layers
from ninscope.networks.neuron_network import neuron_network
from ninscope.parameters import Parameters

SHAPE = {"blocks": 2, "width": 24, "heads": 3}
HEADS, WIDTH = 3, 24
Q = np.arange(-3, 3.1, 0.5)
EXACT = Parameters("all", q=Q)


def network_of(folder):
    return neuron_network(open_source(folder).open(folder.name))


def matrices_of(tensors):
    """Every matrix of the chain, float64 [out, in], by the layers that it joins; q, k and v apart."""
    found = {}
    for number in range(SHAPE["blocks"]):
        of, name = f"block{number}.", f"gpt_neox.layers.{number}."
        after = f"block{number + 1}.x" if number + 1 < SHAPE["blocks"] else "output.x"
        fused = tensors[f"{name}attention.query_key_value.weight"].astype(float).reshape(HEADS, 3, -1, WIDTH)
        for part, letter in enumerate("qkv"):
            found[f"{of}x -> {of}{letter}"] = fused[:, part].reshape(-1, WIDTH)
        found[f"{of}c -> {of}a"] = tensors[f"{name}attention.dense.weight"].astype(float)
        found[f"{of}a -> {of}m"] = tensors[f"{name}mlp.dense_h_to_4h.weight"].astype(float)
        found[f"{of}m -> {after}"] = tensors[f"{name}mlp.dense_4h_to_h.weight"].astype(float)
    return found


def rms_of(matrices):
    return {name: math.sqrt((matrix**2).mean()) for name, matrix in matrices.items()}


def plain_spectrum(matrices):
    """Of the naive twin: a neuron's edges to all that read it count together."""
    edges = {}
    for name, matrix in matrices.items():
        edges.setdefault(name.split(" -> ")[0], []).append(matrix)
    nodes = [column for parts in edges.values() for column in np.concatenate(parts).T]
    return naive.spectrum([naive.distances_of(column) for column in nodes], Q)


def scaled(matrices, wanted):
    own = rms_of(matrices)
    return {name: matrix * (wanted[name] / own[name]) for name, matrix in matrices.items()}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(network, matrices) of a checkpoint and of its baseline: weights that grew, some neurons more than others."""
    place = tmp_path_factory.mktemp("controls")
    rng = np.random.default_rng(1)
    start = neox_tensors(**SHAPE, seed=4)
    now = neox_tensors(**SHAPE, seed=5)
    for name in used_names(now):
        now[name] = (now[name] * (1 + rng.random()) * rng.lognormal(0, 0.4, now[name].shape[1])).astype(np.float16)
    return [
        (network_of(write_checkpoint(place / step, tensors)), matrices_of(tensors))
        for step, tensors in (("step1", now), ("step0", start))
    ]


def test_readings_are_those_of_scaled_weights(both):
    (now, matrices), (start, before) = both
    rms, start_rms = rms_of(matrices), rms_of(before)
    readings = unit_readings(now, rms, EXACT, start_rms)
    readings["growth"] = growth_reading(start, start_rms, rms, EXACT)
    expected = {
        "unit": scaled(matrices, dict.fromkeys(rms, UNIT_RMS)),
        "fixed": scaled(matrices, start_rms),
        "growth": scaled(before, rms),
    }
    for name, of in expected.items():
        plain = plain_spectrum(of)
        assert readings[name].alpha0 == pytest.approx(plain["alpha0"], rel=1e-9), name
        assert readings[name].width == pytest.approx(plain["width"], rel=1e-9), name
        assert readings[name].nodes_counted == plain["nodes"]


def test_without_a_layer_is_a_network_without_it(both):
    (now, matrices), _ = both
    rms = rms_of(matrices)
    unit = unit_readings(now, rms, EXACT)["unit"]
    assert unit.layers_counted == 8
    of = scaled(matrices, dict.fromkeys(rms, UNIT_RMS))
    for left in ("block0.x", "block1.m"):
        plain = plain_spectrum({name: matrix for name, matrix in of.items() if not name.startswith(f"{left} ")})
        assert unit.left_out[left] == pytest.approx((plain["alpha0"], plain["width"]), rel=1e-9)


@pytest.mark.parametrize("dtype", ["bf16", np.float16, np.float32, np.float64])
def test_a_factor_of_one_is_the_exact_analysis(tmp_path, dtype):
    tensors = neox_tensors(**SHAPE, seed=4, dtype=np.float32 if dtype == "bf16" else dtype)
    folder = (write_bf16 if dtype == "bf16" else write_checkpoint)(tmp_path / "step0", tensors)
    network = network_of(folder)
    ones = {matrix_name(block.source, block.target): 1.0 for block in network.blocks}
    layers = list(rescaled_layers(network, Parameters("all"), Parameters("all").integer_radii, [ones, ones]))
    whole = ninscope.measure(folder).samples[0]
    assert sum(layer.sums[1].nodes for layer in layers) == whole.nodes
    assert sum(layer.sums[0].edges for layer in layers) == whole.edges


def test_the_shuffled_null_is_that_of_shuffled_matrices(both):
    """Twenty shuffles by hand spread about what is drawn from the counts."""
    (now, matrices), _ = both
    rms = rms_of(matrices)
    drawn = [unit_readings(now, rms, EXACT, seed=seed)["shuffled"] for seed in range(6)]
    rng = np.random.default_rng(0)
    of = scaled(matrices, dict.fromkeys(rms, UNIT_RMS))
    plain = [
        plain_spectrum({name: rng.permuted(matrix.reshape(-1)).reshape(matrix.shape) for name, matrix in of.items()})
        for _ in range(8)
    ]
    for number, column in (("alpha0", "alpha0"), ("width", "width")):
        own = np.array([getattr(reading, number) for reading in drawn])
        by_hand = np.array([spectrum[column] for spectrum in plain])
        assert (
            abs(own.mean() - by_hand.mean()) < 3 * by_hand.std()
        )  # of one shuffle; drawn ones are of several, and spread less


def test_structure_is_the_logarithm_of_the_ratio_of_widths(both):
    (now, matrices), _ = both
    readings = unit_readings(now, rms_of(matrices), EXACT)
    value, low, high = structure(readings["unit"], readings["shuffled"], 0.95)
    assert value == math.log(readings["unit"].width / readings["shuffled"].width)
    assert low < value < high
    _, inner_low, inner_high = structure(readings["unit"], readings["shuffled"], 0.5)
    assert low < inner_low < inner_high < high


def test_neurons_may_be_permuted(tmp_path):
    """Hidden neurons of every MLP in another order, rows and columns alike: no number moves."""
    tensors = neox_tensors(**SHAPE, seed=5)
    rng = np.random.default_rng(2)
    folder = write_checkpoint(tmp_path / "a" / "step0", tensors)
    for number in range(SHAPE["blocks"]):
        order, name = rng.permutation(4 * WIDTH), f"gpt_neox.layers.{number}.mlp.dense_"
        tensors[f"{name}h_to_4h.weight"] = np.ascontiguousarray(tensors[f"{name}h_to_4h.weight"][order])
        tensors[f"{name}4h_to_h.weight"] = np.ascontiguousarray(tensors[f"{name}4h_to_h.weight"][:, order])
    permuted = write_checkpoint(tmp_path / "b" / "step0", tensors)
    rms = rms_of(matrices_of(tensors))
    one, other = (unit_readings(network_of(each), rms, EXACT)["unit"] for each in (folder, permuted))
    assert one.alpha0 == pytest.approx(other.alpha0, rel=1e-12)
    assert one.width == pytest.approx(other.width, rel=1e-12)


def test_a_matrix_of_zeros_stays_one(tmp_path):
    tensors = neox_tensors(**SHAPE, seed=4)
    name = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"
    tensors[name] = np.zeros_like(tensors[name])
    network = network_of(write_checkpoint(tmp_path / "step0", tensors))
    rms = rms_of(matrices_of(tensors))
    full = rms_of(matrices_of(neox_tensors(**SHAPE, seed=4)))
    readings = unit_readings(network, rms, EXACT, full)
    assert readings["unit"].layers_counted == readings["fixed"].layers_counted == 7
    assert "block0.a" not in readings["unit"].left_out
    # And a baseline's matrix that is brought to nothing is no edge.
    grown = growth_reading(
        network_of(write_checkpoint(tmp_path / "step1", neox_tensors(**SHAPE, seed=4))), full, rms, EXACT
    )
    assert "block0.a" not in grown.left_out


def test_networks_with_other_matrices_are_told_apart(tmp_path):
    one, same, other = (
        network_of(write_checkpoint(tmp_path / name / "step0", neox_tensors(2, width, 2, seed=0)))
        for name, width in (("one", 16), ("same", 16), ("other", 24))
    )
    assert matrices_alike(one, same)
    assert not matrices_alike(one, other)


@pytest.fixture(scope="module")
def unlike(tmp_path_factory):
    """(measurement, `Start`) of a network, and of it five times as small and with a matrix of zeros: fewer of its nodes count."""
    folder, found = tmp_path_factory.mktemp("unlike"), []
    for name, factor in (("step0", 1.0), ("step9", 0.2)):
        tensors = neox_tensors(**SHAPE, seed=1)
        for key, tensor in tensors.items():
            tensor *= np.float16(0 if factor < 1 and key == "gpt_neox.layers.1.attention.dense.weight" else factor)
        path = write_checkpoint(folder / name, tensors)
        found.append((ninscope.measure(path), Start(network_of(path), rms_of(matrices_of(tensors)), name)))
    return found


def test_columns_withhold_e_where_unlike_parts_count_unless_they_are_trusted(unlike):
    (start, before), (now, after) = unlike
    readings, note = control_readings(after.network, after.rms, EXACT, before)
    assert note == "block1.c -> block1.a holds nothing but zeros"
    assert {GROWTH, FIXED} < set(readings)
    columns = control_columns(now, Against(start, "step0", 0.95), readings, note)
    assert "emergence" not in columns
    assert columns["message"].count("no E: it would compare") == columns["message"].count(note) == 1
    trusted = control_columns(now, Against(start, "step0", 0.95, trust_unlike_counts=True), readings, note)
    assert trusted["emergence"] == pytest.approx(now.width / start.width * math.log(start.alpha0 / now.alpha0))
    for each in (columns, trusted):
        assert each["alpha0_ratio"] == pytest.approx(start.alpha0 / now.alpha0)
        assert each["width_ratio"] == pytest.approx(now.width / start.width)


def test_columns_of_a_network_like_its_baseline_and_zeros_of_the_baseline(unlike):
    (start, before), (_, after) = unlike
    _, note = control_readings(before.network, before.rms, EXACT, after)
    assert note == "block1.c -> block1.a holds nothing but zeros at step9"
    readings, note = control_readings(before.network, before.rms, EXACT, before)
    assert note == ""
    columns = control_columns(start, Against(start, "step0", 0.95), readings)
    assert columns["emergence"] == pytest.approx(0, abs=1e-12)
    assert control_columns(start, Against(None, "step0", 0.95), readings).get("emergence") is None


def test_a_ratio_to_nothing_is_none(unlike):
    (start, _), (now, _) = unlike
    flat = replace(start, samples=tuple(replace(spectrum, width=0.0) for spectrum in start.samples))
    columns = control_columns(now, Against(flat, "step0", 0.95), None)
    assert math.isnan(columns["width_ratio"])
    assert columns["alpha0_ratio"] == pytest.approx(start.alpha0 / now.alpha0)
