"""What the key `evaluations` of every model says, read: files by their kind, results by model, each once."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ninscope.errors import RequestError
from ninscope.wording import first_names, of_number
from ninscope_pipeline.request.evaluations.choosing import assigned, combined
from ninscope_pipeline.request.evaluations.evaluation import Batch, Evaluation
from ninscope_pipeline.request.evaluations.files import MAX_TOTAL, ResultFile, read_bytes, result_files
from ninscope_pipeline.request.evaluations.harness import LOOKED_FOR, harness_batch, is_harness
from ninscope_pipeline.request.evaluations.user_tables import NEEDED, read_table
from ninscope_pipeline.request.models import ModelSection
from ninscope_pipeline.request.trainer_state import logged, trainer_losses


@dataclass(frozen=True)
class Read:
    """evaluations: of each model, in the order of the run. notes: what a user is told of them."""

    evaluations: list[tuple[Evaluation, ...]]
    notes: list[str]


def read_evaluations(models: Sequence[ModelSection]) -> Read:
    """The results that come with the models of a run; without the key, what a trainer logged beside its checkpoints.

    Raises RequestError: a file cannot be read, its layout is unknown, or it cannot be told whose its results are.
    """
    notes: list[str] = []
    batches: list[list[Batch]] = [[] for _ in models]
    for value in dict.fromkeys(value for model in models for value in model.evaluation_paths):
        numbers = [number for number, model in enumerate(models) if value in model.evaluation_paths]
        held, said = _read_value(value)
        given = assigned(value, held, [models[number] for number in numbers], models)
        notes += said + given.notes
        for number, own in zip(numbers, given.batches, strict=True):
            batches[number] += own
    evaluations = []
    for model, own in zip(models, batches, strict=True):
        rows, said = combined(f"evaluations of {model.model}", own)
        notes += said
        evaluations.append(rows if model.evaluation_paths else trainer_losses(model.source))
    return Read(evaluations, notes)


def _read_value(value: str) -> tuple[list[Batch], list[str]]:
    """(what the files that a value names hold, notes)."""
    opened = result_files(value)
    batches: list[Batch] = []
    others: list[str] = []
    total = 0
    for file in opened.files:
        total += file.path.stat().st_size if file.path.is_file() else 0
        if total > MAX_TOTAL:
            raise RequestError(f"evaluations {value}: more than {MAX_TOTAL // 2**30} GiB; name fewer files")
        held = _json_batches(file) if file.path.suffix.lower() == ".json" else read_table(file)
        batches += held
        if not held:
            others.append(file.path.name)
    if not batches:
        raise RequestError(
            f"evaluations {value}: no results in this folder; looked in {of_number(len(others), 'JSON file')} for {LOOKED_FOR}; "
            "name a table by its file"
        )
    notes = []
    if others:
        notes.append(f"evaluations {value}: no results in {first_names(others)}")
    if opened.links:
        notes.append(
            f"evaluations {value}: links are not followed: {first_names([link.name for link in opened.links])}"
        )
    if not any(batch.rows or batch.refusal or batch.left_out for batch in batches):
        notes.append(f"evaluations {value}: there is no result in it")
    return batches, notes


def _json_batches(file: ResultFile) -> list[Batch]:
    """What a JSON file holds: nothing where one that was merely met is of no known layout. Raises RequestError."""
    try:
        document: Any = json.loads(read_bytes(file.path).decode("utf-8-sig"))
    except RecursionError:
        raise RequestError(f"evaluations {file.path}: JSON that is nested too deeply; it holds no results") from None
    except ValueError as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"evaluations {file.path}: not JSON ({error}); write it again, or remove it") from None
    if is_harness(document):
        return [harness_batch(file, document)]
    if not file.named:
        return []
    if isinstance(document, dict) and isinstance(document.get("log_history"), list):
        return [Batch(file.path, "", file.folders, logged(document["log_history"], {}), by_hand=True)]
    raise RequestError(
        f'evaluations {file.path}: neither {LOOKED_FOR} nor trainer_state.json ("log_history"); give one of these, or a table '
        f"as CSV, .jsonl or .parquet: {NEEDED}"
    )
