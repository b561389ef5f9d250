"""What a stage reports: a small value that travels between workers, an exception only where the whole run must stop."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ninscope.checkpoints.traffic import Fetched, counted
from ninscope.errors import CheckpointError, RequestError, one_line
from ninscope_pipeline.storing.runfolder import StoreError
from ninscope_pipeline.storing.store import DamagedArtefact


@dataclass(frozen=True)
class Outcome:
    """status and message as in the table `checkpoints`; trace: the traceback where ninscope itself failed;
    lost: the worker died, over this task or over another that it had; damaged: something that it was to be made from was,
    and has been removed; fetched: what the work took from the network."""

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
        """As the outcome of a task that needed this one's result: traceback and traffic stay with its own task."""
        return replace(self, trace="", fetched=Fetched())


def log_name(stage: str, key: str) -> str:
    """The file in the run's folder log that tells of a task."""
    return f"{stage}-{key}.txt".replace("/", "_")


def with_log(reason: str, stage: str, key: str) -> str:
    """One line that says where the traceback is."""
    return f"{one_line(reason)} (see log/{log_name(stage, key)})"


def attempt(stage: str, key: str, work: Callable[[], None]) -> Outcome:
    """Run one task's work. One bad checkpoint never stops the others, and neither does a fault of ours.

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
        return Outcome("failed", with_log(f"{type(error).__name__}: {error}", stage, key), traceback.format_exc())
    return Outcome()
