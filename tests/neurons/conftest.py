"""What all tests of neurons share: torch uses one thread, which is faster for models this small."""

import sys

import pytest


@pytest.fixture(scope="session", autouse=True)
def _one_thread_of_torch():
    try:
        import torch
    except ModuleNotFoundError:
        return
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _threads_are_put_back(_one_thread_of_torch):
    """A test may set another number of threads."""
    yield
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
