"""Losses that a training run logged: trainer_state.json, which the Trainer of transformers writes beside each checkpoint."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ninscope.checkpoints.revisions import step_of
from ninscope_pipeline.request.evaluations import Evaluation

NAME = "trainer_state.json"
MAX_BYTES = 64 * 2**20
_SPEEDS = ("_runtime", "_per_second", "_time")  # how metrics end that tell of the machine, not of the model


def trainer_losses(source: str) -> tuple[Evaluation, ...]:
    """What the run in a folder logged: (task "train", metric "loss"), and of evaluations (task "eval", any metric).

    The latest checkpoint's file tells of the whole run. A step of which no checkpoint is left has an empty revision. None where
    the source is no such folder, or the file cannot be read as one: nobody asked for it.
    """
    folder = Path(source).expanduser()
    try:
        revisions = {step: entry.name for entry in folder.iterdir() if (step := step_of(entry.name)) is not None}
        files = [folder / revisions[step] / NAME for step in sorted(revisions, reverse=True)]
        path = next((file for file in (*files, folder / NAME) if file.is_file()), None)
        if path is None or path.stat().st_size > MAX_BYTES:
            return ()
        history = json.loads(path.read_bytes())["log_history"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ()
    entries = history if isinstance(history, list) else []
    return tuple(evaluation for entry in entries for evaluation in _logged(entry, revisions))


def _logged(entry: Any, revisions: dict[int, str]) -> Iterator[Evaluation]:
    step = entry.get("step") if isinstance(entry, dict) else None
    if type(step) is not int or not 0 <= step < 2**63:
        return
    for name, value in entry.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            continue
        if name == "loss":
            yield Evaluation(revisions.get(step, ""), step, "train", "loss", float(value))
        elif name.startswith("eval_") and not name.endswith(_SPEEDS):
            yield Evaluation(revisions.get(step, ""), step, "eval", name.removeprefix("eval_"), float(value))
