"""ninscope.open_runs: tables and queries of several runs side by side."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import ninscope
from ninscope.errors import RequestError
from ninscope_pipeline.opened_runs import together
from ninscope_pipeline.tables import empty_table, parquet_bytes

STEPS = (0, 1, 8)


def rows(table: str, model: str, suite: str = "s", **columns) -> pd.DataFrame:
    """A row a step of a table, with these columns; the others are absent."""
    empty = empty_table(table)
    values = {
        "suite": suite,
        "model": model,
        "revision": [f"step{step}" for step in STEPS],
        "step": list(STEPS),
        **columns,
    }
    return pd.DataFrame(values, index=range(len(STEPS))).reindex(columns=empty.columns).astype(empty.dtypes)


def write_run(folder, models, without=(), suite="s", shift=0.0):
    """A run folder whose tables checkpoints and emergence have these models. without: columns of emergence that it lacks."""
    (folder / "tables").mkdir(parents=True)
    (folder / "run.toml").write_text("")
    emergence = {"part": "all", "variant": "default", "method": "exact", "emergence": [shift, shift + 0.5, shift + 1.0]}
    tables = {
        "checkpoints": pd.concat([rows("checkpoints", model, suite, status="ok") for model in models]),
        "emergence": pd.concat([rows("emergence", model, suite, **emergence) for model in models]).drop(columns=list(without)),
    }  # fmt: skip
    for name, table in tables.items():
        (folder / "tables" / f"{name}.parquet").write_bytes(parquet_bytes(table))
    return folder


@pytest.fixture
def folders(tmp_path):
    """Two runs of the model "m", the second with "n" too; the first is older: it has no `baseline` and no table of controls."""
    first = write_run(tmp_path / "first", ["m"], without=["baseline"])
    second = write_run(tmp_path / "second", ["m", "n"], shift=2.0)
    controls = rows("controls", "n", alpha0_ratio=[1.0, 1.5, 2.0])
    (second / "tables" / "controls.parquet").write_bytes(parquet_bytes(controls))
    return [first, second]


def test_tables_are_below_each_other_with_the_run_first(folders):
    runs = ninscope.open_runs(folders)
    assert (runs.names, runs.tables) == (["first", "second"], ["checkpoints", "controls", "emergence"])
    table = runs.table("emergence")
    assert list(table) == ["run", *empty_table("emergence").columns.drop("baseline"), "baseline"]
    assert table["run"].tolist() == ["first"] * 3 + ["second"] * 6
    apart = pd.concat([run.table("emergence") for run in map(ninscope.open_run, folders)], ignore_index=True)
    for name in apart:
        np.testing.assert_array_equal(table[name].isna(), apart[name].isna())
        assert table[name].dropna().tolist() == apart[name].dropna().tolist()
    newer = ninscope.open_run(folders[1]).table("emergence")
    assert {name: table[name].dtype for name in newer} == dict(newer.dtypes)
    assert runs.table("controls")["run"].tolist() == ["second"] * 3
    assert runs["second"].path == folders[1]
    assert repr(runs).startswith("<Runs: runs first, second, tables checkpoints, controls, emergence")


def test_a_truth_value_that_an_older_run_lacks_is_neither():
    table = together({"old": pd.DataFrame({"step": [1]}), "new": pd.DataFrame({"step": [2], "heavy": [True]})})
    assert table["run"].tolist() == ["old", "new"]
    assert table["heavy"].tolist() == [pd.NA, True]


def test_queries_have_the_column_run(folders):
    runs = ninscope.open_runs({"a": folders[0], "b": folders[1]})
    found = runs.query(
        "SELECT run, model, max(emergence) AS e, count(baseline) AS n FROM emergence GROUP BY ALL ORDER BY ALL"
    )
    assert found.to_dict("list") == {
        "run": ["a", "b", "b"],
        "model": ["m", "m", "n"],
        "e": [1.0, 3.0, 3.0],
        "n": [0, 0, 0],
    }
    assert runs.query("SELECT * FROM emergence LIMIT 1").columns[0] == "run"
    joined = runs.query("SELECT count(*) AS n FROM emergence JOIN controls USING (run, suite, model, revision, step)")
    assert joined["n"].tolist() == [3]


def test_lines_are_drawn_by_run(folders):
    axes = ninscope.open_runs(folders).plot(Figure().add_subplot())
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert drawn == {
        "first: m whole network": [0.0, 0.5, 1.0],
        "second: m whole network": [2.0, 2.5, 3.0],
        "second: n whole network": [2.0, 2.5, 3.0],
    }
    axes = ninscope.open_runs(folders).plot(Figure().add_subplot(), model="n")
    assert [list(line.get_ydata()) for line in axes.lines] == [[2.0, 2.5, 3.0]]


def test_a_run_without_tables_says_so(tmp_path):
    (tmp_path / "empty" / "tables").mkdir(parents=True)
    (tmp_path / "empty" / "run.toml").write_text("")
    with pytest.raises(RequestError, match="their tables: none yet, since no run has finished"):
        ninscope.open_runs([tmp_path / "empty"]).table("emergence")


@pytest.mark.parametrize(
    ("request_of", "says"),
    [
        (lambda folders: ninscope.open_runs([]), "was given no run folder"),
        (lambda folders: ninscope.open_runs(str(folders[0])), "takes a list of run folders; for one run there is"),
        (lambda folders: ninscope.open_runs([folders[0], folders[0]]), "two runs are called 'first'; give them names"),
        (lambda folders: ninscope.open_runs([folders[0] / "tables"]), "not a run folder"),
        (lambda folders: ninscope.open_runs(folders)["secnd"], "no run 'secnd'; did you mean 'second'?"),
        (lambda folders: ninscope.open_runs(folders).table("emergance"), "first, second: no table 'emergance'; did you mean"),
        (lambda folders: ninscope.open_runs(folders).query("FROM weights"), "first and .*second: no table 'weights'"),
        (lambda folders: ninscope.open_runs(folders).plot(model="x"), "no model 'x'; their models: m, n"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(folders, request_of, says):
    with pytest.raises(RequestError, match=says):
        request_of(folders)


@pytest.mark.parametrize(("inside", "path"), [("", "."), ("tables", "..")])
def test_a_run_is_called_by_its_folder_however_it_is_reached(folders, monkeypatch, inside, path):
    monkeypatch.chdir(folders[0] / inside)
    assert ninscope.open_runs([path]).names == ["first"]


@pytest.mark.parametrize("start", ["", "mine/ninscope"])
def test_trainings_in_the_folders_of_their_trainers_are_called_after_these(tmp_path, monkeypatch, start):
    for folder in ("mine/ninscope", "yours/ninscope", "yours/ninscope-0123"):
        write_run(tmp_path / folder, ["m"])
    monkeypatch.chdir(tmp_path / start)
    given = [".", "../../yours/ninscope"] if start else ["mine/ninscope", "yours/ninscope", "yours/ninscope-0123"]
    assert ninscope.open_runs(given).names == ["mine", "yours", "yours-0123"][: len(given)]
