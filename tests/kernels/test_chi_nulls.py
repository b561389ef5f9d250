"""Gaussian null models of convolutions: norms of kernels are chi-distributed."""

import numpy as np
import pytest
from scipy import stats

from ninscope.multifractal.nulls import bin_probabilities
from ninscope.networks.radii import IntegerRadii, LogRadii


class TestNormsOfKernels:
    @pytest.mark.parametrize("taps", [2, 9, 25])
    @pytest.mark.parametrize("radii", [IntegerRadii(), IntegerRadii("neg_log", 20.4), LogRadii(20, 1e-3, 0.7)], ids=str)
    def test_are_chi_distributed(self, taps, radii):
        """Between the weights where the bin changes, found here by asking for the bin of many."""
        std = 0.02
        weights = np.sort(
            np.concatenate([np.geomspace(1e-6, 2, 40_001), stats.chi(taps, scale=std).rvs(5000, random_state=0)])
        )
        bins = radii.bins(weights)
        cdf = stats.chi(taps, scale=std).cdf
        found = bin_probabilities(std, radii, taps)
        assert found.sum() == pytest.approx(1)
        for number in np.unique(bins[bins >= 0]):
            inside = weights[bins == number]
            low, high = cdf(inside[0]), cdf(inside[-1])
            step = cdf(inside[-1] * 1.001) - cdf(inside[0] * 0.999)
            assert high - low - 1e-12 <= found[number] <= step + 1e-12

    def test_one_tap_is_the_gaussian(self):
        np.testing.assert_array_equal(
            bin_probabilities(0.05, IntegerRadii(), 1), bin_probabilities(0.05, IntegerRadii())
        )


def test_kernels_next_to_nothing_have_no_edges():
    """Without a warning, though their bounds in deviations overflow when they are squared."""
    found = bin_probabilities(1e-160, IntegerRadii("reciprocal", 5.0), taps=9)
    assert found[-1] == 1.0
    assert found[:-1].sum() == 0.0
