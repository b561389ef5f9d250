"""The spectrum against the naive twin on random networks, and against networks whose spectrum theory gives."""

import naive
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from modes import JIT

import ninscope
from ninscope.errors import RequestError
from ninscope.multifractal.spectrum import peak_of

Q = np.arange(-30, 31) / 10


@st.composite
def networks(draw):
    """Nodes with random numbers of edges whose weights follow one of several laws, some beyond the bounds, some 0."""
    seed = draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    law = draw(st.sampled_from(["gaussian", "heavy", "spread", "float16"]))
    rows = []
    for _ in range(draw(st.integers(1, 14))):
        size = draw(st.integers(0, 70))
        weights = generator.normal(0, generator.choice([0.01, 0.05, 0.5]), size)
        if law == "heavy":
            weights = generator.standard_t(2, size) * 0.03
        elif law == "spread":
            weights = 10.0 ** generator.uniform(-3, 0.3, size)
        elif law == "float16":
            weights = weights.astype(np.float16).astype(np.float64)
        rows.append(naive.distances_of(weights))
    return rows


@pytest.mark.parametrize("derivative", ["exact", "forward"])
@settings(max_examples=40 if JIT else 8)
@given(rows=networks(), max_distance=st.sampled_from([150.0, 200.0, 37.5]), min_degree=st.sampled_from([10, 0, 3]))
def test_equals_the_naive_twin(derivative, rows, max_distance, min_degree):
    expected = naive.spectrum(rows, Q, max_distance, min_degree, derivative)
    found = ninscope.spectrum_from_distances(rows, Q, max_distance, derivative, min_degree)
    assert (found.nodes, found.edges) == (expected["nodes"], expected["edges"])
    if np.isnan(expected["width"]):
        assert np.isnan(found.width)
        assert found.message
        return
    for name in ("tau", "alpha", "f"):
        np.testing.assert_allclose(getattr(found, name), expected[name], rtol=1e-9, atol=1e-10)
    assert found.width == pytest.approx(expected["width"], rel=1e-9, abs=1e-10)
    # f has its largest value more than once by forward differences; then which alpha is taken is decided by rounding.
    ties = expected["alpha"][expected["f"] >= expected["f"].max() - 1e-10]
    assert np.abs(ties - found.alpha0).min() <= 1e-9
    defined = ~np.isnan(found.r2) & (np.abs(Q) > 1e-9)
    np.testing.assert_allclose(found.r2[defined], np.array(expected["r2"])[defined], rtol=1e-8, atol=1e-10)


@given(rows=networks(), max_distance=st.sampled_from([200.0, 40.0]))
def test_node_dimensions_equal_the_naive_twin(rows, max_distance):
    found = ninscope.node_fractal_dimensions(rows, max_distance)
    expected = [naive.node_dimension(row, max_distance)[0] for row in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def node_with_mass(dimension: int, radius: int) -> np.ndarray:
    """Edges such that N(r) = r^dimension at every whole radius 1..radius, the node itself being N(1) = 1."""
    return np.repeat(np.arange(2.0, radius + 1), np.diff(np.arange(1, radius + 1) ** dimension))


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_a_perfect_power_law_is_monofractal(dimension):
    """N(r) = r^D gives p = (r/d)^D, so tau = D q, alpha = D at every q, width 0, and both fits are perfect."""
    found = ninscope.spectrum_from_distances([node_with_mass(dimension, 30)] * 5, Q)
    np.testing.assert_allclose(found.tau, dimension * Q, atol=1e-12)
    np.testing.assert_allclose(found.alpha, dimension, rtol=1e-12)
    assert found.alpha0 == pytest.approx(dimension, rel=1e-12)
    assert found.width == pytest.approx(0, abs=1e-12)
    assert found.r2_mass_mean == pytest.approx(1)
    assert found.r2_partition == pytest.approx(1)
    np.testing.assert_allclose(ninscope.node_fractal_dimensions([node_with_mass(dimension, 30)]), dimension, rtol=1e-12)


def test_two_populations_span_their_two_dimensions():
    """Half the nodes with D = 1, half with D = 2: large q sees the denser boxes (D = 1), very negative q the others."""
    rows = [node_with_mass(1, 40)] * 4 + [node_with_mass(2, 40)] * 4
    found = ninscope.spectrum_from_distances(rows, np.linspace(-20, 20, 81))
    assert found.alpha[0] == pytest.approx(2, abs=0.05)  # the other population still weighs little at |q| = 20
    assert found.alpha[-1] == pytest.approx(1, abs=0.05)
    # In between, where both weigh, Z is no power law and the fitted slope overshoots either dimension a little.
    assert found.width == pytest.approx(1, abs=0.1)
    assert 1 < found.alpha0 < 2


@settings(max_examples=30 if JIT else 6)
@given(networks())
def test_laws_of_every_spectrum(rows):
    found = ninscope.spectrum_from_distances(rows, Q)
    assume(not np.isnan(found.alpha0))
    zero = 30
    assert found.tau[zero] == pytest.approx(0, abs=1e-9)  # Z_0 counts nodes, whatever r
    assert (np.diff(found.alpha) <= 1e-9).all() or found.r2_partition < 1  # concave up to how far Z is a power law
    again = ninscope.spectrum_from_distances(rows + rows, Q)  # twice the nodes: the same spectrum
    np.testing.assert_allclose(again.tau, found.tau, atol=1e-9)
    shuffled = ninscope.spectrum_from_distances(rows[::-1], Q)
    np.testing.assert_allclose(shuffled.alpha, found.alpha, atol=1e-9)


@pytest.mark.parametrize("around", [-3.0, -0.5, 0.0, 1.0, 3.0])
def test_exact_alpha_is_the_limit_of_differences(rng, around):
    rows = [1 / np.abs(rng.normal(0, 0.05, 60)) for _ in range(12)]
    fine = around + np.arange(-10, 11) / 1000
    grid = np.union1d(fine, [0.0, 20.0])  # 0 is never left out, nor last
    first = int(np.searchsorted(grid, fine[0]))
    forward = ninscope.spectrum_from_distances(rows, grid, derivative="forward").alpha[first : first + 20]
    exact = ninscope.spectrum_from_distances(rows, grid).alpha[first : first + 21]
    middle = (exact[1:] + exact[:-1]) / 2
    np.testing.assert_allclose(forward, middle, atol=1e-6)


def test_bounds_are_on_the_distance_before_rounding():
    """1 < d <= max: 1.2 counts at radius 1, 150.2 does not count, 1.0 does not; halves round to even."""
    edges = np.array([1.0, 1.2, 2.5, 3.5, 150.0, 150.2, np.inf] + [10.0] * 20)
    found = ninscope.spectrum_from_distances([edges, edges], Q)
    assert found.edges == 2 * 24
    lower = ninscope.spectrum_from_distances([np.where(edges == 2.5, 2.0, edges)] * 2, Q)
    np.testing.assert_array_equal(found.tau, lower.tau)  # 2.5 is radius 2
    upper = ninscope.spectrum_from_distances([np.where(edges == 3.5, 4.0, edges)] * 2, Q)
    np.testing.assert_array_equal(found.tau, upper.tau)  # 3.5 is radius 4


def test_a_node_counts_with_more_than_min_degree_edges():
    eleven = np.arange(2.0, 13.0)
    found = ninscope.spectrum_from_distances([eleven, eleven[:10], eleven], Q)
    assert (found.nodes, found.edges) == (2, 22)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no node has enough edges"),
        ([np.arange(2.0, 8.0)], "no node has enough edges"),
        ([np.full(20, 7.0)], "share 1 radius"),
    ],
)
def test_no_spectrum_is_said_so(rows, message):
    found = ninscope.spectrum_from_distances(rows, Q)
    assert np.isnan(found.alpha0)
    assert np.isnan(found.width)
    assert np.isnan(found.tau).all()
    assert message in found.message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"q": [0.0, 0.0]}, "increasing order"),
        ({"q": [0.0, 1e-12]}, "q has values 1e-12 apart, so that rounding decides; keep 1e-06 between them"),
        ({"q": [1.0]}, "q must be 2 to"),
        ({"q": [0.0, np.nan]}, "finite"),
        ({"q": [-1000.0, 0.0]}, "beyond 20"),
        ({"q": "many"}, "q must be numbers"),
        ({"q": [1, 2, 3]}, "q goes from 1 to 3 without 0, where alpha0 is taken; add 0 to q"),
        ({"q": [-0.15, -0.05, 0.05, 0.15]}, "without 0"),
        ({"q": [-1, 0], "derivative": "forward"}, "q ends at 0, where forward differences give no alpha0"),
        ({"max_distance": "150"}, "max_distance is '150'"),
        ({"max_distance": 1.0}, "max_distance is 1.0; a number from 2"),
        ({"max_distance": np.nan}, "max_distance is nan"),
        ({"min_degree": -1}, "min_degree is -1"),
        ({"derivative": "central"}, "derivative is 'central'; one of exact, forward"),
        ({"distances": [[1.0, np.nan]]}, "distances of node 0 hold NaN"),
        ({"distances": [[[1.0]]]}, "node 0 have 2 dimensions"),
    ],
)
def test_a_wrong_request_is_refused(arguments, message):
    with pytest.raises(RequestError, match=message):
        ninscope.spectrum_from_distances(**{"distances": [np.arange(2.0, 20.0)], **arguments})


def test_rounded_zero_is_a_zero():
    found = ninscope.spectrum_from_distances([node_with_mass(1, 30)], np.arange(-3, 3.1, 0.1))
    assert found.alpha0 == pytest.approx(1)


@pytest.fixture(scope="module")
def crowd():
    """Nodes alike, and one whose distances are all near the largest: a neuron that is nearly dead."""
    generator = np.random.default_rng(0)
    alike = [1 / np.abs(generator.normal(0, 0.1, 100)) for _ in range(499)]
    return alike, 1 / generator.uniform(1 / 150, 1 / 140, 100)


def test_nearly_dead_neuron_is_told_of(crowd):
    alike, dying = crowd
    healthy, found = ninscope.spectrum_from_distances(alike), ninscope.spectrum_from_distances([*alike, dying])
    assert (healthy.peak_q, healthy.alpha_at_zero) == (0, healthy.alpha0)
    assert "largest f" not in healthy.warning
    assert found.alpha0 == pytest.approx(0.121, abs=1e-3)  # of one neuron
    assert found.alpha_at_zero == pytest.approx(healthy.alpha0, abs=1e-3) == pytest.approx(0.594, abs=1e-3)
    assert found.peak_q == -1.7
    told = "the largest f is at q = -1.7, not at 0, since few nodes outweigh the rest there: alpha0 is 0.1209, alpha(0) is 0.5934"
    assert told in found.warning


def test_forward_differences_tie_without_a_warning(crowd):
    """f of the q before 0 is then f(0), always."""
    alike, dying = crowd
    assert "largest f" not in ninscope.spectrum_from_distances(alike, derivative="forward").warning
    assert "largest f" in ninscope.spectrum_from_distances([*alike, dying], derivative="forward").warning


def test_where_f_of_q_0_is_not_known_there_is_no_peak():
    """By forward differences the last q has no f."""
    q = np.array([-2.0, -1.0, 0.0])
    assert str(peak_of(q, np.array([1.0, 0.9]), np.array([-0.1, 0.0]))) == "(0.0, nan)"
    assert peak_of(q[1:] + 1, np.array([0.9]), np.array([0.0])) == (0.0, 0.9)


def test_a_spectrum_shows_its_numbers_and_its_q():
    spectrum = ninscope.spectrum_from_distances([np.linspace(2, 90 + node, 40) for node in range(30)], q=[-1, 0, 1])
    assert list(spectrum.facts()) == ["alpha0", "width", "nodes", "edges", "q"]
    assert spectrum.facts()["q"] == "-1 to 1"
