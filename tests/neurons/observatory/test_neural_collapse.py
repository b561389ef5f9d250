"""Neural collapse: classes that are collapsed exactly, and a plain version in two passes on any features."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from labelled_subjects import facts_of, refusal, subject_of  # noqa: E402

from ninscope.neurons.observatory.examples import Examples  # noqa: E402
from ninscope.neurons.observatory.subject import Subject  # noqa: E402

NAMES = (
    "neural_collapse",
    "neural_collapse_nc2_norms",
    "neural_collapse_nc2_angles",
    "neural_collapse_nc3",
    "neural_collapse_nc4",
)


def simplex(classes, width):
    """Corners of a regular simplex around 0, [classes, width]."""
    corners = np.zeros((classes, width))
    corners[:, :classes] = np.eye(classes) - 1 / classes
    return corners


def naive(features, labels, head):
    """As the definitions say, sample by sample; the head has no bias."""
    classes = range(max(labels) + 1)
    own = {c: [h for h, label in zip(features, labels, strict=True) if label == c] for c in classes}
    means = [sum(own[c]) / len(own[c]) for c in classes]
    middle = sum(means) / len(means)
    centred = [mean - middle for mean in means]
    within = sum(np.outer(h - means[c], h - means[c]) for h, c in zip(features, labels, strict=True)) / len(features)
    between = sum(np.outer(m, m) for m in centred) / len(means)
    lengths = [math.sqrt(float(m @ m)) for m in centred]
    mean_length = sum(lengths) / len(lengths)
    spread = math.sqrt(sum((length - mean_length) ** 2 for length in lengths) / (len(lengths) - 1))
    cosines = [
        centred[i] @ centred[j] / lengths[i] / lengths[j] + 1 / (len(means) - 1)
        for i in classes
        for j in classes
        if i < j
    ]
    matrix = np.array(centred)
    apart = head / math.sqrt((head**2).sum()) - matrix / math.sqrt((matrix**2).sum())
    differing = 0
    for h in features:
        nearest = min(classes, key=lambda c: float((h - means[c]) @ (h - means[c])))
        differing += nearest != max(classes, key=lambda c: float(head[c] @ h))
    return (
        np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / len(means),
        spread / mean_length,
        sum(map(abs, cosines)) / len(cosines),
        (apart**2).sum(),
        differing / len(features),
    )


def test_collapsed_classes_have_zeros():
    corners, labels = simplex(4, 6), np.arange(20) % 4
    found = facts_of(subject_of(3 * corners[labels] + 0.5, labels, 4, head=2 * corners), "neural_collapse")
    assert tuple(found) == NAMES
    assert [found[name].value for name in NAMES] == pytest.approx([0] * 5, abs=1e-6)
    assert [found[name].count for name in NAMES] == [20, 4, 4, 4, 20]
    assert found["neural_collapse"].layer == "features"


def test_each_part_of_the_collapse_is_told_by_itself(rng):
    corners, labels = simplex(3, 5), np.arange(24) % 3
    collapsed = corners[labels]
    noise = np.zeros((24, 5))
    noise[:, 1] = np.repeat([0.1, -0.1], 12)  # within every class as often up as down
    spread = facts_of(subject_of(collapsed + noise, labels, 3, head=corners), "neural_collapse")
    # Along a direction of the means' plane, S_B is corners.T @ corners / 3 = (1/3) (I - 1/3) there.
    assert spread["neural_collapse"].value == pytest.approx(0.01 * (2 / 3) * 3 / 3, rel=1e-5)
    assert spread["neural_collapse_nc3"].value == pytest.approx(0, abs=1e-6)
    turned = facts_of(subject_of(collapsed, labels, 3, head=-corners), "neural_collapse")
    assert turned["neural_collapse_nc3"].value == pytest.approx(4, rel=1e-5)
    assert turned["neural_collapse_nc4"].value == 1
    assert turned["neural_collapse"].value == pytest.approx(0, abs=1e-6)
    line = np.zeros((3, 5))
    line[:, 0] = [-1, 0.5, 0.5]  # two of the centred means point the same way
    lined = facts_of(subject_of(line[labels] + 1, labels, 3, head=corners), "neural_collapse")
    assert lined["neural_collapse_nc2_angles"].value == pytest.approx((0.5 + 0.5 + 1.5) / 3, rel=1e-5)
    assert lined["neural_collapse_nc2_norms"].value == pytest.approx(math.sqrt(1 / 12) / (2 / 3), rel=1e-5)


@pytest.mark.parametrize(("classes", "width", "offset"), [(3, 5, 0), (6, 5, 0), (2, 1, 0), (4, 7, 300)])
def test_any_features_are_measured_as_the_definitions_say(rng, classes, width, offset):
    labels = np.concatenate([np.arange(classes), np.arange(classes), rng.integers(0, classes, 40)])
    features = (rng.normal(size=(len(labels), width)) + rng.normal(size=(classes, width))[labels] + offset).astype(
        np.float32
    )
    head = rng.normal(size=(classes, width)).astype(np.float32)
    found = facts_of(subject_of(features, labels, classes, head=head), "neural_collapse")
    wanted = naive(features.astype(float), labels.tolist(), head.astype(float))
    assert [found[name].value for name in NAMES] == pytest.approx(wanted, rel=1e-6)


def test_the_batches_do_not_matter(rng):
    labels = rng.integers(0, 3, 30)
    features = rng.normal(size=(30, 4))
    first, second = (facts_of(subject_of(features, labels, 3, batch=size), "neural_collapse") for size in (4, 30))
    assert [first[name].value for name in NAMES] == pytest.approx([second[name].value for name in NAMES], rel=1e-9)


def test_what_is_refused(rng):
    features, labels = rng.normal(size=(12, 2)), np.arange(12) % 4
    assert "4 classes in 2 dimensions are no simplex, which has dimensions + 1 corners at most" in refusal(
        subject_of(features, labels, 4, head=np.ones((4, 2))), "neural_collapse"
    )
    assert "its head has 3 outputs, and the examples have 4 classes" in refusal(
        subject_of(features, labels, 4, head=np.ones((3, 2))), "neural_collapse"
    )
    assert "class 'rare' has 1 of the samples, and 2 or more are needed" in refusal(
        subject_of(features, [0] * 11 + [1], 2, names=("often", "rare")), "neural_collapse"
    )
    assert "the examples have 1 class; two or more are needed" in refusal(
        subject_of(features, [0] * 12, 1), "neural_collapse"
    )
    assert "it needs labels" in refusal(subject_of(features, None), "neural_collapse")
    assert "features: the features of class 'class 0' have the mean of all classes; collapse is not defined" in refusal(
        subject_of(np.ones((12, 2)), np.arange(12) % 2), "neural_collapse"
    )


def test_models_whose_features_are_not_one_a_sample(rng):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "vocab_size": 16,
    }
    config = transformers.GPTNeoXConfig(**sizes, num_labels=2, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    examples = Examples("tokens", rng.integers(3, 16, (8, 5)), 4, np.arange(8) % 2, ("a", "b"))
    reading_all = Subject("gpt", transformers.GPTNeoXForSequenceClassification(config).eval(), examples)
    assert "gpt: its head reads 5 positions of a sample; collapse is of one a sample" in refusal(
        reading_all, "neural_collapse"
    )
    next_tokens = Subject("gpt", transformers.GPTNeoXForCausalLM(config).eval(), examples)
    assert "gpt has no matrix that reads features and gives classes of samples" in refusal(
        next_tokens, "neural_collapse"
    )
