"""Folders as a user has them: one checkpoint or many, whole or damaged, and each damage told in a line of its own."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from suites import neox_tensors, safetensors_bytes, with_header, write_checkpoint, write_suite

import ninscope
from ninscope.checkpoints import local
from ninscope.checkpoints.file_names import WEIGHT_NAMES
from ninscope.checkpoints.formats import safetensors
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError, RequestError

INDEX_NAME = WEIGHT_NAMES[0][1]
SHAPE = {"blocks": 2, "width": 16, "heads": 2}
SMALL = {"nodes_per_layer": 16, "samples": 2}
QKV = "gpt_neox.layers.1.attention.query_key_value.weight"


@pytest.fixture
def suite(tmp_path):
    return write_suite(tmp_path / "tiny", [0, 1, 2, 10], **SHAPE)


class TestRevisions:
    def test_a_suite_in_step_order(self, suite):
        source = open_source(suite)
        assert source.revisions() == ["step0", "step1", "step2", "step10"]
        assert [source.step_of(name) for name in source.revisions()] == [0, 1, 2, 10]
        assert source.label == str(suite)

    def test_one_checkpoint(self, suite):
        source = open_source(suite / "step10")
        assert source.revisions() == ["step10"]
        assert source.open("step10").step == 10

    def test_one_checkpoint_whose_folder_states_no_step(self, tmp_path):
        source = open_source(write_checkpoint(tmp_path / "my-model", neox_tensors(seed=0, **SHAPE)))
        assert (source.revisions(), source.step_of("my-model")) == (["my-model"], None)

    def test_the_current_folder(self, suite, monkeypatch):
        monkeypatch.chdir(suite)
        source = open_source(".")
        assert len(source.revisions()) == 4
        assert open_source("step2").open("step2").step == 2
        assert open_source("../tiny/").revisions() == source.revisions()

    def test_what_is_no_revision_is_left_alone(self, suite):
        (suite / "logs").mkdir()
        (suite / "evaluations.csv").write_text("step,acc\n")
        (suite / "step99").write_text("a file, not a folder")
        assert open_source(suite).revisions() == ["step0", "step1", "step2", "step10"]

    def test_a_checkpoint_of_another_name_counts(self, suite):
        write_checkpoint(suite / "final", neox_tensors(seed=5, **SHAPE))
        assert open_source(suite).revisions() == ["step0", "step1", "step2", "step10", "final"]

    def test_an_empty_step_folder_is_a_revision_without_weights(self, suite):
        (suite / "step5").mkdir()
        rows = {row.revision: row for row in ninscope.measure_all(str(suite), **SMALL)}
        assert list(rows) == ["step0", "step1", "step2", "step5", "step10"]
        assert rows["step5"].status == "missing"

    def test_linked_files(self, suite, tmp_path):
        """As in the Hub client's cache, where a revision's files are links into a common store."""
        folder = tmp_path / "linked" / "step1"
        folder.mkdir(parents=True)
        for name in ("config.json", "model.safetensors"):
            (folder / name).symlink_to(suite / "step1" / name)
        assert ninscope.measure(str(folder), **SMALL).alpha0 == ninscope.measure(str(suite), "step1", **SMALL).alpha0

    def test_a_folder_is_preferred_to_a_repository_of_that_name(self, suite, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path.parent)
        assert open_source(f"{tmp_path.name}/tiny").revisions()[0] == "step0"

    def test_paths_as_objects(self, suite):
        assert (
            ninscope.measure(suite / "step1", **SMALL).alpha0 == ninscope.measure(str(suite / "step1"), **SMALL).alpha0
        )


class TestWrongRequests:
    @pytest.mark.parametrize("name", ["./absent", "absent", "/absent/folder", "../absent/x", "a/b/c", "~/absent/x"])
    def test_no_such_folder(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(RequestError, match="no such folder, and not a Hub repository id"):
            ninscope.measure(name)

    @pytest.mark.parametrize(
        "name",
        ["~no-such-user/x", "x" * 5000, "a/" + "x" * 5000, "nul\0byte"],
        ids=["user", "long", "long part", "nul"],
    )
    def test_no_path_at_all(self, name):
        with pytest.raises(RequestError, match="no such folder"):
            ninscope.measure(name)

    def test_an_empty_name_is_not_the_current_folder(self, suite, monkeypatch):
        """It is what a script with an unset variable asks for; measuring whatever lies here would not tell."""
        monkeypatch.chdir(suite / "step1")
        with pytest.raises(RequestError):
            ninscope.measure("", **SMALL)

    def test_a_file_of_no_weights(self, suite):
        with pytest.raises(
            RequestError,
            match=r"config\.json is a file; name the folder .* or a file of weights",
        ):
            ninscope.measure(str(suite / "step0" / "config.json"))

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(RequestError, match="no checkpoint and no revision folders"):
            ninscope.measure(str(tmp_path))
        with pytest.raises(RequestError, match="no checkpoint and no revision folders"):
            ninscope.measure_all(str(tmp_path))

    def test_above_several_models_those_are_named(self, tmp_path):
        for name in ("a", "b"):
            write_suite(tmp_path / "models" / name, (0, 1), **SHAPE)
        (tmp_path / "models" / "photos").mkdir()
        with pytest.raises(RequestError, match=r"in it; name one of its folders that may be sources: a, b$"):
            ninscope.measure_all(str(tmp_path / "models"))

    def test_a_folder_of_other_things(self, tmp_path):
        (tmp_path / "photos").mkdir()
        (tmp_path / "flax_model.msgpack").write_bytes(b"")
        with pytest.raises(RequestError, match=r"name a folder that holds config\.json and model\.safetensors"):
            ninscope.measure_all(str(tmp_path))

    def test_several_revisions_and_none_named(self, suite):
        with pytest.raises(RequestError, match=r"has 4 revisions \(step0 \.\.\. step10\); name one with revision="):
            ninscope.measure(str(suite))

    @pytest.mark.parametrize("revision", ["step9", "", ".", "..", "../tiny/step0", "step0/"])
    def test_a_revision_that_is_not_there(self, suite, revision):
        with pytest.raises(CheckpointError, match=r"no revision .* in it") as caught:
            ninscope.measure(str(suite), revision)
        assert caught.value.status == "missing"

    def test_a_revision_of_the_same_step_is_what_was_meant(self, suite):
        with pytest.raises(CheckpointError, match=r"no revision step_0010 in it; did you mean 'step10'\?$"):
            ninscope.measure(str(suite), "step_0010")
        with pytest.raises(CheckpointError, match=r"no revision stpe10 in it; did you mean 'step10'\?$"):
            ninscope.measure(str(suite), "stpe10")
        with pytest.raises(CheckpointError, match=r"no revision step_0100 in it; it has step0, step1, step2, step10$"):
            ninscope.measure(str(suite), "step_0100")


class TestUnreadable:
    """Files of somebody else's, as on any shared file system. Root may read everything, so it steps down for a while."""

    @pytest.fixture
    def shared(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            suite = write_suite(Path(folder) / "tiny", [0, 1], **SHAPE)
            for path in [suite, *suite.rglob("*")]:  # the library writes weights for their owner alone
                path.chmod(0o755)
            yield suite

    def measured_without(self, path: Path, suite: Path):
        ninscope.measure_all(str(suite), **SMALL)  # everything is imported and compiled while all can be read
        mode = path.stat().st_mode
        path.chmod(0)
        root = os.geteuid() == 0
        try:
            if root:
                os.seteuid(65534)  # nobody
            return ninscope.measure_all(str(suite), **SMALL)
        finally:
            if root:
                os.seteuid(0)
            path.chmod(mode)

    def test_a_suite(self, shared):
        with pytest.raises(RequestError, match="ermission"):
            self.measured_without(shared, shared)

    @pytest.mark.parametrize("name", ["step0", "step0/config.json", "step0/model.safetensors"])
    def test_a_part_of_one_checkpoint(self, shared, name):
        start, after = self.measured_without(shared / name, shared)
        assert (start.status in ("missing", "corrupt"), after.status) == (True, "ok")
        assert "ermission denied" in start.message
        assert name.split("/")[0] in start.message


def rewritten(change, name=QKV):
    """The weights with one array replaced by change(array), or absent where that is None."""

    def damage(folder: Path):
        tensors = load_file(folder / "model.safetensors")
        array = change(tensors.pop(name))
        save_file(tensors if array is None else {**tensors, name: array}, folder / "model.safetensors")

    return damage


def weights(content: bytes):
    return lambda folder: (folder / "model.safetensors").write_bytes(content)


def config(content):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return lambda folder: (folder / "config.json").write_bytes(text)


def configured(**changes):
    def damage(folder: Path):
        about = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(
            json.dumps({key: value for key, value in about.items() if value is not None})
        )

    return damage


def of_type(dtype: str, bits: int):
    """The weights with query_key_value of block 1 in another type, its shape unchanged."""

    def damage(folder: Path):
        arrays = load_file(folder / "model.safetensors")
        entries = {name: ("F16", array.shape, array.tobytes()) for name, array in arrays.items()}
        entries[QKV] = (dtype, (48, 16), bytes(48 * 16 * bits // 8))
        (folder / "model.safetensors").write_bytes(safetensors_bytes(entries))

    return damage


def poisoned(value):
    def change(array):
        array[40, 3] = value
        return array

    return change


def truncated(folder: Path):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def index_only(folder: Path):
    (folder / "model.safetensors").unlink()
    (folder / INDEX_NAME).write_text(json.dumps({"weight_map": {"x": "../step0/model.safetensors"}}))


def overlapping():
    one = {"dtype": "F16", "shape": [48, 16]}
    header = {name: {**one, "data_offsets": [start, start + 1536]} for name, start in ((QKV, 0), ("other", 1000))}
    return with_header(header, bytes(4000))


def same_name_twice():
    described = json.dumps({QKV: {"dtype": "F16", "shape": [48, 16], "data_offsets": [0, 1536]}})[1:-1]
    return with_header(f"{{{described}, {described}}}".encode(), bytes(1536))


DAMAGES = {
    "config truncated": (config(b'{"model_type": "gpt'), "corrupt", r"step1/config\.json: not JSON"),
    "config empty": (config(b""), "corrupt", r"step1/config\.json: not JSON"),
    "config binary": (config(b"\xff\xfe\x00"), "corrupt", r"step1/config\.json: not JSON"),
    "config an array": (config([1, 2]), "corrupt", r"step1/config\.json: not a JSON object"),
    "config huge": (config(b" " * 10_000_001), "corrupt", "10000001 bytes are too many"),
    "model_type no string": (configured(model_type=["gpt_neox"]), "unsupported", "model_type .* is not supported"),
    "width unknown": (configured(hidden_size=None), "corrupt", "hidden_size is None; an integer from 1"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "missing", r"no model\.safetensors and no"),
    "other weights": (
        lambda folder: (folder / "model.safetensors").rename(folder / "flax_model.msgpack"),
        "missing",
        "weights are absent or in another format",
    ),
    "tensor absent": (rewritten(lambda array: None), "corrupt", rf"tensor {QKV} is absent, though config\.json"),
    "tensor transposed": (
        rewritten(lambda array: np.ascontiguousarray(array.T)),
        "corrupt",
        r"query_key_value.weight has shape \[16, 48\], config\.json \(gpt_neox\) implies \[48, 16\]",
    ),
    "tensor flat": (rewritten(np.ravel), "corrupt", r"has shape \[768\], .* implies \[48, 16\]"),
    "too few blocks": (configured(num_hidden_layers=3), "corrupt", r"tensor gpt_neox\.layers\.2\..* is absent"),
    "integers": (of_type("I32", 32), "unsupported", f"tensor {QKV} is of type I32; only F16, BF16, F32 and F64"),
    "float8": (of_type("F8_E4M3", 8), "unsupported", f"tensor {QKV} is of type F8_E4M3; only"),
    "type of the future": (of_type("F12", 12), "unsupported", f"tensor {QKV} has the unknown type 'F12'"),
    "truncated": (truncated, "corrupt", r"step1/model\.safetensors: truncated"),
    "empty file": (weights(b""), "corrupt", r"step1/model\.safetensors: 0 bytes are too few"),
    "garbage": (
        weights(b"garbage, not weights at all"),
        "corrupt",
        r"step1/model\.safetensors: not a safetensors file",
    ),
    "zeros": (weights(bytes(5000)), "corrupt", r"step1/model\.safetensors: .*not JSON"),
    "header absurd": (weights(b"\xff" * 7 + b"\x7f" + bytes(99)), "corrupt", r"header of \d{19} bytes"),
    "header beyond the end": (
        weights((5000).to_bytes(8, "little") + bytes(99)),
        "corrupt",
        "truncated: the header alone",
    ),
    "overlap": (weights(overlapping()), "corrupt", "tensor other overlaps another tensor"),
    "same name twice": (weights(same_name_twice()), "corrupt", "a name appears twice"),
    "index escapes": (index_only, "corrupt", "not a file name inside the checkpoint; refused"),
    "NaN": (rewritten(poisoned(np.nan)), "nonfinite", f"tensor {QKV} holds NaN or infinity, first at row 40, column 3"),
    "infinity": (rewritten(poisoned(np.inf)), "nonfinite", f"tensor {QKV} holds NaN or infinity, first at row 40"),
    "minus infinity": (rewritten(poisoned(-np.inf)), "nonfinite", "holds NaN or infinity, first at row 40, column 3"),
}


def test_a_byte_order_mark_before_a_configuration(suite):
    expected = ninscope.measure(str(suite), "step1", **SMALL).alpha0
    config = suite / "step1" / "config.json"
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    assert ninscope.measure(str(suite), "step1", **SMALL).alpha0 == expected


class TestDamages:
    @pytest.mark.parametrize("name", ["no weights", "config truncated", "type of the future", "NaN"])
    def test_it_is_told_and_the_other_checkpoints_go_on(self, tmp_path, name):
        """One of every status."""
        damage, status, match = DAMAGES[name]
        suite = write_suite(tmp_path / "tiny", [0, 1, 2], **SHAPE)
        whole = ninscope.measure_all(str(suite), **SMALL)
        damage(suite / "step1")
        rows = ninscope.measure_all(str(suite), **SMALL)

        assert [(row.revision, row.step, row.status) for row in rows] == [
            ("step0", 0, "ok"),
            ("step1", 1, status),
            ("step2", 2, "ok"),
        ]
        with pytest.raises(CheckpointError, match=match) as caught:
            ninscope.measure(str(suite), "step1", **SMALL)
        assert (caught.value.status, str(caught.value)) == (status, rows[1].message)
        assert (rows[1].spectrum, np.isnan(rows[1].emergence)) == (None, True)
        for row, before in zip(rows[::2], whole[::2], strict=True):
            assert row.emergence == before.emergence
            assert row.spectrum.alpha0 == before.spectrum.alpha0

    @pytest.mark.parametrize(("damage", "status", "match"), DAMAGES.values(), ids=DAMAGES)
    def test_each_is_told(self, tmp_path, damage, status, match):
        """A folder that a user names and that holds at least a part of a checkpoint is that checkpoint."""
        folder = write_checkpoint(tmp_path / "step1", neox_tensors(seed=0, **SHAPE))
        damage(folder)
        with pytest.raises(CheckpointError, match=match) as caught:
            ninscope.measure(str(folder), **SMALL)
        assert caught.value.status == status
        assert str(caught.value).isprintable()

    def test_without_its_start_a_suite_has_no_emergence_and_says_so(self, suite):
        truncated(suite / "step0")
        rows = ninscope.measure_all(str(suite), **SMALL)
        assert [row.status for row in rows] == ["corrupt", "ok", "ok", "ok"]
        assert all(np.isnan(row.emergence) for row in rows)
        assert all("no usable step0" in row.message for row in rows[1:])

    @pytest.mark.parametrize("name", ["gpt_neox.embed_in.weight", "gpt_neox.layers.0.mlp.dense_h_to_4h.bias"])
    def test_unused_tensors_may_hold_anything(self, suite, name):
        before = ninscope.measure(str(suite), "step1", **SMALL)
        rewritten(lambda array: np.full_like(array, np.nan), name)(suite / "step1")
        assert ninscope.measure(str(suite), "step1", **SMALL).alpha0 == before.alpha0


@pytest.mark.slow
def test_what_others_need_is_not_imported(suite):
    """A local checkpoint of safetensors is found, hashed and opened without the Hub's client, and without other formats."""
    code = (
        "import sys\nfrom ninscope.checkpoints.source import open_source\n"
        f"source = open_source({str(suite)!r})\nsource.open('step1', source.identify('step1'))\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = ("huggingface_hub", "tenacity", "httpx", "requests", "torch", "safetensors", "pandas", "ninscope.checkpoints.hub",
             "ninscope.checkpoints.lora", "ninscope.checkpoints.formats.torch_zip")  # fmt: skip
    modules = done.stdout.split()
    assert "ninscope.checkpoints.formats.safetensors" in modules
    assert not [module for module in modules if module.startswith(heavy)]


def test_revisions_of_one_shape_parse_one_header(suite, monkeypatch):
    parsed = []
    monkeypatch.setattr(
        safetensors.json, "loads", lambda raw, **kw: parsed.append(raw) or json.JSONDecoder(**kw).decode(raw)
    )
    safetensors._parsed.cache_clear()
    source = open_source(suite)
    opened = [source.open(name) for name in source.revisions()]
    assert sum('"data_offsets"' in raw for raw in parsed) == 1
    opened[0].tensors.clear()
    assert len(source.open("step0").tensors) == len(opened[1].tensors) > 0


class TestIdentity:
    def test_the_weights_own_sha256(self, suite):
        raw = (suite / "step1" / "model.safetensors").read_bytes()
        identity = open_source(suite).identify("step1")
        assert identity.content_sha256 == hashlib.sha256(raw).hexdigest()
        assert (identity.bytes, identity.step, identity.commit) == (len(raw), 1, None)

    def test_of_shards_it_covers_each_and_their_names(self, tmp_path):
        tensors = neox_tensors(seed=0, **SHAPE)
        one, two, three = (
            open_source(write_checkpoint(tmp_path / f"step{n}", tensors, shards=n)).identify(f"step{n}")
            for n in (1, 2, 3)
        )
        again = open_source(write_checkpoint(tmp_path / "again" / "step2", tensors, shards=2)).identify("step2")
        assert len({identity.content_sha256 for identity in (one, two, three)}) == 3
        assert again.content_sha256 == two.content_sha256
        assert [file.name for file in two.files] == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]

    def test_files_are_not_hashed_again_while_their_stamp_is_unchanged(self, suite, monkeypatch):
        source = open_source(suite)
        identity = source.identify("step1")
        known = {source.stamp_path("step1", file): file for file in identity.files}

        def no_hashing(*_):
            raise AssertionError("hashed again")

        with monkeypatch.context() as patch:
            patch.setattr(local.hashlib, "file_digest", no_hashing)
            assert source.identify("step1", known) == identity
            with pytest.raises(AssertionError, match="hashed again"):
                source.identify("step2", known)
        # The same size and, as some tools see to, the same modification time: the change time tells.
        path = suite / "step1" / "model.safetensors"
        before = path.stat()
        path.write_bytes(path.read_bytes()[:-2] + b"\0\1")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert source.identify("step1", known).content_sha256 != identity.content_sha256

    @pytest.mark.parametrize("change", [Path.unlink, Path.touch, lambda path: path.write_bytes(b"other")])
    def test_weights_written_while_they_were_read_are_noticed(self, suite, change):
        source = open_source(suite)
        identity = source.identify("step1")
        source.check_unchanged(identity)
        change(suite / "step1" / "model.safetensors")
        with pytest.raises(
            CheckpointError, match=r"step1/model\.safetensors: changed while it was being read; run again"
        ):
            source.check_unchanged(identity)

    @pytest.mark.parametrize("damage", ["config an array", "no weights", "index escapes"])
    def test_the_same_errors_as_opening(self, suite, damage):
        change, status, match = DAMAGES[damage]
        change(suite / "step1")
        with pytest.raises(CheckpointError, match=match) as caught:
            open_source(suite).identify("step1")
        assert caught.value.status == status
