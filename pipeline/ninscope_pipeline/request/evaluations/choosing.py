"""Whose results are whose, and which of several results of one checkpoint is taken."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import takewhile

from ninscope.checkpoints.revisions import step_of
from ninscope.errors import RequestError
from ninscope.wording import first_names, of_number
from ninscope_pipeline.request.evaluations.evaluation import Batch, Evaluation, storable
from ninscope_pipeline.request.models import ModelSection

_STEP = re.compile(r"(?:^|[-_.])(?:global_?)?(?:step|checkpoint-)[-_=]?[0-9].*$", re.IGNORECASE)
_PARTS = re.compile(r'["<>:/|\\?*\[\]]+|__')  # the harness writes __ for each of these signs in the name of a folder


@dataclass(frozen=True)
class Assigned:
    """batches: those of each model. notes: what was left out, and what is taken although it names another model."""

    batches: list[list[Batch]]
    notes: list[str]


def assigned(
    value: str, batches: Sequence[Batch], models: Sequence[ModelSection], run: Sequence[ModelSection]
) -> Assigned:
    """Give each batch to the model that it names: by its own word, else by its file's name, else by its innermost folder's.

    models: those whose `evaluations` is this value. run: all models of the run. A table without a column `model` is everybody's.
    What names nobody in the run is the only model's, if it is all of one name and nothing else is there. Raises RequestError
    where there is nothing for any of the models, or what is there is of several models and none is meant.
    """
    owners = [_owners(batch, run) for batch in batches]
    taken = [[batch for batch, own in zip(batches, owners, strict=True) if model in own] for model in models]
    left = [batch for batch, own in zip(batches, owners, strict=True) if not any(model in own for model in models)]
    notes = []
    if len(models) == 1 and not taken[0] and left and not any(_owners(batch, run) for batch in left):
        if len({_full(batch.model) for batch in left}) > 1:
            raise RequestError(
                f"evaluations {value}: results of several models ({_names(left)}), none of which is {models[0].model}; put those "
                "of this model into a folder of its name, or name their files"
            )
        taken, left = [left], []
        notes.append(
            f"evaluations {value}: {_of_files(taken[0])} without the name of {models[0].model} taken as its results "
            f"(named {_names(taken[0])})"
        )
    elif others := _named_otherwise(models, taken, run):
        notes.append(f"evaluations {value}: taken by the names of files or folders: {first_names(others)}")
    if not any(taken):
        raise RequestError(
            f"evaluations {value}: no results of {first_names([model.model for model in models])}; there are those of "
            f"{_names(left)}; put results into a folder that has the model's name"
        )
    if left:
        notes.append(
            f"evaluations {value}: {_of_files(left)} left out, of no model that asks for them ({_names(left)})"
        )
    if without := [model.model for model, own in zip(models, taken, strict=True) if not own]:
        notes.append(f"evaluations {value}: no results of {first_names(without)}")
    return Assigned(taken, notes)


def _named_otherwise(
    models: Sequence[ModelSection], taken: Sequence[Sequence[Batch]], run: Sequence[ModelSection]
) -> list[str]:
    """ "pythia-70m (which they call org/other)" for each model that got batches which call it otherwise."""
    strangers = [[batch for batch in own if batch.model and not _named([batch.model], run)] for own in taken]
    return [
        f"{model.model} (which they call {_names(own)})" for model, own in zip(models, strangers, strict=True) if own
    ]


def _owners(batch: Batch, run: Sequence[ModelSection]) -> Sequence[ModelSection]:
    """The models of the run whose results a batch has."""
    if batch.by_hand:
        return _named([batch.model], run) if batch.model else run
    # Beyond a folder that the harness made, with the same name, the names of folders say nothing against it.
    folders = takewhile(lambda folder: not batch.model or _full(folder) != _full(batch.model), batch.folders)
    return _named([batch.model], run) or _named([batch.name, *folders], run)


def _named(names: Iterable[str], run: Sequence[ModelSection]) -> list[ModelSection]:
    """The models that the first of these names that is one's stands for; a source named in full counts before its last part."""
    for name in names:
        if not (full := _full(name)):
            continue
        last = full.rpartition("/")[2]
        by_source = [model for model in run if full == _full(model.source)]
        by_part = [model for model in run if last in (model.model.casefold(), _full(model.source).rpartition("/")[2])]
        if owners := by_source or by_part:
            return owners
    return []


@cache
def _full(name: str) -> str:
    """A model's name or path in small letters, sanitized or not, without the steps at its end: "org/name"."""
    parts = [part for part in _PARTS.split(name) if part]
    while parts and step_of(parts[-1]) is not None and (bare := _STEP.sub("", parts[-1])) != parts[-1]:
        parts[-1:] = [bare] if bare else []
    return "/".join(parts).casefold()


def _paths(batches: Iterable[Batch]) -> list[str]:
    return list(dict.fromkeys(str(batch.path) for batch in batches))


def _of_files(batches: Sequence[Batch]) -> str:
    return of_number(len(_paths(batches)), "file")


def _names(batches: Iterable[Batch]) -> str:
    """What batches call their models, or else what their files are called."""
    return first_names(list(dict.fromkeys(batch.model or batch.path.name for batch in batches)))


def combined(model: str, batches: Sequence[Batch]) -> tuple[tuple[Evaluation, ...], list[str]]:
    """(every result of a model once, notes): rows of tables as they stand, then those of the harness by step, task and metric.

    A task that was measured with several numbers of examples shown becomes several tasks, each a curve: "piqa (5-shot)". A
    result of all examples counts before one with a limit, and then the newest. Raises RequestError: a batch's own refusal, or two
    results differ and none is newer.
    """
    if refusal := next((batch.refusal for batch in batches if batch.refusal), ""):
        raise RequestError(refusal)
    by_name: dict[tuple, list[tuple[Evaluation, Batch]]] = {}
    for batch in batches:
        for evaluation in batch.rows:
            if not storable(evaluation):
                raise RequestError(
                    f"evaluations {batch.path}: the name {evaluation.shown!a} is no Unicode text; correct it"
                )
            by_name.setdefault(evaluation.name, []).append((evaluation, batch))
    chosen = [_newest(measured) for measured in by_name.values()]
    shots: dict[str, set[int | None]] = {}
    for evaluation, _ in chosen:
        shots.setdefault(evaluation.task, set()).add(evaluation.n_shot)
    named = [
        (_with_shots(evaluation) if len(shots[evaluation.task]) > 1 else evaluation, batch)
        for evaluation, batch in chosen
    ]
    by_hand = [evaluation for evaluation, batch in named if batch.by_hand]
    measured = sorted((evaluation for evaluation, batch in named if not batch.by_hand), key=_order)
    replaced = [name for name, several in by_name.items() if len({evaluation.value for evaluation, _ in several}) > 1]
    return (*by_hand, *measured), [f"{model}: {note}" for note in _notes(chosen, batches, len(replaced))]


def _with_shots(evaluation: Evaluation) -> Evaluation:
    if evaluation.n_shot is None:
        return evaluation
    return replace(evaluation, task=f"{evaluation.task} ({evaluation.n_shot}-shot)")


def _newest(measured: Sequence[tuple[Evaluation, Batch]]) -> tuple[Evaluation, Batch]:
    """The one that counts among results of one name."""
    first, *others = sorted(measured, key=lambda pair: _rank(pair[1]), reverse=True)
    for other in others:
        dates, limits = zip(*((batch.dated, bool(batch.limit)) for _, batch in (first, other)), strict=True)
        if other[0].value != first[0].value and limits[0] == limits[1] and (None in dates or dates[0] == dates[1]):
            by_path = sorted((first, other), key=lambda pair: pair[1].path)
            paths = " and ".join(str(batch.path) for _, batch in by_path)
            values = " and ".join(f"{evaluation.value:g}" for evaluation, _ in by_path)
            raise RequestError(
                f"evaluations {paths}: two values of {first[0].shown}, {values}, and no date says which is newer; remove one"
            )
    return first


def _rank(batch: Batch) -> tuple[bool, float]:
    return not batch.limit, batch.dated or 0.0


def _order(evaluation: Evaluation) -> tuple:
    step, n_shot = evaluation.step, evaluation.n_shot
    return (
        step is None,
        step or 0,
        evaluation.revision,
        evaluation.task,
        evaluation.metric,
        -1 if n_shot is None else n_shot,
    )


def _notes(chosen: Sequence[tuple[Evaluation, Batch]], batches: Sequence[Batch], replaced: int) -> list[str]:
    notes = []
    if replaced:
        notes.append(f"{of_number(replaced, 'result was', 'results were')} measured again; the newest one is taken")
    if left_out := [(batch, name) for batch in batches for name in batch.left_out]:
        batch, name = left_out[0]
        are = of_number(len(left_out), "result is no finite number and is", "results are no finite numbers and are")
        notes.append(f"{are} left out (first: {name} of {batch.path.name})")
    used = {id(batch): batch for _, batch in chosen}.values()
    if limited := [batch for batch in used if batch.limit]:
        notes.append(f"results of some of the examples alone (limit {limited[0].limit}): {_of_files(limited)}")
    versions: dict[str, set[str]] = {}
    for batch in used:
        for task, version in batch.versions:
            versions.setdefault(task, set()).add(version)
    if mixed := [task for task, several in versions.items() if len(several) > 1]:
        notes.append(f"measured by several versions of the task, so that a curve may jump: {first_names(mixed)}")
    return notes
