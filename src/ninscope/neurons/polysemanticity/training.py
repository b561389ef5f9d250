"""Training of perceptrons on toy data, many at once (Polysemanticity under pruning, sections 3.1, 3.4 and 3.5).

Adam on the mean squared error, with or without dropout after each hidden layer. These networks are so small that one update of one
network is mostly overhead: stacks of networks, padded with zeros to one size, train 5 to 10 times as fast. A padded neuron has no
weights in, no weights out and no bias, hence no gradient, and stays so: padding changes nothing but the order of sums.

Random numbers follow from a run's name, its seed and the epoch, whoever trains beside it. The same call gives the same bytes;
in other company a network's last bits may differ where it is padded to another size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ninscope.checks import MAX_SEED, checked_integer, is_number
from ninscope.errors import RequestError
from ninscope.neurons.polysemanticity.keyed_randomness import generator
from ninscope.neurons.polysemanticity.perceptron import Perceptron, parameters_of
from ninscope.neurons.torch_threads import threads

# What an update of a stack costs beside its arithmetic, as a number of parameters whose arithmetic takes as long: measured on two
# cores, 330 microseconds at 11 nanoseconds a parameter in batches of 64.
OVERHEAD = 30_000
MOST_AT_ONCE = 24  # networks; more are no faster
_EVALUATED = 1024  # samples at once
_DRAWN = 512  # samples whose dropout is drawn at once, which bounds its memory


@dataclass(frozen=True)
class TrainingRun:
    """How one network trains. learning_rate: Adam's. dropout: probability that a hidden neuron is left out, from 0 to below 1.

    name, seed: what the order of examples and the dropout follow from, so that runs of one name and seed see the same order.
    Raises RequestError: a value out of range.
    """

    learning_rate: float
    dropout: float = 0.0
    name: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if not is_number(self.learning_rate) or not 0 < self.learning_rate < math.inf:
            raise RequestError(f"learning_rate is {self.learning_rate!r}; a positive number was expected")
        if not is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise RequestError(f"dropout is {self.dropout!r}; a number from 0 to below 1 was expected")
        checked_integer("seed", self.seed, 0, MAX_SEED)


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network. train_loss, test_loss: float64 [epochs + 1], of epoch 0 (the start) and after each epoch.

    Both are mean squared errors of all samples, with nothing dropped. diverged_at: the first epoch of which a loss or a parameter
    was not finite; then the network is that of the epoch before (of epoch 0: the start), and the losses from there on are NaN.
    """

    network: Perceptron
    train_loss: np.ndarray
    test_loss: np.ndarray
    diverged_at: int | None


def train_together(
    networks: Sequence[Perceptron],
    runs: Sequence[TrainingRun],
    inputs: np.ndarray,
    outputs: np.ndarray,
    test_inputs: np.ndarray,
    test_outputs: np.ndarray,
    *,
    epochs: int,
    batch_size: int = 64,
    after_epoch: Callable[[int, int, Perceptron], None] | None = None,
) -> list[Trained]:
    """Train each network by its run, on the same samples: float32 [samples, inputs] and [samples, outputs].

    Each epoch takes all samples once, in an order of its own; the last batch may be smaller. after_epoch(number, epoch, network),
    number being the network's place in `networks`, is called at epoch 0 and after every epoch that left it finite. Networks that
    train in one stack take turns at it; stacks follow each other.

    Raises RequestError: as many runs as networks were expected, samples that are not finite or do not fit the networks.
    """
    checked_integer("epochs", epochs, 0, 10**9)
    checked_integer("batch_size", batch_size, 1, 10**9)
    if len(networks) != len(runs):
        raise RequestError(
            f"{len(networks)} networks and {len(runs)} runs were given; one run for each network was expected"
        )
    for network in networks:
        _check_samples("training", network, inputs, outputs)
        _check_samples("test", network, test_inputs, test_outputs)
    trained: dict[int, Trained] = {}
    # A caller's no_grad or inference_mode would leave nothing to train by.
    with threads(1), torch.inference_mode(False), torch.enable_grad():
        samples = _tensor(inputs), _tensor(outputs)
        test_samples = _tensor(test_inputs), _tensor(test_outputs)
        for numbers in stacks_of(networks, runs):
            training = _StackTraining([networks[number] for number in numbers], [runs[number] for number in numbers])
            called = _by_number(after_epoch, numbers)
            results = training.train(samples, test_samples, epochs, batch_size, called)
            trained |= dict(zip(numbers, results, strict=True))
    return [trained[number] for number in range(len(networks))]


def stacks_of(networks: Sequence[Perceptron], runs: Sequence[TrainingRun]) -> list[list[int]]:
    """Which networks, by their numbers, train as one stack: those of one kind, depth and learning rate, and of similar sizes.

    An update of a stack costs OVERHEAD and its parameters with padding. Networks in order of size are cut where the sum of that is
    least, by sizes alone, so that a call always has the same stacks.
    """
    alike: dict[tuple, list[int]] = {}
    for number, (network, run) in enumerate(zip(networks, runs, strict=True)):
        alike.setdefault((run.learning_rate, network.linear, len(network.sizes)), []).append(number)
    stacks = []
    for numbers in alike.values():
        by_size = sorted(numbers, key=lambda number: (networks[number].parameters, number))
        cuts = _cheapest_cuts([networks[number].sizes for number in by_size])
        stacks += [by_size[first:last] for first, last in cuts]
    return stacks


def _cheapest_cuts(sizes: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    """(first, after the last) of each stack of networks of these sizes, in order, where all updates cost least."""
    least = [0]  # cost of the networks before
    start = [0]  # of the stack that ends there
    for last in range(1, len(sizes) + 1):
        costs = {}
        padded = sizes[last - 1]
        for first in range(last - 1, max(last - MOST_AT_ONCE, 0) - 1, -1):
            padded = _padded([padded, sizes[first]])
            costs[first] = least[first] + OVERHEAD + (last - first) * parameters_of(padded)
        best = min(costs, key=lambda first: (costs[first], first))
        least.append(costs[best])
        start.append(best)
    cuts, last = [], len(sizes)
    while last:
        cuts.append((start[last], last))
        last = start[last]
    return cuts[::-1]


class _Stack:
    """Networks side by side: weights [networks, out, in] and biases [networks, 1, out], of a layer each, padded with zeros."""

    def __init__(self, networks: Sequence[Perceptron]) -> None:
        self.sizes = [network.sizes for network in networks]
        self.padded, self.linear = _padded(self.sizes), networks[0].linear
        self.weights, self.biases = [], []
        for layer, (inputs, units) in enumerate(zip(self.padded[:-1], self.padded[1:], strict=True)):
            weight = np.zeros((len(networks), units, inputs), np.float32)
            bias = np.zeros((len(networks), 1, units), np.float32)
            for number, network in enumerate(networks):
                own = network.weights[layer]
                weight[number, : own.shape[0], : own.shape[1]] = own
                bias[number, 0, : own.shape[0]] = network.biases[layer]
            self.weights.append(nn.Parameter(_tensor(weight)))
            self.biases.append(nn.Parameter(_tensor(bias)))

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [*self.weights, *self.biases]

    def outputs(self, values: torch.Tensor, masks: Sequence[torch.Tensor] | None = None) -> torch.Tensor:
        """[networks, batch, outputs] from [networks, batch, inputs]. masks: factors of each hidden layer's activations."""
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = torch.baddbmm(bias, values, weight.mT)
            if layer < len(self.weights) - 1:
                values = values if self.linear else values.relu()
                values = values if masks is None else values * masks[layer]
        return values

    @torch.no_grad()
    def losses(self, inputs: torch.Tensor, outputs: torch.Tensor) -> np.ndarray:
        """float64 [networks]: mean squared error of all samples, nothing dropped."""
        count = len(self.sizes)
        total = torch.zeros(count, dtype=torch.float64)
        for first in range(0, len(inputs), _EVALUATED):
            block = inputs[first : first + _EVALUATED].expand(count, -1, -1)
            errors = self.outputs(block) - outputs[first : first + _EVALUATED]
            total += errors.square().sum((1, 2), dtype=torch.float64)
        return (total / outputs.numel()).numpy()

    def network(self, number: int) -> Perceptron:
        """One of the networks, without its padding."""
        weights, biases = [], []
        sizes = self.sizes[number]
        for layer, (inputs, units) in enumerate(itertools.pairwise(sizes)):
            weights.append(self.weights[layer].detach()[number, :units, :inputs].numpy())
            biases.append(self.biases[layer].detach()[number, 0, :units].numpy())
        return Perceptron(tuple(weights), tuple(biases), self.linear)


class _StackTraining:
    """A stack in training. last: each network as it was when last finite."""

    def __init__(self, networks: Sequence[Perceptron], runs: Sequence[TrainingRun]) -> None:
        self.runs, self.stack, self.last = runs, _Stack(networks), list(networks)
        # One rate for the whole stack. The fused update passes over the parameters once.
        self.optimizer = torch.optim.Adam(self.stack.parameters, lr=runs[0].learning_rate, fused=True)
        self.diverged_at: list[int | None] = [None] * len(runs)

    def train(
        self,
        samples: tuple[torch.Tensor, torch.Tensor],
        test_samples: tuple[torch.Tensor, torch.Tensor],
        epochs: int,
        batch_size: int,
        after_epoch: Callable[[int, int, Perceptron], None],
    ) -> list[Trained]:
        losses = np.full((2, len(self.runs), epochs + 1), np.nan)
        for epoch in range(epochs + 1):
            if epoch:
                self._epoch(epoch, *samples, batch_size)
            measured = np.stack([self.stack.losses(*samples), self.stack.losses(*test_samples)])
            for number in range(len(self.runs)):
                if self._still_finite(number, epoch, measured[:, number]):
                    losses[:, number, epoch] = measured[:, number]
                    after_epoch(number, epoch, self.last[number])
            if None not in self.diverged_at:
                break
        results = zip(self.last, *losses, self.diverged_at, strict=True)
        return [Trained(network, train, test, diverged_at) for network, train, test, diverged_at in results]

    def _still_finite(self, number: int, epoch: int, losses: np.ndarray) -> bool:
        """Keep a network that is finite; note where it is not: it stays in the stack, where it reaches no other."""
        if self.diverged_at[number] is not None:
            return False
        network = self.stack.network(number)
        if not network.finite or not np.isfinite(losses).all():
            self.diverged_at[number] = epoch
            return False
        self.last[number] = network
        return True

    def _epoch(self, epoch: int, inputs: torch.Tensor, outputs: torch.Tensor, batch_size: int) -> None:
        count = len(inputs)
        orders = [generator("order", run.name, run.seed, epoch).permutation(count) for run in self.runs]
        order = torch.from_numpy(np.stack(orders))
        masks = self._masks(epoch, count, batch_size)
        for first in range(0, count, batch_size):
            examples = order[:, first : first + batch_size]
            self.optimizer.zero_grad()
            errors = self.stack.outputs(inputs[examples], next(masks)) - outputs[examples]
            errors.square().mean((1, 2)).sum().backward()
            self.optimizer.step()

    def _masks(self, epoch: int, count: int, batch_size: int) -> Iterator[list[torch.Tensor] | None]:
        """Factors of the hidden layers of each batch, [networks, batch, neurons]: 0, or what makes up for those left out."""
        if not any(run.dropout for run in self.runs):
            while True:
                yield None
        drawing = [generator("dropout", run.name, run.seed, epoch) for run in self.runs]
        at_once = max(_DRAWN // batch_size, 1) * batch_size
        for first in range(0, count, at_once):
            block = self._mask_block(drawing, min(at_once, count - first))
            for start in range(0, block[0].shape[1], batch_size):
                yield [mask[:, start : start + batch_size] for mask in block]

    def _mask_block(self, drawing: Sequence[np.random.Generator], count: int) -> list[torch.Tensor]:
        """Factors of the next `count` samples. A network draws for its own neurons alone, of all its hidden layers together."""
        block = [np.ones((len(self.runs), count, neurons), np.float32) for neurons in self.stack.padded[1:-1]]
        for number, run in enumerate(self.runs):
            if run.dropout:
                hidden = self.stack.sizes[number][1:-1]
                kept = _kept(drawing[number], (count, sum(hidden)), run.dropout)
                ends = np.cumsum(hidden)[:-1]
                for mask, own in zip(block, np.split(kept, ends, axis=1), strict=True):
                    np.multiply(own, np.float32(1 / (1 - run.dropout)), out=mask[number, :, : own.shape[1]])
        return [torch.from_numpy(mask) for mask in block]


def _kept(drawing: np.random.Generator, shape: tuple[int, int], dropout: float) -> np.ndarray:
    """bool, True with probability 1 - dropout: from the fewest random bits that hold it exactly, else from 32."""
    for width in (1, 2, 4):
        threshold = dropout * 256**width
        if threshold.is_integer():
            break
    draws = np.frombuffer(drawing.bytes(width * math.prod(shape)), dtype=f"<u{width}")
    return draws.reshape(shape) >= round(threshold)


def _by_number(
    after_epoch: Callable[[int, int, Perceptron], None] | None, numbers: Sequence[int]
) -> Callable[[int, int, Perceptron], None]:
    """`after_epoch` for a stack, whose networks have numbers of their own."""

    def called(number: int, epoch: int, network: Perceptron) -> None:
        if after_epoch is not None:
            after_epoch(numbers[number], epoch, network)

    return called


def _check_samples(which: str, network: Perceptron, inputs: np.ndarray, outputs: np.ndarray) -> None:
    for name, array, width in (("inputs", inputs, network.sizes[0]), ("outputs", outputs, network.sizes[-1])):
        if array.ndim != 2 or array.shape[1] != width or array.dtype != np.float32 or not len(array):
            raise RequestError(
                f"{which} {name} are {array.dtype} of shape {array.shape}; float32 [samples, {width}] was expected by a network "
                f"of sizes {list(network.sizes)}"
            )
        if not np.isfinite(array).all():
            raise RequestError(f"{which} {name} hold NaN or infinity; finite samples were expected")
    if len(inputs) != len(outputs):
        raise RequestError(
            f"{which} has {len(inputs)} inputs and {len(outputs)} outputs; one output for each input was expected"
        )


def _padded(sizes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(max(of_layer) for of_layer in zip(*sizes, strict=True))


def _tensor(array: np.ndarray) -> torch.Tensor:
    """A copy, in memory of torch's own, whose alignment is always the same."""
    return torch.tensor(array, dtype=torch.float32)
