"""In which order results that came with a model are drawn and listed, so that what is left out for want of room tells least."""

import numpy as np
import pandas as pd

# How a figure's reader is told.
ORDER = (
    "Accuracies come first, losses and perplexities last; of one kind, the result that changes most over training, in units of "
    "its standard error."
)
_ACCURACIES = ("acc", "exact_match", "em", "f1", "mcc", "matthews", "mc1", "mc2", "pass@")  # a name's beginning
_LOSSES = ("loss", "perplexity", "ppl", "nll", "bits_per", "likelihood", "logprob", "entropy")  # anywhere in it
_TASKS = ("held_out", "eval", "train")  # whose losses come in this order
_PAIR = ["task", "metric"]
_MODEL = ("run", "suite", "model")


def results_in_order(benchmarks: pd.DataFrame) -> list[tuple[str, str]]:
    """Every (task, metric) of rows of the table `benchmarks`, of one model or of several.

    Accuracies (acc, acc_norm, exact_match, f1 and the like) come first, then other metrics, then losses, perplexities and
    likelihoods, of which losses of held-out, evaluation and training data, in this order, come before others. Within a kind
    those that have standard errors come first, by range over training in units of the median standard error; then the others,
    by range relative to the largest magnitude. Where there are several models, the largest counts. What is equal goes by name.
    """
    pairs = benchmarks[_PAIR].dropna().drop_duplicates()
    known = benchmarks.dropna(subset=["step", "value", *_PAIR])
    grouped = known.assign(size=known["value"].abs(), stderr=_errors(known)).groupby(
        [*(name for name in _MODEL if name in known), *_PAIR], sort=False, dropna=False
    )
    changes = grouped.agg(
        low=("value", "min"), high=("value", "max"), size=("size", "max"), stderr=("stderr", "median")
    )
    spread = (changes["high"] - changes["low"]).astype("float64")
    in_errors = (spread / changes["stderr"]).groupby(level=_PAIR).max()
    relative = (spread / changes["size"].where(changes["size"] > 0)).groupby(level=_PAIR).max()

    def place(pair: tuple[str, str]) -> tuple[int, int, bool, float, tuple[str, str]]:
        in_units, part = (float(numbers.get(pair, np.nan)) for numbers in (in_errors, relative))
        has_error = bool(np.isfinite(in_units))
        change = in_units if has_error else float(np.nan_to_num(part))
        return _kind(pair[1]), _loss_of(*pair), not has_error, -change, pair

    return sorted(pairs.itertuples(index=False, name=None), key=place)


def _errors(known: pd.DataFrame) -> pd.Series:
    """Standard errors above 0, float64; missing where none is known."""
    errors = known["stderr"] if "stderr" in known else pd.Series(np.nan, known.index)
    numbers = errors.astype("float64")
    return numbers.where(numbers > 0)


def _kind(metric: str) -> int:
    """0: an accuracy. 1: neither. 2: a loss, a perplexity or a likelihood."""
    name = metric.lower()
    if any(word in name for word in _LOSSES):
        return 2
    return 0 if name.startswith(_ACCURACIES) else 1


def _loss_of(task: str, metric: str) -> int:
    return _TASKS.index(task) if metric == "loss" and task in _TASKS else len(_TASKS)
