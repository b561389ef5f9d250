"""A LoRA adapter merged into its base: W' = W + scale * B A, row by row as rows are read, so that nothing is held but A and B.

As peft's merge_and_unload. Products are summed in float64, in the order of the rank, and added to W; the sum is rounded to float32
(F64 weights stay in float64), and from that to F16 or BF16 where W is stored so. No BLAS: the same bytes on any number of threads.
"""

import threading
from bisect import bisect_right
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ninscope.checkpoints.file_names import ADAPTER_CONFIG
from ninscope.checkpoints.formats.weight_file import TensorEntry, WeightFile
from ninscope.checkpoints.kernels import add_low_rank
from ninscope.checkpoints.lora.adapter import Adapter, Factors, adapter_of
from ninscope.checkpoints.tensors import STORED_TYPES, Checkpoint, Tensor, as_float, as_stored
from ninscope.errors import CheckpointError

_KEPT = 16  # modules whose A and B are kept: bands of a tensor are read one after the other, by several threads


@dataclass(frozen=True)
class Update:
    """What is added to one tensor of the base. entry: of the tensor, as stored; turned: it is W[in, out]."""

    entry: TensorEntry
    factors: Factors
    scale: float
    turned: bool

    @property
    def row_bytes(self) -> int:
        return (self.entry.stop - self.entry.start) // self.entry.shape[0]

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """left [rows, r] and right [r, columns] of the update left @ right, float32 or float64. Raises CheckpointError."""
        a, b = (_whole(tensor) for tensor in (self.factors.a, self.factors.b))
        left, right = (a.T, b.T) if self.turned else (b, a)
        return np.ascontiguousarray(left), np.ascontiguousarray(right)

    def added(self, raw: np.ndarray, first: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """The bytes of rows first, first + 1, ... with the update in them. raw: their bytes, uint8."""
        stored = raw.view(STORED_TYPES[self.entry.dtype]).reshape(-1, right.shape[1])
        weights = as_float(stored, self.entry.dtype)
        wide = weights.astype(np.float64 if self.entry.dtype == "F64" else np.float32, copy=False)
        merged = add_low_rank(wide, left[first : first + len(wide)], right, self.scale)
        return as_stored(merged, self.entry.dtype).view(np.uint8).reshape(-1)


class MergedFile:
    """A base's file whose bytes are read with the updates of an adapter in them, where there is one."""

    def __init__(self, file: WeightFile, updates: Sequence[Update]):
        self.name, self.size, self.reads_are_free = file.name, file.size, file.reads_are_free
        factors = {id(tensor.file): tensor.file for one in updates for tensor in (one.factors.a, one.factors.b)}
        self.beneath = (file, *factors.values())
        self._file = file
        self._updates = sorted(updates, key=lambda update: update.entry.start)
        self._starts = [update.entry.start for update in self._updates]
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        return self._merged(ranges, self._file.read_ranges(ranges))

    def start_ranges(self, ranges: Sequence[tuple[int, int]]) -> Callable[[], list[memoryview]]:
        ranges = list(ranges)
        read = self._file.start_ranges(ranges)
        return lambda: self._merged(ranges, read())

    def spans(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """The spans of the base; what is fetched of the adapter is a small part of them."""
        return self._file.spans(ranges)

    def _merged(self, ranges: Sequence[tuple[int, int]], pieces: Sequence[memoryview]) -> list[memoryview]:
        return [self._merge(start, stop, piece) for (start, stop), piece in zip(ranges, pieces, strict=True)]

    def _merge(self, start: int, stop: int, piece: memoryview) -> memoryview:
        """Tensors are read in whole rows, one at a time."""
        number = bisect_right(self._starts, start) - 1
        if number < 0 or start >= self._updates[number].entry.stop or start == stop:
            return piece
        update = self._updates[number]
        first, beside = divmod(start - update.entry.start, update.row_bytes)
        if beside or (stop - start) % update.row_bytes or stop > update.entry.stop:
            raise CheckpointError(
                "unsupported",
                f"tensor {update.entry.name} holds several matrices, which no lora_A and lora_B are merged into",
            )
        left, right = self._factors_of(update)
        return update.added(np.frombuffer(piece, np.uint8), first, left, right).data

    def _factors_of(self, update: Update) -> tuple[np.ndarray, np.ndarray]:
        name = update.entry.name
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        factors = update.read()
        with self._lock:
            self._kept[name] = factors
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return factors


def merged_checkpoint(adapter: Checkpoint, base: Checkpoint) -> Checkpoint:
    """The base with the adapter in it, under the adapter's revision and step; no weight is read yet.

    Raises CheckpointError: unsupported (an adapter that `adapter_of` cannot read, or that is not merged so; a base that is none),
    corrupt (a module that the base lacks, a shape that is another).
    """
    if ADAPTER_CONFIG not in adapter.config:
        raise CheckpointError(
            "unsupported", f"{adapter.revision}: holds a model's own weights, no adapter; leave the base out"
        )
    if ADAPTER_CONFIG in base.config:
        raise CheckpointError(
            "unsupported", f"{base.revision}: the base is an adapter itself; name the model that both belong to"
        )
    update = adapter_of(adapter.config[ADAPTER_CONFIG], adapter.tensors)
    update.check_mergeable()
    tensors = {**base.tensors, **_replaced(update.whole, base.tensors)}
    files = {id(tensor.file): tensor.file for tensor in base.tensors.values()}
    merged = {key: MergedFile(files[key], updates) for key, updates in _updates_by_file(update, base).items()}
    tensors = {name: replace(tensor, file=merged.get(id(tensor.file), tensor.file)) for name, tensor in tensors.items()}
    return replace(adapter, config=base.config, tensors=tensors)


def _replaced(whole: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that take the place of the base's, by the base's names; new ones (a head) by their own. Raises CheckpointError."""
    replaced = {}
    for name, tensor in whole.items():
        in_base = _name_in(base, name)
        if in_base is not None and base[in_base].shape != tensor.shape:
            raise _other_shape(base[in_base], tensor.shape, tensor.name)
        replaced[in_base or name] = replace(tensor, entry=replace(tensor.entry, name=in_base or name))
    return replaced


def _updates_by_file(adapter: Adapter, base: Checkpoint) -> dict[int, list[Update]]:
    """The updates of each file of the base, by its id. Raises CheckpointError (corrupt, unsupported)."""
    by_file: dict[int, list[Update]] = defaultdict(list)
    for factors in adapter.factors.values():
        in_base = _name_in(base.tensors, f"{factors.module}.weight")
        if in_base is None:
            raise CheckpointError(
                "corrupt",
                f"tensor {factors.module}.weight, which the adapter changes, is not in the base; name that it was trained on",
            )
        weight = base.tensors[in_base]
        if any(update.entry.start == weight.entry.start for update in by_file[id(weight.file)]):
            raise CheckpointError(
                "unsupported", f"tensor {weight.name} is that of two adapted modules; merge it with peft"
            )
        by_file[id(weight.file)].append(_update(adapter, factors, weight))
    return dict(by_file)


def _update(adapter: Adapter, factors: Factors, weight: Tensor) -> Update:
    """Raises CheckpointError."""
    if weight.dtype not in STORED_TYPES:
        raise CheckpointError(
            "unsupported",
            f"tensor {weight.name} of the base is of type {weight.dtype}; name the base whose weights are F16, BF16, F32 or F64",
        )
    straight = (factors.b.shape[0], *factors.a.shape[1:])
    turned = straight[::-1] if len(straight) == 2 else straight
    if weight.shape not in (straight, turned):
        raise _other_shape(weight, straight, f"lora_B and lora_A of {factors.module}")
    # Only of a square one it cannot be seen.
    is_turned = weight.shape != straight if straight != turned else bool(adapter.config.get("fan_in_fan_out"))
    return Update(weight.entry, factors, adapter.scale(factors), is_turned and len(straight) == 2)


def _name_in(base: Mapping[str, Tensor], name: str) -> str | None:
    """The base's tensor of that name, with or without the prefix of a head model; None where there is none.

    Raises CheckpointError (corrupt) where there are several.
    """
    if name in base:
        return name
    longer = [other for other in base if other.endswith(f".{name}")]
    parts = name.split(".")
    shorter = [".".join(parts[n:]) for n in range(1, len(parts) - 1) if ".".join(parts[n:]) in base]
    if len(longer) > 1:
        raise CheckpointError("corrupt", f"tensor {name} of the adapter may be {longer[0]} or {longer[1]} of the base")
    return next(iter(longer or shorter), None)


def _other_shape(weight: Tensor, shape: tuple[int, ...], of: str) -> CheckpointError:
    return CheckpointError(
        "corrupt",
        f"tensor {weight.name} of the base has shape {list(weight.shape)}, the adapter ({of}) {list(shape)}; "
        "name the base that it was trained on",
    )


def _whole(tensor: Tensor) -> np.ndarray:
    """[rows, all further axes], float32 or float64. Raises CheckpointError."""
    values, _ = tensor.rows(np.arange(tensor.shape[0]))
    values = as_float(values, tensor.dtype)
    return values if values.dtype == np.float64 else values.astype(np.float32, copy=False)
