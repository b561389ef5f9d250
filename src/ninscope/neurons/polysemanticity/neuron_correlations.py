"""Which measures of neurons see how many features a neuron represents? Over the neurons of a layer, and over networks.

Two questions. Over the neurons of one layer: does a measure rank them as P does (Spearman)? Over the networks of one training:
does a measure of the whole network follow P of the whole network? The second is asked as `correlations.py` asks it, with the epoch
or the pruning ratio taken out.

A dead neuron has P = 0, and a measure that sees no more than that some neurons are dead would rank all neurons a little as P does.
So P stands beside P of live neurons, from which the dead are left out. By chance, where a measure's values are dealt to the
neurons of a layer in any order, Spearman's correlation has the mean 0 and exactly the variance 1 / (neurons - 1), ties or not: a
correlation of two fixed series, one of them permuted. Means of that over layers and seeds are near normal.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
_TRAINING = ("suite", "experiment", "dropout", "seed")
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
def polysemanticity_neuron_correlations(neurons: pd.DataFrame, confidence: float = CONFIDENCE) -> pd.DataFrame:
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
    # A rate of training is none of retraining; NaN would be no key, as it is not itself.
    layers = layers.assign(learning_rate=layers["learning_rate"].where(layers["phase"] == RETRAINED, -1.0))
    every: dict[tuple[object, ...], set[int]] = {}
    for *names, seed in layers[[*_GROUP, "seed"]].drop_duplicates().itertuples(index=False, name=None):
        every.setdefault(tuple(names), set()).add(seed)
    networks = _of_networks(layers)
    epochs, last = networks["epoch"], networks.groupby([*_TRAINING, "phase"], dropna=False)["epoch"].transform("max")
    now = _of_seeds(networks[(epochs == last) | epochs.isna()])
    before = _of_seeds(networks[epochs == 0])
    known = set(networks[[*_GROUP, "truth"]].drop_duplicates().itertuples(index=False, name=None))
    rows = []
    for key in ((*names, truth) for names in every for truth in NEURON_TRUTHS if (*names, truth) in known):
        row = dict(zip((*_GROUP, "truth"), key, strict=True))
        row |= _over_seeds(now.get(key, {}), before.get(key, {}), every[key[:-1]], confidence)
        rows.append(row | {"learning_rate": None if row["phase"] == TRAINING else row["learning_rate"]})
    return [*rows, *_over_experiments(rows, confidence)]


def _of_networks(layers: pd.DataFrame) -> pd.DataFrame:
    """A row a network, measure and truth. correlation: mean over layers. variance: of that by chance. neurons: of all layers."""
    keys = [*_GROUP, "seed", "revision"]
    long = pd.concat(
        layers[[*keys, "epoch"]].assign(
            truth=truth,
            correlation=layers[SPEARMAN[truth]].astype("float64"),
            neurons=layers[COUNTED[truth]].astype("float64"),
        )
        for truth in NEURON_TRUTHS
    )
    long = long[long["correlation"].notna()]
    long = long.assign(variance=1 / (long["neurons"] - 1), epoch=long["epoch"].astype("float64"))
    networks = long.groupby([*keys, "truth"], sort=False, dropna=False).agg(
        correlation=("correlation", "mean"),
        variance=("variance", "sum"),
        layers=("variance", "size"),
        neurons=("neurons", "sum"),
        epoch=("epoch", "first"),
    )
    return networks.assign(variance=networks["variance"] / networks["layers"] ** 2).reset_index()


class _OfSeed(NamedTuple):
    """Means over the networks of a seed; a variance is no smaller for several networks. neurons: of the smallest network."""

    correlation: float
    variance: float
    neurons: float


def _of_seeds(networks: pd.DataFrame) -> dict[tuple[object, ...], dict[int, _OfSeed]]:
    """By group and truth, then seed in rising order."""
    seeds = networks.groupby([*_GROUP, "truth", "seed"], sort=True, dropna=False).agg(
        correlation=("correlation", "mean"), variance=("variance", "mean"), neurons=("neurons", "min")
    )
    found: dict[tuple[object, ...], dict[int, _OfSeed]] = {}
    for (*names, seed), *numbers in seeds.itertuples(name=None):
        found.setdefault(tuple(names), {})[seed] = _OfSeed(*numbers)
    return found


def _over_seeds(
    now: Mapping[int, _OfSeed], before: Mapping[int, _OfSeed], seeds: set[int], confidence: float
) -> dict[str, object]:
    """seeds: all that the experiment has."""
    over = mean_over_seeds(np.array([one.correlation for one in now.values()]), confidence)
    absent = [str(seed) for seed in sorted(seeds - set(now))]
    spread = math.sqrt(sum(one.variance for one in now.values())) / len(now) if now else math.nan
    return _numbers(over) | {
        "over": OVER_NEURONS, "given": "", "experiments": 1, "by_chance": _NORMAL * spread,
        "points": int(min((one.neurons for one in now.values()), default=0)),
        "before": mean_over_seeds(np.array([one.correlation for one in before.values()])).mean,
        "message": joined_clauses(
            _without_interval(over, "seed"),
            f"no value of {'seed' if len(absent) == 1 else 'seeds'} {listed(absent)}" if absent else ""),
    }  # fmt: skip


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
