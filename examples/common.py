"""What the examples share: text that every machine has, the figure at the end, and a comparison with what was saved."""

import argparse
import math
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import ninscope

MEASURES, SAVES = 40, 10  # of a training: how often it is measured, and how often its weights are saved


def parse_options(about: str, steps: int, out: str) -> argparse.Namespace:
    """--steps and --out of an example, and what follows from them: every how many steps it is measured and saved."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=steps, help="updates of the weights (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder to write (default: %(default)s)")
    options = parser.parse_args()
    if options.steps < 1:
        parser.error("--steps must be at least 1")
    if options.out.exists():
        parser.error(f"{options.out} exists; choose another --out")
    options.every = max(1, options.steps // MEASURES)
    options.save_every = options.every * MEASURES // SAVES
    return options


def read_text() -> np.ndarray:
    """Python's own standard library, (bytes,) uint8, some 4 MB. The examples' models predict its next byte."""
    paths = sorted(Path(os.__file__).parent.glob("[!_]*.py"))
    return np.frombuffer(b"\0".join(path.read_bytes() for path in paths), np.uint8)


def draw(run: Any, losses: Mapping[int, float], file: Path) -> None:
    """E beside its controls, alpha0, width and the training's loss over steps, as a PNG.

    run: of `ninscope.open_run`. losses: by step.
    """
    measured, controls = run.table("emergence"), run.table("controls")
    figure = Figure(figsize=(9, 6), layout="constrained")
    ((growth, regularity), (loss, width)) = figure.subplots(2, 2)
    growth.plot(measured["step"], measured["emergence"], label="E")
    growth.plot(controls["step"], controls["emergence_growth"], "--", label="from growth of norms alone")
    growth.plot(controls["step"], controls["emergence_fixed"], ":", label="at the norms of step 0")
    growth.set_ylabel("degree of emergence E")
    figure.legend(loc="outside upper center", ncols=3)  # of all lines that have a label
    regularity.plot(measured["step"], measured["alpha0"])
    regularity.set_ylabel(r"regularity $\alpha_0$")
    width.plot(measured["step"], measured["width"])
    width.set_ylabel("heterogeneity w")
    loss.plot(list(losses), list(losses.values()))
    loss.set_ylabel("training loss, nats a byte")
    for axes in (growth, regularity, loss, width):
        axes.set_xlabel("step")
    figure.savefig(file, dpi=120)
    print(f"figure: {file}")


def compare(rows: Iterable[Any], checkpoints: Path, **reading: Any) -> None:
    """Print whether what was measured while training is, bit for bit, what `ninscope measure` says of the checkpoints.

    rows: `EmergenceMonitor.rows`. reading: parameters of `ninscope.measure_all`. Ends the script with exit code 1 if it is not.
    """
    live = {row.step: (row.alpha0, row.width, row.emergence) for row in rows}
    saved = ninscope.measure_all(checkpoints, **reading)
    same = [bits(live[row.step]) == bits((row.alpha0, row.width, row.emergence)) for row in saved]
    print(
        f"{sum(same)} of {len(same)} checkpoints: alpha0, w and E are those that were measured while training, bit for bit"
    )
    if not all(same) or any(math.isnan(row.alpha0) for row in saved):
        sys.exit(1)


def bits(values: tuple[float, ...]) -> bytes:
    return np.array(values, np.float64).tobytes()
