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


@pytest.mark.parametrize("columns", [11, 512, 1029])
@pytest.mark.parametrize("rank", [1, 4, 8, 11, 16])
@pytest.mark.parametrize("dtype", ["F32", "F64"])
def test_low_rank_updates(rng, dtype, rank, columns):
    weights, left, right = (
        rng.normal(size=shape).astype(STORED_TYPES[dtype]) for shape in ((7, columns), (7, rank), (rank, columns))
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


@pytest.mark.parametrize("factors", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_bits_are_those_of_sums_without_fused_products(rng, dtype, factors):
    """Whatever the factors' width, from subnormal numbers to those whose products leave the range of float32."""
    stored = rng.normal(size=(64, 600)).astype(np.float64 if dtype == "F64" else np.float32)
    stored = as_stored(stored, dtype)
    scales = 2.0 ** (rng.integers(-24, 12, 64) if factors is np.float16 else rng.integers(-140, 100, 64))
    left = (rng.normal(size=(64, 9)) * scales[:, None]).astype(factors)
    right = rng.normal(size=(9, 600)).astype(factors)
    total = in_float64(as_float(stored, dtype), left, right, 0.3)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = as_stored(total if dtype == "F64" else total.astype(np.float32), dtype)
    assert add_low_rank(stored, dtype, left, right, 0.3).tobytes() == expected.tobytes()


def test_only_products_of_float32_are_taken_for_exact():
    assert low_rank._are_float32(np.array([0.0, -1.5, 1e-45, 3e38], np.float32).astype(np.float64))
    for number in (0.1, 1e300, 1e-300, np.nan):
        with np.errstate(over="ignore"):
            assert not low_rank._are_float32(np.array([1.0, number]))


@pytest.mark.skipif(not low_rank._HAS_HALVES, reason="this processor converts no float16, or kernels are not compiled")
def test_the_processors_halves_are_those_of_the_kernels(rng, monkeypatch):
    """Every number with itself in another place, and updates beside where rounding turns."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(-1, 64)
    finite = np.where(np.isfinite(every), every, np.float16(0))
    steps = np.spacing(np.abs(finite)).astype(np.float64)
    for share in (0.0, 0.25, 0.5, np.nextafter(0.5, 0), np.nextafter(0.5, 1), 0.75, -0.5, 1.5, 2.0**20):
        # With a rank of 64, each column has an update of its own.
        updates = [share * steps, rng.normal(size=every.shape) * steps]
        for update in updates:
            right = np.eye(64)
            found = add_low_rank(every, "F16", update, right, 1.0)
            with monkeypatch.context() as patched:
                patched.setattr(low_rank, "_HAS_HALVES", False)
                expected = add_low_rank(every, "F16", update, right, 1.0)
            numbers = ~np.isnan(expected)
            assert (found.view(np.uint16) == expected.view(np.uint16))[numbers].all()
            assert np.isnan(found[~numbers]).all()


@pytest.mark.parametrize("has_halves", [False, low_rank._HAS_HALVES])
@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_narrow_weights_are_rounded_alike_either_way(rng, dtype, has_halves, monkeypatch):
    monkeypatch.setattr(low_rank, "_HAS_HALVES", has_halves)
    test_narrow_weights_are_rounded_once_from_float32(rng, dtype)


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
