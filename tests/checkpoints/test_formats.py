"""A new format of weight files is a module and an entry in FORMATS: names, shards, opening and reading follow from these."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from suites import entry, safetensors_bytes

import ninscope
from ninscope.errors import CheckpointError

MODULE = """
from ninscope.checkpoints.formats.weight_file import TensorEntry

def open_tensors(file):
    return {"w": TensorEntry("w", "F32", (file.size // 8, 2), 0, file.size)}, file
"""
CODE = """
import sys
import ninscope.checkpoints.formats as formats

formats.FORMATS += (formats.WeightFormat(".raw", "raw_model", "raw_format"),)
from ninscope.checkpoints.file_names import ADAPTER_NAMES, weight_names
from ninscope.checkpoints.source import open_source

source = open_source(sys.argv[1])
for revision in source.revisions():
    values, position = source.open(revision).tensors["w"].rows([1])
    print(revision, source.identify(revision).bytes, values[position].tolist())
assert weight_names(["raw_model.raw.index.json"]) == ("", "raw_model.raw.index.json")
assert weight_names(["raw_model.fp16.raw"]) == ("raw_model.fp16.raw", "")
assert weight_names(["raw_model.raw", "model.safetensors"]) == ("model.safetensors", "")
assert "adapter_model.raw" in ADAPTER_NAMES
"""


@pytest.mark.slow
def test_a_format_is_a_module_and_an_entry(tmp_path):
    (tmp_path / "raw_format.py").write_text(MODULE)
    for step in (0, 1):
        folder = tmp_path / "suite" / f"step{step}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "raw_model.raw").write_bytes(bytes(8) + b"\0\0\x80\x3f" * 2)  # 1.0, little-endian
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", CODE, tmp_path / "suite"], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "step0 16 [[1.0, 1.0]]\nstep1 16 [[1.0, 1.0]]\n"


MATRIX = np.linspace(0.1, 0.9, 16, dtype=np.float32).reshape(4, 4)


def safetensors(name):
    return "model.safetensors", safetensors_bytes({name: entry(MATRIX), "w.weight": entry(MATRIX)})


def torch_file(name):
    """As torch would write it, if its pickle could hold such a name: one of a letter less is put in the other's place."""
    torch = pytest.importorskip("torch")
    plain, content = io.BytesIO(), io.BytesIO()
    torch.save({"name": torch.from_numpy(MATRIX), "w.weight": torch.from_numpy(MATRIX)}, plain)
    spelled = name.encode("utf-8", "surrogatepass")
    with zipfile.ZipFile(plain) as before, zipfile.ZipFile(content, "w") as after:
        for member in before.namelist():
            raw = before.read(member)
            if member.endswith("data.pkl"):
                short = pickle.BINUNICODE + (4).to_bytes(4, "little") + b"name"
                assert short in raw
                raw = raw.replace(short, pickle.BINUNICODE + len(spelled).to_bytes(4, "little") + spelled)
            after.writestr(member, raw)
    return "pytorch_model.bin", content.getvalue()


@pytest.mark.parametrize("made", [safetensors, torch_file])
@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("a\ud800.weight", r"the tensor's name 'a\\ud800\.weight' is not UTF-8"),
        ("\udfff", "is not UTF-8"),
        ("n" * 513, r"a tensor's name has 513 characters \(n{40}\.\.\.\)"),
        ("n" * 100_000, "a tensor's name has 100000 characters"),
        ("n" * 512, ""),
        ("\N{GRINNING FACE}", ""),
    ],
    ids=["surrogate", "other surrogate", "513", "100000", "512", "astral"],
)
def test_a_name_that_tables_cannot_hold_is_corrupt(tmp_path, made, name, match):
    folder = tmp_path / "step0"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "nobody-knows"}))
    file, content = made(name)
    (folder / file).write_bytes(content)
    if not match:
        assert ninscope.measure(folder).edges > 0
        return
    with pytest.raises(CheckpointError, match=match) as no:
        ninscope.measure(folder)
    assert no.value.status == "corrupt"
