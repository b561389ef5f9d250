"""What a stage reports: a small value that travels between workers, never an exception."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass

from ninscope.errors import CheckpointError, RequestError, one_line


@dataclass(frozen=True)
class Outcome:
    """status and message as in the table `checkpoints`; trace: the traceback where ninscope itself failed;
    lost: the worker died, over this task or over another that it had."""

    status: str = "ok"
    message: str = ""
    trace: str = ""
    lost: bool = False

    @property
    def ok(self) -> bool:
        return self.status == "ok"


def attempt(work: Callable[[], None]) -> Outcome:
    """Run one stage's work. One bad checkpoint never stops the others, and neither does a fault of ours."""
    try:
        work()
    except CheckpointError as error:
        return Outcome(error.status, str(error))
    except RequestError:
        raise  # not this checkpoint's fault, and the same for all
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        return Outcome("failed", f"{reason} (the traceback is in the run's folder log)", traceback.format_exc())
    return Outcome()
