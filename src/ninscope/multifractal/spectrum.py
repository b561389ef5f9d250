"""The multifractal spectrum of a network (NeuroMFA, section 4.2 and Algorithms 1, 2 and 5; docs/method.md)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ninscope.errors import RequestError
from ninscope.multifractal.boxes import box_histogram
from ninscope.multifractal.fits import slopes
from ninscope.multifractal.means import known_mean
from ninscope.multifractal.node_dimension import mass_radius_fits
from ninscope.multifractal.origin import Origin
from ninscope.multifractal.partition import PartitionSums, partition_sums
from ninscope.networks.radii import IntegerRadii
from ninscope.networks.transfer import MAX_RADII, UNCOUNTED, radius_count
from ninscope.shown import Shown, without_empty
from ninscope.wording import joined_clauses

DERIVATIVES = ("exact", "forward")  # the first is the default
MIN_DEGREE = 10
MAX_Q = 10_000
MAX_ABS_Q = 20
MIN_Q_STEP = 1e-6  # the fits of neighbours differ by less than the rounding of their sums below that
MAX_DEGREE = 2**31 - 1
ZERO = 1e-9  # how far from 0 a q may be that stands for it, as in np.arange(-3, 3.1, 0.1)


def default_q() -> np.ndarray:
    """The papers' q: -3 to 3 in steps of 0.1, float64 [61], with 0 exactly among them."""
    return np.arange(-30, 31) / 10.0


@dataclass(frozen=True, repr=False)
class Spectrum(Shown):
    """The multifractal spectrum of one network; NaN, with `message` saying why, where it does not exist.

    q, tau, r2: float64 [len(q)] (r2: of ln Z_q on ln(r/d)); alpha, f: float64 [len(q)], or [len(q) - 1] by forward
    differences; alpha0: regularity, alpha at the largest f; width: heterogeneity, max alpha - min alpha. nodes, edges: those
    that entered the sums, nodes with more than min_degree edges. r2_mass_mean, r2_mass_std: R^2 of ln N_i(r) on ln r over
    these nodes. peak_q: the q of the largest f, 0 but where a few nodes outweigh the rest; alpha_at_zero: alpha(0), which alpha0
    is then not. origin: how it was made, as far as that is known.
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
    peak_q: float = 0.0
    alpha_at_zero: float = math.nan
    origin: Origin | None = None

    def facts(self) -> dict[str, object]:
        """What a terminal or a notebook shows of it."""
        q = f"{self.q[0]:g} to {self.q[-1]:g}" if self.q.size else None
        told = {"alpha0": self.alpha0, "width": self.width, "nodes": self.nodes, "edges": self.edges}
        return told | without_empty(q=q, message=self.message)

    @property
    def r2_partition(self) -> float:
        """Mean over q of r2, without q = 0, where there is no fit."""
        known = self.r2[~np.isnan(self.r2)]
        return float(known.mean()) if known.size else math.nan

    @property
    def warning(self) -> str:
        """Why not to trust it; empty if nothing speaks against it."""
        return warning_of(self.r2_mass_mean, self.r2_partition, [self])


def spectrum_of_sums(
    sums: PartitionSums,
    q: np.ndarray,
    log_radii: np.ndarray,
    derivative: str = DERIVATIVES[0],
    r2_mass_mean: float = math.nan,
    r2_mass_std: float = math.nan,
) -> Spectrum:
    """The spectrum from partition sums.

    log_radii: float64 [K + 1], ln r of the sums' radii up to a constant, NaN of radii that enter no fit. derivative: "exact", or
    "forward" differences as the authors' code takes them. r2_mass_mean, r2_mass_std: kept in the spectrum. Raises RequestError
    as `checked_moments`.
    """
    q = checked_moments(q, derivative)
    radii = np.flatnonzero(sums.seen & ~np.isnan(log_radii))
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
    peak_q, alpha_at_zero = peak_of(q, alpha, f)
    return Spectrum(
        q,
        tau,
        alpha,
        f,
        r2,
        alpha0,
        width,
        sums.nodes,
        sums.edges,
        r2_mass_mean,
        r2_mass_std,
        peak_q=peak_q,
        alpha_at_zero=alpha_at_zero,
    )


def peak_of(q: np.ndarray, alpha: np.ndarray, f: np.ndarray) -> tuple[float, float]:
    """(q of the largest f, alpha(0)); 0 where f(0) is as large, as by forward differences f of the q before always is.

    alpha(0) is NaN, and the peak 0, where there is no spectrum, or q holds no 0, as in results of long ago.
    """
    zero = int(np.abs(q).argmin())
    if abs(q[zero]) > ZERO or zero >= f.size or np.isnan(f).any():
        return 0.0, math.nan
    peak = int(f.argmax())
    higher = f[peak] - f[zero] > 1e-9 * max(1.0, abs(f[peak]))
    return (float(q[peak]) if higher else 0.0), float(alpha[zero])


def _no_spectrum(sums: PartitionSums, q: np.ndarray, derivative: str, radii: int) -> Spectrum:
    missing = np.full(q.size, np.nan)
    if sums.nodes == 0:
        reason = "no node has enough edges within the distance bounds: alpha0 and width are missing"
    elif radii < np.count_nonzero(sums.seen):
        many = "1 radius" if radii == 1 else f"{radii} radii"
        reason = f"counted edges have {many} within fit_radii: there is no slope, so alpha0 and width are missing"
    else:
        reason = f"all counted edges share {radii} radius: there is no slope, so alpha0 and width are missing"
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

    log_radii: float64 [K + 1], ln r of every bin up to a constant, NaN of bins that enter no fit.
    """
    degrees = histogram.sum(axis=1, dtype=np.int64)
    _, r2 = mass_radius_fits(histogram, min_degree, log_radii, degrees)
    quality = mass_quality(r2[~np.isnan(r2)])
    return spectrum_of_sums(partition_sums(histogram, min_degree, q, degrees), q, log_radii, derivative, **quality)


def warning_of(r2_mass_mean: float, r2_partition: float, spectra: Sequence[Spectrum]) -> str:
    """Why not to trust the spectra of one network, or of its samples, with these means of R^2; empty if nothing speaks against."""
    return joined_clauses(fit_warning(r2_mass_mean, r2_partition), peak_warning(spectra))


def peak_warning(spectra: Sequence[Spectrum], what: str = "samples") -> str:
    """One clause where the largest f of a network, or of some of its samples, is not at q = 0; empty where it is there.

    what: what several spectra are of.
    """
    strays = [spectrum.peak_q for spectrum in spectra if spectrum.peak_q]
    if not strays:
        return ""
    which = "" if len(spectra) == 1 else f"in {len(strays)} of {len(spectra)} {what} "
    alpha0, at_zero = (
        known_mean([getattr(spectrum, name) for spectrum in spectra]) for name in ("alpha0", "alpha_at_zero")
    )
    return (
        f"{which}the largest f is at q = {strays[0]:g}, not at 0, since few nodes outweigh the rest there: "
        f"alpha0 is {alpha0:.4g}, alpha(0) is {at_zero:.4g}"
    )


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
    min_degree of its edges do (the bounds of NeuroMFA's code). q: increasing, with 0, default -3..3 by 0.1.

    Raises RequestError: NaN distances, arrays that are not 1-D, and what `checked_moments` and `checked_bounds` raise.
    """
    if derivative not in DERIVATIVES:
        raise RequestError(f"derivative is {derivative!r}; one of {', '.join(DERIVATIVES)}")
    q = checked_moments(q, derivative)
    indptr, bins = _binned_rows(distances, 1.0, max_distance, min_degree)
    histogram = box_histogram(indptr, bins, radius_count(max_distance))
    radii = IntegerRadii("reciprocal", max_distance)
    origin = Origin(
        radii="integer", max_distance=float(max_distance), min_degree=int(min_degree), derivative=derivative
    )
    return replace(spectrum_of_counts(histogram, min_degree, q, radii.logarithms, derivative), origin=origin)


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


def checked_moments(q: object, derivative: str = DERIVATIVES[0]) -> np.ndarray:
    """The q of a spectrum: as `checked_q`, with 0 among them, where alpha0 is taken. Raises RequestError."""
    values = checked_q(q)
    zeros = np.flatnonzero(np.abs(values) <= ZERO)
    if not zeros.size:
        raise RequestError(f"q goes from {values[0]:g} to {values[-1]:g} without 0, where alpha0 is taken; add 0 to q")
    if derivative == "forward" and zeros[0] == values.size - 1:
        raise RequestError("q ends at 0, where forward differences give no alpha0; add a q above 0")
    return values


def checked_bounds(max_distance: float, min_degree: int) -> None:
    """Raises RequestError unless 2 <= max_distance <= MAX_RADII and 0 <= min_degree <= MAX_DEGREE."""
    if not isinstance(max_distance, int | float | np.number) or not 2 <= max_distance <= MAX_RADII:
        raise RequestError(f"max_distance is {max_distance!r}; a number from 2 to {MAX_RADII} was expected")
    if not isinstance(min_degree, int | np.integer) or not 0 <= min_degree <= MAX_DEGREE:
        raise RequestError(f"min_degree is {min_degree!r}; an integer from 0 to {MAX_DEGREE} was expected")
