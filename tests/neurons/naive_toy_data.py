"""Toy data in plain loops, which share no code with ninscope."""


def hidden_layers(min_neurons, max_neurons, num_features, generator):
    """Algorithm 1 of the thesis line by line, with both mends: the rest that is appended is used up, and a draw from an empty
    range takes all that remains.
    """
    layers = []
    remaining = num_features
    upper = max_neurons
    lower = (max_neurons + min_neurons) // 2
    while remaining > 0:
        if remaining >= min_neurons:
            low, high = lower, min(remaining, upper)
            if low > high:
                low = high  # mended
            neurons = int(generator.integers(low, high + 1))
            layers.append(neurons)
            remaining -= neurons
        else:
            for i in range(len(layers)):
                added = min(max_neurons - layers[i], remaining)
                layers[i] += added
                remaining -= added
                if remaining == 0:
                    break
            if remaining > 0:
                layers.append(remaining)
                remaining = 0  # mended
        if remaining <= upper:
            upper = lower
            lower = (min_neurons + upper) // 2
    return tuple(layers)


def layer(weight, bias, values, relu):
    """What one layer gives for one sample, in float64."""
    result = []
    for row, constant in zip(weight, bias, strict=True):
        total = float(constant)
        for factor, value in zip(row, values, strict=True):
            total += float(factor) * float(value)
        result.append(max(total, 0.0) if relu else total)
    return result


def network(weights, biases, values, linear):
    """What each layer of a network gives for one sample; no activation function at the last."""
    given = []
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        values = layer(weight, bias, values, relu=not linear and i < len(weights) - 1)
        given.append(values)
    return given
