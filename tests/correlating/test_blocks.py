"""Draws in blocks: neighbours stay together, every place is drawn as often, and a name and a seed decide it all."""

import numpy as np
import pytest

from ninscope.correlating.blocks import block_length, counts_of, drawn_places, shuffled_places

SIZES = [(8, 2), (13, 3), (14, 14), (154, 6), (5, 1)]


@pytest.mark.parametrize(
    ("n", "length"), [(1, 1), (8, 2), (9, 3), (14, 3), (27, 3), (64, 4), (65, 5), (154, 6), (1000, 10)]
)
def test_blocks_are_the_cube_root_long_rounded_up(n, length):
    assert block_length(n) == length


def broken(places, n):
    """How many neighbours of each resample are no neighbours on the circle of n places."""
    return (np.diff(places, axis=1) % n != 1).sum(axis=1)


@pytest.mark.parametrize(("n", "block"), SIZES)
def test_drawn_blocks_are_whole(n, block):
    places = drawn_places(n, block, 400, 0, "a")
    assert places.shape == (400, n)
    assert (places.min(), places.max()) == (0, n - 1)
    assert broken(places, n).max() <= -(-n // block) - 1
    starts = places[:, ::block]
    for number in range(block):  # within a block each place follows the one before it
        ends = places[:, number::block]
        np.testing.assert_array_equal(ends, (starts[:, : ends.shape[1]] + number) % n)


@pytest.mark.parametrize(("n", "block"), SIZES)
def test_shuffled_blocks_hold_every_place_once(n, block):
    places = shuffled_places(n, block, 400, 0, "a")
    np.testing.assert_array_equal(np.sort(places, axis=1), np.tile(np.arange(n), (400, 1)))
    assert broken(places, n).max() <= -(-n // block)
    if block < n:
        assert broken(places, n).max() > 0


@pytest.mark.parametrize("draw", [drawn_places, shuffled_places])
def test_first_and_last_places_come_anywhere_as_often_as_others(draw):
    """In 30,000 resamples a share of a tenth has a standard deviation of .0017."""
    places = draw(10, 3, 30_000, 1, "b")
    for column in (0, 4, 9):
        np.testing.assert_allclose(np.bincount(places[:, column], minlength=10) / 30_000, 0.1, atol=0.008)


@pytest.mark.parametrize("draw", [drawn_places, shuffled_places])
def test_name_and_seed_decide_the_draw(draw):
    first = draw(20, 3, 50, 7, "a")
    np.testing.assert_array_equal(draw(20, 3, 80, 7, "a")[:50], first)
    for other in (draw(20, 3, 50, 8, "a"), draw(20, 3, 50, 7, "b"), draw(20, 4, 50, 7, "a")):
        assert (other != first).any()


def test_counts_are_how_often_each_place_is_drawn():
    np.testing.assert_array_equal(counts_of(np.array([[0, 0, 2], [1, 2, 1]])), [[2, 0, 1], [0, 2, 1]])
