"""Losses that a training run logged: trainer_state.json, which the Trainer of transformers writes beside each checkpoint."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ninscope.checkpoints.revisions import step_of
from ninscope_pipeline.request.evaluations.evaluation import MAX_BYTES, MAX_STEP, Evaluation, finite, storable

NAME = "trainer_state.json"
_SPEEDS = ("_runtime", "_per_second", "_time")  # how metrics end that tell of the machine, not of the model


def trainer_losses(source: str) -> tuple[Evaluation, ...]:
    """What the run in a folder logged: (task "train", metric "loss"), and of evaluations (task "eval" or "test", any metric).

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
    return logged(history, revisions)


def logged(history: Any, revisions: Mapping[int, str]) -> tuple[Evaluation, ...]:
    """The results in a Trainer's log_history, each once. Where a step was logged twice, as by a resumed run, the last counts.

    revisions: names of checkpoints by step.
    """
    entries = history if isinstance(history, list) else []
    results = (evaluation for entry in entries for evaluation in _results(entry, revisions))
    return tuple({evaluation.name: evaluation for evaluation in results if storable(evaluation)}.values())


def _results(entry: Any, revisions: Mapping[int, str]) -> Iterator[Evaluation]:
    step = entry.get("step") if isinstance(entry, dict) else None
    if type(step) is not int or not 0 <= step <= MAX_STEP:
        return
    for name, logged_value in entry.items():
        if (value := finite(logged_value)) is None:
            continue
        task, _, metric = name.partition("_")
        if name == "loss":
            yield Evaluation(revisions.get(step, ""), step, "train", "loss", value)
        elif task in ("eval", "test") and metric and not name.endswith(_SPEEDS):
            yield Evaluation(revisions.get(step, ""), step, task, metric, value)
