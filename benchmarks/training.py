"""A training that is measured while it goes on, beside the same training without: the Trainer of transformers on the CPU.

The shape is that of Pythia's 14M: 6 blocks of width 128, and a vocabulary of 50,304 that most of the time of a step goes to.
"""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ninscope.integrations import EmergenceCallback

Row = tuple[str, float, str, str, float | None]

SHAPES = {"tiny": (2, 64, 4, 256), "14m": (6, 128, 4, 50304)}  # blocks, width, heads, vocabulary
_LIMIT = 1.01  # of the time without


class _Clock(TrainerCallback):
    """When each step began, and when the last one was over."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.times.append(time.perf_counter())

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        """Of each step, with what callbacks did after it."""
        return [stop - start for start, stop in zip(self.times, self.times[1:], strict=False)]


class _Windows(torch.utils.data.Dataset):
    """Random tokens: a step takes as long whatever they are."""

    def __init__(self, count: int, context: int, vocabulary: int) -> None:
        self.tokens = torch.randint(vocabulary, (count, context), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


def _train(
    folder: Path, shape: str, batch: int, context: int, steps: int, callbacks: list[TrainerCallback]
) -> tuple[float, list[float]]:
    """Seconds of `Trainer.train()`, and of each of its steps."""
    blocks, width, heads, vocabulary = SHAPES[shape]
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=blocks,
        num_attention_heads=heads, max_position_embeddings=context,
    )  # fmt: skip
    model = GPTNeoXForCausalLM(config)
    arguments = TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=batch, use_cpu=True, report_to="none", disable_tqdm=True,
        save_strategy="no", logging_strategy="no", dataloader_pin_memory=False,
    )  # fmt: skip
    clock = _Clock()
    windows = _Windows(batch * steps, context, vocabulary)
    trainer = Trainer(model, arguments, train_dataset=windows, callbacks=[*callbacks, clock])
    trainer.remove_callback(PrinterCallback)
    start = time.perf_counter()
    trainer.train()
    return time.perf_counter() - start, clock.seconds


def training(folder: Path, shape: str, batch: int, context: int, every: int, pairs: int) -> Iterator[Row]:
    """Trainings of twice `every` steps, measured and not, in turn; each begins once before the other.

    A measured one is measured three times, at step 0, in the middle and at its end. What a measure takes is told by the steps
    after which it was due: by how much they were longer than the median of the others, with logging and the run folder in it.
    """
    steps, whole, took, plain = 2 * every, {True: 0.0, False: 0.0}, [], []
    _train(folder / "warm", shape, batch, context, 2, [EmergenceCallback(every=1)])  # compiles and imports
    for number in range(pairs):
        for measured in (True, False) if number % 2 else (False, True):
            callbacks = [EmergenceCallback(every=every)] if measured else []
            place = folder / f"training-{number}-{measured}"
            seconds, of_steps = _train(place, shape, batch, context, steps, callbacks)
            whole[measured] += seconds
            usual = statistics.median(of_steps)
            plain.append(usual)
            if measured:
                took += [of_steps[due - 1] - usual for due in range(every, steps + 1, every)]
    name = f"Trainer, {shape} shape, {batch} x {context} tokens, measured every {every}"
    hundred = every * statistics.median(plain)
    each = statistics.median(took)
    yield name, each * 1e3, "ms", f"{every} steps {hundred:.1f} s; wanted: 0.01 times", each / hundred
    without = whole[False] / pairs
    beside = f"without {without:.1f} s; wanted: {_LIMIT} times"
    yield f"  whole runs of {steps} steps, in turn", whole[True] / pairs, "s", beside, whole[True] / whole[False]
