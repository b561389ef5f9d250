"""Results under the names that a run's checkpoints have, which are known once the run has been surveyed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

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
        steps = {one.revision: one.step for one in located if (one.suite, one.model) == (model.suite, model.model)}
        count = Counter(steps.values())
        alone = {step: revision for revision, step in steps.items() if step is not None and count[step] == 1}
        named = _once(model, [_settled(evaluation, steps, alone) for evaluation in own])
        rows.append(named)
        if model.evaluation_paths and steps and named and not any(row.revision in steps for row in named):
            results = of_number(len(named), "result")
            notes.append(
                f"evaluations of {model.model}: none of the {results} is of a checkpoint of this run (the first: {named[0].shown})"
            )
    return Read(rows, notes)


def _settled(evaluation: Evaluation, steps: Mapping[str, int | None], alone: Mapping[int, str]) -> Evaluation:
    """steps: of the model's checkpoints, by revision. alone: the revisions whose step no other has, by step."""
    if evaluation.revision in steps:
        return evaluation if evaluation.step is not None else replace(evaluation, step=steps[evaluation.revision])
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
