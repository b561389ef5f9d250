"""Doing a job of [[neurons]]: what of its results is not kept yet is taken in one go, control by control, and kept at once."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from ninscope.errors import CheckpointError, NinscopeError, NonFiniteError, RequestError
from ninscope.neurons.observatory.measure import CONTROLS
from ninscope.neurons.observatory.registry import measures
from ninscope_pipeline.located import Located
from ninscope_pipeline.stages.model_runs.doing import a_gpu, base_of_checkpoint
from ninscope_pipeline.stages.model_runs.planning import ChangedInputs
from ninscope_pipeline.stages.neurons.kept import Measured, artefact_of_measured, stored_measured
from ninscope_pipeline.stages.neurons.planning import KEPT, NeuronsWork, Part, name_of
from ninscope_pipeline.stages.neurons.results import Result
from ninscope_pipeline.stages.neurons.section import STORED
from ninscope_pipeline.storing.runfolder import StoreError
from ninscope_pipeline.storing.store import ArtefactStore, DamagedArtefact

if TYPE_CHECKING:
    from torch import nn

    from ninscope.neurons.observatory.examples import Examples
    from ninscope.neurons.observatory.passes import Observation
    from ninscope.neurons.observatory.subject import Subject
    from ninscope.neurons.tasks.task import Base

SUBJECT = "the model"  # what messages call it: rows name the checkpoint, and equal ones share results
_FOLLOW_FROM_BYTES = ("nonfinite", "unsupported")  # failures that would come again


def kept_results(store: ArtefactStore, work: NeuronsWork) -> dict[str, Result]:
    """By key, the results of a job that are kept, failures that would come again among them."""
    found = {part.key: _kept(store, part.key) for part in work.parts if part.key}
    return {key: result for key, result in found.items() if result is not None}


def _kept(store: ArtefactStore, key: str) -> Result | None:
    if not store.has(KEPT, key):
        return None
    try:
        return stored_measured(store.read(KEPT, key))
    except CheckpointError as error:
        return error
    except DamagedArtefact:  # it has been removed, and is taken again
        return None


def taken_results(store: ArtefactStore, work: NeuronsWork, check_unchanged: Callable[[], None]) -> dict[str, Result]:
    """By key, all results of a job: those that are kept, and the others, which are taken now and kept.

    check_unchanged: raises where what was read has changed meanwhile; called before anything is stored. Raises CheckpointError: no
    model can be made of the checkpoint, or another one that it is compared with cannot be had now.
    """
    results = kept_results(store, work)
    # At the second revision the start is also the revision before: what is the same is taken once.
    missing = list({part.key: part for part in reversed(work.parts) if part.key and part.key not in results}.values())
    if not missing:
        return results
    passing: list[CheckpointError] = []
    with a_gpu() if work.section.device == "cuda" else nullcontext():
        for observed in _observed(store, work, missing):
            check_unchanged()
            for part, result in observed:
                if isinstance(result, Measured):
                    store.write(KEPT, part.key, artefact_of_measured(result, work.section.neuron_values))
                elif result.status in _FOLLOW_FROM_BYTES:
                    store.write_failure(KEPT, part.key, result)
                else:
                    passing.append(result)
                    continue
                results[part.key] = result
    if passing:
        raise passing[0]
    return results


def _observed(store: ArtefactStore, work: NeuronsWork, missing: Sequence[Part]) -> Iterable[list[tuple[Part, Result]]]:
    """The missing results, those of one control at a time."""
    from ninscope.neurons.observatory.passes import observe
    from ninscope.neurons.torch_threads import threads

    names = {part.measure for part in missing}
    asked = [measure for name, measure in measures().items() if name in names]
    with threads(work.section.threads):
        subject, examples, notes = _subject(store, work)
        for control in CONTROLS:
            parts = {(part.measure, part.against): part for part in missing if part.control == control}
            if parts:
                chosen = [measure for measure in asked if any(name == measure.name for name, _ in parts)]
                compared = {against for _, against in parts if against}
                others = {
                    name: _opener(store, work, other, examples)
                    for name, other in work.others.items()
                    if name in compared
                }
                seen = observe(subject, chosen, control, others)
                yield [
                    (parts[place], _result(one, notes))
                    for one in seen
                    if (place := (one.measure.name, one.against)) in parts
                ]


def _result(observation: "Observation", notes: Sequence[str]) -> Result:
    """Raises what concerns more than this result: a store that cannot be written, inputs that have changed."""
    error = observation.error
    if error is None and observation.found is not None:
        return Measured(observation.found, tuple(notes))
    if isinstance(error, StoreError | ChangedInputs | DamagedArtefact):
        raise error
    return error if isinstance(error, CheckpointError) else CheckpointError(observation.status, str(error))


def _subject(store: ArtefactStore, work: NeuronsWork) -> "tuple[Subject, Examples, tuple[str, ...]]":
    """The model of a job's checkpoint, its examples, and what is to be known of them. Raises CheckpointError."""
    from ninscope.neurons.observatory.subject import Subject, vocabulary_of

    base = base_of_checkpoint(store.folder, work.located)
    model = _model(work, work.located, base)
    try:
        read = work.section.examples().read(base)
        examples = read.examples(work.section.batch_size, vocabulary_of(model))
        return Subject(SUBJECT, model, examples, work.section.seed), examples, read.notes
    except RequestError as error:
        raise _unsupported(error) from None


def _opener(store: ArtefactStore, work: NeuronsWork, other: Located, examples: "Examples") -> "Callable[[], Subject]":
    """What opens a checkpoint that the job's is compared with. It raises CheckpointError, which names it."""
    from ninscope.neurons.observatory.subject import Subject

    def opened() -> Subject:
        try:
            model = _model(work, other, base_of_checkpoint(store.folder, other))
            return Subject(name_of(other), model, examples, work.section.seed)
        except CheckpointError as error:
            raise CheckpointError(error.status, f"{name_of(other)}: {error}", error.passing) from None

    return opened


def _model(work: NeuronsWork, located: Located, base: "Base") -> "nn.Module":
    """Raises CheckpointError. Raises RequestError: a GPU is asked for and there is none."""
    from ninscope.neurons.finetuning.training import device_of
    from ninscope.neurons.observatory.models import model_of, stored_dtype

    device, dtype = device_of(work.section.device), work.section.dtype
    if dtype == STORED:
        dtype = stored_dtype(located.opened().open(located.revision, located.identity))
    try:
        return model_of(base, dtype).to(device)
    except RequestError as error:
        raise _unsupported(error) from None


def _unsupported(error: NinscopeError) -> CheckpointError:
    return CheckpointError("nonfinite" if isinstance(error, NonFiniteError) else "unsupported", str(error))


def files_unchanged(work: NeuronsWork) -> None:
    """Raises CheckpointError or ChangedInputs where weights, examples, or files beside are not those of the plan."""
    for located in (work.located, *work.others.values()):
        located.opened().check_unchanged(located.known_identity)
    work.check_unchanged()
