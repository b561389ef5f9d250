"""Make the numbers of docs/neurons.md from the tables of `ninscope run neurons`.

    python docs/collect_neurons.py runs/neurons   # tables of the run -> docs/neurons/*.csv and the page
    python docs/collect_neurons.py                # docs/neurons/*.csv -> the tables of the page alone

Tables:
    facts.csv    what the page shows of the table neurons: of a whole model, or the mean over its layers
    places.csv   the table neuron_places at the last step of each model, of the text, for the measures that the page shows
"""

import argparse
from pathlib import Path

import pandas as pd
from page_tables import fill, markdown

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "docs" / "neurons"
PAGE = "neurons.md"
LANGUAGE, SEEDS, DIGITS = "stdlib-neox-500k", "stdlib-neox-67k", "digits-swin"
# The rows of each table: a fact, what it is compared with, what a reader calls it, decimals.
OF_LANGUAGE = (
    ("attention_entropy", "", "attention entropy, nats", 2),
    ("sinks", "", "attention to the first token", 3),
    ("lazy", "", "share of activations that are on", 3),
    ("dead_kurtosis", "", "kurtosis of a neuron's activations", 1),
    ("cett", "", "share of neurons that 1 % of perplexity spares", 2),
    ("thresholds", "", "rise of the loss when half of the activations are 0, nats", 3),
    ("entropy_neurons", "", "candidates for entropy neurons, of 384", 0),
    ("phi", "", "phi", 3),
    ("token_detectors_tokens", "", "tokens that some neuron detects", 0),
    ("massive_activations_ratio", "", "largest over median number of the stream", 1),
    ("geometry", "", "likeness of neighbouring layers (CKA)", 2),
    ("function_distance", "start", "KL from step 0, nats", 2),
    ("function_distance", "previous", "KL from the revision before, nats", 2),
    ("rich_lazy", "start", "alignment of the last features' kernel with step 0's", 2),
    ("geometry_between", "start", "likeness of layers with those of step 0 (CKA)", 2),
)  # fmt: skip
OF_SEEDS = (
    ("function_distance", "seed", "KL from the other seeds, nats", 2),
    ("geometry_between", "seed", "likeness of layers (CKA)", 2),
    ("universal_best", "seed", "best correlation with a neuron of the other seed", 2),
    ("universal_baseline", "seed", "the same with rotated neurons", 2),
    ("universal_rho", "seed", "rho, the difference", 3),
    ("universal", "seed", "share of universal neurons (rho above .5)", 2),
    ("alignment_barrier_unaligned", "seed", "barrier of loss as they are, nats", 2),
    ("alignment", "seed", "barrier after alignment, nats", 2),
    ("alignment_variance_collapse_unaligned", "seed", "variance left half-way, as they are", 2),
    ("alignment_variance_collapse", "seed", "variance left half-way, aligned", 2),
)  # fmt: skip
OF_DIGITS = (
    ("neural_collapse", "", "NC1: scatter within classes over that between", 2),
    ("neural_collapse_nc2_norms", "", "NC2: unequal lengths of class means", 2),
    ("neural_collapse_nc2_angles", "", "NC2: angles off the simplex", 2),
    ("neural_collapse_nc3", "", "NC3: class means off the head's rows", 2),
    ("neural_collapse_nc4", "", "NC4: not the nearest class mean", 3),
    ("sparse_probing_f1_k1", "", "F1 of a class from its best neuron", 2),
    ("sparse_probing_random_f1_k1", "", "F1 from a random neuron", 2),
    ("specialisation", "", "overlap of the neurons of two classes", 2),
)  # fmt: skip
STEPS = {LANGUAGE: (0, 16, 64, 512, 4000), SEEDS: (0, 64, 512, 1000), DIGITS: (0, 16, 64, 256, 1000)}
PLACES = {"alpha": "alpha_i", "mean_distance": "mean distance", "degree": "degree"}
# Single neurons' numbers that stand beside their places.
BESIDE = ("dead_firing_frequency", "dead_kurtosis", "dormant_score", "phi", "universal_rho")


# --- from a run --------------------------------------------------------------------------------------------------------------
def collect(run: Path) -> None:
    neurons = pd.read_parquet(run / "tables" / "neurons.parquet")
    listed = {
        (model, fact, against)
        for model, facts in ((LANGUAGE, OF_LANGUAGE), (SEEDS, OF_SEEDS), (DIGITS, OF_DIGITS))
        for fact, against, _, _ in facts
    }
    kept = neurons[neurons["status"] == "ok"]
    of_page = [key in listed for key in zip(kept["model"], kept["measure"], kept["against"].fillna(""), strict=True)]
    kept = kept[of_page].assign(against=lambda rows: rows["against"].fillna(""))
    keys = ["model", "measure", "against", "control", "step"]
    # A count is of the whole model where there is one, as is a mean over layers of unlike size.
    whole = kept["layer"] == "all"
    kept = kept[whole | ~whole.groupby([kept[name] for name in keys]).transform("any")]
    facts = kept.groupby(keys, sort=True)["value"].mean().reset_index()
    places = pd.read_parquet(run / "tables" / "neuron_places.parquet")
    places = places[places["measure"].isin(BESIDE) & (places["status"] == "ok")]
    places = places[places["step"] == places.groupby("model")["step"].transform("max")]
    columns = [
        "model",
        "step",
        "layer",
        "measure",
        "control",
        "against",
        "place",
        "neurons",
        "correlation",
        "low",
        "high",
    ]
    TABLES.mkdir(exist_ok=True)
    facts.to_csv(TABLES / "facts.csv", index=False, float_format="%.6g")
    places[columns].to_csv(TABLES / "places.csv", index=False, float_format="%.6g")


# --- tables of the page ------------------------------------------------------------------------------------------------------
def facts_table(facts: pd.DataFrame, model: str, listed: tuple) -> str:
    """A row a fact, a column a step: the number on the examples, and that on the control."""
    steps = STEPS[model]
    rows = facts[facts["model"] == model].set_index(["measure", "against", "control", "step"])["value"]
    lines = []
    for fact, against, name, decimals in listed:
        cells = []
        for step in steps:
            pair = [_number(rows, (fact, against, control, step), decimals) for control in ("none", "shuffled")]
            cells.append(" / ".join(number or "none" for number in pair) if any(pair) else "")
        lines.append([name, *cells])
    return markdown(["", *(f"step {step}" for step in steps)], lines)


def _number(rows: pd.Series, key: tuple, decimals: int) -> str:
    value = rows.get(key, float("nan"))
    return "" if pd.isna(value) else f"{value:.{decimals}f}".replace("-0.", "-.").removeprefix("0" if decimals else "")


def places_table(places: pd.DataFrame) -> str:
    """A row a measure of single neurons, a column a place: Spearman's correlation over all neurons, with what permutations within
    layers give, and that of each layer."""
    lines = []
    for model in (LANGUAGE, SEEDS):
        rows = places[(places["model"] == model) & (places["control"] == "none")]
        for measure, of_measure in rows.groupby("measure", sort=False):
            cells = dict(iter(of_measure.groupby("place", sort=False)))
            lines.append([model, f"`{measure}`", *(_correlation(cells, place) for place in PLACES)])
    return markdown(["", "", *PLACES.values()], lines)


def _correlation(cells: dict[str, pd.DataFrame], place: str) -> str:
    if place not in cells:
        return ""
    of_layer = cells[place].drop_duplicates("layer").set_index("layer")
    row = of_layer.loc["all"]
    layers = ", ".join(f"{value:.2f}" for value in of_layer["correlation"].drop("all").dropna())
    return f"{row['correlation']:.2f} ({row['low']:.2f} to {row['high']:.2f}); {layers}"


def read_tables() -> dict[str, pd.DataFrame]:
    return {path.stem: pd.read_csv(path, keep_default_na=False, na_values=[""]) for path in TABLES.glob("*.csv")}


def page_tables(tables: dict[str, pd.DataFrame]) -> dict[str, str]:
    """By the name between the marks."""
    facts = tables["facts"].fillna({"against": ""})
    return {
        "what the language model does": facts_table(facts, LANGUAGE, OF_LANGUAGE),
        "what seeds share": facts_table(facts, SEEDS, OF_SEEDS),
        "how classes collapse": facts_table(facts, DIGITS, OF_DIGITS),
        "places": places_table(tables["places"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path, help="folder of the run")
    if (run := parser.parse_args().run) is not None:
        collect(run)
    path = ROOT / "docs" / PAGE
    path.write_text(fill(path.read_text(encoding="utf-8"), page_tables(read_tables())), encoding="utf-8")


if __name__ == "__main__":
    main()
