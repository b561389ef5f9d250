"""Counts of many nodes as few numbers: fields of as few bits as a count's sum over all ranks is likely to need.

Ranks tell each other of every column their largest count and their total. The sum of the largest bounds every sum, and the sum of
totals is what the column's sums must have together. A field has the bits of the largest sum that is likely, which is below that
bound where many ranks have a share of each count.

A sum that needs more bits than its field is always found. Counts are not below 0. In a word, take the lowest field in which a sum
is too large in some row: no field below it carries, so it has its sum without the upper bits, in that row too little, in no row
too much. The column's total is then too small. The columns of such words are sent once more, in fields of the bits of the bound,
of which none can carry, whatever partial sums are made on the way. Words stay below 2**63 even if all counts are at their bounds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit

_WORD_BITS = 63
_WORD_END = 0.999 * 2.0**_WORD_BITS  # of the float64 sums of bounds, which are rounded
_MAX_COUNT = np.iinfo(np.int32).max
# Rows are packed in blocks. Where ranks hold other nodes each, a block has counts of one rank, and needs no bits for the others.
_MAX_BLOCKS, _BLOCK_ROWS = 8, 256


def facts_of(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """What a `Packing` needs to know of the arrays of every rank: the sum of this, int64 [n].

    Raises ValueError for a count below 0, and for arrays of other types than int32 and int64.
    """
    if unfit := [array.dtype for array in arrays if array.dtype not in (np.int32, np.int64)]:
        raise ValueError(f"arrays of int32 or int64 are added up over ranks, not of {unfit[0]}")
    facts = [np.zeros(0, np.int64)]
    for block in _blocks_of(arrays):
        largest = block.view(np.uint32).max(axis=0).astype(np.int64)
        if largest.max() > _MAX_COUNT:
            raise ValueError("an array of counts that ranks add up holds a number below 0")
        facts += [largest, block.sum(axis=0, dtype=np.int64), np.array([largest.max() > 0], np.int64)]
    return np.concatenate(facts)


class Packing:
    """Adds int32 counts, not below 0, and any int64 of all ranks through arrays of int64.

        packing = Packing(arrays, summed(facts_of(arrays)))
        packing.take(summed(packing.words()))
        if packing.is_doubtful:
            packing.take_again(summed(packing.words_again()))
        packing.sums

    arrays: of the shapes and types that every rank has. facts: the sum of `facts_of` over the ranks.
    """

    def __init__(self, arrays: Sequence[np.ndarray], facts: np.ndarray) -> None:
        self._arrays = arrays
        self.sums = [np.zeros(array.shape, array.dtype) for array in arrays]
        self._blocks = []
        for counts, sums in zip(_blocks_of(arrays), _blocks_of(self.sums), strict=True):
            columns = counts.shape[1]
            self._blocks.append(
                _Block(counts, sums, facts[:columns], facts[columns : 2 * columns], int(facts[2 * columns]))
            )
            facts = facts[2 * columns + 1 :]

    def words(self) -> np.ndarray:
        """int64 [n]."""
        whole = [array.reshape(-1) for array in self._arrays if array.dtype == np.int64]
        return np.concatenate([np.zeros(0, np.int64), *whole, *(block.packed(block.likely) for block in self._blocks)])

    def take(self, words: np.ndarray) -> None:
        """words: the sum of `words` over the ranks."""
        for total in self.sums:
            if total.dtype == np.int64:
                total.reshape(-1)[:] = words[: total.size]
                words = words[total.size :]
        for block in self._blocks:
            words = block.unpack(words, block.likely)
        self._doubted = [(block, again) for block in self._blocks if (again := block.doubted()) is not None]

    @property
    def is_doubtful(self) -> bool:
        """Whether fields were too small for some sums, so that their columns have to be sent again: the same on every rank."""
        return bool(self._doubted)

    def words_again(self) -> np.ndarray:
        """int64 [n]."""
        return np.concatenate([block.packed(fields) for block, fields in self._doubted])

    def take_again(self, words: np.ndarray) -> None:
        """words: the sum of `words_again` over the ranks."""
        for block, fields in self._doubted:
            words = block.unpack(words, fields)


@dataclass(frozen=True)
class _Fields:
    """Where each column's count lies: its word (-1: nowhere), its shift, its mask, int64 [columns]; words a row."""

    word: np.ndarray
    shift: np.ndarray
    mask: np.ndarray
    words: int


@dataclass(frozen=True)
class _Block:
    """Rows of an array. counts, sums: int32 [rows, columns], of this rank and of all. bounds, totals: over all ranks, int64
    [columns], the sum of the largest counts and the sum of all counts. holders: how many ranks have counts here.
    """

    counts: np.ndarray
    sums: np.ndarray
    bounds: np.ndarray
    totals: np.ndarray
    holders: int

    @cached_property
    def likely(self) -> _Fields:
        """Of one rank's counts the bound is the largest sum. Of several, sums are as large as counts that scatter around a mean
        (4 standard deviations of a Poisson distribution), or as the largest node's if it is the largest on every rank, there by 2.
        """
        bounds = np.minimum(self.bounds, _MAX_COUNT)
        if self.holders > 1:
            mean = self.totals / len(self.counts)
            scattered = mean + 4 * np.sqrt(mean) + 4
            of_one_node = (np.sqrt(self.holders + self.bounds) - np.sqrt(self.holders)) ** 2
            bounds = np.minimum(bounds, np.maximum(scattered, of_one_node).astype(np.int64))
        return self._fields(bounds)

    def doubted(self) -> _Fields | None:
        """Fields, without any doubt, of the columns in words of which a sum was too large; None where there is none."""
        wrong = self.sums.sum(axis=0, dtype=np.int64) != self.totals
        if not wrong.any():
            return None
        again = np.isin(self.likely.word, self.likely.word[wrong])
        return self._fields(np.where(again, np.minimum(self.bounds, _MAX_COUNT), 0))

    def _fields(self, bounds: np.ndarray) -> _Fields:
        """bounds: of which a field has the bits, int64 [columns]; 0 for no field."""
        widths = np.frexp(bounds.astype(np.float64))[1].astype(np.int64)
        word, shift = np.full(len(widths), -1), np.zeros(len(widths), np.int64)
        words = _place(np.argsort(-widths, kind="stable"), widths, self.bounds.astype(np.float64), word, shift)
        return _Fields(word, shift, (np.int64(1) << widths) - 1, words)

    def packed(self, fields: _Fields) -> np.ndarray:
        packed = np.zeros((len(self.counts), fields.words), np.int64)
        _pack(self.counts, fields.word, fields.shift, packed)
        return packed.reshape(-1)

    def unpack(self, words: np.ndarray, fields: _Fields) -> np.ndarray:
        """Take the sums from the first of the words; returns the others."""
        size = len(self.counts) * fields.words
        packed = words[:size].reshape(len(self.counts), fields.words)
        _unpack(packed, fields.word, fields.shift, fields.mask, self.sums)
        return words[size:]


def _blocks_of(arrays: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Arrays of counts, their last axis as columns, in blocks of rows; none of an array without numbers. Views of what is in one
    piece of memory.
    """
    for array in arrays:
        if array.dtype == np.int32 and array.size:
            table = np.ascontiguousarray(array).reshape(-1, array.shape[-1] if array.ndim > 1 else 1)
            yield from np.array_split(table, max(1, min(_MAX_BLOCKS, len(table) // _BLOCK_ROWS)))


@njit(cache=True, nogil=True)
def _place(order: np.ndarray, widths: np.ndarray, bounds: np.ndarray, word: np.ndarray, shift: np.ndarray) -> int:
    """First fit, the widest first. bounds: of the sums, which a word must hold even where its fields do not, float64 [columns]."""
    used = np.zeros(len(widths), np.int64)
    most = np.zeros(len(widths))
    count = 0
    for column in order:
        if widths[column] == 0:
            break
        at = 0
        while used[at] + widths[column] > _WORD_BITS or most[at] + bounds[column] * 2.0 ** used[at] > _WORD_END:
            at += 1
        word[column], shift[column] = at, used[at]
        most[at] += bounds[column] * 2.0 ** used[at]
        used[at] += widths[column]
        count = max(count, at + 1)
    return count


@njit(cache=True, nogil=True)
def _pack(counts: np.ndarray, word: np.ndarray, shift: np.ndarray, packed: np.ndarray) -> None:
    for row in range(counts.shape[0]):
        for column in range(counts.shape[1]):
            if word[column] >= 0:
                packed[row, word[column]] += np.int64(counts[row, column]) << shift[column]


@njit(cache=True, nogil=True)
def _unpack(packed: np.ndarray, word: np.ndarray, shift: np.ndarray, mask: np.ndarray, counts: np.ndarray) -> None:
    for row in range(counts.shape[0]):
        for column in range(counts.shape[1]):
            if word[column] >= 0:
                counts[row, column] = (packed[row, word[column]] >> shift[column]) & mask[column]
