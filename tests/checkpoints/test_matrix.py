"""Tensors of every order and rank as matrices: the same edges as plain loops find, whichever way they are read."""

import naive
import naive_matrix
import numpy as np
import pytest
from suites import from_bf16, to_bf16, write_checkpoint

import ninscope
from ninscope.checkpoints.kernels import kernel_norms
from ninscope.checkpoints.matrix import ORDERS, MatrixLayout, WeightMatrix
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError
from ninscope.exact import bands

# order, groups, shape
STORED = [
    ("linear", 1, (30, 24)),
    ("transposed", 1, (24, 30)),
    ("convolution", 1, (30, 24, 3, 3)),
    ("convolution", 1, (30, 24, 1, 1)),
    ("convolution", 1, (30, 24, 5)),
    ("convolution", 6, (36, 4, 3, 2)),
    ("convolution", 24, (24, 1, 2, 2)),
    ("transposed_convolution", 1, (24, 30, 2, 2)),
    ("transposed_convolution", 3, (24, 12, 2, 2)),
]
CASES = [(*case, kernels) for case in STORED for kernels in ("norm", "per_tap") if case[0].endswith("convolution")]
CASES += [(*case, "norm") for case in STORED if not case[0].endswith("convolution")]
BLOCK = {"tensor": "w", "source": "in.x", "target": "out.x"}
WEAK = {"min_degree": 0, "max_distance": 300.0}


def weights(shape, dtype=np.float32, seed=0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(0, 0.06, shape)).astype(dtype)


def stored(folder, array) -> str:
    return str(write_checkpoint(folder / "step0", {"w": array}, {"model_type": "mine"}))


def described(order, groups) -> dict:
    return {"blocks": [BLOCK | {"order": order, "groups": groups}]}


def matrix_in(folder, array, layout) -> WeightMatrix:
    checkpoint = open_source(stored(folder, array)).open("step0")
    return WeightMatrix(checkpoint.tensors["w"], layout)


def rows_of(matrix: WeightMatrix, raw, first: int) -> dict[tuple[int, int], list[float]]:
    """Weights by (node, target) of the tiles that some slices hold."""
    found: dict[tuple[int, int], list[float]] = {}
    for tile in matrix.tiles(raw, first):
        bits = tile.bits.T if tile.nodes_first else tile.bits
        values = np.ascontiguousarray(bits).view(f"f{bits.itemsize}")
        for row, column in np.ndindex(values.shape):
            pair = (tile.first_node + column, tile.first_target + row // tile.taps)
            found.setdefault(pair, []).append(float(values[row, column]))
    return found


@pytest.mark.parametrize(("order", "groups", "shape", "kernels"), CASES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
class TestEveryOrder:
    def test_tiles_hold_each_edge_once(self, tmp_path, order, groups, shape, kernels, dtype):
        array = weights(shape, dtype)
        matrix = matrix_in(tmp_path, array, MatrixLayout(order, groups, kernels))
        found: dict = {}
        for first, last in ((0, 7), (7, 8), (8, shape[0])):  # in bands that no group and no tile agrees with
            found |= rows_of(matrix, matrix.tensor.file.read_ranges(matrix.byte_ranges(first, last).ranges), first)
        expected: dict = {}
        for node, of_node in enumerate(naive_matrix.edges(array, order, groups, kernels)):
            for target, weight in of_node:
                expected.setdefault((node, target), []).append(weight)
        assert found.keys() == expected.keys()
        for pair, several in expected.items():
            assert found[pair] == pytest.approx(several, rel=1e-15 if dtype == np.float64 else 0, abs=0)

    def test_exact_sampled_and_naive_agree(self, tmp_path, order, groups, shape, kernels, dtype, monkeypatch):
        monkeypatch.setattr(bands, "BAND_BYTES", 700)
        array = weights(shape, dtype)
        folder = stored(tmp_path, array)
        asked = {"architecture": described(order, groups), "convolutions": kernels, **WEAK}
        exact = ninscope.measure(folder, **asked)
        sampled = ninscope.measure(folder, nodes_per_layer=1000, samples=1, **asked)
        nodes = [
            naive.distances_of([weight for _, weight in node])
            for node in naive_matrix.edges(array, order, groups, kernels)
        ]
        expected = naive.spectrum(nodes, exact.q, 300.0, 0)
        for name in ("nodes", "edges"):
            assert getattr(exact.samples[0], name) == getattr(sampled.samples[0], name) == expected[name]
        for name in ("tau", "alpha", "width"):
            np.testing.assert_allclose(getattr(exact, name), expected[name], rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(getattr(sampled, name), getattr(exact, name), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_a_sample_holds_the_weights_of_its_neurons(tmp_path, order):
    shape = (40, 32) if order in ("linear", "transposed") else (40, 8, 3)
    groups = 1 if order in ("linear", "transposed") else 4
    array = weights(shape)
    layout = MatrixLayout(order, groups, "per_tap")
    matrix = matrix_in(tmp_path, array, layout)
    targets, nodes = (np.array(chosen) for chosen in ([1, 2, 9, 31], [0, 7, 8, 30]))
    wanted = np.unique(matrix.slices_of(targets, nodes))
    values, place = matrix.tensor.rows(wanted)
    taken = matrix.taken(
        matrix.weights(values.take(place, axis=0)),
        np.searchsorted(wanted, matrix.slices_of(targets, nodes)),
        targets,
        nodes,
    )
    every = naive_matrix.edges(array, order, groups, "per_tap")
    for column, node in enumerate(nodes):
        for row, target in enumerate(targets):
            weight = [value for to, value in every[node] if to == target] or [0.0] * matrix.taps
            assert taken[row * matrix.taps : (row + 1) * matrix.taps, column].tolist() == weight


def test_bfloat16_kernels(tmp_path):
    bits = to_bf16(weights((12, 5, 3, 3)))
    norms = kernel_norms(bits.reshape(12, 5, 9), "BF16").view(np.float32)
    expected = naive_matrix.edges(from_bf16(bits), "convolution")
    assert norms.T.tolist() == [[value for _, value in node] for node in expected]


class TestNorms:
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_of_one_weight_and_of_none(self, dtype):
        array = np.array([[[0.5, 0, 0], [0, 0, 0], [-3, 0, 4]]], dtype)
        name = f"F{8 * array.itemsize}"
        bits = kernel_norms(array.view(f"u{array.itemsize}"), name)
        assert bits.view(f"f{bits.itemsize}").tolist() == [[0.5, 0.0, 5.0]]

    @pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
    def test_squares_that_overflow_or_vanish(self, scale):
        array = np.array([[[3.0, 4.0], [0.0, 1.0]]]) * scale
        found = kernel_norms(array.view(np.uint64), "F64").view(np.float64)
        np.testing.assert_allclose(found, [[5 * scale, scale]], rtol=1e-15)

    @pytest.mark.parametrize(("dtype", "largest"), [(np.float32, 3.4028235e38), (np.float64, 1.7976931348623157e308)])
    def test_finite_weights_have_a_finite_norm(self, dtype, largest):
        array = np.full((1, 1, 9), largest, dtype)
        bits = kernel_norms(array.view(f"u{array.itemsize}"), f"F{8 * array.itemsize}")
        assert bits.view(dtype)[0, 0] == np.finfo(dtype).max

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_what_is_not_finite_stays_so(self, dtype, bad):
        array = np.array([[[1, bad, 1], [1, 1, 1]]], dtype)
        bits = kernel_norms(array.view(f"u{array.itemsize}"), f"F{8 * array.itemsize}")
        assert np.isfinite(bits.view(f"f{bits.itemsize}")).tolist() == [[False, True]]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("order", "kernels"), [("convolution", "norm"), ("transposed_convolution", "per_tap")])
def test_nan_in_a_kernel_is_named_with_its_place(tmp_path, order, kernels, exact):
    array = weights((20, 10, 3, 3))
    array[12, 4, 1, 2] = np.nan
    folder = stored(tmp_path, array)
    sampling = {} if exact else {"nodes_per_layer": 1000, "samples": 1}
    with pytest.raises(CheckpointError, match=r"tensor w holds NaN or infinity, first at \[12, 4, 1, 2\];") as no:
        ninscope.measure(folder, architecture=described(order, 1), convolutions=kernels, **sampling)
    assert no.value.status == "nonfinite"
