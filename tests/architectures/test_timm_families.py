"""timm's ViT, Swin and ResNet as timm saves them. timm runs in a process of its own, as in tests/neurons/test_memel_timm.py."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import naive
import numpy as np
import pytest
from safetensors.numpy import load_file

import ninscope
from ninscope.architectures import architecture_of
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError

pytestmark = pytest.mark.slow
pytest.importorskip("torch", reason="torch is not installed")

TIMM = Path(sys.prefix) / "timm"  # where the Makefile puts it
MODELS = {
    "vit_tiny_patch16_224": {
        "img_size": 8,
        "patch_size": 4,
        "depth": 2,
        "embed_dim": 24,
        "num_heads": 4,
        "mlp_ratio": 1.5,
    },
    "deit_tiny_distilled_patch16_224": {"img_size": 8, "patch_size": 4, "depth": 1, "embed_dim": 24, "num_heads": 4},
    "swin_tiny_patch4_window7_224": {"img_size": 56, "depths": [1, 2], "embed_dim": 12, "num_heads": [2, 2]},
    "resnet18": {"layers": [2, 1], "channels": [64, 24]},
    "resnet50d": {"layers": [1, 1], "channels": [16, 20], "stem_width": 12},
}
LEFT_OUT = ("pos_embed", "cls_token", "dist_token", "head", "fc.", "relative_position_bias_table")
SCRIPT = """
import contextlib, json, sys
from pathlib import Path
import torch

# torchvision is imported only where its compiled operators are; no model here calls one, and a declaration is enough.
for name in ("nms", "qnms"):
    with contextlib.suppress(RuntimeError):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import numpy as np
import timm
from timm.models._hub import save_for_hf


def transformer_block(of, after, block):
    q, k, v = block.attn.qkv.weight.chunk(3)  # as its forward pass: reshape(B, N, 3, heads, head_dim).unbind
    return {
        (of + ".x", of + ".q"): q, (of + ".x", of + ".k"): k, (of + ".x", of + ".v"): v,
        (of + ".c", of + ".a"): block.attn.proj.weight,
        (of + ".a", of + ".m"): block.mlp.fc1.weight, (of + ".m", after): block.mlp.fc2.weight,
    }


def vit(model):
    found = {("input.x", "block0.x"): model.patch_embed.proj.weight}
    for number, block in enumerate(model.blocks):
        last = number + 1 == len(model.blocks)
        found |= transformer_block(f"block{number}", "output.x" if last else f"block{number + 1}.x", block)
    return found


def swin(model):
    found = {("input.x", "stage0.block0.x"): model.patch_embed.proj.weight}
    for s, stage in enumerate(model.layers):
        if s:
            found[f"stage{s - 1}.merge.n", f"stage{s}.block0.x"] = stage.downsample.reduction.weight
        for number, block in enumerate(stage.blocks):
            after = f"stage{s}.block{number + 1}.x" if number + 1 < len(stage.blocks) else f"stage{s}.merge.x"
            after = "output.x" if s + 1 == len(model.layers) and after.endswith("merge.x") else after
            found |= transformer_block(f"stage{s}.block{number}", after, block)
    return found


def chain(source, after, modules):
    between = [f"{source[:-2]}.h{number}" for number in range(len(modules) - 1)]
    return dict(zip(zip([source, *between], [*between, after]), (module.weight for module in modules)))


def resnet(model):
    stages = [layer for name, layer in model.named_children() if name.startswith("layer")]
    layers = [(f"stage{s}.layer{n}.x", layer) for s, stage in enumerate(stages) for n, layer in enumerate(stage)]
    convolutions = lambda part: [m for m in part.modules() if isinstance(m, torch.nn.Conv2d)]
    found = chain("input.x", layers[0][0], convolutions(model.conv1))
    for place, (source, layer) in enumerate(layers):
        after = layers[place + 1][0] if place + 1 < len(layers) else "output.x"
        found |= chain(source, after, [m for name, m in layer.named_children() if name.startswith("conv")])
        if layer.downsample is not None:
            (shortcut,) = convolutions(layer.downsample)
            found[source, after] = shortcut.weight
    return found


torch.manual_seed(0)
for name, settings in json.loads(sys.argv[2]).items():
    model = timm.create_model(name, num_classes=5, **settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    folder = Path(sys.argv[1]) / name / "step0"
    save_for_hf(model, folder, model_args=settings, safe_serialization=True)
    blocks = {"vit": vit, "deit": vit, "swin": swin}.get(name.split("_")[0], resnet)(model)
    np.savez(folder.parent / "blocks.npz", **{" ".join(ends): weight.detach().numpy() for ends, weight in blocks.items()})
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    if not TIMM.is_dir():
        pytest.skip("timm is not there; make test puts it there")
    folder = tmp_path_factory.mktemp("timm")
    environment = os.environ | {"PYTHONPATH": str(TIMM), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), json.dumps(MODELS)], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder


@pytest.fixture
def checkpoint(saved, name):
    return open_source(saved / name).open("step0")


@pytest.fixture
def blocks(saved, name) -> dict[tuple[str, str], np.ndarray]:
    """W[out, in(, *kernel)] of the modules, by (source, target)."""
    stored = np.load(saved / name / "blocks.npz")
    return {tuple(ends.split()): stored[ends] for ends in stored}


@pytest.mark.parametrize("name", MODELS)
class TestTheRealModel:
    def test_node_layers(self, checkpoint, blocks):
        architecture = architecture_of(checkpoint.config, checkpoint.tensors)
        expected = {source: weight.shape[1] for (source, _), weight in blocks.items()}
        expected |= {target: weight.shape[0] for (_, target), weight in blocks.items()}
        merged = {f"stage{n}.merge.x" for n in range(8)}
        found = {layer.name: layer.size for layer in architecture.layers}
        assert found | {name: expected[name] for name in merged & expected.keys()} == expected
        assert {layer.kind for layer in architecture.layers} <= {"attention", "mlp", "convolution", "embedding", ""}

    def test_weights_of_every_block_are_the_modules_own(self, saved, name, checkpoint, blocks):
        architecture = architecture_of(checkpoint.config, checkpoint.tensors)
        stored = load_file(saved / name / "step0" / "model.safetensors")
        sizes = {layer.name: layer.size for layer in architecture.layers}
        found = {
            (block.source, block.target): stored[block.tensor][block.rows.rows(np.arange(sizes[block.target]))]
            for block in architecture.blocks
        }
        assert found.keys() == blocks.keys()
        for ends, weight in blocks.items():
            np.testing.assert_array_equal(found[ends], weight, err_msg=str(ends))

    def test_no_further_weights_are_in_the_file(self, checkpoint):
        used = architecture_of(checkpoint.config, checkpoint.tensors).matrices
        further = [name for name, tensor in checkpoint.tensors.items() if len(tensor.shape) > 1 and name not in used]
        assert not [name for name in further if not any(part in name for part in LEFT_OUT)]

    def test_measured_as_the_plain_definition_says(self, saved, name, blocks):
        by_source: dict[str, list[np.ndarray]] = {}
        for (source, _), weight in blocks.items():
            if weight.ndim > 2:
                weight = np.sqrt((weight.astype(np.float64) ** 2).sum(axis=(2, 3))).astype(np.float32)
            by_source.setdefault(source, []).append(weight)
        columns = [column for weights in by_source.values() for column in np.concatenate(weights).T]
        q = np.array([-2.0, 0.0, 2.0])
        expected = naive.spectrum([naive.distances_of(column) for column in columns], q=q)
        found = ninscope.measure(str(saved / name), exact=True, q=q)
        assert found.samples[0].edges == expected["edges"]
        np.testing.assert_allclose(found.alpha, expected["alpha"], rtol=1e-9)

    def test_every_tensor_of_another_shape_is_refused(self, checkpoint):
        for tensor in architecture_of(checkpoint.config, checkpoint.tensors).matrices:
            stored = checkpoint.tensors[tensor]
            for shape in ((0,), (stored.shape[0] + 2, *stored.shape[1:]), stored.shape[:1]):
                other = replace(stored, entry=replace(stored.entry, shape=shape))
                tensors = dict(checkpoint.tensors) | {tensor: other}
                with pytest.raises(CheckpointError) as caught:
                    architecture_of(checkpoint.config, tensors).tensors(tensors)
                assert caught.value.status == "corrupt", (tensor, shape)

    def test_a_missing_tensor_is_refused(self, checkpoint):
        for tensor in architecture_of(checkpoint.config, checkpoint.tensors).matrices:
            if "downsample" in tensor and "reduction" not in tensor:
                continue  # without a shortcut, x is added
            left = {name: stored for name, stored in checkpoint.tensors.items() if name != tensor}
            with pytest.raises(CheckpointError):
                architecture_of(checkpoint.config, left).tensors(left)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224"])
class TestRefusals:
    def test_a_part_that_is_not_known(self, checkpoint):
        more = dict(checkpoint.tensors) | {
            "blocks.0.attn.rel_pos.mlp.weight": checkpoint.tensors["blocks.0.mlp.fc1.weight"]
        }
        with pytest.raises(
            CheckpointError, match=r"tensor blocks\.0\.attn\.rel_pos\.mlp\.weight is in no timm_vit"
        ) as caught:
            architecture_of(checkpoint.config, more)
        assert caught.value.status == "unsupported"

    def test_another_width_than_config_json_says(self, checkpoint):
        with pytest.raises(
            CheckpointError, match="num_features is 32, but the tensors' last block has 24 neurons"
        ) as caught:
            architecture_of(checkpoint.config | {"num_features": 32}, checkpoint.tensors)
        assert caught.value.status == "corrupt"

    def test_without_tensors_there_are_no_sizes(self, checkpoint):
        with pytest.raises(CheckpointError, match="its sizes follow from its tensors"):
            architecture_of(checkpoint.config)

    def test_other_models_of_timm_are_generic(self, saved, name, tmp_path):
        shutil.copytree(saved / name, tmp_path, dirs_exist_ok=True)
        config = tmp_path / "step0" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"architecture": "vitamin_small_224"}))
        assert "'vitamin_small_224' is not a known family; read as generic" in ninscope.measure(str(tmp_path)).message
