"""How weights changed since the baseline and since the checkpoint before: columns of the table `weights` (stage `weight_changes`).

Each job compares two checkpoints; its key holds the contents of both, so that no order of revisions has a part in it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ninscope.architectures import Reading
from ninscope.multifractal.emergence import CHOOSE_BASELINE
from ninscope.weights.changes import CHANGES, network_changes
from ninscope_pipeline.located import Located, reading_outcome
from ninscope_pipeline.stages.from_weights import WeightsStage, checkpoint_of, fetched_whole, network_of
from ninscope_pipeline.stages.stage import Fetch, Job, Row
from ninscope_pipeline.stages.weights import WEIGHTS_STAGE
from ninscope_pipeline.stages.weights_stored import CheckpointId, merged_columns, weights_key
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    from ninscope_pipeline.plan import Request
    from ninscope_pipeline.results import Results

START, LAST = "start", "last"
# What a change is called in the table, by what it is compared with.
_NAMES = {
    START: dict(zip(CHANGES, ("distance_from_start", "cosine_to_start", "sign_flips"), strict=True)),
    LAST: {"distance": "distance_from_last", "sign_flips": "sign_flips_since_last"},
}


@dataclass(frozen=True)
class ChangesWork:
    """before: the checkpoint to compare with."""

    reading: Reading
    before: Located


@dataclass(frozen=True)
class Comparison:
    """A checkpoint and what it is compared with (START, LAST). why_none: why it is not, where that is known."""

    now: Located
    before: Located
    what: str
    why_none: str = ""


class WeightChangesStage(WeightsStage[ChangesWork]):
    name, title, version = "weight_changes", "changes of weights", 1

    def jobs(self, request: "Request") -> Iterator[Job[ChangesWork]]:
        reading = request.analyses[0].parameters.reading
        for pair in _comparisons(request):
            if not pair.why_none:
                yield self._job(pair, reading)

    def _job(self, pair: Comparison, reading: Reading) -> Job[ChangesWork]:
        now, before = pair.now, pair.before
        # The name of the other one enters, as messages tell it.
        key = content_key(
            self.name,
            self.version,
            now=weights_key(now, reading),
            before=weights_key(before, reading),
            called=before.revision,
        )
        label = f"{now.suite}/{now.model} {now.revision} against {before.revision}"
        return Job(self.name, key, label, ChangesWork(reading, before), checkpoint=now)

    def make(self, store: ArtefactStore, job: Job[ChangesWork]) -> Artefact:
        reading, before = job.work.reading, job.work.before
        other = network_of(replace(job, checkpoint=before), reading)
        found = network_changes(network_of(job, reading), other, before.revision)
        values = np.array([astuple(change)[: len(CHANGES)] for change in found.changes.values()])
        messages = [change.message for change in found.changes.values()]
        about = {"columns": list(CHANGES), "matrices": list(found.changes), "messages": messages}
        return Artefact({"values": values}, about)

    def check_unchanged(self, store: ArtefactStore, job: Job[ChangesWork]) -> None:
        super().check_unchanged(store, job)
        super().check_unchanged(store, replace(job, checkpoint=job.work.before))

    def fetch(self, job: Job[ChangesWork]) -> Fetch | None:
        """Both checkpoints, as far as they are on a Hub."""
        return fetched_whole([checkpoint_of(job), job.work.before], job.work.reading)

    def columns_of_weights(self, results: "Results") -> Mapping[tuple[CheckpointId, str], Row]:
        request = results.request
        outcomes = {job.id: (job, outcome) for job, outcome in results.jobs_of(self.name)}
        reading = request.analyses[0].parameters.reading
        parts: list[Mapping[tuple[CheckpointId, str], Row]] = []
        for pair in _comparisons(request):
            place = pair.now.id
            if pair.why_none:
                parts.append({(place, "all"): {"message": pair.why_none}})
                continue
            job, outcome = outcomes[self._job(pair, reading).id]
            if outcome.ok:
                parts.append(_columns(results.store.read(*job.id), place, pair.what))
            else:
                message = f"changes against {pair.before.revision}: {outcome.message}"
                parts.append({(place, "all"): {"status": outcome.status, "message": message}})
        return merged_columns(parts)


def _columns(artefact: Artefact, place: CheckpointId, what: str) -> dict[tuple[CheckpointId, str], Row]:
    about, names = artefact.attributes, _NAMES[what]
    columns = {}
    for name, values, message in zip(
        about["matrices"], artefact.arrays["values"].tolist(), about["messages"], strict=True
    ):
        change = dict(zip(about["columns"], values, strict=True))
        row: Row = {names[column]: value for column, value in change.items() if column in names}
        columns[place, name] = row | {"message": message}
    return columns


def _comparisons(request: "Request") -> Iterator[Comparison]:
    """Every comparison that is asked for, or that one would expect, model by model."""
    section = request.dag.section(WEIGHTS_STAGE)
    if section is None or section.changes is False:
        return
    reading = request.analyses[0].parameters.reading
    for checkpoints in request.by_model().values():
        usable = [located for located in checkpoints if reading_outcome(located, reading).ok]
        start = next((located for located in usable if located.is_baseline), None)
        last: Located | None = None
        for located in usable:
            if start is None:
                label = located.baseline.label
                none = f"no changes from the start: there is no usable {label} to compare with; {CHOOSE_BASELINE}"
                yield Comparison(located, located, START, none)
            elif not located.is_baseline:
                pair = Comparison(located, start, START, located.no_emergence)
                yield replace(pair, why_none=pair.why_none or _why_none(pair, section.changes, reading))
            if last is not None and located.step is not None:
                pair = Comparison(located, last, LAST)
                yield replace(pair, why_none=_why_none(pair, section.changes, reading))
            last = located if located.step is not None else last


def _why_none(pair: Comparison, asked: bool | None, reading: Reading) -> str:
    """Why two checkpoints are not compared, one clause; empty where they are."""
    if asked is None and "hub" in (pair.now.kind, pair.before.kind):
        return "no changes: a checkpoint on a Hub is fetched again for them; ask with changes = true in [weights]"
    if pair.now.wiring(reading).digest != pair.before.wiring(reading).digest:
        return f"no changes since {pair.before.revision}: its tensors are wired otherwise"
    return ""


CHANGES_STAGE = WeightChangesStage()
