"""Drawing the figures of a run, beside an earlier checkout that draws the same tables."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_DRAW = """
import pathlib, sys, time
import pandas as pd
try:
    from ninscope_pipeline import figures
except ModuleNotFoundError:
    from pipeline.stages import figures
tables = {file.stem: pd.read_parquet(file) for file in pathlib.Path(sys.argv[1]).glob("*.parquet")}
start = time.process_time()
figures.draw(tables)
print(time.process_time() - start)
"""


def figures(run: Path, earlier: Path | None, runs: int) -> Iterator[tuple[str, float, str, str, float | None]]:
    """CPU seconds of drawing a run's figures in a new process, with the import of matplotlib; the best of several, in turn.

    run: folder of a run. earlier: root of a checkout with its own environment in .venv.
    """
    ours, theirs = [], []
    for _ in range(runs):
        ours.append(_seconds(sys.executable, run, None))
        if earlier is not None:
            theirs.append(_seconds(str(earlier / ".venv" / "bin" / "python"), run, earlier))
    beside = f"earlier checkout {min(theirs):.2f} s; wanted: 0.4 of it" if theirs else "(no earlier checkout given)"
    yield "figures of a run, CPU", min(ours), "s", beside, min(ours) / min(theirs) if theirs else None


def _seconds(python: str, run: Path, root: Path | None) -> float:
    environment = {name: value for name, value in os.environ.items() if root is None or name != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", _DRAW, str(run / "tables")],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"figures were not drawn:\n{done.stderr}")
    return float(done.stdout)
