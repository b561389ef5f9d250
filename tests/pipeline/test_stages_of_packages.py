"""Stages of installed packages: one file and an entry point are all it takes, and what is wrong with one is said in one line."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from driving import process, write_dag
from suites import write_suite

from ninscope.checkpoints.source import open_source
from ninscope.errors import RequestError
from ninscope_pipeline.stages import registry
from ninscope_pipeline.stages.network import NETWORK

EXAMPLE = Path(__file__).parents[1] / "data" / "ninscope-norms"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> dict[str, str]:
    """An environment with the example package installed, by pip, from a copy (a build leaves files behind)."""
    place = tmp_path_factory.mktemp("package")
    for file in EXAMPLE.iterdir():
        if file.is_file():
            (place / file.name).write_bytes(file.read_bytes())
    target = place / "installed"
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
            "--disable-pip-version-check", "--target", target, place,
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    paths = [str(target), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def test_a_package_adds_a_stage_with_its_section_table_and_figure(installed, tmp_path):
    suite = write_suite(tmp_path / "weights", (0, 1), blocks=1, width=16, heads=2)
    dag = write_dag(tmp_path / "tiny.toml", Path("weights"))
    dag.write_text(dag.read_text() + "\n[norms]\nscale = 2.0\n")
    command = ("run", dag, "--runs-dir", tmp_path / "runs")
    planned = process(*command, "--dry-run", env=installed)
    assert [name for name in planned.would_run if name[0] == "norms"] == [
        ("norms", "tiny/weights step0"), ("norms", "tiny/weights step1"),
    ]  # fmt: skip
    assert "2 norms" in planned.out
    ended = process(*command, env=installed)
    assert (ended.code, ended.says) == (0, [])
    run = tmp_path / "runs" / "tiny"
    rows = pd.read_parquet(run / "tables" / "norms.parquet").set_index("revision")
    for step in (0, 1):
        tensors = open_source(suite).open(f"step{step}").tensors.values()
        matrices = [tensor.rows(np.arange(tensor.shape[0]))[0] for tensor in tensors if len(tensor.shape) == 2]
        norm = np.sqrt(sum((matrix.astype(np.float64) ** 2).sum() for matrix in matrices))
        assert rows.loc[f"step{step}", "norm"] == pytest.approx(2 * norm, rel=1e-12)
    assert (run / "figures" / "weights-norms.png").stat().st_size > 1000
    status = process("status", run, env=installed)
    assert status.code == 0
    assert any("norms" in line and line.split("│")[2:4] for line in status.out.splitlines()), status.out
    again = process(*command, env=installed)
    assert "nothing to run" in again.out
    changed = dag.read_text().replace("scale = 2.0", "scale = 3.0")
    dag.write_text(changed)
    stages = {stage for stage, _ in process(*command, "--dry-run", env=installed).would_run}
    assert stages == {"norms", "tables", "figures"}


def test_without_the_package_its_section_is_no_key(tmp_path):
    dag = write_dag(tmp_path / "tiny.toml", Path("weights"))
    dag.write_text(dag.read_text() + "\n[norms]\nscale = 2.0\n")
    ended = process("run", dag, "--runs-dir", tmp_path / "runs")
    assert (ended.code, ended.says) == (2, [f"{dag}: norms: no such key"])


@pytest.fixture
def packages(monkeypatch):
    """Have installed packages offer these entry points."""

    def offer(**values: str) -> None:
        entries = [EntryPoint(name, value, registry.GROUP) for name, value in values.items()]
        monkeypatch.setattr(registry, "entry_points", lambda group: entries)
        registry.stages.cache_clear()

    yield offer
    monkeypatch.undo()
    registry.stages.cache_clear()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("absent_module:STAGE", r"the stage 'x' of absent_module:STAGE cannot be loaded \(ModuleNotFoundError"),
        ("ninscope_pipeline.stages.network:NetworkStage", r"the stage 'x' .* is no .*Stage object"),
        ("ninscope_pipeline.stages.network:NETWORK", r"the stage 'nin' .* takes the name of another; rename it"),
    ],
)
def test_a_stage_that_cannot_be_used_is_refused(packages, value, says):
    packages(x=value)
    with pytest.raises(RequestError, match=says):
        registry.stages()


def test_the_stages_that_ship_are_listed_once_in_the_order_in_which_they_run(packages):
    packages()
    assert list(registry.stages()) == [
        "nin", "spectra", "ranges", "parts", "exact", "nulls", "finetune", "activations", "emergence",
    ]  # fmt: skip
    assert registry.stages()["nin"] is NETWORK
