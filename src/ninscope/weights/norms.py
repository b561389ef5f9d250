"""Norms of the matrices of a network, and nothing else of its weights: beside the exact analysis of a model that trains."""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ninscope.checkpoints.matrix import WeightTile
from ninscope.devices import Squares, kernel_of
from ninscope.errors import CheckpointError
from ninscope.exact.bands import Outgoing, outgoing
from ninscope.exact.blocks import matrix_name
from ninscope.networks.neuron_network import NeuronNetwork
from ninscope.weights.counting import (
    WHOLE,
    WeightCounter,
    edges_inside,
    rows_of_matrices,
    weights_of_matrices,
)
from ninscope.weights.exact_sums import (
    DTYPES,
    added,
    all_finite,
    check_number,
    norm_of,
    rms_of_sums,
    square_sums_of_slots,
)
from ninscope.weights.pattern_kernels import EXPONENTS, SUMS


@dataclass(frozen=True)
class NetworkNorms:
    """rms, norms: root mean square and Euclidean norm of the weights of each matrix, by its name, in the order of the blocks;
    norm: of all weights together. As `ninscope.weight_statistics` has them, to the bit.
    """

    rms: Mapping[str, float]
    norms: Mapping[str, float]
    norm: float


def norms_of_sums(squares: Mapping[str, np.ndarray], weights: Mapping[str, int]) -> NetworkNorms:
    """From the exact sums of each matrix (`exact_sums.square_sums`) and how many weights it has, by its name.

    Raises CheckpointError (unsupported): all sums together are beyond int64.
    """
    whole = np.zeros((EXPONENTS, SUMS), np.int64)
    for sums in squares.values():
        whole = added(whole, sums)
    return NetworkNorms(
        {name: rms_of_sums(sums, weights[name]) for name, sums in squares.items()},
        {name: norm_of(sums) for name, sums in squares.items()},
        norm_of(whole),
    )


class NormCounter:
    """Sums the squares of a network's weights as its tiles come by, in any order, from any threads.

    squares: the exact sums of each matrix by its name, int64 [256, 4], in the order of the blocks, zeros where nothing was seen
    yet; weights: how many weights of it were seen. Both add over processes that hold a part of the weights each (`norms_of_sums`).

    F64 has no such sums. A network with a matrix of F64 is counted as for its statistics, row by row (`WeightCounter`): `norms`
    follow from these, and squares and weights stay zeros. Sums of a row would depend on how it is sharded, so that is refused.
    """

    def __init__(self, network: NeuronNetwork, sharded: bool = False) -> None:
        """sharded: whether other processes hold other pieces of the weights. Raises CheckpointError (unsupported)."""
        self._numbers = weights_of_matrices(network)
        for number in self._numbers.values():
            check_number(number)
        others = [part.matrix for part in outgoing(network) if part.matrix.dtype not in DTYPES]
        if others and sharded:
            raise CheckpointError(
                "unsupported",
                f"tensor {others[0].name}: norms of {others[0].dtype} weights are not summed over shards of a model; convert "
                "the model to float32 (model.float()), or measure it unsharded",
            )
        self._squares = {name: np.zeros((EXPONENTS, SUMS), np.int64) for name in self._numbers}
        self._places = {name: place for place, name in enumerate(self._numbers)}
        self._on_devices: dict[str, Squares] = {}  # what is not yet added to these, matrices in the same order
        self.weights = dict.fromkeys(self._numbers, 0)
        self._rows = WeightCounter(network) if others else None
        self._lock = threading.Lock()

    @property
    def squares(self) -> dict[str, np.ndarray]:
        """Waits for what devices sum."""
        with self._lock:
            on_devices, self._on_devices = list(self._on_devices.values()), {}
            for there in on_devices:
                for name, sums in zip(self._squares, there.sums(), strict=True):
                    self._squares[name] = added(self._squares[name], sums)
            return self._squares

    def see(self, part: Outgoing, tile: WeightTile, dtype: str) -> bool:
        """Sum the squares of a tile, which comes once; false where a weight is not finite. dtype: of its weights.

        The tile's bits may be a torch tensor on a device, which sums them there, and is not waited for.
        """
        if self._rows is not None:
            return self._rows.see(part, tile, dtype)
        if not isinstance(tile.bits, np.ndarray):
            with self._lock:
                self._see_on_device(part, tile)
            return True
        found = list(_sums_of_tile(part, tile, dtype))
        if not all(all_finite(sums) for _, sums, _ in found):
            return False
        with self._lock:
            for name, sums, number in found:
                self._squares[name] = added(self._squares[name], sums)
                self.weights[name] += number
        return True

    def _see_on_device(self, part: Outgoing, tile: WeightTile) -> None:
        values: Any = tile.bits
        device = str(values.device)
        if device not in self._on_devices:
            engine = kernel_of(values.device.type)
            assert engine is not None  # what is no array is on a device that counts
            self._on_devices[device] = engine.squares(len(self._squares), values.device)
        axis = 1 if tile.nodes_first else 0
        for target, targets in part.leads_to.items():
            edges = edges_inside(tile, targets)
            if edges.size:
                name = matrix_name(part.layer, target)
                self._on_devices[device].add(self._places[name], _chosen(values, axis, edges))
                self.weights[name] += int(edges.size) * int(values.shape[1 - axis])

    def norms(self) -> NetworkNorms:
        """Of a network that was seen whole. Raises ValueError: it was not; CheckpointError, as `norms_of_sums` does."""
        if self._rows is not None:
            counted = self._rows.weights()
            norms = {name: one.norm for name, one in counted.statistics.items()}
            return NetworkNorms(counted.rms, norms, norms.pop(WHOLE))
        if missing := [name for name, number in self._numbers.items() if self.weights[name] != number]:
            raise ValueError(f"{len(missing)} matrices were not seen whole, first {missing[0]}")
        return norms_of_sums(self.squares, self.weights)


def _sums_of_tile(part: Outgoing, tile: WeightTile, dtype: str) -> Iterator[tuple[str, np.ndarray, int]]:
    for names, bits, slots in rows_of_matrices(part, tile):
        sums = square_sums_of_slots(bits, dtype, slots, len(names))
        rows = np.bincount(slots[slots >= 0], minlength=len(names))
        for name, of_matrix, height in zip(names, sums, rows.tolist(), strict=True):
            yield name, of_matrix, height * bits.shape[1]


def _chosen(values: Any, axis: int, places: np.ndarray) -> Any:
    """These rows or columns of a torch tensor: a view where they lie beside each other, else a copy on its device."""
    first, last = int(places[0]), int(places[-1])
    if last - first + 1 == places.size:
        return values.narrow(axis, first, places.size)
    import torch

    return values.index_select(axis, torch.from_numpy(places).to(values.device))
