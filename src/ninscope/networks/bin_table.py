"""From the bits of a stored weight to its distance bin, by look-up: the same bin that float64 arithmetic gives, no division.

A weight's magnitude grows with its bits read as an unsigned integer, and its distance falls with its magnitude, so bins are
runs of consecutive bit patterns. A 16-bit type has so few patterns that a table holds them all. A wider type's upper bits
lead to the run that holds the smallest such pattern, and comparisons with the starts of the next runs find the right one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numba import njit

from ninscope.networks.radii import IntegerRadii, Radii
from ninscope.networks.transfer import UNCOUNTED

# Magnitudes are compared as their bits; these are the patterns of infinity, from which on there is no number.
_UNSIGNED: dict[str, type[np.unsignedinteger]] = {
    "F16": np.uint16,
    "BF16": np.uint16,
    "F32": np.uint32,
    "F64": np.uint64,
}
_INFINITY = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F800000, "F64": 0x7FF0000000000000}
_ONE = {"F16": 0x3C00, "BF16": 0x3F80, "F32": 0x3F800000, "F64": 0x3FF0000000000000}  # and of 1
# Exponent bits and 8 of the mantissa: among numbers that agree in these, bins of up to 255 radii change at most once.
_PREFIX_BITS = {"F32": 8 + 8, "F64": 11 + 8}


@dataclass(frozen=True)
class BinTable:
    """How the bits of one stored type become bins.

    Bins 0..K are distance bins; K + 1 stands for an edge that does not count, K + 2 for NaN or infinity. magnitude: mask that
    takes the sign away; shift: from magnitude bits to table entries; table: bin (16-bit types, shift 0) or number of the run
    that holds the entry's smallest pattern; bins: the bin of each run of patterns; starts: its first pattern, and
    one more that is beyond all. distances: of the patterns of a 16-bit type, in units of 2**-distance_shift(radii), 0 where
    the edge does not count and on a logarithmic grid; empty for wider types.
    """

    radii: Radii
    magnitude: np.unsignedinteger
    shift: int
    table: np.ndarray
    starts: np.ndarray
    bins: np.ndarray
    distances: np.ndarray

    @property
    def radius_count(self) -> int:
        return self.radii.count

    @property
    def uncounted(self) -> int:
        return self.radius_count + 1

    @property
    def nonfinite(self) -> int:
        return self.radius_count + 2

    @property
    def width(self) -> int:
        """Columns a histogram needs: 0..K, uncounted, nonfinite."""
        return self.radius_count + 3

    @cached_property
    def packed(self) -> np.ndarray:
        """Bin and distance of every pattern of a 16-bit type in one number, bin << 42 | distance, uint64 [32768]: one look-up
        is a quarter faster than two. A bin is below 2**14, a distance below 2**38.
        """
        return (self.table.astype(np.uint64) << np.uint64(42)) | self.distances.astype(np.uint64)


# Sums of distances are kept as integers, so that no order of summation matters: a node's sum stays below 2**62 with as many
# edges as this, and each distance is off by less than 2**-37 of the largest that counts.
MAX_EDGES_OF_A_NODE = 1 << 24
_SUM_BITS = 62 - 24


def distance_shift(radii: IntegerRadii) -> int:
    """Distances are summed as whole numbers of 2**-shift."""
    return _SUM_BITS - math.ceil(math.log2(radii.largest_distance))


@lru_cache(maxsize=32)
def bin_table(dtype: str, radii: Radii) -> BinTable:
    """The table for a stored type (F16, BF16, F32, F64) and a grid of radii."""
    unsigned, infinity = _UNSIGNED[dtype], _INFINITY[dtype]
    bits = 8 * np.dtype(unsigned).itemsize
    count = radii.count

    def bins_of(patterns: np.ndarray) -> np.ndarray:
        bin_numbers = radii.bins(_floats(patterns, dtype)).astype(np.int64)
        return np.where(bin_numbers == UNCOUNTED, count + 1, bin_numbers)

    starts = _run_starts(bins_of, _ONE[dtype] if radii.beyond == 1.0 else infinity, infinity, unsigned)
    bins = np.append(bins_of(starts[:-1]), count + 2).astype(np.uint16)
    magnitude = unsigned((1 << (bits - 1)) - 1)
    scaled = np.zeros(0, np.int64)
    if bits == 16:
        patterns = np.arange(1 << 15, dtype=np.uint16)
        table, shift = bins[np.searchsorted(starts, patterns, side="right") - 1], 0
        scaled = _scaled_distances(patterns, table <= count, dtype, radii)
        table = table.astype(np.uint8 if count + 2 < 256 else np.uint16)
    else:
        shift = bits - 1 - _PREFIX_BITS[dtype]
        smallest = np.arange(1 << _PREFIX_BITS[dtype], dtype=unsigned) << unsigned(shift)
        table = (np.searchsorted(starts, smallest, side="right") - 1).astype(np.uint16)
    beyond = np.array([np.iinfo(unsigned).max], dtype=unsigned)
    starts = np.concatenate([starts, beyond])
    return BinTable(radii, magnitude, shift, table, starts, bins, scaled)


@dataclass(frozen=True)
class JointTable(BinTable):
    """How the bits of one stored type become the bins of several readings at once, each with its own factor on every weight.

    A *joint bin* is a run of patterns that every reading puts into one bin. Joint bins are numbered as magnitudes grow; the last
    holds NaN and infinity. readings: int64 [readings, width], the bin 0..K + 2 of each reading for every joint bin.
    """

    readings: np.ndarray

    @property
    def width(self) -> int:
        return self.readings.shape[1]

    @property
    def nonfinite(self) -> int:
        return self.width - 1


def joint_table(dtype: str, radii: Radii, factors: Sequence[float]) -> JointTable:
    """The table of readings of |w| times each of the factors, on one grid of radii. factors: above 0 and finite.

    One pass over the weights then counts them for all readings (`unfold`). Distances are not summed.
    """
    unsigned, infinity = _UNSIGNED[dtype], _INFINITY[dtype]
    bits = 8 * np.dtype(unsigned).itemsize
    magnitude = unsigned((1 << (bits - 1)) - 1)
    readings = [_ScaledBins(dtype, radii, float(factor)) for factor in factors]
    ends = np.array([0, infinity], dtype=unsigned)
    starts = np.unique(np.concatenate([ends, *(reading.starts() for reading in readings)]))
    joint = np.stack([np.append(reading(starts[:-1]), radii.count + 2) for reading in readings])
    scaled = np.zeros(0, np.int64)
    if bits == 16:
        changes = np.zeros(1 << 15, np.bool_)
        changes[starts[1:]] = True
        table, shift = np.cumsum(changes, dtype=np.uint16), 0
        scaled = np.zeros(1 << 15, np.int64)
    else:
        shift = bits - 1 - _PREFIX_BITS[dtype]
        smallest = np.arange(1 << _PREFIX_BITS[dtype], dtype=unsigned) << unsigned(shift)
        table = (np.searchsorted(starts, smallest, side="right") - 1).astype(np.uint16)
    beyond = np.array([np.iinfo(unsigned).max], dtype=unsigned)
    bins = np.arange(starts.size, dtype=np.uint16)
    return JointTable(radii, magnitude, shift, table, np.concatenate([starts, beyond]), bins, scaled, joint)


@dataclass(frozen=True)
class _ScaledBins:
    """The bins 0..K + 1 of patterns of a stored type, int64 [n], where every weight is multiplied by a factor, in float64."""

    dtype: str
    radii: Radii
    factor: float

    def __call__(self, patterns: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # a product beyond float64 is no edge, as infinity is none
            bins = self.radii.bins(_floats(patterns, self.dtype).astype(np.float64) * self.factor)
        return np.where(bins == UNCOUNTED, self.radii.count + 1, bins.astype(np.int64))

    def starts(self) -> np.ndarray:
        """The first pattern of every run of equal bins but that of 0, ascending, perhaps the same several times.

        Runs of products begin where those of float64 numbers do, and products grow with the patterns.
        """
        runs = bin_table("F64", self.radii).starts[1:-2]  # without 0, infinity and what is beyond all
        products = _floats(runs, "F64")
        if self.factor == 0:
            return np.zeros(0, _UNSIGNED[self.dtype])
        if self.dtype in ("F16", "BF16"):
            with np.errstate(over="ignore"):
                own = _finite_values(self.dtype) * self.factor
            return np.searchsorted(own, products).astype(np.uint16)
        return self._wide_starts(products)

    def _wide_starts(self, products: np.ndarray) -> np.ndarray:
        """The smallest pattern whose product reaches each of some numbers: a quotient, and then the step or two that it is off."""
        unsigned, infinity = _UNSIGNED[self.dtype], _INFINITY[self.dtype]
        with np.errstate(over="ignore", divide="ignore"):
            quotients = (products / self.factor).astype({"F32": np.float32, "F64": np.float64}[self.dtype])
        found = quotients.view(unsigned).copy()

        def reach(patterns: np.ndarray) -> np.ndarray:
            with np.errstate(over="ignore"):
                return _floats(patterns, self.dtype).astype(np.float64) * self.factor >= products

        one = unsigned(1)
        while (late := (found > 0) & reach(np.maximum(found, one) - one)).any():
            found = np.where(late, found - one, found)
        while (early := (found < infinity) & ~reach(found)).any():
            found = np.where(early, found + one, found)
        return found


@lru_cache(maxsize=2)
def _finite_values(dtype: str) -> np.ndarray:
    """The finite numbers of a 16-bit type that are not negative, float64, in the order of their patterns."""
    values = _floats(np.arange(_INFINITY[dtype], dtype=np.uint16), dtype).astype(np.float64)
    values.flags.writeable = False
    return values


def unfold(counts: np.ndarray, table: JointTable, into: np.ndarray) -> np.ndarray:
    """Add counts of joint bins to those of each reading; returns int64 [readings, K + 2], how many fell into each bin in all.

    counts: int32 [nodes, table.width], with nothing in the last column. into: int32 [readings, nodes, K + 1], changed in place;
    what is no edge is left out of it, and is the last entry of what is returned. Raises ValueError.
    """
    shape = (len(table.readings), len(counts), table.radius_count + 1)
    if counts.shape[1:] != (table.width,) or into.shape != shape:
        raise ValueError(f"counts {counts.shape}, into {into.shape}: compiled code would leave the arrays")
    joint_totals = counts.sum(axis=0, dtype=np.int64)[:-1]
    totals = np.zeros((shape[0], shape[2] + 1), np.int64)
    for number, bins in enumerate(table.readings[:, :-1]):
        np.add.at(totals[number], bins, joint_totals)
        edges = np.flatnonzero(bins < shape[2])  # consecutive: from the longest distance to the shortest
        if edges.size:
            _unfold(counts, int(edges[0]), bins[edges[0] : edges[-1] + 1], into[number])
    return totals


@njit(cache=True, nogil=True)
def _unfold(counts: np.ndarray, first: int, bins: np.ndarray, into: np.ndarray) -> None:
    for i in range(counts.shape[0]):
        row = into[i]
        joint = counts[i, first : first + bins.size]
        for j in range(bins.size):
            row[bins[j]] += joint[j]


def _scaled_distances(patterns: np.ndarray, counted: np.ndarray, dtype: str, radii: Radii) -> np.ndarray:
    distances = np.zeros(patterns.size, np.int64)
    if isinstance(radii, IntegerRadii):
        magnitudes = _floats(patterns[counted], dtype).astype(np.float64)
        distances[counted] = np.rint(np.ldexp(radii.distances(magnitudes), distance_shift(radii)))
    return distances


def _floats(patterns: np.ndarray, dtype: str) -> np.ndarray:
    """The nonnegative numbers with these bits."""
    if dtype == "BF16":
        return (patterns.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return patterns.view({"F16": np.float16, "F32": np.float32, "F64": np.float64}[dtype])


def _run_starts(
    bins_of: Callable[[np.ndarray], np.ndarray], beyond: int, infinity: int, unsigned: type[np.unsignedinteger]
) -> np.ndarray:
    """First pattern of every run of equal bins, ascending, then infinity: by bisection, all runs at once.

    From 0 to just below `beyond` bins fall, from uncounted (K + 1) over K to the last; from `beyond` on nothing counts.
    """
    most, least = (int(bins_of(np.array([pattern], dtype=unsigned))[0]) for pattern in (0, beyond - 1))
    wanted_bins = np.arange(most - 1, least - 1, -1)
    before = np.zeros(wanted_bins.size, dtype=unsigned)  # bin > wanted_bins
    reached = np.full(wanted_bins.size, beyond - 1, dtype=unsigned)  # bin <= wanted_bins
    while (reached - before > 1).any():
        middle = before + (reached - before) // unsigned(2)
        there = bins_of(middle) <= wanted_bins
        reached, before = np.where(there, middle, reached), np.where(there, before, middle)
    ends = np.array([0, beyond, infinity], dtype=unsigned)  # not mixed with signed integers: that would round
    return np.unique(np.concatenate([ends, reached]))


def magnitude_range(bits: np.ndarray, dtype: str) -> tuple[float, float]:
    """The smallest |w| above 0, and the largest, of stored weights; (0, 0) where there is none but 0. NaN counts as infinity.

    bits: weights of the type `dtype` as unsigned integers, any shape.
    """
    unsigned = _UNSIGNED[dtype]
    magnitudes = bits & unsigned((1 << (8 * bits.itemsize - 1)) - 1)
    largest = min(int(magnitudes.max(initial=0)), _INFINITY[dtype])
    # One less each, so that 0 becomes the largest of all and drops out.
    beyond = np.iinfo(unsigned).max
    less = int((magnitudes - unsigned(1)).min(initial=beyond))
    smallest = 0 if less == beyond else min(less + 1, _INFINITY[dtype])
    both = _floats(np.array([smallest, largest], dtype=unsigned), dtype).astype(np.float64)
    return float(both[0]), float(both[1])
