"""What a job reports: a small value that travels between workers, an exception only where the whole run must stop."""

import hashlib
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ninscope.checkpoints.hub.traffic import Fetched, counted
from ninscope.errors import CheckpointError, RequestError, described, one_line
from ninscope_pipeline.storing.runfolder import StoreError
from ninscope_pipeline.storing.store import DamagedArtefact


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    status, message: as in the table `checkpoints`. trace: the traceback where ninscope itself failed. lost: the worker died, over
    this job or over another that it had. damaged: an artefact that the job reads was damaged, and has been removed. fetched: what
    the work took from the network.
    """

    status: str = "ok"
    message: str = ""
    trace: str = ""
    lost: bool = False
    damaged: bool = False
    fetched: Fetched = field(default=Fetched(), compare=False)

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    def passed_on(self) -> "Outcome":
        """As the outcome of a job that needed this one's result: traceback and traffic stay with their own job."""
        return replace(self, trace="", fetched=Fetched())


OK = Outcome()
# Statuses that follow from a checkpoint's bytes; others (a server that did not answer, memory) may concern one job alone.
_LONGEST_NAME = 200  # bytes of a file's name, which may have 255
_FAULTS_OF_BYTES = ("corrupt", "nonfinite")


def settled(outcomes: Mapping[str, Outcome]) -> Mapping[str, Outcome]:
    """What counts once everything that is made of one checkpoint has an outcome, by name.

    Where its own bytes are at fault in one job, no other is trusted; after any other failure of one the others stand.
    """
    fault = next((outcome for outcome in outcomes.values() if outcome.status in _FAULTS_OF_BYTES), None)
    return outcomes if fault is None else dict.fromkeys(outcomes, fault)


def log_name(stage: str, key: str) -> str:
    """The file in the run's folder log that tells about a job."""
    name = f"{stage}-{key}".replace("/", "_")
    if len(name.encode()) > _LONGEST_NAME:  # a revision may be called anything
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        name = f"{name.encode()[:_LONGEST_NAME].decode(errors='ignore')}-{digest}"
    return f"{name}.txt"


def with_log(reason: str, stage: str, key: str) -> str:
    """One line that says where the traceback is."""
    return f"{one_line(reason)} (see log/{log_name(stage, key)})"


def attempt(stage: str, key: str, work: Callable[[], None]) -> Outcome:
    """Run one job's work. One bad checkpoint never stops the others, and neither does a fault of ours.

    Raises what is no checkpoint's fault and the same for all: RequestError, StoreError.
    """
    with counted() as traffic:
        outcome = _outcome_of(stage, key, work)
    return replace(outcome, fetched=traffic.fetched)


def _outcome_of(stage: str, key: str, work: Callable[[], None]) -> Outcome:
    try:
        work()
    except CheckpointError as error:
        return Outcome(error.status, str(error))
    except DamagedArtefact as error:
        return Outcome("failed", str(error), damaged=True)
    except (RequestError, StoreError):
        raise
    except Exception as error:
        return Outcome("failed", with_log(described(error), stage, key), traceback.format_exc())
    return OK
