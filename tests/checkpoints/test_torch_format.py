"""pytorch_model.bin as torch itself writes it, and as somebody with other intentions would."""

import argparse
import collections
import contextlib
import datetime
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from suites import neox_config, neox_tensors, write_checkpoint

import ninscope
from ninscope.checkpoints.formats import torch_pickle
from ninscope.checkpoints.formats.torch_zip import TorchFile, read_directory
from ninscope.checkpoints.formats.weight_file import ITEM_BYTES
from ninscope.errors import CheckpointError, one_line

torch = pytest.importorskip("torch")

SHAPE = {"blocks": 2, "width": 24, "heads": 3}


class Bytes:
    """A file in memory, that counts what is read of it."""

    name, reads_are_free = "x.bin", False

    def __init__(self, content: bytes):
        self.content, self.size, self.asked = content, len(content), []

    def read_ranges(self, ranges):
        for start, stop in ranges:
            assert 0 <= start <= stop <= self.size
        self.asked += ranges
        return [memoryview(self.content)[start:stop] for start, stop in ranges]


def saved(value, **options) -> bytes:
    content = io.BytesIO()
    torch.save(value, content, **options)
    return content.getvalue()


def directory(content: bytes):
    def read(start: int, stop: int) -> bytes:
        assert 0 <= start <= stop <= len(content)
        return content[start:stop]

    return read_directory(read, len(content), "x.bin")


def values(content: bytes) -> dict[str, bytes]:
    """The stored bytes of every tensor, through the file that finds them."""
    found = directory(content)
    file = TorchFile(Bytes(content), found.storages)
    entries = found.tensors
    pieces = file.read_ranges([(entry.start, entry.stop) for entry in entries.values()])
    return {name: bytes(piece) for name, piece in zip(entries, pieces, strict=True)}


def raw_bytes(tensor) -> bytes:
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int64", "int8", "uint8"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_what_torch_saves_is_read_bit_for_bit(dtype, protocol):
    generator = torch.Generator().manual_seed(1)
    state = {
        f"t{number}": (torch.randn(shape, generator=generator) * 50).to(getattr(torch, dtype))
        for number, shape in enumerate([(5, 7), (1, 1), (13,), (0, 4), (2, 3, 4)])
    }
    content = saved(state, pickle_protocol=protocol)
    assert values(content) == {name: raw_bytes(tensor) for name, tensor in state.items()}
    for name, entry in directory(content).tensors.items():
        assert entry.shape == tuple(state[name].shape)
        assert ITEM_BYTES[entry.dtype] == state[name].element_size()


def test_modules_parameters_and_views_of_one_storage():
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    whole = torch.arange(40.0).reshape(10, 4)
    state = {**module.state_dict(), "rows": whole[3:7], "same": whole[3:7], "parameter": torch.nn.Parameter(whole[:2])}
    assert values(saved(state)) == {name: raw_bytes(tensor) for name, tensor in state.items()}
    dictionary = module.state_dict()  # an OrderedDict with _metadata
    assert values(saved(dictionary)) == {name: raw_bytes(tensor) for name, tensor in dictionary.items()}
    trainer = {"state_dict": dictionary, "step": 7, "note": "x", "rates": [0.1, (1, None, True)]}
    assert values(saved(trainer)) == {name: raw_bytes(tensor) for name, tensor in dictionary.items()}


@pytest.mark.parametrize("change", [lambda t: t.T, lambda t: t[:, 1:3], lambda t: t[::2], lambda t: t[:1].expand(4, 6)])
def test_tensors_that_are_not_stored_row_by_row_are_named(change):
    content = saved({"good": torch.ones(2), "odd": change(torch.arange(36.0).reshape(6, 6))})
    with pytest.raises(CheckpointError, match=r"tensor odd is not stored row by row; convert it to safetensors"):
        directory(content)


def test_files_from_before_torch_1_6_are_unsupported():
    content = saved({"a": torch.ones(3)}, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"not a zip file, so written before torch 1\.6.*convert it: ") as caught:
        directory(content)
    assert caught.value.status == "unsupported"


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_checkpoint_measures_as_its_safetensors_twin(tmp_path, dtype):
    tensors = neox_tensors(**SHAPE, seed=1, dtype=dtype)
    twin = ninscope.measure(write_checkpoint(tmp_path / "safe" / "step0", tensors))
    folder = tmp_path / "torch" / "step0"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(tensors.config))
    state = {name: torch.from_numpy(array.copy()) for name, array in tensors.items()}
    torch.save(state, folder / "pytorch_model.bin")
    for given in ({}, {"nodes_per_layer": 9, "samples": 2}):
        expected = ninscope.measure(tmp_path / "safe" / "step0", **given)
        found = ninscope.measure(folder, **given)
        assert (found.alpha0, found.width, found.edges) == (expected.alpha0, expected.width, expected.edges)
    names = sorted(state)
    shards = {f"pytorch_model-0000{n + 1}-of-00002.bin": names[n::2] for n in range(2)}
    (folder / "pytorch_model.bin").unlink()
    for shard, held in shards.items():
        torch.save({name: state[name] for name in held}, folder / shard)
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert ninscope.measure(folder).alpha0 == twin.alpha0


# Somebody with other intentions


class Touch:
    """Unpickled by pickle, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def forged(pickled: bytes, members: dict[str, bytes] | None = None, compression=zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, member in (members or {}).items():
            archive.writestr(name, member)
    return content.getvalue()


def tensor_pickle(key="0", items=4, offset=0, shape=(4,), stride=(1,), storage="FloatStorage") -> bytes:
    """What torch writes for {"a": tensor}, by hand."""

    class Ref:
        pass

    class Writer(pickle._Pickler):
        def persistent_id(self, value):
            return ("storage", getattr(torch, storage), key, "cpu", items) if isinstance(value, Ref) else None

    class Rebuilt:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Ref(), offset, shape, stride, False, {})

    content = io.BytesIO()
    Writer(content, 2).dump({"a": Rebuilt()})
    return content.getvalue()


def test_a_forged_file_can_be_honest_and_its_padding_other_than_torchs():
    content = forged(tensor_pickle(), {"archive/data/0": np.arange(4, dtype="<f4").tobytes()})
    found = directory(content)
    assert values(content) == {"a": np.arange(4, dtype="<f4").tobytes()}
    file = Bytes(content)
    reader = TorchFile(file, found.storages)
    entry = found.tensors["a"]
    for _ in range(2):
        (piece,) = reader.read_ranges([(entry.start + 4, entry.stop)])
        assert bytes(piece) == np.arange(1, 4, dtype="<f4").tobytes()
    assert len(file.asked) == 3  # the prediction with the header before it, the place; then the place alone


@pytest.mark.parametrize("protocol", range(6))
def test_code_in_a_pickle_is_named_and_not_run(tmp_path, protocol):
    target = tmp_path / "ran"
    content = forged(pickle.dumps({"a": Touch(target)}, protocol=protocol))
    with pytest.raises(CheckpointError, match="which no tensor needs; nothing of it was run") as caught:
        directory(content)
    assert caught.value.status == "unsupported"
    assert not target.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"), ("builtins", "eval"), ("builtins", "getattr"), ("torch", "load"), ("torch.nn", "Linear"),
        ("torch._utils", "_rebuild_tensor"), ("torch._utils._rebuild_tensor_v2", "__globals__"), ("collections", "abc.os"),
        ("torch.storage", "_load_from_bytes"), ("torch", "FloatStorage.__init__"), ("ninscope.errors", "CheckpointError"),
    ],
)  # fmt: skip
def test_the_offending_global_is_named(module, name):
    pickled = b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"."
    with pytest.raises(
        CheckpointError, match=f"its pickle names {module}.{name}, which no tensor needs".replace(".", r"\.")
    ):
        directory(forged(pickled))


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
UNICODE = b"X\x01\x00\x00\x00a"


@pytest.mark.parametrize(
    "body",
    [
        REBUILD + b"}" + UNICODE + UNICODE + b"sb",  # BUILD: attributes of a function
        REBUILD + b"N}X\x0c\x00\x00\x00__defaults__)s\x86b",  # the same by slots
        REBUILD + b"(" + b"N" * 9 + b"tR",  # more arguments than a tensor has
        b"r\xff\xff\xff\xff.",  # a memo of 4e9 entries, of nothing
        b"ctorch\nFloatStorage\n)R",  # a storage type called
        b"N)R",
        b"\x8a\xff" + b"\xff" * 10,  # a number that ends too early
        b"(" * 10_000,
        UNICODE + b"Q",  # a persistent id that is none
        b"]" * 3,
        b"",
    ],
)
def test_senseless_pickles_are_corrupt(body):
    with pytest.raises(CheckpointError, match=r"its pickle (makes no sense|holds no dictionary)") as caught:
        directory(forged(b"\x80\x02" + body + b"."))
    assert caught.value.status == "corrupt"
    assert torch_pickle._rebuild_tensor.__defaults__ == (False, None, None)
    assert not vars(torch_pickle._rebuild_tensor)


@pytest.mark.parametrize(
    "items",
    [
        b")" + b"\x85" * 40 + b"Ns",  # a key of nested tuples
        b")" + b"q\x00h\x00\x86q\x00" * 60 + b"Ns",  # whose hash would take for ever
        b"(" + b"".join(b"\x8a\x0c" + (k * (2**61 - 1)).to_bytes(12, "little") + b"N" for k in range(10_000)) + b"u",
    ],
)
def test_keys_that_are_no_names_are_never_hashed(items):
    assert directory(forged(b"\x80\x02}" + items + b".")).tensors == {}


def test_long_pickles_are_refused_before_they_are_built(monkeypatch):
    assert torch_pickle.MAX_STEPS <= 1_000_000
    assert torch_pickle.MAX_TENSORS <= 200_000
    monkeypatch.setattr(torch_pickle, "MAX_STEPS", 10_000)
    monkeypatch.setattr(torch_pickle, "MAX_TENSORS", 2_000)
    assert directory(forged(b"\x80\x04}" + b"\x94" * 9_000 + b".")).tensors == {}
    for body in (b"N" * 11_000, b"N" + b"\x94" * 11_000, REBUILD + b"q\x00" + b"h\x00)R" * 2_100):
        with pytest.raises(CheckpointError, match=r"its pickle was made to be long; nothing of it was run"):
            directory(forged(b"\x80\x04" + body + b"."))


def test_long_names_cost_no_long_messages():
    name = b"X" + struct.pack("<I", 4_000_000) + b"\x01" * 4_000_000
    for body in (b"c" + b"a" * 4_000_000 + b"\nb\n.", b"}" + name + b"Ns."):
        with contextlib.suppress(CheckpointError):
            directory(forged(b"\x80\x02" + body))
    assert len(one_line("\x01" * 10**7)) <= 700


def test_a_type_is_no_string():
    """Any string of the pickle could otherwise stand for a type."""
    for name in (b"hello", b"F4", b"F32"):
        text = [b"X" + struct.pack("<I", len(part)) + part for part in (b"storage", name, b"0", b"cpu")]
        body = REBUILD + b"((" + b"".join(text) + b"K\x04tQK\x00K\x04\x85K\x01\x85\x89NtR."
        with pytest.raises(CheckpointError, match="its pickle makes no sense"):
            directory(forged(b"\x80\x02" + body, {"archive/data/0": bytes(16)}))


def test_a_negated_view_is_not_taken_for_what_is_stored():
    with pytest.raises(CheckpointError, match="its pickle makes no sense"):
        directory(saved({"a": torch._neg_view(torch.ones(3))}))


def test_unpadded_storages_are_told_apart():
    """As zip tools write them again, without torch's padding: predicted places of small storages fall together."""
    tensors = {f"t{number}": torch.tensor([float(number)]) for number in range(8)}
    again = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(tensors))) as archive, zipfile.ZipFile(again, "w") as copy:
        for name in archive.namelist():
            copy.writestr(name, archive.read(name))
    assert values(again.getvalue()) == {name: raw_bytes(tensor) for name, tensor in tensors.items()}


@pytest.mark.parametrize("offset", [10**6, -100, 2**31])
@pytest.mark.parametrize("which", ["data.pkl", "data/0"])
def test_a_directory_that_leads_out_of_the_file_is_corrupt(offset, which):
    content = bytearray(forged(tensor_pickle(), {"archive/data/0": bytes(16)}))
    entry = content.index(b"archive/" + which.encode(), content.index(b"PK\x01\x02")) - 46
    content[entry + 42 : entry + 46] = struct.pack("<I", offset % 2**32)
    with pytest.raises(CheckpointError) as caught:
        directory(bytes(content))
    assert caught.value.status == "corrupt"


def test_a_memo_place_beyond_memory_takes_none():
    """The compiled unpickler would allocate 2**31 places for it."""
    assert directory(forged(b"\x80\x02}r\xff\xff\xff\x7f.")).tensors == {}


@pytest.mark.parametrize(
    "opcode", [b"i" + b"os\nsystem\n", b"(o", b"\x82\x01", b"\x81", b"\x92", b"P0\n", b"\x96" + b"\xff" * 8, b"V\n"]
)
def test_opcodes_that_no_tensor_needs_are_refused(opcode):
    with pytest.raises(CheckpointError, match=r"its pickle (uses \w+, which no tensor needs|makes no sense)"):
        directory(forged(b"\x80\x02" + opcode + b"."))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"key": "../../etc/passwd"}, "makes no sense"),
        ({"key": "1"}, "the storage '1' of tensor a is not in it"),
        ({"items": 5}, "does not fit its storage"),
        ({"items": 2**62}, "does not fit its storage"),
        ({"offset": 1}, "does not fit its storage"),
        ({"offset": -1}, "makes no sense"),
        ({"shape": (2**40, 2**40), "stride": (2**40, 1)}, "does not fit its storage"),
        ({"shape": (-4,)}, "makes no sense"),
        ({"shape": (4, 1)}, "makes no sense"),
        ({"shape": (1,) * 65, "stride": (1,) * 65}, "makes no sense"),
        ({"storage": "DoubleStorage"}, "does not fit its storage"),
        ({"storage": "ComplexFloatStorage"}, "does not fit its storage"),
        ({"storage": "QInt8Storage"}, "names torch.QInt8Storage"),
    ],
)
def test_lies_about_storages_are_found(given, says):
    content = forged(tensor_pickle(**given), {"archive/data/0": bytes(16)})
    with pytest.raises(CheckpointError, match=says):
        directory(content)


def test_zips_that_torch_does_not_write_are_refused():
    for content, says in (
        (forged(tensor_pickle(), {"archive/data/0": bytes(1000)}, zipfile.ZIP_DEFLATED), "or is compressed"),
        (forged(tensor_pickle(), {"archive/byteorder": b"big", "archive/data/0": bytes(16)}), "big-endian"),
        (forged(b"", {"other/data.pkl": b""}), "2 data.pkl in it"),
        (forged(b"N."), "holds no dictionary"),
    ):
        with pytest.raises(CheckpointError, match=says):
            directory(content)


def test_a_file_cut_short_anywhere_is_said_to_be(rng):
    content = saved({"a": torch.ones(50, 50), "b": torch.ones(7)})
    for length in [0, 1, 3, 4, 30, *range(100, len(content), 997), len(content) - 1]:
        with pytest.raises(CheckpointError):
            directory(content[:length])


def test_no_flipped_byte_leads_astray(rng):
    """Whatever a flipped byte does, it is an error of the checkpoint, or what is read lies in the file."""
    content = bytearray(saved({"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(2)}))
    for place in rng.integers(0, len(content), 800):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        with contextlib.suppress(CheckpointError):
            values(bytes(flipped))


def test_a_huge_directory_is_not_read():
    """An end record that states a directory of 4 GB in a file as large."""
    size = 1 << 33
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 0xFFFF0000, 100, 0)
    tail = bytes(65536 - len(end)) + end
    asked = []

    def read(start: int, stop: int) -> bytes:
        asked.append(stop - start)
        assert stop - start <= 1 << 24
        return b"PK\x03\x04" if start == 0 else tail[start - (size - len(tail)) : stop - (size - len(tail))]

    with pytest.raises(CheckpointError, match=r"zip directory would take|not a whole zip"):
        read_directory(read, size, "x.bin")
    assert max(asked) <= 65536


def test_one_bad_bin_stops_no_other(tmp_path):
    config = json.dumps(neox_config(2, 24, 3))
    for step, content in ((0, None), (1, forged(pickle.dumps(Touch(tmp_path / "ran")))), (2, None)):
        folder = tmp_path / "suite" / f"step{step}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(config)
        state = {name: torch.from_numpy(array.copy()) for name, array in neox_tensors(**SHAPE, seed=step).items()}
        (folder / "pytorch_model.bin").write_bytes(content or saved(state))
    rows = ninscope.measure_all(tmp_path / "suite")
    assert [row.status for row in rows] == ["ok", "unsupported", "ok"]
    assert "pytorch_model.bin: its pickle" in rows[1].message
    assert not (tmp_path / "ran").exists()


FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz")


def test_types_without_a_storage_of_their_own_are_described():
    """F8 and others, which torch saves as bytes with a type beside; unused, they refuse no file."""
    state = {name: torch.ones(3, 5).to(getattr(torch, name)) for name in FLOAT8}
    state["rows"] = torch.arange(40.0).to(torch.float8_e4m3fn).reshape(8, 5)[3:6]
    state["parameter"] = torch.nn.Parameter(state["rows"].clone(), requires_grad=False)
    state["complex"] = torch.ones(3, dtype=torch.complex64)
    state["words"] = torch.ones(3, dtype=torch.uint16)
    content = saved(state)
    assert values(content) == {name: raw_bytes(tensor) for name, tensor in state.items()}
    tensors = directory(content).tensors
    assert [tensors[name].dtype for name in FLOAT8] == ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"]


def test_storage_keys_may_be_numbers():
    """As litgpt's incremental saver writes them; torch.load(weights_only=True) takes them too."""
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(4.0)}
    storages = list(state.values())
    places = [tensor.untyped_storage().data_ptr() for tensor in storages]

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if not isinstance(obj, torch.storage.TypedStorage):
                return None
            number = places.index(obj._untyped_storage.data_ptr())
            return "storage", torch.FloatStorage, number, "cpu", obj.size()

    description, content = io.BytesIO(), io.BytesIO()
    Pickler(description, protocol=2).dump(state)
    writer = torch._C.PyTorchFileWriter(content)
    for number, tensor in enumerate(storages):
        writer.write_record(f"data/{number}", raw_bytes(tensor), tensor.numel() * 4)
    writer.write_record("data.pkl", description.getvalue(), len(description.getvalue()))
    writer.write_end_of_file()
    loaded = torch.load(io.BytesIO(content.getvalue()), weights_only=True)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    assert values(content.getvalue()) == {name: raw_bytes(tensor) for name, tensor in state.items()}


class TestTrainers:
    """Weights within a trainer's dictionary, beside its optimizer and whatever else it keeps."""

    @staticmethod
    def trained():
        model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 4))
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.ones(2, 6)).sum().backward()
        optimizer.step()
        return model.state_dict(), optimizer.state_dict()

    @pytest.mark.parametrize("key", ["model", "state_dict", "module", "model_state_dict"])
    def test_the_model_is_read_and_nothing_beside_it(self, key):
        model, optimizer = self.trained()
        content = saved({"optimizer": optimizer, key: model, "best_val_loss": torch.tensor(1.5), "epoch": 3})
        assert values(content) == {name: raw_bytes(tensor) for name, tensor in model.items()}

    def test_what_nanogpt_and_lightning_write(self):
        model, optimizer = self.trained()
        beside = {
            "args": argparse.Namespace(lr=0.1, tags={"a"}, out=Path("out")),
            "config": collections.defaultdict(list, {"a": [1, 2]}),
            "loss": np.float64(1.5),
            "seed": np.arange(3),
            "device": torch.device("cpu"),
            "sizes": torch.Size([1, 2]),
            "when": datetime.datetime(2026, 1, 2),
            "raw": b"bytes",
            "set": {1, 2},
            "bounds": (1, 2.5, None, True),
        }
        nano = {"model": model, "optimizer": optimizer, "model_args": {"n_layer": 2}, "iter_num": 7, **beside}
        lightning = {
            "epoch": 3,
            "global_step": 120,
            "pytorch-lightning_version": "2.6.6",
            "state_dict": model,
            "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 1}}}},
            "callbacks": {"ModelCheckpoint{}": {"best_model_score": torch.tensor(0.5), "best_k_models": {}}},
            "optimizer_states": [optimizer],
            "lr_schedulers": [],
            "hparams_name": "kwargs",
            "hyper_parameters": beside,
        }
        for written in (nano, lightning, {"model": {"module": {"state_dict": model}}}):
            for protocol in (2, 4):
                content = saved(written, pickle_protocol=protocol)
                assert values(content) == {name: raw_bytes(tensor) for name, tensor in model.items()}

    def test_a_module_that_is_called_model_is_no_wrapper(self):
        state = {"model": {"note": "no tensors"}, "weight": torch.ones(2, 2)}
        assert list(directory(saved(state)).tensors) == ["weight"]

    def test_objects_of_other_libraries_are_refused_by_name(self):
        content = saved({"model": {"w": torch.ones(2, 2)}, "scaler": io.StringIO()})
        with pytest.raises(CheckpointError, match=r"its pickle names _io\.StringIO, which no tensor needs"):
            directory(content)
