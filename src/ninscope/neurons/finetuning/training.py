"""One fine-tune: from a base, a task and a recipe to evaluations, the same whether it was interrupted or not.

Everything random follows from (seed, what it is for, step), so that a step needs nothing but the state before it: the order of
examples is a permutation a pass, dropout draws from a generator that every step seeds anew.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ninscope.errors import CheckpointError, NonFiniteError, RequestError
from ninscope.neurons.finetuning.bases import Analyse
from ninscope.neurons.finetuning.recipe import NONE, Recipe
from ninscope.neurons.finetuning.saved import SavedState
from ninscope.neurons.memel.finding import layers_of
from ninscope.neurons.memel.inserting import insert_memel
from ninscope.neurons.phi import PhiOfLayers, PhiSummary, together
from ninscope.neurons.tasks.evaluation import evaluating, moved
from ninscope.neurons.tasks.task import Base, Task
from ninscope.neurons.torch_threads import threads
from ninscope.seeding import keyed_bits

SAVE_SECONDS = 30.0
PHI_BATCHES = 8  # of training examples, from which phi has its statistics


@dataclass(frozen=True)
class Evaluated:
    """A model after `step` updates: its scores, phi over the layers where MEmeL is or would be, its network."""

    step: int
    metrics: dict[str, float]
    phi: PhiSummary
    alpha0: float
    width: float
    warning: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"phi": asdict(self.phi) | {"counts": self.phi.counts.tolist()}}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Evaluated":
        phi = PhiSummary(**stored["phi"] | {"counts": np.array(stored["phi"]["counts"], np.int64)})
        return cls(**stored | {"phi": phi})


def fine_tune(
    task: Task,
    base: Base,
    recipe: Recipe,
    analyse: Analyse,
    saved: SavedState,
    stepped: Callable[[int, int], None] = lambda step, steps: None,
) -> tuple[Evaluated, ...]:
    """Fine-tune and evaluate, from the state in `saved` where there is one. stepped(step, steps): called after each update.

    Raises RequestError: the base cannot do the task, layers that are not there, a device that is absent, a batch too small to be
    normalised over. Raises CheckpointError (nonfinite): a loss, a gradient or activations that are no longer finite.
    """
    device = device_of(recipe.device)
    with threads(recipe.threads):
        run, evaluated = _resumed(task, base, recipe, device, saved)
        steps = recipe.updates(task.train_size)
        evaluations, last_saved = recipe.evaluations(steps), time.monotonic()
        if run.step < steps:
            run.check_smallest_batch()
        while True:
            if run.step in evaluations and run.step not in {earlier.step for earlier in evaluated}:
                evaluated.append(run.evaluate(analyse))
                if run.step:  # making the start again takes no time
                    run.save(saved, evaluated)
                    last_saved = time.monotonic()
            if run.step == steps:
                return tuple(evaluated)
            run.update(steps)
            stepped(run.step, steps)
            if time.monotonic() > last_saved + SAVE_SECONDS:
                run.save(saved, evaluated)
                last_saved = time.monotonic()


def _resumed(
    task: Task, base: Base, recipe: Recipe, device: torch.device, saved: SavedState
) -> tuple["_Run", list[Evaluated]]:
    """A fine-tune at its saved state, and its evaluations so far; at its start where no state fits."""
    run = _Run(task, base, recipe, device)
    state = saved.load()
    if state is None or not run.fits(state[1]):  # another version of a library may have other parameters
        return run, []
    return run, run.resume(*state)


class _Run:
    """A model that is being trained. step: updates so far. trained: names of the optimizer's parameters, in its order."""

    def __init__(self, task: Task, base: Base, recipe: Recipe, device: torch.device) -> None:
        self.task, self.recipe, self.device = task, recipe, device
        torch.manual_seed(_seed_of(recipe.seed, "head", 0))
        self.model = task.model(base).to(device).train()
        inhibition = recipe.inhibition
        self.layers = layers_of(self.model, inhibition.layers)
        if recipe.method != NONE:
            insert_memel(self.model, inhibition.layers, method=recipe.method, **inhibition.layer_settings())
        self.optimizer, self.trained = _optimizer(self.model, recipe)
        self.step = 0

    def check_smallest_batch(self) -> None:
        """Raises RequestError: a batch has one example, and a layer that normalises over batches sees one value a channel of it.

        Called before training, which might come to that batch after hours. The pass is one of evaluation, which changes nothing;
        shapes are as in training.
        """
        size, count = self.recipe.batch_size, self.task.train_size
        if self.recipe.smallest_batch(count) > 1:
            return
        last = self.recipe.batches_of_epoch(count) - 1
        batch = moved(self.task.batch(self._examples(last)), self.device)

        def refuse(name: str, module: nn.Module, arguments: tuple) -> None:
            shape = arguments[0].shape
            if math.prod(shape) == shape[1]:
                raise RequestError(
                    f"batch_size is {size}, by which {count} training examples leave a batch of one, and layer {name} normalises "
                    "over batches, which takes two values a channel; take another batch_size"
                )

        # Frozen layers use the statistics that they have.
        normalising = [
            (name, module)
            for name, module in self.model.named_modules()
            if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
        ]
        if normalising:
            hooks = [module.register_forward_pre_hook(partial(refuse, name)) for name, module in normalising]
            try:
                with evaluating(self.model), self._precision():
                    self.task.loss(self.model, batch)
            finally:
                for hook in hooks:
                    hook.remove()

    def update(self, steps: int) -> None:
        """One update. Raises CheckpointError (nonfinite)."""
        recipe, step = self.recipe, self.step
        batch = moved(self.task.batch(self._examples(step)), self.device)
        torch.manual_seed(_seed_of(recipe.seed, "step", step))
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(step, steps)
        self.optimizer.zero_grad(set_to_none=True)
        with self._precision():
            try:
                loss = self.task.loss(self.model, batch)
            except NonFiniteError as error:
                raise CheckpointError("nonfinite", f"update {step + 1}: {error}") from None
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        for quantity, value in (("loss", loss), ("gradient", norm)):
            if not math.isfinite(float(value.detach())):
                raise CheckpointError(
                    "nonfinite",
                    f"update {step + 1}: the {quantity} is not finite; lower the learning rate ({recipe.learning_rate})",
                )
        self.optimizer.step()
        self.step += 1

    def evaluate(self, analyse: Analyse) -> Evaluated:
        """Scores and phi from one pass over the held-out examples, after one over some training examples for phi's history."""
        size, inhibition = self.recipe.batch_size, self.recipe.inhibition
        phi_of_layers = PhiOfLayers(self.model, self.layers, inhibition.neurons, inhibition.epsilon)
        with evaluating(self.model), self._precision():
            with phi_of_layers.learning():
                for examples in history_of(self.task.train_size, size, PHI_BATCHES):
                    self.task.loss(self.model, moved(self.task.batch(examples), self.device))
            with phi_of_layers.looking():
                metrics = self.task.evaluate(self.model, size, self.device)
        phi = together(phi_of_layers.distributions().values()).summary()
        network = analyse(self.model)
        return Evaluated(self.step, metrics, phi, network.alpha0, network.width, network.warning)

    def save(self, saved: SavedState, evaluated: list[Evaluated]) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{moment}.{self.trained[number]}": value for moment, value in state.items()}
        saved.save(self.step, tensors, {"evaluated": [evaluation.as_json() for evaluation in evaluated]})

    def fits(self, tensors: Mapping[str, torch.Tensor]) -> bool:
        """Whether a state belongs to this very model and optimizer, as far as names and shapes tell."""
        shapes = {name: tuple(value.shape) for name, value in tensors.items()}
        own = {f"model.{name}": tuple(value.shape) for name, value in self.model.state_dict().items()}
        # The first batch sizes MEmeL's statistics, so their shapes say nothing.
        fixed = {name: shape for name, shape in shapes.items() if ".memel.scale." not in name}
        names = {name for name in shapes if name.startswith("model.")}
        moments = {name.split(".", 2)[2] for name in shapes if name.startswith("optimizer.")}
        return (
            names == set(own)
            and all(own[name] == shape for name, shape in fixed.items() if name in own)
            and moments <= set(self.trained)
        )

    def resume(self, step: int, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> list[Evaluated]:
        """Continue from a state that fits; returns the evaluations before it."""
        own = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
        numbers = {name: number for number, name in enumerate(self.trained)}
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, moment, parameter = name.split(".", 2)
                # A copy, as the optimizer keeps what it is given, and the state may lie in a file that goes.
                moments.setdefault(numbers[parameter], {})[moment] = value.clone()
        self.model.load_state_dict(own)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.step = step
        return [Evaluated.from_json(stored) for stored in facts["evaluated"]]

    def _examples(self, step: int) -> np.ndarray:
        """Numbers of the examples of one update: passes over all of them, each in an order of its own."""
        epoch, number = divmod(step, self.recipe.batches_of_epoch(self.task.train_size))
        order = _generator(self.recipe.seed, "order", epoch).permutation(self.task.train_size)
        return order[number * self.recipe.batch_size : (number + 1) * self.recipe.batch_size]

    def _precision(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")


def history_of(train_size: int, size: int, most: int) -> Iterator[np.ndarray]:
    """Numbers of the training examples that statistics of phi are from: at most so many batches, the same for every checkpoint.

    They are in an order of their own, since files may be sorted by label.
    """
    order = _generator(0, "history", 0).permutation(train_size)
    for first in range(0, min(most * size, train_size), size):
        yield order[first : first + size]


def device_of(name: str) -> torch.device:
    """Raises RequestError: a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise RequestError('device is "cuda", and torch finds no GPU here; take "cpu", or a machine that has one')
    return torch.device(name)


def _optimizer(model: nn.Module, recipe: Recipe) -> tuple[torch.optim.Optimizer, list[str]]:
    """AdamW, and the names of its parameters, in its order."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    matrices = [(name, parameter) for name, parameter in trained if parameter.ndim > 1]
    rest = [(name, parameter) for name, parameter in trained if parameter.ndim < 2]
    groups = [
        {"params": [parameter for _, parameter in part], "weight_decay": decay}
        for part, decay in ((matrices, recipe.weight_decay), (rest, 0.0))
        if part
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate), [name for name, _ in matrices + rest]


def _seed_of(seed: int, purpose: str, number: int) -> int:
    return int(_generator(seed, purpose, number).integers(2**63))


def _generator(seed: int, purpose: str, number: int) -> np.random.Generator:
    return np.random.Generator(keyed_bits(purpose, seed, number))
