"""How a model is fine-tuned, or looked at. Nothing here imports torch: a plan needs recipes, and only the work needs torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ninscope.errors import RequestError
from ninscope.neurons.selection import Selection

NONE = "none"  # the method without MEmeL
METHODS = (NONE, "naive_mean", "naive_shift", "reversed")
PRECISIONS = ("float32", "bf16")
DEVICES = ("cpu", "cuda")
MOST_THREADS = 1024
ALL_LAYERS = "all"  # where numbers are of all layers together


@dataclass(frozen=True)
class Inhibition:
    """Where MEmeL is, or without it where monosemanticity is measured, and how: arguments of `insert_memel`."""

    layers: str | tuple[str, ...] = "middle:4"
    select: str | Mapping[str, float] = "top-1"
    neurons: str = "features"
    late_start: int = 10
    forget: int | None = None
    epsilon: float = 0.01

    def __post_init__(self):
        Selection.of(self.select)
        if not self.layers:
            raise RequestError('layers is empty; give "middle:4", or names of modules')

    def settings(self) -> dict:
        """Those of the layer itself."""
        return {
            "select": self.select, "neurons": self.neurons, "late_start": self.late_start, "forget": self.forget,
            "epsilon": self.epsilon,
        }  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """One fine-tune. The defaults are those of BERT on GLUE (paper B, appendix F.1).

    method: one of METHODS. seed: of the order of examples, of dropout and of a new head; methods of one seed share all three.
    steps: updates, or None for `epochs` passes over the training examples. warmup: the part of the steps in which the learning
    rate rises; after it it falls to 0, both linearly. weight_decay: of AdamW, on matrices. clip: of the gradients' norm.
    evaluate_every: steps between evaluations; None: at the start and the end. threads: of torch on the CPU, where sums depend on
    it. device: "cpu" or "cuda". precision: "bf16" runs the forward pass under autocast.

    Raises RequestError: a value that makes no sense.
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

    def __post_init__(self):
        for name, known in (("method", METHODS), ("device", DEVICES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise RequestError(f"{name} is {getattr(self, name)!r}; one of {', '.join(known)}")
        for name in ("steps", "evaluate_every"):
            if getattr(self, name) is not None:
                self._check_whole(name, 1)
        for name, least in (("seed", 0), ("epochs", 1), ("batch_size", 1)):
            self._check_whole(name, least)
        self._check_whole("threads", 1, MOST_THREADS)
        for name, low, high in (
            ("learning_rate", 0, 1), ("warmup", 0, 1), ("weight_decay", 0, 1e6), ("clip", 0, math.inf),
        ):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise RequestError(f"{name} is {value!r}; a number from {low} to {high} was expected")

    def _check_whole(self, name: str, least: int, most: int = 2**31 - 1) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise RequestError(f"{name} is {value!r}; a whole number from {least} to {most} was expected")

    def updates(self, train_size: int) -> int:
        """How many updates there will be."""
        return self.steps if self.steps is not None else self.epochs * self.batches_of_epoch(train_size)

    def batches_of_epoch(self, train_size: int) -> int:
        return -(-train_size // self.batch_size)

    def smallest_batch(self, train_size: int) -> int:
        """How many examples the smallest batch of all updates has: the last one of a pass, where training comes to it."""
        each = self.batches_of_epoch(train_size)
        whole = self.updates(train_size) < each
        return self.batch_size if whole else train_size - (each - 1) * self.batch_size

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
    """

    layers: str | tuple[str, ...]
    neurons: str
    epsilon: float
    history: int
    batch_size: int
    threads: int
    device: str
