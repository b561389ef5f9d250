"""Asking tables: a query beside DuckDB's own on the same file; how soon `ninscope --help` and `ninscope doctor` answer."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import duckdb
import numpy as np
import pandas as pd

import ninscope
from benchmarks.measures import in_new_process
from ninscope_pipeline.tables import empty_table, parquet_bytes

_STEPS = 154
_Q = np.round(np.arange(-30, 31) / 10, 1)
_SQL = {
    "one row a checkpoint": ("emergence", "SELECT model, max(emergence) FROM {} GROUP BY model ORDER BY model"),
    "61 rows a checkpoint": ("spectra", "SELECT model, step, avg(f) FROM {} WHERE q = 0 GROUP BY ALL ORDER BY ALL"),
    "every row": ("spectra", "SELECT * FROM {}"),
}  # fmt: skip


def _run(folder: Path, checkpoints: int) -> Path:
    """A run folder with the tables emergence and spectra of so many checkpoints; their numbers are random."""
    run = folder / "questions"
    (run / "tables").mkdir(parents=True)
    (run / "run.toml").write_text("")
    steps = np.arange(checkpoints) % _STEPS * 1000
    keys = {
        "suite": "pythia",
        "model": [f"pythia-{number // _STEPS}" for number in range(checkpoints)],
        "revision": [f"step{step}" for step in steps],
        "step": steps,
    }
    generator = np.random.default_rng(0)
    for name, rows, others in (("emergence", 1, {"method": "exact"}), ("spectra", _Q.size, {"sample": -1})):
        empty = empty_table(name)
        table = pd.DataFrame(keys | others | {"variant": "default"}).loc[np.repeat(np.arange(checkpoints), rows)]
        table = table.reset_index(drop=True).reindex(columns=empty.columns)
        for column in empty.select_dtypes("float64"):
            table[column] = generator.standard_normal(len(table))
        if rows > 1:
            table["q"] = np.tile(_Q, checkpoints)
        (run / "tables" / f"{name}.parquet").write_bytes(parquet_bytes(table.astype(empty.dtypes)))
    return run


def questions(folder: Path, checkpoints: int, runs: int) -> Iterator[tuple[str, float, str, str, float | None]]:
    """A query to a DataFrame, beside a new connection of DuckDB that queries the file: in turn, the least of several runs."""
    run = _run(folder, checkpoints)
    opened = ninscope.open_run(run)
    for what, (table, sql) in _SQL.items():
        file = run / "tables" / f"{table}.parquet"

        def plain(sql: str = sql, file: Path = file) -> pd.DataFrame:
            with duckdb.connect() as connection:
                return connection.sql(sql.format(f"'{file}'")).df()

        def ours(sql: str = sql, table: str = table) -> pd.DataFrame:
            return opened.query(sql.format(table))

        pd.testing.assert_frame_equal(ours(), plain())
        our, theirs = _least(ours, plain, runs)
        limit = f"DuckDB {theirs * 1e3:.1f} ms; wanted: 1.2 times that"
        yield f"query of {checkpoints} checkpoints, {what}", our * 1e3, "ms", limit, our / theirs
    table, sql = _SQL["61 rows a checkpoint"]
    yield from _command(run, sql.format(table), sql.format(f"'{run / 'tables' / table}.parquet'"), max(runs // 10, 1))


def _least(ours: Callable[[], object], theirs: Callable[[], object], runs: int) -> tuple[float, float]:
    """Seconds of two pieces of work that take turns, so that a noisy machine slows both."""
    seconds: tuple[list[float], list[float]] = [], []
    for _ in range(runs):
        for spent, work in zip(seconds, (ours, theirs), strict=True):
            start = perf_counter()
            work()
            spent.append(perf_counter() - start)
    return min(seconds[0]), min(seconds[1])


def _command(run: Path, sql: str, plain_sql: str, runs: int) -> Iterator[tuple[str, float, str, str, float | None]]:
    """The same as whole processes: the command beside Python with DuckDB alone; both import what they need."""
    plain = (
        f"import csv, sys, duckdb\ncsv.writer(sys.stderr).writerows(duckdb.sql({plain_sql!r}).fetchall())\nresult = 0\n"
    )
    ours = _code_of("query", str(run), sql, "--csv")
    seconds = [[in_new_process(code)["seconds"] for code in (ours, plain)] for _ in range(runs)]
    our, theirs = (min(spent) for spent in zip(*seconds, strict=True))
    yield "", our, "s", f"(whole command; Python with DuckDB alone {theirs:.2f} s)", our / theirs


def _code_of(*arguments: str) -> str:
    code = f"import sys\nfrom ninscope_pipeline.cli import main\nsys.argv = ['ninscope', *{arguments!r}]\n"
    return code + "try:\n    main()\nexcept SystemExit as end:\n    result = int(end.code or 0)\n"


def first_answers(runs: int) -> Iterator[tuple[str, float, str, str, float | None]]:
    """`ninscope --help` and `ninscope doctor` as whole processes."""
    for arguments, limit in ((("--help",), 0.3), (("doctor",), 2.0)):
        seconds = min(in_new_process(_code_of(*arguments))["seconds"] for _ in range(runs))
        yield f"ninscope {arguments[0]}", seconds, "s", f"wanted: under {limit:g} s", seconds / limit


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        for row in (*questions(Path(scratch), int(sys.argv[1]), int(sys.argv[2])), *first_answers(5)):
            print(row)
