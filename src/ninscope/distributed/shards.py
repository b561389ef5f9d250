"""What of a model's tensors lies in this process: DTensors (FSDP2, tensor parallelism), DeepSpeed's ZeRO-3, and whole tensors.

Nothing is gathered. The pieces of a sharded tensor on all ranks together are the tensor, each number once: what several ranks hold
alike, the lowest of them has. Tensors that are not sharded are whole on every rank, and rank 0 counts them
(`exact.bands.held_bands`). torch is not imported before a model is there that needs it.
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ninscope.checkpoints.held_pieces import HeldPiece
from ninscope.errors import CheckpointError
from ninscope.ranks import ALONE, Ranks, unlike_rank

STORED_NAMES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}


class Share(NamedTuple):
    """A tensor, and what of it lies in this process.

    shape: of the whole tensor; dtype: as files name it (F16, BF16, F32, F64), another type as torch does. is_spread: whether ranks
    share it, who count it together; the same on every rank.
    """

    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[HeldPiece, ...]
    is_spread: bool = False


class Held(Protocol):
    """A `Share`, or what else stands for a tensor in memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def pieces(self) -> tuple[HeldPiece, ...]: ...
    @property
    def is_spread(self) -> bool: ...


def live_tensors(model: Any) -> dict[str, Any]:
    """Names and tensors of a model as it trains, wrapped or not: parameters and what else its state dict has.

    A mapping of tensors is taken as it is. Tied parameters are one and the same object. A parameter of ZeRO-3 has the shape (0,)
    and its numbers in `ds_tensor`: `pieces_of` knows. FSDP2 lays down shards that a forward pass left gathered; nothing is sent.

    Raises CheckpointError: unsupported (FSDP of the first kind, whose parameters are flat).
    """
    if isinstance(model, Mapping):
        return dict(model)
    modules = getattr(model, "modules", None)
    for module in modules() if modules is not None else ():
        if any(base.__name__ == "FullyShardedDataParallel" for base in type(module).__mro__):
            raise CheckpointError(
                "unsupported",
                "the model is wrapped in FullyShardedDataParallel, which keeps flat parameters; shard it with fully_shard (FSDP2)",
            )
    return dict(model.state_dict(keep_vars=True))


def holders(model: Any) -> tuple[int, ...]:
    """The processes, by their numbers among all, that hold parts of a model's sharded tensors; () where none is sharded.

    model: a module, or tensors by name. Raises CheckpointError as `live_tensors`.
    """
    tensors = live_tensors(model).values()
    meshes = {id(mesh): mesh for tensor in tensors if (mesh := getattr(tensor, "device_mesh", None)) is not None}
    groups = {id(tensor.ds_process_group): tensor.ds_process_group for tensor in tensors if is_partitioned(tensor)}
    members = {rank for mesh in meshes.values() for rank in _ranks_of_mesh(mesh)}
    if groups:
        import torch.distributed as dist

        members |= {rank for group in groups.values() for rank in dist.get_process_group_ranks(group)}
    return tuple(sorted(members))


def _ranks_of_mesh(mesh: Any) -> list[int]:
    """Those of the mesh that it was cut from, which hold the same tensor in other dimensions than its own, or copies of it."""
    root = getattr(mesh, "_get_root_mesh", None)
    whole = root() if root is not None else mesh
    return [int(rank) for rank in whole.mesh.flatten().tolist()]


def pieces_of(name: str, tensor: Any, ranks: Ranks = ALONE) -> Share:
    """The part of a tensor that lies in this process; values are views.

    Raises CheckpointError: unsupported (partial sums, weights on a disk or quantised by ZeRO, shards of other ranks too).
    """
    if hasattr(tensor, "placements") and hasattr(tensor, "device_mesh"):
        return _of_dtensor(name, tensor, ranks)
    if is_partitioned(tensor):
        return _of_zero(name, tensor, ranks)
    shape = tuple(int(size) for size in tensor.shape)
    return Share(shape, _stored_name(tensor.dtype), (HeldPiece((0,) * len(shape), _detached(tensor)),))


def check_same_model(tensors: Mapping[str, Held], ranks: Ranks) -> None:
    """Make sure that ranks hold the same model, and each number of what they share once. All of them call this.

    Raises CheckpointError, on every rank: unsupported, where ranks have other tensors (stages of a pipeline), other weights in
    tensors that are not sharded (experts of their own), or not all of a tensor that is.
    """
    if ranks.count > 1:
        _check_same_tensors(tensors, ranks)
        _check_complete({name: held for name, held in tensors.items() if held.is_spread}, ranks)
        _check_alike({name: held for name, held in tensors.items() if _is_matrix_held_whole(held)}, ranks)


def _check_same_tensors(tensors: Mapping[str, Held], ranks: Ranks) -> None:
    described = repr([(name, held.shape, held.dtype, held.is_spread) for name, held in tensors.items()])
    unlike = unlike_rank(ranks, described)
    if unlike is not None:
        raise CheckpointError(
            "unsupported",
            f"rank {unlike} holds other tensors than rank 0, as stages of a pipeline do; save the model and measure that",
        )


def _check_complete(tensors: Mapping[str, Held], ranks: Ranks) -> None:
    here = [sum(math.prod(piece.shape) for piece in held.pieces) for held in tensors.values()]
    (counted,) = ranks.added([np.array(here, np.int64)])
    for (name, held), numbers in zip(tensors.items(), counted.tolist(), strict=True):
        if numbers != math.prod(held.shape):
            raise CheckpointError(
                "unsupported",
                f"tensor {name}: the ranks hold {numbers} of {math.prod(held.shape)} numbers; save the model and measure that",
            )


_SAMPLE = 16  # numbers of a matrix that ranks compare
_UNLIKE = 0.1  # of their size; what trains alike may drift apart by rounding


def _check_alike(tensors: Mapping[str, Held], ranks: Ranks) -> None:
    """Whether matrices that every rank holds whole are rank 0's, by a few of their numbers."""
    own = np.zeros((len(tensors), _SAMPLE))
    for row, held in zip(own, tensors.values(), strict=True):
        row[:] = _sample(held.pieces[0].values)
    sent = own.view(np.int64) if ranks.number == 0 else np.zeros(own.shape, np.int64)
    (bits,) = ranks.added([sent])
    error = None
    for name, here, there in zip(tensors, own, bits.view(np.float64), strict=True):
        both = np.isfinite(here) & np.isfinite(there)
        if np.linalg.norm(here[both] - there[both]) > _UNLIKE * np.linalg.norm(there[both]):
            error = CheckpointError(
                "unsupported",
                f"tensor {name} is not sharded, and has other weights on rank {ranks.number} than on rank 0, as experts "
                "of its own; save the model and measure that",
            )
            break
    ranks.added([], error)


def _is_matrix_held_whole(held: Held) -> bool:
    is_computed = bool(getattr(held, "is_computed", False))  # from others, which are compared where they are matrices
    is_matrix = len(held.shape) > 1 and 0 not in held.shape and held.dtype in STORED_NAMES.values()
    return is_matrix and not held.is_spread and not is_computed


def _sample(tensor: Any) -> np.ndarray:
    """A few numbers from all over a tensor, float64; NaN of one without values."""
    places = np.unravel_index(
        np.linspace(0, math.prod(tensor.shape) - 1, _SAMPLE).astype(np.int64), tuple(tensor.shape)
    )
    if isinstance(tensor, np.ndarray):
        return tensor[places].astype(np.float64)
    if tensor.device.type == "meta":
        return np.full(_SAMPLE, np.nan)
    torch = sys.modules["torch"]
    index = tuple(torch.from_numpy(place).to(tensor.device) for place in places)
    return tensor.detach()[index].double().cpu().numpy()


def _of_dtensor(name: str, tensor: Any, ranks: Ranks) -> Share:
    import torch

    mesh, placements = tensor.device_mesh, tensor.placements
    shape, dtype = tuple(int(size) for size in tensor.shape), _stored_name(tensor.dtype)
    if any(placement.is_partial() for placement in placements):
        raise CheckpointError(
            "unsupported",
            f"tensor {name} is a partial sum on every rank (Partial); a weight was expected, sharded or replicated",
        )
    if ranks.count == 1 and mesh.size() > 1:
        raise CheckpointError(
            "unsupported",
            f"tensor {name} is sharded over {mesh.size()} processes; all of them have to measure it together",
        )
    is_spread = ranks.count > 1
    if not _holds(tensor, ranks):
        return Share(shape, dtype, (), is_spread)
    with torch.no_grad():
        local = tensor.to_local()
    if type(local) not in (torch.Tensor, torch.nn.Parameter):
        raise CheckpointError(
            "unsupported",
            f"tensor {name}: its shard is a {type(local).__name__}; shards of plain floats can be measured",
        )
    if local.numel() == 0:
        return Share(shape, dtype, (), is_spread)
    runs = [_runs_of(tensor, local, axis) for axis in range(len(shape))]
    return Share(shape, dtype, tuple(_boxes_of_runs(local.detach(), runs)), is_spread)


def _holds(tensor: Any, ranks: Ranks) -> bool:
    """Whether this rank counts its shard: others may hold a replica of it, in the same mesh or in others like it."""
    mesh = tensor.device_mesh
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        return False
    if mesh.size() < ranks.count and getattr(ranks, "members", (0,))[0] not in mesh.mesh.flatten().tolist():
        return False
    return all(
        place == 0 for place, placement in zip(coordinate, tensor.placements, strict=True) if placement.is_replicate()
    )


Run = tuple[int, int]  # where numbers of one axis begin in the whole tensor, and how many follow each other


def _runs_of(tensor: Any, local: Any, axis: int) -> list[Run]:
    """Which places of an axis a shard has, in its order.

    One run, as torch says, unless a mesh dimension deals out what another has cut (`_StridedShard` of FSDP2 over tensor
    parallelism): then torch shards the places themselves in the same way, which sends nothing.
    """
    if not any(hasattr(placement, "split_factor") and placement.dim == axis for placement in tensor.placements):
        (chunk,) = tensor.__create_chunk_list__()
        return [(int(chunk.offsets[axis]), int(local.shape[axis]))]
    import torch
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    placements: list[Any] = []
    for placement in tensor.placements:
        if getattr(placement, "dim", None) != axis:
            placements.append(Replicate())
        elif hasattr(placement, "split_factor"):
            placements.append(type(placement)(0, split_factor=placement.split_factor))
        else:
            placements.append(Shard(0))
    every = torch.arange(tensor.shape[axis], device=local.device)
    places = distribute_tensor(every, tensor.device_mesh, placements, src_data_rank=None).to_local().cpu().numpy()
    starts = np.flatnonzero(np.diff(places, prepend=places[0] - 2) != 1)
    stops = np.append(starts[1:], len(places))
    return [(int(places[start]), int(stop - start)) for start, stop in zip(starts, stops, strict=True)]


def _boxes_of_runs(local: Any, runs: Sequence[Sequence[Run]], start: tuple[int, ...] = ()) -> Iterator[HeldPiece]:
    """The boxes that a shard consists of, where it has some runs of places along every axis."""
    axis = len(start)
    if axis == len(runs):
        yield HeldPiece(start, local)
        return
    first = 0
    for place, length in runs[axis]:
        yield from _boxes_of_runs(local.narrow(axis, first, length), runs, (*start, place))
        first += length


def is_partitioned(tensor: Any) -> bool:
    """Whether it is a parameter of DeepSpeed's ZeRO-3."""
    return getattr(tensor, "ds_tensor", None) is not None


def _of_zero(name: str, parameter: Any, ranks: Ranks) -> Share:
    """A parameter of ZeRO-3: its matrix row after row, cut into as many parts of one length as there are ranks."""
    held, count, number = parameter.ds_tensor, *_partition_of(parameter)
    shape = tuple(int(size) for size in parameter.ds_shape)
    if count != ranks.count or number != ranks.number:
        raise CheckpointError(
            "unsupported",
            f"tensor {name} is part {number + 1} of {count} here, in process {ranks.number + 1} of {ranks.count} that measure; "
            "all processes that ZeRO-3 shards a model over have to measure it together, and no others",
        )
    length = int(held.ds_numel)
    if hasattr(held, "ds_quant_scale") or held.numel() != length:
        raise CheckpointError(
            "unsupported",
            f"tensor {name}: ZeRO-3 keeps it quantised or on a disk; keep weights in memory to measure them",
        )
    start = min(number * length, int(parameter.ds_numel))
    stop = min(start + length, int(parameter.ds_numel))  # what follows is padding, which is no number of the matrix
    flat = held.detach().view(-1)
    boxes = tuple(boxes_of_span(flat[: stop - start], shape, start))
    return Share(shape, _stored_name(held.dtype), boxes, is_spread=ranks.count > 1)


def _partition_of(parameter: Any) -> tuple[int, int]:
    """Into how many parts a parameter of ZeRO-3 is cut, and which of them is here."""
    count = getattr(parameter, "ds_zero_partition_world_size", None)
    if count is not None:
        return int(count), int(parameter.ds_zero_partition_rank)
    import torch.distributed as dist

    return dist.get_world_size(parameter.ds_process_group), dist.get_rank(parameter.ds_process_group)


def boxes_of_span(flat: Any, shape: tuple[int, ...], start: int, outer: tuple[int, ...] = ()) -> Iterator[HeldPiece]:
    """The boxes that consecutive numbers of a row-major tensor make up, the first of them number `start` of it.

    Of a matrix at most three: the end of a row, whole rows, the beginning of a row.
    """
    left = int(flat.shape[0])
    if left == 0:
        return
    if len(shape) < 2:
        yield HeldPiece(
            (*outer, start)[: len(outer) + len(shape)], flat.reshape((1,) * len(outer) + (left,) * len(shape))
        )
        return
    inner = math.prod(shape[1:])
    row, within = divmod(start, inner)
    if within:
        head = min(inner - within, left)
        yield from boxes_of_span(flat[:head], shape[1:], within, (*outer, row))
        flat, left, row = flat[head:], left - head, row + 1
    if rows := left // inner:
        box = flat[: rows * inner].reshape((1,) * len(outer) + (rows, *shape[1:]))
        yield HeldPiece((*outer, row) + (0,) * (len(shape) - 1), box)
    yield from boxes_of_span(flat[rows * inner :], shape[1:], 0, (*outer, row + rows))


def _stored_name(dtype: Any) -> str:
    name = str(dtype).removeprefix("torch.")
    return STORED_NAMES.get(name, name)


def _detached(tensor: Any) -> Any:
    return tensor if isinstance(tensor, np.ndarray) else tensor.detach()
