"""Which values MEmeL deactivates: how many, of what, from when on, and which ways of asking for it are refused."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from neurons.naive_memel import history_of, scales, two_pass  # noqa: E402

from ninscope.errors import RequestError  # noqa: E402
from ninscope.neurons.memel import MEmeL, NeuronSelection  # noqa: E402

SELECTIONS = ["top-1", "top-7", {"fraction": 0.1}, {"threshold": 3.0}]


def drawn(rng, *shape):
    return torch.from_numpy(rng.normal(size=shape)).float()


def changed(layer, h, mask=None):
    """Of every sample the flat places whose values are not what they were."""
    differ = (layer(h, mask) != h).flatten(1)
    return [sample.nonzero().flatten().tolist() for sample in differ]


def phi_of(seen, h, neurons):
    _, mean, variance = two_pass(history_of([seen.double().numpy()], None, 2 if neurons == "features" else None))
    return scales(h.double().numpy().reshape(len(h), -1, len(mean)), mean, variance, 0.01).reshape(len(h), -1)


@pytest.mark.parametrize("neurons", ["features", "positions"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("number", [1, 2, 30, 100])
def test_top_k_are_the_largest_of_every_sample(rng, number, dtype, neurons):
    layer, seen, h = (
        MEmeL(late_start=1, select=f"top-{number}", neurons=neurons),
        drawn(rng, 9, 6, 5),
        drawn(rng, 3, 6, 5),
    )
    layer(seen.to(dtype))
    phi = phi_of(seen, h, neurons)
    wanted = [sorted(np.argsort(-sample)[:number].tolist()) for sample in phi]
    assert changed(layer, h.to(dtype)) == wanted


@pytest.mark.parametrize("neurons", ["features", "positions"])
@pytest.mark.parametrize("part", [1e-12, 0.01, 0.3, 0.5, 0.999, 1, 1.0])
def test_a_fraction_is_of_the_values_that_count(rng, part, neurons):
    layer, seen, h = (
        MEmeL(late_start=1, select={"fraction": part}, neurons=neurons),
        drawn(rng, 9, 6, 5),
        drawn(rng, 4, 6, 5),
    )
    layer(seen)
    lengths = np.array([6, 4, 1, 0])
    kept = np.arange(6) < lengths[:, None]
    phi = np.where(np.repeat(kept, 5, 1), phi_of(seen, h, neurons), -1)
    wanted = []
    for sample, length in zip(phi, lengths, strict=True):
        number = max(math.ceil(round(part * length * 5, 9)), 1) if length else 0
        wanted.append(sorted(np.argsort(-sample)[:number].tolist()))
    assert changed(layer, h, torch.from_numpy(kept)) == wanted


@pytest.mark.parametrize("neurons", ["features", "positions"])
@pytest.mark.parametrize("least", [0, 0.5, 4.0, 1e9])
def test_a_threshold_knows_no_number(rng, least, neurons):
    layer, seen, h = (
        MEmeL(late_start=1, select={"threshold": least}, neurons=neurons),
        drawn(rng, 9, 6, 5),
        drawn(rng, 4, 6, 5),
    )
    layer(seen)
    kept = rng.random((4, 6)) < 0.7
    chosen = (phi_of(seen, h, neurons) > least) & np.repeat(kept, 5, 1)
    assert changed(layer, h, torch.from_numpy(kept)) == [np.flatnonzero(sample).tolist() for sample in chosen]


@pytest.mark.parametrize("select", SELECTIONS, ids=str)
@pytest.mark.parametrize("neurons", ["features", "positions"])
def test_padding_is_never_selected(rng, neurons, select):
    layer = MEmeL(late_start=1, select=select, neurons=neurons)
    layer(drawn(rng, 9, 6, 5))
    h, kept = drawn(rng, 4, 6, 5), torch.arange(6) < torch.tensor([[6], [3], [1], [0]])
    h[~kept] = torch.tensor([1e6, float("nan"), float("inf"), 0, -1e9])
    out = layer(h, kept)
    assert torch.equal(out[~kept].nan_to_num(), h[~kept].nan_to_num())
    assert (out[:3] != h[:3])[kept[:3]].any()


@pytest.mark.parametrize("select", SELECTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_positions_that_were_padding_so_far_are_not_selected(rng, select, dtype):
    """Nothing is known of them: a first token behind all earlier texts' ends is no monosemantic one."""
    layer = MEmeL(late_start=1, select=select, neurons="positions")
    layer(drawn(rng, 9, 6, 5).to(dtype), (torch.arange(6) < 4).expand(9, 6))
    h = drawn(rng, 4, 6, 5).to(dtype)
    h[:, 4:] += 50
    h[:, 0, 0] += 50
    out = layer(h, torch.ones(4, 6))
    assert torch.equal(out[:, 4:], h[:, 4:])
    assert (out[:, 0, 0] != h[:, 0, 0]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("number", [1, 4])
def test_of_equals_so_many_are_taken_as_were_asked(dtype, number):
    layer = MEmeL(late_start=1, select=f"top-{number}")
    layer(torch.tensor([[0.0, 0, 0, 0, 0, 0], [2, 2, 2, 2, 2, 2]], dtype=dtype))
    h = torch.full((3, 6), 9.0, dtype=dtype)
    first = layer(h.clone())
    assert (first != h).sum(1).tolist() == [number] * 3
    assert (first == 1).sum(1).tolist() == [number] * 3


def test_a_value_at_its_mean_has_nothing_to_lose():
    layer = MEmeL(late_start=1, select="top-3")
    layer(torch.tensor([[0.0, 0, 0], [2, 2, 2]]))
    h = torch.tensor([[1.0, 1, 4]], requires_grad=True)
    layer(h).sum().backward()
    assert h.grad.tolist() == [[1, 1, -1]]


@pytest.mark.parametrize("select", SELECTIONS, ids=str)
@pytest.mark.parametrize("late_start", [0, 1, 4])
def test_late_start_changes_nothing_before_its_step_and_learns_all_along(rng, late_start, select):
    """The first batch, of which nothing is known, is left as it is even without a late start."""
    layer, always = MEmeL(late_start=late_start, select=select), MEmeL(late_start=0, select=select)
    for step in range(7):
        h = drawn(rng, 4, 6, 5).requires_grad_()
        out = layer(h)
        out.sum().backward()
        assert torch.equal(out, h) == (step < max(late_start, 1))
        assert bool((h.grad == 1).all()) == (step < max(late_start, 1))
        always(h)
        assert all(torch.equal(one, other) for one, other in zip(layer.buffers(), always.buffers(), strict=True))
    assert layer.scale.steps == 7


@pytest.mark.parametrize("select", SELECTIONS, ids=str)
@pytest.mark.parametrize("neurons", ["features", "positions"])
def test_evaluation_is_the_identity(rng, neurons, select):
    layer = MEmeL(late_start=0, select=select, neurons=neurons)
    for _ in range(2):
        layer(drawn(rng, 4, 6, 5))
    before = [buffer.clone() for buffer in layer.buffers()]
    layer.eval()
    for h in (drawn(rng, 4, 6, 5) * 100, torch.full((4, 6, 5), float("nan")), drawn(rng, 1, 2, 3)):
        assert layer(h) is h
    assert all(torch.equal(one, other) for one, other in zip(layer.buffers(), before, strict=True))


@pytest.mark.parametrize("select", SELECTIONS, ids=str)
@pytest.mark.parametrize("neurons", ["features", "positions"])
def test_batches_of_one_of_none_and_of_padding_alone(rng, neurons, select):
    layer = MEmeL(late_start=0, select=select, neurons=neurons)
    for step in range(4):
        h = drawn(rng, 1, 6, 5)
        assert torch.equal(layer(h), h) == (step < (2 if neurons == "positions" else 1))
    before = [buffer.clone() for buffer in (layer.scale.mean, layer.scale.variance, layer.scale.count)]
    empty = torch.zeros(0, 6, 5)
    assert layer(empty).shape == empty.shape
    h = torch.full((2, 6, 5), float("nan"), requires_grad=True)
    out = layer(h, torch.zeros(2, 6))
    out.sum().backward()
    assert out.isnan().all()
    assert h.grad.eq(1).all()
    after = (layer.scale.mean, layer.scale.variance, layer.scale.count)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("select", SELECTIONS, ids=str)
def test_constant_neurons_and_constant_layers(rng, select):
    layer = MEmeL(late_start=0, select=select)
    for _ in range(4):
        h = torch.full((4, 6, 5), 3.25)
        assert torch.equal(layer(h), h)
    layer = MEmeL(late_start=0, select=select)
    for _ in range(3):
        h = drawn(rng, 4, 6, 5)
        h[..., 2] = 3.25
        layer(h)
    h[1, 2, 2] = 4.25  # far beyond what the layer's mean variance gives it
    out = layer(h)
    assert out[1, 2, 2] == 3.25
    assert torch.isfinite(out).all()


@pytest.mark.parametrize(
    "select",
    [
        "top-0", "top-", "top--1", "top-1.5", "1", 3, None, True, {}, {"top_k": 0}, {"top_k": 2.0}, {"top_k": True},
        {"top_k": "2"}, {"fraction": 0}, {"fraction": 1.5}, {"fraction": float("nan")}, {"fraction": float("inf")},
        {"fraction": 2}, {"threshold": -1}, {"threshold": float("inf")}, {"threshold": float("nan")}, {"quantile": 0.5},
        {"top_k": 1, "fraction": 1},
    ],
    ids=str,
)  # fmt: skip
def test_other_selections_are_refused(select):
    with pytest.raises(RequestError, match=r'^select .*; give "top-1", { "top_k": 10 }, { "fraction": 0.01 } or'):
        MEmeL(select=select)


@pytest.mark.parametrize(("kind", "amount"), [("top_k", 0), ("best", 1), ("fraction", float("nan"))])
def test_a_selection_is_checked_when_it_is_made(kind, amount):
    with pytest.raises(RequestError, match=rf'^select {kind} is {amount}; give "top-1"'):
        NeuronSelection(kind, amount)


def test_all_ways_of_asking():
    assert MEmeL().selection == NeuronSelection("top_k", 1)
    assert MEmeL(select="top-12").selection == MEmeL(select={"top_k": 12}).selection == NeuronSelection("top_k", 12)
    assert MEmeL(select={"fraction": 0.25}).selection == MEmeL(select=NeuronSelection("fraction", 0.25)).selection
    assert "select=threshold 2.5" in repr(MEmeL(select={"threshold": 2.5}))
