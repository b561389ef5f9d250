"""insert_memel and remove_memel on real models of timm, in a process of their own: beside torchvision, which timm needs and which
is built for another torch than the CPU's, transformers cannot be imported.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytestmark = pytest.mark.slow

TIMM = Path(sys.prefix) / "timm"  # where the Makefile puts both
MODELS = {
    "vit_tiny_patch16_224": ({"img_size": 32, "depth": 6}, 32, "middle:4"),
    "swin_tiny_patch4_window7_224": (
        {"img_size": 56, "depths": [1, 1, 2, 1], "embed_dim": 24, "num_heads": [2, 2, 2, 2], "drop_path_rate": 0}, 56, "middle:2",
    ),
    "resnet18": ({}, 32, ["fc"]),
}  # fmt: skip
# Of every layer: batches seen, neurons.
LAYERS = {
    "vit_tiny_patch16_224": {f"blocks.{number}.attn": [2, 192] for number in (1, 2, 3, 4)},
    "swin_tiny_patch4_window7_224": {"layers.1.blocks.0.attn": [2, 48], "layers.2.blocks.0.attn": [2, 96]},
    "resnet18": {"fc": [2, 1000]},
}
SCRIPT = """
import contextlib, copy, json, sys
import torch

# torchvision is imported only where its compiled operators are; no model here calls one, and a declaration is enough.
for name in ("nms", "qnms"):
    with contextlib.suppress(RuntimeError):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm
from ninscope.neurons.memel import insert_memel, remove_memel


def looked_at(name, settings, side, layers):
    torch.manual_seed(0)
    model = timm.create_model(name, **settings).train()
    images = torch.randn(2, 3, side, side)
    state = copy.deepcopy(model.state_dict())
    inserted = insert_memel(model, layers)
    outputs = [model(images)]  # the start is late: nothing is changed yet, and statistics are made
    outputs[0].sum().backward()
    gradients = all(parameter.grad is not None for parameter in model.parameters())
    for memel in inserted.values():
        memel.late_start = 0
    model.load_state_dict(state, strict=False)  # of batch normalisation
    outputs.append(model(images))
    model.load_state_dict(state, strict=False)
    remove_memel(model)
    outputs.append(model(images))
    return {
        "layers": {name: [int(memel.scale.steps), memel.scale.mean.numel()] for name, memel in inserted.items()},
        "gradients": gradients,
        "late": torch.equal(outputs[0], outputs[2]),
        "inhibited": not torch.equal(outputs[1], outputs[2]),
        "keys": sorted(model.state_dict()) == sorted(state),
    }


print(json.dumps({name: looked_at(name, *rest) for name, rest in json.loads(sys.argv[1]).items()}))
"""


@pytest.fixture(scope="module")
def found() -> dict:
    if not TIMM.is_dir():
        pytest.skip("timm is not there; make test puts it there")
    environment = os.environ | {"PYTHONPATH": str(TIMM), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(MODELS)], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", MODELS)
def test_timm(found, name):
    assert found[name] == {"layers": LAYERS[name], "gradients": True, "late": True, "inhibited": True, "keys": True}
