"""Pixels that masks leave out count nowhere, and frames of radar that no decoder can read."""

import zlib
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from damage import with_empty_profile
from PIL import Image

from ninscope.errors import RequestError
from ninscope.neurons.tasks.forecast_settings import ForecastSettings
from ninscope.neurons.tasks.radar import Frame, pixel_weights, read_frame, read_mask

torch = pytest.importorskip("torch", reason="torch is not installed")
from ninscope.neurons.convgru import ConvGRU, ConvGRUConfig  # noqa: E402
from ninscope.neurons.tasks.task import Base  # noqa: E402

SIZE = {"height": 6, "width": 8, "input_frames": 2, "output_frames": 2}
CPU = torch.device("cpu")


@pytest.fixture
def task():
    """Five held-out sequences and six to train on."""
    levels = {
        "convolution_channels": (3,), "convolution_kernels": (3,), "strides": (1,), "paddings": (1,), "hidden_channels": (3,),
        "input_kernels": (3,), "recurrent_kernels": (3,), "upsampling_kernels": (3,),
    }  # fmt: skip
    torch.manual_seed(0)
    model = ConvGRU(ConvGRUConfig(**SIZE | levels))
    base = Base("base", model.config.to_dict(), model.state_dict())
    return ForecastSettings(**SIZE, train_size=6, held_out_size=5, name="rain").task(base)


def masked(task, masks):
    """The task, its held-out and training sequences with these masks, bool [n, output_frames, height, width]."""
    for split in ("_held_out", "_train"):
        setattr(task, split, replace(getattr(task, split), mask=lambda number: masks[number]))
    return task


class Nothing(torch.nn.Module):
    """Forecasts no rain anywhere."""

    def __init__(self):
        super().__init__()
        self.level = torch.nn.Parameter(torch.zeros(()))

    def forward(self, frames):
        return self.level.expand(len(frames), 2, 6, 8)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_frames_that_are_masked_whole_count_nowhere(task, rng, size):
    """The third and fourth sequence have no pixel at all: with two a batch they are a batch of their own."""
    masks = rng.random((6, 2, 6, 8)) < 0.1
    masks[2:4] = False
    (targets,) = (batch["targets"].numpy().astype(float) for batch in task.held_out(5))
    weights = pixel_weights("rain_rate")[targets.astype(int)]
    kept = masks[:5]
    expected = {
        "b_mae": (weights * targets)[kept].sum() / kept.sum(),
        "b_mse": (weights * targets**2)[kept].sum() / kept.sum(),
    }
    assert masked(task, masks).evaluate(Nothing(), size, CPU) == pytest.approx(expected, rel=1e-12)


def test_no_pixel_has_no_score(task):
    masked(task, np.zeros((6, 2, 6, 8), bool))
    with pytest.raises(
        RequestError,
        match=r"^rain: masks leave no pixel of any held-out frame; choose other held-out days, or use no masks$",
    ):
        task.evaluate(Nothing(), 2, CPU)


def test_a_batch_without_a_pixel_teaches_nothing(task):
    model = Nothing()
    loss = masked(task, np.zeros((6, 2, 6, 8), bool)).loss(model, task.batch(np.arange(3)))
    loss.backward()
    assert (loss.item(), model.level.grad.item()) == (0, 0)


# --- frames that cannot be read -----------------------------------------------------------------------------
def test_whatever_a_decoder_raises_is_the_file_s_fault(tmp_path, monkeypatch):
    path = tmp_path / "RAD20260101000000.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    frame = Frame(datetime(2026, 1, 1), path, path.name, tmp_path / "RAD20260101000000.mask")
    frame.mask.write_bytes(zlib.compress(bytes(64)))
    assert not read_mask(frame, 8, 8, False).any()
    with_empty_profile(path)
    with pytest.raises(
        RequestError, match=r"^RAD20260101000000.png: cannot be read as a PNG file \(.+\); fetch it again$"
    ):
        read_frame(frame, 8, 8, False)
    path.write_bytes(b"no image")
    for read in (read_frame, read_mask):
        with pytest.raises(RequestError, match=r"^RAD20260101000000.png: cannot be read as a PNG file"):
            read(frame, 8, 8, False)
