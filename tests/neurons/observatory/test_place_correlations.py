"""Places of neurons against what they do: Spearman's correlation by scipy, and every permutation within layers, one by one."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata, spearmanr

from ninscope.neurons.observatory.place_correlations import place_correlations


def permuted(x, y, layers):
    """Correlations of ranks for every order of x within layers."""
    orders = [
        list(itertools.permutations(np.flatnonzero(layers == layer).tolist()))
        for layer in dict.fromkeys(layers.tolist())
    ]
    found = []
    for chosen in itertools.product(*orders):
        shuffled = x.copy()
        for place in chosen:
            shuffled[sorted(place)] = x[list(place)]
        found.append(np.corrcoef(rankdata(shuffled), rankdata(y))[0, 1])
    return np.array(found)


def test_the_range_has_the_mean_and_deviation_of_all_permutations(rng):
    layers = np.array(["a"] * 4 + ["b"] * 3 + ["c"])
    values = pd.DataFrame(
        {"layer": layers, "x": rng.integers(0, 5, 8).astype(float), "y": rng.normal(size=8), "z": [1.0] * 4 + [7.0] * 4}
    )
    for measure in ("y", "z"):
        every = permuted(values["x"].to_numpy(), values[measure].to_numpy(), layers)
        (row,) = place_correlations(values, ["x"], [measure]).to_dict("records")
        reach = 1.959963984540054 * every.std()
        assert row["low"] == pytest.approx(max(every.mean() - reach, -1))
        assert row["high"] == pytest.approx(min(every.mean() + reach, 1))
        assert row["correlation"] == pytest.approx(spearmanr(values["x"], values[measure]).statistic)
        assert row["neurons"] == 8


def test_drawn_permutations_of_many_neurons_lie_within_as_often_as_said(rng):
    layers = np.repeat(["a", "b"], 150)
    shift = np.repeat([0.0, 2.0], 150)
    values = pd.DataFrame({"layer": layers, "x": rng.normal(size=300) + shift, "y": rng.gamma(1.0, size=300) + shift})
    (row,) = place_correlations(values, ["x"], ["y"]).to_dict("records")
    inside = 0
    for _ in range(400):
        shuffled = np.concatenate([rng.permutation(part) for part in np.split(values["x"].to_numpy(), 2)])
        inside += row["low"] <= spearmanr(shuffled, values["y"]).statistic <= row["high"]
    assert inside == pytest.approx(380, abs=4 * math.sqrt(400 * 0.05 * 0.95))
    assert row["low"] > 0.2  # what the layers alone make


def test_pairs_come_place_by_place_with_the_neurons_that_have_both():
    values = pd.DataFrame(
        {"layer": ["a"] * 5, "p": [1.0, 2, 3, 4, 5], "q": [np.inf, 1, 2, 3, 3], "m": [5.0, 4, 3, np.nan, 1]}
    )
    found = place_correlations(values.assign(n=2.0), ["p", "q"], ["m", "n"])
    assert found[["place", "measure", "neurons"]].to_numpy().tolist() == [
        ["p", "m", 4], ["p", "n", 5], ["q", "m", 3], ["q", "n", 4],
    ]  # fmt: skip
    assert found["correlation"][0] == pytest.approx(-1)
    assert found["correlation"].isna().tolist() == [False, True, False, True]
    assert place_correlations(values.head(2), ["p"], ["m"])["correlation"].isna().all()


def test_layers_that_have_one_neuron_each_leave_nothing_to_permute():
    values = pd.DataFrame({"layer": list("abcd"), "x": [1.0, 2, 3, 4], "y": [1.0, 3, 2, 4]})
    (row,) = place_correlations(values, ["x"], ["y"]).to_dict("records")
    assert row["low"] == pytest.approx(row["correlation"]) == pytest.approx(row["high"])


@pytest.mark.parametrize("alike", ["x", "y"])
def test_where_neurons_of_a_layer_are_alike_the_range_is_the_correlation_itself(rng, alike):
    """Whatever rounding gives: a correlation is not outside of what every permutation gives."""
    values = pd.DataFrame({"layer": np.repeat(list("abc"), 7), "x": rng.normal(size=21), "y": rng.normal(size=21)})
    values[alike] = np.repeat([0.1, 3.0, 0.7], 7)
    (row,) = place_correlations(values, ["x"], ["y"]).to_dict("records")
    assert row["correlation"] == pytest.approx(spearmanr(values["x"], values["y"]).statistic)
    assert row["low"] == row["correlation"] == row["high"]


def test_no_neurons_and_no_pairs_have_the_same_columns():
    nothing = pd.DataFrame({"layer": [], "x": [], "y": []})
    assert place_correlations(nothing, ["x"], ["y"])[["neurons", "place"]].values.tolist() == [[0, "x"]]
    assert place_correlations(nothing, ["x"], []).dtypes.equals(place_correlations(nothing, ["x"], ["y"]).dtypes)
