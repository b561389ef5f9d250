"""Text classification from files: batches, losses and scores beside plain numpy, and losses that go down."""

import numpy as np
import pytest
import torch
from tasks_data import base_of, descended, letter_rows, made, word_tokenizer, write_table

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons.tasks import TextSettings

CPU = torch.device("cpu")


@pytest.fixture
def files(tmp_path, rng):
    return {
        "train": write_table(tmp_path / "train.csv", letter_rows(rng, 64)),
        "held_out": write_table(tmp_path / "test.jsonl", letter_rows(rng, 21)),
    }


def neox(folder, **changes):
    return base_of(made("gpt_neox", **changes), folder / "base")


def log_softmax(outputs):
    shifted = outputs - outputs.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def test_batches_are_the_rows_of_the_file(tmp_path, files, rng):
    rows = letter_rows(np.random.default_rng(8), 9)
    nine = write_table(tmp_path / "nine.csv", rows)
    task = TextSettings(nine, files["held_out"], tokenizer="bytes").task(neox(tmp_path))
    assert (task.name, task.train_size, task.metrics) == ("nine", 9, ("accuracy",))
    assert task.classes == ["other", "vowel"]
    batch = task.batch(np.array([4, 0, 4]))
    assert batch["labels"].tolist() == [["other", "vowel"].index(rows[number]["label"]) for number in (4, 0, 4)]
    for row, number in enumerate((4, 0, 4)):
        length = int(batch["attention_mask"][row].sum())
        assert bytes(batch["input_ids"][row, :length].tolist()).decode() == rows[number]["text"]
        assert not batch["input_ids"][row, length:].any()
    held = list(task.held_out(8))
    assert [len(part["labels"]) for part in held] == [8, 8, 5]


@pytest.mark.parametrize("padding", ["longest", "max_length"])
def test_padding(tmp_path, files, padding):
    task = TextSettings(**files, tokenizer="bytes", max_length=20, padding=padding).task(neox(tmp_path))
    widths = {task.batch(np.array([number]))["input_ids"].shape[1] for number in range(64)}
    assert widths == {20} if padding == "max_length" else len(widths) > 3


@pytest.mark.parametrize(("name", "rate"), [("gpt_neox", 0.3), ("bert", 0.3), ("gpt2", 0.3)])
def test_losses_go_down_and_accuracy_up(tmp_path, files, name, rate):
    base = base_of(made(name), tmp_path / "base")
    task = TextSettings(**files, metrics=("accuracy", "f1", "matthews"), tokenizer="bytes").task(base)
    torch.manual_seed(1)
    model = task.model(base)
    before = task.evaluate(model, 7, CPU)
    losses = descended(task, model, steps=30, rate=rate)
    after = task.evaluate(model, 7, CPU)
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])
    assert after["accuracy"] > max(before["accuracy"], 0.85)
    assert list(after) == ["accuracy", "f1", "matthews"]


def test_loss_and_scores_are_those_of_the_outputs(tmp_path, files):
    base = neox(tmp_path)
    task = TextSettings(**files, tokenizer="bytes").task(base)
    model = task.model(base)
    batches = list(task.held_out(21))
    with torch.no_grad():
        outputs = model(input_ids=batches[0]["input_ids"], attention_mask=batches[0]["attention_mask"]).logits.numpy()
        loss = task.loss(model, batches[0]).item()
    labels = batches[0]["labels"].numpy()
    assert loss == pytest.approx(-log_softmax(outputs.astype(np.float64))[np.arange(21), labels].mean(), rel=1e-5)
    for size in (1, 4, 50):
        assert task.evaluate(model, size, CPU) == {"accuracy": (outputs.argmax(1) == labels).mean()}


def test_evaluation_puts_every_mode_back(tmp_path, files):
    base = base_of(made("bert", hidden_dropout_prob=0.5), tmp_path / "base")
    task = TextSettings(**files, tokenizer="bytes").task(base)
    model = task.model(base).train()
    assert model.dropout.p == 0.5
    model.bert.embeddings.eval()
    scores = task.evaluate(model, 8, CPU)
    assert model.training
    assert not model.bert.embeddings.dropout.training
    assert model.bert.encoder.layer[0].output.dropout.training
    assert scores == task.evaluate(model.eval(), 8, CPU)
    assert not model.training


def test_a_regression(tmp_path, rng):
    values = rng.random(32)
    rows = [{"sentence": "abcdefghij"[int(10 * value)] * 3, "score": float(value)} for value in values]
    paths = [
        write_table(tmp_path / name, rows[part]) for name, part in (("a.parquet", slice(24)), ("b.csv", slice(24, 32)))
    ]
    base = neox(tmp_path)
    settings = TextSettings(*paths, text="sentence", label="score", metrics=("spearman", "pearson"), tokenizer="bytes")
    task = settings.task(base)
    model = task.model(base)
    assert model.config.problem_type == "regression"
    batch = task.batch(np.arange(24))
    assert batch["labels"].dtype == torch.float32
    with torch.no_grad():
        outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert outputs.shape == (24, 1)
    expected = np.mean((outputs.numpy()[:, 0] - values[:24].astype(np.float32)) ** 2)
    assert task.loss(model, batch).item() == pytest.approx(expected, rel=1e-5)
    losses = descended(task, model, steps=50, rate=0.01, size=24)
    assert losses[-1] < 0.1 * losses[0]
    assert task.evaluate(model, 4, CPU)["spearman"] > 0.7


def test_pairs_with_a_tokenizer_of_the_base(tmp_path):
    words = ["red", "green", "blue"]
    rows = [{"a": one, "b": other, "label": int(other == "red")} for one in words for other in words]
    paths = [write_table(tmp_path / name, rows) for name in ("train.csv", "test.csv")]
    base = base_of(made("bert"), tmp_path / "base")
    numbers = word_tokenizer(tmp_path / "base", words)
    task = TextSettings(*paths, text="a", second_text="b", max_length=8).task(base)
    batch = task.batch(np.arange(9))
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1]] * 9
    assert batch["input_ids"][5].tolist() == [numbers[word] for word in ("[CLS]", "green", "[SEP]", "blue", "[SEP]")]
    losses = descended(task, task.model(base), steps=60, rate=0.3, size=9)
    assert losses[-1] < 0.5 * losses[0]
    bare = base_of(made("gpt_neox"), tmp_path / "neox")
    named = TextSettings(*paths, text="a", second_text="b", max_length=8, tokenizer=str(tmp_path / "base")).task(bare)
    assert sorted(named.batch(np.arange(2))) == ["attention_mask", "input_ids", "labels"]  # what this model takes


def test_the_same_seed_is_the_same_fine_tune(tmp_path, files):
    base = neox(tmp_path)

    def tuned(seed):
        task = TextSettings(**files, tokenizer="bytes").task(base)
        torch.manual_seed(seed)
        model = task.model(base)
        return descended(task, model, steps=4), task.evaluate(model, 8, CPU), model.score.weight

    first, again, other = tuned(1), tuned(1), tuned(2)
    assert first[:2] == again[:2]
    assert torch.equal(first[2], again[2])
    assert first[0] != other[0]


def test_texts_that_do_not_fit_the_base(tmp_path, files):
    base = base_of(made("bert", vocab_size=100, pad_token_id=0), tmp_path / "small")
    task = TextSettings(**files, tokenizer="bytes").task(base)
    with pytest.raises(
        RequestError, match="base: the texts have token 122, and its vocabulary ends at 99; choose the tokenizer"
    ):
        task.model(base)
    short = base_of(made("gpt_neox", max_position_embeddings=8), tmp_path / "short")
    with pytest.raises(RequestError, match="base has 8 positions, and the texts have 11 tokens; shorten them to that"):
        TextSettings(**files, tokenizer="bytes").task(short).model(short)
    TextSettings(**files, tokenizer="bytes", max_length=8).task(short).model(short)
    whole = neox(tmp_path)
    long = TextSettings(**files, tokenizer="bytes", max_length=65, padding="max_length").task(whole)
    with pytest.raises(RequestError, match="base has 64 positions, and the texts have 65 tokens"):
        long.model(whole)
    other = base_of(made("gpt_neox", pad_token_id=5), tmp_path / "other")
    with pytest.raises(
        RequestError, match="base pads with another token than train was made for; make the task for it"
    ):
        TextSettings(**files, tokenizer="bytes").task(whole).model(other)


def test_positions_of_roberta_begin_after_padding(tmp_path, files):
    """Of 64 embeddings, the first two belong to padding."""
    from tasks_data import IDS, SMALL
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(**SMALL, **IDS, vocab_size=256, max_position_embeddings=64, pad_token_id=1)
    base = base_of(RobertaModel(config), tmp_path / "base")
    settings = {"tokenizer": "bytes", "padding": "max_length"}
    task = TextSettings(**files, **settings, max_length=62).task(base)
    assert task.batch(np.array([0]))["input_ids"][0, -1] == 1
    assert set(task.evaluate(task.model(base), 8, CPU)) == {"accuracy"}
    with pytest.raises(RequestError, match="base has 62 positions, and the texts have 63 tokens"):
        TextSettings(**files, **settings, max_length=63).task(base).model(base)


def test_wrong_labels_and_texts(tmp_path, files, rng):
    base = neox(tmp_path)
    unseen = write_table(tmp_path / "unseen.csv", [*letter_rows(rng, 3), {"text": "x", "label": "digit"}])
    with pytest.raises(
        RequestError, match=r"unseen.csv: row 4: label 'digit' is none of the training file's \('other', 'vowel'\)"
    ):
        TextSettings(files["train"], unseen, tokenizer="bytes").task(base)
    zero = write_table(tmp_path / "zero.jsonl", [{"text": "a\0b", "label": "vowel"}])
    with pytest.raises(RequestError, match=r"zero.jsonl: row 1: the text has the token that pads \(0\)"):
        TextSettings(files["train"], zero, tokenizer="bytes").task(base)
    with pytest.raises(RequestError, match="base has no tokenizer files; give tokenizer = 'bytes'"):
        TextSettings(**files).task(base)
    names = {"id2label": {0: "ham", 1: "spam"}, "label2id": {"ham": 0, "spam": 1}}
    headed = base_of(made("gpt_neox-classifier", **names), tmp_path / "headed")
    with pytest.raises(
        RequestError, match=r"a head for the labels \['ham', 'spam'\], and the data have \['other', 'vowel'\]"
    ):
        TextSettings(**files, tokenizer="bytes").task(headed).model(headed)


def test_half_precision_ends_in_float32(tmp_path, files):
    base = neox(tmp_path)
    task = TextSettings(**files, tokenizer="bytes").task(base)
    model, batch = task.model(base), task.batch(np.arange(64))
    with torch.autocast("cpu", torch.bfloat16):
        assert model(input_ids=batch["input_ids"]).logits.dtype == torch.bfloat16
        half = task.loss(model, batch)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(task.loss(model, batch).item(), rel=0.05)


def test_outputs_that_are_not_finite(tmp_path, files):
    base = neox(tmp_path)
    task = TextSettings(**files, tokenizer="bytes", name="letters").task(base)
    model = task.model(base)
    with torch.no_grad():
        model.score.weight[0, 0] = torch.nan
    with pytest.raises(
        CheckpointError, match="letters: the model's outputs on held-out examples are not finite"
    ) as caught:
        task.evaluate(model, 8, CPU)
    assert caught.value.status == "nonfinite"
