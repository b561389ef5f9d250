"""What is tried again, how often and after how long: the one policy for everything that comes over the network."""

import threading
from collections.abc import Callable
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

ATTEMPTS = 7
LIMIT_SECONDS = 600.0  # twice the window of the Hub's rate limit
LONGEST_WAIT_SECONDS = 30.0  # of those that no server asked for

Result = TypeVar("Result")


class Passing(Exception):
    """A fault that may be gone the next time. status: of the checkpoint, should it stay; after: seconds the server asks for."""

    def __init__(self, reason: str, status: str = "missing", after: float | None = None):
        super().__init__(reason)
        self.reason, self.status, self.after = reason, status, after


def persistently(work: Callable[[], Result], given_up: threading.Event | None = None) -> Result:
    """What `work` returns, tried again while it raises Passing: exponential backoff with jitter, or what the server asks for.

    given_up: once set, no wait goes on. Raises the last Passing under the limits above, and whatever else `work` raises.
    """
    event = given_up or threading.Event()
    return Retrying(
        retry=retry_if_exception_type(Passing),
        stop=stop_after_attempt(ATTEMPTS) | stop_before_delay(LIMIT_SECONDS),
        wait=_wait,
        sleep=lambda seconds: pause(seconds, event),
        reraise=True,
    )(work)


def pause(seconds: float, given_up: threading.Event) -> None:
    """Every wait between attempts, so that a test can do without."""
    given_up.wait(seconds)


def _wait(state: RetryCallState) -> float:
    jittered = wait_random_exponential(multiplier=1, max=LONGEST_WAIT_SECONDS)(state)
    fault = state.outcome.exception() if state.outcome is not None else None
    after = fault.after if isinstance(fault, Passing) else None
    return jittered if after is None else after + min(jittered, 1.0)  # not all at the same moment
