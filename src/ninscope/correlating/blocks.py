"""A time series drawn anew, or shuffled, in blocks, so that neighbours stay together (Künsch 1989).

Only a bit generator's raw output is used, which numpy keeps stable over versions.
"""

import numpy as np

from ninscope.seeding import keyed_bits


def block_length(n: int) -> int:
    """Consecutive points in a block: n^(1/3), rounded up.

    The rate of Künsch (1989) and of Hall, Horowitz and Jing (1995) for a variance. Their factor depends on the autocorrelation,
    and so does the length that Politis and White (2004) choose; of 10 to 150 points it cannot be estimated with any certainty.
    """
    length = 1
    while length**3 < n:  # a power of 1/3 in floating point may round 64 to 4.0000001
        length += 1
    return length


def drawn_places(n: int, block: int, resamples: int, seed: int, name: str) -> np.ndarray:
    """Places 0..n-1 with replacement, in circular blocks that start anywhere, int64 [resamples, n]; the last block is cut.

    Circular blocks (Politis and Romano 1992) draw the first and the last points of training as often as the others. The draw
    depends on (n, block, seed, name) alone, and the first resamples of more are those of fewer.
    """
    blocks = -(-n // block)
    starts = (_raw(n, block, (resamples, blocks, 1), seed, name) % np.uint64(n)).astype(np.int64)
    return ((starts + np.arange(block)) % n).reshape(resamples, -1)[:, :n]


def shuffled_places(n: int, block: int, resamples: int, seed: int, name: str) -> np.ndarray:
    """Every place 0..n-1 once, in blocks that change places, int64 [resamples, n]; keyed as `drawn_places`.

    The series is closed to a circle and cut anew each time. One block is shorter where the others leave a rest.
    """
    blocks = -(-n // block)
    raw = _raw(n, block, (resamples, blocks + 1), seed, name)
    order = np.argsort(raw[:, :blocks], axis=1, kind="stable")
    places = order[:, :, None] * block + np.arange(block)
    there = places < n
    turn = (raw[:, blocks:] % np.uint64(n)).astype(np.int64)
    return (places[there].reshape(resamples, n) + turn) % n


def _raw(n: int, block: int, shape: tuple[int, ...], seed: int, name: str) -> np.ndarray:
    return keyed_bits(name, seed, n, block).random_raw(int(np.prod(shape))).reshape(shape)


def counts_of(places: np.ndarray) -> np.ndarray:
    """How often each resample holds each place, float64 [resamples, n]. places: int64 [resamples, n]."""
    resamples, n = places.shape
    flat = (places + n * np.arange(resamples)[:, None]).ravel()
    return np.bincount(flat, minlength=resamples * n).reshape(resamples, n).astype(np.float64)
