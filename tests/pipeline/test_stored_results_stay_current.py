"""A run folder that commit e49790d wrote, with every stage that there was: today's code has nothing to run in it.

tests/data/run-of-e49790d.toml is its DAG file. Results are found by content keys, so a key that changes without need would cost
users every number they have.
"""

import tarfile
from pathlib import Path

import pytest
from driving import command, results

ROOT = Path(__file__).parents[2]
NAME = "run-of-e49790d"


@pytest.fixture
def runs(tmp_path):
    """A folder of runs with the old one in it."""
    with tarfile.open(ROOT / "tests" / "data" / f"{NAME}.tar.xz") as archive:
        archive.extractall(tmp_path / "runs", filter="data")
    return tmp_path / "runs"


@pytest.fixture
def dag(tmp_path):
    text = (ROOT / "tests" / "data" / f"{NAME}.toml").read_text()
    path = tmp_path / "old.toml"
    path.write_text(text.replace("../data", str(ROOT / "data")))
    return path


def test_an_old_run_has_nothing_to_run(runs, dag):
    before = results(runs / "old")
    planned = command("run", dag, "--runs-dir", runs, "--dry-run")
    assert planned.code == 0, planned.err
    assert planned.would_run == []
    assert "would run nothing" in planned.out
    done = command("run", dag, "--runs-dir", runs)
    assert (done.code, "nothing to run" in done.out) == (0, True), done.err
    assert results(runs / "old") == before


def test_what_was_asked_otherwise_is_run(runs, dag):
    dag.write_text(dag.read_text().replace("samples = 2\nparts", "samples = 3\nparts"))
    stages = {stage for stage, _ in command("run", dag, "--runs-dir", runs, "--dry-run").would_run}
    assert stages == {"nin", "spectra", "emergence", "tables", "figures"}


def test_figures_are_drawn_again_from_tables_that_were_there(runs, dag):
    """A table that was not there yet is one without rows."""
    dag.write_text(dag.read_text() + '\n[figures]\nformats = ["svg"]\n')
    assert {stage for stage, _ in command("run", dag, "--runs-dir", runs, "--dry-run").would_run} == {"figures"}
    done = command("run", dag, "--runs-dir", runs)
    assert done.code == 0, done.err
    assert list((runs / "old" / "figures").glob("*.svg"))
