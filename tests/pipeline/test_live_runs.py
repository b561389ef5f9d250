"""A training's rows in a run folder are the rows of a run over the checkpoints that it would have saved, and read like any."""

import errno
import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import numpy as np
import pandas as pd
import pytest
import tomli_w
from driving import artefacts, command, contents, stamps
from forked import Forked
from live_results import SUITE, WHOLE, add_and_be_killed, asked, opened, record, result, with_counts
from suites import write_suite

import ninscope
from ninscope.errors import RequestError
from ninscope.parameters import Parameters
from ninscope_pipeline import report_command
from ninscope_pipeline.live import LiveRun, fit_name, norms_alone
from ninscope_pipeline.live.request import dag_of
from ninscope_pipeline.report_command import _unfinished
from ninscope_pipeline.storing.runfolder import StoreError

pytestmark = pytest.mark.usefixtures("undrawn")

STEPS = (0, 64, 512)
SAME = ("emergence", "controls", "degrees", "spectra", "samples", "weights")


def dag_file(place, source=SUITE, name="files", **changes):
    model = {"suite": "training", "model": "neox", "source": str(source)} | changes
    model.setdefault("revisions", [f"step{step}" for step in STEPS])
    analysis = {"nodes_per_layer": "all", "parts": ["block"]}
    dag = {"name": name, "models": [model], "analysis": analysis, "weights": {"changes": False}, "controls": {}}
    path = place / f"{name}.toml"
    path.write_text(tomli_w.dumps(dag))
    return path


def table(path, name):
    return ninscope.open_run(path).table(name).set_index("step")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def files(place):
    """The run over the checkpoints."""
    ended = command("run", dag_file(place), "--runs-dir", place)
    assert ended.code == 0, ended.err
    return ninscope.open_run(place / "files")


@pytest.fixture(scope="module")
def live(place):
    """The training that handed over the same steps, each with a snapshot."""
    results = [with_counts(result(step)) for step in STEPS]
    record(place / "live", *results, snapshot=True)
    return ninscope.open_run(place / "live")


# --- like any other run


def test_tables_are_those_of_a_run_over_the_checkpoints(files, live):
    assert live.tables == files.tables
    for name in live.tables:
        rows, expected = live.table(name), files.table(name)
        if name == "checkpoints":
            assert (rows["bytes"] == opened(0)[0].weight_bytes).all()
            rows, expected = (of.drop(columns=["content_sha256", "bytes"]) for of in (rows, expected))
        pd.testing.assert_frame_equal(rows, expected, check_exact=True)
    assert all(len(live.table(name)) for name in SAME)
    assert set(live.table("emergence")["part"]) > {"all", "block/block0"}


def test_python_reads_it_like_any_other(files, live):
    own, other = (run.spectra("neox", 512) for run in (live, files))
    assert (own.alpha0, own.origin) == (other.alpha0, other.origin)
    pd.testing.assert_frame_equal(live.measured(), files.measured())
    answer = live.query("SELECT step, emergence FROM emergence WHERE part = 'all' ORDER BY step")
    assert answer["emergence"].tolist() == table(files.path, "emergence").query("part == 'all'")["emergence"].tolist()
    assert [path.name for path in live.figures] == [path.name for path in files.figures]
    assert "state finished" in repr(live)


def test_commands_read_it_like_any_other(files, live, place):
    told = command("status", live.path)
    assert (told.code, told.err) == (0, "")
    assert "live: a training that has ended: 3 steps, step0 to step512; 0 checkpoints not ok" in told.out
    assert all(stage in told.out for stage in ("exact spectra │ 3    │ 3", "snapshots     │ 3    │ 3"))
    assert "live  │ finished │           3" in command("runs", "--runs-dir", place).out
    compared = command("compare", live.path, files.path).out
    assert f"{len(SAME)} tables hold the same numbers in both" in compared
    assert "models[training/neox].source a training that was measured while it ran and" in compared


def test_the_report_tells_a_training_from_a_run(files, live, monkeypatch):
    """Beside each other on one page: what a DAG file could ask for is advised of the run alone."""
    monkeypatch.setattr(report_command, "stages", dict)  # whose charts take seconds
    page = report_command.contents_of([files, live])
    of_files, of_live = (" ".join(words.sentences) for words in page.verdicts)
    assert ("a section [nulls] to the DAG file" in of_files, "snapshot(...).nulls()" in of_files) == (True, False)
    assert ("DAG file" in of_live, "snapshot(...).nulls()" in of_live) == (False, True)


def test_a_second_look_writes_nothing(live):
    live.table("emergence"), live.figures
    before = stamps(live.path)
    ninscope.open_run(live.path).table("emergence")
    command("status", live.path)
    assert stamps(live.path) == before


def test_the_same_training_gives_the_same_bytes(live, place):
    record(place / "again", *(with_counts(result(step)) for step in STEPS), snapshot=True)
    for part in ("store.zarr", "tables"):
        assert contents(place / "again" / part) == contents(live.path / part)
    assert (place / "again" / "live.json").read_bytes() == (live.path / "live.json").read_bytes()


def test_a_baseline_that_is_not_step_0(tmp_path):
    """E against the first row, whatever its step; rows in any order."""
    record(tmp_path / "mine", result(64, 64), result(512, 64), result(0, 64), finish=False)
    emerged = table(tmp_path / "mine", "emergence").query("part == 'all'")
    expected = {row.step: row.emergence for row in ninscope.measure_all(SUITE, exact=True, baseline=64)}
    assert emerged["emergence"].to_dict() == {step: expected[step] for step in STEPS}
    assert (emerged["baseline"] == "step64").all()
    controls = table(tmp_path / "mine", "controls")
    assert controls["emergence"].to_dict() == emerged["emergence"].to_dict()
    assert (controls.loc[64, ["emergence_growth", "emergence_fixed"]] == 0).all()
    assert controls.loc[[0, 512], "emergence_growth"].notna().all()


def test_an_earlier_snapshot_measures_as_its_weights(live):
    for revision in (64, "step512"):
        snapshot = live.snapshot(revision)
        q = np.linspace(-2, 2, 9)
        own = snapshot.measure(q=q, derivative="forward", parts=["kind"], min_degree=4)
        weights = ninscope.measure(SUITE, revision, exact=True, q=q, derivative="forward", parts=["kind"], min_degree=4)
        np.testing.assert_array_equal(own.alpha, weights.alpha)
        assert own.parts.keys() == weights.parts.keys()
        assert repr(own.layers) == repr(weights.layers)
    assert ninscope.emergence(live.snapshot(512).measure(), live.snapshot(0).measure()) == pytest.approx(
        table(live.path, "emergence").query("part == 'all'")["emergence"].loc[512], rel=1e-15
    )


def test_without_a_snapshot_it_says_so(files, live):
    with pytest.raises(RequestError, match=r"no snapshot of neox at 512; a training keeps them where .* snapshot=True"):
        files.snapshot(512)
    with pytest.raises(RequestError, match=r"no snapshot of neox at step63; did you mean|; it has step0"):
        live.snapshot("step63")


# --- while it goes on


def test_rows_appear_while_the_training_goes_on(tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "mine"
    live = LiveRun(folder, asked())
    assert live.baseline is None
    assert command("status", folder).out.count("a training records here: 0 steps, one every 64")
    live.add(result(0))
    assert (live.steps, live.baseline.step, live.baseline.revision) == ({0}, 0, "step0")
    assert live.baseline.rms == opened_rms(0)
    assert (
        not list((folder / "tables").glob("*.parquet")) or len(pd.read_parquet(folder / "tables/samples.parquet")) == 0
    )
    run = ninscope.open_run(folder)
    assert run.table("checkpoints")["revision"].tolist() == ["step0"]
    live.add(result(64))
    assert command("query", folder, "SELECT step FROM samples", "--csv").out.split() == ["step", "0", "64"]
    told = command("status", folder)
    assert "mine: a training records here: 2 steps, step0 to step64, one every 64; 0 checkpoints not ok" in told.out
    assert "run the same command" not in told.out
    monkeypatch.chdir(tmp_path)
    told = command()
    assert "the newest is mine: in training, 2 checkpoints. Next:" in told.out
    assert "ninscope report mine" in told.out
    assert "run ..." not in told.out
    assert _unfinished(ninscope.open_run(folder))[0].startswith("The training goes on: what follows is of 2 steps")
    refused = command("clean", folder)
    assert refused.code == 2
    assert "a run is at work there" in refused.err
    live.finish()
    assert "in training" not in command("runs").out
    assert _unfinished(ninscope.open_run(folder)) == []
    assert "removed nothing" in command("clean", folder).out


def opened_rms(step):
    return {name: one.rms for name, one in result(step).norms.items() if name != "all"}


def test_a_training_that_stopped_says_so_and_goes_on(tmp_path):
    first = record(tmp_path / "mine", result(0), result(64), finish=False)
    told = command("status", tmp_path / "mine")
    assert (
        "a training that has not ended: 2 steps, step0 to step64; resumed with this log folder, it goes on here"
        in told.out
    )
    assert "stopped" in command("runs", "--runs-dir", tmp_path).out
    second = LiveRun(tmp_path / "mine", asked())
    assert second.steps == {0, 64}
    assert (second.baseline.step, second.baseline.rms) == (0, first.baseline.rms)
    assert second.baseline.measurement.alpha0 == result(0).measurement.alpha0
    assert second.contents == first.contents
    second.add(result(512))
    second.finish()
    record(tmp_path / "whole", *(result(step) for step in STEPS))
    assert contents(tmp_path / "mine" / "tables") == contents(tmp_path / "whole" / "tables")


def test_killed_in_the_middle_of_a_step(tmp_path):
    record(tmp_path / "mine", result(0), finish=False)
    killed = Forked(add_and_be_killed, tmp_path / "mine", 64)
    assert killed.wait(60) == -signal.SIGKILL
    assert len(artefacts(tmp_path / "mine")["exact"]) == 2
    assert table(tmp_path / "mine", "checkpoints").index.tolist() == [0]
    record(tmp_path / "mine", result(64))
    record(tmp_path / "whole", result(0), result(64))
    for part in ("tables", "store.zarr"):
        assert contents(tmp_path / "mine" / part) == contents(tmp_path / "whole" / part)


def test_who_may_not_write_reads_what_is_there(tmp_path, monkeypatch):
    live = LiveRun(tmp_path / "mine", asked())
    live.add(result(0))
    assert len(table(tmp_path / "mine", "samples")) == 1
    live.add(result(64))
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert len(table(tmp_path / "mine", "samples")) == 1
    assert not ninscope.open_run(tmp_path / "mine").finished
    assert "; the tables are without 1 step;" in command("status", tmp_path / "mine").out
    monkeypatch.undo()
    assert len(table(tmp_path / "mine", "samples")) == 2
    live.close()


# --- steps that come again, and rows that are not ok


def test_a_step_that_repeats_with_the_same_weights_changes_nothing(tmp_path):
    record(tmp_path / "mine", *(result(step) for step in STEPS))
    before = contents(tmp_path / "mine" / "tables")
    record(tmp_path / "mine", result(0), result(64), result(512))
    assert contents(tmp_path / "mine" / "tables") == before


def test_a_step_that_repeats_with_other_weights_replaces_its_row(tmp_path):
    record(tmp_path / "mine", *(result(step) for step in STEPS), finish=False)
    other = replace(result(1000), step=64)
    live = LiveRun(tmp_path / "mine", asked())
    live.add(other)
    rows = table(tmp_path / "mine", "checkpoints")
    assert rows.loc[64, "message"] == "measured again after the training was resumed, with other weights than before"
    assert rows.loc[512, "message"] == "measured before the training was resumed, which had other weights at step64"
    assert (rows["status"] == "ok").all()
    assert table(tmp_path / "mine", "samples").loc[64, "alpha0"] == result(1000).measurement.alpha0
    live.add(result(512))  # as before: it is of this session now
    live.finish()
    assert table(tmp_path / "mine", "checkpoints").loc[512, "message"] == ""
    assert "exact spectra (1)" in command("clean", tmp_path / "mine").out  # of the row that is gone


def test_a_first_row_with_other_weights_is_another_training(tmp_path):
    record(tmp_path / "mine", result(0), result(64), finish=False)
    live = LiveRun(tmp_path / "mine", asked())
    with pytest.raises(
        RequestError, match=r"mine: holds another training: its first row, step0, has other weights, .* log"
    ):
        live.add(replace(result(512), step=0))
    live.close()


def test_rows_that_are_not_ok(tmp_path):
    """A model that cannot be measured at first, NaN in the middle, and what was measured well is not replaced by a failure."""
    _, numbers = opened(64)
    bad = {"measurement": None, "norms": {}, "readings": None}
    missing = result(
        0, status="unsupported", message="tensor x is of type F8", network=None, parameters_count=None, **bad
    )
    nan = result(64, status="nonfinite", message="tensor x holds NaN", **bad)
    live = record(tmp_path / "mine", missing, nan, result(512, 512), finish=False)
    assert live.baseline.step == 512
    record(tmp_path / "mine", result(512, status="failed", message="no memory", **bad))
    rows = table(tmp_path / "mine", "checkpoints")
    assert rows["status"].tolist() == ["unsupported", "nonfinite", "ok"]
    assert rows["message"].tolist() == ["tensor x is of type F8", "tensor x holds NaN", ""]
    assert rows.loc[64, "parameters"] == numbers
    assert pd.isna(rows.loc[0, "parameters"])
    assert table(tmp_path / "mine", "emergence").index.unique().tolist() == [512]
    told = command("status", tmp_path / "mine")
    assert told.code == 1
    assert told.says == [
        "training/neox step0: unsupported: tensor x is of type F8",
        "training/neox step64: nonfinite: tensor x holds NaN",
    ]
    record(tmp_path / "mine", result(64, 512))  # resumed from before the NaN
    assert table(tmp_path / "mine", "checkpoints").loc[64, "status"] == "ok"


def test_a_model_that_does_not_change_keeps_its_e(tmp_path):
    """Equal weights at two steps are no fault here (a rate that begins at 0): E is given, and a note says so."""
    same = [replace(result(512), step=step) for step in (512, 600)]
    frozen = replace(result(0), step=1, readings=result(0).readings, status="duplicate")
    record(tmp_path / "mine", result(0), frozen, *same)
    emerged = table(tmp_path / "mine", "emergence").query("part == 'all'")
    assert emerged["status"].tolist() == ["ok"] * 4
    own = emerged["emergence"]
    assert (own.loc[0], own.loc[1]) == (0, 0)
    assert own.loc[512] == own.loc[600] != 0
    notes = table(tmp_path / "mine", "checkpoints")["message"]
    assert notes.loc[1] == "trusted: the same weights as step0"
    assert notes.loc[512] == "trusted: the same weights as step600"
    controls = table(tmp_path / "mine", "controls")
    assert (controls["status"] == "ok").all()
    assert controls.loc[512, "emergence_growth"] == controls.loc[600, "emergence_growth"]


def test_a_model_that_is_wired_otherwise_from_some_step_on(tmp_path):
    network, _ = opened(64)
    resized = replace(network, digest="f" * 64)
    record(tmp_path / "mine", result(0), result(64, network=resized), result(512))
    emerged = table(tmp_path / "mine", "emergence").query("part == 'all'")
    assert emerged["emergence"].isna().tolist() == [False, True, False]
    assert "wired otherwise than those of step0: no E" in emerged.loc[64, "message"]
    controls = table(tmp_path / "mine", "controls")
    assert (controls["status"] == "ok").all()
    assert pd.isna(controls.loc[64, "emergence_fixed"])


def test_controls_that_failed_are_a_row_that_says_so(tmp_path):
    failed = result(64, readings=None, note="the baseline's weights are gone")
    record(tmp_path / "mine", result(0), failed)
    row = table(tmp_path / "mine", "controls").loc[64]
    assert row["status"] == "failed"
    assert "the baseline's weights are gone" in row["message"]
    assert row["emergence"] == table(tmp_path / "mine", "emergence").query("part == 'all'").loc[64, "emergence"]
    record(tmp_path / "mine", result(64))
    assert table(tmp_path / "mine", "controls").loc[64, "status"] == "ok"


def test_the_folder_of_a_trainer_is_no_run_and_names_the_one_in_it(tmp_path):
    record(tmp_path / "trainer" / "ninscope", result(0))
    meant = rf"not a run folder .*; did you mean '{re.escape(str(tmp_path / 'trainer' / 'ninscope'))}'\?"
    with pytest.raises(RequestError, match=meant):
        ninscope.open_run(tmp_path / "trainer")
    ended = command("status", tmp_path / "trainer")
    assert ended.code == 2
    assert re.search(meant, ended.err)


def test_without_controls_and_with_norms_alone(tmp_path):
    few = {
        name: norms_alone(one.weights, one.norm, one.rms, one.mean, one.std) for name, one in result(0).norms.items()
    }
    record(tmp_path / "mine", result(0, norms=few, readings=None), controls=False)
    run = ninscope.open_run(tmp_path / "mine")
    assert run.table("controls").empty
    rows = run.table("weights").set_index("matrix")
    assert rows.loc["all", "norm"] == result(0).norms["all"].norm
    assert rows.loc["all", ["kurtosis", "gini", "q50"]].isna().all()
    assert rows.loc["all", "message"].startswith("only norms, mean and deviation are known")
    fewer = {name: norms_alone(one.weights, one.norm, one.rms, one.mean) for name, one in result(0).norms.items()}
    record(tmp_path / "fewer", result(0, norms=fewer, readings=None), controls=False)
    messages = ninscope.open_run(tmp_path / "fewer").table("weights")["message"]
    assert set(messages) == {"only norms and mean are known: the weights were not counted one by one"}
    assert command("status", tmp_path / "mine").code == 0


def test_a_stored_result_that_is_gone(tmp_path):
    """Only the training could make it again, and says so when asked: nothing else is lost, and what E needs is refused."""
    record(tmp_path / "mine", *(result(step) for step in STEPS))
    store = tmp_path / "mine" / "store.zarr"
    lost = ninscope.open_run(tmp_path / "mine").plan["checkpoints"][1]["exact"]
    (store / "exact" / lost / "values" / "c" / "0" / "0").write_bytes(b"")
    (tmp_path / "mine" / "tables" / "samples.parquet").write_bytes(b"")  # so that tables are made anew
    rows = table(tmp_path / "mine", "checkpoints")
    assert rows["status"].tolist() == ["ok", "missing", "ok"]
    assert "damaged or gone, and only the training itself could measure that step" in rows.loc[64, "message"]
    told = command("status", tmp_path / "mine")
    assert "1 stored result of its plan is not there; only the training could measure those steps" in told.out
    record(tmp_path / "mine", result(64))
    assert (table(tmp_path / "mine", "checkpoints")["status"] == "ok").all()


# --- what is refused


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"parameters": Parameters("all")}, r"with parts = \['block'\], and this one has parts = \(\)"),
        (
            {"parameters": replace(WHOLE, max_distance=90)},
            "with max_distance = 150.0, and this one has max_distance = 90.0",
        ),
        ({"model": "other"}, "with model = 'neox', and this one has model = 'other'"),
        ({"seed": 5}, "with seed = 0, and this one has seed = 5"),
        ({"controls": False}, "with controls = True, and this one has controls = False"),
        (
            {"wiring": "0" * 64},
            "training of another model: its network is wired as gpt_neox .*, this one as 000000000000;",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_experiment_is_refused(place, live, changed, said):
    before = contents(live.path)
    with pytest.raises(RequestError, match=f"live: holds a .*{said}.*log folder"):
        LiveRun(live.path, asked(**changed))
    assert contents(live.path) == before


def test_another_model_is_refused_with_its_first_row(tmp_path):
    record(tmp_path / "mine", result(0))
    other, _ = opened(64)
    live = LiveRun(tmp_path / "mine", asked())
    with pytest.raises(
        RequestError, match=r"wired as gpt_neox .*, this one as gpt_neox eeeeeeeeeeee; give the training"
    ):
        live.add(result(64, network=replace(other, digest="e" * 64)))
    live.close()


def test_two_trainings_do_not_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("ninscope_pipeline.live.recorder._CLAIM_SECONDS", 0.0)
    first = LiveRun(tmp_path / "mine", asked())
    with pytest.raises(
        RequestError, match="mine: another training is being recorded there; give each its own log folder"
    ):
        LiveRun(tmp_path / "mine", asked())
    first.finish()
    second = LiveRun(tmp_path / "mine", asked())
    with pytest.raises(RequestError, match="another training"):
        first.add(result(0))
    second.add(result(0))
    second.close()
    first.add(result(64))  # the first goes on with what it knew
    first.close()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RequestError, match=r"file: the run folder cannot be written \(a file has this name\); give the"
    ):
        LiveRun(tmp_path / "file", asked())
    with pytest.raises(
        RequestError, match=r"cannot be written \(Not a directory\); give the training another log folder"
    ):
        LiveRun(tmp_path / "file" / "mine", asked())


def test_a_full_disk_says_nothing_of_commands(tmp_path, monkeypatch):
    live = LiveRun(tmp_path / "mine", asked())
    monkeypatch.setattr(Path, "rename", full_disk)
    with pytest.raises(
        StoreError, match=r"mine: the disk is full \(No space .*\); free space and later steps are written$"
    ):
        live.add(result(0))
    monkeypatch.undo()
    live.add(result(0))
    live.finish()
    assert table(tmp_path / "mine", "samples").index.tolist() == [0]


def full_disk(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_folder_of_a_dag_file_is_not_a_trainings(files):
    with pytest.raises(
        RequestError, match="files: holds the run files of a DAG file; give the training another log folder"
    ):
        LiveRun(files.path, asked())


def test_a_run_of_the_same_name_replaces_a_training_only_where_asked(place, tmp_path):
    live = LiveRun(tmp_path / "files", asked())
    live.add(result(0))
    refused = command("run", dag_file(tmp_path), "--runs-dir", tmp_path)
    assert refused.code == 2
    assert (
        "holds results of training/neox from a training that was measured while it ran, which this DAG" in refused.err
    )
    assert "--replace" in refused.err
    assert command("run", dag_file(tmp_path), "--runs-dir", tmp_path, "--replace").code == 0
    live.add(result(64))
    assert len(table(tmp_path / "files", "samples")) == 3
    with pytest.raises(RequestError, match="files: holds the run files of a DAG file"):
        live.finish()
    assert "files: finished; 0 checkpoints not ok" in command("status", tmp_path / "files").out


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"[]",
        b"{}",
        {"format": 2},
        {"baseline": 65},
        {"session": "1"},
        {"rows": [{"step": 1}]},
        {"wirings": {}},
        {"wirings": []},
    ],
    ids=str,
)
def test_a_damaged_record_is_refused(tmp_path, live, damaged):
    path = copytree(live.path, tmp_path / "mine") / "live.json"
    content = damaged if isinstance(damaged, bytes) else json.dumps(json.loads(path.read_bytes()) | damaged).encode()
    path.write_bytes(content)
    for read in (lambda: LiveRun(path.parent, asked()), lambda: ninscope.open_run(path.parent)):
        with pytest.raises(RequestError, match=r"live\.json: cannot be read .*; give the training another log folder"):
            read()


def test_a_baseline_whose_result_is_gone_is_refused(tmp_path):
    record(tmp_path / "mine", result(0), finish=False)
    (key,) = artefacts(tmp_path / "mine")["exact"]
    (tmp_path / "mine" / "checksums" / "exact" / f"{key}.json").unlink()
    with pytest.raises(
        RequestError, match=r"what is stored of step0, with which all rows are compared, cannot be read"
    ):
        LiveRun(tmp_path / "mine", asked())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"model": "org/name"}, "model is 'org/name'; give letters, digits"),
        ({"parameters": Parameters()}, "recorded by the exact analysis on integer radii; leave nodes_per_layer"),
        ({"parameters": Parameters("all", radii={"log": 9})}, "on integer radii"),
        ({"parameters": Parameters("all", layers_crossed=2)}, r"cannot be recorded so: \[controls\] are of the edges"),
        ({"parameters": Parameters("all", layers_crossed=2), "controls": False, "snapshot": True}, "a snapshot is of"),
    ],
)
def test_a_request_that_no_run_has(wrong, said):
    with pytest.raises(RequestError, match=said):
        asked(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"step": -1}, {"step": True}, {"status": "fine"}, {"measurement": None}, {"norms": {}}]
)
def test_a_result_that_says_nothing(wrong):
    with pytest.raises(ValueError, match=r"step is|status is|no measurement"):
        replace(result(0), **wrong)


# --- requests as DAG files


@pytest.mark.parametrize(
    "parameters",
    [
        Parameters("all"),
        Parameters("all", q=[-1.5, 0.0, 0.1, 3.0], derivative="forward", parts=["layer", "kind"]),
        Parameters("all", max_distance=np.float64(90), min_degree=np.int64(4), transfer="coth", fit_radii=(3, 70)),
        Parameters("all", wiring="parallel", gauge="fixed", convolutions="per_tap", per_node=True),
        Parameters("all", architecture={"blocks": [{"tensor": "a.{n}", "source": "x{n}", "target": "x{n+1}"}]}),
    ],
)
def test_a_request_is_a_dag_file(parameters):
    described = json.loads(json.dumps(asked(parameters=parameters).described()))
    (analysis,) = dag_of(described, 12).analyses()
    assert repr(analysis.parameters) == repr(parameters)
    np.testing.assert_array_equal(analysis.parameters.q, parameters.q)
    assert analysis.parameters.architecture == parameters.architecture


def test_names_that_fit():
    assert fit_name("EleutherAI/pythia-14m") == "EleutherAI-pythia-14m"
    assert fit_name("out -- 1/") == "out-1"
    assert fit_name("___") == "training"
    assert asked(name=fit_name("a" * 200), model=fit_name(".ü.")).name == "a" * 96


def test_a_model_of_no_known_family(tmp_path):
    """Its note is told once, of the checkpoint."""
    source = write_suite(tmp_path / "text", steps=(0, 1), blocks=1, width=16, heads=2)
    for step in (0, 1):
        (source / f"step{step}" / "config.json").write_text("{}")
    rows = [result(step, suite=source) for step in (0, 1)]
    record(tmp_path / "mine", *rows)
    command("run", dag_file(tmp_path, source, "others", revisions="all"), "--runs-dir", tmp_path)
    own, expected = (table(tmp_path / name, "checkpoints")["message"] for name in ("mine", "others"))
    assert own.tolist() == expected.tolist()
    assert "generic" in own.loc[0] or own.loc[0]
