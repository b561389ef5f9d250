"""Entropies of rows and medians of magnitudes, against loops and numpy, compiled and as plain Python."""

import math

import numpy as np
import pytest
import torch
from neurons.observatory.shown_places import softmax

from ninscope.neurons.observatory.row_statistics import entropies_by_torch, medians_and_largest, summed_row_entropies


def naive_entropies(pattern):
    samples, heads, rows, columns = pattern.shape
    sums = np.zeros((heads, rows))
    for sample in range(samples):
        for head in range(heads):
            for i in range(rows):
                for j in range(columns):
                    a = float(pattern[sample, head, i, j])
                    sums[head, i] -= a * math.log(a) if a > 0 else 0.0
    return sums


@pytest.mark.parametrize(
    ("size", "spread", "causal"), [(1, 1, True), (5, 1, True), (37, 3, True), (37, 30, False), (64, 0.1, False)]
)
def test_entropies_are_those_of_a_loop(size, spread, causal):
    scores = spread * np.random.default_rng(size).standard_normal((2, 3, size, size))
    pattern = softmax(scores, causal)
    sums, ahead = summed_row_entropies(torch.from_numpy(pattern))
    np.testing.assert_allclose(sums, naive_entropies(pattern), rtol=0, atol=2e-6)
    assert ahead is not causal


@pytest.mark.parametrize("causal", [True, False])
def test_entropies_by_torch_are_the_same(causal):
    pattern = torch.from_numpy(softmax(4 * np.random.default_rng(0).standard_normal((2, 3, 17, 17)), causal))
    sums, ahead = entropies_by_torch(pattern)
    np.testing.assert_allclose(sums, naive_entropies(pattern.numpy()), rtol=0, atol=2e-6)
    assert ahead is not causal
    assert sums.dtype == np.float64


def test_one_entry_beyond_the_diagonal_is_seen_and_counts():
    pattern = np.zeros((2, 2, 40, 40), np.float32)
    pattern[:] = np.eye(40)
    assert summed_row_entropies(torch.from_numpy(pattern))[1] is False
    pattern[1, 1, 3, [3, 4]] = 0.25, 0.75
    sums, ahead = summed_row_entropies(torch.from_numpy(pattern))
    assert ahead is True
    assert sums[1, 3] == pytest.approx(0.25 * math.log(4) + 0.75 * math.log(4 / 3), abs=1e-6)
    sums[1, 3] = 0
    assert not sums.any()


def test_entropies_of_cross_attention_and_of_a_tiny_weight():
    pattern = np.zeros((1, 1, 2, 5), np.float32)
    pattern[0, 0, 0] = [0.5, 0.125, 0.125, 0.125, 0.125]
    pattern[0, 0, 1, :2] = 1, 1e-30
    sums, ahead = summed_row_entropies(torch.from_numpy(pattern))
    np.testing.assert_allclose(sums, [[2 * math.log(2), 0]], atol=1e-7)
    assert ahead


def test_threads_change_no_bit():
    pattern = torch.from_numpy(softmax(np.random.default_rng(0).standard_normal((2, 4, 130, 130)), True))
    before = torch.get_num_threads()
    found = []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            found.append((summed_row_entropies(pattern)[0], medians_and_largest(pattern.flatten(1))[0]))
    finally:
        torch.set_num_threads(before)
    assert (found[0][0] == found[1][0]).all()
    assert (found[0][1] == found[1][1]).all()


def test_medians_are_those_of_sorting():
    rng = np.random.default_rng(1)
    rows = np.stack(
        [
            rng.standard_normal(60),
            np.zeros(60),
            np.r_[np.zeros(30), np.ones(30)],
            np.r_[np.zeros(29), np.ones(31)],
            rng.standard_normal(60) * 10.0 ** rng.integers(-30, 30, 60),
            np.full(60, -3.5),
            1 + rng.integers(0, 9, 60) * 2.0**-23,  # differ in the last digit alone
        ]
    ).astype(np.float32)
    for part in (rows, rows[:, :59], rows[:, :1]):
        medians = medians_and_largest(torch.from_numpy(part))[0].numpy()
        assert (medians == np.sort(np.abs(part), axis=1)[:, (part.shape[1] - 1) // 2]).all()


def test_half_precision_is_taken_as_float32():
    rows = torch.tensor([[1.0, -2.0, 3.0], [-0.5, 0.25, 8.0]], dtype=torch.bfloat16)
    medians = medians_and_largest(rows)[0]
    assert medians.dtype == torch.float32
    assert medians.tolist() == [2.0, 0.5]
    sums, _ = summed_row_entropies(torch.full((1, 1, 4, 4), 0.25, dtype=torch.float16))
    np.testing.assert_allclose(sums, np.full((1, 4), math.log(4)), rtol=1e-6)
