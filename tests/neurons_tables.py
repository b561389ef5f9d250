"""Tables `neurons` whose every value is known, as a run of the stage fills them, and single neurons whose places are known."""

import math

import numpy as np
import pandas as pd

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 4000)
COLUMNS = {
    "suite": "string", "model": "string", "revision": "string", "step": "Int64", "text": "string", "layer": "string",
    "measure": "string", "control": "string", "against": "string", "value": "float64", "p05": "float64", "p25": "float64",
    "p50": "float64", "p75": "float64", "p95": "float64", "count": "Int64", "status": "string", "message": "string",
}  # fmt: skip
HIDDEN, HEADS, STREAM, WHOLE = "m", "c", "x", "all"
# measure: (where it is measured, its scale, what it is compared with). Names as the registry has them.
MEASURES = {
    "lazy": (HIDDEN, 0.5, ()), "cett": (HIDDEN, 0.6, ()), "thresholds": (WHOLE, 0.4, ()), "dormant": (HIDDEN, 0.02, ()),
    "dead": (HIDDEN, 0.01, ()), "token_detectors": (HIDDEN, 3.0, ()), "positional": (HIDDEN, 0.05, ()),
    "universal": (HIDDEN, 0.3, ("seed",)), "entropy_neurons": (WHOLE, 0.001, ()), "sparse_probing": (HIDDEN, 0.8, ()),
    "specialisation": (HIDDEN, 0.7, ()), "massive_activations": (STREAM, 40.0, ()), "attention_entropy": (HEADS, 2.0, ()),
    "sinks": (HEADS, 0.3, ()), "signal_propagation": (STREAM, 1e-4, ()), "residual_flow": (STREAM, 0.9, ()),
    "neural_collapse": (WHOLE, math.nan, ()), "hash_encoding": (HIDDEN, 0.2, ()), "geometry": (STREAM, 0.8, ("start", "previous")),
    "function_distance": (WHOLE, 1.5, ("start", "previous", "seed")), "rich_lazy": (STREAM, 0.6, ("start",)),
    "sign_flips": (HIDDEN, 0.1, ("start", "previous")), "alignment": (WHOLE, 0.5, ("seed",)), "phi": (HIDDEN, 6.0, ()),
}  # fmt: skip
FURTHER = {"dormant": "dormant_tau_0.1"}  # a fact of a measure that is not its main one


def layers_of(kind: str, blocks: int) -> list[str]:
    """Names of the node layers of a transformer that a measure is of."""
    if kind == WHOLE:
        return [WHOLE]
    names = [f"block{number}.{kind}" for number in range(blocks)]
    return [*names, "output.x"] if kind == STREAM else names


def value_of(measure: str, depth: int, step: int, shuffled: bool = False, model: int = 0) -> float:
    """What the table says: rises with the logarithm of the step and with depth, of the control a quarter of that.

    massive_activations grows a thousandfold, and geometry is negative at first.
    """
    scale, time = MEASURES[measure][1], math.log2(step + 1) / 12
    if measure == "massive_activations":
        return scale * 1000 ** (time * (0.3 if shuffled else 1.0)) * (1 + depth)
    rise = (time + 0.1 * depth + 0.3 * model) * (0.25 if shuffled else 1.0)
    return scale * (rise - 0.4 if measure == "geometry" else 1 + rise)


def neurons_table(
    measures=tuple(MEASURES), models=("small",), steps=STEPS, blocks=4, text="held-out", gaps=()
) -> pd.DataFrame:
    """Rows of models (all of the suite "s"), each measured on the text and on the shuffled control.

    gaps: (measure, layer, step) whose row has no value and a status.
    """
    rows = []
    for number, model in enumerate(models):
        for step in steps:
            for measure in measures:
                kind, _, others = MEASURES[measure]
                for against in others or ("",):
                    for depth, layer in enumerate(layers_of(kind, blocks)):
                        rows += _rows(
                            measure, layer, depth, step, number, model, text, against, (measure, layer, step) in gaps
                        )
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _rows(measure, layer, depth, step, number, model, text, against, missing):
    for control in ("none", "shuffled"):
        value = value_of(measure, depth, step, control == "shuffled", number)
        keys = {
            "suite": "s", "model": model, "revision": f"step{step}", "step": step, "text": text, "layer": layer,
            "control": control, "against": against or None, "count": 8, "status": "ok", "message": "",
        }  # fmt: skip
        if missing or math.isnan(value):
            yield keys | {
                "measure": measure,
                "value": math.nan,
                "count": None,
                "status": "failed",
                "message": "no labels",
            }
            continue
        spread = {f"p{part:02d}": value * (0.5 + part / 100) for part in (5, 25, 50, 75, 95)}
        yield keys | {"measure": measure, "value": value} | spread
        if measure in FURTHER:
            yield keys | {"measure": FURTHER[measure], "value": 9 * value} | spread


def checkpoints_table(models=("small",), steps=STEPS, sizes=None) -> pd.DataFrame:
    """The columns of the table `checkpoints` that figures of neurons read."""
    sizes = sizes or dict.fromkeys(models, 1_000)
    rows = [
        {"suite": "s", "model": model, "revision": f"step{step}", "step": step, "parameters": sizes[model]}
        for model in models
        for step in steps
    ]
    return pd.DataFrame(rows).astype({"step": "Int64", "parameters": "Int64"})


def single_neurons(neurons=200, layers=3, seed=0) -> pd.DataFrame:
    """A row a neuron. Within each layer firing_frequency falls with the degree and nothing else is related to anything; phi
    differs between layers alone, as alpha does. kurtosis spans decades; universal is not known of the first layer."""
    draw = np.random.default_rng(seed)
    parts = []
    for number in range(layers):
        degree = draw.gamma(4.0, 1.0, neurons) + number
        columns = {
            "layer": f"block{number}.m",
            "index": np.arange(neurons),
            "alpha": 0.8 + 0.3 * number + 0.05 * draw.normal(size=neurons),
            "mean_distance": 2 + draw.normal(size=neurons) ** 2,
            "degree": degree,
            "firing_frequency": 1 / (1 + np.exp(degree - 4 - number + 0.5 * draw.normal(size=neurons))),
            "kurtosis": np.exp(2.0 * draw.normal(size=neurons) + 2),
            "phi": 5 + 2 * number + 0.5 * draw.normal(size=neurons),
            "universal": draw.uniform(size=neurons) if number else np.full(neurons, np.nan),
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


PLACES_COLUMNS = {
    "suite": "string", "model": "string", "revision": "string", "step": "Int64", "text": "string", "layer": "string",
    "place": "string", "measure": "string", "control": "string", "against": "string", "neurons": "Int64", "correlation": "float64",
    "low": "float64", "high": "float64", "status": "string", "message": "string",
}  # fmt: skip
WHERE = ("alpha", "mean_distance", "degree")


def correlation_of(place: str, measure: str, step: int, shuffled: bool = False) -> float:
    """What the table says: of alpha it rises with the logarithm of the step, of the others it falls by half of that; of "flat",
    and on the control, it is a tenth of that. The band is 0.1 to both sides of 0, so at first all lie in it."""
    rise = math.log2(step + 1) / 20 * (1 if place == "alpha" else -0.5)
    return rise * (0.1 if shuffled or measure == "flat" else 1.0)


def places_table(measures=("phi", "flat"), models=("small",), steps=STEPS, text="held-out", gaps=()) -> pd.DataFrame:
    """The table `neuron_places` of models (all of the suite "s"). measures: as in `neuron_values`, "NAME/seed" too. gaps: (place,
    measure, step) that have no correlation. Rows of single layers hold -1, which nothing is to draw."""
    rows = []
    for model in models:
        for step in steps:
            for place in WHERE:
                for measure in measures:
                    for control in ("none", "shuffled"):
                        missing = (place, measure, step) in gaps
                        name, _, against = measure.partition("/")
                        value = math.nan if missing else correlation_of(place, name, step, control == "shuffled")
                        end = math.nan if missing else 0.1
                        rows.append(
                            ("s", model, f"step{step}", step, text, "all", place, name, control, against, 2 if missing else 300,
                             value, -end, end, "unsupported" if missing else "ok", "too few" if missing else "")
                        )  # fmt: skip
    frame = pd.DataFrame(rows, columns=list(PLACES_COLUMNS)).astype(PLACES_COLUMNS)
    of_layers = frame.assign(layer="block0.m", correlation=-1.0, low=-1.0, high=-1.0)
    return pd.concat([frame, of_layers], ignore_index=True)
