"""U-centring beside its definition, compiled and as plain Python."""

import numpy as np
import pytest

from ninscope.neurons.observatory.similarity_kernel import u_centre


@pytest.mark.parametrize("m", [4, 5, 9])
def test_u_centring_is_that_of_its_definition(rng, m):
    """Szekely and Rizzo 2014, section 3: off the diagonal, each entry less its row's and its column's part, and the whole's."""
    rows = 3 + rng.normal(size=(m, 3))
    kernel = rows @ rows.T
    found = kernel.copy()
    u_centre(found)
    off = kernel - np.diag(np.diag(kernel))
    for i, j in np.ndindex(m, m):
        wanted = off[i, j] - off[i].sum() / (m - 2) - off[:, j].sum() / (m - 2) + off.sum() / ((m - 1) * (m - 2))
        assert found[i, j] == pytest.approx(0 if i == j else wanted, abs=1e-12)
    assert found.sum(1) == pytest.approx(np.zeros(m), abs=1e-11)
