"""Low-rank updates and the rounding to stored types: what merging an adapter is made of."""

import numpy as np
import pytest

from ninscope.checkpoints.kernels import add_low_rank
from ninscope.checkpoints.tensors import as_float, as_stored


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_low_rank_updates(rng, dtype):
    weights, left, right = (rng.normal(size=shape).astype(dtype) for shape in ((7, 11), (7, 5), (5, 11)))
    exact = weights.astype(np.longdouble) + 0.3 * (left.astype(np.longdouble) @ right.astype(np.longdouble))
    found = add_low_rank(weights, left, right, 0.3)
    assert found.dtype == dtype
    terms = np.abs(weights) + 0.3 * np.abs(left) @ np.abs(right)
    allowed = 0.5 * np.spacing(np.abs(found)) + 8 * np.finfo(np.float64).eps * terms
    assert (np.abs(found - exact) <= allowed).all()


def test_rounding_to_bfloat16_is_torchs(rng):
    special = np.array(
        [0.0, -0.0, np.inf, -np.inf, 3.4028235e38, -3.4028235e38, 1e-45, 1.00390625, 1.01171875], np.float32
    )
    patterns = rng.integers(0, 2**32, 5000, dtype=np.uint32).view(np.float32)
    values = np.concatenate([special, patterns[np.isfinite(patterns)]])
    torch = pytest.importorskip("torch")
    expected = torch.from_numpy(values).bfloat16().view(torch.uint16).numpy()
    assert (as_stored(values, "BF16") == expected).all()


def test_what_is_no_number_stays_none():
    patterns = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(as_float(as_stored(patterns, "BF16"), "BF16")).all()
    assert np.isinf(as_stored(np.array([1e6], np.float32), "F16")).all()
