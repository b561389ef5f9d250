"""The package as it is installed: the core without torch, dependencies pointing one way, a wheel that holds everything."""

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]
SUITE = ROOT / "data" / "stdlib-neox-500k"

BLOCK_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "safetensors", "anndata"):
            raise ImportError(f"{name} must not be needed")
sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.slow
def test_measuring_needs_no_torch():
    code = BLOCK_TORCH + (
        "import ninscope\nfrom ninscope_pipeline.cli import main\n"
        f"print(ninscope.measure({str(SUITE)!r}, revision='step0', nodes_per_layer=32, samples=2).alpha0)\n"
        f"main(['measure', {str(SUITE / 'step1')!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_is_light():
    """`import ninscope` itself loads none of the heavy libraries; they come when a function needs them."""
    code = "import sys, ninscope; print([m for m in ('numba', 'pandas', 'dask', 'matplotlib', 'zarr') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PIPELINE = "ninscope_pipeline"
LAYERS = {  # package -> what it must not import
    "checkpoints": ("architectures", "networks", "multifractal", "report", "measuring", PIPELINE),
    "architectures": ("networks", "multifractal", "report", "measuring", PIPELINE),
    "networks": ("multifractal", "report", "measuring", PIPELINE),
    "multifractal": ("report", "measuring", PIPELINE),
    "report": ("measuring", PIPELINE),
    "neurons": ("report", PIPELINE),
    "devices": ("multifractal", "exact", "report", "measuring", PIPELINE),
    "distributed": ("networks", "multifractal", "exact", "report", "measuring", PIPELINE),
    "integrations": ("report", "measuring"),  # it writes run folders
}
RUNS_MODELS = ("neurons", "devices", "distributed", "integrations")  # and need torch, which nothing else does
IN_MEMORY = (
    ROOT / "src" / "ninscope" / "checkpoints" / "in_memory"
)  # handed a model, so torch is there; not imported before
OUTSIDE_SCIENCE = ("dask", "distributed", "zarr", "typer", "rich", "pydantic", "torch")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("package", LAYERS)
def test_dependencies_point_one_way(package):
    files = list((ROOT / "src" / "ninscope" / package).rglob("*.py"))
    assert files
    for path in files:
        may_use_torch = package in RUNS_MODELS or IN_MEMORY in path.parents
        outside = [name for name in OUTSIDE_SCIENCE if not (may_use_torch and name == "torch")]
        for name in imported(path):
            assert not name.startswith(
                tuple(other if other == PIPELINE else f"ninscope.{other}" for other in LAYERS[package])
            ), f"{path}: {name}"
            assert name.split(".")[0] not in outside, f"{path}: {name}"


def imported_at_run_time(path: Path, in_functions: bool = True) -> set[str]:
    """What a module imports, but for a type checker alone."""
    names, left = set(), list(ast.parse(path.read_text(encoding="utf-8")).body)
    while left:
        node = left.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not in_functions:
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            left += node.orelse
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        left += ast.iter_child_nodes(node)
    return names


def imported_on_import(path: Path) -> set[str]:
    """What is imported when the module is: not inside functions, nor for a type checker alone."""
    return imported_at_run_time(path, in_functions=False)


def test_no_imports_go_in_a_circle():
    """Those inside functions count too; what only a type checker imports does not."""
    sources = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for root in (ROOT / "src", ROOT / "pipeline")
        for path in root.rglob("*.py")
    }
    graph = nx.DiGraph(
        (module, name)
        for module, path in sources.items()
        for name in imported_at_run_time(path)
        if name in sources and name != module and not module.startswith(f"{name}.")
    )
    assert graph.number_of_edges() > 100
    assert [sorted(circle) for circle in nx.strongly_connected_components(graph) if len(circle) > 1] == []


def test_only_what_runs_models_imports_torch():
    """Nor does anything import what does, unless a function needs it."""
    science = ROOT / "src" / "ninscope"
    run_models = [path for package in RUNS_MODELS for path in (science / package).rglob("*.py")]
    heavy = ("torch", "transformers")

    def module_of(path: Path) -> str:
        return ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")

    of_torch = {
        module_of(path) for path in run_models if any(name.split(".")[0] in heavy for name in imported_on_import(path))
    }
    assert {"ninscope.neurons.phi", "ninscope.neurons.finetuning.training"} <= of_torch
    elsewhere = set(science.rglob("*.py")) - set(run_models)
    for path in [*elsewhere, *(ROOT / "pipeline").rglob("*.py")]:
        names = imported_on_import(path)
        assert not {name for name in names if name.split(".")[0] in heavy}, path
        assert not names & of_torch, path


@pytest.mark.slow
def test_planning_studies_needs_no_torch():
    modules = (
        "ninscope.neurons.tasks.settings", "ninscope.neurons.tasks.forecast_settings", "ninscope.neurons.finetuning.recipe",
        "ninscope_pipeline.stages.model_runs.sections", "ninscope_pipeline.stages.model_runs.planning",
        "ninscope_pipeline.execution.graph",
        "ninscope.report.comparisons", "ninscope.report.finetune_figures", "ninscope.report.activations_figure",
    )  # fmt: skip
    imports = "".join(f"import {module}\n" for module in modules)
    done = subprocess.run(
        [sys.executable, "-c", f"{BLOCK_TORCH}\n{imports}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_oracle_shares_no_code():
    assert not any(name.startswith("ninscope") for name in imported(ROOT / "tests" / "naive.py"))


@pytest.mark.slow
def test_a_wheel_holds_pipeline_dags_and_the_suite_and_an_sdist_the_examples_too(tmp_path):
    source = tmp_path / "source"  # a build leaves files behind
    code_and_data = ("src", "pipeline", "dags", "data", "examples")
    for name in (*code_and_data, "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        (source / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, source],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    shipped = (
        "dags/demo.toml", "dags/pythia.toml", "dags/diffusion.toml", "dags/memel.toml", "dags/polysemanticity.toml",
        "data/README.md",
        "data/stdlib-neox-500k/step0/model.safetensors", "data/stdlib-neox-500k/evaluations.csv",
        "data/digits-ddpm/step2000/diffusion_pytorch_model.safetensors", "data/digits-ddpm/step2000/config.json",
        "data/digits-ddpm/evaluations.csv", "data/stdlib-neox-67k/step1000/model.safetensors",
        "data/digits-swin/step64/model.safetensors", "data/blobs-convgru/step512/config.json",
        "data/project-text/lines-train.csv", "data/project-text/held_out.txt",
    )  # fmt: skip
    code = (
        "ninscope/measuring.py",
        "ninscope_pipeline/cli.py",
        "ninscope_pipeline/tables.py",
        "ninscope/py.typed",
    )
    for needed in (*code, *(f"ninscope_pipeline/shipped/{name}" for name in shipped)):
        assert needed in names, needed
    code_files = {
        f"ninscope/{path.relative_to(ROOT / 'src/ninscope')}" for path in (ROOT / "src/ninscope").rglob("*.py")
    }
    code_files |= {str(path.relative_to(ROOT / "pipeline")) for path in (ROOT / "pipeline").rglob("*.py")}
    assert not code_files - names
    of_sdist = (source / "ninscope.egg-info" / "SOURCES.txt").read_text(encoding="utf-8").split("\n")
    assert {"examples/train_plain_loop.py", "examples/common.py", "dags/demo.toml"} <= set(of_sdist)
    assert not [
        name
        for name in names
        if name.split("/")[0] not in ("ninscope", "ninscope_pipeline", wheel.name.rsplit("-", 3)[0] + ".dist-info")
    ]
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'installed')!r})\n"
        "import ninscope; assert 'installed' in ninscope.__file__, ninscope.__file__\n"
        "from ninscope_pipeline.cli import main\nmain(['run', 'demo', '--dry-run', '--runs-dir', sys.argv[1]])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "runs"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("would run: nin ") == 14
