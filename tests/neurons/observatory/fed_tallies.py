"""Tallies that are shown arrays, as a model would show them."""

from types import SimpleNamespace

import numpy as np
import torch

from ninscope.neurons.observatory.measure import NEXT_TOKENS, OUTPUT, RESIDUAL, TOKENS, Batch, Place


def subject_of(
    samples, positions, layers=(), labels=None, seed=0, has=(TOKENS, NEXT_TOKENS), name="the other", kind=RESIDUAL
):
    """What tallies ask of a subject. layers: its places of one kind."""
    places = tuple(Place(kind, layer) for layer in layers)
    return SimpleNamespace(
        seed=seed,
        name=name,
        has=frozenset(has),
        examples=SimpleNamespace(samples=samples, positions=positions, labels=labels),
        places_of=lambda *kinds: tuple(place for place in places if place.kind in kinds),
    )


def batches_of(values, size, tokens=None, labels=None):
    """(batch, {name: tensor}) of arrays [samples, ...] by name, `size` samples at a time."""
    samples = len(next(iter(values.values())))
    for number, first in enumerate(range(0, samples, size)):
        part = slice(first, first + size)
        batch = Batch(
            number,
            first,
            {},
            None if tokens is None else torch.as_tensor(np.asarray(tokens)[part]),
            None if labels is None else torch.as_tensor(np.asarray(labels)[part]),
        )
        yield batch, {name: torch.as_tensor(array[part]) for name, array in values.items()}


def feed(tally, values, size, kind=RESIDUAL, tokens=None, labels=None):
    """values: arrays by layer, in order; the layer "output" is of the kind OUTPUT."""
    for batch, parts in batches_of(values, size, tokens, labels):
        for layer, part in parts.items():
            tally.see(Place(OUTPUT if layer == "output" else kind, layer), part, batch)
        tally.batch_ended(batch)
    return rows_of(tally.found())


def feed_two(tally, values, others, size, kind, tokens=None, layer="x"):
    """Of a comparison: arrays of two models at one place."""
    for batch, parts in batches_of({"mine": values, "theirs": others}, size, tokens):
        tally.see(Place(kind, layer), parts["mine"], parts["theirs"], batch)
        tally.batch_ended(batch)
    return rows_of(tally.found())


def rows_of(found):
    """(name, layer) -> value."""
    return {(fact.name, fact.layer): fact.value for fact in found.facts}


def counts_of(found):
    return {(fact.name, fact.layer): fact.count for fact in found.facts}


def orthogonal(size, random):
    """A rotation (or one with a reflection) of `size` dimensions."""
    return np.linalg.qr(random.normal(size=(size, size)))[0]


def small_neox(seed=0, **changes):
    """A GPT-NeoX of 2 blocks, width 16, 64 tokens, with drawn weights and biases."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    sizes = {
        "vocab_size": 64,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    torch.manual_seed(seed)
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**(sizes | {"max_position_embeddings": 64} | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def permuted_neox(model, seed=1):
    """The same function: hidden neurons of every MLP in another order."""
    from copy import deepcopy

    same = deepcopy(model)
    for layer in same.gpt_neox.layers:
        mlp = layer.mlp
        order = torch.from_numpy(np.random.default_rng(seed).permutation(mlp.dense_4h_to_h.weight.shape[1]))
        mlp.dense_h_to_4h.weight.data = mlp.dense_h_to_4h.weight.data[order]
        mlp.dense_h_to_4h.bias.data = mlp.dense_h_to_4h.bias.data[order]
        mlp.dense_4h_to_h.weight.data = mlp.dense_4h_to_h.weight.data[:, order]
    return same


def looked_at(frame):
    """(measure, layer, against) -> value of a table of `look`."""
    return {(row.measure, row.layer, row.against): row.value for row in frame.itertuples()}
