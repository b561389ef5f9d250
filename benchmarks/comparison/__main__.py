"""Measure ninscope beside other tools, and write docs/comparison/, the tables of docs/compare-tools.md and its figure.

python -m benchmarks.comparison               what is kept in runs/comparison/ is not measured again
python -m benchmarks.comparison --again       times everything once more, and keeps the smaller figures
python -m benchmarks.comparison --page-only   makes the page from docs/comparison/ alone, without any of the tools
"""

import argparse
import json
from pathlib import Path

import pandas as pd

from benchmarks.comparison.correlating import correlations
from benchmarks.comparison.environments import ROOT, environment
from benchmarks.comparison.measuring import SUITE, TOOLS, costs, described, measures
from benchmarks.comparison.page import draw, page_tables, read

STORED = ROOT / "docs" / "comparison"
PAGE = ROOT / "docs" / "compare-tools.md"
FIGURE = ROOT / "docs" / "figures" / "compare-tools.png"


def measure_all(folder: Path, runs: int, again: bool) -> None:
    """Write costs.csv, measures.csv and tools.json to docs/comparison/."""
    folder.mkdir(parents=True, exist_ok=True)
    STORED.mkdir(exist_ok=True)
    environments = {name: environment(name, folder) for name in dict.fromkeys(tool.environment for tool in TOOLS)}
    measured, spent = [], []
    for tool in TOOLS:
        print(f"{tool.name}: measures", flush=True)
        measured += measures(tool, environments[tool.environment], folder)
        print(f"{tool.name}: costs", flush=True)
        spent += costs(tool, environments[tool.environment], folder, runs, again)
    _write(pd.DataFrame(measured), "measures")
    _write(pd.DataFrame(spent), "costs")
    text = json.dumps(described(TOOLS, environments), indent=2) + "\n"
    (STORED / "tools.json").write_text(text, encoding="utf-8")


def _write(rows: pd.DataFrame, name: str) -> None:
    rows.to_csv(STORED / f"{name}.csv", index=False, float_format="%.7g", lineterminator="\n")


def held_out_loss() -> pd.Series:
    """Of the suite, by step."""
    rows = pd.read_csv(SUITE / "evaluations.csv").query("task == 'held_out' and metric == 'loss'")
    return rows.set_index("step")["value"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "runs" / "comparison", help="environments and kept results"
    )
    parser.add_argument(
        "--runs", type=int, default=3, help="runs of each command, of which the least counts (default: 3)"
    )
    parser.add_argument("--again", action="store_true", help="time what is kept once more, too")
    parser.add_argument("--page-only", action="store_true", help="make the page from docs/comparison/ alone")
    options = parser.parse_args()
    if not options.page_only:
        measure_all(options.folder, options.runs, options.again)
    _write(correlations(pd.read_csv(STORED / "measures.csv"), held_out_loss()), "correlations")
    tables = read(STORED)
    PAGE.write_text(page_tables(tables, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    draw(tables, FIGURE)


if __name__ == "__main__":
    main()
