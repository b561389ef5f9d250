"""Degree of emergence of a checkpoint against the start of its training (NeuroMFA, Definition 4.7; docs/method.md)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, overload

import numpy as np

from ninscope.checks import MAX_SEED, checked_confidence, checked_integer
from ninscope.errors import RequestError
from ninscope.multifractal.jackknife import jackknife_interval, left_out_emergence
from ninscope.multifractal.origin import Origin

MIN_REPLICATES, MAX_REPLICATES = 100, 1_000_000
STEP_0 = "step0"  # what messages call the baseline that nobody chose
MOST_UNLIKE = 0.1  # by this share may counted nodes differ from those of the baseline
TRUST_UNLIKE = "--trust-unlike-counts overrides"
CHOOSE_BASELINE = 'baseline = "first", or a revision, chooses another (--baseline on the command line)'


class HasSpectrum(Protocol):
    """A spectrum, or the means over several."""

    @property
    def alpha0(self) -> float: ...

    @property
    def width(self) -> float: ...


class HasSamples(HasSpectrum, Protocol):
    """What an interval of E is drawn from: the spectra of samples, and their means."""

    @property
    def samples(self) -> Sequence[HasSpectrum]: ...


@dataclass(frozen=True)
class Bootstrap:
    """How the interval of E is drawn, checked when it is made; these are the only defaults.

    replicates: how often the samples are drawn anew; confidence: share of the replicates inside the interval; seed: which are
    drawn. Raises RequestError.
    """

    replicates: int = 2000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        checked_integer("replicates", self.replicates, MIN_REPLICATES, MAX_REPLICATES)
        checked_integer("seed", self.seed, 0, MAX_SEED)
        checked_confidence(self.confidence)


class Comparison(NamedTuple):
    """E of a checkpoint with its interval, NaN where there is none.

    message: why there is none, or what to know of the interval, or empty. warning: why not to trust E, or empty.
    """

    emergence: float
    low: float
    high: float
    message: str
    warning: str = ""


@overload
def compared(
    now: HasSamples,
    start: HasSamples | None,
    no_emergence: str,
    baseline: str,
    bootstrap: Bootstrap,
    *,
    trust_unlike_counts: bool = False,
) -> Comparison: ...


@overload
def compared(
    now: HasSpectrum,
    start: HasSpectrum | None,
    no_emergence: str = "",
    baseline: str = STEP_0,
    *,
    trust_unlike_counts: bool = False,
) -> Comparison: ...


def compared(
    now: Any,
    start: Any,
    no_emergence: str = "",
    baseline: str = STEP_0,
    bootstrap: Bootstrap | None = None,
    *,
    trust_unlike_counts: bool = False,
) -> Comparison:
    """E of a checkpoint against its baseline, or why there is none. Every command takes it from here.

    no_emergence: why the audit allows no E, or empty. baseline: what messages call the revision that E compares with.
    bootstrap: how to draw the interval over samples, or the confidence of that over left out layers; None: no interval.
    trust_unlike_counts: E also where other layers count than in the baseline, or 10 % more or fewer nodes; else it is withheld.
    Raises RequestError when the two have different numbers of samples.
    """
    if reason := no_emergence or why_undefined(now, start, baseline):
        return Comparison(math.nan, math.nan, math.nan, reason)
    warning = unlike_counts(now, start, baseline)
    if warning and not trust_unlike_counts:
        return Comparison(math.nan, math.nan, math.nan, withheld(warning))
    value = emergence(now, start)
    if bootstrap is None:
        return Comparison(value, math.nan, math.nan, "", warning)
    if len(now.samples) == 1 and len(start.samples) == 1:  # the whole network: nothing was drawn
        return Comparison(value, *left_out_interval(now, start, value, bootstrap.confidence), "", warning)
    pairs = np.stack([_pairs(now), _pairs(start)])
    both = np.isfinite(pairs).all(axis=(0, 2))
    low, high = emergence_interval(
        pairs[0, both], pairs[1, both], bootstrap.replicates, bootstrap.confidence, bootstrap.seed
    )
    note = f"E's interval is from the {both.sum()} of {both.size} samples with a spectrum at both steps"
    return Comparison(value, low, high, "" if both.all() else note, warning)


def unlike_counts(now: object, start: object, baseline: str = STEP_0) -> str:
    """One clause where E compares networks of which unlike parts count: other layers, or 10 % more or fewer nodes; else empty.

    now, start: of two measurements `nodes_counted`, `layers_counted` and `counted_layers` are compared, where they know them.
    """
    layers, layers_before = (getattr(measured, "layers_counted", None) for measured in (now, start))
    names, names_before = (getattr(measured, "counted_layers", None) for measured in (now, start))
    nodes, nodes_before = (getattr(measured, "nodes_counted", 0.0) for measured in (now, start))
    clauses = []
    if layers is not None and layers_before is not None and layers != layers_before:
        clauses.append(f"{layers} layers count ({baseline}: {layers_before})")
    elif names and names_before and names - names_before and names_before - names:  # as many, but others
        clauses.append(f"{min(names - names_before)} counts ({baseline}: {min(names_before - names)} instead)")
    if abs(nodes - nodes_before) > MOST_UNLIKE * nodes_before:
        clauses.append(f"{nodes:,.0f} nodes count ({baseline}: {nodes_before:,.0f})")
    return f"E compares unlike networks: {', '.join(clauses)}" if clauses else ""


def withheld(unlike: str) -> str:
    """What a row says that has no E for what `unlike_counts` found."""
    return f"no E: {unlike.replace('E compares', 'it would compare', 1)}; {TRUST_UNLIKE}"


def without_interval(now: object) -> str:
    """One clause on why no layer is left out of the exact measurement of single layers; empty where some are."""
    if getattr(now, "left_out", {}):
        return ""
    layers = getattr(now, "layers_counted", None)
    if layers == 1:
        return "no interval: only one node layer counts, and without it there is nothing"
    return "no interval: an older ninscope, which left no layer out, stored this analysis" if layers else ""


def left_out_interval(now: object, start: object, value: float, confidence: float) -> tuple[float, float]:
    """The interval of E by leaving out one node layer at a time, of both networks at once (`jackknife_interval`).

    now, start: measurements, whose `left_out` says alpha0 and width without each layer that counts, by its name. NaN, NaN where
    they do not tell, or not of the same layers.
    """
    after, before = (getattr(measured, "left_out", {}) for measured in (now, start))
    if not after or list(after) != list(before):
        return math.nan, math.nan
    pairs = (np.array(list(values.values())) for values in (after, before))
    return jackknife_interval(value, left_out_emergence(*pairs), confidence)


def _pairs(measured: HasSamples) -> np.ndarray:
    """(alpha0, width) of each sample, float64 [samples, 2]."""
    return np.array([[sample.alpha0, sample.width] for sample in measured.samples])


def emergence(now: HasSpectrum, start: HasSpectrum | None, same_training: bool = False) -> float:
    """E = w(t)/w(0) * ln(alpha0(0)/alpha0(t)), from the sample means where the spectra are sampled.

    NaN where it is undefined: there is no start, a spectrum is missing, the start has width 0, or an alpha0 is not positive
    (`why_undefined` says which). same_training: the two are of one training, though they lie in two folders or repositories.

    Raises RequestError where the two were not made alike, or are of two models, as far as they tell.
    """
    now = _spectrum_in(now)
    start = None if start is None else _spectrum_in(start)
    if start is not None and (unlike := _unlike(now, start, same_training)):
        raise RequestError(f"these spectra cannot be compared: {'; '.join(unlike)}; give two of one model, made alike")
    if start is None or why_undefined(now, start):
        return math.nan
    return emergence_of(now.alpha0, now.width, start.alpha0, start.width)


def _spectrum_in(given: HasSpectrum) -> HasSpectrum:
    """What a row of `measure_all` holds, or what is given itself. Raises RequestError: that is no spectrum."""
    spectrum: HasSpectrum = getattr(given, "spectrum", None) or given
    if not hasattr(spectrum, "alpha0"):
        raise RequestError(
            f"an object of type {type(given).__name__} is no spectrum; give what ninscope.measure returns"
        )
    return spectrum


def _unlike(now: HasSpectrum, start: HasSpectrum, same_training: bool) -> list[str]:
    """A clause for everything in which two spectra were made otherwise; what holds nothing but numbers has none."""
    moments: list[np.ndarray | None] = [getattr(spectrum, "q", None) for spectrum in (now, start)]
    before, after = (getattr(spectrum, "origin", None) or Origin() for spectrum in (now, start))
    clauses = before.differences(after, same_training)
    if moments[0] is not None and moments[1] is not None and _are_other(moments[0], moments[1]):
        clauses.append(f"q is {_described(moments[0])} and {_described(moments[1])}")
    return clauses


def _are_other(q: np.ndarray, other: np.ndarray) -> bool:
    """Whether two grids of q differ by more than rounding; a part as it is stored has none."""
    return bool(q.size and other.size) and (q.size != other.size or not np.allclose(q, other, rtol=0, atol=1e-9))


def _described(q: np.ndarray) -> str:
    return f"{q.size} values from {q[0]:g} to {q[-1]:g}"


def emergence_of(alpha0: float, width: float, start_alpha0: float, start_width: float) -> float:
    """E from its four numbers; NaN where it is undefined."""
    if not (start_width > 0 and start_alpha0 > 0 and alpha0 > 0):
        return math.nan
    return width / start_width * math.log(start_alpha0 / alpha0)


def why_undefined(now: HasSpectrum, start: HasSpectrum | None, baseline: str = STEP_0) -> str:
    """Why E does not exist for these two, in one clause; empty where it does."""
    if start is None:
        return f"no E: there is no usable {baseline} to compare with; {CHOOSE_BASELINE}"
    if math.isnan(start.alpha0):
        return f"no E: {baseline} has no spectrum"
    if math.isnan(now.alpha0):
        return "no E: this checkpoint has no spectrum"
    if start.width == 0:
        return f"no E: the spectrum of {baseline} has width 0 (every node alike)"
    if start.alpha0 <= 0 or now.alpha0 <= 0:
        return "no E: alpha0 is not positive"
    return ""


def emergence_interval(
    now: np.ndarray,
    start: np.ndarray,
    replicates: int = Bootstrap.replicates,
    confidence: float = Bootstrap.confidence,
    seed: int = Bootstrap.seed,
) -> tuple[float, float]:
    """Percentile bootstrap interval of E over samples.

    now, start: float64 [samples, 2], the samples' (alpha0, width). Sample s holds the same neurons at both checkpoints, so
    samples are redrawn in pairs, and what a choice of neurons does to both checkpoints alike drops out. NaN, NaN for fewer
    than two samples or where a replicate is undefined.

    Raises RequestError when the two have different numbers of samples.
    """
    if now.shape != start.shape:
        raise RequestError(f"{len(now)} samples now and {len(start)} at the start: measure both with the same samples")
    count = len(now)
    if count < 2:
        return math.nan, math.nan
    raw = np.random.PCG64(np.random.SeedSequence([seed, count])).random_raw(replicates * count)
    drawn = (raw % np.uint64(count)).astype(np.int64).reshape(replicates, count)
    alpha_now, width_now = now[drawn].mean(axis=1).T
    alpha_start, width_start = start[drawn].mean(axis=1).T
    with np.errstate(divide="ignore", invalid="ignore"):
        values = width_now / width_start * np.log(alpha_start / alpha_now)
    if not np.isfinite(values).all():
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
