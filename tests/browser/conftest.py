"""One Chromium for all tests of report.html, and the pages that it opens: of a real small run, and of tables made from its own."""

import contextlib
import io
import os
import shutil
import tarfile
from pathlib import Path

import pandas as pd
import pytest
import tomli_w
from opened_page import OpenedPage, RunAndPage

ROOT = Path(__file__).parents[2]
OLD_RUN = ROOT / "tests" / "data" / "run-of-e49790d.tar.xz"  # with fine-tunes and activations, which take torch to make
SCREENSHOTS = Path(os.environ.get("NINSCOPE_TEST_SCREENSHOTS", ROOT / "build" / "screenshots"))
KEY = "a key of tables"

# What a page must show as it stands: it would run, end an element, be taken for a template, or hide what follows.
HOSTILE = """m 'a' "b" <script>alert(1)</script><img src=x onerror=alert(2)> & {{ 7*7 }} <!--"""
HOSTILE_TEXT = """</script><script>alert(3)</script> "]]> </code></td><svg onload=alert(4)>"""
HOSTILE_RUN = """<script>alert('run')<!-- & "quoted" """.strip()


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium, worked through its driver; its page is the same for all tests."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if None in programs.values():
        absent = " and ".join(name for name, path in programs.items() if path is None)
        pytest.skip(f"{absent} not installed (Debian: chromium, chromium-driver)")
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = selenium.ChromeOptions()
    options.binary_location = programs["chromium"]
    for argument in ("--headless=new", "--window-size=1280,900", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's sandbox refuses root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = selenium.ChromeService(programs["chromedriver"])
    with selenium.Chrome(options=options, service=service) as driver:
        yield driver


# --- runs and their pages ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def real_run(tmp_path_factory) -> Path:
    """The folder of a run of two shipped models with every stage that needs no torch."""
    from ninscope_pipeline.run_command import run_dag

    def model(name, **keys):
        folder = ROOT / "data" / name
        evaluations = str(folder / "evaluations.csv")
        return {"suite": "stdlib-neox", "model": name, "source": str(folder), "evaluations": evaluations} | keys

    dag = {
        "name": "small",
        "models": [model("stdlib-neox-67k"), model("stdlib-neox-233k", revisions=["step0", "step1000"])],
        "analysis": {
            "exact": True, "nodes_per_layer": 16, "samples": 3, "parts": ["block"],
            "q": {"start": -3.0, "stop": 3.0, "step": 0.5},
        },
        "variants": [{"name": "transfer-coth", "transfer": "coth"}],
        "nulls": {"models": ["shuffled"], "samples": 2},
        "scaling": {"draws": 2, "neurons": 3},
        "correlations": {"replicates": 100},
        "emergence": {"replicates": 100},
    } | {section: {} for section in ("controls", "weights", "interactions")}  # fmt: skip
    folder = tmp_path_factory.mktemp("real")
    file = folder / "small.toml"
    file.write_text(tomli_w.dumps(dag))
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()):
        patch.setattr("ninscope_pipeline.figures.draw", lambda *_: {})
        assert run_dag(file, folder, lambda line: None, workers=1) == 0
    return folder / "small"


@pytest.fixture(scope="session")
def real(real_run) -> RunAndPage:
    return RunAndPage(real_run, page_of(real_run))


@pytest.fixture(scope="session")
def hostile(real_run, tmp_path_factory) -> RunAndPage:
    """Of two runs: the real one, and one of an older version with fine-tunes and activations, with names that would do harm."""
    folder = tmp_path_factory.mktemp("hostile")
    with tarfile.open(OLD_RUN) as archive:
        members = [member for member in archive.getmembers() if member.name.startswith("old/tables")]
        archive.extractall(folder, members, filter="data")
    runs = []
    for source, name in ((real_run, HOSTILE_RUN), (folder / "old", f"{HOSTILE_RUN} 2")):
        tables = {
            file.stem: renamed(pd.read_parquet(file))
            for file in (source / "tables").glob("*.parquet")
            if file.stem
            not in ("scaling", "scaling_curves", "correlations")  # many charts, in which names are the same
        }
        checkpoints = tables["checkpoints"]
        checkpoints.loc[checkpoints.index[-1], ["status", "message"]] = ["corrupt", HOSTILE_TEXT]
        runs.append(run_of(folder / name, tables, f"# {HOSTILE_TEXT}\n[versions]\nnumpy = '<b>2</b>'\n"))
    return RunAndPage(runs[0], page_of(*runs))


def renamed(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows in which all that comes from a user's files has a name that would do harm."""
    before = {"suite": "s", "model": "", "layer": "l", "task": "t", "matrix": "m", "writer": "w", "reader": "r"}
    for column in before.keys() & set(rows):
        known = rows[column].notna() & (rows[column] != "all")
        rows.loc[known, column] = HOSTILE + rows.loc[known, column]
    return rows


@pytest.fixture(scope="session")
def one_checkpoint(real_run, tmp_path_factory) -> RunAndPage:
    names = ("checkpoints", "emergence", "spectra", "degrees")
    tables = {name: pd.read_parquet(real_run / "tables" / f"{name}.parquet") for name in names}
    tables = {name: rows[(rows["step"] == 0) & (rows["model"] == "stdlib-neox-67k")] for name, rows in tables.items()}
    run = run_of(tmp_path_factory.mktemp("one") / "one", tables)
    return RunAndPage(run, page_of(run))


@pytest.fixture(scope="session")
def without_emergence(real_run, tmp_path_factory) -> RunAndPage:
    tables = {
        name: pd.read_parquet(real_run / "tables" / f"{name}.parquet")
        for name in ("checkpoints", "benchmarks", "emergence")
    }
    run = run_of(tmp_path_factory.mktemp("none") / "none", tables | {"emergence": tables["emergence"].iloc[:0]})
    return RunAndPage(run, page_of(run))


def run_of(path: Path, tables: dict[str, pd.DataFrame], run_file: str = "[versions]\n") -> Path:
    """A run folder with these tables; of the others it has no rows."""
    from ninscope_pipeline.storing.manifest import write_files
    from ninscope_pipeline.storing.runfolder import RunFolder
    from ninscope_pipeline.tables import all_tables, empty_table, parquet_bytes

    folder = RunFolder(path)
    folder.create()
    folder.run_file.write_text(run_file)
    every = {name: empty_table(name) for name in all_tables()} | tables
    write_files(folder, folder.tables, KEY, {f"{name}.parquet": parquet_bytes(rows) for name, rows in every.items()})
    folder.write_json(folder.plan, {"stages": {}, "tables": KEY, "checkpoints": []})
    return path


def page_of(*runs: Path) -> Path:
    from ninscope_pipeline.report_command import write_report

    file = runs[0].parent / "report.html"
    with contextlib.redirect_stdout(io.StringIO()):
        assert write_report([str(run) for run in runs], file, None, lambda line: None) == 0
    return file


# --- the page of a test --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def opened(browser) -> OpenedPage:
    return OpenedPage(browser)


@pytest.fixture
def page(opened, real):
    """The real run's page, wide and light and at its top; after the test nothing may stand in the console."""
    yield from shown(opened, real)


@pytest.fixture
def hostile_page(opened, hostile):
    """The page of hostile names, as wide as a telephone."""
    yield from shown(opened, hostile, width=360)


@pytest.fixture
def small_page(opened, request):
    """The page of the fixture that a test is parametrised by."""
    yield from shown(opened, request.getfixturevalue(request.param))


def shown(opened: OpenedPage, run_and_page: RunAndPage, width: int = 1280):
    opened.look(width=width)
    opened.open(run_and_page.page)
    opened.to_top()
    yield opened
    assert opened.messages() == []


@pytest.fixture(scope="session")
def screenshots() -> Path:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return SCREENSHOTS
