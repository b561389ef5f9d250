"""The client of the package, alone with a local Hub: fixtures for tests that measure from it. Import them by name."""

import pytest
from hub_server import HubServer
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
    """serve(repositories) -> the running server, with the client pointed at it; closed after the test."""
    servers = []

    def start(repositories, **kwargs):
        server = HubServer(repositories, **kwargs)
        server.__enter__()
        servers.append(server)
        point_client_at(monkeypatch, server.endpoint)
        return server

    yield start
    for server in servers:
        server.__exit__()
