"""A file is a source, a folder of files is one revision a file, and what is not read is named for what it is."""

import json
import os
import re

import numpy as np
import pytest
from huggingface_hub import PyTorchModelHubMixin
from safetensors.numpy import save_file
from suites import neox_tensors, write_checkpoint, write_suite

import ninscope
from ninscope.checkpoints.local import LocalFile
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError, RequestError

torch = pytest.importorskip("torch")

SHAPE = {"blocks": 1, "width": 16, "heads": 2}
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


def state(seed=0):
    """Of no known family: two matrices."""
    rng = np.random.default_rng(seed)
    return {f"net.{n}.weight": rng.normal(0, 0.1, (12, 12)).astype(np.float32) for n in range(2)}


def written(path, tensors, wrap=lambda tensors: tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(wrap({name: torch.from_numpy(array) for name, array in tensors.items()}), path)
    return path


def numbers(measurement):
    return measurement.alpha0, measurement.width, measurement.edges


def lightning(step):
    def wrap(tensors):
        moments = {n: {"exp_avg": t.clone(), "exp_avg_sq": t.clone()} for n, t in enumerate(tensors.values())}
        return {
            "epoch": 0,
            "global_step": step,
            "state_dict": tensors,
            "optimizer_states": [{"state": moments, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}],
            "hyper_parameters": {"width": 12},
        }

    return wrap


class TestOneFile:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_without_a_configuration_it_is_read_as_generic(self, tmp_path, suffix):
        file = written(tmp_path / f"anything{suffix}", state())
        measured = ninscope.measure(str(file))
        (tmp_path / "folder").mkdir()
        folder = written(tmp_path / "folder" / "model.safetensors", state()).parent
        assert numbers(measured) == numbers(ninscope.measure(str(folder)))
        assert measured.message.startswith(
            "there is no configuration with a model_type; read as generic, each of 2 matrices"
        )
        assert open_source(file).revisions() == [f"anything{suffix}"]

    @pytest.mark.parametrize("name", ["model.safetensors", "weights.pth"])
    def test_config_json_beside_it_counts(self, tmp_path, name):
        tensors = neox_tensors(seed=0, **SHAPE)
        folder = write_checkpoint(tmp_path / "whole", tensors)
        (tmp_path / "file").mkdir()
        (tmp_path / "file" / "config.json").write_text(json.dumps(tensors.config))
        written(tmp_path / "file" / "other.pt", state())  # which nobody names
        file = written(tmp_path / "file" / name, dict(tensors))
        assert numbers(ninscope.measure(file)) == numbers(ninscope.measure(folder))
        assert ninscope.measure(file).message == ""

    def test_a_description_says_what_it_is(self, tmp_path):
        file = written(tmp_path / "ckpt.pt", state(), lambda tensors: {"model": tensors, "iter_num": 7})
        blocks = [{"tensor": "net.{n}.weight", "source": "l{n}", "target": "l{n+1}"}]
        measured = ninscope.measure(file, architecture={"blocks": blocks})
        assert measured.nodes == 36
        assert measured.message == ""

    def test_litgpts_file_has_names_of_its_own(self, tmp_path):
        """config.json beside it is that of the model that it was converted from."""
        file = written(tmp_path / "lit" / "lit_model.pth", state(), lambda tensors: {"model": tensors})
        (tmp_path / "lit" / "config.json").write_text(json.dumps(neox_tensors(seed=0, **SHAPE).config))
        for source in (file, file.parent):
            message = ninscope.measure(source).message
            assert (
                "config.json does not apply to lit_model.pth, whose tensors litgpt names in its own way; read as gen"
                in message
            )
        (tmp_path / "lit" / "config.json").unlink()
        assert "there is no configuration with a model_type; read as generic" in ninscope.measure(file).message

    @pytest.mark.parametrize("name", ["fifo.pt", "fifo"])
    def test_a_pipe_is_refused_and_not_waited_for(self, tmp_path, name):
        os.mkfifo(tmp_path / name)
        with pytest.raises(
            RequestError, match=f"{name} is neither a folder nor a plain file .a pipe, say.; name a folder"
        ):
            ninscope.measure(tmp_path / name)
        with pytest.raises(RequestError, match="no checkpoint and no revision folders"):
            ninscope.measure(tmp_path)

    def test_an_adapter_is_one(self, tmp_path):
        factors = {
            f"base_model.model.m.lora_{w}.weight": np.ones(s, np.float32) for w, s in (("A", (2, 9)), ("B", (9, 2)))
        }
        file = written(tmp_path / "adapter_model.safetensors", factors)
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 4, "r": 2}))
        assert "an adapter alone" in ninscope.measure(file).message

    def test_an_optimizers_state_is_not_read(self, tmp_path, monkeypatch):
        weights = {"net.weight": np.random.default_rng(0).normal(0, 0.1, (1100, 1100)).astype(np.float32)}
        file = written(tmp_path / "epoch=3-step=120.ckpt", weights, lightning(120))
        assert file.stat().st_size > 2.9 * weights["net.weight"].nbytes
        spans = []
        real = LocalFile.read_ranges
        monkeypatch.setattr(LocalFile, "read_ranges", lambda self, ranges: spans.extend(ranges) or real(self, ranges))
        assert ninscope.measure(file).nodes > 0
        assert sum(stop - start for start, stop in spans) <= 1.02 * weights["net.weight"].nbytes

    def test_what_runs_code_is_not_run(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

        torch.save({"model": {"w": torch.ones(2, 2)}, "x": Evil()}, tmp_path / "evil.ckpt")
        with pytest.raises(CheckpointError, match=r"evil\.ckpt: its pickle names (__)?builtins?(__)?\.exec"):
            ninscope.measure(tmp_path / "evil.ckpt")
        assert not (tmp_path / "ran").exists()


class TestFolders:
    def test_files_are_revisions_with_steps(self, tmp_path):
        for name in ("ckpt_0.pt", "ckpt_500.pt", "last.ckpt", "optimizer.pt", "train.log"):
            written(tmp_path / "run" / name, state(len(name)))
        written(tmp_path / "run" / "epoch=3-step=120.ckpt", state(3), lightning(120))
        source = open_source(tmp_path / "run")
        names = ["ckpt_0.pt", "epoch=3-step=120.ckpt", "ckpt_500.pt", "last.ckpt"]
        assert source.revisions() == names
        assert [source.step_of(name) for name in names] == [0, 120, 500, None]
        rows = ninscope.measure_all(str(tmp_path / "run"))
        assert [(row.revision, row.status) for row in rows] == [(name, "ok") for name in names]
        assert rows[0].emergence == 0
        assert all(np.isfinite(row.emergence) for row in rows)
        assert numbers(rows[1].spectrum) == numbers(ninscope.measure(written(tmp_path / "same.safetensors", state(3))))
        audited = ninscope.audit(str(tmp_path / "run"))
        assert list(audited["status"]) == ["ok"] * 4

    def test_config_json_counts_for_all_files(self, tmp_path):
        tensors = [neox_tensors(seed=seed, **SHAPE) for seed in (0, 1)]
        for step, each in enumerate(tensors):
            written(tmp_path / "files" / f"step{step}.safetensors", dict(each))
            write_checkpoint(tmp_path / "folders" / f"step{step}", each)
        (tmp_path / "files" / "config.json").write_text(json.dumps(tensors[0].config))
        found, expected = (ninscope.measure_all(str(tmp_path / kind)) for kind in ("files", "folders"))
        assert [row.emergence for row in found] == [row.emergence for row in expected]
        assert [row.message for row in found] == ["", ""]

    def test_a_folder_with_one_file_of_any_name_is_a_checkpoint(self, tmp_path):
        for step in (0, 1000):
            written(
                tmp_path / "out" / f"step-{step:08}" / "lit_model.pth", state(step), lambda tensors: {"model": tensors}
            )
        rows = ninscope.measure_all(str(tmp_path / "out"))
        assert [(row.step, row.status) for row in rows] == [(0, "ok"), (1000, "ok")]

    def test_several_files_are_not_one_checkpoint(self, tmp_path):
        for name in ("a.pt", "b.pt"):
            written(tmp_path / "out" / "step1" / name, state())
        with pytest.raises(
            CheckpointError, match=r"step1: several files of weights \(a\.pt, b\.pt\); name one of them"
        ):
            ninscope.measure(tmp_path / "out", "step1")

    def test_a_configuration_is_missed_where_siblings_have_one(self, tmp_path):
        suite = write_suite(tmp_path / "tiny", [0, 1, 2], **SHAPE)
        (suite / "step1" / "config.json").unlink()
        (row,) = [row for row in ninscope.measure_all(str(suite)) if row.status != "ok"]
        assert (row.status, row.message) == (
            "missing",
            "step1: config.json is absent; it tells how the weights are joined",
        )

    @pytest.mark.parametrize("arguments", [{}, {"width": 12}], ids=["no configuration", "no model_type"])
    def test_models_of_the_hubs_mixin(self, tmp_path, arguments):
        class Net(torch.nn.Module, PyTorchModelHubMixin):
            def __init__(self, **given):
                super().__init__()
                self.net = torch.nn.Linear(given.get("width", 12), 12, bias=False)

        torch.manual_seed(0)
        for step in range(3):
            Net(**arguments).save_pretrained(tmp_path / "hub" / f"step{step}")
        rows = ninscope.measure_all(str(tmp_path / "hub"))
        assert [row.status for row in rows] == ["ok"] * 3
        assert all("no" in row.message and "model_type; read as generic" in row.message for row in rows)

    def test_timms_configuration_has_no_model_type(self, tmp_path):
        written(tmp_path / "timm" / "model.safetensors", state())
        (tmp_path / "timm" / "config.json").write_text(json.dumps({"architecture": "mixer_b16_224", "num_classes": 3}))
        message = ninscope.measure(tmp_path / "timm").message
        assert message.startswith("config.json has no model_type (architecture 'mixer_b16_224'); read as generic")


OTHERS = {
    "DCP": (
        ("__0_0.distcp", ".metadata"),
        r"__0_0\.distcp: a distributed checkpoint of torch \(DCP\); make one file of it: python",
    ),
    "DCP in safetensors": (
        ("shard-00001-model-00001-of-00002.safetensors",),
        r"\(DCP\) in safetensors, in shards; consolidate",
    ),
    "Megatron": (("latest_checkpointed_iteration.txt", "iter_0001000"), "a checkpoint of Megatron; convert it"),
    "Megatron's rank": (("model_optim_rng.pt",), "a checkpoint of Megatron; convert it"),
    "GGUF": (("model-q4.gguf",), "a GGUF file, .*; use the checkpoint that it was converted from"),
    "no index": (
        ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        r"shards without their index \(model\.safetensors\.index\.json or the like\); fetch the index too",
    ),
    "LoRA of diffusers": (
        ("pytorch_lora_weights.safetensors",),
        "LoRA weights of diffusers; fuse them into their pipeline",
    ),
    "ZeRO": (("zero_pp_rank_0_mp_rank_00_model_states.pt",), r"DeepSpeed's ZeRO, .*: python zero_to_fp32\.py"),
}


@pytest.mark.parametrize(("names", "says"), OTHERS.values(), ids=OTHERS)
def test_what_is_not_read_is_named(tmp_path, names, says):
    for folder in ("step1", "any"):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_bytes(b"x")
    with pytest.raises(RequestError, match=rf"any: {re.escape(names[0])}: .*|any: .*" + says):
        ninscope.measure(tmp_path / "any")
    with pytest.raises(CheckpointError, match=says) as no:
        ninscope.measure(tmp_path, "step1")
    assert (no.value.status, str(no.value)[:7]) == ("unsupported", "step1: ")
    if "." in names[0] and not names[0].endswith("txt"):
        with pytest.raises(RequestError, match=says):
            ninscope.measure(tmp_path / "any" / names[0])


@pytest.mark.parametrize("folder", ["", "models--org--name"])
def test_the_hubs_cache_is_named(tmp_path, folder):
    commit = tmp_path / "models--org--name" / "snapshots" / "0a1b"
    write_checkpoint(commit, neox_tensors(seed=0, **SHAPE))
    for name in ("refs", "blobs"):
        (tmp_path / "models--org--name" / name).mkdir()
    with pytest.raises(
        RequestError, match=r"the cache of the Hub's client; name the repository \(org/name\), or the folder"
    ):
        ninscope.measure(tmp_path / folder)
    assert ninscope.measure(commit).edges == ninscope.measure(commit.parent).edges
