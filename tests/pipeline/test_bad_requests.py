"""Requests that are wrong, and `measure`: one line and exit code 2; one document, whatever some checkpoints are."""

import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest
from damage import (
    BAD,
    GOOD,
    MEASURE,
    ROW_KEYS,
    SHAPE,
    zeroed,
)
from driving import ANALYSIS, command, process, write_dag
from suites import write_checkpoint, write_suite

pytestmark = pytest.mark.usefixtures("undrawn")


def table(run_folder: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(run_folder / "tables" / f"{name}.parquet")


def run(place: Path, dag: Path):
    return command("run", dag, "--runs-dir", place / "runs")


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
        (
            "run absent.toml",
            "^absent.toml: no such DAG file; give a path, or one that ships with ninscope: ablations, .*demo, .*pythia",
        ),
        ("run absent", "^absent: no such DAG file"),
        ("run godo.toml", "^godo.toml: no such DAG file; did you mean 'good.toml'\\?; give a path"),
        ("run good", "^good: no such DAG file; did you mean 'good.toml'"),
        ("run contrlos", "^contrlos: no such DAG file; did you mean 'controls'"),
        ("measure ./emtpy", r"no such folder, and not a Hub repository id \(org/name\); did you mean 'empty'"),
        ("run empty", "^empty: no such DAG file"),
        ("run wrong.toml", "^wrong.toml: models: "),
        ("run lost.toml", "absent: no such folder"),
        ("run nothing.toml", "empty: no checkpoint and no revision folders"),
        ("run results.toml", "absent.csv: cannot read it"),
        ("run good.toml --workers 0", "^Invalid value for '--workers'"),
        ("run good.toml --worker 2", "No such option.*--worker"),
        ("run good.toml --runs-dir file", "^.*file/good: the run folder cannot be written .*--runs-dir"),
        ("run good.toml --runs-dir file/below", "^.*file/below/good: the run folder cannot be written"),
        ("run good.toml --runs-dir /proc/ninscope", "^/proc/ninscope/good: the run folder cannot be written"),
        ("run good.toml --runs-dir ~nobody-of-that-name/runs", "nobody-of-that-name"),
        ("run", "(?i)missing argument.*dag"),
        ("status absent", "^absent: not a run folder"),
        ("status empty", "^empty: not a run folder"),
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


def test_a_run_folder_that_is_a_file_is_one_line(requests):
    (requests / "runs").mkdir()
    (requests / "runs" / "good").write_text("")
    ended = command("run", "good.toml")
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert "the run folder cannot be written" in line


@pytest.mark.slow
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


def test_measure_agrees_with_a_run(with_one_bad, tmp_path):
    dag = write_dag(tmp_path / "tiny.toml", with_one_bad, min_degree=10, q={"start": -3.0, "stop": 3.0, "step": 0.1})
    assert (ANALYSIS["nodes_per_layer"], ANALYSIS["samples"]) == (12, 3)
    assert run(tmp_path, dag).code == 1
    rows = table(tmp_path / "runs" / "tiny", "emergence").set_index("step")
    ended = command("measure", with_one_bad, *MEASURE, "--json")
    for row in json.loads(ended.out)["rows"]:
        if row["step"] != 4:
            for name in ("alpha0", "alpha0_std", "width", "width_std", "emergence"):
                value = rows.loc[row["step"], name]
                assert (None if math.isnan(value) else value) == row[name]
