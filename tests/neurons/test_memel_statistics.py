"""Running statistics and monosemantic scales of MEmeL beside a two-pass computation over the whole history."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from neurons.naive_memel import forgetting, history_of, scales, two_pass  # noqa: E402

from ninscope.errors import RequestError  # noqa: E402
from ninscope.neurons.memel import MonosemanticScale  # noqa: E402

BATCHES = (4, 1, 3, 5)  # samples of each, so that Lemma 3.2 meets batches of different sizes
SHAPES = {"vectors": ((6,), 1), "text": ((9, 5), 2), "heads": ((3, 2, 5), 3), "images": ((4, 3, 2), 1)}


def batches_of(rng, shape, centre=0.3, dtype=torch.float32):
    scale = rng.uniform(0.2, 3, shape)
    drawn = [centre + scale * rng.normal(size=(samples, *shape)) + step / 3 for step, samples in enumerate(BATCHES)]
    return [torch.from_numpy(batch).to(dtype) for batch in drawn]


def check(scale, batches, masks=None, feature_dim=None, rtol=2e-6, of_variance=2e-5):
    """The buffers beside the whole history."""
    plain = [batch.double().numpy() for batch in batches]
    count, mean, variance = two_pass(history_of(plain, masks, feature_dim))
    np.testing.assert_array_equal(scale.count.flatten(), count)
    np.testing.assert_allclose(scale.mean.flatten(), mean, rtol=rtol, atol=2e-6)
    np.testing.assert_allclose(scale.variance.flatten(), variance, rtol=of_variance, atol=2e-6)
    assert scale.steps == len(batches)
    assert scale.mean.dtype == scale.variance.dtype == torch.float32


# --- statistics ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("neurons", ["features", "positions"])
def test_equal_two_passes_over_the_history(rng, name, neurons):
    shape, feature_dim = SHAPES[name]
    scale = MonosemanticScale(neurons, feature_dim)
    batches = batches_of(rng, shape)
    for batch in batches:
        scale(batch)
    check(scale, batches, feature_dim=feature_dim if neurons == "features" else None)
    assert scale.mean.shape == (shape if neurons == "positions" else (shape[feature_dim - 1],))


@pytest.mark.parametrize("neurons", ["features", "positions"])
@pytest.mark.parametrize("largest", [0, 1, 4])
def test_padding_has_no_part_in_them_whatever_it_holds(rng, neurons, largest):
    """Samples of several lengths, one of padding alone, NaN and infinity where nothing counts."""
    batches = batches_of(rng, (6, 4))
    masks = [rng.random((samples, 6)) < 0.6 for samples in BATCHES]
    masks[0][2] = masks[1][0] = False
    for number, (batch, kept) in enumerate(zip(batches, masks, strict=True)):
        batch[torch.from_numpy(~kept)] = (float("nan"), float("inf"), 1e30, -7)[number]
    scale = MonosemanticScale(neurons)
    for batch, kept in zip(batches, masks, strict=True):
        scale.observe(batch, torch.from_numpy(kept).long(), largest)
    check(scale, batches, masks, 2 if neurons == "features" else None)


def test_padding_over_samples_alone(rng):
    """A mask of fewer dimensions than there are before the neurons' counts for all that it leaves open."""
    batches = batches_of(rng, (4, 3, 2))
    masks = [rng.random((samples, 4)) < 0.7 for samples in BATCHES]
    scale = MonosemanticScale("positions")
    for batch, kept in zip(batches, masks, strict=True):
        scale(batch, torch.from_numpy(kept))
    check(scale, batches, masks)


@pytest.mark.parametrize("neurons", ["features", "positions"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("largest", [0, 1, 3])
def test_a_large_mean_costs_no_digits(rng, neurons, dtype, largest):
    """1000 +- 1: of squares alone float32 would keep one digit of the variance. The mean is stored to 1/16384."""
    batches = [(1000 + torch.from_numpy(rng.normal(size=(samples, 40, 3)))).to(dtype) for samples in BATCHES]
    scale = MonosemanticScale(neurons)
    for batch in batches:
        scale.observe(batch, None, largest)
    check(scale, batches, feature_dim=2 if neurons == "features" else None, rtol=3e-7, of_variance=2e-4)


@pytest.mark.parametrize("largest", [0, 1, 3])
def test_nor_does_that_of_positions_that_come_later(rng, largest):
    """1000 +- 0.1 where the first batch, of shorter texts, had padding: nothing near them is known yet."""
    batches = [(1000 + 0.1 * torch.from_numpy(rng.normal(size=(samples, 6, 3)))).float() for samples in (4, 3, 5, 4)]
    masks = [
        np.broadcast_to(np.arange(6) < length, (len(batch), 6))
        for batch, length in zip(batches, (2, 6, 4, 6), strict=True)
    ]
    scale = MonosemanticScale("positions")
    for number, (batch, kept) in enumerate(zip(batches, masks, strict=True)):
        scale.observe(batch, torch.from_numpy(kept.copy()), largest)
        check(scale, batches[: number + 1], masks[: number + 1], rtol=3e-7, of_variance=5e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_millions_of_values_cost_no_digits(dtype):
    h = (1.3 * torch.randn(64, 2, 256, 256, generator=torch.Generator().manual_seed(3)) + 0.2).to(dtype)
    scale = MonosemanticScale("features", 1)
    scale.observe(h)
    wanted = h.double().movedim(1, 0).flatten(1).numpy()
    np.testing.assert_allclose(scale.mean, wanted.mean(1), rtol=1e-6)
    np.testing.assert_allclose(scale.variance, wanted.var(1, ddof=1), rtol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SHAPES)
def test_other_types_are_taken_for_what_their_values_are(rng, dtype, name):
    shape, feature_dim = SHAPES[name]
    batches = batches_of(rng, shape, dtype=dtype)
    scale = MonosemanticScale("features", feature_dim)
    for batch in batches:
        scale(batch)
    check(scale, batches, feature_dim=feature_dim)


def test_layout_in_memory_is_of_no_account(rng):
    batches = batches_of(rng, (4, 3, 2))
    plain, last = MonosemanticScale("features", 1), MonosemanticScale("features", 1)
    for batch in batches:
        torch.testing.assert_close(
            plain(batch), last(batch.to(memory_format=torch.channels_last)), rtol=1e-5, atol=1e-6
        )
    torch.testing.assert_close(plain.mean, last.mean)
    torch.testing.assert_close(plain.variance, last.variance)


# --- forgetting ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("forget", [1, 3, 100])
def test_forgetting_is_algorithm_1(rng, forget):
    batches = [rng.normal(size=(6, 4)) * (1 + step / 4) + step for step in range(9)]
    scale = MonosemanticScale(forget=forget)
    for batch in batches:
        scale(torch.from_numpy(batch).float())
    mean, variance = forgetting(batches, forget)
    np.testing.assert_allclose(scale.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(scale.variance, variance, rtol=1e-5)


def test_forgetting_never_makes_more_of_the_past_than_there_was(rng):
    """A batch of 40 after batches of 2: 3 * 40 earlier values would be counted where there were 6."""
    batches = [rng.normal(size=(samples, 4)) for samples in (2, 2, 2, 40)]
    scale = MonosemanticScale(forget=3)
    for batch in batches:
        scale(torch.from_numpy(batch).float())
    check(scale, [torch.from_numpy(batch) for batch in batches], feature_dim=1, rtol=1e-5)


# --- scales ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("epsilon", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("neurons", ["features", "positions"])
@pytest.mark.parametrize("padded", [False, True])
def test_phi_is_of_earlier_batches_only(rng, epsilon, neurons, padded):
    """Variance compensation with the layer's mean variance; 0 in the first batch, of which nothing is known, and of padding."""
    batches = [torch.from_numpy(rng.normal(size=(4, 6, 5)) * np.arange(1, 6)).float() for _ in range(4)]
    masks = [np.arange(6) < rng.integers(1, 7, 4)[:, None] for _ in batches] if padded else None
    scale = MonosemanticScale(neurons, epsilon=epsilon)
    for step, batch in enumerate(batches):
        found = scale(batch, torch.from_numpy(masks[step]) if padded else None)
        assert found.dtype == torch.float32
        if step == 0:
            assert not found.any()
            continue
        earlier = [batch.double().numpy() for batch in batches[:step]]
        history = history_of(earlier, masks[:step] if padded else None, 2 if neurons == "features" else None)
        count, mean, variance = two_pass(history)
        values = batch.double().numpy().reshape(4, -1 if neurons == "positions" else 6, len(mean))
        wanted, known = np.zeros(values.shape), count > 1
        wanted[..., known] = scales(values[..., known], mean[known], variance[known], epsilon)
        wanted = wanted.reshape(batch.shape)
        if padded:
            wanted[~masks[step]] = 0
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-6)


def test_phi_of_images_is_in_their_order(rng):
    scale = MonosemanticScale("features", 1)
    first, second = (torch.from_numpy(rng.normal(size=(3, 4, 2, 5))).float() for _ in range(2))
    scale(first)
    _, mean, variance = two_pass(history_of([first.double().numpy()], None, 1))
    wanted = scales(np.moveaxis(second.double().numpy(), 1, -1), mean, variance, 0.01)
    np.testing.assert_allclose(scale(second), np.moveaxis(wanted, -1, 1), rtol=1e-4)


@pytest.mark.parametrize("largest", [1, 3])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("neurons", ["features", "positions"])
def test_observe_finds_the_largest_and_where_they_are(rng, largest, name, neurons):
    shape, feature_dim = SHAPES[name]
    scale, twin = MonosemanticScale(neurons, feature_dim), MonosemanticScale(neurons, feature_dim)
    for batch in batches_of(rng, shape):
        phi = twin(batch).double().numpy().reshape(len(batch), -1)
        found, index = scale.observe(batch, None, largest)
        np.testing.assert_allclose(found, -np.sort(-phi, axis=1)[:, :largest], rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(np.take_along_axis(phi, index.numpy(), 1), found, rtol=1e-4, atol=1e-9)


def test_evaluation_gives_scales_and_learns_nothing(rng):
    scale = MonosemanticScale()
    first, second = batches_of(rng, (5,))[:2]
    scale(first)
    before = {name: buffer.clone() for name, buffer in scale.named_buffers()}
    assert scale.eval()(second).any()
    for name, buffer in scale.named_buffers():
        assert torch.equal(buffer, before[name])


# --- what has no spread, or nothing in it --------------------------------------------------------------------------
def test_a_constant_neuron_has_a_scale_by_compensation_alone(rng):
    first = torch.from_numpy(rng.normal(size=(8, 3))).float()
    first[:, 1] = 0.7
    scale = MonosemanticScale()
    scale(first)
    assert scale.variance[1] < 1e-12
    second = torch.full((1, 3), 1.7)
    wanted = 1 / (0.01 * first.double().var(0).sum().item() / 3)
    assert scale(second)[0, 1].item() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("epsilon", [0.0, 0.01])
def test_of_a_constant_layer_no_scale_is_known(epsilon):
    scale = MonosemanticScale(epsilon=epsilon)
    for value in (2.0, 2.0, 5.0):
        assert not scale(torch.full((4, 3), value)).any()


def test_batches_of_one(rng):
    batches = [torch.from_numpy(rng.normal(size=(1, 5))).float() for _ in range(7)]
    scale = MonosemanticScale()
    for step, batch in enumerate(batches):
        assert bool(scale(batch).any()) == (step > 1)  # one value has no variance
    check(scale, batches, feature_dim=1)


def test_of_a_neuron_of_fewer_than_two_values_no_scale_is_known(rng):
    """Positions that were padding so far, and those that counted once: they have no variance, nor a part in the mean of all."""
    first = torch.from_numpy(rng.normal(size=(4, 5, 2))).float()
    lengths = torch.tensor([2, 3, 2, 2])
    scale = MonosemanticScale("positions")
    scale(first, torch.arange(5) < lengths[:, None])
    found = scale.eval()(torch.full((1, 5, 2), 9.0))[0]
    assert not found[2:].any()
    mean, variance = (moment[:2].double() for moment in (first.mean(0), first.double().var(0)))
    wanted = (9 - mean).square() / (variance + 0.01 * variance.mean())
    torch.testing.assert_close(found[:2].double(), wanted, rtol=1e-4, atol=0)


@pytest.mark.parametrize("largest", [0, 1, 3])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("neurons", ["features", "positions"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_empty_batch_may_come_first(largest, name, neurons, dtype):
    shape, feature_dim = SHAPES[name]
    scale = MonosemanticScale(neurons, feature_dim)
    phi, index = scale.observe(torch.zeros(0, *shape, dtype=dtype), None, largest)
    assert phi.shape == index.shape == (0, largest)
    assert not scale.count.any()
    assert scale.mean.shape == (shape if neurons == "positions" else (shape[feature_dim - 1],))


def test_an_empty_batch_says_nothing(rng):
    scale = MonosemanticScale()
    first, empty = torch.from_numpy(rng.normal(size=(4, 6, 5))).float(), torch.zeros(0, 6, 5)
    scale(first)
    mean = scale.mean.clone()
    assert scale(empty).shape == (0, 6, 5)
    assert torch.equal(scale.mean, mean)
    assert scale.count.tolist() == [24] * 5


# --- what is refused ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"neurons": "tokens"}, "neurons is 'tokens'; one of features, positions"),
        ({"forget": 0}, "forget is 0; a positive number of batches"),
        ({"forget": True}, "forget is True; a positive number of batches"),
        ({"epsilon": -1}, "epsilon is -1; a number of 0 or more"),
        ({"epsilon": float("nan")}, "epsilon is nan; a number of 0 or more"),
    ],
)
def test_settings_without_sense_are_refused(arguments, message):
    with pytest.raises(RequestError, match=message):
        MonosemanticScale(**arguments)


def test_activations_that_do_not_fit_are_refused():
    scale = MonosemanticScale(layer="block.3")
    scale(torch.randn(3, 4))
    with pytest.raises(RequestError, match=r"block.3: activations have \(5,\) neurons, earlier ones had \(4,\)"):
        scale(torch.randn(3, 5))
    with pytest.raises(RequestError, match=r"block.3: activations of shape \(4,\)"):
        scale(torch.randn(4))
    with pytest.raises(RequestError, match=r"block.3: activations of shape \(3, 4\) and type torch.int64"):
        scale(torch.ones(3, 4, dtype=torch.int64))
    with pytest.raises(RequestError, match=r"a mask of shape \(4, 3\) does not fit activations of shape \(3, 4\)"):
        scale(torch.randn(3, 4), torch.ones(4, 3))
    with pytest.raises(RequestError, match="feature_dim 2 is no dimension"):
        MonosemanticScale(feature_dim=2)(torch.randn(3, 4))
    positions = MonosemanticScale("positions")
    positions(torch.randn(3, 4, 2))
    with pytest.raises(RequestError, match="pad all batches to one length, or take neurons = 'features'"):
        positions(torch.randn(3, 5, 2))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("neurons", ["features", "positions"])
def test_values_that_are_not_finite_are_refused_and_leave_no_trace(rng, value, dtype, neurons):
    scale = MonosemanticScale(neurons, layer="block.3")
    scale(torch.randn(5, 4, dtype=dtype))
    before = {name: buffer.clone() for name, buffer in scale.named_buffers()}
    bad = torch.randn(5, 4, dtype=dtype)
    bad[2, 3] = value
    with pytest.raises(RequestError, match=r"block.3: activations are not finite \(NaN or infinity\) in a batch of 5"):
        scale(bad)
    for name, buffer in scale.named_buffers():
        assert torch.equal(buffer, before[name])
