"""Kernel alignment and shape distance against whole Gram matrices, term by term, and against what theory says."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from fed_tallies import feed, feed_two, looked_at, orthogonal, permuted_neox, small_neox, subject_of  # noqa: E402

from ninscope.errors import CheckpointError  # noqa: E402
from ninscope.neurons import look  # noqa: E402
from ninscope.neurons.observatory import similarity  # noqa: E402
from ninscope.neurons.observatory.measure import LABELS, RESIDUAL, TOKENS, Batch  # noqa: E402
from ninscope.neurons.observatory.registry import measures  # noqa: E402
from ninscope.neurons.observatory.similarity import CHOSEN, Choice, KernelSums, ShapeSums, kernel_of  # noqa: E402

WINDOWS, WINDOW, BATCH = 12, 10, 4  # all tokens of a batch are compared
TOL = 1e-6


# --- the plain twin -----------------------------------------------------------------------------------------
def unbiased_hsic(k, l):  # noqa: E741
    """Song et al. 2012, equation 5: the three terms of kernels without their diagonals."""
    m = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    one = np.ones(m)
    last = 2 / (m - 2) * (one @ k @ l @ one)
    return (np.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((m - 1) * (m - 2)) - last) / (m * (m - 3))


def biased_cka(x, y):
    """Kornblith et al. 2019, of centred features."""
    x, y = x - x.mean(0), y - y.mean(0)
    return np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)


def batch_cka(kernels, others):
    """Nguyen et al. 2021: means of HSIC over mini-batches, then the ratio."""
    cross, own, their = (
        np.mean([unbiased_hsic(a, b) for a, b in pairs])
        for pairs in (zip(kernels, others), zip(kernels, kernels), zip(others, others))  # noqa: B905
    )
    return cross / math.sqrt(own * their)


def shape_angle(x, y):
    """Rotate one onto the other with scipy, then take the angle between them as vectors."""
    from scipy.linalg import orthogonal_procrustes

    width = max(x.shape[1], y.shape[1])
    x, y = (np.pad(v - v.mean(0), ((0, 0), (0, width - v.shape[1]))) for v in (x, y))
    rotated = x @ orthogonal_procrustes(x, y)[0]
    return math.acos(min((rotated * y).sum() / np.linalg.norm(x) / np.linalg.norm(y), 1.0))


def inner(values):
    """The tokens that are compared when all are: neither first nor last of a window. [windows, t, d] -> [tokens, d]"""
    return values[:, 1:-1].reshape(-1, values.shape[-1]).astype(np.float64)


def drawn(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# --- the kernels themselves ---------------------------------------------------------------------------------
def alignment_of(x, y):
    sums = KernelSums()
    sums.add([kernel_of(torch.as_tensor(v, dtype=torch.float64)) for v in (x, y)])
    return sums.alignment(0, 1)


def distance_of(x, y):
    sums = ShapeSums()
    for part in (slice(0, 7), slice(7, None)):
        sums.add(*(torch.as_tensor(v[part], dtype=torch.float64) for v in (x, y)))
    return sums.distance()


@pytest.mark.parametrize("widths", [(5, 5), (3, 8), (40, 2)], ids=str)
def test_alignment_and_distance_are_those_of_whole_matrices(widths):
    random = np.random.default_rng(1)
    x = random.normal(size=(30, widths[0])) + 3
    y = random.normal(size=(30, widths[1])) + np.pad(x, ((0, 0), (0, 40)))[:, : widths[1]]
    hsic = [unbiased_hsic(a @ a.T, b @ b.T) for a, b in ((x, y), (x, x), (y, y))]
    assert alignment_of(x, y) == pytest.approx(hsic[0] / math.sqrt(hsic[1] * hsic[2]), abs=1e-8)
    assert distance_of(x, y) == pytest.approx(shape_angle(x, y), abs=1e-8)


def test_neither_sees_rotation_scale_or_origin():
    random = np.random.default_rng(2)
    x = random.normal(size=(40, 6)) @ np.diag([5, 3, 1, 1, 1, 0.1])
    moved = 1e-3 * x @ orthogonal(6, random) + random.normal(size=6)
    assert alignment_of(x, moved) == pytest.approx(1, abs=1e-9)
    assert distance_of(x, moved) == pytest.approx(0, abs=1e-6)  # arccos near 1 takes half of the digits
    stretched = x @ np.diag([1, 9, 1, 1, 1, 9])  # what neither is blind to
    assert alignment_of(x, stretched) < 0.6
    assert distance_of(x, stretched) > 0.3


def test_unrelated_representations_have_alignment_0_where_the_biased_one_has_not():
    random = np.random.default_rng(3)
    x, y = random.normal(size=(2, 200, 300))
    assert biased_cka(x, y) > 0.5
    assert abs(alignment_of(x, y)) < 0.02


def test_a_plane_turned_by_an_angle_that_rotation_cannot_undo():
    """X and Y of one dimension each: the distance is the angle whose cosine is their correlation."""
    random = np.random.default_rng(4)
    noise = np.linalg.qr(np.column_stack([np.ones(50), random.normal(size=(50, 2))]))[0][:, 1:]
    x, y = noise[:, :1], math.cos(0.7) * noise[:, :1] + math.sin(0.7) * noise[:, 1:]
    assert distance_of(x, y) == pytest.approx(0.7, abs=1e-9)


def test_nothing_is_said_of_constants_and_of_three_samples():
    x = np.random.default_rng(5).normal(size=(9, 4))
    assert math.isnan(alignment_of(x, np.ones((9, 4))))
    assert math.isnan(distance_of(x, np.ones((9, 4))))
    assert math.isnan(alignment_of(x[:3], x[:3]))
    assert math.isnan(KernelSums().alignment(0, 0))
    assert math.isnan(ShapeSums().distance())


# --- which tokens -------------------------------------------------------------------------------------------
def test_tokens_are_drawn_once_and_without_the_ends_of_windows():
    tokens = torch.zeros(16, 64, dtype=torch.int64)
    choice = Choice(subject_of(32, 64))
    first, again, second = (choice.where(Batch(number, 0, {}, tokens)) for number in (0, 0, 1))
    assert len(first) == CHOSEN
    assert len(set(first.tolist())) == CHOSEN
    assert set((first % 64).tolist()) <= set(range(1, 63))
    assert len(set((first % 64).tolist())) > 50
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert torch.equal(first, Choice(subject_of(32, 64)).where(Batch(0, 0, {}, tokens)))
    assert not torch.equal(first, Choice(subject_of(32, 64, seed=1)).where(Batch(0, 0, {}, tokens)))


@pytest.mark.parametrize(("window", "expected"), [(3, [1]), (2, [0]), (1, [0])])
def test_short_windows_keep_a_token(window, expected):
    where = Choice(subject_of(1, window)).where(Batch(0, 0, {}, torch.zeros(1, window, dtype=torch.int64)))
    assert where.tolist() == expected


# --- the measure of one model -------------------------------------------------------------------------------
def model_values():
    """Three layers of different widths, logits and tokens: each layer is in part the one before."""
    x = drawn(10, WINDOWS, WINDOW, 6)
    y = np.concatenate([x[..., :4], drawn(11, WINDOWS, WINDOW, 2)], axis=-1)
    z = 3 * y + drawn(12, WINDOWS, WINDOW, 6) + 50
    logits = z @ drawn(13, 6, 9) + 1000 * drawn(14, WINDOWS, WINDOW, 1)  # a shift of each token, which means nothing
    return {"a.x": x, "b.x": y, "output.x": z, "output": logits.astype(np.float32)}


@pytest.mark.parametrize("columns", [4096, 4])
def test_geometry_is_that_of_the_plain_twin(columns, monkeypatch):
    monkeypatch.setattr(similarity, "_COLUMNS", columns)  # 9 logits, 4 at a time
    values = model_values()
    tokens = np.random.default_rng(15).integers(0, 4, (WINDOWS, WINDOW))
    layers = ["a.x", "b.x", "output.x"]
    found = feed(measures()["geometry"].tally(subject_of(WINDOWS, WINDOW, layers)), values, BATCH, tokens=tokens)

    parts = [slice(first, first + BATCH) for first in range(0, WINDOWS, BATCH)]
    kernels = {layer: [inner(values[layer][part]) @ inner(values[layer][part]).T for part in parts] for layer in layers}
    logits = values["output"].astype(np.float64) - values["output"].mean(-1, keepdims=True, dtype=np.float64)
    kernels["outputs"] = [inner(logits[part]) @ inner(logits[part]).T for part in parts]
    following = [tokens[part, 2:].reshape(-1) for part in parts]
    kernels["targets"] = [np.array([[float(a == b) for b in some] for a in some]) for some in following]
    pairs = {("geometry", "b.x"): "a.x", ("geometry", "output.x"): "b.x"}
    pairs |= {("geometry_inputs", layer): "a.x" for layer in layers[1:]}
    pairs |= {(f"geometry_{kind}", layer): kind for kind in ("outputs", "targets") for layer in layers}
    expected = {key: batch_cka(kernels[key[1]], kernels[other]) for key, other in pairs.items()}
    expected |= {
        ("geometry_procrustes", layer): shape_angle(inner(values[before]), inner(values[layer]))
        for before, layer in (("a.x", "b.x"), ("b.x", "output.x"))
    }
    assert found == pytest.approx(expected, abs=TOL)


def test_layers_that_rotate_have_alignment_1_and_distance_0():
    random = np.random.default_rng(20)
    x = random.normal(size=(WINDOWS, WINDOW, 8))
    values = {"a.x": x, "b.x": 7 * x @ orthogonal(8, random), "output": x}
    tokens = np.zeros((WINDOWS, WINDOW), np.int64)
    found = feed(
        measures()["geometry"].tally(subject_of(WINDOWS, WINDOW, ["a.x", "b.x"])), values, BATCH, tokens=tokens
    )
    assert found["geometry", "b.x"] == pytest.approx(1, abs=1e-12)
    assert found["geometry_procrustes", "b.x"] == pytest.approx(0, abs=1e-6)
    assert math.isnan(found["geometry_targets", "b.x"])  # all targets are the same


def test_a_layer_of_one_hot_next_tokens_is_that_of_the_targets():
    tokens = np.random.default_rng(21).integers(0, 5, (WINDOWS, WINDOW))
    ahead = np.eye(5, dtype=np.float32)[np.roll(tokens, -1, axis=1)]
    values = {"a.x": np.eye(5, dtype=np.float32)[tokens], "b.x": ahead, "output": ahead}
    found = feed(
        measures()["geometry"].tally(subject_of(WINDOWS, WINDOW, ["a.x", "b.x"])), values, BATCH, tokens=tokens
    )
    assert found["geometry_targets", "b.x"] == pytest.approx(1, abs=1e-12)
    assert abs(found["geometry_targets", "a.x"]) < 0.1  # one token says nothing of the next


def test_of_images_samples_are_compared_by_their_mean_over_positions():
    labels = np.arange(16) % 2
    apart = np.where(labels, 1, -1)[:, None, None] * np.ones((16, 3, 4), np.float32)
    noise = drawn(22, 16, 3, 4)
    noise -= noise.mean(1, keepdims=True)  # which the mean over positions does not see
    values = {"a.x": drawn(23, 16, 5, 2), "b.x": (apart + noise), "output": apart[:, :1]}
    subject = subject_of(16, 0, ["a.x", "b.x"], labels=labels, has=(LABELS,))
    found = feed(measures()["geometry"].tally(subject), values, 8, labels=labels)
    assert found["geometry_targets", "b.x"] == pytest.approx(1, abs=TOL)
    kernels = [
        [m @ m.T for m in (v[p].mean(1, dtype=np.float64) for p in (slice(8), slice(8, 16)))]
        for v in (values["a.x"], apart)
    ]
    assert found["geometry", "b.x"] == pytest.approx(batch_cka(*kernels), abs=1e-5)


def test_without_targets_there_are_no_rows_of_them():
    values = {"a.x": drawn(24, 8, 6, 3), "output": drawn(25, 8, 6, 3)}
    subject = subject_of(8, 6, ["a.x"], has=(TOKENS,))
    subject.batches = lambda: iter([Batch(0, 0, {"input_ids": torch.zeros(8, 6, dtype=torch.int64)})])
    subject.outputs = lambda batch: torch.zeros(1, 6, 3)
    found = feed(measures()["geometry"].tally(subject), values, 4, tokens=np.zeros((8, 6), np.int64))
    assert set(found) == {("geometry_outputs", "a.x")}


def test_batches_that_pass_through_different_layers_are_refused():
    tally = measures()["geometry"].tally(subject_of(8, 6))
    tokens = np.zeros((8, 6), np.int64)
    feed(tally, {"a.x": drawn(26, 8, 6, 3), "output": drawn(27, 8, 6, 3)}, 8, tokens=tokens)
    with pytest.raises(CheckpointError, match="the other: batches pass through different layers"):
        feed(tally, {"b.x": drawn(26, 8, 6, 3), "output": drawn(27, 8, 6, 3)}, 8, tokens=tokens)


# --- the measure of two models ------------------------------------------------------------------------------
def test_two_models_are_compared_as_the_plain_twin_does():
    x = drawn(30, WINDOWS, WINDOW, 6)
    y = (x @ drawn(31, 6, 4) + drawn(32, WINDOWS, WINDOW, 4)).astype(np.float32)
    tally = measures()["geometry_between"].tally(subject_of(WINDOWS, WINDOW), subject_of(WINDOWS, WINDOW))
    tokens = np.zeros((WINDOWS, WINDOW), np.int64)
    found = feed_two(tally, x, y, BATCH, RESIDUAL, tokens)
    parts = [slice(first, first + BATCH) for first in range(0, WINDOWS, BATCH)]
    kernels = [[inner(v[part]) @ inner(v[part]).T for part in parts] for v in (x, y)]
    expected = {
        ("geometry_between", "x"): batch_cka(*kernels),
        ("geometry_between_procrustes", "x"): shape_angle(inner(x), inner(y)),
    }
    assert found == pytest.approx(expected, abs=TOL)


def test_two_models_with_permuted_neurons_are_the_same():
    random = np.random.default_rng(33)
    x = random.normal(size=(WINDOWS, WINDOW, 6))
    tally = measures()["geometry_between"].tally(subject_of(WINDOWS, WINDOW), subject_of(WINDOWS, WINDOW))
    found = feed_two(tally, x, x[..., random.permutation(6)], BATCH, RESIDUAL, np.zeros((WINDOWS, WINDOW), np.int64))
    assert found["geometry_between", "x"] == pytest.approx(1, abs=1e-12)
    assert found["geometry_between_procrustes", "x"] == pytest.approx(0, abs=1e-6)


# --- through look -------------------------------------------------------------------------------------------
def test_look_at_a_model_and_at_two():
    model, seed = small_neox(0), small_neox(1)
    tokens = np.random.default_rng(40).integers(0, 64, (12, 10))
    with torch.no_grad():
        ours, theirs = (
            [
                state.numpy()
                for state in one(input_ids=torch.from_numpy(tokens), output_hidden_states=True).hidden_states
            ]
            for one in (model, seed)
        )
    found = look(model, tokens, ["geometry", "geometry_between"], other={"seed": seed}, controls="none", batch_size=4)
    rows = looked_at(found)
    parts = [slice(first, first + 4) for first in (0, 4, 8)]
    first, second, other = (
        [inner(v[part]) @ inner(v[part]).T for part in parts] for v in (ours[0], ours[1], theirs[1])
    )
    assert rows["geometry", "block1.x", ""] == pytest.approx(batch_cka(first, second), abs=TOL)
    assert rows["geometry_procrustes", "block1.x", ""] == pytest.approx(
        shape_angle(inner(ours[0]), inner(ours[1])), abs=TOL
    )
    assert rows["geometry_between", "block1.x", "seed"] == pytest.approx(batch_cka(second, other), abs=TOL)
    assert set(found["layer"]) == {"block0.x", "block1.x", "output.x"}
    assert set(found["count"]) == {96}
    same = look(model, tokens, "geometry_between", other={"previous": permuted_neox(model)})
    assert same[same["measure"] == "geometry_between"]["value"].min() == pytest.approx(1, abs=1e-9)


def test_look_at_images():
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    sizes = {"image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": 3, "num_attention_heads": 2}
    model = ViTForImageClassification(
        ViTConfig(hidden_size=16, num_hidden_layers=2, intermediate_size=24, initializer_range=0.5, **sizes)
    ).eval()
    images, labels = drawn(41, 40, 1, 8, 8), np.arange(40) % 3
    with torch.no_grad():
        output = model(pixel_values=torch.from_numpy(images), output_hidden_states=True)
    first, second = (state.mean(1).double().numpy() for state in output.hidden_states[:2])
    logits = output.logits.double().numpy()
    logits -= logits.mean(1, keepdims=True)
    rows = looked_at(look(model, images, "geometry", labels=labels, controls="none", batch_size=20))
    parts = (slice(0, 20), slice(20, 40))
    kernels = {name: [v[p] @ v[p].T for p in parts] for name, v in (("x", first), ("y", second), ("out", logits))}
    kernels["labels"] = [(labels[p, None] == labels[p]).astype(float) for p in parts]
    assert rows["geometry", "block1.x", ""] == pytest.approx(batch_cka(kernels["x"], kernels["y"]), abs=TOL)
    assert rows["geometry_outputs", "block1.x", ""] == pytest.approx(batch_cka(kernels["y"], kernels["out"]), abs=1e-5)
    assert rows["geometry_targets", "block1.x", ""] == pytest.approx(
        batch_cka(kernels["y"], kernels["labels"]), abs=TOL
    )
    assert rows["geometry_procrustes", "block1.x", ""] == pytest.approx(shape_angle(first, second), abs=TOL)
