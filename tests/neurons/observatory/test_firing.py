"""When neurons are on: rules that are chosen by a layer's own values, in every kind of layer."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from neurons.observatory.hand_made import MadeSubject, gelu, relu  # noqa: E402

from ninscope.neurons.observatory.firing import Firing, is_on  # noqa: E402
from ninscope.neurons.observatory.measure import HIDDEN, Place  # noqa: E402

DRAWN = np.random.default_rng(0).normal(size=(4, 9, 2, 20)).astype(np.float32)
GATE, UP = DRAWN[:, :, 0], DRAWN[:, :, 1]
PRUNED = np.where(np.arange(20) < 8, 0, 1).astype(np.float32)
SILU = GATE / (1 + np.exp(-GATE))

LAYERS = {  # activations, whether gated, when they are on, whether smooth
    "relu": (relu(GATE), False, GATE > 0, False),
    "gelu": (gelu(GATE), False, GATE > 0, True),
    "pruned gelu": (gelu(GATE) * PRUNED, False, (GATE > 0) & (PRUNED > 0), True),
    "relu behind a gate": (relu(GATE) * UP, True, GATE > 0, False),
    "silu behind a gate": (SILU * UP, True, np.abs(SILU * UP) > np.abs(SILU * UP).mean(), True),
    "pruned silu behind a gate": (
        SILU * UP * PRUNED,
        True,
        np.abs(SILU * UP * PRUNED) > np.abs(SILU * UP * PRUNED).mean(),
        True,
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_on_where_its_rule_says(name):
    values, gated, expected, smooth = LAYERS[name]
    firing = Firing(MadeSubject({"m": values}, gated=("m",) if gated else ()))
    given = torch.from_numpy(values)
    on = is_on(firing.rule(Place(HIDDEN, "m"), given), given)
    assert on.dtype == torch.float32
    np.testing.assert_array_equal(on.numpy(), expected)
    assert firing.rules["m"].smooth == smooth
    assert next((fact.name, fact.value) for fact in firing.facts("lazy")) == ("lazy_smooth", float(smooth))


def test_the_rule_is_that_of_the_first_batch():
    firing = Firing(MadeSubject({"m": None}, gated=("m",)))
    first, second = torch.full((1, 2, 3), 2.0), torch.full((1, 2, 3), 3.0)
    assert is_on(firing.rule(Place(HIDDEN, "m"), first), first).sum() == 0  # nothing exceeds its mean
    assert is_on(firing.rule(Place(HIDDEN, "m"), second), second).sum() == 6
    assert firing.rules["m"].threshold == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gated", [False, True])
def test_half_precision_is_read_as_it_is(dtype, gated):
    values = torch.from_numpy(SILU * UP if gated else gelu(GATE)).to(dtype)
    firing = Firing(MadeSubject({"m": values}, gated=("m",) if gated else ()))
    on = is_on(firing.rule(Place(HIDDEN, "m"), values), values)
    exact = values.double()
    expected = exact.abs() > firing.rules["m"].threshold if gated else exact > 0
    torch.testing.assert_close(on, expected.float(), rtol=0, atol=0)
