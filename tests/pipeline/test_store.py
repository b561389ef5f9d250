"""The store: artefacts as others read them, whole or not there, whoever writes at the same time."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata
import forked
import numpy as np
import pytest
import scipy.sparse
import zarr
from driving import contents, stamps
from suites import neox_tensors, write_checkpoint

from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError, RequestError
from ninscope.measuring import Parameters, analyse_network
from ninscope.networks.neuron_network import neuron_network
from ninscope.networks.sampled import SampledNetwork, sampled_network
from ninscope_pipeline.stages.measurements import artefact_of_measurement, stored_measurement
from ninscope_pipeline.stages.network import artefact_of_network, stored_network
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.manifest import is_current, key_of, write_files
from ninscope_pipeline.storing.runfolder import RunFolder, StoreError
from ninscope_pipeline.storing.store import Artefact, ArtefactStore, DamagedArtefact
from ninscope_pipeline.storing.zarr_files import NODE, group_file, matrix_of_files


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    made.create()
    return made


@pytest.fixture
def store(folder) -> ArtefactStore:
    return ArtefactStore(folder)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory) -> SampledNetwork:
    """The network of a real checkpoint: 8 node layers of 12 neurons, 3 samples."""
    suite = tmp_path_factory.mktemp("store")
    write_checkpoint(suite / "step0", neox_tensors(blocks=1, width=16, heads=2, seed=0))
    checkpoint = open_source(suite).open("step0")
    return sampled_network(neuron_network(checkpoint), 12, 3, 0, 150.0)


def test_an_artefact_reads_back_as_it_was_written(store, rng):
    matrix = scipy.sparse.random(30, 40, 0.1, "csr", np.float32, random_state=rng)
    arrays = {
        "flat": rng.normal(size=7),
        "table": rng.integers(0, 9, (5, 3)),
        "cube": rng.normal(size=(2, 4, 3)),
        "flags": np.array([True, False]),
        "none": np.zeros(0),
        "hole": np.array([np.nan, np.inf, -0.0]),
    }
    attributes = {"message": "é μ", "count": 3, "names": ["a", "b"], "absent": None}
    store.write("stage", "key", Artefact(arrays, attributes, matrix))
    assert store.has("stage", "key")
    assert store.failure("stage", "key") is None
    read = store.read("stage", "key", with_matrix=True)
    assert list(read.arrays) == list(arrays)
    for name, array in arrays.items():
        assert read.arrays[name].dtype == array.dtype
        assert read.arrays[name].tobytes() == array.tobytes()
        assert read.arrays[name].shape == array.shape
    assert attributes.items() <= dict(read.attributes).items()
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(read.matrix, part), getattr(matrix, part))
        assert getattr(read.matrix, part).dtype == getattr(matrix, part).dtype
    assert store.read("stage", "key").matrix is None


def test_what_is_not_there_is_not_there(store):
    assert not store.has("stage", "key")
    store.write("stage", "other", Artefact({}, {}))
    assert not store.has("stage", "key")
    assert store.has("stage", "other")


def test_a_stored_network_is_read_by_anndata_and_scipy(folder, store, sampled):
    store.write("nin", "key", artefact_of_network(sampled))
    matrix = anndata.io.read_elem(zarr.open_group(folder.store, mode="r")["nin/key/matrix"])
    assert isinstance(matrix, scipy.sparse.csr_matrix)
    assert matrix.shape == (3 * 96, 3 * 96)
    assert (matrix != sampled.matrix).nnz == 0
    group = zarr.open_group(folder.store / "nin" / "key" / "matrix", mode="r")
    by_hand = scipy.sparse.csr_matrix((group["data"][...], group["indices"][...], group["indptr"][...]), matrix.shape)
    by_hand.check_format(full_check=True)
    assert (by_hand != sampled.matrix).nnz == 0


def test_stored_attributes_follow_anndatas_encoding(folder, store, sampled):
    store.write("nin", "key", artefact_of_network(sampled))
    group = zarr.open_group(folder.store / "nin" / "key", mode="r")
    assert group.metadata.zarr_format == 3
    assert dict(group["matrix"].attrs) == {
        "encoding-type": "csr_matrix",
        "encoding-version": "0.1.0",
        "shape": [288, 288],
    }
    arrays = [group[name] for name in ("neurons", "layer_sizes", "matrix/data", "matrix/indices", "matrix/indptr")]
    for array in arrays:
        assert dict(array.attrs) == {"encoding-type": "array", "encoding-version": "0.2.0"}
    assert group["matrix/data"].dtype == np.float32
    assert group["matrix/indices"].dtype == group["matrix/indptr"].dtype == np.int32


@pytest.mark.filterwarnings("ignore:zarr v3 autosharding")
def test_anndata_would_have_written_the_same_group(tmp_path, folder, store, sampled):
    store.write("nin", "key", artefact_of_network(sampled))
    theirs = zarr.open_group(tmp_path / "theirs.zarr", mode="w", zarr_format=3)
    anndata.io.write_elem(theirs, "matrix", sampled.matrix)
    ours = zarr.open_group(folder.store / "nin" / "key", mode="r")["matrix"]
    assert dict(ours.attrs) == dict(theirs["matrix"].attrs)
    assert set(ours) == set(theirs["matrix"])
    for part in ours:
        assert ours[part].dtype == theirs["matrix"][part].dtype
        assert ours[part].shape == theirs["matrix"][part].shape


def test_every_group_of_the_store_is_found_from_its_root(folder, store, sampled):
    store.write("nin", "key", artefact_of_network(sampled))
    root = zarr.open_group(folder.store, mode="r")
    assert list(root) == ["nin"]
    assert sorted(root["nin/key"]) == ["layer_sizes", "matrix", "neurons"]


def test_a_network_comes_back_whole(store, sampled):
    store.write("nin", "key", artefact_of_network(sampled))
    read = stored_network(store.read("nin", "key", with_matrix=True))
    assert read.layer_names == sampled.layer_names
    np.testing.assert_array_equal(read.layer_sizes, sampled.layer_sizes)
    np.testing.assert_array_equal(read.neurons, sampled.neurons)
    assert (read.matrix != sampled.matrix).nnz == 0


@pytest.mark.parametrize("derivative", ["exact", "forward"])
def test_a_spectrum_comes_back_to_the_bit(store, sampled, derivative):
    parameters = Parameters(nodes_per_layer=12, samples=3, min_degree=3, q=np.linspace(-2, 2, 9), derivative=derivative)
    measured = analyse_network(sampled, parameters)
    store.write("spectra", "key", artefact_of_measurement(measured))
    read = stored_measurement(store.read("spectra", "key"))
    assert (read.message, read.network_nodes, read.sample_edges) == (
        measured.message, measured.network_nodes, measured.sample_edges,
    )  # fmt: skip
    for theirs, ours in zip(measured.samples, read.samples, strict=True):
        for name in ("q", "tau", "alpha", "f", "r2"):
            assert getattr(ours, name).tobytes() == np.ascontiguousarray(getattr(theirs, name)).tobytes()
        for name in ("alpha0", "width", "nodes", "edges", "r2_mass_mean", "r2_mass_std", "message"):
            assert getattr(ours, name) == getattr(theirs, name)


def test_a_failure_is_an_artefact(folder, store):
    store.write_failure("nin", "key", CheckpointError("nonfinite", "tensor w holds NaN"))
    assert store.has("nin", "key")
    failure = store.failure("nin", "key")
    assert (failure.status, str(failure)) == ("nonfinite", "tensor w holds NaN")
    with pytest.raises(CheckpointError, match="tensor w holds NaN") as caught:
        store.read("nin", "key")
    assert caught.value.status == "nonfinite"
    assert list(zarr.open_group(folder.store / "nin" / "key", mode="r")) == []


def test_the_first_of_two_writers_stays(folder, store):
    store.write("stage", "key", Artefact({"a": np.arange(3)}, {"by": "first"}))
    before = stamps(folder.store)
    store.write("stage", "key", Artefact({"a": np.arange(3)}, {"by": "second"}))
    assert store.read("stage", "key").attributes["by"] == "first"
    assert stamps(folder.store) == before
    assert list((folder.root / ".partial").iterdir()) == []


def write_one_key(root: str, number: int) -> None:
    """Write what every writer of a content key writes, the same bytes; for processes of their own."""
    arrays = {name: np.arange(50_000) for name in ("a", "b", "c")}
    for key in range(number, number + 3):
        ArtefactStore(RunFolder(root)).write("stage", f"key{key % 4}", Artefact(arrays, {}))


@pytest.mark.parametrize("pool", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_of_writers_at_the_same_time_one_wins_whole(folder, store, pool):
    if pool == "threads":
        with ThreadPoolExecutor(8) as workers:
            list(workers.map(write_one_key, [str(folder.root)] * 8, range(8)))
    else:
        with forked.CONTEXT.Pool(2) as workers:
            workers.starmap(write_one_key, [(str(folder.root), number) for number in range(4)])
    for key in range(4):
        assert ArtefactStore(folder, thorough=True).has("stage", f"key{key}")
        for array in store.read("stage", f"key{key}").arrays.values():
            np.testing.assert_array_equal(array, np.arange(50_000))
    assert list((folder.root / ".partial").iterdir()) == []


def test_an_artefact_that_cannot_be_written_whole_is_not_there(folder, store):
    with pytest.raises(TypeError):
        store.write("stage", "key", Artefact({"a": np.arange(3)}, {"bad": object()}))
    with pytest.raises(ValueError, match="object"):
        store.write("stage", "key", Artefact({"a": np.arange(3), "b": np.array([object()])}, {}))
    assert not store.has("stage", "key")
    assert list((folder.root / ".partial").iterdir()) == []


def test_what_a_broken_copy_left_does_not_stand_in_the_way(folder, store):
    """A folder without its zarr.json (an interrupted copy of the run) is no artefact; writing the key mends it."""
    artefact = Artefact({"a": np.arange(3)}, {})
    store.write("stage", "key", artefact)
    (folder.store / "stage" / "key" / "zarr.json").unlink()
    assert not store.has("stage", "key")
    store.write("stage", "key", artefact)
    np.testing.assert_array_equal(store.read("stage", "key").arrays["a"], np.arange(3))


@pytest.mark.parametrize("array", ["neurons", "layer_sizes", "matrix/data", "matrix/indices", "matrix/indptr"])
def test_an_artefact_that_lost_a_part_is_not_read_as_zeros(folder, store, sampled, array):
    """Zarr gives zeros for a chunk whose file is absent; a network of zeros would look like a result."""
    store.write("nin", "key", artefact_of_network(sampled))
    shutil.rmtree(folder.store / "nin" / "key" / array / "c")
    assert not store.has("nin", "key")
    with pytest.raises(DamagedArtefact, match="nin key: the stored artefact is damaged; run the same command again"):
        store.read("nin", "key", with_matrix=True)
    assert store.keys("nin") == []


def test_zeros_are_stored_as_any_values_are(store):
    store.write("stage", "key", Artefact({"a": np.zeros(5)}, {}))
    assert store.read("stage", "key").arrays["a"].tolist() == [0.0] * 5


# Files


def test_a_file_is_replaced_whole_or_not_at_all(folder, monkeypatch):
    path = folder.tables / "a.parquet"
    folder.write_bytes(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"run: the disk is full .*; free space and run the same command again"):
        folder.write_bytes(path, b"new, and longer")
    assert path.read_bytes() == b"old"
    assert list((folder.root / ".partial").iterdir()) == []


def test_a_reader_never_sees_half_a_file(folder):
    path, sizes = folder.root / "file", (1_000_000, 2_000_000)
    folder.write_bytes(path, bytes(sizes[0]))
    with ThreadPoolExecutor(1) as writer:
        writing = writer.submit(lambda: [folder.write_bytes(path, bytes(sizes[n % 2])) for n in range(40)])
        while not writing.done():
            assert path.stat().st_size in sizes
            assert len(path.read_bytes()) in sizes
        writing.result()


def test_json_that_cannot_be_read_is_as_good_as_absent(folder):
    path = folder.root / "some.json"
    assert folder.read_json(path, {"a": 1}) == {"a": 1}
    path.write_bytes(b'{"half')
    assert folder.read_json(path, {}) == {}
    folder.write_json(path, {"b": [1, 2]})
    assert folder.read_json(path, {}) == {"b": [1, 2]}


def dead_process() -> int:
    """The id of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_what_dead_processes_left_is_cleared_and_nothing_else(folder):
    host, partial = socket.gethostname(), folder.root / ".partial"
    dead, other = dead_process(), "elsewhere"
    stale_file, stale_folder = partial / f"{host}-{dead}-0a1b", partial / f"{host}-{dead}-2c3d"
    mine, theirs = partial / f"{host}-{os.getpid()}-0a1b", partial / f"{other}-{dead}-0a1b"
    parent, strange = partial / f"{host}-{os.getppid()}-ff", partial / "notes.txt"
    stale_folder.mkdir()
    (stale_folder / "zarr.json").write_text("{}")
    for path in (stale_file, mine, theirs, parent, strange):
        path.write_text("x")
    folder.create()
    assert {path.name for path in partial.iterdir()} == {path.name for path in (mine, theirs, parent, strange)}


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/ninscope/run")):
        with pytest.raises(RequestError, match=r"the run folder cannot be written .*--runs-dir") as caught:
            RunFolder(root).create()
        assert len(str(caught.value).splitlines()) == 1


# Manifests


@pytest.fixture
def written(folder) -> RunFolder:
    write_files(folder, folder.tables, "key", {"a.parquet": b"first", "b.parquet": b"second"})
    return folder


def test_a_set_of_files_is_current_under_its_key_alone(written):
    assert is_current(written, written.tables, "key")
    assert key_of(written, written.tables) == "key"
    assert not is_current(written, written.tables, "other key")
    assert not is_current(written, written.figures, "key")


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b".")


DAMAGE = {
    "appended to": append,
    "deleted": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "one byte changed": lambda path: path.write_bytes(b"firsT"),
    "replaced by a folder": lambda path: (path.unlink(), path.mkdir()),
    "manifest deleted": lambda path: (path.parent / "manifest.json").unlink(),
    "manifest no object": lambda path: (path.parent / "manifest.json").write_text("[]"),
    "manifest names no files": lambda path: (path.parent / "manifest.json").write_text('{"key": "key"}'),
    "manifest senseless": lambda path: (path.parent / "manifest.json").write_text('{"key": "key", "files": {"a": 3}}'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_set_is_not_current(written, damage):
    DAMAGE[damage](written.tables / "a.parquet")
    assert not is_current(written, written.tables, "key")


def test_files_of_an_earlier_set_are_removed_and_those_of_others_stay(written):
    (written.tables / "mine.parquet").write_bytes(b"a user's own")
    write_files(written, written.tables, "next", {"b.parquet": b"third"})
    assert set(contents(written.tables)) == {"b.parquet", "mine.parquet", "manifest.json"}
    assert is_current(written, written.tables, "next")


def test_a_manifest_removes_nothing_outside_its_folder(written):
    outside = written.root / "run.toml"
    outside.write_text("kept")
    manifest = written.tables / "manifest.json"
    manifest.write_text(json.dumps({"key": "key", "files": {"../run.toml": ""}}))
    write_files(written, written.tables, "next", {"b.parquet": b"third"})
    assert outside.read_text() == "kept"


# Keys


def test_a_content_key_depends_on_everything_it_is_given_and_on_nothing_else():
    parts = {"weights": "abc", "q": np.array([0.0, 1.0]), "samples": 3}
    key = content_key("nin", 1, **parts)
    assert key == content_key("nin", 1, **dict(reversed(parts.items())))
    assert key == content_key("nin", 1, weights="abc", q=[0.0, 1.0], samples=np.int64(3))
    others = [
        content_key("spectra", 1, **parts),
        content_key("nin", 2, **parts),
        content_key("nin", 1, **parts | {"weights": "abd"}),
        content_key("nin", 1, **parts | {"q": np.array([0.0, np.nextafter(1.0, 2)])}),
        content_key("nin", 1, **parts | {"samples": 4}),
    ]
    assert len({key, *others}) == 6
    assert len(key) == 32
    with pytest.raises(TypeError, match="object cannot be part of a content key"):
        content_key("nin", 1, weights=object())


def test_a_store_copied_elsewhere_is_the_same_store(tmp_path, folder, store, sampled):
    store.write("nin", "key", artefact_of_network(sampled))
    copy = RunFolder(shutil.copytree(folder.root, tmp_path / "copy"))
    read = stored_network(ArtefactStore(copy).read("nin", "key", with_matrix=True))
    assert (read.matrix != sampled.matrix).nnz == 0


def test_an_array_where_a_matrix_belongs_is_named(store):
    store.write("network", "key", Artefact({"matrix": np.zeros(3)}, {}))
    with pytest.raises(ValueError, match=r"^matrix is an array; a group was expected$"):
        store.read("network", "key", with_matrix=True, only=())


def test_a_group_where_an_array_belongs_is_named():
    files = {f"matrix/{NODE}": group_file({"shape": [2, 2]}), f"matrix/data/{NODE}": group_file({})}
    with pytest.raises(ValueError, match=r"^matrix/data is a group; an array was expected$"):
        matrix_of_files(files, "matrix")


def test_threads_that_read_matrices_leave_the_filters_of_warnings_alone(monkeypatch, store, sampled):
    """They are the whole process's: whoever restores them restores what the other thread had changed."""
    store.write("nin", "key", artefact_of_network(sampled))
    before, first_in, second_in = list(warnings.filters), threading.Event(), threading.Event()
    real = scipy.sparse.csr_matrix

    def made(*arguments, **named):
        if not first_in.is_set():
            first_in.set()
            assert second_in.wait(30)
        else:
            second_in.set()
            first.join(30)
        return real(*arguments, **named)

    monkeypatch.setattr("scipy.sparse.csr_matrix", made)
    first = threading.Thread(target=store.read, args=("nin", "key", True))
    first.start()
    assert first_in.wait(30)
    second = threading.Thread(target=store.read, args=("nin", "key", True))
    second.start()
    second.join(30)
    assert not second.is_alive()
    assert list(warnings.filters) == before


def test_what_stands_where_a_file_belongs_is_named(folder):
    (folder.plan / "something").mkdir(parents=True)
    with pytest.raises(StoreError, match=rf"^{folder.plan}: it cannot be written \(Is a directory\); mend that"):
        folder.write_json(folder.plan, {})
