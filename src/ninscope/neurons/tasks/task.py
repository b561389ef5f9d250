"""The protocol of fine-tuning tasks: examples, a loss, and scores on held-out examples."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Base:
    """A checkpoint that a model is made from.

    config: the content of its config.json. tensors: float32 by name, on the CPU. folder: where its other files are (a
    tokenizer's): a folder, or a Hub repository with a revision; None where that is not known. name: for messages.
    """

    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    folder: Path | str | None = None
    revision: str | None = None


class Task(Protocol):
    """What a model is fine-tuned on. Batches hold tensors on the CPU; training on another device moves them.

    name: as in the table `finetunes`. train_size: training examples. metrics: names of the scores of `evaluate`, the main metric
    first.
    """

    name: str
    train_size: int
    metrics: tuple[str, ...]

    def model(self, base: Base) -> nn.Module:
        """The base with the head that the task needs, float32; torch's global generator draws weights that the base lacks.

        Raises RequestError: the base cannot do the task (another kind of model, labels that do not fit its head).
        """

    def batch(self, examples: np.ndarray) -> Batch:
        """Training examples of these numbers (int64, below train_size), in this order."""

    def held_out(self, size: int) -> Iterator[Batch]:
        """All held-out examples in batches of `size`, in order."""

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The mean loss of a batch: one number that can be differentiated."""

    def evaluate(self, model: nn.Module, size: int, device: torch.device) -> dict[str, float]:
        """Scores on the held-out examples, by metric; the model is in evaluation mode meanwhile."""
