"""What is kept of each weight matrix is what its weights say, and null models tell structure from their distribution."""

import pickle
from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from suites import from_bf16, neox_tensors, to_bf16, used_names, write_bf16, write_checkpoint

from ninscope.checkpoints.source import open_source
from ninscope.exact import bands
from ninscope.exact.blocks import block_tally
from ninscope.exact.norms import matrix_norms
from ninscope.exact.null_models import NULLS, MatrixBins, null_spectrum, with_norms
from ninscope.exact.whole import analyse_piece, combine, exact_analysis
from ninscope.networks.bin_table import bin_table
from ninscope.networks.neuron_network import neuron_network
from ninscope.networks.radii import IntegerRadii, LogRadii
from ninscope.networks.transfer import TRANSFERS
from ninscope.parameters import Parameters

pytestmark = pytest.mark.filterwarnings("error")

SHAPE = {"blocks": 2, "width": 24, "heads": 3}
FLOATS = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
TYPES = [*FLOATS, "BF16"]
CURVES = ("tau", "alpha", "f", "r2")
RANDOM = ("shuffled", "gaussian", "column_norms", "row_norms")
FUSED = "gpt_neox.layers.0.attention.query_key_value.weight"
DENSE = "gpt_neox.layers.0.attention.dense.weight"


def stored(values, dtype):
    """(bits as a checkpoint holds them, the float64 they stand for)"""
    if dtype == "BF16":
        bits = to_bf16(values)
        return bits, from_bf16(bits).astype(np.float64)
    typed = np.ascontiguousarray(values, FLOATS[dtype])
    return typed.view(f"u{typed.itemsize}"), typed.astype(np.float64)


def opened(folder):
    checkpoint = open_source(folder).open(folder.name)
    return neuron_network(checkpoint)


def analysed(folder, workers=1, matrices=True, **parameters):
    parameters = Parameters("all", **parameters)
    network = opened(folder)
    analysis = exact_analysis(network, parameters, workers, matrices)
    if matrices:  # as the null models that keep norms need them
        analysis = replace(analysis, matrices=with_norms(analysis.matrices, matrix_norms(network)))
    return analysis, parameters


def null_of(found, null, **drawn):
    analysis, parameters = found
    return null_spectrum(null, analysis.matrices, analysis.radii, parameters, **drawn)


def bits_of(spectrum):
    return [getattr(spectrum, name).tobytes() for name in CURVES] + [spectrum.nodes, spectrum.edges]


def matrices_bits(matrices):
    return [(*astuple(replace(matrix, totals=None, norms=None)), matrix.totals.tolist()) for matrix in matrices]


def float_checkpoint(place, changed=None, dtype=np.float32, **shape):
    """A Gaussian checkpoint (SHAPE unless told), its weights changed by a function of (name, float64 weights)."""
    tensors = neox_tensors(**(SHAPE | shape), seed=4, dtype=np.float64)
    for name in used_names(tensors):
        values = tensors[name] if changed is None else changed(name, tensors[name])
        tensors[name] = np.ascontiguousarray(values, dtype)
    typed = {name: array.astype(dtype) for name, array in tensors.items()}
    return write_checkpoint(place / "step0", typed, tensors.config)


def parts_of(fused, heads):
    """q, k and v of a fused query_key_value [head, (q|k|v), head_dim], each [width, width]."""
    by_head = fused.reshape(heads, 3, -1, fused.shape[1])
    return {name: by_head[:, part].reshape(-1, fused.shape[1]) for part, name in enumerate("qkv")}


def plain_matrices(tensors, blocks, heads):
    """Every weight matrix by the layers it connects, in the order of the network."""
    found = {}
    for number in range(blocks):
        of, after = f"block{number}.", f"block{number + 1}.x" if number + 1 < blocks else "output.x"
        name = f"gpt_neox.layers.{number}."
        for part, values in parts_of(tensors[f"{name}attention.query_key_value.weight"], heads).items():
            found[f"{of}x -> {of}{part}"] = values
        found[f"{of}c -> {of}a"] = tensors[f"{name}attention.dense.weight"]
        found[f"{of}a -> {of}m"] = tensors[f"{name}mlp.dense_h_to_4h.weight"]
        found[f"{of}m -> {after}"] = tensors[f"{name}mlp.dense_4h_to_h.weight"]
    return found


def plain_totals(weights, radii):
    """Weights per bin, then those that are no edges, one weight at a time; LogRadii as its own bins say."""
    totals = [0] * (radii.count + 2)
    for weight in weights.ravel().tolist():
        distance = 1 / abs(weight) if weight else np.inf
        if isinstance(radii, LogRadii):
            place = int(radii.bins(np.array([weight]))[0])
        elif not 1 < distance <= radii.max_distance:
            place = -1
        elif radii.transfer == "reciprocal":
            place = round(distance)
        elif radii.transfer == "coth":
            place = min(round(float(1 / np.tanh(abs(weight)))), radii.count)
        else:
            place = min(round(-np.log(abs(weight)) * radii.count / np.log(radii.max_distance)), radii.count)
        totals[place] += 1
    return totals


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(1, 2), (7, 9), (1, 300), (300, 1), (40, 64), (13, 9001)])
@pytest.mark.parametrize("offset", [0.0, 0.05])
def test_std_is_that_of_the_stored_weights(rng, dtype, shape, offset):
    bits, weights = stored(rng.normal(offset, 0.05, shape), dtype)
    tally = block_tally("a", "b", bits, dtype, bin_table(dtype, IntegerRadii()))
    assert tally.std == pytest.approx(weights.std(), rel=1e-12)
    assert (tally.rows, tally.columns, tally.totals.sum()) == (*shape, weights.size)


@given(st.sampled_from(TYPES), st.floats(1e-4, 2.0), st.integers(1, 40), st.integers(1, 40))
def test_std_of_weights_that_are_all_alike_is_0(dtype, value, rows, columns):
    bits, _ = stored(np.full((rows, columns), value), dtype)
    assert block_tally("a", "b", bits, dtype, bin_table(dtype, IntegerRadii())).std == 0


@given(
    st.sampled_from(TYPES),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 30), max_size=4),
    st.sampled_from([3, 9001]),
)
def test_tallies_of_any_bands_in_any_order_add_to_the_same_bits(dtype, seed, cuts, columns):
    generator = np.random.default_rng(seed)
    bits, _ = stored(generator.normal(0, 0.1, (30, columns)), dtype)
    table = bin_table(dtype, IntegerRadii())
    whole = block_tally("a", "b", bits, dtype, table)
    found = [block_tally("a", "b", part, dtype, table) for part in np.split(bits, sorted(cuts)) if part.size]
    generator.shuffle(found)
    added = sum(found[1:], start=found[0])
    assert (added.std, added.rows, added.totals.tolist()) == (whole.std, whole.rows, whole.totals.tolist())


@pytest.mark.parametrize(
    ("dtype", "asked"),
    [
        *(zip(TYPES, ({"transfer": name} for name in TRANSFERS), strict=False)),
        ("BF16", {"max_distance": 20.6}),
        ("F16", {"radii": {"log": 30}}),
        ("F32", {"radii": {"log": 30}}),
    ],
)
def test_every_matrix_is_counted_as_it_is(tmp_path, dtype, asked):
    tensors = neox_tensors(**SHAPE, seed=4, dtype=np.float32)
    tensors[DENSE][2, :5] = [0.0, -0.0, 1.0, -2.5, 1 / 150]
    known = {name: stored(array, dtype)[1] for name, array in tensors.items()}
    if dtype == "BF16":
        folder = write_bf16(tmp_path / "step0", tensors)
    else:
        typed = {name: array.astype(FLOATS[dtype]) for name, array in tensors.items()}
        folder = write_checkpoint(tmp_path / "step0", typed, tensors.config)
    analysis, _ = analysed(folder, **asked)
    expected = plain_matrices(known, SHAPE["blocks"], SHAPE["heads"])
    assert [matrix.name for matrix in analysis.matrices] == list(expected)
    for matrix, weights in zip(analysis.matrices, expected.values(), strict=True):
        assert (matrix.rows, matrix.columns) == weights.shape
        assert matrix.std == pytest.approx(weights.std(), rel=1e-12)
        assert (matrix.totals.dtype, matrix.totals.shape) == (np.int64, (analysis.radii.count + 2,))
        assert matrix.totals.tolist() == plain_totals(weights, analysis.radii)
    assert sum(matrix.totals[:-1].sum() for matrix in analysis.matrices) == analysis.edges


def test_query_key_and_value_are_three_matrices(tmp_path):
    """Of q times 3, the matrix of q alone is another one."""

    def scaled(name, values):
        if name != FUSED:
            return values
        parts = values.reshape(SHAPE["heads"], 3, -1, SHAPE["width"])
        return (parts * np.reshape([3, 1, 1], (3, 1, 1))).reshape(values.shape)

    plain, _ = analysed(float_checkpoint(tmp_path / "plain", dtype=np.float64))
    three, _ = analysed(float_checkpoint(tmp_path / "three", scaled, np.float64))
    assert three.matrices[0].name == "block0.x -> block0.q"
    assert three.matrices[0].std == pytest.approx(3 * plain.matrices[0].std, rel=1e-12)
    assert three.matrices[0].totals.tolist() != plain.matrices[0].totals.tolist()
    assert matrices_bits(three.matrices[1:]) == matrices_bits(plain.matrices[1:])


def test_shuffling_and_drawing_stay_within_a_matrix(tmp_path):
    """Weights that count in q alone: every neuron of x keeps its `width` edges, which a wider shuffle would spread unevenly."""

    def only_q(name, values):
        changed = np.zeros_like(values)
        if name == FUSED:
            generator = np.random.default_rng(2)
            parts = changed.reshape(SHAPE["heads"], 3, -1, SHAPE["width"])
            parts[:, 0] = generator.uniform(0.05, 0.5, parts[:, 0].shape)
        return changed

    width = SHAPE["width"]
    for min_degree, nodes in ((width - 1, width), (width, 0)):
        found = analysed(float_checkpoint(tmp_path / str(min_degree), only_q), min_degree=min_degree)
        shuffled = null_of(found, "shuffled")
        assert (shuffled.nodes, shuffled.edges) == (nodes, nodes * width)
    found = analysed(float_checkpoint(tmp_path / "any", only_q), min_degree=0)
    assert width * width / 4 < null_of(found, "gaussian").edges <= width * width


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return float_checkpoint(tmp_path_factory.mktemp("nulls"))


@pytest.mark.parametrize("asked", [{}, {"radii": {"log": 40}}])
def test_no_split_changes_a_bit(folder, monkeypatch, asked):
    reference, _ = analysed(folder, **asked)
    plain, _ = analysed(folder, matrices=False, **asked)
    assert plain.matrices == ()
    assert bits_of(plain.spectrum) == bits_of(reference.spectrum)
    kept = matrices_bits(reference.matrices)
    for band_bytes, workers in ((1, 5), (3000, 1), (10**9, 5)):
        monkeypatch.setattr(bands, "BAND_BYTES", band_bytes)
        found, _ = analysed(folder, workers, **asked)
        assert matrices_bits(found.matrices) == kept
        assert bits_of(found.spectrum) == bits_of(reference.spectrum)


@pytest.mark.parametrize("count", [1, 3, 60])
def test_no_pieces_change_a_bit(folder, rng, count):
    """Pieces from many processes, in any order."""
    reference, parameters = analysed(folder)
    network, found = opened(folder), []
    for number in rng.permutation(count).tolist():
        (piece,) = analyse_piece(network, parameters, reference.radii, number, count, matrices=True)
        found.append(pickle.loads(pickle.dumps(piece)))
    together = combine(found, network, parameters, reference.radii)
    assert matrices_bits(together.matrices) == matrices_bits(reference.matrices)
    assert bits_of(together.spectrum) == bits_of(reference.spectrum)


@pytest.mark.parametrize("asked", [{}, {"transfer": "neg_log"}, {"transfer": "coth", "max_distance": 60.0}])
def test_a_gaussian_network_is_its_own_null(tmp_path, asked):
    """To some percent, which is what chance leaves at width 96."""
    found = analysed(float_checkpoint(tmp_path, width=96, heads=4), **asked)
    exact = found[0].spectrum
    for null in RANDOM:
        for sample in range(3):
            spectrum = null_of(found, null, sample=sample)
            assert spectrum.alpha0 == pytest.approx(exact.alpha0, rel=0.04 if null.endswith("norms") else 0.02)
            assert spectrum.width == pytest.approx(exact.width, rel=0.15 if null.endswith("norms") else 0.1)
            assert spectrum.nodes == exact.nodes
            assert spectrum.edges == pytest.approx(exact.edges, rel=0.005)
            assert spectrum.edges == found[0].edges or null != "shuffled"


def planted(name, values):
    """Half of the columns fourteen times smaller."""
    return values * np.where(np.arange(values.shape[1]) % 2, 1.4, 0.1)


def really(null, generator):
    """A function for float_checkpoint that makes the null itself of every planted matrix."""

    def of_matrix(weights):
        if null == "shuffled":
            return generator.permutation(weights.ravel()).reshape(weights.shape)
        if null.endswith("norms"):
            axis = 0 if null == "column_norms" else 1
            drawn = generator.normal(size=weights.shape)
            return (
                drawn
                * np.linalg.norm(weights, axis=axis, keepdims=True)
                / np.linalg.norm(drawn, axis=axis, keepdims=True)
            )
        return generator.normal(0, weights.std(), weights.shape)

    def changed(name, values):
        values = planted(name, values)
        if "query_key_value" not in name:
            return of_matrix(values)
        parts = values.reshape(4, 3, -1, values.shape[1])
        new = [of_matrix(parts[:, part].reshape(-1, values.shape[1])) for part in range(3)]
        return np.stack([part.reshape(4, -1, values.shape[1]) for part in new], axis=1).reshape(values.shape)

    return changed


@pytest.mark.parametrize(
    ("null", "asked"),
    [
        ("shuffled", {}),
        ("gaussian", {"radii": {"log": 40}, "min_degree": 0}),
        ("column_norms", {}),
        ("row_norms", {"radii": {"log": 40}}),
    ],
)
def test_nulls_are_checkpoints_that_were_shuffled_or_drawn(tmp_path, rng, null, asked):
    """Means over 12 of each within 5 standard errors, on the radii of the planted network."""
    shape = {"width": 48, "heads": 4}
    found = analysed(float_checkpoint(tmp_path / "planted", planted, **shape), **asked)
    analysis, parameters = found
    drawn, made = [], []
    for sample in range(12):
        spectrum = null_of(found, null, sample=sample)
        network = opened(float_checkpoint(tmp_path / str(sample), really(null, rng), **shape))
        (piece,) = analyse_piece(network, parameters, analysis.radii)
        other = combine([piece], network, parameters, analysis.radii).spectrum
        for values, of in ((drawn, spectrum), (made, other)):
            values.append([of.alpha0, of.width, of.tau[0], of.tau[-1], of.f.min(), of.edges])
    error = np.sqrt((np.var(drawn, axis=0, ddof=1) + np.var(made, axis=0, ddof=1)) / 12)
    np.testing.assert_array_less(np.abs(np.mean(drawn, axis=0) - np.mean(made, axis=0)), 5 * error + 1e-4)


def test_structure_is_what_shuffling_takes_away(tmp_path):
    """The planted network is wide against its own weights in random places; once these are shuffled, it is not."""
    found = analysed(float_checkpoint(tmp_path / "planted", planted, width=96, heads=4))
    again = analysed(
        float_checkpoint(tmp_path / "shuffled", really("shuffled", np.random.default_rng(3)), width=96, heads=4)
    )
    for sample in range(2):
        assert found[0].spectrum.width > 3 * null_of(found, "shuffled", sample=sample).width
        # The planted columns differ in their norms alone.
        assert found[0].spectrum.width == pytest.approx(null_of(found, "column_norms", sample=sample).width, rel=0.1)
        assert found[0].spectrum.width > 3 * null_of(found, "row_norms", sample=sample).width
        assert again[0].spectrum.width == pytest.approx(null_of(again, "shuffled", sample=sample).width, rel=0.15)
        assert again[0].spectrum.alpha0 == pytest.approx(null_of(again, "shuffled", sample=sample).alpha0, rel=0.01)


def test_the_analytic_null_knows_no_chance(tmp_path):
    """The same for any seed; beside drawn Gaussians it lacks what chance adds, the less the larger the layers are."""
    gap = {}
    for width in (48, 384):
        found = analysed(float_checkpoint(tmp_path / str(width), blocks=1, width=width, heads=4))
        analytic = null_of(found, "analytic")
        assert bits_of(analytic) == bits_of(null_of(found, "analytic", seed=7, sample=3))
        drawn = [null_of(found, "gaussian", sample=sample) for sample in range(3)]
        mean = np.mean([[spectrum.alpha0, spectrum.width] for spectrum in drawn], axis=0)
        gap[width] = np.abs(np.array([analytic.alpha0, analytic.width]) / mean - 1)
    assert (gap[384] < gap[48]).all()
    np.testing.assert_array_less(gap[384], [0.01, 0.08])


def test_seeds_and_samples_and_names_are_other_draws(folder):
    found = analysed(folder)
    for null in RANDOM:
        drawn = [(0, 0), (0, 1), (1, 0), (1, 1)]
        first = [bits_of(null_of(found, null, seed=seed, sample=sample)) for seed, sample in drawn]
        again = [bits_of(null_of(found, null, seed=seed, sample=sample)) for seed, sample in drawn]
        assert first == again
        assert all(one != other for at, one in enumerate(first) for other in first[:at])
        assert bits_of(null_of(found, null)) == first[0]
    matrix, radii = found[0].matrices[-1], found[0].radii
    renamed = MatrixBins("a", "b", matrix.rows, matrix.columns, matrix.std, matrix.totals, norms=matrix.norms)
    for null in RANDOM:
        one, other = (null_spectrum(null, [kept], radii, found[1]) for kept in (matrix, renamed))
        assert bits_of(one) != bits_of(other)


def test_of_one_node_layer_all_matrices_count_together(folder):
    """A neuron of x has its edges to q, k and v: with more than any one of these three has rows, it still counts."""
    analysis, parameters = analysed(folder, min_degree=SHAPE["width"])
    of_x = [matrix for matrix in analysis.matrices if matrix.source == "block0.x"]
    assert len(of_x) == 3
    for null in NULLS:
        assert null_spectrum(null, of_x, analysis.radii, parameters).nodes == SHAPE["width"]
        assert null_spectrum(null, of_x[:1], analysis.radii, parameters).nodes == 0


def test_the_derivative_and_q_are_those_asked_for(folder):
    q = np.array([-1.0, 0.0, 0.5, 2.0])
    found = analysed(folder, q=q)
    forward = analysed(folder, q=q, derivative="forward")
    for null in NULLS:
        one, other = null_of(found, null), null_of(forward, null)
        assert one.q.tolist() == q.tolist()
        assert one.tau.tobytes() == other.tau.tobytes()
        np.testing.assert_allclose(other.alpha, np.diff(one.tau) / np.diff(q), rtol=1e-12)


@pytest.mark.parametrize("null", NULLS)
def test_a_layer_where_nothing_counts_adds_nothing(tmp_path, null):
    """attention.dense zero: c has no edges under any null; the others are as they were."""
    silent = analysed(float_checkpoint(tmp_path, lambda name, values: values * (name != DENSE)))
    (matrix,) = (matrix for matrix in silent[0].matrices if matrix.source == "block0.c")
    assert (matrix.std, matrix.totals[-1]) == (0.0, matrix.rows * matrix.columns)
    spectrum = null_of(silent, null)
    assert spectrum.nodes == silent[0].spectrum.nodes == 2 * 7 * SHAPE["width"] - SHAPE["width"]
    others = [matrix for matrix in silent[0].matrices if matrix.source != "block0.c"]
    assert bits_of(null_spectrum(null, others, silent[0].radii, silent[1])) == bits_of(spectrum)


@pytest.mark.parametrize("null", NULLS)
def test_where_nothing_counts_at_all_it_is_said(tmp_path, null):
    zeros = analysed(float_checkpoint(tmp_path / "zeros", lambda name, values: 0 * values))
    small = analysed(float_checkpoint(tmp_path / "small", lambda name, values: 1e-5 * values))
    few = analysed(float_checkpoint(tmp_path / "few"), min_degree=10**6)
    for found in (zeros, small, few):
        spectrum = null_of(found, null)
        assert (spectrum.nodes, spectrum.edges) == (0, 0)
        assert np.isnan([spectrum.alpha0, spectrum.width, *spectrum.tau]).all()
        assert "no node has enough edges" in spectrum.message


@pytest.mark.parametrize("power", [-400, -3, 40, 400])
def test_on_logarithmic_radii_no_null_knows_a_scale(tmp_path, power):
    asked = {"radii": {"log": 30}}
    plain = analysed(float_checkpoint(tmp_path / "plain", dtype=np.float64), **asked)
    scaled = analysed(float_checkpoint(tmp_path / "scaled", lambda _, w: np.ldexp(w, power), np.float64), **asked)
    for null in NULLS:
        assert bits_of(null_of(plain, null)) == bits_of(null_of(scaled, null))


@pytest.mark.parametrize("null", ["noise", "", "Shuffled"])
def test_an_unknown_null_is_refused(folder, null):
    with pytest.raises(ValueError, match=f"unknown null model '{null}'; one of shuffled, gaussian, analytic"):
        null_of(analysed(folder), null)


def test_norms_are_needed_where_they_are_kept(folder):
    analysis, parameters = analysed(folder)
    bare = [replace(matrix, norms=None) for matrix in analysis.matrices]
    for null in ("column_norms", "row_norms"):
        with pytest.raises(
            ValueError, match=f"the null model {null} needs the norms of every matrix; add them by with_norms"
        ):
            null_spectrum(null, bare, analysis.radii, parameters)


def test_every_null_says_what_it_keeps():
    told = [null.keeps for null in NULLS.values()]
    assert all(told)
    assert len(set(told)) == len(told)
