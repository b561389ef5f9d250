"""Parity with the authors' results on their networks, where those are at hand; and a small fixture of our own."""

from pathlib import Path

import numpy as np
import pytest
from modes import JIT

import ninscope

REFERENCE = sorted((Path(__file__).parents[3] / "shared" / "reference").glob("*.npz"))


@pytest.mark.skipif(not REFERENCE, reason="the authors' networks are not here")
@pytest.mark.skipif(not JIT, reason="too large for plain Python kernels")
@pytest.mark.parametrize("path", REFERENCE, ids=lambda path: path.stem)
def test_parity_with_the_authors(path):
    with np.load(path, allow_pickle=False) as stored:
        known = dict(stored)
    rows = [row[row != 0] for row in np.split(known["weights"].astype(np.float64), known["indptr"][1:-1])]
    distances = [1 / np.abs(row) for row in rows]
    found = ninscope.spectrum_from_distances(
        distances, known["q"], max_distance=float(known["threshold"]), derivative="forward"
    )
    np.testing.assert_allclose(found.tau, known["tau"], rtol=1e-9, atol=1e-12)  # tau(0) is 0, to rounding
    np.testing.assert_allclose(found.alpha, known["alpha"], rtol=1e-9)
    np.testing.assert_allclose(found.f, known["f_alpha"], rtol=1e-9, atol=1e-12)
    assert found.width == pytest.approx(float(known["width"]), rel=1e-9)
    assert found.r2[-1] == pytest.approx(float(known["rvalue_last_q"]) ** 2, rel=1e-9)
    beside_zero = known["alpha"][np.argsort(-known["f_alpha"])[:2]]  # tied by forward differences
    assert np.abs(beside_zero / found.alpha0 - 1).min() < 1e-9
    np.testing.assert_allclose(
        ninscope.node_fractal_dimensions(distances), known["node_dimension_threshold_200"], rtol=1e-9
    )
    exact = ninscope.spectrum_from_distances(distances, known["q"], max_distance=float(known["threshold"]))
    assert beside_zero.min() <= exact.alpha0 <= beside_zero.max()  # no tie: alpha at q = 0 itself


def test_a_network_worked_out_by_hand():
    """Two nodes of 3 edges, radii 1, 2 and 4: N = 2, 3, 4 and 2, 2, 4, so p = 1/2, 3/4, 1 and 1/2, 1/2, 1.

    Z_1 = 1, 5/4, 2 and Z_2 = 1/2, 13/16, 2 on x = ln 1/4, ln 1/2, 0; three equally spaced points have the slope
    (last - first) / (2 ln 2), so tau(1) = ln 2 / (2 ln 2) = 1/2 and tau(2) = ln 4 / (2 ln 2) = 1. alpha(q) is the slope of
    sum p^q ln p / Z, whose last value is 0 and whose first is ln 1/2 for both nodes: alpha = ln 2 / (2 ln 2) = 1/2.
    """
    found = ninscope.spectrum_from_distances([[1.3, 2.0, 4.2], [1.4, 4.0, 3.9]], [0.0, 1.0, 2.0], min_degree=2)
    np.testing.assert_allclose(found.tau, [0, 1 / 2, 1], atol=1e-15)
    np.testing.assert_allclose(found.alpha, [1 / 2] * 3, rtol=1e-14)
    np.testing.assert_allclose(found.f, [0, 0, 0], atol=1e-14)
    assert found.width == pytest.approx(0, abs=1e-14)
    assert (found.nodes, found.edges) == (2, 6)
