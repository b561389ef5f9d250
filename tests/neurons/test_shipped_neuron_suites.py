"""data/digits-swin and data/blobs-convgru are what data/README.md says: small, really trained, read by the real classes."""

import csv
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import ninscope

DATA = Path(__file__).parents[2] / "data"
SWIN, CONVGRU = DATA / "digits-swin", DATA / "blobs-convgru"
SWIN_STEPS, CONVGRU_STEPS = [0, 16, 64, 128, 256, 1000], [0, 16, 64, 256, 512, 1000, 2000]
SUITES = {
    SWIN: (SWIN_STEPS, "swin", 135_830, 2_000_000),
    CONVGRU: (CONVGRU_STEPS, "convgru", 87_245, 1_500_000),
}


def values(suite: Path, task: str, metric: str) -> dict[int, float]:
    with open(suite / "evaluations.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["task"], row["metric"]) == (task, metric)]
    assert all(row["revision"] == f"step{row['step']}" for row in rows)
    return {int(row["step"]): float(row["value"]) for row in rows}


@pytest.mark.parametrize("suite", SUITES, ids=lambda path: path.name)
class TestFiles:
    def test_every_revision_is_complete_and_the_whole_is_small(self, suite):
        steps, model_type, parameters, limit = SUITES[suite]
        assert sorted(int(path.name[4:]) for path in suite.glob("step*")) == steps
        for step in steps:
            folder = suite / f"step{step}"
            assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
            assert json.loads((folder / "config.json").read_text())["model_type"] == model_type
            tensors = load_file(folder / "model.safetensors")
            assert {str(tensor.dtype) for tensor in tensors.values()} == {"float16"}
            assert sum(tensor.size for tensor in tensors.values()) == parameters
            assert all(np.isfinite(tensor).all() for tensor in tensors.values())
        assert json.loads((suite / "training.json").read_text())["parameters"] == parameters
        assert sum(path.stat().st_size for path in suite.rglob("*") if path.is_file()) < limit

    @pytest.mark.parametrize("index", [0, -1])
    def test_it_is_read_as_its_own_family(self, suite, index):
        steps = SUITES[suite][0]
        found = ninscope.measure(str(suite / f"step{steps[index]}"))
        assert np.isfinite([found.alpha0, found.width]).all()
        assert "generic" not in found.message
        assert "left out" not in found.message


# --- Swin ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(images [n, 1, 16, 16] from -1 to 1, labels) of both splits."""
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    examples = {"train": ([], []), "held_out": ([], [])}
    for picture, label in zip(load_digits().images, load_digits().target, strict=True):
        raw = bytes(int(pixel) for pixel in picture.ravel())
        out = int.from_bytes(hashlib.sha256(raw).digest(), "big") % 5 == 0
        images, labels = examples["held_out" if out else "train"]
        images.append(picture.repeat(2, axis=0).repeat(2, axis=1)[None] / 8 - 1)
        labels.append(label)
    return {
        split: (np.array(images, dtype=np.float32), np.array(labels)) for split, (images, labels) in examples.items()
    }


def splits_of(step: int, steps: list[int]) -> tuple[str, ...]:
    """Every revision's held-out score is checked; that of the training examples, which are many, of the first and the last."""
    return ("train", "held_out") if step in (steps[0], steps[-1]) else ("held_out",)


@pytest.mark.parametrize("step", SWIN_STEPS)
def test_swin_scores_are_those_of_the_files(step, digits):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = transformers.SwinForImageClassification.from_pretrained(SWIN / f"step{step}", dtype=torch.float32).eval()
    attention = [module for module in model.modules() if type(module).__name__ == "SwinAttention"]
    assert len(attention) == 4
    for split in splits_of(step, SWIN_STEPS):
        images, labels = digits[split]
        with torch.no_grad():
            logits = model(torch.from_numpy(images)).logits.double().numpy()
        shifted = logits - logits.max(1, keepdims=True)
        loss = -(shifted[np.arange(len(labels)), labels] - np.log(np.exp(shifted).sum(1))).mean()
        assert loss == pytest.approx(values(SWIN, split, "loss")[step], abs=2e-5)
        assert (logits.argmax(1) == labels).mean() == pytest.approx(values(SWIN, split, "accuracy")[step], abs=1e-6)


def test_the_task_of_digits_scores_it_alike():
    """The fine-tuning task shows a base the same pictures as its training did, and uses its head."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    from safetensors.torch import load_file as load_tensors

    from ninscope.neurons.tasks import ImageSettings
    from ninscope.neurons.tasks.task import Base

    folder = SWIN / "step256"
    tensors = {name: tensor.float() for name, tensor in load_tensors(folder / "model.safetensors").items()}
    base = Base("step256", json.loads((folder / "config.json").read_text()), tensors)
    task = ImageSettings(dataset="digits").task(base)
    found = task.evaluate(task.model(base), 64, torch.device("cpu"))
    assert found["accuracy"] == pytest.approx(values(SWIN, "held_out", "accuracy")[256], abs=1e-6)


def test_swin_learned():
    accuracy, loss = (values(SWIN, "held_out", metric) for metric in ("accuracy", "loss"))
    assert list(accuracy) == list(loss) == SWIN_STEPS
    assert loss[0] > math.log(10)  # no better than guessing
    assert list(loss.values()) == sorted(loss.values(), reverse=True)
    of_lines = json.loads((SWIN / "training.json").read_text())["held_out_accuracy_of_logistic_regression"]
    assert accuracy[1000] > of_lines > accuracy[256]


def test_swin_step0_is_the_untouched_initialisation():
    """transformers': matrices normal with deviation 0.1, biases, positions and their tables 0, norms 1."""
    for name, tensor in load_file(SWIN / "step0" / "model.safetensors").items():
        tensor = tensor.astype(np.float64)
        if "norm" in name and name.endswith("weight"):
            assert (tensor == 1).all(), name
        elif tensor.ndim > 1 and "position" not in name:
            assert np.std(tensor) == pytest.approx(0.1, rel=4 / math.sqrt(2 * tensor.size)), name
        else:
            assert (tensor == 0).all(), name


# --- ConvGRU ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def blobs_task():
    pytest.importorskip("torch", reason="torch is not installed")
    from ninscope.neurons.tasks.forecast_settings import ForecastSettings
    from ninscope.neurons.tasks.forecasting import Forecasting

    sizes = {"height": 16, "width": 16, "input_frames": 5, "output_frames": 5}
    settings = ForecastSettings(**sizes, train_size=320, held_out_size=320)
    return Forecasting("blobs", settings.sequences("train"), settings.sequences("held_out"))


@pytest.mark.parametrize("step", CONVGRU_STEPS)
def test_convgru_scores_are_those_of_the_files(step, blobs_task):
    import torch

    from ninscope.neurons.convgru import ConvGRU

    model = ConvGRU.from_pretrained(CONVGRU / f"step{step}")
    scores = blobs_task.evaluate(model, 64, torch.device("cpu"))
    for metric in blobs_task.metrics:
        assert scores[metric] == pytest.approx(values(CONVGRU, "held_out", metric)[step], rel=1e-5)
    if step not in (CONVGRU_STEPS[0], CONVGRU_STEPS[-1]):
        return
    with torch.no_grad():
        for split, batch in (("held_out", next(blobs_task.held_out(320))), ("train", blobs_task.batch(np.arange(320)))):
            expected = values(CONVGRU, split, "loss")[step]
            assert float(blobs_task.loss(model, batch)) == pytest.approx(expected, rel=1e-5)


def test_convgru_learned_and_beats_what_needs_no_model():
    found = {metric: values(CONVGRU, "held_out", metric) for metric in ("loss", "b_mae", "b_mse")}
    assert all(list(of_metric) == CONVGRU_STEPS for of_metric in found.values())
    trivial = json.loads((CONVGRU / "training.json").read_text())["held_out_without_a_model"]
    for metric, of_metric in found.items():
        last = [of_metric[step] for step in CONVGRU_STEPS if step >= 64]
        assert last == sorted(last, reverse=True)
        assert of_metric[0] > min(scores[metric] for scores in trivial.values())
        assert all(of_metric[2000] < 0.7 * scores[metric] for scores in trivial.values())


def test_persistence_scores_what_is_stated(blobs_task):
    """The last frame for ever, scored by plain sums over the sequences."""
    (batch,) = blobs_task.held_out(320)
    last, targets = batch["frames"][:, -1:].numpy().astype(float), batch["targets"].numpy().astype(float)
    weights = np.select([targets >= 185, targets >= 158, targets >= 141, targets >= 118], [30, 10, 5, 2], 1)
    stated = json.loads((CONVGRU / "training.json").read_text())["held_out_without_a_model"]["persistence"]
    assert (weights * abs(last - targets)).mean() == pytest.approx(stated["b_mae"], rel=1e-6)
    assert (weights * (last - targets) ** 2).mean() == pytest.approx(stated["b_mse"], rel=1e-6)


def test_convgru_step0_is_the_untouched_initialisation():
    """PyTorch's: weights of a layer are even between -1/sqrt(n) and 1/sqrt(n), n the numbers of one slice of its first axis."""
    for name, tensor in load_file(CONVGRU / "step0" / "model.safetensors").items():
        if name.endswith("weight"):
            tensor = tensor.astype(np.float64)
            bound = 1 / math.sqrt(tensor[0].size)
            assert np.abs(tensor).max() <= bound * (1 + 2**-10), name
            assert np.std(tensor) == pytest.approx(bound / math.sqrt(3), rel=4 / math.sqrt(2 * tensor.size)), name
