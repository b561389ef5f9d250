"""`ninscope status` and ninscope.open_run: what a run folder says, finished or not."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from driving import command, write_dag
from suites import neox_tensors, write_checkpoint, write_suite

import ninscope
from ninscope.checkpoints.source import open_source
from ninscope.networks.neuron_network import neuron_network
from ninscope.networks.sampled import sampled_network
from ninscope_pipeline.prepared_run import prepare, start
from ninscope_pipeline.request.dagfile import load_dag

pytestmark = pytest.mark.usefixtures("undrawn")

SHAPE = {"blocks": 1, "width": 16, "heads": 2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a suite of a good start, one step with NaN and one truncated, and its run."""
    place = tmp_path_factory.mktemp("status")
    write_suite(place / "tiny", (0, 1), **SHAPE)
    with_nan = neox_tensors(seed=2, **SHAPE)
    with_nan["gpt_neox.layers.0.attention.dense.weight"][0, 0] = np.nan
    write_checkpoint(place / "tiny" / "step2", with_nan)
    write_suite(place / "tiny", (3,), **SHAPE)
    truncated = place / "tiny" / "step3" / "model.safetensors"
    truncated.write_bytes(truncated.read_bytes()[:-10])
    partly = write_dag(place / "partly.toml", Path("tiny"))
    whole = write_dag(place / "whole.toml", Path("tiny"), revisions=["step0", "step1"])
    for dag, code in ((partly, 1), (whole, 0)):
        assert command("run", dag, "--runs-dir", place / "runs").code == code
    return place


def counts(out: str) -> dict[str, tuple[int, int]]:
    """stage -> (done, of), from the table that status prints."""
    rows = re.findall(r"(networks|spectra|tables)\s*\W\s*(\d+)\s*\W\s*(\d+)", out)
    return {stage: (int(done), int(total)) for stage, done, total in rows}


def test_status_of_a_finished_run(finished):
    ended = command("status", finished / "runs" / "whole")
    assert (ended.code, ended.err) == (0, "")
    assert counts(ended.out) == {"networks": (2, 2), "spectra": (2, 2), "tables": (1, 1)}
    assert ended.out.splitlines()[-1] == "whole: finished; 0 checkpoints not ok"


def test_status_of_a_partly_failed_run(finished):
    ended = command("status", finished / "runs" / "partly")
    assert ended.code == 1
    assert ended.out.splitlines()[-1] == "partly: finished; 2 checkpoints not ok"
    assert [line.split(": ")[:2] for line in ended.says] == [
        ["tiny/tiny step2", "nonfinite"],
        ["tiny/tiny step3", "corrupt"],
    ]
    assert ended.err.count("\n") == 2


def test_status_takes_a_name_in_runs(finished, monkeypatch):
    monkeypatch.chdir(finished)
    assert command("status", "whole").out.splitlines()[-1].startswith("whole: finished")
    assert command("status", "runs/whole").code == 0


def started(place: Path, dag: Path) -> Path:
    """The folder of a run that was interrupted before its first task."""
    prepared = prepare(load_dag(dag), place / "runs")
    start(prepared)
    return prepared.folder.root


def test_status_of_a_run_that_was_interrupted_at_once(tmp_path):
    write_suite(tmp_path / "tiny", (0, 1, 8), **SHAPE)
    ended = command("status", started(tmp_path, write_dag(tmp_path / "tiny.toml", Path("tiny"))))
    assert ended.code == 0
    assert counts(ended.out) == {"networks": (0, 3), "spectra": (0, 3), "tables": (0, 1)}
    assert "not finished; run the same command again" in ended.out


def test_status_of_a_run_that_was_interrupted_half_way(finished, tmp_path):
    place = shutil.copytree(finished, tmp_path / "place")
    folder = place / "runs" / "whole"
    shutil.rmtree(folder / "tables")
    shutil.rmtree(next(path for path in (folder / "store.zarr" / "spectra").iterdir() if path.is_dir()))
    ended = command("status", folder)
    assert counts(ended.out) == {"networks": (2, 2), "spectra": (1, 2), "tables": (0, 1)}
    assert "not finished" in ended.out


def test_status_of_a_finished_run_that_was_asked_for_more_and_interrupted(finished, tmp_path):
    """Tables of the earlier request are there, but those of the request that run.toml shows are not."""
    place = shutil.copytree(finished, tmp_path / "place")
    folder = started(place, write_dag(place / "whole.toml", Path("tiny"), revisions=["step0", "step1"], seed=1))
    ended = command("status", folder)
    assert counts(ended.out) == {"networks": (0, 2), "spectra": (0, 2), "tables": (0, 1)}
    assert "not finished" in ended.out


def test_status_of_an_interrupted_run_names_what_is_known_to_be_bad(finished, tmp_path):
    place = shutil.copytree(finished, tmp_path / "place")
    shutil.rmtree(place / "runs")
    ended = command("status", started(place, place / "partly.toml"))
    assert ended.code == 1
    assert [line.split(": ")[:2] for line in ended.says] == [["tiny/tiny step3", "corrupt"]]


@pytest.mark.parametrize("what", ["absent", "empty", "file"])
def test_status_of_what_is_no_run(tmp_path, what):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    ended = command("status", tmp_path / what)
    assert (ended.code, ended.out) == (2, "")
    assert (
        ended.err
        == f"ninscope: {tmp_path / what}: not a run folder (it has no run.toml); give a folder that `ninscope run` wrote\n"
    )


@pytest.mark.parametrize("content", [None, "", "{"])
def test_status_of_a_run_whose_plan_is_lost_is_no_traceback(finished, tmp_path, content):
    folder = shutil.copytree(finished / "runs" / "whole", tmp_path / "whole")
    (folder / "plan.json").unlink()
    if content is not None:
        (folder / "plan.json").write_text(content)
    ended = command("status", folder)
    assert ended.code in (0, 2)
    assert len(ended.err.splitlines()) <= 1


def test_a_run_whose_known_files_are_damaged_hashes_again(finished, tmp_path):
    place = shutil.copytree(finished, tmp_path / "place")
    facts = '{"version": 2, "files": {"a": 1}, "facts": {"a": {"identity": 3}, "b": 4}}'
    for content in ("{", '{"a": 1}', '{"version": 2, "files": {}, "facts": []}', facts):
        (place / "runs" / "whole" / "known.json").write_text(content)
        assert command("run", place / "whole.toml", "--runs-dir", place / "runs").code == 0


# Python


@pytest.fixture(scope="module")
def run(finished):
    return ninscope.open_run(finished / "runs" / "partly")


def test_open_run_takes_a_string_or_a_path(finished, monkeypatch):
    monkeypatch.chdir(finished)
    for path in ("runs/whole", Path("runs/whole"), finished / "runs" / "whole"):
        assert len(ninscope.open_run(path).table("checkpoints")) == 2


def test_a_run_lists_its_tables_and_figures(run):
    assert run.tables == [
        "activations", "benchmarks", "checkpoints", "comparisons", "controls", "correlations", "degrees", "emergence",
        "finetunes", "interactions", "neuron_places", "neurons", "nulls", "polysemanticity", "polysemanticity_correlations",
        "polysemanticity_neuron_correlations", "polysemanticity_neurons", "polysemanticity_slopes",
        "samples", "scaling", "scaling_curves", "spectra", "weights",
    ]  # fmt: skip
    assert [path.name for path in run.figures] == ["tiny-emergence.png", "tiny-spectra.png"]
    assert all(path.is_file() for path in run.figures)


def test_a_table_is_a_dataframe_to_query(run):
    checkpoints = run.table("checkpoints")
    assert isinstance(checkpoints, pd.DataFrame)
    assert checkpoints["status"].tolist() == ["ok", "ok", "nonfinite", "corrupt"]
    emergence = run.table("emergence").set_index("step")
    assert emergence.loc[0, "emergence"] == 0
    assert len(run.table("benchmarks")) == 0


def test_measures_of_a_run_side_by_side(run):
    frame, emergence = run.measured(), run.table("emergence")
    assert len(frame) == len(run.table("checkpoints")[["suite", "model", "step"]].dropna().drop_duplicates())
    known = emergence[emergence["variant"] == "default"].dropna(subset=["alpha0"])
    assert len(known)
    for row in known.to_dict("records"):
        at = frame[(frame["model"] == row["model"]) & (frame["step"] == row["step"])].iloc[0]
        assert row["alpha0"] in (at.get("alpha0"), at.get(f"alpha0 ({row['method']})"))


def test_a_stored_network_is_the_one_that_is_built(finished, run):
    network = run.network("tiny", "step1")
    checkpoint = open_source(finished / "tiny").open("step1")
    built = sampled_network(neuron_network(checkpoint), 12, 3, 0, 150.0)
    assert network.samples == 3
    assert network.nodes == 96
    assert network.layer_names == built.layer_names
    np.testing.assert_array_equal(network.neurons, built.neurons)
    assert (network.matrix != built.matrix).nnz == 0
    samples = run.table("samples").query("step == 1")
    assert samples["edges"].sum() <= network.matrix.nnz


def test_a_run_gives_its_store_read_only(run):
    assert isinstance(run.store, zarr.Group)
    assert set(run.store) == {"nin", "spectra", "emergence"}
    with pytest.raises(ValueError, match="read-only"):
        run.store.create_group("mine")


def test_the_name_of_a_run_in_runs_is_told_with_its_path(tmp_path, monkeypatch):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "run.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ninscope.RequestError, match=r"^mine: not a run folder .*; did you mean 'runs/mine'"):
        ninscope.open_run("mine")


def test_what_is_no_run_is_refused_by_name(tmp_path):
    with pytest.raises(ninscope.RequestError, match=f"^{re.escape(str(tmp_path))}: not a run folder"):
        ninscope.open_run(tmp_path)
    with pytest.raises(ninscope.RequestError, match=r"^absent: not a run folder"):
        ninscope.open_run("absent")


@pytest.mark.parametrize("name", ["powers", "", "../run", "emergence.parquet"])
def test_a_table_that_is_not_there_is_refused_with_those_that_are(run, name):
    with pytest.raises(ninscope.RequestError, match=r"no table .*its tables: activations, benchmarks, checkpoints"):
        run.table(name)


def test_an_unfinished_run_has_no_tables_yet(tmp_path):
    write_suite(tmp_path / "tiny", (0,), **SHAPE)
    run = ninscope.open_run(started(tmp_path, write_dag(tmp_path / "tiny.toml", Path("tiny"))))
    assert run.tables == []
    assert run.figures == []
    with pytest.raises(ninscope.RequestError, match="since the run has not finished"):
        run.table("emergence")
    with pytest.raises(ninscope.RequestError, match="no stored network of tiny at step0"):
        run.network("tiny", "step0")


@pytest.mark.parametrize(("model", "revision"), [("tiny", "step7"), ("other", "step0"), ("tiny", "step3")])
def test_a_network_that_is_not_there_is_refused_by_name(run, model, revision):
    with pytest.raises(ninscope.RequestError, match=f"no stored network of {model} at {revision}"):
        run.network(model, revision)


def test_the_network_of_weights_with_nan_says_so(run):
    with pytest.raises(ninscope.NinscopeError, match="holds NaN or infinity"):
        run.network("tiny", "step2")


def test_a_run_folder_can_be_moved(finished, tmp_path):
    moved = ninscope.open_run(shutil.copytree(finished / "runs" / "whole", tmp_path / "moved"))
    assert len(moved.table("emergence")) == 2
    assert moved.network("tiny", "step0").samples == 3


def test_what_a_run_wrote_down_is_json_and_toml_others_can_read(finished):
    plan = json.loads((finished / "runs" / "partly" / "plan.json").read_text())
    assert [one["revision"] for one in plan["checkpoints"]] == ["step0", "step1", "step2", "step3"]
    assert (finished / "runs" / "partly" / "run.toml").read_text().startswith("[asked]")
