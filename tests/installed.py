"""What tests of optional libraries begin with."""

import importlib.util

import pytest


def needed(*libraries: str) -> None:
    """Skip a module's tests where a library is not installed. Unlike `pytest.importorskip` it imports none: every worker collects
    all files, and some take seconds to import."""
    for name in libraries:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed", allow_module_level=True)
