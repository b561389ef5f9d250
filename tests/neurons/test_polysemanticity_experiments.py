"""Controlled experiments: their settings, what is refused, and random numbers keyed by what they are for."""

import math
import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from ninscope.errors import RequestError
from ninscope.neurons.polysemanticity.experiments import EXPERIMENTS, Experiment
from ninscope.neurons.polysemanticity.keyed_randomness import generator

SMALL = Experiment("small", False, 6, (4, 2), 3, 2, (0.5, 0.7), (3, 8, 4, 2), samples_per_output=20)


def test_the_six_experiments_are_the_thesis():
    assert {name: experiment.samples for name, experiment in EXPERIMENTS.items()} == {
        "L1": 3200,
        "L2": 6400,
        "N1": 1600,
        "N2": 3200,
        "N3": 6400,
        "N4": 12800,
    }
    assert [experiment.name for experiment in EXPERIMENTS.values() if experiment.linear] == ["L1", "L2"]
    assert EXPERIMENTS["N4"].feature_layers == (64, 48, 16)
    assert EXPERIMENTS["N1"].observed == (5, 64, 16, 16, 2)


def test_samples_and_the_share_held_out():
    assert (SMALL.samples, SMALL.test_samples) == (240, 72)


def test_lists_become_tuples():
    assert replace(SMALL, feature_layers=[4, 2], observed=[3, 8, 4, 2], sparsity=[0.5, 0.7]) == SMALL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "an experiment's name is ''; 1 to 64 letters"),
        ({"name": "../a"}, "an experiment's name is '../a'; 1 to 64 letters"),
        ({"name": 3}, "an experiment's name is 3"),
        ({"linear": 1}, "small: linear is 1; true or false was expected"),
        ({"features": 0}, "small: features is 0; an integer from 2 to"),
        ({"features": True}, "small: features is True; an integer from 2 to"),
        ({"feature_layers": ()}, "feature_layers has 0 neurons and features is 6"),
        ({"feature_layers": (4, 3)}, "feature_layers has 7 neurons and features is 6; each neuron is a feature"),
        ({"feature_layers": (5, 1)}, "feature_layers: a layer is 1; an integer from 2 to"),
        ({"feature_layers": 6}, "feature_layers is 6; a list of layer sizes was expected"),
        ({"feature_layers": "42"}, "feature_layers is '42'; a list of layer sizes was expected"),
        ({"inputs": 0}, "small: inputs is 0; an integer from 1 to"),
        ({"inputs": 4}, r"observed is \[3, 8, 4, 2\]; a list was expected that begins with inputs \(4\)"),
        ({"outputs": 3}, r"ends with outputs \(3\)"),
        ({"observed": (3, 2)}, "has at least one hidden layer"),
        ({"observed": (3, 0, 2)}, "observed: a layer is 0; an integer from 1 to"),
        ({"sparsity": (0.5, 1.0)}, "sparsity is .*; two probabilities were expected.* at 1 a feature is in no sample"),
        ({"sparsity": (-0.1, 0.5)}, "two probabilities were expected"),
        ({"sparsity": (0.7, 0.5)}, "two probabilities were expected"),
        ({"sparsity": (math.nan, 0.5)}, "two probabilities were expected"),
        ({"sparsity": 0.5}, "two probabilities were expected"),
        ({"sparsity": (0.1, 0.2, 0.3)}, "two probabilities were expected"),
        ({"threshold": 1.0}, "threshold is 1.0; a number from 0 to below 1 was expected"),
        ({"threshold": "a"}, "threshold is 'a'; a number from 0 to below 1 was expected"),
        ({"test_share": 0.0}, "test_share is 0.0; a number above 0 to below 1 was expected"),
        ({"test_share": 0.001}, "test_share is 0.001; .* holds out 0, and there must be some on both sides"),
        ({"learning_rate": 0}, "learning_rate is 0; a number above 0 was expected"),
        ({"learning_rate": math.inf}, "learning_rate is inf; a number above 0 was expected"),
        ({"epochs": 0}, "epochs is 0; an integer from 1 to"),
        ({"batch_size": 0}, "batch_size is 0; an integer from 1 to"),
        ({"samples_per_output": 0}, "samples_per_output is 0; an integer from 1 to"),
        (
            {"samples_per_output": 1_000_000, "outputs": 20, "observed": (3, 8, 20)},
            "ask for fewer features, outputs or",
        ),
        ({"observed": (3, 100_000, 100_000, 2)}, "parameters, more than .*; ask for smaller layers"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    with pytest.raises(RequestError, match=message):
        replace(SMALL, **change)


def test_a_generator_follows_from_its_key_alone():
    first = generator("split", "L1", 0, 0.5).integers(2**63, size=4)
    random.seed(1)
    np.random.default_rng(2).random(3)
    assert np.array_equal(first, generator("split", "L1", 0, 0.5).integers(2**63, size=4))


def test_every_part_of_a_key_counts():
    keys = [
        ("split", "L1", 0),
        ("order", "L1", 0),
        ("split", "L2", 0),
        ("split", "L1", 1),
        ("split", "L1", 0, "0"),
        ("split", "L1", 0, 0),
        ("splitL1", "", 0),
        ("split", "L1", 2**63 - 1),
    ]
    assert len({int(generator(*key).integers(2**63)) for key in keys}) == len(keys)


@pytest.mark.parametrize("seed", [-1, 2**63, 0.5, True])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(RequestError, match=r"seed is .*; an integer from 0 to 9223372036854775807 was expected"):
        generator("split", "L1", seed)


def test_experiments_need_no_torch():
    code = (
        "import sys; import ninscope.neurons.polysemanticity.experiments, ninscope.neurons.polysemanticity.keyed_randomness\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
