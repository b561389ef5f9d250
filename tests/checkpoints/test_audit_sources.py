"""The audit of real sources: what was planted is found, on a Hub without a byte of weights, on disk by hashing once."""

import hashlib
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from hub_client import _private_client, serve  # noqa: F401 (fixtures)
from hub_server import Fault
from suites import neox_config, write_checkpoint, write_suite

import ninscope
from ninscope.checkpoints import hash_cache
from ninscope.checkpoints.source import open_source
from ninscope.checkpoints.suites import PYTHIA_STEPS
from ninscope.errors import RequestError
from ninscope.locating import locate_siblings

MODEL = "org/tiny"
STEPS = (0, 1, 2, 4, 8, 16)
SHAPE = {"blocks": 1, "width": 16, "heads": 2}
CONFIG = json.dumps(neox_config(**SHAPE)).encode()
SINGLE = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}
REQUESTS = 4  # a revision, at most


def weights(step, shard=0, size=5000) -> bytes:
    """Of a step; nobody reads them."""
    return np.random.default_rng([step, shard]).bytes(size)


def index(kind: str, names) -> dict[str, bytes]:
    weight_map = {f"tensor{number}": name for number, name in enumerate(names)}
    return {f"{SINGLE[kind]}.index.json": json.dumps({"weight_map": weight_map}).encode()}


def shards(kind: str, number: int) -> list[str]:
    stem, suffix = SINGLE[kind].split(".")
    return [f"{stem}-{shard + 1:05}-of-{number:05}.{suffix}" for shard in range(number)]


def published(kind: str, number: int = 1) -> dict[str, dict[str, bytes]]:
    """A clean suite by branch, in one file a revision or in shards."""
    names = [SINGLE[kind]] if number == 1 else shards(kind, number)
    listed = {} if number == 1 else index(kind, names)
    revisions = {
        f"step{step}": {"config.json": CONFIG, **listed}
        | {name: weights(step, shard) for shard, name in enumerate(names)}
        for step in STEPS
    }
    return {**revisions, "main": revisions["step16"]}


def audited(source=MODEL) -> dict[str, tuple[str, str]]:
    """(status, message) of every revision that is not ok."""
    rows = ninscope.audit(source)
    assert rows["step"].is_monotonic_increasing
    return {row.revision: (row.status, row.message) for row in rows.itertuples() if row.status != "ok"}


@pytest.fixture(params=["safetensors", "bin"])
def kind(request):
    return request.param


@pytest.fixture
def frugal(serve):
    """serve, and after the test: no weights were sent, and few requests were made for each revision."""
    started = []

    def start(repositories):
        started.append((serve(repositories), sum(len(branches) for branches in repositories.values())))
        return started[-1][0]

    yield start
    for server, revisions in started:
        assert server.bytes_served(".safetensors") == server.bytes_served(".bin") == 0
        assert not [r for r in server.requests if r.path.endswith((".safetensors", ".bin"))]
        assert 0 < len(server.requests) <= REQUESTS * revisions


@pytest.mark.parametrize("number", [1, 3])
def test_a_clean_suite_is_ok(frugal, kind, number):
    files = published(kind, number)
    frugal({MODEL: files})
    rows = ninscope.audit(MODEL)
    assert rows.columns.tolist() == ["revision", "step", "status", "message", "bytes", "content_sha256"]
    assert rows["revision"].tolist() == [f"step{step}" for step in STEPS]
    assert rows["step"].tolist() == list(STEPS)
    assert set(rows["status"]) == {"ok"}
    assert set(rows["message"]) == {""}
    assert set(rows["bytes"]) == {5000 * number}
    if number == 1:
        assert rows["content_sha256"].tolist() == [
            hashlib.sha256(files[f"step{step}"][SINGLE[kind]]).hexdigest() for step in STEPS
        ]
    assert rows["content_sha256"].is_unique


def test_whole_duplicates(frugal, kind):
    files = published(kind)
    for step in ("step0", "step4"):
        files[step] = files["step16"]
    frugal({MODEL: files})
    assert audited() == {
        "step0": ("duplicate", "the same weights as step4, step16"),
        "step4": ("duplicate", "the same weights as step0, step16"),
        "step16": ("duplicate", "the same weights as step0, step4"),
    }


def test_a_first_shard_of_another_step(frugal, kind):
    files = published(kind, 3)
    first = shards(kind, 3)[0]
    files["step4"] = files["step4"] | {first: files["step16"][first]}
    frugal({MODEL: files})
    assert audited() == {
        "step4": ("duplicate", f"{first} (of 3 shards) is that of step16"),
        "step16": ("duplicate", f"{first} (of 3 shards) is that of step4"),
    }


def test_revisions_that_lack_something(frugal, kind):
    files = published(kind, 2)
    gone = shards(kind, 2)[1]
    listing = f"{SINGLE[kind]}.index.json"
    del files["step0"]["config.json"]
    files["step1"] = {"config.json": CONFIG}
    del files["step2"][gone]
    files["step4"][listing] = b"<!doctype html>"
    files["step8"][listing] = json.dumps({"weight_map": {"a": "../../secret"}}).encode()
    frugal({MODEL: files})
    found = audited()
    assert {revision: status for revision, (status, _) in found.items()} == {
        "step0": "missing", "step1": "missing", "step2": "missing", "step4": "corrupt", "step8": "corrupt",
    }  # fmt: skip
    assert "step0: config.json is absent" in found["step0"][1]
    assert "step1: no model.safetensors" in found["step1"][1]
    assert f"shard {gone} is absent (1 of 2 are)" in found["step2"][1]
    assert f"step4/{listing}: not JSON" in found["step4"][1]
    assert "shard '../../secret' is not a file name inside the checkpoint; refused" in found["step8"][1]


def test_odd_sizes_and_another_shape(frugal, kind):
    files = published(kind)
    files["step2"][SINGLE[kind]] = weights(2, size=4999)
    wide = neox_config(1, 32, 2)
    files["step8"] = {"config.json": json.dumps(wide).encode(), SINGLE[kind]: weights(8, size=19_000)}
    frugal({MODEL: files})
    assert audited() == {
        "step2": ("corrupt", f"{SINGLE[kind]} has 4999 bytes, its siblings' have 5000"),
        "step8": ("corrupt", "its config.json has hidden_size 32, its siblings' 16"),
    }


def test_all_at_once_and_each_by_itself(frugal):
    files = published("safetensors")
    files["step0"] = files["step16"]
    files["step1"] = {"config.json": CONFIG}
    files["step4"][SINGLE["safetensors"]] = weights(4, size=6000)
    frugal({MODEL: files})
    assert {revision: status for revision, (status, _) in audited().items()} == {
        "step0": "duplicate", "step1": "missing", "step4": "corrupt", "step16": "duplicate",
    }  # fmt: skip


def test_a_revision_that_the_server_will_not_tell_of_stops_no_other(frugal):
    server = frugal({MODEL: published("safetensors")})
    server.faults.append(lambda r: Fault(status=403) if "/revision/step4" in r.path else None)
    assert {revision: status for revision, (status, _) in audited().items()} == {"step4": "missing"}


def test_of_a_known_suite_absent_steps_are_missing(serve):
    repository = "EleutherAI/pythia-14m"
    absent = {5: 16, 40: 31_000, 153: 143_000}
    there = [step for step in PYTHIA_STEPS if step not in absent.values()]
    server = serve(
        {
            repository: {
                f"step{step}": {"config.json": CONFIG, "pytorch_model.bin": weights(step, size=64)} for step in there
            }
        }
    )
    rows = ninscope.audit(repository)
    assert rows["step"].tolist() == sorted(PYTHIA_STEPS)
    bad = rows[rows["status"] != "ok"]
    assert bad["revision"].tolist() == [f"step{step}" for step in absent.values()]
    assert set(bad["status"]) == {"missing"}
    assert all("no such revision" in message for message in bad["message"])
    assert server.bytes_served(".bin") == 0


def test_no_such_repository_is_a_wrong_request(serve):
    serve({MODEL: published("safetensors")})
    with pytest.raises(RequestError, match="org/other: no such folder, and no such model repository"):
        ninscope.audit("org/other")


class TestOnDisk:
    @pytest.fixture(autouse=True)
    def cache(self, monkeypatch, tmp_path) -> Path:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        return tmp_path / "xdg" / "ninscope" / "known-files.json"

    @pytest.fixture
    def suite(self, tmp_path) -> Path:
        return write_suite(tmp_path / "tiny", (0, 1, 8), **SHAPE)

    @pytest.fixture
    def hashed(self, monkeypatch) -> list[str]:
        """Revisions whose weights were hashed."""
        names, real, lock = [], hashlib.file_digest, threading.Lock()

        def counted(file, *arguments):
            with lock:
                names.append(Path(file.name).parent.name)
            return real(file, *arguments)

        monkeypatch.setattr(hashlib, "file_digest", counted)
        return names

    def test_the_same_as_on_a_hub(self, serve, suite):
        shutil.copy(suite / "step8" / "model.safetensors", suite / "step0" / "model.safetensors")
        (suite / "step1" / "config.json").unlink()
        serve({MODEL: {folder.name: folder for folder in suite.iterdir()}})
        here, there = ninscope.audit(str(suite)), ninscope.audit(MODEL)
        assert here.equals(there)
        assert here["status"].tolist() == ["duplicate", "missing", "duplicate"]

    def test_files_are_hashed_once(self, suite, hashed, cache):
        first = ninscope.audit(str(suite))
        assert sorted(hashed) == ["step0", "step1", "step8"]
        assert cache.is_file()
        hashed.clear()
        assert ninscope.audit(str(suite)).equals(first)
        assert ninscope.audit(str(suite / ".." / "tiny")).equals(first)
        assert hashed == []

    def test_and_again_once_they_change(self, suite, hashed):
        ninscope.audit(str(suite))
        hashed.clear()
        touched, replaced = (suite / f"step{step}" / "model.safetensors" for step in (0, 1))
        os.utime(touched, ns=(1, 1))
        replaced.write_bytes((suite / "step8" / "model.safetensors").read_bytes())
        rows = ninscope.audit(str(suite))
        assert sorted(hashed) == ["step0", "step1"]
        assert rows["status"].tolist() == ["ok", "duplicate", "duplicate"]

    def test_weights_that_were_changed_keeping_size_and_mtime_are_seen(self, suite, hashed):
        """Their ctime cannot be set back."""
        file = suite / "step0" / "model.safetensors"
        ninscope.audit(str(suite))
        hashed.clear()
        stamp, content = file.stat(), bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert ninscope.audit(str(suite))["content_sha256"][0] == hashlib.sha256(content).hexdigest()
        assert hashed == ["step0"]

    def test_several_sources_share_the_cache(self, suite, tmp_path, hashed):
        other = write_suite(tmp_path / "other", (0, 1), seed=50, **SHAPE)
        ninscope.audit(str(suite))
        ninscope.audit(str(other))
        hashed.clear()
        ninscope.audit(str(suite))
        ninscope.audit(str(other))
        assert hashed == []

    @pytest.mark.parametrize(
        "content",
        ["", "[]", "null", "{", '{"a": 1}', "\xff", '{"%s": {"name": 1, "size": "x", "digest": 5, "stamp": [1]}}'],
    )
    def test_a_damaged_cache_is_made_anew(self, suite, cache, hashed, content):
        cache.parent.mkdir(parents=True)
        place = suite / "step0" / "model.safetensors"
        cache.write_bytes(content.replace("%s", str(place)).encode("latin-1"))
        assert set(ninscope.audit(str(suite))["status"]) == {"ok"}
        hashed.clear()
        ninscope.audit(str(suite))
        assert hashed == []

    def test_a_cached_entry_of_wrong_types_is_hashed_again(self, suite, cache):
        first = ninscope.audit(str(suite))
        entries = hash_cache.unsealed(json.loads(cache.read_bytes()))
        for number, entry in enumerate(entries.values()):
            entry |= [{"digest": 5}, {"digest": None}, {"size": "10", "name": 7}][number]
        cache.write_text(json.dumps(hash_cache.sealed(entries)))
        assert ninscope.audit(str(suite)).equals(first)

    def test_a_flipped_digit_of_the_cache_is_not_believed(self, suite, cache, hashed):
        first = ninscope.audit(str(suite))
        (digest,) = {first["content_sha256"][0]}
        cache.write_text(cache.read_text().replace(digest, ("1" if digest[0] == "0" else "0") + digest[1:]))
        hashed.clear()
        assert ninscope.audit(str(suite)).equals(first)
        assert len(hashed) == 3

    def test_a_cache_that_cannot_be_written_is_no_error(self, suite, monkeypatch, tmp_path):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        assert set(ninscope.audit(str(suite))["status"]) == {"ok"}

    def test_without_a_name_for_it_the_cache_lies_in_the_home_folder(self, suite, monkeypatch, tmp_path):
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        ninscope.audit(str(suite))
        assert (tmp_path / "home" / ".cache" / "ninscope" / "known-files.json").is_file()

    def test_the_cache_does_not_grow_for_ever(self, suite, tmp_path, monkeypatch, cache):
        monkeypatch.setattr(hash_cache, "MAX_KNOWN", 4)
        other = write_suite(tmp_path / "other", (0, 1), seed=50, **SHAPE)
        ninscope.audit(str(suite))
        ninscope.audit(str(other))
        paths = list(hash_cache.unsealed(json.loads(cache.read_bytes())))
        assert len(paths) == 4
        assert sum(Path(path).is_relative_to(other) for path in paths) == 2

    def test_measuring_hashes_only_what_may_be_equal(self, suite, hashed, cache):
        shutil.copytree(suite / "step8", suite / "step9")
        rows = ninscope.measure_all(suite)
        assert [row.status for row in rows] == ["ok", "ok", "duplicate", "duplicate"]
        assert sorted(hashed) == ["step8", "step9"]
        assert not cache.exists()

    def test_equal_parts_are_not_taken_for_equal_files(self, tmp_path):
        """Between the pieces by which files are told apart, one byte differs."""
        tensors = {"weight": np.zeros((1000, 1000), np.float32)}
        for step in (0, 1):
            tensors["weight"][500, 500] = step
            write_checkpoint(tmp_path / "large" / f"step{step}", dict(tensors), neox_config(**SHAPE))
        assert {one.finding.status for one in locate_siblings(open_source(tmp_path / "large"))} == {"ok"}
        shutil.copytree(tmp_path / "large" / "step0", tmp_path / "large" / "step5")
        found = locate_siblings(open_source(tmp_path / "large"))
        assert [one.finding.status for one in found] == ["duplicate", "ok", "duplicate"]
