"""Texts as numbers: bytes and real tokenizers, padding that a classifier does not read."""

import json

import numpy as np
import pytest
import torch
from hub_client import _private_client, serve  # noqa: F401
from tasks_data import base_of, made, word_tokenizer

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons.tasks.base_models import classifier, load_classifier
from ninscope.neurons.tasks.tables import Examples
from ninscope.neurons.tasks.task import Base
from ninscope.neurons.tasks.tokenizers import ByteTokenizer, EncodedTexts, open_tokenizer, padding_token, used_tokens

WORDS = ("red", "green", "blue", "sky", "grass")
NOBODY = Base("nobody", {"model_type": "bert"}, {})


def examples(texts, seconds=None):
    return Examples("table.csv", texts, seconds, [0] * len(texts))


def encoded(tokenizer, texts, seconds=None, max_length=64):
    columns = tokenizer.encode_examples(examples(texts, seconds), max_length)
    return {name: [row.tolist() for row in rows] for name, rows in columns.items()}


def cut_in_turn(one, other, room):
    """A pair cut token by token, the longer one first; of two of one length the one that was shorter, or the first."""
    one, other = list(one), list(other)
    shorter = one if len(one) <= len(other) else other
    while len(one) + len(other) > room:
        max((one, other), key=lambda text: (len(text), text is shorter)).pop()
    return one, other


def test_a_byte_is_a_token():
    assert encoded(ByteTokenizer(), ["aΩ", "ab"]) == {"input_ids": [[97, 0xCE, 0xA9], [97, 98]]}
    assert encoded(ByteTokenizer(), ["a" * 100], max_length=8) == {"input_ids": [[97] * 8]}


@pytest.mark.parametrize("lengths", [(3, 4), (3, 40), (40, 3), (40, 40), (7, 8), (8, 7), (1, 1), (20, 9)])
@pytest.mark.parametrize("max_length", [16, 17])
def test_pairs_of_bytes_are_cut_as_the_library_cuts_pairs(tmp_path, lengths, max_length):
    one, other = "a" * lengths[0], "b" * lengths[1]
    first, second = cut_in_turn(one, other, max_length - 1)
    assert encoded(ByteTokenizer(), [one], [other], max_length)["input_ids"] == [
        [*map(ord, first), 10, *map(ord, second)]
    ]
    word_tokenizer(tmp_path, ["a", "b"])
    library = open_tokenizer(str(tmp_path), NOBODY)
    framed = max_length + 2  # by [CLS] and two [SEP], where bytes have one separator
    (row,) = encoded(library, [" ".join(one)], [" ".join(other)], framed)["input_ids"]
    assert (row.count(4), row.count(5)) == (len(first), len(second))


def test_a_tokenizer_of_the_library(tmp_path):
    numbers = word_tokenizer(tmp_path, WORDS)
    red, blue = numbers["red"], numbers["blue"]
    start, end = numbers["[CLS]"], numbers["[SEP]"]
    found = encoded(
        open_tokenizer(None, Base("own", {}, {}, tmp_path)), ["red blue pink", "red"], ["blue", "blue blue"]
    )
    assert found["input_ids"] == [
        [start, red, blue, numbers["[UNK]"], end, blue, end],
        [start, red, end, blue, blue, end],
    ]
    assert found["token_type_ids"] == [[0] * 5 + [1] * 2, [0] * 3 + [1] * 3]
    assert open_tokenizer(str(tmp_path), NOBODY).encode("red sky").tolist() == [red, numbers["sky"]]


def test_a_base_without_tokenizer_files(tmp_path):
    """transformers itself would make an empty tokenizer of such a folder, and every word would be unknown."""
    base = base_of(made("bert"), tmp_path)
    with pytest.raises(RequestError, match=r"^base has no tokenizer files; give tokenizer = 'bytes', or the name"):
        open_tokenizer(None, base)
    with pytest.raises(RequestError, match=r"^nobody has no tokenizer files; give tokenizer = 'bytes'"):
        open_tokenizer(None, NOBODY)


def test_no_code_of_a_folder_is_run(tmp_path):
    numbers = word_tokenizer(tmp_path, WORDS)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings |= {"auto_map": {"AutoTokenizer": ["theirs.Theirs", None]}, "tokenizer_class": "Theirs"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Theirs: pass\n")
    with pytest.raises(RequestError, match="its tokenizer cannot be read"):
        open_tokenizer(str(tmp_path), NOBODY)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert open_tokenizer(str(tmp_path), NOBODY).encode("red").tolist() == [numbers["red"]]
    assert not (tmp_path / "ran").exists()


def test_damaged_tokenizers_are_refused(tmp_path):
    word_tokenizer(tmp_path, WORDS)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(RequestError, match=r"its tokenizer cannot be read \(\w+\); give another one"):
        open_tokenizer(str(tmp_path), NOBODY)


def test_a_name_that_the_hub_does_not_know(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("nobody/nothing-here", "no/such/name"):
        with pytest.raises(
            CheckpointError, match=f"tokenizer {name} is no folder, and the Hub does not give it"
        ) as found:
            open_tokenizer(name, NOBODY)
        assert (found.value.status, found.value.passing) == ("missing", True)  # it stops nothing else


def test_a_repository_s_tokenizer_files_are_all_that_is_fetched(tmp_path, serve, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    numbers = word_tokenizer(tmp_path / "words", WORDS)
    files = {path.name: path.read_bytes() for path in (tmp_path / "words").iterdir()}
    others = {
        "theirs.py": b"raise SystemExit",
        "pytorch_model.bin": b"weights",
        "config.json": b'{"model_type": "bert"}',
    }
    bare = {"config.json": others["config.json"]}
    hub = serve({"org/model": {"main": bare, "step1": files | others}})
    tokenizer = open_tokenizer(None, Base("base", {}, {}, "org/model", "step1"))
    assert tokenizer.encode("red sky").tolist() == [numbers["red"], numbers["sky"]]
    fetched = {request.path.rsplit("/", 1)[1] for request in hub.requests if "/resolve/" in request.path}
    assert fetched == {*files, "config.json"}
    with pytest.raises(RequestError, match="tokenizer org/model has no tokenizer files; give tokenizer = 'bytes'"):
        open_tokenizer("org/model", NOBODY)


# --- padding ------------------------------------------------------------------------------------------------
def test_rows_are_filled_up_on_the_right():
    columns = {
        "input_ids": [np.array([5, 6, 7]), np.array([8])],
        "token_type_ids": [np.array([0, 1, 1]), np.array([0])],
    }
    batch = EncodedTexts(columns, 9, None, "t").batch(np.array([1, 0, 1]))
    assert batch["input_ids"].tolist() == [[8, 9, 9], [5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1], [1, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert EncodedTexts(columns, 9, None, "t").batch(np.array([1]))["input_ids"].tolist() == [[8]]
    assert EncodedTexts(columns, 9, 5, "t").batch(np.array([1]))["input_ids"].tolist() == [[8, 9, 9, 9, 9]]


def test_texts_that_hold_the_padding_or_nothing_are_refused():
    with pytest.raises(
        RequestError, match=r"t.csv: row 2: the text has the token that pads \(0\); take it out of the text"
    ):
        EncodedTexts({"input_ids": [np.array([1]), np.array([1, 0])]}, 0, None, "t.csv")
    with pytest.raises(RequestError, match=r"t.csv: rows 1 and 3: the tokenizer makes nothing of the text"):
        EncodedTexts({"input_ids": [np.array([]), np.array([1]), np.array([])]}, 0, None, "t.csv")


def test_what_pads(tmp_path):
    word_tokenizer(tmp_path / "pad", WORDS)
    word_tokenizer(tmp_path / "none", WORDS, pad=None)
    with_pad, without = (open_tokenizer(str(tmp_path / name), NOBODY) for name in ("pad", "none"))
    silent = Base("silent", {"pad_token_id": None}, {})
    used = np.array([0, 1, 2, 5])
    assert padding_token(Base("own", {"pad_token_id": 7}, {}), with_pad, used, 10) == 7
    assert padding_token(Base("wrong", {"pad_token_id": -1}, {}), with_pad, used, 10) == 3
    assert padding_token(silent, with_pad, used, 10) == 3
    assert padding_token(silent, without, used, 10) == 3
    assert padding_token(silent, without, np.arange(4), 5) == 4
    assert padding_token(silent, ByteTokenizer(), np.array([65]), 256) == 0
    with pytest.raises(RequestError, match="silent has no token to pad with: texts use its whole vocabulary"):
        padding_token(silent, without, np.arange(5), 5)


def test_used_tokens():
    rows = [[np.array([3, 1]), np.array([3], np.uint8)], [np.array([2])]]
    assert used_tokens(*rows).tolist() == [1, 2, 3]


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2", "bert"])
def test_a_classifier_reads_the_same_with_padding_and_without(tmp_path, name):
    """The row alone, without any padding, is what the row in a batch must be worth."""
    base = base_of(made(name), tmp_path)
    columns = ByteTokenizer().encode_examples(examples(["short", "a much longer text", "mid text", "~"]), 64)
    texts = EncodedTexts(columns, 0, 24, "t")
    model = load_classifier(classifier(base, "text classification", ("a", "b"), {"pad_token_id": 0}))
    with torch.no_grad():
        together = model(**texts.batch(np.arange(4))).logits
        alone = [model(input_ids=torch.tensor(row[None].astype(np.int64))).logits[0] for row in columns["input_ids"]]
    assert torch.allclose(together, torch.stack(alone), atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3
