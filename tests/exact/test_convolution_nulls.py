"""Null models of convolutions, whose edges may be norms of kernels."""

import numpy as np
import pytest
from suites import write_checkpoint

from ninscope.checkpoints.source import open_source
from ninscope.exact.null_models import null_spectrum
from ninscope.exact.whole import exact_analysis
from ninscope.networks.neuron_network import neuron_network
from ninscope.parameters import Parameters


@pytest.mark.parametrize(
    ("kernels", "order"), [("norm", "convolution"), ("per_tap", "convolution"), ("norm", "transposed_convolution")]
)
def test_gaussian_convolutions_are_like_their_gaussian_null(tmp_path, kernels, order):
    """Kernels that are drawn at random have, read either way, the spectrum of the null that draws them again."""
    array = np.random.default_rng(0).normal(0, 0.03, (120, 100, 3, 3)).astype(np.float32)
    folder = write_checkpoint(tmp_path / "step0", {"w": array}, {"model_type": "mine"})
    block = {"tensor": "w", "source": "in.x", "target": "out.x", "order": order}
    asked = Parameters(nodes_per_layer="all", convolutions=kernels, architecture={"blocks": [block]})
    checkpoint = open_source(str(folder)).open("step0")
    analysis = exact_analysis(neuron_network(checkpoint, asked.reading), asked, matrices=True)
    (matrix,) = analysis.matrices
    assert (matrix.taps, matrix.rows * matrix.columns) == ((9, 12_000) if kernels == "norm" else (1, 108_000))
    assert matrix.std == pytest.approx(0.03, rel=0.01)
    for null in ("gaussian", "shuffled"):
        drawn = null_spectrum(null, analysis.matrices, analysis.radii, asked)
        assert drawn.edges == pytest.approx(analysis.spectrum.edges, rel=0.01)
        assert drawn.alpha0 == pytest.approx(analysis.spectrum.alpha0, rel=0.15)
