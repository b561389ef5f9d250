"""Counts of many nodes as few numbers: fields of as many bits as a count's sum over all ranks can need.

A field never carries into its neighbour. Counts are not below 0, and no rank's count is above the largest of its column on that
rank; so a sum over ranks is at most the sum of these largest counts. A field has the bits of that sum, hence whatever partial
sums are made on the way, in any order, each fits into its field. A word has fields of 63 bits together, so that it stays a
positive int64, and the sum of words has in each field the sum of counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

_WORD_BITS = 63
_MAX_COUNT = np.iinfo(np.int32).max
# Rows are packed in blocks. Where ranks hold other nodes each, a block has counts of one rank, and needs no bits for the others.
_MAX_BLOCKS, _BLOCK_ROWS = 8, 256


def largest_counts(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The largest count of every column of every block of rows of the int32 arrays, one after the other, int64 [n].

    Raises ValueError for a count below 0, and for arrays of other types than int32 and int64.
    """
    if unfit := [array.dtype for array in arrays if array.dtype not in (np.int32, np.int64)]:
        raise ValueError(f"arrays of int32 or int64 are added up over ranks, not of {unfit[0]}")
    found = [
        block.view(np.uint32).max(axis=0).astype(np.int64)
        for array in arrays
        if array.dtype == np.int32
        for block in _blocks(np.ascontiguousarray(array))
    ]
    largest = np.concatenate([np.zeros(0, np.int64), *found])
    if largest.size and largest.max() > _MAX_COUNT:
        raise ValueError("an array of counts that ranks add up holds a number below 0")
    return largest


@dataclass(frozen=True)
class Packing:
    """How arrays of int32 counts and of any int64 lie in one array of int64, whose sum over ranks has their sums.

    arrays: of the shapes and types that every rank has; bounds: the sum over ranks of `largest_counts`.
    """

    arrays: Sequence[np.ndarray]
    bounds: np.ndarray

    def packed(self) -> np.ndarray:
        """int64 [n]."""
        words = [np.zeros(0, np.int64)]
        left = self.bounds
        for array in self.arrays:
            if array.dtype == np.int64:
                words.append(array.reshape(-1))
                continue
            for block in _blocks(np.ascontiguousarray(array)):
                word, shift, _, count = _fields(left[: block.shape[1]])
                left = left[block.shape[1] :]
                packed = np.zeros((len(block), count), np.int64)
                _pack(block, word, shift, packed)
                words.append(packed.reshape(-1))
        return np.concatenate(words)

    def unpacked(self, words: np.ndarray) -> list[np.ndarray]:
        """Arrays as those that were packed, from the sum of `packed` over ranks."""
        sums, left = [], self.bounds
        for array in self.arrays:
            total = np.zeros(array.shape, array.dtype)
            sums.append(total)
            if array.dtype == np.int64:
                total.reshape(-1)[:] = words[: array.size]
                words = words[array.size :]
                continue
            for block in _blocks(total):
                word, shift, mask, count = _fields(left[: block.shape[1]])
                left = left[block.shape[1] :]
                _unpack(words[: len(block) * count].reshape(len(block), count), word, shift, mask, block)
                words = words[len(block) * count :]
        return sums


def _blocks(array: np.ndarray) -> list[np.ndarray]:
    """Views of an array, its last axis as columns, in blocks of rows; none of an array without numbers."""
    if not array.size:
        return []
    table = array.reshape(-1, array.shape[-1] if array.ndim > 1 else 1)
    return np.array_split(table, max(1, min(_MAX_BLOCKS, len(table) // _BLOCK_ROWS)))


def _fields(bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Where each column's count lies: its word (-1: nowhere, it is 0), its shift, its mask, int64 [columns]; words a row."""
    widths = np.frexp(np.minimum(bounds, _MAX_COUNT).astype(np.float64))[1].astype(np.int64)
    word, shift = np.full(len(widths), -1), np.zeros(len(widths), np.int64)
    count = _place(np.argsort(-widths, kind="stable"), widths, word, shift)
    return word, shift, (np.int64(1) << widths) - 1, count


@njit(cache=True, nogil=True)
def _place(order: np.ndarray, widths: np.ndarray, word: np.ndarray, shift: np.ndarray) -> int:
    """First fit, the widest first: at most some tenth more words than the fewest there can be."""
    used = np.zeros(len(widths), np.int64)
    count = 0
    for column in order:
        if widths[column] == 0:
            break
        at = 0
        while used[at] + widths[column] > _WORD_BITS:
            at += 1
        word[column], shift[column] = at, used[at]
        used[at] += widths[column]
        count = max(count, at + 1)
    return count


@njit(cache=True, nogil=True)
def _pack(counts: np.ndarray, word: np.ndarray, shift: np.ndarray, packed: np.ndarray) -> None:
    for row in range(counts.shape[0]):
        for column in range(counts.shape[1]):
            if word[column] >= 0:
                packed[row, word[column]] |= np.int64(counts[row, column]) << shift[column]


@njit(cache=True, nogil=True)
def _unpack(packed: np.ndarray, word: np.ndarray, shift: np.ndarray, mask: np.ndarray, counts: np.ndarray) -> None:
    for row in range(counts.shape[0]):
        for column in range(counts.shape[1]):
            if word[column] >= 0:
                counts[row, column] = (packed[row, word[column]] >> shift[column]) & mask[column]
