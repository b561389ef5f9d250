"""What the tables of a run are made from: its checkpoints, the jobs that were asked for, and what became of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ninscope.measurement import Measurement
from ninscope.wording import joined_clauses
from ninscope_pipeline.located import Located
from ninscope_pipeline.outcome import OK, Outcome
from ninscope_pipeline.plan import Request
from ninscope_pipeline.stages.measurements import SUMMARY, stored_measurement
from ninscope_pipeline.stages.registry import stages
from ninscope_pipeline.stages.stage import Job, JobId, Stage
from ninscope_pipeline.storing.store import ArtefactStore

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class CheckpointResult:
    """One checkpoint, and by name the jobs whose failure is its own ("exact", "nulls", ...) with their outcomes."""

    located: Located
    jobs: Mapping[str, Job]
    outcomes: Mapping[str, Outcome]

    @property
    def id(self) -> tuple[str, str, str]:
        return self.located.id

    @property
    def row_keys(self) -> dict[str, Any]:
        """The columns that every table begins with."""
        located = self.located
        return {
            "suite": located.suite, "model": located.model, "revision": located.revision, "step": located.step,
        }  # fmt: skip

    def standing(self, trust_duplicates: bool) -> Outcome:
        """What the table `checkpoints` says: what became of it, and, where nothing is wrong with that, the audit."""
        outcome = overall(self.outcomes)
        notes: list[str] = []
        if outcome.ok:
            notes = [*dict.fromkeys(wired.note for wired in self.located.wirings), self.located.unsure]
        note, is_duplicate = self.located.audit_note(trust_duplicates)
        notes.append(note)
        if is_duplicate and outcome.ok:
            outcome = replace(outcome, status="duplicate")
        return replace(outcome, message=joined_clauses(outcome.message, *notes))


def overall(outcomes: Mapping[str, Outcome]) -> Outcome:
    """One outcome for the table `checkpoints`: the first that is not ok, and which analysis failed where others did not."""
    failed = {name: outcome for name, outcome in outcomes.items() if not outcome.ok}
    if not failed:
        return OK
    name, first = next(iter(failed.items()))
    return first if len(failed) == len(outcomes) else Outcome(first.status, f"{name}: {first.message}")


class Results:
    """Everything the tables are made from. tables: those that are made already, by name."""

    def __init__(self, request: Request, store: ArtefactStore):
        self.request, self.store = request, store
        self.tables: dict[str, pd.DataFrame] = {}
        self._measurements: dict[JobId, Measurement] = {}

    @cached_property
    def checkpoints(self) -> list[CheckpointResult]:
        return checkpoint_results(self.request)

    @cached_property
    def _by_model(self) -> dict[tuple[str, str], list[CheckpointResult]]:
        models: dict[tuple[str, str], list[CheckpointResult]] = {name: [] for name in self.request.by_model()}
        for checkpoint in self.checkpoints:
            models[checkpoint.located.suite, checkpoint.located.model].append(checkpoint)
        return models

    def by_model(self) -> Sequence[list[CheckpointResult]]:
        """The checkpoints of each model, in the order of the file."""
        return list(self._by_model.values())

    def of_model(self, suite: str, model: str) -> list[CheckpointResult]:
        return self._by_model[suite, model]

    def jobs_of(self, stage: str) -> list[tuple[Job, Outcome]]:
        """The jobs of a stage with what became of them."""
        return [(job, self.request.outcome(job)) for job in self.request.jobs_of(stage)]

    def measurement(self, job: JobId) -> Measurement:
        """What the tables need of a stored measurement. Raises DamagedArtefact, StoreError."""
        if job not in self._measurements:  # analyses of several variants may be the same
            self._measurements[job] = stored_measurement(self.store.read(*job, only=SUMMARY))
        return self._measurements[job]

    @property
    def stages(self) -> list[Stage]:
        """Every stage there is, in their order."""
        return list(stages().values())

    def table(self, name: str) -> "pd.DataFrame":
        """A table that was made before this one."""
        return self.tables[name]


def checkpoint_results(request: Request) -> list[CheckpointResult]:
    """What became of each checkpoint of a request."""
    results = []
    for located in request.checkpoints:
        jobs = request.named_jobs(located)
        order = {analysis.name: number for number, analysis in enumerate(request.analyses)}
        names = sorted(jobs, key=lambda name: order.get(name, len(order)))
        results.append(
            CheckpointResult(
                located, {name: jobs[name] for name in names}, {name: request.outcome(jobs[name]) for name in names}
            )
        )
    return results
