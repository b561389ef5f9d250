"""Low-rank updates and the rounding to stored types: what merging an adapter is made of."""

import numpy as np
import pytest

from ninscope.checkpoints import low_rank
from ninscope.checkpoints.tensors import STORED_TYPES, as_float, as_stored


def add_low_rank(stored, *options) -> np.ndarray:
    """The sum, of weights that stay as they are."""
    merged = stored.copy()
    low_rank.add_low_rank(merged, *options)
    return merged


def in_float64(weights, left, right, scale):
    """The sum, term by term in the order of the rank."""
    total = np.zeros(weights.shape)
    for k in range(left.shape[1]):
        total = total + left[:, k : k + 1].astype(np.float64) * right[k].astype(np.float64)
    return weights + scale * total


@pytest.mark.parametrize("rank", [1, 4, 5, 11])
@pytest.mark.parametrize("dtype", ["F32", "F64"])
def test_low_rank_updates(rng, dtype, rank):
    weights, left, right = (
        rng.normal(size=shape).astype(STORED_TYPES[dtype]) for shape in ((7, 11), (7, rank), (rank, 11))
    )
    exact = weights.astype(np.longdouble) + 0.3 * (left.astype(np.longdouble) @ right.astype(np.longdouble))
    found = add_low_rank(weights, dtype, left, right, 0.3)
    assert found.dtype == STORED_TYPES[dtype]
    terms = np.abs(weights) + 0.3 * np.abs(left) @ np.abs(right)
    allowed = 0.5 * np.spacing(np.abs(found)) + 8 * np.finfo(np.float64).eps * terms
    assert (np.abs(found - exact) <= allowed).all()
    assert (found == in_float64(weights, left, right, 0.3).astype(found.dtype)).all()


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_narrow_weights_are_rounded_once_from_float32(rng, dtype):
    """Every number of the type, with updates from less than its least number to more than its largest."""
    stored = np.arange(1 << 16, dtype=np.uint16).view(STORED_TYPES[dtype]).reshape(-1, 64)
    scales = 2.0 ** rng.integers(-30, 18, len(stored))
    left, right = rng.normal(size=(len(stored), 3)) * scales[:, None], rng.normal(size=(3, 64))
    with np.errstate(over="ignore", invalid="ignore"):
        expected = as_stored(in_float64(as_float(stored, dtype), left, right, 0.5).astype(np.float32), dtype)
    found = add_low_rank(stored, dtype, left, right, 0.5)
    assert found.dtype == STORED_TYPES[dtype]
    numbers = ~np.isnan(as_float(expected, dtype))
    assert (found.view(np.uint16) == expected.view(np.uint16))[numbers].all()
    assert np.isnan(as_float(found, dtype)[~numbers]).all()
    assert np.isinf(as_float(found, dtype)).any()


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_no_update_changes_no_weight(dtype):
    """But for the sign of zero, which no network knows."""
    stored = np.arange(1 << 16, dtype=np.uint16).view(STORED_TYPES[dtype]).reshape(-1, 256)
    found = as_float(add_low_rank(stored, dtype, np.zeros((256, 2)), np.zeros((2, 256)), 1.0), dtype)
    np.testing.assert_array_equal(found, as_float(stored, dtype))


def test_weights_that_lie_anywhere(rng):
    """At an odd address, and every second column of a matrix."""
    weights, left, right = (rng.normal(size=shape).astype(np.float32) for shape in ((5, 8), (5, 2), (2, 8)))
    expected = add_low_rank(weights, "F32", left, right, 2.0)
    odd = np.zeros(weights.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(weights.shape)
    spread = np.zeros((5, 16), np.float32)[:, ::2]
    for place in (odd, spread):
        place[:] = weights
        low_rank.add_low_rank(place, "F32", left, right, 2.0)
        assert (place == expected).all()


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
