"""Inside a training run: E and its controls from the weights that are being trained, every so many steps.

`EmergenceMonitor` for a loop of one's own, `EmergenceCallback` for transformers' Trainer, `LightningEmergenceCallback` for
Lightning. Each is imported when first used, and so is the library that it is for.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "EmergenceMonitor": ("monitor", "EmergenceMonitor"),
    "MonitorRow": ("rows", "MonitorRow"),
    "EmergenceCallback": ("trainer", "EmergenceCallback"),
    "LightningEmergenceCallback": ("lightning", "EmergenceCallback"),
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    try:
        return getattr(import_module(f"{__name__}.{module}"), attribute)
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        needs = f"{name} is for the Trainer of transformers, which is not installed: pip install 'ninscope[training]'"
        raise ModuleNotFoundError(needs, name=error.name) from None


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
