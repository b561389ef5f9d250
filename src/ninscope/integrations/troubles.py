"""Troubles that must not stop a training: each kind is told once, in a log record, and the training goes on."""

import contextlib
import logging

from ninscope.errors import NinscopeError, described, one_line

LOGGER = logging.getLogger(
    "ninscope.integrations"
)  # of the standard library: shown on standard error unless set otherwise


class Troubles:
    """What has gone wrong so far."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, kind: str, message: str) -> None:
        """Log a warning, unless there was one of this kind."""
        if kind not in self._told:
            self._told.add(kind)
            with contextlib.suppress(Exception):  # who handles records may fail too
                LOGGER.warning("ninscope: %s", one_line(message))


def in_words(error: Exception) -> str:
    """An error in one line; of one that nobody foresaw, with its type."""
    return str(error) if isinstance(error, NinscopeError) else described(error)
