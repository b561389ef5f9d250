"""Paths across whole layers: those of a sample that holds every neuron, and of a plain graph; null models of them."""

import math

import naive
import numpy as np
import pytest
from path_oracle import plain_distances
from suites import neox_tensors, write_checkpoint

import ninscope
from ninscope.architectures import Reading
from ninscope.architectures.described import description_of
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError, RequestError
from ninscope.exact.path_nulls import PATH_NULLS, Drawn, check_path_nulls
from ninscope.exact.paths import analyse_paths, path_null_spectra
from ninscope.exact.whole import exact_analysis
from ninscope.networks import whole_paths
from ninscope.networks.incoming import directed
from ninscope.networks.neuron_network import neuron_network
from ninscope.networks.radii import IntegerRadii
from ninscope.networks.sampled import directed_sample, sampled_network
from ninscope.networks.shortest_paths import path_histograms
from ninscope.networks.whole_paths import whole_path_histograms
from ninscope.parameters import Parameters

pytestmark = pytest.mark.filterwarnings("error")

BLOCKS, WIDTH, HEADS = 2, 16, 2
RADII = IntegerRadii()
Q = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
ALL = {"nodes_per_layer": "all", "min_degree": 3, "q": Q}


def opened(folder, wiring="chain"):
    return neuron_network(open_source(folder).open(folder.name), Reading(wiring=wiring))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tensors = neox_tensors(BLOCKS, WIDTH, HEADS, 5, dtype=np.float32, intermediate=24)
    return write_checkpoint(tmp_path_factory.mktemp("whole") / "step0", tensors)


def counted(network, k, **asked):
    return np.concatenate([counts[0] for _, counts in whole_path_histograms(network, k, RADII, **asked)])


def of_one_sample(network, k, direction="out", **asked):
    """Rows of all source layers of a sample of all neurons."""
    sample = directed_sample(sampled_network(network, 10_000, 1, 0, 150.0), direction)
    (counts,) = path_histograms(sample, k, RADII, **asked)
    return counts[sample.rows_of(sample.sources)]


@pytest.mark.parametrize("direction", ["out", "in"])
@pytest.mark.parametrize(("wiring", "k", "skips"), [("chain", 2, False), ("parallel", 3, False), ("chain", 3, True)])
def test_equals_a_sample_that_holds_every_neuron(folder, direction, wiring, k, skips):
    network = opened(folder, wiring)
    found = counted(directed(network, direction), k, skips=skips)
    np.testing.assert_array_equal(found, of_one_sample(network, k, direction, skips=skips))


@pytest.mark.parametrize("null", ["matching", "shuffled", "rewired"])
def test_null_models_of_a_sample_that_holds_every_neuron(folder, null):
    network, drawn = opened(folder, "parallel"), Drawn(null, RADII, 1, 0)
    found = counted(network, 2, redrawings=[drawn])
    np.testing.assert_array_equal(found, of_one_sample(network, 2, redrawing=lambda sample: drawn))
    assert (found != counted(network, 2)).any()


def test_layers_that_paths_go_through(folder):
    walk = whole_paths._WholeWalk(whole_paths.Blocks(opened(folder), RADII, False, 10**9), False, 0, None)
    assert walk.reaches("block0.a", 1) == [["block0.a"]]
    assert walk.reaches("block0.a", 3) == [["block0.a"], ["block0.m"], ["block1.x"]]


def plain_edges(tensors, direction):
    """(edges, links, sizes) of the chain wiring, nodes numbered layer after layer: block by block x, q, k, v, c, a, m, and x."""
    names = [(block, name) for block in range(BLOCKS) for name in "xqkvcam"] + [(BLOCKS, "x")]
    sizes = [24 if name == "m" else WIDTH for _, name in names]
    starts = dict(zip(names, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
    edges, links = [], []
    rows = naive.gpt_neox_edges(tensors, BLOCKS, WIDTH, HEADS, lambda _, name: range(24 if name == "m" else WIDTH))
    targets = {"x": "qkv", "c": "a", "a": "m"}
    for number, layer in enumerate(rows):
        block, name = number // 4, "xcam"[number % 4]
        ends = [(block, t) for t in targets[name]] if name != "m" else [(block + 1, "x")]
        columns = [starts[end] + i for end in ends for i in range(24 if end[1] == "m" else WIDTH)]
        for node, weights in enumerate(layer):
            for column, weight in zip(columns, weights.tolist(), strict=True):
                if abs(weight) < 1 and 1 < 1 / abs(weight) <= 150:
                    edges.append((starts[block, name] + node, column, 1 / abs(weight)))
        links += [(starts[block, "v"] + i, starts[block, "c"] + i) for i in range(WIDTH)] if name == "x" else []
    if direction == "in":
        edges = [(end, start, length) for start, end, length in edges]
        links = [(end, start) for start, end in links]
    return edges, links, sum(sizes)


@pytest.mark.parametrize(("direction", "k"), [("out", 2), ("in", 3)])
def test_equals_dijkstra_and_the_naive_spectrum(folder, direction, k):
    tensors = {name: t.rows(np.arange(t.shape[0]))[0].reshape(t.shape).astype(float)
               for name, t in open_source(folder).open("step0").tensors.items() if len(t.shape) > 1}  # fmt: skip
    edges, links, nodes = plain_edges(tensors, direction)
    reached = [list(plain_distances(edges, links, k, node).values()) for node in range(nodes)]
    expected = naive.spectrum([np.array(lengths) for lengths in reached], Q, max_distance=k * 150.0 + 1, min_degree=3)
    found = ninscope.measure(folder, layers_crossed=k, direction=direction, min_degree=3, q=Q)
    assert (found.method, found.edges) == ("exact", sum(map(len, reached)))
    assert found.samples[0].nodes == expected["nodes"]
    np.testing.assert_allclose(found.tau, expected["tau"], rtol=1e-10, atol=1e-10)
    assert found.alpha0 == pytest.approx(expected["alpha0"], rel=1e-10)
    assert found.width == pytest.approx(expected["width"], rel=1e-10)


def test_no_split_and_no_room_changes_a_count(folder, monkeypatch):
    network = opened(folder)
    drawn = [None, Drawn("matching", RADII, 0, 0), Drawn("rewired", RADII, 0, 0), Drawn("gaussian", RADII, 0, 1)]
    plain = [counts for _, counts in whole_path_histograms(network, 3, RADII, drawn)]
    monkeypatch.setattr(whole_paths, "NODES_AT_ONCE", 5)
    monkeypatch.setattr(whole_paths, "_ROWS", 3)
    needed = 60_000
    for asked in ({"threads": 3}, {"max_bytes": needed}):
        for counts, expected in zip(
            (c for _, c in whole_path_histograms(network, 3, RADII, drawn, **asked)), plain, strict=True
        ):
            np.testing.assert_array_equal(counts, expected)


def test_what_does_not_fit_is_refused(folder):
    match = (
        r"paths across 2 whole layers from block0.x take 0\.0 GB \(the block of .* alone 0\.0\), more than 0\.0; "
        "give nodes_per_layer a number, for samples"
    )
    with pytest.raises(CheckpointError, match=match) as refused:
        counted(opened(folder), 2, max_bytes=5000)
    assert refused.value.status == "unsupported"


def test_wrong_requests():
    with pytest.raises(RequestError, match='layers_crossed above 1 goes with radii "integer"'):
        Parameters("all", layers_crossed=2, radii={"log": 20})
    with pytest.raises(RequestError, match="per_node goes with layers_crossed 1"):
        Parameters("all", layers_crossed=2, per_node=True)


def test_parts_and_edges_are_those_of_the_sample(folder):
    asked = {"layers_crossed": 2, "min_degree": 3, "q": Q, "parts": ["block", "kind"]}
    whole, sample = ninscope.measure(folder, **asked), ninscope.measure(folder, nodes_per_layer=99, samples=1, **asked)
    assert whole.edges == sample.edges
    assert list(whole.parts) == list(sample.parts)
    for part in whole.parts:
        assert whole.part(part).alpha0 == pytest.approx(sample.part(part).alpha0, rel=1e-12)
    assert (whole.layers, whole.layers_counted) == ((), 8)


# --- null models --------------------------------------------------------------------------------------------
def stored_with(place, change, name="step0"):
    """A checkpoint whose float64 matrices W[out, in] a function (source, target, weights) changes, q, k and v apart."""
    tensors = neox_tensors(BLOCKS, WIDTH, HEADS, 5, dtype=np.float32, intermediate=24)
    for block in range(BLOCKS):
        of = f"gpt_neox.layers.{block}."
        fused = tensors[f"{of}attention.query_key_value.weight"].reshape(HEADS, 3, -1, WIDTH)
        parts = [
            change(f"block{block}.x", f"block{block}.{part}", fused[:, i].reshape(WIDTH, WIDTH))
            for i, part in enumerate("qkv")
        ]
        fused = np.stack([part.reshape(HEADS, -1, WIDTH) for part in parts], axis=1)
        tensors[f"{of}attention.query_key_value.weight"] = np.ascontiguousarray(fused.reshape(3 * WIDTH, WIDTH))
        after = f"block{block + 1}.x" if block + 1 < BLOCKS else "output.x"
        for matrix, source, target in (
            ("attention.dense", "c", "a"),
            ("mlp.dense_h_to_4h", "a", "m"),
            ("mlp.dense_4h_to_h", "m", ""),
        ):
            full = f"{of}{matrix}.weight"
            end = f"block{block}.{target}" if target else after
            tensors[full] = np.ascontiguousarray(change(f"block{block}.{source}", end, tensors[full]))
    return write_checkpoint(place / name, tensors)


def alpha_and_width(spectrum):
    return [spectrum.alpha0, spectrum.width]


@pytest.mark.parametrize("direction", ["out", "in"])
def test_the_matching_null_is_a_checkpoint_with_its_columns_permuted(folder, tmp_path, direction):
    """Every layer's columns by one order. Read from the targets, it is the rows that are."""
    drawn = Drawn("matching", RADII, 7, 1)

    def permuted(source, target, weights):
        if direction == "out":
            return weights[:, drawn.order(source, weights.shape[1])]
        return weights[drawn.order(target, weights.shape[0])]

    for k in (2, 3):
        asked = Parameters(**ALL, layers_crossed=k)
        network = directed(opened(folder), direction)
        found = path_null_spectra(network, {"matching": 2}, asked, seed=7)["matching"][1]
        really = analyse_paths(directed(opened(stored_with(tmp_path / str(k), permuted)), direction), asked).spectrum
        assert (found.nodes, found.edges) == (really.nodes, really.edges)
        np.testing.assert_allclose(found.tau, really.tau, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(alpha_and_width(found), alpha_and_width(really), rtol=1e-12)
        own = analyse_paths(network, asked).spectrum
        assert found.alpha0 != own.alpha0


@pytest.mark.parametrize("null", ["matching", "rewired"])
@pytest.mark.parametrize("direction", ["out", "in"])
def test_across_one_layer_it_is_the_network_itself(folder, null, direction):
    """To the last bit, from either side."""
    network = directed(opened(folder), direction)
    own, drawn = whole_path_histograms(network, 1, RADII, [None, Drawn(null, RADII, 0, 0)]), []
    exact = exact_analysis(network, Parameters(**ALL)).spectrum
    for _, (plain, other) in own:
        np.testing.assert_array_equal(plain, other)
        drawn.append(other)
    parameters = Parameters(**ALL)
    object.__setattr__(parameters, "layers_crossed", 1)
    (found,) = path_null_spectra(network, {null: 1}, parameters)[null]
    for name in ("tau", "alpha", "f"):
        assert getattr(found, name).tobytes() == getattr(exact, name).tobytes()
    assert alpha_and_width(found) == alpha_and_width(exact)


def test_neurons_have_no_order(folder, tmp_path):
    """Hidden neurons permuted, in what writes them and in what reads them: nothing changes, beyond the order of sums."""
    order = np.random.default_rng(1).permutation(24)

    def permuted(source, target, weights):
        weights = weights[order] if target.endswith(".m") else weights
        return weights[:, order] if source.endswith(".m") else weights

    other = stored_with(tmp_path, permuted)
    for asked in ({}, {"layers_crossed": 3}, {"direction": "in"}, {"layers_crossed": 2, "direction": "in"}):
        one, same = (ninscope.measure(place, min_degree=3, q=Q, **asked) for place in (folder, other))
        assert one.edges == same.edges
        np.testing.assert_allclose(
            [same.alpha0, same.width, *same.tau], [one.alpha0, one.width, *one.tau], rtol=1e-12, atol=1e-12
        )


def test_independent_gaussian_matrices_match_nothing(tmp_path):
    """Of networks that were drawn, alpha0 minus that of the matching null is 0 within its spread."""
    differences, spreads = [], []
    asked = Parameters("all", layers_crossed=2, min_degree=3, q=Q)
    for seed in range(6):
        tensors = neox_tensors(1, 32, 2, seed, dtype=np.float32, intermediate=64)
        network = opened(write_checkpoint(tmp_path / f"step{seed}", tensors))
        own = analyse_paths(network, asked).spectrum.alpha0
        drawn = [spectrum.alpha0 for spectrum in path_null_spectra(network, {"matching": 5}, asked, seed)["matching"]]
        differences.append(own - np.mean(drawn))
        spreads.append(np.std(drawn, ddof=1))
    error = math.sqrt(np.mean(np.square(spreads)) * (1 + 1 / 5) / len(differences))
    assert abs(np.mean(differences)) < 4 * error
    assert error < 0.01


def test_matched_neurons_are_seen(tmp_path):
    """Neurons with strong weights on both sides: permuted columns break that up."""
    strong = np.where(np.arange(64) % 2, 1.8, 0.4)

    def strengthened(source, target, weights):
        weights = weights * strong[: weights.shape[0], None]
        return weights * strong[None, : weights.shape[1]]

    network = opened(stored_with(tmp_path, strengthened))
    asked = Parameters(**ALL, layers_crossed=2)
    own = analyse_paths(network, asked).spectrum
    drawn = path_null_spectra(network, {"matching": 6}, asked)["matching"]
    differences = own.alpha0 - np.array([spectrum.alpha0 for spectrum in drawn])
    assert abs(differences.mean()) > 4 * differences.std(ddof=1)


def blocks_of(network, null):
    """[(part, distances before, distances after)] of every matrix of a whole network under a null model."""
    blocks = whole_paths.Blocks(network, RADII, True, 10**9)
    found = []
    for layer in network.source_layers:
        before = blocks.block(layer.name, 0, None)
        parts = blocks._parts[layer.name]
        after = Drawn(null, RADII, 3, 0).block(layer.name, parts, before)
        found += [(part, before[:, part.columns], after[:, part.columns]) for part in parts]
    return found


def sizes(distances):
    return np.where(np.isfinite(distances), 1 / distances, 0.0)


def test_what_each_null_keeps(folder):
    network = opened(folder)
    for part, before, after in blocks_of(network, "rewired"):
        assert np.sort(after, axis=0).tolist() == np.sort(before, axis=0).tolist(), part  # in-coming: the very weights
        for one, other in ((np.rint(before), np.rint(after)), (np.isfinite(before), np.isfinite(after))):
            assert np.sort(one, axis=1).tolist() == np.sort(other, axis=1).tolist()
        np.testing.assert_allclose(sizes(after).sum(axis=1), sizes(before).sum(axis=1), rtol=0.25)  # within bins
        assert (after != before).any()
    for _, before, after in blocks_of(network, "shuffled"):
        assert np.sort(after, axis=None).tolist() == np.sort(before, axis=None).tolist()
    for _, before, after in blocks_of(network, "matching"):
        assert after is before or (after == before).all()


@pytest.mark.parametrize(("null", "axis"), [("column_norms", 1), ("row_norms", 0)])
def test_norms_are_kept(tmp_path, null, axis):
    """Of weights that nearly all count, those of a line of distances are its norm, as far as the bounds leave it."""

    def wide(source, target, weights):
        return weights * np.linspace(0.3, 1, weights.shape[1])[None] * np.linspace(0.3, 1, weights.shape[0])[:, None]

    for part, before, after in blocks_of(opened(stored_with(tmp_path, wide)), null):
        norms = [np.sqrt((sizes(distances) ** 2).sum(axis=axis)) for distances in (before, after)]
        np.testing.assert_allclose(norms[1], norms[0], rtol=0.02)
        assert part.node_norms.size == before.shape[0]
        assert (after != before).mean() > 0.9


def test_gaussian_networks_are_their_own_nulls(tmp_path):
    asked = Parameters("all", layers_crossed=2)
    network = opened(write_checkpoint(tmp_path / "step0", neox_tensors(1, 64, 4, 3, dtype=np.float32)))
    own = analyse_paths(network, asked).spectrum
    for null, (drawn,) in path_null_spectra(network, dict.fromkeys(PATH_NULLS, 1), asked).items():
        assert drawn.alpha0 == pytest.approx(own.alpha0, rel=0.02), null
        assert drawn.nodes == own.nodes
        assert drawn.edges == pytest.approx(own.edges, rel=0.01)


def convolution(place, kernels, groups=6):
    rng = np.random.default_rng(0)
    shapes = {"w": (24, 4, 3), "u": (20, 24)}
    tensors = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    folder = write_checkpoint(place / "step0", tensors, {"model_type": "mine"})
    described = {
        "blocks": [
            {"tensor": "w", "source": "in.x", "target": "mid.x", "order": "convolution", "groups": groups},
            {"tensor": "u", "source": "mid.x", "target": "out.x"},
        ]
    }
    return neuron_network(open_source(folder).open("step0"), Reading(kernels, description=description_of(described)))


@pytest.mark.parametrize("null", PATH_NULLS)
def test_grouped_convolutions_stay_grouped(tmp_path, null):
    network = convolution(tmp_path, "norm")
    for part, _, after in blocks_of(network, null):
        if part.source == "in.x":
            joined = np.arange(24)[:, None] // 4 == np.arange(24)[None] // 4
            assert not np.isfinite(after[~joined]).any()
            assert np.isfinite(after[joined]).mean() > 0.8
    asked = Parameters("all", layers_crossed=2, min_degree=0, q=Q)
    (drawn,) = path_null_spectra(network, {null: 1}, asked)[null]
    assert drawn.nodes == analyse_paths(network, asked).spectrum.nodes


def test_null_models_that_a_network_has_not(tmp_path):
    apart, grouped = convolution(tmp_path / "apart", "per_tap"), convolution(tmp_path / "grouped", "norm")
    asked = Parameters("all", layers_crossed=2, min_degree=0, q=Q)
    with pytest.raises(
        CheckpointError, match=r"the null model shuffled of paths knows no kernels that are read per tap \(w\)"
    ):
        path_null_spectra(apart, {"matching": 1, "shuffled": 1}, asked)
    assert path_null_spectra(apart, {"matching": 1}, asked)["matching"][0].nodes > 0
    with pytest.raises(
        CheckpointError, match=r"a sample does not tell which neurons a grouped convolution joins \(w\)"
    ):
        check_path_nulls(grouped, ["rewired"], RADII, of_samples=True)
    check_path_nulls(convolution(tmp_path / "whole", "norm", groups=1), ["rewired"], RADII, of_samples=True)  # has them
    with pytest.raises(
        CheckpointError, match="rewired goes with at most 1022 radii, not 2000; give a smaller max_distance"
    ):
        check_path_nulls(grouped, ["rewired"], IntegerRadii(max_distance=2000.0))
    with pytest.raises(ValueError, match="unknown null model of paths 'analytic'; one of shuffled"):
        path_null_spectra(grouped, {"analytic": 1}, asked)
