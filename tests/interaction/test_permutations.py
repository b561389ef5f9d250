"""The moments over permutations against all of them, one by one, and couplings against permutations that are drawn."""

import math

import naive_interaction as naive
import numpy as np
import pytest

from ninscope.architectures.gauge import Rotary
from ninscope.interaction.coupling import Coupling, Exactness, coupling, mean_coupling, no_coupling, side
from ninscope.interaction.permutations import moments, paired_draws, paired_moments, side_of_gram
from ninscope.interaction.sketches import Norm, carried, coupling_carried

EXACT = Exactness(neurons=512)
ESTIMATED = Exactness(neurons=1, vectors=96)


def matrices(rng, n: int, a: int = 3, b: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """A [n, a] and B [b, n] with means, so that no term of the formulas is small."""
    return rng.normal(0.4, 1, (n, a)), rng.normal(-0.3, 1, (b, n))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7])
def test_moments_are_those_of_all_permutations(rng, n):
    written, read = matrices(rng, n)
    over = naive.squared_norms(written, read, naive.every_permutation(n))
    found = moments(side_of_gram(written @ written.T), side_of_gram(read.T @ read))
    assert found.mean == pytest.approx(over.mean(), rel=1e-13)
    assert found.variance == pytest.approx(over.var(), rel=1e-11, abs=1e-12)


def test_the_mean_is_the_closed_form_of_norms_and_sums(rng):
    written, read = matrices(rng, 9, 5, 4)
    n, a, b = 9, (written**2).sum(), (read**2).sum()
    rest = ((read.sum(axis=1) ** 2).sum() - b) * ((written.sum(axis=0) ** 2).sum() - a) / (n * (n - 1))
    found = moments(side_of_gram(written @ written.T), side_of_gram(read.T @ read))
    assert found.mean == pytest.approx(a * b / n + rest, rel=1e-13)


@pytest.mark.parametrize(("n", "turned"), [(4, 4), (6, 4), (5, 2), (7, 4), (6, 6)])
def test_pairs_that_positions_turn_stay_pairs(rng, n, turned):
    written, read = matrices(rng, n, 4, 3)
    orders = naive.every_paired_permutation(n, turned)
    over = naive.squared_norms(written, read, orders)
    x, y = written @ written.T, read.T @ read
    everything = paired_moments(x, y, turned, np.array(orders))
    assert everything.mean == pytest.approx(over.mean(), rel=1e-12)
    assert everything.variance == pytest.approx(over.var(), rel=1e-11, abs=1e-10)
    drawn = paired_moments(x, y, turned, paired_draws(n, turned, 0, 4000))
    assert drawn.variance == pytest.approx(over.var(), rel=0.15, abs=1e-10)
    assert {tuple(order) for order in paired_draws(n, turned, 0).tolist()} <= set(orders)


@pytest.mark.parametrize("shape", [(40, 70, 60), (60, 20, 25), (30, 30, 4)])
def test_couplings_are_those_of_drawn_permutations(rng, shape):
    """By way of [n, n] or of the product, whichever is cheaper; both, and a plain twin that draws, agree."""
    n, a, b = shape
    shared = rng.normal(size=(n, 2))
    written = rng.normal(size=(n, a)) + shared @ rng.normal(size=(2, a))
    read = rng.normal(size=(b, n)) + rng.normal(size=(b, 2)) @ shared.T
    found = coupling(written, read, EXACT)
    expected, error = naive.coupling(written, read, naive.drawn_permutations(n, 4000, rng))
    assert found.coupling > 0.2
    assert found.coupling == pytest.approx(expected, abs=5 * error / math.sqrt(4000))
    assert found.error == pytest.approx(
        error, rel=0.15
    )  # heavy tails: of 4000 draws a standard deviation is known to some %
    assert (found.vectors, found.error_vectors, found.message) == (0, 0, "")
    estimated = coupling(written, read, Exactness(neurons=1, vectors=8))
    assert estimated.coupling == pytest.approx(found.coupling, rel=1e-12)
    assert estimated.error == pytest.approx(found.error, rel=0.3)
    assert estimated.error_vectors == (0 if n < min(a, b) else 8)  # of a small [n, n] nothing is estimated


def test_rotary_dimensions_in_turn_are_paired_as_halves_are(rng):
    """Neurons 2i and 2i + 1 are a pair, or i and i + half: the same coupling of neurons in either order."""
    written, read = matrices(rng, 10, 6, 5)
    halves = coupling(written, read, EXACT, Rotary(6))
    order = [0, 3, 1, 4, 2, 5, 6, 7, 8, 9]
    in_turn = coupling(written[order], read[:, order], EXACT, Rotary(6, interleaved=True))
    assert in_turn == halves
    assert coupling(written, read, EXACT, Rotary(0)) == coupling(written, read, EXACT)


def test_squares_are_estimated_where_both_sides_are_large(rng):
    matrix = rng.normal(size=(90, 80)) + 0.1
    exact = side(matrix, EXACT, 0)
    gram = matrix @ matrix.T
    expected = (gram**2).sum() - (np.diag(gram) ** 2).sum()
    assert exact.squares == pytest.approx(expected, rel=1e-12)
    assert exact.vectors == 0
    estimated = side(matrix, Exactness(neurons=50), 0)
    assert estimated.squares == pytest.approx(expected, rel=0.3)
    assert estimated.vectors == 8


class TestCarried:
    """Through a stream: exactly, and by random vectors whose error is what their spread says."""

    def pair(self, rng, n=60):
        shared = rng.normal(size=(n, 3))
        written = rng.normal(size=(n, 40)) + shared @ rng.normal(size=(3, 40))
        read = rng.normal(size=(50, n)) + rng.normal(size=(50, 3)) @ shared.T
        return written, read

    def carry(self, pair, exactness, name="w"):
        written, read = pair
        return coupling_carried(
            carried(written, f"{name} writes", exactness), carried(read.T, f"{name} reads", exactness)
        )

    def test_exactly(self, rng):
        pair = self.pair(rng)
        carried_, direct = self.carry(pair, EXACT), coupling(*pair, EXACT)
        assert carried_.coupling == pytest.approx(direct.coupling, rel=1e-12)
        assert carried_.error == pytest.approx(direct.error, rel=1e-10)
        assert carried_.vectors == 0

    def test_by_random_vectors(self, rng):
        pair = self.pair(rng)
        exact = self.carry(pair, EXACT)
        found = [self.carry(pair, ESTIMATED, f"{number}") for number in range(60)]
        off = np.array([one.coupling - exact.coupling for one in found])
        said = np.array([one.estimate_error for one in found])
        assert found[0].vectors == found[0].error_vectors == 96
        assert 0.05 < said.mean() < 0.4
        assert abs(off.mean()) < 4 * said.mean() / math.sqrt(60) + said.mean() ** 2
        assert 0.7 < np.sqrt(np.mean((off / said) ** 2)) < 1.4
        assert np.mean([one.error for one in found]) == pytest.approx(exact.error, rel=0.1)

    def test_the_same_name_draws_the_same_vectors(self, rng):
        pair = self.pair(rng)
        assert self.carry(pair, ESTIMATED) == self.carry(pair, ESTIMATED)
        assert self.carry(pair, ESTIMATED) != self.carry(pair, ESTIMATED, "other")

    @pytest.mark.parametrize("exactness", [EXACT, ESTIMATED])
    def test_normalisations_of_the_stream_act_on_what_passes_them(self, rng, exactness):
        written, read = self.pair(rng)
        gains = {name: Norm(rng.uniform(0.5, 2, 60), name == "first") for name in ("first", "second")}
        way = ("first", "second")
        centre = np.eye(60) - np.full((60, 60), 1 / 60)
        passed = np.diag(gains["second"].gain) @ np.diag(gains["first"].gain) @ centre @ written
        carrier = carried(written, "w writes", exactness, ((), way), gains)
        reader = carried(read.T, "w reads", exactness)
        found = coupling_carried(carrier, reader, way, gains)
        expected = self.carry((passed, read), exactness)
        assert found.coupling == pytest.approx(expected.coupling, rel=1e-10)
        assert found.error == pytest.approx(expected.error, rel=1e-8)


class TestMissing:
    def test_zeros_have_no_coupling_and_say_so(self, rng):
        written, read = matrices(rng, 8)
        for a, b in ((written * 0, read), (written, read * 0)):
            found = coupling(a, b, EXACT)
            assert math.isnan(found.coupling)
            assert math.isnan(found.error)
            assert found.message == "a matrix is zero"
            through = coupling_carried(carried(a, "a", ESTIMATED), carried(b.T, "b", ESTIMATED))
            assert through.message == "a matrix is zero"

    def test_a_reader_of_nothing(self):
        found = coupling(np.eye(4)[:, :2], np.eye(4)[2:], EXACT)
        assert found.message == "the reader reads nothing of what the writer writes"

    def test_weights_beyond_the_range_of_products(self, rng):
        written, read = matrices(rng, 8)
        with np.errstate(over="ignore", invalid="ignore"):
            assert coupling(written * 1e200, read, EXACT).message == "weights are too large for their products"

    def test_heads_of_zeros_are_left_out(self):
        heads = [Coupling(0.2, 0.3), no_coupling("a matrix is zero"), Coupling(0.4, 0.4)]
        found = mean_coupling(heads)
        assert (found.coupling, found.error, found.heads) == (pytest.approx(0.3), pytest.approx(0.25), 2)
        assert found.message == "1 of 3 heads are left out: a matrix is zero there"
        assert mean_coupling(heads[1:2]).message == "a matrix is zero"
