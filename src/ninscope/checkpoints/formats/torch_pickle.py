"""The pickle inside a pytorch_model.bin, read without running any of it.

It is untrusted: its opcodes are checked one by one before anything is built, it may name the functions that rebuild tensors,
the types of storages and OrderedDict, and what these names lead to here is code of this module that only notes what it is
told.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ninscope.checkpoints.formats.weight_file import ITEM_BYTES, MAX_DIMENSIONS, Complaint
from ninscope.errors import CheckpointError

# A tensor takes about 30 steps of a pickle, two or four of them calls: enough for some 30,000 tensors.
MAX_STEPS, MAX_TENSORS = 1_000_000, 200_000
MAX_ARGUMENTS, MAX_KEY = 8, 100

# torch's storage types by safetensors' names.
_STORAGES = {
    "HalfStorage": "F16", "BFloat16Storage": "BF16", "FloatStorage": "F32", "DoubleStorage": "F64", "LongStorage": "I64",
    "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
}  # fmt: skip
_DTYPES = {
    "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64", "int64": "I64", "int32": "I32", "int16": "I16",
    "int8": "I8", "uint8": "U8", "bool": "BOOL", "half": "F16", "float": "F32", "double": "F64", "uint16": "U16",
    "uint32": "U32", "uint64": "U64", "complex64": "C64", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0", "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
}  # fmt: skip
# What a state dictionary of tensors is written with, in pickle protocols 2 to 5; whatever else there is makes something else.
_OPCODES = frozenset({
    "PROTO", "FRAME", "STOP", "MARK", "EMPTY_DICT", "EMPTY_TUPLE", "EMPTY_LIST", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "APPEND", "APPENDS", "SETITEM", "SETITEMS", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
    "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GLOBAL",
    "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID", "NEWOBJ", "EMPTY_SET", "ADDITEMS", "SHORT_BINBYTES", "BINBYTES",
})  # fmt: skip
# Under what key trainers keep a model's tensors, beside their optimizer's: the first that holds any. Lightning, nanoGPT and
# litgpt, DeepSpeed, torch's own tutorial.
_WRAPPERS = ("state_dict", "model", "module", "model_state_dict")
_MAX_NESTED = 4
# What trainers keep beside a model, by module: of such an object nothing is made but a note that there was one.
_BUILTINS = frozenset({"bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "set"})
_NUMPY = frozenset({"scalar", "_reconstruct"})
_INERT: dict[str, frozenset[str]] = {
    "builtins": _BUILTINS,
    "__builtin__": _BUILTINS,
    "copyreg": frozenset({"_reconstructor"}),
    "copy_reg": frozenset({"_reconstructor"}),
    "_codecs": frozenset({"encode"}),
    "argparse": frozenset({"Namespace"}),
    "collections": frozenset({"defaultdict", "Counter", "deque"}),
    "datetime": frozenset({"date", "datetime", "timedelta", "timezone"}),
    "numpy": frozenset({"dtype", "ndarray"}),
    "numpy.core.multiarray": _NUMPY,
    "numpy._core.multiarray": _NUMPY,
    "torch": frozenset({"device", "Size"}),
    **dict.fromkeys(
        ("pathlib", "pathlib._local"),
        frozenset({"Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"}),
    ),
    **dict.fromkeys(
        (
            "lightning.fabric.utilities.data",
            "lightning_fabric.utilities.data",
            "lightning.pytorch.utilities.parsing",
            "pytorch_lightning.utilities.parsing",
        ),
        frozenset({"AttributeDict"}),
    ),
}


@dataclass(frozen=True, slots=True)
class _Type:
    """A storage's type. No pickle can make one: a name in a string is not one."""

    name: str


@dataclass(frozen=True, slots=True)
class StorageNote:
    """What a pickle says of a storage: its type as safetensors names it, its key, how many numbers it holds."""

    dtype: str
    key: str
    items: int


@dataclass(frozen=True, slots=True)
class TensorNote:
    """What a pickle says of a tensor; offset and stride in numbers."""

    storage: StorageNote
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Ignored:
    """An object that is no tensor. Whatever a pickle does to it changes nothing."""

    def __call__(self, *_: object) -> "_Ignored":
        return self


def state_dict(raw: bytes, complaint: Complaint) -> dict[str, TensorNote]:
    """The tensors of a state dictionary by name, also of one within a trainer's file; other values (a step, None) are left out.

    Raises CheckpointError: corrupt (the pickle makes no sense), unsupported (it names what no tensor needs).
    """
    try:
        steps = {"REDUCE": 0, "BINPERSID": 0}
        for count, (opcode, _, _) in enumerate(pickletools.genops(raw)):
            name = opcode.name
            if name not in _OPCODES:
                raise complaint.unsupported(f"its pickle uses {name}, which no tensor needs; nothing of it was run")
            if name in steps:
                steps[name] += 1
            if count >= MAX_STEPS or steps.get(name, 0) >= MAX_TENSORS:
                raise complaint.corrupt("its pickle was made to be long; nothing of it was run")
        loaded = _Notes(raw, complaint).load()
    except CheckpointError:
        raise
    except Exception as error:  # whatever a broken pickle leads to
        raise complaint.corrupt(f"its pickle makes no sense ({type(error).__name__})") from None
    for _ in range(_MAX_NESTED):
        loaded = _within(loaded)
    if not isinstance(loaded, dict):
        raise complaint.corrupt("its pickle holds no dictionary of tensors")
    return _tensors_in(loaded)


def _within(loaded: object) -> object:
    """The dictionary of tensors that a trainer's holds; the same object where it is no trainer's."""
    if not isinstance(loaded, dict):
        return loaded
    inner = (loaded.get(key) for key in _WRAPPERS)
    return next((value for value in inner if isinstance(value, dict) and _holds_tensors(value)), loaded)


def _holds_tensors(value: dict, depth: int = 0) -> bool:
    if _tensors_in(value):
        return True
    inner = (value.get(key) for key in _WRAPPERS) if depth < _MAX_NESTED else ()
    return any(isinstance(nested, dict) and _holds_tensors(nested, depth + 1) for nested in inner)


def _tensors_in(values: dict) -> dict[str, TensorNote]:
    return {name: tensor for name, tensor in values.items() if isinstance(name, str) and isinstance(tensor, TensorNote)}


class _Notes(pickle._Unpickler):
    """Builds dictionaries, lists, tuples and notes of tensors. The pure Python class: its memo is a dictionary, where the
    compiled one allocates as many entries as a stranger's number says.
    """

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)

    def __init__(self, raw: bytes, complaint: Complaint):
        super().__init__(io.BytesIO(raw), encoding="utf-8")
        self._complaint = complaint

    def load_build(self) -> None:
        """Attributes, which torch hangs on a state dictionary (`_metadata`), are dropped: nothing here has any."""
        self.stack.pop()
        if type(self.stack[-1]) not in (dict, _Ignored):
            raise ValueError("attributes of something that is no dictionary")

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def load_setitems(self) -> None:
        self._set(self.pop_mark())

    def _set(self, items: list) -> None:
        if type(self.stack[-1]) is _Ignored:
            return
        if type(self.stack[-1]) is not dict:
            raise ValueError("items of something that is no dictionary")
        # Names alone: other keys could be made to take for ever to hash, and name no tensor.
        pairs = zip(items[::2], items[1::2], strict=True)
        self.stack[-1].update((key, value) for key, value in pairs if type(key) is str)

    def load_reduce(self) -> None:
        """Arguments are few: a long tuple would be copied at every call."""
        arguments = self.stack.pop()
        if type(arguments) is not tuple or len(arguments) > MAX_ARGUMENTS:
            raise ValueError("not the arguments of a tensor")
        self.stack[-1] = self.stack[-1](*arguments)

    def load_appends(self) -> None:
        """Lists and sets grow; of what is ignored nothing does."""
        items = self.pop_mark()
        if type(self.stack[-1]) is list:
            self.stack[-1].extend(items)
        elif type(self.stack[-1]) is not _Ignored:
            raise ValueError("entries of something that is no list")

    def load_append(self) -> None:
        item = self.stack.pop()
        if type(self.stack[-1]) is list:
            self.stack[-1].append(item)
        elif type(self.stack[-1]) is not _Ignored:
            raise ValueError("an entry of something that is no list")

    def load_newobj(self) -> None:
        """An object without its constructor: only of what is ignored."""
        self.stack.pop()
        if type(self.stack[-1]) is not _Ignored:
            raise ValueError("an object that is no tensor")

    def load_empty_set(self) -> None:
        self.stack.append(_Ignored())

    def load_additems(self) -> None:
        self.pop_mark()
        if type(self.stack[-1]) is not _Ignored:
            raise ValueError("entries of something that is no set")

    dispatch[pickle.APPENDS[0]] = load_appends
    dispatch[pickle.APPEND[0]] = load_append
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.EMPTY_SET[0]] = load_empty_set
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems

    def find_class(self, module: str, name: str) -> Callable[..., object] | _Type:
        found = _REBUILDERS.get((module, name))
        if found is not None:
            return found
        if module == "torch" and name in _STORAGES:
            return _Type(_STORAGES[name])
        if module == "torch" and name in _DTYPES:
            return _Type(_DTYPES[name])
        if module == "torch.storage" and name == "UntypedStorage":
            return _Type("U8")
        if name in _INERT.get(module, ()):
            return _Ignored()
        raise self._complaint.unsupported(
            f"its pickle names {module[:60]}.{name[:60]}, which no tensor needs; nothing of it was run"
        )

    def persistent_load(self, identity: Any) -> StorageNote:
        kind, dtype, key, _, items = identity
        if kind != "storage" or type(dtype) is not _Type or not _count(items):
            raise ValueError("not a storage")
        if _count(key):  # litgpt numbers them
            key = str(key)
        if type(key) is not str or not 0 < len(key) <= MAX_KEY or any(mark in key for mark in ("/", "\\", "\0")):
            raise ValueError("not a storage's key")
        return StorageNote(dtype.name, key, items)

    def get_extension(self, code: int) -> None:
        raise ValueError("extensions are not known")


def _new_dictionary() -> dict:
    return {}


def _rebuild_tensor(
    storage: object,
    offset: int,
    shape: object,
    stride: object,
    requires_grad: object = False,
    hooks: object = None,
    metadata: object = None,
) -> TensorNote:
    """What torch._utils._rebuild_tensor_v2 is called with; all of it is a stranger's. Raises ValueError."""
    if (
        not isinstance(storage, StorageNote)
        or not _count(offset)
        or type(shape) is not tuple
        or type(stride) is not tuple
    ):
        raise ValueError("not a tensor")
    if len(shape) != len(stride) or len(shape) > MAX_DIMENSIONS or not all(map(_count, (*shape, *stride))):
        raise ValueError("not a tensor's shape")
    if metadata:  # a view that negates, say: what is stored is not what is meant
        raise ValueError("a tensor with metadata")
    return TensorNote(storage, offset, shape, stride)


def _rebuild_tensor_of_type(
    storage: object,
    offset: int,
    shape: object,
    stride: object,
    requires_grad: object = False,
    hooks: object = None,
    dtype: object = None,
    metadata: object = None,
) -> TensorNote:
    """What torch._utils._rebuild_tensor_v3 is called with: of types that have no storage of their own, such as F8.

    The storage is one of bytes, however torch counts it; offset and stride are in numbers. Raises ValueError.
    """
    if not isinstance(storage, StorageNote) or storage.dtype not in ITEM_BYTES or not isinstance(dtype, _Type):
        raise ValueError("not a tensor of a type")
    items, rest = divmod(storage.items * ITEM_BYTES[storage.dtype], ITEM_BYTES[dtype.name])
    if rest:
        raise ValueError("a storage of no whole number of items")
    return _rebuild_tensor(
        StorageNote(dtype.name, storage.key, items), offset, shape, stride, requires_grad, hooks, metadata
    )


def _rebuild_parameter(tensor: object, *_: object) -> TensorNote:
    if not isinstance(tensor, TensorNote):
        raise ValueError("not a tensor")
    return tensor


# The functions that a tensor is rebuilt with, by what a pickle calls them; here each only notes what it is told.
_REBUILDERS: dict[tuple[str, str], Callable[..., object]] = {
    ("collections", "OrderedDict"): _new_dictionary,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_of_type,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
}


def _count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63
