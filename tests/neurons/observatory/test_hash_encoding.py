"""Codes of neurons that are on: counted one by one, neighbours and clusters in loops, and codes whose labels are known."""

from itertools import permutations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from fed_tallies import counts_of, feed, small_neox, subject_of  # noqa: E402

from ninscope.errors import RequestError  # noqa: E402
from ninscope.neurons import look  # noqa: E402
from ninscope.neurons.observatory.measure import HIDDEN, LABELS, TOKENS, Batch, Place  # noqa: E402
from ninscope.neurons.observatory.measures import hash_encoding  # noqa: E402
from ninscope.neurons.observatory.measures.hash_encoding import (  # noqa: E402
    Codes,
    clustering_accuracy,
    common_labels,
    first_centres,
    k_means,
    nearest_labels,
    redundancy,
)
from ninscope.neurons.observatory.registry import measures  # noqa: E402


def drawn_codes(seed, count, bits, share=0.5):
    return (np.random.default_rng(seed).random((count, bits)) < share).astype(np.uint8)


# --- the plain twins ----------------------------------------------------------------------------------------
def plain_neighbours(queries, known, labels, number=9):
    guesses = []
    for query in queries:
        order = sorted(range(len(known)), key=lambda row: (int((known[row] != query).sum()), row))[:number]
        votes = [labels[row] for row in order]
        guesses.append(max(sorted(set(votes)), key=votes.count))
    return guesses


def plain_lloyd(codes, centres, rounds):
    middles = [codes[row].astype(float) for row in centres]
    before = None
    for _ in range(rounds):
        clusters = [int(np.argmin([((code - middle) ** 2).sum() for middle in middles])) for code in codes]
        if clusters == before:
            break
        for number in range(len(middles)):
            inside = [code for code, cluster in zip(codes, clusters, strict=True) if cluster == number]
            middles[number] = np.mean(inside, axis=0) if inside else middles[number]
        before = clusters
    return clusters


# --- the parts ----------------------------------------------------------------------------------------------
def test_redundancy_counts_codes_beyond_the_first_of_each_kind():
    codes = np.packbits(np.array([[1, 0], [1, 0], [0, 1], [1, 0], [1, 1]], np.uint8), axis=1)
    assert redundancy(codes) == 2 / 5
    many = drawn_codes(0, 300, 7)
    assert redundancy(np.packbits(many, axis=1)) == (300 - len({tuple(code) for code in many.tolist()})) / 300


@pytest.mark.parametrize("known", [40, 5])
def test_neighbours_are_those_of_a_loop(known):
    codes, queries = drawn_codes(1, known, 6), drawn_codes(2, 30, 6)  # of 6 bits: many at the same distance
    labels = np.random.default_rng(3).integers(0, 3, known)
    found = nearest_labels(Codes.of(queries), Codes.of(codes), labels)
    assert found.tolist() == plain_neighbours(queries, codes, labels)


def test_clusters_are_those_of_a_loop():
    codes = np.concatenate([drawn_codes(4, 30, 12, 0.2), drawn_codes(5, 30, 12, 0.7)])
    start = first_centres(Codes.of(codes), 4, np.random.default_rng(0))
    assert k_means(Codes.of(codes), start).tolist() == plain_lloyd(codes, start, hash_encoding.ROUNDS)


def test_a_cluster_without_codes_stays():
    codes = np.zeros((6, 4), np.uint8)
    codes[3:] = 1
    assert k_means(Codes.of(codes), np.array([0, 1, 5])).tolist() == [0, 0, 0, 2, 2, 2]


def test_the_first_centres_are_far_from_each_other():
    codes = np.repeat(np.eye(4, 40, dtype=np.uint8), [50, 2, 2, 2], axis=0)
    for seed in range(20):
        start = first_centres(Codes.of(codes), 4, np.random.default_rng(seed))
        assert len({codes[row].argmax() for row in start}) == 4
    assert len(first_centres(Codes.of(codes[:5]), 3, np.random.default_rng(0))) == 3  # all alike


def test_clusters_get_the_labels_that_fit_best():
    random = np.random.default_rng(6)
    clusters, labels = random.integers(0, 3, 50), random.integers(0, 3, 50)
    best = max(
        sum(order[c] == label for c, label in zip(clusters, labels, strict=True)) for order in permutations(range(3))
    )
    assert clustering_accuracy(clusters, labels) == best / 50
    assert clustering_accuracy(np.array([2, 2, 0]), np.array([0, 0, 1])) == 1


def test_the_commonest_labels_are_kept(monkeypatch):
    monkeypatch.setattr(hash_encoding, "LABELS", 2)
    rows, labels = common_labels(np.array([7, 9, 7, 5, 9, 3, 5]))  # 5, 7 and 9 are there twice: the smaller ones
    assert rows.tolist() == [0, 2, 3, 6]
    assert labels.tolist() == [1, 1, 0, 0]


# --- the measure --------------------------------------------------------------------------------------------
def encoded(values, tokens, size=4, **subject):
    tally = measures()["hash_encoding"].tally(subject_of(*tokens.shape, **subject))
    return feed(tally, {"m": values.astype(np.float32)}, size, HIDDEN, tokens), tally


def test_codes_that_spell_the_token():
    """Each token has a code of its own: its bits, far from each other, and a bit of noise."""
    random = np.random.default_rng(7)
    tokens = random.integers(0, 4, (10, 8))
    bits = np.repeat(np.eye(4), 6, axis=1)[tokens]
    noise = random.random((10, 8, 1)) < 0.5
    found, tally = encoded(np.concatenate([bits, noise, np.ones((10, 8, 3))], axis=-1) - 0.5, tokens)
    assert found["hash_encoding_kmeans", "m"] == 1
    assert found["hash_encoding_neighbours", "m"] == 1
    assert found["hash_encoding_varying", "m"] == 25 / 28
    assert found["hash_encoding", "m"] == (80 - 8) / 80
    assert found["hash_encoding_chance", "m"] == np.bincount(tokens.ravel()).max() / 80
    assert counts_of(tally.found()) == {
        ("hash_encoding", "m"): 80,
        ("hash_encoding_varying", "m"): 28,
        ("hash_encoding_kmeans", "m"): 80,
        ("hash_encoding_neighbours", "m"): 40,
        ("hash_encoding_chance", "m"): 80,
    }


def test_codes_that_say_nothing_are_at_chance():
    random = np.random.default_rng(8)
    tokens = random.integers(0, 2, (64, 16))
    found, _ = encoded(random.normal(size=(64, 16, 40)), tokens, 16)
    assert abs(found["hash_encoding_neighbours", "m"] - 0.5) < 0.08
    assert abs(found["hash_encoding_kmeans", "m"] - 0.5) < 0.08
    assert found["hash_encoding", "m"] == 0


def test_few_bits_give_few_codes():
    tokens = np.zeros((64, 16), np.int64)
    found, _ = encoded(np.random.default_rng(9).normal(size=(64, 16, 3)), tokens)
    assert found["hash_encoding", "m"] == (1024 - 8) / 1024


def test_kept_tokens_do_not_depend_on_the_batches(monkeypatch):
    monkeypatch.setattr(hash_encoding, "CODES", 50)
    random = np.random.default_rng(10)
    tokens, values = random.integers(0, 3, (20, 9)), random.normal(size=(20, 9, 12))
    (found, tally), (again, other) = encoded(values, tokens, 3), encoded(values, tokens, 20)
    assert found == again
    expected = np.packbits(values.reshape(-1, 12)[tally.numbers] > 0, axis=1)
    assert np.array_equal(tally.codes["m"][tally.order], expected)
    assert np.array_equal(tally.labels[tally.order], tokens.ravel()[tally.numbers])
    assert np.array_equal(tally.labels, other.labels)
    assert len(set(tally.numbers.tolist())) == 50


def test_samples_have_the_bits_of_all_positions_and_their_own_labels(monkeypatch):
    labels = np.arange(48) % 3
    values = np.random.default_rng(11).normal(size=(48, 2, 5))
    values[np.arange(48), 1, labels] = 9  # where the label can be read
    values[:, 1, 3:] = -1
    values[:, 0] = np.eye(3, 5)[labels] * 2 - 1
    values[:, 1, :3] = np.eye(3)[labels] - 0.5
    subject = subject_of(48, 0, labels=labels, has=(LABELS,))
    tally = measures()["hash_encoding"].tally(subject)
    found = feed(tally, {"m": values}, 7, HIDDEN, labels=labels)
    assert found["hash_encoding", "m"] == 45 / 48
    assert found["hash_encoding_neighbours", "m"] == found["hash_encoding_kmeans", "m"] == 1
    assert tally.bits["m"] == 10
    monkeypatch.setattr(hash_encoding, "BITS", 4)
    shorter = measures()["hash_encoding"].tally(subject)
    feed(shorter, {"m": values}, 7, HIDDEN, labels=labels)
    assert shorter.bits["m"] == 4


def test_tokens_of_labelled_windows_have_their_windows_label():
    labels = np.arange(10) % 2
    values = np.where(labels, 1.0, -1.0)[:, None, None] * np.ones((10, 6, 12))
    tally = measures()["hash_encoding"].tally(subject_of(10, 6, labels=labels, has=(TOKENS, LABELS)))
    found = feed(tally, {"m": values}, 4, HIDDEN, np.zeros((10, 6), np.int64), labels)
    assert found["hash_encoding_neighbours", "m"] == 1
    assert found["hash_encoding_chance", "m"] == 0.5


def test_samples_without_labels_have_no_accuracy():
    tally = measures()["hash_encoding"].tally(subject_of(40, 0, has=()))
    found = feed(tally, {"m": np.random.default_rng(12).normal(size=(40, 1, 5))}, 8, HIDDEN)
    assert set(found) == {("hash_encoding", "m"), ("hash_encoding_varying", "m")}


def test_too_few_codes_are_refused():
    tokens = np.zeros((5, 7), np.int64)
    with pytest.raises(RequestError, match="hash_encoding needs 36 tokens or samples, and there are 35"):
        encoded(np.ones((5, 7, 3)), tokens)


def test_experts_have_no_rows_and_only_experts_no_measure():
    measure = measures()["hash_encoding"]
    subject = subject_of(10, 8, ["e0.m"], kind=HIDDEN)
    subject.places_of = lambda *kinds: (Place(HIDDEN, "e0.m", routed=True),)
    assert "experts" in measure.objection(subject)
    assert measure.objection(subject_of(10, 8, ["m"], kind=HIDDEN)) is None
    tally = measure.tally(subject)
    tally.see(Place(HIDDEN, "e0.m", routed=True), torch.ones(1, 3, 4), Batch(0, 0, {}, torch.zeros(10, 8)))
    assert tally.found().facts == ()


def test_look_tells_of_every_hidden_layer():
    model = small_neox(0)
    tokens = np.random.default_rng(13).integers(0, 64, (8, 12))
    seen = []
    hook = model.gpt_neox.layers[1].mlp.act.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        model(input_ids=torch.from_numpy(tokens))
    hook.remove()
    found = look(model, tokens, "hash_encoding", controls="none").set_index(["measure", "layer"])
    assert set(found.index.get_level_values("layer")) == {"block0.m", "block1.m"}
    codes = {tuple(code) for code in (seen[0].reshape(-1, 24) > 0).tolist()}
    assert found.loc[("hash_encoding", "block1.m"), "value"] == pytest.approx((96 - len(codes)) / 96)
