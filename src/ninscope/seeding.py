"""Random numbers keyed by a name and numbers: the same whatever was drawn before, by whom, and whatever the scheduling."""

import hashlib

import numpy as np


def words_of(name: str) -> list[int]:
    """A name's SHA-256 as eight numbers below 2^32, for numpy's SeedSequence."""
    words: list[int] = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype="<u4").tolist()
    return words


def keyed_bits(name: str, *numbers: int) -> np.random.PCG64:
    """The random bits that belong to a name and numbers that are not negative, the seed first."""
    return np.random.PCG64(np.random.SeedSequence([*numbers, *words_of(name)]))
