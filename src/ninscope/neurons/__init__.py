"""What single neurons do: `look` at a model while it runs, monosemanticity, fine-tuning that inhibits it, polysemanticity.

`ninscope.neurons.memel`, `ninscope.neurons.observatory` and `ninscope.neurons.polysemanticity` are imported when first used, and
nothing but these needs torch.
"""

from importlib import import_module
from typing import Any

_PACKAGES = ("memel", "observatory", "polysemanticity")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    if name == "look":
        return import_module(f"{__name__}.observatory.look").look
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PACKAGES, "look"})
