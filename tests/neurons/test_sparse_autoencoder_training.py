"""A trained sparse autoencoder finds directions that were planted, is the same again, and leaves torch as it was."""

import numpy as np
import pytest

from ninscope.errors import NonFiniteError, RequestError

torch = pytest.importorskip("torch", reason="torch is not installed")

from ninscope.neurons.polysemanticity import (  # noqa: E402
    load_sparse_autoencoder,
    save_sparse_autoencoder,
    train_sparse_autoencoder,
)

PLANTED, WIDTH = 6, 10


def planted(samples=600):
    """(activations [samples, WIDTH], directions [PLANTED, WIDTH] of length 1): two or fewer features a sample, all above 0."""
    draws = np.random.default_rng(7)
    directions = draws.standard_normal((PLANTED, WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    features = np.zeros((samples, PLANTED))
    for row in features:
        row[draws.choice(PLANTED, 2, replace=False)] = 1 + draws.random(2)
    return 5 * features @ directions + 3, directions


@pytest.mark.parametrize("sparsity", [{"top_k": 2}, {"l1": 0.3}], ids=lambda kind: next(iter(kind)))
def test_planted_directions_are_found(sparsity):
    activations, directions = planted()
    found = train_sparse_autoencoder(activations, 12, steps=500, batch_size=128, learning_rate=1e-2, **sparsity)
    assert found.kind == ("topk" if "top_k" in sparsity else "standard")
    np.testing.assert_allclose(np.linalg.norm(found.directions, axis=1), 1, atol=1e-6)
    closest = (directions @ found.directions.T).max(1)
    assert (closest > 0.9).all(), closest
    quality = found.quality(activations)
    assert quality.explained_variance > 0.9
    assert 1.5 < quality.active_features < 4
    assert quality.samples == len(activations)


def test_a_larger_penalty_leaves_fewer_features_active():
    activations, _ = planted(200)
    settings = {"steps": 150, "batch_size": 64, "learning_rate": 1e-2}
    active = [
        train_sparse_autoencoder(activations, 12, l1=l1, **settings).quality(activations).active_features
        for l1 in (0, 1)
    ]
    assert active[1] < 0.6 * active[0]


def test_the_same_again_whatever_else_torch_does():
    activations, _ = planted(50)
    settings = {"features": 8, "top_k": 2, "steps": 5, "batch_size": 16}
    first = train_sparse_autoencoder(activations, **settings)
    state = torch.get_rng_state()
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.no_grad():
            torch.rand(3)
            again = train_sparse_autoencoder(activations, **settings)
            assert not torch.is_grad_enabled()
    finally:
        torch.set_default_dtype(before)
        torch.set_rng_state(state)
    assert {name: tensor.tobytes() for name, tensor in again.tensors.items()} == {
        name: tensor.tobytes() for name, tensor in first.tensors.items()
    }
    torch.manual_seed(3)
    state = torch.get_rng_state()
    other = train_sparse_autoencoder(activations, **settings, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert abs(other.decoder - first.decoder).max() > 0.1


def test_a_scaled_layer_trains_alike():
    """Rates and penalties do not depend on the scale of activations, nor on their mean."""
    activations, _ = planted(100)
    settings = {"features": 8, "l1": 0.3, "steps": 20, "batch_size": 32}
    plain = train_sparse_autoencoder(activations, **settings)
    scaled = train_sparse_autoencoder(64 * activations + 32, **settings)
    np.testing.assert_allclose(scaled.decoder, plain.decoder, atol=1e-4)
    np.testing.assert_allclose(scaled.encode(64 * activations + 32) / 64, plain.encode(activations), atol=1e-3)


def test_it_is_saved_as_sae_lens_saves(tmp_path):
    """sae-lens 6.54.12 itself read such folders, with the same features and reconstructions to 1e-6; done by hand."""
    activations, _ = planted(50)
    for sparsity in ({"top_k": 2}, {"l1": 0.1}):
        trained = train_sparse_autoencoder(activations, 8, steps=3, **sparsity)
        read = load_sparse_autoencoder(save_sparse_autoencoder(trained, tmp_path / "trained"), width=WIDTH)
        np.testing.assert_array_equal(read.encode(activations), trained.encode(activations))
        assert read.about["metadata"]["steps"] == 3
        assert read.about["metadata"]["trained_by"] == "ninscope"
        assert (
            read.about["message"]
            == f"read as {read.kind}; its decoder's rows have length 1, so any norms are in the encoder"
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": None}, "top_k is None and l1 is None; give one of the two"),
        ({"l1": 0.1}, "top_k is 2 and l1 is 0.1; give one of the two"),
        ({"top_k": 9}, "top_k is 9, more than the 8 features; take fewer"),
        ({"top_k": True}, "top_k is True; a positive integer"),
        ({"top_k": None, "l1": -1}, "l1 is -1; a number that is not negative"),
        ({"features": 0}, "features is 0; a positive integer"),
        ({"steps": 2.5}, "steps is 2.5; a positive integer"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": 0}, "learning_rate is 0; a positive number"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"seed": -1}, "seed is -1; an integer that is not negative"),
        ({"activations": np.ones(4)}, r"activations have shape \[4\]; \[samples, width\], two or more"),
        ({"activations": np.ones((4, 3))}, "all activations are alike, so there are no features in them"),
        ({"activations": np.array([[1, np.nan], [0, 1]])}, "activations hold NaN or infinity"),
    ],
)
def test_what_cannot_be_trained(changes, message):
    settings = {"activations": planted(20)[0], "features": 8, "top_k": 2, "steps": 2}
    with pytest.raises(RequestError, match=message):
        train_sparse_autoencoder(**(settings | changes))


def test_a_training_that_diverges_is_told():
    with pytest.raises(NonFiniteError, match="the training of the autoencoder diverged; take a smaller learning_rate"):
        train_sparse_autoencoder(planted(20)[0], 8, l1=0.1, steps=20, learning_rate=1e30)


def test_a_callers_inference_mode_changes_nothing():
    x = planted(20)[0]
    expected = train_sparse_autoencoder(x, 8, top_k=2, steps=3)
    with torch.inference_mode():
        found = train_sparse_autoencoder(torch.from_numpy(x), 8, top_k=2, steps=3)
    np.testing.assert_array_equal(found.encoder, expected.encoder)
