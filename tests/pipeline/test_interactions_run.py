"""Interactions in a run: the numbers are Python's, a second run does nothing, a failure is the checkpoint's."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tomli_w
from driving import artefacts, command, process, write_dag
from safetensors.numpy import load_file, save_file
from suites import write_suite

import ninscope
from ninscope.checkpoints.source import open_source
from ninscope.interaction.of_checkpoint import checkpoint_interactions
from ninscope.interaction.whole import Options
from ninscope_pipeline.stages.interactions import DECIMALS, spikes_by_matrix
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import ArtefactStore

pytestmark = pytest.mark.usefixtures("undrawn")

STEPS = (0, 1, 8)
SHAPE = {"blocks": 2, "width": 16, "heads": 2}
NUMBERS = ["coupling", "error", "heads", "vectors", "estimate_error", "error_vectors"]


def dag(place: Path, **section) -> Path:
    path = write_dag(place / "x.toml", Path("weights"))
    path.write_text(path.read_text() + "\n" + tomli_w.dumps({"interactions": section}))
    return path


def ran(place: Path, *options, **section):
    return command("run", dag(place, **section), "--runs-dir", place / "runs", *options)


def table(place: Path, name: str = "interactions") -> pd.DataFrame:
    return ninscope.open_run(place / "runs" / "x").table(name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("interactions")
    write_suite(place / "weights", STEPS, **SHAPE)
    assert ran(place).code == 0
    return place


def test_the_table_is_what_python_gives(finished):
    rows = table(finished)
    assert rows["revision"].unique().tolist() == [f"step{step}" for step in STEPS]
    for revision, part in rows.groupby("revision"):
        frame = ninscope.interactions(finished / "weights", revision)
        columns = ["writer", "reader", "kind", "distance", *NUMBERS, "message"]
        pd.testing.assert_frame_equal(
            part[columns].reset_index(drop=True).astype(frame.dtypes), frame[columns], rtol=0, atol=10**-DECIMALS
        )
    assert len(rows) == len(STEPS) * (2 * 3 + 2 * 4)


def test_spikes_are_kept_for_the_table_of_weights(finished):
    store = ArtefactStore(RunFolder(finished / "runs" / "x"))
    source, stored = open_source(finished / "weights"), set()
    for key in artefacts(finished / "runs" / "x")["interactions"]:
        stored.add(tuple(spikes_by_matrix(store.read("interactions", key))))
    expected = [checkpoint_interactions(source.open(f"step{step}"), Options(across=False)).spikes for step in STEPS]
    assert stored == {
        tuple(
            (name, one.count, round(one.share, DECIMALS), round(one.squares, DECIMALS)) for name, one in spikes.items()
        )
        for spikes in expected
    }
    assert {len(matrices) for matrices in stored} == {12}


def test_the_table_of_weights_has_them(finished):
    weights, places = table(finished, "weights"), ["revision", "matrix"]
    rows = weights[weights["matrix"] != "all"].set_index(places)
    assert len(rows) == len(STEPS) * 12
    source = open_source(finished / "weights")
    for step in STEPS:
        spikes = checkpoint_interactions(source.open(f"step{step}"), Options(across=False)).spikes
        for name, one in spikes.items():
            row = rows.loc[(f"step{step}", name)]
            assert (row["spikes"], row["spike_share"]) == (one.count, pytest.approx(one.share, abs=1e-9))
        whole = weights[(weights["matrix"] == "all") & (weights["step"] == step)].iloc[0]
        assert whole["spikes"] == sum(one.count for one in spikes.values())
        beyond = sum(one.share * one.squares for one in spikes.values())
        assert whole["spike_share"] == pytest.approx(beyond / whole["norm"] ** 2, rel=1e-6)


def test_a_second_run_does_nothing_and_another_seed_all(finished):
    assert "would run nothing" in ran(finished, "--dry-run").out
    again = ran(finished, "--dry-run", exact=4, seed=1)
    assert [stage for stage, _ in again.would_run] == ["interactions"] * len(STEPS) + ["tables", "figures"]


def test_without_the_section_there_are_none(tmp_path, finished):
    path = write_dag(tmp_path / "x.toml", finished / "weights")
    assert command("run", path, "--runs-dir", tmp_path / "runs").code == 0
    assert ninscope.open_run(tmp_path / "runs" / "x").table("interactions").empty


def test_only_what_is_asked_for(tmp_path, finished):
    (tmp_path / "weights").symlink_to(finished / "weights")
    assert ran(tmp_path, across=False, spikes=False).code == 0
    rows = table(tmp_path)
    assert sorted(set(rows["kind"])) == ["mlp", "qk", "vo"]
    (tmp_path / "bad.toml").write_text(dag(tmp_path, vectors=3).read_text())
    assert "vectors" in command("run", tmp_path / "bad.toml", "--dry-run").says[-1]


def test_a_gain_that_is_not_finite_is_told_by_the_checkpoint(tmp_path):
    write_suite(tmp_path / "weights", STEPS, **SHAPE)
    file = tmp_path / "weights" / "step1" / "model.safetensors"
    tensors = load_file(file)
    tensors["gpt_neox.layers.1.input_layernorm.weight"][2] = np.nan
    save_file(tensors, file, metadata={"format": "pt"})
    assert ran(tmp_path).code == 1
    rows = table(tmp_path, "checkpoints").set_index("revision")
    assert rows["status"].to_dict() == {"step0": "ok", "step1": "nonfinite", "step8": "ok"}
    assert rows["message"]["step1"].startswith("tensor gpt_neox.layers.1.input_layernorm.weight holds NaN")
    assert set(table(tmp_path)["revision"]) == {"step0", "step8"}
    assert set(table(tmp_path, "samples")["revision"]) == {
        "step0",
        "step8",
    }  # where its bytes are at fault, none is trusted


def test_another_configuration_is_another_result(tmp_path):
    """Sequential blocks: the wiring and the weights stay, and who reads whom is another."""
    write_suite(tmp_path / "weights", STEPS, **SHAPE)
    assert ran(tmp_path).code == 0
    before = table(tmp_path)
    config = tmp_path / "weights" / "step8" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_parallel_residual": False}))
    again = ran(tmp_path, "--dry-run")
    assert [stage for stage, _ in again.would_run if stage in ("interactions", "spectra")] == ["interactions"]
    assert ran(tmp_path).code == 0
    counts = table(tmp_path).groupby("revision").size()
    assert counts["step0"] == (before["revision"] == "step0").sum()
    assert counts["step8"] > counts["step0"]


def test_a_model_without_pairs_has_a_row_that_says_so(tmp_path):
    write_suite(tmp_path / "weights", (0, 1), **SHAPE)
    for step in (0, 1):
        (tmp_path / "weights" / f"step{step}" / "config.json").write_text('{"model_type": "mine"}')
    assert ran(tmp_path).code == 0
    rows = table(tmp_path)
    assert len(rows) == 2
    assert rows["message"].str.contains("no pair of matrices is known").all()
    assert rows["coupling"].isna().all()


@pytest.mark.slow
def test_threads_of_linear_algebra_change_no_byte(tmp_path):
    """Nor does the number of workers."""
    write_suite(tmp_path / "weights", STEPS, blocks=2, width=128, heads=4)
    tables = []
    for threads in ("1", "4"):
        runs = tmp_path / f"runs{threads}"
        ended = process(
            "run", dag(tmp_path, exact=64), "--runs-dir", runs, "--workers", threads,
            env=os.environ | {"OPENBLAS_NUM_THREADS": threads},
        )  # fmt: skip
        assert ended.code == 0, ended.err
        tables.append((runs / "x" / "tables" / "interactions.parquet").read_bytes())
    assert tables[0] == tables[1]
