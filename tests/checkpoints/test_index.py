"""The index of a sharded checkpoint: what it may name, and what becomes of one that names more."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from suites import neox_tensors, write_checkpoint

from ninscope.checkpoints.file_names import WEIGHT_NAMES
from ninscope.checkpoints.formats.index import read_json_object, shards_of_index
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError

INDEX_NAME = WEIGHT_NAMES[0][1]
WHERE = f"step7/{INDEX_NAME}"


def index(weight_map) -> bytes:
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}).encode()


def rejects(raw: bytes, match: str, status: str = "corrupt", present=("a.safetensors",)) -> str:
    with pytest.raises(CheckpointError, match=match) as caught:
        shards_of_index(raw, set(present), WHERE)
    assert caught.value.status == status
    return str(caught.value)


def test_shards_in_name_order_with_their_tensors():
    raw = index({"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"})
    shards = shards_of_index(raw, {"a.safetensors", "b.safetensors", "config.json"}, WHERE)
    assert list(shards.items()) == [("a.safetensors", ["y"]), ("b.safetensors", ["x", "z"])]


def test_dots_in_a_name_are_no_way_out():
    assert shards_of_index(index({"x": "..a..safetensors"}), {"..a..safetensors"}, WHERE)


@pytest.mark.parametrize(
    "shard",
    [
        "../x",
        "../../etc/passwd",
        "/etc/passwd",
        "sub/model.safetensors",
        "..\\x",
        "C:\\x",
        "C:x",
        "..",
        ".",
        "",
        "a\0b",
        "//host/share",
        None,
        3,
        ["a.safetensors"],
        {"a": 1},
    ],
)
def test_a_shard_outside_the_checkpoint_is_refused(shard):
    # It is refused for its name, even where a file of that name is there.
    present = {"a.safetensors"} | ({shard} if isinstance(shard, str) else set())
    message = rejects(
        index({"y": "a.safetensors", "x": shard}), "not a file name inside the checkpoint", present=present
    )
    assert WHERE in message


def test_an_absent_shard_is_named_and_counted():
    raw = index({"x": "a.safetensors", "y": "c.safetensors", "z": "b.safetensors"})
    message = rejects(raw, r"shard b\.safetensors is absent \(2 of 3 are\); fetch it", status="missing")
    assert message.startswith(WHERE)


@pytest.mark.parametrize("raw", [b"{}", index({}), index([]), index(None), index("a.safetensors")])
def test_no_weight_map(raw):
    rejects(raw, "no weight_map")


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (b"", "not JSON"),
        (b"\0\0\0\0", "not JSON"),
        (b'{"weight_map": {"x": "a.safe', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"3", "not a JSON object"),
        (b'"text"', "not a JSON object"),
    ],
)
def test_not_a_json_object(raw, match):
    message = rejects(raw, match)
    assert WHERE in message
    assert "fetch the file again" in message


@given(st.binary(max_size=50))
def test_garbage_is_an_error_of_ours(raw):
    value = {}
    with contextlib.suppress(CheckpointError):
        value = read_json_object(raw, WHERE)
    assert isinstance(value, dict)


@given(st.text(min_size=1).filter(lambda name: not set(name) & set("/\\:\0")))
def test_a_message_is_one_printable_line_whatever_the_shard_is_called(name):
    with pytest.raises(CheckpointError) as caught:
        shards_of_index(index({"x": name}), set(), WHERE)
    assert str(caught.value).isprintable()


class TestShardsOfACheckpoint:
    @pytest.fixture
    def folder(self, tmp_path):
        return write_checkpoint(tmp_path / "model", neox_tensors(2, 8, 2, seed=0), shards=3)

    def rewrite(self, folder, change):
        path = folder / INDEX_NAME
        content = json.loads(path.read_text())
        change(content["weight_map"])
        path.write_text(json.dumps(content))

    def opening(self, folder):
        source = open_source(folder)
        return source.open(source.revisions()[0])

    def test_all_tensors_are_found(self, folder):
        assert set(self.opening(folder).tensors) == set(neox_tensors(2, 8, 2, seed=0))

    def test_an_index_that_leads_out(self, folder):
        (folder.parent / "x").write_bytes((folder / "model-00001-of-00003.safetensors").read_bytes())
        self.rewrite(folder, lambda weight_map: weight_map.update({"embed_out.weight": "../x"}))
        with pytest.raises(CheckpointError, match=r"'\.\./x' is not a file name inside the checkpoint; refused"):
            self.opening(folder)

    def test_an_absent_shard(self, folder):
        (folder / "model-00002-of-00003.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"model-00002-of-00003.safetensors is absent") as caught:
            self.opening(folder)
        assert caught.value.status == "missing"

    def test_a_tensor_that_is_not_in_its_shard(self, folder):
        shard = "model-00003-of-00003.safetensors"
        self.rewrite(folder, lambda weight_map: weight_map.update({"gpt_neox.layers.7.new": shard}))
        with pytest.raises(CheckpointError, match=f"model/{shard}: tensor gpt_neox.layers.7.new is absent") as caught:
            self.opening(folder)
        assert caught.value.status == "corrupt"

    def test_a_tensor_in_two_shards(self, folder):
        """Which of them counts is anyone's guess, so neither does."""
        name = "gpt_neox.embed_in.weight"
        content = load_file(folder / "model-00002-of-00003.safetensors")
        save_file({**content, name: np.zeros((2, 8), np.float16)}, folder / "model-00002-of-00003.safetensors")
        with pytest.raises(CheckpointError, match=f"tensor {name} is also in model/model-00001-of-00003") as caught:
            self.opening(folder)
        assert caught.value.status == "corrupt"

    def test_a_truncated_shard_is_named(self, folder):
        shard = folder / "model-00002-of-00003.safetensors"
        shard.write_bytes(shard.read_bytes()[:-1])
        with pytest.raises(CheckpointError, match=r"model/model-00002-of-00003\.safetensors: truncated"):
            self.opening(folder)

    def test_one_file_wins_over_an_index_beside_it(self, folder):
        """As in transformers, so that a converted checkpoint is read like everywhere else."""
        write_checkpoint(folder, neox_tensors(2, 8, 2, seed=1))
        assert {tensor.file.name for tensor in self.opening(folder).tensors.values()} == {"model/model.safetensors"}
