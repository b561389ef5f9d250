"""Settings of tasks: refused early, hashed by what they say and by the bytes of their files, and free of torch."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tasks_data import letter_rows, word_tokenizer, write_table

from ninscope.errors import RequestError
from ninscope.neurons.tasks import ImageSettings, LanguageSettings, TextSettings


@pytest.fixture
def tables(tmp_path, rng):
    return [write_table(tmp_path / name, letter_rows(rng, 6)) for name in ("train.csv", "test.csv")]


@pytest.fixture
def texts(tmp_path):
    for name, content in (("train.txt", "some text"), ("test.txt", "other text")):
        (tmp_path / name).write_text(content)
    return [tmp_path / "train.txt", tmp_path / "test.txt"]


def folder_of_images(root):
    for split in ("train", "val"):
        for shade, name in enumerate(("a", "b")):
            (root / split / name).mkdir(parents=True)
            Image.fromarray(np.full((4, 4), shade, np.uint8)).save(root / split / name / "0.png")
    return root


def changed(path):
    path.write_bytes(path.read_bytes() + b" ")


# --- digests ------------------------------------------------------------------------------------------------
def test_a_digest_is_of_settings_and_bytes(tmp_path, tables):
    first = TextSettings(*tables).digest()
    assert len(first) == 64
    assert first == TextSettings(*map(str, tables)).digest()
    assert first == TextSettings(*tables, name="another").digest()
    moved = shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-moved")
    assert first == TextSettings(moved / "train.csv", moved / "test.csv").digest()
    others = [
        TextSettings(*tables[::-1]),
        TextSettings(*tables, metrics=("f1",)),
        TextSettings(*tables, metrics=("accuracy", "f1")),
        TextSettings(*tables, metrics=("f1", "accuracy")),
        TextSettings(*tables, tokenizer="bytes"),
        TextSettings(*tables, max_length=64),
        TextSettings(*tables, padding="max_length"),
        TextSettings(*tables, text="label", label="text"),
    ]
    assert len({first, *(settings.digest() for settings in others)}) == 1 + len(others)
    for path in tables:
        before = TextSettings(*tables).digest()
        changed(path)
        assert TextSettings(*tables).digest() != before


def test_a_local_tokenizer_is_hashed(tmp_path, tables):
    word_tokenizer(tmp_path / "words", ["a"])
    settings = TextSettings(*tables, tokenizer=str(tmp_path / "words"))
    before = settings.digest()
    shutil.copytree(tmp_path / "words", tmp_path / "copy")
    assert TextSettings(*tables, tokenizer=str(tmp_path / "copy")).digest() == before
    changed(tmp_path / "words" / "tokenizer.json")
    assert settings.digest() != before


def test_digests_of_text(tmp_path, texts):
    first = LanguageSettings(*texts).digest()
    assert first == LanguageSettings([texts[0]], texts[1], name="another").digest()
    others = [
        LanguageSettings(*texts[::-1]),
        LanguageSettings(*texts, context=64),
        LanguageSettings(*texts, tokenizer="bytes"),
    ]
    assert len({first, *(settings.digest() for settings in others)}) == 4
    more = tmp_path / "more.txt"
    more.write_text("more")
    orders = [[texts[0], more], [more, texts[0]]]
    assert len({first, *(LanguageSettings(order, texts[1]).digest() for order in orders)}) == 3
    changed(texts[1])
    assert LanguageSettings(*texts).digest() != first


def test_digests_of_images(tmp_path):
    root = folder_of_images(tmp_path / "images")
    first = ImageSettings(root).digest()
    assert first == ImageSettings(str(root), image_mean=[0.5], name="another").digest()
    digits = ImageSettings(dataset="digits").digest()
    assert digits == ImageSettings(dataset="digits").digest()
    others = [
        ImageSettings(root, image_mean=0.4),
        ImageSettings(root, image_std=0.4),
        ImageSettings(root, image_size=8),
    ]
    assert len({first, digits, *(settings.digest() for settings in others)}) == 5
    (root / "val" / "a" / "0.png").rename(root / "val" / "b" / "1.png")
    assert ImageSettings(root).digest() != first


def test_settings_travel(tables, texts, tmp_path):
    """To workers, by pickle, and compare equal there."""
    import pickle

    root = folder_of_images(tmp_path / "images")
    for settings in (TextSettings(*tables), LanguageSettings(*texts), ImageSettings(root)):
        there = pickle.loads(pickle.dumps(settings))
        assert there == settings
        assert there.digest() == settings.digest()


@pytest.mark.slow
def test_no_torch_is_needed_to_plan(tables, texts, tmp_path):
    """In an interpreter where torch cannot be imported."""
    root = folder_of_images(tmp_path / "images")
    code = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
from ninscope.neurons.tasks import GlueSettings, ImageSettings, LanguageSettings, TextSettings
train, test = {[str(path) for path in tables]!r}
print(TextSettings(train, test).digest())
one, two = {[str(path) for path in texts]!r}
print(LanguageSettings(one, two).digest())
print(ImageSettings({str(root)!r}).digest())
print(ImageSettings(dataset="digits").digest())
print(GlueSettings("rte").digest())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.split()
    assert said[:3] == [TextSettings(*tables).digest(), LanguageSettings(*texts).digest(), ImageSettings(root).digest()]
    assert len(set(said)) == 5


# --- refused ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"train": "none.csv"}, "training file none.csv is not there; give the path of a file"),
        ({"held_out": "."}, r"held-out file . is a folder; give the path of a file"),
        ({"train": ""}, "training file is ''; the path of a file was expected"),
        ({"train": 3}, "training file is 3; the path of a file was expected"),
        ({"text": "sentence"}, "train.csv has no column 'sentence'; it has 'text', 'label'"),
        ({"label": "text"}, r"text, second_text and label are \['text', 'text'\]; each needs a column of its own"),
        ({"metrics": ("bleu",)}, "metric 'bleu' is not known"),
        ({"max_length": 7}, "max_length is 7; an integer from 8 to 1000000 was expected"),
        ({"max_length": True}, "max_length is True; an integer"),
        ({"padding": "left"}, "padding is 'left'; one of longest, max_length"),
        ({"tokenizer": ""}, "tokenizer is ''; 'bytes', a folder or the name of one was expected"),
        ({"name": " "}, "name is ' '; a name was expected"),
    ],
)
def test_wrong_settings_of_text(tables, change, match):
    with pytest.raises(RequestError, match=match):
        TextSettings(**({"train": tables[0], "held_out": tables[1]} | change))


def test_held_out_is_not_trained_on(tables, texts, tmp_path):
    with pytest.raises(RequestError, match=r"train.csv is both a training and a held-out file; hold other text out"):
        TextSettings(tables[0], tmp_path / "." / "train.csv")
    with pytest.raises(RequestError, match=r"test.txt is both a training and a held-out file"):
        LanguageSettings(texts, texts[1])


def test_files_too_large_are_refused(tables, monkeypatch):
    monkeypatch.setattr("ninscope.neurons.tasks.files.MAX_FILE_BYTES", 10)
    with pytest.raises(RequestError, match=r"train.csv has \d+ bytes, more than 10; give a part of it"):
        TextSettings(*tables)


def test_wrong_settings_of_language(tmp_path, texts):
    with pytest.raises(RequestError, match="context is 0; an integer from 1 to 1000000 was expected"):
        LanguageSettings(*texts, context=0)
    with pytest.raises(RequestError, match=r"has no files \*\*/\*.md; give another folder, or name its files"):
        LanguageSettings(tmp_path, texts[1], glob="**/*.md")
    with pytest.raises(RequestError, match=r"training file is \[\]; a file, a list of files or a folder was expected"):
        LanguageSettings([], texts[1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        RequestError, match=r"tokenizer \S+/empty is a folder without tokenizer files; give 'bytes' or another"
    ):
        LanguageSettings(*texts, tokenizer=str(tmp_path / "empty"))


def test_wrong_settings_of_images(tmp_path):
    for settings, match in (
        ({}, r"give either a folder of images or a dataset \(digits\)"),
        ({"folder": tmp_path, "dataset": "digits"}, "give either a folder of images or a dataset"),
        ({"dataset": "cifar"}, "dataset 'cifar' is not known; one of digits, or give a folder of images"),
        ({"folder": tmp_path}, "must have the folders train and one of held_out, val, validation"),
        ({"folder": tmp_path / "none"}, "none is not there; give the path of a folder"),
        ({"dataset": "digits", "image_std": 0}, "image_std is 0; numbers above 0 were expected"),
        (
            {"dataset": "digits", "image_mean": "half"},
            "image_mean is 'half'; a number or one number a channel was expected",
        ),
        (
            {"dataset": "digits", "image_mean": [0.5, float("nan")]},
            "image_mean is .*; a number or one number a channel",
        ),
        ({"dataset": "digits", "image_size": 10**6}, "image_size is 1000000; an integer from 1 to 8192 was expected"),
    ):
        with pytest.raises(RequestError, match=match):
            ImageSettings(**settings)
