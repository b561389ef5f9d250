"""The sampled network against its naive twin, edge by edge, and what must not change it: order, files, sharding, precision."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import gpt_neox_edges
from suites import from_bf16, neox_tensors, to_bf16, write_bf16, write_checkpoint, write_suite

import ninscope
from ninscope.checkpoints.source import open_source
from ninscope.networks.neuron_network import neuron_network
from ninscope.networks.sampled import SampledNetwork, sampled_network
from ninscope.networks.sampling import sampled_neurons

BLOCKS, WIDTH, HEADS, HIDDEN = 2, 24, 3, 40
PARTS = "xqkvcam"


def tensors_of(seed=0, dtype=np.float16):
    return neox_tensors(BLOCKS, WIDTH, HEADS, seed, dtype=dtype, intermediate=HIDDEN)


def network_of(folder, nodes=8, samples=3, seed=0, max_distance=150.0) -> SampledNetwork:
    source = open_source(folder)
    checkpoint = source.open(source.revisions()[0])
    return sampled_network(neuron_network(checkpoint), nodes, samples, seed, max_distance)


@pytest.fixture
def folder(tmp_path):
    return write_checkpoint(tmp_path / "step0", tensors_of())


def layers_of(network: SampledNetwork) -> dict[str, slice]:
    """The places of each node layer among the nodes of one sample."""
    ends = np.cumsum(network.layer_sizes)
    named = zip(network.layer_names, network.layer_sizes, ends, strict=True)
    return {name: slice(int(end - size), int(end)) for name, size, end in named}


def same_network(left: SampledNetwork, right: SampledNetwork) -> None:
    assert left.matrix.shape == right.matrix.shape
    for name in ("indptr", "indices", "data"):
        ours, theirs = getattr(left.matrix, name), getattr(right.matrix, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(left.neurons, right.neurons)
    np.testing.assert_array_equal(left.layer_sizes, right.layer_sizes)


def compare_with_naive(network: SampledNetwork, tensors, samples: int, max_distance: float) -> int:
    """Every row's weights and targets, in order, against `naive.gpt_neox_edges`. Returns how many edges were compared."""
    places = layers_of(network)
    compared = 0
    for sample in range(samples):
        chosen = network.neurons[sample]

        def layer(block, part):
            return "output.x" if block == BLOCKS else f"block{block}.{part}"

        def neurons(block, part, chosen=chosen):
            return chosen[places[layer(block, part)]]

        expected = iter(gpt_neox_edges(tensors, BLOCKS, WIDTH, HEADS, neurons))
        with_edges = set()
        for block in range(BLOCKS):
            for part, targets in (
                ("x", [(block, "q"), (block, "k"), (block, "v")]),
                ("c", [(block, "a")]),
                ("a", [(block, "m")]),
                ("m", [(block + 1, "x")]),
            ):
                ends = np.concatenate([np.arange(network.nodes)[places[layer(*target)]] for target in targets])
                place = places[layer(block, part)]
                for node, weights in zip(range(place.start, place.stop), next(expected), strict=True):
                    with np.errstate(divide="ignore", over="ignore"):
                        kept = 1.0 / np.abs(weights) <= max_distance
                    row = network.matrix[[sample * network.nodes + node]]
                    np.testing.assert_array_equal(row.data.astype(np.float64), weights[kept])
                    np.testing.assert_array_equal(row.indices, ends[kept] + sample * network.nodes)
                    with_edges.add(node)
                    compared += row.nnz
        assert next(expected, None) is None
        without = sorted(set(range(network.nodes)) - with_edges)
        assert network.matrix[[sample * network.nodes + node for node in without]].nnz == 0
    assert compared == network.matrix.nnz
    return compared


class TestEdges:
    @pytest.mark.parametrize(
        ("dtype", "nodes"), [(np.float16, 8), (np.float16, 30), (np.float32, 1), (np.float32, 1000), (np.float64, 30)]
    )
    def test_against_the_naive_twin(self, tmp_path, dtype, nodes):
        """With 30 a layer x, q, k, v, c and a are whole and m is a sample; with 1000 all are whole."""
        tensors = tensors_of(dtype=dtype)
        network = network_of(write_checkpoint(tmp_path / "step0", tensors), nodes, samples=3)
        assert compare_with_naive(network, tensors, 3, 150.0) > 0
        assert network.matrix.dtype == (np.float64 if dtype is np.float64 else np.float32)

    @settings(max_examples=8)
    @given(nodes=st.integers(1, 45), samples=st.integers(1, 3), seed=st.integers(0, 2**63 - 1))
    def test_any_sample(self, tmp_path_factory, nodes, samples, seed):
        tensors = tensors_of()
        network = network_of(write_checkpoint(tmp_path_factory.mktemp("any"), tensors), nodes, samples, seed, 60.0)
        compare_with_naive(network, tensors, samples, 60.0)

    def test_the_whole_network_has_an_edge_for_each_weight_within_the_bound(self, folder):
        network = network_of(folder, nodes=HIDDEN, samples=1)
        tensors = tensors_of()
        used = [array for name, array in tensors.items() if array.ndim == 2 and ".layers." in name]
        weights = np.concatenate([array.ravel() for array in used]).astype(np.float64)
        with np.errstate(divide="ignore"):
            kept = weights[1 / np.abs(weights) <= 150.0]
        np.testing.assert_array_equal(np.sort(network.matrix.data), np.sort(kept))

    @pytest.mark.parametrize(
        ("dtype", "max_distance"),
        [
            (np.float16, 2.0), (np.float16, 49.0), (np.float16, 199.9),
            (np.float32, 3.0), (np.float32, 150.0), (np.float32, 1000.0),
            (np.float64, 7.0), (np.float64, 49.0), (np.float64, 150.0),
        ],
    )  # fmt: skip
    def test_the_bound_to_the_last_bit(self, tmp_path, dtype, max_distance):
        """An edge is kept where 1/|w|, in float64, is at most max_distance; zeros are no edges at any bound."""
        at = dtype(1 / max_distance)
        near = [at]
        for _ in range(3):
            near = [np.nextafter(near[0], dtype(0)), *near, np.nextafter(near[-1], dtype(1))]
        values = np.array([*near, *(-value for value in near), 0.0, -0.0, np.finfo(dtype).smallest_subnormal, 1], dtype)
        tensors = tensors_of(dtype=dtype)
        for number, (name, array) in enumerate(tensors.items()):
            if array.ndim == 2:
                tensors[name] = np.resize(np.roll(values, number), array.shape)
        network = network_of(write_checkpoint(tmp_path / "step0", tensors), 10, 2, max_distance=max_distance)
        compare_with_naive(network, tensors, 2, max_distance)
        distances = 1 / np.abs(network.matrix.data.astype(np.float64))
        assert distances.max() <= max_distance
        with np.errstate(divide="ignore", over="ignore"):
            reach = 1 / np.abs(values.astype(np.float64))
        assert set(network.matrix.data) == set(values[reach <= max_distance].astype(network.matrix.dtype))

    def test_no_edges_at_all(self, tmp_path):
        tensors = tensors_of()
        for name in tensors:
            tensors[name] = np.zeros_like(tensors[name])
        network = network_of(write_checkpoint(tmp_path / "step0", tensors), 8, 2)
        assert (network.matrix.nnz, network.matrix.shape) == (0, (2 * network.nodes, 2 * network.nodes))


class TestStructure:
    def test_samples_are_blocks_on_the_diagonal(self, folder):
        network = network_of(folder, samples=4)
        nodes = network.nodes
        assert network.matrix.shape == (4 * nodes, 4 * nodes)
        assert network.samples == 4
        for row, column in itertools.product(range(4), repeat=2):
            part = network.matrix[row * nodes : (row + 1) * nodes, column * nodes : (column + 1) * nodes]
            assert (part.nnz > 0) == (row == column)

    def test_a_valid_sorted_csr_without_duplicates(self, folder):
        matrix = network_of(folder).matrix
        matrix.check_format(full_check=True)
        assert matrix.has_canonical_format

    def test_edges_lead_from_a_layer_to_those_it_feeds(self, folder):
        network = network_of(folder, samples=2)
        places = layers_of(network)
        found = set()
        for source, target in itertools.product(places, repeat=2):
            for first in (0, network.nodes):
                rows, columns = places[source], places[target]
                part = network.matrix[
                    first + rows.start : first + rows.stop, first + columns.start : first + columns.stop
                ]
                found |= {(source, target)} if part.nnz else set()
        assert found == {
            (f"block{b}.{source}", target.format(b, "output" if b + 1 == BLOCKS else f"block{b + 1}"))
            for b in range(BLOCKS)
            for source, target in (
                ("x", "block{0}.q"),
                ("x", "block{0}.k"),
                ("x", "block{0}.v"),
                ("c", "block{0}.a"),
                ("a", "block{0}.m"),
                ("m", "{1}.x"),
            )
        }

    def test_rows_of_one_sample(self, folder):
        network = network_of(folder, samples=3)
        for sample in range(3):
            indptr, part = network.row_pointer(sample)
            rows = network.matrix[sample * network.nodes : (sample + 1) * network.nodes]
            np.testing.assert_array_equal(indptr, rows.indptr)
            np.testing.assert_array_equal(network.matrix.data[part], rows.data)

    @pytest.mark.parametrize(("asked", "small", "large"), [(8, 8, 8), (24, 24, 24), (30, 24, 30), (99, 24, 40)])
    def test_layer_sizes(self, folder, asked, small, large):
        network = network_of(folder, nodes=asked)
        assert network.layer_names == (*(f"block{b}.{part}" for b in range(BLOCKS) for part in PARTS), "output.x")
        assert network.layer_sizes.tolist() == [*([small] * 6 + [large]) * BLOCKS, small]
        assert network.nodes == network.layer_sizes.sum() == network.neurons.shape[1]

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            (24, ""),
            (25, "layers of 24 neurons were taken whole (25 asked for)"),
            (99, "layers of 24, 40 neurons were taken whole (99 asked for)"),
        ],
    )
    def test_layers_taken_whole_are_told(self, folder, asked, said):
        assert network_of(folder, nodes=asked).layers_taken_whole(asked) == said
        assert ninscope.measure(str(folder), nodes_per_layer=asked, samples=1).message == said

    def test_nothing_shared_is_altered(self, folder):
        """Analysing one network must not change what the next one is made of."""
        first = network_of(folder, nodes=30)
        before = first.neurons.copy()
        first.neurons[:] = -1
        first.matrix.data[:] = 0
        np.testing.assert_array_equal(network_of(folder, nodes=30).neurons, before)


class TestNeurons:
    def test_the_same_at_every_checkpoint(self, tmp_path):
        suite = write_suite(tmp_path / "tiny", [0, 1, 2], blocks=BLOCKS, width=WIDTH, heads=HEADS)
        networks = [network_of(suite / f"step{step}") for step in range(3)]
        for other in networks[1:]:
            np.testing.assert_array_equal(other.neurons, networks[0].neurons)
            assert not np.array_equal(other.matrix.data, networks[0].matrix.data)

    def test_q_k_v_and_c_share_theirs_and_no_others_do(self, folder):
        network = network_of(folder, samples=5)
        places = layers_of(network)
        for block in range(BLOCKS):
            of = {part: network.neurons[:, places[f"block{block}.{part}"]] for part in PARTS}
            for part in "kvc":
                np.testing.assert_array_equal(of[part], of["q"])
            for left, right in itertools.combinations("xqam", 2):
                assert not np.array_equal(of[left], of[right])
        assert not np.array_equal(network.neurons[:, places["block0.q"]], network.neurons[:, places["block1.q"]])

    def test_sorted_distinct_and_in_range(self, folder):
        network = network_of(folder, nodes=30, samples=4)
        for name, place in layers_of(network).items():
            part = network.neurons[:, place]
            assert (np.diff(part, axis=1) > 0).all()
            assert part.min() >= 0
            assert part.max() < (HIDDEN if name.endswith(".m") else WIDTH)

    def test_more_samples_leave_the_first_as_they_were(self, folder):
        few, many = network_of(folder, samples=2), network_of(folder, samples=6)
        np.testing.assert_array_equal(few.neurons, many.neurons[:2])
        rows = 2 * few.nodes
        np.testing.assert_array_equal(few.matrix.toarray(), many.matrix[:rows, :rows].toarray())
        assert len({row.tobytes() for row in many.neurons}) == 6

    def test_another_seed_is_another_sample(self, folder):
        assert not np.array_equal(network_of(folder, seed=0).neurons, network_of(folder, seed=1).neurons)


def forget() -> None:
    """Samples that are remembered between calls."""
    getattr(sampled_neurons, "cache_clear", lambda: None)()


class TestSampling:
    def test_pinned(self):
        """Published numbers name a seed; these lists must hold on every machine and with every version of numpy."""
        assert sampled_neurons(0, 0, "block0.x", 512, 8).tolist() == [55, 161, 175, 339, 353, 456, 485, 501]
        assert sampled_neurons(0, 1, "block0.x", 512, 8).tolist() == [88, 250, 395, 431, 470, 472, 477, 481]
        assert sampled_neurons(7, 0, "block3.attention", 100, 5).tolist() == [15, 23, 26, 61, 82]
        assert sampled_neurons(2**63 - 1, 9999, "output.x", 5120, 4).tolist() == [53, 303, 385, 5068]

    @given(
        seed=st.integers(0, 2**63 - 1),
        sample=st.integers(0, 9999),
        size=st.integers(1, 300),
        counts=st.lists(st.integers(1, 320), min_size=2, max_size=4),
    )
    def test_a_smaller_sample_is_a_part_of_a_larger(self, seed, sample, size, counts):
        nested = [set(sampled_neurons(seed, sample, "block1.m", size, count).tolist()) for count in sorted(counts)]
        assert [len(neurons) for neurons in nested] == [min(count, size) for count in sorted(counts)]
        assert all(smaller <= larger for smaller, larger in itertools.pairwise(nested))

    def test_the_order_of_asking_does_not_matter(self):
        asked = [
            (seed, sample, group, 90, 9) for seed in (0, 5) for sample in range(4) for group in ("block0.x", "block1.a")
        ]
        forwards = {key: sampled_neurons(*key).tolist() for key in asked}
        forget()
        np.random.seed(3)  # noqa: NPY002 - global state must not matter
        backwards = {key: sampled_neurons(*key).tolist() for key in reversed(asked)}
        assert forwards == backwards
        assert len({tuple(neurons) for neurons in forwards.values()}) == len(asked)

    @pytest.mark.parametrize("count", [9, 10, 50])
    def test_who_asks_cannot_change_what_others_get(self, count):
        neurons = sampled_neurons(0, 0, "block0.x", 10, count)
        before = neurons.tolist()
        if neurons.flags.writeable:
            neurons[0] = 99
        after = sampled_neurons(0, 0, "block0.x", 10, count).tolist()
        forget()
        assert after == before

    def test_every_neuron_is_as_likely_as_another(self):
        """4000 samples of 8 of 32: each is in about 1000, give or take 5 standard deviations of sqrt(4000/4*3/4) = 27."""
        chosen = np.concatenate([sampled_neurons(0, sample, "block0.x", 32, 8) for sample in range(4000)])
        counts = np.bincount(chosen, minlength=32)
        assert np.abs(counts - 1000).max() < 5 * 27.4


class TestSameWeightsElsewhere:
    def test_sharded(self, folder, tmp_path):
        for shards in (2, 5):
            sharded = write_checkpoint(tmp_path / f"sharded{shards}", tensors_of(), shards=shards)
            same_network(network_of(sharded), network_of(folder))

    def test_bfloat16_is_float32_of_the_same_values(self, tmp_path):
        tensors = tensors_of(dtype=np.float32)
        rounded = {name: from_bf16(to_bf16(array)) for name, array in tensors.items()}
        one = write_bf16(tmp_path / "bf16", tensors)
        two = write_checkpoint(tmp_path / "f32", rounded, tensors.config)
        same_network(network_of(one), network_of(two))
        compare_with_naive(network_of(one), rounded, 3, 150.0)

    def test_float16_is_float32_of_the_same_values(self, folder, tmp_path):
        wide = {name: array.astype(np.float32) for name, array in tensors_of().items()}
        same_network(network_of(write_checkpoint(tmp_path / "f32", wide, tensors_of().config)), network_of(folder))

    def test_float64_is_float32_of_the_same_values(self, folder, tmp_path):
        wide = {name: array.astype(np.float64) for name, array in tensors_of().items()}
        network = network_of(write_checkpoint(tmp_path / "f64", wide, tensors_of().config))
        assert network.matrix.dtype == np.float64
        np.testing.assert_array_equal(network.matrix.toarray(), network_of(folder).matrix.toarray())

    def test_types_may_differ_between_tensors(self, folder, tmp_path):
        tensors = tensors_of()
        kinds = itertools.cycle([np.float16, np.float32, np.float64])
        mixed = {name: array.astype(next(kinds)) for name, array in tensors.items()}
        network = network_of(write_checkpoint(tmp_path / "mixed", mixed, tensors.config))
        np.testing.assert_array_equal(network.matrix.toarray(), network_of(folder).matrix.toarray())

    def test_the_order_of_tensors_in_the_file(self, folder, tmp_path):
        tensors = tensors_of()
        turned = dict(reversed(tensors.items()))
        same_network(network_of(write_checkpoint(tmp_path / "turned", turned, tensors.config)), network_of(folder))

    def test_any_number_of_workers(self, tmp_path):
        suite = write_suite(tmp_path / "tiny", range(6), blocks=BLOCKS, width=WIDTH, heads=HEADS)
        runs = [ninscope.measure_all(str(suite), workers=n, nodes_per_layer=16, samples=2) for n in (1, 4)]
        for one, many in zip(*runs, strict=True):
            assert (one.revision, one.spectrum.edges) == (many.revision, many.spectrum.edges)
            assert one.spectrum.tau.tobytes() == many.spectrum.tau.tobytes()
            assert one.emergence == many.emergence
