"""Token and n-gram detectors: planted ones, a twin that counts in dictionaries, and what chance gives."""

from collections import Counter

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from neurons.observatory.hand_made import MadeSubject, check_names, fact, found_in, numbers, value  # noqa: E402
from neurons.observatory.planted_model import DETECTOR, HIDDEN_LAYER, planted_model, planted_text  # noqa: E402

from ninscope.errors import RequestError  # noqa: E402
from ninscope.neurons import look  # noqa: E402
from ninscope.neurons.observatory import grams  # noqa: E402
from ninscope.neurons.observatory.examples import Examples  # noqa: E402
from ninscope.neurons.observatory.measures import token_detectors  # noqa: E402
from ninscope.neurons.observatory.passes import observe  # noqa: E402
from ninscope.neurons.observatory.registry import chosen, measures  # noqa: E402
from ninscope.neurons.observatory.subject import Subject  # noqa: E402

RNG = np.random.default_rng(16)
TEXT = RNG.integers(0, 8, (50, 20))
TEXT[::3, 6:9] = 1, 5, 2
NAMES = {1: "token_detectors", 2: "token_detectors_bigrams", 3: "token_detectors_trigrams"}


def on_at(*sets):
    """Activations [n, t, neurons], 1 where a set says, -.1 elsewhere."""
    return np.where(np.stack(sets, -1), 1.0, -0.1).astype(np.float32)


def before(text, back):
    """The token that stands so far before each, -1 where there is none."""
    moved = np.full_like(text, -1)
    moved[:, back:] = text[:, : text.shape[1] - back]
    return moved


def naive_detectors(values, text, size, most, bos=None):
    """Which neurons detect at most `most` n-grams that are there five times or more: the definition, in dictionaries."""
    found = []
    for neuron in range(values.shape[2]):
        there, fired = Counter(), Counter()
        for window in range(len(text)):
            for position in range(max(1, size - 1), text.shape[1]):
                gram = tuple(text[window, position - size + 1 : position + 1])
                if bos in gram:
                    continue
                there[gram] += 1
                fired[gram] += values[window, position, neuron] > 0
        triggers = [fired[gram] for gram in there if there[gram] >= 5 and 20 * fired[gram] >= 19 * there[gram]]
        total = sum(fired.values())
        found.append(total > 0 and 20 * sum(sorted(triggers)[-most:]) >= 19 * total)
    return np.array(found)


def planted():
    rare = np.zeros(TEXT.shape, bool)
    rare[3, 4] = True
    noise = RNG.uniform(size=TEXT.shape)
    return {
        "one token": TEXT == 3,
        "five tokens": np.isin(TEXT, [0, 1, 2, 3, 4]),
        "six tokens": TEXT < 6,
        "all": TEXT >= 0,
        "a token, missed at one in 40": (TEXT == 2) & (noise > 0.025),
        "a token, missed at one in 10": (TEXT == 2) & (noise > 0.1),
        "a token, and others at one in 10": (TEXT == 2) | ((TEXT != 2) & (noise < 0.1)),
        "a token, and others at one in 500": (TEXT == 2) | ((TEXT != 2) & (noise < 0.002)),
        "a bigram": (TEXT == 2) & (before(TEXT, 1) == 5),
        "a trigram": (TEXT == 2) & (before(TEXT, 1) == 5) & (before(TEXT, 2) == 1),
        "the token before": before(TEXT, 1) == 4,
        "one place": rare,
        "noise": noise < 0.3,
        "none": rare & False,
    }


# Of the kinds above, what detects tokens, bigrams and trigrams.
DETECTS = {
    1: {"one token", "five tokens", "a token, missed at one in 40", "a token, and others at one in 500"},
    2: {"a bigram", "the token before", "six tokens"},  # of six tokens there are 48 bigrams
}


def test_planted_detectors_are_found_and_no_others():
    kinds = planted()
    values = on_at(*kinds.values())
    found = found_in("token_detectors", {"m": values}, tokens=TEXT)
    check_names("token_detectors", found)
    flags = numbers(found, "token_detectors", "m")
    assert {kind for kind, flag in zip(kinds, flags, strict=True) if flag} == DETECTS[1]
    assert value(found, "token_detectors_tokens", "m") == 5
    for size, most in ((1, 5), (2, 50), (3, 50)):
        expected = naive_detectors(values, TEXT, size, most)
        assert value(found, NAMES[size], "m") == expected.mean() > 0
    tokens, bigrams = (naive_detectors(values, TEXT, size, most) for size, most in ((1, 5), (2, 50)))
    assert {kind for kind, flag in zip(kinds, bigrams & ~tokens, strict=True) if flag} == DETECTS[2]
    assert value(found, "token_detectors_bigrams_only", "m") == np.mean(bigrams & ~tokens)
    trigrams = naive_detectors(values, TEXT, 3, 50)
    assert value(found, "token_detectors_trigrams_only", "m") == np.mean(trigrams & ~bigrams & ~tokens)
    assert (trigrams & ~bigrams)[list(kinds).index("a trigram")]


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.usefixtures("way_of_counting")
def test_random_detectors_are_those_of_the_twin(seed, bos):
    """Neurons around the bounds: a few tokens, misses near one in 20, strays near one in 20; Zipf's tokens."""
    rng = np.random.default_rng(seed)
    text = np.minimum(rng.zipf(1.4, (30, 12)), 30)
    if bos:
        text[:, 0] = 30
    sets = []
    for _ in range(25):
        tokens = rng.choice(31, rng.integers(1, 8), replace=False)
        inside = np.isin(text, tokens)
        sets.append(inside & (rng.uniform(size=text.shape) > 0.03) | (rng.uniform(size=text.shape) < 0.005))
    values = on_at(*sets)
    found = found_in("token_detectors", {"m": values}, tokens=text, bos=bos, batch_size=7)
    expected = naive_detectors(values, text, 1, 5, 30 if bos else None)
    np.testing.assert_array_equal(numbers(found, "token_detectors", "m"), expected)
    assert 0 < expected.mean() < 1
    for size in (2, 3):
        expected = naive_detectors(values, text, size, 50, 30 if bos else None)
        assert value(found, NAMES[size], "m") == expected.mean()


def test_a_token_that_begins_all_windows_is_left_out():
    text = RNG.integers(1, 8, (30, 20))
    text[:, 0] = 0
    at_first = np.zeros(text.shape, bool)
    at_first[:, 0] = True
    values = on_at(at_first, at_first | (text == 3), text == 3)
    flags = numbers(found_in("token_detectors", {"m": values}, tokens=text, bos=True), "token_detectors", "m")
    np.testing.assert_array_equal(flags, [0, 1, 1])


def test_shuffled_tokens_have_no_detectors():
    values = on_at(*[planted()[kind] for kind in DETECTS[1] | DETECTS[2]])
    shuffled = np.random.default_rng(17).permutation(TEXT.reshape(-1)).reshape(TEXT.shape)
    found = found_in("token_detectors", {"m": values}, tokens=shuffled)
    assert [value(found, name, "m") for name in NAMES.values()] == [0, 0, 0]


def test_triggers_are_suppressed_where_their_logits_fall():
    """U has a row a token; a neuron writes along one direction of the stream, against its trigger's row or with it."""
    values = on_at(TEXT == 1, TEXT == 2, TEXT == 3, RNG.uniform(size=TEXT.shape) < 0.5)
    unembedding = np.eye(8)
    leaving = np.zeros((8, 4))
    leaving[1, 0], leaving[2, 1] = -1, 1
    leaving[:, 2] = 1
    leaving[3, 2] = 0.5  # lower than the others', and yet positive
    found = found_in("token_detectors", {"m": values}, tokens=TEXT, leaving={"m": leaving}, unembedding=unembedding)
    assert value(found, "token_detectors_suppressing", "m") == pytest.approx(1 / 3)
    assert value(found, "token_detectors_suppressing_centred", "m") == pytest.approx(2 / 3)
    assert fact(found, "token_detectors_suppressing", "m").count == 3


@pytest.mark.parametrize("why", ["no unembedding", "another width", "a gate", "no weights"])
def test_suppression_that_is_not_known(why):
    values = on_at(TEXT == 1, TEXT == 2)
    found = found_in(
        "token_detectors",
        {"m": np.maximum(values, 0) if why == "a gate" else values},
        tokens=TEXT,
        gated=("m",) if why == "a gate" else (),
        leaving={} if why == "no weights" else {"m": np.ones((3 if why == "another width" else 8, 2))},
        unembedding=None if why == "no unembedding" else np.eye(8),
    )
    assert value(found, "token_detectors", "m") == 1
    assert np.isnan(value(found, "token_detectors_suppressing", "m"))
    assert fact(found, "token_detectors_suppressing", "m").count == 0


def test_memory_holds_only_the_most_frequent(monkeypatch):
    """Room for three tokens and two bigrams of two neurons."""
    monkeypatch.setattr(token_detectors, "BYTES", 3 * 2 * 4 * 2)
    text = np.repeat([[0, 1, 2, 3, 4]], 50, 0)
    text = np.concatenate([text, text[:, :4], text[:, :3]], 1)
    values = on_at(text == 1, text == 4)
    found = found_in("token_detectors", {"m": values}, tokens=text)
    np.testing.assert_array_equal(numbers(found, "token_detectors", "m"), [1, 0])
    there = Counter(text[:, 1:].reshape(-1))
    assert there[4] == 50
    assert value(found, "token_detectors_tokens_counted") == pytest.approx((there[0] + there[1] + there[2]) / (50 * 11))
    assert fact(found, "token_detectors_tokens_counted").count == 3


def test_ngrams_are_counted_in_parts_as_at_once(monkeypatch):
    examples = Examples("tokens", np.minimum(RNG.zipf(1.3, (30, 20)), 40), 4)
    numbering = grams.numbering_of(examples)
    at_once = [grams.grams_of(examples, size, 9, numbering) for size in (1, 2, 3)]
    monkeypatch.setattr(grams, "_AT_ONCE", 64)
    for one, size in zip(at_once, (1, 2, 3), strict=True):
        parts = grams.grams_of(examples, size, 9, numbering)
        np.testing.assert_array_equal(parts.numbers, one.numbers)
        np.testing.assert_array_equal(parts.occurrences, one.occurrences)
        assert parts.positions == one.positions == 30 * (20 - max(1, size - 1))


def test_tokens_that_do_not_fit_are_refused():
    with pytest.raises(RequestError, match="has token 2097152; n-grams are counted of tokens below 2097152"):
        grams.numbering_of(Examples("tokens", np.array([[0, 1 << 21]])))
    numbering = grams.numbering_of(Examples("tokens", np.full((6, 4), (1 << 21) - 1)))
    trigrams = grams.grams_of(Examples("tokens", np.full((6, 4), (1 << 21) - 1)), 3, 9, numbering)
    np.testing.assert_array_equal(trigrams.numbers, [(1 << 63) - 1])


def test_rows_that_belong_to_no_token_are_not_counted():
    measure = measures()["token_detectors"]
    experts = MadeSubject({"e": None}, tokens=TEXT, routed=("e",))
    assert "experts" in measure.objection(experts)
    assert "one token" in measure.objection(MadeSubject({"m": None}, tokens=TEXT[:, :1]))
    layers = {"m": on_at(TEXT == 3), "e": on_at(TEXT == 3)}
    found = found_in("token_detectors", layers, tokens=TEXT, routed=("e",))
    assert {one.layer for one in found.facts} == {"m", "all"}


def test_a_real_model_has_its_planted_neuron():
    model, text = planted_model(), planted_text()
    (seen,) = observe(Subject("planted", model, Examples("tokens", text)), chosen("token_detectors"))
    assert numbers(seen.found, "token_detectors", HIDDEN_LAYER)[DETECTOR] == 1
    frame = look(model, text, ["token_detectors"])
    rows = frame[frame.layer == HIDDEN_LAYER].set_index(["measure", "control"])
    for control in ("none", "shuffled"):  # the neuron reads its token wherever that stands
        assert rows.loc[("token_detectors", control), "value"] == pytest.approx(1 / 128)
        assert rows.loc[("token_detectors_suppressing", control), "value"] == 1
        assert rows.loc[("token_detectors_tokens", control), "value"] == 1


def test_one_miss_and_one_stray_in_twenty_are_allowed():
    """Token 1 is there 20 times: a neuron has to be on at 19. Of 20 that a neuron fires, 19 have to be there."""
    text = np.tile([0, 1, 2, 3], (20, 1))
    missed, strayed = text == 1, text == 1
    missed[0, 1] = False
    more_missed, more_strayed = missed.copy(), strayed.copy()
    more_missed[1, 1] = False
    # 19 of what is fired at the trigger, and then 1 or 2 elsewhere.
    strayed[0, 1], strayed[0, 2] = False, True
    more_strayed[0, 1], more_strayed[:2, 2] = False, True
    values = on_at(missed, more_missed, strayed, more_strayed)
    found = found_in("token_detectors", {"m": values}, tokens=text)
    assert numbers(found, "token_detectors", "m").tolist() == [1, 0, 1, 0]
