"""Shared by tests of what measures a training from inside."""

import logging

import pytest

from ninscope.integrations import troubles


@pytest.fixture
def warned():
    """Messages that were logged."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    troubles.LOGGER.addHandler(handler)
    yield messages
    troubles.LOGGER.removeHandler(handler)
