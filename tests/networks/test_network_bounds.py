"""Networks and box coverings at their bounds: small faults that no larger test would notice."""

import math

import networkx as nx
import numpy as np
import pytest
from suites import neox_tensors, write_checkpoint

from ninscope.checkpoints.source import open_source
from ninscope.errors import RequestError
from ninscope.multifractal.box_covering import box_covering
from ninscope.networks.bin_table import bin_table
from ninscope.networks.heavy_tail import HeavyTail, heavy_tail
from ninscope.networks.neuron_network import neuron_network
from ninscope.networks.radii import IntegerRadii
from ninscope.networks.sampled import SampledNetwork, sampled_network
from ninscope.networks.shortest_paths import path_distances, path_histograms
from ninscope.networks.transfer import distance_bins, epsilon
from ninscope.parameters import Parameters


def test_without_a_bound_every_weight_but_0_is_near_enough():
    assert epsilon(math.inf) == 5e-324


@pytest.mark.parametrize("max_distance", [2.0, 3.0, 49.0, 150.0])
def test_epsilon_is_the_smallest_that_is_near_enough(max_distance):
    smallest = epsilon(max_distance)
    assert 1 / smallest <= max_distance < 1 / np.nextafter(smallest, 0)
    assert distance_bins(np.array([smallest, np.nextafter(smallest, 0)]), "reciprocal", max_distance).tolist() == [
        round(max_distance),
        -1,
    ]


@pytest.mark.parametrize("count", [252, 253, 254, 255, 256, 257])
def test_a_table_holds_the_bins_of_what_does_not_count_and_of_nan(count):
    """K + 2 is the largest entry: at 254 radii one byte would no longer hold it."""
    table = bin_table("F16", IntegerRadii("reciprocal", float(count)))
    patterns = np.array([0x0000, 0x3C00, 0x7C00, 0x7E00], np.uint16)  # 0, 1, infinity, NaN
    assert table.table[patterns].tolist() == [count + 1, count + 1, count + 2, count + 2]


@pytest.fixture
def network(tmp_path) -> SampledNetwork:
    source = open_source(write_checkpoint(tmp_path / "step0", neox_tensors(1, 12, 3, 5)))
    checkpoint = source.open("step0")
    return sampled_network(neuron_network(checkpoint), 5, 3, 0, 150.0)


def test_paths_across_one_layer_are_counted_for_every_sample(network):
    histograms = list(path_histograms(network, 1))
    assert len(histograms) == network.samples == 3
    for sample, histogram in enumerate(histograms):
        indptr, part = network.row_pointer(sample)
        counted = distance_bins(network.matrix.data[part], "reciprocal", 150.0) >= 0
        assert histogram.sum() == counted.sum()
        assert histogram.shape == (len(indptr) - 1, 151)


@pytest.mark.parametrize("values", [3.0, np.ones((4, 5)), np.float64(2)])
def test_a_heavy_tail_is_of_one_list_of_numbers(values):
    with pytest.raises(RequestError, match="must be a 1-D array of finite numbers"):
        heavy_tail(values)


def test_seeds_and_trials_of_a_box_covering_go_to_their_bounds():
    graph = nx.cycle_graph(12)
    for asked in ({"seed": 2**63 - 1}, {"seed": 0}, {"trials": 1}):
        assert box_covering(graph, **{"trials": 1, **asked}).nodes == 12
    for asked in ({"seed": 2**63}, {"seed": -1}, {"trials": 0}, {"trials": 10_001}):
        with pytest.raises(RequestError, match="was expected"):
            box_covering(graph, **asked)


def test_a_length_is_finite_and_above_0():
    for length in (0, -1.0, math.inf, math.nan, True, "1"):
        graph = nx.path_graph(5)
        nx.set_edge_attributes(graph, 1.0, "length")
        graph.edges[1, 2]["length"] = length
        with pytest.raises(RequestError, match=r"the edge of nodes 1 and 2 has length .*; a length above 0 is needed"):
            box_covering(graph, distance="length")


@pytest.mark.parametrize("count", [2, 3, 4])
def test_four_box_sizes_are_enough_to_tell_a_power_law(count):
    warning = box_covering(nx.cycle_graph(40), sizes=range(2, 2 + count), trials=2).warning
    assert ("too few to tell a power law" in warning) == (count < 4)


def tail(p: float = math.nan, lognormal=(5.0, 0.01), exponential=(5.0, 0.01)) -> HeavyTail:
    return HeavyTail(2.5, 0.1, 1.0, 100, 100, 0.05, p, *lognormal, *exponential, discrete=False)


@pytest.mark.parametrize(
    ("fit", "verdict"),
    [
        (tail(lognormal=(-5.0, 0.01)), "a lognormal fits the tail better than a power law"),
        (tail(exponential=(-5.0, 0.01)), "an exponential fits the tail better than a power law"),
        (tail(0.01, (-5.0, 0.01), (-5.0, 0.09)), "a lognormal and an exponential fit the tail better than a power law"),
        (tail(0.09), "no power law (bootstrap p = 0.09)"),
        (tail(0.1), "heavy-tailed: a power law"),
        (tail(), "heavy-tailed: a power law"),
        (tail(lognormal=(5.0, 0.1)), "heavy-tailed: a power law, or a lognormal, which these data do not tell from it"),
        (
            tail(lognormal=(-5.0, 0.1)),
            "heavy-tailed: a power law, or a lognormal, which these data do not tell from it",
        ),
        (
            tail(lognormal=(0.0, 0.01)),
            "heavy-tailed: a power law, or a lognormal, which these data do not tell from it",
        ),
        (tail(exponential=(5.0, 0.1)), "undecided: an exponential fits the tail as well as a power law"),
        (tail(exponential=(-5.0, 0.1)), "undecided: an exponential fits the tail as well as a power law"),
        (tail(exponential=(0.0, 0.01)), "undecided: an exponential fits the tail as well as a power law"),
    ],
)
def test_a_verdict_says_what_the_numbers_say(fit, verdict):
    assert fit.verdict == verdict


def test_rows_of_layers_are_where_the_layers_are(network):
    starts = np.cumsum(network.layer_sizes) - network.layer_sizes
    for number, name in enumerate(network.layer_names):
        expected = np.arange(starts[number], starts[number] + network.layer_sizes[number])
        assert np.arange(network.nodes)[network.rows_of([name])].tolist() == expected.tolist()
    first, last = network.layer_names[0], network.layer_names[-1]
    both = np.arange(network.nodes)[network.rows_of([first, last])]
    assert both.tolist() == [*range(network.layer_sizes[0]), *range(int(starts[-1]), network.nodes)]


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True])
def test_a_seed_has_63_bits(network, seed):
    with pytest.raises(RequestError, match="an integer from 0 to 9223372036854775807 was expected"):
        path_distances(network, 0, 2, budget=1, seed=seed)


@pytest.mark.parametrize("budget", [0, -1, 1.5, True, "3"])
def test_a_budget_is_a_positive_number_of_nodes(network, budget):
    with pytest.raises(RequestError, match="a positive number of passing nodes was expected, or None"):
        path_distances(network, 0, 2, budget=budget)


def test_there_is_room_for_every_tap_of_every_edge(tmp_path):
    """All weights are edges: 3 samples of 6 neurons, each with 6 * 9 edges."""
    weights = np.random.default_rng(0).uniform(0.1, 0.9, (7, 8, 3, 3)).astype(np.float32)
    folder = write_checkpoint(tmp_path / "step0", {"w": weights}, {"model_type": "mine"})
    block = {"tensor": "w", "source": "in.x", "target": "out.x", "order": "convolution"}
    asked = Parameters(convolutions="per_tap", architecture={"blocks": [block]})
    checkpoint = open_source(str(folder)).open("step0")
    network = neuron_network(checkpoint, asked.reading)
    assert sampled_network(network, 6, 3, 0, 150.0).matrix.nnz == 3 * 6 * 6 * 9


def test_box_sizes_are_above_0():
    for sizes in ([0, 2, 3], [-1, 2, 3], [-2, -1], [3], [3, 3], [2, math.inf]):
        with pytest.raises(RequestError, match="finite box sizes above 0 in increasing order"):
            box_covering(nx.cycle_graph(12), sizes=sizes)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True])
def test_a_seed_of_a_heavy_tail_has_63_bits(seed):
    with pytest.raises(RequestError, match="an integer from 0 to 9223372036854775807 was expected"):
        heavy_tail(np.arange(1, 50), bootstrap=1, seed=seed)
