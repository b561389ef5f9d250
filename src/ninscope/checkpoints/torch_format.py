"""pytorch_model.bin, read without torch and without running any of its pickle.

Since torch 1.6 such a file is an uncompressed zip: `<name>/data.pkl` describes the tensors and `<name>/data/<key>` holds each
storage. The pickle is untrusted: its opcodes are checked one by one before anything is built, it may name the functions that
rebuild tensors, the types of storages and OrderedDict, and what these names lead to here is code of this module that only
notes what it is told. What comes out is where each tensor lies, and its bytes are read by ranges like any other file's.
"""

import io
import math
import pickle
import pickletools
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ninscope.checkpoints.safetensors_format import ITEM_BYTES, MAX_DIMENSIONS, TensorEntry
from ninscope.checkpoints.weight_file import WeightFile
from ninscope.errors import CheckpointError

MAX_PICKLE_BYTES = 16_000_000
MAX_DIRECTORY_BYTES = 16_000_000
TAIL_BYTES = 1 << 16  # holds the directory of some 500 tensors: one request
LOCAL_HEADER_BYTES = 30
ALIGNMENT = 64  # torch pads a local header so that data begins at a multiple

# torch's storage types by safetensors' names.
_STORAGES = {
    "HalfStorage": "F16", "BFloat16Storage": "BF16", "FloatStorage": "F32", "DoubleStorage": "F64", "LongStorage": "I64",
    "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
}  # fmt: skip
_DTYPES = {
    "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64", "int64": "I64", "int32": "I32", "int16": "I16",
    "int8": "I8", "uint8": "U8", "bool": "BOOL", "half": "F16", "float": "F32", "double": "F64",
}  # fmt: skip
# What a state dictionary of tensors is written with, in pickle protocols 2 to 5; whatever else there is makes something else.
_OPCODES = frozenset({
    "PROTO", "FRAME", "STOP", "MARK", "EMPTY_DICT", "EMPTY_TUPLE", "EMPTY_LIST", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "APPEND", "APPENDS", "SETITEM", "SETITEMS", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
    "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GLOBAL",
    "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID",
})  # fmt: skip


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


def is_zip(first: bytes) -> bool:
    """Whether a file that begins so may be one of torch's zip files; older ones begin with a pickle."""
    return first[:4] == b"PK\x03\x04"


def read_directory(read: Callable[[int, int], bytes], size: int, where: str) -> TorchDirectory:
    """Tensor entries of a pytorch_model.bin, every offset checked against the file.

    read(start, stop) returns exactly those bytes; size is the file's length in bytes; where names it in messages.

    Raises CheckpointError: unsupported (not a zip: written before torch 1.6; tensors that are not contiguous), corrupt (the
    zip or its pickle makes no sense, names what no tensor needs, or leads out of the file).
    """

    def corrupt(reason: str) -> CheckpointError:
        return CheckpointError("corrupt", f"{where}: {reason}; fetch the file again")

    if size < 4 or not is_zip(read(0, 4)):
        raise CheckpointError(
            "unsupported",
            f"{where}: not a zip file, so written before torch 1.6, or by something else; convert it: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'model.safetensors')",
        )
    try:
        members = zipfile.ZipFile(_Window(read, size, corrupt)).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise corrupt(f"not a whole zip file ({error})") from None
    found = {}
    for member in members:
        if member.filename in found:
            raise corrupt(f"{member.filename} stands in it twice")
        found[member.filename] = member
    pickles = [name for name in found if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise corrupt(f"{len(pickles)} data.pkl in it where torch writes one")
    root = pickles[0].removesuffix("data.pkl")
    if (
        found.get(root + "byteorder") is not None
        and _content(read, found[root + "byteorder"], 16, corrupt) != b"little"
    ):
        raise CheckpointError("unsupported", f"{where}: written by a big-endian machine; convert it to safetensors")
    described = _state_dict(_content(read, found[pickles[0]], MAX_PICKLE_BYTES, corrupt), where, corrupt)
    storages: dict[str, Storage] = {}
    tensors = {}
    for name, tensor in described.items():
        member = found.get(f"{root}data/{tensor.storage.key}")
        if member is None:
            raise corrupt(f"the storage {tensor.storage.key!r} of tensor {name} is not in it")
        storage = storages.setdefault(member.filename, _storage(member, size, corrupt))
        tensors[name] = _entry(name, tensor, storage, where, corrupt)
    return TorchDirectory(tensors, tuple(sorted(storages.values(), key=lambda storage: storage.start)))


def data_start(header: bytes, storage: Storage, where: str) -> int:
    """Where a storage's bytes really start, from its local header. Raises CheckpointError (corrupt)."""
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    if not is_zip(header) or name != storage.name_bytes or int.from_bytes(header[8:10], "little"):
        raise CheckpointError(
            "corrupt", f"{where}: a local header of the zip is not where it should be; fetch the file again"
        )
    return storage.header + LOCAL_HEADER_BYTES + name + extra


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

    def read_ranges(self, ranges: list[tuple[int, int]]) -> list[memoryview]:
        """The bytes at predicted places [start, stop), each within one storage. Raises CheckpointError."""
        places = [bisect_right(self._predicted, start) - 1 for start, _ in ranges]
        unknown = sorted(set(places) - self._real.keys())
        headers = [(self._storages[at].header, self._storages[at].header + LOCAL_HEADER_BYTES) for at in unknown]
        wanted = [self._moved(at, span) for at, span in zip(places, ranges, strict=True)]
        pieces = self._file.read_ranges([*headers, *wanted])
        for at, header in zip(unknown, pieces, strict=False):
            self._real[at] = data_start(bytes(header), self._storages[at], self.name)
            if self._real[at] + self._storages[at].bytes > self.size:
                raise CheckpointError("corrupt", f"{self.name}: a storage leads out of the file; fetch the file again")
        found = pieces[len(headers) :]
        moved = [self._moved(at, span) for at, span in zip(places, ranges, strict=True)]
        again = [number for number, (one, other) in enumerate(zip(wanted, moved, strict=True)) if one != other]
        for number, piece in zip(
            again, self._file.read_ranges([moved[n] for n in again]) if again else (), strict=True
        ):
            found[number] = piece
        return found

    def _moved(self, at: int, span: tuple[int, int]) -> tuple[int, int]:
        """Where a span is, as far as is known."""
        storage = self._storages[at]
        shift = self._real.get(at, storage.start) - storage.start
        return span[0] + shift, span[1] + shift


def _storage(member: zipfile.ZipInfo, size: int, corrupt) -> Storage:
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise corrupt(f"{member.filename} is compressed, which torch does not do")
    name = len(member.orig_filename.encode())
    unpadded = (
        member.header_offset + LOCAL_HEADER_BYTES + name + 4
    )  # torch's padding is an extra field of 4 bytes and more
    start = -(-unpadded // ALIGNMENT) * ALIGNMENT
    if member.header_offset < 0 or start + member.file_size > size:
        raise corrupt(f"{member.filename} leads out of the file (a truncated download?)")
    return Storage(member.header_offset, start, member.file_size, name)


def _entry(name: str, tensor: "_Tensor", storage: Storage, where: str, corrupt) -> TensorEntry:
    dtype, shape = tensor.storage.dtype, tensor.shape
    item = ITEM_BYTES[dtype]
    items = math.prod(shape)
    expected = [math.prod(shape[at + 1 :]) for at in range(len(shape))]
    if items and any(
        stride != wanted for stride, wanted, n in zip(tensor.stride, expected, shape, strict=True) if n > 1
    ):
        raise CheckpointError(
            "unsupported", f"{where}: tensor {name} is not stored row by row; convert it to safetensors"
        )
    if tensor.storage.items * item != storage.bytes or tensor.offset + items > tensor.storage.items:
        raise corrupt(f"tensor {name} of type {dtype} and shape {list(shape)} does not fit its storage")
    start = storage.start + tensor.offset * item
    return TensorEntry(name, dtype, shape, start, start + items * item)


class _Window(io.RawIOBase):
    """A file of ranges, for zipfile: its tail is fetched once, and nothing large is ever read."""

    def __init__(self, read: Callable[[int, int], bytes], size: int, corrupt):
        self._read, self._size, self._corrupt, self._at = read, size, corrupt, 0
        self._tail_start = max(size - TAIL_BYTES, 0)
        self._tail = read(self._tail_start, size)

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
            raise self._corrupt(f"its zip directory would take {stop - start} bytes")
        if start >= stop:
            return b""
        if start >= self._tail_start:
            return bytes(self._tail[start - self._tail_start : stop - self._tail_start])
        return self._read(start, stop)


def _content(read, member: zipfile.ZipInfo, limit: int, corrupt) -> bytes:
    """A small member's bytes. Raises CheckpointError."""
    if member.file_size > limit or member.compress_type != zipfile.ZIP_STORED:
        raise corrupt(f"{member.filename} takes {member.file_size} bytes or is compressed")
    header = read(member.header_offset, member.header_offset + LOCAL_HEADER_BYTES)
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    start = member.header_offset + LOCAL_HEADER_BYTES + name + extra
    content = read(start, start + member.file_size)
    if zlib.crc32(content) != member.CRC:
        raise corrupt(f"{member.filename} fails its checksum")
    return content


@dataclass(frozen=True)
class _StorageRef:
    dtype: str
    key: str
    items: int


@dataclass(frozen=True)
class _Tensor:
    storage: _StorageRef
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _state_dict(raw: bytes, where: str, corrupt) -> dict[str, _Tensor]:
    """The tensors of a state dictionary by name; other values in it (a step, None) are left out."""
    try:
        for opcode, _, _ in pickletools.genops(raw):
            if opcode.name not in _OPCODES:
                raise corrupt(f"its pickle uses {opcode.name}, which no tensor needs; nothing of it was run")
        loaded = _Notes(raw, corrupt).load()
    except CheckpointError:
        raise
    except Exception as error:  # whatever a broken pickle leads to
        raise corrupt(f"its pickle makes no sense ({type(error).__name__})") from None
    if isinstance(loaded, dict) and "state_dict" in loaded and isinstance(loaded["state_dict"], dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise corrupt("its pickle holds no dictionary of tensors")
    return {name: tensor for name, tensor in loaded.items() if isinstance(name, str) and isinstance(tensor, _Tensor)}


class _Notes(pickle._Unpickler):
    """Builds dictionaries, lists, tuples and notes of tensors. The pure Python class: its memo is a dictionary, where the
    compiled one allocates as many entries as a stranger's number says.
    """

    dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)

    def __init__(self, raw: bytes, corrupt):
        super().__init__(io.BytesIO(raw), encoding="utf-8")
        self._corrupt = corrupt

    def load_build(self) -> None:
        """Attributes, which torch hangs on a state dictionary (`_metadata`), are dropped: nothing here has any."""
        self.stack.pop()
        if type(self.stack[-1]) is not dict:
            raise ValueError("attributes of something that is no dictionary")

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def load_setitems(self) -> None:
        self._set(self.pop_mark())

    def _set(self, items: list) -> None:
        # Keys of nested tuples could take for ever to hash.
        if type(self.stack[-1]) is not dict or not all(type(key) in (str, int) for key in items[::2]):
            raise ValueError("not a dictionary by names")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems

    def find_class(self, module: str, name: str):
        if (module, name) == ("collections", "OrderedDict"):
            return _new_dictionary
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return _rebuild_tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _rebuild_parameter
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch.storage" and name == "UntypedStorage":
            return "U8"
        raise self._corrupt(f"its pickle names {module}.{name}, which no tensor needs; nothing of it was run")

    def persistent_load(self, identity) -> _StorageRef:
        kind, dtype, key, _, items = identity
        if kind != "storage" or not isinstance(dtype, str) or not _count(items) or not isinstance(key, str):
            raise ValueError("not a storage")
        if not key or any(mark in key for mark in ("/", "\\", "\0")):
            raise ValueError("not a storage's key")
        return _StorageRef(dtype, key, items)

    def get_extension(self, code) -> None:
        raise ValueError("extensions are not known")


def _new_dictionary() -> dict:
    return {}


def _rebuild_tensor(storage, offset, shape, stride, *_) -> _Tensor:
    if (
        not isinstance(storage, _StorageRef)
        or not _count(offset)
        or len(shape) != len(stride)
        or len(shape) > MAX_DIMENSIONS
    ):
        raise ValueError("not a tensor")
    if not all(map(_count, (*shape, *stride))):
        raise ValueError("not a tensor's shape")
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


def _rebuild_parameter(tensor, *_) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise ValueError("not a tensor")
    return tensor


def _count(value) -> bool:
    return type(value) is int and 0 <= value < 2**63
