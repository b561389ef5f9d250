"""How a model is fine-tuned, or looked at. Nothing here imports torch: a plan needs recipes, and only the work needs torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from ninscope.errors import RequestError
from ninscope.neurons import inhibition
from ninscope.neurons.selection import NeuronSelection

NONE = "none"  # the method without MEmeL
METHODS = (NONE, *sorted(inhibition.METHODS))
PRECISIONS = ("float32", "bf16")
DEVICES = ("cpu", "cuda")
MOST_THREADS = 1024
MOST_WHOLE = 2**31 - 1
ALL_LAYERS = "all"  # where numbers are of all layers together


class LayerSettings(TypedDict):
    """Arguments of every `MEmeL` that a fine-tune inserts, without its method."""

    select: str | Mapping[str, float]
    neurons: str
    late_start: int
    forget: int | None
    epsilon: float


@dataclass(frozen=True)
class Inhibition:
    """Where MEmeL is inserted and how: arguments of `insert_memel`. A fine-tune without MEmeL measures monosemanticity there.

    Raises RequestError: a value that MEmeL cannot have.
    """

    layers: str | tuple[str, ...] = inhibition.LAYERS
    select: str | Mapping[str, float] = inhibition.SELECT
    neurons: str = inhibition.NEURONS[0]
    late_start: int = inhibition.LATE_START
    forget: int | None = None
    epsilon: float = inhibition.EPSILON

    def __post_init__(self) -> None:
        NeuronSelection.of(self.select)
        inhibition.check_layers(self.layers)
        inhibition.check_neurons(self.neurons)
        inhibition.check_late_start(self.late_start)
        inhibition.check_forget(self.forget)
        inhibition.check_epsilon(self.epsilon)

    def layer_settings(self) -> LayerSettings:
        return {
            "select": self.select, "neurons": self.neurons, "late_start": self.late_start, "forget": self.forget,
            "epsilon": self.epsilon,
        }  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """One fine-tune. The defaults are those of BERT on GLUE (MEmeL, appendix F.1).

    method: one of METHODS. seed: of the order of examples, of dropout and of a new head; methods with one seed share all three.
    steps: updates (default: `epochs` passes over the training examples). warmup: the part of the steps in which the learning
    rate rises; after it the rate falls to 0, both linearly. weight_decay: of AdamW, on matrices. clip: largest norm of the
    gradients. evaluate_every: steps between evaluations (default: evaluate at the start and the end). threads: of torch on the
    CPU, since sums depend on their number. device: "cpu" or "cuda". precision: "bf16" runs the forward pass under autocast.

    Raises RequestError: a value out of range.
    """

    method: str
    seed: int = 0
    learning_rate: float = 2e-5
    steps: int | None = None
    epochs: int = 3
    batch_size: int = 32
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    evaluate_every: int | None = None
    inhibition: Inhibition = field(default=Inhibition())
    threads: int = 1
    device: str = "cpu"
    precision: str = "float32"

    def __post_init__(self) -> None:
        _check_choice("method", self.method, METHODS)
        _check_choice("device", self.device, DEVICES)
        _check_choice("precision", self.precision, PRECISIONS)
        if self.steps is not None:
            _check_whole("steps", self.steps, 1)
        if self.evaluate_every is not None:
            _check_whole("evaluate_every", self.evaluate_every, 1)
        _check_whole("seed", self.seed, 0)
        _check_whole("epochs", self.epochs, 1)
        _check_whole("batch_size", self.batch_size, 1)
        _check_whole("threads", self.threads, 1, MOST_THREADS)
        _check_number("learning_rate", self.learning_rate, 1)
        _check_number("warmup", self.warmup, 1)
        _check_number("weight_decay", self.weight_decay, 1e6)
        _check_number("clip", self.clip, math.inf)

    def updates(self, train_size: int) -> int:
        """How many updates there will be."""
        return self.steps if self.steps is not None else self.epochs * self.batches_of_epoch(train_size)

    def batches_of_epoch(self, train_size: int) -> int:
        return -(-train_size // self.batch_size)

    def smallest_batch(self, train_size: int) -> int:
        """How many examples the smallest batch of all updates has: the last batch of a pass, where training comes to it."""
        batches = self.batches_of_epoch(train_size)
        if self.updates(train_size) < batches:
            return self.batch_size
        return train_size - (batches - 1) * self.batch_size

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of update `step` (from 0) of so many."""
        rising = math.ceil(self.warmup * steps)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        return self.learning_rate * (steps - step) / max(steps - rising, 1)

    def evaluations(self, steps: int) -> list[int]:
        """After how many updates the model is evaluated: 0 and all of them among these."""
        every = self.evaluate_every or steps
        return sorted({*range(0, steps, every), steps})


@dataclass(frozen=True)
class Looking:
    """How a checkpoint's activations are looked at.

    layers, neurons, epsilon: as `Inhibition`; layers also "all". history: batches of training examples that statistics are from.

    Raises RequestError: a value out of range.
    """

    layers: str | tuple[str, ...]
    neurons: str
    epsilon: float
    history: int
    batch_size: int
    threads: int
    device: str

    def __post_init__(self) -> None:
        inhibition.check_layers(self.layers)
        inhibition.check_neurons(self.neurons)
        inhibition.check_epsilon(self.epsilon)
        _check_whole("history", self.history, 1)
        _check_whole("batch_size", self.batch_size, 1)
        _check_whole("threads", self.threads, 1, MOST_THREADS)
        _check_choice("device", self.device, DEVICES)


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise RequestError(f"{name} is {value!r}; one of {', '.join(choices)}")


def _check_whole(name: str, value: object, least: int, most: int = MOST_WHOLE) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise RequestError(f"{name} is {value!r}; a whole number from {least} to {most} was expected")


def _check_number(name: str, value: object, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise RequestError(f"{name} is {value!r}; a number from 0 to {most} was expected")
