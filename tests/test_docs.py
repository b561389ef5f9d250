"""README and docs say what is true: their code runs, their paths exist, their tables' columns are the real ones."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import ninscope
from ninscope_pipeline.request.dagfile import load_dag
from ninscope_pipeline.tables import all_tables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SAMPLING = (ROOT / "docs" / "sampling.md").read_text(encoding="utf-8")
SUITES = (ROOT / "docs" / "suites.md").read_text(encoding="utf-8")
CLUSTER = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
NETWORKS = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
MEMEL = (ROOT / "docs" / "memel.md").read_text(encoding="utf-8")
PAGES = {
    "docs/networks.md": NETWORKS,
    "docs/memel.md": MEMEL,
    "docs/suites.md": SUITES,
    "docs/cluster.md": CLUSTER,
    "docs/sampling.md": SAMPLING,
    "README.md": README,
    "docs/architecture.md": ARCHITECTURE,
    "data/README.md": (ROOT / "data/README.md").read_text(),
}


# All but what needs a cluster, which is tested by itself.
HERE = "\n".join(text for page, text in PAGES.items() if page != "docs/cluster.md")


def blocks(language: str) -> list[str]:
    """Of every page, in the order of PAGES."""
    return re.findall(rf"```{language}\n(.*?)```", HERE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory):
    """A folder like the repository's root after `make demo`: runs/demo beside data/ and dags/."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("data", "dags"):
        (folder / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [sys.executable, "-m", "ninscope_pipeline.cli", "demo"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "14 of 14 checkpoints ok" in done.stdout
    return folder


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_in_the_pages_runs(demo_folder, number):
    done = subprocess.run(
        [sys.executable, "-c", blocks("python")[number]], cwd=demo_folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.slow
def test_commands_in_the_pages_run(demo_folder):
    commands = [line.strip().split("#")[0] for line in HERE.splitlines() if line.startswith("    ninscope ")]
    assert len(commands) >= 6
    for command in commands:
        arguments = shlex.split(command)[1:]
        if "EleutherAI" in command or "pythia" in command:  # needs network; what it names must exist
            assert load_dag(ROOT / "dags/pythia.toml") if "dags/pythia.toml" in command else True
            arguments = [arguments[0], "--help"]
        if "dags/memel.toml" in command or "dags/diffusion.toml" in command:  # minutes; tests/pipeline runs the like
            arguments.append("--dry-run")
        done = subprocess.run(
            [sys.executable, "-m", "ninscope_pipeline.cli", *arguments],
            cwd=demo_folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stderr}"
    options = set(re.findall(r"--[a-z-]+", "\n".join(commands)))
    helps = [
        subprocess.run(
            [sys.executable, "-m", "ninscope_pipeline.cli", name, "--help"],
            capture_output=True, text=True, check=False, env={"COLUMNS": "200", "PATH": "/usr/bin:/bin"},
        ).stdout
        for name in ("measure", "run", "bias", "audit")
    ]  # fmt: skip
    for option in options:
        assert any(option in text for text in helps), option


@pytest.mark.parametrize("number", range(len(blocks("toml"))))
def test_dag_files_in_the_pages_are_accepted(tmp_path, number):
    (tmp_path / "mine.toml").write_text(blocks("toml")[number])
    dag = load_dag(tmp_path / "mine.toml")
    assert dag.name == "mine"
    assert dag.all_models()


@pytest.mark.parametrize("example", re.findall(r"```toml\n(.*?)```", CLUSTER, flags=re.DOTALL))
def test_the_dag_files_of_the_cluster_page_are_accepted(tmp_path, example):
    """By dask-jobqueue's own classes; the first is run on a real SLURM in tests/pipeline/test_slurm.py."""
    (tmp_path / "mine.toml").write_text(example)
    assert load_dag(tmp_path / "mine.toml").cluster.kind in ("slurm", "pbs", "address")


def test_the_commands_of_the_cluster_page_know_their_options():
    commands = re.findall(r"^    ((?:ninscope|dask) (?!:).*)$", CLUSTER, flags=re.MULTILINE)
    programs = {"ninscope": ("-m", "ninscope_pipeline.cli"), "dask": ("-m", "dask")}
    asked = {}
    for command in commands:
        program, name, *arguments = shlex.split(command, comments=True)
        asked.setdefault((program, name), set()).update(a for a in arguments if a.startswith("--"))
    assert {name for _, name in asked} == {"run", "status", "scheduler", "worker"}
    for (program, name), options in asked.items():
        known = subprocess.run(
            [sys.executable, *programs[program], name, "--help"],
            capture_output=True, text=True, check=True, env={"COLUMNS": "200", "PATH": "/usr/bin:/bin"},
        ).stdout  # fmt: skip
        assert all(option in known for option in options), (program, name)


def test_the_tables_in_the_readme_have_these_columns():
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\| (.*) \|$", README, flags=re.MULTILINE))
    assert set(rows) == set(all_tables())
    for table, text in rows.items():
        assert re.sub(r"\([^)]*\)", "", text).replace(" ", "").split(",") == list(all_tables()[table].columns)


def test_the_numbers_of_the_sampling_page_are_measured():
    """Of the suite that ships; those of the random initialisation take longer to make."""
    page = SAMPLING.split("## A random initialisation")[0]
    written = re.findall(r"^\| (\w+) \| ([\d.]+)(?: ± ([\d.]+))? \| ([\d.]+).*? \| ([\d.]+).*? \|$", page, re.MULTILINE)
    table = ninscope.sampling_bias(ROOT / "data" / "stdlib-neox-500k")
    assert len(written) == len(table)
    for (number, *values), row in zip(written, table.itertuples(), strict=True):
        assert number == ("all" if row.method == "exact" else str(row.nodes_per_layer))
        spread = "" if row.method == "exact" else f"{row.alpha0_std:.3f}"
        assert values == [f"{row.alpha0:.3f}", spread, f"{row.width:.3f}", f"{row.emergence:.3f}"]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", PAGES[page]):
        if not target.startswith("http"):
            assert (ROOT / page).parent.joinpath(target).exists(), target


def test_paths_in_the_architecture_exist():
    named = set(re.findall(r"`((?:[\w-]+/)+[\w.-]+\.(?:py|toml))`", ARCHITECTURE))
    assert len(named) > 15
    for path in named:
        assert (ROOT / path).exists() or (ROOT / "src" / "ninscope" / path).exists(), path


def test_no_file_is_too_long_to_read():
    for path in [
        *ROOT.glob("src/**/*.py"),
        *ROOT.glob("pipeline/**/*.py"),
        *ROOT.glob("tests/**/*.py"),
        *ROOT.glob("*/*.py"),
    ]:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
