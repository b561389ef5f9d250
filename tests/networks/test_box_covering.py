"""Box covering on graphs whose dimension is known: flowers, lattices, small worlds; coverings against their definition."""

import itertools
import math

import igraph
import networkx as nx
import numpy as np
import pytest

import ninscope
from ninscope.errors import RequestError
from ninscope.multifractal import box_covering as module
from ninscope.multifractal.box_covering import box_covering


def flower(u, v, generation):
    """The (u, v)-flower (Rozenfeld, Havlin and ben-Avraham 2007): every edge becomes two paths, of u and of v edges."""
    edges, count = [(i, (i + 1) % (u + v)) for i in range(u + v)], u + v
    for _ in range(generation - 1):
        grown = []
        for start, end in edges:
            for length in (u, v):
                path = [start, *range(count, count + length - 1), end]
                count += length - 1
                grown += itertools.pairwise(path)
        edges = grown
    return nx.Graph(edges)


def scales_of(u, v, generation):
    """Sizes that boxes around whole flowers of earlier generations have: their diameters, plus 1."""
    diameters = [(u + v) // 2]
    while len(diameters) < generation - 1:
        diameters.append(u * diameters[-1] + v - u)
    return [diameter + 1 for diameter in diameters]


@pytest.mark.parametrize(("u", "generation"), [(2, 5), (3, 4)])
def test_flowers_at_their_own_scales(u, generation):
    """d_B = ln(u + v) / ln u (Rozenfeld et al.)."""
    graph = flower(u, u, generation)
    w = 2 * u
    assert len(graph) == (w - 2) * w**generation // (w - 1) + w // (w - 1) + 1
    found = box_covering(graph, sizes=scales_of(u, u, generation), trials=20)
    assert found.diameter == u**generation
    known = math.log(w) / math.log(u)
    assert found.box_dimension == pytest.approx(known, rel=0.08)
    # Against the boxes' diameters, l - 1, it is below: the two scales are one in the limit.
    below = -np.polyfit(np.log(found.sizes - 1), np.log(found.boxes), 1)[0]
    assert 0.9 * known < below < known < found.box_dimension
    assert found.r2_boxes > 0.98


@pytest.mark.parametrize(("u", "v", "generation"), [(2, 3, 5), (2, 4, 4)])
def test_uneven_flowers_renormalise(u, v, generation):
    """One generation up there are u + v times fewer boxes; their size grows by u in the end, by more before."""
    sizes = scales_of(u, v, generation)
    boxes = box_covering(flower(u, v, generation), sizes=sizes, trials=6).boxes
    assert boxes[-2] / boxes[-1] == pytest.approx(u + v, rel=0.15)
    assert u < (sizes[-1] - 1) / (sizes[-2] - 1) < 1.2 * u


def test_a_flower_at_all_scales():
    found = box_covering(flower(2, 2, 5))
    assert found.box_dimension == pytest.approx(2, abs=0.15)
    assert found.warning == ""
    assert found.nodes == 684
    assert found.diameter == 32


@pytest.mark.parametrize(("graph", "dimension", "within"), [
    (nx.cycle_graph(400), 1, 0.05),
    (nx.path_graph(400), 1, 0.05),
    (nx.grid_2d_graph(32, 32, periodic=True), 2, 0.25),
    (nx.grid_2d_graph(32, 32), 2, 0.4),
])  # fmt: skip
def test_lattices(graph, dimension, within):
    """Below their dimension for the random covering of a finite piece, and nearer to it at larger q, where full boxes rule."""
    found = box_covering(graph)
    assert dimension - within < found.box_dimension < dimension + 0.02
    at_two = found.dimensions[np.argmin(abs(found.q - 2))]
    assert dimension - within < at_two < dimension + 0.05
    assert found.warning == ""
    assert found.r2_boxes > 0.99


def test_a_ring_s_boxes_are_arcs():
    """The fewest boxes of size l that cover a ring of n nodes are at least n / l; of one size, exactly."""
    found = box_covering(nx.cycle_graph(60), sizes=[1, 2, 3, 5, 30.5, 31], trials=40)
    assert (found.boxes >= np.ceil(60 / np.minimum(found.sizes, 60)) - 1e-9)[:4].all()
    assert found.boxes[0] == 60
    assert found.boxes[-2] >= found.boxes[-1] == 1  # no two nodes are further apart than 30


@pytest.mark.parametrize("graph", [
    nx.barabasi_albert_graph(600, 2, seed=1),
    nx.newman_watts_strogatz_graph(600, 4, 0.3, seed=1),
    nx.random_regular_graph(3, 600, seed=1),
    flower(1, 3, 5),
])  # fmt: skip
def test_small_worlds_are_told(graph):
    found = box_covering(graph)
    assert found.r2_exponential > found.r2_boxes
    assert "no finite dimension, as in a small world" in found.warning


def test_too_few_sizes_are_told():
    assert box_covering(nx.star_graph(20), sizes=[1, 2]).warning.startswith("only 2 box sizes (diameter 2)")


def plain_boxes(distances, order, size):
    """First fit: a node goes to the first box whose nodes are all nearer than the size (greedy colouring)."""
    boxes = []
    for node in order:
        for box in boxes:
            if all(distances[node][other] < size for other in box):
                box.append(node)
                break
        else:
            boxes.append([node])
    return boxes


@pytest.mark.parametrize("size", [1, 2, 3.5, 6, 100])
def test_coverings_are_the_definition(rng, size):
    graph = nx.connected_watts_strogatz_graph(60, 4, 0.2, seed=int(rng.integers(1000)))
    distances = np.array([[nx.shortest_path_length(graph, a, b) for b in graph] for a in graph], float)
    order = rng.permutation(60)
    box = module._cover(distances, order, size)
    expected = np.empty(60, int)
    for number, members in enumerate(plain_boxes(distances, order.tolist(), size)):
        expected[members] = number
    np.testing.assert_array_equal(box, expected)


def test_sums_are_their_definition():
    """tau, D_q and the entropy's slope from the coverings themselves, by plain sums and numpy's own least squares."""
    graph, q = nx.grid_2d_graph(9, 9), np.array([-1.0, 0.0, 1.0, 2.0])
    sizes = [2.0, 3.0, 5.0, 7.0]
    found = box_covering(graph, q=q, sizes=sizes, trials=3, combine="mean", seed=4)
    distances = np.array([[abs(a - c) + abs(b - d) for c, d in graph] for a, b in graph], float)
    orders = module._orders(81, 3, 4)
    coverings = [[plain_boxes(distances, order.tolist(), size) for order in orders] for size in sizes]
    x = np.log(np.array(sizes) / sizes[-1])

    def mean(of):
        return np.array([np.mean([sum(of(len(box) / 81) for box in boxes) for boxes in each]) for each in coverings])

    for place, order in enumerate(q):
        tau = np.polyfit(x, np.log(mean(lambda mu, order=order: mu**order)), 1)[0]
        assert found.tau[place] == pytest.approx(tau, abs=1e-12)
        if order != 1:
            assert found.dimensions[place] == pytest.approx(tau / (order - 1), rel=1e-12)
    assert found.dimensions[2] == pytest.approx(np.polyfit(x, mean(lambda mu: mu * math.log(mu)), 1)[0], rel=1e-12)
    np.testing.assert_allclose(found.boxes, mean(lambda mu: 1))
    assert found.box_dimension == pytest.approx(found.dimensions[1], rel=1e-12)
    # alpha is the derivative of tau, f its Legendre transform.
    near = box_covering(graph, q=q + 1e-6, sizes=sizes, trials=3, combine="mean", seed=4)
    np.testing.assert_allclose(found.alpha, (near.tau - found.tau) / 1e-6, rtol=1e-4)
    np.testing.assert_allclose(found.f, q * found.alpha - found.tau)
    least = box_covering(graph, q=q, sizes=sizes, trials=3, seed=4)
    assert least.boxes.tolist() == [min(map(len, each)) for each in coverings]


def test_dimensions_fall_with_q_and_pass_through_the_known_ones():
    found = box_covering(nx.grid_2d_graph(20, 20), q=np.linspace(0, 4, 9))
    assert found.dimensions[0] == pytest.approx(found.box_dimension)
    assert np.isnan(found.r2[found.q == 1]).all()
    assert np.isfinite(found.dimensions).all()


def test_both_libraries_and_any_names_give_the_same():
    graph = flower(2, 3, 3)
    renamed = nx.relabel_nodes(graph, {node: f"n{node}" for node in graph})
    other = igraph.Graph.from_networkx(graph)
    first, *others = (box_covering(each, trials=4, seed=9) for each in (graph, renamed, other))
    for each in others:
        np.testing.assert_array_equal(each.tau, first.tau)
        np.testing.assert_array_equal(each.boxes, first.boxes)
    assert (box_covering(graph, trials=1, seed=8).boxes != box_covering(graph, trials=1, seed=9).boxes).any()
    more = box_covering(graph, trials=30, seed=9)
    assert (more.boxes <= first.boxes).all()


def test_lengths_of_edges():
    """A chain of edges 2 long is the chain of edges 1 long at twice the size; of parallel edges the shorter counts."""
    graph = nx.MultiGraph()
    for node in range(80):
        graph.add_edge(node, node + 1, length=2.0)
        graph.add_edge(node, node + 1, length=7.0)
        graph.add_edge(node, node, length=0.5)
    plain = box_covering(nx.path_graph(81), sizes=[1, 2, 4, 8, 16], trials=3)
    found = box_covering(graph, distance="length", sizes=[2, 4, 8, 16, 32], trials=3)
    np.testing.assert_array_equal(found.boxes, plain.boxes)
    np.testing.assert_allclose(found.tau, plain.tau, rtol=1e-12)
    assert found.diameter == 160
    default = box_covering(graph, distance="length")
    assert default.box_dimension == pytest.approx(1, abs=0.12)
    assert default.sizes.size == 24


def test_a_network_of_ninscope_s(tmp_path):
    from suites import neox_tensors, write_checkpoint

    folder = write_checkpoint(tmp_path / "step0", neox_tensors(1, 12, 3, 0, intermediate=24))
    graph = ninscope.network(folder, nodes_per_layer=8).to_igraph().as_undirected(combine_edges="first")
    parts = graph.connected_components()
    found = ninscope.box_covering(parts.giant(), distance="distance", trials=2)
    assert found.nodes == parts.giant().vcount()
    assert math.isfinite(found.box_dimension)


@pytest.mark.parametrize(("graph", "asked", "message"), [
    (nx.DiGraph([(0, 1)]), {}, "the graph is directed"),
    (igraph.Graph(3, [(0, 1)], directed=True), {}, "the graph is directed"),
    (nx.empty_graph(0), {}, "the graph has 0 nodes; box covering needs 2"),
    (nx.empty_graph(1), {}, "the graph has 1 node; box covering needs 2"),
    (nx.empty_graph(5001), {}, "the graph has 5001 nodes, more than 5000"),
    (igraph.Graph(5001), {}, "the graph has 5001 nodes, more than 5000"),
    (nx.Graph([(0, 1), (2, 3), (3, 4)]), {}, "falls into 2 parts, the largest of 3 nodes; take that one"),
    (nx.empty_graph(3), {}, "falls into 3 parts, the largest of 1 nodes"),
    ({0: [1]}, {}, "takes a networkx or an igraph graph, not dict"),
    (nx.path_graph(4), {"distance": "length"}, "the edge of nodes 0 and 1 has length None; a length above 0"),
    (igraph.Graph(2, [(0, 1)]), {"distance": "length"}, "the edge of nodes 0 and 1 has length None"),
    (nx.Graph([(0, 1, {"length": 0.0})]), {"distance": "length"}, "has length 0.0; a length above 0 is needed"),
    (nx.Graph([(0, 1, {"length": math.nan})]), {"distance": "length"}, "has length nan"),
    (nx.Graph([(0, 1, {"length": "far"})]), {"distance": "length"}, "has length 'far'"),
    (nx.path_graph(2), {}, "1 box size up to the diameter 1: nothing to fit; take a larger graph"),
    (nx.path_graph(9), {"combine": "best"}, "combine is 'best'; one of minimal, mean"),
    (nx.path_graph(9), {"trials": 0}, "trials is 0; an integer from 1"),
    (nx.path_graph(9), {"seed": 1.5}, "seed is 1.5"),
    (nx.path_graph(9), {"sizes": [3]}, "sizes must be 2 to 10000 finite box sizes above 0 in increasing order"),
    (nx.path_graph(9), {"sizes": [3, 2]}, "sizes must be"),
    (nx.path_graph(9), {"sizes": [0, 2]}, "sizes must be"),
    (nx.path_graph(9), {"sizes": "many"}, "sizes must be"),
    (nx.path_graph(9), {"q": [1, 0]}, "q must be"),
])  # fmt: skip
def test_wrong_requests_say_so(graph, asked, message):
    with pytest.raises(RequestError, match=message) as error:
        box_covering(graph, **asked)
    assert "\n" not in str(error.value)


def test_a_covering_shows_its_numbers_and_its_warning():
    covered = box_covering(nx.path_graph(64))
    numbers = ["box dimension", "r2", "nodes", "diameter"]
    assert list(covered.facts()) == numbers + ["warning"] * bool(covered.warning)
    assert covered.facts()["diameter"] == 63
