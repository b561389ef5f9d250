"""The run's log folder: a task in which ninscope itself failed is told of once, for as long as it fails."""

import os
from pathlib import Path

import pandas as pd
import pytest
from driving import command, contents, write_dag
from suites import write_suite

from ninscope_pipeline import graph as graphs
from ninscope_pipeline.asked.dagfile import load_dag
from ninscope_pipeline.run import finish, perform, prepare, start
from ninscope_pipeline.stages import exact, locate, network, spectrum, tables
from ninscope_pipeline.stages.outcome import attempt
from ninscope_pipeline.workers.execute import connected

SHAPE = {"blocks": 1, "width": 16, "heads": 2}
STEPS = (0, 1, 8)


@pytest.fixture
def dag(tmp_path) -> Path:
    write_suite(tmp_path / "weights", STEPS, **SHAPE)
    nulls = {"models": ["analytic"], "samples": 1}
    return write_dag(tmp_path / "tiny.toml", Path("weights"), exact=True, nulls=nulls)


@pytest.fixture
def run(dag) -> Path:
    return dag.parent / "runs" / "tiny"


def rows(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "tables" / "checkpoints.parquet").set_index("step")


def broken(stage: str, key: str):
    def work() -> None:
        raise ZeroDivisionError("a fault of ours")

    return attempt(stage, key, work)


def broken_network(root, located, parameters, key):
    """As `network.store_network`, with a fault that shows at one step."""
    return broken("nin", key) if located.step == 1 else network.store_network(root, located, parameters, key)


def broken_exact(root, located, parameters, matrices, key):
    return broken("exact", key) if located.step == 8 else exact.store_exact(root, located, parameters, matrices, key)


def deadly_network(root, located, parameters, key):
    if located.step == 1:
        os._exit(1)  # what a worker looks like when the system kills it for memory
    return network.store_network(root, located, parameters, key)


def broken_tables(root, *_):
    return broken("tables", "all")


def performed(dag: Path, client, monkeypatch, **broken) -> dict:
    """Run a DAG file with functions of stages replaced by broken ones; its outcomes."""
    prepared = prepare(load_dag(dag), dag.parent / "runs")
    start(prepared)
    for name, work in broken.items():
        module = {"store_network": network, "store_exact": exact, "store_tables": tables}[name]
        monkeypatch.setattr(graphs, module.__name__.rpartition(".")[2], Replaced(module, name, work))
    outcomes = perform(prepared, client, lambda *_: None)
    finish(prepared)
    monkeypatch.undo()
    return outcomes


class Replaced:
    """A module with another function under one of its names."""

    def __init__(self, module, name: str, work):
        self._module = module
        setattr(self, name, work)

    def __getattr__(self, name: str):
        return getattr(self._module, name)


@pytest.fixture(scope="module")
def client():
    with connected(None, 2) as client:
        yield client


def test_a_fault_of_ours_is_told_of_once_and_stops_no_other(dag, run, client, scheduler, monkeypatch):
    outcomes = performed(dag, client, monkeypatch, store_network=broken_network, store_exact=broken_exact)
    failed = sorted(stage for (stage, _), outcome in outcomes.items() if not outcome.ok)
    assert failed == ["exact", "nin", "nulls", "spectra"]  # two faults, and what depends on them
    logs = {path.name: path.read_text() for path in (run / "log").iterdir()}
    assert sorted(name.split("-")[0] for name in logs) == ["exact", "nin"]
    for name, text in logs.items():
        assert text.count("Traceback") == 1
        assert "in work" in text
        assert text.endswith("ZeroDivisionError: a fault of ours\n")
        step, method = {"nin": (1, "sampled"), "exact": (8, "exact")}[name.split("-")[0]]
        assert rows(run).loc[step, ["status", "message"]].tolist() == [
            "failed", f"{method}: ZeroDivisionError: a fault of ours (see log/{name})",
        ]  # fmt: skip
    assert rows(run).loc[0, "status"] == "ok"
    ended = command("run", dag, "--runs-dir", run.parent, "--scheduler", scheduler)
    assert (ended.code, ended.says) == (0, [])
    assert set(rows(run)["status"]) == {"ok"}
    assert list((run / "log").iterdir()) == []


def test_a_fault_that_stays_leaves_one_file_and_goes_when_another_run_succeeds(
    dag, run, client, scheduler, monkeypatch
):
    for _ in range(2):
        performed(dag, client, monkeypatch, store_network=broken_network)
        (log,) = (run / "log").iterdir()
        assert log.read_text().count("Traceback") == 1
    before = contents(run / "log")
    log.rename(run / "kept.txt")
    assert command("run", dag, "--runs-dir", run.parent, "--scheduler", scheduler).code == 0
    (run / "kept.txt").rename(log)  # as if another run of this folder had made the artefact
    assert contents(run / "log") == before
    assert command("run", dag, "--runs-dir", run.parent, "--scheduler", scheduler).code == 0
    assert list((run / "log").iterdir()) == []


def test_tables_that_cannot_be_made_are_told_of(dag, run, client, scheduler, monkeypatch):
    outcomes = performed(dag, client, monkeypatch, store_tables=broken_tables)
    assert outcomes["tables", "all"].message == "ZeroDivisionError: a fault of ours (see log/tables-all.txt)"
    assert [path.name for path in (run / "log").iterdir()] == ["tables-all.txt"]
    assert command("run", dag, "--runs-dir", run.parent, "--scheduler", scheduler).code == 0
    assert list((run / "log").iterdir()) == []


def test_a_fault_while_locating_is_told_of(dag, run, monkeypatch, scheduler):
    real = locate.architecture_of

    def faulty(*_):
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(locate, "architecture_of", faulty)
    ended = command("run", dag, "--runs-dir", run.parent)  # located here, on threads
    assert ended.code == 1
    names = [f"locate-tiny-weights-step{step}.txt" for step in STEPS]
    assert ended.says == [
        f"tiny/weights step{step}: failed: ZeroDivisionError: a fault of ours (see log/{name})"
        for step, name in zip(STEPS, names, strict=True)
    ]
    assert sorted(path.name for path in (run / "log").iterdir()) == names
    assert all("in faulty" in (run / "log" / name).read_text() for name in names)
    monkeypatch.setattr(locate, "architecture_of", real)
    assert command("run", dag, "--runs-dir", run.parent, "--scheduler", scheduler).code == 0
    assert list((run / "log").iterdir()) == []


@pytest.mark.slow
def test_a_task_that_kills_its_workers_is_told_of_with_them(dag, run, client, scheduler, monkeypatch):
    outcomes = performed(dag, client, monkeypatch, store_network=deadly_network)
    lost = [stage for (stage, _), outcome in outcomes.items() if outcome.lost]
    assert sorted(lost) == ["nin", "spectra"]
    names = sorted(path.name for path in (run / "log").iterdir())
    assert names[0] == "lost-workers.txt"
    (task,) = names[1:]
    assert task.startswith("nin-")
    said = f"the worker died over it each time, perhaps for lack of memory (see log/{task})"
    assert rows(run).loc[1, ["status", "message"]].tolist() == ["failed", f"sampled: {said}"]
    assert set(rows(run).loc[[0, 8], "status"]) == {"ok"}
    assert "died while running it" in (run / "log" / task).read_text()
    deaths = (run / "log" / "lost-workers.txt").read_text().splitlines()
    assert len(deaths) >= 4
    assert all(task.removesuffix(".txt") in line for line in deaths[:1])
    ended = command("run", dag, "--runs-dir", run.parent, "--scheduler", scheduler)
    assert (ended.code, ended.says) == (0, [])
    assert [path.name for path in (run / "log").iterdir()] == ["lost-workers.txt"]


def test_a_spectrum_keeps_no_traceback_of_its_network(tmp_path):
    failed = broken("nin", "key")
    passed = spectrum.store_spectrum(str(tmp_path), failed, "key", None, "other")
    assert (passed.status, passed.message, passed.trace) == (failed.status, failed.message, "")
    assert failed.trace
