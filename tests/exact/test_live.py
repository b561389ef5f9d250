"""A model in pieces on several ranks gives the bits that its file gives, whatever lies where."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest
from suites import neox_tensors, write_checkpoint

from ninscope.checkpoints.formats.weight_file import TensorEntry
from ninscope.checkpoints.held_pieces import HeldPiece
from ninscope.checkpoints.matrix import MatrixLayout, WeightMatrix
from ninscope.checkpoints.source import open_source
from ninscope.checkpoints.tensors import Tensor
from ninscope.errors import CheckpointError, RequestError
from ninscope.exact.bands import Outgoing, held_bands
from ninscope.exact.controls import Start, control_readings
from ninscope.exact.counting import Tally
from ninscope.exact.live import bins_of_matrices, is_spread, live_analysis, live_rescaling
from ninscope.exact.whole import exact_analysis
from ninscope.networks.neuron_network import neuron_network
from ninscope.parameters import Parameters
from ninscope.weights.counting import network_weights

PARAMETERS = Parameters("all", parts=("block", "kind"), per_node=True)
SHAPE = {"blocks": 2, "width": 24, "heads": 3}


@dataclass(frozen=True)
class Held:
    """What lies of a tensor on one rank."""

    pieces: tuple[HeldPiece, ...]
    is_spread = True
    reads_are_free = False


class ThreadRanks:
    """Ranks that are threads of one process; sums by numpy."""

    def __init__(self, count):
        self.count, self._barrier = count, threading.Barrier(count, timeout=60)
        self._given = [None] * count

    def of(self, number):
        return _Rank(self, number)

    def added(self, number, arrays, error):
        self._given[number] = (arrays, error)
        self._barrier.wait()
        given = list(self._given)
        self._barrier.wait()
        if errors := [raised for _, raised in given if raised is not None]:
            raise CheckpointError(errors[0].status, str(errors[0]))
        return [np.sum(same, axis=0, dtype=same[0].dtype) for same in zip(*(own for own, _ in given), strict=True)]


class _Rank:
    def __init__(self, ranks, number):
        self.count, self.number, self._ranks = ranks.count, number, ranks

    def added(self, arrays, error=None):
        return self._ranks.added(self.number, arrays, error)


def cuts_of(shape, spread, count, rng):
    """The boxes of every rank: (start, stop) pairs, uneven."""
    rows, columns = shape[0], shape[1]
    if spread == "one":
        return [[((0, 0), (rows, columns))] if number == 0 else [] for number in range(count)]
    row_ends = [0, *np.sort(rng.integers(0, rows + 1, count - 1)).tolist(), rows]
    column_ends = [0, *np.sort(rng.integers(0, columns + 1, count - 1)).tolist(), columns]
    if spread == "rows":
        return [[((row_ends[i], 0), (row_ends[i + 1], columns))] for i in range(count)]
    if spread == "columns":
        return [[((0, column_ends[i]), (rows, column_ends[i + 1]))] for i in range(count)]
    boxes = [
        ((row_ends[i], column_ends[j]), (row_ends[i + 1], column_ends[j + 1]))
        for i in range(count)
        for j in range(count)
    ]
    owners = rng.integers(0, count, len(boxes))
    return [[box for box, owner in zip(boxes, owners, strict=True) if owner == number] for number in range(count)]


def spread_networks(folder, spread, count):
    """The network of a checkpoint as each of some ranks holds it."""
    checkpoint = open_source(folder).open(folder.name)
    rng = np.random.default_rng(len(spread) + count)
    held = [{} for _ in range(count)]
    for name, tensor in checkpoint.tensors.items():
        if len(tensor.shape) != 2:
            for own in held:
                own[name] = tensor
            continue
        bits = tensor.bits_in(tensor.file.read_ranges(tensor.ranges_of_span(0, tensor.shape[0]).ranges))
        values = bits.view(f"f{bits.itemsize}")
        for own, boxes in zip(held, cuts_of(tensor.shape, spread, count, rng), strict=True):
            pieces = tuple(
                HeldPiece(start, np.ascontiguousarray(values[tuple(map(slice, start, stop))])) for start, stop in boxes
            )
            own[name] = Tensor(tensor.entry, Held(pieces))
    return [neuron_network(replace(checkpoint, tensors=own)) for own in held]


def on_ranks(count, work):
    ranks = ThreadRanks(count)
    with ThreadPoolExecutor(count) as pool:
        running = [pool.submit(work, ranks.of(number)) for number in range(count)]
        return [each.exception() or each.result() for each in running]


@pytest.fixture(scope="module", params=["float16", "float32"])
def folder(request, tmp_path_factory):
    where = tmp_path_factory.mktemp(f"live-{request.param}")
    for step, seed in ((0, 4), (8, 5)):
        tensors = neox_tensors(**SHAPE, seed=seed, dtype=getattr(np, request.param))
        for value in tensors.values():
            value *= 1 + step / 16
        write_checkpoint(where / f"step{step}", tensors)
    return where


def network_of(folder, step):
    return neuron_network(open_source(folder).open(f"step{step}"))


def same(one, other):
    """Two analyses to the bit."""
    spectra = [(one.spectrum, other.spectrum), *((one.parts[name], other.parts[name]) for name in one.parts)]
    for mine, theirs in spectra:
        for name in ("tau", "alpha", "f", "r2"):
            assert getattr(mine, name).tobytes() == getattr(theirs, name).tobytes()
        assert (mine.alpha0, mine.width, mine.nodes, mine.edges) == (
            theirs.alpha0,
            theirs.width,
            theirs.nodes,
            theirs.edges,
        )
    assert repr(one.layers) == repr(other.layers)
    for name, nodes in one.values.items():
        assert all(
            np.array_equal(value, vars(other.values[name])[key], equal_nan=True) for key, value in vars(nodes).items()
        )
    assert (one.nodes, one.edges, one.counted_layers) == (other.nodes, other.edges, other.counted_layers)


@pytest.mark.parametrize(("spread", "count"), [("one", 2), ("rows", 3), ("columns", 2), ("boxes", 3)])
def test_ranks_give_the_bits_of_the_file(folder, spread, count):
    whole = exact_analysis(network_of(folder, 8), PARAMETERS)
    networks = spread_networks(folder / "step8", spread, count)
    assert all(map(is_spread, networks))
    found = on_ranks(
        count, lambda rank: live_analysis(networks[rank.number], PARAMETERS, rank, workers=2, keep_counts=True)
    )
    weights = network_weights(network_of(folder, 8))
    for reading in found:
        same(reading.analysis, whole)
        assert reading.norms.rms == weights.rms
        assert reading.norms.norm == weights.statistics["all"].norm
        assert reading.norms.norms == {name: one.norm for name, one in weights.statistics.items() if name != "all"}
        assert list(reading.counts) == [layer.name for layer in networks[0].source_layers]


@pytest.mark.parametrize(("spread", "count"), [("rows", 2), ("boxes", 3)])
def test_ranks_give_the_controls_of_the_file(folder, spread, count):
    now, start = network_of(folder, 8), network_of(folder, 0)
    rms, start_rms = network_weights(now).rms, network_weights(start).rms
    expected = control_readings(now, rms, PARAMETERS, Start(start, start_rms, "step0"), 3)
    networks = spread_networks(folder / "step8", spread, count)
    starts = spread_networks(folder / "step0", spread, count)

    def work(rank):
        baseline = Start(starts[rank.number], start_rms, "step0")
        return control_readings(networks[rank.number], rms, PARAMETERS, baseline, 3, live_rescaling(rank))

    assert set(expected[0]) == {"unit", "shuffled", "fixed", "growth"}
    for found in on_ranks(count, work):
        assert repr(found) == repr(expected)


def test_files_on_one_rank(folder):
    """What lies nowhere in pieces is counted by the first rank alone."""
    whole = exact_analysis(network_of(folder, 8), PARAMETERS)
    found = on_ranks(2, lambda rank: live_analysis(network_of(folder, 8), PARAMETERS, rank))
    for reading in found:
        same(reading.analysis, whole)
    assert not is_spread(network_of(folder, 8))


def test_bins_of_matrices(folder):
    network = network_of(folder, 8)
    bins = bins_of_matrices(network, PARAMETERS)
    analysis = exact_analysis(network, PARAMETERS, matrices=True)
    expected = {matrix.name: matrix.totals for matrix in analysis.matrices}
    assert list(bins) == list(expected)
    for name, totals in bins.items():
        np.testing.assert_array_equal(totals, expected[name])


def test_nonfinite_on_one_rank_is_told_on_all(tmp_path):
    tensors = neox_tensors(**SHAPE, seed=4, dtype=np.float32)
    name = next(name for name in tensors if "layers.1.mlp.dense_4h_to_h.weight" in name)
    tensors[name][17, 5] = np.nan
    write_checkpoint(tmp_path / "step0", tensors)
    networks = spread_networks(tmp_path / "step0", "rows", 3)
    for raised in on_ranks(3, lambda rank: live_analysis(networks[rank.number], PARAMETERS, rank)):
        assert isinstance(raised, CheckpointError)
        assert raised.status == "nonfinite"
        assert f"{name} holds NaN or infinity, first at row 17, column 5" in str(raised)


def test_trouble_on_one_rank_is_told_on_all(folder, monkeypatch):
    """The others would wait for its counts for ever."""
    networks = spread_networks(folder / "step8", "rows", 2)
    add = Tally.add

    def failing(tally, bits, *rest):
        if bits.base is not None and np.shares_memory(bits, mine):
            raise MemoryError("no more")
        return add(tally, bits, *rest)

    mine = networks[1].tensors[0].file.pieces[0].values
    monkeypatch.setattr(Tally, "add", failing)
    for raised in on_ranks(2, lambda rank: live_analysis(networks[rank.number], PARAMETERS, rank)):
        assert isinstance(raised, CheckpointError)
        assert "rank 1 could not count block0.x (MemoryError: no more)" in str(raised)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (Parameters(samples=2), "is measured exactly; leave nodes_per_layer"),
        (Parameters("all", radii={"log": 20}), "on integer radii; leave radii out"),
        (Parameters("all", layers_crossed=2), "leave layers_crossed and direction out"),
        (Parameters("all", direction="in"), "leave layers_crossed and direction out"),
    ],
)
def test_what_pieces_cannot_say(folder, parameters, message):
    with pytest.raises(RequestError, match=message):
        live_analysis(network_of(folder, 8), parameters)


def test_a_convolution_cut_across_its_kernels_is_refused():
    held = HeldPiece((0, 0, 0, 0), np.ones((4, 1, 3, 3), np.float32))
    entry = TensorEntry("conv.weight", "F32", (4, 2, 3, 3), 0, 4 * 2 * 9 * 4)
    matrix = WeightMatrix(Tensor(entry, Held((held,))), MatrixLayout("convolution"))
    part = Outgoing("x", matrix, (None,), (None,), {"y": np.arange(4)})
    (band,) = held_bands([part])
    with pytest.raises(CheckpointError, match="is cut across its kernels or groups; shard it along its first axis"):
        list(band.tiles([]))
    whole = WeightMatrix(
        Tensor(entry, Held((HeldPiece((2, 0, 0, 0), np.ones((2, 2, 3, 3), np.float32)),))), matrix.layout
    )
    (tile,) = (tile for band in held_bands([replace(part, matrix=whole)]) for tile in band.tiles([]))
    assert (tile.first_target, tile.bits.shape) == (2, (2, 2))  # the norms of its kernels
    np.testing.assert_allclose(tile.bits.view(np.float32), 3.0)
