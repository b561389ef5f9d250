"""`ninscope query` and Run.query: SQL over a run's tables gives what is in them, and reads and writes nothing else."""

import csv
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from driving import COMMAND, command, contents

import ninscope
from ninscope.errors import RequestError
from ninscope_pipeline import machine, querying
from ninscope_pipeline.storing.open_files import OpenFiles
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.tables import all_tables, empty_table, parquet_bytes

NAMES = ["it's", 'a "b"', "[red]x[/red]", "two\nlines\x1b[2J"]


def emergence_rows() -> pd.DataFrame:
    """Rows with absent values, an infinity, a sum beyond 32 bits, and names with quotes, markup and what moves a cursor."""
    return pd.DataFrame(
        {
            "model": pd.array(NAMES, dtype="string"),
            "step": pd.array([0, 1, None, 8], dtype="Int64"),
            "nodes": pd.array([2**40, 2**40, 7, 1], dtype="Int64"),
            "alpha0": [0.1 + 0.2, math.nan, 1.5, 1 / 3],
            "emergence": [0.0, math.inf, math.nan, -1.25],
        }
    )


def write_run(folder: Path, **tables: pd.DataFrame) -> Path:
    """A run folder with these tables."""
    (folder / "tables").mkdir(parents=True)
    (folder / "run.toml").write_text("")
    for name, table in tables.items():
        (folder / "tables" / f"{name}.parquet").write_bytes(parquet_bytes(table))
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """runs/mine below the working folder, with the tables emergence and checkpoints."""
    monkeypatch.chdir(tmp_path)
    checkpoints = pd.DataFrame({"step": pd.array([0, 1, 8], dtype="Int64"), "status": ["ok", "corrupt", "ok"]})
    return write_run(tmp_path / "runs" / "mine", emergence=emergence_rows(), checkpoints=checkpoints)


def lines_of(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith(("│", "┃"))]


# --- what comes out


def test_the_table_shows_absent_values_and_says_how_many_rows_there_are(run):
    ended = command("query", "mine", "SELECT model, step, alpha0, emergence FROM emergence")
    assert (ended.code, ended.err) == (0, "")
    cells = [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in lines_of(ended.out)]
    assert cells == [
        ["model", "step", "alpha0", "emergence"],
        ["it's", "0", "0.3", "0"],
        ['a "b"', "1", "NULL", "inf"],
        ["[red]x[/red]", "NULL", "1.5", "NULL"],
        [r"two\x0alines\x1b[2J", "8", "0.333333", "-1.25"],
    ]
    assert ended.out.splitlines()[-1] == "mine: 4 rows"
    assert "NaN" in command("query", "mine", "SELECT 0/0").out


def test_of_many_rows_the_table_shows_the_first_and_says_so(run):
    ended = command("query", run, "SELECT a.range AS n FROM range(12345) AS a")
    assert len(lines_of(ended.out)) == 1 + 40
    assert ended.out.splitlines()[-1].startswith("mine: the first 40 of 12,345 rows; all of them: --csv")


def test_a_wide_table_is_whole_in_a_narrow_window(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    text = "word " * 40
    out = command("query", run, f"SELECT '{text}' AS said, {', '.join(f'{n}12345 AS c{n}' for n in range(1, 20))}").out
    assert all(f"{n}12345" in out for n in range(1, 20))
    assert out.count("word") == 40


def test_json_is_one_document_in_which_each_value_is_told_apart(run):
    sql = "SELECT model, step, nodes, alpha0, emergence, 0/0 AS nan, [1.5, NULL] AS list, {'a': true} AS pair, 0.5 AS half "
    sql += "FROM emergence"
    ended = command("query", "mine", sql, "--json")
    document = json.loads(ended.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (document["run"], ended.err) == ("runs/mine", "")
    assert document["columns"] == ["model", "step", "nodes", "alpha0", "emergence", "nan", "list", "pair", "half"]
    others = {"nan": "NaN", "list": [1.5, None], "pair": {"a": True}, "half": 0.5}
    values = zip(
        NAMES, [0, 1, None, 8], [2**40, 2**40, 7, 1], [0.1 + 0.2, None, 1.5, 1 / 3], [0.0, "Infinity", None, -1.25], strict=True
    )  # fmt: skip
    assert document["rows"] == [dict(zip(document["columns"], row, strict=False)) | others for row in values]
    assert json.loads(command("query", "mine", "SELECT step FROM emergence WHERE false", "--json").out)["rows"] == []


def test_csv_has_every_digit(run):
    ended = command("query", "mine", "SELECT model, step, alpha0, emergence FROM emergence", "--csv")
    rows = list(csv.reader(io.StringIO(ended.out, newline="")))
    assert rows == [
        ["model", "step", "alpha0", "emergence"],
        ["it's", "0", "0.30000000000000004", "0.0"],
        ['a "b"', "1", "", "inf"],
        ["[red]x[/red]", "", "1.5", ""],
        [NAMES[3], "8", "0.3333333333333333", "-1.25"],
    ]


def test_parquet_holds_what_pandas_holds(run, tmp_path):
    file = tmp_path / "out.parquet"
    ended = command("query", "mine", "SELECT *, 0/0 AS nan FROM emergence ORDER BY nodes, model", "--parquet", file)
    assert (ended.code, ended.out) == (0, f"{file}: 4 rows\n")
    found = pq.read_table(file)
    assert pc.is_nan(found["nan"]).to_pylist() == [True] * 4
    expected = emergence_rows().sort_values(["nodes", "model"], ignore_index=True)
    for name in expected:
        theirs = [None if pd.isna(value) else value for value in expected[name]]
        assert found[name].to_pylist() == theirs
    first = file.read_bytes()
    assert (
        command("query", "mine", "SELECT *, 0/0 AS nan FROM emergence ORDER BY nodes, model", "--parquet", file).code
        == 0
    )
    assert file.read_bytes() == first


def test_sums_of_integers_are_integers(run, tmp_path):
    sql = "SELECT sum(nodes) AS total, sum(step) AS steps FROM emergence GROUP BY ALL"
    frame = ninscope.open_run(run).query(sql)
    assert frame["total"].tolist() == [2**41 + 8]
    assert frame["total"].dtype == np.int64
    assert command("query", run, sql, "--parquet", tmp_path / "x.parquet").code == 0
    assert str(pq.read_table(tmp_path / "x.parquet").schema.field("total").type) == "int64"
    big = ninscope.open_run(run).query("SELECT sum(9000000000000000000::BIGINT) AS total FROM emergence")["total"]
    assert (big.dtype, big[0]) == (np.float64, 3.6e19)
    ended = command(
        "query", run, "SELECT sum(9000000000000000000::BIGINT) FROM emergence", "--parquet", tmp_path / "y.parquet"
    )
    assert ended.code == 2
    assert "does not fit into Parquet" in ended.says[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "x.parquet"]


def test_columns_of_one_name_are_told_apart(run):
    sql = "SELECT a.step, b.step, 1 AS step_1 FROM emergence a JOIN checkpoints b USING (step) ORDER BY 1 LIMIT 1"
    document = json.loads(command("query", run, sql, "--json").out)
    assert document["columns"] == ["step", "step_1", "step_1_1"]
    assert document["rows"] == [{"step": 0, "step_1": 0, "step_1_1": 1}]
    assert list(ninscope.open_run(run).query(sql)) == ["step", "step_1", "step_1_1"]


def test_queries_give_what_pandas_gives(run):
    opened = ninscope.open_run(run)
    found = opened.query(
        "SELECT model, status FROM emergence JOIN checkpoints USING (step) WHERE status <> 'ok' OR alpha0 IS NULL"
    )
    expected = (
        opened.table("emergence").merge(opened.table("checkpoints"), on="step").query("status != 'ok' or alpha0.isna()")
    )
    assert found.to_dict("list") == expected[["model", "status"]].to_dict("list")
    pivoted = opened.query("PIVOT emergence ON step USING max(alpha0) GROUP BY nodes ORDER BY nodes")
    assert pivoted["8"].tolist()[0] == 1 / 3
    assert opened.query("SHOW TABLES")["name"].tolist() == ["checkpoints", "emergence"]
    assert opened.query("DESCRIBE Emergence")["column_name"].tolist() == list(emergence_rows())
    assert opened.query("SELECT count(*) AS n FROM query('FROM emer' || 'gence')")["n"].tolist() == [4]
    assert opened.query('SELECT "step" FROM main."EMERGENCE" e -- all\n')["step"].tolist()[:2] == [0, 1]


def test_no_table_of_a_run_holds_nan():
    """DuckDB would not see it in a query (findings/duckdb-isnan.sh)."""
    for name in all_tables():
        floats = [
            column for column, dtype in empty_table(name).dtypes.items() if str(dtype).lower().startswith("float")
        ]
        written = pq.read_table(io.BytesIO(parquet_bytes(empty_table(name)[floats].reindex([0], fill_value=np.nan))))
        assert all(written[column].to_pylist() == [None] for column in floats), name


# --- the sandbox


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELECT * FROM 'secret.csv'", "a query reads tables of its run and nothing else, so not 'secret.csv'"),
        ("SELECT * FROM read_csv('secret.csv')", "nothing else, so not 'secret.csv'"),
        ("SELECT * FROM read_text('FOLDER/secret.csv')", "nothing else, so not 'FOLDER/secret.csv'"),
        ("SELECT * FROM glob('*')", "nothing else"),
        ("SELECT * FROM 'runs/mine/tables/emergence.parquet'", "nothing else"),
        ("SELECT * FROM read_parquet('tables://0/weights')", "nothing else|no such"),
        ("COPY (SELECT 1) TO 'out.csv'", "a query only reads, and this is a statement of the kind COPY; give one SELECT"),
        ("COPY emergence TO 'tables://0/emergence'", "of the kind COPY"),
        ("ATTACH 'other.db'", "of the kind ATTACH"),
        ("EXPORT DATABASE 'out'", "of the kind EXPORT"),
        ("INSTALL httpfs", "of the kind LOAD"),
        ("LOAD httpfs", "of the kind LOAD"),
        ("SET enable_external_access = true", "of the kind SET"),
        ("PRAGMA enable_profiling", "of the kind PRAGMA"),
        ("PRAGMA profiling_output = 'out.json'", "of the kind SET"),
        ("CREATE TABLE mine AS SELECT 1", "of the kind CREATE"),
        ("INSERT INTO emergence SELECT * FROM emergence", "of the kind INSERT"),
        ("DROP VIEW emergence", "of the kind DROP"),
        ("EXPLAIN ANALYZE COPY (SELECT 1) TO 'out.csv'", "of the kind EXPLAIN"),
        ("CALL enable_logging()", "of the kind CALL"),
        ("SELECT 1; SELECT 2", "the query is 2 statements; give one SELECT"),
        ("SELECT 1; COPY (SELECT 1) TO 'out.csv'", "the query is 2 statements"),
        ("", "the query is empty; give a SELECT, such as 'SELECT"),
        (" ; ", "the query is empty"),
        ("SELECT * FROM emergence_rows", "no table 'emergence_rows'"),
    ],
)  # fmt: skip
def test_what_would_read_or_write_elsewhere_is_refused(run, tmp_path, sql, says):
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    emergence_rows_here = emergence_rows()  # a DataFrame in reach of DuckDB's scan of Python's variables
    before = contents(tmp_path)
    ended = command("query", "mine", "--", sql.replace("FOLDER", str(tmp_path)))
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.says
    assert ended.err.count("\n") == 1
    assert_matches(line, says.replace("FOLDER", str(tmp_path)))
    after = contents(tmp_path)
    assert {name: digest for name, digest in after.items() if ".locks" not in name} == before
    assert len(emergence_rows_here) == 4


def assert_matches(line: str, says: str) -> None:
    assert any(part in line for part in says.split("|")), line


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO 'out.csv'",
        "COPY emergence TO 'tables://0/emergence'",
        "COPY emergence TO 'tables://0/emergence' (USE_TMP_FILE false)",
        "EXPORT DATABASE 'out'",
        "INSTALL httpfs",
        "SET memory_limit = '1TB'",
        "SET enable_external_access = true",
        "SET allowed_paths = ['out.csv']",
        "SET temp_directory = 'out'",
        "PRAGMA profiling_output = 'out.json'",
        "CALL enable_logging()",
    ],
)
def test_duckdb_itself_refuses_it_too(run, tmp_path, monkeypatch, sql):
    """The check of the statement's kind is one wall; this is what stands behind it."""
    monkeypatch.setattr(querying, "_check_kind", lambda sql: None)
    before = contents(run / "tables")
    with (
        pytest.raises(RequestError, match=r"nothing else|locked|annot (access|change)|disabled|open for reading alone"),
        querying.query_over({"mine": RunFolder(run)}, sql) as query,
    ):
        list(query.rows().rows)
    assert contents(run / "tables") == before
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_files_that_are_open_are_read_and_nothing_else(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    files = OpenFiles()
    files.add("0/a", tmp_path / "a")
    (tmp_path / "b").write_bytes(b"other")
    (tmp_path / "b").replace(tmp_path / "a")
    opened, second = files.open("tables://0/a"), files.open("tables://0/a")
    assert (opened.read(4), second.read(2), opened.read(), opened.read(3)) == (b"0123", b"01", b"456789", b"")
    assert (opened.seek(-3, os.SEEK_END), opened.seek(1, os.SEEK_CUR), opened.tell(), opened.read(1)) == (7, 8, 8, b"8")
    assert files.info("tables://0/a")["size"] == 10
    for mode in ("wb", "r+b", "ab", "xb"):
        with pytest.raises(PermissionError, match="open for reading alone"):
            files.open("tables://0/a", mode)
    with pytest.raises(FileNotFoundError):
        files.open(str(tmp_path / "a"))
    assert not files.exists("tables://0/b")
    files.close()
    assert not files.exists("tables://0/a")


# --- mistakes


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELECT * FROM emergance", "runs/mine: no table 'emergance'; did you mean 'emergence'?; its tables: checkpoints"),
        ("SELECT * FROM main.weights", "runs/mine: no table 'weights'; its tables: checkpoints, emergence"),
        ("SELECT alpha FROM emergence", "the query: no column 'alpha'; did you mean \"alpha0\"?"),
        ("SELECT alpha0 FORM emergence", "the query: syntax error at or near \"emergence\""),
        ("SELECT\nalpha0\nFORM emergence x", '(line 3: FORM emergence x)'),
        ("SELECT step, max(alpha0) FROM emergence", 'the query: column "step" must appear in the GROUP BY clause'),
        ("SELECT maxx(alpha0) FROM emergence", "did you mean \"max\"?"),
        ("SELECT model::INT FROM emergence", "the query: could not convert string 'it's' to INT32"),
        ("SELECT ?", "the query: values were not provided"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(run, sql, says):
    ended = command("query", "mine", sql)
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.says
    assert ended.err.count("\n") == 1
    assert says in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("mien", "SELECT 1"), "a folder that `ninscope run` wrote; did you mean 'mine'?"),
        (("m" * 300, "SELECT 1"), "m: not a run folder"),
        (("mine", "SELECT 1", "--json", "--csv"), "--json and --csv are forms of one output; give one of them"),
        (("mine", "SELECT 1", "--parquet", "no/x.parquet"), "no/x.parquet: lies in a folder that is not there"),
        (("mine", "SELECT 1", "--parquet", "runs"), "runs: is a folder"),
        (("mine", "SELECT 1", "--parquet", "runs/pipe"), "runs/pipe: is no file"),
        (("mine", "SELECT 1", "--parquet", "x" * 300), "File name too long"),
        (("mine", "SELECT 1", "--parquet", "runs/mine/tables/emergence.parquet"), "lies in the run's folder"),
        (("mine", "SELECT INTERVAL 1 DAY", "--parquet", "x"), "x: a column does not fit into Parquet"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_one_line(run, tmp_path, arguments, says):
    os.mkfifo(run.parent / "pipe")
    before = contents(run / "tables")
    ended = command("query", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.says[0]
    assert contents(run / "tables") == before
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_query_is_text(run):
    with pytest.raises(RequestError, match="a query is text, such as 'SELECT \\* FROM emergence', and no int"):
        ninscope.open_run(run).query(3)


def test_what_takes_too_much_memory_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "group_memory", lambda: 64_000_000.0)
    ended = command("query", "mine", "SELECT * FROM range(10000000) ORDER BY hash(range)")
    assert ended.code == 2
    assert ended.says == [
        "the query takes more than 32.0 MB of memory, half of what this process may use; ask for fewer rows or columns, or for an "
        "aggregate"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]  # no .tmp


ENDLESS = "SELECT count(*) FROM range(1000000000000) WHERE hash(range) = 0"


def test_ctrl_c_ends_a_query_that_never_would(run):
    def ask() -> None:
        with querying.query_over({"mine": RunFolder(run)}, ENDLESS) as query:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            list(query.rows().rows)

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        ask()
    assert time.monotonic() - start < 5


@pytest.mark.slow
def test_a_command_that_is_interrupted_says_so(run, tmp_path):
    with subprocess.Popen(
        [*COMMAND, "query", "mine", ENDLESS], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as running:
        maps = Path(f"/proc/{running.pid}/maps")
        while running.poll() is None and "_duckdb" not in maps.read_text():  # then it is at work, or nearly
            time.sleep(0.05)
        time.sleep(0.5)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=20)
    assert (running.returncode, err) == (130, "ninscope: interrupted\n")


# --- runs that are not as they should be


def test_a_run_without_tables_says_why(tmp_path):
    empty = write_run(tmp_path / "empty")
    with pytest.raises(
        RequestError, match=r"no table 'emergence'; its tables: none yet, since the run has not finished"
    ):
        ninscope.open_run(empty).query("SELECT * FROM emergence")


def test_tables_of_an_earlier_request_are_called_that(run):
    (run / "plan.json").write_text(json.dumps({"stages": {}, "tables": "new", "checkpoints": []}))
    (run / "tables" / "manifest.json").write_text(json.dumps({"key": "old", "files": {}}))
    ended = command("query", "mine", "SELECT 1")
    assert (ended.code, ended.says) == (
        0,
        ["runs/mine: the run has not finished; these tables are of what was asked before"],
    )
    (run / "tables" / "manifest.json").write_text(json.dumps({"key": "new", "files": {}}))
    assert command("query", "mine", "SELECT 1").says == []


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no table" * 100])
def test_a_damaged_table_is_named(run, content):
    (run / "tables" / "checkpoints.parquet").write_bytes(content)
    ended = command("query", "mine", "SELECT * FROM checkpoints")
    assert ended.code == 2
    assert ended.says[0].startswith("runs/mine: table checkpoints is damaged (")
    assert ended.says[0].endswith("repeat the `ninscope run` command to write it again")
    assert command("query", "mine", "SELECT * FROM emergence").code == 0


def test_what_is_no_file_is_no_table(run):
    """A pipe would be waited for."""
    (run / "tables" / "weights.parquet").mkdir()
    (run / "tables" / "degrees.parquet").symlink_to("nowhere")
    os.mkfifo(run / "tables" / "spectra.parquet")
    assert ninscope.open_run(run).tables == ["checkpoints", "emergence"]
    assert "no table 'spectra'" in command("query", "mine", "SELECT * FROM spectra").says[0]


def test_a_run_may_replace_its_tables_meanwhile(run):
    """Those of one set are read, also after others took their place."""
    with querying.query_over({"mine": RunFolder(run)}, "SELECT model FROM emergence") as query:
        shutil.rmtree(run / "tables")
        write_run(run.parent / "other", emergence=emergence_rows()[:1])
        (run.parent / "other" / "tables").rename(run / "tables")
        assert [name for (name,) in query.rows().rows] == NAMES


def test_a_query_waits_for_a_run_that_writes_its_tables(run):
    folder = RunFolder(run)
    with folder.locked("tables"):
        waiting = threading.Thread(target=lambda: counts.append(len(ninscope.open_run(run).query("FROM emergence"))))
        counts: list[int] = []
        waiting.start()
        time.sleep(0.2)
        assert counts == []
        (run / "tables" / "emergence.parquet").write_bytes(parquet_bytes(emergence_rows()[:1]))
    waiting.join(10)
    assert counts == [1]


def test_a_run_that_cannot_be_written_is_read(run, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ninscope_pipeline.storing.runfolder.FileLock.acquire", refuse)
    assert len(ninscope.open_run(run).query("FROM emergence")) == 4


def test_names_with_quotes_are_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_run(tmp_path / """it's [a] "run"*""", **{"od\"d; table's": emergence_rows()})
    frame = ninscope.open_run(folder).query('SELECT * FROM "od""d; table\'s"')
    assert len(frame) == 4
    runs = ninscope.open_runs([folder])
    assert runs.query('SELECT DISTINCT run FROM "od""d; table\'s"')["run"].tolist() == [folder.name]


def test_nothing_heavy_is_imported():
    """A query of the command line is answered without pandas, numpy and the readers of networks."""
    code = (
        "import sys, ninscope_pipeline.query_command\n"
        "print([name for name in ('pandas', 'numpy', 'numba', 'zarr', 'dask', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_traceback(run, tmp_path):
    done = subprocess.run(
        f"{sys.executable} -m ninscope_pipeline.cli query mine 'FROM range(1000000)' --csv | head -n 2",
        shell=True, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "range\n0\n"
    assert "Traceback" not in done.stderr


def test_a_query_may_begin_with_a_comment(run):
    ended = command("query", "mine", "--csv", "--", "-- which steps\nSELECT step FROM checkpoints")
    assert ended.out == "step\n0\n1\n8\n"
