"""Sign flips: weights one by one, planted flips, and the stage that compares checkpoints on disk."""

import math
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from fed_tallies import looked_at, permuted_neox, rows_of, small_neox  # noqa: E402

from ninscope.checkpoints.in_memory import REVISION, in_memory_source  # noqa: E402
from ninscope.errors import CheckpointError  # noqa: E402
from ninscope.networks.neuron_network import neuron_network  # noqa: E402
from ninscope.neurons import look  # noqa: E402
from ninscope.neurons.observatory.measures import sign_flips  # noqa: E402
from ninscope.neurons.observatory.registry import measures  # noqa: E402
from ninscope.weights.changes import network_changes  # noqa: E402


def weights_only(name="step 0", **matrices):
    """A model whose modules were named, so that its parameters are its matrices."""
    tensors = {key: torch.as_tensor(value) for key, value in matrices.items()}
    return SimpleNamespace(name=name, places=SimpleNamespace(network=None), matrices=lambda: iter(tensors.items()))


def plain(weights, others, epsilon):
    """(flipped, kept), one weight after another."""
    rms = [math.sqrt(sum(float(w) ** 2 for w in m.flat) / m.size) for m in (weights, others)]
    flipped = kept = 0
    for a, b in zip(weights.flat, others.flat, strict=True):
        if abs(a) >= epsilon * rms[0] and abs(b) >= epsilon * rms[1]:
            kept += 1
            flipped += bool(a * b < 0)
    return flipped, kept


@pytest.mark.parametrize("values", [1 << 20, 17])
def test_shares_are_those_of_weights_one_by_one(values, monkeypatch):
    monkeypatch.setattr(sign_flips, "_VALUES", values)
    random = np.random.default_rng(0)
    before = {"a": random.normal(size=(9, 8)), "b": 100 * random.normal(size=(5, 4, 3))}
    now = {name: matrix + random.normal(size=matrix.shape) for name, matrix in before.items()}
    now["a"][0, :3] = 0
    found = rows_of(measures()["sign_flips"].found(weights_only("step 1", **now), weights_only(**before)))
    for row, epsilon in (("sign_flips", 0.01), ("sign_flips_epsilon_0", 0.0), ("sign_flips_epsilon_0.1", 0.1)):
        counts = [plain(now[name], before[name], epsilon) for name in ("a", "b")]
        for name, (flipped, kept) in zip(("a", "b"), counts, strict=True):
            assert found[row, name] == flipped / kept
        assert found[row, "all"] == sum(f for f, _ in counts) / sum(k for _, k in counts)
    assert found["sign_flips_left_out", "a"] == 1 - plain(now["a"], before["a"], 0.01)[1] / 72
    assert found["sign_flips_left_out", "a"] > 0


def test_planted_flips_are_counted_and_tiny_weights_are_not():
    before = np.ones((4, 5), np.float32)
    now = before.copy()
    now[0, :3] = -2  # three flips
    now[1, :2] = -1e-4  # two near 0, below 0.01 of the root mean square
    found = measures()["sign_flips"].found(weights_only("step 1", w=now), weights_only(w=before))
    rows, counts = rows_of(found), {fact.name: fact.count for fact in found.facts if fact.layer == "w"}
    assert rows["sign_flips", "w"] == 3 / 18
    assert rows["sign_flips_epsilon_0", "w"] == 5 / 20
    assert rows["sign_flips_left_out", "w"] == pytest.approx(2 / 20)
    assert counts == {
        "sign_flips": 18,
        "sign_flips_epsilon_0": 20,
        "sign_flips_epsilon_0.1": 18,
        "sign_flips_left_out": 20,
    }


def test_of_half_precision_signs_are_exact():
    before = torch.tensor([[1e-7, -3e4, 2.0, 0.5]], dtype=torch.float16)
    found = rows_of(measures()["sign_flips"].found(weights_only("step 1", w=-before), weights_only(w=before)))
    assert found["sign_flips", "w"] == 1  # of the one that is not tiny beside 3e4
    assert found["sign_flips_epsilon_0", "w"] == 1


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"w": np.ones((2, 2))}, r"matrix w has shape \[2, 3\], and step 0 has shape \[2, 2\]; compare checkpoints of"),
        ({"v": np.ones((2, 3))}, r"matrix w has shape \[2, 3\], and step 0 has no such matrix; compare checkpoints of"),
    ],
    ids=["shape", "absent"],
)
def test_other_matrices_are_refused(other, expected):
    with pytest.raises(CheckpointError, match=expected):
        measures()["sign_flips"].found(weights_only("step 1", w=np.ones((2, 3))), weights_only(**other))


def test_without_an_epsilon_it_agrees_with_the_comparison_of_checkpoints():
    model, start = small_neox(0), small_neox(1)
    start.gpt_neox.layers[1].attention.dense.weight.data = model.gpt_neox.layers[1].attention.dense.weight.data.clone()
    networks = [neuron_network(in_memory_source(one).open(REVISION)) for one in (model, start)]
    changes = network_changes(*networks, "step 0").changes
    tokens = np.zeros((1, 4), np.int64)
    found = looked_at(look(model, tokens, "sign_flips", other={"start": start}))
    mine = {layer: value for (name, layer, _), value in found.items() if name == "sign_flips_epsilon_0"}
    assert mine == pytest.approx({name: change.sign_flips for name, change in changes.items()}, abs=1e-15)
    assert 0 in mine.values()


def test_convolutions_in_groups_are_counted_without_what_fills_them():
    layers = [torch.nn.Conv2d(4, 6, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(6, 6, 3, padding=1, groups=3)]
    model = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(96, 2))
    start = deepcopy(model)
    start[2].weight.data[:2] *= -1  # a third
    found = look(model, np.zeros((1, 4, 4, 4), np.float32), "sign_flips", other={"start": start}, controls="none")
    rows = found[(found["measure"] == "sign_flips_epsilon_0") & (found["value"] > 0) & (found["layer"] != "all")]
    assert rows["value"].tolist() == [pytest.approx(1 / 3)]
    assert rows["count"].tolist() == [6 * 2 * 9]


def test_look_needs_no_text_and_gives_no_control():
    model = small_neox(0)
    found = look(model, np.zeros((1, 4), np.int64), "sign_flips", other={"previous": deepcopy(model)})
    assert set(found["control"]) == {"none"}
    assert found[found["measure"] == "sign_flips"]["value"].max() == 0
    flipped = look(model, np.zeros((1, 4), np.int64), "sign_flips", other={"previous": permuted_neox(model)})
    assert flipped[flipped["measure"] == "sign_flips"]["value"].max() > 0.3  # the same function
