"""Distributions of phi against numpy on the raw values; phi of a model's layers against loops over values and all of history."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninscope.errors import CheckpointError, RequestError

torch = pytest.importorskip("torch", reason="torch is not installed")
from naive_memel import history_of, scales, two_pass  # noqa: E402
from torch import nn  # noqa: E402

from ninscope.neurons.phi import OCTAVES, QUANTILES, PhiDistribution, phi_of_layers, together  # noqa: E402
from ninscope.neurons.watching import activations_of, watched  # noqa: E402

OF_ITSELF = 2.5e-4  # how far a quantile may be off, as documented


def distribution(*parts):
    whole = PhiDistribution()
    for values in parts:
        whole.add(torch.as_tensor(np.asarray(values, np.float32)))
    return whole


def assert_summary(found, values):
    """values: float32 [samples, ...], all of them."""
    flat = np.asarray(values, np.float32).reshape(-1)
    assert found.values == flat.size
    assert found.mean == pytest.approx(flat.astype(float).mean(), rel=1e-9)
    assert found.largest == flat.max()
    assert found.largest_mean == pytest.approx(
        np.asarray(values, float).reshape(len(values), -1).max(1).mean(), rel=1e-6
    )
    for name, part in QUANTILES.items():
        wanted = float(np.quantile(flat, part, method="inverted_cdf"))
        assert getattr(found, name) == pytest.approx(wanted, rel=OF_ITSELF, abs=1e-37), name
    edges = [0.0, *(2.0 ** int(octave) for octave in OCTAVES), math.inf]
    counted = [int(((flat >= low) & (flat < high)).sum()) for low, high in pairwise(edges)]
    assert found.counts.tolist() == counted


# --- distributions ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [1, 2, 3, 10, 999, 1000, 20_001])
def test_summaries_are_numpys_of_the_raw_values(rng, size):
    values = (rng.standard_normal((size, 3)) ** 2 * np.exp(4 * rng.standard_normal((size, 1)))).astype(np.float32)
    assert_summary(distribution(values).summary(), values)


@given(st.lists(st.floats(0, 2.0**100, width=32, allow_subnormal=False), min_size=1, max_size=40))
def test_summaries_of_any_numbers(values):
    assert_summary(distribution([values]).summary(), [values])


@pytest.mark.parametrize(
    "values",
    [[0.0, 0.0, 0.0], [2.0**-16, 2.0**-17, 2.0**16, 2.0**17], [1.0] * 7, [1e-45, 1e-40, 1e-38], [3.4e38, 1.0], [25.0]],
    ids=str,
)
def test_summaries_at_the_edges(values):
    assert_summary(distribution([values]).summary(), [values])


def test_values_may_come_in_any_parts_and_distributions_add(rng):
    values = (rng.standard_normal((60, 4, 5)) ** 2).astype(np.float32)
    whole = distribution(values)
    parts = [distribution(values[:7], values[7:8]), distribution(values[8:]), PhiDistribution()]
    added = together(parts)
    assert_summary(added.summary(), values)
    np.testing.assert_array_equal(added.counts, whole.counts)
    assert parts[0].values == 160  # those that were added are as they were
    parts[0] += parts[1]
    assert parts[0].summary().largest_mean == pytest.approx(whole.summary().largest_mean)


def test_nothing_is_said_of_no_values():
    for found in (PhiDistribution(), together([]), distribution(np.zeros((0, 3)))):
        summary = found.summary()
        assert (summary.values, summary.counts.sum()) == (0, 0)
        for name in ("mean", "p50", "p999", "largest", "largest_mean"):
            assert math.isnan(getattr(summary, name)), name


def test_padding_does_not_count(rng):
    values = (rng.standard_normal((6, 5, 3)) ** 2).astype(np.float32)
    kept = rng.random((6, 5, 1)) < 0.6
    kept[:, 0] = True
    phi = np.where(kept, values, 0).astype(np.float32)  # as MonosemanticScale gives it
    found = PhiDistribution()
    found.add(torch.from_numpy(phi), torch.from_numpy(np.broadcast_to(kept, phi.shape).copy()))
    flat = phi[np.broadcast_to(kept, phi.shape)]
    summary = found.summary()
    assert summary.values == flat.size
    assert summary.mean == pytest.approx(flat.astype(float).mean(), rel=1e-9)
    assert summary.p50 == pytest.approx(np.quantile(flat, 0.5, method="inverted_cdf"), rel=OF_ITSELF)
    assert summary.largest_mean == pytest.approx(phi.reshape(6, -1).max(1).mean(), rel=1e-6)


def test_memory_is_that_of_one_histogram(rng):
    found = PhiDistribution()
    before = found.counts.nbytes
    for _ in range(3):
        found.add(torch.from_numpy(rng.random((200, 100)).astype(np.float32)))
    assert found.counts.nbytes == before < 10_000_000


# --- layers of a model --------------------------------------------------------------------------------------
class Blocks(nn.Module):
    """Two layers of a sequence model, the second gives a tuple; an attention mask says what is padding."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.first, self.second = nn.Linear(3, 4), Pair()

    def forward(self, x, attention_mask=None):
        return self.second(torch.tanh(self.first(x)))[1]


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def forward(self, x):
        return torch.arange(3), self.inner(x)


def batches_of(rng, lengths, mask=False):
    made = []
    for count, tokens in lengths:
        x = rng.standard_normal((count, tokens, 3)).astype(np.float32)
        kept = np.ones((count, tokens), bool)
        if mask:
            kept = np.arange(tokens) < rng.integers(1, tokens + 1, size=(count, 1))
        made.append((x, kept))
    return made


def run_on(model, masked):
    def passed(batch):
        x, kept = batch
        mask = torch.from_numpy(kept.astype(np.int64)) if masked else None
        return model(torch.from_numpy(x), attention_mask=mask)

    return passed


def outputs(model, batches):
    """By layer, what it gives on every batch, computed by numpy from the weights."""
    w1, b1 = (p.detach().numpy().astype(float) for p in model.first.parameters())
    w2, b2 = (p.detach().numpy().astype(float) for p in model.second.inner.parameters())
    first = [x @ w1.T + b1 for x, _ in batches]
    return {"first": first, "second": [np.tanh(hidden) @ w2.T + b2 for hidden in first]}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("neurons", ["features", "positions"])
def test_phi_of_layers_is_that_of_loops(rng, masked, neurons):
    model = Blocks().eval()
    shape = [(4, 5), (3, 5)] if neurons == "positions" else [(4, 5), (3, 2), (2, 7)]
    history, new = batches_of(rng, shape, masked), batches_of(rng, [(5, 5), (1, 5)], masked)
    layers = {"first": model.first, "second": model.second}
    found = phi_of_layers(model, layers, run_on(model, masked), history, new, neurons, 0.02)
    past, now = outputs(model, history), outputs(model, new)
    for name in layers:
        masks = [kept for _, kept in history]
        dim = None if neurons == "positions" else 2
        _, mean, variance = two_pass(history_of(past[name], masks, dim))
        values, of_samples = [], []
        for (_, kept), h in zip(new, now[name], strict=True):
            flat = h.reshape(len(h), -1) if dim is None else h
            phi = scales(flat, mean, variance, 0.02).reshape(h.shape)
            values += [phi[index] for index in np.ndindex(phi.shape) if kept[index[:2]]]
            of_samples += [max(phi[n][kept[n]].max(), 0) for n in range(len(phi))]
        summary = found[name].summary()
        assert summary.values == len(values)
        assert summary.mean == pytest.approx(math.fsum(values) / len(values), rel=1e-4)
        assert summary.largest == pytest.approx(max(values), rel=1e-4)
        assert summary.largest_mean == pytest.approx(np.mean(of_samples), rel=1e-4)
        assert summary.p90 == pytest.approx(np.quantile(values, 0.9, method="inverted_cdf"), rel=1e-3)


def test_positions_that_history_never_saw_have_no_scale(rng):
    model = Blocks().eval()
    history, new = batches_of(rng, [(4, 5)]), batches_of(rng, [(3, 5)])
    history[0][1][:, 3:] = False
    new[0][0][:, 3:] += 50
    found = phi_of_layers(model, {"first": model.first}, run_on(model, True), history, new, "positions")["first"]
    past, now = (outputs(model, batches)["first"][0].reshape(-1, 20) for batches in (history, new))
    _, mean, variance = two_pass([list(past[:, position]) for position in range(12)])
    known = scales(now[:, :12], mean, variance, 0.01)
    summary = found.summary()
    assert (summary.values, summary.counts[0] >= 3 * 8) == (60, True)
    assert summary.largest == pytest.approx(known.max(), rel=1e-4)
    assert summary.mean == pytest.approx(known.sum() / 60, rel=1e-4)


def test_positions_of_a_block_of_convolutions_and_matrices_need_no_feature_dimension(rng):
    model = nn.Sequential(nn.Sequential(nn.Conv1d(3, 3, 1), nn.Linear(5, 5))).eval()
    batches = [torch.from_numpy(rng.normal(size=(4, 3, 5))).float() for _ in range(2)]
    found = phi_of_layers(model, {"0": model[0]}, model, batches[:1], batches[1:], "positions")
    assert found["0"].values == 60


def test_looking_leaves_the_model_as_it_was(rng):
    model = Blocks().eval()
    batches = batches_of(rng, [(4, 5)])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    phi_of_layers(model, {"first": model.first}, run_on(model, False), batches, batches)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_hooks_go_where_a_pass_fails():
    model = Blocks()
    with pytest.raises(ValueError, match="enough"), watched(model, {"first": model.first}, lambda *seen: None):
        raise ValueError("enough")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("where", ["history", "new"])
def test_activations_that_are_no_numbers(rng, where):
    model = Blocks().eval()
    history, new = batches_of(rng, [(4, 5)]), batches_of(rng, [(4, 5)])
    {"history": history, "new": new}[where][0][0][1, 2, 0] = np.nan
    with pytest.raises(CheckpointError, match="first: activations are not finite") as found:
        phi_of_layers(model, {"first": model.first}, run_on(model, False), history, new)
    assert found.value.status == "nonfinite"


def test_what_padding_holds_is_of_no_importance(rng):
    model = Blocks().eval()
    batches = batches_of(rng, [(4, 5)], mask=True)
    batches[0][1][0] = [True, True, False, False, False]
    spoiled = [(np.where(kept[..., None], x, np.nan).astype(np.float32), kept) for x, kept in batches]
    layers = {"first": model.first}
    clean = phi_of_layers(model, layers, run_on(model, True), batches, batches)["first"].summary()
    found = phi_of_layers(model, layers, run_on(model, True), spoiled, spoiled)["first"].summary()
    assert (found.mean, found.p99, found.values) == (clean.mean, clean.p99, clean.values)


def test_neurons_that_do_not_vary_have_no_scale(rng):
    model = Blocks().eval()
    with torch.no_grad():
        model.first.weight.zero_()
    batches = batches_of(rng, [(4, 5)])
    summary = phi_of_layers(model, {"first": model.first}, run_on(model, False), batches, batches)["first"].summary()
    assert (summary.mean, summary.p999, summary.largest, summary.counts[0]) == (0, 0, 0, 80)


def test_a_layer_that_gives_nothing_is_named(rng):
    model = Blocks().eval()
    model.idle = nn.Linear(3, 4)
    batches = batches_of(rng, [(4, 5)])
    with pytest.raises(RequestError, match="layer idle gives no activations on these examples"):
        phi_of_layers(model, {"first": model.first, "idle": model.idle}, run_on(model, False), batches, batches)


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (torch.ones(2, 3), True),
        (torch.ones(2, 3, dtype=torch.int64), False),
        ((torch.arange(2), torch.ones(2, 3)), True),
        ([None, torch.ones(2, 3)], True),
        ({"mask": torch.ones(2, 3, dtype=torch.bool), "hidden": torch.ones(2, 3)}, True),
        ((), False),
        (None, False),
        ("text", False),
    ],
    ids=str,
)
def test_the_first_tensor_of_floats_is_what_a_layer_gives(output, found):
    h = activations_of(output)
    assert (h is not None) == found
    assert h is None or (h == 1).all()
