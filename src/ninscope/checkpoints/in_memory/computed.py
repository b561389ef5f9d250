"""Weights that a model computes from others, computed when they are needed and forgotten soon, so that few are there at a time.

They are computed as the library itself computes them, on twins: the bits are those that it would save, and nothing of the model
changes, neither a buffer, nor the state of random numbers.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from ninscope.checkpoints.in_memory.held_tensor import check_has_values, is_sharded
from ninscope.errors import CheckpointError, one_line

if TYPE_CHECKING:
    from torch import Tensor

# Threads count one matrix after the other, and near the end of one some are at the next already.
_KEPT_COUNT, _KEPT_BYTES = 2, 64_000_000


class Computation:
    """Tensors that are computed together.

    name: of the first of them, for messages. inputs: what they are computed from. compute: gives the tensors by keys of its own.
    advice: what to do where it cannot.
    """

    def __init__(
        self, name: str, inputs: Sequence[Tensor], compute: Callable[[], Mapping[str, Tensor]], advice: str
    ) -> None:
        self.name, self.advice, self._inputs, self._compute = name, advice, inputs, compute

    def results(self) -> Mapping[str, Tensor]:
        """Raises CheckpointError: unsupported (inputs without values, or on several ranks, or the library refuses)."""
        for tensor in self._inputs:
            check_has_values(self.name, tensor)
            if is_sharded(tensor):
                raise CheckpointError(
                    "unsupported",
                    f"tensor {self.name} is computed from tensors that lie on several ranks; {self.advice}, or gather them",
                )
        try:
            with without_traces(self._inputs):
                return {key: tensor.detach() for key, tensor in self._compute().items()}
        except Exception as error:  # whatever a parametrization's own code, or an adapter's, raises
            raise CheckpointError(
                "unsupported",
                f"tensor {self.name} cannot be computed ({type(error).__name__}: {one_line(str(error))}); {self.advice}",
            ) from error


class Results:
    """The results of computations that were needed last. One is computed at a time, whatever thread asks."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple[Computation, Mapping[str, Tensor]]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, computation: Computation) -> Mapping[str, Tensor]:
        """Raises CheckpointError, as `Computation.results`."""
        with self._lock:
            if id(computation) in self._kept:
                self._kept.move_to_end(id(computation))
                return self._kept[id(computation)][1]
            results = computation.results()
            self._kept[id(computation)] = computation, results
            while len(self._kept) > _KEPT_COUNT and self._bytes() > _KEPT_BYTES:
                self._kept.popitem(last=False)
            return results

    def _bytes(self) -> int:
        return sum(tensor.nbytes for _, results in self._kept.values() for tensor in results.values())


@contextmanager
def without_traces(inputs: Sequence[Tensor]) -> Iterator[None]:
    """No gradients and no autocast; afterwards random numbers go on as if nothing had been."""
    import torch

    devices = {tensor.device for tensor in inputs}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for kind in {device.type for device in devices}:
            if torch.amp.is_autocast_available(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.random.fork_rng([device for device in devices if device.type == "cuda"]))
        yield
