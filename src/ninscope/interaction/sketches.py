"""Coupling through a residual stream: every writer carries what the readers behind it need, so that each matrix is used once.

With X = A A^T and Y = B^T B, ||B A||_F^2 is the sum of X[i, j] Y[i, j]. Of streams of few neurons X and Y themselves are kept. Of
others A Z and B^T W are kept, both [n, vectors], where Z and W are random signs: the mean square of the entries of W^T B A Z is an
unbiased estimate of ||B A||_F^2. A pair then costs a product of two [n, vectors], in which every vector of the writer meets every
vector of the reader. (With vectors on one side alone each pair would multiply the reader again.)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ninscope.interaction.coupling import Coupling, Exactness, coupled, random_signs
from ninscope.interaction.permutations import Side, moments, side_of_gram
from ninscope.seeding import words_of


@dataclass(frozen=True)
class Norm:
    """A normalisation of the stream itself: gain float64 [n], and whether it takes off the mean over neurons before."""

    gain: np.ndarray
    centred: bool

    def passed(self, values: np.ndarray) -> np.ndarray:
        """What [n, ...] becomes that is added to the stream before it; that the length is normalised changes no coupling."""
        if self.centred:
            values = values - values.mean(axis=0)
        return values * self.gain[:, None]


@dataclass(frozen=True)
class Carried:
    """What is kept of a matrix whose neurons are a stream's.

    kept: X [n, n], or A Z [n, vectors]. sides: for the moments; of a writer one for each number of normalisations of the stream
    that it passes.
    """

    kept: np.ndarray
    sides: Mapping[tuple[str, ...], Side]
    vectors: int = 0


def carried(
    matrix: np.ndarray,
    name: str,
    exactness: Exactness,
    ways: Sequence[tuple[str, ...]] = ((),),
    norms: Mapping[str, Norm] | None = None,
) -> Carried:
    """matrix: float64 [n, a], of a reader transposed. name: tells its random vectors from those of others.

    ways: the normalisations, by the layer's name, that what it writes passes on its ways; norms: these.
    """
    n, a = matrix.shape
    if n <= exactness.neurons:
        gram = matrix @ matrix.T
        return Carried(gram, {way: side_of_gram(travelled_gram(gram, way, norms or {})) for way in ways})
    signs = random_signs((a, exactness.vectors), exactness.seed, *words_of(name)[:4])
    kept = matrix @ signs
    sides = {way: _sketched_side(matrix, kept, way, norms or {}) for way in ways}
    return Carried(kept, sides, exactness.vectors)


def travelled(values: np.ndarray, way: Sequence[str], norms: Mapping[str, Norm]) -> np.ndarray:
    """values: [n, ...] as written; what they are behind the normalisations `way`."""
    for layer in way:
        values = norms[layer].passed(values)
    return values


def travelled_gram(gram: np.ndarray, way: Sequence[str], norms: Mapping[str, Norm]) -> np.ndarray:
    """X [n, n] of what was written, behind the normalisations `way`."""
    return travelled(travelled(gram, way, norms).T, way, norms) if way else gram


def _sketched_side(matrix: np.ndarray, kept: np.ndarray, way: Sequence[str], norms: Mapping[str, Norm]) -> Side:
    """Diagonal and rows are exact. The squares are estimated from two halves of the vectors, so that no vector meets itself."""
    matrix, kept = (travelled(values, way, norms) for values in (matrix, kept))
    diagonal = np.einsum("ij,ij->i", matrix, matrix)
    rows = matrix @ matrix.sum(axis=0) - diagonal
    half = kept.shape[1] // 2
    total = float(np.mean((kept[:, :half].T @ kept[:, half : 2 * half]) ** 2))
    return Side(diagonal, rows, max(total - float(np.sum(diagonal**2)), 0.0), kept.shape[1])


def coupling_carried(
    writer: Carried, reader: Carried, way: tuple[str, ...] = (), norms: Mapping[str, Norm] | None = None
) -> Coupling:
    """Of a writer and a reader that were carried, both exactly or both by random vectors."""
    over = moments(writer.sides[way], reader.sides[()])
    if not writer.vectors:
        gram = travelled_gram(writer.kept, way, norms or {})
        return coupled(float(np.einsum("ij,ij->", gram, reader.kept)), over)
    entries = (reader.kept.T @ travelled(writer.kept, way, norms or {})) ** 2
    product = float(entries.mean())
    found = coupled(product, over)
    if found.message:
        return found
    error = _error_of_mean(entries) / product
    return replace(found, vectors=writer.vectors, estimate_error=error, error_vectors=writer.vectors)


def _error_of_mean(entries: np.ndarray) -> float:
    """The standard error of the mean of [vectors, vectors] entries of which those of one row or column share a random vector.

    Rows and columns each have an effect, and what is left is independent: the variance of the mean is that of the rows' means and
    that of the columns' means, less the rest, which is in both.
    """
    rows, columns = entries.mean(axis=1), entries.mean(axis=0)
    rest = entries - rows[:, None] - columns + entries.mean()
    r, c = entries.shape
    of_rest = float(np.einsum("ij,ij->", rest, rest)) / ((r - 1) * (c - 1)) / (r * c)
    return math.sqrt(max(float(rows.var(ddof=1)) / r + float(columns.var(ddof=1)) / c - of_rest, of_rest))
