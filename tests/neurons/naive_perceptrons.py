"""The oracle of training and pruning: one network at a time, torch's own modules, plain loops. Imports nothing from ninscope."""

import hashlib
import json

import numpy as np
import torch
from torch import nn


def keyed(purpose, name, seed, epoch):
    words = np.frombuffer(hashlib.sha256(json.dumps([purpose, name, epoch]).encode()).digest(), dtype="<u4")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *map(int, words)])))


class Masked(nn.Module):
    """Dropout by a given mask: `kept` [samples, neurons] bools, of the samples of one epoch in the order in which they come."""

    def __init__(self, dropout):
        super().__init__()
        self.dropout, self.kept, self.at = dropout, None, 0

    def forward(self, values):
        if not self.training:
            return values
        kept = self.kept[self.at : self.at + len(values)]
        self.at += len(values)
        return values * torch.tensor(kept).float() / (1 - self.dropout)


def module_of(weights, biases, linear, dropout=0.0):
    layers = []
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
        layers.append(layer)
        if number < len(weights) - 1:
            layers += [nn.Identity() if linear else nn.ReLU(), Masked(dropout)]
    return nn.Sequential(*layers)


def train(module, inputs, outputs, *, rate, dropout, name, seed, epochs, batch_size):
    """Weights and biases after training, and the loss on all samples at epoch 0 and after each epoch. dropout: 0 or 0.5."""
    inputs, outputs = torch.tensor(inputs), torch.tensor(outputs)
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    error = nn.MSELoss()

    def loss():
        module.eval()
        with torch.no_grad():
            return float(error(module(inputs), outputs))

    losses = [loss()]
    for epoch in range(1, epochs + 1):
        order = keyed("order", name, seed, epoch).permutation(len(inputs))
        masks = [layer for layer in module if isinstance(layer, Masked)]
        widths = [layer.out_features for layer in module if isinstance(layer, nn.Linear)][:-1]
        draws = keyed("dropout", name, seed, epoch).bytes(len(inputs) * sum(widths))
        rows = np.frombuffer(draws, np.uint8).reshape(len(inputs), sum(widths))
        for number, mask in enumerate(masks):
            own = rows[:, sum(widths[:number]) : sum(widths[: number + 1])]
            mask.kept, mask.at = own >= 128 if dropout else np.ones_like(own), 0
        module.train()
        for first in range(0, len(inputs), batch_size):
            batch = order[first : first + batch_size]
            optimizer.zero_grad()
            error(module(inputs[batch]), outputs[batch]).backward()
            optimizer.step()
        losses.append(loss())
    layers = [layer for layer in module if isinstance(layer, nn.Linear)]
    return (
        [layer.weight.detach().numpy() for layer in layers],
        [layer.bias.detach().numpy() for layer in layers],
        losses,
    )


def kept_neurons(weights, count):
    """Which neurons stay in each hidden layer when the `count` of the least mean absolute input weight go, ties in order."""
    ranking = []
    for layer, weight in enumerate(weights[:-1]):
        for neuron, row in enumerate(weight):
            ranking.append((sum(abs(float(value)) for value in row) / len(row), layer, neuron))
    gone = {(layer, neuron) for _, layer, neuron in sorted(ranking)[:count]}
    return [
        [neuron for neuron in range(len(weight)) if (layer, neuron) not in gone]
        for layer, weight in enumerate(weights[:-1])
    ]


def outputs_with_silent(weights, biases, linear, kept, inputs):
    """float64 outputs of a network whose other hidden neurons are forced to 0."""
    values = np.asarray(inputs, np.float64)
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        values = values @ np.asarray(weight, np.float64).T + np.asarray(bias, np.float64)
        if layer < len(weights) - 1:
            values = values if linear else np.where(values > 0, values, 0.0)
            silent = [neuron for neuron in range(len(weight)) if neuron not in kept[layer]]
            values[:, silent] = 0.0
    return values
