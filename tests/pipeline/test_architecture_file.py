"""`ninscope measure --architecture FILE.toml`: what describes a model that config.json does not."""

import json
import re

import numpy as np
import pytest
from driving import command
from safetensors.numpy import save_file

import ninscope

pytestmark = pytest.mark.filterwarnings("error")

TABLE = """
name = "chain"
[[blocks]]
tensor = "net.{n}.weight"
source = "l{n}"
target = "l{n+1}"
"""


@pytest.fixture
def file(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {f"net.{n}.weight": rng.normal(0, 0.1, (12, 12)).astype(np.float32) for n in range(3)}
    save_file(tensors, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.mark.parametrize(
    "text",
    [
        TABLE,
        "name = 'a dag file'\n[architecture]\noverride = true\n"
        + TABLE.replace("[[blocks]]", "[[architecture.blocks]]"),
        "\ufeff" + TABLE,
    ],
    ids=["the table", "a DAG file", "byte order mark"],
)
def test_a_file_that_nothing_else_describes(tmp_path, file, text):
    (tmp_path / "arch.toml").write_text(text, encoding="utf-8")
    ended = command("measure", file, "--architecture", tmp_path / "arch.toml", "--json")
    (row,) = json.loads(ended.out)["rows"]
    blocks = [{"tensor": "net.{n}.weight", "source": "l{n}", "target": "l{n+1}"}]
    expected = ninscope.measure(str(file), architecture={"name": "chain", "blocks": blocks})
    assert (ended.code, row["alpha0"], row["nodes"]) == (0, expected.alpha0, 48)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot read it"),
        ("x = [", "not TOML"),
        ("x = 1", r"no table \[architecture\] with blocks in it"),
        ("[[blocks]]\ntensor = 'a'", r"architecture\.blocks\.1\.source is missing"),
        (f"blocks = {'9' * 5000}", "not TOML that can be read: a number in it has thousands of digits"),
    ],
)
def test_a_file_that_describes_nothing(tmp_path, file, text, says):
    if text is not None:
        (tmp_path / "arch.toml").write_text(text)
    ended = command("measure", file, "--architecture", tmp_path / "arch.toml")
    assert ended.code == 2
    assert len(ended.says) == 1
    assert re.search(says, ended.says[0])
