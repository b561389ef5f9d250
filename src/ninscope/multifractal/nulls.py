"""Null models (docs/method.md#null-models): what the weights' distribution alone would give, without any structure.

The analysis sees of a matrix only how many weights of each column fall into each bin. So a null needs no weights: which
counts a column gets when the matrix is shuffled, or drawn from a Gaussian, can be drawn directly, and is distributed exactly
as if the weights had been.
"""

from collections.abc import Iterator

import numpy as np
from numba import njit

from ninscope.multifractal.partition import PartitionSums
from ninscope.networks.bin_table import bin_table
from ninscope.networks.radii import Radii
from ninscope.seeding import keyed_bits

_DRAWN_AT_ONCE = 1 << 15  # random numbers, which stay in the second-level cache until they are used
_BATCH = 256  # places that are known before any weight moves, so that their reads do not wait for each other


def shuffled_counts(
    totals: np.ndarray, columns: int, generator: np.random.PCG64, kept: int | None = None
) -> np.ndarray:
    """Counts of a matrix whose weights are permuted at random, every permutation alike, int32 [kept, K + 1].

    totals: int64 [K + 2], the matrix's weights per distance bin, then those that are no edges; they must fill `columns`
    columns evenly. kept: of how many columns, the first ones (default: all). Only raw output of the generator is used, which
    numpy keeps stable.
    """
    entries = int(totals.sum())
    if columns < 1 or entries % columns:
        raise ValueError(f"{entries} weights do not fill {columns} columns")
    cell = np.uint8 if totals.size <= 256 else np.uint16
    pool, ends = np.empty(entries, cell), np.cumsum(totals)
    for number, (end, total) in enumerate(zip(ends.tolist(), totals.tolist(), strict=True)):
        pool[end - total : end] = number
    kept = columns if kept is None else kept
    counts = np.zeros((kept, totals.size), np.int32)
    rows = entries // columns
    for first, last, raw in _drawn(rows, kept, generator):
        _deal(pool, first * rows, raw, rows, counts[first:last])
    return np.ascontiguousarray(counts[:, :-1])


def gaussian_counts(probabilities: np.ndarray, rows: int, columns: int, generator: np.random.PCG64) -> np.ndarray:
    """Counts of a matrix of independent weights, int32 [columns, K + 1].

    probabilities: float64 [K + 2], of each distance bin, then of no edge (`bin_probabilities`).
    """
    threshold, alias = _alias_table(probabilities)
    either = np.column_stack([np.arange(alias.size), alias]).reshape(-1)  # [2 cell]: itself, [2 cell + 1]: its alias
    counts = np.zeros((columns, probabilities.size), np.int32)
    for first, last, raw in _drawn(rows, columns, generator):
        _draw(threshold, either, raw, rows, counts[first:last])
    return np.ascontiguousarray(counts[:, :-1])


def _drawn(rows: int, columns: int, generator: np.random.PCG64) -> Iterator[tuple[int, int, np.ndarray]]:
    """Columns first..last-1 at a time, with a random number for each of their weights."""
    step = max(_DRAWN_AT_ONCE // max(rows, 1), 1)
    for first in range(0, columns if rows else 0, step):
        last = min(first + step, columns)
        yield first, last, generator.random_raw((last - first) * rows)


def bin_probabilities(std: float, radii: Radii, taps: int = 1) -> np.ndarray:
    """Probability that a Gaussian weight (mean 0) falls into each distance bin, then that it is no edge, float64 [K + 2].

    P(|w| < x) = erf(x / (std sqrt 2)), at the very weights where the bin of a float64 changes. taps: the weight is the norm of
    a kernel of so many, each of deviation std, which is chi-distributed: P(|w| < x) = P(taps / 2, x^2 / (2 std^2)), the
    regularised lower incomplete gamma function, of which erf is the case of one tap.
    """
    from scipy.special import erf, gammainc  # with all of its array back ends, a fifth of a second

    table = bin_table("F64", radii)
    edges = table.starts[:-1].view(np.float64)  # of the runs of equal bins; the last is infinity
    probabilities = np.zeros(radii.count + 2)
    if std == 0:
        probabilities[-1] = 1.0
        return probabilities
    scaled = edges / (std * np.sqrt(2.0))
    with np.errstate(over="ignore"):  # infinity squared, of which the probability is 1
        below = erf(scaled) if taps == 1 else gammainc(taps / 2, scaled**2)
    np.add.at(probabilities, np.minimum(table.bins[:-1], radii.count + 1), np.diff(below))
    return probabilities


def expected_sums(expected: np.ndarray, nodes: int, min_degree: int, q: np.ndarray) -> PartitionSums:
    """Partition sums of a layer of `nodes` nodes that all have the expected counts, of which the analytic null is the sum.

    expected: float64 [K + 1], edges of a node per distance bin. Nothing is `seen` yet: a radius is where the whole network
    expects an edge (`seen_radii`).
    """
    degree = expected.sum()
    zero = np.zeros((expected.size, q.size))
    unseen = np.zeros(expected.size, np.bool_)
    if degree <= min_degree:
        return PartitionSums(zero, zero, unseen, 0, 0)
    mass = 1.0 + np.cumsum(expected)
    log_p = np.log(mass / mass[-1])
    z = nodes * np.exp(log_p[:, None] * q)
    return PartitionSums(z, z * log_p[:, None], unseen, nodes, round(nodes * degree))


def seen_radii(expected: np.ndarray) -> np.ndarray:
    """Which radii a network has, bool [K + 1]: those where more likely than not it has an edge.

    expected: float64 [K + 1], edges of all its counted nodes per distance bin. Their number is Poisson's, nearly.
    """
    seen = -np.expm1(-expected) >= 0.5
    seen[0] = False
    return seen


def generator_of(seed: int, sample: int, null: str, matrix: str) -> np.random.PCG64:
    """The random numbers of one null of one matrix: by names, so the same at every checkpoint and whatever the scheduling."""
    return keyed_bits(f"{null} {matrix}", seed, sample)


@njit(cache=True, nogil=True)
def _deal(pool: np.ndarray, start: int, raw: np.ndarray, rows: int, counts: np.ndarray) -> None:
    """Go on shuffling `pool` (Fisher and Yates) from position `start`, column after column, and count what each column got."""
    there = np.empty(_BATCH, np.int64)
    drawn = counts.shape[0] * rows
    for first in range(0, drawn, _BATCH):
        batch = min(_BATCH, drawn - first)
        for i in range(batch):
            here = start + first + i
            # Signed: an unsigned integer is turned into a float in several steps.
            uniform = np.float64(np.int64(raw[first + i] >> np.uint64(11))) * 2.0**-53
            there[i] = here + np.int64(uniform * np.float64(pool.size - here))
        for i in range(batch):
            here = start + first + i
            cell = pool[there[i]]
            pool[there[i]] = pool[here]
            pool[here] = cell
    # Counted afterwards, by turns in two places: one that is added to again at once would have to wait.
    other = np.empty(counts.shape[1], np.int32)
    for c in range(counts.shape[0]):
        dealt = pool[start + c * rows : start + (c + 1) * rows]
        column = counts[c]
        other[:] = 0
        even = rows - rows % 2
        for i in range(0, even, 2):
            column[dealt[i]] += 1
            other[dealt[i + 1]] += 1
        for i in range(even, rows):
            column[dealt[i]] += 1
        column += other


@njit(cache=True, nogil=True)
def _draw(threshold: np.ndarray, either: np.ndarray, raw: np.ndarray, rows: int, counts: np.ndarray) -> None:
    """Draw each column's weights by Walker's alias method, one random number a weight.

    either: int64 [2 n], what cell i gives below its threshold, at 2 i, and what else, at 2 i + 1: a look-up, since a branch that
    chance decides would be mispredicted half of the time.
    """
    columns = counts.shape[0]
    drawn = 0
    for c in range(columns):
        column = counts[c]
        for _ in range(rows):
            scaled = np.float64(np.int64(raw[drawn] >> np.uint64(11))) * 2.0**-53 * threshold.size
            cell = np.int64(scaled)
            column[either[2 * cell + np.int64(scaled - cell >= threshold[cell])]] += 1
            drawn += 1


def _alias_table(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vose's construction: (threshold float64 [n], alias int64 [n])."""
    scaled = probabilities / probabilities.sum() * probabilities.size
    threshold, alias = np.ones(scaled.size), np.arange(scaled.size)
    small = [i for i in range(scaled.size) if scaled[i] < 1]
    large = [i for i in range(scaled.size) if scaled[i] >= 1]
    while small and large:
        low, high = small.pop(), large[-1]
        threshold[low], alias[low] = scaled[low], high
        scaled[high] -= 1 - scaled[low]
        if scaled[high] < 1:
            small.append(large.pop())
    return threshold, alias
