"""Alignment with step 0's kernel: whole kernels as in the authors' code, and networks that stayed or went."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from fed_tallies import feed_two, looked_at, orthogonal, small_neox, subject_of  # noqa: E402

from ninscope.neurons import look  # noqa: E402
from ninscope.neurons.observatory.measure import FEATURES, LABELS  # noqa: E402
from ninscope.neurons.observatory.registry import measures  # noqa: E402

SHAPE = (9, 8, 5)
TOKENS = np.zeros(SHAPE[:2], np.int64)


def aligned(values, others):
    tally = measures()["rich_lazy"].tally(subject_of(*SHAPE[:2]), subject_of(*SHAPE[:2]))
    found = feed_two(tally, values, others, 4, FEATURES, TOKENS, "features")
    return found["rich_lazy", "features"], found["rich_lazy_uncentred", "features"]


def whole_kernels(values, others):
    """sum(K K_0) / ||K|| / ||K_0|| of kernels over all tokens that are compared."""
    kernels = [v[:, 1:-1].reshape(-1, v.shape[-1]).astype(np.float64) for v in (values, others)]
    kernel, start = (rows @ rows.T for rows in kernels)
    return np.sum(kernel * start) / np.linalg.norm(kernel) / np.linalg.norm(start)


def test_the_uncentred_one_is_that_of_whole_kernels():
    random = np.random.default_rng(0)
    x = random.normal(size=SHAPE).astype(np.float32) + 0.5
    y = (x[..., :3] + random.normal(size=(9, 8, 3))).astype(np.float32)
    assert aligned(x, y)[1] == pytest.approx(whole_kernels(x, y), abs=1e-9)


def test_a_rotated_representation_is_lazy():
    random = np.random.default_rng(1)
    x = random.normal(size=SHAPE)
    assert aligned(0.1 * x @ orthogonal(5, random), x) == pytest.approx((1, 1), abs=1e-12)


def test_a_new_direction_is_rich():
    """Of covariances: ||cov(x, y)||^2 / ||cov(x)|| / ||cov(y)||, with variances 9, 1, 1, 1 against 1, 1, 1, 1."""
    random = np.random.default_rng(2)
    x = random.normal(size=(600, 12, 4))
    learned = x.copy()
    learned[..., 0] *= 3
    tally = measures()["rich_lazy"].tally(subject_of(600, 12), subject_of(600, 12))
    found = feed_two(tally, learned, x, 100, FEATURES, np.zeros((600, 12), np.int64), "features")
    assert found["rich_lazy", "features"] == pytest.approx(12 / np.sqrt(4 * 84), abs=0.03)


def test_a_mean_that_all_tokens_share_hides_in_the_uncentred_one():
    random = np.random.default_rng(3)
    x, y = random.normal(size=(2, *SHAPE))
    centred, uncentred = aligned(x + 10, y + 10)
    assert uncentred > 0.99
    assert abs(centred) < 0.2


def test_constant_features_say_nothing():
    assert np.isnan(aligned(np.zeros(SHAPE), np.zeros(SHAPE))).all()


def test_of_samples_without_text():
    random = np.random.default_rng(4)
    x, y = random.normal(size=(2, 20, 1, 5))
    tally = measures()["rich_lazy"].tally(subject_of(20, 0, has=(LABELS,)), subject_of(20, 0, has=(LABELS,)))
    found = feed_two(tally, x, y, 20, FEATURES)
    kernel, start = (rows[:, 0] @ rows[:, 0].T for rows in (x, y))
    expected = np.sum(kernel * start) / np.linalg.norm(kernel) / np.linalg.norm(start)
    assert found["rich_lazy_uncentred", "x"] == pytest.approx(expected, abs=1e-9)


def test_look_compares_with_the_start():
    model, start = small_neox(0), small_neox(1)
    tokens = np.random.default_rng(5).integers(0, 64, (8, 12))
    found = looked_at(look(model, tokens, "rich_lazy", other={"start": start}, controls="none"))
    own = looked_at(look(model, tokens, "rich_lazy", other={"start": model}, controls="none"))
    assert own["rich_lazy", "features", "start"] == pytest.approx(1, abs=1e-12)
    assert found["rich_lazy", "features", "start"] < 0.9
    with torch.no_grad():
        features = [
            one.gpt_neox(input_ids=torch.from_numpy(tokens)).last_hidden_state.numpy() for one in (model, start)
        ]
    assert found["rich_lazy_uncentred", "features", "start"] == pytest.approx(whole_kernels(*features), abs=1e-6)
