"""Gradients of neurons by features against captum, plain loops and closed forms; which neurons a model has; what is refused."""

import math
import sys

import naive_polysemanticity as naive
import numpy as np
import pytest

from ninscope.errors import NonFiniteError, RequestError

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402

from ninscope.neurons.polysemanticity import feature_gradients, neurons_of  # noqa: E402
from ninscope.neurons.watching import evaluation_mode  # noqa: E402

FEATURES = 5
OF_CAPTUM = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(autouse=True)
def _own_random_numbers():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield


def perceptron(activation=nn.ReLU, inputs=4):
    return nn.Sequential(nn.Linear(inputs, 6), activation(), nn.Linear(6, 3), activation(), nn.Linear(3, 2))


def encoder(inputs=4):
    return nn.Sequential(nn.Linear(FEATURES, 3), nn.ReLU(), nn.Linear(3, inputs))


class Convolutions(nn.Module):
    """Not sequential, with images made inside of a flat input."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.act = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.GELU()
        self.second, self.end = nn.Conv2d(3, 2, 3), nn.Linear(2 * 4, 2)
        with torch.no_grad():
            self.norm.running_mean.normal_(), self.norm.running_var.uniform_(0.5, 2), self.norm.weight.uniform_(0.5, 2)

    def forward(self, x):
        x = self.act(self.norm(self.first(x.view(-1, 1, 4, 4))))
        return self.end(self.second(x).flatten(1))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.read, self.write = nn.Linear(4, 12), nn.Linear(4, 2)

    def forward(self, x):
        q, k, v = self.read(x.view(-1, 2, 4)).chunk(3, dim=-1)
        return self.write(nn.functional.scaled_dot_product_attention(q, k, v))


class LastOf(nn.Module):
    """The last output of a recurrent layer, for features as three inputs in turn."""

    def __init__(self, kind):
        super().__init__()
        self.recurrent, self.end = kind(2, 3, batch_first=True), nn.Linear(3, 1)

    def forward(self, x):
        return self.end(self.recurrent(x.view(-1, 3, 2))[0][:, -1])


class Twice(torch.autograd.Function):
    """Has no derivative in forward mode."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


def captums(model, layer, neurons, baseline=None, steps=50):
    """captum's own, [neurons, features]. neurons: selectors as captum takes them."""
    attribution = pytest.importorskip("captum.attr", reason="captum is not installed")
    start = torch.zeros(FEATURES) if baseline is None else baseline
    rows = []
    with evaluation_mode(model):
        integrated = attribution.NeuronIntegratedGradients(model, layer)
        for neuron in neurons:
            found = [
                integrated.attribute((start + unit)[None], neuron, start[None], n_steps=steps, method="riemann_right")
                for unit in torch.eye(FEATURES)
            ]
            rows.append([float(gradient[0, feature]) for feature, gradient in enumerate(found)])
    return np.array(rows)


# --- against captum -----------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "baseline"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_integrated_gradients_of_perceptrons_are_captums(activation, given):
    baseline = torch.randn(FEATURES) if given else None
    model, encode = perceptron(activation), encoder()
    whole = nn.Sequential(*encode, *model)
    neurons = neurons_of(model, encode=encode)
    found = feature_gradients(neurons, FEATURES, baseline=baseline)
    assert (found.dtype, found.shape, neurons.sizes) == (np.float64, (9, FEATURES), {"0": 6, "2": 3})
    np.testing.assert_allclose(found[:6], captums(whole, whole[4], range(6), baseline), **OF_CAPTUM)
    np.testing.assert_allclose(found[6:], captums(whole, whole[6], range(3), baseline), **OF_CAPTUM)
    assert (abs(found).max(1) > 1e-3).sum() > 4


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_channels_of_convolutions_are_neurons_as_captum_sees_their_means():
    model, encode = Convolutions().train(), encoder(inputs=16)
    whole = nn.Sequential(encode, model)
    channels = [lambda h, channel=channel: h[:, channel].mean((1, 2)) for channel in range(3)]
    neurons = neurons_of(model, encode=encode)
    found = feature_gradients(neurons, FEATURES)
    assert neurons.sizes == {"first": 3, "second": 2}
    np.testing.assert_allclose(found[:3], captums(whole, model.act, channels), **OF_CAPTUM)
    np.testing.assert_allclose(found[3:], captums(whole, model.second, channels[:2]), **OF_CAPTUM)


@pytest.mark.parametrize("settings", [{}, {"linear": True}, {"steps": 7, "baseline": np.full(FEATURES, 0.2)}], ids=str)
def test_the_methods_agree(settings):
    pytest.importorskip("captum", reason="captum is not installed")
    model = nn.Sequential(nn.Linear(FEATURES, 3), nn.GELU(), nn.Linear(3, 1))
    forward, reverse, captum = (
        feature_gradients(neurons_of(model), FEATURES, method=method, **settings)
        for method in ("forward", "reverse", "captum")
    )
    np.testing.assert_allclose(reverse, forward, rtol=0, atol=1e-6)
    np.testing.assert_allclose(captum, forward, **OF_CAPTUM)


def test_without_captum_its_method_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(
        RequestError, match=r"needs captum, which is not installed: pip install 'ninscope\[polysemanticity\]'"
    ):
        feature_gradients(torch.sin, 2, method="captum")


# --- against plain loops and closed forms -------------------------------------------------------------------
@pytest.mark.parametrize("steps", [1, 3, 50])
def test_integrated_gradients_are_those_of_loops(rng, steps):
    model, encode = perceptron().double(), encoder().double()
    ramp = (lambda value: max(value, 0.0), lambda value: float(value > 0))
    kinds = [(False, *ramp), (False, lambda value: value, lambda value: 1.0), (True, *ramp), (True, *ramp)]
    linear = [module for module in (*encode, *model) if isinstance(module, nn.Linear)][:4]
    layers = [(m.weight.tolist(), m.bias.tolist(), kind) for m, kind in zip(linear, kinds, strict=True)]
    for baseline in (None, rng.standard_normal(FEATURES).tolist()):
        found = feature_gradients(neurons_of(model, encode=encode), FEATURES, steps=steps, baseline=baseline)
        wanted = naive.integrated_gradients(layers, FEATURES, steps, baseline)
        np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


def test_known_functions_have_known_gradients():
    """The slope of f^2 is 2 f, its right Riemann sum over n steps (n + 1) / n; that of a product with an absent feature is 0."""

    def neurons(f):
        return torch.stack([f[:, 0] ** 2, f[:, 0] * f[:, 1], 3 * f[:, 1] - f[:, 0], 0 * f[:, 0]], dim=1)

    start = torch.zeros(2, dtype=torch.float64)
    found = feature_gradients(neurons, 2, baseline=start)
    np.testing.assert_allclose(found, [[51 / 50, 0], [0, 0], [-1, 3], [0, 0]], rtol=1e-14)
    np.testing.assert_allclose(
        feature_gradients(neurons, 2, baseline=start, steps=1), [[2, 0], [0, 0], [-1, 3], [0, 0]]
    )
    found = feature_gradients(neurons, 2, baseline=start + 1)
    np.testing.assert_allclose(found, [[2 + 51 / 50, 0], [1, 1], [-1, 3], [0, 0]], rtol=1e-14)
    found = feature_gradients(neurons, 2, baseline=[1.0, 2.0], linear=True)
    np.testing.assert_array_equal(found, [[2, 0], [2, 1], [-1, 3], [0, 0]])


def test_linear_models_have_the_product_of_their_matrices():
    first, second, encode = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(FEATURES, 4)
    model = nn.Sequential(first, nn.Dropout(0.5), second, nn.Linear(3, 2)).double()
    encode = encode.double()
    in_first = (first.weight @ encode.weight).detach().numpy()
    wanted = np.concatenate([in_first, second.weight.detach().numpy() @ in_first])
    for settings in ({"linear": True}, {"linear": False}):
        found = feature_gradients(neurons_of(model, encode=encode), FEATURES, **settings)
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)


def test_dead_neurons_have_gradients_of_exactly_zero():
    model = perceptron(inputs=FEATURES)
    with torch.no_grad():
        model[0].bias[2] = -100
        model[2].weight[1] = 0
    found = feature_gradients(neurons_of(model), FEATURES)
    assert not found[[2, 6 + 1]].any()
    assert found.any(axis=1).sum() > 3


# --- batches ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["forward", "reverse"])
@pytest.mark.parametrize("batch_size", [1, 7, 50, 99, 100, 1000])
def test_rows_that_are_run_at_once_are_bounded_and_change_only_rounding(method, batch_size):
    rows, model = [], nn.Sequential(nn.Linear(FEATURES, 4), nn.Tanh()).double()

    def neurons(features):
        rows.append(len(features))
        return model(features)

    start = torch.zeros(FEATURES, dtype=torch.float64)
    found = feature_gradients(neurons, FEATURES, baseline=start, method=method, batch_size=batch_size)
    assert max(rows) <= batch_size
    assert sum(rows) == 2 + 50 * FEATURES  # two rows show the shape
    wanted = feature_gradients(model, FEATURES, baseline=start)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)


def test_the_same_bytes_come_each_time_and_random_numbers_stay():
    neurons, state = neurons_of(perceptron(inputs=FEATURES).train()), torch.get_rng_state()
    first, second = (feature_gradients(neurons, FEATURES).tobytes() for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("method", ["forward", "reverse"])
def test_the_modes_of_the_caller_change_nothing_and_stay(mode, method):
    neurons = neurons_of(perceptron(inputs=FEATURES))
    wanted = feature_gradients(neurons, FEATURES)
    with mode():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        found = feature_gradients(neurons, FEATURES, method=method, baseline=torch.zeros(FEATURES))
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


# --- what forward mode can do -------------------------------------------------------------------------------
class Transformer(nn.Module):
    """torch's own, which takes a fused way where it may, and reads the weights of a Linear layer inside without a call of it."""

    def __init__(self):
        super().__init__()
        self.block = nn.TransformerEncoderLayer(4, 2, 6, activation=nn.GELU(), batch_first=True)
        self.end = nn.Linear(4, 2)

    def forward(self, x):
        return self.end(self.block(x.view(-1, 2, 4)))


@pytest.mark.parametrize(
    ("model", "sizes"), [(Attention(), {"read": 12}), (Transformer(), {"block.linear1": 6, "block.linear2": 4})]
)
def test_attention_is_differentiated_in_forward_mode(model, sizes):
    neurons = neurons_of(model, None if "read" not in sizes else ["read", "write"])
    forward, reverse = (feature_gradients(neurons, 8, method=method) for method in ("forward", "reverse"))
    np.testing.assert_allclose(forward, reverse, rtol=0, atol=1e-6)
    assert sizes.items() <= neurons.sizes.items()
    assert abs(forward).max(1).min() > 1e-6
    assert torch.backends.mha.get_fastpath_enabled()


def test_recurrent_layers_give_their_outputs():
    model = LastOf(nn.GRU)
    neurons = neurons_of(model, "recurrent")
    forward, reverse = (feature_gradients(neurons, 6, method=method) for method in ("forward", "reverse"))
    np.testing.assert_allclose(forward, reverse, rtol=0, atol=1e-6)
    with torch.no_grad():  # the first of its two tensors, the mean over positions
        features = torch.randn(2, 6)
        torch.testing.assert_close(neurons(features), model.recurrent(features.view(2, 3, 2))[0].mean(1))


@pytest.mark.parametrize(
    ("neurons", "features"), [(Twice.apply, 3), (neurons_of(LastOf(nn.LSTM), "recurrent"), 6)], ids=["function", "LSTM"]
)
def test_what_has_no_derivative_in_forward_mode_has_one_in_reverse(neurons, features):
    with pytest.raises(
        RequestError, match=r"^torch cannot differentiate .* \(method 'forward'\): .*; give method=\"reverse\"$"
    ):
        feature_gradients(neurons, features)
    found = feature_gradients(neurons, features, method="reverse")
    assert found.shape == (3, features)
    if features == 3:
        np.testing.assert_array_equal(found, 2 * np.eye(3))


# --- which neurons a model has ------------------------------------------------------------------------------
def activations(model, features, layers=None, encode=None):
    with torch.no_grad():
        return neurons_of(model, layers, encode)(features)


def test_activation_modules_make_the_neurons_wherever_they_stand():
    shared, inputs = nn.ReLU(), torch.randn(7, 4)
    first, second, end = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(3, 2)
    wanted = torch.cat([(hidden := first(inputs).relu()), second(hidden).relu()], dim=1).detach()
    kinds = (shared, shared), (nn.ReLU(inplace=True), nn.ReLU(inplace=True)), (nn.ReLU(), nn.ReLU())
    for one, other in kinds:
        model = nn.Sequential(first, one, nn.Dropout(), second, nn.Identity(), other, end).train()
        torch.testing.assert_close(activations(model, inputs), wanted)
        torch.testing.assert_close(activations(model, inputs, ["3", "0"]), torch.cat([wanted[:, 6:], wanted[:, :6]], 1))
        torch.testing.assert_close(activations(model, inputs, "6"), end(wanted[:, 6:]).detach())


def test_only_the_first_activation_after_a_layer_counts():
    model, inputs = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Tanh(), nn.Linear(3, 1)), torch.randn(5, 4)
    torch.testing.assert_close(activations(model, inputs), model[:2](inputs).detach())
    torch.testing.assert_close(activations(model, inputs, ["2"]), model[:3](inputs).detach())


def test_activations_that_are_calls_leave_a_layers_own_output():
    class Called(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.end = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.end(self.first(x).relu_())  # over the layer's output, of which a copy has been taken

    model, inputs = Called(), torch.randn(5, 4)
    torch.testing.assert_close(activations(model, inputs), model.first(inputs).detach())


def test_positions_of_tokens_and_images_are_averaged():
    model, inputs = nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2)), torch.randn(5, 12)
    found = activations(model, inputs, encode=lambda f: f.view(-1, 3, 4))
    torch.testing.assert_close(found, model[:2](inputs.view(5, 3, 4)).mean(1).detach())
    images = nn.Sequential(
        nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(6, 1)
    )
    found = activations(images, inputs[:, :10], encode=lambda f: f.view(-1, 2, 5))
    torch.testing.assert_close(found, images.eval()[:3](inputs[:, :10].view(5, 2, 5)).mean(2).detach())
    found = activations(images, inputs[:, :10], ["2", "3"], encode=lambda f: f.view(-1, 2, 5))
    torch.testing.assert_close(found[:, 3:], images[:4](inputs[:, :10].view(5, 2, 5)).mean(2).detach())


def test_sizes_are_known_before_the_run_but_those_of_other_modules():
    model = perceptron()
    assert neurons_of(model).sizes == {"0": 6, "2": 3}
    named = neurons_of(model, ["4", "1"])
    with pytest.raises(RequestError, match=r"the size of layer '1' is known once the model has been run; call this on"):
        named.sizes  # noqa: B018
    named(torch.zeros(1, 4))
    assert named.sizes == {"4": 2, "1": 6}


# --- the model stays as it was ------------------------------------------------------------------------------
def state_of(*models):
    modules = [module for model in models for module in model.modules()]
    hooks = [(module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in modules]
    parameters = [value for model in models for value in model.parameters()]
    gradients = [(value.requires_grad, None if value.grad is None else value.grad.tolist()) for value in parameters]
    return hooks, gradients, [value.tolist() for model in models for value in model.state_dict().values()]


@pytest.mark.parametrize("method", ["forward", "reverse", "captum"])
def test_the_model_is_left_as_it_was(method):
    if method == "captum":
        pytest.importorskip("captum", reason="captum is not installed")
    encode = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5))
    model = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Dropout(0.5), nn.Linear(2, 1)).train()
    model[1].eval()
    model[4].weight.requires_grad_(False)
    model[0].weight.grad = torch.ones(2, 4)
    seen = []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    before = state_of(model, encode)
    feature_gradients(neurons_of(model, encode=encode), 3, steps=2, method=method)
    assert state_of(model, encode) == before
    assert seen

    def fails(*_):
        raise KeyError("somebody's error")

    hook = model[3].register_forward_hook(fails)
    neurons = neurons_of(model, encode=encode)
    with pytest.raises(RequestError, match=r"cannot be computed from 3 features: KeyError: .somebody's error"):
        feature_gradients(neurons, 3, method=method)
    with pytest.raises(KeyError):
        neurons(torch.zeros(1, 3))
    hook.remove()
    assert state_of(model, encode) == before


def test_methods_of_a_module_may_encode():
    class Autoencoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.9))

        def encode(self, features):
            return self.encoder(features)

    autoencoder, model = Autoencoder().train(), perceptron()
    found = feature_gradients(neurons_of(model, encode=autoencoder.encode), 3)
    np.testing.assert_array_equal(found, feature_gradients(neurons_of(model, encode=autoencoder.encoder[0]), 3))
    assert autoencoder.encoder[1].training


# --- what is refused ----------------------------------------------------------------------------------------
def test_models_without_neurons_are_refused():
    with pytest.raises(RequestError, match=r"^a Sequential has no Linear or convolution layer; name the modules"):
        neurons_of(nn.Sequential(nn.ReLU()))
    with pytest.raises(
        RequestError, match=r"^the only Linear or convolution layer of the Sequential is '1', its output; name it"
    ):
        neurons_of(nn.Sequential(nn.ReLU(), nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["frst"], r"^layer 'frst' is no module of the model; did you mean 'first'\?"),
        ("nothing", r"^layer 'nothing' is no module of the model; it has first, norm, act and 2 more"),
        ([], r"^layers is \[\]; names of modules were expected, each once"),
        (["act", "act"], r"^layers is \['act', 'act'\]; names of modules were expected, each once"),
    ],
    ids=str,
)
def test_layers_that_are_not_there_are_refused(layers, message):
    with pytest.raises(RequestError, match=message):
        neurons_of(Convolutions(), layers)


@pytest.mark.parametrize("how", ["call", "gradients"])
@pytest.mark.parametrize(
    ("model", "encode", "message"),
    [
        (
            perceptron(),
            None,
            r"^layer '0' takes inputs of width 4, and features have width 3; give as many .* or encode",
        ),
        (perceptron(), nn.Linear(5, 4), r"^layer '' takes inputs of width 5, and features have width 3"),
        (perceptron(), nn.Linear(3, 2), r"^layer '0' takes inputs of width 4, and its input has width 2"),
        (
            nn.Sequential(nn.Conv1d(1, 1, 2), nn.ReLU(), nn.Conv1d(1, 1, 2)),
            None,
            r"^layer '0' is given \[1, 3\], and takes 3 dimensions, the batch first; give encode",
        ),
        (
            nn.Sequential(nn.Conv1d(2, 1, 2), nn.ReLU(), nn.Conv1d(1, 1, 2)),
            lambda f: f[:, None],
            r"^layer '0' takes inputs of width 2, and its input has width 1",
        ),
    ],
    ids=["features", "encoder", "encoded", "images", "channels"],
)
def test_features_of_the_wrong_width_are_refused(model, encode, message, how):
    neurons = neurons_of(model, encode=encode)
    with pytest.raises(RequestError, match=message):
        neurons(torch.zeros(1, 3)) if how == "call" else feature_gradients(neurons, 3)


class Odd(nn.Module):
    """Runs its layers in ways that leave no neurons to be seen."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.end = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.act, self.round, self.image = nn.ReLU(), nn.Flatten(0), nn.Conv2d(1, 2, 1)

    def forward(self, x):
        x = self.first(self.first(x))
        self.round(x)
        self.image(x[:, None, :, None])
        return self.act(x.view(-1, 1, 1, 3))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("first", r"^layer 'first' runs more than once for one input; take layers that run once"),
        ("second", r"^layer 'second' does not run, or gives no floats; take other layers"),
        ("round", r"^layer 'round' does not run, or gives no floats"),
        ("act", r"^layer 'act' gives \[2, 1, 1, 3\], and which dimension counts neurons is not known; take a Linear"),
    ],
)
def test_layers_that_show_no_neurons_are_refused(layer, message):
    with pytest.raises(RequestError, match=message):
        activations(Odd(), torch.zeros(2, 3), layer)


def test_layers_whose_first_dimension_is_not_the_batch_are_refused():
    model = nn.Sequential(nn.GRU(1, 2), nn.Identity())
    neurons = neurons_of(model, "0", encode=lambda f: f.T[..., None])  # time first
    with pytest.raises(
        RequestError, match=r"^layer '0' gives \[3, 1, 2\] for 1 rows of features; its first dimension must be"
    ):
        feature_gradients(neurons, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": 0}, "^features is 0; an integer from 1 to"),
        ({"features": True}, "^features is True; an integer"),
        ({"steps": 0}, "^steps is 0; an integer from 1 to"),
        ({"steps": 1, "method": "captum"}, "^steps is 1; an integer from 2 to"),
        ({"batch_size": 0}, "^batch_size is 0; an integer from 1 to"),
        ({"method": "backward"}, "^method is 'backward'; one of forward, reverse, captum was expected"),
        ({"baseline": [0.0, 1.0]}, r"^baseline has the shape \[2\]; \[3\] was expected, a number for each feature"),
        ({"baseline": ["0", "1", "2"]}, r"^numbers of baseline are of type <U1; real numbers were expected"),
        ({"baseline": [0.0, math.nan, 0]}, r"^baseline is not finite \(NaN or infinity\)"),
        (
            {"neurons": lambda f: f[0]},
            r"^neurons give torch.float32 \[3\] for one row of features; floats \[1, neurons\]",
        ),
        ({"neurons": lambda f: (f,)}, "^neurons give tuple for one row of features"),
        ({"neurons": lambda f: f > 0}, r"^neurons give torch.bool \[1, 3\] for one row"),
        (
            {"neurons": lambda f: f @ torch.zeros(4, 2)},
            "^neurons cannot be computed from 3 features: RuntimeError: .*1x3 and 4x2",
        ),
        (
            {"neurons": lambda f: nn.functional.dropout(f + 1)},
            "^neurons give something else each time for the same features",
        ),
        ({"neurons": lambda f: f.detach() * 2}, "^torch sees no way from features to neurons; on it may stand detach"),
        (
            {"neurons": lambda f: f.detach() * nn.Parameter(torch.ones(3)), "method": "reverse"},
            "^torch sees no way from features to neurons",
        ),
        ({"neurons": lambda f: f.detach() * 2, "method": "reverse"}, "^torch sees no way from features to neurons"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_differentiated_is_refused(settings, message):
    settings = {"neurons": torch.sin, "features": 3} | settings
    with pytest.raises(RequestError, match=message):
        feature_gradients(**settings)


@pytest.mark.parametrize("method", ["forward", "reverse"])
def test_gradients_that_are_not_finite_are_refused(method):
    with pytest.raises(
        NonFiniteError, match=r"^the gradient of neuron 1 by feature 0 is not finite \(NaN or infinity\); look"
    ):
        feature_gradients(lambda f: torch.stack([f[:, 1], (f[:, 0] * 1e30) ** 2], 1), 2, method=method)
