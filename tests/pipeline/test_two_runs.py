"""Two commands on one run folder at once, of one DAG file or of two that share its name: nothing is damaged, each ends well."""

import errno
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import filelock
import pandas as pd
import pytest
from driving import command, contents, write_dag
from forked import Forked
from forked import ninscope as forked_ninscope
from suites import write_suite

import ninscope
from ninscope_pipeline import figures
from ninscope_pipeline.figures import figures_key
from ninscope_pipeline.prepared_run import finish, prepare
from ninscope_pipeline.request.dagfile import load_dag
from ninscope_pipeline.storing.manifest import is_current, write_files
from ninscope_pipeline.storing.runfolder import RunFolder, StoreError
from ninscope_pipeline.storing.store import Artefact, ArtefactStore
from ninscope_pipeline.tables import all_tables

STEPS = (0, 1)
SHAPE = {"blocks": 2, "width": 24, "heads": 3}
ONLY_EXACT = {"nodes_per_layer": "all", "samples": None}


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    made.create()
    return made


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Path:
    return write_suite(tmp_path_factory.mktemp("two-runs") / "tiny", STEPS, **SHAPE)


def at_once(place: Path, *arguments) -> list[tuple[int, str]]:
    """(exit code, what it printed) of commands that run at the same time, each a process."""
    said = [place / f"said-{number}.txt" for number in range(len(arguments))]
    started = [Forked(forked_ninscope, *each, out=out) for each, out in zip(arguments, said, strict=True)]
    return [(one.wait(120), out.read_text()) for one, out in zip(started, said, strict=True)]


def assert_whole(run: Path) -> None:
    folder = RunFolder(run)
    store = ArtefactStore(folder, thorough=True)
    assert all(store.has(stage, key) for stage in store.stages() for key in store.keys(stage))
    assert store.keys("parts") == store.keys("ranges") == []
    opened = ninscope.open_run(run)
    assert opened.finished
    assert is_current(folder, folder.tables, opened.plan["tables"])
    assert not list(run.glob(".partial/*"))
    assert not list(run.glob(".locks/run-*"))
    assert not folder.log.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_two_commands_of_one_dag_file(suite, tmp_path):
    """In parts, that each clears away when it has added them up."""
    dag = write_dag(tmp_path / "tiny.toml", suite, **ONLY_EXACT, radii={"log": 40}, execution={"part_bytes": 6000})
    assert command("run", dag, "--runs-dir", tmp_path / "alone").code == 0
    for code, err in at_once(tmp_path, *[("run", dag, "--runs-dir", tmp_path / "runs", "--workers", 1)] * 2):
        assert code == 0, err
    assert_whole(tmp_path / "runs" / "tiny")
    for part in ("tables", "figures", "store.zarr"):
        assert contents(tmp_path / "runs" / "tiny" / part) == contents(tmp_path / "alone" / "tiny" / part)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_two_dag_files_of_one_name(suite, tmp_path):
    """Tables, run.toml and plan.json are of the one or of the other, never of both."""
    expected, asked = {}, []
    for number, changes in enumerate(({"min_degree": 3, "revisions": ["step0"]}, {"min_degree": 4})):
        (tmp_path / str(number)).mkdir()
        dag = write_dag(
            tmp_path / str(number) / "tiny.toml", suite, **ONLY_EXACT, **changes, execution={"part_bytes": 6000}
        )
        alone = tmp_path / str(number) / "runs"
        assert command("run", dag, "--runs-dir", alone).code == 0
        expected[number] = [contents(alone / "tiny" / part) for part in ("tables", "figures")]
        asked.append(("run", dag, "--runs-dir", tmp_path / "runs", "--workers", 1))
    for code, err in at_once(tmp_path, *asked):
        assert code == 0, err
    run = tmp_path / "runs" / "tiny"
    assert_whole(run)
    found = [contents(run / part) for part in ("tables", "figures")]
    assert found in expected.values()
    rows = len(pd.read_parquet(run / "tables" / "checkpoints.parquet"))
    opened = ninscope.open_run(run)
    assert len(opened.plan["checkpoints"]) == rows
    assert f"min_degree = {3 if rows == 1 else 4}" in (run / "run.toml").read_text()


HELD = """
    import sys, time
    from ninscope_pipeline.storing.runfolder import RunFolder
    folder = RunFolder(sys.argv[1])
    with {}:
        print("held", flush=True)
        time.sleep(600)
"""


def holding(folder: RunFolder, what: str) -> subprocess.Popen:
    """A process that holds something of a folder until it is killed."""
    held = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HELD.format(what)), str(folder.root)], stdout=subprocess.PIPE, text=True
    )
    assert held.stdout.readline() == "held\n"
    return held


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


def test_figures_are_of_the_tables_that_lie_there_when_they_are_done(folder, monkeypatch):
    """Another run writes its tables and its figures while the first one draws."""
    names = [f"{name}.parquet" for name in all_tables()]

    def tables(of: str) -> dict[str, bytes]:
        return {name: pd.DataFrame({"of": [of]}).to_parquet() for name in names}

    def drawing(read, formats, results):
        (of,) = read["checkpoints"]["of"]
        if of == "first":
            write_files(folder, folder.tables, "second", tables("second"))
            write_files(folder, folder.figures, figures_key("second"), {"second.png": b"2"})
        return {f"{of}.png": of.encode()}

    monkeypatch.setattr(figures, "draw", drawing)
    write_files(folder, folder.tables, "first", tables("first"))
    assert figures.store_figures(folder).ok
    assert is_current(folder, folder.figures, figures_key("second"))
    assert set(contents(folder.figures)) == {"second.png", "manifest.json"}


def test_figures_of_another_run_s_tables_are_left_to_it(folder, monkeypatch):
    """What it measured of single neurons lies under keys that this request does not know."""
    drawn = []

    def drawing(tables, formats, results):
        drawn.append(results.request)
        return {"own.png": b"1"}

    monkeypatch.setattr(figures, "draw", drawing)
    monkeypatch.setattr(figures, "tables_key", lambda request: request)
    write_files(folder, folder.tables, "theirs", {})
    assert figures.store_figures(folder, request="ours").ok
    assert drawn == []
    assert not folder.figures.exists() or contents(folder.figures) == {}
    assert figures.store_figures(folder, request="theirs").ok
    assert drawn == ["theirs"]
    assert is_current(folder, folder.figures, figures_key("theirs"))


def test_parts_of_a_run_at_work_are_left_and_those_of_a_dead_one_cleared(suite, tmp_path):
    dag = write_dag(tmp_path / "tiny.toml", suite, **ONLY_EXACT)
    prepared = prepare(load_dag(dag), tmp_path)
    prepared.folder.create()
    store = ArtefactStore(prepared.folder)
    asked, other = prepared.plan.to_run[0].key, "0" * 32
    for key in (asked, other):
        store.write("parts", f"{key}-1-of-7", Artefact({}, {}))
    process = holding(prepared.folder, "folder.occupied()")
    finish(prepared)
    assert len(store.keys("parts")) == 2
    store.write("exact", other, Artefact({}, {}))
    finish(prepared)
    assert store.keys("parts") == [f"{asked}-1-of-7"]  # what is done needs no parts, whoever is at work
    store.remove("exact", other)
    store.write("parts", f"{other}-1-of-7", Artefact({}, {}))
    kill(process)
    finish(prepared)
    assert store.keys("parts") == [f"{asked}-1-of-7"]
    assert not list(prepared.folder.root.glob(".locks/run-*"))


def test_a_lock_is_kept_by_one_and_given_back_by_the_dead(folder, monkeypatch):
    process = holding(folder, 'folder.locked("tables")')
    monkeypatch.setattr("ninscope_pipeline.storing.runfolder.LOCK_SECONDS", 0.2)
    with pytest.raises(StoreError, match=r"run: another run has held tables for 0.2 s; see that it ends"):
        write_files(folder, folder.tables, "key", {"a.parquet": b"1"})
    with folder.locked("figures") as has_locks:
        assert has_locks
    kill(process)
    write_files(folder, folder.tables, "key", {"a.parquet": b"1"})
    assert is_current(folder, folder.tables, "key")


def write_again_and_again(root: str, number: str) -> None:
    folder = RunFolder(root)
    for _ in range(25):
        names = [f"{name}.parquet" for name in ("a", "b", "c", number)]
        write_files(folder, folder.tables, number, {name: number.encode() * 1000 for name in names})


@pytest.mark.slow
def test_sets_that_are_written_at_once_come_one_after_the_other(folder):
    writers = [Forked(write_again_and_again, folder.root, number) for number in "123"]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        if not (folder.tables / "manifest.json").exists():
            continue
        with folder.locked("tables"):
            seen += any(is_current(folder, folder.tables, number) for number in "123")
        time.sleep(0.01)
    assert [writer.poll() for writer in writers] == [0, 0, 0]
    assert seen > 0
    (last,) = [number for number in "123" if is_current(folder, folder.tables, number)]
    assert set(contents(folder.tables)) == {f"{name}.parquet" for name in ("a", "b", "c", last)} | {"manifest.json"}


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_written_all_the_same(folder, monkeypatch, code):
    def without(*_):
        raise OSError(code, "no locks")

    monkeypatch.setattr(filelock._unix.fcntl, "flock", without)
    write_files(folder, folder.tables, "key", {"a.parquet": b"1"})
    assert is_current(folder, folder.tables, "key")
    with folder.locked("tables") as has_locks:
        assert not has_locks
    with folder.occupied(), folder.alone() as alone:
        assert not alone
    with folder.alone() as alone:
        assert not alone  # nobody can know
