"""What a command costs in a process of its own: CPU and wall time, peak memory, and what it printed."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LAUNCHER = Path(__file__).with_name("launcher.py")

# A thread each, so that CPU time is work and not threads that wait for each other.
ONE_THREAD = {
    f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB_MAXIMUM", "NUMBA")
} | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}


@dataclass(frozen=True)
class Cost:
    """What a command took. cpu_seconds: user and system, with its children. peak_bytes: most resident memory of one process."""

    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int

    def least(self, other: "Cost") -> "Cost":
        """The smaller of both of every figure: what a busy machine adds is never less than nothing."""
        return Cost(
            min(self.cpu_seconds, other.cpu_seconds),
            min(self.wall_seconds, other.wall_seconds),
            min(self.peak_bytes, other.peak_bytes),
        )


def run(command: Sequence[str], folder: Path | None = None) -> tuple[Cost, str]:
    """(cost, standard output) of a command. Raises RuntimeError with the end of its standard error where it fails.

    folder: the working folder (default: the caller's).
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")}
    with tempfile.TemporaryDirectory() as temporary:
        costs = Path(temporary) / "costs.json"
        done = subprocess.run(
            [sys.executable, "-S", str(LAUNCHER), str(costs), *command],
            cwd=folder, env=kept | ONE_THREAD, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return Cost(**json.loads(costs.read_text(encoding="utf-8"))), done.stdout


def least_of(command: Sequence[str], runs: int, folder: Path | None = None) -> tuple[Cost, str]:
    """The least cost of so many runs, and what the last one printed."""
    cost, printed = run(command, folder)
    for _ in range(runs - 1):
        again, printed = run(command, folder)
        cost = cost.least(again)
    return cost, printed
