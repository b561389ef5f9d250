"""Ranks, condition numbers and the spectral alpha: those of a full decomposition, and of the fit's definition."""

import logging
import math

import numpy as np
import pytest
from naive_weights import alpha, neox_matrices, ranks
from suites import neox_tensors, write_checkpoint, written

import ninscope
from ninscope.checkpoints.source import open_source
from ninscope.networks.neuron_network import neuron_network
from ninscope.weights.power_law import spectral_alpha
from ninscope.weights.singular_values import network_singular_values, singular_value_statistics, singular_values

GENERATOR = np.random.default_rng(8)


def of_values(values, rows=None):
    """A matrix with these singular values."""
    n = len(values)
    left = np.linalg.qr(GENERATOR.standard_normal((rows or n, n)))[0]
    right = np.linalg.qr(GENERATOR.standard_normal((n, n)))[0]
    return left * values @ right


MATRICES = {
    "square": GENERATOR.standard_normal((60, 60)) * 0.02,
    "tall": GENERATOR.standard_normal((90, 40)),
    "wide": GENERATOR.standard_normal((30, 100)),
    "condition 1e6": of_values(np.logspace(0, -6, 80)),
    "condition 1e10": of_values(np.append(np.linspace(1, 2, 60), 1e-10), 100),
    "half": GENERATOR.standard_normal((64, 32)).astype(np.float16),
}


@pytest.mark.parametrize("name", MATRICES)
def test_as_a_decomposition_has_them(name):
    matrix = np.asarray(MATRICES[name], np.float64)
    found = singular_value_statistics(matrix)
    for column, value in ranks(matrix).items():
        rel = 1e-5 if (name, column) == ("condition 1e10", "condition_number") else 1e-8  # what float64 leaves of it
        assert getattr(found, column) == pytest.approx(value, rel=rel), column
    eigenvalues = np.linalg.svd(matrix, compute_uv=False) ** 2
    assert found.spectral_alpha == pytest.approx(alpha(eigenvalues), rel=1e-6)


def test_scales_of_weights_do_not_matter_to_ranks():
    matrix = MATRICES["tall"]
    expected, tiny = singular_value_statistics(matrix), singular_value_statistics(matrix * 2.0**-600)
    for column in ("stable_rank", "effective_rank", "condition_number"):
        assert getattr(tiny, column) == getattr(expected, column)
    assert math.isnan(tiny.spectral_alpha)  # its eigenvalues are below the fit's bound


def test_what_theory_says():
    one = singular_value_statistics(np.outer(np.arange(1.0, 31), np.arange(1.0, 21)))
    assert (one.stable_rank, one.effective_rank) == (pytest.approx(1), pytest.approx(1, abs=1e-9))
    assert (one.proportional_effective_rank, one.condition_number) == (pytest.approx(1 / 20), math.inf)
    unit = singular_value_statistics(np.eye(25))
    assert (unit.stable_rank, unit.effective_rank, unit.condition_number) == (25, 25, 1)
    assert unit.proportional_effective_rank == 1
    assert math.isnan(unit.spectral_alpha)
    assert all(math.isnan(value) for value in vars(singular_value_statistics(np.zeros((4, 6)))).values())


def test_the_smallest_of_many(monkeypatch):
    """By inverse iteration, and by a decomposition where that does not converge."""
    matrix = of_values(np.append(np.linspace(1, 2, 70), 1e-7))
    assert singular_values(matrix)[1] == pytest.approx(1e-7, rel=1e-6)
    import scipy.sparse.linalg as linalg

    def fails(*arguments, **options):
        raise linalg.ArpackNoConvergence("no convergence", np.empty(0), np.empty((0, 0)))

    monkeypatch.setattr(linalg, "eigsh", fails)
    assert singular_values(matrix)[1] == pytest.approx(1e-7, rel=1e-6)


@pytest.mark.parametrize("condition", [3e4, 3e5])
def test_the_smallest_keeps_its_digits_where_squares_lose_them(condition):
    matrix = of_values(np.append(np.linspace(1, 2, 60), 1 / condition), 100)
    assert singular_values(matrix)[1] == pytest.approx(1 / condition, rel=1e-9)


@pytest.mark.parametrize("count", [9, 19, 20, 200])
def test_alpha_is_the_fit_s(count):
    values = GENERATOR.pareto(1.7, count) + 0.3
    values[: count // 5] /= 100  # a body that no power law follows
    assert spectral_alpha(values) == pytest.approx(alpha(values), rel=1e-12)


def test_alpha_of_a_power_law():
    assert spectral_alpha((np.arange(1, 2001) / 2000) ** (-1 / 1.5)) == pytest.approx(2.5, abs=0.05)


def test_alpha_needs_a_tail():
    assert math.isnan(spectral_alpha(np.arange(1.0, 8)))
    assert math.isnan(spectral_alpha(np.full(30, 2.0)))
    assert math.isnan(spectral_alpha(np.full(30, 1e-9)))


def test_every_matrix_of_a_network(tmp_path):
    _, stored = written(tmp_path, neox_tensors(2, 24, 3, seed=9, dtype=np.float64), "BF16")
    source = open_source(tmp_path)
    found = network_singular_values(neuron_network(source.open(source.revisions()[0]))).statistics
    matrices = neox_matrices(stored, 2, 3)
    assert list(found) == [*matrices, "all"]
    for name, matrix in matrices.items():
        for column, value in ranks(matrix).items():
            assert getattr(found[name], column) == pytest.approx(value, rel=1e-8)
    mean = np.mean([found[name].stable_rank for name in matrices])
    assert found["all"].stable_rank == pytest.approx(mean)


@pytest.mark.parametrize("taps", ["norm", "per_tap"])
@pytest.mark.parametrize(
    ("shape", "order", "groups"),
    [((12, 5, 3, 3), "convolution", 1), ((12, 3, 3), "convolution", 4), ((8, 12, 2), "transposed_convolution", 1)],
)
def test_kernels(tmp_path, shape, order, groups, taps):
    kernels = np.random.default_rng(1).standard_normal(shape)
    write_checkpoint(tmp_path, {"conv.weight": kernels}, {"model_type": "of my own"})
    block = {"tensor": "conv.weight", "source": "in", "target": "out", "order": order, "groups": groups}
    rows = ninscope.weight_statistics(
        tmp_path, singular_values=True, architecture={"blocks": [block]}, convolutions=taps
    ).set_index("matrix")
    weights = kernels.reshape(*shape[:2], -1)
    weights = np.sqrt((weights**2).sum(axis=2, keepdims=True)) if taps == "norm" else weights
    if order == "transposed_convolution":
        weights = weights.transpose(1, 0, 2)
    out, inside, count = weights.shape
    dense = np.zeros((out, inside * groups, count))
    for target in range(out):
        first = target // (out // groups) * inside
        dense[target, first : first + inside] = weights[target]
    matrix = dense.transpose(0, 2, 1).reshape(out * count, -1)
    for column, value in ranks(matrix).items():
        assert rows.loc["in -> out", column] == pytest.approx(value, rel=1e-8)


def test_weightwatcher_finds_the_same_alpha():
    """weightwatcher 0.7.7 on the same matrices in float64, where it is installed."""
    torch = pytest.importorskip("torch")
    watcher = pytest.importorskip(
        "weightwatcher", reason="weightwatcher is not installed; pip install weightwatcher==0.7.7"
    )
    logging.getLogger("weightwatcher").setLevel(logging.ERROR)
    layers = [torch.nn.Linear(*size, bias=False).double() for size in ((64, 64), (64, 200), (200, 16))]
    found = watcher.WeightWatcher(model=torch.nn.Sequential(*layers)).analyze()
    for layer, expected in zip(layers, found["alpha"], strict=True):
        ours = singular_value_statistics(layer.weight.detach().numpy()).spectral_alpha
        assert ours == pytest.approx(expected, rel=1e-6)
