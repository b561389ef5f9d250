"""What every tool costs on the suite, and what it measures, kept in a folder until something that a result hangs on changes."""

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.comparison.environments import CONSTRAINTS, REQUIREMENTS, ROOT, Environment
from benchmarks.comparison.processes import Cost, least_of, run

SUITE = ROOT / "data" / "stdlib-neox-500k"
TEXT = ROOT / "data" / "project-text" / "held_out.txt"
READERS = Path(__file__).with_name("readers")


@dataclass(frozen=True)
class Tool:
    """name: in the tables. environment: the name that `environment` knows. imported: the rest of an import statement, timed.

    reader: the file in readers/. measuring: its arguments before the folders where measures are wanted, and not costs.
    """

    name: str
    environment: str
    imported: str
    reader: str
    measuring: tuple[str, ...] = ()


TOOLS = (
    Tool("ninscope", "ninscope", "ninscope; ninscope.measure", "with_ninscope.py"),  # it imports when first used
    Tool("weightwatcher", "weightwatcher", "weightwatcher", "with_weightwatcher.py", ("--measures",)),
    Tool(
        "transformers by hand", "transformers", "torch; from transformers import AutoModelForCausalLM",
        "with_transformers.py", ("--start", str(SUITE / "step0"), "--text", str(TEXT)),
    ),
    Tool(
        "statistics of pico-analyze", "transformers", "torch; from safetensors.torch import load_file",
        "statistics_of_pico.py", ("--target", str(SUITE / "step4000"), "--text", str(TEXT)),
    ),
)  # fmt: skip


def steps() -> list[int]:
    """Of the suite's revisions, ascending."""
    return sorted(int(path.name.removeprefix("step")) for path in SUITE.glob("step*"))


def revisions() -> list[Path]:
    return [SUITE / f"step{step}" for step in steps()]


# --- kept results ------------------------------------------------------------------------------------------
@cache
def _digest(tool: Tool) -> str:
    """Everything that a tool's results hang on: its requirements or sources, its reader, the suite and the text."""
    if tool.environment == "ninscope":
        sources: Iterable[Path] = [
            *sorted((ROOT / "src").rglob("*.py")), *sorted((ROOT / "pipeline").rglob("*.py")),
            ROOT / "dags" / "controls.toml", ROOT / "data" / "collect_controls_study.py",
        ]  # fmt: skip
    else:
        sources = [REQUIREMENTS / f"{tool.environment}.txt"]
    weights = [path for folder in revisions() for path in sorted(folder.iterdir())]
    hashed = hashlib.sha256(repr(tool.measuring).replace(str(ROOT), "").encode())
    for path in (CONSTRAINTS, READERS / tool.reader, TEXT, *sources, *weights):
        hashed.update(path.read_bytes())
    return hashed.hexdigest()


def kept(file: Path, key: str, again: bool, compute: Callable[[Any], Any]) -> Any:
    """What `compute` gave under this key, from the file where it has it; `compute` is given what was there, or None."""
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"key": None}
    known = before["result"] if before["key"] == key else None
    if known is not None and not again:
        return known
    result = compute(known)
    file.write_text(json.dumps({"key": key, "result": result}, indent=1) + "\n", encoding="utf-8")
    return result


# --- costs -------------------------------------------------------------------------------------------------
def costs(tool: Tool, where: Environment, folder: Path, runs: int, again: bool) -> list[dict[str, Any]]:
    """One row a task: tool, task ("import", "checkpoint", "suite", "all measures"), revision, the cost and the number of runs.

    again: measure even what is kept, and take the smaller figures of both.
    """

    def measured(known: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
        before = {(row["task"], row["revision"]): row for row in known or []}
        rows = []
        for task, revision, command in _tasks(tool, where, folder):
            cost, _ = least_of(command, runs)
            row = {"tool": tool.name, "task": task, "revision": revision, "runs": runs}
            if old := before.get((task, revision)):
                cost = cost.least(Cost(**{name: old[name] for name in asdict(cost)}))
                row["runs"] += old["runs"]
            rows.append(row | asdict(cost))
        return rows

    return kept(folder / f"costs-{_slug(tool)}.json", f"{_digest(tool)} {tool.imported}", again, measured)


def _tasks(tool: Tool, where: Environment, folder: Path) -> Iterable[tuple[str, str, list[str]]]:
    python = str(where.python)
    yield "import", "", [python, "-c", f"import {tool.imported}"]
    if tool.environment == "ninscope":
        command = [str(where.python.with_name("ninscope")), "measure"]
        arguments = [[str(revision), "--json"] for revision in revisions()]
        whole = [str(SUITE), "--json"]
    else:
        command = [python, str(READERS / tool.reader)]
        arguments = [[str(revision)] for revision in revisions()]
        whole = [str(revision) for revision in revisions()]
    for revision, of_revision in zip(revisions(), arguments, strict=True):
        yield "checkpoint", revision.name, [*command, *of_revision]
    yield "suite", "", [*command, *whole]
    if tool.environment == "ninscope":
        yield "all measures", "", _controls(where, folder / "timed-runs", "--fresh")


def _controls(where: Environment, runs_dir: Path, *options: str) -> list[str]:
    """The command that makes the tables of dags/controls.toml; with --fresh none of it may be there already."""
    program = str(where.python.with_name("ninscope"))
    command = [program, "run", str(ROOT / "dags" / "controls.toml"), "--runs-dir", str(runs_dir)]
    if "--fresh" not in options:
        return command
    code = (
        "import shutil, subprocess, sys\n"
        "shutil.rmtree(sys.argv[1], ignore_errors=True)\n"
        "sys.exit(subprocess.run(sys.argv[2:]).returncode)\n"
    )
    return [str(where.python), "-S", "-c", code, str(runs_dir), *command]


# --- measures ----------------------------------------------------------------------------------------------
def measures(tool: Tool, where: Environment, folder: Path) -> list[dict[str, Any]]:
    """One row a measure and step: tool, measure, step, value (None where there is none)."""

    def measured(_: object) -> list[dict[str, Any]]:
        python, reader = str(where.python), str(READERS / tool.reader)
        if tool.environment == "ninscope":
            run(_controls(where, folder / "runs"))
            printed = run([python, reader, str(ROOT / "data"), str(folder / "runs" / "controls")])[1]
        else:
            folders = [str(revision) for revision in revisions()]
            printed = run([python, reader, *tool.measuring, *folders])[1]
        values = [json.loads(line) for line in printed.splitlines()]
        if tool.environment == "ninscope":
            assert [row.pop("step") for row in values] == steps()
        return [
            {"tool": tool.name, "measure": name, "step": step, "value": row[name]}
            for name in values[0]
            for step, row in zip(steps(), values, strict=True)
        ]

    return kept(folder / f"measures-{_slug(tool)}.json", _digest(tool), False, measured)


def _slug(tool: Tool) -> str:
    return tool.name.replace(" ", "-")


# --- the machine and the environments ------------------------------------------------------------------------
def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(models) or None,
        "system": platform.system(),
        "python": platform.python_version(),
    }


def described(tools: Sequence[Tool], environments: dict[str, Environment]) -> dict[str, Any]:
    """The machine, and by tool the sizes of its environment and the versions of what it is compared as."""
    named = ("ninscope", "weightwatcher", "transformers", "torch")
    rows = {}
    for tool in tools:
        where = environments[tool.environment]
        versions = where.versions()
        rows[tool.name] = {
            "bytes": where.sizes(),
            "versions": {name: versions[name] for name in named if name in versions},
            "distributions": len(versions) - ("pip" in versions) - ("setuptools" in versions),
        }
    return {"machine": machine(), "tools": rows}
