"""Null models that keep norms, of convolutions: groups stay apart, kernels' taps are drawn."""

import numpy as np
import pytest
from suites import write_checkpoint

from ninscope.architectures import Reading
from ninscope.architectures.described import description_of
from ninscope.checkpoints.source import open_source
from ninscope.exact.norms import matrix_norms
from ninscope.exact.null_models import null_spectrum, with_norms
from ninscope.exact.whole import exact_analysis
from ninscope.networks.neuron_network import neuron_network
from ninscope.parameters import Parameters


@pytest.mark.parametrize("null", ["column_norms", "row_norms"])
@pytest.mark.parametrize("kernels", ["norm", "per_tap"])
def test_random_kernels_are_like_their_own_null(tmp_path, null, kernels):
    """Groups of unlike deviations, which a null that mixed them would bring together."""
    rng = np.random.default_rng(0)
    array = rng.normal(0, 0.03, (120, 50, 3, 3)) * np.repeat([0.4, 2.0], 60)[:, None, None, None]
    folder = write_checkpoint(tmp_path / "step0", {"w": array.astype(np.float32)}, {"model_type": "mine"})
    block = {"tensor": "w", "source": "in.x", "target": "out.x", "order": "convolution", "groups": 2}
    network = neuron_network(
        open_source(folder).open("step0"), Reading(kernels, description=description_of({"blocks": [block]}))
    )
    parameters = Parameters("all", min_degree=0)
    analysis = exact_analysis(network, parameters, matrices=True)
    matrices = with_norms(analysis.matrices, matrix_norms(network))
    drawn = null_spectrum(null, matrices, analysis.radii, parameters)
    assert drawn.nodes == analysis.spectrum.nodes == 100
    assert drawn.edges == pytest.approx(analysis.spectrum.edges, rel=0.01)
    assert drawn.alpha0 == pytest.approx(analysis.spectrum.alpha0, rel=0.05)
    assert drawn.width == pytest.approx(analysis.spectrum.width, rel=0.1)
    mixed = null_spectrum("shuffled", matrices, analysis.radii, parameters)
    assert mixed.width < 0.6 * analysis.spectrum.width
