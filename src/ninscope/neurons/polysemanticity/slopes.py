"""Does pruning change polysemanticity? The slope of P on the pruning ratio, with an interval over seeds (thesis, section 4.3).

A seed is a repetition of the whole experiment, from its data on, so each gives one slope, and the verdict rests on how these
vary. The networks of one seed are no repetitions: they share their data and their baseline.

A slope is by least squares over the retrained networks and the unpruned baseline. It is linear in P, so that the mean of the
seeds' slopes is the slope of their mean curve, and needs no normal residuals, since the interval is over seeds. Theil-Sen, the
median of the slopes between pairs of points, was rejected: it leaves aside the few networks that differ most, and P after the
largest ratios is what is asked about, not an error of measurement.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ninscope.neurons.polysemanticity.over_seeds import SeedMean, holm, mean_over_seeds
from ninscope.neurons.polysemanticity.table_names import ALL_LAYERS, DEGREES, RETRAINED, TRAINING
from ninscope.wording import joined_clauses, listed, of_number

CONFIDENCE = 0.95
FALLS, RISES, NOT_TOLD_APART = "falls", "rises", "not told apart"
BY_BASELINE = "the retrained networks alone do not show it: retraining itself may move P"
VERDICTS = (FALLS, RISES, NOT_TOLD_APART)
SLOPE_COLUMNS = {
    "experiment": "string", "dropout": "float64", "learning_rate": "float64", "degree": "string", "seeds": "Int64",
    "baseline": "float64", "slope": "float64", "low": "float64", "high": "float64", "own_low": "float64",
    "own_high": "float64", "retrained_slope": "float64", "retrained_low": "float64", "retrained_high": "float64",
    "p_value": "float64", "tests": "Int64", "p_adjusted": "float64", "relative_slope": "float64", "change": "float64",
    "largest_ratio": "float64", "verdict": "string", "message": "string",
}  # fmt: skip
SEED_COLUMNS = (
    "suite", "experiment", "dropout", "learning_rate", "seed", "networks", "missing", "dead", "baseline", "slope",
    "retrained_slope", "relative_slope", "change", "largest_ratio", "message",
)  # fmt: skip
TRAINING_KEYS = ("suite", "experiment", "dropout", "seed")
_GROUP = ["suite", "experiment", "dropout", "learning_rate"]


def of_degree(slopes: pd.DataFrame, degree: str = "P") -> pd.DataFrame:
    """The rows of the table `polysemanticity_slopes` of one of DEGREES; those of an older table are of P."""
    degrees = slopes["degree"].fillna("P") if "degree" in slopes else pd.Series("P", slopes.index)
    return slopes[degrees == degree]


def verdicts_in_words(slopes: pd.DataFrame, degree: str = "P") -> list[str]:
    """The verdicts on one of DEGREES, a sentence for each learning rate of retraining, the smallest rate first.

    slopes: rows of the table `polysemanticity_slopes`; those without a slope are left out. A column `name` says what a row is
    called; without it that is the experiment, and the dropout. As in
    "Retrained at 0.001: P falls in N1 and N2, dropout 0.5; 4 slopes are not told apart from 0."
    """
    known = of_degree(slopes, degree)
    known = known[known["slope"].notna()]
    if "name" not in known:
        known = known.assign(name=[_named(*pair) for pair in zip(known["experiment"], known["dropout"], strict=True)])
    of_rates = known.groupby("learning_rate")
    return [f"Retrained at {rate:g}: {_verdicts_said(rows, DEGREES[degree])}." for rate, rows in of_rates]


def _named(experiment: str, dropout: float) -> str:
    return f"{experiment}, dropout {dropout:g}" if dropout > 0 else experiment


def _verdicts_said(rows: pd.DataFrame, degree: str) -> str:
    """Verdicts that rest on the unpruned network alone have a star, which is explained once."""
    starred = rows["message"].fillna("").str.contains(BY_BASELINE, regex=False) & (rows["verdict"] != NOT_TOLD_APART)
    names = rows["name"] + starred.map({True: "*", False: ""})
    clauses = [
        f"{degree} {verdict} in {listed(names[rows['verdict'] == verdict].tolist())}"
        for verdict in (FALLS, RISES)
        if (rows["verdict"] == verdict).any()
    ]
    others = int((rows["verdict"] == NOT_TOLD_APART).sum())
    said = f"{of_number(others, 'slope is', 'slopes are')} not told apart from 0"
    note = f" (* {BY_BASELINE})" if starred.any() else ""
    return "; ".join([*clauses, *([said] if others else [])]) + note


def least_squares_slope(x: np.ndarray, y: np.ndarray) -> float:
    """Slope of y on x by least squares; NaN where x has one value. x, y: float64 [points], at least one."""
    away = x - x.mean()
    squares = float((away * away).sum())
    return float((away * (y - y.mean())).sum()) / squares if squares > 0 else float("nan")


def seed_slopes(polysemanticity: pd.DataFrame, degree: str = "P") -> pd.DataFrame:
    """The slope of P on the true pruning ratio of every seed: a row an experiment, dropout, learning rate of retraining and seed.

    polysemanticity: the table of that name. degree: which of its columns DEGREES is taken for P. networks: how many retrained
    networks have a P and enter beside the baseline; missing: how many have none; dead: how many of those that enter have no neuron
    that responds. baseline: P before pruning. slope: change of P per 1 of the pruning ratio; retrained_slope: the same without
    the baseline, which alone was not retrained; relative_slope: the slope as a share of the baseline's P. change: P at the largest
    ratio over the baseline's, less 1; largest_ratio: that ratio. message: why there is no slope.
    """
    whole = polysemanticity[polysemanticity["layer"] == ALL_LAYERS]
    whole = whole.assign(P=whole[degree])
    baselines = _baselines(whole)
    retrained = whole[(whole["phase"] == RETRAINED) & whole["learning_rate"].notna()]  # a failed job has no rate
    rows = []
    for names, group in retrained.groupby(_GROUP, sort=False, dropna=False):
        keys = dict(zip(_GROUP, names, strict=True))
        of_training = tuple(names[:3])
        for seed in sorted(own[-1] for own in baselines if own[:3] == of_training):
            baseline = baselines[*of_training, seed]
            rows.append(keys | {"seed": seed} | _of_seed(group[group["seed"] == seed], baseline))
    return pd.DataFrame(rows, columns=list(SEED_COLUMNS))


def unpruned_networks(polysemanticity: pd.DataFrame, keys: Sequence[str] = TRAINING_KEYS) -> pd.DataFrame:
    """Rows of the networks that are pruned: of every training that of its last epoch, whether it has a P or not.

    keys: columns that tell trainings apart.
    """
    training = polysemanticity[(polysemanticity["phase"] == TRAINING) & polysemanticity["epoch"].notna()]
    return training[training["epoch"] == training.groupby(list(keys))["epoch"].transform("max")]


def _baselines(whole: pd.DataFrame) -> dict[tuple[Any, ...], float]:
    """P of the unpruned networks by TRAINING_KEYS, NaN where there is none; every seed of the table is there."""
    keys = list(TRAINING_KEYS)
    every = {tuple(row): float("nan") for row in whole[keys].itertuples(index=False, name=None)}
    of_rows = unpruned_networks(whole)[[*keys, "P"]].itertuples(index=False, name=None)
    return every | {tuple(row[:-1]): float(row[-1]) for row in of_rows}


def _of_seed(group: pd.DataFrame, baseline: float) -> dict[str, object]:
    known = group[group["P"].notna() & group["pruning_ratio"].notna()].sort_values("pruning_ratio", kind="stable")
    counts = {
        "networks": len(known), "missing": len(group) - len(known),
        "dead": int((known["P"] == 0).sum()), "baseline": baseline,
    }  # fmt: skip
    if group.empty:
        return counts | {"message": "it was not retrained"}
    if not np.isfinite(baseline):
        return counts | {"message": "its baseline has no P"}
    if known.empty:
        return counts | {"message": "no retrained network has a P"}
    ratios, values = known["pruning_ratio"].to_numpy(np.float64), known["P"].to_numpy(np.float64)
    slope = least_squares_slope(np.append(0.0, ratios), np.append(baseline, values))
    if not np.isfinite(slope):
        return counts | {"message": "no network has lost a parameter"}
    found = counts | {
        "slope": slope,
        "retrained_slope": least_squares_slope(ratios, values),
        "largest_ratio": float(ratios[-1]),
        "message": "",
    }
    if baseline > 0:
        found |= {"relative_slope": slope / baseline, "change": float(values[-1]) / baseline - 1}
    return found


def polysemanticity_slopes(polysemanticity: pd.DataFrame, confidence: float = CONFIDENCE) -> pd.DataFrame:
    """The verdict: a row an experiment, dropout, learning rate of retraining and degree. Columns: suite and SLOPE_COLUMNS.

    polysemanticity: the table of that name; each of DEGREES that it has is taken for P in turn. slope: mean over seeds of
    `seed_slopes`, as are baseline, relative_slope, change and largest_ratio. own_low, own_high: its t interval taken alone.
    retrained_slope, with its own t interval: without the baseline. Retraining alone may move P, which would look like an effect of
    pruning; message says where the verdict hangs on it.

    The experiments and dropouts of one learning rate and degree are one family of tests (twelve in the thesis): low and high hold
    all of its slopes together with this confidence (Bonferroni), and p_adjusted is the p-value by Holm. verdict: "falls" or
    "rises" where p_adjusted is below 1 - confidence, else "not told apart". Holm's test finds at least as much as the interval, so
    a verdict may stand beside an interval that reaches 0; message says so.
    """
    rows = [
        row | {"degree": degree}
        for degree in DEGREES
        if degree in polysemanticity
        for _, family in seed_slopes(polysemanticity, degree).groupby(
            ["suite", "learning_rate"], sort=False, dropna=False
        )
        for row in _family(family, confidence)
    ]
    return pd.DataFrame(rows, columns=["suite", *SLOPE_COLUMNS]).astype({"suite": "string", **SLOPE_COLUMNS})


def _family(by_seed: pd.DataFrame, confidence: float) -> Iterator[dict[str, object]]:
    groups = list(by_seed.groupby(_GROUP, sort=False, dropna=False))
    alone = [mean_over_seeds(group["slope"].to_numpy(np.float64), confidence) for _, group in groups]
    tests = sum(own.has_interval for own in alone)
    adjusted = holm(np.array([own.p_value for own in alone]))
    for (names, group), own, p_adjusted in zip(groups, alone, adjusted.tolist(), strict=True):
        together = mean_over_seeds(group["slope"].to_numpy(np.float64), confidence, max(tests, 1))
        retrained = mean_over_seeds(group["retrained_slope"].to_numpy(np.float64), confidence)
        told = p_adjusted < 1 - confidence
        row = dict(zip(_GROUP, names, strict=True)) | {
            "seeds": own.number, "slope": own.mean, "low": together.low, "high": together.high,
            "own_low": own.low, "own_high": own.high, "retrained_slope": retrained.mean,
            "retrained_low": retrained.low, "retrained_high": retrained.high, "p_value": own.p_value,
            "tests": tests if own.has_interval else None, "p_adjusted": p_adjusted,
            "verdict": (FALLS if own.mean < 0 else RISES) if told else NOT_TOLD_APART,
            "message": _message(group, own, told and together.low <= 0 <= together.high,
                                told and not retrained.low * own.mean > 0 < retrained.high * own.mean),
        }  # fmt: skip
        measured = group[group["slope"].notna()]
        means = {name: measured[name].astype("float64").mean() for name in
                 ("baseline", "relative_slope", "change", "largest_ratio")}  # fmt: skip
        yield row | means


def _message(group: pd.DataFrame, own: SeedMean, reaches_zero: bool, by_baseline: bool) -> str:
    """What a reader has to know of one row. by_baseline: without the baseline there is no such verdict."""
    told = group.loc[group["message"] != "", ["seed", "message"]].to_numpy().tolist()
    left_out = [f"seed {seed} is left out: {message}" for seed, message in told]
    missing, dead = int(group["missing"].sum()), int(group["dead"].sum())
    return joined_clauses(
        _without_interval(own),
        "by Holm's test, which finds more than the interval, that reaches 0" if reaches_zero else "",
        BY_BASELINE if by_baseline else "",
        *left_out,
        f"{of_number(missing, 'retrained network has', 'retrained networks have')} no P" if missing else "",
        f"{of_number(dead, 'retrained network is', 'retrained networks are')} dead: P is 0" if dead else "",
    )


def _without_interval(own: SeedMean) -> str:
    if own.has_interval:
        return ""
    said = {0: "no seed has a slope", 1: "one seed: no interval over seeds"}
    return said.get(own.number, "no interval: all seeds have the same slope")
