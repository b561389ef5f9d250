"""Which dormant neurons stay so: planted sets, the formula of the authors' code, and chance."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from neurons.observatory.hand_made import MadeSubject, check_names, fact, value  # noqa: E402
from neurons.observatory.planted_model import DORMANT, HIDDEN_LAYER, planted_model, planted_text  # noqa: E402

from ninscope.errors import CheckpointError  # noqa: E402
from ninscope.neurons import look  # noqa: E402
from ninscope.neurons.observatory.measure import HIDDEN, Batch, Place  # noqa: E402
from ninscope.neurons.observatory.registry import measures  # noqa: E402

RNG = np.random.default_rng(7)


def compared(now, before):
    """Layers by name, now and before."""
    made = MadeSubject(now)
    tally = measures()["dormant_persistence"].tally(made, MadeSubject(before))
    for layer in now:
        for first in range(0, len(now[layer]), 2):
            given, other = (torch.as_tensor(one[layer][first : first + 2]) for one in (now, before))
            tally.see(Place(HIDDEN, layer), given, other, Batch(first // 2, first, {}))
    return tally.found()


def with_dormant(neurons, dormant):
    values = RNG.uniform(0.5, 1, (4, 5, neurons)).astype(np.float32)
    values[..., list(dormant)] = 0
    return values


def test_planted_sets():
    before = {"a": with_dormant(10, {0, 1, 2, 3}), "b": with_dormant(20, {5})}
    now = {"a": with_dormant(10, {2, 3, 9}), "b": with_dormant(20, {5, 6})}
    found = compared(now, before)
    check_names("dormant_persistence", found)
    assert value(found, "dormant_persistence", "a") == pytest.approx(2 / 4)
    assert fact(found, "dormant_persistence", "a").count == 4
    assert value(found, "dormant_persistence", "b") == 1
    assert value(found, "dormant_persistence") == pytest.approx(3 / 5)
    assert value(found, "dormant_persistence_chance") == pytest.approx(5 / 30)


def naive_percentage(before, now, tau):
    """The authors' code: of the mask before, how many are in the mask now, layer by layer."""

    def scores(values):
        means = np.abs(values.astype(np.float64)).mean((0, 1))
        return means / (means.mean() + 1e-9)

    was, still = 0, 0
    for one, other in zip(scores(before), scores(now), strict=True):
        was += one <= tau
        still += one <= tau and other <= tau
    return still / was


@pytest.mark.parametrize(("tau", "ending"), [(0.025, ""), (0.1, "_tau_0.1")])
def test_the_formula_of_the_authors_code(tau, ending):
    scales = 10 ** RNG.uniform(-3, 0, (2, 60))
    before, now = (
        np.float32(scale * RNG.normal(size=(6, 5, 60))) for scale in (scales[0], scales[0] * scales[1] ** 0.3)
    )
    found = compared({"m": now}, {"m": before})
    assert value(found, f"dormant_persistence{ending}", "m") == pytest.approx(naive_percentage(before, now, tau))
    assert 0 < value(found, f"dormant_persistence{ending}", "m") < 1


def test_independent_sets_share_what_chance_says():
    neurons = 4000
    sets = [RNG.permutation(neurons)[:1000] for _ in range(2)]
    found = compared({"m": with_dormant(neurons, sets[0])}, {"m": with_dormant(neurons, sets[1])})
    chance = value(found, "dormant_persistence_chance", "m")
    assert chance == pytest.approx(0.25)
    # Hypergeometric: a standard deviation of .012.
    assert value(found, "dormant_persistence", "m") == pytest.approx(chance, abs=0.05)


def test_nothing_dormant_before_is_not_known():
    found = compared({"m": with_dormant(6, {1})}, {"m": with_dormant(6, ())})
    assert np.isnan(value(found, "dormant_persistence", "m"))
    assert fact(found, "dormant_persistence", "m").count == 0


def test_layers_of_other_sizes_are_refused():
    with pytest.raises(CheckpointError, match="layer m has 6 neurons, and 5 at the checkpoint it is compared with"):
        compared({"m": with_dormant(6, ())}, {"m": with_dormant(5, ())})


def test_a_real_model_keeps_a_neuron_and_wakes_another():
    """The planted model before, and one whose dormant neuron reads as the others do."""
    before, now = planted_model(), planted_model()
    with torch.no_grad():
        now.transformer.h[0].mlp.c_fc.weight[:, DORMANT] *= 1e3
    frame = look(
        now, planted_text(8), ["dormant_persistence"], other={"previous": before, "start": now}, controls="none"
    )
    rows = frame[(frame.measure == "dormant_persistence") & (frame.layer == HIDDEN_LAYER)].set_index("against")
    assert rows.loc["previous", "value"] == pytest.approx(1 / 2)
    assert rows.loc["start", "value"] == 1
