"""The forecasting task: moving blobs, weights and scores against plain loops, settings, and what models fit it."""

import math

import numpy as np
import pytest

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons.tasks.blobs import Blobs, draw_blobs, draw_frames
from ninscope.neurons.tasks.forecast_settings import ForecastSettings
from ninscope.neurons.tasks.radar import pixel_weights, rain_rate

torch = pytest.importorskip("torch", reason="torch is not installed")
from ninscope.neurons.convgru import ConvGRU, ConvGRUConfig  # noqa: E402
from ninscope.neurons.tasks.task import Base  # noqa: E402

SIZE = {"height": 8, "width": 12, "input_frames": 3, "output_frames": 2}
SMALL = SIZE | {"train_size": 6, "held_out_size": 5}
CPU = torch.device("cpu")


def config(**changes) -> ConvGRUConfig:
    levels = {
        "convolution_channels": (4,), "convolution_kernels": (3,), "strides": (1,), "paddings": (1,), "hidden_channels": (5,),
        "input_kernels": (3,), "recurrent_kernels": (3,), "upsampling_kernels": (3,),
    }  # fmt: skip
    return ConvGRUConfig(**SIZE | levels | changes)


def base_of(model: ConvGRU) -> Base:
    return Base("base", model.config.to_dict(), model.state_dict())


@pytest.fixture
def base() -> Base:
    torch.manual_seed(2)
    return base_of(ConvGRU(config()))


# --- blobs --------------------------------------------------------------------------------------------------
def plain_frames(blobs: Blobs, frames: int, height: int, width: int, edges: str) -> list:
    """The same blobs moved step by step and drawn pixel by pixel."""
    moving = [
        {"at": list(blobs.centre[n]), "by": list(blobs.velocity[n]), "peak": blobs.peak[n]}
        for n in range(len(blobs.radius))
    ]
    drawn = []
    for _ in range(frames):
        picture = [[0.0] * width for _ in range(height)]
        for blob, radius in zip(moving, blobs.radius, strict=True):
            for row in range(height):
                for column in range(width):
                    away = (row - blob["at"][0]) ** 2 + (column - blob["at"][1]) ** 2
                    picture[row][column] += blob["peak"] * math.exp(-away / (2 * radius**2))
        drawn.append(picture)
        for number, blob in enumerate(moving):
            blob["peak"] *= math.exp(blobs.growth[number])
            for axis, last in ((0, height - 1), (1, width - 1)):
                blob["at"][axis] += blob["by"][axis]
                if edges == "bounce" and not 0 <= blob["at"][axis] <= last:
                    wall = 0 if blob["at"][axis] < 0 else last
                    blob["at"][axis] = 2 * wall - blob["at"][axis]
                    blob["by"][axis] = -blob["by"][axis]
    return drawn


@pytest.mark.parametrize("edges", ["bounce", "leave"])
@pytest.mark.parametrize("number", range(4))
def test_frames_are_what_moving_step_by_step_gives(edges, number):
    blobs = draw_blobs(5, "train", number, 3, 10, 14)
    found = draw_frames(blobs, 30, 10, 14, edges).astype(float)
    expected = np.minimum(np.array(plain_frames(blobs, 30, 10, 14, edges)), 255)
    assert np.abs(found - expected).max() <= 0.5 + 1e-9
    assert found.max() > 20


def test_edges_matter():
    blobs = draw_blobs(5, "train", 1, 3, 10, 14)
    assert (draw_frames(blobs, 60, 10, 14, "leave")[-1] == 0).all()
    assert (draw_frames(blobs, 60, 10, 14, "bounce") != draw_frames(blobs, 60, 10, 14, "leave")).any()


def test_a_sequence_depends_on_its_numbers_alone(base):
    """Asked for in any order and any company, and by another task of the same settings."""
    settings = ForecastSettings(**SMALL, seed=3)
    task, other = settings.task(base), ForecastSettings(**SMALL, seed=3).task(base)
    whole = task.batch(np.arange(6))
    backwards = other.batch(np.array([5, 0, 3]))
    for key in ("frames", "targets"):
        assert whole[key].dtype == torch.uint8
        assert torch.equal(whole[key][[5, 0, 3]], backwards[key])
    assert whole["frames"].shape == (6, 3, 8, 12)
    assert whole["targets"].shape == (6, 2, 8, 12)


def test_targets_go_on_where_frames_end():
    settings = ForecastSettings(**SMALL)
    longer = ForecastSettings(**SMALL | {"input_frames": 4, "output_frames": 1})
    np.testing.assert_array_equal(settings.sequences("train").frames(2), longer.sequences("train").frames(2))


def test_no_sequence_is_in_both_splits_or_of_two_seeds():
    made = [
        ForecastSettings(**SMALL, seed=seed).sequences(split).frames(number).tobytes()
        for seed in (0, 1)
        for split in ("train", "held_out")
        for number in range(5)
    ]
    assert len(set(made)) == 20


def test_held_out_comes_in_order_whatever_the_batch(base):
    task = ForecastSettings(**SMALL).task(base)
    assert [len(batch["frames"]) for batch in task.held_out(2)] == [2, 2, 1]
    for key in ("frames", "targets"):
        (whole,), parts = task.held_out(5), list(task.held_out(2))
        assert torch.equal(whole[key], torch.cat([batch[key] for batch in parts]))


def test_numbers_outside_are_refused(base):
    with pytest.raises(RequestError, match="blobs: there is no sequence 6; numbers go from 0 to 5"):
        ForecastSettings(**SMALL).task(base).batch(np.array([1, 6]))


# --- weights ------------------------------------------------------------------------------------------------
def test_rain_of_a_pixel():
    """By the relation's definition: 10 log10(58.53 R^1.56) is the dBZ that the pixel stands for."""
    for pixel in (0, 100, 255):
        rain = float(rain_rate(np.array(pixel)))
        assert 10 * math.log10(58.53 * rain**1.56) == pytest.approx(pixel / 255 * 70 - 10)


def test_weights_by_rain_change_where_the_rain_does():
    """The last pixel below 2, 5, 10 and 30 mm/h and the first one above, worked out by hand."""
    weights = pixel_weights("rain_rate")
    assert weights.dtype == np.float32
    assert weights[[0, 117, 118, 140, 141, 157, 158, 184, 185, 255]].tolist() == [1, 1, 2, 2, 5, 5, 10, 10, 30, 30]


def test_weights_by_pixel_change_at_the_printed_numbers():
    assert pixel_weights("pixel")[[0, 1, 2, 4, 5, 9, 10, 29, 30, 255]].tolist() == [1, 1, 2, 2, 5, 5, 10, 10, 30, 30]


def plain_weight(pixel: int, weights_of: str) -> int:
    measure = pixel if weights_of == "pixel" else 10 ** ((pixel / 255 * 70 - 10 - 10 * math.log10(58.53)) / 15.6)
    for limit, weight in ((2, 1), (5, 2), (10, 5), (30, 10)):
        if measure < limit:
            return weight
    return 30


# --- scores -------------------------------------------------------------------------------------------------
class Fixed(torch.nn.Module):
    """A model that forecasts what it is given, whatever it sees."""

    def __init__(self, forecasts):
        super().__init__()
        self.forecasts, self.seen = forecasts, 0

    def forward(self, frames):
        first, self.seen = self.seen, self.seen + len(frames)
        return self.forecasts[first : self.seen]


@pytest.mark.parametrize("weights_of", ["rain_rate", "pixel"])
@pytest.mark.parametrize("size", [2, 5])
def test_scores_are_what_loops_give(base, rng, weights_of, size):
    task = ForecastSettings(**SMALL, weights_of=weights_of).task(base)
    forecasts = torch.from_numpy(rng.uniform(-0.2, 1.2, (5, 2, 8, 12)).astype(np.float32))
    (batch,) = task.held_out(5)
    absolute = squared = loss = 0.0
    targets = batch["targets"].numpy()
    for index in np.ndindex(targets.shape):
        pixel = int(targets[index])
        weight = plain_weight(pixel, weights_of)
        error = min(max(float(forecasts[index]) * 255, 0), 255) - pixel
        absolute += weight * abs(error)
        squared += weight * error**2
        part = float(forecasts[index]) - pixel / 255
        loss += weight * (abs(part) + part**2)
    found = task.evaluate(Fixed(forecasts), size, CPU)
    assert found == pytest.approx({"b_mae": absolute / targets.size, "b_mse": squared / targets.size}, rel=1e-9)
    assert float(task.loss(Fixed(forecasts), batch)) == pytest.approx(loss / targets.size, rel=1e-5)


def test_a_perfect_forecast_scores_nothing(base):
    task = ForecastSettings(**SMALL).task(base)
    targets = torch.cat([batch["targets"] for batch in task.held_out(5)]).float() / 255
    assert task.evaluate(Fixed(targets), 2, CPU) == pytest.approx({"b_mae": 0, "b_mse": 0}, abs=1e-4)


def test_paper_bs_table_is_not_of_its_formula(rng):
    """No weights of at most 30 give a B-MAE of 312.6 with a B-MSE of 997.5: the bound that forecasting.py states."""
    for scale in (0.1, 3, 60, 1000):
        weights, errors = rng.choice([1, 2, 5, 10, 30], 999), np.abs(rng.standard_normal(999)) * scale
        assert (weights * errors).mean() <= math.sqrt(30 * (weights * errors**2).mean())
    assert math.sqrt(30 * 997.5) < 174 < 312.6


def test_evaluation_leaves_the_model_as_it_was(base):
    task = ForecastSettings(**SMALL).task(base)
    model = task.model(base)
    for training in (True, False):
        model.train(training)
        found = task.evaluate(model, 3, CPU)
        assert model.training is training
        assert tuple(found) == task.metrics == ("b_mae", "b_mse")
    assert all(parameter.grad is None for parameter in model.parameters())


def test_forecasts_that_are_not_finite_have_no_score(base):
    task = ForecastSettings(**SMALL, name="rain").task(base)
    forecasts = torch.zeros(5, 2, 8, 12)
    forecasts[4, 1, 2, 3] = math.nan
    with pytest.raises(CheckpointError, match="rain: the model's outputs on held-out examples are not finite"):
        task.evaluate(Fixed(forecasts), 2, CPU)


def test_a_few_steps_lower_the_loss(base):
    task = ForecastSettings(**SMALL).task(base)
    model, batch = task.model(base), task.batch(np.arange(6))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    first = float(task.loss(model, batch).detach())
    for _ in range(15):
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
    assert float(task.loss(model, batch).detach()) < first / 2
    before = ConvGRU.from_tensors(base.config, base.tensors)
    assert float(task.loss(before, batch).detach()) == first  # the base is as it was


# --- what fits ----------------------------------------------------------------------------------------------
def test_a_model_of_another_kind(base):
    with pytest.raises(
        RequestError, match="step0: is a 'bert', which forecasts no frames; name a checkpoint of a convgru"
    ):
        ForecastSettings(**SMALL).task(Base("step0", {"model_type": "bert"}, {}))


@pytest.mark.parametrize(("key", "value"), [("height", 9), ("width", 13), ("input_frames", 4), ("output_frames", 3)])
def test_a_model_of_other_frames(base, key, value):
    with pytest.raises(
        RequestError, match=f"base: {key} is {SIZE[key]}, and {value} in the task; set both to the same"
    ):
        ForecastSettings(**SMALL | {key: value}).task(base)


def test_a_base_that_lacks_a_tensor(base):
    tensors = {name: tensor for name, tensor in base.tensors.items() if name != "final.bias"}
    with pytest.raises(RequestError, match=r"base: tensor final.bias is absent"):
        ForecastSettings(**SMALL).task(base).model(Base("base", base.config, tensors))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "mnist"}, "dataset is 'mnist'; one of blobs, hko7 was expected"),
        ({"weights_of": "rain"}, "weights_of is 'rain'; one of rain_rate, pixel"),
        ({"edges": None}, "edges is None; one of bounce, leave"),
        ({"seed": -1}, "seed is -1; an integer from 0"),
        ({"train_size": 0}, "train_size is 0; an integer from 1"),
        ({"height": 8193}, "height is 8193; an integer from 1 to 8192"),
        ({"blobs": True}, "blobs is True; an integer"),
        ({"crop": 1}, "crop is 1; true or false"),
        ({"name": " "}, "name is ' '; a name was expected"),
        ({"root": "radar"}, "root, train and held_out belong to hko7, not to blobs"),
        ({"dataset": "hko7"}, "hko7 needs root, the folder"),
    ],
)
def test_settings_that_make_no_sense(change, message):
    with pytest.raises(RequestError, match=message):
        ForecastSettings(**SMALL | change)


def test_the_digest_tells_settings_apart():
    plain = ForecastSettings(**SMALL)
    assert plain.digest() == ForecastSettings(**SMALL).digest()
    changes = ({"seed": 1}, {"blobs": 2}, {"edges": "leave"}, {"weights_of": "pixel"}, {"width": 16}, {"train_size": 7})
    digests = {ForecastSettings(**SMALL | change).digest() for change in changes} | {plain.digest()}
    assert len(digests) == 7
    assert ForecastSettings(**SMALL, name="rain").digest() == plain.digest()
    assert all(len(digest) == 64 for digest in digests)
