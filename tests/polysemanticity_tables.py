"""Tables `polysemanticity` whose slopes and correlations are known, as a run of the laboratory fills them."""

import math

import numpy as np
import pandas as pd

RATIOS = tuple(round(0.05 * number, 2) for number in range(1, 13))
RATES = (0.001, 0.01)
TEXTS = ("suite", "model", "revision", "experiment", "phase", "layer", "status", "message")
INTEGERS = ("step", "seed", "epoch", "neurons", "dead")
NUMBERS = (
    "dropout", "learning_rate", "neuron_ratio", "pruning_ratio", "P", "entropy", "monosemanticity", "D", "loss", "train_loss",
    "alpha0", "width", "emergence", "emergence_growth", "emergence_fixed", "alpha0_unit", "width_unit", "structure", "phi_mean",
    "phi_p99",
)  # fmt: skip
LAYERS = {"1": 128, "2": 32}


def true_ratio(ratio: float) -> float:
    """Share of the parameters that so large a share of the neurons takes with it, about."""
    return 1 - (1 - ratio) ** 2


def lost(slope: float, noise: np.random.Generator | None = None):
    """P as a share of the baseline's, by the true ratio: a straight line, with noise if asked for."""
    return lambda ratio: 1 + slope * ratio + (0.0 if noise is None else 0.03 * noise.normal())


def rows_of_training(
    experiment: str, dropout: float, seed: int, baseline=20.0, slope=0.0, epochs=8, noise=None, **columns
):
    """Rows of one seed: P falls to the baseline while it trains, and then by `slope` times the true ratio, of both rates alike.

    phi_p99 is 2 P, loss falls with every epoch, width is constant and alpha0 is 1 / P. noise: a generator, which adds noise to P
    and phi. columns: values that all rows get.
    """
    keys = {"experiment": experiment, "dropout": dropout, "seed": seed, "message": "", "status": "ok"} | columns
    keys = {"suite": "polysemanticity", "model": f"{experiment}{'-dropout' if dropout else ''}-seed{seed}"} | keys
    rows = []

    def add(p: float, loss: float, **own):
        shown = 0.0 if noise is None else float(noise.normal())
        measures = {"D": 0.9 + 0.02 * math.sin(p), "loss": loss, "train_loss": 0.9 * loss, "entropy": 0.5 + p / 100}
        measures |= {
            "phi_p99": 2 * p + shown,
            "phi_mean": 1.0,
            "alpha0": 1 / p if p else None,
            "width": 3.0,
            "emergence": -p,
        }
        rows.append(keys | own | measures | {"layer": "all", "P": p, "neurons": sum(LAYERS.values()), "dead": 0})
        for number, (layer, neurons) in enumerate(LAYERS.items()):
            rows.append(keys | own | {"layer": layer, "P": p * (1.1 - 0.3 * number), "neurons": neurons, "dead": 0})

    for epoch in range(epochs + 1):
        p = baseline * (1 + 0.4 * math.exp(-3 * epoch / epochs) - 0.4 * math.exp(-3))
        p += 0.0 if noise is None else 0.02 * baseline * float(noise.normal())
        p = baseline if epoch == epochs else p
        add(p, 1 / (1 + epoch), phase="training", epoch=epoch, step=epoch, pruning_ratio=0.0, neuron_ratio=0.0,
            learning_rate=0.001, revision=f"epoch{epoch}")  # fmt: skip
    share = lost(slope, noise)
    for ratio in RATIOS:
        own = {"neuron_ratio": ratio + seed / 1000, "pruning_ratio": true_ratio(ratio)}  # seeds lose other neurons
        add(
            baseline * (1 + 0.2 * true_ratio(ratio)),
            1 + 9 * ratio,
            phase="pruned",
            revision=f"pruned-{ratio:.2f}",
            **own,
        )
        for rate in RATES:
            add(baseline * share(true_ratio(ratio)), 0.2 + ratio, phase="retrained", learning_rate=rate,
                revision=f"retrained-{ratio:.2f}-rate-{rate}", **own)  # fmt: skip
    return rows


def table(rows) -> pd.DataFrame:
    """Rows with the types of the table."""
    columns = [*TEXTS, *INTEGERS, *NUMBERS]
    types = dict.fromkeys(TEXTS, "string") | dict.fromkeys(INTEGERS, "Int64") | dict.fromkeys(NUMBERS, "float64")
    return pd.DataFrame(rows, columns=columns).astype(types)


def laboratory(experiments=("L1", "N1"), seeds=3, slopes=(-0.2, 0.1), noise=None, **columns) -> pd.DataFrame:
    """Experiments without and with dropout, which fall and rise by these slopes (shares of the baseline), and vary over seeds."""
    rows = []
    for number, experiment in enumerate(experiments):
        for dropout, slope in zip((0.0, 0.5), slopes, strict=True):
            for seed in range(seeds):
                generator = None if noise is None else np.random.default_rng([noise, number, int(2 * dropout), seed])
                away = seed - (seeds - 1) / 2
                rows += rows_of_training(
                    experiment, dropout, seed, 20 + 5 * number + away, slope + 0.01 * away, noise=generator, **columns
                )
    return table(rows)
