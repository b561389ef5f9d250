"""Measures of polysemanticity against plain loops, numbers that are known by hand, and what must hold of any gradients."""

import math
import subprocess
import sys

import naive_polysemanticity as naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import ninscope.neurons.polysemanticity as polysemanticity
from ninscope.errors import RequestError
from ninscope.neurons.polysemanticity import (
    capacity,
    degree_of_polysemanticity,
    feature_dimensionality,
    monosemanticity,
    normalised_entropy,
    total_feature_dimensionality,
)

OF_ONE_MATRIX = [
    degree_of_polysemanticity,
    normalised_entropy,
    monosemanticity,
    capacity,
    feature_dimensionality,
    total_feature_dimensionality,
]
# Gradients of a size that float32 holds; some are 0, as those of dead neurons.
NUMBERS = st.floats(-1e6, 1e6).map(lambda value: 0.0 if abs(value) < 1e-6 else value)
MATRICES = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=7), elements=NUMBERS)


# --- numbers known by hand ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("row", "degree", "entropy"),
    [
        ([0.3, 0.3, 0, 0], 2.0, 0.5),  # the thesis' example, Definition 14
        ([0.3, -0.3, 0, 0], 2.0, 0.5),
        ([0, 5e-320, 0, 0], 1.0, 0.0),
        ([1e308, 1e308, 1e308, -1e308], 4.0, 1.0),
        ([0, 0, 0, 0], 0.0, 0.0),
        ([1, 0.5, 0.25, 0.25], 2.0, 0.875),  # shares 1/2, 1/4, 1/8, 1/8: 1.75 of 2 bits
        ([-0.0, 0, 0, -7], 1.0, 0.0),
    ],
    ids=str,
)
def test_degrees_and_entropies_known_by_hand(row, degree, entropy):
    assert degree_of_polysemanticity([row]).tolist() == [degree]
    (found,) = normalised_entropy([row])
    assert found == pytest.approx(entropy, abs=1e-15)
    assert math.copysign(1, found) == 1


def test_one_feature_alone_has_no_entropy():
    assert normalised_entropy([[3.0], [0.0]]).tolist() == [0, 0]
    assert degree_of_polysemanticity([[3.0], [0.0]]).tolist() == [1, 0]


def test_dimensionalities_of_the_thesis_examples():
    """Section 2.2.3: five neurons of one feature each; three neurons of two features each, of six."""
    assert total_feature_dimensionality(np.diag([1.0, -2, 3, 1e-9, 7])) == 1
    pairs = np.kron(np.eye(3), [[1.0, -1.0]])
    np.testing.assert_array_equal(feature_dimensionality(pairs), np.kron(np.eye(3), [[0.5, 0.5]]))
    assert total_feature_dimensionality(pairs) == 0.5


def test_dimensionality_counts_no_feature_twice():
    gradients = [[1, 0, 0], [2, 0, 0], [0, 3, 1], [0, 0, 0]]
    assert feature_dimensionality(gradients).tolist() == [[1, 0, 0], [1, 0, 0], [0, 0.75, 0.25], [0, 0, 0]]
    assert total_feature_dimensionality(gradients) == pytest.approx((1 + 0.75 + 0.25) / 3)
    assert total_feature_dimensionality(np.zeros((0, 3))) == 0


def test_monosemanticity_known_by_hand():
    found = monosemanticity([[2, 0, 0], [1, 1, -4], [3, 1, 0], [0, 0, 0], [-1, -2, -3]])
    np.testing.assert_allclose(found, [1, 0.5, 0.75, 0, 0], rtol=1e-9)
    assert monosemanticity([[1.0, 0]], delta=1) == 0.5
    assert monosemanticity([[1e-10, 0]]) == pytest.approx(0.5)
    assert monosemanticity([[1e308] * 4]) == pytest.approx(0.25)


@pytest.mark.parametrize("scale", [1.0, 1e200, 1e-200])
def test_capacities_known_by_hand(scale):
    orthogonal = np.array([[3.0, 0, 0], [0, -0.1, 0], [0, 0, 1e-3], [0, 0, 0]])
    assert capacity(orthogonal * scale).tolist() == [1, 1, 1]
    # Two features that share a direction with lengths 1 and 2; a third that has its own; a fourth that has none.
    found = capacity(np.array([[1.0, 2, 0, 0], [0, 0, 5, 0]]) * scale)
    np.testing.assert_allclose(found, [1 / 5, 16 / 20, 1, 0], rtol=1e-15)
    np.testing.assert_allclose(capacity([[scale, scale], [0, scale]]), [1 / 2, 4 / 5], rtol=1e-15)


def test_capacities_of_vectors_of_very_unlike_lengths():
    assert capacity([[1e200, 1e-200, 0], [0, 0, 1e-300]]).tolist() == [1, 0, 1]
    assert capacity(np.zeros((0, 2))).tolist() == [0, 0]


# --- any gradients ------------------------------------------------------------------------------------------
@given(MATRICES)
def test_measures_are_those_of_the_oracle(values):
    rows = values.tolist()
    close = {"rtol": 1e-9, "atol": 1e-12}
    np.testing.assert_allclose(degree_of_polysemanticity(values), [naive.degree(row) for row in rows], **close)
    np.testing.assert_allclose(normalised_entropy(values), [naive.entropy(row) for row in rows], **close)
    np.testing.assert_allclose(feature_dimensionality(values), [naive.shares(row) for row in rows], **close)
    np.testing.assert_allclose(monosemanticity(values), [naive.monosemanticity(row) for row in rows], **close)
    np.testing.assert_allclose(capacity(values), naive.capacities(rows), **close)
    assert total_feature_dimensionality(values) == pytest.approx(naive.total(rows), rel=1e-9)


@given(MATRICES)
def test_measures_stay_in_their_bounds(values):
    features, dead = values.shape[1], ~values.any(axis=1)
    degrees = degree_of_polysemanticity(values)
    np.testing.assert_array_equal(degrees == 0, dead)
    assert (degrees[~dead] >= 1).all()
    assert (degrees <= features).all()
    for shares in (
        normalised_entropy(values),
        feature_dimensionality(values),
        capacity(values),
        monosemanticity(values),
    ):
        assert (shares >= 0).all()
        assert (shares <= 1 + 1e-12).all()
    assert 0 <= total_feature_dimensionality(values) <= 1
    assert (
        capacity(values).sum() <= min(values.shape) + 1e-9
    )  # Scherlis et al.: at most as many dimensions as there are


@given(MATRICES, st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1))
def test_the_scale_of_a_neuron_and_the_order_of_features_change_nothing(values, scale, seed):
    generator = np.random.default_rng(seed)
    scales = scale * generator.choice([-1.0, 0.5, 3.0], (len(values), 1))
    order = generator.permutation(values.shape[1])
    other = (values * scales)[:, order]
    for measure in (degree_of_polysemanticity, normalised_entropy):
        np.testing.assert_allclose(measure(other), measure(values), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(feature_dimensionality(other), feature_dimensionality(values)[:, order], atol=1e-12)
    np.testing.assert_allclose(capacity(values[:, order] * scale), capacity(values)[order], rtol=1e-6, atol=1e-9)


@given(st.integers(1, 50), NUMBERS.filter(bool))
def test_equal_gradients_count_all_features(features, value):
    gradients = np.full((2, features), value)
    assert degree_of_polysemanticity(gradients).tolist() == [features] * 2
    assert normalised_entropy(gradients) == pytest.approx([float(features > 1)] * 2)


# --- what may be given --------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16", "int64"])
def test_tensors_are_read_with_and_without_gradients(dtype):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    values = torch.tensor([[1, 2, 1], [0, 0, 0]], dtype=getattr(torch, dtype))
    for tensor in (values, values.clone().requires_grad_()) if values.is_floating_point() else (values,):
        found = degree_of_polysemanticity(tensor)
        assert (type(found), found.dtype, found.tolist()) == (np.ndarray, np.float64, [2, 0])


def test_what_is_given_stays_as_it_was(rng):
    values = rng.standard_normal((4, 3))
    before = values.copy()
    for measure in OF_ONE_MATRIX:
        measure(values)
        np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("measure", OF_ONE_MATRIX, ids=lambda measure: measure.__name__)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 2.0], r"have the shape \[2\]; \[neurons, features\] was expected"),
        (np.zeros((2, 0)), r"have the shape \[2, 0\]; \[neurons, features\] was expected, with a feature or more"),
        (np.zeros((1, 2, 3)), r"have the shape \[1, 2, 3\]"),
        (
            [[1.0, 2.0], [3.0, math.nan]],
            r"of neuron 1 for feature 1 are not finite \(NaN or infinity\); leave that neuron out",
        ),
        ([[math.inf, 2.0]], "of neuron 0 for feature 0 are not finite"),
        ([[1j, 2.0]], "are of type complex128; real numbers were expected"),
        ([["a", "b"]], "are of type <U1; real numbers were expected"),
        ([[1.0], [2.0, 3.0]], "are no array"),
        (None, "are of type object"),
    ],
    ids=str,
)
def test_what_is_no_matrix_of_numbers_is_refused(measure, values, message):
    with pytest.raises(RequestError, match=f"^(gradients|activations|weights) {message}"):
        measure(values)


@pytest.mark.parametrize("delta", [0, -1e-10, math.nan, math.inf, True, "1", None])
def test_delta_is_a_number_above_zero(delta):
    with pytest.raises(RequestError, match=r"^delta is .*; a number above 0 was expected"):
        monosemanticity([[1.0]], delta)


def test_the_package_names_all_that_it_has():
    assert set(polysemanticity.__all__) <= set(dir(polysemanticity))
    pytest.importorskip("torch", reason="torch is not installed")
    for name in polysemanticity.__all__:
        value = getattr(polysemanticity, name)
        assert name == "EXPERIMENTS" or (value.__name__, value.__module__.startswith(polysemanticity.__name__)) == (
            name,
            True,
        )
    with pytest.raises(AttributeError, match="has no attribute 'degree'"):
        polysemanticity.degree  # noqa: B018


@pytest.mark.slow
def test_measures_need_no_torch():
    code = (
        "import sys\nfrom ninscope.neurons.polysemanticity import degree_of_polysemanticity\n"
        "print(degree_of_polysemanticity([[1, 1, 0]])[0], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2.0", "False"]


def test_import_ninscope_is_enough_and_needs_no_torch():
    code = (
        "import sys, ninscope\n"
        "print(ninscope.neurons.polysemanticity.degree_of_polysemanticity([[1, 1, 0]]).tolist(), 'torch' in sys.modules)\n"
        "print('polysemanticity' in dir(ninscope.neurons), 'neurons' in dir(ninscope))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[2.0] False\nTrue True\n"


def test_a_name_that_needs_torch_says_so_without_it(monkeypatch):
    """In whatever order others have imported what."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "ninscope.neurons.polysemanticity.training", raising=False)
    message = r"train_together needs torch, which is not installed: pip install 'ninscope\[polysemanticity\]'"
    with pytest.raises(ModuleNotFoundError, match=message):
        _ = polysemanticity.train_together
