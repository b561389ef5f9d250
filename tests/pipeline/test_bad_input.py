"""Bad checkpoints and bad requests, through the command line: exit code, one clear line each, and nothing else harmed."""

import math
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from damage import (
    BAD,
    FUSED,
    GOOD,
    SHAPE,
    with_value,
    zeroed,
)
from driving import command, contents, results, write_dag
from suites import write_checkpoint, write_suite

import ninscope

pytestmark = pytest.mark.usefixtures("undrawn")

STEP_OF = {kind: 100 + number for number, kind in enumerate(BAD)}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """(folder, how its run ended): every kind of bad checkpoint among good ones; run good: the same without the bad."""
    place = tmp_path_factory.mktemp("mixed")
    for suite in ("mixed", "good"):
        write_suite(place / suite, GOOD, **SHAPE)
    for kind, (make, _, _) in BAD.items():
        make(place / "mixed" / f"step{STEP_OF[kind]}")
    good = write_dag(place / "good.toml", models=[{"suite": "s", "model": "m", "source": "good"}])
    assert run(place, good).code == 0
    dag = write_dag(place / "mixed.toml", models=[{"suite": "s", "model": "m", "source": "mixed"}])
    return place, run(place, dag)


def run(place: Path, dag: Path):
    return command("run", dag, "--runs-dir", place / "runs")


def table(run_folder: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(run_folder / "tables" / f"{name}.parquet")


def test_bad_checkpoints_make_exit_code_1(mixed):
    _, ended = mixed
    assert ended.code == 1


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_checkpoint_is_a_row_with_its_reason(mixed, kind):
    place, _ = mixed
    _, status, message = BAD[kind]
    rows = table(place / "runs" / "mixed", "checkpoints").set_index("step")
    row = rows.loc[STEP_OF[kind]]
    assert row["status"] == status
    assert re.search(message, row["message"])
    assert "\n" not in row["message"]


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_checkpoint_is_named_once_on_standard_error(mixed, kind):
    _, ended = mixed
    _, status, message = BAD[kind]
    (line,) = [line for line in ended.says if f"step{STEP_OF[kind]}" in line.split(":")[0]]
    assert line.startswith(f"s/m step{STEP_OF[kind]}: {status}: ")
    assert re.search(message, line)


def test_standard_error_holds_a_line_a_problem_and_no_more(mixed):
    _, ended = mixed
    assert len(ended.says) == len(BAD)
    assert "Traceback" not in ended.err


def test_good_checkpoints_among_bad_ones_come_out_the_same_to_the_bit(mixed):
    place, _ = mixed
    for name in ("checkpoints", "samples", "spectra", "emergence"):
        rows = table(place / "runs" / "mixed", name)
        among_bad = rows[rows["step"].isin(GOOD)].reset_index(drop=True)
        pd.testing.assert_frame_equal(among_bad, table(place / "runs" / "good", name), check_exact=True)
    stored = contents(place / "runs" / "good" / "store.zarr")
    network = {name: digest for name, digest in stored.items() if name.startswith(("nin", "spectra"))}
    assert network.items() <= contents(place / "runs" / "mixed" / "store.zarr").items()


def test_bad_checkpoints_have_no_rows_of_results(mixed):
    place, _ = mixed
    for name in ("samples", "spectra", "emergence"):
        assert set(table(place / "runs" / "mixed", name)["step"]) == set(GOOD)


def test_what_is_wrong_with_a_checkpoint_is_found_once(mixed):
    """A failure follows from the bytes: a second run tries nothing again, and says the same."""
    place, first = mixed
    dag, before = place / "mixed.toml", results(place / "runs" / "mixed")
    listed = command("run", dag, "--runs-dir", place / "runs", "--dry-run")
    assert listed.would_run == []
    again = command("run", dag, "--runs-dir", place / "runs", "--workers", 1)
    assert again.code == 1
    assert again.says == first.says
    assert results(place / "runs" / "mixed") == before


@pytest.mark.parametrize("kind", ["NaN", "tensor of integers"])
def test_a_checkpoint_whose_weights_turn_out_bad_is_found_once(tmp_path, kind):
    write_suite(tmp_path / "tiny", GOOD, **SHAPE)
    BAD[kind][0](tmp_path / "tiny" / "step9")
    dag = write_dag(tmp_path / "tiny.toml", Path("tiny"))
    assert run(tmp_path, dag).code == 1
    assert command("run", dag, "--runs-dir", tmp_path / "runs", "--dry-run").would_run == []


def test_a_dry_run_names_the_checkpoints_that_are_not_ok(mixed):
    place, _ = mixed
    ended = command("run", place / "mixed.toml", "--runs-dir", place / "elsewhere", "--dry-run")
    assert ended.code == 0
    assert f"s/m step{STEP_OF['truncated']}: corrupt: " in ended.out


def test_a_suite_without_one_good_checkpoint_still_makes_tables(tmp_path):
    for kind in ("garbage", "NaN"):
        BAD[kind][0](tmp_path / "tiny" / f"step{STEP_OF[kind]}")
    ended = run(tmp_path, write_dag(tmp_path / "tiny.toml", Path("tiny")))
    assert ended.code == 1
    assert len(ended.says) == 2
    folder = tmp_path / "runs" / "tiny"
    assert table(folder, "checkpoints")["status"].tolist() == ["corrupt", "nonfinite"]
    assert len(table(folder, "emergence")) == 0
    assert len(ninscope.open_run(folder).figures) == 2


def test_a_listed_revision_that_is_not_there_is_missing(tmp_path):
    write_suite(tmp_path / "tiny", GOOD, **SHAPE)
    ended = run(tmp_path, write_dag(tmp_path / "tiny.toml", Path("tiny"), revisions=["step0", "step4"]))
    assert ended.code == 1
    (line,) = ended.says
    assert line.startswith("tiny/tiny step4: missing: ")
    assert table(tmp_path / "runs" / "tiny", "checkpoints")["status"].tolist() == ["ok", "missing"]


def test_a_repaired_checkpoint_is_analysed(tmp_path):
    write_suite(tmp_path / "tiny", GOOD, **SHAPE)
    broken = tmp_path / "tiny" / "step1" / "model.safetensors"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-1])
    dag = write_dag(tmp_path / "tiny.toml", Path("tiny"))
    assert run(tmp_path, dag).code == 1
    broken.write_bytes(whole)
    assert run(tmp_path, dag).code == 0
    assert table(tmp_path / "runs" / "tiny", "checkpoints")["status"].tolist() == ["ok"] * 3


# Checkpoints that are ok and yet give no or less of a result.


def run_with(tmp_path: Path, checkpoints: dict, **changes):
    """(how a run over checkpoints by step ended, its folder)."""
    write_suite(tmp_path / "tiny", GOOD, **SHAPE)
    for step, tensors in checkpoints.items():
        shutil.rmtree(tmp_path / "tiny" / f"step{step}", ignore_errors=True)
        if tensors is not None:
            write_checkpoint(tmp_path / "tiny" / f"step{step}", tensors)
    ended = run(tmp_path, write_dag(tmp_path / "tiny.toml", Path("tiny"), **changes))
    return ended, tmp_path / "runs" / "tiny"


def test_weights_that_are_all_zero_have_no_spectrum_and_it_is_said(tmp_path):
    ended, folder = run_with(tmp_path, {8: zeroed(8)})
    assert ended.code == 0
    row = table(folder, "checkpoints").set_index("step").loc[8]
    assert row["status"] == "ok"
    assert "no node has enough edges" in row["message"]
    rows = table(folder, "emergence").set_index("step")
    assert rows.loc[8, ["alpha0", "width", "emergence"]].isna().all()
    assert rows.loc[1, ["alpha0", "width", "emergence"]].notna().all()
    assert "no spectrum" in rows.loc[8, "message"]
    samples = table(folder, "samples")
    assert (samples[samples["step"] == 8][["edges", "nodes_counted"]] == 0).all(axis=None)
    assert any("step8" in line and "alpha0 and width are missing" in line for line in ended.says)


def test_one_matrix_of_zeros_leaves_a_spectrum_of_the_rest(tmp_path):
    ended, folder = run_with(tmp_path, {8: zeroed(8, [FUSED])})
    assert ended.code == 0
    rows = table(folder, "emergence").set_index("step")
    assert rows.loc[8, ["alpha0", "width"]].notna().all()
    assert math.isnan(rows.loc[8, "emergence"])  # it would compare a part of the network with all of it
    assert "nodes count" in rows.loc[8, "message"]
    samples = table(folder, "samples").set_index("step")
    assert (samples.loc[8, "nodes_counted"].to_numpy() < samples.loc[1, "nodes_counted"].to_numpy()).all()


def test_a_start_without_spectrum_leaves_alpha0_and_no_emergence(tmp_path):
    ended, folder = run_with(tmp_path, {0: zeroed(0)})
    assert ended.code == 0
    rows = table(folder, "emergence").set_index("step")
    assert rows["emergence"].isna().all()
    assert rows.loc[[1, 8], ["alpha0", "width"]].notna().all(axis=None)
    assert rows.loc[1, "message"] == "no E: step0 has no spectrum"
    assert any("step0 has no spectrum" in line for line in ended.says)


def test_fewer_neurons_than_asked_is_said(tmp_path):
    ended, folder = run_with(tmp_path, {}, nodes_per_layer=40)
    assert ended.code == 0
    said = "layers of 16 neurons were taken whole (40 asked for)"
    assert table(folder, "checkpoints")["message"].tolist() == [said] * 3
    assert ended.says == [f"tiny/tiny 3 checkpoints: {said}"]


@pytest.mark.parametrize("absent", [True, False])
def test_without_a_usable_step0_there_is_alpha0_and_no_emergence(tmp_path, absent):
    ended, folder = run_with(tmp_path, {0: None if absent else with_value(math.nan)})
    assert ended.code == (0 if absent else 1)
    rows = table(folder, "emergence")
    assert rows["step"].tolist() == [1, 8]
    assert rows[["alpha0", "alpha0_std", "width", "width_std"]].notna().all(axis=None)
    assert rows[["emergence", "emergence_low", "emergence_high"]].isna().all(axis=None)
    assert rows["message"].str.startswith("no E: there is no usable step0 to compare with; ").tolist() == [True] * 2
    assert any("no usable step0" in line for line in ended.says)


def test_another_baseline_does_without_step0(tmp_path):
    ended, folder = run_with(tmp_path, {0: None}, baseline_step=1)
    assert (ended.code, ended.says) == (0, [])
    rows = table(folder, "emergence").set_index("step")
    assert rows.loc[1, "emergence"] == 0
    assert (rows["baseline_step"] == 1).all()


def test_one_sample_has_no_spread_and_no_interval(tmp_path):
    ended, folder = run_with(tmp_path, {}, samples=1)
    assert ended.code == 0
    rows = table(folder, "emergence")
    assert rows[["alpha0", "width", "emergence"]].notna().all(axis=None)
    assert rows[["alpha0_std", "width_std", "emergence_low", "emergence_high"]].isna().all(axis=None)
