"""Stages of installed packages: one file and an entry point are all it takes, and what is wrong with one is said in one line."""

import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from driving import command, write_dag
from suites import write_suite

from ninscope.checkpoints.source import open_source
from ninscope.errors import RequestError
from ninscope_pipeline.request.dagfile import dag_type
from ninscope_pipeline.stages import registry
from ninscope_pipeline.stages.network import NETWORK

EXAMPLE = Path(__file__).parents[1] / "data" / "ninscope-norms"


@pytest.fixture
def fresh_stages(monkeypatch):
    """The stages are looked up anew in a test, and after it."""
    caches = (registry.stages, dag_type)
    for cached in caches:
        cached.cache_clear()
    yield
    monkeypatch.undo()
    for cached in caches:
        cached.cache_clear()


@pytest.fixture
def installed(tmp_path, monkeypatch, fresh_stages) -> None:
    """The example package, installed by pip from a copy (a build leaves files behind), where Python looks for packages."""
    source, target = tmp_path / "package", tmp_path / "installed"
    source.mkdir()
    for file in EXAMPLE.iterdir():
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
            "--disable-pip-version-check", "--target", target, source,
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    monkeypatch.syspath_prepend(target)
    monkeypatch.delitem(sys.modules, "ninscope_norms", raising=False)


def asking(place: Path) -> Path:
    """A DAG file that asks for norms."""
    dag = write_dag(place / "tiny.toml", Path("weights"))
    dag.write_text(dag.read_text() + "\n[norms]\nscale = 2.0\n")
    return dag


@pytest.mark.slow
def test_a_package_adds_a_stage_with_its_section_table_and_figure(installed, tmp_path):
    suite = write_suite(tmp_path / "weights", (0, 1), blocks=1, width=16, heads=2)
    dag = asking(tmp_path)
    arguments = ("run", dag, "--runs-dir", tmp_path / "runs")
    planned = command(*arguments, "--dry-run")
    assert [name for name in planned.would_run if name[0] == "norms"] == [
        ("norms", "tiny/weights step0"), ("norms", "tiny/weights step1"),
    ]  # fmt: skip
    assert "norms (2)" in planned.out
    ended = command(*arguments)
    assert (ended.code, ended.says) == (0, [])
    run = tmp_path / "runs" / "tiny"
    rows = pd.read_parquet(run / "tables" / "norms.parquet").set_index("revision")
    for step in (0, 1):
        tensors = open_source(suite).open(f"step{step}").tensors.values()
        matrices = [tensor.rows(np.arange(tensor.shape[0]))[0] for tensor in tensors if len(tensor.shape) == 2]
        norm = np.sqrt(sum((matrix.astype(np.float64) ** 2).sum() for matrix in matrices))
        assert rows.loc[f"step{step}", "norm"] == pytest.approx(2 * norm, rel=1e-12)
    assert (run / "figures" / "weights-norms.png").stat().st_size > 1000
    status = command("status", run)
    assert status.code == 0
    assert re.search(r"norms\W+2\W+2\b", status.out), status.out
    assert "nothing to run" in command(*arguments).out
    dag.write_text(dag.read_text().replace("scale = 2.0", "scale = 3.0"))
    assert {stage for stage, _ in command(*arguments, "--dry-run").would_run} == {"norms", "tables", "figures"}


def test_without_the_package_its_section_is_no_key(tmp_path):
    dag = asking(tmp_path)
    ended = command("run", dag, "--runs-dir", tmp_path / "runs")
    assert (ended.code, ended.says) == (2, [f"{dag}: norms: no such key"])


@pytest.fixture
def packages(monkeypatch, fresh_stages):
    """Have installed packages offer these entry points."""

    def offer(**values: str) -> None:
        entries = [EntryPoint(name, value, registry.GROUP) for name, value in values.items()]
        monkeypatch.setattr(registry, "entry_points", lambda group: entries)
        registry.stages.cache_clear()

    return offer


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("absent_module:STAGE", r"the stage 'x' of absent_module:STAGE cannot be loaded \(ModuleNotFoundError"),
        ("ninscope_pipeline.stages.network:NetworkStage", r"the stage 'x' .* is no .*Stage object"),
        ("ninscope_pipeline.stages.network:NETWORK", r"the stage 'nin' .* takes the name of another; rename it"),
    ],
)
def test_a_stage_that_cannot_be_used_is_refused(packages, value, says):
    packages(x=value)
    with pytest.raises(RequestError, match=says):
        registry.stages()


def test_the_stages_that_ship_are_listed_once_in_the_order_in_which_they_run(packages):
    packages()
    assert list(registry.stages()) == [
        "nin", "spectra", "ranges", "parts", "exact", "weights", "weight_changes", "singular_values", "nulls", "controls",
        "snapshots", "scaling", "interactions", "finetune", "activations", "neurons", "toy_data", "toy_training", "toy_pruning",
        "polysemanticity", "toy_neurons", "emergence", "correlations",
    ]  # fmt: skip
    assert registry.stages()["nin"] is NETWORK


FAULTY = """
import numpy as np
from ninscope_pipeline.stages.stage import Job, Stage, Table
from ninscope_pipeline.storing.store import Artefact

def fail(where):
    if where == "WHERE":
        raise KeyError("x")

def rows(results):
    fail("rows")
    return []

class Faulty(Stage):
    name, title, version = "faulty", "faults", 1
    tables = (Table("faults", {}, rows),)
    def jobs(self, request):
        fail("jobs")
        yield Job(self.name, "0123", "a job", None)
    def make(self, store, job):
        fail("make")
        return Artefact({"a": np.zeros(1)}, {})
    def figures(self, tables):
        fail("figures")
        yield from ()

STAGE = Faulty()
"""


@pytest.mark.parametrize(
    ("where", "code", "says", "tables"),
    [
        ("jobs", 1, "failed: KeyError: 'x'; raised by the plan of the stage faulty (NINSCOPE_DEBUG=1 shows where)", 0),
        ("make", 1, "a job faulty: KeyError: 'x' (see log/faulty-0123.txt)", 9),
        ("rows", 1, "tables: KeyError: 'x'; raised by the table faults (see log/tables-all.txt)", 0),
        (
            "figures",
            1,
            "figures: KeyError: 'x'; raised by the figures of the stage faulty (see log/figures-all.txt)",
            9,
        ),
    ],
)
def test_a_fault_of_a_stage_is_one_line_that_names_it(packages, tmp_path, monkeypatch, where, code, says, tables):
    module = f"faulty_{where}"
    (tmp_path / f"{module}.py").write_text(FAULTY.replace("WHERE", where))
    monkeypatch.syspath_prepend(tmp_path)
    packages(faulty=f"{module}:STAGE")
    write_suite(tmp_path / "weights", (0,), blocks=1, width=16, heads=2)
    arguments = ("run", write_dag(tmp_path / "tiny.toml", Path("weights")), "--runs-dir", tmp_path / "runs")
    run = tmp_path / "runs" / "tiny"
    for _ in range(2):  # again, where everything else is there
        ended = command(*arguments)
        assert (ended.code, ended.says[:1]) == (code, [says])
        assert len(list(run.glob("tables/*.parquet"))) >= tables
    if where == "make":
        assert "KeyError: 'x'" in (run / "log" / "faulty-0123.txt").read_text()
    if where != "jobs":
        assert len(list((run / "store.zarr" / "spectra").glob("*/"))) == 1


DICE = """
import numpy as np
from ninscope_pipeline.request.models import Strict
from ninscope_pipeline.stages.stage import Job, Section, Stage, Table
from ninscope_pipeline.storing.store import Artefact

class DiceSection(Strict):
    throws: int

def rows(results):
    for job, outcome in results.jobs_of("dice"):
        yield {"suite": "dice", "model": job.label, "eyes": int(results.store.read(*job.id).arrays["eyes"][0])}

class Dice(Stage):
    name, title, version = "dice", "throws", 1
    section = Section("dice", DiceSection | None, None)
    tables = (Table("throws", {"eyes": "Int64"}, rows),)
    def names(self, dag):
        section = dag.section(self)
        return [f"throw{number}" for number in range(section.throws if section else 0)]
    def own_models(self, dag):
        return [("dice", name) for name in self.names(dag)]
    def jobs(self, request):
        return [Job(self.name, f"{number:032x}", name, number) for number, name in enumerate(self.names(request.dag))]
    def make(self, store, job):
        return Artefact({"eyes": np.array([job.work % 6 + 1])}, {})

STAGE = Dice()
"""


def test_a_stage_that_makes_models_of_its_own_needs_no_others(packages, tmp_path, monkeypatch):
    (tmp_path / "dice_stage.py").write_text(DICE)
    monkeypatch.syspath_prepend(tmp_path)
    packages(dice="dice_stage:STAGE")
    dag = tmp_path / "tiny.toml"
    dag.write_text("[emergence]\n")
    options = ("--runs-dir", tmp_path / "runs")
    (line,) = command("run", dag, *options).says
    assert line.endswith(", or write [polysemanticity], which makes its own, or write [dice], which makes its own")
    dag.write_text("[dice]\nthrows = 3\n")
    planned = command("run", dag, *options, "--dry-run")
    assert planned.out.splitlines()[-1].startswith(
        "tiny: 3 models of its own; would run throws (3), tables, figures, in "
    )
    ended = command("run", dag, *options)
    assert (ended.code, ended.says) == (0, [])
    assert ended.out.splitlines()[0] == "tiny: 3 models of its own"
    assert ".table('throws')" in ended.out
    assert pd.read_parquet(tmp_path / "runs" / "tiny" / "tables" / "throws.parquet")["eyes"].tolist() == [1, 2, 3]
    assert "nothing to run" in command("run", dag, *options).out  # though there is no figure
    dag.write_text("[dice]\nthrows = 0\n")
    (line,) = command("run", dag, *options).says
    assert "no [[models]] and no [[suites]]" in line


def test_models_of_a_run_stand_beside_checkpoints(packages, tmp_path, monkeypatch):
    (tmp_path / "dice_beside.py").write_text(DICE)
    monkeypatch.syspath_prepend(tmp_path)
    packages(dice="dice_beside:STAGE")
    write_suite(tmp_path / "weights", (0,), blocks=1, width=16, heads=2)
    dag = write_dag(tmp_path / "tiny.toml", Path("weights"))
    dag.write_text(dag.read_text() + "\n[dice]\nthrows = 1\n")
    options = ("--runs-dir", tmp_path / "runs")
    assert (
        "tiny: 1 checkpoint located, 1 model of its own; would run " in command("run", dag, *options, "--dry-run").out
    )
    ended = command("run", dag, *options)
    assert ended.out.splitlines()[0] == "tiny: 1 of 1 checkpoint ok, 1 model of its own"
    assert ".table('emergence')" in ended.out
    assert "0 checkpoints not ok, 1 model of its own" in command("status", tmp_path / "runs" / "tiny").out
