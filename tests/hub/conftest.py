"""A local Hub for each test, and the real client connected to it."""

import pytest
from hub_fixture import CONFIG, MODEL, WEIGHTS
from hub_server import shared_server
from huggingface_hub import HfApi, HfFileSystem, constants


@pytest.fixture(autouse=True)
def _quiet_client(monkeypatch, tmp_path):
    """No request but those a test makes: usage statistics would add their own before the first."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def repositories(tmp_path):
    branches = {n: {"model.safetensors": w, "config.json": CONFIG} for n, w in WEIGHTS.items()}
    folder = tmp_path / "main"
    (folder / "runs" / "first").mkdir(parents=True)
    for name, content in {
        **branches["main"],
        "runs/first/log.txt": b"loss 1\n",
        "runs/old.bin": b"\0",
    }.items():
        (folder / name).write_bytes(content)
    return {MODEL: {**branches, "main": folder}}


@pytest.fixture
def hub(repositories):
    yield shared_server().serve(repositories)
    shared_server().serve({})


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.endpoint, token=False)


@pytest.fixture
def fs(hub):
    return HfFileSystem(endpoint=hub.endpoint, token=False, skip_instance_cache=True)
