"""Labelled images as a model takes them: digits, folders of classes, and what is refused."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from sklearn.datasets import load_digits  # noqa: E402

from ninscope.errors import RequestError  # noqa: E402
from ninscope.neurons.observatory.example_files import ImageExamples  # noqa: E402
from ninscope.neurons.tasks.task import Base  # noqa: E402

GREY = Base("grey", {"image_size": 8, "num_channels": 1}, {})


def folder_of(root, **shades):
    """A folder a class, with an image of 4 x 4 pixels for every shade."""
    for name, values in shades.items():
        (root / name).mkdir(parents=True)
        for number, value in enumerate(values):
            Image.fromarray(np.full((4, 4), value, np.uint8)).save(root / name / f"{number}.png")
    return root


def test_digits(rng):
    held_out, train = (
        ImageExamples(dataset="digits", samples=5000, part=part).read(GREY) for part in ("held_out", "train")
    )
    assert len(held_out.values) + len(train.values) == 1797
    assert (held_out.kind, held_out.values.dtype, held_out.values.shape[1:]) == ("images", np.float32, (1, 8, 8))
    digits = load_digits()
    known = {image.tobytes(): label for image, label in zip(digits.images.astype(np.uint8), digits.target, strict=True)}
    for read in (held_out, train):
        pixels = np.rint((read.values[:, 0] * 0.5 + 0.5) * 16).astype(np.uint8)
        assert [known[image.tobytes()] for image in pixels] == read.labels.tolist()
    assert held_out.classes == tuple("0123456789")
    some = ImageExamples(dataset="digits", samples=50).read(GREY)
    assert np.bincount(some.labels).tolist() == [5] * 10
    assert some.available == len(held_out.values)
    assert some.examples(8).batch_count == 7


def test_a_folder_of_classes(tmp_path):
    folder = folder_of(tmp_path / "set", cat=[0, 255], dog=[51])
    settings = ImageExamples(folder, image_mean=(0.5,), image_std=(0.25,))
    found = settings.read(GREY)
    assert (found.classes, found.labels.tolist(), settings.name) == (("cat", "dog"), [0, 0, 1], "set")
    assert found.values.shape == (3, 1, 8, 8)
    assert found.values[:, 0, 0, 0] == pytest.approx([-2, 2, (0.2 - 0.5) / 0.25])
    named = Base("named", {**GREY.config, "id2label": {0: "dog", 1: "cat"}}, {})
    found = settings.read(named)
    assert (found.classes, found.labels.tolist()) == (("dog", "cat"), [1, 1, 0])


def test_a_folder_that_is_split(tmp_path):
    folder_of(tmp_path / "set" / "train", cat=[0, 1, 2], dog=[3])
    folder_of(tmp_path / "set" / "val", cat=[4], dog=[5])
    labels = [ImageExamples(tmp_path / "set", part=part).read(GREY).labels.tolist() for part in ("train", "held_out")]
    assert labels == [[0, 0, 0, 1], [0, 1]]


def test_a_digest_is_of_settings_and_bytes(tmp_path):
    folder = folder_of(tmp_path / "set", cat=[0], dog=[1])
    same = folder_of(tmp_path / "same", cat=[0], dog=[1])
    first = ImageExamples(folder).digest()
    assert first == ImageExamples(same, name="x").digest()
    others = [
        ImageExamples(dataset="digits"),
        *(
            ImageExamples(folder, **more)
            for more in ({"samples": 1}, {"seed": 2}, {"image_mean": 0.1}, {"image_size": 9})
        ),
        ImageExamples(folder_of(tmp_path / "names", cow=[0], dog=[1])),
        ImageExamples(folder_of(tmp_path / "pixels", cat=[0], dog=[2])),
    ]
    assert len({first, *(settings.digest() for settings in others)}) == 1 + len(others)


def test_what_is_refused(tmp_path):
    folder = folder_of(tmp_path / "set", cat=[0], dog=[1])
    wrong = [
        ({}, "give either a folder of images or a dataset"),
        ({"folder": folder, "dataset": "digits"}, "give either a folder of images or a dataset"),
        ({"dataset": "mnist"}, "dataset 'mnist' is not known; one of digits"),
        ({"folder": tmp_path / "no"}, "folder .*no is not there"),
        ({"folder": folder, "part": "test"}, "part is 'test'; one of held_out, train"),
        ({"folder": folder, "samples": 0}, "samples is 0; an integer from 1 to"),
        ({"folder": folder, "image_std": 0}, "image_std is 0; numbers above 0 were expected"),
        ({"folder": folder, "image_mean": "x"}, "image_mean is 'x'; a number or one number a channel was expected"),
        ({"folder": folder, "image_size": 0}, "image_size is 0; an integer from 1 to"),
        ({"folder": folder, "seed": 1.5}, "seed is 1.5; an integer from 0 to"),
    ]
    for settings, message in wrong:
        with pytest.raises(RequestError, match=message):
            ImageExamples(**settings)
    with pytest.raises(RequestError, match="text reads text, and no images; give text, or a model of images"):
        ImageExamples(folder).read(Base("text", {"vocab_size": 256}, {}))
    with pytest.raises(RequestError, match="image_mean has 2 numbers, and grey takes 1 channels"):
        ImageExamples(folder, image_mean=(0.1, 0.2)).read(GREY)
    with pytest.raises(RequestError, match="one has 1 folders of classes; two or more are needed"):
        ImageExamples(folder_of(tmp_path / "one", cat=[0])).read(GREY)
    (tmp_path / "set" / "emu").mkdir()
    with pytest.raises(RequestError, match="emu has no images; add some"):
        ImageExamples(folder).read(GREY)
    (tmp_path / "set" / "emu" / "0.png").write_bytes(b"none")
    with pytest.raises(RequestError, match=r"0.png cannot be read as an image"):
        ImageExamples(folder).read(GREY)


@pytest.mark.slow
def test_no_torch_is_needed_to_plan(tmp_path):
    code = (
        "import sys\n"
        "from ninscope.neurons.observatory.example_files import ImageExamples, TextExamples\n"
        "from ninscope.neurons.observatory.registry import measures\n"
        "print(len(TextExamples('project-text').digest()), len(ImageExamples(dataset='digits').digest()))\n"
        "assert {'phi', 'neural_collapse', 'sparse_probing', 'specialisation'} <= set(measures())\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "64 64\n"), done.stderr
