"""Watch what layers of a model give while it runs, and which of it is padding; leave the model's modes as they were."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ninscope.neurons.memel.padding import Padding, is_floating

See = Callable[[str, Tensor, Tensor | None], None]


def activations_of(output: Any) -> Tensor | None:
    """A layer's output, or the first tensor of floats in it; None where there is none."""
    if isinstance(output, Tensor):
        return output if is_floating(output) else None
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    return next((part for part in parts if is_floating(part)), None)


@contextmanager
def watched(model: nn.Module, layers: Mapping[str, nn.Module], see: See) -> Iterator[None]:
    """see(layer, activations [samples, ...], padding mask or None) at every pass of each of these layers."""
    padding = Padding(model)
    handles = padding.hook(model)

    def hook(name: str) -> Callable[[nn.Module, tuple, Any], None]:
        def look(module: nn.Module, arguments: tuple, output: Any) -> None:
            if (h := activations_of(output)) is not None:
                see(name, h.detach(), padding.of(name, h))

        return look

    handles += [module.register_forward_hook(hook(name)) for name, module in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluation_mode(*models: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode; afterwards every module has its own mode again, frozen ones too."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
