"""Ranks of torch.distributed that count one network together: only counts travel, packed into few bits.

Who takes part. A model without sharded weights needs nobody: the process that is asked measures it, and no other has to know.
A model with sharded weights is measured by all processes that hold a part of it, each of which must ask for it. `leads` says
which process tells of the result.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ninscope.distributed.packing import Packing, facts_of
from ninscope.distributed.shards import holders
from ninscope.errors import MAX_MESSAGE, CheckpointError, RequestError
from ninscope.ranks import ALONE, Ranks

_FAILED = -1
# A message as ASCII JSON, where a character takes twelve letters at most, with its status.
_ERROR_BYTES = 12 * MAX_MESSAGE + 200


class TorchRanks:
    """The processes of a group of torch.distributed (None: all). Raises RequestError in a process outside of it.

    count, number, added: as `ninscope.ranks.Ranks` says. members: the group's processes by their numbers among all. bytes_reduced:
    how many bytes this rank has put into an all_reduce.

    Sums are the same bits on every rank. Where arrays differ in shape or type between ranks, or a rank is at another call, every
    rank raises. A rank that is gone is noticed by torch, after the timeout of the group.
    """

    def __init__(self, group: Any = None, members: Sequence[int] | None = None):
        """members: of a group that is made when it is needed first, by them alone."""
        import torch.distributed as dist

        self._group, self._has_group = group, members is None
        self.members = tuple(dist.get_process_group_ranks(group)) if members is None else tuple(members)
        if dist.get_rank() not in self.members:
            raise RequestError("this process is no member of the process group that is to measure")
        self.count, self.number = len(self.members), self.members.index(dist.get_rank())
        self.bytes_reduced = 0
        self._calls = 0

    @cached_property
    def _device(self) -> Any:
        return _device_of(self._group)

    def added(self, arrays: Sequence[np.ndarray], error: CheckpointError | None = None) -> list[np.ndarray]:
        """Two small all_reduces say whether all goes well and how few bits will hold each sum, and one brings the sums; another
        those that were larger than was likely.

        Raises CheckpointError: that of the lowest rank that has one; unsupported, where ranks count unlike things.
        """
        if not self._has_group:
            self._group, self._has_group = _group_of(self.members), True
        self._calls += 1
        facts = np.zeros(0, np.int64)
        try:
            facts = facts_of(arrays)
        except ValueError as fault:  # of this rank; the others wait to hear of it
            error = error or CheckpointError("unsupported", str(fault))
        self._meet(arrays, error)
        packing = Packing(arrays, self._sum(facts))
        packing.take(self._sum(packing.words()))
        if packing.is_doubtful:
            packing.take_again(self._sum(packing.words_again()))
        return packing.sums

    def _meet(self, arrays: Sequence[np.ndarray], error: CheckpointError | None) -> None:
        """One number of every rank, which says what it is about to add: as long everywhere, whatever went wrong."""
        about = repr((self._calls, [(array.shape, array.dtype.str) for array in arrays])).encode()
        slots = np.zeros(self.count, np.int64)
        digest = int.from_bytes(hashlib.sha256(about).digest()[:7], "little")
        slots[self.number] = digest if error is None else _FAILED
        slots = self._sum(slots)
        failed = np.flatnonzero(slots == _FAILED)
        if failed.size:
            raise self._error_of(int(failed[0]), error)
        unlike = np.flatnonzero(slots != slots[0])
        if unlike.size:
            raise CheckpointError(
                "unsupported",
                f"rank {unlike[0]} counts other layers than rank 0; all ranks must measure the same model, equally often",
            )

    def _error_of(self, number: int, error: CheckpointError | None) -> CheckpointError:
        """The error of one rank, on every rank. Plain text travels: nothing is unpickled."""
        import torch
        import torch.distributed as dist

        letters = np.full(_ERROR_BYTES, ord(" "), np.uint8)
        if number == self.number and error is not None:
            text = json.dumps([error.status, str(error), error.passing]).encode()
            letters[: len(text)] = np.frombuffer(text, np.uint8)
        held = torch.from_numpy(letters).to(self._device)
        dist.broadcast(held, self.members[number], group=self._group)
        return CheckpointError(*json.loads(held.cpu().numpy().tobytes()))

    def _sum(self, numbers: np.ndarray) -> np.ndarray:
        """int64 [n]; is overwritten."""
        import torch
        import torch.distributed as dist

        if not numbers.size:
            return numbers
        held = torch.from_numpy(numbers).to(self._device)
        dist.all_reduce(held, group=self._group)
        self.bytes_reduced += numbers.nbytes
        return held.cpu().numpy()


def _device_of(group: Any) -> Any:
    """Where what this group sends must lie: a GPU where it has a way between GPUs (NCCL and its like), else the CPU."""
    import torch
    import torch.distributed as dist

    routes = dict(route.split(":") for route in str(dist.get_backend_config(group)).split(","))
    for device, backend in routes.items():
        module = getattr(torch, device, None)
        if backend != "gloo" and device != "cpu" and module is not None and module.is_available():
            return torch.device(device, module.current_device())
    return torch.device("cpu")


def ranks_of(model: Any) -> Ranks:
    """Who counts a model (a module, or its tensors by name) together.

    ALONE where no process group exists or no weight is sharded: then nothing is sent, and one process may measure while the others
    go on. Otherwise the processes that hold the model: every one of them has to call this, and to measure. Raises CheckpointError
    as `shards.live_tensors`.
    """
    dist = _initialised()
    if dist is None:
        return ALONE
    members = holders(model)
    if len(members) < 2:
        return ALONE
    if len(members) == dist.get_world_size():
        return TorchRanks()
    return TorchRanks(members=members)


_groups: dict[tuple[Any, tuple[int, ...]], Any] = {}


def _group_of(members: tuple[int, ...]) -> Any:
    """A group of some of all processes, made once; the others need not know of it."""
    import torch.distributed as dist

    key = (dist.group.WORLD, members)
    if key not in _groups:
        _groups[key] = dist.new_group(list(members), use_local_synchronization=True)
    return _groups[key]


def leads(model: Any) -> bool:
    """Whether this process is the one that tells of a result: the lowest of those that hold a model together, or each all of it.

    model: what trains, as it is wrapped.
    """
    dist = _initialised()
    if dist is None:
        return True
    try:
        members = holders(model)
    except CheckpointError:  # which is for a row to tell
        members = ()
    if len(members) > 1:
        return bool(dist.get_rank() == members[0])
    group = getattr(model, "process_group", None)  # DistributedDataParallel knows its own
    return bool(dist.get_rank(group if isinstance(group, dist.ProcessGroup) else None) == 0)


def _initialised() -> Any:
    """torch.distributed, where this process has a group; else None."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None
