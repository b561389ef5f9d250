"""The client of the package, alone with a local Hub: fixtures for tests that measure from it. Import them by name."""

from contextlib import ExitStack

import pytest
from hub_server import HubServer, shared_server
from huggingface_hub import constants

from ninscope.checkpoints.hub import file as hub_file
from ninscope.checkpoints.hub import retries

HEAD_BYTES = 256


@pytest.fixture(autouse=True)
def _private_client(monkeypatch, tmp_path):
    """No request but those of the package, no token of whoever runs this, and no wait between retries.

    The first request brings little more than the header, as it does of files that are not tiny.
    """
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(retries, "pause", lambda seconds, given_up: None)
    monkeypatch.setattr(hub_file, "HEAD_BYTES", HEAD_BYTES)
    point_client_at(monkeypatch, "http://127.0.0.1:9")  # nobody listens there: until a test serves, nothing is found


def point_client_at(monkeypatch, endpoint: str) -> None:
    """What HF_ENDPOINT does, had it been set before the client was imported."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def serve(monkeypatch):
    """serve(repositories) -> a running server, with the client pointed at it; it forgets them after the test.

    The first is the one that all tests share; a second of the same test is its own, and closed after it.
    """
    with ExitStack() as stack:
        started: list[HubServer] = []

        def start(repositories, **kwargs):
            own = stack.enter_context(HubServer({})) if started else shared_server()
            started.append(own.serve(repositories, **kwargs))
            point_client_at(monkeypatch, own.endpoint)
            return own

        yield start
        for server in started:
            server.serve({})
