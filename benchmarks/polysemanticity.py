"""The laboratory of polysemanticity: its measures beside captum, its training beside torch's loop, its runs beside their limits.

The thesis calls captum once a neuron and feature, and trains one network at a time.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.measures import in_new_process, timed
from ninscope.neurons.polysemanticity import (
    ModelNeurons,
    TrainingRun,
    degree_of_polysemanticity,
    feature_gradients,
    initial_perceptron,
    neurons_of,
    train_together,
)

Row = tuple[str, float, str, str, float | None]  # name, value, unit, comparison, ratio


def network(sizes: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers = [module for before, after in pairwise(sizes) for module in (nn.Linear(before, after), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def by_captum(
    encoder: nn.Sequential, observed: nn.Sequential, features: int, calls: int
) -> tuple[float, np.ndarray, list]:
    """Seconds of one call, and a sample of gradients with their places among all: evenly spaced over neurons and features."""
    from captum.attr import NeuronIntegratedGradients

    whole = nn.Sequential(*encoder, *observed)
    hidden = [len(encoder) + place for place in range(1, len(observed), 2)]
    every = [
        (layer, neuron, feature)
        for layer in hidden
        for neuron in range(whole[layer - 1].out_features)
        for feature in range(features)
    ]
    sample = every[:: max(len(every) // calls, 1)]

    def call(layer: int, neuron: int, feature: int) -> float:
        point = torch.eye(features)[feature : feature + 1].requires_grad_()
        integrated = NeuronIntegratedGradients(whole, whole[layer])
        found = integrated.attribute(point, neuron, torch.zeros_like(point), n_steps=50, method="riemann_right")
        return found[0, feature].item()

    call(*sample[0])
    start = time.perf_counter()
    found = np.array([call(*place) for place in sample])
    return (time.perf_counter() - start) / len(sample), found, [every.index(place) for place in sample]


def polysemanticity(features: int, sizes: tuple[int, ...], calls: int, runs: int) -> Iterator[Row]:
    """Integrated gradients with 50 steps and P of every hidden neuron, in two threads. sizes: of the observed network."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            encoder, observed = network((features, max(features // 2, 1), sizes[0])), network(sizes)
        neurons = neurons_of(observed, encode=encoder)
        yield from _measured(neurons, encoder, observed, features, calls, runs)
    finally:
        torch.set_num_threads(threads)


def _measured(
    neurons: ModelNeurons, encoder: nn.Sequential, observed: nn.Sequential, features: int, calls: int, runs: int
) -> Iterator[Row]:
    ours = timed(lambda: degree_of_polysemanticity(feature_gradients(neurons, features)), runs)
    number = sum(neurons.sizes.values())
    name = f"P of {number} neurons, {features} features, 50 steps"
    yield name, ours.median * 1e3, "ms", "wanted: 200 ms", ours.median / 0.2
    yield "", ours.best * 1e3, "ms", "(best of the runs)", None
    seconds, found, places = by_captum(encoder, observed, features, calls)
    apart = float(np.abs(found - feature_gradients(neurons, features).ravel()[places]).max())
    whole = seconds * number * features
    yield (
        f"{name}, captum",
        whole,
        "s",
        f"scaled up from {len(found)} calls of {seconds * 1e3:.2f} ms; times ours, wanted: 1000",
        whole / ours.median,
    )
    yield f"{name}, apart from captum", apart * 1e6, "millionths", "(largest of the calls; wanted: 10)", apart / 1e-5


def together(sizes: tuple[int, ...], networks: int, samples: int, epochs: int, runs: int) -> Iterator[Row]:
    """Networks that train as one batch, beside the same calls for one network each. Both in one thread."""
    generator = np.random.default_rng(0)
    started = [initial_perceptron(sizes, False, generator) for _ in range(networks)]
    plans = [TrainingRun(1e-3, 0.0, str(number)) for number in range(networks)]
    inputs, outputs = (generator.random((samples, width), np.float32) for width in (sizes[0], sizes[-1]))

    def train(first: int, last: int) -> None:
        chosen = slice(first, last)
        train_together(started[chosen], plans[chosen], inputs, outputs, inputs, outputs, epochs=epochs)

    def one_by_one() -> None:
        for number in range(networks):
            train(number, number + 1)

    as_one, apart = timed(lambda: train(0, networks), runs), timed(one_by_one, runs)
    shape = "-".join(str(size) for size in sizes)
    yield (
        f"training of {networks} networks {shape}, one batch",
        as_one.best * 1e3,
        "ms",
        f"one by one: {apart.best * 1e3:.0f} ms",
        as_one.best / apart.best,
    )


def laboratory(folder: Path, name: str, section: str, limit: float) -> Iterator[Row]:
    """A whole run with nothing stored. section: [polysemanticity] of its DAG file. limit: seconds that are wanted."""
    dag = folder / f"{name.replace(' ', '-')}.toml"
    dag.write_text(f"[polysemanticity]\n{section}\n")
    code = "import sys\nfrom ninscope_pipeline.cli import main\n"
    code += f"sys.argv = ['ninscope', 'run', {str(dag)!r}, '--runs-dir', {str(folder)!r}]\n"
    code += "try:\n    main()\nexcept SystemExit as end:\n    result = end.code\n"
    done = in_new_process(code)
    if done["result"]:
        raise RuntimeError(f"the run of {name} ended with exit code {done['result']}")
    yield f"run of {name}", done["seconds"], "s", f"wanted: under {limit:g} s", done["seconds"] / limit


OF_THE_THESIS: Sequence[tuple[str, str, float]] = (
    ("L1 with one seed", 'experiments = ["L1"]\nseeds = [0]', 120),
    ("L1 and N1 with three seeds", 'experiments = ["L1", "N1"]\nseeds = [0, 1, 2]', 900),
)
SMALL: Sequence[tuple[str, str, float]] = (
    (
        "a small experiment",
        "seeds = [0]\nratios = [0.2]\n[[polysemanticity.own]]\nname = 'small'\nlinear = true\nfeature_layers = [4]\n"
        "inputs = 3\noutputs = 1\nsparsity = [0.4, 0.6]\nobserved = [3, 8, 4, 1]\nepochs = 1",
        120,
    ),
)
