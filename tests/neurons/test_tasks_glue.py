"""GLUE by name: Parquet files laid out as the Hub's, read by the real `datasets` library."""

import json

import numpy as np
import pytest
import torch
from tasks_data import base_of, letter_rows, made, word_tokenizer, write_table

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons.tasks import GlueSettings
from ninscope.neurons.tasks.glue import GLUE, read_glue

CPU = torch.device("cpu")
# Wang et al. (2019), table 1, and the columns of the Hub's data set.
TASKS = {
    "cola": (["sentence"], ["matthews", "accuracy"], 2),
    "sst2": (["sentence"], ["accuracy"], 2),
    "mrpc": (["sentence1", "sentence2"], ["f1", "accuracy"], 2),
    "qqp": (["question1", "question2"], ["f1", "accuracy"], 2),
    "stsb": (["sentence1", "sentence2"], ["spearman", "pearson"], 1),
    "mnli": (["premise", "hypothesis"], ["accuracy"], 3),
    "qnli": (["question", "sentence"], ["accuracy"], 2),
    "rte": (["sentence1", "sentence2"], ["accuracy"], 2),
    "wnli": (["sentence1", "sentence2"], ["accuracy"], 2),
}


def write_glue(root, name, rng, **changed):
    """Two training files and the held-out one, and a test split whose labels GLUE keeps to itself."""
    columns, _, outputs = TASKS[name]
    held_out = "validation_matched" if name == "mnli" else "validation"
    (root / name).mkdir(parents=True, exist_ok=True)
    written = {}
    for file, count in (
        ("train-00000-of-00002", 12),
        ("train-00001-of-00002", 8),
        (f"{held_out}-00000-of-00001", 10),
        ("test-00000-of-00001", 4),
    ):
        rows = []
        for number, row in enumerate(letter_rows(rng, count, labels=(0, 1))):
            label = float(rng.random() * 5) if outputs == 1 else (number % outputs)
            rows.append(dict.fromkeys(columns, row["text"]) | {"label": -1 if "test" in file else label, "idx": number})
        rows[-1] |= changed
        written[file] = rows
        write_table(root / name / f"{file}.parquet", rows)
    return written


@pytest.mark.parametrize("name", list(TASKS))
def test_every_task(tmp_path, rng, name):
    columns, metrics, outputs = TASKS[name]
    written = write_glue(tmp_path, name, rng)
    base = base_of(made("gpt_neox"), tmp_path / "base")
    settings = GlueSettings(name, folder=tmp_path, tokenizer="bytes")
    task = settings.task(base)
    assert (task.name, task.train_size, list(task.metrics)) == (name, 20, metrics)
    assert list(settings.metrics) == metrics
    model = task.model(base)
    assert model.score.weight.shape == (outputs, 24)
    rows = written["train-00000-of-00002"] + written["train-00001-of-00002"]
    batch = task.batch(np.arange(20))
    assert batch["labels"].numpy() == pytest.approx([row["label"] for row in rows])
    text = "\n".join(rows[13][column] for column in columns)
    assert bytes(batch["input_ids"][13][: batch["attention_mask"][13].sum()].tolist()).decode() == text
    assert sum(len(part["labels"]) for part in task.held_out(4)) == 10
    assert list(task.evaluate(model, 4, CPU)) == metrics


def test_no_task_is_left_out():
    assert set(GLUE) == set(TASKS)


def test_labels_are_compared_by_name(tmp_path, rng):
    """MNLI's 0 is entailment; many published classifiers have contradiction first."""
    write_glue(tmp_path, "mnli", rng)
    names = ["contradiction", "neutral", "entailment"]
    stated = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    base = base_of(made("gpt_neox-classifier", **stated), tmp_path / "base")
    task = GlueSettings("mnli", folder=tmp_path, tokenizer="bytes").task(base)
    with pytest.raises(RequestError, match=r"and the data have \['entailment', 'neutral', 'contradiction'\]"):
        task.model(base)


def test_wrong_rows_are_refused(tmp_path, rng):
    base = base_of(made("gpt_neox"), tmp_path / "base")

    def opened(**changed):
        write_glue(tmp_path, "rte", rng, **changed)
        return GlueSettings("rte", folder=tmp_path, tokenizer="bytes").task(base)

    with pytest.raises(RequestError, match="GLUE rte, train: rows 12 and 20: no label in column 'label'"):
        opened(label=-1)
    with pytest.raises(RequestError, match="GLUE rte, train: rows 12 and 20: no text in column 'sentence2'"):
        opened(sentence2=None)
    with pytest.raises(RequestError, match=r"GLUE rte, train: row 12: label 2 is none of the training file's \(0, 1\)"):
        opened(label=2)
    for file in (tmp_path / "rte").iterdir():
        write_table(file, [{"sentence1": "a", "label": 1}])
    with pytest.raises(RequestError, match="GLUE rte, train has no column 'sentence2'; it has sentence1, label"):
        GlueSettings("rte", folder=tmp_path, tokenizer="bytes").task(base)
    (tmp_path / "rte" / "train-00000-of-00002.parquet").write_bytes(b"nothing")
    with pytest.raises(
        RequestError, match=r"GLUE's rte cannot be loaded \(Arrow\w+: .*\); give a folder with its Parquet files"
    ):
        GlueSettings("rte", folder=tmp_path, tokenizer="bytes").task(base)


@pytest.mark.parametrize(("empty", "blank"), [("question1", " "), ("question2", "")])
def test_questions_without_a_letter_are_the_data_set_s_own(tmp_path, rng, empty, blank):
    """The Hub's qqp has training rows whose question2 is empty, which nobody who asks for it can mend."""
    rows = write_glue(tmp_path, "qqp", rng, **{empty: blank})["train-00000-of-00002"]
    other = rows[-1]["question1" if empty == "question2" else "question2"]
    base = base_of(made("bert", pad_token_id=3), tmp_path / "base")

    def last(tokenizer):
        task = GlueSettings("qqp", folder=tmp_path, tokenizer=tokenizer).task(base)
        assert np.isfinite(task.evaluate(task.model(base), 4, CPU)["accuracy"])
        batch = task.batch(np.array([11]))
        length = int(batch["attention_mask"][0].sum())
        return {name: rows[0, :length].tolist() for name, rows in batch.items() if name != "labels"}

    pair = (blank, other) if empty == "question1" else (other, blank)
    assert bytes(last("bytes")["input_ids"]).decode() == "\n".join(pair)
    numbers = word_tokenizer(tmp_path / "words", [other])
    start, word, end = (numbers[name] for name in ("[CLS]", other, "[SEP]"))
    encoded = last(str(tmp_path / "words"))
    if empty == "question2":
        assert (encoded["input_ids"], encoded["token_type_ids"]) == ([start, word, end, end], [0, 0, 0, 1])
    else:
        assert (encoded["input_ids"], encoded["token_type_ids"]) == ([start, end, word, end], [0, 0, 1, 1])


def test_a_text_of_nothing_alone_gives_a_model_nothing(tmp_path, rng):
    """Bytes have no frame around a text, as other tokenizers have."""
    write_glue(tmp_path, "sst2", rng, sentence="")
    base = base_of(made("bert", pad_token_id=3), tmp_path / "base")
    with pytest.raises(RequestError, match="GLUE sst2, train: rows 12 and 20: the tokenizer makes nothing of the text"):
        GlueSettings("sst2", folder=tmp_path, tokenizer="bytes").task(base)
    word_tokenizer(tmp_path / "words", ["a"])
    task = GlueSettings("sst2", folder=tmp_path, tokenizer=str(tmp_path / "words")).task(base)
    assert int(task.batch(np.array([11]))["attention_mask"].sum()) == 2


def test_a_hub_that_does_not_answer_stops_nothing_else(tmp_path, rng, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"GLUE's rte cannot be loaded \(.*\); give a folder") as found:
        read_glue("rte", None, None)
    assert (found.value.status, found.value.passing) == ("missing", True)


def test_wrong_settings_are_refused(tmp_path, rng):
    with pytest.raises(RequestError, match="'wsc' is no task of GLUE; one of cola, sst2, mrpc"):
        GlueSettings("wsc")
    with pytest.raises(RequestError, match=r"folder \S+/none is not there; give the path of a folder"):
        GlueSettings("rte", folder=tmp_path / "none")
    with pytest.raises(
        RequestError, match=r"rte has no train-\*.parquet; give a folder laid out as the Hub's nyu-mll/glue"
    ):
        GlueSettings("rte", folder=tmp_path)
    write_glue(tmp_path, "rte", rng)
    with pytest.raises(RequestError, match="revision belongs to the Hub's data set, and a folder has none"):
        GlueSettings("rte", folder=tmp_path, revision="main")
    (tmp_path / "rte" / "validation-00000-of-00001.parquet").unlink()
    with pytest.raises(RequestError, match=r"has no validation-\*.parquet"):
        GlueSettings("rte", folder=tmp_path)


def test_nothing_is_kept_in_the_library_s_cache(tmp_path, rng, monkeypatch):
    """It would know the next files of the same name and time as the last ones."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    base = base_of(made("gpt_neox"), tmp_path / "base")
    first = write_glue(tmp_path, "rte", rng)["train-00000-of-00002"]
    GlueSettings("rte", folder=tmp_path, tokenizer="bytes").task(base)
    assert not (tmp_path / "cache").exists()
    second = write_glue(tmp_path, "rte", rng)["train-00000-of-00002"]
    assert json.dumps(first) != json.dumps(second)
    batch = GlueSettings("rte", folder=tmp_path, tokenizer="bytes").task(base).batch(np.array([0]))
    assert bytes(batch["input_ids"][0].tolist()).decode().startswith(second[0]["sentence1"] + "\n")


def test_digests(tmp_path, rng):
    write_glue(tmp_path, "rte", rng)
    settings = GlueSettings("rte", folder=tmp_path)
    before = settings.digest()
    assert before == GlueSettings("rte", folder=str(tmp_path)).digest()
    assert GlueSettings("rte", folder=tmp_path, max_length=64).digest() != before
    write_glue(tmp_path, "rte", rng)
    assert settings.digest() != before
    hub = {GlueSettings(name, revision=revision).digest() for name in ("rte", "qnli") for revision in (None, "a", "b")}
    assert len(hub) == 6
