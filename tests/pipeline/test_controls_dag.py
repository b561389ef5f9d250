"""dags/controls.toml, at three revisions: the demo suite's controls are what docs/what-does-e-see.md prints."""

import re
from pathlib import Path

import pandas as pd
import pytest
from driving import command

import ninscope

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "what-does-e-see.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.slow
def test_the_demo_suites_controls_are_those_of_the_page(tmp_path):
    text = (ROOT / "dags" / "controls.toml").read_text().replace("../data/", f"{ROOT}/data/")
    dag = tmp_path / "controls.toml"
    dag.write_text(text.replace("\n[analysis]", '\nrevisions = ["step0", "step64", "step4000"]\n\n[analysis]', 1))
    ended = command("run", dag, "--runs-dir", tmp_path)
    assert ended.code == 0, ended.err
    run = ninscope.open_run(tmp_path / "controls")
    start, early, late = (row for _, row in run.table("controls").sort_values("step").iterrows())
    rows = {
        "E": ("emergence", 3), "E of growth alone": ("emergence_growth", 3), "E at fixed norms": ("emergence_fixed", 3),
        "w at unit norms": ("width_unit", 3), "alpha0 at unit norms": ("alpha0_unit", 3),
    }  # fmt: skip
    for name, (column, digits) in rows.items():
        values = ["0" if row[column] == 0 else f"{row[column]:.{digits}f}" for row in (start, late)]
        assert re.search(rf"^\| {name}.* \| {values[0]} \| {values[1]} \|$", PAGE, re.MULTILINE), (name, values)
    assert f"is {late['structure']:.2f}, " in PAGE
    assert f"is {late['structure_low']:.2f} to {late['structure_high']:.2f}:" in PAGE.replace("\n", " ")
    shipped = pd.read_csv(ROOT / "docs" / "study" / "demo.csv").set_index("step")
    for row in (start, early, late):
        for column in ("emergence", "emergence_growth", "emergence_fixed", "structure", "structure_low"):
            assert row[column] == pytest.approx(shipped[column][row["step"]], rel=1e-5, abs=1e-9), column
    kinds = run.table("interactions").pivot_table(index="step", columns="kind", values="coupling")
    for step, row in ((64, early), (4000, late)):
        values = " | ".join(f"{kinds[kind][step]:.2f}" for kind in ("mlp", "vo", "qk", "across"))
        assert f"| {row['emergence']:.3f} | {values} |" in PAGE
