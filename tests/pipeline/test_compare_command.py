"""`ninscope compare` and ninscope.compare_runs: two checkpoints, two runs, and what is neither."""

import csv
import io
import json
import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tomli_w
from driving import command, write_dag
from suites import write_suite

import ninscope
from ninscope.errors import RequestError
from ninscope_pipeline.compare_command import source_and_revision
from ninscope_pipeline.comparing_runs import compare_runs
from ninscope_pipeline.request.dagfile import load_dag
from ninscope_pipeline.result_files import run_file_content

pytestmark = pytest.mark.usefixtures("undrawn")

ROOT = Path(__file__).parents[2]
SHAPE = {"blocks": 1, "width": 16, "heads": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a suite of two steps and runs/first."""
    folder = tmp_path_factory.mktemp("compare")
    write_suite(folder / "tiny", (0, 8), **SHAPE)
    dag = write_dag(folder / "first.toml", folder / "tiny")
    assert command("run", dag, "--runs-dir", folder / "runs", "--workers", 1).code == 0
    return folder


@pytest.fixture
def two(place, tmp_path):
    """(first run, a copy that a test may change)."""
    copy = tmp_path / "second"
    shutil.copytree(place / "runs" / "first", copy, ignore=shutil.ignore_patterns("store.zarr", "checksums", ".*"))
    return place / "runs" / "first", copy


@pytest.fixture
def changeable(two, tmp_path):
    """Two copies of one run, both of which a test may change."""
    return shutil.copytree(two[1], tmp_path / "third"), two[1]


def edit_table(run, name, change):
    """Write a table anew, as `change` makes it of its rows."""
    path = run / "tables" / f"{name}.parquet"
    change(pd.read_parquet(path)).to_parquet(path)


def edit_parameters(run, **changes):
    """Change keys of run.toml's [asked.analysis]; None takes one out."""
    file = run / "run.toml"
    document = tomllib.loads(file.read_text())
    analysis = document["asked"]["analysis"] | changes
    document["asked"]["analysis"] = {key: value for key, value in analysis.items() if value is not None}
    file.write_text(tomli_w.dumps(document))


# --- two checkpoints ---------------------------------------------------------------------------------------------------
def test_checkpoints_in_words_and_a_table(place):
    ended = command("compare", place / "tiny" / "step0", f"{place / 'tiny'}@step8")
    assert (ended.code, ended.err) == (0, "")
    expected = ninscope.compare(place / "tiny", place / "tiny", 0, 8)
    lines = ended.out.splitlines()
    assert lines[2 : 2 + len(expected.words)] == expected.words
    assert lines[:2] == [f"A: {place / 'tiny' / 'step0'}", f"B: {place / 'tiny'} step8"]
    assert f"{expected.to_frame().set_index('name').loc['alpha0', 'a']:.4g}" in ended.out
    assert "details: 10 of " not in ended.out
    assert "block0.x -> block0.q" in ended.out


def test_checkpoints_as_one_json_document_and_as_csv(place):
    arguments = ("compare", f"{place / 'tiny'}@0", f"{place / 'tiny'}@8")
    document = json.loads(command(*arguments, "--json").out)
    expected = ninscope.compare(place / "tiny", place / "tiny", 0, 8)
    assert list(document) == ["a", "b", "same", "words", "rows", "details"]
    assert (document["same"], document["words"]) == (False, expected.words)
    rows = {(row["topic"], row["name"]): row for row in document["rows"]}
    frame = expected.to_frame().set_index(["topic", "name"])
    assert list(rows) == list(frame.index)
    assert rows["spectrum", "width"]["difference"] == frame.loc[("spectrum", "width"), "difference"]
    assert rows["spectrum", "alpha0_std"]["a"] is None
    assert [row["matrix"] for row in document["details"]] == expected.details()["matrix"].tolist()
    written = list(csv.DictReader(io.StringIO(command(*arguments, "--csv").out)))
    assert [(row["topic"], row["name"]) for row in written] == list(rows)
    by_name = {row["name"]: row for row in written}
    assert float(by_name["alpha0"]["b"]) == rows["spectrum", "alpha0"]["b"]
    assert by_name["alpha0_std"]["a"] == ""


def test_options_reach_the_measurement(place):
    sources = (f"{place / 'tiny'}@0", f"{place / 'tiny'}@8")
    ended = command("compare", *sources, "--seed", 0, "--samples", 2, "--nodes-per-layer", 12, "--json")
    rows = {row["name"]: row for row in json.loads(ended.out)["rows"]}
    measured = ninscope.measure(place / "tiny", 8, nodes_per_layer=12, samples=2, seed=0)
    assert rows["alpha0"]["b"] == (None if np.isnan(measured.alpha0) else measured.alpha0)
    assert rows["nodes"]["b"] == measured.nodes
    assert "left out with samples" in " ".join(
        json.loads(command("compare", *sources, "--seed", 0, "--json").out)["words"]
    )


def test_the_same_checkpoint_twice(place):
    source = place / "tiny" / "step0"
    ended = command("compare", source, source)
    assert ended.code == 0
    assert "A and B are the same: " in ended.out
    assert "what differs" not in ended.out


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("org/name@step8", ("org/name", "step8")),
        ("org/name", ("org/name", None)),
        ("a@b/c@main", ("a@b/c", "main")),
    ],
)
def test_a_source_and_its_revision(text, parts):
    assert source_and_revision(text) == parts


def test_a_path_with_an_at_is_a_path(tmp_path):
    (tmp_path / "a@b").mkdir()
    assert source_and_revision(str(tmp_path / "a@b")) == (str(tmp_path / "a@b"), None)
    assert source_and_revision(str(tmp_path / "a@b@0")) == (str(tmp_path / "a@b"), "0")


@pytest.mark.parametrize("text", ["@step0", "org/name@"])
def test_half_a_source_and_revision_is_refused(text):
    with pytest.raises(RequestError, match=r"names no source and revision; give SOURCE@REVISION"):
        source_and_revision(text)


def test_wrong_requests_end_with_2_and_a_bad_checkpoint_with_1(place, tmp_path):
    source, run = place / "tiny", place / "runs" / "first"
    ended = command("compare", source, f"{source}@0")
    assert (ended.code, len(ended.says)) == (2, 1)
    assert "has 2 revisions (step0, step8); name one" in ended.says[0]
    ended = command("compare", run, f"{source}@0")
    assert (ended.code, ended.says) == (
        2, [f"{run} is a run and {source}@0 a source of checkpoints; compare two runs, or two sources"],
    )  # fmt: skip
    assert command("compare", f"{source}@0", run).says == ended.says
    (line,) = command("compare", run, "frist").says
    assert line.startswith("frist: not a run folder")
    ended = command("compare", run, run, "--samples", 3)
    assert (ended.code, ended.says) == (
        2,
        [f"--samples applies only to checkpoints, and {run} and {run} are runs; leave it out"],
    )
    assert command("compare", f"{source}@0", f"{source}@8", "--json", "--csv").code == 2
    ended = command("compare", f"{source}@0", f"{source}@step9")
    assert (ended.code, ended.out) == (1, "")
    assert "step9" in ended.says[0]
    ended = command("compare", tmp_path / "nothing", f"{source}@0")
    assert (ended.code, len(ended.says)) == (2, 1)


# --- two runs ----------------------------------------------------------------------------------------------------------
def test_a_run_and_its_copy_are_the_same(two):
    comparison = compare_runs(*two)
    assert comparison.same
    assert comparison.words == [
        "Both runs have the same parameters.",
        "They were made with the same versions.",
        "2 checkpoints in both.",
        "4 tables hold the same numbers in both: checkpoints, emergence, samples, spectra.",
    ]
    ended = command("compare", *two)
    assert ended.code == 0
    assert "what differs" not in ended.out
    assert "details" not in ended.out


def test_one_run_folder_twice(two, monkeypatch):
    monkeypatch.chdir(two[0].parent.parent)
    ended = command("compare", "first", two[0])
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[2:] == ["A and B are the same run folder."]


def test_parameters_and_versions_that_differ(two):
    edit_parameters(two[1], seed=7, samples=None, fit_radii=[5.0, 100.0])
    comparison = ninscope.compare_runs(*two)
    assert not comparison.same
    assert comparison.words[:3] == [
        "1 parameter differs (A and B): analysis.seed 0 and 7.",
        "1 parameter only in A: analysis.samples.",
        "1 parameter only in B: analysis.fit_radii.",
    ]
    frame = comparison.to_frame().query("topic == 'parameters'").set_index("name")
    assert frame.loc["analysis.seed", ["a", "b", "difference"]].tolist() == [0, 7, 7.0]
    assert frame.loc["analysis.q.step", "a"] == frame.loc["analysis.q.step", "b"] == 0.5
    assert frame.loc["models[tiny/tiny].source", "a"] == str(two[0].parent.parent / "tiny")


def test_the_page_shows_in_what_the_dag_files_that_ship_differ(tmp_path):
    for name in ("demo", "controls"):
        (tmp_path / name).mkdir()
        asked = run_file_content(load_dag(ROOT / "dags" / f"{name}.toml"))
        (tmp_path / name / "run.toml").write_text(tomli_w.dumps(asked))
        (tmp_path / name / "plan.json").write_text('{"stages": {}, "checkpoints": []}')
    words = compare_runs(tmp_path / "demo", tmp_path / "controls").words
    sentences = [sentence for sentence in words if re.match("[0-9]+ parameters", sentence)]
    shown = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8").split("B: runs/controls\n")[1].splitlines()
    assert len(sentences) == 3
    assert sentences == shown[:3]


def test_a_section_that_one_run_lacks_is_one_word(two):
    file = two[1] / "run.toml"
    file.write_text(file.read_text() + "\n[asked.nulls]\nmodels = ['shuffled']\nsamples = 3\nseed = 0\n")
    words = compare_runs(*two).words
    assert "3 parameters only in B: nulls (3)." in words
    many = "".join(f"x{number} = 1\n" for number in range(12))
    file.write_text(file.read_text().replace("[asked.analysis]\n", f"[asked.analysis]\n{many}"))
    (text,) = [text for text in compare_runs(*two).words if "only in B" in text]
    assert text.startswith("15 parameters only in B: ")
    assert text.endswith("; and 5 more, in the table.")


def test_correlations_are_matched_by_what_they_measure(changeable):
    def two_measures(rows):
        named = {name: rows[name] for name in rows.columns}
        keys = {
            "suite": "s",
            "model": "m",
            "variant": "default",
            "task": "held_out",
            "metric": "loss",
            "kind": "levels",
        }
        return pd.DataFrame(named, index=range(2)).assign(**keys, measure=["alpha0", "width"], value=[0.5, 0.25])

    for folder in changeable:
        edit_table(folder, "correlations", two_measures)
    assert any(
        "correlations" in text and "the same numbers in both" in text for text in compare_runs(*changeable).words
    )
    edit_table(changeable[1], "correlations", lambda rows: rows.assign(value=[0.5, 0.75]))
    (text,) = [text for text in compare_runs(*changeable).words if text.startswith("Table correlations")]
    assert text == "Table correlations: 2 rows in both; value differs in 1."


def test_of_many_columns_that_differ_the_first_are_named(changeable):
    edit_table(
        changeable[1], "samples", lambda rows: rows.assign(**{f"x{number}": float(number) for number in range(11)})
    )
    edit_table(changeable[0], "samples", lambda rows: rows.assign(**{f"x{number}": 0.5 for number in range(11)}))
    (text,) = [text for text in compare_runs(*changeable).words if text.startswith("Table samples")]
    assert re.search(r"; x0 differs in (\d+), .*x7 differs in \1 and 3 more columns differ\.$", text)
    assert "x8" not in text
    assert {f"x{number}" for number in range(11)} <= set(compare_runs(*changeable).details()["column"])


def test_values_that_differ_are_counted_and_the_largest_is_named(two):
    def change(rows):
        rows.loc[1, "alpha0"] += 0.25
        rows.loc[0, "alpha0"] += 0.125
        rows.loc[1, "width"] = np.nan
        return rows

    before = pd.read_parquet(two[0] / "tables" / "emergence.parquet")
    edit_table(two[1], "emergence", change)
    comparison = compare_runs(*two)
    assert not comparison.same
    (text,) = [text for text in comparison.words if text.startswith("Table emergence")]
    assert text.startswith("Table emergence: 2 rows in both; alpha0 differs in 2, most at tiny step8 sampled (")
    assert "width differs in 1, where one of them has none (tiny step8 sampled: " in text
    assert "B has not finished: its tables are absent, or those of an earlier state." in comparison.words
    details = comparison.details().set_index(["table", "column"])
    row = details.loc[("emergence", "alpha0")]
    assert (row["rows"], row["differing"], row["difference"]) == (2, 2, pytest.approx(0.25))
    assert (row["a"], row["b"]) == (before["alpha0"][1], before["alpha0"][1] + 0.25)
    assert details.loc[("emergence", "emergence_low"), "differing"] == 0  # NaN in both or equal
    assert details.loc[("spectra", "f"), "differing"] == 0
    ended = command("compare", *two)
    assert "tiny step8 sampled" in ended.out
    assert json.loads(command("compare", *two, "--json").out)["details"]


def test_rows_and_checkpoints_that_one_run_lacks(two):
    for name in ("checkpoints", "emergence", "samples", "spectra"):
        edit_table(two[1], name, lambda rows: rows[rows["step"] != 8])
    edit_table(two[1], "checkpoints", lambda rows: rows.assign(content_sha256="f" * 64))
    words = compare_runs(*two).words
    assert "1 checkpoint in both; 1 only in A (tiny/tiny/step8); 1 with other weights (tiny/tiny/step0)." in words
    assert "Table emergence: 1 row in both, 1 only in A; those in both have the same numbers." in words


def test_rows_are_matched_whatever_their_order_and_types(two):
    edit_table(two[1], "spectra", lambda rows: rows.iloc[::-1].astype({"step": "float64", "model": object}))
    details = compare_runs(*two).details()
    assert (details.query("table == 'spectra'")["differing"] == 0).all()
    assert (details.query("table == 'spectra'")["rows"] > 10).all()


def test_rows_that_cannot_be_told_apart_are_not_matched(two):
    edit_table(two[1], "samples", lambda rows: pd.concat([rows, rows]))
    comparison = compare_runs(*two)
    count = len(pd.read_parquet(two[0] / "tables" / "samples.parquet"))
    assert f"Table samples has {count} rows in A and {2 * count} in B, which cannot be matched." in comparison.words


def test_results_of_steps_without_a_revision_are_matched(changeable):
    """As a trainer logs them between checkpoints."""
    keys = {"suite": "s", "model": "m", "revision": "", "step": [1, 2], "task": "train", "metric": "loss"}
    rows = pd.DataFrame({**keys, "value": [2.0, 1.0]})
    for run, values in zip(changeable, ([2.0, 1.0], [2.0, 1.5]), strict=True):
        rows.assign(value=values).to_parquet(run / "tables" / "benchmarks.parquet")
    assert "Table benchmarks: 2 rows in both; value differs in 1." in compare_runs(*changeable).words


def test_tables_that_one_run_lacks_or_has_empty(two):
    (two[1] / "tables" / "weights.parquet").unlink()
    edit_table(two[1], "spectra", lambda rows: rows[:0])
    words = compare_runs(*two).words
    assert "1 table is only in A: weights." in words
    assert any(text.startswith("1 table has rows only in A: spectra (") for text in words)


def test_a_run_that_has_not_finished_is_compared_as_far_as_it_is(two):
    shutil.rmtree(two[1] / "tables")
    comparison = compare_runs(*two)
    assert comparison.words[0] == "B has not finished: its tables are absent, or those of an earlier state."
    assert "2 checkpoints in both; 2 not measured yet in one (tiny/tiny/step0, tiny/tiny/step8)." in comparison.words
    assert any(text.endswith("weights.") and "tables are only in A: " in text for text in comparison.words)
    frame = comparison.to_frame().query("topic == 'checkpoints'")
    assert frame["b"].tolist() == ["not measured yet"] * 2


def test_damaged_runs_are_refused_by_name(two, tmp_path):
    with pytest.raises(RequestError, match="nowhere: not a run folder"):
        compare_runs(two[0], tmp_path / "nowhere")
    (two[1] / "tables" / "emergence.parquet").write_bytes(b"nothing")
    with pytest.raises(RequestError, match="second: table emergence is damaged"):
        compare_runs(*two)
    (two[1] / "run.toml").write_text("asked = [")
    with pytest.raises(RequestError, match=r"second: run\.toml is damaged"):
        compare_runs(*two)
    assert command("compare", *two).code == 2
