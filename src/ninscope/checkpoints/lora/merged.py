"""A LoRA adapter merged into its base: W' = W + scale * B A, row by row as rows are read, so that nothing is held but A and B.

As peft's merge_and_unload. With DoRA each output of that is then scaled to its magnitude. Products are summed in float64, in the
order of the rank, and added to W; the sum is rounded to float32 (F64 weights stay in float64), and from that to F16 or BF16 where
W is stored so. No BLAS: the same bytes on any number of threads.
"""

import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ninscope.checkpoints.file_names import ADAPTER_CONFIG
from ninscope.checkpoints.formats.weight_file import FileSpan, TensorEntry, WeightFile
from ninscope.checkpoints.kernels import row_norms
from ninscope.checkpoints.lora.adapter import Adapter, Factors, adapter_of
from ninscope.checkpoints.lora.places import Names, Place, check_type, other_shape, places_of, shape_tells
from ninscope.checkpoints.low_rank import add_low_rank
from ninscope.checkpoints.reparametrised import effective_tensors
from ninscope.checkpoints.tensors import STORED_TYPES, Checkpoint, Tensor, as_float, as_stored
from ninscope.errors import CheckpointError

# A and B that are kept: bands of a tensor are read one after the other, by several threads, and experts share theirs.
_KEPT_BYTES = 64_000_000
_NORM_ROWS = 256  # of a matrix [in, out], by so many the squares of its outputs are summed


@dataclass(frozen=True)
class Product:
    """What is added to one matrix: scale * left @ right, float64 [rows, r] and [r, columns].

    magnitude: of DoRA, of each output, float64, or None. Outputs are rows, and columns of a matrix that is turned.
    """

    left: np.ndarray
    right: np.ndarray
    magnitude: np.ndarray | None

    @property
    def bytes(self) -> int:
        return self.left.nbytes + self.right.nbytes


@dataclass(frozen=True)
class Update:
    """What is done to one matrix of the base, or to some of its rows."""

    place: Place
    factors: Factors
    scale: float

    @property
    def entry(self) -> TensorEntry:
        return self.place.tensor.entry

    @property
    def row_bytes(self) -> int:
        return (self.entry.stop - self.entry.start) // self.entry.shape[0]

    def product(self) -> Product:
        """Raises CheckpointError."""
        place, rank = self.place, self.factors.rank // self.place.experts
        a, b = (_whole(tensor) for tensor in (self.factors.a, self.factors.b))
        # Of several experts, rows of A stand expert by expert, and columns of B take turns.
        a, b = a[place.expert * rank : (place.expert + 1) * rank], b[:, place.expert :: place.experts]
        left, right = (a.T, b.T) if place.turned else (b, a)
        if place.rows is not None:
            left = left[slice(*place.rows)]
        magnitude = self.factors.magnitude
        return Product(
            np.ascontiguousarray(left, np.float64),
            np.ascontiguousarray(right, np.float64),
            None if magnitude is None else _numbers(magnitude).astype(np.float64).reshape(-1),
        )

    def with_norms(self, product: Product, read: Callable[[int, int], memoryview]) -> Product:
        """Of a matrix [in, out] with magnitudes: what an output is multiplied by takes all rows.

        read(first, last): rows first to last - 1, as the base has them.
        """
        if product.magnitude is None or not self.place.turned:
            return product
        squares = np.zeros(len(product.magnitude))
        for first in range(0, self.entry.shape[0], _NORM_ROWS):
            last = min(first + _NORM_ROWS, self.entry.shape[0])
            for row in self._sums(np.frombuffer(read(first, last), np.uint8), first, product):
                squares += row * row
        with np.errstate(divide="ignore", invalid="ignore"):
            return replace(product, magnitude=product.magnitude / np.sqrt(squares))

    def add_to(self, raw: np.ndarray, first: int, product: Product) -> None:
        """Put the update into rows first, first + 1, ... raw: their bytes, uint8; product: of `with_norms`."""
        dtype = self.entry.dtype
        stored = raw.view(STORED_TYPES[dtype]).reshape(-1, product.right.shape[1])
        if product.magnitude is None:
            add_low_rank(stored, dtype, product.left[first : first + len(stored)], product.right, self.scale)
            return
        sums = self._sums(raw, first, product)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if self.place.turned:
                scaled = sums * product.magnitude
            else:
                scaled = sums * (product.magnitude[first : first + len(sums)] / row_norms(sums))[:, None]
            stored[:] = as_stored(scaled if dtype == "F64" else scaled.astype(np.float32), dtype)

    def _sums(self, raw: np.ndarray, first: int, product: Product) -> np.ndarray:
        """W + scale * B A in rows first, first + 1, ..., float64."""
        stored = raw.view(STORED_TYPES[self.entry.dtype]).reshape(-1, product.right.shape[1])
        sums = as_float(stored, self.entry.dtype).astype(np.float64)
        add_low_rank(sums, "F64", product.left[first : first + len(sums)], product.right, self.scale)
        return sums


class MergedFile:
    """A base's file whose bytes are read with the updates of an adapter in them, where there is one.

    Raises CheckpointError (unsupported): two updates of one matrix.
    """

    def __init__(self, file: WeightFile, updates: Sequence[Update]):
        self.name, self.size, self.reads_are_free = file.name, file.size, file.reads_are_free
        self._file = file
        self._updates = sorted(updates, key=lambda update: update.entry.start)
        self._starts = [update.entry.start for update in self._updates]
        for before, after in zip(self._updates, self._updates[1:], strict=False):
            if after.entry.start < before.entry.stop:
                raise CheckpointError(
                    "unsupported", f"tensor {after.entry.name} is that of two adapted modules; merge it with peft"
                )
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Product] = OrderedDict()

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        return self._merged(ranges, self._file.read_ranges(ranges))

    def start_ranges(self, ranges: Sequence[tuple[int, int]]) -> Callable[[], list[memoryview]]:
        ranges = list(ranges)
        read = self._file.start_ranges(ranges)
        return lambda: self._merged(ranges, read())

    def spans(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """The spans of the base; what is fetched of the adapter is a small part of them."""
        return self._file.spans(ranges)

    def beneath(self, start: int, stop: int) -> list[FileSpan]:
        """What is read of the base, and beside it all of the factors: once for each update, and by each thread that is early."""
        inside = [self._updates[number] for number in self._inside(start, stop)]
        needs_norms = any(update.factors.magnitude is not None and update.place.turned for update in inside)
        factors = {
            tensor.name: FileSpan(tensor.file, tensor.entry.start, tensor.entry.stop, is_beside=True, is_repeated=True)
            for update in inside
            for tensor in update.factors.tensors
        }
        return [FileSpan(self._file, start, stop, is_repeated=needs_norms), *factors.values()]

    def _inside(self, start: int, stop: int) -> list[int]:
        """The updates of these bytes, by number."""
        first_inside = max(bisect_right(self._starts, start) - 1, 0)
        numbers = range(first_inside, bisect_left(self._starts, stop))
        return [number for number in numbers if self._updates[number].entry.stop > start]

    def _merged(self, ranges: Sequence[tuple[int, int]], pieces: Sequence[memoryview]) -> list[memoryview]:
        return [self._merge(start, stop, piece) for (start, stop), piece in zip(ranges, pieces, strict=True)]

    def _merge(self, start: int, stop: int, piece: memoryview) -> memoryview:
        """Tensors are read in whole rows, of one matrix or of several that stand one after the other."""
        inside = self._inside(start, stop)
        if not inside or start == stop:
            return piece
        merged = np.frombuffer(piece, np.uint8)
        if piece.readonly or not self.reads_are_free:  # bytes of a local file were read for this call alone
            merged = merged.copy()
        for number in inside:
            update = self._updates[number]
            entry = update.entry
            low, high = max(start, entry.start), min(stop, entry.stop)
            first, beside = divmod(low - entry.start, update.row_bytes)
            if beside or (high - low) % update.row_bytes:
                raise CheckpointError(
                    "unsupported",
                    f"tensor {entry.name} holds several matrices, which no lora_A and lora_B are merged into",
                )
            update.add_to(merged[low - start : high - start], first, self._product_of(number))
        return merged.data

    def _product_of(self, number: int) -> Product:
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
        update = self._updates[number]
        start, row_bytes = update.entry.start, update.row_bytes

        def read(first: int, last: int) -> memoryview:
            return self._file.read_ranges([(start + first * row_bytes, start + last * row_bytes)])[0]

        product = update.with_norms(update.product(), read)
        with self._lock:
            self._kept[number] = product
            while len(self._kept) > 1 and sum(kept.bytes for kept in self._kept.values()) > _KEPT_BYTES:
                self._kept.popitem(last=False)
        return product


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
    update.settings.check_mergeable()
    model_type = base.config.get("model_type")
    of_base = effective_tensors(base.tensors)  # an update is added to the weight that the model uses
    replaced = _replaced(update, Names(of_base, model_type))
    tensors = {**of_base, **replaced}
    files = {id(tensor.file): tensor.file for tensor in tensors.values()}
    updates = _updates_by_file(update, Names(tensors, model_type))
    merged = {key: MergedFile(files[key], of_file) for key, of_file in updates.items()}
    tensors = {name: replace(tensor, file=merged.get(id(tensor.file), tensor.file)) for name, tensor in tensors.items()}
    return replace(adapter, config=_config(base, replaced), tensors=tensors)


def _config(base: Checkpoint, replaced: Mapping[str, Tensor]) -> dict:
    """The base's configuration; where tokens were added, with their number."""
    stated = base.config.get("vocab_size")
    for name, tensor in replaced.items():
        before = base.tensors.get(name)
        if before is not None and type(stated) is int and before.shape[0] == stated != tensor.shape[0]:
            return base.config | {"vocab_size": tensor.shape[0]}
    return base.config


def _replaced(adapter: Adapter, base: Names) -> dict[str, Tensor]:
    """Tensors that take the place of the base's, by the base's names; new ones (a head) by their own. Raises CheckpointError.

    Outside the numbered blocks rows may be more, or fewer: tokens that were added, classes.
    """
    replaced = {}
    for name, tensor in {**adapter.copies, **adapter.whole}.items():
        in_base = base.find(name)
        if in_base is None and name in adapter.copies:  # a head that is tied, and stored as the embedding alone
            in_base = base.embedding_of(name)
        first = int(not any(part.isdigit() for part in name.split(".")))  # axis that must agree, and all after it
        if in_base is not None and base.tensors[in_base].shape[first:] != tensor.shape[first:]:
            raise other_shape(base.tensors[in_base], tensor.shape, tensor.name)
        replaced[in_base or name] = replace(tensor, entry=replace(tensor.entry, name=in_base or name))
    return replaced


def _updates_by_file(adapter: Adapter, base: Names) -> dict[int, list[Update]]:
    """The updates of each file, by its id. Raises CheckpointError (corrupt, unsupported)."""
    by_file: dict[int, list[Update]] = defaultdict(list)
    turned_elsewhere = any(shape_tells(factors, base) for factors in adapter.factors)
    for factors in adapter.factors:
        for place in places_of(adapter, factors, base, turned_elsewhere):
            check_type(place.tensor)
            scale = adapter.settings.scale(place.key, factors.rank // place.experts)
            by_file[id(place.tensor.file)].append(Update(place, factors, scale))
    return dict(by_file)


def _whole(tensor: Tensor) -> np.ndarray:
    """[rows, all further axes], float32 or float64. Raises CheckpointError."""
    values, _ = tensor.rows(np.arange(tensor.shape[0]))
    values = as_float(values, tensor.dtype)
    return values if values.dtype == np.float64 else values.astype(np.float32, copy=False)


def _numbers(tensor: Tensor) -> np.ndarray:
    """All numbers of a vector. Raises CheckpointError (nonfinite)."""
    entry = tensor.entry
    (piece,) = tensor.file.read_ranges([(entry.start, entry.stop)])
    stored = np.frombuffer(piece, STORED_TYPES[entry.dtype]).reshape(1, -1)
    row = replace(tensor, entry=replace(entry, shape=stored.shape))
    row.check_finite(stored, np.zeros(1, np.int64))
    return as_float(stored, entry.dtype)
