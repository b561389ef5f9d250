"""A run over files of a perceptron gives, to the last bit, the numbers that `network_measures` takes from arrays."""

from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
import tomli_w
from driving import command
from safetensors.numpy import save_file

import ninscope
from ninscope.neurons.polysemanticity.structure import chain, network_measures, prepared_start

pytestmark = pytest.mark.usefixtures("undrawn")

SIZES = (10, 60, 24, 2)
PLACES = ("input", "hidden1", "hidden2", "output")
BLOCKS = [
    {"tensor": f"layers.{number}.weight", "source": PLACES[number], "target": PLACES[number + 1]} for number in range(3)
]


@pytest.fixture(scope="module")
def steps():
    """Weights of a perceptron that trained, and of one whose second layer lost its edges: unlike counts."""
    rng = np.random.default_rng(0)
    start = [
        (rng.uniform(-1, 1, (units, inputs)) / inputs**0.5).astype(np.float32) for inputs, units in pairwise(SIZES)
    ]
    grown = [(matrix * rng.lognormal(0.2, 0.4, matrix.shape[1])).astype(np.float32) for matrix in start]
    return {0: start, 1: grown, 2: [grown[0], grown[1] * np.float32(1e-4), grown[2]]}


@pytest.fixture(scope="module")
def table(steps, tmp_path_factory):
    place = tmp_path_factory.mktemp("perceptron")
    for step, weights in steps.items():
        folder = place / "source" / f"step{step}"
        folder.mkdir(parents=True)
        save_file({f"layers.{n}.weight": matrix for n, matrix in enumerate(weights)}, folder / "model.safetensors")
    dag = {
        "name": "perceptron",
        "analysis": {"nodes_per_layer": "all"},
        "controls": {"seed": 5},
        "architecture": {"name": "perceptron", "blocks": BLOCKS},
        "models": [{"suite": "toy", "model": "perceptron", "source": str(place / "source")}],
    }
    (place / "perceptron.toml").write_text(tomli_w.dumps(dag))
    ended = command("run", place / "perceptron.toml", "--runs-dir", place)
    assert ended.code == 0, ended.err
    run = ninscope.open_run(place / "perceptron")
    exact = run.table("emergence").set_index("step")
    return run.table("controls").set_index("step").join(exact[["alpha0", "width"]])


def test_the_description_is_the_same():
    assert [[block.tensor, block.source, block.target] for block in chain(3).blocks] == [
        list(b.values()) for b in BLOCKS
    ]


@pytest.mark.parametrize("step", [0, 1, 2])
def test_every_number_is_that_of_the_run(steps, table, step):
    found = asdict(network_measures(steps[step], prepared_start(steps[0]), seed=5))
    row = table.loc[step]
    for name in set(found) - {"message", "warning"}:
        np.testing.assert_equal(found[name], float(row[name]), err_msg=name)
    assert ("unlike networks" in found["message"]) == ("unlike networks" in str(row["message"])) == (step == 2)
