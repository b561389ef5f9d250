"""Models whose hidden neurons, or last features, are the numbers that a test gives: the first matrix is the identity."""

import numpy as np
import torch
from torch import nn

from ninscope.neurons.observatory.examples import Examples
from ninscope.neurons.observatory.measure import NONE
from ninscope.neurons.observatory.passes import observe
from ninscope.neurons.observatory.registry import chosen
from ninscope.neurons.observatory.subject import Subject


def linear(weights, bias=None):
    weights = np.asarray(weights, np.float32)
    layer = nn.Linear(weights.shape[1], weights.shape[0])
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weights))
        layer.bias.copy_(torch.as_tensor(0.0 if bias is None else np.asarray(bias, np.float32)))
    return layer


def classifier(head, bias=None):
    """head: [classes, width]."""
    return nn.Sequential(linear(np.eye(np.shape(head)[1])), linear(head, bias))


def subject_of(features, labels, classes=2, head=None, batch=7, seed=0, names=None):
    """features: [n, ..., width], which are the model's hidden neurons and its last features."""
    features = np.asarray(features, np.float32)
    width = features.shape[-1]
    head = np.eye(classes, width) if head is None else head
    named = names or tuple(f"class {number}" for number in range(classes))
    kept = None if labels is None else np.asarray(labels, np.int64)
    return Subject("it", classifier(head), Examples("arrays", features, batch, kept, named), seed)


def seen(subject, name, control=NONE):
    (observation,) = observe(subject, chosen(name), control)
    return observation


def facts_of(subject, name, control=NONE):
    """By name and layer; of one layer, by name."""
    observation = seen(subject, name, control)
    assert observation.error is None, observation.error
    facts = {(fact.name, fact.layer): fact for fact in observation.found.facts}
    layers = {layer for _, layer in facts}
    return {fact: value for (fact, _), value in facts.items()} if len(layers) == 1 else facts


def values_of(subject, name):
    return {value.name: value.values for value in seen(subject, name).found.values}


def refusal(subject, name):
    error = seen(subject, name).error
    assert error is not None
    return str(error)
