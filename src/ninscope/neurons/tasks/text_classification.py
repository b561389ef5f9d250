"""Fine-tuning for labels of texts or pairs of texts: from local tables, or of GLUE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ninscope.errors import RequestError
from ninscope.neurons.tasks.base_models import (
    Blueprint,
    check_positions,
    check_vocabulary,
    classifier,
    load_classifier,
)
from ninscope.neurons.tasks.evaluation import checked_finite, consecutive, evaluating, moved
from ninscope.neurons.tasks.labelled import LabelledTexts
from ninscope.neurons.tasks.scores import is_regression, scores
from ninscope.neurons.tasks.task import Base, Batch
from ninscope.neurons.tasks.tokenizers import EncodedTexts, open_tokenizer, padding_token, stated_padding, used_tokens

PURPOSE = "text classification"


class TextClassification:
    """A `Task`: labels of texts, by cross-entropy; or numbers, by mean squared error where the metrics are correlations.

    Batches hold input_ids, attention_mask and other inputs that the model and the tokenizer share (token_type_ids), int64
    [n, width], and labels, int64 or float32 [n].
    """

    def __init__(
        self,
        name: str,
        data: LabelledTexts,
        base: Base,
        metrics: Sequence[str],
        tokenizer: str | None,
        max_length: int,
        padding: str,
    ) -> None:
        """Raises RequestError: no tokenizer, a text that gives no tokens, or one with the token that pads."""
        self.name, self.metrics = name, tuple(metrics)
        self.classes, self.regression = list(data.classes), is_regression(metrics)
        self.train_size = len(data.train.texts)
        self._labels = [torch.from_numpy(labels) for labels in data.labels]
        plan = self._plan(base)
        opened = open_tokenizer(tokenizer, base)
        columns = [
            {name: rows for name, rows in opened.encode_examples(part, max_length).items() if name in plan.inputs}
            for part in (data.train, data.held_out)
        ]
        used = used_tokens(*(part["input_ids"] for part in columns))
        self._pad = padding_token(base, opened, used, plan.vocabulary)
        self._largest = max(int(used[-1]), self._pad)
        width = max_length if padding == "max_length" else None
        self._train, self._held_out = (
            EncodedTexts(rows, self._pad, width, part.where)
            for rows, part in zip(columns, (data.train, data.held_out), strict=True)
        )

    def _plan(self, base: Base, **changes: int) -> Blueprint:
        return classifier(base, PURPOSE, self.classes or ["score"], changes, self.regression)

    def model(self, base: Base) -> nn.Module:
        """As Task. Raises RequestError: as `load_classifier`, or the base is too small for the texts."""
        plan = self._plan(base, pad_token_id=self._pad)
        if stated_padding(base, plan.vocabulary) not in (None, self._pad):
            raise RequestError(
                f"{base.name} pads with another token than {self.name} was made for; make the task for it"
            )
        check_vocabulary(plan, self._largest)
        check_positions(plan, max(self._train.longest, self._held_out.longest))
        return load_classifier(plan, numbered=all(isinstance(name, int) for name in self.classes))

    def batch(self, examples: np.ndarray) -> Batch:
        return self._train.batch(examples) | {"labels": self._labels[0][torch.from_numpy(examples)]}

    def held_out(self, size: int) -> Iterator[Batch]:
        for numbers in consecutive(len(self._held_out), size):
            yield self._held_out.batch(numbers) | {"labels": self._labels[1][torch.from_numpy(numbers)]}

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        outputs = self._outputs(model, batch)
        if self.regression:
            return functional.mse_loss(outputs[:, 0], batch["labels"])
        return functional.cross_entropy(outputs, batch["labels"])

    def evaluate(self, model: nn.Module, size: int, device: torch.device) -> dict[str, float]:
        """As Task; a correlation is NaN where all outputs are the same. Raises CheckpointError: outputs are not finite."""
        with evaluating(model):
            parts = [self._outputs(model, moved(batch, device)).cpu() for batch in self.held_out(size)]
        outputs = checked_finite(torch.cat(parts), self.name)
        predicted = outputs[:, 0].double() if self.regression else outputs.argmax(1)
        return scores(self.metrics, predicted.numpy(), self._labels[1].numpy(), len(self.classes))

    @staticmethod
    def _outputs(model: nn.Module, batch: Batch) -> torch.Tensor:
        """float32 [n, classes], whatever precision the model runs in."""
        logits: torch.Tensor = model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
        return logits.float()
