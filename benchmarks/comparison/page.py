"""The tables of docs/compare-tools.md and its figure, from what docs/comparison/ holds."""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.comparison.correlating import STATISTICS
from benchmarks.comparison.environments import ROOT

sys.path.insert(0, str(ROOT / "data"))

from analyse_controls_study import MEASURES, fill, markdown

SHOWN_STEPS = (0, 16, 64, 256, 1000, 4000)
# (tool, measure, digits) of the table over steps: what each tool's users look at first, and what two tools both give.
OVER_STEPS = (
    ("ninscope", "emergence", 3),
    ("ninscope", "coupling_qk", 3),
    ("ninscope", "distance_from_start", 1),
    ("ninscope", "stable_rank", 1),
    ("ninscope", "spectral_alpha", 2),
    ("weightwatcher", "alpha", 2),
    ("weightwatcher", "alpha_weighted", 2),
    ("weightwatcher", "stable_rank", 1),
    ("weightwatcher", "mp_softrank", 3),
    ("transformers by hand", "norm", 1),
    ("transformers by hand", "text_loss", 2),
    ("statistics of pico-analyze", "per", 3),
    ("statistics of pico-analyze", "condition_number", 0),
    ("statistics of pico-analyze", "cka", 3),
)
# What the measures of the other tools are called on the page, where their own names do not say it.
LABELS = {
    "text_loss": "loss on another text",
    "kl_from_start": "KL of outputs from start",
    "distance_from_start": "distance from start",
    "cosine_to_start": "cosine to start",
    "norm": "norm of weights",
    "cka": "CKA with the last checkpoint",
    "pwcca": "PWCCA with the last checkpoint",
    "per": "proportional effective rank",
    "norm_frobenius": "Frobenius norm",
    "norm_nuclear": "nuclear norm",
    "norm_inf": "largest weight",
    "condition_number": "condition number",
    "gini": "Gini",
    "hoyer": "Hoyer",
}
TASKS = {
    "import": "start Python and import it",
    "checkpoint": "one checkpoint",
    "suite": "all 14 in one process",
    "all measures": "all 14, all measures, tables and figures",
}
STRONG = 0.8  # a rank correlation that would be called high
OF_PICO = "statistics of pico-analyze"
COLOURS = {"ninscope": "#1b9e77", "weightwatcher": "#d95f02", "transformers by hand": "#7570b3", OF_PICO: "#666666"}


def read(stored: Path) -> dict[str, Any]:
    """What docs/comparison/ holds: "costs", "measures", "correlations" as frames, and "tools"."""
    tables: dict[str, Any] = {
        name: pd.read_csv(stored / f"{name}.csv") for name in ("costs", "measures", "correlations")
    }
    return tables | {"tools": json.loads((stored / "tools.json").read_text(encoding="utf-8"))}


def label(tool: str, measure: str) -> str:
    if tool == "ninscope":
        return MEASURES.get(measure, LABELS.get(measure, measure))
    if tool == "weightwatcher":
        return f"`{measure}`"
    return LABELS.get(measure, measure)


# --- costs -------------------------------------------------------------------------------------------------
def per_checkpoint(costs: pd.DataFrame) -> pd.DataFrame:
    """A row a tool, of one checkpoint in a process of its own: medians of cpu_seconds and wall_seconds over the checkpoints, the
    `least` and the `most` of the first, and the most of peak_bytes.
    """
    rows = costs[costs["task"] == "checkpoint"].groupby("tool", sort=False)
    return rows.agg(
        cpu_seconds=("cpu_seconds", "median"),
        least=("cpu_seconds", "min"),
        most=("cpu_seconds", "max"),
        wall_seconds=("wall_seconds", "median"),
        peak_bytes=("peak_bytes", "max"),
    )


def times(value: float) -> str:
    """ "2.4 x", with two digits that mean something"""
    return f"{value:.1f} x" if value < 9.95 else f"{value:.0f} x"


def costs_table(costs: pd.DataFrame) -> str:
    """A row a tool and task: CPU seconds, wall seconds, peak memory, and how many times ninscope's the CPU and memory are."""
    rows = []
    checkpoints = per_checkpoint(costs)
    other = costs[costs["task"] != "checkpoint"].set_index(["tool", "task"])
    for tool, task in itertools.product(checkpoints.index, TASKS):
        if task == "checkpoint":
            spent, own = checkpoints.loc[tool], checkpoints.loc["ninscope"]
            seconds = f"{spent['cpu_seconds']:.2f} ({spent['least']:.2f} to {spent['most']:.2f})"
        elif (tool, task) in other.index and (tool, task) != (OF_PICO, "import"):  # nobody imports this package's lines
            spent, own = other.loc[(tool, task)], other.loc[("ninscope", task)]
            seconds = f"{spent['cpu_seconds']:.2f}"
        else:
            continue
        cpu, memory = (times(spent[name] / own[name]) for name in ("cpu_seconds", "peak_bytes"))
        beside = ("", "") if tool == "ninscope" or task == "import" else (cpu, memory)
        wall, peak = f"{spent['wall_seconds']:.2f}", f"{spent['peak_bytes'] / 1e6:.0f}"
        rows.append([tool, TASKS[task], seconds, beside[0], wall, peak, beside[1]])
    header = ["tool", "task", "CPU, s", "CPU beside ninscope", "wall, s", "peak memory, MB", "memory beside ninscope"]
    return markdown(header, rows)


def sizes_table(tools: dict[str, Any]) -> str:
    """A row an environment: versions, distributions, megabytes with and without torch."""
    rows = []
    for name, of_tool in tools["tools"].items():
        if name == OF_PICO:  # no installation of pico-analyze
            continue
        versions = ", ".join(f"{package} {version}" for package, version in of_tool["versions"].items())
        whole, of_torch = of_tool["bytes"]["all"], of_tool["bytes"]["torch"]
        torch = f"{of_torch / 1e6:.0f}" if of_torch else "not needed"
        rows.append([name, versions, str(of_tool["distributions"]), f"{(whole - of_torch) / 1e6:.0f}", torch])
    return markdown(["tool", "versions", "distributions", "MB without torch", "MB of torch (CPU build)"], rows)


# --- measures ----------------------------------------------------------------------------------------------
def over_steps_table(measures: pd.DataFrame) -> str:
    values = measures.set_index(["tool", "measure", "step"])["value"]
    rows = (
        [tool, label(tool, name), *(_number(values.get((tool, name, step), np.nan), digits) for step in SHOWN_STEPS)]
        for tool, name, digits in OVER_STEPS
    )
    return markdown(["tool", "measure", *(f"step {step}" for step in SHOWN_STEPS)], rows)


def _number(value: float, digits: int) -> str:
    return "" if not np.isfinite(value) else f"{round(value, digits) + 0.0:.{digits}f}"


def _interval(row: pd.Series, name: str) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return "" if not np.isfinite(value) else f"{value + 0.0:.2f} ({low:.2f} to {high:.2f})"


def beyond_chance(correlations: pd.DataFrame, name: str) -> pd.DataFrame:
    """The measures whose correlation is above that of random walks in size, with an interval without 0."""
    chance = correlations.set_index("tool").loc["chance", name]
    apart = (correlations[f"{name}_low"] > 0) | (correlations[f"{name}_high"] < 0)
    return correlations[(correlations[name].abs() > chance) & apart & (correlations["tool"] != "chance")]


def correlations_table(correlations: pd.DataFrame) -> str:
    rows = []
    for _, row in correlations.iterrows():
        if row["tool"] == "chance":
            continue
        rows.append([row["tool"], label(row["tool"], row["measure"]), *(_interval(row, name) for name in STATISTICS)])
    chance = correlations.set_index("tool").loc["chance"]
    rows.append(["chance", "95 % of random walks stay below", *(f"{chance[name]:.2f}" for name in STATISTICS)])
    return markdown(["tool", "measure", "levels", "step taken out", "step and its square", "differences"], rows)


def summary(tables: dict[str, Any]) -> str:
    """The page's sentences that are nothing but numbers."""
    correlations, costs, machine = tables["correlations"], tables["costs"], tables["tools"]["machine"]
    measured = correlations[(correlations["tool"] != "chance") & correlations["levels"].notna()]
    strong = measured[measured["levels"].abs() >= STRONG]
    turned = strong[strong["levels"] * strong["partial"] < 0]
    chance = correlations.set_index("tool").loc["chance"]
    checkpoints = per_checkpoint(costs)
    own, theirs = checkpoints.loc["ninscope"], checkpoints.loc["weightwatcher"]
    more = {name: f"{theirs[name] / own[name]:.1f}" for name in ("cpu_seconds", "peak_bytes")}
    beyond, bent = beyond_chance(correlations, "partial"), beyond_chance(correlations, "bent")
    lines = [
        f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}; one "
        f"thread a library, the least of at least {costs['runs'].min()} runs.",
        f"A checkpoint in a process of its own takes ninscope {own['cpu_seconds']:.2f} s of CPU and "
        f"{own['peak_bytes'] / 1e6:.0f} MB, weightwatcher {theirs['cpu_seconds']:.2f} s and {theirs['peak_bytes'] / 1e6:.0f} "
        f"MB: {more['cpu_seconds']} times the CPU and {more['peak_bytes']} times the memory.",
        f"Compared were {len(measured)} measures that vary over the steps. While nothing is taken out, {len(strong)} have a "
        f"rank correlation with the held-out loss of at least {STRONG:.2f} in size.",
        f"Once the step is taken out, {len(turned)} of these {len(strong)} turn their sign: what is left is how curves bend.",
        f"Beyond chance ({chance['partial']:.2f}; an interval without 0) are then {_listed(beyond)}.",
        f"Once the square is taken out as well ({chance['bent']:.2f}): {_listed(bent)}.",
        f"By both: {_listed(beyond.loc[beyond.index.intersection(bent.index)])}.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _listed(rows: pd.DataFrame) -> str:
    if rows.empty:
        return "none"
    groups = [
        f"{tool}: " + ", ".join(label(tool, name) for name in names)
        for tool, names in rows.groupby("tool", sort=False)["measure"]
    ]
    return f"{len(rows)} ({'; '.join(groups)})"


def page_tables(tables: dict[str, Any], page: str) -> str:
    """The page with its tables."""
    return fill(page, made_tables(tables))


def made_tables(tables: dict[str, Any]) -> dict[str, str]:
    """The page's tables by the name of their marks."""
    return {
        "numbers": summary(tables),
        "costs": costs_table(tables["costs"]),
        "sizes": sizes_table(tables["tools"]),
        "over steps": over_steps_table(tables["measures"]),
        "correlations": correlations_table(tables["correlations"]),
    }


# --- the figure ----------------------------------------------------------------------------------------------
def draw(tables: dict[str, Any], path: Path) -> None:
    """Write the figure: what every measure has to do with the loss before and after the step is taken out."""
    from ninscope.report.layout import png, styled

    correlations = tables["correlations"]
    chance = correlations.set_index("tool").loc["chance"]
    rows = correlations[(correlations["tool"] != "chance") & correlations["levels"].notna()].reset_index(drop=True)
    shown = (("levels", "nothing taken out"), ("partial", "step taken out"), ("bent", "step and its square"))
    with styled():
        figure = Figure(figsize=(7.6, 0.145 * len(rows) + 0.9))
        panels = figure.subplots(1, len(shown), sharey=True)
        for panel, (name, title) in zip(panels, shown, strict=True):
            panel.axvspan(-chance[name], chance[name], color="0.92", linewidth=0)
            panel.axvline(0, color="0.5", linewidth=0.8)
            for tool, of_tool in rows.groupby("tool", sort=False):
                known = of_tool[of_tool[name].notna()]
                ends = known[[f"{name}_low", f"{name}_high"]].to_numpy(float).T
                panel.hlines(-known.index.to_numpy(), *ends, color=COLOURS[tool], linewidth=1, alpha=0.6)
                panel.plot(known[name], -known.index.to_numpy(), "o", color=COLOURS[tool], markersize=3.2, label=tool)
            panel.set_xlim(-1.04, 1.04)
            panel.set_ylim(-len(rows) + 0.2, 0.8)
            panel.set_title(title, fontsize=9)
            panel.set_xticks([-1, -0.5, 0, 0.5, 1], ["-1", "", "0", "", "1"], fontsize=8)
        panels[1].set_xlabel("rank correlation with held-out loss", fontsize=8)
        names = [label(tool, name).strip("`") for tool, name in rows[["tool", "measure"]].itertuples(index=False)]
        panels[0].set_yticks(-rows.index.to_numpy(), names, fontsize=6.5)
        for tick, tool in zip(panels[0].get_yticklabels(), rows["tool"], strict=True):
            tick.set_color(COLOURS[tool])
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, ncols=len(labels), fontsize=7.5, loc="upper center", frameon=False)
        height = figure.get_figheight()
        figure.subplots_adjust(left=0.25, right=0.985, top=1 - 0.62 / height, bottom=0.45 / height, wspace=0.06)
    path.write_bytes(png(figure))
