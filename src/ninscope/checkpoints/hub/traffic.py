"""How much has come over the network: bytes of bodies and requests, counted where they arrive."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Fetched:
    """bytes: of bodies received, those of attempts that failed included; requests: sent, redirects included."""

    bytes: int = 0
    requests: int = 0

    def __add__(self, other: "Fetched") -> "Fetched":
        return Fetched(self.bytes + other.bytes, self.requests + other.requests)


class Traffic:
    """A counter that any thread may add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = Fetched()

    def add(self, bytes: int = 0, requests: int = 0) -> None:
        with self._lock:
            self._total += Fetched(bytes, requests)

    @property
    def fetched(self) -> Fetched:
        return self._total


_current: ContextVar[Traffic | None] = ContextVar("traffic", default=None)


@contextmanager
def counted() -> Iterator[Traffic]:
    """Counts what is fetched by the sources that are opened inside, in this thread; not what an inner `counted` counts."""
    traffic = Traffic()
    token = _current.set(traffic)
    try:
        yield traffic
    finally:
        _current.reset(token)


def current_traffic() -> Traffic:
    """Where a source that is opened now adds what it fetches."""
    return _current.get() or Traffic()
