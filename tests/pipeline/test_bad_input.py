"""Bad checkpoints and bad requests, through the command line: exit code, one clear line each, and nothing else harmed."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from driving import ANALYSIS, command, contents, process, results, write_dag
from suites import neox_tensors, safetensors_bytes, used_names, write_checkpoint, write_suite

import ninscope

SHAPE = {"blocks": 1, "width": 16, "heads": 2}
GOOD = (0, 1, 8)
MEASURE = ("--nodes-per-layer", "12", "--samples", "3")
FUSED = "gpt_neox.layers.0.attention.query_key_value.weight"
DENSE = "gpt_neox.layers.0.attention.dense.weight"
ROW_KEYS = [
    "revision", "step", "status", "message", "method", "alpha0", "alpha0_std", "width", "width_std", "emergence", "nodes",
    "edges",
]  # fmt: skip


def tensors_with(**changes):
    tensors = neox_tensors(seed=99, **SHAPE)
    tensors.update(changes)
    return tensors


def with_value(value: float):
    tensors = neox_tensors(seed=99, **SHAPE)
    tensors[DENSE][3, 5] = value
    return tensors


def without_config(folder: Path) -> None:
    write_checkpoint(folder, neox_tensors(seed=99, **SHAPE))
    (folder / "config.json").unlink()


def with_config(folder: Path, content: str) -> None:
    write_checkpoint(folder, neox_tensors(seed=99, **SHAPE))
    (folder / "config.json").write_text(content)


def without_weights(folder: Path) -> None:
    write_checkpoint(folder, neox_tensors(seed=99, **SHAPE))
    (folder / "model.safetensors").unlink()


def without_a_shard(folder: Path) -> None:
    write_checkpoint(folder, neox_tensors(seed=99, **SHAPE), shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()


def with_bytes(folder: Path, change) -> None:
    write_checkpoint(folder, neox_tensors(seed=99, **SHAPE))
    file = folder / "model.safetensors"
    file.write_bytes(change(file.read_bytes()))


def without_a_tensor(folder: Path) -> None:
    tensors = neox_tensors(seed=99, **SHAPE)
    del tensors[DENSE]
    write_checkpoint(folder, tensors)


def with_integers(folder: Path) -> None:
    """Weights of a used matrix as I8, as quantised files have them."""
    tensors = neox_tensors(seed=99, **SHAPE)
    entries = {name: ("F16", array.shape, array.tobytes()) for name, array in tensors.items()}
    entries[DENSE] = ("I8", (16, 16), bytes(256))
    write_checkpoint(folder, tensors)
    (folder / "model.safetensors").write_bytes(safetensors_bytes(entries))


# kind: (how it is made, status, what the message must say)
BAD = {
    "config absent": (without_config, "missing", "config.json is absent"),
    "config not JSON": (lambda folder: with_config(folder, "{'a': 1}"), "corrupt", "config.json: not JSON"),
    "config no object": (lambda folder: with_config(folder, "[]"), "corrupt", "config.json: not a JSON object"),
    "type unknown": (lambda folder: with_config(folder, '{"model_type": "mamba"}'), "unsupported", "'mamba'.*gpt_neox"),
    "type absent": (lambda folder: with_config(folder, "{}"), "unsupported", "model_type"),
    "sizes absent": (
        lambda folder: with_config(folder, '{"model_type": "gpt_neox"}'),
        "corrupt",
        "config.json: num_hidden_layers is None",
    ),
    "weights absent": (without_weights, "missing", "no model.safetensors"),
    "shard absent": (without_a_shard, "missing", "model-00002-of-00002.safetensors is absent"),
    "tensor absent": (without_a_tensor, "corrupt", re.escape(f"tensor {DENSE} is absent")),
    "tensor of wrong shape": (
        lambda folder: write_checkpoint(folder, tensors_with(**{DENSE: np.zeros((16, 17), np.float16)})),
        "corrupt",
        re.escape(f"tensor {DENSE} has shape [16, 17]"),
    ),
    "tensor of integers": (with_integers, "unsupported", re.escape(f"tensor {DENSE} is of type I8")),
    "truncated": (lambda folder: with_bytes(folder, lambda raw: raw[:-100]), "corrupt", "model.safetensors: truncated"),
    "truncated header": (lambda folder: with_bytes(folder, lambda raw: raw[:40]), "corrupt", "truncated"),
    "empty": (lambda folder: with_bytes(folder, lambda raw: b""), "corrupt", "0 bytes are too few"),
    "garbage": (lambda folder: with_bytes(folder, lambda raw: b"<!doctype html>" * 99), "corrupt", "not a safetensors file"),
    "NaN": (lambda folder: write_checkpoint(folder, with_value(math.nan)), "nonfinite", f"{re.escape(DENSE)}.*row 3.*column 5"),
    "infinity": (lambda folder: write_checkpoint(folder, with_value(-math.inf)), "nonfinite", f"{re.escape(DENSE)}.*row 3"),
}  # fmt: skip
STEP_OF = {kind: 100 + number for number, kind in enumerate(BAD)}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, scheduler):
    """(folder, how its run ended): every kind of bad checkpoint among good ones; run good: the same without the bad."""
    place = tmp_path_factory.mktemp("mixed")
    for suite in ("mixed", "good"):
        write_suite(place / suite, GOOD, **SHAPE)
    for kind, (make, _, _) in BAD.items():
        make(place / "mixed" / f"step{STEP_OF[kind]}")
    good = write_dag(place / "good.toml", models=[{"suite": "s", "model": "m", "source": "good"}])
    assert run(place, good, scheduler).code == 0
    dag = write_dag(place / "mixed.toml", models=[{"suite": "s", "model": "m", "source": "mixed"}])
    return place, run(place, dag, scheduler)


def run(place: Path, dag: Path, scheduler: str):
    return command("run", dag, "--runs-dir", place / "runs", "--scheduler", scheduler)


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
def test_a_checkpoint_whose_weights_turn_out_bad_is_found_once(tmp_path, scheduler, kind):
    write_suite(tmp_path / "tiny", GOOD, **SHAPE)
    BAD[kind][0](tmp_path / "tiny" / "step9")
    dag = write_dag(tmp_path / "tiny.toml", Path("tiny"))
    assert run(tmp_path, dag, scheduler).code == 1
    assert command("run", dag, "--runs-dir", tmp_path / "runs", "--dry-run").would_run == []


def test_a_dry_run_names_the_checkpoints_that_are_not_ok(mixed):
    place, _ = mixed
    ended = command("run", place / "mixed.toml", "--runs-dir", place / "elsewhere", "--dry-run")
    assert ended.code == 0
    assert f"s/m step{STEP_OF['truncated']}: corrupt: " in ended.out


def test_a_suite_without_one_good_checkpoint_still_makes_tables(tmp_path, scheduler):
    for kind in ("garbage", "NaN"):
        BAD[kind][0](tmp_path / "tiny" / f"step{STEP_OF[kind]}")
    ended = run(tmp_path, write_dag(tmp_path / "tiny.toml", Path("tiny")), scheduler)
    assert ended.code == 1
    assert len(ended.says) == 2
    folder = tmp_path / "runs" / "tiny"
    assert table(folder, "checkpoints")["status"].tolist() == ["corrupt", "nonfinite"]
    assert len(table(folder, "emergence")) == 0
    assert len(ninscope.open_run(folder).figures) == 2


def test_a_listed_revision_that_is_not_there_is_missing(tmp_path, scheduler):
    write_suite(tmp_path / "tiny", GOOD, **SHAPE)
    ended = run(tmp_path, write_dag(tmp_path / "tiny.toml", Path("tiny"), revisions=["step0", "step4"]), scheduler)
    assert ended.code == 1
    (line,) = ended.says
    assert line.startswith("tiny/tiny step4: missing: ")
    assert table(tmp_path / "runs" / "tiny", "checkpoints")["status"].tolist() == ["ok", "missing"]


def test_a_repaired_checkpoint_is_analysed(tmp_path, scheduler):
    write_suite(tmp_path / "tiny", GOOD, **SHAPE)
    broken = tmp_path / "tiny" / "step1" / "model.safetensors"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-1])
    dag = write_dag(tmp_path / "tiny.toml", Path("tiny"))
    assert run(tmp_path, dag, scheduler).code == 1
    broken.write_bytes(whole)
    assert run(tmp_path, dag, scheduler).code == 0
    assert table(tmp_path / "runs" / "tiny", "checkpoints")["status"].tolist() == ["ok"] * 3


# Checkpoints that are ok and yet give no or less of a result.


def zeroed(step: int, names=None):
    tensors = neox_tensors(seed=step, **SHAPE)
    for name in used_names(tensors) if names is None else names:
        tensors[name][...] = 0
    return tensors


def run_with(tmp_path: Path, scheduler: str, checkpoints: dict, **changes):
    """(how a run over checkpoints by step ended, its folder)."""
    write_suite(tmp_path / "tiny", GOOD, **SHAPE)
    for step, tensors in checkpoints.items():
        shutil.rmtree(tmp_path / "tiny" / f"step{step}", ignore_errors=True)
        if tensors is not None:
            write_checkpoint(tmp_path / "tiny" / f"step{step}", tensors)
    ended = run(tmp_path, write_dag(tmp_path / "tiny.toml", Path("tiny"), **changes), scheduler)
    return ended, tmp_path / "runs" / "tiny"


def test_weights_that_are_all_zero_have_no_spectrum_and_it_is_said(tmp_path, scheduler):
    ended, folder = run_with(tmp_path, scheduler, {8: zeroed(8)})
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


def test_one_matrix_of_zeros_leaves_a_spectrum_of_the_rest(tmp_path, scheduler):
    ended, folder = run_with(tmp_path, scheduler, {8: zeroed(8, [FUSED])})
    assert ended.code == 0
    rows = table(folder, "emergence").set_index("step")
    assert rows.loc[8, ["alpha0", "width", "emergence"]].notna().all()
    samples = table(folder, "samples").set_index("step")
    assert (samples.loc[8, "nodes_counted"].to_numpy() < samples.loc[1, "nodes_counted"].to_numpy()).all()


def test_a_start_without_spectrum_leaves_alpha0_and_no_emergence(tmp_path, scheduler):
    ended, folder = run_with(tmp_path, scheduler, {0: zeroed(0)})
    assert ended.code == 0
    rows = table(folder, "emergence").set_index("step")
    assert rows["emergence"].isna().all()
    assert rows.loc[[1, 8], ["alpha0", "width"]].notna().all(axis=None)
    assert rows.loc[1, "message"] == "no E: step0 has no spectrum"
    assert any("step0 has no spectrum" in line for line in ended.says)


def test_fewer_neurons_than_asked_is_said(tmp_path, scheduler):
    ended, folder = run_with(tmp_path, scheduler, {}, nodes_per_layer=40)
    assert ended.code == 0
    said = "layers of 16 neurons were taken whole (40 asked for)"
    assert table(folder, "checkpoints")["message"].tolist() == [said] * 3
    assert ended.says == [f"tiny/tiny 3 checkpoints: {said}"]


@pytest.mark.parametrize("absent", [True, False])
def test_without_a_usable_step0_there_is_alpha0_and_no_emergence(tmp_path, scheduler, absent):
    ended, folder = run_with(tmp_path, scheduler, {0: None if absent else with_value(math.nan)})
    assert ended.code == (0 if absent else 1)
    rows = table(folder, "emergence")
    assert rows["step"].tolist() == [1, 8]
    assert rows[["alpha0", "alpha0_std", "width", "width_std"]].notna().all(axis=None)
    assert rows[["emergence", "emergence_low", "emergence_high"]].isna().all(axis=None)
    assert rows["message"].tolist() == ["no E: there is no usable step0 to compare with"] * 2
    assert any("no usable step0" in line for line in ended.says)


def test_another_baseline_does_without_step0(tmp_path, scheduler):
    ended, folder = run_with(tmp_path, scheduler, {0: None}, baseline_step=1)
    assert (ended.code, ended.says) == (0, [])
    rows = table(folder, "emergence").set_index("step")
    assert rows.loc[1, "emergence"] == 0
    assert (rows["baseline_step"] == 1).all()


def test_one_sample_has_no_spread_and_no_interval(tmp_path, scheduler):
    ended, folder = run_with(tmp_path, scheduler, {}, samples=1)
    assert ended.code == 0
    rows = table(folder, "emergence")
    assert rows[["alpha0", "width", "emergence"]].notna().all(axis=None)
    assert rows[["alpha0_std", "width_std", "emergence_low", "emergence_high"]].isna().all(axis=None)


# Requests that are wrong: exit code 2, one line, nothing on standard output.


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Path:
    return write_suite(tmp_path_factory.mktemp("requests") / "tiny", GOOD, **SHAPE)


@pytest.fixture
def requests(suite, tmp_path, monkeypatch) -> Path:
    """A folder with things to ask for wrongly."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    write_dag(tmp_path / "good.toml", suite)
    write_dag(tmp_path / "lost.toml", tmp_path / "absent")
    write_dag(tmp_path / "nothing.toml", tmp_path / "empty")
    write_dag(tmp_path / "results.toml", suite, evaluations="absent.csv")
    (tmp_path / "wrong.toml").write_text("models = 3\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("measure ./absent", r"^\./absent: no such folder"),
        ("measure absent", "^absent: no such folder, and not a Hub repository id"),
        ("measure empty", "^empty: no checkpoint and no revision folders"),
        ("measure file", "^file is a file; name the folder"),
        ("measure ~nobody-of-that-name/weights", "nobody-of-that-name"),
        ("measure SUITE --nodes-per-layer 0", "^nodes_per_layer is 0"),
        ("measure SUITE --samples -1", "^samples is -1"),
        ("measure SUITE --seed -1", "^seed is -1"),
        ("measure SUITE --samples many", "^Invalid value for '--samples'"),
        ("measure SUITE --sampels 3", "No such option.*--sampels"),
        ("measure", "(?i)missing argument.*source"),
        ("run absent.toml", "^absent.toml: no such DAG file; these ship with ninscope: .*demo, pythia"),
        ("run absent", "^absent: no such DAG file"),
        ("run empty", "^empty: no such DAG file"),
        ("run wrong.toml", "^wrong.toml: models: "),
        ("run lost.toml", "absent: no such folder"),
        ("run nothing.toml", "empty: no checkpoint and no revision folders"),
        ("run results.toml", "absent.csv: cannot be read"),
        ("run good.toml --workers 0", "^Invalid value for '--workers'"),
        ("run good.toml --worker 2", "No such option.*--worker"),
        ("run good.toml --runs-dir file", "^.*file/good: the run folder cannot be written .*--runs-dir"),
        ("run good.toml --runs-dir file/below", "^.*file/below/good: the run folder cannot be written"),
        ("run good.toml --runs-dir /proc/ninscope", "^/proc/ninscope/good: the run folder cannot be written"),
        ("run good.toml --runs-dir ~nobody-of-that-name/runs", "nobody-of-that-name"),
        ("run", "(?i)missing argument.*dag"),
        ("status absent", "^absent: no run there"),
        ("status empty", "^empty: no run there"),
        ("status", "(?i)missing argument.*run"),
        ("polish good.toml", "No such command.*polish"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(requests, suite, arguments, says):
    ended = command(*arguments.replace("SUITE", str(suite)).split())
    assert ended.code == 2
    assert ended.out == ""
    (line,) = ended.err.splitlines()
    assert line.startswith("ninscope: ")
    assert re.search(says, line.removeprefix("ninscope: "))
    assert not (requests / "runs").exists()


def test_no_command_at_all_is_answered_by_the_help(requests):
    ended = command()
    assert ended.code in (0, 2)
    assert "Usage: ninscope" in ended.out + ended.err
    assert ended.says == []


def test_a_run_folder_that_is_a_file_is_one_line(requests):
    (requests / "runs").mkdir()
    (requests / "runs" / "good").write_text("")
    ended = command("run", "good.toml")
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert "the run folder cannot be written" in line


def test_a_process_ends_as_its_entry_point_says(requests):
    """The same through the real command: exit code, one line and no traceback."""
    ended = process("run", "wrong.toml", cwd=requests)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines() == ["ninscope: wrong.toml: models: Input should be a valid list (it is 3)"]


# measure


@pytest.fixture(scope="module")
def with_one_bad(tmp_path_factory) -> Path:
    """Steps whose order as words is not their order as numbers, one of them bad, one of them all zero."""
    folder = write_suite(tmp_path_factory.mktemp("measure") / "tiny", (0, 2, 16, 128), **SHAPE)
    BAD["truncated"][0](folder / "step4")
    write_checkpoint(folder / "step32", zeroed(32))
    return folder


@pytest.fixture(scope="module")
def measured(with_one_bad):
    return command("measure", with_one_bad, *MEASURE, "--json")


def test_measure_json_prints_one_document_with_the_contracts_keys(measured, with_one_bad):
    assert measured.code == 1
    document = json.loads(measured.out, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    assert list(document) == ["source", "rows"]
    assert document["source"] == str(with_one_bad)
    assert [list(row) for row in document["rows"]] == [ROW_KEYS] * 6
    assert [row["step"] for row in document["rows"]] == [0, 2, 4, 16, 32, 128]
    assert [row["revision"] for row in document["rows"]] == [f"step{step}" for step in (0, 2, 4, 16, 32, 128)]


def test_measure_json_has_null_for_what_is_absent(measured):
    rows = {row["step"]: row for row in json.loads(measured.out)["rows"]}
    bad, zero, good = rows[4], rows[32], rows[16]
    assert (bad["status"], bad["message"][:24]) == ("corrupt", "step4/model.safetensors:")
    assert {key for key, value in bad.items() if value is None} == set(ROW_KEYS[4:])
    assert zero["status"] == "ok"
    assert [zero[key] for key in ("alpha0", "alpha0_std", "width", "width_std", "emergence")] == [None] * 5
    assert (zero["edges"], zero["nodes"]) == (0, 8 * 12)
    assert "no node has enough edges" in zero["message"]
    assert (good["status"], good["message"], good["method"]) == ("ok", None, "sampled")
    assert all(isinstance(good[key], float) for key in ROW_KEYS[5:10])
    assert rows[0]["emergence"] == 0


def test_measure_names_the_bad_checkpoint_on_standard_error(measured):
    (line,) = measured.err.splitlines()
    assert line.startswith("ninscope: step4: corrupt: step4/model.safetensors: truncated")


def test_measure_without_json_shows_every_revision(with_one_bad):
    ended = command("measure", with_one_bad, *MEASURE)
    assert ended.code == 1
    assert [line.split(":")[0] for line in ended.says] == ["step4"]
    shown = [line.split()[1] for line in ended.out.splitlines() if re.match(r"\W+step\d", line)]
    assert shown == ["step0", "step2", "step4", "step16", "step32", "step128"]


def test_measure_of_one_revision_is_its_row_of_the_whole(with_one_bad, measured):
    """E of one revision is against step 0 of the same source, which is there whether or not it was named."""
    ended = command("measure", with_one_bad, "--revision", "step16", *MEASURE, "--json")
    assert (ended.code, ended.err) == (0, "")
    (row,) = json.loads(ended.out)["rows"]
    assert row == next(row for row in json.loads(measured.out)["rows"] if row["step"] == 16)


def test_measure_of_a_bad_revision_alone_is_exit_code_1(with_one_bad):
    ended = command("measure", with_one_bad, "--revision", "step4", *MEASURE, "--json")
    assert ended.code == 1
    assert [row["status"] for row in json.loads(ended.out)["rows"]] == ["corrupt"]
    assert len(ended.err.splitlines()) == 1


def test_measure_agrees_with_a_run(with_one_bad, tmp_path, scheduler):
    dag = write_dag(tmp_path / "tiny.toml", with_one_bad, min_degree=10, q={"start": -3.0, "stop": 3.0, "step": 0.1})
    assert (ANALYSIS["nodes_per_layer"], ANALYSIS["samples"]) == (12, 3)
    assert run(tmp_path, dag, scheduler).code == 1
    rows = table(tmp_path / "runs" / "tiny", "emergence").set_index("step")
    ended = command("measure", with_one_bad, *MEASURE, "--json")
    for row in json.loads(ended.out)["rows"]:
        if row["step"] != 4:
            for name in ("alpha0", "alpha0_std", "width", "width_std", "emergence"):
                value = rows.loc[row["step"], name]
                assert (None if math.isnan(value) else value) == row[name]
