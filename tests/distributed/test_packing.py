"""Counts of several ranks in few bits: what comes out is their sum, whatever they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninscope.distributed.packing import Packing, facts_of

MAX = np.iinfo(np.int32).max


def summed(ranks: list[list[np.ndarray]]) -> tuple[list[np.ndarray], int, int]:
    """What every rank has after its arrays were packed, added and unpacked; how many words were added, and how many once more."""
    facts = sum(facts_of(arrays) for arrays in ranks)
    packings = [Packing(arrays, facts) for arrays in ranks]
    words, again = added([packing.words() for packing in packings]), 0
    for packing in packings:
        packing.take(words)
    if packings[0].is_doubtful:
        second = added([packing.words_again() for packing in packings])
        again = second.size
        for packing in packings:
            packing.take_again(second)
    assert {packing.is_doubtful for packing in packings} == {again > 0}
    for one, other in zip(packings[0].sums, packings[-1].sums, strict=True):
        assert np.array_equal(one, other)
    return packings[0].sums, words.size, again


def added(words: list[np.ndarray]) -> np.ndarray:
    """Their sum, none of whose partial sums is beyond int64, where what C++ does is not defined."""
    assert all(one.dtype == np.int64 for one in words)
    exact = sum(one.astype(object) for one in words)
    assert all(-(2**63) <= number < 2**63 for number in exact)
    return exact.astype(np.int64) if len(exact) else np.zeros(0, np.int64)


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
    assert_sums(ranks)


def assert_sums(ranks: list[list[np.ndarray]]) -> int:
    """Returns how many words were sent again."""
    sums, _, again = summed(ranks)
    for place, total in enumerate(sums):
        expected = sum(arrays[place].astype(np.int64) for arrays in ranks)
        assert total.dtype == ranks[0][place].dtype
        assert np.array_equal(total, expected)
    return again


@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_no_field_carries_where_every_count_is_as_large_as_may_be(ranks):
    for most in (1, 2, 2**15 - 1, MAX // ranks):
        arrays = [np.full((3, 70), most, np.int32)]
        (total,), _, _ = summed([arrays] * ranks)
        assert (total == most * ranks).all()


@pytest.mark.parametrize("ranks", [2, 4, 9])
def test_a_sum_that_nobody_expects_is_found(rng, ranks):
    """One node has far more than the others, on one rank: what its field cannot hold is sent again, and no more."""
    few = [rng.poisson(2.0, (300, 150)).astype(np.int32) for _ in range(ranks)]
    for column in (0, 77, 149):
        few[column % ranks][137, column] = 1030  # is likely to be below 1024, by the largest counts of all ranks
    again = assert_sums([[counts] for counts in few])
    assert 0 < again <= 300 * 3 * 4  # columns of three words, with bits for their bounds


@given(st.integers(0, 2**32), st.integers(2, 5), st.integers(1, 40))
def test_whatever_carries_is_found(seed, ranks, columns):
    """Counts that spread over all orders: most columns have sums that are far from their mean."""
    generator = np.random.default_rng(seed)
    scale = 2.0 ** generator.uniform(0, 30, (ranks, 40, columns)) * (generator.random((ranks, 40, columns)) < 0.3)
    assert_sums([[np.minimum(of_rank, MAX // ranks).astype(np.int32)] for of_rank in scale])


def test_most_of_what_many_ranks_count_is_sent_once():
    """64 ranks that count 2 of a bin each: largest counts of ranks sum to three times the largest sum."""
    generator = np.random.default_rng(0)
    ranks = [[generator.poisson(2.0, (512, 120)).astype(np.int32)] for _ in range(64)]
    bits = np.ceil(np.log2(sum(arrays[0] for arrays in ranks).max() + 1))
    _, words, again = summed(ranks)
    assert words == 512 * np.ceil(120 / (63 // bits))
    assert again < words / 10


def test_few_bits_are_sent():
    """62 columns of counts that sum to 1 at most are one word; to 3, two; and columns without counts cost nothing."""
    one, none = np.ones((5, 62), np.int32), np.zeros((5, 62), np.int32)
    assert summed([[one], [none]])[1] == 5
    assert summed([[one], [one]])[1] == 2 * 5
    assert summed([[np.hstack([one, none])], [np.hstack([none, none])]])[1] == 5
    assert summed([[none], [none]])[1] == 0


def test_nodes_that_one_rank_has_need_no_bits_for_the_others():
    """512 nodes, 256 of either rank: 7 fits into 3 bits, whoever has it, so 20 columns are one word."""
    counts = np.full((512, 20), 7, np.int32)
    mine = np.arange(512)[:, None] < 256
    (total,), words, _ = summed(
        [[np.where(mine, counts, 0).astype(np.int32)], [np.where(mine, 0, counts).astype(np.int32)]]
    )
    assert np.array_equal(total, counts)
    assert words == 512


def test_wide_fields_share_words_with_narrow_ones():
    """Widths 40 would not fit; 31 and 31 and 1 do: first fit fills a word to its last bit."""
    counts = np.array([[MAX // 2, 0, MAX // 2]], np.int32)
    (total,), words, _ = summed([[counts], [np.array([[0, 1, 0]], np.int32)]])
    assert total.tolist() == [[MAX // 2, 1, MAX // 2]]
    assert words == 1


def test_what_is_no_count_is_refused():
    with pytest.raises(ValueError, match="holds a number below 0"):
        facts_of([np.array([[1, -1]], np.int32)])
    with pytest.raises(ValueError, match="int32 or int64 are added up over ranks, not of float64"):
        facts_of([np.ones(2)])
