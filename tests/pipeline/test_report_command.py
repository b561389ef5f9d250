"""`ninscope report`: one page of a run or of several, whatever state they are in."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import pandas as pd
import pytest
from driving import command
from page_reader import PageReader

from ninscope_pipeline.report_command import model_labels
from ninscope_pipeline.storing.manifest import write_files
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.tables import all_tables, empty_table, parquet_bytes

OLD_RUN = Path(__file__).parents[1] / "data" / "run-of-e49790d.tar.xz"
KEY = "a key of tables"
STEPS = (0, 10, 100)
VERSIONS = '[asked]\nname = "mine"\n\n[versions]\nninscope = "0.0.7"\nnumpy = "2.1"\n'


@pytest.fixture(scope="module")
def old_run(tmp_path_factory):
    """The run folder that commit e49790d wrote, without its store."""
    folder = tmp_path_factory.mktemp("runs")
    with tarfile.open(OLD_RUN) as archive:
        wanted = ("old/tables", "old/run.toml", "old/plan.json", "old/checksums")
        archive.extractall(folder, [m for m in archive.getmembers() if m.name.startswith(wanted)], filter="data")
    return folder / "old"


def emergence_rows(steps, suite="s", model="m"):
    keys = [{"suite": suite, "model": model, "revision": f"step{step}", "step": step} for step in steps]
    return [
        key
        | {"method": "exact", "alpha0": 1 - n / 10, "width": 0.4 + n / 10, "emergence": n / 3, "emergence_low": n / 4}
        | {"emergence_high": n / 2, "baseline_step": 0, "baseline": "step0", "status": "ok", "variant": "default"}
        | {"part": "all", "message": "", "warning": ""}
        for n, key in enumerate(keys)
    ]


def checkpoint_rows(steps, suite="s", model="m"):
    keys = [{"suite": suite, "model": model, "revision": f"step{step}", "step": step} for step in steps]
    return [key | {"status": "ok", "message": "", "parameters": 1000, "bytes": 2000} for key in keys]


def typed(name, rows):
    columns = empty_table(name)
    return pd.DataFrame(rows, columns=list(columns)).astype(columns.dtypes.to_dict()) if rows else columns


def run_folder(path, rows=None, without=(), plan=None):
    """A run folder with these rows by table; its other tables have none. without: tables that it lacks."""
    rows = {"checkpoints": checkpoint_rows(STEPS), "emergence": emergence_rows(STEPS)} if rows is None else rows
    folder = RunFolder(path)
    folder.create()
    folder.run_file.write_text(VERSIONS)
    files = {
        f"{name}.parquet": parquet_bytes(typed(name, rows.get(name, [])))
        for name in all_tables()
        if name not in without
    }
    write_files(folder, folder.tables, KEY, files)
    folder.write_json(folder.plan, plan or {"stages": {}, "tables": KEY, "checkpoints": []})
    return path


def report(*arguments):
    ended = command("report", *arguments)
    assert ended.code == 0, ended.err
    return ended


def page_of(file):
    return PageReader(Path(file).read_text(encoding="utf-8"))


def drawn(page, column):
    """A column of what the chart of E over steps draws."""
    (values,) = (data[column] for data in page.data_of("emergence-emergence").values() if column in data)
    return values


def notes(page):
    return [element.text for element in page.all("p", role="note")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_folder(tmp_path_factory.mktemp("runs") / "mine")


def test_the_page_lies_in_the_run_s_folder_and_holds_what_the_stages_and_tables_give(run):
    ended = report(run)
    page = page_of(run / "report.html")
    assert str(run / "report.html") in ended.out
    assert "2 tables" in ended.out
    assert notes(page) == []
    assert page.all("h1")[0].text == "mine"
    assert page.by_id("part-emergence").text.startswith("\nE over training")
    assert page.all("h2")[0].text == "What the numbers say"
    assert page.all("article")[0].text.strip().startswith("m\n")
    table = page.table("emergence").splitlines()
    assert table[0].startswith("run,label,suite,model,revision,step,method")
    assert len(table) == 1 + len(STEPS)
    assert table[2].startswith("mine,m,s,m,step10,10,exact")
    assert page.all("code")[0].text == VERSIONS
    assert "Made with ninscope 0.0.7, numpy 2.1." in page.by_id("parameters").text
    assert drawn(page, "emergence") == [0, 0.333333, 0.666667]


def test_the_same_run_gives_the_same_bytes_and_leaves_nothing_else(run, tmp_path):
    report(run, "--out", tmp_path / "first.html")
    report(run, "--out", tmp_path / "sub" / "again.html")
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "sub" / "again.html").read_bytes()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["again.html", "first.html", "sub"]


def test_charts_are_written_as_svg_files(run, tmp_path):
    ended = report(run, "--out", tmp_path / "page.html", "--figures", tmp_path / "figures")
    charts = page_of(tmp_path / "page.html").charts
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == set(charts)
    assert f"{len(charts)} SVG files" in ended.out
    assert (tmp_path / "figures" / "emergence-emergence.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("pipe", "pipe: is no file; choose another place with --out"),
        ("x" * 300, "x: cannot be written (File name too long); choose another place with --out"),
        ("mine/tables/emergence.parquet", "lies in the run's folder and is no .html; give --out another file"),
        ("mine/run.toml", "lies in the run's folder and is no .html; give --out another file"),
    ],
)
def test_a_page_replaces_nothing_that_is_no_page(run, monkeypatch, out, says):
    monkeypatch.chdir(run.parent)
    (run.parent / "pipe").unlink(missing_ok=True)
    os.mkfifo(run.parent / "pipe")
    before = (run / "run.toml").read_bytes(), (run / "tables" / "emergence.parquet").read_bytes()
    ended = command("report", "mine", "--out", out)
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert before == ((run / "run.toml").read_bytes(), (run / "tables" / "emergence.parquet").read_bytes())
    assert (run.parent / "pipe").is_fifo()


def test_several_runs_lie_side_by_side_in_the_working_folder(tmp_path, monkeypatch, run):
    other = {"checkpoints": checkpoint_rows(STEPS[:2]), "emergence": emergence_rows(STEPS[:2])}
    run_folder(tmp_path / "other", other)
    monkeypatch.chdir(tmp_path)
    report(run, tmp_path / "other", run)
    page = page_of(tmp_path / "report.html")
    assert page.all("title")[0].text == "mine, other · ninscope report"
    assert [e.text.strip().split("\n")[0] for e in page.all("article")] == ["m (mine)", "m (other)"]
    table = page.table("emergence").splitlines()
    assert len(table) == 1 + len(STEPS) + 2
    assert [line.split(",")[:2] for line in table[3:5]] == [["mine", "m (mine)"], ["other", "m (other)"]]


def test_a_model_is_named_by_as_much_as_tells_it_from_others():
    def frames(*pairs):
        return {"checkpoints": pd.DataFrame(pairs, columns=["suite", "model"])}

    labels = model_labels({"a": frames(("s", "m"), ("t", "m"), ("s", "n")), "b": frames(("s", "m"), ("s", "k"))})
    assert list(labels.values()) == ["s/m (a)", "t/m", "n", "m (b)", "k"]


def test_an_older_run_says_what_it_lacks(old_run, tmp_path):
    report(old_run, "--out", tmp_path / "old.html")
    (note,) = notes(page_of(tmp_path / "old.html"))
    assert note.startswith("This run was made by an older ninscope")
    assert "It lacks the tables weights, " in note
    assert "delete its folder tables and run it again" in note
    assert "; the columns " in note
    assert "baseline of emergence" in note


def test_a_column_that_an_older_run_lacks_is_missing_in_each_row(tmp_path):
    folder = run_folder(tmp_path / "mine", without=("scaling",))
    rows = typed("emergence", emergence_rows(STEPS)).drop(columns=["warning"])
    files = {file.name: file.read_bytes() for file in (folder / "tables").glob("*.parquet")}
    write_files(RunFolder(folder), folder / "tables", KEY, files | {"emergence.parquet": parquet_bytes(rows)})
    report(folder)
    page = page_of(folder / "report.html")
    assert notes(page)[0].count("It lacks the table scaling; the columns warning of emergence.") == 1
    assert "warning" in page.table("emergence").splitlines()[0].split(",")


def test_a_run_that_goes_on_says_how_far_it_is(tmp_path):
    plan = {"stages": {"nin": ["a", "b"], "exact": ["c"]}, "tables": "another key", "checkpoints": []}
    folder = run_folder(tmp_path / "mine", plan=plan)
    report(folder)
    (note,) = notes(page_of(folder / "report.html"))
    assert note.startswith("This run has not finished: 0 of 3 results are stored (")
    assert "exact spectra 0 of 1" in note
    assert note.endswith("make this page again when the run has ended.")


def test_a_run_without_tables_is_refused(tmp_path):
    plan = {"stages": {"nin": ["a", "b"]}, "tables": "another key", "checkpoints": []}
    folder = run_folder(tmp_path / "mine", plan=plan)
    shutil.rmtree(folder / "tables")
    ended = command("report", folder)
    assert ended.code == 2
    assert ended.says == [
        f"{folder}: no tables yet: 0 of 2 results are stored (networks 0 of 2); "
        "repeat the `ninscope run` command, or wait until it has ended"
    ]
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("steps", [(), (0,)], ids=["no rows of E", "one checkpoint"])
def test_little_is_enough(tmp_path, steps):
    rows = {"checkpoints": checkpoint_rows((0,)), "emergence": emergence_rows(steps)}
    report(run_folder(tmp_path / "mine", rows))
    page = page_of(tmp_path / "mine" / "report.html")
    assert len(page.all("article")) == 1
    assert "checkpoints" in [e.attributes.get("data-name") for e in page.all("option")]


def test_values_that_are_missing_stay_missing(tmp_path):
    rows = emergence_rows(STEPS)
    rows[1] |= {"emergence": float("nan"), "alpha0": float("nan"), "emergence_low": float("inf")}
    report(run_folder(tmp_path / "mine", {"checkpoints": checkpoint_rows(STEPS), "emergence": rows}))
    page = page_of(tmp_path / "mine" / "report.html")
    assert drawn(page, "emergence") == [0, None, 0.666667]


def test_names_of_models_are_text(tmp_path):
    name = """<script>alert('1')</script> "a" & 'b'</script><!--"""
    rows = {"checkpoints": checkpoint_rows(STEPS, name, name), "emergence": emergence_rows(STEPS, name, name)}
    report(run_folder(tmp_path / "mine", rows))
    page = page_of(tmp_path / "mine" / "report.html")
    assert len(page.scripts) == 3
    assert page.all("article")[0].text.strip().startswith(name)
    assert name not in json.dumps([chart["spec"].get("transform") for chart in page.charts.values()])


def test_requests_that_cannot_be_met_are_refused(run, tmp_path):
    ended = command("report", tmp_path / "none")
    assert ended.code == 2
    assert "not a run folder" in ended.err
    ended = command("report", run, "--out", tmp_path)
    assert ended.code == 2
    assert f"{tmp_path}: is a folder; give --out the name of a file" in ended.err
    (tmp_path / "file").write_text("")
    ended = command("report", run, "--out", tmp_path / "file" / "page.html")
    assert ended.code == 2
    assert "cannot be written" in ended.err
    assert "choose another place with --out" in ended.err
    ended = command("report")
    assert ended.code == 2
