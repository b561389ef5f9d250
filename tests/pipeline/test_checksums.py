"""Checksums of artefacts: any bit of any file may flip, with a trace in the file's times or without; the same command mends it."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from driving import command, contents, stamps, write_dag
from suites import write_suite

import ninscope
from ninscope.errors import CheckpointError
from ninscope_pipeline.execution.job import run_job
from ninscope_pipeline.prepared_run import prepare
from ninscope_pipeline.request.dagfile import load_dag
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import Artefact, ArtefactStore, DamagedArtefact

pytestmark = pytest.mark.usefixtures("undrawn")

SHAPE = {"blocks": 1, "width": 16, "heads": 2}
STEPS = (0, 1, 8)
STAGES = ("nin", "spectra", "exact", "nulls", "emergence")
PART = 2000  # bytes of weights


@pytest.fixture
def store(tmp_path) -> ArtefactStore:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    return ArtefactStore(folder)


@pytest.fixture
def artefact(rng) -> Artefact:
    matrix = scipy.sparse.random(30, 40, 0.1, "csr", np.float32, random_state=rng)
    return Artefact({"flat": rng.normal(size=7), "none": np.zeros(0)}, {"message": "é"}, matrix)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A suite and its run with artefacts of every stage; look, do not touch."""
    place = tmp_path_factory.mktemp("checksums")
    write_suite(place / "weights", STEPS, **SHAPE)
    assert run(place).code == 0
    return place


@pytest.fixture
def place(finished, tmp_path) -> Path:
    """A copy of it to change, with its times."""
    return shutil.copytree(finished, tmp_path / "place")


def dag(place: Path, **changes) -> Path:
    nulls = {"models": ["analytic"], "samples": 1}
    return write_dag(place / "tiny.toml", Path("weights"), **{"exact": True, "nulls": nulls} | changes)


def run(place: Path, **changes):
    return command("run", dag(place, **changes), "--runs-dir", place / "runs")


def flip(path: Path, rng: np.random.Generator) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def silently(store: ArtefactStore, stage: str, key: str) -> None:
    """As if a file had changed on the disk itself: size and times are what the record says, the checksum is not."""
    store.restamp(stage, key)
    assert store.has(stage, key)


def test_a_bit_of_any_file_makes_an_artefact_absent_and_writing_it_mends_it(store, artefact, rng):
    store.write("stage", "key", artefact)
    whole = contents(store.folder.store)
    paths = files(store.folder.store / "stage" / "key")
    assert len(paths) == 11  # three groups, five arrays of which one is empty
    for path in paths:
        before = path.stat()
        flip(path, rng)
        assert not store.has("stage", "key")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert not store.has("stage", "key")
        store.write("stage", "key", artefact)
        assert store.has("stage", "key")
        assert contents(store.folder.store) == whole
    assert list((store.folder.root / ".partial").iterdir()) == []


def test_a_bit_that_left_no_trace_is_found_where_it_is_read_and_thoroughly(store, artefact, rng):
    for path in ("zarr.json", "flat/zarr.json", "flat/c/0", "matrix/data/c/0"):
        store.write("stage", "key", artefact)
        place = store.folder.store / "stage" / "key"
        flip(place / path, rng)
        silently(store, "stage", "key")
        with pytest.raises(
            DamagedArtefact, match="stage key: the stored artefact is damaged; run the same command again"
        ):
            store.read("stage", "key", with_matrix=True)
        assert not store.has("stage", "key")
        assert not place.exists()
        store.write("stage", "key", artefact)
        flip(place / path, rng)
        silently(store, "stage", "key")
        assert not ArtefactStore(store.folder, thorough=True).has("stage", "key")
        assert not place.exists()


def test_what_is_not_read_is_not_checked(store, artefact, rng):
    store.write("stage", "key", artefact)
    flip(store.folder.store / "stage" / "key" / "matrix" / "data" / "c" / "0", rng)
    silently(store, "stage", "key")
    read = store.read("stage", "key", only=("flat",))
    np.testing.assert_array_equal(read.arrays["flat"], artefact.arrays["flat"])


def test_a_failure_is_checked_too(store, rng):
    store.write_failure("nin", "key", CheckpointError("nonfinite", "tensor w holds NaN"))
    flip(store.folder.store / "nin" / "key" / "zarr.json", rng)
    assert not store.has("nin", "key")
    silently(store, "nin", "key")
    with pytest.raises(DamagedArtefact, match="nin key"):
        store.failure("nin", "key")
    assert not store.has("nin", "key")


SPOILT = {
    "deleted": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "a list": lambda path: path.write_text("[]"),
    "senseless": lambda path: path.write_text('{"zarr.json": 3}'),
    "of short entries": lambda path: path.write_text('{"zarr.json": [1, 2]}'),
    "of other types": lambda path: path.write_text('{"zarr.json": ["a", null, {}, []]}'),
    "of nothing": lambda path: path.write_text("{}"),
    "leading outside": lambda path: path.write_text('{"../other/zarr.json": [1, 2, 3, "a"]}'),
}


@pytest.mark.parametrize("how", SPOILT)
def test_an_artefact_whose_record_is_spoilt_is_not_there_and_gets_another(store, artefact, how):
    store.write("stage", "key", artefact)
    before = stamps(store.folder.store)
    record = store.folder.checksums / "stage" / "key.json"
    whole = record.read_bytes()
    SPOILT[how](record)
    assert not store.has("stage", "key")
    store.write("stage", "key", artefact)
    assert record.read_bytes() == whole
    assert stamps(store.folder.store) == before  # the artefact itself was whole


def test_whatever_stands_in_an_artefacts_place_is_replaced(store, artefact):
    store.write("stage", "key", artefact)
    whole, place = contents(store.folder.store), store.folder.store / "stage" / "key"
    for obstacle in ("a file", "other files", "an empty folder", "a file for a folder"):
        store.remove("stage", "key")
        if obstacle == "a file":
            place.write_text("x")
        else:
            place.mkdir()
        if obstacle == "other files":
            (place / "zarr.json").write_text("{}")
        elif obstacle == "a file for a folder":
            (place / "flat").write_text("x")
        store.write("stage", "key", artefact)
        assert contents(store.folder.store) == whole, obstacle


def test_files_that_were_not_stored_are_not_read(store, artefact):
    """A file browser leaves files of its own, and a chunk that nobody wrote is nobody's result."""
    store.write("stage", "key", artefact)
    place = store.folder.store / "stage" / "key"
    (place / ".DS_Store").write_text("x")
    (place / "none" / "c").mkdir()
    (place / "none" / "c" / "0").write_bytes(b"x")
    assert store.has("stage", "key")
    assert store.read("stage", "key").arrays["none"].size == 0


def test_records_of_removed_artefacts_go(store, artefact):
    for key in ("a-1", "a-2", "b-1"):
        store.write("parts", key, artefact)
    store.remove("parts", "a-*")
    assert [path.name for path in files(store.folder.checksums)] == ["b-1.json"]
    assert store.keys("parts") == ["b-1"]
    assert store.has("parts", "b-1")


def test_a_copied_run_is_hashed_once_and_nothing_is_done_again(place):
    folder = RunFolder(place / "runs" / "tiny")
    first = prepare(load_dag(dag(place)), place / "runs")
    assert first.listed == []
    assert len(first.plan.moved) == 4 * len(STEPS) + 2
    before = stamps(folder.store), stamps(folder.tables)
    assert run(place).code == 0
    assert (stamps(folder.store), stamps(folder.tables)) == before
    assert prepare(load_dag(dag(place)), place / "runs").plan.moved == []


@pytest.mark.parametrize("trace", ["with other times", "without a trace"])
def test_a_bit_of_every_artefact_and_the_same_command_makes_the_same_bytes(place, rng, trace):
    folder = RunFolder(place / "runs" / "tiny")
    store = ArtefactStore(folder)
    whole = {part: contents(place / "runs" / "tiny" / part) for part in ("tables", "figures", "store.zarr")}
    for stage in STAGES:
        for key in store.keys(stage):
            flip(rng.choice(files(folder.store / stage / key)), rng)
            if trace == "without a trace":
                silently(store, stage, key)
    for group in (folder.store / "zarr.json", folder.store / "spectra" / "zarr.json"):
        flip(group, rng)
    if trace == "without a trace":
        shutil.rmtree(folder.tables)  # or nothing would be read
    ended = run(place)
    assert (ended.code, ended.says) == (0, [])
    assert {part: contents(place / "runs" / "tiny" / part) for part in whole} == whole
    thorough = ArtefactStore(folder, thorough=True)
    assert all(thorough.has(stage, key) for stage in STAGES for key in store.keys(stage))
    assert command("run", dag(place), "--runs-dir", place / "runs").out.startswith(
        "tiny: all results are stored already"
    )
    assert list((folder.root / ".partial").iterdir()) == []


@pytest.mark.parametrize("stage", STAGES)
def test_one_damaged_artefact_costs_itself_alone(place, rng, stage):
    folder = RunFolder(place / "runs" / "tiny")
    store = ArtefactStore(folder)
    key = store.keys(stage)[0]
    before = contents(folder.root)
    flip(files(folder.store / stage / key)[0], rng)
    listed = command("run", dag(place), "--runs-dir", place / "runs", "--dry-run").would_run
    assert [name for name, _ in listed] == [stage]  # the same artefact makes the same tables, which are there
    assert contents(folder.root).keys() == before.keys()  # a dry run removes nothing


def test_a_part_that_is_damaged_is_counted_again(place, rng):
    changes = {"nodes_per_layer": "all", "samples": None, "exact": None, "execution": {"part_bytes": PART}}
    folder = RunFolder(place / "runs" / "tiny")
    shutil.rmtree(folder.root)
    assert run(place, **changes).code == 0
    expected = contents(folder.tables)
    shutil.rmtree(folder.checksums / "exact")
    prepared = prepare(load_dag(dag(place, **changes)), place / "runs")
    parts = [job for job in prepared.plan.to_run if job.stage == "parts"]
    store = ArtefactStore(folder)
    for job in parts[:2]:
        assert run_job(folder.root, job, []).ok
        flip(files(folder.store / "parts" / job.key)[-1], rng)
        silently(store, "parts", job.key)
    ended = run(place, **changes)
    assert (ended.code, ended.says) == (0, [])
    assert contents(folder.tables) == expected
    assert store.keys("parts") == []


def test_a_damaged_network_is_not_given_to_anybody(place, rng):
    folder = RunFolder(place / "runs" / "tiny")
    opened = ninscope.open_run(folder.root)
    key = next(entry["network"] for entry in opened.plan["checkpoints"] if entry["revision"] == "step8")
    matrix = opened.network("weights", "step8").matrix
    flip(folder.store / "nin" / key / "matrix" / "data" / "c" / "0", rng)
    silently(ArtefactStore(folder), "nin", key)
    with pytest.raises(DamagedArtefact, match="is damaged; run the same command again"):
        opened.network("weights", "step8")
    assert run(place).code == 0
    assert (opened.network("weights", "step8").matrix != matrix).nnz == 0
