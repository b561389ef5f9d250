"""Logarithms of whole numbers, which every node layer of every checkpoint needs again."""

from functools import lru_cache

import numpy as np


def logarithms(count: int) -> np.ndarray:
    """ln 1, ln 2, ..., at least the first `count` of them, float64; a read-only table that is kept."""
    return _table(max(count - 1, 1).bit_length())


@lru_cache(maxsize=8)
def _table(bits: int) -> np.ndarray:
    table = np.log(np.arange(1, (1 << bits) + 1, dtype=np.float64))
    table.flags.writeable = False
    return table
