"""Language modelling: windows that cover the text once, losses beside a computation in numpy, bases that cannot."""

import argparse
import calendar
import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tasks_data import base_of, descended, made, word_tokenizer

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons.tasks import LanguageSettings
from ninscope.neurons.tasks.task import Base

CPU = torch.device("cpu")


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path):
    return {
        "train": write(tmp_path / "train.txt", "the cat sat on the mat, and " * 20),
        "held_out": write(tmp_path / "held.txt", "the mat sat on the cat; and " * 7),
    }


def test_every_token_but_the_first_is_predicted_once(tmp_path, files):
    base = base_of(made("gpt_neox"), tmp_path / "base")
    task = LanguageSettings(**files, context=16, tokenizer="bytes").task(base)
    assert (task.name, task.metrics) == ("train", ("loss", "perplexity"))
    for path, batch in (
        (files["train"], task.batch(np.arange(task.train_size))),
        (files["held_out"], {name: torch.cat([b[name] for b in task.held_out(5)]) for name in ("input_ids", "labels")}),
    ):
        content = path.read_bytes()
        windows = (len(content) - 1) // 16
        assert batch["input_ids"].shape == (windows, 16)
        assert batch["input_ids"].dtype == torch.int64
        assert bytes(batch["input_ids"].flatten().tolist()) == content[: windows * 16]
        assert bytes(batch["labels"].flatten().tolist()) == content[1 : windows * 16 + 1]
    assert task.batch(np.array([3, 1]))["input_ids"][1].tolist() == list(files["train"].read_bytes()[16:32])


def test_the_loss_is_the_mean_over_all_held_out_tokens(tmp_path, files):
    base = base_of(made("gpt_neox"), tmp_path / "base")
    task = LanguageSettings(**files, context=16, tokenizer="bytes").task(base)
    model = task.model(base)
    content = files["held_out"].read_bytes()
    losses = []
    for start in range(0, (len(content) - 1) // 16 * 16, 16):
        tokens = torch.tensor([list(content[start : start + 17])])
        with torch.no_grad():
            outputs = model(input_ids=tokens[:, :-1]).logits[0].double().numpy()
        chances = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
        losses += [-math.log(chances[position, content[start + position + 1]]) for position in range(16)]
    for size in (1, 4, 100):
        found = task.evaluate(model, size, CPU)
        assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
        assert found["perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-4)
    batch = task.batch(np.arange(3))
    with torch.no_grad():  # the library's own loss shifts labels itself
        shifted = [model(input_ids=row[None], labels=row[None]).loss.item() for row in batch["input_ids"]]
        ours = task.loss(model, {name: part[:, :15] for name, part in batch.items()}).item()
    assert ours == pytest.approx(np.mean(shifted), rel=1e-5)


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2"])
def test_losses_go_down(tmp_path, files, name):
    base = base_of(made(name), tmp_path / "base")
    task = LanguageSettings(**files, context=32, tokenizer="bytes").task(base)
    model = task.model(base)
    before = task.evaluate(model, 4, CPU)
    losses = descended(task, model, steps=15, size=6)
    assert losses[-1] < 0.75 * losses[0]
    assert task.evaluate(model, 4, CPU)["loss"] < 0.8 * before["loss"]


@pytest.mark.parametrize("revision", ["step0", "step4000"])
def test_the_shipped_suite_knows_what_it_has_learned(revision):
    """What its own training script found on other files of the same kind, and two files of this Python have their own means."""
    suite = Path(__file__).parents[2] / "data" / "stdlib-neox-500k"
    with open(suite / "evaluations.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["revision"], row["task"]) == (revision, "held_out")]
    folder = suite / revision
    tensors = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    base = Base(revision, json.loads((folder / "config.json").read_text(encoding="utf-8")), tensors, folder)
    task = LanguageSettings(argparse.__file__, calendar.__file__, context=256, tokenizer="bytes").task(base)
    model = task.model(base)
    assert task.evaluate(model, 32, CPU)["loss"] == pytest.approx(float(rows[0]["value"]), rel=0.25)


def test_files_of_a_folder_in_order(tmp_path, files):
    for name, text in (("b.txt", "bb"), ("a/z.txt", "zzz"), ("a.md", "no"), ("a/y.txt", "y")):
        write(tmp_path / "folder" / name, text)
    base = base_of(made("gpt_neox"), tmp_path / "base")

    def text_of(**settings):
        task = LanguageSettings(**settings, held_out=files["held_out"], context=1, tokenizer="bytes").task(base)
        windows = task.batch(np.arange(task.train_size))
        return bytes(windows["input_ids"].flatten().tolist()) + bytes([int(windows["labels"][-1])])

    assert text_of(train=tmp_path / "folder") == b"y\0zzz\0bb"
    assert text_of(train=tmp_path / "folder", glob="*.md") == b"no"
    assert text_of(train=[tmp_path / "folder" / "b.txt", tmp_path / "folder" / "a" / "y.txt"]) == b"bb\0y"


def test_a_tokenizer_of_words(tmp_path):
    numbers = word_tokenizer(tmp_path / "words", ["red", "green"])
    train = [write(tmp_path / "one.txt", "red green red\n"), write(tmp_path / "two.txt", "green")]
    held_out = write(tmp_path / "held.txt", "green red green pink")
    base = base_of(made("gpt_neox"), tmp_path / "base")
    task = LanguageSettings(train, held_out, context=3, tokenizer=str(tmp_path / "words")).task(base)
    assert task.train_size == 1
    red, green = numbers["red"], numbers["green"]
    assert task.batch(np.array([0]))["input_ids"].tolist() == [[red, green, red]]
    assert task.batch(np.array([0]))["labels"].tolist() == [[green, red, green]]
    (held,) = task.held_out(9)
    assert held["labels"].tolist() == [[red, green, numbers["[UNK]"]]]


def test_a_model_that_sees_what_it_should_predict_is_refused(tmp_path, files):
    base = base_of(made("bert"), tmp_path / "base")
    task = LanguageSettings(**files, tokenizer="bytes", context=16).task(base)
    with pytest.raises(
        RequestError, match="base sees the tokens that it should predict; choose a causal language model"
    ):
        task.model(base)
    decoder = Base("decoder", base.config | {"is_decoder": True}, base.tensors)
    assert task.model(decoder).config.is_decoder


def test_text_and_bases_that_do_not_fit(tmp_path, files):
    base = base_of(made("gpt_neox"), tmp_path / "base")
    small = base_of(made("gpt_neox", vocab_size=100), tmp_path / "small")
    task = LanguageSettings(**files, tokenizer="bytes", context=16).task(small)
    with pytest.raises(RequestError, match="base: the texts have token 116, and its vocabulary ends at 99"):
        task.model(small)
    with pytest.raises(RequestError, match="base has 64 positions, and the texts have 65 tokens"):
        LanguageSettings(**files, tokenizer="bytes", context=65).task(base).model(base)
    with pytest.raises(RequestError, match="base is a vit model, which is none for causal language modelling"):
        task.model(base_of(made("vit"), tmp_path / "vit"))
    with pytest.raises(
        RequestError, match=r"held.txt: 196 tokens of text; a window needs 301: give more, or a smaller context"
    ):
        LanguageSettings(**files, tokenizer="bytes", context=300).task(base)
    with pytest.raises(RequestError, match="base has no tokenizer files; give tokenizer = 'bytes'"):
        LanguageSettings(**files).task(base)
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1") * 99)
    with pytest.raises(RequestError, match=r"latin.txt is no UTF-8 text \(byte 0\); save it as UTF-8"):
        LanguageSettings(tmp_path / "latin.txt", files["held_out"], tokenizer="bytes").task(base)


def test_outputs_that_are_not_finite(tmp_path, files):
    base = base_of(made("gpt_neox"), tmp_path / "base")
    task = LanguageSettings(**files, context=16, tokenizer="bytes", name="cats").task(base)
    model = task.model(base)
    with torch.no_grad():
        model.gpt_neox.final_layer_norm.weight.fill_(torch.inf)
    with pytest.raises(CheckpointError, match="cats: the model's outputs on held-out examples are not finite"):
        task.evaluate(model, 4, CPU)
