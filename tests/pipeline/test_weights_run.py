"""Runs that ask for statistics of weights: their table, no read beside the exact analysis, what is missing and what fails."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from driving import artefacts, command, contents, results, write_dag
from hub_client import _private_client, serve  # noqa: F401 (fixtures)
from naive_weights import change, neox_matrices, ranks, statistics
from suites import copy_weights, neox_tensors, write_checkpoint, write_suite

import ninscope
from ninscope.checkpoints.source import open_source
from ninscope.networks.neuron_network import neuron_network
from ninscope.weights.counting import WeightCounter, count_piece, joined_pieces, network_weights
from ninscope_pipeline.execution.job import run_job
from ninscope_pipeline.figures import FigureTables
from ninscope_pipeline.outcome import Outcome
from ninscope_pipeline.prepared_run import prepare, start
from ninscope_pipeline.request.dagfile import load_dag
from ninscope_pipeline.stages import registry, weights
from ninscope_pipeline.stages.stage import Stage
from ninscope_pipeline.stages.weights import WEIGHTS_STAGE
from ninscope_pipeline.stages.weights_stored import artefact_of_piece, stored_piece, stored_rms, weights_wanted
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import ArtefactStore

pytestmark = pytest.mark.usefixtures("undrawn")

SHAPE = {"blocks": 2, "width": 16, "heads": 2}
STEPS = (0, 1, 8)
ONLY_EXACT = {"nodes_per_layer": "all", "samples": None}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A suite and its finished run; look, do not touch."""
    place = tmp_path_factory.mktemp("weights-run")
    write_suite(place / "suite", STEPS, **SHAPE)
    ended = run(place, dag(place, weights={"singular_values": True}))
    assert (ended.code, ended.says) == (0, [])
    return place


def dag(place: Path, **changes) -> Path:
    return write_dag(place / "tiny.toml", Path("suite"), **{**ONLY_EXACT, **changes})


def run(place: Path, dag_file: Path, *options, runs: str = "runs"):
    return command("run", dag_file, "--runs-dir", place / runs, *options)


def table(place: Path, runs: str = "runs") -> pd.DataFrame:
    return ninscope.open_run(place / runs / "tiny").table("weights").set_index(["step", "matrix"])


def matrices(step: int) -> dict[str, np.ndarray]:
    stored = {name: np.float64(array) for name, array in neox_tensors(seed=step, **SHAPE).items()}
    found = neox_matrices(stored, SHAPE["blocks"], SHAPE["heads"])
    return found | {"all": np.concatenate([matrix.ravel() for matrix in found.values()])}


def test_the_table_holds_what_the_definitions_give(finished):
    rows = table(finished)
    steps = {step: matrices(step) for step in STEPS}
    assert list(rows.index) == [(step, name) for step in STEPS for name in steps[step]]
    before = {1: 0, 8: 1}
    for (step, name), row in rows.iterrows():
        weights = steps[step][name]
        expected = statistics(weights)
        if name != "all":
            expected |= ranks(weights)
        if step:
            from_start, from_last = (change(weights, steps[other][name]) for other in (0, before[step]))
            expected |= {"distance_from_start": from_start["distance"], "cosine_to_start": from_start["cosine"]}
            expected |= {"sign_flips": from_start["sign_flips"], "distance_from_last": from_last["distance"]}
            expected |= {"sign_flips_since_last": from_last["sign_flips"]}
        for column, value in expected.items():
            assert row[column] == pytest.approx(value, rel=1e-8, abs=1e-14), (step, name, column)
    assert rows.loc[0, ["distance_from_start", "sign_flips_since_last"]].isna().all(axis=None)
    assert (rows["baseline"] == "step0").all()
    assert (rows["message"] == "").all()
    assert (rows["status"] == "ok").all()


def test_the_stage_draws_its_table(finished):
    opened = ninscope.open_run(finished / "runs" / "tiny")
    drawn = [
        name for name, _ in WEIGHTS_STAGE.figures(FigureTables({name: opened.table(name) for name in opened.tables}))
    ]
    assert drawn == ["suite-weights.png"]


def test_nothing_is_read_twice_nor_done_again(finished, tmp_path, monkeypatch):
    """The exact analysis counts the weights: the stage itself finds them counted."""
    shutil.copytree(finished, tmp_path / "copy")
    place = tmp_path / "copy"
    before = results(place / "runs" / "tiny")
    assert "nothing to run" in run(place, dag(place, weights={"singular_values": True})).out
    assert results(place / "runs" / "tiny") == before

    def fails(*arguments):
        raise AssertionError("the weights were read once more")

    monkeypatch.setattr(weights, "network_weights", fails)
    assert run(place, dag(place, weights={"changes": False}), runs="anew").code == 0
    assert len(artefacts(place / "anew" / "tiny")["weights"]) == len(STEPS)


def test_an_analysis_that_is_there_is_not_made_again(finished, tmp_path):
    place = tmp_path
    shutil.copytree(finished / "suite", place / "suite")
    assert run(place, dag(place)).code == 0
    planned = run(place, dag(place, weights={}), "--dry-run").would_run
    assert {stage for stage, _ in planned} == {"weights", "weight_changes", "tables", "figures"}
    assert run(place, dag(place, weights={})).code == 0
    columns = [column for column in table(place) if table(place)[column].notna().any()]
    expected = table(finished)[columns]
    pd.testing.assert_frame_equal(table(place)[columns], expected)


def test_samples_alone(finished, tmp_path):
    place = tmp_path
    shutil.copytree(finished / "suite", place / "suite")
    file = dag(place, weights={"changes": False}, nodes_per_layer=4, samples=2)
    assert run(place, file).code == 0
    assert set(artefacts(place / "runs" / "tiny")) == {"emergence", "nin", "spectra", "weights"}
    own = table(place)
    pd.testing.assert_series_equal(own["kurtosis"], table(finished)["kurtosis"])
    assert own["distance_from_start"].isna().all()
    assert (own["message"] == "").all()


def test_in_parts(finished, tmp_path):
    """Parts count their weights, and nothing is left of their counts."""
    place = tmp_path
    shutil.copytree(finished / "suite", place / "suite")
    file = dag(place, weights={}, execution={"part_bytes": 3000})
    assert run(place, file).code == 0
    kept = artefacts(place / "runs" / "tiny")
    assert kept["weights"] == artefacts(finished / "runs" / "tiny")["weights"]
    store = ArtefactStore(RunFolder(place / "runs" / "tiny"))
    whole = ArtefactStore(RunFolder(finished / "runs" / "tiny"))
    for key in kept["weights"]:
        mine, theirs = store.read("weights", key), whole.read("weights", key)
        assert mine.arrays["values"].tobytes() == theirs.arrays["values"].tobytes()


def test_counts_of_every_type_are_stored(tmp_path):
    """As a part of an exact analysis leaves them: matrices that it did not see whole, and what it saw whole together."""
    tensors = neox_tensors(seed=5, **SHAPE)
    for number, dtype in enumerate((np.float32, np.float64)):
        name = f"gpt_neox.layers.{number}.mlp.dense_4h_to_h.weight"
        tensors[name] = tensors[name].astype(dtype) * dtype(1.001)
    source = open_source(write_checkpoint(tmp_path / "step0", tensors))
    network = neuron_network(source.open(source.revisions()[0]))
    pieces = []
    for number in range(3):
        counter = WeightCounter(network)
        count_piece(network, counter, number, 3)
        pieces.append(stored_piece(artefact_of_piece(counter.piece)))
    stored = [of_types for piece in pieces for of_types in (piece.whole, *piece.counts.values())]
    assert {dtype for of_types in stored for dtype in of_types} == {"F16", "F32", "F64"}
    assert any(piece.counts for piece in pieces)
    assert WeightCounter(network, joined_pieces(pieces)).weights() == network_weights(network)


def test_a_part_whose_counts_are_gone_is_read_again(finished, tmp_path):
    place = tmp_path
    shutil.copytree(finished / "suite", place / "suite")
    file = dag(place, weights={"changes": False}, execution={"part_bytes": 3000}, revisions=["step8"])
    prepared = prepare(load_dag(file), place / "runs")
    start(prepared)
    jobs = prepared.plan.first_jobs()
    store = ArtefactStore(prepared.folder)
    for job in jobs:
        if job.stage == "parts":
            assert run_job(prepared.folder.root, job, []).ok
    (key,) = {job.key for job in jobs if job.stage == "weights"}
    store.remove("weights", f"{key}-2-of-*")
    for job in jobs:
        if job.stage in ("exact", "weights"):
            assert run_job(prepared.folder.root, job, [Outcome()]).ok
    assert store.keys("weights") == [key]
    rms = stored_rms(store.read("weights", key))
    assert "all" not in rms
    for name, value in rms.items():
        assert value == pytest.approx(np.sqrt((matrices(8)[name] ** 2).mean()))


def test_pieces_that_nobody_puts_together_are_cleared(finished):
    store = ArtefactStore(RunFolder(finished / "runs" / "tiny"))
    (key, *_) = artefacts(finished / "runs" / "tiny")["weights"]
    artefact = store.read("weights", key)
    for leftover in (f"{key}-1-of-2", "0" * 32 + "-1-of-2"):
        store.write("weights", leftover, artefact)
    WEIGHTS_STAGE.clear(store, [], alone=False)
    assert "0" * 32 + "-1-of-2" in store.keys("weights")
    WEIGHTS_STAGE.clear(store, [], alone=True)
    assert not [name for name in store.keys("weights") if "-" in name]


def test_duplicates_have_no_changes_from_the_start(tmp_path):
    write_suite(tmp_path / "suite", STEPS, **SHAPE)
    copy_weights(tmp_path / "suite", "step1", "step0")
    ended = run(tmp_path, dag(tmp_path, weights={}))
    assert ended.code == 1
    rows = table(tmp_path)
    assert rows["distance_from_start"].isna().all()
    message = rows.loc[(8, "all"), "message"]
    assert "step0" in message
    assert rows.loc[(8, "all"), "distance_from_last"] > 0


def test_without_a_baseline(tmp_path):
    write_suite(tmp_path / "suite", (4, 8), **SHAPE)
    assert run(tmp_path, dag(tmp_path, weights={})).code == 0
    rows = table(tmp_path)
    assert "there is no usable step0 to compare with" in rows.loc[(4, "all"), "message"]
    assert rows.loc[(8, "all"), "distance_from_last"] > 0
    assert rows["distance_from_start"].isna().all()


def test_what_is_not_finite_is_told_once(tmp_path):
    write_suite(tmp_path / "suite", STEPS, **SHAPE)
    tensors = neox_tensors(seed=8, **SHAPE)
    tensors["gpt_neox.layers.0.attention.dense.weight"][0, 0] = np.nan
    write_checkpoint(tmp_path / "suite" / "step8", tensors)
    ended = run(tmp_path, dag(tmp_path, weights={"singular_values": True}))
    assert ended.code == 1
    assert sorted(set(table(tmp_path).index.get_level_values("step"))) == [0, 1]
    checkpoints = ninscope.open_run(tmp_path / "runs" / "tiny").table("checkpoints").set_index("step")
    assert checkpoints.loc[8, "status"] == "nonfinite"
    assert (checkpoints.loc[[0, 1], "status"] == "ok").all()


def test_a_failure_of_other_columns_is_told(finished, tmp_path, monkeypatch):
    shutil.copytree(finished / "suite", tmp_path / "suite")

    def fails(*arguments):
        raise ArithmeticError("no convergence")

    monkeypatch.setattr("ninscope_pipeline.stages.singular_values.network_singular_values", fails)
    monkeypatch.setattr("ninscope_pipeline.stages.weight_changes.network_changes", fails)
    ended = run(tmp_path, dag(tmp_path, weights={"singular_values": True}))
    assert ended.code == 1
    rows = table(tmp_path)
    row = rows.loc[(8, "all")]
    assert row["status"] == "failed"
    assert re.search(r"changes against step0: ArithmeticError: no convergence \(see log/", row["message"])
    assert "singular values: ArithmeticError" in row["message"]
    assert row["norm"] > 0
    status = command("status", tmp_path / "runs" / "tiny")
    assert "step8 weights: " in status.out + status.err


def test_nothing_is_fetched_twice(tmp_path, serve):
    suite = write_suite(tmp_path / "tiny", (0, 1), blocks=2, width=32, heads=4)
    hub = serve({"org/tiny": {folder.name: folder for folder in suite.iterdir()}})
    file = write_dag(tmp_path / "hub.toml", Path("org/tiny"), **ONLY_EXACT)
    sent = {}
    for name, section in (("without", None), ("with", {})):
        text = file.read_text() + ("[weights]\n" if section is not None else "")
        (tmp_path / f"{name}.toml").write_text(text.replace('name = "hub"', f'name = "{name}"'))
        hub.requests.clear()
        dry = command("run", tmp_path / f"{name}.toml", "--runs-dir", tmp_path / "runs", "--dry-run")
        forecast = [int(found) for found in re.findall(r"would fetch: .* \((\d+) bytes\)", dry.out)]
        hub.requests.clear()
        assert command("run", tmp_path / f"{name}.toml", "--runs-dir", tmp_path / "runs").code == 0
        sent[name] = forecast, sum(request.bytes_sent for request in hub.requests if request.status < 300)
    assert sent["with"] == sent["without"]
    rows = ninscope.open_run(tmp_path / "runs" / "with").table("weights").set_index(["step", "matrix"])
    assert rows.loc[(1, "all"), "message"].startswith("no changes: a checkpoint on a Hub is fetched again for them")


class Filler(Stage):
    """A stage of somebody else that wants the statistics, and adds to their table."""

    name, title, version = "filler", "filler", 1

    def needs_weights(self, dag):
        return True

    def jobs(self, request):
        return ()

    def make(self, store, job):
        raise AssertionError

    def columns_of_weights(self, results):
        return {(results.checkpoints[0].id, "all"): {"accuracy": 7.0, "message": "of the filler"}}


def test_other_stages_want_and_fill_the_table(finished, tmp_path, monkeypatch):
    shutil.copytree(finished / "suite", tmp_path / "suite")
    known = dict(registry.stages()) | {"filler": Filler()}
    for module in ("request.dagfile", "plan", "tables", "prepared_run", "forecast", "figures", "results"):
        if hasattr(__import__(f"ninscope_pipeline.{module}", fromlist=["x"]), "stages"):
            monkeypatch.setattr(f"ninscope_pipeline.{module}.stages", lambda: known)
    file = dag(tmp_path)
    assert weights_wanted(load_dag(file))
    assert run(tmp_path, file).code == 0
    rows = table(tmp_path)
    assert rows.loc[(0, "all"), "accuracy"] == 7
    assert rows.loc[(0, "all"), "message"] == "of the filler"
    assert rows["distance_from_start"].isna().all()  # nobody asked for changes


def test_no_bit_depends_on_the_workers(finished, tmp_path):
    shutil.copytree(finished / "suite", tmp_path / "suite")
    assert run(tmp_path, dag(tmp_path, weights={"singular_values": True}), "--workers", 3).code == 0
    for part in ("tables", "store.zarr"):
        assert contents(tmp_path / "runs" / "tiny" / part) == contents(finished / "runs" / "tiny" / part)
