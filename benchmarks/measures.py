"""Timing and memory of one piece of work, robust against a noisy machine: best and median of several runs."""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Timing:
    best: float
    median: float


def timed(work: Callable[[], object], runs: int) -> Timing:
    """Seconds of `work`, after one run that warms caches and compiles."""
    work()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return Timing(min(seconds), statistics.median(seconds))


def peak_bytes() -> int:
    """Most memory this process has held. Not ru_maxrss on Linux: there a process inherits its parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_new_process(code: str, environment: dict[str, str] | None = None) -> dict:
    """Run Python code in a new process; it sets `result`, which comes back with the process's seconds and peak bytes."""
    program = (
        "import json, sys\nfrom benchmarks.measures import peak_bytes\n"
        + code
        + "\npeak = peak_bytes()\n"
        + "print('\\n' + json.dumps({'result': result, 'peak': peak}))\n"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"a benchmark failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1]) | {"seconds": time.perf_counter() - start}


def cpu_seconds(
    commands: Sequence[Sequence[str]], runs: int, prepare: Callable[[], None] = lambda: None
) -> list[float]:
    """CPU seconds, user and system, of each command and all its processes: the least of several runs, taken in turn.

    With several runs every command runs once before, so that files are in the page cache and kernels compiled. Exit code 1 is a
    result too: some checkpoints are not ok. prepare: called before each command. Raises RuntimeError for any other exit code.
    """
    # Not in a folder that holds a package of the same name, nor with another checkout on the path.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    least = [float("inf")] * len(commands)
    warming = runs > 1
    for number in range(runs + warming):
        for place, command in enumerate(commands):
            prepare()
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            if done.returncode not in (0, 1):
                raise RuntimeError(f"a benchmark failed:\n{done.stderr}")
            if number or not warming:
                spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                least[place] = min(least[place], spent)
    return least
