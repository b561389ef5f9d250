"""MEmeL's three methods: what goes forward, what comes back, and Lemma 3.3 with its opposite on a small model."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from neurons.naive_memel import history_of, largest_of, scales, two_pass  # noqa: E402
from torch import nn  # noqa: E402

from ninscope.errors import RequestError  # noqa: E402
from ninscope.neurons.memel import METHODS, MEmeL  # noqa: E402

# Equations 6, 4 and 5 of the paper, as autograd understands them.
FORMULAS = {
    "reversed": lambda h, mean: -h + (mean + h).detach(),
    "naive_mean": lambda h, mean: mean.detach() + 0 * h,
    "naive_shift": lambda h, mean: h + (mean - h).detach(),
}
GRADIENTS = {"reversed": -1, "naive_mean": 0, "naive_shift": 1}
SELECTIONS = ["top-1", "top-7", {"fraction": 0.1}, {"threshold": 3.0}]


def warmed(rng, shape=(4, 6, 5), batches=3, **settings):
    """(a layer that has seen batches, which it did not change; these)."""
    layer = MEmeL(late_start=batches, **settings)
    seen = [torch.from_numpy(rng.normal(size=shape)).float() for _ in range(batches)]
    for batch in seen:
        assert torch.equal(layer(batch), batch)
    return layer, seen


def selected_of(h, seen, select, neurons):
    """(bool of h's shape, where its values are selected; every value's mean) by the oracle."""
    mean, variance = two_pass(
        history_of([batch.numpy() for batch in seen], None, 2 if neurons == "features" else None)
    )[1:]
    samples = h.double().numpy().reshape(len(h), -1 if neurons == "positions" else h.shape[1], len(mean))
    phi = scales(samples, mean, variance, 0.01)
    chosen = np.zeros((len(h), samples[0].size), bool)
    for sample in range(len(h)):
        number = {"top-1": 1, "top-7": 7}.get(select) if isinstance(select, str) else 3  # 0.1 of 30 values
        chosen[sample, largest_of(phi[sample], [True] * samples.shape[1], number)] = True
        if select == {"threshold": 3.0}:
            chosen[sample] = phi[sample].ravel() > 3
    return torch.from_numpy(chosen).view(h.shape), torch.from_numpy(np.broadcast_to(mean, samples.shape).copy()).view(
        h.shape
    )


def test_the_methods_are_these():
    assert METHODS == GRADIENTS


@pytest.mark.parametrize("select", SELECTIONS, ids=str)
@pytest.mark.parametrize("neurons", ["features", "positions"])
@pytest.mark.parametrize("method", GRADIENTS)
def test_output_and_gradient_are_the_formulas(rng, method, neurons, select):
    """Autograd of the printed formula is the oracle; elsewhere every bit is the input's."""
    layer, seen = warmed(rng, method=method, neurons=neurons, select=select)
    h = torch.from_numpy(rng.normal(size=(4, 6, 5)) * 2).float().requires_grad_()
    chosen, mean = selected_of(h.detach(), seen, select, neurons)
    assert 0 < chosen.sum() < chosen.numel()
    out = layer(h)
    incoming = torch.from_numpy(rng.normal(size=h.shape)).float()
    out.backward(incoming)
    twin = h.detach().clone().requires_grad_()
    torch.where(chosen, FORMULAS[method](twin, mean.float()), twin).backward(incoming)
    assert torch.equal(out[~chosen], h[~chosen])
    torch.testing.assert_close(out[chosen], mean[chosen].float(), rtol=1e-5, atol=1e-6)
    assert torch.equal(h.grad, twin.grad)
    assert torch.equal(h.grad[chosen], GRADIENTS[method] * incoming[chosen])
    assert torch.equal(h.grad[~chosen], incoming[~chosen])


@pytest.mark.parametrize(
    "select", ["top-7", {"threshold": 3.0}], ids=str
)  # by rank and by value: a function of torch's each
def test_gradients_by_numerical_differences(rng, select):
    """torch.autograd.gradcheck cannot check a selected value, since the formulas' gradients are not their outputs' slopes; where
    nothing is selected they are, and the second derivative is none."""
    layer, _ = warmed(rng, select=select)
    layer.late_start = 10**9
    h = torch.from_numpy(rng.normal(size=(2, 4, 5))).requires_grad_()
    assert torch.autograd.gradcheck(layer, (h,))
    assert torch.autograd.gradgradcheck(layer, (h,))


@pytest.mark.parametrize("select", SELECTIONS, ids=str)
@pytest.mark.parametrize("shape", [(4, 6, 5), (4, 3, 2, 5)])
def test_convolutions_and_strided_inputs(rng, shape, select):
    """Features in dimension 1 of a tensor whose memory is in another order: as the same values with features last."""
    images = [torch.from_numpy(rng.normal(size=shape)).float().transpose(1, -1) for _ in range(4)]
    first, last = MEmeL(late_start=1, select=select, feature_dim=1), MEmeL(late_start=1, select=select)
    for image in images:
        inner, outer = (view.clone().requires_grad_() for view in (image, image.transpose(1, -1).contiguous()))
        one, two = first(inner), last(outer)
        assert one.shape == image.shape
        torch.testing.assert_close(one, two.transpose(1, -1))
        incoming = torch.from_numpy(rng.normal(size=two.shape)).float()
        two.backward(incoming)
        one.backward(incoming.transpose(1, -1))
        assert torch.equal(inner.grad, outer.grad.transpose(1, -1))
    assert not torch.equal(two, outer)


@pytest.mark.parametrize("select", SELECTIONS, ids=str)
def test_what_goes_in_is_left_as_it_was(rng, select):
    layer, _ = warmed(rng, select=select)
    h = torch.from_numpy(rng.normal(size=(4, 6, 5))).float()
    before = h.clone()
    assert not torch.equal(layer(h), before)
    assert torch.equal(h, before)
    incoming = torch.ones(()).expand(4, 6, 5)  # as sum() sends it: one number in memory
    (found,) = torch.autograd.grad(layer(h.requires_grad_()), h, incoming)
    assert set(found.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(incoming, torch.ones(4, 6, 5))


# --- Lemma 3.3 ---------------------------------------------------------------------------------------------------
class Frontal(nn.Module):
    """Three neurons, of which the first alone knows of the first input, and of no other."""

    def __init__(self):
        super().__init__()
        self.first, self.others = nn.Linear(1, 1), nn.Linear(3, 2)

    def forward(self, x):
        return torch.cat([self.first(x[:, :1]), self.others(x[:, 1:])], 1)


@pytest.fixture(scope="module")
def trained():
    """(frontal model, following model, inputs, targets, a sample whose neuron 0 is monosemantic), the loss next to 0.

    Targets depend on neuron 0, which is large for one kind of input only; so the loss rises the further it is from its value.
    """
    torch.manual_seed(0)
    inputs = torch.randn(64, 4, dtype=torch.float64)
    inputs[:, 0] = 3.0 * (torch.arange(64) % 13 == 5)
    targets = inputs[:, :1] * 2 + inputs[:, 1:2]
    front, back = Frontal().double(), nn.Linear(3, 1).double()
    optimizer = torch.optim.LBFGS(
        [*front.parameters(), *back.parameters()], max_iter=200, line_search_fn="strong_wolfe"
    )

    def loss():
        optimizer.zero_grad()
        found = ((back(front(inputs)) - targets) ** 2).mean()
        found.backward()
        return found

    optimizer.step(loss)
    assert loss() < 1e-6
    return front, back, inputs, targets, 5


@pytest.mark.parametrize("rate", [1e-6, 1e-4])
@pytest.mark.parametrize("method", GRADIENTS)
def test_lemma_3_3(trained, method, rate):
    """One step on an input whose neuron is deactivated: towards the mean when reversed, away from it under naive_shift, nowhere
    under naive_mean, since of what feeds the neuron nothing else feeds the loss."""
    front, back, inputs, targets, sample = copy.deepcopy(trained)
    layer = MEmeL(method, late_start=1)
    hidden = front(inputs).detach()
    layer(hidden)
    mean, of_sample = hidden[:, 0].mean(), inputs[sample : sample + 1]
    before = front(of_sample)
    given = layer(before)
    assert (given != before).tolist() == [[True, False, False]]  # neuron 0 is selected, and it alone
    optimizer = torch.optim.SGD([*front.parameters(), *back.parameters()], rate)
    optimizer.zero_grad()
    ((back(given) - targets[sample]) ** 2).mean().backward()
    optimizer.step()
    before, after = before[0, 0].detach(), front(of_sample)[0, 0].detach()
    nearer, further = abs(after - mean) < abs(before - mean), abs(after - mean) > abs(before - mean)
    wanted = {"reversed": nearer, "naive_shift": further, "naive_mean": after == before}
    assert wanted[method]


# --- refusals ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "naive"}, "method is 'naive'; one of reversed, naive_mean, naive_shift"),
        ({"late_start": -1}, "late_start is -1; a number of batches was expected"),
        ({"late_start": True}, "late_start is True; a number of batches was expected"),
        ({"late_start": 2.5}, "late_start is 2.5; a number of batches was expected"),
    ],
)
def test_settings_without_sense_are_refused(arguments, message):
    with pytest.raises(RequestError, match=message):
        MEmeL(**arguments)


@pytest.mark.parametrize("select", SELECTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_values_that_are_not_finite_are_refused_by_the_layers_name(rng, select, dtype):
    layer, _ = warmed(rng, select=select, layer="block.3.attention")
    h = torch.from_numpy(rng.normal(size=(4, 6, 5))).to(dtype)
    h[1, 2, 3] = float("nan")
    with pytest.raises(RequestError, match=r"block.3.attention: activations are not finite"):
        layer(h)
    layer.eval()
    assert layer(h) is h
