"""The multifractal spectrum of a network (NeuroMFA, section 4.2 and Algorithms 1, 2 and 5; docs/method.md)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ninscope.errors import RequestError
from ninscope.multifractal.boxes import box_histogram
from ninscope.multifractal.fits import slopes
from ninscope.multifractal.node_dimension import mass_radius_fits
from ninscope.multifractal.partition import PartitionSums, partition_sums
from ninscope.networks.radii import IntegerRadii
from ninscope.networks.transfer import MAX_RADII, UNCOUNTED, radius_count

DERIVATIVES = ("exact", "forward")  # the first is the default
MIN_DEGREE = 10
MAX_Q = 10_000
MAX_ABS_Q = 20
MIN_Q_STEP = 1e-6  # the fits of neighbours differ by less than the rounding of their sums below that
MAX_DEGREE = 2**31 - 1


def default_q() -> np.ndarray:
    """The papers' q: -3 to 3 in steps of 0.1, float64 [61], with 0 exactly among them."""
    return np.arange(-30, 31) / 10.0


@dataclass(frozen=True)
class Spectrum:
    """The multifractal spectrum of one network; NaN, with `message` saying why, where it does not exist.

    q, tau, r2: float64 [len(q)] (r2: of ln Z_q on ln(r/d)); alpha, f: float64 [len(q)], or [len(q) - 1] by forward
    differences; alpha0: regularity, alpha at the largest f; width: heterogeneity, max alpha - min alpha. nodes, edges: those
    that entered the sums, nodes with more than min_degree edges. r2_mass_mean, r2_mass_std: R^2 of ln N_i(r) on ln r over
    these nodes.
    """

    q: np.ndarray
    tau: np.ndarray
    alpha: np.ndarray
    f: np.ndarray
    r2: np.ndarray
    alpha0: float
    width: float
    nodes: int
    edges: int
    r2_mass_mean: float = math.nan
    r2_mass_std: float = math.nan
    message: str = ""

    @property
    def r2_partition(self) -> float:
        """Mean over q of r2, without q = 0, where there is no fit."""
        known = self.r2[~np.isnan(self.r2)]
        return float(known.mean()) if known.size else math.nan


def spectrum_of_sums(
    sums: PartitionSums,
    q: np.ndarray,
    log_radii: np.ndarray,
    derivative: str = DERIVATIVES[0],
    r2_mass_mean: float = math.nan,
    r2_mass_std: float = math.nan,
) -> Spectrum:
    """The spectrum from partition sums.

    log_radii: float64 [K + 1], ln r of the sums' radii up to a constant. derivative: "exact", or "forward" differences as the
    authors' code takes them. r2_mass_mean, r2_mass_std: kept in the spectrum.
    """
    q = np.asarray(q, dtype=np.float64)
    radii = np.flatnonzero(sums.seen)
    if radii.size < 2:
        missing = _no_spectrum(sums, q, derivative, int(radii.size))
        return replace(missing, r2_mass_mean=r2_mass_mean, r2_mass_std=r2_mass_std)
    x = log_radii[radii] - log_radii[radii[-1]]
    z, m = sums.z[radii], sums.m[radii]
    tau, r2 = slopes(x, np.log(z))
    if derivative == "forward":
        alpha = np.diff(tau) / np.diff(q)
        f = q[:-1] * alpha - tau[:-1]
    else:
        # tau is linear in ln Z, so its derivative is the slope of d ln Z / dq = M / Z.
        alpha, _ = slopes(x, m / z)
        f = q * alpha - tau
    width = float(alpha.max() - alpha.min())
    if width <= 1e-11 * np.abs(alpha).max():  # every node alike, but for rounding, which no E may be divided by
        width = 0.0
    alpha0 = float(alpha[np.argmax(f)])
    return Spectrum(q, tau, alpha, f, r2, alpha0, width, sums.nodes, sums.edges, r2_mass_mean, r2_mass_std)


def _no_spectrum(sums: PartitionSums, q: np.ndarray, derivative: str, radii: int) -> Spectrum:
    missing = np.full(q.size, np.nan)
    reason = (
        "no node has enough edges within the distance bounds: alpha0 and width are missing"
        if sums.nodes == 0
        else f"all counted edges share {radii} radius: there is no slope, so alpha0 and width are missing"
    )
    alpha = missing[: q.size - (derivative == "forward")]
    return Spectrum(
        q,
        missing,
        alpha,
        alpha,
        missing,
        math.nan,
        math.nan,
        sums.nodes,
        sums.edges,
        message=reason,
    )


def spectrum_of_counts(
    histogram: np.ndarray, min_degree: int, q: np.ndarray, log_radii: np.ndarray, derivative: str = DERIVATIVES[0]
) -> Spectrum:
    """The spectrum of a network given as edges per node and distance bin, int32 [nodes, K + 1] (`box_histogram`).

    log_radii: float64 [K + 1], ln r of every bin up to a constant.
    """
    degrees = histogram.sum(axis=1, dtype=np.int64)
    _, r2 = mass_radius_fits(histogram, min_degree, log_radii, degrees)
    quality = mass_quality(r2[~np.isnan(r2)])
    return spectrum_of_sums(partition_sums(histogram, min_degree, q, degrees), q, log_radii, derivative, **quality)


LEAST_R2 = 0.7


def fit_warning(r2_mass_mean: float, r2_partition: float) -> str:
    """One clause that says which power law does not hold (its R^2 is below LEAST_R2); empty where both do, or NaN, no fit."""
    laws = ["mass against radius"] if r2_mass_mean < LEAST_R2 else []
    if r2_partition < LEAST_R2:
        laws.append("partition sums against radius")
    return f"a power law does not hold well (r2 below {LEAST_R2}): {', '.join(laws)}" if laws else ""


def mass_quality(r2: np.ndarray) -> dict[str, float]:
    """Mean and spread of the counted nodes' R^2, float64 [nodes], as Spectrum names them; nothing where no node is counted."""
    return {"r2_mass_mean": float(r2.mean()), "r2_mass_std": float(r2.std())} if r2.size else {}


def spectrum_from_distances(
    distances: Sequence[np.ndarray],
    q: np.ndarray | None = None,
    max_distance: float = IntegerRadii.max_distance,
    derivative: str = DERIVATIVES[0],
    min_degree: int = MIN_DEGREE,
) -> Spectrum:
    """The spectrum of any network given by its nodes' edge distances.

    distances: one 1-D array a node, its edges' distances; an edge counts when 1 < d <= max_distance, a node when more than
    min_degree of its edges do (the bounds of NeuroMFA's code). q: increasing, default -3..3 by 0.1.

    Raises RequestError: NaN distances, arrays that are not 1-D, and what `checked_q` and `checked_bounds` raise.
    """
    q = checked_q(q)
    if derivative not in DERIVATIVES:
        raise RequestError(f"derivative is {derivative!r}; one of {', '.join(DERIVATIVES)}")
    indptr, bins = _binned_rows(distances, 1.0, max_distance, min_degree)
    histogram = box_histogram(indptr, bins, radius_count(max_distance))
    return spectrum_of_counts(histogram, min_degree, q, IntegerRadii("reciprocal", max_distance).logarithms, derivative)


def node_fractal_dimensions(
    distances: Sequence[np.ndarray], max_distance: float = 200.0, min_degree: int = MIN_DEGREE
) -> np.ndarray:
    """Fractal dimension of each node (NeuroMFA, Eq. 26), float64 [nodes], in the authors' bounds 0 < d <= max_distance.

    distances: one 1-D array a node. 0 for nodes of min_degree edges or fewer. Raises RequestError as spectrum_from_distances.
    """
    indptr, bins = _binned_rows(distances, 0.0, max_distance, min_degree)
    histogram = box_histogram(indptr, bins, radius_count(max_distance))
    return mass_radius_fits(histogram, min_degree, IntegerRadii("reciprocal", max_distance).logarithms)[0]


def _binned_rows(
    distances: Sequence[np.ndarray], above: float, max_distance: float, min_degree: int
) -> tuple[np.ndarray, np.ndarray]:
    """(indptr, bins) of rows of distances; an edge counts when above < d <= max_distance."""
    checked_bounds(max_distance, min_degree)
    rows = [np.asarray(row, dtype=np.float64) for row in distances]
    for number, row in enumerate(rows):
        if row.ndim != 1:
            raise RequestError(f"distances of node {number} have {row.ndim} dimensions; give one 1-D array a node")
        if np.isnan(row).any():
            raise RequestError(f"distances of node {number} hold NaN; remove it or leave the edge out")
    indptr = np.cumsum([0, *(row.size for row in rows)])
    flat = np.concatenate(rows) if rows else np.zeros(0)
    counted = (flat > above) & (flat <= max_distance)
    return indptr, np.where(counted, np.rint(np.where(counted, flat, 0.0)), UNCOUNTED).astype(np.int16)


def checked_q(q: object) -> np.ndarray:
    """q as float64 [n], increasing, at least two values; None stands for the default. Raises RequestError."""
    try:
        values = default_q() if q is None else np.asarray(q, dtype=np.float64)
    except (TypeError, ValueError):
        raise RequestError("q must be numbers in increasing order") from None
    if (
        values.ndim != 1
        or not 2 <= values.size <= MAX_Q
        or not np.isfinite(values).all()
        or (np.diff(values) <= 0).any()
    ):
        raise RequestError(f"q must be 2 to {MAX_Q} finite values in increasing order")
    step = np.diff(values).min()
    if step < MIN_Q_STEP:
        raise RequestError(f"q has values {step:g} apart, so that rounding decides; keep {MIN_Q_STEP:g} between them")
    if np.abs(values).max() > MAX_ABS_Q:
        raise RequestError(f"q reaches {np.abs(values).max():g}; beyond {MAX_ABS_Q} single nodes outweigh all others")
    return values


def checked_bounds(max_distance: float, min_degree: int) -> None:
    """Raises RequestError unless 2 <= max_distance <= MAX_RADII and 0 <= min_degree <= MAX_DEGREE."""
    if not isinstance(max_distance, int | float | np.number) or not 2 <= max_distance <= MAX_RADII:
        raise RequestError(f"max_distance is {max_distance!r}; a number from 2 to {MAX_RADII} was expected")
    if not isinstance(min_degree, int | np.integer) or not 0 <= min_degree <= MAX_DEGREE:
        raise RequestError(f"min_degree is {min_degree!r}; an integer from 0 to {MAX_DEGREE} was expected")
