"""The names diffusers gives weight files, and its pipelines' folders, on disk and on a Hub."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hub_client import _private_client, serve  # noqa: F401 (fixtures)
from safetensors.numpy import load_file, save_file

import ninscope
from ninscope.checkpoints.file_names import weight_names
from ninscope.checkpoints.identity import shape_of
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError, RequestError
from ninscope_pipeline.survey_memory import identity_of

SUITE = Path(__file__).parents[2] / "data" / "digits-ddpm"
NAME = "diffusion_pytorch_model"
SINGLE = f"{NAME}.safetensors"
SMALL = {"nodes_per_layer": 16, "samples": 2}
PIPELINE = {
    "_class_name": "DDPMPipeline",
    "scheduler": ["diffusers", "DDPMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """One real checkpoint of its own."""
    return Path(shutil.copytree(SUITE / "step2000", tmp_path / "suite" / "step2000"))


def pipeline(folder: Path, step: str = "step2000", model: str = "unet") -> Path:
    """A folder as a pipeline's save_pretrained leaves it, with parts that are no denoising model."""
    shutil.copytree(SUITE / step, folder / model)
    (folder / "model_index.json").write_text(json.dumps(PIPELINE))
    for part in ("scheduler", "vae", "text_encoder"):
        (folder / part).mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    for part in ("vae", "text_encoder"):
        (folder / part / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
        save_file({"x": np.zeros((3, 3), np.float32)}, folder / part / "model.safetensors")
    return folder


def shard(folder: Path, index: str, names: str) -> None:
    """Split the weights of a checkpoint into two files, named by a pattern of their number."""
    tensors = load_file(folder / SINGLE)
    weight_map = {tensor: names.format(number % 2 + 1) for number, tensor in enumerate(tensors)}
    for file in set(weight_map.values()):
        save_file({tensor: tensors[tensor] for tensor in tensors if weight_map[tensor] == file}, folder / file)
    (folder / index).write_text(json.dumps({"weight_map": weight_map}))
    (folder / SINGLE).unlink()


def alpha0(source, revision: str | None = None) -> float:
    return ninscope.measure(source, revision, **SMALL).alpha0


def weights_in(source, revision: str | None = None) -> dict[str, bytes]:
    """Every tensor of a checkpoint, bit for bit."""
    opened = open_source(source)
    tensors = opened.open(revision or opened.revisions()[0]).tensors
    weights = {}
    for file in {id(tensor.file): tensor.file for tensor in tensors.values()}.values():
        entries = [tensor.entry for tensor in tensors.values() if tensor.file is file]
        pieces = file.read_ranges([(entry.start, entry.stop) for entry in entries])
        weights |= {entry.name: bytes(piece) for entry, piece in zip(entries, pieces, strict=True)}
    return weights


class TestWeightFiles:
    @pytest.mark.parametrize(("present", "taken"), [
        ([SINGLE], (SINGLE, "")),
        ([SINGLE, f"{NAME}.bin", f"{NAME}.fp16.safetensors"], (SINGLE, "")),
        ([f"{NAME}.safetensors.index.json", f"{NAME}.bin"], ("", f"{NAME}.safetensors.index.json")),
        ([f"{NAME}.bin", f"{NAME}.fp16.safetensors"], (f"{NAME}.bin", "")),
        ([f"{NAME}.fp16.safetensors", f"{NAME}.fp16.bin"], (f"{NAME}.fp16.safetensors", "")),
        ([f"{NAME}.fp16.bin"], (f"{NAME}.fp16.bin", "")),
        ([f"{NAME}.safetensors.index.fp16.json"], ("", f"{NAME}.safetensors.index.fp16.json")),
        (["model.fp16.safetensors"], ("model.fp16.safetensors", "")),
        (["model.safetensors", SINGLE], ("model.safetensors", "")),
    ])  # fmt: skip
    def test_which_is_taken(self, present, taken):
        assert weight_names([*present, "config.json", "README.md"]) == taken

    def test_several_variants_are_a_choice_that_is_not_made(self):
        with pytest.raises(
            CheckpointError, match=rf"only as variants, and several \({NAME}\.fp16\S+, {NAME}\.non_ema"
        ) as caught:
            weight_names([f"{NAME}.fp16.safetensors", f"{NAME}.non_ema.safetensors"])
        assert caught.value.status == "unsupported"

    def test_the_audit_compares_levels(self):
        config = {
            "block_out_channels": [24, 40],
            "layers_per_block": 1,
            "attention_head_dim": [2, None],
            "act_fn": "silu",
        }
        assert shape_of(config) == (
            ("block_out_channels[0]", 24), ("block_out_channels[1]", 40), ("layers_per_block", 1), ("attention_head_dim[0]", 2),
        )  # fmt: skip

    @pytest.mark.parametrize("name", [f"{NAME}.fp16.safetensors", f"{NAME}.ema.safetensors"])
    def test_a_variant_that_is_the_only_one(self, folder, name):
        expected = weights_in(folder)
        (folder / SINGLE).rename(folder / name)
        assert weights_in(folder) == expected

    @pytest.mark.parametrize(("index", "names"), [
        (f"{NAME}.safetensors.index.json", f"{NAME}-0000{{}}-of-00002.safetensors"),
        (f"{NAME}.safetensors.index.fp16.json", f"{NAME}.fp16-0000{{}}-of-00002.safetensors"),
    ])  # fmt: skip
    def test_shards(self, folder, index, names):
        expected = weights_in(folder)
        shard(folder, index, names)
        assert weights_in(folder) == expected
        (folder / names.format(2)).unlink()
        with pytest.raises(CheckpointError, match=r"00002-of-00002\.safetensors is absent"):
            weights_in(folder)

    def test_a_pickle(self, folder):
        torch = pytest.importorskip("torch", reason="torch is not installed")
        expected = weights_in(folder)
        torch.save(
            {tensor: torch.from_numpy(values) for tensor, values in load_file(folder / SINGLE).items()},
            folder / f"{NAME}.bin",
        )
        (folder / SINGLE).unlink()
        assert weights_in(folder) == expected

    def test_no_weights(self, folder):
        (folder / SINGLE).unlink()
        with pytest.raises(
            CheckpointError,
            match=rf"no model\.safetensors and .* nor {NAME}\.safetensors or .*; the weights are absent",
        ):
            weights_in(folder)


class TestPipelinesOnDisk:
    @pytest.mark.parametrize("model", ["unet", "transformer"])
    def test_naming_it_measures_its_denoising_model(self, tmp_path, model):
        place = pipeline(tmp_path / "ddpm", model=model)
        assert open_source(place).revisions() == ["ddpm"]
        assert alpha0(place) == alpha0(place / model) == alpha0(SUITE, "step2000")

    def test_revisions_that_are_pipelines(self, tmp_path):
        for step in ("step0", "step2000"):
            pipeline(tmp_path / "suite" / step, step)
        rows = ninscope.measure_all(tmp_path / "suite", **SMALL)
        expected = [row for row in ninscope.measure_all(SUITE, **SMALL) if row.revision in ("step0", "step2000")]
        assert [(row.revision, row.status) for row in rows] == [("step0", "ok"), ("step2000", "ok")]
        assert [row.spectrum.alpha0 for row in rows] == [row.spectrum.alpha0 for row in expected]

    def test_a_trainer_s_output(self, tmp_path):
        """The last pipeline at the top, and beside its parts a folder a step, without model_index.json."""
        place = pipeline(tmp_path / "run")
        for step, name in (("step0", "checkpoint-0"), ("step1000", "checkpoint-1000")):
            shutil.copytree(SUITE / step, place / name / "unet")
        assert open_source(place).revisions() == ["checkpoint-0", "checkpoint-1000", "run"]
        assert weights_in(place, "checkpoint-1000") == weights_in(SUITE, "step1000")

    def test_a_pipeline_of_other_parts(self, tmp_path):
        place = pipeline(tmp_path / "suite" / "step5")
        shutil.rmtree(place / "unet")
        (row,) = ninscope.measure_all(tmp_path / "suite", **SMALL)
        assert row.status == "unsupported"
        assert "step5: a pipeline (model_index.json) without unet or transformer; name the folder" in row.message


class TestPipelinesOnAHub:
    def test_a_checkpoint_at_the_top(self, serve):
        serve({"org/ddpm": {"main": SUITE / "step2000", "step0": SUITE / "step0"}})
        assert weights_in("org/ddpm", "step0") == weights_in(SUITE, "step0")
        assert weights_in("org/ddpm", "main") == weights_in(SUITE, "step2000")

    @pytest.mark.parametrize("name", ["org/sd", "org/sd/unet"])
    def test_a_pipeline_and_its_folder(self, serve, tmp_path, name):
        hub = serve({"org/sd": {"main": pipeline(tmp_path / "sd")}})
        assert alpha0(name, "main") == alpha0(SUITE, "step2000")
        files = [request.path for request in hub.requests if request.is_file]
        assert files
        assert not [path for path in files if "/unet/" not in path]

    def test_the_same_weights_on_disk_and_there(self, serve, tmp_path):
        place = pipeline(tmp_path / "sd")
        shard(place / "unet", f"{NAME}.safetensors.index.json", f"{NAME}-0000{{}}-of-00002.safetensors")
        serve({"org/sd": {"main": place}})
        ours, theirs = (open_source(source).identify(name) for source, name in (("org/sd", "main"), (place, "sd")))
        assert ours.content_sha256 == theirs.content_sha256
        assert ours.shape == theirs.shape != ()
        assert ours.folder == "unet"
        assert [file.name for file in ours.beside] == ["config.json", f"{NAME}.safetensors.index.json"]

    def test_what_was_identified_is_opened_elsewhere_without_asking_again(self, serve, tmp_path):
        hub = serve({"org/sd": {"main": pipeline(tmp_path / "sd")}})
        identity = open_source("org/sd").identify("main")
        hub.requests.clear()
        checkpoint = open_source("org/sd").open("main", identity)
        assert set(checkpoint.tensors) == set(load_file(SUITE / "step2000" / SINGLE))
        assert not [request.path for request in hub.requests if not request.is_file]

    def test_where_it_lies_is_remembered(self, serve, tmp_path):
        serve({"org/sd": {"main": pipeline(tmp_path / "sd")}})
        identity = open_source("org/sd").identify("main")
        stored = json.loads(json.dumps(asdict(identity)))
        assert identity_of(stored) == identity
        assert identity_of(stored | {"folder": 3}) is None

    def test_of_two_models_the_named_one(self, serve, tmp_path):
        place = pipeline(tmp_path / "both")
        shutil.copytree(SUITE / "step0", place / "transformer")
        serve({"org/both": {"main": place}})
        assert weights_in("org/both/transformer", "main") == weights_in(SUITE, "step0")
        assert weights_in("org/both", "main") == weights_in(SUITE, "step2000")

    def test_a_folder_that_is_not_there(self, serve, tmp_path):
        serve({"org/sd": {"main": pipeline(tmp_path / "sd")}})
        with pytest.raises(CheckpointError, match=r"main: config\.json is absent") as caught:
            weights_in("org/sd/transformer", "main")
        assert caught.value.status == "missing"

    def test_a_pipeline_of_other_parts(self, serve, tmp_path):
        place = pipeline(tmp_path / "sd")
        shutil.rmtree(place / "unet")
        serve({"org/sd": {"main": place}})
        with pytest.raises(
            CheckpointError, match=r"main: a pipeline \(model_index\.json\) without unet or transformer"
        ):
            weights_in("org/sd", "main")

    @pytest.mark.parametrize("name", ["org/sd/vae", "org/sd/unet/x", "org/sd/../x", "org//unet"])
    def test_other_paths_are_no_names(self, name):
        with pytest.raises(RequestError, match="not a Hub repository id"):
            open_source(name)
