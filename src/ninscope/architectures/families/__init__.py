"""Families of models, one module for each or for a few that are alike. A module registers its families when it is imported.

So a new file in this folder is a new family: `load` finds it.
"""

import pkgutil
from importlib import import_module


def load() -> None:
    """Import every module of this package."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
