"""Shared by all tests: seeds that are printed and can be set, hypothesis profiles, whether kernels are compiled."""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from modes import JIT

# Plain-Python kernels are a hundred times slower, and a first call compiles: neither is a failed test.
settings.register_profile("ninscope", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("plain", parent=settings.get_profile("ninscope"), max_examples=15)
settings.load_profile("ninscope" if JIT else "plain")

SEED = int(os.environ.get("NINSCOPE_TEST_SEED", "20240601"))


def pytest_report_header():
    return f"kernels: {'compiled' if JIT else 'plain Python'}; NINSCOPE_TEST_SEED={SEED}"


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers from the seed that the report's header shows."""
    return np.random.default_rng(SEED)
