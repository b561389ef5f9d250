"""||B P A||_F^2 over random permutations P of the neurons that A writes and B reads: its mean and its variance, in closed form.

A is [n, a], B is [b, n]. With X = A A^T and Y = B^T B, both [n, n] and symmetric, ||B P A||_F^2 is the sum over i, j of
X[i, j] Y[P(i), P(j)]: a quadratic assignment statistic. Its diagonal part (i = j) is linear in P. The moments of the rest are
Mantel's (1967; Hubert 1987), and the two parts are correlated. All that the moments need of a matrix is a `Side`.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

DRAWS = 64  # of the permutations that move neurons in pairs: a standard deviation is known to 9 %


@dataclass(frozen=True)
class Side:
    """What the moments need of one Gram matrix X [n, n].

    diagonal: float64 [n]. rows: float64 [n], sums of its rows without the diagonal. squares: the sum of the squares of its entries
    without the diagonal; vectors: the number of random vectors that these squares were estimated with, 0 where they are exact.
    """

    diagonal: np.ndarray
    rows: np.ndarray
    squares: float
    vectors: int = 0


@dataclass(frozen=True)
class Moments:
    """Mean and variance of ||B P A||_F^2 over all permutations P, each as likely as the others."""

    mean: float
    variance: float


def side_of_gram(gram: np.ndarray) -> Side:
    """gram: symmetric float64 [n, n]."""
    diagonal = np.diagonal(gram).copy()
    squares = float(np.vdot(gram, gram)) - float(diagonal @ diagonal)
    return Side(diagonal, gram.sum(axis=1) - diagonal, max(squares, 0.0))


def moments(written: Side, read: Side) -> Moments:
    """Mean and variance over all permutations of n neurons, each as likely as the others.

    The formulas are those of docs/method.md. The means of the diagonal and of the rest are taken off first: the variance stays,
    and nothing large is subtracted from it.
    """
    n = written.diagonal.size
    mean = float(written.diagonal.sum() * read.diagonal.sum()) / n
    if n == 1:
        return Moments(mean, 0.0)
    pairs = n * (n - 1)
    mean += float(written.rows.sum() * read.rows.sum()) / pairs
    x, y = _centred(written), _centred(read)
    variance = x.diagonal @ x.diagonal * (y.diagonal @ y.diagonal) / (n - 1)
    products, covariance = 2 * x.squares * y.squares / pairs, 2 / pairs
    if n > 2:
        x3, y3 = (side.rows @ side.rows - side.squares for side in (x, y))
        products += 4 * x3 * y3 / (pairs * (n - 2))
        covariance += 4 / (pairs * (n - 2))
    if n > 3:
        x4, y4 = (2 * side.squares - 4 * (side.rows @ side.rows) for side in (x, y))
        products += x4 * y4 / (pairs * (n - 2) * (n - 3))
    variance += products + 2 * (x.diagonal @ x.rows) * (y.diagonal @ y.rows) * covariance
    return Moments(mean, max(float(variance), 0.0))


def _centred(side: Side) -> Side:
    """The side of X after the mean of its diagonal, and that of the rest, are taken off. n > 1."""
    n, total = side.diagonal.size, side.rows.sum()
    squares = max(side.squares - total**2 / (n * (n - 1)), 0.0)
    return Side(side.diagonal - side.diagonal.mean(), side.rows - total / n, squares)


def paired_moments(written: np.ndarray, read: np.ndarray, turned: int, draws: np.ndarray) -> Moments:
    """As `moments`, over permutations that move neurons in pairs, as rotary embeddings tie them.

    written, read: the Gram matrices X and Y, float64 [n, n]. Neurons i and i + turned / 2 are a pair, for i < turned / 2; the rest
    are moved among themselves. The mean is in closed form, the variance is estimated from `draws` (`paired_draws`).
    """
    half, n = turned // 2, len(written)
    first, second, rest = slice(half), slice(half, turned), slice(turned, n)
    mean = sum(_assigned(written[i, j], read[i, j], half) for i in (first, second) for j in (first, second))
    if n > turned:
        mean += _assigned(written[rest, rest], read[rest, rest], n - turned)
        for i in (first, second):
            mean += 2 * float(written[i, rest].sum() * read[i, rest].sum()) / (half * (n - turned))
    # X[i, j] Y[P(i), P(j)]: flat numbers into Y are gathered for all draws at once.
    moved = (draws[:, :, None] * n + draws[:, None, :]).reshape(len(draws), -1)
    drawn = read.reshape(-1)[moved] @ written.reshape(-1)
    return Moments(mean, float(np.mean((drawn - mean) ** 2)))


def _assigned(x: np.ndarray, y: np.ndarray, n: int) -> float:
    """Mean over permutations of the sum of x[i, j] y[P(i), P(j)]; x, y: [n, n], symmetric or not."""
    if n < 2:
        return float(x.sum() * y.sum())
    x_trace, y_trace = np.trace(x), np.trace(y)
    return float(x_trace * y_trace / n + (x.sum() - x_trace) * (y.sum() - y_trace) / (n * (n - 1)))


@lru_cache(64)  # the heads of a model are of one size
def paired_draws(n: int, turned: int, seed: int, count: int = DRAWS) -> np.ndarray:
    """int64 [count, n]: permutations of n neurons that move pairs (i, i + turned / 2) together and the rest among themselves."""
    random = np.random.default_rng(np.random.SeedSequence([seed, n, turned]))
    half = turned // 2
    drawn = np.empty((count, n), np.int64)
    for row in drawn:
        row[:half] = random.permutation(half)
        row[half:turned] = row[:half] + half
        row[turned:] = turned + random.permutation(n - turned)
    drawn.flags.writeable = False
    return drawn
