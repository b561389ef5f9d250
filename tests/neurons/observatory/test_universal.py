"""Universal neurons: against numpy's correlations of all activations; of permuted copies, of random models."""

import copy
import hashlib
import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402

from ninscope.errors import CheckpointError, RequestError  # noqa: E402
from ninscope.neurons import look  # noqa: E402
from ninscope.neurons.observatory.examples import Examples  # noqa: E402
from ninscope.neurons.observatory.measures.universal import Universal, random_directions  # noqa: E402
from ninscope.neurons.observatory.moments import LayerSums, centre, over  # noqa: E402
from ninscope.neurons.observatory.subject import Subject  # noqa: E402

INPUTS, CLASSES, SEED = 24, 3, 5
rng = np.random.default_rng(0)
ROWS = rng.standard_normal((600, INPUTS)).astype(np.float32)


def perceptron(*widths, seed=0):
    torch.manual_seed(seed)
    sizes = [INPUTS, *widths, CLASSES]
    layers = []
    for read, given in itertools.pairwise(sizes):
        layers += [nn.Linear(read, given), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def subject(model, rows=ROWS, batch_size=250):
    return Subject("a model", model, Examples("arrays", rows, batch_size), SEED)


def measured(model, other, measure=None, rows=ROWS):
    return (measure or Universal()).found(subject(model, rows), subject(other, rows))


def value_of(found, name, layer="all"):
    return next(fact for fact in found.facts if (fact.name, fact.layer) == (name, layer))


def of_neurons(found, name):
    return {one.layer: one.values for one in found.values if one.name == name}


# --- the plain twin -------------------------------------------------------------------------------------------------
def naive_hidden(model, rows=ROWS):
    """By layer: all activations, float64 [rows, neurons]."""
    h, found = rows.astype(np.float64), {}
    linear = [(number, module) for number, module in enumerate(model) if isinstance(module, nn.Linear)]
    for (number, module), (after, _) in itertools.pairwise(linear):
        w, b = (parameter.detach().double().numpy() for parameter in (module.weight, module.bias))
        h = np.maximum(h @ w.T + b, 0)
        found[f"{after}.in"] = h
        assert number < after
    return found


def naive_directions(layer, size):
    words = np.frombuffer(hashlib.sha256(f"universal/{layer}".encode()).digest(), "<u4")
    drawn = np.random.Generator(np.random.PCG64(np.random.SeedSequence([SEED, *words.tolist()])))
    gaussian = drawn.standard_normal((size, size), dtype=np.float32).astype(np.float64)
    return np.array([row / np.sqrt((row * row).sum()) for row in gaussian])


def naive_best(ours, theirs):
    """For each of ours the largest correlation with one of theirs, over all pairs by np.corrcoef; NaN for a constant neuron."""
    best = np.full(ours.shape[1], np.nan)
    for i, one in enumerate(ours.T):
        if one.std() > 0:
            best[i] = max(np.corrcoef(one, two)[0, 1] for two in theirs.T if two.std() > 0)
    return best


@pytest.mark.parametrize(
    ("memory", "chunk", "small", "tolerance"),
    [(200_000_000, 256, 512 * 512, 1e-6), (1, 4, 512 * 512, 1e-6), (200_000_000, 4, 0, 2e-5)],
    ids=["at once", "in pieces", "in single precision"],
)
def test_rho_is_that_of_all_activations(memory, chunk, small, tolerance, monkeypatch):
    """memory: of a pass, which has one layer at least. chunk: directions at a time. small: pairs that are doubles."""
    monkeypatch.setattr("ninscope.neurons.observatory.measures.universal._CHUNK", chunk)
    monkeypatch.setattr("ninscope.neurons.observatory.moments._SMALL", small)
    model, other = perceptron(13, 9, seed=1), perceptron(11, 17, 7, seed=2)
    with torch.no_grad():  # dead ones, and one that is constant but not 0
        model[0].bias[3] = -100
        other[2].weight[5], other[2].bias[5] = 0, 2.5
        other[0].bias[4] = -100
    mine, theirs = naive_hidden(model), naive_hidden(other)
    joined = np.concatenate(list(theirs.values()), axis=1)
    turned = np.concatenate([h @ naive_directions(layer, h.shape[1]).T for layer, h in theirs.items()], axis=1)
    found = measured(model, other, Universal(memory))
    assert list(of_neurons(found, "universal_best")) == ["2.in", "4.in"]
    for layer, h in mine.items():
        best, baseline = naive_best(h, joined), naive_best(h, turned)
        np.testing.assert_allclose(of_neurons(found, "universal_best")[layer], best, atol=tolerance)
        np.testing.assert_allclose(of_neurons(found, "universal_baseline")[layer], baseline, atol=tolerance)
        rho = of_neurons(found, "universal_rho")[layer]
        np.testing.assert_allclose(rho, best - baseline, atol=tolerance)
        fact = value_of(found, "universal", layer)
        assert fact.value == pytest.approx(np.nanmean(np.where(np.isnan(rho), np.nan, rho > 0.5)))
        assert fact.count == np.isfinite(rho).sum()


def test_dead_neurons_are_left_out_and_counted():
    model = perceptron(8, 6, seed=1)
    with torch.no_grad():
        model[0].bias[:3] = -100
    found = measured(model, perceptron(8, 6, seed=2))
    dead = naive_hidden(model)["2.in"].std(axis=0) == 0
    assert value_of(found, "universal_dead", "2.in").value == pytest.approx(dead.mean())
    assert value_of(found, "universal_dead", "2.in").count == 8
    assert np.array_equal(np.isnan(of_neurons(found, "universal_rho")["2.in"]), dead)
    assert value_of(found, "universal", "2.in").count == 8 - dead.sum()


# --- known answers --------------------------------------------------------------------------------------------------
def test_every_neuron_of_a_permuted_copy_is_universal():
    """Neurons that hardly depend on each other, so that no direction drawn at random comes near to one."""
    torch.manual_seed(3)
    model = nn.Sequential(
        *[part for _ in range(2) for part in (nn.Linear(128, 128), nn.ReLU())], nn.Linear(128, CLASSES)
    )
    for module in (model[0], model[2]):
        nn.init.orthogonal_(module.weight)
        nn.init.zeros_(module.bias)
    other = copy.deepcopy(model)
    with torch.no_grad():
        first, second = torch.randperm(128), torch.randperm(128)
        other[0].weight[:] = model[0].weight[first]
        other[2].weight[:] = model[2].weight[second][:, first]
        other[4].weight[:] = model[4].weight[:, second]
    rows = np.random.default_rng(1).standard_normal((1000, 128)).astype(np.float32)
    found = measured(model, other, rows=rows)
    for layer in ("2.in", "4.in", "all"):
        assert value_of(found, "universal", layer).value == 1
        assert value_of(found, "universal_best", layer).value == pytest.approx(1, abs=1e-6)
    assert value_of(found, "universal").count == 256
    assert 0 < value_of(found, "universal_baseline").value < 0.4


def test_the_negative_of_a_neuron_is_another_one():
    class Linear(nn.Module):
        def __init__(self, sign):
            super().__init__()
            self.first, self.second = nn.Linear(INPUTS, 1, bias=False), nn.Linear(1, CLASSES)
            with torch.no_grad():
                self.first.weight[:] = sign

        def forward(self, x):
            return self.second(self.first(x))

    assert value_of(measured(Linear(1.0), Linear(1.0)), "universal_best").value == pytest.approx(1)
    assert value_of(measured(Linear(1.0), Linear(-1.0)), "universal_best").value == pytest.approx(-1)


def test_random_models_have_no_universal_neurons():
    found = measured(perceptron(40, 40, seed=4), perceptron(40, 40, seed=5))
    assert value_of(found, "universal").value == 0
    assert abs(value_of(found, "universal_rho").value) < 0.1


def test_best_partners_are_looked_for_in_all_layers():
    """The other model has the neurons of layer 1 in its second layer."""
    model = perceptron(10, 4, seed=6)

    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.other, self.again, self.last = nn.Linear(INPUTS, 6), nn.Linear(INPUTS, 10), nn.Linear(10, CLASSES)
            self.again.load_state_dict(model[0].state_dict())
            self.middle = nn.Linear(6, 1)

        def forward(self, x):
            self.middle(torch.relu(self.other(x)))
            return self.last(torch.relu(self.again(x)))

    best = of_neurons(measured(model, Late()), "universal_best")["2.in"]
    np.testing.assert_allclose(best, 1, atol=1e-6)


# --- parts ----------------------------------------------------------------------------------------------------------
def test_correlations_keep_their_digits_beside_large_means():
    left = rng.standard_normal((500, 4)) + 3000 * np.arange(1, 5)
    right = 0.3 * left[:, :3] + rng.standard_normal((500, 3))
    a, b = (torch.tensor(values, dtype=torch.float32) for values in (left, right))
    sums, others, products = LayerSums(a[:100]), LayerSums(b[:100]), torch.zeros(4, 3)
    for part in (slice(0, 100), slice(100, 500)):
        x, y = sums.shifted(a[part], torch.empty_like(a[part])), others.shifted(b[part], torch.empty_like(b[part]))
        sums.add(x)
        others.add(y)
        products.addmm_(x.T, y)
    found = over(over(centre(products, sums, others), sums.deviations, 0), others.deviations, 1)
    expected = np.corrcoef(a.double().numpy().T, b.double().numpy().T)[:4, 4:]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_a_constant_neuron_has_no_deviation_at_all():
    values = torch.tensor([[0.1, 1.0], [0.1, 2.0], [0.1, 4.0]])
    sums = LayerSums(values)
    sums.add(sums.shifted(values.repeat(300, 1), torch.empty(900, 2)))
    assert sums.deviations[0] == 0
    assert sums.deviations[1] == pytest.approx(np.sqrt(900 * np.var([1, 2, 4])))


def test_directions_have_length_1_and_their_own_key():
    def directions(*key):
        return np.concatenate(list(random_directions(*key)))

    one = directions(300, "a", 0)
    assert one.shape == (300, 300)
    np.testing.assert_allclose((one**2).sum(axis=1), 1, rtol=1e-5)
    assert np.array_equal(one, directions(300, "a", 0))
    assert not np.array_equal(one, directions(300, "b", 0))
    assert not np.array_equal(one, directions(300, "a", 1))


def test_half_precision_is_counted_in_single():
    model, other = (perceptron(13, 9, seed=seed).to(torch.bfloat16) for seed in (1, 2))
    exact = measured(model.float(), other.float())
    half = measured(model.to(torch.bfloat16), other.to(torch.bfloat16))
    for name, tolerance in (("universal_best", 0.02), ("universal_baseline", 0.02)):
        assert value_of(half, name).value == pytest.approx(value_of(exact, name).value, abs=tolerance)


def test_rho_is_the_over_seeds():
    model, measure = perceptron(40, 40, seed=3), Universal()
    same, random = measured(model, copy.deepcopy(model)), measured(model, perceptron(40, 40, seed=5))
    mean = measure.over_seeds([same, random])
    for layer in ("2.in", "4.in"):
        rho = (of_neurons(same, "universal_rho")[layer] + of_neurons(random, "universal_rho")[layer]) / 2
        np.testing.assert_allclose(of_neurons(mean, "universal_rho")[layer], rho)
        assert value_of(mean, "universal", layer).value == pytest.approx((rho > 0.5).mean())
    assert repr(measure.over_seeds([same])) == repr(same)
    assert value_of(mean, "universal").count == 80


def test_a_pass_holds_as_many_layers_as_fit():
    sums = {name: LayerSums(torch.zeros(2, size)) for name, size in (("a", 10), ("b", 20), ("c", 5))}
    needed = {name: 4 * one.size * (35 + one.size) for name, one in sums.items()}  # with all layers, and with itself
    for memory, expected in (
        (sum(needed.values()), [["a", "b", "c"]]),
        (sum(needed.values()) - 1, [["a", "b"], ["c"]]),
        (needed["b"] + needed["c"], [["a"], ["b", "c"]]),
        (1, [["a"], ["b"], ["c"]]),
    ):
        assert list(Universal(memory).passes(sums, sums)) == expected


def test_look_compares_with_another_seed():
    pytest.importorskip("transformers", reason="transformers is not installed")
    model, other = perceptron(13, 9, seed=1), perceptron(13, 9, seed=2)
    rows = look(model, ROWS, ["universal"], other={"second": other}, controls="none", seed=SEED, batch_size=250)
    assert set(rows["against"]) == {"second"}
    assert set(rows["status"]) == {"ok"}
    share = rows.query("measure == 'universal' and layer == 'all'")["value"].item()
    assert share == value_of(measured(model, other), "universal").value


def test_the_same_bytes_again():
    model, other = perceptron(13, 9, seed=1), perceptron(11, 7, seed=2)
    assert repr(measured(model, other)) == repr(measured(model, other))


# --- what is refused ------------------------------------------------------------------------------------------------
def test_one_model_alone_is_refused():
    with pytest.raises(RequestError, match="has no other seed"):
        Universal().found(subject(perceptron(4)))


def test_a_model_that_is_dead_as_a_whole():
    dead = perceptron(4, seed=1)
    with torch.no_grad():
        dead[0].bias[:] = -100
    for pair in ((dead, perceptron(4)), (perceptron(4), dead)):
        with pytest.raises(CheckpointError, match="none of its hidden neurons varies"):
            measured(*pair)


def test_activations_that_are_not_finite_are_named():
    broken = perceptron(4, 4, seed=1)
    with torch.no_grad():
        broken[2].bias[1] = torch.inf
    with pytest.raises(CheckpointError, match=r"a model, 4\.in: hidden values are NaN or infinite") as caught:
        measured(perceptron(4, 4), broken)
    assert caught.value.status == "nonfinite"


class Patches(nn.Module):
    """Rows of numbers cut into patches; then again into fewer."""

    def __init__(self, size, fewer=1):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(size, 6), nn.Linear(6, 5), nn.Linear(5 * fewer, 3)
        self.size, self.fewer = size, fewer

    def forward(self, x):
        h = torch.relu(self.second(torch.relu(self.first(x.view(len(x), -1, self.size)))))
        return self.third(h.view(len(x), -1, 5 * self.fewer))


def test_layers_of_other_positions_are_not_compared():
    torch.manual_seed(0)
    model, other = Patches(6, 2), Patches(6, 4)
    found = measured(model, other)
    assert [fact.layer for fact in found.facts if fact.name == "universal"] == ["second.in", "all"]
    rows = torch.tensor(ROWS).view(-1, 6)
    h, beside = (torch.relu(one.first(rows)).detach().double().numpy() for one in (model, other))
    np.testing.assert_allclose(of_neurons(found, "universal_best")["second.in"], naive_best(h, beside), atol=1e-6)


def test_models_that_read_other_positions():
    with pytest.raises(CheckpointError, match="no hidden layer of a model has as many positions"):
        measured(Patches(12), Patches(6))
