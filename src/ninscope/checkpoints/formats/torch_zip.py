"""pytorch_model.bin, read without torch and without running any of its pickle.

Since torch 1.6 such a file is an uncompressed zip: `<name>/data.pkl` describes the tensors (`torch_pickle.py`) and
`<name>/data/<key>` holds each storage. What comes out is where each tensor lies, and its bytes are read by ranges like any
other file's.
"""

import io
import math
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ninscope.checkpoints.formats.torch_pickle import TensorNote, state_dict
from ninscope.checkpoints.formats.weight_file import ITEM_BYTES, Complaint, FileSpan, TensorEntry, WeightFile, reader_of
from ninscope.errors import CheckpointError

MAX_PICKLE_BYTES = 16_000_000
MAX_DIRECTORY_BYTES = 4_000_000  # of some 60,000 storages
MAX_MOVED = 10_000  # storages whose headers are read one by one, where they are not as torch pads them
# The pickle stands at the beginning, the directory at the end; of some 300 tensors these hold either: two requests.
HEAD_BYTES, TAIL_BYTES = 1 << 15, 1 << 15
LOCAL_HEADER_BYTES = 30
SMALL_GAP_BYTES = 1024  # cheaper read through than asked for anew
ALIGNMENT = 64  # torch pads a local header so that data begins at a multiple


Read = Callable[[int, int], bytes]  # read(start, stop) gives exactly those bytes


@dataclass(frozen=True)
class Storage:
    """One storage of a file. header: where its local header starts; start: where its bytes should, by torch's padding."""

    header: int
    start: int
    bytes: int
    name_bytes: int


@dataclass(frozen=True)
class TorchDirectory:
    """Tensors of a file, and the storages that they lie in by their predicted start."""

    tensors: dict[str, TensorEntry]
    storages: tuple[Storage, ...]


def is_zip(first: bytes | memoryview) -> bool:
    """Whether a file that begins so may be one of torch's zip files; older ones begin with a pickle."""
    return first[:4] == b"PK\x03\x04"


def open_tensors(file: WeightFile) -> tuple[dict[str, TensorEntry], WeightFile]:
    """Its tensors by name, at predicted places, and the file that reads them where they are. Raises CheckpointError."""
    directory = read_directory(reader_of(file), file.size, file.name)
    return directory.tensors, TorchFile(file, directory.storages)


def read_directory(read: Read, size: int, where: str) -> TorchDirectory:
    """Tensor entries of a pytorch_model.bin, every offset checked against the file.

    read(start, stop) returns exactly those bytes; size is the file's length in bytes; where names it in messages.

    Raises CheckpointError: unsupported (not a zip: written before torch 1.6; tensors that are not contiguous), corrupt (the
    zip or its pickle makes no sense, names what no tensor needs, or leads out of the file).
    """

    complaint = Complaint(where)
    read = _Ends(read, size, complaint).read
    if size < 4 or not is_zip(read(0, 4)):
        raise CheckpointError(
            "unsupported",
            f"{where}: not a zip file, so written before torch 1.6, or by something else; convert it: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'model.safetensors')",
        )
    members = _members(read, size, complaint)
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise complaint.corrupt(f"{len(pickles)} data.pkl in it where torch writes one")
    root = pickles[0].removesuffix("data.pkl")
    order = members.get(f"{root}byteorder")
    if order is not None and _content(read, order, 16, complaint) != b"little":
        raise complaint.unsupported("written by a big-endian machine")
    described = state_dict(_content(read, members[pickles[0]], MAX_PICKLE_BYTES, complaint), complaint)
    storages: dict[str, Storage] = {}
    for name, tensor in described.items():
        stored = members.get(f"{root}data/{tensor.storage.key}")
        if stored is None:
            raise complaint.corrupt(f"the storage {tensor.storage.key!r} of tensor {name} is not in it")
        if tensor.storage.key not in storages:
            storages[tensor.storage.key] = _storage(stored, size, complaint)
    storages = _apart(storages, read, size, complaint)
    tensors = {
        name: _entry(name, tensor, storages[tensor.storage.key], complaint) for name, tensor in described.items()
    }
    return TorchDirectory(tensors, tuple(sorted(storages.values(), key=lambda storage: storage.start)))


def _members(read: Read, size: int, complaint: Complaint) -> dict[str, zipfile.ZipInfo]:
    """The members of a zip file by name. Raises CheckpointError (corrupt)."""
    members: dict[str, zipfile.ZipInfo] = {}
    try:
        listed = zipfile.ZipFile(_Window(read, size, complaint)).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise complaint.corrupt(f"not a whole zip file ({error})") from None
    for member in listed:
        if member.filename in members:
            raise complaint.corrupt(f"{member.filename} stands in it twice")
        members[member.filename] = member
    return members


def _apart(storages: dict[str, Storage], read: Read, size: int, complaint: Complaint) -> dict[str, Storage]:
    """The storages, none in another's place: where torch's padding would have them overlap, at their real places."""
    if not _overlap(storages.values()):
        return storages
    if len(storages) > MAX_MOVED:
        raise complaint.corrupt(f"its {len(storages)} storages are not where torch would have put them")
    moved = {
        key: replace(
            storage,
            start=data_start(read(storage.header, storage.header + LOCAL_HEADER_BYTES), storage, complaint.where),
        )
        for key, storage in storages.items()
    }
    if _overlap(moved.values()) or any(storage.start + storage.bytes > size for storage in moved.values()):
        raise complaint.corrupt("its storages overlap, or lead out of the file")
    return moved


def _overlap(storages: Iterable[Storage]) -> bool:
    ordered = sorted(storages, key=lambda storage: (storage.header, storage.start))
    return any(
        before.start + before.bytes > after.header or before.start >= after.start for before, after in pairwise(ordered)
    )


def data_start(header: bytes | memoryview, storage: Storage, where: str) -> int:
    """Where a storage's bytes really start, from its local header. Raises CheckpointError (corrupt)."""
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    if not is_zip(header) or name != storage.name_bytes or int.from_bytes(header[8:10], "little"):
        raise CheckpointError(
            "corrupt", f"{where}: a local header of the zip is not where it should be; fetch the file again"
        )
    return storage.header + LOCAL_HEADER_BYTES + name + extra


@dataclass(frozen=True)
class _Request:
    """What is asked of a file for some ranges: for each its storage, where it should be, and how much of a local header comes
    before it; then the storages whose headers come alone; and all of it as spans."""

    numbers: list[int]
    wanted: list[tuple[int, int]]
    leads: list[int]
    alone: list[int]
    spans: list[tuple[int, int]]


class TorchFile:
    """The file of a `TorchDirectory`, read at its tensors' predicted places.

    A storage's bytes begin behind its local header, whose length the directory does not tell: torch's padding is predicted,
    and the header is read along with the bytes. Where the prediction was wrong, they are read again where they are.
    """

    def __init__(self, file: WeightFile, storages: Sequence[Storage]):
        self.name, self.size, self.reads_are_free = file.name, file.size, file.reads_are_free
        self._file = file
        self._storages = storages
        self._predicted = [storage.start for storage in storages]
        self._real: dict[int, int] = {}  # place in `storages` -> where its bytes begin

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """The bytes at predicted places [start, stop), each within one storage. Raises CheckpointError."""
        request = self._requested(ranges)
        return self._pieces(request, ranges, self._file.read_ranges(request.spans))

    def start_ranges(self, ranges: Sequence[tuple[int, int]]) -> Callable[[], list[memoryview]]:
        request = self._requested(ranges)
        read = self._file.start_ranges(request.spans)
        return lambda: self._pieces(request, ranges, read())

    def spans(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        return self._file.spans(self._requested(ranges).spans)

    def beneath(self, start: int, stop: int) -> list[FileSpan]:
        """Where these bytes are as far as is known; local headers are next to nothing."""
        at = bisect_right(self._predicted, start) - 1
        return [FileSpan(self._file, *self._moved(at, (start, stop)))]

    def _requested(self, ranges: Sequence[tuple[int, int]]) -> "_Request":
        numbers = [bisect_right(self._predicted, start) - 1 for start, _ in ranges]
        wanted = [self._moved(at, span) for at, span in zip(numbers, ranges, strict=True)]
        unknown = set(numbers) - self._real.keys()
        # A header that stands just before what is wanted of its storage comes in the same request.
        leads = [0] * len(ranges)
        for number, (at, (start, _)) in enumerate(zip(numbers, wanted, strict=True)):
            if at in unknown and start - self._storages[at].header <= SMALL_GAP_BYTES:
                leads[number] = start - self._storages[at].header
                unknown.discard(at)
        alone = sorted(unknown)
        spans = [(start - lead, stop) for (start, stop), lead in zip(wanted, leads, strict=True)]
        spans += [(self._storages[at].header, self._storages[at].header + LOCAL_HEADER_BYTES) for at in alone]
        return _Request(numbers, wanted, leads, alone, spans)

    def _pieces(
        self, request: "_Request", ranges: Sequence[tuple[int, int]], pieces: list[memoryview]
    ) -> list[memoryview]:
        for at, header in zip(request.alone, pieces[len(ranges) :], strict=True):
            self._learn(at, header)
        requested = []
        for at, piece, lead in zip(request.numbers, pieces, request.leads, strict=False):
            if lead:
                self._learn(at, piece)
            requested.append(piece[lead:])
        moved = [self._moved(at, span) for at, span in zip(request.numbers, ranges, strict=True)]
        again = [
            number for number, (before, after) in enumerate(zip(request.wanted, moved, strict=True)) if before != after
        ]
        for number, piece in zip(
            again, self._file.read_ranges([moved[n] for n in again]) if again else (), strict=True
        ):
            requested[number] = piece
        return requested

    def _learn(self, at: int, header: memoryview) -> None:
        """Where a storage's bytes begin. Raises CheckpointError where its local header makes no sense."""
        storage = self._storages[at]
        start = data_start(bytes(header[:LOCAL_HEADER_BYTES]), storage, self.name)
        if start + storage.bytes > self.size:
            raise CheckpointError("corrupt", f"{self.name}: a storage leads out of the file; fetch the file again")
        self._real[at] = start

    def _moved(self, at: int, span: tuple[int, int]) -> tuple[int, int]:
        """Where a span is, as far as is known."""
        storage = self._storages[at]
        shift = self._real.get(at, storage.start) - storage.start
        return span[0] + shift, span[1] + shift


def _storage(member: zipfile.ZipInfo, size: int, complaint: Complaint) -> Storage:
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise complaint.corrupt(f"{member.filename} is compressed, which torch does not do")
    name = len(member.orig_filename.encode())
    # torch's padding is an extra field of 4 bytes and more
    unpadded = member.header_offset + LOCAL_HEADER_BYTES + name + 4
    start = -(-unpadded // ALIGNMENT) * ALIGNMENT
    if member.header_offset < 0 or start + member.file_size > size:
        raise complaint.corrupt(f"{member.filename} leads out of the file (a truncated download?)")
    return Storage(member.header_offset, start, member.file_size, name)


def _entry(name: str, tensor: TensorNote, storage: Storage, complaint: Complaint) -> TensorEntry:
    dtype, shape = tensor.storage.dtype, tensor.shape
    item = ITEM_BYTES[dtype]
    items = math.prod(shape)
    expected = [math.prod(shape[at + 1 :]) for at in range(len(shape))]
    if items and any(
        stride != wanted for stride, wanted, n in zip(tensor.stride, expected, shape, strict=True) if n > 1
    ):
        raise complaint.unsupported(f"tensor {name} is not stored row by row")
    if tensor.storage.items * item != storage.bytes or tensor.offset + items > tensor.storage.items:
        raise complaint.corrupt(f"tensor {name} of type {dtype} and shape {list(shape)} does not fit its storage")
    start = storage.start + tensor.offset * item
    return TensorEntry(name, dtype, shape, start, start + items * item)


class _Ends:
    """The two ends of a file, each fetched when it is first needed; what lies between is fetched as it is asked for."""

    def __init__(self, read: Read, size: int, complaint: Complaint):
        self._read, self._size, self._complaint = read, size, complaint
        self._spans = ((0, min(HEAD_BYTES, size)), (max(size - TAIL_BYTES, 0), size))
        self._held: dict[tuple[int, int], bytes] = {}

    def read(self, start: int, stop: int) -> bytes:
        if not 0 <= start <= stop <= self._size:
            raise self._complaint.corrupt("its zip leads out of the file (a truncated download?)")
        for first, last in self._spans:
            if first <= start and stop <= last:
                if (first, last) not in self._held:
                    self._held[first, last] = self._read(first, last)
                return bytes(self._held[first, last][start - first : stop - first])
        return self._read(start, stop)


class _Window(io.RawIOBase):
    """A file of ranges, for zipfile, of which nothing large is ever read."""

    def __init__(self, read: Read, size: int, complaint: Complaint):
        self._read, self._size, self._complaint, self._at = read, size, complaint, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (0, self._at, self._size)[whence]
        if at < 0:
            raise ValueError("an offset before the file")
        self._at = at
        return at

    def read(self, count: int = -1) -> bytes:
        stop = self._size if count is None or count < 0 else min(self._at + count, self._size)
        start, self._at = self._at, max(stop, self._at)
        if stop - start > MAX_DIRECTORY_BYTES:
            raise self._complaint.corrupt(f"its zip directory would take {stop - start} bytes")
        return self._read(start, stop) if start < stop else b""


def _content(read: Read, member: zipfile.ZipInfo, limit: int, complaint: Complaint) -> bytes:
    """A small member's bytes. Raises CheckpointError."""
    if member.file_size > limit or member.compress_type != zipfile.ZIP_STORED:
        raise complaint.corrupt(f"{member.filename} takes {member.file_size} bytes or is compressed")
    header = read(member.header_offset, member.header_offset + LOCAL_HEADER_BYTES)
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    start = member.header_offset + LOCAL_HEADER_BYTES + name + extra
    content = read(start, start + member.file_size)
    if zlib.crc32(content) != member.CRC:
        raise complaint.corrupt(f"{member.filename} fails its checksum")
    return content
