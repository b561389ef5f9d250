"""What the measures of the study's runs tell: the tables and figures of docs/what-does-e-see.md.

    python data/analyse_controls_study.py            # docs/study/measures.parquet -> docs/study/*.csv, the page's tables, figures

Rules (docs/what-does-e-see.md says which of them were fixed before the results):

- A *cell* is a width, a learning rate, a weight decay and a repetition: three runs, one for each text, from the same
  weights. Cells whose repetition and positions of learning rate and weight decay add up to an even number are the
  *choosing* half, the others the *reporting* half. A measure is chosen, and its direction taken, from the first; numbers
  are reported from the second. Measures of weights and distances in function space, which need data, are chosen apart.
- Intervals are of 95 %, percentiles of 2,000 bootstrap replicates in which whole cells are drawn with replacement.
- Runs are compared with runs of the same width only.

Tables, a row a measure each (docs/what-does-e-see.md explains the statistics):
    separation.csv   how often a run on text has the larger value, against runs on the other two texts: AUC, by half
    loss.csv         how a measure goes with held-out loss among runs on text, the step taken out
    spread.csv       spread over repetitions beside the differences between texts, at the last step
    headline.json    numbers that the pages' sentences use
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from controls_study_names import MEASURES, TEXTS
from scipy.stats import rankdata

ROOT = Path(__file__).resolve().parents[1]
RUN = ["text", "width", "rate", "decay", "repetition"]
CELL = RUN[1:]
SETTINGS = ["width", "rate", "decay"]
RATES, DECAYS = (3e-3, 1e-3), (0.01, 0.0, 0.1)  # in the order that halves are made by
REPLICATES, CONFIDENCE, SEED = 2000, 0.95, 0

FUNCTION = (
    "kl_from_start",
    "change_from_start",
    "kl_from_previous",
    "change_from_previous",
)  # need data; the others do not


EMERGENCES = ("emergence_growth", "emergence_fixed")
IN_SUMMARY = ("emergence", "emergence_growth", "distance_from_start", "coupling_qk", "kl_from_start")


# --- the table of measures ----------------------------------------------------------------------------------
def read_measures(path: Path) -> pd.DataFrame:
    """measures.parquet with `half` and `cell`; the multifractal width is `width_w`, since `width` is the model's."""
    table = pd.read_parquet(path)
    position = (
        table["repetition"]
        + table["rate"].map({rate: number for number, rate in enumerate(RATES)})
        + table["decay"].map({decay: number for number, decay in enumerate(DECAYS)})
    )
    return table.assign(half=np.where(position % 2 == 0, "choosing", "reporting"), cell=table.groupby(CELL).ngroup())


def known(table: pd.DataFrame) -> list[str]:
    """The measures that this table has."""
    return [name for name in MEASURES if name in table]


# --- statistics ---------------------------------------------------------------------------------------------
@cache
def drawn_cells(cells: int) -> np.ndarray:
    """How often each cell is drawn: float64 [REPLICATES + 1, cells], the first row as they are."""
    draw = np.random.default_rng(SEED)
    counts = draw.multinomial(cells, np.full(cells, 1 / cells), REPLICATES)
    return np.vstack([np.ones(cells), counts])


def with_interval(values: np.ndarray) -> tuple[float, float, float]:
    """(value, low, high) of a statistic of the data, first, and of its replicates. Replicates without a value are left out."""
    finite = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or not len(finite):
        return float("nan"), float("nan"), float("nan")
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(finite, [tail, 100 - tail])
    return float(values[0]), float(low), float(high)


def auc(rows: pd.DataFrame, measure: str, others: Sequence[str]) -> np.ndarray:
    """Share of pairs of a run on text and a run on one of `others`, of one width, in which the former has the larger value.

    Ties count half. rows: of one step. Returns [REPLICATES + 1].
    """
    cells = np.unique(rows["cell"])
    weights = drawn_cells(len(cells))
    wins, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for _, of_width in rows.groupby("width"):
        for other in others:
            sides = [of_width[of_width["text"] == text].dropna(subset=[measure]) for text in (TEXTS[0], other)]
            mine, theirs = (side[measure].to_numpy(float) for side in sides)
            larger = np.sign(mine[:, None] - theirs[None, :]) / 2 + 0.5
            ours, other_ones = (weights[:, np.searchsorted(cells, side["cell"])] for side in sides)
            wins += ((ours @ larger) * other_ones).sum(1)
            pairs += ours.sum(1) * other_ones.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return wins / pairs


def ranks_within(rows: pd.DataFrame, column: str, groups: Sequence[str]) -> pd.Series:
    """Ranks within each group, about their mean and over its size, so that groups of all sizes weigh alike."""
    return rows.groupby(list(groups))[column].transform(
        lambda values: (rankdata(values) - (len(values) + 1) / 2) / len(values)
    )


def partial_correlation(
    rows: pd.DataFrame, measure: str, groups: Sequence[str], out: Sequence[Sequence[str]] = ()
) -> np.ndarray:
    """Rank correlation of a measure and the loss within groups; then the means of each set of columns of `out` are taken off.

    Returns [REPLICATES + 1]. With groups of one step, width and text the step is partialled out, as any function of it is.
    """
    rows = rows.dropna(subset=[measure, "loss"])
    cells = np.unique(rows["cell"])
    if len(cells) < 3:
        return np.full(REPLICATES + 1, np.nan)
    ranked = {name: ranks_within(rows, name, groups) for name in (measure, "loss")}
    for taken in out:
        by = [rows[name] for name in taken]
        ranked = {name: values - values.groupby(by).transform("mean") for name, values in ranked.items()}
    x, y = ranked[measure].to_numpy(), ranked["loss"].to_numpy()
    cell = np.searchsorted(cells, rows["cell"])
    sums = [np.bincount(cell, product, len(cells)) for product in (x * y, x * x, y * y)]
    xy, xx, yy = (drawn_cells(len(cells)) @ of for of in sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.where((xx > 1e-12) & (yy > 1e-12), xy / np.sqrt(xx * yy), np.nan)
    # Whole cells are drawn after means were taken off, so replicates vary too little by the share of what the means took.
    groups_of_runs = [[name for name in names if name != "step"] for names in out if "cell" not in names]
    taken = max((rows.groupby(names).ngroups for names in groups_of_runs), default=0)
    if taken >= len(cells):
        return np.full(REPLICATES + 1, np.nan)
    return np.clip(values[0] + (values - values[0]) * np.sqrt(len(cells) / (len(cells) - taken)), -1, 1)


def beyond(rows: pd.DataFrame, measure: str, other: str) -> np.ndarray:
    """Rank correlation of a measure and the loss at one step, after the ranks of another measure are taken out of both.

    Returns [REPLICATES + 1]; nan where the two measures are one.
    """
    rows = rows.dropna(subset=[measure, other, "loss"])
    cells = np.unique(rows["cell"])
    x, y, z = (ranks_within(rows, name, ["width", "step"]).to_numpy() for name in (measure, "loss", other))
    cell = np.searchsorted(cells, rows["cell"])
    weights = drawn_cells(len(cells))
    xx, yy, zz, xy, xz, yz = (
        weights @ np.bincount(cell, a * b, len(cells)) for a, b in ((x, x), (y, y), (z, z), (x, y), (x, z), (y, z))
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        left = (xx - xz**2 / zz) * (yy - yz**2 / zz)
        return np.where(left > 1e-9 * xx * yy, (xy - xz * yz / zz) / np.sqrt(np.abs(left)), np.nan)


def differences(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The change of a measure and of the loss from each kept step to the next, run by run."""
    ordered = rows.sort_values([*RUN, "step"])
    steps = ordered.groupby(RUN)[[measure, "loss"]].diff()
    return ordered.assign(**{measure: steps[measure], "loss": steps["loss"]}).dropna(subset=["loss"])


def within_runs(rows: pd.DataFrame, measure: str) -> np.ndarray:
    """Mean over runs of the rank correlation of a measure and the loss over a run's steps: nothing is taken out."""
    values = rows.groupby(["cell", "text"])[[measure, "loss"]].apply(lambda run: spearman(run[measure], run["loss"]))
    weights = drawn_cells(len(values))
    there = np.isfinite(values.to_numpy())
    with np.errstate(invalid="ignore"):
        return weights[:, there] @ values.to_numpy()[there] / weights[:, there].sum(1)


def spearman(x: pd.Series, y: pd.Series) -> float:
    kept = x.notna() & y.notna()
    a, b = (rankdata(values[kept]) for values in (x, y))
    if kept.sum() < 3 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def skill(rows: pd.DataFrame, measure: str) -> np.ndarray:
    """1 - (squared errors of loss predicted from step and measure) / (from the step alone); each run from all the others.

    A line of its own for each step and width, fitted without all runs of the cell that it predicts: 0 says that the measure adds
    nothing to the step, 1 that it says all, below 0 that it misleads. Returns [REPLICATES + 1].
    """
    rows = rows.dropna(subset=[measure, "loss"])
    cells = np.unique(rows["cell"])
    errors = np.zeros((2, len(cells)))
    for _, group in rows.groupby(["width", "step"]):
        cell = np.searchsorted(cells, group["cell"])
        x, y = group[measure].to_numpy(float), group["loss"].to_numpy(float)
        if x.std() == 0:
            continue
        for own in np.unique(cell):
            rest, left = cell != own, cell == own
            if rest.sum() < 3:
                continue
            centre, mean = x[rest].mean(), y[rest].mean()
            slope = ((x[rest] - centre) * (y[rest] - mean)).sum() / max(((x[rest] - centre) ** 2).sum(), 1e-300)
            errors[0, own] += ((y[left] - mean - slope * (x[left] - centre)) ** 2).sum()
            errors[1, own] += ((y[left] - mean) ** 2).sum()
    with_measure, alone = (drawn_cells(len(cells)) @ of for of in errors)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - with_measure / alone


# --- tables -------------------------------------------------------------------------------------------------
OTHERS = {"shuffled": ("shuffled",), "uniform": ("uniform",), "both": ("shuffled", "uniform")}


def separation(table: pd.DataFrame, steps: Sequence[int] | None = None) -> pd.DataFrame:
    """AUC of runs on text against the others at each step (of `steps`, or all that were kept but the first), by half.

    direction: 1 where text has the larger values in the choosing half, else -1.
    """
    rows = []
    for step in steps or sorted(set(table["step"]) - {0}):
        at_step = table[table["step"] == step]
        for measure in known(table):
            if measure == "step":
                continue
            row: dict[str, object] = {"step": step, "measure": measure}
            for half in ("choosing", "reporting"):
                for name, others in OTHERS.items():
                    ends = with_interval(auc(at_step[at_step["half"] == half], measure, others))
                    columns = (f"{half}_{name}{end}" for end in ("", "_low", "_high"))
                    row |= dict(zip(columns, ends, strict=True))
            row["direction"] = 1 if row["choosing_both"] >= 0.5 else -1  # type: ignore[operator]
            row["choosing_gap"] = gap(at_step[at_step["half"] == "choosing"], measure)
            reporting = at_step[at_step["half"] == "reporting"]
            row |= {f"cells_{other}": share_of_cells(reporting, measure, other) for other in TEXTS[1:]}
            rows.append(row)
    return pd.DataFrame(rows)


def share_of_cells(rows: pd.DataFrame, measure: str, other: str) -> float:
    """Share of cells in which the run on text has a larger value than that on `other`: same start, same settings."""
    paired = rows.pivot_table(index=CELL, columns="text", values=measure).reindex(columns=list(TEXTS))
    apart = (paired[TEXTS[0]] - paired[other]).dropna()
    return float((np.sign(apart) / 2 + 0.5).mean())


def gap(rows: pd.DataFrame, measure: str) -> float:
    """How far text is from the nearer of the other two: mean difference in a cell over its standard deviation, without sign."""
    paired = rows.pivot_table(index=CELL, columns="text", values=measure).reindex(columns=list(TEXTS))
    apart = [paired[TEXTS[0]] - paired[other] for other in TEXTS[1:]]
    return min(abs(each.mean()) / max(each.std(), 1e-300) for each in apart)


def _turned(rows: pd.DataFrame, half: str, name: str) -> pd.Series:
    """AUC in the direction that was chosen."""
    value = rows[f"{half}_{name}"]
    return value.where(rows["direction"] > 0, 1 - value)


def chosen_measure(separated: pd.DataFrame, among: Iterable[str]) -> str:
    """The measure whose worse AUC of the two texts is best at the last step of the choosing half.

    Among equal ones it is that of the largest gap.
    """
    last = separated[(separated["step"] == separated["step"].max()) & separated["measure"].isin(list(among))]
    worse = np.minimum(_turned(last, "choosing", "shuffled"), _turned(last, "choosing", "uniform"))
    ranked = last.assign(worse=worse.round(9)).sort_values(["worse", "choosing_gap"], kind="stable")
    return str(ranked["measure"].iloc[-1])


LOSS_STATISTICS: dict[str, tuple[str, Callable[[pd.DataFrame, str], np.ndarray]]] = {
    "within_run": ("over the steps of a run, nothing taken out", within_runs),
    "levels": (
        "over runs, the step taken out",
        lambda rows, measure: partial_correlation(rows, measure, ["width", "step"]),
    ),
    "beyond_distance": (
        "over runs, step and distance from start taken out",
        lambda rows, measure: beyond(rows, measure, "distance_from_start"),
    ),
    "same_settings": (
        "over repetitions, step and settings taken out",
        lambda rows, measure: partial_correlation(rows, measure, ["width", "step"], [[*SETTINGS, "step"]]),
    ),
    "within_run_step_out": (
        "within runs, step and run taken out",
        lambda rows, measure: partial_correlation(rows, measure, ["width", "step"], [["cell"]]),
    ),
    "differences": (
        "of differences, the step taken out",
        lambda rows, measure: partial_correlation(differences(rows, measure), measure, ["width", "step"]),
    ),
    "skill": ("left-out runs, beyond the step", skill),
}


def with_loss(table: pd.DataFrame) -> pd.DataFrame:
    """How each measure goes with the held-out loss of runs on text after step 0, by statistic.

    `skill_all_texts` is that of runs on all three texts.
    """
    text = table[(table["text"] == "text") & (table["step"] > 0)]
    rows = []
    for measure in known(table):
        row: dict[str, object] = {"measure": measure}
        statistics: Iterable[tuple[str, np.ndarray]] = [
            *((name, statistic(text, measure)) for name, (_, statistic) in LOSS_STATISTICS.items()),
            ("skill_all_texts", skill(table[table["step"] > 0], measure)),
        ]
        for name, values in statistics:
            row |= dict(zip((f"{name}{end}" for end in ("", "_low", "_high")), with_interval(values), strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def spread(table: pd.DataFrame) -> pd.DataFrame:
    """At the last step: means by text, standard deviations, and differences of text from the others of the same cells.

    repetitions: standard deviation over repetitions of the same text and settings. settings: of the means of these, over
    learning rates and weight decays.
    """
    last = table[table["step"] == table["step"].max()]
    rows = []
    for measure in [name for name in known(table) if name != "step"]:
        by_setting = last.groupby(["text", *SETTINGS])[measure]
        variances = by_setting.var()
        deviation = float(np.sqrt(variances.mean()))
        means = last.groupby("text")[measure].mean()
        row: dict[str, object] = {"measure": measure, "repetitions": deviation}
        row["settings"] = float(np.sqrt(by_setting.mean().groupby(["text", "width"]).var().mean()))
        row |= {f"mean_{text}": means.get(text, np.nan) for text in TEXTS}
        paired = last.pivot_table(index=CELL, columns="text", values=measure)
        for other in TEXTS[1:]:
            mean = (paired[TEXTS[0]] - paired[other]).mean() if other in paired else np.nan
            row |= {f"less_{other}": mean, f"less_{other}_over_repetitions": mean / deviation if deviation else np.nan}
        rows.append(row)
    return pd.DataFrame(rows)


def headline(table: pd.DataFrame, separated: pd.DataFrame) -> dict[str, object]:
    """Numbers that sentences use. control_spread: the range that holds 95 % of final E of runs on uniform bytes."""
    last = table[table["step"] == table["step"].max()]
    numbers: dict[str, object] = {
        "runs": int(table.groupby(RUN).ngroups), "checkpoints": len(table), "last_step": int(table["step"].max()),
        "chosen": chosen_measure(separated, set(MEASURES) - set(FUNCTION)),
        "chosen_function": chosen_measure(separated, FUNCTION),
    }  # fmt: skip
    for text, rows in last.groupby("text"):
        numbers[f"runs_{text}"] = int(rows.groupby(RUN).ngroups)
        numbers[f"loss_{text}"] = [float(rows["loss"].min()), float(rows["loss"].median()), float(rows["loss"].max())]
        for name in ("emergence", *EMERGENCES):
            numbers[f"{name}_{text}"] = float(rows[name].mean())
    uniform = last[last["text"] == "uniform"]
    for width, rows in [("all", uniform), *uniform.groupby("width")]:
        ends = np.percentile(rows["emergence"], [2.5, 97.5])
        numbers[f"control_spread_{width}"] = [float(end) for end in ends]
    numbers["control_spread"] = float(np.percentile(uniform["emergence"].abs(), 95))
    low, high = np.percentile(uniform["emergence"], [2.5, 97.5])
    of_text = last[last["text"] == "text"]["emergence"]
    numbers["text_within_control_spread"] = [int(of_text.between(low, high).sum()), len(of_text)]
    positive = last[last["text"] != "text"]["emergence"] > 0
    numbers["positive_where_little_is_learned"] = [int(positive.sum()), len(positive)]
    return numbers


def demo_correlations(demo: pd.DataFrame) -> pd.Series:
    """Rank correlations of the demo suite's measures with its held-out loss, over its steps."""
    return pd.Series({name: spearman(demo[name], demo["loss"]) for name in known(demo)})


# --- the page -----------------------------------------------------------------------------------------------
def _interval(row: pd.Series, name: str, digits: int = 2) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if not np.isfinite(value):
        return ""
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def separation_table(separated: pd.DataFrame) -> str:
    last = separated[separated["step"] == separated["step"].max()]
    rows = []
    for _, row in last.iterrows():
        worse = min(_turned(row.to_frame().T, "choosing", name).iloc[0] for name in ("shuffled", "uniform"))
        cells = [_directed(row, f"reporting_{name}") for name in ("shuffled", "uniform")]
        more = "more" if row["direction"] > 0 else "less"
        shares = (row[f"cells_{other}"] for other in TEXTS[1:])
        same = " / ".join(f"{share if row['direction'] > 0 else 1 - share:.2f}" for share in shares)
        rows.append([MEASURES[row["measure"]], more, f"{worse:.2f}", *cells, same])
    return markdown(
        ["measure", "on text", "worse AUC, choosing", "text : shuffled", "text : uniform", "same cell"], rows
    )


def _directed(row: pd.Series, name: str) -> str:
    if row["direction"] > 0:
        return _interval(row, name)
    ends = {"": 1 - row[name], "_low": 1 - row[f"{name}_high"], "_high": 1 - row[f"{name}_low"]}
    return _interval(pd.Series({f"{name}{end}": value for end, value in ends.items()}), name)


def loss_table(losses: pd.DataFrame) -> str:
    names = ["within_run", "levels", "beyond_distance", "same_settings", "differences", "skill", "skill_all_texts"]
    titles = ["steps of a run", "runs", "beyond distance", "repetitions", "differences", "skill, text"]
    header = ["measure", *titles, "skill, all texts"]
    rows = ([MEASURES[row["measure"]], *(_interval(row, name) for name in names)] for _, row in losses.iterrows())
    return markdown(header, rows)


def spread_table(spreads: pd.DataFrame) -> str:
    columns = ["mean_text", "mean_shuffled", "mean_uniform", "repetitions", "settings"]
    ratios = ["less_shuffled_over_repetitions", "less_uniform_over_repetitions"]
    rows = (
        [MEASURES[row["measure"]], *(f"{row[name]:.3g}" for name in columns), *(f"{row[name]:.1f}" for name in ratios)]
        for _, row in spreads.iterrows()
    )
    header = ["measure", "text", "shuffled", "uniform", "repetitions", "settings", "text - shuffled", "text - uniform"]
    return markdown(header, rows)


def fill(page: str, tables: dict[str, str]) -> str:
    """The page with each table between its two marks, `<!-- NAME -->` and `<!-- end of NAME -->`."""
    for name, text in tables.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        if not marks.search(page):
            raise ValueError(f"the page has no place for the table {name}; add its two marks")
        page = marks.sub(lambda found, text=text: f"{found[1]}\n{text}\n\n{found[2]}", page)
    return page


def results(table: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], dict[str, object]]:
    """(tables by name, headline numbers)"""
    separated = separation(table)
    return {"separation": separated, "loss": with_loss(table), "spread": spread(table)}, headline(table, separated)


def _pair(separated: pd.DataFrame, measure: str) -> str:
    row = separated[separated["step"] == separated["step"].max()].set_index("measure", drop=False).loc[measure]
    return " and ".join(_directed(row, f"reporting_{name}") for name in ("shuffled", "uniform"))


def summary(tables: dict[str, pd.DataFrame], numbers: dict) -> str:
    """The page's sentences that are nothing but numbers."""
    separated, losses = tables["separation"], tables["loss"].set_index("measure")
    low, high = numbers["control_spread_all"]
    within, of_text = numbers["text_within_control_spread"]
    positive, without = numbers["positive_where_little_is_learned"]
    growth = {
        text: " / ".join(f"{numbers[name + '_' + text]:.3f}" for name in ("emergence", *EMERGENCES)) for text in TEXTS
    }
    chosen, of_function = numbers["chosen"], numbers["chosen_function"]
    lines = [
        f"Runs analysed: {numbers['runs']} of 108: "
        + ", ".join(f"{numbers['runs_' + text]} on {text}" for text in TEXTS)
        + ".",
        f"Median held-out loss at step {numbers['last_step']}: "
        + ", ".join(f"{numbers['loss_' + text][1]:.2f} on {text}" for text in TEXTS)
        + ".",
        "Mean E / E of growth alone / E at fixed norms at that step: "
        + ", ".join(f"{growth[text]} on {text}" for text in TEXTS)
        + ".",
        f"E is above 0 in {positive} of {without} runs on bytes without order.",
        f"The range that holds 95 % of final E of runs on uniform bytes is {low:.3f} to {high:.3f}; "
        f"it holds {within} of {of_text} final E of runs on text. 95 % of |E| there are below {numbers['control_spread']:.3f}.",
        f"AUC of E, text against shuffled and uniform: {_pair(separated, 'emergence')}.",
        f"Measure of weights chosen on the choosing half: {MEASURES[chosen]}; AUC: {_pair(separated, chosen)}.",
        f"Distance in function space chosen there: {MEASURES[of_function]}; AUC: {_pair(separated, of_function)}.",
        "Rank correlation with the loss among runs on text at one step: "
        + ", ".join(f"{MEASURES[name]} {_interval(losses.loc[name], 'levels')}" for name in IN_SUMMARY)
        + ".",
        f"E, after the distance from start is taken out as well: {_interval(losses.loc['emergence'], 'beyond_distance')}.",
    ]
    return "\n".join(f"- {line}" for line in lines)


DEMO_STEPS = (0, 16, 64, 256, 1000, 4000)
COUPLINGS = ("coupling_mlp", "coupling_vo", "coupling_qk", "coupling_across")


def demo_table(demo: pd.DataFrame) -> str:
    """Couplings and spikes of the demo suite beside its loss and E."""
    columns = ["step", "loss", "emergence", *COUPLINGS, "spikes"]
    rows = []
    for step, loss, emergence, *rest in demo[demo["step"].isin(DEMO_STEPS)][columns].itertuples(index=False):
        *couplings, spikes = (round(value, 2) + 0.0 for value in rest)
        rows.append(
            [f"{step}", f"{loss:.2f}", f"{emergence:.3f}", *(f"{value:.2f}" for value in couplings), f"{spikes:.1f}"]
        )
    return markdown(["step", "loss", "E", "coupling: MLP", "v-o", "q-k", "across blocks", "spikes a matrix"], rows)


def demo_correlations_table(demo: pd.DataFrame) -> str:
    rows = ([MEASURES[name], f"{value:.3f}"] for name, value in demo_correlations(demo).items())
    return markdown(["measure", "rank correlation with held-out loss"], rows)


def page_tables(tables: dict[str, pd.DataFrame], numbers: dict) -> dict[str, str]:
    return {
        "demo": demo_table(tables["demo"]),
        "demo correlations": demo_correlations_table(tables["demo"]),
        "numbers": summary(tables, numbers),
        "separation": separation_table(tables["separation"]),
        "loss": loss_table(tables["loss"]),
        "spread": spread_table(tables["spread"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the tables and figures of docs/what-does-e-see.md.")
    parser.add_argument(
        "--study", type=Path, default=ROOT / "docs" / "study", help="folder of the tables (%(default)s)"
    )
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "what-does-e-see.md", help="page (%(default)s)")
    parser.add_argument("--figures", type=Path, default=ROOT / "docs" / "figures", help="folder (%(default)s)")
    options = parser.parse_args()
    table = read_measures(options.study / "measures.parquet")
    tables, numbers = results(table)
    shipped = pd.read_csv(options.study / "demo.csv")
    for name, rows in tables.items():
        rows.to_csv(options.study / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    (options.study / "headline.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    page = fill(options.page.read_text(encoding="utf-8"), page_tables(tables | {"demo": shipped}, numbers))
    options.page.write_text(page, encoding="utf-8")
    sys.path.insert(0, str(Path(__file__).parent))
    from controls_study_figures import draw

    draw(table, tables, options.figures)
    print(f"{numbers['runs']} of 108 runs, {numbers['checkpoints']} checkpoints; chosen: {numbers['chosen']}")


if __name__ == "__main__":
    main()
