"""Fine-tune: a checkpoint is trained on a task, with MEmeL or without, and its weights analysed (stage `finetune`).

What an interrupted one has reached lies in the run's folder `finetunes/<key>`, until its artefact is there.
"""

import shutil
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ninscope.errors import CheckpointError
from ninscope_pipeline.stages.cancelled import EverySecond, stop_if_cancelled
from ninscope_pipeline.stages.of_model import store_of_model
from ninscope_pipeline.stages.outcome import Outcome, attempt
from ninscope_pipeline.stages.studies import FINETUNE, ChangedInputs, Study
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    from ninscope.neurons.finetuning.saved import SavedState
    from ninscope.neurons.tasks.task import Base, Task

PHI = ("values", "mean", "p50", "p90", "p99", "p999", "largest", "largest_mean")


def store_finetune(root: str, study: Study) -> Outcome:
    """Fine-tune and store the evaluations; numbers that are not finite any more are stored as a failure."""
    store = ArtefactStore(RunFolder(root))
    return attempt(FINETUNE, study.key, lambda: _store(store, study))


def _store(store: ArtefactStore, study: Study) -> None:
    from ninscope.neurons.finetuning.saved import SavedState

    class Saved(SavedState):
        def save(self, *state) -> None:
            with store.folder.writing():
                super().save(*state)

    saved = Saved(store.folder.finetunes / study.key)
    try:
        store_of_model(store, study, partial(_fine_tuned, study, saved))
    except ChangedInputs:  # what it has reached may be of other data
        saved.clear()
        raise
    except CheckpointError as error:
        if error.status == "nonfinite":
            saved.clear()
        raise
    saved.clear()


def _fine_tuned(study: Study, saved: "SavedState", task: "Task", base: "Base") -> Artefact:
    from ninscope.neurons.finetuning.bases import analyse_with
    from ninscope.neurons.finetuning.training import fine_tune

    stepped = EverySecond(stop_if_cancelled)
    return artefact_of(fine_tune(task, base, study.how, analyse_with(study.parameters), saved, stepped))


def artefact_of(evaluated) -> Artefact:
    """Evaluations of one fine-tune, one a row of each array."""
    metrics = list(evaluated[0].metrics)
    return Artefact(
        {
            "steps": np.array([one.step for one in evaluated], np.int64),
            "metrics": np.array([[one.metrics[name] for name in metrics] for one in evaluated], np.float64),
            "phi": np.array([phi_values(one.phi) for one in evaluated], np.float64),
            "phi_octaves": np.array([one.phi.counts for one in evaluated], np.int64),
            "network": np.array([[one.alpha0, one.width] for one in evaluated], np.float64),
        },
        {"metrics": metrics, "phi": list(PHI), "warnings": [one.warning for one in evaluated]},
    )


def phi_values(summary) -> list[float]:
    """A `PhiSummary` in the order of PHI."""
    return [float(getattr(summary, name)) for name in PHI]


def clear_states(store: ArtefactStore, asked: Collection[str | None], alone: bool) -> None:
    """Delete states that nobody goes on from: of fine-tunes that have come to their end, whose worker died just after, and, where
    no other run is at work in this folder, of those that are not asked for any more. asked: keys of those that are; where one is
    None, it is not known whose state may be meant."""
    folder = store.folder.finetunes
    for place in folder.iterdir() if folder.is_dir() else ():
        if store.has(FINETUNE, place.name) or (alone and None not in asked and place.name not in asked):
            shutil.rmtree(place, ignore_errors=True)
