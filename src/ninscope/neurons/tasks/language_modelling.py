"""Fine-tuning for the next token of local text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ninscope.errors import RequestError
from ninscope.neurons.tasks.base_models import Blueprint, blueprint, check_positions, check_vocabulary, load
from ninscope.neurons.tasks.evaluation import checked_finite, consecutive, evaluating, moved
from ninscope.neurons.tasks.task import Base, Batch
from ninscope.neurons.tasks.tokenizers import ByteTokenizer, LibraryTokenizer, open_tokenizer

PURPOSE = "causal language modelling"


class LanguageModelling:
    """A `Task`: the next token of text. Windows follow each other, every token but the first is predicted once, and tokens that
    fill no window are dropped at the end. Files are joined by the tokenizer's end-of-text token; bytes by a zero.

    Batches hold input_ids and labels, the tokens that follow them, int64 [n, context]. Metrics are loss, the mean cross-entropy
    (nats a token) of all held-out windows, and perplexity, its exponential.
    """

    metrics: tuple[str, ...] = ("loss", "perplexity")

    def __init__(
        self,
        name: str,
        train: Sequence[Path],
        held_out: Sequence[Path],
        base: Base,
        context: int,
        tokenizer: str | None,
    ) -> None:
        """Raises RequestError: no tokenizer, text that is no UTF-8, or less text than a window."""
        opened = open_tokenizer(tokenizer, base)
        self.name, self.context = name, context
        self._train, self._held_out = (_tokens(paths, opened, context) for paths in (train, held_out))
        self._largest = int(max(self._train.max(), self._held_out.max()))
        self.train_size = (len(self._train) - 1) // context

    def model(self, base: Base) -> nn.Module:
        """As Task. Raises RequestError: as `load`, the base is too small for the text, or sees what it should predict."""
        plan = blueprint(base, PURPOSE)
        check_vocabulary(plan, self._largest)
        check_positions(plan, self.context)
        model = load(plan)
        _check_causal(plan, model)
        return model

    def batch(self, examples: np.ndarray) -> Batch:
        return self._windows(self._train, examples)

    def held_out(self, size: int) -> Iterator[Batch]:
        for numbers in consecutive((len(self._held_out) - 1) // self.context, size):
            yield self._windows(self._held_out, numbers)

    def _windows(self, tokens: np.ndarray, numbers: np.ndarray) -> Batch:
        positions = numbers[:, None] * self.context + np.arange(self.context + 1)
        windows = torch.from_numpy(tokens[positions].astype(np.int64))
        return {"input_ids": windows[:, :-1].contiguous(), "labels": windows[:, 1:].contiguous()}

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return _token_losses(model, batch).mean()

    def evaluate(self, model: nn.Module, size: int, device: torch.device) -> dict[str, float]:
        """As Task. Raises CheckpointError: outputs are not finite."""
        total, count = 0.0, 0
        with evaluating(model):
            for batch in self.held_out(size):
                losses = checked_finite(_token_losses(model, moved(batch, device)), self.name)
                total, count = total + losses.double().sum().item(), count + losses.numel()
        loss = total / count
        return {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else math.inf}


def _token_losses(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Cross-entropy of every token, float32 [n * context], nats."""
    logits: torch.Tensor = model(input_ids=batch["input_ids"], use_cache=False).logits.float()
    return functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="none")


def _tokens(paths: Sequence[Path], tokenizer: ByteTokenizer | LibraryTokenizer, context: int) -> np.ndarray:
    """The tokens of all files, one after the other."""
    parts: list[np.ndarray] = []
    for path in paths:
        try:
            text = path.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise RequestError(f"{path} is no UTF-8 text (byte {error.start}); save it as UTF-8") from None
        if parts and tokenizer.eos_token_id is not None:
            parts.append(np.array([tokenizer.eos_token_id], parts[0].dtype))
        parts.append(tokenizer.encode(text))
    tokens = np.concatenate(parts)
    if len(tokens) <= context:
        raise RequestError(
            f"{paths[0]}: {len(tokens)} tokens of text; a window needs {context + 1}: give more, or a smaller context"
        )
    return tokens


def _check_causal(plan: Blueprint, model: nn.Module) -> None:
    """Raises RequestError: a token changes the model's outputs before it, so the model could copy what it should predict."""
    both = torch.tensor([[0, 0], [0, 1]])
    with evaluating(model):
        logits = model(input_ids=both, use_cache=False).logits
    before, after = (logits[0] - logits[1]).abs().amax(-1)
    if before > 1e-3 * after:  # rounding is far below
        raise RequestError(f"{plan.base.name} sees the tokens that it should predict; choose a causal language model")
