"""Nulls: the exact analysis of a checkpoint's null models, from what the exact stage kept of its matrices (stage `nulls`)."""

from dataclasses import dataclass

import numpy as np

from ninscope.exact.null_models import null_spectrum
from ninscope.multifractal.means import without_spectrum
from ninscope.parameters import Parameters
from ninscope_pipeline.asked.analyses import Nulls
from ninscope_pipeline.stages import exact, part_artefacts
from ninscope_pipeline.stages.outcome import Outcome, attempt
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

STAGE = "nulls"
VERSION = 2


@dataclass(frozen=True)
class NullModel:
    """One null model of one checkpoint. alpha0, width: float64 [samples], NaN where there is no spectrum."""

    null: str
    alpha0: np.ndarray
    width: np.ndarray
    message: str


def nulls_key(of_exact: str, asked: Nulls) -> str:
    """What null models depend on beside the exact analysis."""
    return content_key(STAGE, VERSION, exact=of_exact, **asked.model_dump())


def store_nulls(root: str, analysed: Outcome, of_exact: str, parameters: Parameters, asked: Nulls, key: str) -> Outcome:
    """Draw and analyse; passes on the outcome of an exact analysis that failed."""
    if not analysed.ok:
        return analysed.passed_on()
    return attempt(STAGE, key, lambda: _store(ArtefactStore(RunFolder(root)), of_exact, parameters, asked, key))


def _store(store: ArtefactStore, of_exact: str, parameters: Parameters, asked: Nulls, key: str) -> None:
    if store.has(STAGE, key):
        return
    original = store.read(exact.STAGE, of_exact, only=part_artefacts.MATRIX_ARRAYS)
    matrices = part_artefacts.matrices_of(original.arrays, original.attributes)
    radii = exact.radii_of(original, parameters)
    arrays, messages = {}, {}
    for null in asked.models:
        samples = 1 if null == "analytic" else asked.samples
        spectra = [null_spectrum(null, matrices, radii, parameters, asked.seed, sample) for sample in range(samples)]
        arrays[null] = np.array([[spectrum.alpha0, spectrum.width] for spectrum in spectra])
        messages[null] = without_spectrum([spectrum.message for spectrum in spectra], "draws")
    store.write(STAGE, key, Artefact(arrays, {"columns": ["alpha0", "width"], "messages": messages}))


def nulls_of(artefact: Artefact) -> list[NullModel]:
    """The null models that were stored, in the order they were asked for."""
    return [
        NullModel(null, values[:, 0], values[:, 1], artefact.attributes["messages"][null])
        for null, values in artefact.arrays.items()
    ]
