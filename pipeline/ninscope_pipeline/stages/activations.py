"""Activations: the monosemantic scale over a checkpoint's layers, while it runs on local examples (stage `activations`)."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ninscope_pipeline.stages.finetune import PHI, phi_values
from ninscope_pipeline.stages.of_model import store_of_model
from ninscope_pipeline.stages.outcome import Outcome, attempt
from ninscope_pipeline.stages.studies import ACTIVATIONS, Study
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    from ninscope.neurons.tasks.task import Base, Task


def store_activations(root: str, study: Study) -> Outcome:
    """Look and store; activations that are not finite are stored as a failure."""
    store = ArtefactStore(RunFolder(root))
    return attempt(ACTIVATIONS, study.key, lambda: store_of_model(store, study, partial(_looked_at, study)))


def _looked_at(study: Study, task: "Task", base: "Base") -> Artefact:
    from ninscope.neurons.finetuning.looking import look_at

    return artefact_of(look_at(task, base, study.how))


def artefact_of(found) -> Artefact:
    """One row a layer, and one of all of them together, as `look_at` names it."""
    return Artefact(
        {
            "phi": np.array([phi_values(one) for one in found.values()], np.float64),
            "phi_octaves": np.array([one.counts for one in found.values()], np.int64),
        },
        {"layers": list(found), "phi": list(PHI)},
    )


def rows_of(artefact: Artefact) -> Iterator[dict]:
    """One dict a layer: layer, values, phi_mean and so on."""
    for layer, values in zip(artefact.attributes["layers"], artefact.arrays["phi"].tolist(), strict=True):
        named = dict(zip(artefact.attributes["phi"], values, strict=True))
        yield {"layer": layer, "values": int(named.pop("values"))} | {
            f"phi_{name}": value for name, value in named.items()
        }
