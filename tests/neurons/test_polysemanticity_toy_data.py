"""Toy data: how its parts follow from each other, that it is the same each time, and that it is stored exactly."""

from dataclasses import replace

import numpy as np
import pytest
from naive_toy_data import layer, network

torch = pytest.importorskip("torch")

from ninscope.errors import CheckpointError, RequestError  # noqa: E402
from ninscope.neurons.polysemanticity import autoencoder, feature_model  # noqa: E402
from ninscope.neurons.polysemanticity.experiments import EXPERIMENTS, Experiment  # noqa: E402
from ninscope.neurons.polysemanticity.keyed_randomness import generator  # noqa: E402
from ninscope.neurons.polysemanticity.toy_data import ToyData, make_toy_data, sparse_targets  # noqa: E402

SMALL = Experiment("small", False, 6, (4, 2), 2, 2, (0.5, 0.7), (2, 8, 4, 2), samples_per_output=20)


@pytest.fixture(autouse=True)
def _short_searches(monkeypatch):
    """How well they end is tested elsewhere."""
    monkeypatch.setattr(autoencoder, "MIN_UPDATES", 100)
    monkeypatch.setattr(autoencoder, "MIN_EPOCHS", 10)
    monkeypatch.setattr(feature_model, "SEED_STEPS", 100)


def as_bytes(data):
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in data.arrays().items()}


@pytest.mark.parametrize("linear", [True, False])
def test_each_part_follows_from_the_features(linear):
    data = make_toy_data(replace(SMALL, linear=linear), 0)
    arrays = data.arrays()
    assert [array.shape for array in (data.features, data.inputs, data.outputs)] == [(240, 6), (240, 2), (240, 2)]
    assert all(array.dtype == np.float32 for array in (data.features, data.inputs, data.outputs))
    model = [[arrays[f"feature_model.{kind}{i}"] for i in range(3)] for kind in ("weight", "bias")]
    encoder = [
        [array for name, array in arrays.items() if name.startswith("autoencoder.encoder") and name.endswith(kind)]
        for kind in ("weight", "bias")
    ]
    decoder = [
        [array for name, array in arrays.items() if name.startswith("autoencoder.decoder") and name.endswith(kind)]
        for kind in ("weight", "bias")
    ]
    errors = []
    for features, inputs, outputs in zip(data.features, data.inputs, data.outputs, strict=True):
        assert features[4:] == pytest.approx(layer(model[0][1], model[1][1], features[:4], not linear), abs=1e-5)
        assert outputs == pytest.approx(layer(model[0][2], model[1][2], features[4:], False), abs=1e-5)
        encoded = network(*encoder, features, linear)[-1]
        assert inputs == pytest.approx(encoded, abs=1e-5)
        errors.append((np.array(network(*decoder, encoded, linear)[-1]) - features) ** 2)
    assert data.reconstruction_loss == pytest.approx(np.mean(errors), rel=1e-4)
    assert data.variance_kept == pytest.approx(1 - np.mean(errors) / data.features.var(axis=0).mean(), rel=1e-4)
    targets = sparse_targets(data.experiment, generator("targets", "small", 0))
    assert data.seed_loss == pytest.approx(np.mean((data.features - targets) ** 2), rel=1e-4)
    assert torch.equal(data.encoder(torch.from_numpy(data.features)), torch.from_numpy(data.inputs))


def test_the_share_of_variance_kept_is_said():
    """The thesis' own inputs are fewer than half the features: no fault, and never silent."""
    data = make_toy_data(SMALL, 0)
    share = f"{100 * data.variance_kept:.0f}"
    assert (
        data.message
        == f"2 inputs keep {share} % of the variance of 6 features, as far as the autoencoder reads them back"
    )
    one = replace(data, experiment=replace(SMALL, inputs=1, observed=(1, 8, 2)))
    assert one.message.startswith("1 input keeps ")
    assert data.variance_kept < 0.95
    alike = replace(data, features=np.ones_like(data.features))
    assert np.isnan(alike.variance_kept)
    assert alike.message == "no feature varies: all samples are alike"


def test_the_parts_for_training_and_test_hold_each_sample_once():
    data = make_toy_data(SMALL, 0)
    assert (len(data.train), len(data.test)) == (168, 72)
    assert sorted([*data.train, *data.test]) == list(range(240))
    assert (np.diff(data.train) > 0).all()
    assert (np.diff(data.test) > 0).all()
    other = make_toy_data(SMALL, 1)
    assert not np.array_equal(data.test, other.test)
    assert not np.array_equal(data.features, other.features)


def test_targets_are_as_sparse_as_asked():
    experiment = replace(EXPERIMENTS["N4"], sparsity=(0.25, 0.95))
    targets = sparse_targets(experiment, np.random.default_rng(0))
    assert targets.shape == (12_800, 128)
    assert targets.dtype == np.float32
    absent = (targets == 0).mean(axis=0)
    assert 0.23 < absent.min() < 0.35  # a feature's share of 12,800 samples has a standard deviation below 0.005
    assert 0.85 < absent.max() < 0.97
    present = targets[targets > 0]
    assert present.max() < 1
    assert present.mean() == pytest.approx(0.5, abs=0.01)
    assert present.var() == pytest.approx(1 / 12, abs=0.005)


def test_the_same_whatever_the_state_of_the_process_which_is_left_as_it_was():
    before = as_bytes(make_toy_data(SMALL, 3))
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global state is what is tested
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    try:
        states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        for context in (torch.no_grad, torch.inference_mode):
            with context():
                data = make_toy_data(SMALL, 3)
                assert torch.is_grad_enabled() is False
            assert as_bytes(data) == before
        assert torch.get_num_threads() == 2
        assert torch.get_default_dtype() is torch.float64
        assert torch.equal(states[0], torch.get_rng_state())
        assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    finally:
        torch.set_default_dtype(torch.float32)


def test_it_is_stored_and_read_back_exactly():
    data = make_toy_data(SMALL, 0)
    state = torch.get_rng_state()
    read = ToyData.of_arrays(SMALL, 0, data.arrays())
    assert torch.equal(state, torch.get_rng_state())
    assert as_bytes(read) == as_bytes(data)
    assert (read.experiment, read.seed, read.message) == (SMALL, 0, data.message)
    given = torch.from_numpy(data.features)
    assert torch.equal(read.encoder(given), data.encoder(given))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"features": None},
            r"toy data of small: 'features' is missing, and float32 \[240, 6\] was expected; make the toy",
        ),
        (
            {"inputs": np.zeros((240, 3), np.float32)},
            r"'inputs' is float32 \[240, 3\], and float32 \[240, 2\] was expected",
        ),
        ({"outputs": np.zeros((240, 2))}, r"'outputs' is float64 \[240, 2\], and float32 \[240, 2\] was expected"),
        ({"more": np.zeros(1)}, r"'more' is float64 \[1\], and no such array was expected"),
        ({"feature_model.bias0": np.zeros(5, np.float32)}, r"'feature_model.bias0' is float32 \[5\]"),
        ({"autoencoder.encoder.0.weight": None}, "'autoencoder.encoder.0.weight' is missing"),
        ({"train": np.zeros(168, np.int64)}, "'train' and 'test' do not hold each of 240 samples once"),
    ],
)
def test_what_was_stored_of_something_else_is_refused(change, message):
    arrays = make_toy_data(SMALL, 0).arrays()
    arrays = {name: array for name, array in (arrays | change).items() if array is not None}
    with pytest.raises(RequestError, match=message):
        ToyData.of_arrays(SMALL, 0, arrays)


def test_a_seed_out_of_range_is_refused():
    with pytest.raises(RequestError, match="seed is -1; an integer from 0 to"):
        make_toy_data(SMALL, -1)


def test_a_feature_model_whose_activations_exceed_float32_is_refused_at_once():
    """50 layers of 24 neurons make activations 8 to the power of 25 times as large, and nothing is trained on them."""
    deep = replace(SMALL, linear=True, feature_layers=(24,) * 50, features=1200, samples_per_output=1)
    with pytest.raises(
        CheckpointError, match="toy data of small are not finite: the weights of its 50 feature layers make"
    ):
        make_toy_data(deep, 0)
