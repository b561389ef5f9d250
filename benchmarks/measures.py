"""Timing and memory of one piece of work, robust against a noisy machine: best and median of several runs."""

import contextlib
import io
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


_new_processes = True


def stay_here() -> None:
    """From now on run Python code in this process where it may be: it shows as well that a case works, and costs no start."""
    global _new_processes
    _new_processes = False


def _completed(
    command: Sequence[str], environment: dict[str, str] | None, anew: bool
) -> subprocess.CompletedProcess[str]:
    """How a command ended. Python code is run here if it need not be anew, as `python -c CODE ARGUMENTS` would."""
    if _new_processes or anew or list(command[:2]) != [sys.executable, "-c"]:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    out, err, code = io.StringIO(), io.StringIO(), 0
    before = sys.argv, list(sys.path)
    sys.argv = ["-c", *command[3:]]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            exec(compile(command[2], "a benchmark", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv, sys.path[:] = before
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def in_new_process(code: str, environment: dict[str, str] | None = None, anew: bool = False) -> dict:
    """Run Python code in a new process; it sets `result`, which comes back with the process's seconds and peak bytes.

    anew: even after `stay_here`; so is code that is given an environment.
    """
    program = (
        "import json, sys\nfrom benchmarks.measures import peak_bytes\n"
        + code
        + "\npeak = peak_bytes()\n"
        + "print('\\n' + json.dumps({'result': result, 'peak': peak}))\n"
    )
    start = time.perf_counter()
    done = _completed([sys.executable, "-c", program], environment, anew or environment is not None)
    if done.returncode:
        raise RuntimeError(f"a benchmark failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1]) | {"seconds": time.perf_counter() - start}


def _spent() -> float:
    """CPU seconds of all processes that have ended, and of this one where commands are run here."""
    used = [resource.getrusage(resource.RUSAGE_CHILDREN)]
    if not _new_processes:
        used.append(resource.getrusage(resource.RUSAGE_SELF))
    return sum(each.ru_utime + each.ru_stime for each in used)


def cpu_seconds(
    commands: Sequence[Sequence[str]], runs: int, prepare: Callable[[], None] = lambda: None, anew: bool = False
) -> list[float]:
    """CPU seconds, user and system, of each command and all its processes: the least of several runs, taken in turn.

    With several runs every command runs once before, so that files are in the page cache and kernels compiled. Exit code 1 is a
    result too: some checkpoints are not ok. prepare: called before each command. anew: in new processes even after `stay_here`.
    Raises RuntimeError for any other exit code.
    """
    # Not in a folder that holds a package of the same name, nor with another checkout on the path.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    least = [float("inf")] * len(commands)
    warming = runs > 1
    for number in range(runs + warming):
        for place, command in enumerate(commands):
            prepare()
            before = _spent()
            done = _completed(command, environment, anew)
            spent = _spent() - before
            if done.returncode not in (0, 1):
                raise RuntimeError(f"a benchmark failed:\n{done.stderr}")
            if number or not warming:
                least[place] = min(least[place], spent)
    return least
