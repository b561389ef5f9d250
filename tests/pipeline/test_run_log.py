"""The run's log folder: a job in which ninscope itself failed is told of once, for as long as it fails."""

from pathlib import Path

import dask
import pandas as pd
import pytest
from driving import command, contents, write_dag
from forked import dask_workers
from suites import write_suite

from ninscope_pipeline import result_files, survey
from ninscope_pipeline.execution.here import ThreadsHere
from ninscope_pipeline.execution.job import run_job
from ninscope_pipeline.outcome import Outcome, attempt
from ninscope_pipeline.prepared_run import finish, perform, prepare, start
from ninscope_pipeline.request.dagfile import load_dag
from ninscope_pipeline.stages.exact import ExactStage
from ninscope_pipeline.stages.network import NetworkStage

pytestmark = pytest.mark.usefixtures("undrawn")

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


def breaks(monkeypatch, stage: type, step: int) -> None:
    """Have a stage's work fail at one step, by a fault of ours."""
    real = stage.make

    def broken(self, store, job):
        if job.checkpoint.step == step:
            raise ZeroDivisionError("a fault of ours")
        return real(self, store, job)

    monkeypatch.setattr(stage, "make", broken)


def performed(dag: Path) -> dict:
    """Run a DAG file in threads of this process; its outcomes."""
    prepared = prepare(load_dag(dag), dag.parent / "runs")
    start(prepared)
    outcomes = perform(prepared, ThreadsHere(2), lambda *_: None)
    finish(prepared)
    return outcomes


def test_a_fault_of_ours_is_told_of_once_and_stops_no_other(dag, run, monkeypatch):
    breaks(monkeypatch, NetworkStage, 1)
    breaks(monkeypatch, ExactStage, 8)
    outcomes = performed(dag)
    monkeypatch.undo()
    failed = sorted(stage for (stage, _), outcome in outcomes.items() if not outcome.ok)
    assert failed == ["exact", "nin", "nulls", "spectra"]  # two faults, and what depends on them
    logs = {path.name: path.read_text() for path in (run / "log").iterdir()}
    assert sorted(name.split("-")[0] for name in logs) == ["exact", "nin"]
    for name, text in logs.items():
        assert text.count("Traceback") == 1
        assert "in broken" in text
        assert text.endswith("ZeroDivisionError: a fault of ours\n")
        step, method = {"nin": (1, "sampled"), "exact": (8, "exact")}[name.split("-")[0]]
        assert rows(run).loc[step, ["status", "message"]].tolist() == [
            "failed", f"{method}: ZeroDivisionError: a fault of ours (see log/{name})",
        ]  # fmt: skip
    assert rows(run).loc[0, "status"] == "ok"
    ended = command("run", dag, "--runs-dir", run.parent)
    assert (ended.code, ended.says) == (0, [])
    assert set(rows(run)["status"]) == {"ok"}
    assert list((run / "log").iterdir()) == []


def test_a_fault_that_stays_leaves_one_file_and_goes_when_another_run_succeeds(dag, run, monkeypatch):
    breaks(monkeypatch, NetworkStage, 1)
    for _ in range(2):
        performed(dag)
        (log,) = (run / "log").iterdir()
        assert log.read_text().count("Traceback") == 1
    monkeypatch.undo()
    before = contents(run / "log")
    log.rename(run / "kept.txt")
    assert command("run", dag, "--runs-dir", run.parent).code == 0
    (run / "kept.txt").rename(log)  # as if another run of this folder had made the artefact
    assert contents(run / "log") == before
    assert command("run", dag, "--runs-dir", run.parent).code == 0
    assert list((run / "log").iterdir()) == []


def test_tables_that_cannot_be_made_are_told_of(dag, run, monkeypatch):
    def broken(*_) -> Outcome:
        def work() -> None:
            raise ZeroDivisionError("a fault of ours")

        return attempt("tables", "all", work)

    monkeypatch.setattr(result_files, "store_tables", broken)
    outcomes = performed(dag)
    monkeypatch.undo()
    assert outcomes["tables", "all"].message == "ZeroDivisionError: a fault of ours (see log/tables-all.txt)"
    assert [path.name for path in (run / "log").iterdir()] == ["tables-all.txt"]
    assert command("run", dag, "--runs-dir", run.parent).code == 0
    assert list((run / "log").iterdir()) == []


def test_a_fault_while_locating_is_told_of(dag, run, monkeypatch):
    def faulty(*_):
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(survey.Located, "opened", faulty)
    ended = command("run", dag, "--runs-dir", run.parent)
    assert ended.code == 1
    names = [f"locate-tiny-weights-step{step}.txt" for step in STEPS]
    assert ended.says == [
        f"tiny/weights step{step}: failed: ZeroDivisionError: a fault of ours (see log/{name})"
        for step, name in zip(STEPS, names, strict=True)
    ]
    assert sorted(path.name for path in (run / "log").iterdir()) == names
    assert all("in faulty" in (run / "log" / name).read_text() for name in names)
    monkeypatch.undo()
    assert command("run", dag, "--runs-dir", run.parent).code == 0
    assert list((run / "log").iterdir()) == []


def test_a_revision_of_any_length_has_a_file_in_the_log(dag, run, monkeypatch):
    def faulty(*_):
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(survey.Located, "opened", faulty)
    names = ["step1" + letter * 251 for letter in "x\N{LATIN SMALL LETTER E WITH ACUTE}"]
    names.append(names[0] + "y")
    long = write_dag(dag.parent / "tiny.toml", Path("weights"), revisions=names)
    ended = command("run", long, "--runs-dir", run.parent)
    assert (ended.code, len(ended.says)) == (1, 3)
    files = sorted(path.name for path in (run / "log").iterdir())
    assert len(files) == 3
    assert all(len(name.encode()) <= 255 and name in ended.err for name in files)


@pytest.mark.slow
def test_a_job_that_kills_its_workers_is_told_of_with_them(dag, run):
    """A worker dies whenever it samples the network of step 1: what it looks like when the system kills it for memory."""
    preload = dag.parent / "deadly.py"
    preload.write_text(
        "import os\n"
        "from ninscope_pipeline.stages.network import NetworkStage\n"
        "real = NetworkStage.make\n"
        "def make(self, store, job, real=real):\n"
        "    if job.checkpoint.step == 1:\n"
        "        os._exit(1)\n"
        "    return real(self, store, job)\n"
        "NetworkStage.make = make\n"
    )
    text = dag.read_text()
    dag.write_text(f'{text}\n[cluster]\nkind = "local"\nworkers = 2\nprocesses = true\n')
    # So that Dask takes it for the killer at once, not after three more deaths.
    at_once = {"distributed.worker.preload": [str(preload)], "distributed.scheduler.allowed-failures": 0}
    with dask_workers(), dask.config.set(at_once):
        ended = command("run", dag, "--runs-dir", run.parent)
    dag.write_text(text)
    assert ended.code == 1
    names = sorted(path.name for path in (run / "log").iterdir())
    assert names[0] == "lost-workers.txt"
    (job,) = names[1:]
    assert job.startswith("nin-")
    said = f"the worker died over it each time, perhaps for lack of memory (see log/{job})"
    assert rows(run).loc[1, ["status", "message"]].tolist() == ["failed", f"sampled: {said}"]
    assert set(rows(run).loc[[0, 8], "status"]) == {"ok"}
    emergence = pd.read_parquet(run / "tables" / "emergence.parquet")
    assert emergence[emergence["method"] == "sampled"]["step"].tolist() == [0, 8]
    assert "died while running it" in (run / "log" / job).read_text()
    deaths = (run / "log" / "lost-workers.txt").read_text().splitlines()
    assert job.removesuffix(".txt") in deaths[0]
    ended = command("run", dag, "--runs-dir", run.parent)
    assert (ended.code, ended.says) == (0, [])
    assert [path.name for path in (run / "log").iterdir()] == ["lost-workers.txt"]


def test_a_job_keeps_no_traceback_of_one_that_it_needs(dag, run):
    plan = prepare(load_dag(dag), run.parent).plan
    job = next(job for job in plan.to_run if job.stage == "spectra")
    failed = Outcome("failed", "ZeroDivisionError: a fault of ours (see log/nin-key.txt)", "Traceback ...")
    passed = run_job(run, job, [failed])
    assert (passed.status, passed.message, passed.trace) == (failed.status, failed.message, "")
