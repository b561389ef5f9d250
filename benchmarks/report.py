"""report.html of a large run: time, memory, size, and how soon a browser shows it; and figures as SVG beside PNG.

The run's tables have the rows of a small real run, each many times, with other numbers: nothing compresses better than it would.
"""

import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.cpu import suite_of
from benchmarks.measures import in_new_process
from benchmarks.shapes import write_checkpoint
from ninscope_pipeline import figures
from ninscope_pipeline.opened_run import open_run
from ninscope_pipeline.storing.manifest import write_files
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.tables import KEYS, all_tables, parquet_bytes

Row = tuple[str, float, str, str, float | None]

_SECONDS, _BYTES, _PAGE_BYTES, _PAINT, _SVG = 20, 1e9, 15e6, 2, 1.5  # what is wanted
_BASE_STEPS = 4
_DAG = """
name = "small"
[[models]]
suite = "x"
model = "x"
source = "{source}"
[analysis]
exact = true
[nulls]
models = ["analytic"]
[controls]
"""
_COMMAND = """
from ninscope_pipeline.cli import main
sys.argv = ["ninscope", *{arguments!r}]
try:
    main()
except SystemExit as end:
    assert end.code in (0, 1), end.code
import time
result = time.process_time()
"""


def report(folder: Path, models: int, steps: int, runs: int, full: bool) -> Iterator[Row]:
    """The page of models x steps checkpoints at 61 q.

    full: also with samples, and how soon Chromium shows it, where there is one.
    """
    small = _small_run(folder)
    name = f"report of {models * steps} checkpoints x 61 q"
    yield from _page(name, _large_run(folder / "large", small, models, steps, sampled=False), full)
    if full:
        sampled = _large_run(folder / "sampled", small, models, steps, sampled=True)
        yield from _page(f"{name}, 10 samples each", sampled, paint=True)
    yield from _figures(small, runs)


def _page(name: str, run: Path, paint: bool) -> Iterator[Row]:
    page = run / "report.html"
    measured = in_new_process(_COMMAND.format(arguments=["report", str(run)]))
    yield (
        name,
        measured["seconds"],
        "s",
        f"CPU {measured['result']:.1f} s; wanted: under {_SECONDS} s",
        measured["seconds"] / _SECONDS,
    )
    yield (
        "",
        measured["peak"] / 1e6,
        "MB",
        f"(peak memory; wanted: under {_BYTES / 1e6:.0f} MB)",
        measured["peak"] / _BYTES,
    )
    size = page.stat().st_size
    yield "", size / 1e6, "MB", f"(the page; wanted: under {_PAGE_BYTES / 1e6:.0f} MB)", size / _PAGE_BYTES
    if paint and shutil.which("chromium") and shutil.which("chromedriver"):
        first, drawn = _in_chromium(page)
        yield "", first, "s", f"first paint in Chromium; wanted: under {_PAINT} s", first / _PAINT
        yield "", drawn, "s", "(until every chart is drawn)", None


def _figures(run: Path, runs: int) -> Iterator[Row]:
    """Every figure of a run as PNG, and as SVG: the best of several runs, in turn."""
    tables = {name: open_run(run).table(name) for name in all_tables()}
    seconds: dict[str, float] = {}
    for form in ("png", "svg") * (runs + 1):  # the first of each imports and fills caches
        start = time.process_time()
        figures.draw(tables, (form,))
        spent = time.process_time() - start
        seconds[form] = min(seconds.get(form, spent), spent)
    limit = f"PNG {seconds['png']:.2f} s; wanted: at most {_SVG} times"
    yield "figures of a run as SVG, CPU", seconds["svg"], "s", limit, seconds["svg"] / seconds["png"]


def _small_run(folder: Path) -> Path:
    source = suite_of(write_checkpoint(folder / "report-base", "tiny"), folder / "report-suite", _BASE_STEPS)
    dag = folder / "small.toml"
    dag.write_text(_DAG.format(source=source))
    in_new_process(_COMMAND.format(arguments=["run", str(dag), "--runs-dir", str(folder)]))
    return folder / "small"


def _large_run(path: Path, small: Path, models: int, steps: int, sampled: bool) -> Path:
    """A run folder with tables of so many models and steps, written as a run writes them. sampled: with the rows of samples."""
    base, generator = open_run(small), np.random.default_rng(0)
    folder = RunFolder(path)
    folder.create()
    shutil.copy(small / "run.toml", folder.run_file)
    rows = {name: base.table(name) for name in base.tables}
    if not sampled:
        exact = {"samples": "sample == -1", "spectra": "sample == -1", "emergence": "method == 'exact'"}
        rows |= {name: rows[name].query(query) for name, query in exact.items()}
    tables = {name: _repeated(table, models, steps, generator) for name, table in rows.items()}
    write_files(folder, folder.tables, "large", _as_files(tables))
    folder.write_json(folder.plan, {"stages": {}, "tables": "large", "checkpoints": []})
    return path


def _as_files(tables: Mapping[str, pd.DataFrame]) -> dict[str, bytes]:
    return {f"{name}.parquet": parquet_bytes(rows) for name, rows in tables.items()}


def _repeated(rows: pd.DataFrame, models: int, steps: int, generator: np.random.Generator) -> pd.DataFrame:
    """The rows of a model's few steps for every step of many models: those of the step that lies where it does in training."""
    known = sorted(rows["step"].dropna().unique().tolist())
    if not known:
        return rows
    by_step = dict(iter(rows.groupby("step")))
    pieces = []
    for model in range(models):
        for number in range(steps):
            group = by_step[known[number * len(known) // steps]]
            keys = {"model": f"model-{model}", "revision": f"step{1000 * number}", "step": 1000 * number}
            pieces.append(group.assign(**keys))
    repeated = pd.concat(pieces, ignore_index=True).astype(rows.dtypes.to_dict())
    for column in repeated.select_dtypes("float64").columns.difference(["q"]):
        repeated[column] *= 1 + 0.02 * generator.standard_normal(len(repeated))
    return repeated[[*KEYS, *(column for column in repeated if column not in KEYS)]]


def _in_chromium(page: Path) -> tuple[float, float]:
    """Seconds to the first paint, and until every chart is drawn."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.wait import WebDriverWait

    options = Options()
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1280,900"):
        options.add_argument(argument)
    with webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver"))) as browser:
        browser.get(page.resolve().as_uri())
        whole = "return document.documentElement.dataset.drawn === 'all' ? performance.now() : null"
        drawn = WebDriverWait(browser, 120).until(lambda opened: opened.execute_script(whole))
        paint = browser.execute_script("return performance.getEntriesByName('first-paint')[0].startTime")
    return paint / 1000, drawn / 1000
