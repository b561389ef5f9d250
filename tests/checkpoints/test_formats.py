"""A new format of weight files is a module and an entry in FORMATS: names, shards, opening and reading follow from these."""

import os
import subprocess
import sys

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
