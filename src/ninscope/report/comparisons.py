"""Fine-tunes compared: every method against the same fine-tune without MEmeL, by a paired test over seeds."""

import math

import numpy as np
import pandas as pd

from ninscope.neurons.finetuning.recipe import NONE

LOWER_IS_BETTER = ("loss", "perplexity", "b_mae", "b_mse")
_ROUNDING = 1e-9  # of differences between scores that are equal
_OF_TASK = ["suite", "model", "revision", "task"]
COLUMNS = (
    "suite", "model", "revision", "step", "task", "metric", "method", "learning_rate", "finetune_step", "seeds", "mean", "std",
    "difference", "p_value", "phi_p99", "emergence_from_base",
)  # fmt: skip


def comparisons(finetunes: pd.DataFrame) -> pd.DataFrame:
    """One row a checkpoint, task, metric and method, at the end of the fine-tunes.

    finetunes: the table of that name. Each method has the learning rate that its seeds' mean of the task's main metric (the first
    that the method has at the end: a correlation may be undefined there) is best with, of those at which most seeds came to their
    end; where there are several, they are chosen on the very examples that are reported (MEmeL, appendix F.1, chooses on the
    development set and reports the test set).
    mean, std (n-1): over seeds. difference: the mean of (method - none) over the seeds that both have; p_value: two-sided, of a
    paired t-test over these (NaN of fewer than two, or where all differences are equal), not corrected for their number.
    phi_p99, emergence_from_base: means over seeds.
    """
    rows = []
    ended = finetunes[finetunes["finetune_step"].notna()]
    for keys, scores in ended.groupby(_OF_TASK, sort=False):
        metrics = list(scores["metric"].unique())  # the main one first
        at_the_end = scores["finetune_step"] == scores["finetune_step"].max()  # even where a score is undefined there
        last = scores[at_the_end & scores["value"].notna()]
        chosen = {method: _best_rate(part, metrics) for method, part in last.groupby("method", sort=False)}
        for metric in metrics:
            values = last[last["metric"] == metric]
            without = _by_seed(values, NONE, chosen)
            measured = set(zip(values["method"], values["learning_rate"], strict=True))
            for method in (name for name, rate in chosen.items() if (name, rate) in measured):
                rows.append(dict(zip(_OF_TASK, keys, strict=True)) | _row(values, metric, method, chosen, without))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(values: pd.DataFrame, metric: str, method: str, chosen: dict[str, float], without: pd.Series) -> dict:
    part = values[(values["method"] == method) & (values["learning_rate"] == chosen[method])]
    ours = _by_seed(values, method, chosen)
    both = ours.index.intersection(without.index)
    off = (ours[both] - without[both]).to_numpy(float) if method != NONE else np.empty(0)
    return {
        "step": part["step"].iloc[0],
        "metric": metric,
        "method": method,
        "learning_rate": chosen[method],
        "finetune_step": part["finetune_step"].iloc[0],
        "seeds": len(ours),
        "mean": float(ours.mean()),
        "std": float(ours.std(ddof=1)) if len(ours) > 1 else math.nan,
        "difference": float(off.mean()) if off.size else math.nan,
        "p_value": paired_p_value(off),
        "phi_p99": float(part["phi_p99"].mean()),
        "emergence_from_base": float(part["emergence_from_base"].mean()),
    }


def paired_p_value(differences: np.ndarray) -> float:
    """Of a two-sided paired t-test that their mean is 0; NaN of fewer than two, or where they do not vary (rounding aside)."""
    from scipy import stats  # takes most of a second to import

    if differences.size < 2 or not np.ptp(differences) > _ROUNDING * np.abs(differences).max():
        return math.nan
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def _best_rate(scores: pd.DataFrame, metrics: list[str]) -> float:
    main = next(metric for metric in metrics if metric in set(scores["metric"]))
    values_by_rate = scores[scores["metric"] == main].groupby("learning_rate")["value"]
    ended = values_by_rate.count()  # the mean over seeds that did not diverge says nothing of those that did
    means = values_by_rate.mean()[ended == ended.max()]
    best = means.argmin() if main in LOWER_IS_BETTER else means.argmax()
    return float(means.index.to_numpy(float)[best])


def _by_seed(values: pd.DataFrame, method: str, chosen: dict[str, float]) -> pd.Series:
    if method not in chosen:
        return pd.Series(dtype=float)
    part = values[(values["method"] == method) & (values["learning_rate"] == chosen[method])]
    return part.set_index("seed")["value"].astype(float)
