"""Classes of images: pixels beside plain arithmetic, the digits' split beside the shipped suite's, files that are none."""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import with_empty_profile
from PIL import Image
from sklearn.datasets import load_digits
from tasks_data import base_of, descended, made

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons.tasks import ImageSettings
from ninscope.neurons.tasks.image_classification import geometry
from ninscope.neurons.tasks.images import labelled_files, read_image, scaled_digit
from ninscope.neurons.tasks.task import Base

ROOT, CPU = Path(__file__).parents[2], torch.device("cpu")


def write_images(root, rng, held_out="held_out", side=8, count=6):
    """Bright and dark images, of colour; returns pixels by path."""
    written = {}
    for split, number in (("train", count), (held_out, 3)):
        for name, low in (("dark", 0), ("bright", 150)):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for index in range(number):
                path = root / split / name / f"{index}.png"
                written[path] = rng.integers(low, low + 100, (side, side, 3), dtype=np.uint8)
                Image.fromarray(written[path]).save(path)
    return written


def test_pixels_of_a_folder(tmp_path, rng):
    written = write_images(tmp_path / "photos", rng)
    (tmp_path / "photos" / "train" / "dark" / "notes.txt").write_text("no image")
    (tmp_path / "photos" / "train" / "dark" / ".hidden.png").write_text("no image")
    base = base_of(made("vit", num_channels=3), tmp_path / "base")
    settings = ImageSettings(tmp_path / "photos", image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.25, 0.3])
    task = settings.task(base)
    assert (task.name, task.train_size, task.metrics) == ("photos", 12, ("accuracy",))
    batch = task.batch(np.array([7, 0]))
    assert batch["labels"].tolist() == [1, 0]
    for row, (name, index) in enumerate((("dark", 1), ("bright", 0))):
        pixels = written[tmp_path / "photos" / "train" / name / f"{index}.png"]
        for channel, (mean, std) in enumerate(zip((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), strict=True)):
            expected = (pixels[:, :, channel] / 255 - mean) / std
            assert batch["pixel_values"][row, channel].numpy() == pytest.approx(expected, abs=1e-5)
    assert batch["pixel_values"].dtype == torch.float32
    assert torch.cat([part["labels"] for part in task.held_out(4)]).tolist() == [0, 0, 0, 1, 1, 1]
    assert task.model(base).config.id2label == {0: "bright", 1: "dark"}


@pytest.mark.parametrize("held_out", ["held_out", "val", "validation"])
def test_names_of_the_held_out_folder(tmp_path, rng, held_out):
    write_images(tmp_path, rng, held_out)
    found = labelled_files(tmp_path)
    assert found.classes == ("bright", "dark")
    assert [path.relative_to(tmp_path).as_posix() for path, _ in found.held_out[2:4]] == [
        f"{held_out}/bright/2.png",
        f"{held_out}/dark/0.png",
    ]


def test_images_are_scaled_and_made_grey(tmp_path):
    """A bilinear image at half its size is, inside, the mean of neighbours weighted 1 3 3 1; of a constant it is the constant."""
    ramp = np.tile(np.arange(16, dtype=np.uint8) * 10, (16, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    small = read_image(tmp_path / "ramp.png", (8, 8), 1)
    assert small.shape == (1, 8, 8)
    assert small.dtype == np.uint8
    inner = [(ramp[0, c - 1] + 3.0 * ramp[0, c] + 3.0 * ramp[0, c + 1] + ramp[0, c + 2]) / 8 for c in range(2, 14, 2)]
    assert small[0, 3, 1:7] == pytest.approx(np.array(inner), abs=1)
    Image.new("RGB", (10, 4), (200, 100, 50)).save(tmp_path / "flat.jpg", quality=100)
    assert read_image(tmp_path / "flat.jpg", (6, 5), 3)[:, 2, 2] == pytest.approx([200, 100, 50], abs=3)
    grey = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    assert read_image(tmp_path / "flat.jpg", (6, 5), 1) == pytest.approx(np.full((1, 6, 5), grey), abs=3)
    Image.new("RGBA", (4, 4), (9, 8, 7, 255)).save(tmp_path / "alpha.png")
    assert read_image(tmp_path / "alpha.png", (4, 4), 3)[:, 0, 0].tolist() == [9, 8, 7]


def test_files_that_are_no_images(tmp_path, monkeypatch):
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(RequestError, match=r"text.png cannot be read as an image \(.*\); save it again or take it out"):
        read_image(tmp_path / "text.png", (8, 8), 3)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(tmp_path / "cut.png")
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(RequestError, match=r"cut.png cannot be read as an image"):
        read_image(tmp_path / "cut.png", (8, 8), 3)
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(RequestError, match=r"deep.png has pixels of kind I;16; save it with eight bits a channel"):
        read_image(tmp_path / "deep.png", (8, 8), 1)


def test_whatever_a_decoder_raises_is_the_file_s_fault(tmp_path, monkeypatch):
    path = tmp_path / "profile.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    with_empty_profile(path)
    with pytest.raises(IndexError), Image.open(path) as image:
        image.load()
    with pytest.raises(
        RequestError, match=r"^\S+/profile.png cannot be read as an image \(.+\); save it again or take it out$"
    ):
        read_image(path, (8, 8), 1)

    def speechless(*arguments, **settings):
        raise struct.error

    monkeypatch.setattr(Image, "open", speechless)
    with pytest.raises(RequestError, match=r"profile.png cannot be read as an image \(error\)"):
        read_image(path, (8, 8), 1)


@pytest.mark.parametrize(
    ("width", "height", "match"), [(10_000, 5_001, "has 10000 x 5001 pixels"), (60_000, 60_000, "pixels")]
)
def test_large_images_are_refused_by_their_header(tmp_path, width, height, match):
    """A file of a few bytes that says it is large; the second is beyond PIL's own limit."""
    path = tmp_path / "large.pgm"
    path.write_bytes(f"P5 {width} {height} 255\n".encode())
    with pytest.raises(RequestError, match=match) as caught:
        read_image(path, (8, 8), 1)
    assert "large.pgm" in str(caught.value)


def test_wrong_folders_are_refused(tmp_path, rng):
    with pytest.raises(RequestError, match="must have the folders train and one of held_out, val, validation"):
        labelled_files(tmp_path)
    write_images(tmp_path, rng)
    (tmp_path / "held_out" / "grey").mkdir()
    with pytest.raises(RequestError, match=r"held_out/grey: training has no class 'grey'; add images of it to train"):
        labelled_files(tmp_path)
    (tmp_path / "train" / "grey").mkdir()
    with pytest.raises(RequestError, match="train/grey has no images; add some"):
        labelled_files(tmp_path)
    (tmp_path / "val").mkdir()
    with pytest.raises(RequestError, match="one of held_out, val, validation"):
        labelled_files(tmp_path)
    write_images(tmp_path / "other", rng)
    for path in list((tmp_path / "other" / "held_out").rglob("*.png")):
        path.unlink()
    with pytest.raises(RequestError, match="held_out has no images"):
        labelled_files(tmp_path / "other")
    (tmp_path / "one" / "train" / "a").mkdir(parents=True)
    (tmp_path / "one" / "val").mkdir()
    with pytest.raises(RequestError, match="train has 1 folders of classes; two or more are needed"):
        labelled_files(tmp_path / "one")


def test_losses_go_down_on_a_folder(tmp_path, rng):
    write_images(tmp_path / "photos", rng, side=16)
    base = base_of(made("swin"), tmp_path / "base")
    task = ImageSettings(tmp_path / "photos", image_std=0.25).task(base)
    with pytest.raises(RequestError, match=r"head for the labels \['a', 'b'\], and the data have \['bright', 'dark'\]"):
        task.model(Base("base", base.config | {"id2label": {"0": "a", "1": "b"}}, base.tensors))
    model = task.model(base)
    losses = descended(task, model, steps=10, rate=0.1, size=12)
    assert losses[-1] < 0.6 * losses[0]
    assert task.evaluate(model, 4, CPU) == {"accuracy": 1.0}


# --- digits -------------------------------------------------------------------------------------------------
def test_the_split_of_the_digits_is_that_of_the_shipped_suite(tmp_path):
    counted = json.loads((ROOT / "data/digits-ddpm/training.json").read_text(encoding="utf-8"))["images"]
    base = base_of(made("vit"), tmp_path / "base")
    task = ImageSettings(dataset="digits").task(base)
    images, target = load_digits().images, load_digits().target
    held = [int(hashlib.sha256(image.astype(np.uint8).tobytes()).hexdigest(), 16) % 5 == 0 for image in images]
    parts = list(task.held_out(100))
    assert torch.cat([part["labels"] for part in parts]).tolist() == target[held].tolist()
    assert {"train": task.train_size, "held_out": sum(held)} == counted
    pixels = torch.cat([part["pixel_values"] for part in parts]).numpy()
    assert pixels[:, 0] == pytest.approx(images[held] / 16 * 2 - 1, abs=1e-6)
    assert task.batch(np.array([5]))["labels"].tolist() == [target[~np.array(held)][5]]


def test_digits_of_other_sizes(rng):
    digit = rng.integers(0, 17, (8, 8)).astype(np.uint8)
    large = scaled_digit(digit, (16, 24), 3)
    assert large.shape == (3, 16, 24)
    for row in range(16):
        for column in range(24):
            assert (large[:, row, column] == np.float32(digit[row // 2, column // 3] / 16)).all()
    bilinear = scaled_digit(np.full((8, 8), 12, np.uint8), (12, 12), 1)
    assert bilinear == pytest.approx(np.full((1, 12, 12), 0.75))
    assert not np.array_equal(scaled_digit(digit, (12, 12), 1), scaled_digit(digit.T, (12, 12), 1))


def test_losses_go_down_on_digits(tmp_path):
    """With a new head: the base's own has two labels, and its tensors are left out."""
    whole = base_of(made("vit"), tmp_path / "base")
    with pytest.raises(RequestError, match=r"base has a head classifier.\w+ of shape \[2.*\], and 10 labels need \[10"):
        ImageSettings(dataset="digits").task(whole).model(whole)
    base = Base("base", whole.config, {n: tensor for n, tensor in whole.tensors.items() if "classifier" not in n})
    task = ImageSettings(dataset="digits").task(base)
    assert task.name == "digits"
    torch.manual_seed(0)
    model = task.model(base)
    before = task.evaluate(model, 128, CPU)["accuracy"]
    losses = descended(task, model, steps=80, rate=0.2, size=32)
    assert np.mean(losses[-8:]) < 0.93 * np.mean(losses[:8])
    assert task.evaluate(model, 128, CPU)["accuracy"] > max(before, 0.18)  # a guess is right in a tenth


def test_the_same_seed_is_the_same_fine_tune(tmp_path):
    whole = base_of(made("swin"), tmp_path / "base")
    base = Base("base", whole.config, {n: tensor for n, tensor in whole.tensors.items() if "classifier" not in n})

    def tuned(seed):
        task = ImageSettings(dataset="digits").task(base)
        torch.manual_seed(seed)
        return descended(task, task.model(base), steps=3)

    assert tuned(1) == tuned(1)
    assert tuned(1) != tuned(2)


# --- bases --------------------------------------------------------------------------------------------------
def test_what_a_base_takes():
    def of(image_size=None, **config):
        return geometry(Base("base", config, {}), image_size)

    assert of(8, num_channels=1) == ((8, 8), 1)
    assert geometry(Base("base", {"image_size": [8, 16]}, {}), None) == ((8, 16), 3)
    with pytest.raises(
        RequestError, match="base: its configuration has no image_size that can be used; give image_size"
    ):
        of()
    with pytest.raises(RequestError, match="base takes images of 8 x 8; image_size cannot be 16"):
        geometry(Base("base", {"image_size": 8}, {}), 16)
    with pytest.raises(RequestError, match="has no image_size that can be used"):
        geometry(Base("base", {"image_size": 10**6}, {}), None)
    with pytest.raises(RequestError, match=r"the base takes images of 4 channels; 1 .* or 3 .* can be read"):
        of(8, num_channels=4)


def test_bases_that_do_not_fit(tmp_path):
    base = base_of(made("vit"), tmp_path / "base")
    with pytest.raises(RequestError, match="image_mean has 3 numbers, and base takes 1 channels"):
        ImageSettings(dataset="digits", image_mean=[0.5, 0.5, 0.5]).task(base)
    task = ImageSettings(dataset="digits").task(base)
    with pytest.raises(RequestError, match="base takes images of another size than digits was made for"):
        task.model(base_of(made("swin"), tmp_path / "swin"))
    text = base_of(made("bert"), tmp_path / "bert")
    with pytest.raises(RequestError, match="base reads text, and no images; give text, or a model of images"):
        ImageSettings(dataset="digits").task(text)
    with pytest.raises(RequestError, match="base is a bert model, which is none for image classification"):
        ImageSettings(dataset="digits", image_size=8).task(text).model(text)


def test_outputs_that_are_not_finite(tmp_path, rng):
    write_images(tmp_path / "photos", rng)
    base = base_of(made("vit"), tmp_path / "base")
    task = ImageSettings(tmp_path / "photos").task(base)
    model = task.model(base)
    with torch.no_grad():
        model.classifier.bias[0] = torch.nan
    with pytest.raises(CheckpointError, match="photos: the model's outputs on held-out examples are not finite"):
        task.evaluate(model, 4, CPU)
