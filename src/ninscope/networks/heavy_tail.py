"""Is a distribution of degrees or strengths heavy-tailed? The power-law fit of Clauset, Shalizi and Newman, with its goodness.

"Power-law distributions in empirical data" (SIAM Review 51, 2009): the exponent by maximum likelihood, the start of the tail
where the fit's Kolmogorov-Smirnov distance is smallest, a bootstrap of that distance, and likelihood ratios against other
distributions (Vuong). The fit is igraph's (plfit, in C). The package `powerlaw` was tried beside it: its version 2.0 bounds
every exponent by 3 unless told otherwise (plfit finds 21 in a normal sample, it finds 3), and can take a hundred times longer.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import erfc, log_ndtr, zeta

from ninscope.checks import MAX_SEED, checked_integer
from ninscope.errors import RequestError
from ninscope.shown import Shown

MAX_VALUES = 50_000  # the search for the tail's start takes the square of them: 10 s
MAX_BOOTSTRAP = 100_000
LEAST_VALUES = 10


@dataclass(frozen=True, repr=False)
class HeavyTail(Shown):
    """The power law p(x) ~ x^-alpha that fits the tail x >= xmin best, and how well.

    alpha: exponent; alpha_error: its standard error (alpha - 1)/sqrt(tail). values, tail: positive values, and those in the
    tail. ks: Kolmogorov-Smirnov distance of tail and fit. p: the share of samples drawn from the fit whose own fit is at
    least as far off, NaN where no bootstrap was asked for; a small p (Clauset: 0.1) says it is no power law. lognormal,
    exponential: normalised log-likelihood ratio of the power law against each on the tail, positive where the power law is
    better, and *_p, how likely a ratio so far from 0 is if both are as good; large *_p: the data do not tell them apart.
    discrete: whether values are whole numbers, as degrees are.
    """

    alpha: float
    alpha_error: float
    xmin: float
    values: int
    tail: int
    ks: float
    p: float
    lognormal: float
    lognormal_p: float
    exponential: float
    exponential_p: float
    discrete: bool

    def facts(self) -> dict[str, object]:
        """What a terminal or a notebook shows of it."""
        told = {"alpha": self.alpha, "xmin": self.xmin, "tail": self.tail, "values": self.values}
        return told | {"verdict": self.verdict}

    @property
    def verdict(self) -> str:
        """One clause: what the numbers say, with 0.1 as the bound of every p."""
        better = [
            name
            for name, ratio, p in (
                ("a lognormal", self.lognormal, self.lognormal_p),
                ("an exponential", self.exponential, self.exponential_p),
            )
            if ratio < 0 and p < 0.1
        ]
        if better:
            return f"{' and '.join(better)} {'fit' if len(better) > 1 else 'fits'} the tail better than a power law"
        if self.p < 0.1:
            return f"no power law (bootstrap p = {self.p:.2g})"
        if self.exponential > 0 and self.exponential_p < 0.1:
            distinguished = self.lognormal > 0 and self.lognormal_p < 0.1
            return "heavy-tailed: a power law" + (
                "" if distinguished else ", or a lognormal, which these data do not tell from it"
            )
        return "undecided: an exponential fits the tail as well as a power law"


def heavy_tail(
    values: np.ndarray, discrete: bool | None = None, xmin: float | None = None, bootstrap: int = 0, seed: int = 0
) -> HeavyTail:
    """Fit a power law to the tail of `values` (1-D, finite; those that are not positive have no part in it).

    discrete: whether they are counts; None: where all are whole numbers. xmin: where the tail starts; None: where the fit is
    best. bootstrap: how many samples p is taken from, each fitted anew (about 20 ms for 2,000 values; 100 give p to within
    0.05); seed decides which.

    Raises RequestError: no array of finite numbers, fewer than 10 positive values or only one, or in the tail, more than
    MAX_VALUES, a parameter out of range.
    """
    positive = _positive(values)
    whole = bool((positive == np.rint(positive)).all())
    discrete = whole if discrete is None else discrete
    if discrete and not whole:
        raise RequestError("discrete values must be whole numbers; leave discrete out, or round them")
    checked_integer("bootstrap", bootstrap, 0, MAX_BOOTSTRAP)
    checked_integer("seed", seed, 0, MAX_SEED)
    if xmin is not None:
        if not isinstance(xmin, int | float | np.number) or not 0 < xmin < math.inf:
            raise RequestError(f"xmin is {xmin!r}; a positive number was expected")
        if (tail := positive[positive >= xmin]).size < LEAST_VALUES or np.unique(tail).size < 2:
            raise RequestError(
                f"xmin = {xmin:g} leaves {tail.size} values ({np.unique(tail).size} different); lower it"
            )
    alpha, start, ks = _fit(positive, discrete, xmin)
    tail = positive[positive >= start]
    lognormal, lognormal_p, exponential, exponential_p = (math.nan,) * 4
    if np.unique(tail).size > 1:
        ours = _power_law(tail, alpha, start, discrete)
        lognormal, lognormal_p = _vuong(ours - _lognormal(tail, start, discrete))
        exponential, exponential_p = _vuong(ours - _exponential(tail, start, discrete))
    p = math.nan
    if bootstrap:
        generator = np.random.default_rng([seed, 0x7A11])
        body = positive[positive < start]
        further = 0
        for _ in range(bootstrap):
            drawn = _drawn(body, tail.size, positive.size, alpha, start, discrete, generator)
            # A sample of one value only is as far from a power law as can be.
            further += np.unique(drawn).size < 2 or _fit(drawn, discrete, xmin)[2] >= ks
        p = further / bootstrap
    return HeavyTail(
        alpha, (alpha - 1) / math.sqrt(tail.size), start, positive.size, tail.size, ks, p,
        lognormal, lognormal_p, exponential, exponential_p, discrete,
    )  # fmt: skip


def _positive(values: object) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise RequestError("values of a heavy-tail fit must be numbers") from None
    if array.ndim != 1 or not np.isfinite(array).all():
        raise RequestError("values of a heavy-tail fit must be a 1-D array of finite numbers; leave NaN out")
    positive = np.sort(array[array > 0])
    different = np.unique(positive).size
    if positive.size < LEAST_VALUES or different < 2:
        raise RequestError(
            f"{positive.size} positive values, {different} different; a fit needs {LEAST_VALUES} that are not all alike"
        )
    if positive.size > MAX_VALUES:
        raise RequestError(
            f"{positive.size} values, more than {MAX_VALUES}; fit one layer at a time, or a sample of them"
        )
    return positive


def _fit(values: np.ndarray, discrete: bool, xmin: float | None) -> tuple[float, float, float]:
    """(alpha, xmin, Kolmogorov-Smirnov distance) by igraph, whose own p is not asked for: it knows no seed."""
    import igraph  # slow to import

    method = "discrete" if discrete else "continuous"
    try:
        fit = igraph.power_law_fit(values.tolist(), xmin=xmin, method=method, p_precision=0.5)
    except igraph.InternalError as error:
        raise RequestError(f"no power law can be fitted to these {values.size} values: {error}") from None
    return float(fit.alpha), float(fit.xmin), float(fit.D)


def _power_law(x: np.ndarray, alpha: float, xmin: float, discrete: bool) -> np.ndarray:
    """Log-likelihood of each value of the tail, float64 [n]; so are those below."""
    if discrete:
        return -alpha * np.log(x) - np.log(zeta(alpha, xmin))
    return math.log((alpha - 1) / xmin) - alpha * np.log(x / xmin)


def _exponential(x: np.ndarray, xmin: float, discrete: bool) -> np.ndarray:
    beyond = x - xmin
    if discrete:
        rate = math.log1p(1 / beyond.mean())
        return math.log(-math.expm1(-rate)) - rate * beyond
    rate = 1 / beyond.mean()
    return math.log(rate) - rate * beyond


def _lognormal(x: np.ndarray, xmin: float, discrete: bool) -> np.ndarray:
    """Cut off at the tail's start, the parameters of maximum likelihood."""
    log = np.log(x)
    ends = (np.log(x - 0.5), np.log(x + 0.5), math.log(xmin - 0.5)) if discrete else None

    def likelihood(parameters: np.ndarray) -> np.ndarray:
        mean, deviation = parameters[0], math.exp(parameters[1])
        if ends is None:
            score = (log - mean) / deviation
            density = -log - math.log(deviation * math.sqrt(2 * math.pi)) - score**2 / 2
            return density - log_ndtr((mean - math.log(xmin)) / deviation)
        # Probability above each end; a value's is the difference of two, taken where neither is near 1.
        above, beyond = (log_ndtr((mean - end) / deviation) for end in ends[:2])
        share = -np.expm1(np.minimum(beyond - above, 0.0))
        return above + np.log(np.maximum(share, 1e-300)) - log_ndtr((mean - ends[2]) / deviation)

    def misfit(parameters: np.ndarray) -> float:
        return float(-likelihood(parameters).sum())

    # A lognormal whose mean lies far below the tail is a power law there, of exponent 1 + (ln xmin - mean) / deviation^2. So the
    # search starts from two sides, the sample's own moments and such a power law, and cannot end much worse than either.
    spread = max(float(log.std()), 1e-6)
    start = math.log(xmin)
    wide = 5 * spread
    steepness = 1 / max(float((log - start).mean()), 1e-6)
    bounds = [
        (start - 1e4 * spread, float(log.max()) + 10 * spread),
        (math.log(spread) - 5, math.log(spread) + 5),
    ]
    starts = ([float(log.mean()), math.log(spread)], [start - steepness * wide**2, math.log(wide)])
    fits = [
        minimize(
            misfit,
            first,
            method="Nelder-Mead",
            bounds=bounds,
            options={"maxiter": 1000, "xatol": 1e-8, "fatol": 1e-8},
        )
        for first in starts
    ]
    return likelihood(min(fits, key=lambda fit: fit.fun).x)


def _vuong(difference: np.ndarray) -> tuple[float, float]:
    """(normalised log-likelihood ratio, p) from the values' differences; NaN where all are alike."""
    spread = float(difference.std())
    if spread == 0:
        return math.nan, math.nan
    ratio = float(difference.sum()) / (spread * math.sqrt(difference.size))
    return ratio, float(erfc(abs(ratio) / math.sqrt(2)))


def _drawn(
    body: np.ndarray, tail: int, size: int, alpha: float, xmin: float, discrete: bool, generator: np.random.Generator
) -> np.ndarray:
    """A sample like the data: below the tail from the data themselves, in the tail from the power law (Clauset, 4.1)."""
    in_tail = int((generator.random(size) < tail / size).sum()) if body.size else size
    below = body[(generator.random(size - in_tail) * body.size).astype(np.int64)]
    uniform = 1 - generator.random(in_tail)
    if not discrete:
        return np.concatenate([below, xmin * uniform ** (-1 / (alpha - 1))])
    return np.concatenate([below, _discrete_tail(uniform, alpha, xmin)])


def _discrete_tail(uniform: np.ndarray, alpha: float, xmin: float) -> np.ndarray:
    """The whole numbers x with P(X >= x) >= u > P(X >= x + 1), by doubling and bisection."""
    norm = zeta(alpha, xmin)
    low = np.full(uniform.size, float(xmin))
    high = 2 * low
    while (out := (zeta(alpha, high) / norm >= uniform) & (high < 1e15)).any():
        low[out], high[out] = high[out], 2 * high[out]
    while (high - low > 1).any():
        middle = np.floor((low + high) / 2)
        inside = zeta(alpha, middle) / norm >= uniform
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return low
