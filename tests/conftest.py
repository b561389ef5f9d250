"""Shared by all tests: seeds that are printed and can be set, hypothesis profiles, whether kernels are compiled."""

import gc
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from modes import JIT, SEED

# Plain-Python kernels are a hundred times slower, and a first call compiles: neither is a failed test.
settings.register_profile("ninscope", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("plain", parent=settings.get_profile("ninscope"), max_examples=15)
settings.load_profile("ninscope" if JIT else "plain")


def pytest_report_header():
    return f"kernels: {'compiled' if JIT else 'plain Python'}; NINSCOPE_TEST_SEED={SEED}"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What importing the tests made stays to the end, torch and its like among it: the garbage collector need not look at it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that workers that take a file at a time come to their ends together.

    Those of runs, which often wait for processes, in turn with the others, which compute: what runs beside one that waits has the
    core.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    turns: dict[Path, tuple[bool, int, bool]] = {}
    before = Counter[tuple[bool, bool]]()
    for path in dict.fromkeys(item.path for item in items):
        kind = (path not in slow, path.parent.name != "pipeline")
        turns[path] = (kind[0], before[kind], kind[1])
        before[kind] += 1
    items.sort(key=lambda item: turns[item.path])


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers from the seed that the report's header shows."""
    return np.random.default_rng(SEED)


@pytest.fixture(scope="module", autouse=True)
def _no_cache_of_the_user(tmp_path_factory):
    """What the audit remembers of files is not to be read from, or written to, the cache of whoever runs the tests.

    One for each file of tests: a run reads and writes it whole, and it knows every file there ever was.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _nothing_kept_from_the_hub():
    """Small files are kept by their digests for as long as a process lives, and tests would take each other's."""
    if (hub := sys.modules.get("ninscope.checkpoints.hub.repository")) is not None:
        hub.SMALL.clear()
