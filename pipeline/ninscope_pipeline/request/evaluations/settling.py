"""Results under the names that a run's checkpoints have, which are known once the run has been surveyed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ninscope.checkpoints.revisions import step_of
from ninscope.errors import RequestError
from ninscope.wording import of_number
from ninscope_pipeline.located import Located
from ninscope_pipeline.request.evaluations.evaluation import Evaluation
from ninscope_pipeline.request.evaluations.reading import Read
from ninscope_pipeline.request.models import ModelSection


def settled(
    models: Sequence[ModelSection], evaluations: Sequence[tuple[Evaluation, ...]], located: Sequence[Located]
) -> Read:
    """The same results, each with revision and step of its checkpoint.

    A result without a revision is that of the one checkpoint that has its step, and so is one whose revision no checkpoint has
    but which states a step; one without a step has its checkpoint's. What is of no checkpoint stays as it is. Raises RequestError
    where a checkpoint then has two values.
    """
    rows, notes = [], []
    for model, own in zip(models, evaluations, strict=True):
        steps = {
            checkpoint.revision: checkpoint.step
            for checkpoint in located
            if (checkpoint.suite, checkpoint.model) == (model.suite, model.model)
        }
        count = Counter(steps.values())
        alone = {step: revision for revision, step in steps.items() if step is not None and count[step] == 1}
        settled_rows = [_settled(model, evaluation, steps, alone) for evaluation in own]
        named = _once(model, settled_rows)
        rows.append(named)
        renamed = [
            (before.revision, after.revision)
            for before, after in zip(own, settled_rows, strict=True)
            if before.revision not in ("", after.revision)
        ]
        if renamed:
            results = of_number(len(renamed), "result is taken by its step", "results are taken by their steps")
            notes.append(
                f"evaluations of {model.model}: {results}, since the run has no such revision (the first: {renamed[0][0]} as "
                f"{renamed[0][1]})"
            )
        if model.evaluation_paths and steps and named and not any(row.revision in steps for row in named):
            results = of_number(len(named), "result")
            notes.append(
                f"evaluations of {model.model}: no result is of a checkpoint of this run ({results}; the first: {named[0].shown})"
            )
    return Read(rows, notes)


def _settled(
    model: ModelSection, evaluation: Evaluation, steps: Mapping[str, int | None], alone: Mapping[int, str]
) -> Evaluation:
    """steps: of the model's checkpoints, by revision. alone: the revisions whose step no other has, by step."""
    if evaluation.revision in steps:
        step = steps[evaluation.revision]
        if step is None or step == evaluation.step:
            return evaluation
        if evaluation.step not in (None, step_of(evaluation.revision)):
            raise RequestError(
                f"evaluations of {model.model}: a result of {evaluation.shown} states the step {evaluation.step}, and this "
                f"checkpoint has the step {step}; correct it, or leave the step out"
            )
        return replace(evaluation, step=step)
    if evaluation.step is None or evaluation.step not in alone:
        return evaluation
    return replace(evaluation, revision=alone[evaluation.step])


def _once(model: ModelSection, rows: Sequence[Evaluation]) -> tuple[Evaluation, ...]:
    by_name: dict[tuple, Evaluation] = {}
    for row in rows:
        earlier = by_name.setdefault(row.name, row)
        if earlier.value != row.value:
            raise RequestError(
                f"evaluations of {model.model}: two values of {row.shown}, {earlier.value:g} and {row.value:g}, which name the "
                "checkpoint in two ways; remove the one that is wrong"
            )
    return tuple(by_name.values())
