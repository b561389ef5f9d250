"""What single neurons do: monosemanticity, fine-tuning that inhibits it, activations, polysemanticity. Nothing else needs torch.

`ninscope.neurons.memel` and `ninscope.neurons.polysemanticity` are imported when first used.
"""

from importlib import import_module
from types import ModuleType

_PACKAGES = ("memel", "polysemanticity")


def __getattr__(name: str) -> ModuleType:
    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_PACKAGES))
