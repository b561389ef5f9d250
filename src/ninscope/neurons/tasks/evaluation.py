"""What tasks share when they evaluate a model: put modes back, move batches, refuse outputs that are not finite."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from ninscope.errors import CheckpointError
from ninscope.neurons.tasks.task import Batch
from ninscope.neurons.watching import evaluation_mode


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, without gradients; afterwards every module has its own mode again, frozen ones too."""
    with evaluation_mode(model), torch.no_grad():  # inference_mode would leave its mark on what modules cache
        yield


def moved(batch: Batch, device: torch.device) -> Batch:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def checked_finite(outputs: torch.Tensor, task: str) -> torch.Tensor:
    """Raises CheckpointError("nonfinite"): the outputs are not finite, whose score might be a finite number."""
    if not torch.isfinite(outputs).all():
        raise CheckpointError(
            "nonfinite", f"{task}: the model's outputs on held-out examples are not finite; train it slower"
        )
    return outputs


def consecutive(count: int, size: int) -> Iterator[np.ndarray]:
    """Numbers 0 to count - 1 (int64) in parts of `size`."""
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))
