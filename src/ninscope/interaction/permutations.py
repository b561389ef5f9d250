"""||B P A||_F^2 over random permutations P of the neurons that A writes and B reads: its mean and its variance, in closed form.

A is [n, a], B is [b, n]. With X = A A^T and Y = B^T B, both [n, n] and symmetric, ||B P A||_F^2 is the sum over i, j of
X[i, j] Y[P(i), P(j)]: a quadratic assignment statistic. Its diagonal part (i = j) is linear in P; the moments of the rest are Mantel's (1967) and Hubert's; the two
are correlated. All that the moments need of a matrix is a `Side`, which costs no [n, n] product.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

DRAWS = 128  # of the permutations that move neurons in pairs: the error of a standard deviation is 6 %


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

    def scaled(self, factor: float) -> "Side":
        """The side of X times a factor."""
        return replace(self, diagonal=self.diagonal * factor, rows=self.rows * factor, squares=self.squares * factor**2)


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

    The mean is the one of docs/method.md. The variance is that of D + O, the sums over i = j and over i != j. Entries are taken
    from their means first (the variance does not change, and nothing large is subtracted):
    Var D = sum x_i^2 sum y_i^2 / (n - 1); Var O = 2 x2 y2 / n(n-1) + 4 x3 y3 / n(n-1)(n-2) + x4 y4 / n(n-1)(n-2)(n-3), where x2 sums X_ij^2 over
    i != j, x3 sums X_ij X_ik over distinct i, j, k and x4 sums X_ij X_kl over distinct i, j, k, l;
    Cov(D, O) = u v (2 / n(n-1) + 4 / n(n-1)(n-2)) with u = sum_i x_i sum_j X_ij.
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

    written, read: the Gram matrices X and Y, float64 [n, n]; neurons i and i + turned / 2 are a pair, for i < turned / 2, and the rest
    are moved among themselves. The mean is in closed form, the variance is that of `draws` (`paired_draws`).
    """
    half, n = turned // 2, len(written)
    mean = 0.0
    for first in (0, 1):  # neurons of a pair, by their place in it
        for second in (0, 1):
            one, other = (slice(place * half, (place + 1) * half) for place in (first, second))
            mean += _assigned(written[one, other], read[one, other], half)
    rest = slice(turned, n)
    mean += _assigned(written[rest, rest], read[rest, rest], n - turned)
    for place in (0, 1) if n > turned else ():
        one = slice(place * half, (place + 1) * half)
        mean += 2 * float(written[one, rest].sum() * read[one, rest].sum()) / (half * (n - turned))
    # X[i, j] Y[P(i), P(j)]: flat numbers into Y are gathered for all draws at once.
    drawn = read.reshape(-1)[(draws[:, :, None] * n + draws[:, None, :]).reshape(len(draws), -1)] @ written.reshape(-1)
    return Moments(mean, float(np.mean((drawn - mean) ** 2)))


def _assigned(x: np.ndarray, y: np.ndarray, n: int) -> float:
    """Mean over permutations of the sum of x[i, j] y[P(i), P(j)]; x, y: [n, n], symmetric or not."""
    if n < 2:
        return float(x.sum() * y.sum())
    x_trace, y_trace = np.trace(x), np.trace(y)
    return float(x_trace * y_trace / n + (x.sum() - x_trace) * (y.sum() - y_trace) / (n * (n - 1)))


@lru_cache(64)  # the heads of a model are of one size
def paired_draws(n: int, turned: int, seed: int, count: int = DRAWS) -> np.ndarray:
    """`count` permutations of n neurons that move pairs (i, i + turned / 2) together and the rest among themselves, int64 [count, n]."""
    random = np.random.default_rng(np.random.SeedSequence([seed, n, turned]))
    half = turned // 2
    drawn = np.empty((count, n), np.int64)
    for row in drawn:
        row[:half] = random.permutation(half)
        row[half:turned] = row[:half] + half
        row[turned:] = turned + random.permutation(n - turned)
    drawn.flags.writeable = False
    return drawn
