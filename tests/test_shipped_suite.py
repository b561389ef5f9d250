"""The suite in data/ is what its README says: really initialised like Pythia, really trained, small, readable by others."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

DATA = Path(__file__).parents[1] / "data"
SUITE = DATA / "stdlib-neox-500k"
STEPS = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 4000]


def losses(task: str) -> dict[int, float]:
    with open(SUITE / "evaluations.csv", encoding="utf-8") as file:
        return {int(row["step"]): float(row["value"]) for row in csv.DictReader(file) if row["task"] == task}


def test_every_revision_is_complete_and_the_whole_is_small():
    assert sorted(int(path.name[4:]) for path in SUITE.glob("step*")) == STEPS
    for step in STEPS:
        assert {path.name for path in (SUITE / f"step{step}").iterdir()} == {"config.json", "model.safetensors"}
        assert json.loads((SUITE / f"step{step}" / "config.json").read_text())["model_type"] == "gpt_neox"
    assert sum(path.stat().st_size for path in SUITE.rglob("*") if path.is_file()) < 15_000_000


def test_it_learned():
    held_out, train = losses("held_out"), losses("train")
    assert list(held_out) == list(train) == STEPS
    assert held_out[0] > math.log(256)  # no better than guessing
    assert all(
        later < earlier for earlier, later in zip(list(held_out.values()), list(held_out.values())[1:], strict=False)
    )
    assert held_out[4000] < 1.3


def test_step0_is_pythias_initialisation():
    tensors = load_file(SUITE / "step0" / "model.safetensors")
    width, blocks = 96, 4
    for name, values in tensors.items():
        if values.ndim != 2:
            continue
        into_residual = name.endswith(("attention.dense.weight", "dense_4h_to_h.weight"))
        expected = 2 / (blocks * math.sqrt(width)) if into_residual else math.sqrt(2 / (5 * width))
        # A sample of n normal numbers has its standard deviation within 4 / sqrt(2 n) of it.
        assert np.std(values.astype(np.float64)) == pytest.approx(expected, rel=4 / math.sqrt(2 * values.size)), name


def test_another_library_reads_it_and_finds_it_has_learned():
    """transformers loads step 0 and step 4000; on this very file the trained model is better by far."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    text = torch.tensor([list(Path(__file__).read_bytes()[:256])])
    found = []
    for step in (0, 4000):
        model = transformers.GPTNeoXForCausalLM.from_pretrained(SUITE / f"step{step}", dtype=torch.float32).eval()
        with torch.no_grad():
            found.append(float(model(text, labels=text).loss))
    assert found[0] > 5
    assert found[1] < 2.5
