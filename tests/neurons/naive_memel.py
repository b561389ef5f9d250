"""The oracle of MEmeL: loops over values and the whole history, numpy and plain Python. It imports nothing from ninscope."""

import math

import numpy as np


def history_of(batches, masks=None, feature_dim=None):
    """Every neuron's values so far, a list for each. batches: arrays [samples, ...]; masks: beside each of them None or bools over
    its leading dimensions, False at padding. feature_dim: which dimension counts neurons (not negative); None: each position is
    one, in C order."""
    shape = batches[0].shape[1:]
    history = [[] for _ in range(shape[feature_dim - 1] if feature_dim else math.prod(shape))]
    for batch, kept in zip(batches, masks or [None] * len(batches), strict=True):
        for index in np.ndindex(batch.shape):
            if kept is None or kept[index[: kept.ndim]]:
                neuron = index[feature_dim] if feature_dim else np.ravel_multi_index(index[1:], shape)
                history[neuron].append(float(batch[index]))
    return history


def two_pass(history):
    """(count, mean, variance with n-1) of every neuron over all its values. history: as `history_of` gives it."""
    count, mean, variance = (np.zeros(len(history)) for _ in range(3))
    for neuron, values in enumerate(history):
        count[neuron] = len(values)
        if values:
            mean[neuron] = math.fsum(values) / len(values)
        if len(values) > 1:
            variance[neuron] = math.fsum((value - mean[neuron]) ** 2 for value in values) / (len(values) - 1)
    return count, mean, variance


def forgetting(batches, forget):
    """(mean, variance) after Algorithm 1 as printed, for batches [b, neurons] of one size."""
    mean = variance = None
    m = 0
    for step, batch in enumerate(batches):
        b = len(batch)
        of_batch, spread = batch.mean(0), ((batch - batch.mean(0)) ** 2).mean(0)
        if step == 0:
            mean, variance, m = of_batch, spread * b / (b - 1), b
        elif step < forget:
            gap = (mean - of_batch) ** 2
            variance = m * b * gap / ((m + b - 1) * (m + b)) + (b * spread + (m - 1) * variance) / (m + b - 1)
            mean, m = (m * mean + b * of_batch) / (m + b), m + b
        else:
            gap = (mean - of_batch) ** 2
            n = forget
            variance = n * gap / ((n + 1 - 1 / b) * (n + 1)) + (spread + (n - 1 / b) * variance) / (n + 1 - 1 / b)
            mean = (n * mean + of_batch) / (n + 1)
    return mean, variance


def scales(values, mean, variance, epsilon):
    """phi of every value. values: [..., neurons]; where the denominator is 0, 0."""
    denominator = variance + epsilon * variance.mean()
    found = np.zeros(np.shape(values))
    for index in np.ndindex(found.shape):
        if denominator[index[-1]] > 0:
            found[index] = (values[index] - mean[index[-1]]) ** 2 / denominator[index[-1]]
    return found


def largest_of(phi, kept, number):
    """Flat places of the `number` largest scales of one sample, largest first. phi: [tokens, neurons]; kept: [tokens]."""
    listed = [
        (-phi[token, neuron], token * phi.shape[1] + neuron)
        for token in range(phi.shape[0])
        for neuron in range(phi.shape[1])
        if kept[token]
    ]
    return [index for _, index in sorted(listed)[:number]]
