"""The feature model and the feature autoencoder, against plain loops and closed forms."""

import numpy as np
import pytest
from naive_toy_data import hidden_layers, network
from scipy.stats import kstest

torch = pytest.importorskip("torch")

from ninscope.errors import RequestError  # noqa: E402
from ninscope.neurons.polysemanticity import autoencoder as autoencoders  # noqa: E402
from ninscope.neurons.polysemanticity import feature_model as feature_models  # noqa: E402
from ninscope.neurons.polysemanticity.autoencoder import (  # noqa: E402
    FeatureAutoencoder,
    epochs_of,
    train_autoencoder,
)
from ninscope.neurons.polysemanticity.feature_model import (  # noqa: E402
    FeatureModel,
    hidden_layer_sizes,
    random_feature_model,
    seed_vectors,
)


def of_model(model):
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return [state[f"weight{i}"] for i in range(model.layers)], [state[f"bias{i}"] for i in range(model.layers)]


def test_layer_sizes_are_those_of_the_algorithm():
    for features in (*range(1, 20), 64):
        for most in range(1, 20, 3):
            for least in range(1, most + 1):
                key = [features, most, least]
                found = hidden_layer_sizes(least, most, features, np.random.default_rng(key))
                assert found == hidden_layers(least, most, features, np.random.default_rng(key)), key
                assert sum(found) == features
                assert max(found) <= most
                assert all(size >= least for size in found[:-1])


def test_where_the_printed_algorithm_does_not_end_the_rest_is_a_layer():
    assert hidden_layer_sizes(5, 8, 3, np.random.default_rng(0)) == (3,)
    assert hidden_layer_sizes(8, 8, 20, np.random.default_rng(0)) == (8, 8, 4)


def test_where_the_printed_algorithm_draws_from_nothing_all_that_remains_is_a_layer():
    found = {hidden_layer_sizes(4, 12, 16, np.random.default_rng(seed)) for seed in range(50)}
    assert (12, 4) in found  # experiment N1; 4 remain where the range begins at 6
    assert {len(sizes) for sizes in found} == {2}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 4, 8), "min_neurons is 0; an integer from 1 to 4"),
        ((5, 4, 8), "min_neurons is 5; an integer from 1 to 4"),
        ((1, 0, 8), "max_neurons is 0; an integer from 1"),
        ((1, 4, 0), "features is 0; an integer from 1"),
    ],
)
def test_sizes_out_of_range_are_refused(sizes, message):
    with pytest.raises(RequestError, match=message):
        hidden_layer_sizes(*sizes, np.random.default_rng(0))


@pytest.mark.parametrize("linear", [True, False])
def test_forward_pass_and_biases_against_plain_loops(linear):
    model = random_feature_model((6, 4, 3, 2), linear, 0.2, np.random.default_rng(3))
    weights, biases = of_model(model)
    for weight, bias in zip(weights, biases, strict=True):
        assert bias == pytest.approx([0.5 - sum(0.5 * float(value) for value in row) for row in weight], abs=1e-6)
    inputs = np.random.default_rng(4).normal(size=(5, 6)).astype(np.float32)
    features, outputs = (give(torch.from_numpy(inputs)).numpy() for give in (model.features, model))
    for sample in range(5):
        *hidden, last = network(weights, biases, inputs[sample], linear)
        assert features[sample] == pytest.approx(np.concatenate(hidden), abs=1e-5)
        assert outputs[sample] == pytest.approx(last, abs=1e-5)


def test_inputs_with_a_mean_of_a_half_give_a_half_if_linear():
    model = random_feature_model((32, 24, 8, 2), True, 0.05, np.random.default_rng(5))
    assert torch.cat(list(model.activations(torch.full((1, 32), 0.5))), dim=1).numpy() == pytest.approx(0.5, abs=1e-5)
    inputs = torch.from_numpy(np.random.default_rng(6).random((50, 32), dtype=np.float32))
    around = torch.cat([inputs, 1 - inputs])  # whose mean is 0.5 exactly
    means = torch.cat(list(model.activations(around)), dim=1).mean(dim=0)
    assert means.numpy() == pytest.approx(0.5, abs=1e-4)


def test_with_relu_the_mean_of_the_first_layer_is_a_half_or_more():
    model = random_feature_model((32, 24, 2), False, 0.05, np.random.default_rng(5))
    inputs = torch.from_numpy(np.random.default_rng(6).random((50, 32), dtype=np.float32))
    means = model.features(torch.cat([inputs, 1 - inputs])).mean(dim=0).numpy()
    assert means.min() > 0.5 - 1e-5
    assert means.max() > 0.6


def test_weights_below_the_threshold_are_zero_and_the_others_uniform():
    model = random_feature_model((300, 40, 2), True, 0.25, np.random.default_rng(7))
    weight = model.weight0.numpy().ravel()
    kept = np.abs(weight[weight != 0])
    assert kept.min() >= 0.25
    assert abs((weight == 0).mean() - 0.25) < 0.02  # 12,000 weights: five standard deviations
    assert abs((weight > 0).mean() - (weight < 0).mean()) < 0.05
    assert kstest((kept - 0.25) / 0.75, "uniform").pvalue > 1e-3


def test_each_neuron_has_two_inputs_however_high_the_threshold():
    model = random_feature_model((30, 50, 4, 2), True, 0.999, np.random.default_rng(8))
    for weight in of_model(model)[0]:
        assert set((weight != 0).sum(axis=1)) <= {2, 3}
        assert (weight != 0).sum(axis=1).min() == 2
    given = np.abs(model.weight0.numpy()[model.weight0.numpy() != 0])
    assert (given < 0.5).any()  # weights that are added keep no threshold
    assert (model.weight0.numpy() != 0).any(axis=0).sum() > 20  # and stand at random places
    narrow = random_feature_model((4, 1, 3), True, 0.999, np.random.default_rng(9))
    assert (narrow.weight1.numpy() != 0).all()  # there is no second input


def test_layers_that_do_not_fit_are_refused():
    square, bias = np.zeros((2, 2), np.float32), np.zeros(2, np.float32)
    for weights, biases in (
        ([square], [bias]),
        ([square, np.zeros((2, 3), np.float32)], [bias, bias]),
        ([square, square], [bias, np.zeros(3, np.float32)]),
        ([square, bias], [bias, bias]),
    ):
        with pytest.raises(
            RequestError, match=r"a feature model's weights have the shapes .*; at least two layers were expected"
        ):
            FeatureModel(weights, biases, True)


def test_seed_vectors_of_a_linear_model_reach_the_least_squares():
    """Two layers: most targets cannot be met, and the nearest features are a projection."""
    turned = np.linalg.qr(np.random.default_rng(10).normal(size=(8, 8)))[0].astype(np.float32)
    weights = [turned[:6], turned[:4, :6], turned[:2, :4]]
    model = FeatureModel(weights, [np.full(len(weight), 0.1, np.float32) for weight in weights], True)
    targets = np.random.default_rng(11).random((50, 10), dtype=np.float32)
    found = seed_vectors(model, targets, np.random.default_rng(12))
    first = weights[0].astype(np.float64)
    slopes = np.concatenate([first, weights[1] @ first])  # [features, inputs], of rank 6
    origin = np.concatenate([np.full(6, 0.1), weights[1].sum(axis=1) * 0.1 + 0.1])
    solution = np.linalg.lstsq(slopes, (targets - origin).T, rcond=1e-5)[0]
    least = np.mean((slopes @ solution + origin[:, None] - targets.T) ** 2)
    assert 0.999 * least < found.loss < 1.05 * least
    given = model.features(found.inputs).numpy()
    assert found.loss == pytest.approx(np.mean((given.astype(np.float64) - targets) ** 2), rel=1e-5)


def test_seed_vectors_find_what_there_is_with_relu():
    model = random_feature_model((8, 6, 2), False, 0.05, np.random.default_rng(13))
    there = np.random.default_rng(14).random((100, 8), dtype=np.float32)
    targets = model.features(torch.from_numpy(there)).numpy()
    found = seed_vectors(model, targets, np.random.default_rng(15))
    assert found.loss < 0.02 * targets.var()
    assert not np.allclose(found.inputs.numpy(), there, atol=0.1)  # the start is random


def test_seed_vectors_of_a_block_do_not_depend_on_other_blocks(monkeypatch):
    monkeypatch.setattr(feature_models, "BLOCK", 32)
    model = random_feature_model((4, 3, 2), True, 0.05, np.random.default_rng(16))
    targets = np.random.default_rng(17).random((37, 3), dtype=np.float32)
    both = seed_vectors(model, targets, np.random.default_rng(18))
    first = seed_vectors(model, targets[:32], np.random.default_rng(18))
    assert torch.equal(both.inputs[:32], first.inputs)


@pytest.mark.parametrize("shape", [(5, 4), (3,), (0, 3)])
def test_targets_of_another_shape_are_refused(shape):
    model = random_feature_model((4, 3, 2), True, 0.05, np.random.default_rng(16))
    with pytest.raises(RequestError, match=r"targets have the shape .*; \[samples, 3\] was expected"):
        seed_vectors(model, np.zeros(shape, np.float32), np.random.default_rng(0))


@pytest.mark.parametrize("linear", [True, False])
def test_autoencoder_against_plain_loops(linear):
    autoencoder = FeatureAutoencoder(7, 2, linear, np.random.default_rng(19))
    state = {name: tensor.numpy() for name, tensor in autoencoder.state_dict().items()}
    weights = [array for name, array in state.items() if name.endswith("weight")]
    assert [weight.shape for weight in weights] == [(3, 7), (2, 3), (3, 2), (7, 3)]
    biases = [array for name, array in state.items() if name.endswith("bias")]
    for weight, bias in zip(weights, biases, strict=True):
        bound = weight.shape[1] ** -0.5
        assert np.abs(np.append(weight.ravel(), bias)).max() <= bound
    features = np.random.default_rng(20).random((4, 7), dtype=np.float32)
    given = torch.from_numpy(features)
    with torch.no_grad():
        inputs, read_back = autoencoder.encode(given).numpy(), autoencoder(given).numpy()
    for sample in range(4):
        encoded = network(weights[:2], biases[:2], features[sample], linear)[-1]
        assert inputs[sample] == pytest.approx(encoded, abs=1e-6)
        assert read_back[sample] == pytest.approx(network(weights[2:], biases[2:], encoded, linear)[-1], abs=1e-6)
    assert autoencoder.loss(given) == pytest.approx(np.mean((read_back - features) ** 2), rel=1e-5)


def test_a_linear_autoencoder_comes_near_principal_components_and_not_past_them(monkeypatch):
    monkeypatch.setattr(autoencoders, "MIN_UPDATES", 2_000)
    random = np.random.default_rng(21)
    features = (random.normal(size=(256, 6)) @ random.normal(size=(6, 6))).astype(np.float32)
    autoencoder = FeatureAutoencoder(6, 2, True, random)
    given = torch.from_numpy(features)
    train_autoencoder(autoencoder, given, random)
    spectrum = np.sort(np.linalg.eigvalsh(np.cov(features.T, bias=True)))
    least = spectrum[:4].sum() / 6
    assert least < autoencoder.loss(given) < 1.05 * least


def test_epochs_make_at_least_five_thousand_updates():
    assert [epochs_of(samples) for samples in (1, 64, 65, 1_600, 3_200, 6_400, 12_800)] == [
        5000,
        5000,
        2500,
        200,
        100,
        50,
        50,
    ]


@pytest.mark.parametrize("shape", [(5,), (0, 6), (2, 3, 6)])
def test_features_that_are_no_matrix_are_refused(shape):
    with pytest.raises(RequestError, match=r"features have the shape .*; \[samples, features\] was expected"):
        train_autoencoder(
            FeatureAutoencoder(6, 2, True, np.random.default_rng(0)), torch.zeros(shape), np.random.default_rng(0)
        )
