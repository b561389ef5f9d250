"""Work of several processes under gloo: `python rank_work.py FOLDER`.

One process imports everything and then forks worlds of 2, 3 and 4 ranks, one after the other, since importing takes longer than
the work. Each rank does every case of its world, and writes to FOLDER/WORLD-RANK.json what went wrong: nothing, or the traceback.
"""

import copy
import gc
import json
import math
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # which FSDP2 and DTensors import when they are first used
import torch.distributed as dist
import transformers
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.distributed.tensor.placement_types import _StridedShard
from torch.nn.parallel import DistributedDataParallel

import ninscope
from ninscope.checkpoints.held_pieces import HeldPiece
from ninscope.checkpoints.in_memory import in_memory_source
from ninscope.distributed.packing import Packing, facts_of
from ninscope.distributed.ranks import TorchRanks, leads, ranks_of
from ninscope.distributed.shards import Share, check_same_model, live_tensors, pieces_of
from ninscope.errors import CheckpointError, RequestError
from ninscope.exact.controls import Start, control_readings
from ninscope.exact.live import is_spread, live_analysis, live_rescaling
from ninscope.exact.whole import ExactAnalysis, exact_analysis
from ninscope.integrations import reading, steps
from ninscope.integrations.monitor import EmergenceMonitor
from ninscope.integrations.reading import open_model
from ninscope.networks.neuron_network import NeuronNetwork, neuron_network
from ninscope.parameters import Parameters
from ninscope.ranks import ALONE, Ranks
from ninscope.weights.counting import network_weights

WORLDS: dict[int, list[Callable[[], None]]] = {2: [], 3: [], 4: []}


def case(*worlds: int) -> Callable:
    def register(work: Callable[[], None]) -> Callable[[], None]:
        for world in worlds:
            WORLDS[world].append(work)
        return work

    return register


@contextmanager
def refused(status: str, *words: str) -> Iterator[None]:
    """Every rank raises the same CheckpointError, with these words."""
    message = None
    try:
        yield
    except CheckpointError as error:
        message = (error.status, str(error))
    messages: list = [None] * dist.get_world_size()
    dist.all_gather_object(messages, message)
    assert message is not None, "nothing was refused"
    assert set(messages) == {message}, messages
    assert message[0] == status, message
    assert all(word in message[1] for word in words), message


def shares_of(tensors: dict, ranks: Ranks = ALONE) -> dict[str, Share]:
    """As a model is opened: what goes wrong on one rank is told on all."""
    shares, error = {}, None
    try:
        shares = {name: pieces_of(name, tensor, ranks) for name, tensor in tensors.items()}
    except CheckpointError as raised:
        error = raised
    ranks.added([], error)
    check_same_model(shares, ranks)
    return shares


def assembled(shares: dict) -> dict[str, np.ndarray]:
    """The tensors of all ranks' pieces; fails where a number is there twice, or not at all. Rank 0 counts what is not sharded."""
    own = {
        name: [(piece.start, piece.values.numpy()) for piece in share.pieces if share.is_spread or dist.get_rank() == 0]
        for name, share in shares.items()
    }
    everyone: list = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    whole = {}
    for name, share in shares.items():
        values, times = np.full(share.shape, np.nan), np.zeros(share.shape, np.int64)
        for pieces in everyone:
            for start, numbers in pieces[name]:
                box = tuple(slice(first, first + size) for first, size in zip(start, numbers.shape, strict=True))
                assert values[box].shape == numbers.shape
                values[box], times[box] = numbers, times[box] + 1
        assert (times == 1).all(), (name, times)
        whole[name] = values
    return whole


def assert_pieces_are(model: nn.Module | dict, expected: dict[str, torch.Tensor], sharded: bool = True) -> None:
    """expected: the whole tensors."""
    ranks = ranks_of(model)
    assert (ranks is not ALONE) == sharded
    tensors = live_tensors(model)
    whole = assembled(shares_of(tensors, TorchRanks()))
    assert whole.keys() == expected.keys() == tensors.keys()
    for name, values in whole.items():
        assert np.array_equal(values, expected[name].detach().numpy()), name
        if isinstance(tensors[name], DTensor):
            assert torch.equal(tensors[name].full_tensor(), expected[name]), name


def copies(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def layers(*widths: int) -> nn.Sequential:
    """The same weights on every rank."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(last, first, bias=False) for last, first in pairwise(widths)))


# Pieces


@case(2, 3)
def uneven_shards_of_fsdp() -> None:
    model = layers(8, 5, 1)  # [5, 8] and [1, 5]: a rank has nothing of the second
    expected = copies(model)
    fully_shard(model[0])
    fully_shard(model)
    assert {len(tensor.to_local()) for tensor in model.parameters()} <= {0, 1, 2, 3}
    assert_pieces_are(model, expected)


@case(2)
def shards_of_fsdp_after_a_forward_pass_alone() -> None:
    """Then the root's parameters are whole until they are looked for."""
    model = layers(8, 5, 3)
    expected = copies(model)
    fully_shard(model[0])
    fully_shard(model)
    with torch.no_grad():
        model(torch.ones(1, 8))
    assert not isinstance(model[1].weight, DTensor)
    assert_pieces_are(model, expected)


@case(2)
def a_gathered_model_is_held_by_the_first_rank() -> None:
    model = layers(8, 5)
    expected = copies(model)
    fully_shard(model)
    with torch.no_grad():
        model(torch.ones(1, 8))
    assert_pieces_are(dict(model.named_parameters()), expected, sharded=False)


@case(2)
def shards_of_columns() -> None:
    model = layers(8, 5)
    expected = copies(model)
    fully_shard(model, shard_placement_fn=lambda parameter: Shard(1))
    assert_pieces_are(model, expected)


@case(2, 3)
def tensor_parallel_layers_beside_plain_ones() -> None:
    model = nn.Sequential(*layers(6, 5, 4), nn.LayerNorm(4), layers(4, 3)[0])
    expected = copies(model)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    parallelize_module(model, mesh, {"0": ColwiseParallel(), "1": RowwiseParallel()})
    assert [isinstance(model[number].weight, DTensor) for number in (0, 1, 3)] == [True, True, False]
    assert_pieces_are(model, expected)


@case(2, 3)
def tied_weights_are_one_object() -> None:
    model = layers(4, 4, 4)
    model[1].weight = model[0].weight
    fully_shard(model)
    tensors = live_tensors(model)
    assert tensors["0.weight"] is tensors["1.weight"]


@case(2, 3)
def distributed_data_parallel_is_measured_by_one_process_alone() -> None:
    model = DistributedDataParallel(layers(4, 3))
    ranks = ranks_of(model)
    assert ranks is ALONE
    assert leads(model) == (dist.get_rank() == 0)
    if dist.get_rank() == 0:  # nobody else calls
        (share,) = shares_of(live_tensors(model), ranks).values()
        assert torch.equal(share.pieces[0].values, model.module[0].weight)


@case(2)
def one_replica_counts() -> None:
    whole = torch.arange(12.0).reshape(4, 3)
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard"))
    model = layers(3, 4)
    expected = copies(model)
    fully_shard(model, mesh=mesh)
    assert_pieces_are(model, expected)
    assert [bool(share.pieces) for share in shares_of(live_tensors(model), TorchRanks()).values()] == [
        dist.get_rank() == 0
    ]
    replica = distribute_tensor(whole, init_device_mesh("cpu", (2,)), [Replicate()])
    assert_pieces_are({"w": replica}, {"w": whole})


@case(4)
def fsdp_over_tensor_parallelism() -> None:
    """Rows interleave: those of rank 1 follow those of ranks 0 and 2."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    for hidden in (8, 7, 5):
        model = layers(6, hidden, 5)
        expected = copies(model)
        parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "1": RowwiseParallel()})
        fully_shard(model, mesh=mesh["dp"])
        assert isinstance(model[0].weight.placements[0], _StridedShard)
        assert_pieces_are(model, expected)


@case(4)
def rows_that_are_dealt_out_are_several_boxes() -> None:
    mesh = init_device_mesh("cpu", (2, 2))
    whole = torch.arange(36.0).reshape(12, 3)
    tensor = distribute_tensor(whole, mesh, [Shard(0), _StridedShard(0, split_factor=3)], src_data_rank=None)
    assert len(pieces_of("w", tensor, TorchRanks()).pieces) == 3
    assert_pieces_are({"w": tensor}, {"w": whole})


@case(4)
def hybrid_shards_and_copies_that_no_tensor_knows_of() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("outer", "inner"))
    model = layers(6, 5, 3)
    expected = copies(model)
    fully_shard(model, mesh=mesh)
    assert_pieces_are(model, expected)
    model = layers(
        6, 5, 3
    )  # tensor parallel within pairs; the other pair has a copy, as DistributedDataParallel would keep it
    parallelize_module(model, mesh["inner"], {"0": ColwiseParallel(), "1": RowwiseParallel()})
    assert ranks_of(model).count == 4
    assert_pieces_are(model, expected)


@case(3)
def a_model_that_some_processes_hold() -> None:
    mesh = DeviceMesh("cpu", [1, 2])
    if dist.get_rank() == 0:
        return
    model = layers(6, 5)
    expected = copies(model)["0.weight"]
    fully_shard(model, mesh=mesh)
    ranks = ranks_of(model)
    assert (ranks.count, ranks.number) == (2, dist.get_rank() - 1)
    assert leads(model) == (dist.get_rank() == 1)
    (share,) = shares_of(live_tensors(model), ranks).values()
    own = np.zeros((5, 6), np.int64)
    for piece in share.pieces:
        first = piece.start[0]
        own[first : first + piece.shape[0]] = piece.values.numpy().view(np.int32)
    (together,) = ranks.added([own])
    assert np.array_equal(together, expected.numpy().view(np.int32))


def partitioned(whole: torch.Tensor) -> nn.Parameter:
    """A parameter as ZeRO-3 of DeepSpeed 0.19.8 leaves it between steps; what pads the last part is no number of the matrix."""
    parameter = nn.Parameter(torch.empty(0, dtype=whole.dtype))
    size, rank = dist.get_world_size(), dist.get_rank()
    length = -(-whole.numel() // size)
    part = torch.full((length,), torch.nan, dtype=whole.dtype)
    numbers = whole.detach().reshape(-1)[rank * length : (rank + 1) * length]
    part[: len(numbers)] = numbers
    part.ds_numel, parameter.ds_tensor = length, part
    parameter.ds_shape, parameter.ds_numel = whole.shape, whole.numel()
    parameter.ds_process_group = dist.group.WORLD
    parameter.ds_zero_partition_rank, parameter.ds_zero_partition_world_size = rank, size
    return parameter


@case(2, 3)
def partitions_of_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(7, 5), (1, 3), (2, 1), (4, 4), (9,), (3, 2, 5), (2, 1, 3, 2)]
    expected = {f"weight{shape}": torch.randn(shape, generator=generator).bfloat16() for shape in shapes}
    expected["float16"] = torch.randn(5, 3, generator=generator).half()
    model = nn.Module()
    model.inner = nn.ParameterDict({name: partitioned(whole) for name, whole in expected.items()})
    assert {tuple(tensor.shape) for tensor in model.state_dict().values()} == {(0,)}
    tensors = {name.removeprefix("inner."): tensor for name, tensor in live_tensors(model).items()}
    ranks = ranks_of(model)
    assert ranks.count == dist.get_world_size()
    shares = shares_of(tensors, ranks)
    assert {name: share.dtype for name, share in shares.items()} == dict.fromkeys(expected, "BF16") | {"float16": "F16"}
    shares = {
        name: share._replace(pieces=tuple(as_float(piece) for piece in share.pieces)) for name, share in shares.items()
    }
    for name, values in assembled(shares).items():
        assert np.array_equal(values, expected[name].float().numpy()), name


def as_float(piece: HeldPiece) -> HeldPiece:
    return HeldPiece(piece.start, piece.values.float())


@case(2)
def partitions_of_zero_that_cannot_be_counted() -> None:
    on_disk, quantised, of_some = (partitioned(torch.ones(4, 3)) for _ in range(3))
    on_disk.ds_tensor = torch.empty(0)
    on_disk.ds_tensor.ds_numel = 6
    quantised.ds_tensor.ds_quant_scale = torch.ones(1)
    of_some.ds_zero_partition_world_size = 1
    of_some.ds_zero_partition_rank = 0
    with refused("unsupported", "tensor w: ZeRO-3 keeps it quantised or on a disk"):
        shares_of({"w": on_disk}, TorchRanks())
    with refused("unsupported", "tensor w: ZeRO-3 keeps it quantised or on a disk"):
        shares_of({"w": quantised}, TorchRanks())
    with refused("unsupported", "tensor w is part 1 of 1 here, in process 1 of 2"):
        shares_of({"w": of_some}, TorchRanks())


# The analysis


PARAMETERS = Parameters("all", parts=("block", "kind"))


def described(analysis: ExactAnalysis) -> list:
    """All that an analysis found, to the bit."""
    spectra = {"": analysis.spectrum, **analysis.parts}
    numbers = [[getattr(found, name).tobytes() for name in ("tau", "alpha", "f")] for found in spectra.values()]
    return [list(spectra), numbers, [(found.alpha0, found.width) for found in spectra.values()], repr(analysis.layers)]


def neox(seed: int, spread: float) -> nn.Module:
    """A GPT-NeoX of two blocks, whose numbers of rows and columns three ranks cannot share evenly."""
    torch.manual_seed(seed)
    config = transformers.GPTNeoXConfig(
        num_hidden_layers=2, hidden_size=20, num_attention_heads=2, intermediate_size=50, vocab_size=31,
        initializer_range=spread,
    )  # fmt: skip
    return transformers.GPTNeoXForCausalLM(config)


def opened(model: nn.Module) -> tuple[NeuronNetwork, Ranks]:
    found = open_model(model, PARAMETERS)
    return found.network, found.ranks


def whole_network(model: nn.Module) -> NeuronNetwork:
    return neuron_network(in_memory_source(model).open("in memory"))


def whole_analysis(model: nn.Module) -> list:
    return described(exact_analysis(whole_network(model), PARAMETERS, statistics=True))


class Whole:
    """What the analysis of the whole model finds, before anything is sharded."""

    def __init__(self) -> None:
        self.start, self.now = neox(1, 0.05), neox(2, 0.08)
        network, start = whole_network(self.now), whole_network(self.start)
        self.rms, self.start_rms = network_weights(network).rms, network_weights(start).rms
        self.analysis = whole_analysis(self.now)
        self.controls = control_readings(network, self.rms, PARAMETERS, Start(start, self.start_rms, "step0"), 3)


WHOLE: Whole  # made before the ranks are forked


def by_fsdp(model: nn.Module) -> None:
    for block in model.gpt_neox.layers:
        fully_shard(block)
    fully_shard(model)


def by_tensor_parallelism(model: nn.Module) -> None:
    plan = {"attention.query_key_value": ColwiseParallel(), "attention.dense": RowwiseParallel()}
    plan |= {"mlp.dense_h_to_4h": ColwiseParallel(), "mlp.dense_4h_to_h": RowwiseParallel()}
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.gpt_neox.layers:
        parallelize_module(block, mesh, plan)
        plan = {
            name: how for name, how in plan.items() if name.startswith("mlp")
        }  # the other block's attention stays whole


def by_zero(model: nn.Module) -> None:
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, partitioned(parameter))


def by_both(model: nn.Module) -> None:
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("dp", "tp"))
    for block in model.gpt_neox.layers:
        parallelize_module(
            block, mesh["tp"], {"mlp.dense_h_to_4h": ColwiseParallel(), "mlp.dense_4h_to_h": RowwiseParallel()}
        )
        fully_shard(block, mesh=mesh["dp"])


def assert_ranks_find_what_one_process_does(shard: Callable[[nn.Module], None], controls: bool = False) -> None:
    now = copy.deepcopy(WHOLE.now)
    shard(now)
    network, ranks = opened(now)
    assert ranks.count == dist.get_world_size()
    assert is_spread(network)
    assert described(live_analysis(network, PARAMETERS, ranks).analysis) == WHOLE.analysis
    held = [piece for tensor in network.tensors for piece in tensor.file.pieces]
    assert sum(math.prod(piece.shape) for piece in held) < 0.8 * sum(
        math.prod(tensor.shape) for tensor in network.tensors
    )
    if controls:
        start = copy.deepcopy(WHOLE.start)
        shard(start)
        baseline = Start(opened(start)[0], WHOLE.start_rms, "step0")
        found = control_readings(network, WHOLE.rms, PARAMETERS, baseline, 3, live_rescaling(ranks))
        assert repr(found) == repr(WHOLE.controls)


@case(2, 3)
def an_fsdp_model_has_the_bits_of_the_whole() -> None:
    assert_ranks_find_what_one_process_does(by_fsdp, controls=True)


@case(2, 3)
def a_tensor_parallel_model_has_the_bits_of_the_whole() -> None:
    assert_ranks_find_what_one_process_does(by_tensor_parallelism)


@case(3)
def a_model_of_zero_has_the_bits_of_the_whole() -> None:
    assert_ranks_find_what_one_process_does(by_zero)


@case(4)
def an_fsdp_model_with_tensor_parallel_layers_has_the_bits_of_the_whole() -> None:
    assert_ranks_find_what_one_process_does(by_both, controls=True)


@case(2)
def measure_and_monitor_find_what_they_find_of_the_whole() -> None:
    """Some matrices are sharded, others are whole on every rank, where one counts them. Weights train between two measures."""
    rows, measured = [], []
    for shard in (lambda model: None, by_tensor_parallelism):
        model = copy.deepcopy(WHOLE.now)
        plan = model.gpt_neox.layers[1].mlp
        shard(model)
        monitor = EmergenceMonitor(model, every=1, controls=True)
        for step in range(2):
            row = monitor.update(step)
            assert (row is None) == (dist.get_rank() > 0)
            with torch.no_grad():
                plan.dense_h_to_4h.weight.mul_(1.5)
        rows.append([] if row is None else [replace(row, seconds=0.0) for row in monitor.rows])
        found = ninscope.measure(model)
        measured.append((found.alpha0, found.width, found.tau.tobytes(), repr(found.layers), found.message))
    assert repr([vars(row) for row in rows[0]]) == repr([vars(row) for row in rows[1]])
    assert all(row.ok and "emergence_growth" in row.controls for row in rows[1])
    assert measured[0] == measured[1]


@contextmanager
def failing(module: object, name: str, fails: bool) -> Iterator[None]:
    """A function fails in a way that nobody foresaw, on some ranks."""

    def fail(*given: object, **named: object) -> None:
        raise MemoryError

    before = getattr(module, name)
    setattr(module, name, fail if fails else before)
    try:
        yield
    finally:
        setattr(module, name, before)


def messages_of(monitor: EmergenceMonitor, model: nn.Module) -> list[str]:
    """What its rows say after two steps; between them the ranks meet as those of a training do."""
    for step in range(2):
        monitor.update(step)
        ones = torch.ones(3)
        dist.all_reduce(ones)
        assert ones.tolist() == [dist.get_world_size()] * 3, "a rank was at another sum"
        with torch.no_grad():
            model[0].weight.mul_(1.1)
    monitor.finish()
    told = [f"{row.status}: {row.message}; growth {row.controls.get('emergence_growth')}" for row in monitor.rows]
    return told or ["of rank 0", "of rank 0"]


@case(2)
def one_rank_that_fails_alone_leaves_no_other_waiting() -> None:
    model, rank = layers(32, 48, 16), dist.get_rank()
    fully_shard(model)
    for module, name, words in (
        (steps, "copied_pieces", "no growth: the weights of step0 were not kept (rank 1 failed (MemoryError"),
        (reading, "control_readings", "no controls: rank 1 failed (MemoryError"),
        (steps, "look_at", "unsupported: rank 1 failed (MemoryError"),
    ):
        with failing(module, name, rank == 1):
            last = messages_of(EmergenceMonitor(model, every=1), model)[-1]
        assert words in last or rank == 1, last
    last = messages_of(EmergenceMonitor(model, every=1, controls=rank == 0), model)[-1]
    assert "unsupported: rank 1 was asked for other things than rank 0" in last or rank == 1, last
    with refused_request():
        ninscope.measure(model, architecture="no-such-thing")


@contextmanager
def refused_request() -> Iterator[None]:
    try:
        yield
    except RequestError:
        return
    raise AssertionError("nothing was refused")


@case(2)
def a_folder_that_rank_0_alone_is_given_has_the_weights_of_all() -> None:
    model, rank, place = layers(32, 48, 16), dist.get_rank(), [None]
    fully_shard(model)
    if rank == 0:
        place = [tempfile.mkdtemp()]
    dist.broadcast_object_list(place)
    run = Path(str(place[0])) / "run"
    for first in (0, 2):  # and the same once more, resumed
        monitor = EmergenceMonitor(model, every=1, log=run if rank == 0 else None)
        for step in (first, first + 1):
            row = monitor.update(step)
            assert row is None or (row.ok and math.isfinite(row.controls["emergence_growth"])), row
            with torch.no_grad():
                model[0].weight.mul_(1.1)
        monitor.finish()
    dist.barrier()
    assert {path.name for path in (run / "baseline").iterdir()} == {
        f"rank{number}-of-2.safetensors" for number in (0, 1)
    }
    assert len(ninscope.open_run(run).table("emergence")) == 4
    dist.barrier()
    if rank == 0:
        shutil.rmtree(run.parent)


@case(2, 3)
def a_nan_of_one_rank_is_refused_on_all() -> None:
    model = copy.deepcopy(WHOLE.now)
    by_fsdp(model)
    weight = model.gpt_neox.layers[1].mlp.dense_h_to_4h.weight
    if dist.get_rank() == dist.get_world_size() - 1:
        weight.to_local().data[-1, 7] = torch.nan
    network, ranks = opened(model)
    with refused("nonfinite", "layers.1.mlp.dense_h_to_4h.weight holds NaN or infinity, first at row 49, column 7"):
        live_analysis(network, PARAMETERS, ranks)


# What is refused


@case(2)
def models_that_cannot_be_measured() -> None:
    mesh = init_device_mesh("cpu", (2,))
    partial = DTensor.from_local(torch.ones(2, 2), mesh, [Partial()])
    with refused("unsupported", "tensor w is a partial sum"):
        shares_of({"w": partial}, TorchRanks())
    with refused("unsupported", "keeps flat parameters", "fully_shard"):
        ranks_of(FullyShardedDataParallel(layers(4, 4), device_id=torch.device("cpu")))
    sharded = distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)])
    with refused("unsupported", "tensor w is sharded over 2 processes; all of them"):
        shares_of({"w": sharded})
    rank = dist.get_rank()
    with refused("unsupported", "rank 1 holds other tensors than rank 0"):
        shares_of({"w": sharded, f"stage{rank}": torch.ones(2, 2)}, TorchRanks())
    with refused("unsupported", "tensor expert is not sharded, and has other weights on rank 1 than on rank 0"):
        shares_of({"w": sharded, "expert": torch.full((2, 2), 1.0 + rank)}, TorchRanks())
    drifted = torch.full((2, 2), 1 + 1e-4 * rank)
    assert assembled(shares_of({"w": sharded, "alike": drifted}, TorchRanks()))["alike"].tolist() == [[1, 1], [1, 1]]


@case(3)
def a_tensor_that_is_not_all_there() -> None:
    mesh = DeviceMesh("cpu", [0, 1])
    other = DeviceMesh("cpu", [1, 2])
    tensor = DTensor.from_local(torch.ones(1, 2), mesh if dist.get_rank() == 0 else other, [Shard(0)], run_check=False)
    with refused("unsupported", "tensor w: the ranks hold 2 of 4 numbers"):
        shares_of({"w": tensor}, TorchRanks())


# Sums


def counts(rank: int, size: int) -> list[np.ndarray]:
    """Counts as layers have them: few in most columns, nodes of one rank alone, none at all; and sums of any sign."""
    generator = np.random.default_rng(rank)
    many = generator.poisson(generator.uniform(0, 40, 37), (600, 37)).astype(np.int32)
    many[[5, 555], [3, 30]] = 1100 if rank == 0 else 3  # more than is likely
    alone = np.where(np.arange(700)[:, None] * size // 700 == rank, generator.integers(0, 9, (700, 11)), 0).astype(
        np.int32
    )
    large = np.full((3, 5), np.iinfo(np.int32).max // size, np.int32)
    return [
        many, generator.integers(-(2**58), 2**58, 600), alone[:, 2:9], large, np.zeros((4, 3), np.int32),
        np.zeros((0, 7), np.int32), generator.integers(0, 5, 9).astype(np.int32), np.array(rank, np.int32),
        generator.integers(-9, 9, (4, 2, 3)),
    ]  # fmt: skip


@case(2, 3)
def sums_are_those_of_numpy() -> None:
    ranks, size = TorchRanks(), dist.get_world_size()
    own = counts(ranks.number, size)
    kept = [array.copy() for array in own]
    sums = ranks.added(own)
    for column, (total, before, after) in enumerate(zip(sums, kept, own, strict=True)):
        expected = sum(counts(rank, size)[column].astype(np.int64) for rank in range(size))
        assert (total.dtype, total.shape) == (before.dtype, before.shape)
        assert np.array_equal(total, expected), column
        assert np.array_equal(before, after), "what was given is not changed"
    words = sum(array.size for array in own if array.dtype == np.int64)
    assert (
        8 * words
        < ranks.bytes_reduced
        < 8 * words + 0.3 * sum(array.nbytes for array in own if array.dtype == np.int32)
    )
    assert ranks.added([]) == []


@case(2, 3)
def an_error_of_one_rank_is_raised_on_all() -> None:
    ranks, last = TorchRanks(), dist.get_world_size() - 1
    for failing in ({last}, {0}, {0, last}):
        error = CheckpointError("nonfinite", f"tensor ä\U0001f600 of rank {ranks.number}", passing=True)
        arrays = [] if ranks.number in failing else [np.ones(3, np.int64)]
        with refused("nonfinite", f"tensor ä\U0001f600 of rank {min(failing)}"):
            ranks.added(arrays, error if ranks.number in failing else None)
    assert ranks.added([np.ones(2, np.int64)])[0].tolist() == [ranks.count] * 2


@case(2, 3)
def ranks_that_count_unlike_things_are_told_so() -> None:
    last = dist.get_world_size() - 1
    is_last = dist.get_rank() == last
    for mine, others in (
        ([np.ones(3, np.int64)], [np.ones(4, np.int64)]),
        ([np.ones(3, np.int64)], [np.ones(3, np.int32)]),
        ([np.ones((2, 3), np.int64)], [np.ones((3, 2), np.int64)]),
        ([], [np.ones(3, np.int64)]),
    ):
        ranks = TorchRanks()
        with refused("unsupported", "counts other layers than rank 0"):
            ranks.added(mine if is_last else others)
    ranks = TorchRanks()
    if is_last:
        ranks._calls = 1  # it was asked once more than the others
    with refused("unsupported", "counts other layers than rank 0"):
        ranks.added([np.ones(3, np.int64)])
    for wrong in (np.full(3, -1, np.int32), np.ones(3)):
        with refused("unsupported", "below 0" if wrong.dtype == np.int32 else "not of float64"):
            TorchRanks().added([wrong if is_last else np.ones(3, np.int64)])


def main(folder: Path) -> int:
    torch.set_num_threads(1)
    global WHOLE
    WHOLE = Whole()
    arrays = counts(0, 2)
    packing = Packing(arrays, facts_of(arrays))
    packing.take(packing.words())  # loads the kernels
    gc.freeze()
    for world, cases in WORLDS.items():
        children = [child for rank in range(world) if (child := _forked(folder, world, rank, cases))]
        ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        if any(ended):
            return 1
    return 0


def _forked(folder: Path, world: int, rank: int, cases: list[Callable[[], None]]) -> int:
    if child := os.fork():
        return child
    ended = 1
    try:
        meeting = f"file://{folder / f'meeting-{world}'}"
        limit = timedelta(seconds=60)
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world, timeout=limit)
        found = {}
        for work in cases:
            try:
                work()
                found[work.__name__] = ""
            except Exception:  # the other ranks wait for this one: it goes on, and they may fail too
                found[work.__name__] = traceback.format_exc()
            dist.barrier()
        (folder / f"{world}-{rank}.json").write_text(json.dumps(found))
        dist.destroy_process_group()
        ended = 0
    finally:
        sys.stdout.flush()
        os._exit(ended)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
