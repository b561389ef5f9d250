"""A training as a run: rows that a training measures go into a run folder that every command reads like any other.

A run over checkpoints finds them, plans jobs and does these. Here the training says which steps there are (live.json), and
writes the artefacts that jobs would have made, under the same keys. Tables, figures, plan.json and run.toml follow from both in
the same way. Tables are not written at every step: whoever reads the folder has them brought up to date first (`refreshing.py`).
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "LiveRequest": "request",
    "LiveResult": "request",
    "LiveRun": "recorder",
    "LiveStart": "request",
    "fit_name": "request",
    "norms_alone": "request",
}


def __getattr__(name: str) -> Any:
    """Loaded when first used: who lists runs needs none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
