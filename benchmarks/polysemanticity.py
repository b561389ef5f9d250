"""Polysemanticity of all neurons, beside one call of captum a neuron and feature, as the thesis does it."""

import time
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from benchmarks.measures import timed
from ninscope.neurons.polysemanticity import ModelNeurons, degree_of_polysemanticity, feature_gradients, neurons_of

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
