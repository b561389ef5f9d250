"""The exact analysis is the sampled one with every neuron, the naive twin's on the whole network, however it is split."""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suites import neox_tensors, write_bf16, write_checkpoint, write_suite

import ninscope
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError, RequestError
from ninscope.exact import bands
from ninscope.exact.counting import Tally, count_band
from ninscope.exact.whole import exact_analysis
from ninscope.multifractal.boxes import box_histogram
from ninscope.networks.bin_table import bin_table
from ninscope.networks.neuron_network import neuron_network
from ninscope.networks.radii import IntegerRadii
from ninscope.networks.sampled import sampled_network
from ninscope.networks.transfer import TRANSFERS
from ninscope.parameters import Parameters

SHAPE = {"blocks": 2, "width": 24, "heads": 3}
ALL = {"nodes_per_layer": 1000, "samples": 1}
CURVES = ("tau", "alpha", "f")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("exact") / "step0", neox_tensors(**SHAPE, seed=4))


def spectrum_of(folder, workers=1, transfer="reciprocal", min_degree=10):
    checkpoint = open_source(folder).open(folder.name)
    parameters = Parameters("all", transfer=transfer, min_degree=min_degree)
    found = exact_analysis(neuron_network(checkpoint), parameters, workers)
    return found.spectrum, found.nodes, found.edges


def same_bits(first, second):
    return all(getattr(first, name).tobytes() == getattr(second, name).tobytes() for name in (*CURVES, "r2"))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, "bf16"])
@pytest.mark.parametrize("transfer", TRANSFERS)
def test_equals_sampling_every_neuron(tmp_path, dtype, transfer):
    if dtype == "bf16":
        folder = write_bf16(tmp_path / "step0", neox_tensors(**SHAPE, seed=4, dtype=np.float32))
    else:
        folder = write_checkpoint(tmp_path / "step0", neox_tensors(**SHAPE, seed=4, dtype=dtype))
    whole = ninscope.measure(folder, exact=True, transfer=transfer)
    sampled = ninscope.measure(folder, **ALL, transfer=transfer)
    assert whole.method == "exact"
    assert sampled.method == "sampled"
    assert (whole.nodes, whole.edges) == (sampled.nodes, sampled.edges)
    (one,), (other,) = whole.samples, sampled.samples
    assert (one.nodes, one.edges) == (other.nodes, other.edges)
    for name in CURVES:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-12, atol=1e-12)
    assert one.alpha0 == pytest.approx(other.alpha0, rel=1e-12)
    assert one.r2_mass_mean == pytest.approx(other.r2_mass_mean, rel=1e-12)
    assert np.isnan(whole.alpha0_std)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("transfer", TRANSFERS)
def test_counts_are_those_of_sampling_every_neuron_bit_for_bit(tmp_path, dtype, transfer):
    folder = write_checkpoint(tmp_path / "step0", neox_tensors(**SHAPE, seed=4, dtype=dtype))
    checkpoint = open_source(folder).open("step0")
    whole = neuron_network(checkpoint)
    radii = IntegerRadii(transfer)
    network = sampled_network(whole, 1000, 1, 0, radii.max_distance)
    indptr, part = network.row_pointer(0)
    sampled = box_histogram(indptr, radii.bins(network.matrix.data[part]), radii.count)
    firsts = dict(zip(network.layer_names, np.cumsum(network.layer_sizes) - network.layer_sizes, strict=True))
    tallies = {}
    every, _ = bands.bands_of(bands.outgoing(whole))
    reader = bands.BandReader(every)
    for band in every:
        table = bin_table(band.part.matrix.dtype, radii)
        tally = tallies.setdefault(band.part.layer, Tally(band.part.matrix.size[1], table))
        count_band(band, reader.raw(band), table, [tally])
    assert list(tallies) == list(network.sources)
    for layer, tally in tallies.items():
        exact = tally.counts.histogram
        assert (exact == sampled[firsts[layer] : firsts[layer] + len(exact)]).all()
        assert exact.sum() > 0


@settings(max_examples=12)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 6, 2), (2, 12, 3), (1, 15, 1)]), st.sampled_from([0, 5, 10]))
def test_equals_the_naive_twin(tmp_path_factory, seed, shape, min_degree):
    blocks, width, heads = shape
    tensors = neox_tensors(blocks=blocks, width=width, heads=heads, seed=seed)
    folder = write_checkpoint(tmp_path_factory.mktemp("naive") / "step0", tensors)
    sizes = {"m": 4 * width}
    layers = naive.gpt_neox_edges(
        tensors, blocks, width, heads, lambda block, layer: np.arange(sizes.get(layer, width))
    )
    rows = [naive.distances_of(node) for layer in layers for node in layer]
    expected = naive.spectrum(rows, np.arange(-30, 31) / 10, 150.0, min_degree)
    found, nodes, _ = spectrum_of(folder, min_degree=min_degree)
    assert nodes == blocks * (6 * width + 4 * width) + width
    assert (found.nodes, found.edges) == (expected["nodes"], expected["edges"])
    if np.isnan(expected["width"]):
        assert np.isnan(found.width)
        assert found.message
        return
    for name in CURVES:
        np.testing.assert_allclose(getattr(found, name), expected[name], rtol=1e-9, atol=1e-10)


def test_no_split_changes_a_bit(folder, monkeypatch):
    reference, *_ = spectrum_of(folder)
    for band_bytes, workers in ((1, 5), (100, 1), (3000, 2), (10**9, 1), (10**9, 5)):
        monkeypatch.setattr(bands, "BAND_BYTES", band_bytes)
        found, *_ = spectrum_of(folder, workers)
        assert same_bits(found, reference)
        assert (found.nodes, found.edges, found.r2_mass_mean) == (
            reference.nodes,
            reference.edges,
            reference.r2_mass_mean,
        )


def test_sharded_is_single(folder, tmp_path):
    sharded = write_checkpoint(tmp_path / "step0", neox_tensors(**SHAPE, seed=4), shards=3)
    assert same_bits(spectrum_of(sharded)[0], spectrum_of(folder)[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("band_bytes", [100, 10**9])
def test_nonfinite_weights_are_found_where_they_are(tmp_path, monkeypatch, bad, band_bytes):
    monkeypatch.setattr(bands, "BAND_BYTES", band_bytes)
    tensors = neox_tensors(**SHAPE, seed=4)
    name = "gpt_neox.layers.1.mlp.dense_4h_to_h.weight"
    tensors[name][17, 60] = bad
    folder = write_checkpoint(tmp_path / "step0", tensors)
    with pytest.raises(
        CheckpointError, match=r"dense_4h_to_h.weight holds NaN or infinity, first at row 17, column 60"
    ):
        ninscope.measure(folder, exact=True)


def test_a_suite_is_measured_in_order_and_a_bad_one_stops_no_other(tmp_path):
    suite = write_suite(tmp_path / "suite", [0, 8, 2], **SHAPE)
    (suite / "step2" / "model.safetensors").write_bytes(b"no")
    rows = ninscope.measure_all(suite, exact=True)
    assert [(row.step, row.status) for row in rows] == [(0, "ok"), (2, "corrupt"), (8, "ok")]
    assert rows[0].emergence == 0
    assert not np.isnan(rows[2].emergence)
    for workers in (1, 3):
        again = ninscope.measure_all(suite, exact=True, workers=workers)
        assert [row.emergence for row in again if row.spectrum] == [row.emergence for row in rows if row.spectrum]


def test_zeros_leave_no_spectrum_and_it_is_said(tmp_path):
    tensors = neox_tensors(**SHAPE, seed=4)
    for values in tensors.values():
        values[...] = 0
    folder = write_checkpoint(tmp_path / "step0", tensors)
    measured = ninscope.measure(folder, exact=True)
    assert np.isnan(measured.alpha0)
    assert "no node has enough edges" in measured.message
    assert measured.edges == 0


def test_exact_takes_no_samples(folder):
    with pytest.raises(RequestError, match="takes every neuron; leave out nodes_per_layer and seed"):
        ninscope.measure(folder, exact=True, nodes_per_layer=3, seed=1)
