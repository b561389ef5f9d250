"""CONTRIBUTING.md: each recipe is followed in a copy of the packages, and touches the code files that it lists and no others."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PACKAGES = ("src/ninscope", "pipeline/ninscope_pipeline")
# By the end of a recipe's heading: (most code files, most files) that it may take.
LIMITS = {
    "a stage with a table and a figure": (3, 7),
    "a measure of neurons": (1, 2),
    "a null model": (2, 4),
    "a file format of weights": (3, 6),
    "a model family": (1, 4),
    "an option of `run`": (2, 4),
}


def recipes() -> dict[str, list[str]]:
    """The files of each recipe's table, by the end of its heading."""
    sections = re.findall(r"^### Add (.+?)\n(.*?)(?=^##)", PAGE, flags=re.MULTILINE | re.DOTALL)
    return {what: re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE) for what, text in sections}


def code_files(files: list[str]) -> list[str]:
    return [file for file in files if file.startswith(PACKAGES)]


@pytest.mark.parametrize("what", LIMITS)
def test_a_recipe_takes_few_files(what):
    files = recipes()[what]
    assert len(code_files(files)) <= LIMITS[what][0]
    assert len(files) <= LIMITS[what][1]


def test_there_is_no_other_recipe():
    assert recipes().keys() == LIMITS.keys()


def test_files_that_the_page_names_are_there():
    for name in re.findall(r"`((?:src|pipeline|tests|docs|data|dags|benchmarks|stages)/[\w./-]*)`", PAGE):
        path = "pipeline/ninscope_pipeline/" + name if name.startswith("stages/") else name
        assert "NAME" in name or (ROOT / path).exists(), name
    for name in re.findall(r"\]\(([\w./-]+)\)", PAGE):
        assert (ROOT / name).exists(), name
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"`make (\w+)`", PAGE)) <= targets


def test_the_page_can_be_read_at_once():
    assert len(PAGE.splitlines()) <= 150


# --- following the recipes ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Change:
    """A file to write, or one to change: old text, new text."""

    file: str
    new: str
    old: str = ""


SIZES = '''"""How many numbers a checkpoint holds."""

import numpy as np

from ninscope_pipeline.request.models import Strict
from ninscope_pipeline.stages.from_weights import WeightsStage, checkpoint_of
from ninscope_pipeline.stages.stage import Job, Section, Table
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.store import Artefact


class SizesSection(Strict):
    times: int = 1


class SizesStage(WeightsStage):
    name, title, version = "sizes", "sizes", 1
    section = Section("sizes", SizesSection | None, None)

    def jobs(self, request):
        section = request.dag.section(self)
        for located in request.checkpoints if section is not None else ():
            key = content_key(self.name, self.version, weights=located.content_sha256, times=section.times)
            yield Job(self.name, key, "/".join(located.id), section.times, checkpoint=located)

    def make(self, store, job):
        located = checkpoint_of(job)
        tensors = located.opened().open(located.revision, located.identity).tensors.values()
        return Artefact({"size": np.array([job.work * sum(int(np.prod(tensor.shape)) for tensor in tensors)])}, {})

    def figures(self, tables):
        from ninscope.report.sizes_figure import sizes_figure

        yield "sizes.png", sizes_figure(tables.table("sizes"))

    def page(self, tables):
        from ninscope.report.sizes_figure import sizes_part

        yield sizes_part(tables)


def rows(results):
    for job, outcome in results.jobs_of("sizes"):
        suite, model, revision = job.checkpoint.id
        keys = {"suite": suite, "model": model, "revision": revision, "step": job.checkpoint.step}
        yield keys | {"size": int(results.store.read(*job.id).arrays["size"][0]) if outcome.ok else None}


SizesStage.tables = (Table("sizes", {"size": "Int64"}, rows),)
SIZES = SizesStage()
'''
FIGURE = '''"""The figure of sizes."""

from matplotlib.figure import Figure


def sizes_figure(table):
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot(table["step"], table["size"], "o")
    return figure


def sizes_part(tables):
    import altair as alt

    from ninscope.report.page.chart_data import in_order, rows_of, steps_in
    from ninscope.report.page.charts import colour_by_label, fitted, step_axis, tooltip
    from ninscope.report.page.parts import Chart, PagePart

    data = in_order(rows_of(tables.table("sizes"), ["size"]), tables)
    tips = tooltip("step:Q", "size:Q", model="label:N")
    x, colour = step_axis(steps_in(data)), colour_by_label(data, tables)
    chart = fitted(alt.Chart(data, name="sizes").mark_point().encode(x=x, y="size:Q", color=colour, tooltip=tips))
    made = Chart("sizes-steps", "Sizes", chart, f"Sizes of {len(data)} checkpoints.")
    return PagePart("sizes", "Sizes", "structure", ("How many numbers a checkpoint holds.",), (made,), ("sizes",))
'''
UNIFORM = '''

def uniform_counts(rows: int, columns: int, bins: int, generator: np.random.PCG64) -> np.ndarray:
    """Counts of a matrix whose weights fall into every bin alike, int32 [columns, bins]."""
    drawn = np.random.Generator(generator).integers(0, bins, size=(columns, rows))
    return np.stack([np.bincount(column, minlength=bins) for column in drawn]).astype(np.int32)
'''
FLAT = """

def _uniform(matrix: MatrixBins, radii: Radii, generator: np.random.PCG64) -> np.ndarray:
    return uniform_counts(matrix.rows, matrix.columns, radii.count + 1, generator)

"""
UNIFORM_ENTRY = '    "uniform": Null(_uniform, "nothing but the sizes"),\n'
RAW = '''"""A line of JSON, {name: shape}, and then the tensors as float32."""

import json
import math

from ninscope.checkpoints.formats.weight_file import TensorEntry


def open_tensors(file):
    head = bytes(file.read_ranges([(0, 200)])[0])
    entries, start = {}, head.index(b"\\n") + 1
    for name, shape in json.loads(head[: start - 1]).items():
        stop = start + 4 * math.prod(shape)
        entries[name] = TensorEntry(name, "F32", tuple(shape), start, stop)
        start = stop
    return entries, file
'''
PLAIN = '''"""Plain networks: one matrix after the other."""

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.registry import register


@register("plain")
def architecture(config):
    width, count = sizes.width(config, "width"), sizes.width(config, "matrices")
    net = Builder("plain")
    for number in range(count + 1):
        net.layer(f"block{number}", "x", width)
    for number in range(count):
        net.join(f"block{number}.x", f"block{number + 1}.x", f"w{number}")
    return net.architecture()
'''
LARGEST = '''"""The largest activation of a layer."""

from typing import ClassVar

from ninscope.neurons.observatory.measure import HIDDEN, Fact, Found, StreamedMeasure, Tally
from ninscope.neurons.observatory.registry import register


@register
class Largest(StreamedMeasure):
    """The largest activation of a layer."""

    name, title, source = "largest", "largest activation", "none"
    facts: ClassVar = {"largest": "the largest activation"}
    reads = frozenset({HIDDEN})

    def tally(self, subject):
        return Largests()


class Largests(Tally):
    def __init__(self):
        self.largest = {}

    def see(self, place, values, batch):
        self.largest[place.layer] = max(float(values.max()), self.largest.get(place.layer, -float("inf")))

    def found(self):
        return Found(tuple(Fact("largest", layer, value) for layer, value in self.largest.items()))
'''
STAGES, SRC = "pipeline/ninscope_pipeline/stages", "src/ninscope"
RUN = "pipeline/ninscope_pipeline/run_command.py"
CHANGES = {
    "a stage with a table and a figure": [
        Change(f"{STAGES}/sizes.py", SIZES),
        Change(
            f"{STAGES}/registry.py",
            "from ninscope_pipeline.stages.sizes import SIZES\nfrom ninscope_pipeline.stages.spectra import",
            "from ninscope_pipeline.stages.spectra import",
        ),
        Change(f"{STAGES}/registry.py", "    SIZES,\n    NETWORK,\n", "    NETWORK,\n"),
        Change(f"{SRC}/report/sizes_figure.py", FIGURE),
    ],
    "a measure of neurons": [Change(f"{SRC}/neurons/observatory/measures/largest.py", LARGEST)],
    "a null model": [
        Change(f"{SRC}/multifractal/nulls.py", UNIFORM + "\n\ndef _drawn(", "\n\ndef _drawn("),
        Change(f"{SRC}/exact/null_models.py", "    shuffled_counts,\n    uniform_counts,\n", "    shuffled_counts,\n"),
        Change(f"{SRC}/exact/null_models.py", FLAT + "\n# Every null model", "\n\n# Every null model"),
        Change(f"{SRC}/exact/null_models.py", UNIFORM_ENTRY + '    "shuffled": Null(', '    "shuffled": Null('),
    ],
    "a file format of weights": [
        Change(f"{SRC}/checkpoints/formats/raw.py", RAW),
        Change(
            f"{SRC}/checkpoints/formats/__init__.py",
            'FORMATS = (\n    WeightFormat(".raw", "raw_model", f"{__name__}.raw"),\n',
            "FORMATS = (\n",
        ),
    ],
    "a model family": [Change(f"{SRC}/architectures/families/plain.py", PLAIN)],
    "an option of `run`": [
        Change(
            "pipeline/ninscope_pipeline/cli.py",
            '    note: Annotated[str, typer.Option("--note", help="A line to print first.")] = "",\n) -> None:\n'
            '    """Run an experiment:',
            ') -> None:\n    """Run an experiment:',
        ),
        Change("pipeline/ninscope_pipeline/cli.py", "*trusted, replace, note))", "*trusted, replace))"),
        Change(
            RUN,
            '    replace: bool = False,\n    note: str = "",\n',
            "    replace: bool = False,\n",
        ),
        Change(
            RUN, "    if note:\n        say(note)\n    dag = load_dag(dag_file)\n", "    dag = load_dag(dag_file)\n"
        ),
    ],
}
USED = """
import json, os, sys
import numpy as np
import pandas as pd
from ninscope_pipeline.cli import main

for step in (0, 1):
    folder = f"weights/step{step}"
    os.makedirs(folder)
    with open(f"{folder}/config.json", "w") as file:
        json.dump({"model_type": "plain", "width": 12, "matrices": 2}, file)
    with open(f"{folder}/raw_model.raw", "wb") as file:
        file.write(json.dumps({"w0": [12, 12], "w1": [12, 12]}).encode() + b"\\n")
        file.write(np.random.default_rng(step).normal(scale=0.2, size=288).astype("<f4").tobytes())
try:
    main(["run", "new.toml", "--workers", "1", "--note", "a note"])
except SystemExit as end:
    assert not end.code, end.code
tables = {name: pd.read_parquet(f"runs/new/tables/{name}.parquet") for name in ("sizes", "nulls", "checkpoints")}
found = {
    "sizes": tables["sizes"]["size"].tolist(),
    "nulls": tables["nulls"]["null"].tolist(),
    "widths": bool(np.isfinite(tables["nulls"]["width"]).all()),
    "status": tables["checkpoints"]["status"].tolist(),
    "figures": sorted(os.listdir("runs/new/figures")),
}
from ninscope.report.page.parts import PageTables
from ninscope_pipeline.stages.registry import stages

shown = PageTables({"sizes": tables["sizes"].assign(label="m")}, ["m"])
charts = [chart.chart.to_dict() for part in stages()["sizes"].page(shown) for chart in part.charts]
found["drawn"] = [row["size"] for chart in charts for rows in chart["datasets"].values() for row in rows]
print("found", json.dumps(found))
"""
DAG = """
name = "new"
[[models]]
suite = "s"
model = "m"
source = "weights"
[analysis]
exact = true
nodes_per_layer = "all"
min_degree = 2
q = { start = -2.0, stop = 2.0, step = 1.0 }
[nulls]
models = ["uniform"]
samples = 2
[sizes]
times = 3
"""


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for package in PACKAGES
        for path in (root / package).rglob("*.py")
    }


def pattern(file: str) -> str:
    """Of the names that a file of a recipe stands for."""
    return re.escape(file).replace("NAME", r"\w+")


@pytest.fixture(scope="module")
def changed(tmp_path_factory) -> tuple[Path, dict[str, set[str]]]:
    """(a copy of the packages in which every recipe was followed, the files that each changed)."""
    root = tmp_path_factory.mktemp("followed")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    files: dict[str, set[str]] = {}
    for what, changes in CHANGES.items():
        before = digests(root)
        for change in changes:
            path = root / change.file
            assert bool(change.old) == path.exists(), change.file
            text = path.read_text(encoding="utf-8") if change.old else change.new
            if change.old:
                assert text.count(change.old) == 1, (change.file, change.old)
                text = text.replace(change.old, change.new)
            path.write_text(text, encoding="utf-8")
        after = digests(root)
        files[what] = {file for file in after if after[file] != before.get(file)}
    return root, files


@pytest.mark.parametrize("what", LIMITS)
def test_following_a_recipe_changes_the_code_files_that_it_lists(changed, what):
    listed = code_files(recipes()[what])
    assert len(changed[1][what]) == len(listed)
    for file in changed[1][what]:
        assert any(re.fullmatch(pattern(name), file) for name in listed), file


@pytest.mark.slow
def test_a_measure_of_a_recipe_is_found(changed, tmp_path):
    pytest.importorskip("transformers")
    code = (
        "import ninscope, numpy as np, torch\n"
        "model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.Identity(), torch.nn.Linear(1, 1))\n"
        "torch.nn.init.constant_(model[0].weight, 2.0)\n"
        "table = ninscope.neurons.look(model, np.array([[1.0], [3.0], [-5.0]]), ['largest'])\n"
        "print(table['value'].tolist())\n"
    )
    environment = os.environ | {"PYTHONPATH": str(changed[0] / "src"), "NUMBA_DISABLE_JIT": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "[6.0, 6.0]"


@pytest.mark.slow
def test_what_the_recipes_add_works(changed, tmp_path):
    """One run that uses all five. Kernels are plain Python, since a copy's would be compiled first."""
    root, _ = changed
    (tmp_path / "new.toml").write_text(DAG)
    paths = os.pathsep.join([str(root / "src"), str(root / "pipeline")])
    environment = os.environ | {"PYTHONPATH": paths, "NUMBA_DISABLE_JIT": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", USED], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "ninscope: a note" in ended.stderr.splitlines()
    found = json.loads(ended.stdout.splitlines()[-1].removeprefix("found "))
    assert found["sizes"] == [3 * 288] * 2
    assert found["drawn"] == found["sizes"]
    assert found["nulls"] == ["uniform"] * 2
    assert found["widths"]
    assert found["status"] == ["ok", "ok"]
    assert {"sizes.png", "m-emergence.png"} <= set(found["figures"])
