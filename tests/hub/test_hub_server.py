"""The local Hub against the real client: what other tests read through it has to be what the Hub answers."""

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hub_fixture import CONFIG, FILE, MODEL, RESOLVE, WEIGHTS, log, raw
from hub_server import HubServer
from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.errors import (
    EntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.numpy import save


class TestListings:
    def test_model_info_has_names_sizes_and_digests_in_one_request(self, hub, api):
        info = api.model_info(MODEL, revision="sweep/lr-0.1", files_metadata=True)
        config, weights = info.siblings
        assert (config.rfilename, config.size, config.lfs) == ("config.json", len(CONFIG), None)
        assert (weights.rfilename, weights.size) == ("model.safetensors", len(WEIGHTS["sweep/lr-0.1"]))
        assert weights.lfs.sha256 == hashlib.sha256(WEIGHTS["sweep/lr-0.1"]).hexdigest()
        assert info.sha == hub.refs[MODEL]["heads"]["sweep/lr-0.1"]
        assert log(hub) == [("GET", "/api/models/org/model/revision/sweep/lr-0.1", None, 200)]

    def test_sizes_are_only_sent_when_asked_for(self, api):
        assert {s.size for s in api.model_info(MODEL).siblings} == {None}
        assert api.model_info(MODEL, expand=["sha"]).siblings is None

    def test_blob_ids_are_those_of_git(self):
        with HubServer({"a/b": {"main": {"hello": b"hello\n"}}}) as server:
            (entry,) = HfApi(endpoint=server.endpoint, token=False).list_repo_tree("a/b")
        assert entry.blob_id == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object

    def test_refs(self, hub, api):
        tagged = hub.push(MODEL, "v1", {"config.json": CONFIG}, kind="tags")
        refs = api.list_repo_refs(MODEL, include_pull_requests=True)
        assert {b.name for b in refs.branches} == set(WEIGHTS)
        assert len({b.target_commit for b in refs.branches}) == len(WEIGHTS)
        assert [(t.name, t.ref, t.target_commit) for t in refs.tags] == [("v1", "refs/tags/v1", tagged)]
        assert api.model_info(MODEL, revision="v1").sha == tagged
        assert all(api.model_info(MODEL, revision=b.target_commit).sha == b.target_commit for b in refs.branches)

    def test_tree(self, api):
        def names(*args, **kwargs):
            return [entry.path for entry in api.list_repo_tree(MODEL, *args, **kwargs)]

        assert names() == ["config.json", "model.safetensors", "runs"]
        assert names("runs") == ["runs/first", "runs/old.bin"]
        assert names("runs/first") == ["runs/first/log.txt"]
        assert names("runs", recursive=True) == ["runs/first", "runs/first/log.txt", "runs/old.bin"]
        assert names(revision="step0", recursive=True) == ["config.json", "model.safetensors"]
        assert all(e.last_commit.oid == api.model_info(MODEL).sha for e in api.list_repo_tree(MODEL, expand=True))

    def test_paths_info_leaves_out_what_is_missing(self, api):
        weights, folder = api.get_paths_info(MODEL, ["model.safetensors", "runs", "absent"])
        assert weights.lfs.sha256 == hashlib.sha256(WEIGHTS["main"]).hexdigest()
        assert folder.path == "runs"
        assert api.get_paths_info(MODEL, "absent") == []

    def test_commits_follow_from_the_contents(self, hub, repositories, api, fs):
        with HubServer(repositories) as other:
            assert other.refs == hub.refs
        before = api.model_info(MODEL).sha
        after = hub.push(MODEL, "main", {"model.safetensors": WEIGHTS["step0"]})
        assert api.model_info(MODEL).sha == after != before
        assert fs.cat_file(FILE, revision=before, cache_type="none") == WEIGHTS["main"]
        assert fs.cat_file(FILE, revision=after, cache_type="none") == WEIGHTS["step0"]


class TestReads:
    @pytest.mark.parametrize("name", [*WEIGHTS, "by commit"])
    def test_small_reads_ask_for_exactly_their_bytes(self, name, hub, fs):
        revision = hub.refs[MODEL]["heads"]["step0"] if name == "by commit" else name
        content = WEIGHTS["step0" if name == "by commit" else name]
        with fs.open(FILE, revision=revision, cache_type="none") as file:
            hub.requests.clear()  # opening lists the folder, once per filesystem and revision
            for start, length in [(0, 8), (1000, 3), (1003, 5), (len(content) - 2, 100)]:
                file.seek(start)
                assert file.read(length) == content[start : start + length]
        path = f"/org/model/resolve/{revision}/model.safetensors"
        ranges = [(0, 8), (1000, 1003), (1003, 1008), (len(content) - 2, len(content))]
        assert log(hub) == [("GET", path, asked, 206) for asked in ranges]
        assert hub.bytes_served() == hub.bytes_served("model.safetensors") == 8 + 3 + 5 + 2
        assert hub.bytes_served("config.json") == 0

    def test_streams_and_whole_files(self, hub, fs):
        with fs.open(FILE, block_size=0) as file:
            assert file.read(100) + file.read() == WEIGHTS["main"]
        assert fs.cat_file("org/model/config.json") == CONFIG
        assert hub.bytes_served() == len(WEIGHTS["main"]) + len(CONFIG)

    def test_cat_file_and_cat_ranges(self, hub, fs):
        assert fs.cat_file(FILE, 5, 9, revision="step0", cache_type="none") == WEIGHTS["step0"][5:9]
        got = fs.cat_ranges([FILE] * 3, [0, 20, 10], [10, 30, 20], revision="step0", cache_type="none")
        assert got == [WEIGHTS["step0"][a : a + 10] for a in (0, 20, 10)]
        assert hub.bytes_served() == 4 + 30
        assert sum(r.is_file for r in hub.requests) == 4  # neighbours are not joined

    def test_many_threads(self, hub, fs):
        def read(start):
            with fs.open(FILE, cache_type="none") as file:
                file.seek(start)
                return file.read(7)

        read(0)
        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(read, range(200))) == [WEIGHTS["main"][i : i + 7] for i in range(200)]
        assert hub.bytes_served("model.safetensors") == 201 * 7

    def test_download(self, hub, api, tmp_path):
        path = api.hf_hub_download(MODEL, "model.safetensors", revision="step0", cache_dir=tmp_path / "own")
        assert hub.refs[MODEL]["heads"]["step0"] in path
        with open(path, "rb") as file:
            assert file.read() == WEIGHTS["step0"]
        assert [r.method for r in hub.requests] == ["HEAD", "GET"]
        assert hub.bytes_served() == len(WEIGHTS["step0"])

    def test_safetensors_metadata(self, hub, api):
        single = api.get_safetensors_metadata(MODEL, revision="step0")
        assert single.files_metadata["model.safetensors"].tensors["a"].shape == [64, 64]
        shards = {f"model-{i}-of-2.safetensors": save({f"t{i}": np.zeros(i)}) for i in (1, 2)}
        index = {"metadata": {}, "weight_map": {f"t{i}": f"model-{i}-of-2.safetensors" for i in (1, 2)}}
        files = {**shards, "model.safetensors.index.json": json.dumps(index).encode()}
        sharded = api.get_safetensors_metadata(MODEL, revision=hub.push(MODEL, "sharded", files))
        assert sharded.weight_map == index["weight_map"]
        assert set(sharded.files_metadata) == set(shards)

    def test_redirected_weights_cost_two_requests_per_range(self, repositories):
        with HubServer(repositories, redirect_lfs=True) as hub:
            fs = HfFileSystem(endpoint=hub.endpoint, token=False, skip_instance_cache=True)
            with fs.open(FILE, cache_type="none") as file:
                hub.requests.clear()
                assert file.read(8) == WEIGHTS["main"][:8]
            stored = f"/cdn/org/model/resolve/{hub.refs[MODEL]['heads']['main']}/model.safetensors"
            assert log(hub) == [("GET", RESOLVE, None, 302), ("GET", stored, (0, 8), 206)]
            assert hub.bytes_served("model.safetensors") == 8
            assert fs.cat_file("org/model/config.json") == CONFIG
            assert hub.requests[-1].status == 200  # not LFS: served in place

    def test_a_process_of_its_own_is_pointed_here_by_its_environment(self, hub, tmp_path):
        code = f"from huggingface_hub import HfFileSystem as F; print(F().cat_file({FILE!r}, 8, 10))"
        private = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1"}
        env = {**os.environ, **private}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == repr(WEIGHTS["main"][8:10])


class TestMissing:
    def test_api_errors_are_typed(self, api, tmp_path):
        with pytest.raises(RepositoryNotFoundError):
            api.model_info("org/other")
        with pytest.raises(RepositoryNotFoundError):
            api.list_repo_refs("org/other")
        with pytest.raises(RevisionNotFoundError):
            api.model_info(MODEL, revision="step9")
        with pytest.raises(RevisionNotFoundError):
            api.get_paths_info(MODEL, ["config.json"], revision="0" * 40)
        with pytest.raises(EntryNotFoundError):
            list(api.list_repo_tree(MODEL, "absent"))
        for kind, arguments in {
            RepositoryNotFoundError: {"repo_id": "org/other", "filename": "config.json"},
            RevisionNotFoundError: {"repo_id": MODEL, "filename": "config.json", "revision": "step9"},
            EntryNotFoundError: {"repo_id": MODEL, "filename": "absent.json"},
        }.items():
            with pytest.raises(kind):
                api.hf_hub_download(**arguments, cache_dir=tmp_path / "own")

    def test_filesystem_errors_name_their_cause(self, fs):
        with pytest.raises(FileNotFoundError) as caught:
            fs.open("org/other/model.safetensors")
        assert isinstance(caught.value.__cause__, RepositoryNotFoundError)
        with pytest.raises(FileNotFoundError) as caught:
            fs.open(FILE, revision="step9")
        assert isinstance(caught.value.__cause__, RevisionNotFoundError)
        with pytest.raises(FileNotFoundError):
            fs.open("org/model/absent.safetensors")

    @pytest.mark.parametrize(
        "path",
        [
            "/org/model/resolve/main/../../../../etc/passwd",
            "/org/model/resolve/main/%2e%2e%2f%2e%2e%2fhub_server.py",
            "/org/model/resolve/main//etc/passwd",
            "/org/model/resolve/..%2f..%2fmain/config.json",
            "/org/model/resolve/main/runs",
            "/org/model/refs/resolve/main/config.json",
            "/cdn/org/model/tree/main",
            "/api/models/org/model/resolve/main/config.json",
            "/api/models/org/model/nonsense/main",
            "/api/datasets/org/model",
            "/etc/passwd",
            "/",
        ],
    )
    def test_nothing_else_is_served(self, hub, path):
        status, _, body = raw(hub, path)
        assert (status, hub.bytes_served()) == (404, 0)
        assert json.loads(body)
