"""The oracle of polysemanticity: loops over neurons, features and steps in plain Python. It imports nothing but math."""

import math


def degree(row):
    sizes = [abs(value) for value in row]
    return math.fsum(sizes) / max(sizes) if max(sizes) else 0.0


def shares(row):
    total = math.fsum(abs(value) for value in row)
    return [abs(value) / total if total else 0.0 for value in row]


def entropy(row):
    if len(row) == 1:
        return 0.0
    return math.fsum(-share * math.log(share) for share in shares(row) if share) / math.log(len(row))


def total(rows):
    """Definition 11. rows: one a neuron."""
    features = range(len(rows[0]))
    return math.fsum(min(1.0, math.fsum(shares(row)[feature] for row in rows)) for feature in features) / len(features)


def monosemanticity(row, delta=1e-10):
    """The printed formula; 0 for a neuron that nothing activates."""
    active = math.fsum(value for value in row if value > 0)
    return max(row) / (delta + active) if active else 0.0


def capacities(rows):
    """The printed formula, a pair of columns at a time."""
    columns = list(zip(*rows, strict=True))

    def inner(i, j):
        return math.fsum(a * b for a, b in zip(columns[i], columns[j], strict=True))

    return [
        inner(i, i) ** 2 / math.fsum(inner(i, j) ** 2 for j in range(len(columns))) if any(columns[i]) else 0.0
        for i in range(len(columns))
    ]


def affine(weight, bias, values):
    return [
        math.fsum([w * v for w, v in zip(row, values, strict=True)] + [b]) for row, b in zip(weight, bias, strict=True)
    ]


def derivatives(layers, values, direction):
    """Derivative along a direction of the neurons of every hidden layer, one list for all layers.

    layers: (weight, bias, activation) of each layer, the hidden ones and those before them; activation: (whether its neurons
    count, the function, its derivative).
    """
    found = []
    for weight, bias, (counts, function, slope) in layers:
        before = affine(weight, bias, values)
        along = affine(weight, [0.0] * len(weight), direction)
        values = [function(value) for value in before]
        direction = [slope(value) * moved for value, moved in zip(before, along, strict=True)]
        found += direction if counts else []
    return found


def integrated_gradients(layers, features, steps, baseline=None):
    """Definition 12, one row a neuron: from the baseline to the baseline with one feature raised by 1, at i / n for i = 1 to n."""
    baseline = baseline or [0.0] * features
    columns = []
    for feature in range(features):
        unit = [float(other == feature) for other in range(features)]
        at_steps = [
            derivatives(layers, [b + step / steps * u for b, u in zip(baseline, unit, strict=True)], unit)
            for step in range(1, steps + 1)
        ]
        columns.append([math.fsum(values) / steps for values in zip(*at_steps, strict=True)])
    return [list(row) for row in zip(*columns, strict=True)]
