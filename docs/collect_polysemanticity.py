"""Make the numbers of docs/polysemanticity.md and docs/what-do-neurons-mean.md from the tables of `ninscope run polysemanticity`.

    python docs/collect_polysemanticity.py runs/polysemanticity   # tables of the run -> docs/polysemanticity/*.csv and the pages
    python docs/collect_polysemanticity.py --neurons RUN          # the same of the neurons of a run that asks for neuron_measures
    python docs/collect_polysemanticity.py                        # docs/polysemanticity/*.csv -> the tables of the pages alone

Tables:
    baselines.csv      the unpruned networks: a row an experiment, dropout and seed
    slopes.csv         the table polysemanticity_slopes of the run, without its messages
    correlations.csv   the table polysemanticity_correlations of the run, without the experiments one by one
    neurons.csv        the table polysemanticity_neuron_correlations of the other run, of trainings, without its messages
"""

import argparse
from pathlib import Path

import pandas as pd
from page_tables import fill, markdown

from ninscope.neurons.polysemanticity.correlations import EVERY_EXPERIMENT
from ninscope.neurons.polysemanticity.neuron_correlations import OVER_NETWORKS, OVER_NEURONS, TRUTHS_OF_NETWORKS
from ninscope.neurons.polysemanticity.slopes import unpruned_networks
from ninscope.neurons.polysemanticity.table_names import ALL_LAYERS, DEGREES, INPUT_WEIGHT, NEURON_TRUTHS, TRAINING

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "docs" / "polysemanticity"
KEYS = ["suite", "model", "revision", "step"]
PAGES = ("polysemanticity.md", "what-do-neurons-mean.md")
# Total feature dimensionality and mean squared error of the unpruned networks, without dropout (thesis, section 4 and appendices).
THESIS = {
    "L1": (0.95, 0.6), "L2": (0.99, 0.15), "N1": (0.99, 0.027), "N2": (0.98, 0.448), "N3": (0.98, 0.0949), "N4": (0.98, 0.5408),
}  # fmt: skip
TRUTHS = {"P": "P", "P_samples": "P at the samples", "D": "D"}
MEASURES = (
    "phi_p99", "phi_mean", "emergence", "emergence_growth", "emergence_fixed", "structure", "width_unit", "alpha0",
    "width", "loss",
)  # fmt: skip


# --- from a run --------------------------------------------------------------------------------------------------------------
def baselines(polysemanticity: pd.DataFrame) -> pd.DataFrame:
    """The unpruned networks, without dropout and with it; columns `..._start` are of the same networks before training."""
    whole = polysemanticity[polysemanticity["layer"] == ALL_LAYERS]
    keys = ["experiment", "dropout", "seed"]
    columns = ["neurons", "dead", "inactive", "P", "P_live", "P_samples", "D", "loss", "train_loss"]
    last = unpruned_networks(whole).set_index(keys)[columns]
    first = whole[(whole["phase"] == TRAINING) & (whole["epoch"] == 0)].set_index(keys)[columns[1:]]
    return last.join(first.add_suffix("_start")).sort_index().reset_index()


def collect(run: Path) -> None:
    whole, slopes, correlations = (
        pd.read_parquet(run / "tables" / f"polysemanticity{name}.parquet") for name in ("", "_slopes", "_correlations")
    )
    written = {
        "baselines": baselines(whole),
        "slopes": slopes.drop(columns=[*KEYS, "message"]),
        "correlations": correlations[correlations["experiment"] == "all"].drop(columns=KEYS),
    }
    TABLES.mkdir(exist_ok=True)
    for name, table in written.items():
        table.to_csv(TABLES / f"{name}.csv", index=False, float_format="%.6g")


def collect_neurons(run: Path) -> None:
    rows = pd.read_parquet(run / "tables" / "polysemanticity_neuron_correlations.parquet")
    rows = rows[rows["phase"] == TRAINING].drop(columns=[*KEYS, "learning_rate", "message"])
    rows.to_csv(TABLES / "neurons.csv", index=False, float_format="%.6g")


# --- tables of the pages -----------------------------------------------------------------------------------------------------
def read_tables() -> dict[str, pd.DataFrame]:
    return {path.stem: pd.read_csv(path, keep_default_na=True) for path in sorted(TABLES.glob("*.csv"))}


def reach(values: pd.Series, decimals: int) -> str:
    low, high = (f"{value:.{decimals}f}" for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def baseline_table(baselines: pd.DataFrame) -> str:
    rows = []
    for experiment, (dimensionality, loss) in THESIS.items():
        own = baselines[baselines["experiment"] == experiment]
        without, dropped = own[own["dropout"] == 0], own[own["dropout"] > 0]
        reached = [reach(without["D"], 3), f"{loss:g}", reach(without["loss"], 3)]
        degrees = [reach(without["P_start"], 1), reach(without["P"], 1)]
        rows.append(
            [experiment, f"{dimensionality:g}", *reached, *degrees, reach(dropped["D"], 3), reach(dropped["loss"], 3)]
        )
    header = [
        "experiment", "D, thesis", "D", "loss, thesis", "loss", "P before training", "P after", "D, dropout", "loss, dropout",
    ]  # fmt: skip
    return markdown(header, rows)


def dead_table(baselines: pd.DataFrame) -> str:
    """Means over seeds, without dropout: before training and after it."""
    rows = []
    for experiment, own in baselines[baselines["dropout"] == 0].groupby("experiment", sort=False):
        cells = [str(experiment)]
        for column in ("dead", "inactive"):
            cells += [f"{(own[name] / own['neurons']).mean():.2f}" for name in (f"{column}_start", column)]
        for column in ("P", "P_live", "P_samples"):
            cells += [f"{own[name].mean():.1f}" for name in (f"{column}_start", column)]
        rows.append(cells)
    names = ["moved by no single feature", "active at no sample", "P", "P of live neurons", "P at the samples"]
    return markdown(["experiment", *(f"{name}{when}" for name in names for when in (", before", ", after"))], rows)


def percent(value: float) -> str:
    return "" if pd.isna(value) else f"{value:+.1f}"


def slope_table(slopes: pd.DataFrame, rate: float, degree: str) -> str:
    """Slopes for every tenth of the parameters that is removed, in per cent of the unpruned network's P."""
    slopes = slopes[slopes["degree"] == degree]
    rows = []
    for row in slopes[slopes["learning_rate"] == rate].itertuples():
        scale = 10 / row.baseline
        interval = f"{percent(row.low * scale)} to {percent(row.high * scale)}"
        slope = [percent(row.slope * scale), interval, f"{row.p_adjusted:.2g}", percent(row.retrained_slope * scale)]
        rows.append(
            [row.experiment, f"{row.dropout:g}", f"{row.seeds}", *slope, percent(100 * row.change), row.verdict]
        )
    header = [
        "experiment", "dropout", "seeds", "slope", "interval of all together", "p, adjusted", "without the unpruned",
        "P at the largest ratio", "verdict",
    ]  # fmt: skip
    return markdown(header, rows)


def correlation_table(correlations: pd.DataFrame, phase: str, rate: float | None) -> str:
    """Every measure against P, P at the samples and D: plain, given the drift, and with other seeds."""
    of_phase = correlations[(correlations["phase"] == phase) & (correlations["dropout"] == 0)]
    if rate is not None:
        of_phase = of_phase[of_phase["learning_rate"] == rate]
    rows = []
    for measure in MEASURES:
        cells = []
        for truth in TRUTHS:
            own = of_phase[(of_phase["measure"] == measure) & (of_phase["truth"] == truth)]
            plain, given = (
                own[own["given"].isna() | (own["given"] == "")],
                own[own["given"].notna() & (own["given"] != "")],
            )
            cells += [_value(plain, "correlation"), _with_interval(given), _value(plain, "other_seeds")]
        if any(cells):
            rows.append([f"`{measure}`", *cells])
    names = [f"{truth}{what}" for truth in TRUTHS.values() for what in ("", ", given the drift", ", other seeds")]
    return markdown(["measure", *names], rows)


def neuron_table(neurons: pd.DataFrame) -> str:
    """Every measure against P over the neurons of a layer: all experiments together, trained and before training."""
    rows = neurons[(neurons["over"] == OVER_NEURONS) & (neurons["experiment"] == EVERY_EXPERIMENT)]
    lines = []
    for measure in dict.fromkeys(rows["measure"]):
        cells = [f"`{measure}`"]
        for truth in NEURON_TRUTHS:
            own = rows[(rows["measure"] == measure) & (rows["truth"] == truth)]
            cells += [_with_interval(own), _p_value(own), _value(own, "before")]
        lines.append(cells)
    names = [f"{name}{what}" for name in NEURON_TRUTHS.values() for what in ("", ", p adjusted", ", before training")]
    return markdown(["measure", *names], lines)


def experiment_table(neurons: pd.DataFrame, truth: str) -> str:
    """Every measure against one truth over the neurons of a layer, an experiment a column; in bold what is beyond chance."""
    rows = neurons[(neurons["over"] == OVER_NEURONS) & (neurons["truth"] == truth)]
    experiments = [name for name in dict.fromkeys(rows["experiment"]) if name != EVERY_EXPERIMENT]
    lines = []
    for measure in dict.fromkeys(rows["measure"]):
        cells = [f"`{measure}`"]
        for experiment in experiments:
            own = rows[(rows["measure"] == measure) & (rows["experiment"] == experiment)]
            value = _value(own, "correlation")
            beyond = bool(value) and abs(own["correlation"].iloc[0]) > own["by_chance"].iloc[0]
            cells.append(f"**{value}**" if beyond else value)
        lines.append(cells)
    of_weights = rows[rows["measure"] == INPUT_WEIGHT].set_index("experiment")["by_chance"]
    widths = [f"{of_weights[experiment]:.2f}" for experiment in experiments]
    return markdown(["measure", *experiments], [*lines, ["95 % by chance, ±", *widths]])


def network_table(neurons: pd.DataFrame) -> str:
    """Every measure of a whole network against P of it, over training: plain, given the epoch, and with other seeds."""
    rows = neurons[(neurons["over"] == OVER_NETWORKS) & (neurons["experiment"] == EVERY_EXPERIMENT)]
    lines = []
    for measure in dict.fromkeys(rows["measure"]):
        cells = []
        for truth in TRUTHS_OF_NETWORKS:
            own = rows[(rows["measure"] == measure) & (rows["truth"] == truth)]
            plain = own["given"].isna() | (own["given"] == "")
            cells += [_value(own[plain], "correlation"), _with_interval(own[~plain]), _p_value(own[~plain])]
            cells.append(_value(own[plain], "other_seeds"))
        if any(cells):
            lines.append([f"`{measure}`", *cells])
    whats = ("", ", given the epoch", ", p adjusted", ", other seeds")
    names = [f"{DEGREES[truth]}{what}" for truth in TRUTHS_OF_NETWORKS for what in whats]
    return markdown(["measure", *names], lines)


def network_experiment_table(neurons: pd.DataFrame) -> str:
    """As `network_table`, given the epoch, an experiment a column; in bold where the adjusted p-value over seeds is below .05,
    and after the slash with the truth of other seeds."""
    rows = neurons[(neurons["over"] == OVER_NETWORKS) & (neurons["given"] == "epoch")]
    rows = rows[rows["experiment"] != EVERY_EXPERIMENT]
    experiments = list(dict.fromkeys(rows["experiment"]))
    truths = {truth: DEGREES[truth] for truth in ("P", "P_samples")}
    lines = []
    for measure in dict.fromkeys(rows["measure"]):
        own = rows[rows["measure"] == measure]
        cells = [
            _marked(own[(own["truth"] == truth) & (own["experiment"] == name)])
            for truth in truths
            for name in experiments
        ]
        if any(cells):
            lines.append([f"`{measure}`", *cells])
    return markdown(["measure", *(f"{truth}, {name}" for truth in truths.values() for name in experiments)], lines)


def _marked(row: pd.DataFrame) -> str:
    value, others = _value(row, "correlation"), _value(row, "other_seeds")
    told = f"**{value}**" if value and row["p_adjusted"].iloc[0] < 0.05 else value
    return f"{told} / {others}" if value and others else told


def _p_value(row: pd.DataFrame) -> str:
    return "" if row.empty or pd.isna(row["p_adjusted"].iloc[0]) else f"{row['p_adjusted'].iloc[0]:.2g}"


def _value(row: pd.DataFrame, column: str) -> str:
    return "" if row.empty or pd.isna(row[column].iloc[0]) else f"{row[column].iloc[0]:+.2f}"


def _with_interval(row: pd.DataFrame) -> str:
    value = _value(row, "correlation")
    low, high = _value(row, "low"), _value(row, "high")
    return f"{value} ({low} to {high})" if value and low else value


def page_tables(tables: dict[str, pd.DataFrame]) -> dict[str, str]:
    """By the name between the marks, `<!-- NAME -->` and `<!-- end of NAME -->`."""
    return {
        "baselines": baseline_table(tables["baselines"]),
        "slopes": slope_table(tables["slopes"], 1e-3, "P"),
        "slopes at 1e-2": slope_table(tables["slopes"], 1e-2, "P"),
        "slopes at the samples": slope_table(tables["slopes"], 1e-3, "P_samples"),
        "dead neurons": dead_table(tables["baselines"]),
        "correlations in training": correlation_table(tables["correlations"], "training", None),
        "correlations after pruning": correlation_table(tables["correlations"], "retrained", 1e-3),
        "neurons": neuron_table(tables["neurons"]),
        "neurons by experiment": experiment_table(tables["neurons"], "P"),
        "live neurons by experiment": experiment_table(tables["neurons"], "P_live"),
        "live neurons by experiment, at the samples": experiment_table(tables["neurons"], "P_samples_live"),
        "neurons over training": network_table(tables["neurons"]),
        "neurons over training by experiment": network_experiment_table(tables["neurons"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path, help="folder of the run")
    parser.add_argument("--neurons", type=Path, help="folder of a run with neuron_measures")
    given = parser.parse_args()
    if given.run is not None:
        collect(given.run)
    if given.neurons is not None:
        collect_neurons(given.neurons)
    tables = page_tables(read_tables())
    for name in PAGES:
        path = ROOT / "docs" / name
        path.write_text(fill(path.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main()
