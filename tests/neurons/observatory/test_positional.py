"""Positional neurons: information beside the paper's formula, its bias beside permutations, shapes that are drawn."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from neurons.observatory.hand_made import MadeSubject, check_names, found_in, gelu, numbers, value  # noqa: E402
from neurons.observatory.planted_model import (  # noqa: E402
    EARLY,
    HIDDEN_LAYER,
    POSITIONAL,
    WINDOW,
    planted_model,
    planted_text,
)

from ninscope.errors import CheckpointError  # noqa: E402
from ninscope.neurons import look  # noqa: E402
from ninscope.neurons.observatory.examples import Examples  # noqa: E402
from ninscope.neurons.observatory.measure import HIDDEN, Batch, Place  # noqa: E402
from ninscope.neurons.observatory.measures.positional import information_by_chance  # noqa: E402
from ninscope.neurons.observatory.passes import observe  # noqa: E402
from ninscope.neurons.observatory.registry import chosen, measures  # noqa: E402
from ninscope.neurons.observatory.subject import Subject  # noqa: E402

RNG = np.random.default_rng(12)
KINDS = ("oscillatory", "two_extremes", "one_extreme", "other")


def windows_of(frequency, windows=40):
    """Activations that are on with a frequency [positions, neurons], exactly as often as its rounding says."""
    count = np.round(np.asarray(frequency) * windows)
    rank = np.argsort(RNG.uniform(size=(windows, *count.shape)), axis=0)
    return np.where(rank < count, 1.0, -0.1).astype(np.float32)


def naive_information(values):
    """The paper's sum, position by position."""
    windows, positions, neurons = values.shape
    found = []
    for neuron in range(neurons):
        f = [sum(values[:, position, neuron] > 0) / windows for position in range(positions)]
        mean = sum(f) / positions
        total = 0.0
        for one in f:
            total += one * math.log(one / mean) if one > 0 else 0
            total += (1 - one) * math.log((1 - one) / (1 - mean)) if one < 1 else 0
        found.append(total / positions)
    return np.array(found)


@pytest.mark.usefixtures("way_of_counting")
def test_information_is_that_of_the_formula():
    values = gelu(RNG.normal(np.sin(np.arange(20))[:, None] * RNG.uniform(0, 2, 9), 1, (15, 20, 9)).astype(np.float32))
    found = found_in("positional", {"m": values}, tokens=np.zeros((15, 20), int))
    check_names("positional", found)
    expected = naive_information(values)
    np.testing.assert_allclose(numbers(found, "positional_information", "m"), expected, rtol=1e-6)
    assert 0 < value(found, "positional", "m") == np.mean(expected > 0.05) < 1


@pytest.mark.parametrize(("on", "positions"), [(1, 16), (4, 16), (8, 16), (16, 16)])
def test_an_indicator_of_positions_has_the_entropy_of_its_share(on, positions):
    frequency = np.zeros((positions, 1))
    frequency[:on] = 1
    found = found_in("positional", {"m": windows_of(frequency)}, tokens=np.zeros((40, positions), int))
    share = on / positions
    entropy = -sum(part * math.log(part) for part in (share, 1 - share) if part > 0)
    assert numbers(found, "positional_information", "m")[0] == pytest.approx(entropy, abs=1e-12)


def shapes(positions=64):
    there = np.arange(positions) / positions
    return {
        "oscillatory": [(there * 4 % 1 < 0.5) * 1.0, ((there > 0.3) & (there < 0.6)) * 1.0],
        "two_extremes": [(there < 0.5) * 1.0, np.clip(2 * there - 0.5, 0, 1)],
        "one_extreme": [np.clip(there - 0.3, 0, 1), np.clip(1.3 - there, 0.2, 1)],
        "other": [0.15 + 0.7 * there, 0.5 + 0.35 * np.sin(9 * there)],
        "not positional": [np.full(positions, 0.5), np.full(positions, 0.02)],
    }


@pytest.mark.parametrize("kind", shapes())
def test_shapes_are_told_apart(kind):
    values = windows_of(np.stack(shapes()[kind], -1), 100)
    found = found_in("positional", {"m": values}, tokens=np.zeros((100, 64), int), batch_size=50)
    expected = {one: float(one == kind) for one in KINDS}
    assert {one: value(found, f"positional_{one}", "m") for one in KINDS} == expected
    assert value(found, "positional", "m") == float(kind in KINDS)


def test_early_neurons():
    there = np.arange(40)
    columns = [there < 4, there < 8, there < 9, (there < 3) | (there > 37), there >= 36]
    found = found_in("positional", {"m": windows_of(np.stack(columns, -1))}, tokens=np.zeros((40, 40), int))
    assert value(found, "positional_early", "m") == pytest.approx(
        3 / 5
    )  # half of what is fired: 4, 4 of 8, not 4 of 9, 3 of 5


@pytest.mark.parametrize("windows", [2, 5, 30])
def test_the_bias_is_the_mean_over_permutations(windows):
    """What a neuron fires, thrown over positions and windows anew, many times."""
    rng, positions, draws = np.random.default_rng(13), 12, 60
    total = windows * positions
    fired = np.array([0, 1, total // 7, total // 2, total - 1, total])
    chance = information_by_chance(fired, positions, windows)
    for number, expected in zip(fired, chance, strict=True):
        on = rng.permuted(np.tile(np.arange(total) < number, (draws, 1)), axis=1).reshape(draws, windows, positions)
        drawn = naive_information(np.moveaxis(on, 0, 2) * 1.0)
        assert drawn.mean() == pytest.approx(expected, abs=5 * drawn.std() / np.sqrt(len(drawn)) + 1e-12)
    if windows == 30:
        assert chance[3] == pytest.approx((positions - 1) / (2 * total), rel=0.05)  # the series' first term


def test_few_windows_look_positional_until_corrected():
    noise = np.random.default_rng(14).normal(size=(8, 50, 300))
    found = found_in("positional", {"m": noise}, tokens=np.zeros((8, 50), int))
    assert value(found, "positional", "m") > 0.8
    assert value(found, "positional_corrected", "m") == 0  # .05 is four standard deviations
    by_chance = value(found, "positional_information_by_chance", "m")
    assert value(found, "positional_information", "m") == pytest.approx(by_chance, rel=0.03)
    many = np.random.default_rng(15).normal(size=(60, 50, 20))
    assert value(found_in("positional", {"m": many}, tokens=np.zeros((60, 50), int)), "positional", "m") == 0


def test_what_knows_positions_is_still_positional_when_corrected():
    values = np.concatenate([windows_of(np.stack(shapes(32)["oscillatory"], -1), 6), RNG.normal(size=(6, 32, 2))], -1)
    found = found_in("positional", {"m": values}, tokens=np.zeros((6, 32), int))
    assert value(found, "positional_corrected", "m") == pytest.approx(1 / 2)


def test_windows_of_two_lengths_are_refused():
    made = MadeSubject({"m": None}, tokens=np.zeros((4, 6), int))
    tally = measures()["positional"].tally(made)
    tally.see(Place(HIDDEN, "m"), torch.ones(2, 6, 3), Batch(0, 0, {}))
    with pytest.raises(CheckpointError, match="windows of 6 and of 5 tokens at layer m"):
        tally.see(Place(HIDDEN, "m"), torch.ones(2, 5, 3), Batch(1, 2, {}))


def test_what_has_no_positions_is_objected_to():
    measure = measures()["positional"]
    assert "windows have one token" in measure.objection(MadeSubject({"m": None}, tokens=np.zeros((4, 1), int)))
    experts = MadeSubject({"e": None}, tokens=np.zeros((4, 6), int), routed=("e",))
    assert "experts" in measure.objection(experts)
    assert measure.objection(MadeSubject({"m": None}, tokens=np.zeros((4, 6), int))) is None


def test_a_real_model_has_its_planted_neuron():
    model, text = planted_model(), planted_text()
    (seen,) = observe(Subject("planted", model, Examples("tokens", text)), chosen("positional"))
    information = numbers(seen.found, "positional_information", HIDDEN_LAYER)
    share = EARLY / WINDOW
    assert information[POSITIONAL] == pytest.approx(-share * math.log(share) - (1 - share) * math.log(1 - share))
    frame = look(model, text, ["positional"])
    rows = frame[frame.layer == HIDDEN_LAYER].set_index(["measure", "control"])
    for control in ("none", "shuffled"):  # a position stays what it is when tokens are shuffled
        assert rows.loc[("positional_two_extremes", control), "value"] >= 1 / 128
