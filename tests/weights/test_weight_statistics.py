"""Statistics of weights: those of the definitions, whatever the type, the split of the work and the place of the weights."""

import math

import numpy as np
import pytest
from naive_weights import neox_matrices, statistics
from suites import neox_tensors, write_checkpoint, written

import ninscope
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError
from ninscope.exact import bands
from ninscope.exact.whole import analyse_piece, exact_analysis
from ninscope.networks.neuron_network import neuron_network
from ninscope.parameters import Parameters
from ninscope.weights.counting import WeightCounter, count_piece, joined_pieces, network_weights
from ninscope.weights.patterns import ACCURACY, count_rows, magnitudes
from ninscope.weights.statistics import (
    MAGNITUDE_QUANTILES,
    SIGNED_QUANTILES,
    STATISTICS,
    WeightStatistics,
    statistics_of,
    together,
)

SHAPE = {"blocks": 2, "width": 12, "heads": 2}
TYPES = ("F16", "BF16", "F32", "F64")
QUANTILES = {*SIGNED_QUANTILES, *MAGNITUDE_QUANTILES}


def network_of(folder, revision=None):
    source = open_source(folder)
    return neuron_network(source.open(source.revisions()[0] if revision is None else revision))


def assert_statistics(found, weights, exact=True):
    """Those of the definitions; of wider types quantiles as far as their accuracy says."""
    expected = statistics(weights)
    found = found if isinstance(found, WeightStatistics) else WeightStatistics(**found[list(STATISTICS)])
    for name, value in expected.items():
        mine = getattr(found, name)
        if exact or name not in (*QUANTILES, "gini", "near_zero"):
            assert mine == pytest.approx(value, rel=1e-12, abs=1e-14), name
        elif name in QUANTILES:  # between two order statistics of other sign it is small, but not its error
            assert abs(mine - value) <= ACCURACY * max(abs(value), 0.02 * expected["rms"]), name
        elif name == "gini":
            assert mine == pytest.approx(value, rel=ACCURACY)
        else:
            close = [(np.abs(weights) < 0.01 * (1 + side * 2 * ACCURACY) * expected["rms"]).mean() for side in (-1, 1)]
            assert close[0] <= mine <= close[1]


@pytest.mark.parametrize("dtype", TYPES)
def test_every_matrix_and_all_of_them(tmp_path, dtype):
    tensors = neox_tensors(seed=1, dtype=np.float64, **SHAPE)
    tensors["gpt_neox.layers.0.attention.dense.weight"][3] = 0.0
    _, stored = written(tmp_path, tensors, dtype)
    found = network_weights(network_of(tmp_path)).statistics
    matrices = neox_matrices(stored, SHAPE["blocks"], SHAPE["heads"])
    assert list(found) == [*matrices, "all"]
    is_exact = dtype in ("F16", "BF16")
    for name, weights in matrices.items():
        assert_statistics(found[name], weights, is_exact)
        assert found[name].accuracy == (0 if is_exact else ACCURACY)
    assert_statistics(found["all"], np.concatenate([matrix.ravel() for matrix in matrices.values()]), is_exact)
    assert found["block0.c -> block0.a"].zeros == pytest.approx(1 / 12)


@pytest.mark.parametrize("dtype", ["F16", "F64"])
def test_no_bit_depends_on_the_split_of_the_work(tmp_path, monkeypatch, dtype):
    written(tmp_path, neox_tensors(seed=2, dtype=np.float64, **SHAPE), dtype)
    network, parameters = network_of(tmp_path), Parameters(nodes_per_layer="all", min_degree=2)
    expected = network_weights(network)
    beside = WeightCounter(network)
    exact_analysis(network, parameters, passenger=beside)
    assert beside.weights() == expected
    monkeypatch.setattr(bands, "BAND_BYTES", 1500)
    assert network_weights(network, workers=3) == expected
    pieces = []
    for number in (2, 0, 1):
        counter = WeightCounter(network)
        if number:
            count_piece(network, counter, number, 3)
        else:
            analyse_piece(network, parameters, parameters.integer_radii, 0, 3, passenger=counter)
        pieces.append(counter.piece)
    assert WeightCounter(network, joined_pieces(pieces)).weights() == expected
    with pytest.raises(ValueError, match="were not seen whole, first block"):
        WeightCounter(network, joined_pieces(pieces[:2])).weights()


def test_types_side_by_side(tmp_path):
    tensors = neox_tensors(seed=3, **SHAPE)
    tensors["gpt_neox.layers.1.mlp.dense_4h_to_h.weight"] = np.float32(1.001) * tensors[
        "gpt_neox.layers.1.mlp.dense_4h_to_h.weight"
    ].astype(np.float32)
    network = network_of(write_checkpoint(tmp_path, tensors))
    matrices = neox_matrices({name: np.float64(array) for name, array in tensors.items()}, 2, 2)
    found = network_weights(network).statistics
    assert_statistics(found["all"], np.concatenate([matrix.ravel() for matrix in matrices.values()]), exact=False)
    assert (found["all"].accuracy, found["block0.c -> block0.a"].accuracy) == (ACCURACY, 0)


def conv_network(folder, kernels, order="convolution", groups=1):
    tensors = {"conv.weight": kernels, "head.weight": np.full((3, 8), 0.25, np.float32)}
    write_checkpoint(folder, tensors, {"model_type": "of my own"})
    blocks = [
        {"tensor": "conv.weight", "source": "in", "target": "out", "order": order, "groups": groups},
        {"tensor": "head.weight", "source": "out", "target": "classes"},
    ]
    return folder, {"blocks": blocks}


@pytest.mark.parametrize(
    ("shape", "order", "groups"),
    [((8, 5, 3, 3), "convolution", 1), ((8, 2, 3), "convolution", 4), ((6, 8, 2), "transposed_convolution", 1)],
)
@pytest.mark.parametrize("taps", ["norm", "per_tap"])
def test_kernels(tmp_path, shape, order, groups, taps):
    kernels = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    source, architecture = conv_network(tmp_path, kernels, order, groups)
    rows = ninscope.weight_statistics(source, architecture=architecture, convolutions=taps).set_index("matrix")
    weights = kernels.astype(np.float64).reshape(*shape[:2], -1)
    weights = np.float64(np.float32(np.sqrt((weights**2).sum(axis=2)))) if taps == "norm" else weights
    assert_statistics(rows.loc["in -> out"], weights, exact=False)
    assert rows.loc["out -> classes", "message"] == "all weights are alike: no kurtosis"
    assert rows.loc["out -> classes", "gini"] == pytest.approx(0)


def counted(values, dtype="F16"):
    bits = np.atleast_2d(np.asarray(values, np.float16 if dtype == "F16" else np.float64))
    unsigned = bits.view(f"u{bits.itemsize}")
    return together(count_rows(unsigned, dtype, np.zeros(len(bits), np.int64), 1))


def test_what_theory_says():
    found = statistics_of(counted([1.0, -1.0, 1.0, -1.0]))
    assert (found.norm, found.rms, found.mean, found.std, found.kurtosis) == (2, 1, 0, 1, 1)
    assert (found.gini, found.hoyer) == (0, 0)
    single = statistics_of(counted([0.0, 0.0, 0.0, 2.0]))  # one of n holds everything
    assert (single.gini, single.hoyer) == (0.75, 1)
    assert (single.near_zero, single.zeros, single.abs_max) == (0.75, 0.75, 2)
    normal = statistics_of(counted(np.random.default_rng(0).standard_normal((1, 40000))))
    assert normal.kurtosis == pytest.approx(3, abs=0.1)
    assert normal.gini == pytest.approx(math.sqrt(2) - 1, abs=0.01)  # of the half-normal distribution


@pytest.mark.parametrize("dtype", ["F16", "F64"])
def test_what_is_missing_is_said(dtype):
    zeros = statistics_of(counted([0.0, -0.0, 0.0], dtype))
    assert (zeros.norm, zeros.zeros, zeros.q50) == (0, 1, 0)
    assert math.isnan(zeros.gini)
    assert math.isnan(zeros.near_zero)
    assert zeros.message == "all weights are 0: no kurtosis, gini, hoyer or near_zero"
    alike = statistics_of(counted([0.1] * 7, dtype))
    assert (alike.std, alike.message) == (0, "all weights are alike: no kurtosis")
    assert alike.hoyer == pytest.approx(0, abs=1e-12)
    assert statistics_of(counted(np.empty((1, 0)), dtype)).message == "no weights"


def test_weights_beyond_the_bins():
    beyond = "weights too large or too small to be counted as float32: no quantiles, gini or near_zero"
    for scale in (1e50, 1e-60):
        found = statistics_of(counted([1 * scale, -3 * scale, 0.0], "F64"))
        assert found.norm == pytest.approx(math.sqrt(10) * scale)
        assert found.zeros == pytest.approx(1 / 3)
        assert found.hoyer == pytest.approx((math.sqrt(3) - 4 / math.sqrt(10)) / (math.sqrt(3) - 1))
        assert all(math.isnan(getattr(found, name)) for name in ("q50", "abs_max", "gini", "near_zero"))
        assert found.message == beyond
    assert math.isnan(statistics_of(counted([1e100, -1e100], "F64")).kurtosis)  # though its variance is a number
    assert statistics_of(counted([1e200, -1e200], "F64")).message.startswith("weights too large for a norm")
    assert statistics_of(counted([1e-25, -3e-25, 2e-25], "F64")).abs_q50 == pytest.approx(2e-25, rel=ACCURACY)


@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_numbers_that_are_none_are_refused(tmp_path, dtype):
    tensors = neox_tensors(seed=5, dtype=np.float64, **SHAPE)
    tensors["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"][2, 3] = np.inf
    written(tmp_path, tensors, dtype)
    with pytest.raises(CheckpointError, match=r"dense_h_to_4h.weight holds NaN or infinity, first at row 2, column 3"):
        network_weights(network_of(tmp_path))


def test_magnitudes_are_the_type_s():
    assert magnitudes("F16")[[0, 1, -1]].tolist() == [0, 2.0**-24, 65504]
    assert magnitudes("BF16")[[0, 1]].tolist() == [0, 2.0**-133]
    wide = magnitudes("F32")
    assert wide[0] == 0
    assert (np.diff(wide) > 0).all()
    one = np.float32(1).view(np.uint32) >> 12
    assert wide[one] == 1 + ACCURACY


def test_a_matrix_stored_the_other_way_round(tmp_path):
    """GPT-2's c_attn is [in, out], with q, k and v beside each other."""
    fused = np.random.default_rng(6).standard_normal((4, 12)).astype(np.float16)
    write_checkpoint(tmp_path, {"a.weight": fused}, {"model_type": "of my own"})
    parts = [
        {"tensor": "a.weight", "source": "x", "target": name, "order": "transposed", "parts": 3, "part": n, "group": 4}
        for n, name in enumerate("qkv")
    ]
    rows = ninscope.weight_statistics(tmp_path, architecture={"blocks": parts}).set_index("matrix")
    for number, name in enumerate("qkv"):
        assert_statistics(rows.loc[f"x -> {name}"], np.float64(fused[:, 4 * number : 4 * number + 4]))
