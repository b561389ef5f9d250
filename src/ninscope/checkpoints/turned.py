"""A matrix W[out, in] read from its other side, as its transpose: rows are nodes, columns are targets.

Where only some of a stored tensor's rows are a node layer (q, k and v of a fused matrix), they are read as a tensor of their own,
and no other bytes but those.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ninscope.checkpoints.formats.weight_file import FileSpan, TensorEntry, WeightFile
from ninscope.checkpoints.matrix import WeightMatrix
from ninscope.checkpoints.tensors import Tensor

_TURNED = {
    "linear": "transposed",
    "transposed": "linear",
    "convolution": "transposed_convolution",
    "transposed_convolution": "convolution",
}


def turned(matrix: WeightMatrix, rows: np.ndarray, name: str, before: int = 0) -> WeightMatrix:
    """The transpose of some rows of a matrix: its nodes are these rows, in their order, its targets the matrix's nodes.

    rows: int64, increasing. name: of the tensor, where they are not all rows. before: rows of the matrix that other parts of it
    have taken, so that no two parts seem to lie at one place of the file.
    """
    layout = replace(matrix.layout, order=_TURNED[matrix.layout.order])
    targets, _ = matrix.size
    if np.array_equal(rows, np.arange(targets)):
        return WeightMatrix(matrix.tensor, layout)
    if matrix.layout.groups > 1:
        raise ValueError(f"{matrix.name}: some rows of a grouped convolution have no layout of their own")
    stored, axis = matrix.tensor, 1 if matrix.layout.nodes_first else 0
    shape = tuple(rows.size if at == axis else size for at, size in enumerate(stored.shape))
    each = (stored.entry.stop - stored.entry.start) // targets
    start = stored.entry.start + before * each
    entry = TensorEntry(name, stored.dtype, shape, start, start + rows.size * each)
    return WeightMatrix(Tensor(entry, _PartFile(stored, rows, axis, entry)), layout)


class _PartFile:
    """A file in which one tensor is some rows, or columns, of a tensor of another file; nothing else is read through it."""

    def __init__(self, stored: Tensor, numbers: np.ndarray, axis: int, entry: TensorEntry) -> None:
        file: WeightFile = stored.file
        self.name, self.size, self.reads_are_free = file.name, file.size, file.reads_are_free
        self._stored, self._numbers, self._axis, self._entry = stored, numbers, axis, entry
        self._row_bytes = (entry.stop - entry.start) // entry.shape[0]

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        return self._joined(ranges, self._stored.file.read_ranges(self._beneath(ranges)))

    def start_ranges(self, ranges: Sequence[tuple[int, int]]) -> Callable[[], list[memoryview]]:
        ranges = list(ranges)
        read = self._stored.file.start_ranges(self._beneath(ranges))
        return lambda: self._joined(ranges, read())

    def spans(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        return self._stored.file.spans(self._beneath(ranges))

    def beneath(self, start: int, stop: int) -> list[FileSpan]:
        """The rows that are stored; where the part is some columns of them, other parts read them as well."""
        file, repeated = self._stored.file, self._axis == 1
        return [FileSpan(file, low, high, is_repeated=repeated) for low, high in self._spans_of(start, stop)]

    def _rows(self, start: int, stop: int) -> tuple[int, int]:
        """The rows of the part that these bytes are: parts are read in whole rows."""
        first, last = ((at - self._entry.start) // self._row_bytes for at in (start, stop))
        if self._entry.start + first * self._row_bytes != start or self._entry.start + last * self._row_bytes != stop:
            raise ValueError(f"bytes {start} to {stop} of {self._entry.name} are not whole rows")
        return first, last

    def _spans_of(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Where the rows of one range lie beneath."""
        first, last = self._rows(start, stop)
        if self._axis == 1:
            runs = [(first, last)]
        else:
            numbers = self._numbers[first:last]
            cuts = np.flatnonzero(np.diff(numbers) != 1) + 1
            runs = [(int(run[0]), int(run[-1]) + 1) for run in np.split(numbers, cuts) if run.size]
        begin, each = self._stored.entry.start, self._stored.row_bytes
        return [(begin + low * each, begin + high * each) for low, high in runs]

    def _beneath(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        return [span for start, stop in ranges for span in self._spans_of(start, stop)]

    def _joined(self, ranges: Sequence[tuple[int, int]], pieces: Sequence[memoryview]) -> list[memoryview]:
        waiting = iter(pieces)
        joined = []
        for start, stop in ranges:
            own = [next(waiting) for _ in self._spans_of(start, stop)]
            content = own[0] if len(own) == 1 else memoryview(b"".join(own))
            joined.append(content if self._axis == 0 else self._columns(content))
        return joined

    def _columns(self, content: memoryview) -> memoryview:
        stored = self._stored
        item = stored.item_bytes * stored.columns // stored.shape[1]
        rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, stored.shape[1], item)
        return memoryview(np.ascontiguousarray(rows[:, self._numbers]).reshape(-1).data)
