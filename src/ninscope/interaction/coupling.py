"""Coupling: how much more of what A writes B reads than if the neurons between them were matched at random.

C = ln( ||B A||_F^2 / mean over permutations P of ||B P A||_F^2 ), of A [n, a], which writes n neurons, and B [b, n], which reads
them. It is about 0 where A and B know nothing of each other. Its standard error is that of one random matching: the standard
deviation over permutations divided by their mean (the delta method). See docs/method.md.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from ninscope.architectures.gauge import Rotary
from ninscope.interaction.permutations import Moments, Side, moments, paired_draws, paired_moments, side_of_gram

MAX_NEURONS, MAX_VECTORS = 100_000, 10_000
ERROR_VECTORS = 8  # random vectors that are enough for a standard error


@dataclass(frozen=True)
class Exactness:
    """neurons: up to so many between two matrices everything is exact. vectors: random vectors with which the rest is estimated.
    seed: theirs.
    """

    neurons: int = 512
    vectors: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Coupling:
    """coupling, error: as above; NaN where there is none, and `message` says why.

    heads: over how many heads they are means. vectors: random vectors that the coupling was estimated with, and estimate_error
    its standard error for that reason; 0 where it is exact. error_vectors: those that the standard error was estimated with.
    """

    coupling: float
    error: float
    heads: int = 1
    vectors: int = 0
    estimate_error: float = 0.0
    error_vectors: int = 0
    message: str = ""


def no_coupling(message: str, heads: int = 1) -> Coupling:
    return Coupling(math.nan, math.nan, heads, message=message)


def squares(values: np.ndarray) -> float:
    """The sum of the squares of all values."""
    return float(np.einsum("ij,ij->", values, values))


def coupled(product: float, over: Moments) -> Coupling:
    """From ||B A||_F^2 and its moments over permutations, with nothing estimated."""
    if not (math.isfinite(product) and math.isfinite(over.mean) and math.isfinite(over.variance)):
        return no_coupling("weights are too large for their products")
    if over.mean <= 0:
        return no_coupling("a matrix is zero")
    if product <= 0:
        return no_coupling("the reader reads nothing of what the writer writes")
    return Coupling(math.log(product / over.mean), math.sqrt(over.variance) / over.mean)


def coupling(written: np.ndarray, read: np.ndarray, exactness: Exactness, rotary: Rotary | None = None) -> Coupling:
    """Of two matrices: written A, float64 [n, a]; read B, float64 [b, n]. rotary: neurons that are turned in pairs stay pairs."""
    n, a = written.shape
    b = len(read)
    if rotary is not None and rotary.dimensions:
        turned = rotary.dimensions
        order = _paired_order(n, rotary)
        x, y = written[order] @ written[order].T, read[:, order].T @ read[:, order]
        over = paired_moments(x, y, turned, paired_draws(n, turned, exactness.seed))
        return coupled(float(np.einsum("ij,ij->", x, y)), over)
    if n * (a + b) <= 2 * a * b:  # [n, n] is small: its two products cost less than that of B and A
        x, y = written @ written.T, read.T @ read
        return coupled(float(np.einsum("ij,ij->", x, y)), moments(side_of_gram(x), side_of_gram(y)))
    sides = side(written, exactness, 0), side(read.T, exactness, 1)
    found = coupled(squares(read @ written), moments(*sides))
    return replace(found, error_vectors=max(one.vectors for one in sides))


def mean_coupling(heads: list[Coupling]) -> Coupling:
    """The mean over heads, each of which has neurons of its own."""
    known = [head for head in heads if not head.message]
    if not known:
        return no_coupling(heads[0].message, len(heads))
    message = f"{len(heads) - len(known)} of {len(heads)} heads are left out: a matrix is zero there"
    return Coupling(
        math.fsum(head.coupling for head in known) / len(known),
        math.sqrt(math.fsum(head.error**2 for head in known)) / len(known),
        len(known),
        error_vectors=max(head.error_vectors for head in known),
        message=message if len(known) < len(heads) else "",
    )


def side(matrix: np.ndarray, exactness: Exactness, number: int) -> Side:
    """What the moments need of X = A A^T, of A float64 [n, a]; number: which of two matrices it is, for its random vectors.

    The squares of X are those of A^T A, which is [a, a]; where that is large too, they are estimated with random signs z, of which
    the mean of ||A^T A z||^2 is ||A^T A||_F^2.
    """
    n, a = matrix.shape
    diagonal = np.einsum("ij,ij->i", matrix, matrix)
    rows = matrix @ matrix.sum(axis=0) - diagonal
    vectors = 0
    if min(n, a) <= exactness.neurons:
        gram = matrix.T @ matrix if a <= n else matrix @ matrix.T
        total = squares(gram)
    else:
        vectors = min(exactness.vectors, ERROR_VECTORS)
        signs = random_signs((a, vectors), exactness.seed, number)
        total = squares(matrix.T @ (matrix @ signs)) / vectors
    return Side(diagonal, rows, max(total - float(np.sum(diagonal**2)), 0.0), vectors)


def random_signs(shape: tuple[int, int], seed: int, *key: int) -> np.ndarray:
    """float64 of -1 and 1, each as likely, the same for the same shape, seed and key."""
    random = np.random.default_rng(np.random.SeedSequence([seed, *key, *shape]))
    return 2.0 * random.integers(0, 2, shape, np.int8) - 1.0


def _paired_order(n: int, rotary: Rotary) -> np.ndarray:
    """The neurons of a head in an order in which those that are turned together are half of `dimensions` apart."""
    order = np.arange(n)
    if rotary.interleaved:
        order[: rotary.dimensions] = np.concatenate([np.arange(first, rotary.dimensions, 2) for first in (0, 1)])
    return order
