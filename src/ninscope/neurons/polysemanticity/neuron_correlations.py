"""Which measures of neurons see how many features a neuron represents? Over the neurons of a layer, and over networks.

Two questions. Over the neurons of one layer: does a measure rank them as P does (Spearman)? Over the networks of one training:
does a measure of the whole network follow P of the whole network? The second is asked as `correlations.py` asks it, with the epoch
or the pruning ratio taken out.

A dead neuron has P = 0, and a measure that sees no more than that some neurons are dead would rank all neurons a little as P does.
So P stands beside P of live neurons, from which the dead are left out. By chance, where a measure's values are dealt to the
neurons of a layer in any order, Spearman's correlation has the mean 0 and exactly the variance 1 / (neurons - 1), ties or not: a
correlation of two fixed series, one of them permuted. Means of that over layers and seeds are near normal.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ninscope.correlating.ranks import correlated, mid_ranks
from ninscope.neurons.polysemanticity.correlations import EVERY_EXPERIMENT, correlations_of
from ninscope.neurons.polysemanticity.over_seeds import SeedMean, holm, mean_over_seeds
from ninscope.neurons.polysemanticity.slopes import CONFIDENCE
from ninscope.neurons.polysemanticity.table_names import ALL_LAYERS, NEURON_TRUTHS, RETRAINED, TRAINING
from ninscope.wording import joined_clauses, listed, of_number

FEWEST_NEURONS = 5  # of a correlation over neurons
OVER_NEURONS, OVER_NETWORKS = "neurons", "networks"
TRUTHS_OF_NETWORKS = ("P", "P_live", "P_samples")
SPEARMAN = {truth: f"spearman_{truth}" for truth in NEURON_TRUTHS}  # columns
COUNTED = {"P": "neurons", "P_live": "neurons_live", "P_samples": "neurons", "P_samples_live": "neurons_samples_live"}
"""By truth, the column of how many neurons a correlation is over."""
NUMBERS = (
    "value", "neurons", "neurons_live", "neurons_samples_live", *SPEARMAN.values(), *TRUTHS_OF_NETWORKS,
)  # fmt: skip
"""Numbers of the table `polysemanticity_neurons`, in its order."""
NEURON_CORRELATION_COLUMNS = {
    "experiment": "string", "dropout": "float64", "phase": "string", "learning_rate": "float64", "over": "string",
    "measure": "string", "truth": "string", "given": "string", "experiments": "Int64", "seeds": "Int64", "points": "Int64",
    "correlation": "float64", "low": "float64", "high": "float64", "p_value": "float64", "tests": "Int64",
    "p_adjusted": "float64", "other_seeds": "float64", "before": "float64", "by_chance": "float64", "message": "string",
}  # fmt: skip
_GROUP = ("suite", "experiment", "dropout", "phase", "learning_rate", "measure")
_FAMILY = ("suite", "experiment", "dropout", "phase", "learning_rate", "over", "truth", "given")
_NORMAL = 1.959963984540054  # quantile .975


@dataclass(frozen=True, eq=False)
class LayerNeurons:
    """Neurons of a hidden layer ("1" reads the inputs), or with layer "all" of all of them, layer by layer.

    P, P_samples: float64 [neurons], the degree of polysemanticity along single features (`Probe.responses`) and at held-out
    samples (`Probe.sizes_at_samples`); 0 where no feature moves the neuron. values: float64 [neurons] by name, what a measure says
    of each (NaN: nothing). numbers: what it says of the layer as one, by name; of what it says of each neuron, the mean.
    """

    layer: str
    P: np.ndarray
    P_samples: np.ndarray
    values: Mapping[str, np.ndarray]
    numbers: Mapping[str, float]


# --- over the neurons of a layer ---------------------------------------------------------------------------------------------
def neuron_rows(neurons: LayerNeurons) -> Iterator[tuple[str, dict[str, float], str]]:
    """(measure, numbers, message) of everything that is said of a layer: the rows of the table `polysemanticity_neurons`.

    numbers: by NUMBERS, those that exist. value: the measure's number of the layer. spearman_...: over the layer's neurons of
    which the measure and that P are known; not of all layers together, since layers differ in more than their neurons. P, P_live,
    P_samples: means over neurons.
    """
    truths = _truths(neurons)
    means = {name: _mean(truths[name]) for name in TRUTHS_OF_NETWORKS}
    for measure in dict.fromkeys((*neurons.numbers, *neurons.values)):
        found = means | {"value": float(neurons.numbers.get(measure, np.nan))}
        message = ""
        if neurons.layer != ALL_LAYERS:
            numbers, message = _of_neurons(neurons.values.get(measure), truths)
            found |= numbers
        yield measure, found, message


def _truths(neurons: LayerNeurons) -> dict[str, np.ndarray]:
    """float64 [neurons] by NEURON_TRUTHS; NaN of what is left out."""
    live, at_samples = (np.where(degree > 0, degree, np.nan) for degree in (neurons.P, neurons.P_samples))
    return {"P": neurons.P, "P_live": live, "P_samples": neurons.P_samples, "P_samples_live": at_samples}


def _of_neurons(values: np.ndarray | None, truths: Mapping[str, np.ndarray]) -> tuple[dict[str, float], str]:
    if values is None:
        return {}, "it is no measure of single neurons"
    numbers: dict[str, float] = {}
    for truth, degrees in truths.items():
        known = np.isfinite(values) & np.isfinite(degrees)
        numbers[COUNTED[truth]] = int(known.sum())
        numbers[SPEARMAN[truth]] = spearman(values[known], degrees[known])
    known = values[np.isfinite(values)]
    if len(known) < FEWEST_NEURONS:
        return numbers, f"{of_number(len(known), 'neuron has', 'neurons have')} a value, too few to be ranked"
    return numbers, "" if np.ptp(known) > 0 else "it has one value in all neurons"


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation, equal values sharing their rank; NaN of fewer than 5 points, or where a side has one value."""
    if len(x) < FEWEST_NEURONS:
        return float("nan")
    of_x, of_y = (mid_ranks(series[None, :]) - (len(x) + 1) / 2 for series in (x, y))
    return float(correlated(of_x @ of_y.T, (of_x * of_x).sum(axis=1), (of_y * of_y).sum(axis=1))[0, 0])


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


# --- over seeds --------------------------------------------------------------------------------------------------------------
def neuron_correlations(neurons: pd.DataFrame, confidence: float = CONFIDENCE) -> pd.DataFrame:
    """Which measures see P, over seeds. Columns: suite and those of NEURON_CORRELATION_COLUMNS.

    neurons: the table `polysemanticity_neurons`. A row an experiment, dropout, phase, learning rate of retraining (missing in
    training), measure, truth, and:

    over "neurons": correlation is the mean over a seed's layers of Spearman's correlation over the neurons of a layer, then over
    seeds. In training it is of the last epoch, and before is that of the untrained network; after pruning it is the mean over the
    retrained networks. by_chance: 95 % of what comes from values that are dealt to the neurons in any order lies within -+ this
    (of retrained networks a bound: their neurons are largely the same, so they count as one). points: neurons of the seed with
    the fewest.

    over "networks": as `polysemanticity_correlations`, of the measure's number of the whole network with P of the whole network,
    given "" or what both drift with.

    low, high: t interval over seeds; of the experiment "all" over experiments. p_adjusted: p_value by Holm over the measures of
    one experiment, phase, truth and question (tests of them).
    """
    known = neurons[neurons["status"] == "ok"]
    rows = [*_over_neurons(known, confidence), *_over_networks(known, confidence)]
    frame = pd.DataFrame(rows, columns=["suite", *NEURON_CORRELATION_COLUMNS])
    frame = frame.astype({"suite": "string", **NEURON_CORRELATION_COLUMNS})
    for _, family in frame.groupby(list(_FAMILY), sort=False, dropna=False):
        p_values = family["p_value"].to_numpy(np.float64)
        frame.loc[family.index, "p_adjusted"] = holm(p_values)
        frame.loc[family.index, "tests"] = int(np.isfinite(p_values).sum())
    return frame


def _over_neurons(neurons: pd.DataFrame, confidence: float) -> list[dict[str, object]]:
    layers = neurons[(neurons["layer"] != ALL_LAYERS) & neurons["phase"].isin([TRAINING, RETRAINED])]
    layers = layers.assign(learning_rate=layers["learning_rate"].where(layers["phase"] == RETRAINED))
    rows: list[dict[str, object]] = []
    for names, group in layers.groupby(list(_GROUP), sort=False, dropna=False):
        about = dict(zip(_GROUP, names, strict=True))
        about["learning_rate"] = None if about["phase"] == TRAINING else about["learning_rate"]
        for truth in NEURON_TRUTHS:
            if group[SPEARMAN[truth]].notna().any():
                rows.append(about | {"truth": truth} | _of_seeds(group, truth, confidence))
    return [*rows, *_over_experiments(rows, confidence)]


def _of_seeds(group: pd.DataFrame, truth: str, confidence: float) -> dict[str, object]:
    """One row of one experiment. group: layers of one measure, of one phase."""
    in_training = group["phase"].iloc[0] == TRAINING
    last = group["epoch"] == group.groupby("seed")["epoch"].transform("max") if in_training else group["epoch"].isna()
    now, before = _by_seed(group[last], truth), _by_seed(group[group["epoch"] == 0], truth)
    over = mean_over_seeds(now["correlation"].to_numpy(np.float64), confidence)
    known = now[now["correlation"].notna()]
    absent = sorted(set(group["seed"]) - set(known.index))
    spread = float(np.sqrt(known["variance"].sum())) / len(known) if len(known) else float("nan")
    return _numbers(over) | {
        "over": OVER_NEURONS, "given": "", "experiments": 1, "by_chance": _NORMAL * spread,
        "points": int(known["neurons"].min()) if len(known) else 0,
        "before": mean_over_seeds(before["correlation"].to_numpy(np.float64)).mean,
        "message": joined_clauses(
            _without_interval(over, "seed"),
            f"no value of {'seed' if len(absent) == 1 else 'seeds'} {listed([str(seed) for seed in absent])}" if absent else ""),
    }  # fmt: skip


def _by_seed(layers: pd.DataFrame, truth: str) -> pd.DataFrame:
    """By seed: correlation, the mean over networks of the mean over layers; variance of that by chance; neurons of a network."""
    values = layers.assign(
        correlation=layers[SPEARMAN[truth]].astype("float64"), neurons=layers[COUNTED[truth]].astype("float64")
    )
    values = values[values["correlation"].notna()]
    values = values.assign(variance=1 / (values["neurons"] - 1))
    networks = values.groupby(["seed", "revision"], sort=True).agg(
        correlation=("correlation", "mean"),
        variance=("variance", "sum"),
        layers=("variance", "size"),
        neurons=("neurons", "sum"),
    )
    networks = networks.assign(variance=networks["variance"] / networks["layers"] ** 2)
    return networks.groupby("seed", sort=True).agg(
        correlation=("correlation", "mean"), variance=("variance", "mean"), neurons=("neurons", "min")
    )


def _numbers(over: SeedMean) -> dict[str, object]:
    low, high = (float(np.clip(end, -1.0, 1.0)) for end in (over.low, over.high))
    return {"seeds": over.number, "correlation": over.mean, "low": low, "high": high, "p_value": over.p_value}


def _without_interval(over: SeedMean, noun: str) -> str:
    if over.has_interval or over.number == 0:
        return ""
    return f"one {noun}: no interval" if over.number == 1 else f"no interval: all {noun}s have the same value"


def _over_experiments(rows: Sequence[dict[str, object]], confidence: float) -> Iterator[dict[str, object]]:
    """The mean of the experiments' means, where there are several: each experiment is one repetition."""
    keys = ("suite", "dropout", "phase", "learning_rate", "measure", "truth", "over", "given")
    groups: dict[tuple[object, ...], list[dict[str, object]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    for names, group in groups.items():
        if len(group) < 2:
            continue
        values, before, chance = (
            np.array([row[name] for row in group], np.float64) for name in ("correlation", "before", "by_chance")
        )
        known = np.isfinite(values)
        over = mean_over_seeds(values, confidence)
        absent = int((~known).sum())
        yield dict(zip(keys, names, strict=True)) | _numbers(over) | {
            "experiment": EVERY_EXPERIMENT, "experiments": int(known.sum()),
            "seeds": int(np.array([row["seeds"] for row in group], np.int64).sum()),
            "points": int(np.array([row["points"] for row in group], np.int64)[known].min()) if known.any() else 0,
            "before": mean_over_seeds(before).mean,
            "by_chance": float(np.sqrt(np.square(chance[known]).sum())) / known.sum() if known.any() else float("nan"),
            "message": joined_clauses(
                _without_interval(over, "experiment"),
                f"no value of {of_number(absent, 'experiment')}" if absent else ""),
        }  # fmt: skip


# --- over networks -----------------------------------------------------------------------------------------------------------
def _over_networks(neurons: pd.DataFrame, confidence: float) -> Iterator[dict[str, object]]:
    whole = neurons[neurons["layer"] == ALL_LAYERS]
    keys = [
        "suite", "experiment", "dropout", "seed", "phase", "learning_rate", "revision", "layer", "epoch", "pruning_ratio",
        *TRUTHS_OF_NETWORKS,
    ]  # fmt: skip
    if whole.empty:
        return
    # The table holds a network's truths once a measure; the first row of each network has them.
    order = whole.groupby(["suite", "model", "revision"], sort=False).ngroup()
    wide = whole.assign(network=order)
    networks = wide.drop_duplicates("network").set_index("network")[keys]
    values = wide.pivot(index="network", columns="measure", values="value")
    measures = list(dict.fromkeys(whole["measure"]))
    for row in correlations_of(networks.join(values[measures]), measures, TRUTHS_OF_NETWORKS, confidence):
        yield row | {"over": OVER_NETWORKS}
