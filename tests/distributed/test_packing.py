"""Counts of several ranks in few bits: what comes out is their sum, whatever they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninscope.distributed.packing import Packing, largest_counts

MAX = np.iinfo(np.int32).max


def summed(ranks: list[list[np.ndarray]]) -> tuple[list[np.ndarray], int]:
    """What every rank has after its arrays were packed, added and unpacked, and how many words were added."""
    bounds = sum(largest_counts(arrays) for arrays in ranks)
    words = sum(Packing(arrays, bounds).packed() for arrays in ranks)
    assert words.dtype == np.int64
    return Packing(ranks[-1], bounds).unpacked(words), words.size


@st.composite
def ranks_of_counts(draw) -> list[list[np.ndarray]]:
    """Arrays of 2 to 5 ranks, of the same shapes; a column's counts reach from none to the most that there can be."""
    ranks = draw(st.integers(2, 5))
    shapes = draw(st.lists(st.tuples(st.integers(0, 600), st.integers(1, 12)), min_size=1, max_size=3))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    found: list[list[np.ndarray]] = [[] for _ in range(ranks)]
    for shape in shapes:
        most = np.minimum(2.0 ** generator.uniform(0, 31, shape[1]), MAX).astype(np.int64) // ranks
        most[generator.random(shape[1]) < 0.2] = 0
        for arrays in found:
            arrays.append(generator.integers(0, most + 1, shape).astype(np.int32))
            arrays.append(generator.integers(-(2**60), 2**60, shape[0]))
    return found


@given(ranks_of_counts())
def test_sums_are_those_of_numpy(ranks):
    sums, _ = summed(ranks)
    for place, total in enumerate(sums):
        expected = sum(arrays[place].astype(np.int64) for arrays in ranks)
        assert total.dtype == ranks[0][place].dtype
        assert np.array_equal(total, expected)


@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_no_field_carries_where_every_count_is_as_large_as_may_be(ranks):
    for most in (1, 2, 2**15 - 1, MAX // ranks):
        arrays = [np.full((3, 70), most, np.int32)]
        (total,), _ = summed([arrays] * ranks)
        assert (total == most * ranks).all()


def test_few_bits_are_sent():
    """63 columns of counts that sum to 1 at most are one word; to 3, two; and columns without counts cost nothing."""
    one, none = np.ones((5, 63), np.int32), np.zeros((5, 63), np.int32)
    assert summed([[one], [none]])[1] == 5
    assert summed([[one], [one]])[1] == 2 * 5 + 5 // 5 * 5  # 2 bits each: 31 fields a word, so three words
    assert summed([[np.hstack([one, none])], [np.hstack([none, none])]])[1] == 5
    assert summed([[none], [none]])[1] == 0


def test_nodes_that_one_rank_has_need_no_bits_for_the_others():
    """512 nodes, 256 of either rank: 7 fits into 3 bits, whoever has it, so 21 columns are one word."""
    counts = np.full((512, 21), 7, np.int32)
    mine = np.arange(512)[:, None] < 256
    (total,), words = summed(
        [[np.where(mine, counts, 0).astype(np.int32)], [np.where(mine, 0, counts).astype(np.int32)]]
    )
    assert np.array_equal(total, counts)
    assert words == 512


def test_wide_fields_share_words_with_narrow_ones():
    """Widths 40 would not fit; 31 and 31 and 1 do: first fit fills a word to its last bit."""
    counts = np.array([[MAX // 2, 0, MAX // 2]], np.int32)
    (total,), words = summed([[counts], [np.array([[0, 1, 0]], np.int32)]])
    assert total.tolist() == [[MAX // 2, 1, MAX // 2]]
    assert words == 1


def test_what_is_no_count_is_refused():
    with pytest.raises(ValueError, match="holds a number below 0"):
        largest_counts([np.array([[1, -1]], np.int32)])
    with pytest.raises(ValueError, match="int32 or int64 are added up over ranks, not of float64"):
        largest_counts([np.ones(2)])
