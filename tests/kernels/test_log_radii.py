"""Logarithmic radii: bins by look-up are those of arithmetic, the spectrum is the naive twin's and knows no scale."""

import math

import naive
import naive_nodes
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from modes import JIT
from suites import (
    FLOATS,
    neox_tensors,
    offsets_of,
    to_bf16,
    used_names,
    written,
)

import ninscope
from ninscope.errors import CheckpointError, RequestError
from ninscope.multifractal.boxes import column_histogram
from ninscope.networks.bin_table import bin_table, magnitude_range
from ninscope.networks.radii import LogRadii, log_radii
from ninscope.networks.transfer import UNCOUNTED

PATTERN = {"F16": np.uint16, "BF16": np.uint16, "F32": np.uint32, "F64": np.uint64}
INFINITY = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F800000, "F64": 0x7FF0000000000000}
SMALLEST = {"F16": 2.0**-24, "BF16": 2.0**-133, "F32": 2.0**-149, "F64": 2.0**-1074}
CURVES = ("tau", "alpha", "f")
SHAPE = (2, 12, 3)
DOWN = "gpt_neox.layers.1.mlp.dense_4h_to_h.weight"
Q = [-3.0, -1.1, 0.0, 0.7, 1.0, 3.0]

GRIDS = [
    LogRadii(150, 1e-3, 2.0),
    LogRadii(2, 0.01, 0.5),
    LogRadii(40, 0.25, 0.3),
    LogRadii(300, 2.0**-24, 65504.0),  # bins that need 16 bits
    LogRadii(20, 0.1, 0.1),
]


def as_floats(bits, dtype):
    """The numbers with these bits, float64."""
    if dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return bits.view(FLOATS[dtype]).astype(np.float64)


def looked_up(bits, table):
    """The bin of each pattern, from the counts of one column each."""
    found = []
    for part in np.array_split(bits, bits.size * table.width // 20_000_000 + 1):
        counts = np.zeros((part.size, table.width), np.int32)
        column_histogram(part.reshape(1, -1), table, counts, np.zeros(part.size, np.int64))
        assert (counts.sum(axis=1) == 1).all()
        found += counts.argmax(axis=1).tolist()
    return found


def expected_bins(weights, radii):
    """LogRadii.bins, with the two extra bins of a table, of float64 weights."""
    bins = radii.bins(np.where(np.isfinite(weights), weights, 0.0)).astype(np.int64)
    bins = np.where(bins == UNCOUNTED, radii.count + 1, bins)
    return np.where(np.isfinite(weights), bins, radii.count + 2).tolist()


def drawn(seed, shape=SHAPE, zeros=0.1):
    """Normal weights, of another deviation in each tensor, a part of them 0."""
    tensors = neox_tensors(*shape, seed=0, dtype=np.float64)
    generator = np.random.default_rng(seed)
    for name in used_names(tensors):
        values = generator.normal(0, generator.choice([0.004, 0.1, 2.0]), tensors[name].shape)
        tensors[name] = np.where(generator.random(values.shape) < zeros, 0.0, values)
    return tensors


def outgoing_weights(stored, shape):
    blocks, width, heads = shape
    sizes = {"m": 4 * width}
    return naive.gpt_neox_edges(stored, blocks, width, heads, lambda block, name: np.arange(sizes.get(name, width)))


def same_bits(first, second):
    return all(getattr(first, name).tobytes() == getattr(second, name).tobytes() for name in (*CURVES, "r2"))


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.parametrize("radii", GRIDS, ids=str)
@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_16_bit_pattern(dtype, radii):
    bits = np.arange(65536, dtype=np.uint16)
    assert looked_up(bits, bin_table(dtype, radii)) == expected_bins(as_floats(bits, dtype), radii)


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.parametrize("radii", [*GRIDS, LogRadii(10_000, 1e-30, 1e30)], ids=str)
@pytest.mark.parametrize("dtype", ["F32", "F64"])
def test_every_edge_of_wide_types(dtype, radii):
    """Three patterns either side of every place where the bin changes, of 0 and of infinity, and a NaN of each sign."""
    table = bin_table(dtype, radii)
    starts = table.starts[:-1] if radii.count < 1000 else table.starts[[0, 1, 2, 500, 5000, 9000, -3, -2]]
    near = np.concatenate([starts + PATTERN[dtype](step) for step in range(4)])
    near = np.concatenate([near, *(starts[1:] - PATTERN[dtype](step) for step in range(1, 4))])
    near = near[near > 0]
    near = np.concatenate([near, near | ~table.magnitude])
    assert looked_up(near, table) == expected_bins(as_floats(near, dtype), radii)
    # Magnitudes fall, radii grow, none is left out and none comes twice.
    finite = table.bins[1:-1] if radii.smallest_weight < radii.largest_weight else np.array([1])
    assert finite.tolist() == list(range(finite[0], finite[-1] - 1, -1))
    assert (finite[0], finite[-1]) == (radii.count if finite.size > 1 else 1, 1)


@pytest.mark.parametrize("power", [-300, -1, 7, 300])
def test_a_power_of_two_moves_no_edge_of_a_bin(power):
    """Of the patterns at which the bin changes, where a rounding error more would show."""
    for radii in (GRIDS[0], GRIDS[3], LogRadii(777, 0.0123, 4.56)):
        starts = bin_table("F64", radii).starts[2:-2]
        near = np.concatenate([starts - np.uint64(1), starts]).view(np.float64)
        scaled = LogRadii(radii.count, *np.ldexp([radii.smallest_weight, radii.largest_weight], power).tolist())
        np.testing.assert_array_equal(scaled.bins(np.ldexp(near, power)), radii.bins(near))


@pytest.mark.parametrize("dtype", ["F32", "F64"])
def test_zeros_of_wide_types_are_no_edges(dtype):
    """Of either sign, beside numbers; and no distance is summed, which nothing bounds."""
    table = bin_table(dtype, GRIDS[0])
    bits = np.array([[0.0], [-0.0], [0.5], [-0.5]], FLOATS[dtype]).view(PATTERN[dtype])
    counts, distances = np.zeros((1, table.width), np.int32), np.zeros(1, np.int64)
    column_histogram(bits, table, counts, distances)
    assert counts[0, table.uncounted] == 2
    assert counts[0, : table.uncounted].sum() == 2
    assert distances[0] == 0


@given(
    st.sampled_from(list(PATTERN)),
    st.integers(0, 2**32 - 1),
    st.sampled_from([2, 3, 37, 250, 1000]),
    st.sampled_from([1.0, 8.0]),
)
def test_random_patterns_go_to_the_nearest_radius(dtype, seed, count, decades):
    """Against LogRadii.bins bit for bit, and against the naive twin wherever no rounding decides."""
    generator = np.random.default_rng(seed)
    weights = np.concatenate([generator.normal(0, 0.05, 20), 10.0 ** generator.uniform(-decades, 0.5, 20)])
    bits = to_bf16(weights) if dtype == "BF16" else weights.astype(FLOATS[dtype]).view(PATTERN[dtype])
    stored = as_floats(bits, dtype)
    assume((stored != 0).any())
    radii = log_radii(count, np.abs(stored))
    found = looked_up(bits, bin_table(dtype, radii))
    assert found == expected_bins(stored, radii)
    grid = naive_nodes.logarithmic_grid([stored], count)
    assume(len(grid) == count)
    np.testing.assert_allclose(radii.logarithms[1:], np.array(list(grid.values())) - grid[1], rtol=1e-12, atol=1e-12)
    for weight, number in zip(stored.tolist(), found, strict=True):
        if weight != 0 and naive_nodes.closest_call([[weight]], grid) > 1e-9:
            ((_, expected),) = naive_nodes.logarithmic_edges([weight], grid)
            assert number == expected


@settings(max_examples=25 if JIT else 6)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(1, 6, 2), (1, 11, 1), (2, 8, 2)]),
    st.sampled_from(list(PATTERN)),
    st.sampled_from([2, 5, 31]),
    st.sampled_from([10, 0, 3]),
)
def test_equals_the_naive_twin(tmp_path_factory, seed, shape, dtype, count, min_degree):
    folder, stored = written(tmp_path_factory.mktemp("log") / "step0", drawn(seed, shape), dtype)
    layers = outgoing_weights(stored, shape)
    every = [node for layer in layers for node in layer]
    grid = naive_nodes.logarithmic_grid(every, count)
    assume(naive_nodes.closest_call(every, grid) > 1e-9)
    given = {"radii": {"log": count}, "q": Q, "min_degree": min_degree}
    found = ninscope.measure(folder, exact=True, per_node=True, **given)
    layers = [[naive_nodes.logarithmic_edges(node, grid) for node in layer] for layer in layers]
    expected = naive_nodes.spectrum([node for layer in layers for node in layer], grid, Q, min_degree)
    assert (found.samples[0].nodes, found.samples[0].edges) == (expected["nodes"], expected["edges"])
    assert found.edges == sum((node != 0).sum() for node in every)
    for name in CURVES:
        np.testing.assert_allclose(getattr(found, name), expected[name], rtol=1e-9, atol=1e-10)
    assert found.width == pytest.approx(expected["width"], rel=1e-9, abs=1e-10, nan_ok=True)
    for layer, nodes in zip(found.layers, layers, strict=True):
        values, plain = found.nodes_of[layer.layer], naive_nodes.layer(nodes, grid, min_degree)
        assert values.edges.tolist() == plain["edges"]
        assert layer.nodes_counted == plain["nodes_counted"]
        # Nothing bounds a distance here: a mean would be that of the few longest, so none is given.
        assert np.isnan([*values.degree, layer.mean, layer.std, layer.kurtosis]).all()
        np.testing.assert_allclose(values.dimension, plain["dimension"], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(values.r2, plain["r2"], rtol=1e-9)
        for name in ("dimension_mean", "dimension_std", "r2_mass_mean", "r2_mass_std"):
            np.testing.assert_allclose(getattr(layer, name), plain[name], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", list(PATTERN))
@pytest.mark.parametrize("count", [3, 64])
def test_equals_sampling_every_neuron(tmp_path, dtype, count):
    folder, _ = written(tmp_path / "step0", drawn(4), dtype)
    whole = ninscope.measure(folder, exact=True, radii={"log": count}, q=Q)
    sampled = ninscope.measure(folder, nodes_per_layer=10**5, samples=1, radii={"log": count}, q=Q)
    assert (whole.nodes, whole.edges) == (sampled.nodes, sampled.edges)
    for name in CURVES:
        np.testing.assert_allclose(getattr(whole, name), getattr(sampled, name), rtol=1e-12, atol=1e-12)
    for name in ("alpha0", "width", "r2_mass_mean"):
        assert getattr(whole, name) == pytest.approx(getattr(sampled, name), rel=1e-12)


POWERS = [("F32", -3), ("F32", 2), ("F32", 5), ("F32", 40), ("BF16", 5), ("F64", 400), ("F64", -400), ("F64", -1000)]


@pytest.mark.parametrize(("dtype", "power"), POWERS)
def test_a_power_of_two_changes_no_bit(tmp_path, dtype, power):
    """Nor does a minus sign."""
    tensors = drawn(7)
    folder, stored = written(tmp_path / "plain", tensors, dtype)
    scaled = type(tensors)({name: -np.ldexp(array, power) for name, array in stored.items()}, tensors.config)
    again, found = written(tmp_path / "scaled", scaled, dtype)
    assert all((found[name] == scaled[name]).all() for name in used_names(stored))
    given = {"exact": True, "per_node": True, "radii": {"log": 50}, "q": Q}
    one, other = ninscope.measure(folder, **given), ninscope.measure(again, **given)
    assert same_bits(one.samples[0], other.samples[0])
    for layer, values in one.nodes_of.items():
        for name in ("edges", "dimension", "r2"):
            assert getattr(values, name).tobytes() == getattr(other.nodes_of[layer], name).tobytes()


def test_any_other_factor_changes_rounding_errors_only(tmp_path, rng):
    """Times 1.7: no distance of these weights is so near the middle between two radii that a rounding error moves it."""
    tensors = drawn(8, zeros=0)
    scaled = type(tensors)({name: 1.7 * array for name, array in tensors.items()}, tensors.config)
    first, stored = written(tmp_path / "plain", tensors, "F64")
    second, other = written(tmp_path / "scaled", scaled, "F64")
    for weights in (stored, other):
        every = [node for layer in outgoing_weights(weights, SHAPE) for node in layer]
        assert naive_nodes.closest_call(every, naive_nodes.logarithmic_grid(every, 50)) > 1e-12
    one, two = (ninscope.measure(folder, exact=True, radii={"log": 50}, q=Q) for folder in (first, second))
    assert (one.samples[0].nodes, one.edges) == (two.samples[0].nodes, two.edges)
    for name in CURVES:
        np.testing.assert_allclose(getattr(two, name), getattr(one, name), rtol=1e-9, atol=1e-12)


def test_more_than_300_decades_end_at_the_last_radius(tmp_path):
    """What is smaller belongs to the last radius, 1e300 times the first."""
    within = drawn(9, zeros=0)
    beyond = type(within)(within, within.config)
    within[DOWN][3, 40] = max(np.abs(within[name]).max() for name in used_names(within)) * 1e-300
    beyond[DOWN] = np.where(within[DOWN] == within[DOWN][3, 40], 1e-307, within[DOWN])
    given = {"exact": True, "radii": {"log": 50}, "q": Q}
    first, second = (
        ninscope.measure(written(tmp_path / name, tensors, "F64")[0], **given)
        for name, tensors in (("within", within), ("beyond", beyond))
    )
    assert not np.isnan(first.alpha0)
    assert same_bits(first.samples[0], second.samples[0])


@pytest.mark.parametrize(("magnitude", "message"), [(0.3, "share 1 radius"), (0.0, "no node has enough edges")])
@pytest.mark.parametrize("dtype", list(PATTERN))
def test_without_a_slope_it_is_said_so(tmp_path, rng, dtype, magnitude, message):
    tensors = neox_tensors(*SHAPE, seed=0, dtype=np.float64)
    for name in used_names(tensors):
        tensors[name] = rng.choice([-magnitude, magnitude], tensors[name].shape)
    folder, _ = written(tmp_path / "step0", tensors, dtype)
    whole = ninscope.measure(folder, exact=True, per_node=True, radii={"log": 9})
    sampled = ninscope.measure(folder, nodes_per_layer=10**5, samples=1, radii={"log": 9})
    edges = 2 * 12 * 12 * 12 if magnitude else 0
    for found in (whole, sampled):
        assert found.edges == edges
        assert message in found.message
        assert np.isnan([found.alpha0, found.width, *found.tau, *found.alpha, *found.f]).all()
    for layer, values in zip(whole.layers, whole.nodes_of.values(), strict=True):
        assert layer.nodes_counted == (layer.nodes if magnitude else 0)
        assert np.isnan([*values.degree, *values.r2, layer.mean, layer.dimension_mean, layer.r2_mass_mean]).all()
        np.testing.assert_array_equal(values.dimension, np.nan if magnitude else 0.0)


@pytest.mark.parametrize("dtype", list(PATTERN))
@pytest.mark.parametrize("bad", ["infinity", "minus infinity", "quiet NaN", "signalling NaN"])
def test_nonfinite_weights_are_found_where_they_are(tmp_path, dtype, bad):
    pattern = INFINITY[dtype]
    if bad == "minus infinity":
        pattern |= 1 << (8 * np.dtype(PATTERN[dtype]).itemsize - 1)
    elif bad != "infinity":  # the mantissa's first bit makes it quiet, any other signalling
        pattern |= pattern >> 1 if bad == "quiet NaN" else 1
    folder, _ = written(tmp_path / "step0", drawn(4), dtype)
    content = bytearray((folder / "model.safetensors").read_bytes())
    start = offsets_of(bytes(content))[DOWN][0] + (7 * 48 + 31) * np.dtype(PATTERN[dtype]).itemsize
    mark = np.array([pattern], PATTERN[dtype]).tobytes()
    content[start : start + len(mark)] = mark
    (folder / "model.safetensors").write_bytes(content)
    where = r"layers.1.mlp.dense_4h_to_h.weight holds NaN or infinity, first at row 7, column 31"
    with pytest.raises(CheckpointError, match=where) as caught:
        ninscope.measure(folder, exact=True, radii={"log": 9})
    assert caught.value.status == "nonfinite"


@pytest.mark.parametrize("mode", [{"exact": True}, {"nodes_per_layer": 8, "samples": 1}], ids=["exact", "sampled"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"radii": "integers"}, "radii is 'integers'"),
        ({"radii": "log"}, r'"integer" or \{ log = K \} was expected'),
        ({"radii": 150}, "radii is 150"),
        ({"radii": ["log", 5]}, "radii is"),
        ({"radii": {}}, "radii is {}"),
        ({"radii": {"lin": 3}}, r"radii is \{'lin': 3\}"),
        ({"radii": {"log": 5, "base": 2}}, "radii is"),
        ({"radii": {"log": 1}}, "radii log = 1; an integer from 2 to 10000"),
        ({"radii": {"log": 10_001}}, "radii log = 10001"),
        ({"radii": {"log": 2.5}}, "radii log = 2.5"),
        ({"radii": {"log": 5.0}}, "radii log = 5.0"),
        ({"radii": {"log": True}}, "radii log = True"),
        ({"radii": {"log": "7"}}, "radii log = '7'"),
        ({"radii": {"log": None}}, "radii log = None"),
        ({"radii": {"log": 9}, "transfer": "coth"}, "logarithmic radii go with transfer reciprocal, not coth"),
        ({"radii": {"log": 9}, "transfer": "neg_log"}, "logarithmic radii go with transfer reciprocal, not neg_log"),
    ],
)
def test_wrong_radii_are_refused(tmp_path, given, message, mode):
    """Before anything is read: there is no weight file."""
    with pytest.raises(RequestError, match=message):
        ninscope.measure(tmp_path, **given, **mode)


def test_radii_may_be_named_and_counted_by_numpy(tmp_path):
    folder, _ = written(tmp_path / "step0", drawn(4), "F16")
    one, other = (ninscope.measure(folder, exact=True, q=Q, radii={"log": count}) for count in (9, np.int64(9)))
    assert same_bits(one.samples[0], other.samples[0])
    one, other = (ninscope.measure(folder, exact=True, q=Q, **given) for given in ({}, {"radii": "integer"}))
    assert same_bits(one.samples[0], other.samples[0])


@given(st.sampled_from(list(PATTERN)), st.data())
def test_magnitude_range_is_that_of_the_numbers(dtype, data):
    """Of any patterns that are finite, of either sign, 0 and subnormal ones among them; in any shape."""
    sign_bit = 8 * np.dtype(PATTERN[dtype]).itemsize - 1
    magnitude = st.integers(0, INFINITY[dtype] - 1) | st.sampled_from([0, 1, 2, INFINITY[dtype] - 1])
    negative = st.booleans().map(lambda minus: minus << sign_bit)
    patterns = data.draw(st.lists(st.builds(lambda size, sign: size | sign, magnitude, negative), max_size=12))
    bits = np.array(patterns, dtype=PATTERN[dtype]).reshape(data.draw(st.sampled_from([(-1,), (-1, 1), (1, -1)])))
    present = [abs(number) for number in as_floats(bits.ravel(), dtype).tolist() if number != 0]
    assert magnitude_range(bits, dtype) == ((min(present), max(present)) if present else (0.0, 0.0))


@pytest.mark.parametrize("dtype", list(PATTERN))
@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (3,), (2, 4)])
def test_magnitude_range_of_nothing_and_of_zeros(dtype, shape):
    zeros = np.zeros(shape, PATTERN[dtype])
    assert magnitude_range(zeros, dtype) == (0.0, 0.0)
    minus = zeros | PATTERN[dtype](1 << (8 * zeros.itemsize - 1))
    assert magnitude_range(minus, dtype) == (0.0, 0.0)
    if zeros.size:
        minus.flat[-1] += PATTERN[dtype](1)
        assert magnitude_range(minus, dtype) == (SMALLEST[dtype], SMALLEST[dtype])


@pytest.mark.parametrize("dtype", list(PATTERN))
@pytest.mark.parametrize("beyond", [0, 1])
def test_nan_counts_as_infinity(dtype, beyond):
    smallest, largest = magnitude_range(np.array([1, INFINITY[dtype] + beyond, 0], PATTERN[dtype]), dtype)
    assert smallest == SMALLEST[dtype]
    assert largest == math.inf
