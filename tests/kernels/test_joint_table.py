"""One look-up for several readings equals float64 arithmetic for each of them, whatever the stored type."""

import math

import naive
import numpy as np
import pytest

from ninscope.multifractal.boxes import column_histogram, row_histogram
from ninscope.networks.bin_table import joint_table, unfold
from ninscope.networks.radii import IntegerRadii
from ninscope.networks.transfer import TRANSFERS, radius_step

FLOATS = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
FACTORS = (1.0, 0.6180339887, 3.7, 0.0, 2.0)


def expected_bin(weight, factor, transfer, max_distance):
    """Plain Python; the last bin but one stands for what is no edge."""
    scaled, count = abs(weight * factor), round(max_distance)
    if scaled == 0 or not 1 < 1 / scaled <= max_distance:
        return count + 1
    (distance,) = naive.distances_of(np.array([scaled]), transfer)
    return min(round(distance / radius_step(transfer, max_distance)), count)


def stored(rng, dtype, shape):
    """(bits, float64 values) of weights that range from nothing to beyond all bounds, 0 and 1 among them."""
    values = rng.normal(0, 1, shape) * 10 ** rng.uniform(-4, 1, shape)
    values.reshape(-1)[:3] = 0.0, 1.0, -0.5
    if dtype == "BF16":
        bits = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return bits, (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    typed = values.astype(FLOATS[dtype])
    return typed.view(f"u{typed.itemsize}"), typed.astype(np.float64)


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_every_reading_is_that_of_the_scaled_weights(rng, dtype, transfer):
    bits, weights = stored(rng, dtype, (40, 30))
    radii = IntegerRadii(transfer, 37.5)
    table = joint_table(dtype, radii, FACTORS)
    expected = np.zeros((len(FACTORS), 30, radii.count + 2), int)
    for number, factor in enumerate(FACTORS):
        for row in weights:
            for node, weight in enumerate(row.tolist()):
                expected[number, node, expected_bin(weight, factor, transfer, 37.5)] += 1
    by_columns, by_rows = (np.zeros((30, table.width), np.int32) for _ in range(2))
    column_histogram(bits, table, by_columns, None)
    row_histogram(np.ascontiguousarray(bits.T), table, by_rows, None)
    assert (by_columns == by_rows).all()
    into = np.ones((len(FACTORS), 30, radii.count + 1), np.int32)  # what was there before stays
    totals = unfold(by_columns, table, into)
    assert (into == expected[:, :, :-1] + 1).all()
    assert (totals == expected.sum(axis=1)).all()


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_16_bit_pattern(dtype):
    bits = np.arange(65536, dtype=np.uint16)
    table = joint_table(dtype, IntegerRadii(), (1.0, 1.7))
    values = bits.view(np.float16) if dtype == "F16" else (bits.astype(np.uint32) << 16).view(np.float32)
    counts = np.zeros((bits.size, table.width), np.int32)
    column_histogram(bits.reshape(1, -1), table, counts, None)
    joint = counts.argmax(axis=1)
    finite = np.isfinite(values)
    assert (joint[~finite] == table.nonfinite).all()
    assert not (joint[finite] == table.nonfinite).any()
    for number, factor in enumerate((1.0, 1.7)):
        found = table.readings[number, joint[finite]].tolist()
        assert found == [expected_bin(w, factor, "reciprocal", 150.0) for w in values[finite].astype(float).tolist()]


def test_a_joint_bin_is_a_run_in_which_no_reading_changes():
    table = joint_table("F16", IntegerRadii(), FACTORS)
    changes = (np.diff(table.readings, axis=1) != 0).any(axis=0)
    assert changes.all()
    assert math.prod(table.readings.shape) == len(FACTORS) * table.width


def test_arrays_of_other_shapes_are_refused():
    table = joint_table("F16", IntegerRadii(), (1.0,))
    counts = np.zeros((3, table.width), np.int32)
    with pytest.raises(ValueError, match="compiled code would leave the arrays"):
        unfold(counts, table, np.zeros((1, 2, 151), np.int32))
