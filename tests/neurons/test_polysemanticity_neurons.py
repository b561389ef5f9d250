"""Which measures see P: over neurons that are planted and random, against loops and scipy; over seeds, against loops on tables."""

import math
from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

torch = pytest.importorskip("torch", reason="torch is not installed")

from ninscope.errors import RequestError  # noqa: E402
from ninscope.neurons.polysemanticity.experiments import Experiment  # noqa: E402
from ninscope.neurons.polysemanticity.measuring import Probe  # noqa: E402
from ninscope.neurons.polysemanticity.neuron_correlations import (  # noqa: E402
    neuron_rows,
    polysemanticity_neuron_correlations,
    spearman,
)
from ninscope.neurons.polysemanticity.neuron_values import neurons_of_network  # noqa: E402
from ninscope.neurons.polysemanticity.perceptron import Perceptron  # noqa: E402
from ninscope.neurons.polysemanticity.table_names import NEURON_MEASURES  # noqa: E402
from ninscope.neurons.polysemanticity.toy_data import ToyData  # noqa: E402


def data_of(features: int, hidden: tuple[int, ...], samples: int, rng, linear: bool = False) -> ToyData:
    """Toy data whose inputs are the features themselves: each is there in half of the samples, uniform on (0, 1)."""
    experiment = Experiment("planted", linear, features, (features,), features, 1, (0.5, 0.5), (features, *hidden, 1))
    encoder = torch.nn.Linear(features, features)
    with torch.no_grad():
        encoder.weight.copy_(torch.eye(features))
        encoder.bias.zero_()
    values = (rng.random((samples, features)) * (rng.random((samples, features)) < 0.5)).astype(np.float32)
    parts = np.arange(0), np.arange(samples)
    outputs = np.zeros((samples, 1), np.float32)
    return ToyData(experiment, 0, values, values, outputs, *parts, None, SimpleNamespace(encoder=encoder), 0.0, 0.0)


def network_of(*weights, biases=None, linear: bool = False) -> Perceptron:
    weights = tuple(np.asarray(weight, np.float32) for weight in weights)
    biases = biases or [np.zeros(len(weight)) for weight in weights]
    return Perceptron(weights, tuple(np.asarray(bias, np.float32) for bias in biases), linear)


def rows_of(layer) -> dict[str, tuple[dict[str, float], str]]:
    return {measure: (numbers, message) for measure, numbers, message in neuron_rows(layer)}


# --- planted networks --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("linear", [False, True])
def test_a_neuron_of_so_many_features_has_that_p_and_what_grows_with_it_sees_it(rng, linear):
    """Neuron j adds up the features 0 to j: P is j + 1, and so grow its activations and weights; the mean of phi does not know."""
    data = data_of(8, (8,), 400, rng, linear)
    network = network_of(np.tril(np.ones((8, 8))), np.ones((1, 8)), linear=linear)
    (whole, layer), unmeasured = neurons_of_network(Probe(data), network, ("dead", "dormant", "phi"))
    assert unmeasured == []
    np.testing.assert_allclose(layer.P, np.arange(1, 9), rtol=1e-12)
    np.testing.assert_allclose(layer.P_samples, np.arange(1, 9), rtol=1e-12)
    np.testing.assert_array_equal(whole.P, layer.P)
    rows = rows_of(layer)
    assert rows["dead_firing_frequency"][0]["spearman_P"] > 0.9  # ties where neurons are nearly always on
    for measure in ("dormant_score", "input_weight"):
        numbers, message = rows[measure]
        assert [numbers[f"spearman_{truth}"] for truth in ("P", "P_live", "P_samples", "P_samples_live")] == [1.0] * 4
        assert (numbers["neurons"], message) == (8, "")
    assert (rows["input_weight"][0]["value"], rows["input_weight"][0]["P"]) == (4.5 / 8, 4.5)
    assert rows["dead"][1] == "it is no measure of single neurons"
    assert "spearman_P" not in rows["dead"][0]
    assert "spearman_P" not in rows_of(whole)["dormant_score"][0]
    assert rows_of(whole)["input_weight"][0]["value"] == 4.5 / 8


def test_a_measure_with_one_value_in_all_neurons_has_no_correlation_and_says_so(rng):
    """Neuron j shares a weight of 1 between 2^j features: P differs and the mean absolute weight does not."""
    data = data_of(16, (5,), 100, rng)
    shares = np.array([[1 / 2**row if feature < 2**row else 0 for feature in range(16)] for row in range(5)])
    (_, layer), _ = neurons_of_network(Probe(data), network_of(shares, np.ones((1, 5))), ())
    np.testing.assert_allclose(layer.P, [1, 2, 4, 8, 16], rtol=1e-12)
    numbers, message = rows_of(layer)["input_weight"]
    assert math.isnan(numbers["spearman_P"])
    assert message == "it has one value in all neurons"


def test_dead_neurons_count_in_p_and_are_left_out_of_p_of_live_neurons(rng):
    """Neurons 0 to 4 are planted and live; two never fire; one fires in samples alone, and along no single feature."""
    weights = np.zeros((8, 6))
    weights[:5, :5] = np.tril(np.ones((5, 5)))
    weights[7] = 1
    biases = [[0, 0, 0, 0, 0, -1, -1, -1.5], [0]]
    (_, layer), _ = neurons_of_network(
        Probe(data_of(6, (8,), 300, rng)), network_of(weights, np.ones((1, 8)), biases=biases), ("dormant",)
    )
    np.testing.assert_allclose(layer.P, [1, 2, 3, 4, 5, 0, 0, 0], rtol=1e-12)
    np.testing.assert_allclose(layer.P_samples, [1, 2, 3, 4, 5, 0, 0, 6], rtol=1e-12)
    numbers, _ = rows_of(layer)["dormant_score"]
    assert [numbers[name] for name in ("neurons", "neurons_live", "neurons_samples_live")] == [8, 5, 6]
    assert numbers["spearman_P_live"] == 1.0
    for truth, degrees in (("P", layer.P), ("P_samples", layer.P_samples)):
        expected = stats.spearmanr(layer.values["dormant_score"], degrees).statistic
        assert numbers[f"spearman_{truth}"] == pytest.approx(expected, abs=1e-12)
    assert numbers["P_live"] == 3.0


def test_too_few_neurons_are_not_ranked(rng):
    network = network_of(np.eye(4), np.ones((1, 4)))
    (_, layer), _ = neurons_of_network(Probe(data_of(4, (4,), 20, rng)), network, ())
    numbers, message = rows_of(layer)["input_weight"]
    assert math.isnan(numbers["spearman_P"])
    assert message == "4 neurons have a value, too few to be ranked"


# --- random networks, against loops ------------------------------------------------------------------------------------------
def naive_degrees(network: Perceptron, points: list, steps: int) -> list[float]:
    """P of every neuron: of a point, in `steps` steps along each single feature's axis (steps > 0), else mean sizes at points."""
    module = network.module().double()
    relus = [number for number, layer in enumerate(module) if isinstance(layer, torch.nn.ReLU)]
    features = network.sizes[0]
    found = []
    for end in relus:
        for neuron in range(module[end - 1].out_features):
            sums = [0.0] * features
            for feature, point in product(range(features), range(1, steps + 1) if steps else points):
                at = torch.zeros(1, features, dtype=torch.float64) if steps else torch.tensor(point)[None].double()
                if steps:
                    at[0, feature] = point / steps
                at.requires_grad_()
                (gradient,) = torch.autograd.grad(module[: end + 1](at)[0, neuron], at)
                sums[feature] += float(gradient[0, feature]) if steps else abs(float(gradient[0, feature]))
            sizes = [abs(value) for value in sums]
            found.append(sum(sizes) / max(sizes) if max(sizes) > 0 else 0.0)
    return found


def naive_values(network: Perceptron, inputs: np.ndarray) -> dict[str, list[list[float]]]:
    """By measure and layer, of each neuron: how often it is on, kurtosis, score of dormancy, mean absolute weight."""
    values: dict[str, list[list[float]]] = {"dead_firing_frequency": [], "dormant_score": [], "dead_kurtosis": []}
    rows = inputs.astype(np.float64)
    for weight, bias in zip(network.weights[:-1], network.biases[:-1], strict=True):
        rows = np.maximum(rows @ weight.T.astype(np.float64) + bias, 0)
        columns = [list(column) for column in rows.T]
        sizes = [sum(abs(h) for h in column) / len(column) for column in columns]
        values["dead_firing_frequency"].append([sum(h > 0 for h in column) / len(column) for column in columns])
        values["dormant_score"].append([size / (sum(sizes) / len(sizes)) for size in sizes])
        values["dead_kurtosis"].append(
            [float(stats.kurtosis(column, fisher=False)) if max(column) > 0 else math.nan for column in columns]
        )
    values["input_weight"] = [
        [sum(abs(float(w)) for w in row) / len(row) for row in weight] for weight in network.weights[:-1]
    ]
    return values


def test_correlations_are_scipys_of_values_that_loops_give(rng):
    data = data_of(4, (9, 7), 60, rng)
    weights = rng.normal(size=(9, 4)), rng.normal(size=(7, 9)), rng.normal(size=(1, 7))
    biases = rng.normal(size=9) * 0.3 - 0.2, rng.normal(size=7) * 0.3, np.zeros(1)
    network = network_of(*weights, biases=list(biases))
    (_, *layers), _ = neurons_of_network(Probe(data, steps=10), network, ("dead", "dormant"))
    truths = {"P": naive_degrees(network, [], 10), "P_samples": naive_degrees(network, list(data.features[:50]), 0)}
    truths |= {f"{name}_live": [v or math.nan for v in values] for name, values in list(truths.items())}
    values = naive_values(network, data.inputs)
    ends = {"1": slice(0, 9), "2": slice(9, 16)}
    for layer, name, truth in product(layers, values, truths):
        own = np.array(values[name][int(layer.layer) - 1])
        degrees = np.array(truths[truth][ends[layer.layer]])
        np.testing.assert_allclose(layer.values[name], own, rtol=2e-4)
        known = np.isfinite(own) & np.isfinite(degrees)
        expected = stats.spearmanr(own[known], degrees[known]).statistic
        numbers, _ = rows_of(layer)[name]
        assert numbers[f"spearman_{truth}"] == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert min(truths["P"]) == 0 < max(truths["P"])  # some are dead, some are not


def test_all_measures_there_are_and_what_cannot_be_taken_is_told(rng):
    data = data_of(5, (8, 6), 80, rng)
    network, other = (
        network_of(rng.normal(size=(8, 5)), rng.normal(size=(6, 8)), rng.normal(size=(1, 6))) for _ in range(2)
    )
    (whole, *layers), unmeasured = neurons_of_network(Probe(data, steps=5), network, NEURON_MEASURES, other)
    assert unmeasured == []
    assert set(NEURON_MEASURES) < set(rows_of(layers[0]))
    assert {"universal_rho", "phi", "input_weight"} < set(layers[1].values)
    for name, values in whole.values.items():
        np.testing.assert_array_equal(values, np.concatenate([layer.values[name] for layer in layers]))
    alone, told = neurons_of_network(Probe(data, steps=5), network, NEURON_MEASURES)
    assert "universal" not in rows_of(alone[1])
    (one,) = told
    assert (one.measure, one.status) == ("universal", "unsupported")
    assert one.message == "universal: it compares with another model (seed), and none was given; give other"
    with pytest.raises(RequestError, match="measure 'livly' is not known"):
        neurons_of_network(Probe(data, steps=5), network, ("livly",))


def test_the_variance_of_spearman_by_chance_is_one_over_one_less_than_the_neurons(rng):
    """All orders of six values with ties, against six with ties: mean 0 and variance 1 / 5, which `by_chance` stands on."""
    from itertools import permutations

    x, y = np.array([0.0, 0, 1, 2, 2, 5]), np.array([1.0, 3, 3, 4, 4, 4])
    values = [spearman(x[list(order)], y) for order in permutations(range(6))]
    assert np.mean(values) == pytest.approx(0, abs=1e-12)
    assert np.var(values) == pytest.approx(1 / 5, rel=1e-12)


# --- over seeds --------------------------------------------------------------------------------------------------------------
def planted_table(rng, seeds: int = 4, experiments=("A", "B"), noise: float = 1) -> pd.DataFrame:
    """Two measures: "sees" has the truth's ranks and follows its course; "blind" follows the epoch, but for the noise."""
    rows = []
    for experiment, seed, epoch in product(experiments, range(seeds), range(0, 31, 5)):
        p = 3 + rng.normal()
        for measure in ("sees", "blind"):
            keys = {
                "suite": "lab", "experiment": experiment, "model": f"{experiment}-seed{seed}", "dropout": 0.0, "seed": seed,
                "phase": "training", "epoch": epoch, "learning_rate": 1e-3, "pruning_ratio": 0.0, "revision": f"epoch{epoch}",
                "measure": measure, "status": "ok", "message": "",
            }  # fmt: skip
            value = p**3 if measure == "sees" else noise * rng.normal() + epoch
            rows.append(keys | {"layer": "all", "value": value, "P": p, "P_live": p + 1, "P_samples": -p})
            for layer, neurons in (("1", 17), ("2", 9)):
                rho = rng.normal() * 0.05 + (0.8 if measure == "sees" else 0)
                spearmans = {f"spearman_{t}": rho for t in ("P", "P_live", "P_samples", "P_samples_live")}
                counts = {"neurons": neurons, "neurons_live": neurons - 2, "neurons_samples_live": neurons - 1}
                rows.append(keys | {"layer": layer, "value": value, "P": p, **counts, **spearmans})
    return pd.DataFrame(rows)


def naive_holm(p_values: list[float]) -> list[float]:
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, p_values[place] * (len(p_values) - rank)))
        adjusted[place] = largest
    return adjusted


def of_row(found: pd.DataFrame, **where) -> pd.Series:
    for column, value in where.items():
        found = found[found[column] == value]
    (row,) = found.to_dict("records")
    return pd.Series(row)


def test_over_neurons_numbers_are_means_over_layers_then_seeds_then_experiments(rng):
    table = planted_table(rng)
    found = polysemanticity_neuron_correlations(table)
    p_values = []
    for measure in ("sees", "blind"):
        means = []
        for experiment in ("A", "B"):
            own = table[(table["measure"] == measure) & (table["experiment"] == experiment) & (table["layer"] != "all")]
            by_seed = [own[(own["seed"] == seed) & (own["epoch"] == 30)]["spearman_P_live"].mean() for seed in range(4)]
            before = [own[(own["seed"] == seed) & (own["epoch"] == 0)]["spearman_P_live"].mean() for seed in range(4)]
            row = of_row(found, experiment=experiment, measure=measure, truth="P_live", over="neurons")
            means.append(np.mean(by_seed))
            assert row["correlation"] == pytest.approx(means[-1], rel=1e-12)
            assert row["before"] == pytest.approx(np.mean(before), rel=1e-12)
            test = stats.ttest_1samp(by_seed, 0)
            assert row["p_value"] == pytest.approx(test.pvalue, rel=1e-9)
            low, high = test.confidence_interval()
            assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(min(high, 1)))
            assert row["by_chance"] == pytest.approx(1.959964 * math.sqrt((1 / 14 + 1 / 6) / 4 / 4), rel=1e-6)
            assert (row["seeds"], row["points"], row["experiments"]) == (4, 22, 1)
        row = of_row(found, experiment="all", measure=measure, truth="P_live", over="neurons")
        test = stats.ttest_1samp(means, 0)
        assert (row["correlation"], row["p_value"]) == (pytest.approx(np.mean(means)), pytest.approx(test.pvalue))
        assert row["by_chance"] == pytest.approx(1.959964 * math.sqrt((1 / 14 + 1 / 6) / 4 / 4 / 2), rel=1e-6)
        p_values.append(test.pvalue)
    family = found[(found["experiment"] == "all") & (found["truth"] == "P_live") & (found["over"] == "neurons")]
    assert family["p_adjusted"].tolist() == pytest.approx(naive_holm(p_values))
    assert family["tests"].tolist() == [2, 2]


def test_over_networks_a_measure_that_follows_p_is_told_from_one_that_follows_the_epoch(rng):
    table = planted_table(rng, noise=8)
    found = polysemanticity_neuron_correlations(table)
    whole = table[(table["layer"] == "all") & (table["experiment"] == "A")]
    for measure, truth, sign in (("sees", "P", 1), ("sees", "P_samples", -1)):
        row = of_row(found, experiment="A", measure=measure, truth=truth, over="networks", given="")
        assert row["correlation"] == pytest.approx(sign)
    expected = []
    for seed in range(4):
        own = whole[(whole["seed"] == seed) & (whole["measure"] == "blind")]
        xy, xz, yz = (
            stats.spearmanr(own[one], own[other]).statistic
            for one, other in (("value", "P"), ("value", "epoch"), ("P", "epoch"))
        )
        expected.append((xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2)) if xz < 1 - 1e-9 else math.nan)
    row = of_row(found, experiment="A", measure="blind", truth="P", over="networks", given="epoch")
    known = [value for value in expected if math.isfinite(value)]
    assert row["correlation"] == pytest.approx(np.mean(known), rel=1e-9)
    assert row["seeds"] == len(known)
    assert row["p_value"] == pytest.approx(stats.ttest_1samp(known, 0).pvalue, rel=1e-9)


def test_retrained_networks_are_averaged_within_a_seed_and_count_as_one(rng):
    table = planted_table(rng, experiments=("A",))
    table = table[table["epoch"].isin([0, 5, 10])].copy()
    table["pruning_ratio"] = table["epoch"] / 20 + 0.1
    table["revision"] = "retrained-" + table["epoch"].astype(str)
    table["phase"], table["epoch"] = "retrained", pd.array([pd.NA] * len(table), "Int64")
    row = of_row(polysemanticity_neuron_correlations(table), measure="sees", truth="P", over="neurons")
    own = table[(table["measure"] == "sees") & (table["layer"] != "all")]
    assert row["correlation"] == pytest.approx(own["spearman_P"].mean(), rel=1e-12)
    assert row["by_chance"] == pytest.approx(1.959964 * math.sqrt((1 / 16 + 1 / 8) / 4 / 4), rel=1e-6)
    assert (row["learning_rate"], row["seeds"]) == (1e-3, 4)
    assert math.isnan(row["before"])


def test_one_seed_has_no_interval_and_networks_that_failed_are_left_out(rng):
    table = planted_table(rng, seeds=2, experiments=("A",))
    table.loc[table["seed"] == 1, "status"] = "nonfinite"
    row = of_row(polysemanticity_neuron_correlations(table), measure="sees", truth="P", over="neurons")
    assert (row["seeds"], row["message"]) == (1, "one seed: no interval")
    assert math.isnan(row["low"])
    assert polysemanticity_neuron_correlations(table[table["seed"] == 1]).empty
