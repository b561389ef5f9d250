"""Do measures that know no features see those that do? Rank correlations with P, D and the loss, with intervals over seeds.

Within one seed, a measure and a truth are compared over the networks of its training (phase "training": a point an epoch), or over
its retrained networks (phase "retrained": a point a pruning ratio). That gives one correlation a seed, and the interval is over
seeds: neighbouring epochs are much alike, so they are no repetitions.

Both change while a network trains or shrinks, and two curves that only rise always correlate. So two more numbers stand beside
each correlation: the partial correlation given the epoch or the pruning ratio, and the correlation with the truth of other seeds
at the same epochs and ratios. Where other seeds correlate as well as a seed with itself, the measure follows the course that all
trainings share, and says nothing of one network.

The mean over seeds has a t interval of the correlations themselves, cut off at -1 and 1. Fisher's z was rejected: the mean of
1, 1, 1 and 0 becomes .99, and where seeds differ its intervals miss the mean more often the more seeds there are. A bootstrap of
three seeds has ten different resamples.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ninscope.correlating.ranks import correlated, mid_ranks, partial
from ninscope.errors import RequestError
from ninscope.neurons.polysemanticity.over_seeds import SeedMean, mean_over_seeds
from ninscope.neurons.polysemanticity.slopes import CONFIDENCE
from ninscope.neurons.polysemanticity.table_names import ALL_LAYERS, RETRAINED, TRAINING
from ninscope.wording import joined_clauses, listed, of_number

TRUTHS = ("P", "P_samples", "D", "loss")
MEASURES = (
    "phi_mean", "phi_p99", "emergence", "emergence_growth", "emergence_fixed", "structure", "alpha0", "width", "alpha0_unit",
    "width_unit", "loss", "entropy", "monosemanticity",
)  # fmt: skip
KNOW_FEATURES = ("entropy", "monosemanticity")  # measures that take the features as known, as P and D do
EVERY_EXPERIMENT = "all"  # the row of all experiments together
GIVEN = {TRAINING: "epoch", RETRAINED: "pruning_ratio"}  # by phase: what both series drift with
FEWEST, FEWEST_GIVEN = 3, 4  # points of a correlation, and of a partial one
CORRELATION_COLUMNS = {
    "experiment": "string", "dropout": "float64", "phase": "string", "learning_rate": "float64", "measure": "string",
    "truth": "string", "given": "string", "experiments": "Int64", "seeds": "Int64", "points": "Int64", "correlation": "float64",
    "low": "float64", "high": "float64", "other_seeds": "float64", "message": "string",
}  # fmt: skip
_FEW, _CONSTANT_MEASURE, _CONSTANT_TRUTH, _FOLLOWS = "few", "constant measure", "constant truth", "follows"


class _Pairs(NamedTuple):
    """Correlations of each seed's measure with each seed's truth, float64 [seeds, seeds] (NaN: none), plain and given the drift.

    points: int64 [seeds], of a seed's measure with its own truth. reasons, reasons_given: why a seed has no value with itself.
    """

    plain: np.ndarray
    given: np.ndarray
    points: np.ndarray
    reasons: list[str]
    reasons_given: list[str]


def polysemanticity_correlations(polysemanticity: pd.DataFrame, confidence: float = CONFIDENCE) -> pd.DataFrame:
    """Spearman's rank correlation of every measure with every truth. Columns: suite and those of CORRELATION_COLUMNS.

    polysemanticity: the table of that name, of which the rows of all layers together count. A row an experiment, dropout, phase,
    learning rate of retraining (missing in training), measure, truth and `given`: "" for the plain correlation, "epoch" or
    "pruning_ratio" for the partial one. correlation: mean over seeds, with its t interval low, high; other_seeds: mean of a seed's
    measure with the truth of another seed. points: networks of a seed, of the seed with the fewest. The experiment "all" is the
    mean of the experiments' means, and its interval is over experiments, as seeds of one experiment are alike. A measure of
    which an experiment has no value at all has no row there. Raises RequestError: a seed has one network twice.
    """
    rows = correlations_of(polysemanticity, MEASURES, TRUTHS, confidence)
    return pd.DataFrame(rows, columns=["suite", *CORRELATION_COLUMNS]).astype(
        {"suite": "string", **CORRELATION_COLUMNS}
    )


def correlations_of(
    networks: pd.DataFrame, measures: Sequence[str], truths: Sequence[str], confidence: float = CONFIDENCE
) -> list[dict[str, object]]:
    """As `polysemanticity_correlations`, of any columns: rows with its columns and p_value, of the t test that the mean is 0.

    networks: a row a network, with the columns suite, experiment, dropout, seed, phase, learning_rate, revision, layer ("all"
    counts), epoch, pruning_ratio and of the measures and truths those that there are.
    """
    whole = networks[networks["layer"] == ALL_LAYERS]
    keys = ["suite", "experiment", "dropout", "phase", "learning_rate"]
    phases = whole[whole["phase"].isin(list(GIVEN))]
    phases = phases[(phases["phase"] == TRAINING) | phases["learning_rate"].notna()]  # a failed job has no network
    phases = phases.assign(learning_rate=phases["learning_rate"].where(phases["phase"] != TRAINING))
    rows: list[dict[str, object]] = []
    for names, group in phases.groupby(keys, sort=False, dropna=False):
        about = dict(zip(keys, names, strict=True))
        about["learning_rate"] = None if about["phase"] == TRAINING else about["learning_rate"]  # NaN is not itself
        of_group = _of_group(group, str(about["phase"]), measures, truths, confidence)
        rows += [about | row for row in of_group]
    return [*rows, *_over_experiments(rows, confidence)]


def _of_group(
    group: pd.DataFrame, phase: str, measures: Sequence[str], truths: Sequence[str], confidence: float
) -> Iterator[dict[str, object]]:
    seeds, seed_of = np.unique(group["seed"].to_numpy(np.int64), return_inverse=True)
    # In any order: `drift` has theirs.
    points, point_of = np.unique(group["revision"].to_numpy(str), return_inverse=True)
    if len(set(zip(seed_of.tolist(), point_of.tolist(), strict=True))) < len(group):
        name = f"{group['experiment'].iloc[0]}, dropout {group['dropout'].iloc[0]:g}"
        raise RequestError(f"{name}: a seed has two rows of one network of phase {phase!r}; give each network once")

    def by_seed(column: str) -> np.ndarray:
        """Values [seeds, points]."""
        values = np.full((len(seeds), len(points)), np.nan)
        values[seed_of, point_of] = group[column].to_numpy(np.float64, na_value=np.nan)
        return values

    known = [name for name in dict.fromkeys((*measures, *truths)) if name in group and group[name].notna().any()]
    values = {name: by_seed(name) for name in known}
    drift = by_seed(GIVEN[phase])
    for measure in (name for name in measures if name in values):
        for truth in (name for name in truths if name in values and name != measure):
            pairs = _pairs(values[measure], values[truth], drift)
            for given, matrix, reasons in (
                ("", pairs.plain, pairs.reasons),
                (GIVEN[phase], pairs.given, pairs.reasons_given),
            ):
                over_seeds = mean_over_seeds(np.diag(matrix), confidence)
                names = {_CONSTANT_MEASURE: measure, _CONSTANT_TRUTH: truth}
                yield {
                    "measure": measure, "truth": truth, "given": given, "experiments": 1,
                    "points": int(pairs.points.min()), "other_seeds": _of_others(matrix),
                    "message": joined_clauses(
                        _without_interval(over_seeds, "seed"), *_why(seeds.tolist(), reasons, names, GIVEN[phase])),
                } | _numbers(over_seeds)  # fmt: skip


def _numbers(over_seeds: SeedMean) -> dict[str, object]:
    """Number of seeds, mean and interval; a correlation is never beyond -1 and 1, and nor is its mean."""
    low, high = (float(np.clip(end, -1.0, 1.0)) for end in (over_seeds.low, over_seeds.high))
    return {
        "seeds": over_seeds.number, "correlation": over_seeds.mean, "low": low, "high": high, "p_value": over_seeds.p_value,
    }  # fmt: skip


def _of_others(matrix: np.ndarray) -> float:
    """Mean of the values that are not on the diagonal; NaN where there is none."""
    others = matrix[~np.eye(len(matrix), dtype=bool)]
    others = others[np.isfinite(others)]
    return float(others.mean()) if others.size else float("nan")


def _pairs(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> _Pairs:
    """As `_Pairs` says, of a measure x, a truth y and the drift z, float64 [seeds, points], over the points that a pair has."""
    seeds, x = len(x), np.where(np.isfinite(z), x, np.nan)
    if np.isfinite(x).all() and np.isfinite(y).all():
        plain, given = _complete(x, y, z)
    else:
        plain, given = np.full((seeds, seeds), np.nan), np.full((seeds, seeds), np.nan)
        for own in range(seeds):
            for other in range(seeds):
                both = np.isfinite(x[own]) & np.isfinite(y[other])
                found = _complete(*(series[None, both] for series in (x[own], y[other], z[own])))
                plain[own, other], given[own, other] = (float(matrix[0, 0]) for matrix in found)
    there = np.isfinite(x) & np.isfinite(y)
    reasons = [_reason(*(series[seed, there[seed]] for series in (x, y))) for seed in range(seeds)]
    reasons_given = [
        reason or (_reason_given(int(there[seed].sum()), given[seed, seed])) for seed, reason in enumerate(reasons)
    ]
    return _Pairs(plain, given, there.sum(axis=1), reasons, reasons_given)


def _complete(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(plain, given z) correlations [seeds of x, seeds of y] of series without gaps; a pair's z is that of the measure's seed."""
    points = x.shape[1]
    if points < FEWEST:
        return np.full((len(x), len(y)), np.nan), np.full((len(x), len(y)), np.nan)
    of_x, of_y, of_z = (mid_ranks(series) - (points + 1) / 2 for series in (x, y, z))
    plain, xz, zy = _correlated(of_x, of_y), np.diag(_correlated(of_x, of_z)), _correlated(of_z, of_y)
    if points < FEWEST_GIVEN:
        return plain, np.full(plain.shape, np.nan)
    given = [partial(plain[seed, None], xz[seed, None], zy[seed])[0] for seed in range(len(x))]
    return plain, np.array(given)


def _correlated(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return correlated(x @ y.T, (x * x).sum(axis=1), (y * y).sum(axis=1))


def _reason(x: np.ndarray, y: np.ndarray) -> str:
    if len(x) < FEWEST:
        return _FEW
    if np.ptp(x) == 0:
        return _CONSTANT_MEASURE
    return _CONSTANT_TRUTH if np.ptp(y) == 0 else ""


def _reason_given(points: int, value: float) -> str:
    if points < FEWEST_GIVEN:
        return _FEW
    return "" if np.isfinite(value) else _FOLLOWS


def _why(seeds: list[int], reasons: list[str], names: dict[str, str], given: str) -> Iterator[str]:
    """Why seeds have no value, a clause a reason."""
    for reason in dict.fromkeys(filter(None, reasons)):
        concerned = [str(seed) for seed, own in zip(seeds, reasons, strict=True) if own == reason]
        if reason == _FEW:
            said = "too few networks have both"
        elif reason == _FOLLOWS:
            said = f"the order of the {given.replace('_', ' ')} decides one of the two"
        else:
            said = f"{names[reason]} has one value in all networks"
        which = f"{'seed' if len(concerned) == 1 else 'seeds'} {listed(concerned)}"
        yield f"no value of {which}: {said}"


def _without_interval(over: SeedMean, noun: str) -> str:
    if over.has_interval or over.number == 0:
        return ""
    if over.number == 1:
        return f"one {noun}: no interval"
    return f"no interval: all {noun}s have the same value"


def _over_experiments(rows: list[dict[str, object]], confidence: float) -> Iterator[dict[str, object]]:
    """Rows of all experiments together, where there are several: each experiment is one repetition."""
    keys = ("suite", "dropout", "phase", "learning_rate", "measure", "truth", "given")
    groups: dict[tuple[object, ...], list[dict[str, object]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    for names, group in groups.items():
        if len(group) < 2:
            continue
        values, others = (np.array([row[name] for row in group], np.float64) for name in ("correlation", "other_seeds"))
        known = np.isfinite(values)
        over = mean_over_seeds(values, confidence)
        absent = [str(row["experiment"]) for row, has_value in zip(group, known, strict=True) if not has_value]
        counts = np.array([[row["seeds"], row["points"]] for row in group], np.int64)[known]
        yield dict(zip(keys, names, strict=True)) | _numbers(over) | {
            "experiment": EVERY_EXPERIMENT, "experiments": int(known.sum()), "seeds": int(counts[:, 0].sum()),
            "points": int(counts[:, 1].min()) if known.any() else 0,
            "other_seeds": mean_over_seeds(others[known], confidence).mean,
            "message": joined_clauses(
                _without_interval(over, "experiment"),
                f"no value of {of_number(len(absent), 'experiment')}: {listed(absent)}" if absent else ""),
        }  # fmt: skip
