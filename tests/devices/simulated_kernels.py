"""Run by `test_cuda_kernels` in a process of its own: the kernels of CUDA under numba's simulator, each case beside plain Python.

NUMBA_ENABLE_CUDASIM=1 python simulated_kernels.py SEED    prints {case: what went wrong, or nothing} as JSON
"""

import json
import math
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from unittest import mock

import numpy as np
import torch

import ninscope
from ninscope.checkpoints.source import open_source
from ninscope.devices import column_counts, cuda_engine, device_square_sums, kernel_of, launch_plan
from ninscope.devices.cuda_engine import DeviceSquares, DeviceTally
from ninscope.errors import CheckpointError
from ninscope.exact import bands
from ninscope.exact.live import live_analysis, live_rescaling
from ninscope.exact.rescaled import rescaled_layers
from ninscope.multifractal.boxes import column_histogram, row_histogram
from ninscope.networks.bin_table import BinTable, bin_table, distance_shift, joint_table
from ninscope.networks.neuron_network import NeuronNetwork, neuron_network
from ninscope.networks.radii import IntegerRadii, LogRadii, log_radii
from ninscope.parameters import Parameters
from ninscope.weights.counting import weights_of_matrices

TYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
SMALLEST = {"F16": 2.0**-24, "BF16": 2.0**-133, "F32": 2.0**-149}  # subnormal
RADII = IntegerRadii(max_distance=12.0)

CASES: dict[str, Callable[[np.random.Generator], None]] = {}


def case(function: Callable) -> Callable:
    CASES[function.__name__] = function
    return function


def case_of_each_type(function: Callable) -> Callable:
    for dtype in TYPES:
        CASES[f"{function.__name__}[{dtype}]"] = lambda rng, dtype=dtype: function(rng, dtype)
    return function


def edges_of_bins(dtype: str, max_distance: float) -> list[float]:
    """The numbers of a type beside every bound between bins, on it where there is such a number, and beside the ends."""
    bounds = [2 / (2 * n + 1) for n in range(1, round(max_distance) + 1)] + [1.0, 1 / max_distance]
    beside = []
    for bound in bounds:
        nearest = torch.tensor(bound, dtype=torch.float64).to(TYPES[dtype])
        bits = nearest.view(torch.int32 if dtype == "F32" else torch.int16)
        beside += [float((bits + step).view(TYPES[dtype])) for step in (-1, 0, 1)]
    return beside


def weights(rng: np.random.Generator, dtype: str, edges: int, nodes: int, special: bool = True) -> torch.Tensor:
    """[edges, nodes], of all sizes; with the special numbers of the type among them, if they are not too many."""
    values = rng.normal(0, 1, edges * nodes) * 10 ** rng.uniform(-2.5, 0.5, edges * nodes)
    if special:
        tiny = SMALLEST[dtype]
        numbers = [0.0, -0.0, tiny, -3 * tiny, 0.9, -0.9, 3.0, 1.0, *edges_of_bins(dtype, RADII.max_distance)]
        places = rng.permutation(values.size)[: len(numbers)]
        values[places] = np.array(numbers)[: places.size] * rng.choice([-1.0, 1.0], places.size)
    return torch.from_numpy(values.reshape(edges, nodes)).to(TYPES[dtype])


def plain_counts(values: torch.Tensor, max_distance: float, units: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges per node and bin, and sums of distances in units of 2**-units, of weights [edges, nodes]: in plain Python."""
    count = round(max_distance)
    counts = np.zeros((values.shape[1], count + 3), np.int64)
    sums = [0] * values.shape[1]
    for row in values.double().tolist():
        for node, weight in enumerate(row):
            size = abs(weight)
            if not math.isfinite(weight):
                counts[node, count + 2] += 1
            elif size == 0 or not 1 < 1 / size <= max_distance:
                counts[node, count + 1] += 1
            else:
                counts[node, round(1 / size)] += 1
                sums[node] += round(Fraction(1 / size) * 2**units)
    return counts, np.array(sums, dtype=np.int64)


def cpu_counts(values: torch.Tensor, table: BinTable, distances: bool) -> tuple[np.ndarray, np.ndarray]:
    """What the CPU counts of weights [edges, nodes]."""
    unsigned = torch.uint32 if values.element_size() == 4 else torch.uint16
    bits = values.contiguous().view(unsigned).numpy()
    counts, sums = np.zeros((values.shape[1], table.width), np.int32), np.zeros(values.shape[1], np.int64)
    column_histogram(bits, table, counts, sums if distances else None)
    return counts, sums


def assert_counted(
    values: torch.Tensor, radii: IntegerRadii = RADII, dtype: str = "", nodes_first: bool = False
) -> None:
    """As plain Python counts it, and as the CPU does. values: [edges, nodes], or nodes_first [nodes, edges]."""
    name = dtype or next(name for name, kind in TYPES.items() if kind == values.dtype)
    table = bin_table(name, radii)
    counts, sums = column_counts(values, table, nodes_first, True)
    columns = values.T if nodes_first else values
    expected, lengths = plain_counts(columns, radii.max_distance, distance_shift(radii))
    assert counts.dtype == np.int32
    assert sums.dtype == np.int64
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_array_equal(sums, lengths)
    for of_cpu, of_kernel in zip(cpu_counts(columns, table, True), (counts, sums), strict=True):
        np.testing.assert_array_equal(of_kernel, of_cpu)


@contextmanager
def many_blocks(threads: int = 32) -> Iterator[None]:
    """As on a device of many multiprocessors, and with copies of counts for few edges."""
    with (
        mock.patch.object(cuda_engine, "_multiprocessors", return_value=100),
        mock.patch.object(cuda_engine, "_threads", return_value=threads),
        mock.patch.object(launch_plan, "_EDGES_OF_COPY", 16),
    ):
        yield


@case_of_each_type
def nodes_beside_each_other(rng, dtype):
    assert_counted(weights(rng, dtype, 41, 5))


@case_of_each_type
def edges_beside_each_other(rng, dtype):
    assert_counted(weights(rng, dtype, 67, 2).T.contiguous(), nodes_first=True)


@case
def a_view_that_is_turned_over(rng):
    assert_counted(weights(rng, "F32", 67, 2).T.contiguous().T)
    assert_counted(weights(rng, "BF16", 67, 2).T, nodes_first=True)


@case
def views_with_gaps(rng):
    values = weights(rng, "F16", 60, 12)
    assert_counted(values[3::2, 1::3])
    assert_counted(values[3::2, 1::3].T, nodes_first=True)
    assert_counted(weights(rng, "F32", 20, 9)[:, 5:8])  # a shard of columns


@case
def one_row_one_column_one_weight(rng):
    values = weights(rng, "BF16", 40, 4)
    assert_counted(values[:1])
    assert_counted(values[:, :1])
    assert_counted(values[:1, :1])
    assert_counted(values[:1].expand(3, 4))


@case
def nothing_to_count(rng):
    table = bin_table("F16", RADII)
    for shape in ((0, 3), (3, 0), (0, 0)):
        counts, sums = column_counts(torch.zeros(shape, dtype=torch.float16), table, False, True)
        assert counts.shape == (shape[1], table.width)
        assert sums.shape == shape[1:]
        assert not counts.any()
        assert not sums.any()
        assert not device_square_sums(torch.zeros(shape, dtype=torch.float16)).any()


@case_of_each_type
def numbers_that_are_not_finite(rng, dtype):
    values = weights(rng, dtype, 30, 4)
    for row, bad in enumerate((math.nan, -math.nan, math.inf, -math.inf)):
        values[3 * row, row % 2] = bad
    assert_counted(values)
    counts, _ = column_counts(values, bin_table(dtype, RADII), False, True)
    assert counts[:, -1].tolist() == [2, 2, 0, 0]


@case
def more_edges_than_a_block_takes(rng):
    with many_blocks():
        values = weights(rng, "F32", 150, 3)
        plan = launch_plan.plan_of(cuda_engine.flat_table(bin_table("F32", RADII), "F32"), 3, 150, False, 100, 32)
        assert plan.grid == (2, 3)
        assert_counted(values)


@case
def nodes_of_several_blocks_and_copies_of_their_counts(rng):
    with many_blocks(threads=64):
        values = weights(rng, "BF16", 70, 3).T.contiguous()
        plan = launch_plan.plan_of(cuda_engine.flat_table(bin_table("BF16", RADII), "BF16"), 3, 70, True, 100, 64)
        assert (plan.grid[0], 1 << plan.group_bits, plan.replicas) == (2, 2, 4)
        assert_counted(values, nodes_first=True)


@case
def a_table_that_stays_far(rng):
    with mock.patch.object(launch_plan, "_NEAR_BYTES", 0):
        for dtype in TYPES:
            assert_counted(weights(rng, dtype, 41, 3))


@case_of_each_type
def several_readings_at_once(rng, dtype):
    factors = (1.0, 0.37, 2.5)
    table = joint_table(dtype, RADII, factors)
    values = weights(rng, dtype, 30, 3)
    counts, sums = column_counts(values, table, False, True)
    assert not sums.any()
    np.testing.assert_array_equal(counts, cpu_counts(values, table, False)[0])
    for factor, bins in zip(factors, table.readings, strict=True):
        of_reading = np.zeros((3, RADII.count + 3), np.int64)
        np.add.at(of_reading.T, bins, counts.T)
        expected, _ = plain_counts(values.double() * factor, RADII.max_distance, 0)
        np.testing.assert_array_equal(of_reading, expected)


@case_of_each_type
def a_logarithmic_grid(rng, dtype):
    values = weights(rng, dtype, 40, 3)
    radii = log_radii(9, values.double().abs().numpy().reshape(-1))
    counts, sums = column_counts(values, bin_table(dtype, radii), False, True)
    assert not sums.any()
    expected = np.zeros((3, 12), np.int64)
    step = math.log(radii.largest_weight / radii.smallest_weight) / 8
    for row in values.double().abs().tolist():
        for node, size in enumerate(row):
            expected[node, 1 + round(math.log(radii.largest_weight / size) / step) if size else 10] += 1
    np.testing.assert_array_equal(counts, expected)


@case
def a_grid_of_one_weight(rng):
    values = torch.tensor([[0.5, -0.5], [0.0, 0.5]])
    counts, _ = column_counts(values, bin_table("F32", LogRadii(4, 0.5, 0.5)), False, False)
    assert counts.tolist() == [[0, 1, 0, 0, 0, 1, 0], [0, 2, 0, 0, 0, 0, 0]]


@case
def ten_thousand_radii(rng):
    for dtype, nodes_first in (("F32", False), ("F16", True)):
        values = torch.from_numpy(10 ** rng.uniform(-4.1, 0.1, (80, 1))).to(TYPES[dtype])
        assert_counted(
            values.T if nodes_first else values, IntegerRadii(max_distance=10_000.0), nodes_first=nodes_first
        )


@case
def other_transfer_functions(rng):
    for transfer in ("coth", "neg_log"):
        radii = IntegerRadii(transfer, 12.0)
        for dtype in ("F16", "BF16"):
            values = weights(rng, dtype, 30, 3)
            for kernel, cpu in zip(
                column_counts(values, bin_table(dtype, radii), False, True),
                cpu_counts(values, bin_table(dtype, radii), True),
                strict=True,
            ):
                np.testing.assert_array_equal(kernel, cpu)
        table, values = bin_table("F32", radii), weights(rng, "F32", 20, 2)
        assert not kernel_of("cpu").can_count(table, True)
        assert kernel_of("cpu").can_count(table, False)
        np.testing.assert_array_equal(
            column_counts(values, table, False, False)[0], cpu_counts(values, table, False)[0]
        )
        assert "no kernel counts them by this table" in refusal(column_counts, values, table, False, True)


@case
def without_distances(rng):
    values = weights(rng, "F16", 30, 3)
    counts, sums = column_counts(values, bin_table("F16", RADII), False, False)
    np.testing.assert_array_equal(counts, plain_counts(values, 12.0, 0)[0])
    assert not sums.any()


@case
def what_is_refused(rng):
    table = bin_table("F16", RADII)
    assert "table of uint16" in refusal(column_counts, torch.zeros(2, 2), table, False, True)
    assert "no kernel" in refusal(column_counts, torch.zeros(2, 2, dtype=torch.float64), table, False, True)
    assert "no kernel" in refusal(column_counts, torch.zeros(2, dtype=torch.float16), table, False, True)
    assert "squares are summed of" in refusal(device_square_sums, torch.zeros(2, 2, dtype=torch.float64))
    tally, values = DeviceTally(3, table.width, "cpu"), torch.zeros(2, 3, dtype=torch.float16)
    assert "in 15 bins are not those of nodes 0..1" in refusal(tally.add, values, table, slice(0, 2), False)
    joint = joint_table("F16", RADII, (1.0, 0.4))
    assert f"in {joint.width} bins are not those" in refusal(tally.add, values, joint, slice(0, 3), False)
    tally.counts()
    assert "grow no more" in refusal(tally.add, values, table, slice(0, 3), False)
    assert kernel_of("cpu").tally(2_000_000, table.width, "cpu") is None


@case
def tallies_share_their_room(rng):
    engine, table = kernel_of("cpu"), bin_table("F16", RADII)
    size = cuda_engine.TALLY_BYTES // (8 * table.width)
    first = engine.tally(size - 10, table.width, "cpu")
    assert engine.tally(11, table.width, "cpu") is None
    second = engine.tally(10, table.width, "cpu")
    assert engine.tally(1, table.width, "cpu") is None
    del second  # after an error, say
    assert engine.tally(10, table.width, "cpu") is not None  # and is gone at once
    first.start_copy()
    assert engine.tally(size, table.width, "cpu") is not None


def refusal(function: Callable, *arguments: object, error: type[Exception] = ValueError) -> str:
    try:
        function(*arguments)
    except error as raised:
        return str(raised)
    raise AssertionError("nothing was refused")


@case
def a_tally_of_several_matrices(rng):
    table = bin_table("BF16", RADII)
    tally = kernel_of("cpu").tally(6, table.width, "cpu")
    first, second, third = (weights(rng, "BF16", *shape) for shape in ((20, 6), (9, 4), (5, 2)))
    tally.add(first, table, slice(0, 6), False)
    tally.add(second.T.contiguous(), table, slice(1, 5), True)
    tally.add(third, table, slice(4, None), False)
    tally.start_copy()
    counts, sums = tally.counts()
    expected, lengths = plain_counts(first, 12.0, distance_shift(RADII))
    for values, nodes in ((second, slice(1, 5)), (third, slice(4, 6))):
        more, longer = plain_counts(values, 12.0, distance_shift(RADII))
        expected[nodes] += more
        lengths[nodes] += longer
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_array_equal(sums, lengths)


@case
def counts_that_do_not_fit_at_once(rng):
    with mock.patch.object(cuda_engine, "PIECE_BYTES", 8 * 15 * 2):
        assert_counted(weights(rng, "F16", 20, 3))
        assert_counted(weights(rng, "F16", 20, 3).T.contiguous(), nodes_first=True)


@case
def tables_on_the_device_are_few(rng):
    values = weights(rng, "F16", 2, 1)
    tables = [joint_table("F16", RADII, (factor,)) for factor in (0.5, 1.0, 2.0)]
    with mock.patch.object(cuda_engine, "_TABLES", 2):
        for table in (*tables, tables[0]):
            counts, _ = column_counts(values, table, False, False)
            np.testing.assert_array_equal(counts, cpu_counts(values, table, False)[0])
        assert len(cuda_engine._tables) == 2


def plain_squares(values: torch.Tensor) -> np.ndarray:
    """As `weights.exact_sums.square_sums`, in Python, number by number."""
    sums = np.zeros((256, 4), object)
    for pattern in values.float().contiguous().view(torch.int32).reshape(-1).tolist():
        exponent = pattern >> 23 & 255
        mantissa = pattern & 0x7FFFFF | (exponent > 0) << 23
        high, low = divmod(mantissa, 4096)
        sums[exponent] += np.array([-mantissa if pattern < 0 else mantissa, high * high, high * low, low * low], object)
    return sums.astype(np.int64)


@case_of_each_type
def squares(rng, dtype):
    values = weights(rng, dtype, 45, 6)
    values[:5, 0] = torch.tensor([40.0, -300.0, 1e-9, 6e-5, -1e-7], dtype=torch.float64).to(values.dtype)
    expected = plain_squares(values)
    assert expected[:104].any()  # what is there in float16 as well
    assert expected[:100].any() == (dtype != "F16")  # beyond the counters in shared memory, as is the next
    assert expected[132:].any()
    np.testing.assert_array_equal(device_square_sums(values), expected)
    np.testing.assert_array_equal(device_square_sums(values.T), expected)
    np.testing.assert_array_equal(device_square_sums(values[::2, 1::2]), plain_squares(values[::2, 1::2]))


@case_of_each_type
def squares_of_what_is_not_finite(rng, dtype):
    values = weights(rng, dtype, 4, 4)
    values[1, 2], values[2, 0] = math.nan, -math.inf
    found = device_square_sums(values)
    np.testing.assert_array_equal(found[:255], plain_squares(torch.nan_to_num(values, 0.0, 0.0, 0.0))[:255])
    assert found[255].any()


@case
def squares_of_several_matrices_and_blocks(rng):
    together = DeviceSquares(2, "cpu")
    first, second = weights(rng, "F32", 60, 12), weights(rng, "F16", 10, 4)
    with many_blocks():
        together.add(1, first[:, :7])
        together.add(1, first[:, 7:])
        together.add(0, second)
    np.testing.assert_array_equal(together.sums(), np.stack([plain_squares(second), plain_squares(first)]))


@contextmanager
def on_a_device() -> Iterator[None]:
    """CPU tensors are taken for those of a device."""
    with mock.patch.object(bands, "lies_on_device", lambda values: not isinstance(values, np.ndarray)):
        yield


def small_model(rng: np.random.Generator, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    shapes = {"0.weight": (11, 4), "1.weight": (3, 11)}
    return {name: torch.from_numpy(rng.normal(0, 0.3, shape)).to(dtype) for name, shape in shapes.items()}


def network_of(model: dict[str, torch.Tensor]) -> NeuronNetwork:
    source = open_source(model)
    return neuron_network(source.open(source.revisions()[0]))


@case
def a_model_on_a_device_is_measured_there(rng):
    asked = {"max_distance": 9.0, "min_degree": 2}
    for dtype in (torch.float16, torch.float32, torch.float64):
        model = small_model(rng, dtype)
        expected = ninscope.measure(model, **asked)
        assert math.isfinite(expected.alpha0)
        with on_a_device(), mock.patch.object(DeviceTally, "add", autospec=True, side_effect=DeviceTally.add) as there:
            found = ninscope.measure(model, **asked)
        assert there.call_count == (2 if dtype != torch.float64 else 0)
        assert pickle.dumps(found) == pickle.dumps(expected)


@case
def a_look_at_a_model_on_a_device(rng):
    parameters = Parameters("all", max_distance=9.0, min_degree=2)
    network = network_of(small_model(rng, torch.bfloat16))
    expected = live_analysis(network, parameters, keep_counts=True)
    with on_a_device():
        found = live_analysis(network, parameters, keep_counts=True, workers=2)
        own = live_analysis(network, parameters)
    assert found.norms == expected.norms == own.norms
    assert own.analysis.edges == found.analysis.edges == expected.analysis.edges
    assert own.analysis.layers == found.analysis.layers == expected.analysis.layers
    for layer, counts in expected.counts.items():
        np.testing.assert_array_equal(found.counts[layer].histogram, counts.histogram)
        np.testing.assert_array_equal(found.counts[layer].distances, counts.distances)
    readings = [dict.fromkeys(weights_of_matrices(network), factor) for factor in (1.0, 0.6)]
    radii = parameters.integer_radii
    of_files = list(rescaled_layers(network, parameters, radii, readings))
    with on_a_device():
        on_device = list(live_rescaling()(network, parameters, radii, readings))
    for one, other in zip(on_device, of_files, strict=True):
        assert pickle.dumps(one) == pickle.dumps(other)


@case
def a_weight_that_is_not_finite_is_named_with_its_place(rng):
    model = small_model(rng, torch.float16)
    model["1.weight"][2, 7] = math.nan
    place = "tensor 1.weight holds NaN or infinity, first at row 2, column 7"
    with on_a_device():
        assert place in refusal(ninscope.measure, model, error=CheckpointError)
        assert place in refusal(live_analysis, network_of(model), Parameters("all"), error=CheckpointError)
        readings = [dict.fromkeys(weights_of_matrices(network_of(model)), 1.0)]
        rescaled = live_rescaling()(network_of(model), Parameters("all"), RADII, readings)
        assert place in refusal(list, rescaled, error=CheckpointError)


@case
def what_no_kernel_counts_the_cpu_counts(rng):
    model = small_model(rng, torch.float32)
    expected = ninscope.measure(model, transfer="coth", max_distance=9.0, min_degree=2)
    assert math.isfinite(expected.alpha0)
    with on_a_device():
        found = ninscope.measure(model, transfer="coth", max_distance=9.0, min_degree=2)
    assert pickle.dumps(found) == pickle.dumps(expected)


@case
def a_device_without_room_for_a_layer(rng):
    model = small_model(rng, torch.float16)
    expected = ninscope.measure(model, max_distance=9.0, min_degree=2)
    with on_a_device(), mock.patch.object(cuda_engine, "_room", cuda_engine._Room(0)):
        found = ninscope.measure(model, max_distance=9.0, min_degree=2)
    assert pickle.dumps(found) == pickle.dumps(expected)


@case
def the_cpu_counts_rows_alike(rng):
    """What the CPU has for matrices whose rows are nodes is what it has for columns, so that comparing with one is enough."""
    values, table = weights(rng, "F32", 30, 4), bin_table("F32", RADII)
    counts, sums = np.zeros((4, table.width), np.int32), np.zeros(4, np.int64)
    row_histogram(values.T.contiguous().view(torch.uint32).numpy(), table, counts, sums)
    expected = cpu_counts(values, table, True)
    np.testing.assert_array_equal(counts, expected[0])
    np.testing.assert_array_equal(sums, expected[1])


def main(seed: int) -> None:
    sys.setswitchinterval(0.0005)  # the simulator's threads wait for each other at every barrier
    results = {}
    for name, run in CASES.items():
        try:
            run(np.random.default_rng([seed, *name.encode()]))
            results[name] = ""
        except Exception:
            results[name] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main(int(sys.argv[1]))
