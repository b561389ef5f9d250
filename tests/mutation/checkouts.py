"""A copy of a checkout to mutate in, so that no working tree is ever edited."""

import os
import shutil
from pathlib import Path

# What tests and sources need; history, environments, runs and caches stay behind.
_TAKEN = ("pyproject.toml", "setup.py", "README.md", "src", "pipeline", "tests", "dags", "data", "docs", "benchmarks")
_IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info", ".git", ".venv", "runs", ".hypothesis", ".pytest_cache")


def copied(sources: Path, tests: Path, copy: Path) -> Path:
    """A new folder `copy` with the checkout at `sources` and, where it is another, the tests of the one at `tests`."""
    copy.mkdir(parents=True)
    for name in _TAKEN:
        origin = (tests if name in ("tests", "pyproject.toml") else sources) / name
        if origin.is_dir():
            shutil.copytree(origin, copy / name, ignore=_IGNORED)
        elif origin.exists():
            shutil.copy2(origin, copy / name)
    return copy


def environment_of(copy: Path, machine_code: Path, tool: Path) -> dict[str, str]:
    """The variables under which a Python imports the copy's packages, this tool, and keeps compiled kernels in a folder."""
    roots = [copy / "src", copy / "pipeline", tool]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, roots)),
        "NUMBA_CACHE_DIR": str(machine_code),
        "PYTHONDONTWRITEBYTECODE": "1",  # the .pyc of a mutant that has the source's second and size would stand for it
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def warm_but(machine_code: Path, fresh: Path, stems: set[str]) -> None:
    """`fresh` holds the compiled kernels of `machine_code` by hard links, without those of files with these stems.

    numba writes a file anew and renames it, so that what is linked never changes.
    """
    for compiled in machine_code.rglob("*.nb[ci]"):
        if compiled.name.split(".")[0] not in stems:
            target = fresh / compiled.relative_to(machine_code)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(compiled, target)
