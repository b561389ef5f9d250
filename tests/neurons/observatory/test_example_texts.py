"""Windows of tokens from files of each kind, against texts that are cut by hand; and what is refused, early where it can be."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from tasks_data import word_tokenizer, write_table  # noqa: E402

from ninscope.errors import CheckpointError, RequestError  # noqa: E402
from ninscope.neurons.observatory.example_files import TextExamples, project_text  # noqa: E402
from ninscope.neurons.observatory.read_examples import drawn  # noqa: E402
from ninscope.neurons.tasks.task import Base  # noqa: E402

BYTES = Base("bytes", {"vocab_size": 256, "max_position_embeddings": 64, "bos_token_id": 0}, {})


def text_of(windows):
    return [bytes(row.astype(np.uint8)).decode() for row in windows]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def read(text, base=BYTES, window=4, tokens=10_000, **settings):
    return TextExamples(text, window=window, tokens=tokens, **settings).read(base)


# --- plain text ---------------------------------------------------------------------------------------------
def test_windows_follow_each_other(tmp_path):
    file = write(tmp_path / "a.txt", "abcdefghijk")
    found = read(file)
    assert text_of(found.values) == ["abcd", "efgh"]
    assert (found.kind, found.values.dtype, found.labels, found.classes) == ("tokens", np.int64, None, ())
    assert (found.available, found.bos, found.notes) == (2, False, ())
    assert TextExamples(file).name == "a"
    batch = next(found.examples(2).batches())
    assert batch.tokens.tolist() == found.values.tolist()


def test_files_are_joined_by_the_end_of_a_text(tmp_path):
    files = [write(tmp_path / "a.txt", "abc"), write(tmp_path / "b.txt", "é")]
    assert read(files, window=3).values.tolist() == [[97, 98, 99], [0, 0xC3, 0xA9]]
    write(tmp_path / "c.md", "no text of a folder")
    assert read(tmp_path, window=3).values.tolist() == read(files, window=3).values.tolist()


def test_some_windows_are_drawn_by_the_seed(tmp_path):
    file = write(tmp_path / "a.txt", "".join(f"{number:04}" for number in range(100)))
    every = text_of(read(file).values)
    some = [text_of(read(file, tokens=43, seed=seed).values) for seed in (0, 0, 1)]
    assert len(every) == 100
    assert some[0] == some[1] != some[2]
    assert len(some[0]) == 10
    assert some[0] == sorted(set(some[0]))
    assert set(some[0]) < set(every)


def test_windows_may_begin_with_a_token_of_their_own(tmp_path):
    found = read(write(tmp_path / "a.txt", "abcdefgh"), bos=True)
    assert found.values.tolist() == [[0, 97, 98, 99], [0, 100, 101, 102]]
    assert found.bos
    folder = tmp_path / "words"
    numbers = word_tokenizer(folder, ["red", "green"])
    words = Base("words", {"vocab_size": 9}, {}, folder)
    found = read(write(tmp_path / "w.txt", "red green red"), words, bos=True)
    assert found.values.tolist() == [[numbers[word] for word in ("[CLS]", "red", "green", "red")]]


def test_every_file_may_be_a_class(tmp_path):
    files = [write(tmp_path / "c" / "python.txt", "p" * 40), write(tmp_path / "german.txt", "g" * 13)]
    found = read(files, label="file")
    assert found.classes == ("python", "german")
    assert found.labels.tolist() == [0] * 10 + [1] * 3
    assert text_of(found.values) == ["pppp"] * 10 + ["gggg"] * 3
    assert read(files, label="file", tokens=16).labels.tolist() == [0, 0, 1, 1]
    same = [write(tmp_path / "c" / "german.txt", "x" * 4), files[1]]
    assert read(same, label="file").classes == tuple(map(str, same))


def test_the_text_that_ships(tmp_path):
    settings = TextExamples("project-text")
    assert (settings.name, settings.files) == ("project-text", (project_text(),))
    assert project_text().read_text().startswith('"""')
    found = replace(settings, window=64, tokens=640).read(BYTES)
    assert found.values.shape == (10, 64)
    assert all(one in project_text().read_bytes() for one in (bytes(row.astype(np.uint8)) for row in found.values))


# --- tables -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_rows_of_a_table(tmp_path, suffix):
    rows = [{"text": "abcd", "kind": "x"}, {"text": "efghij", "kind": "y"}, {"text": "kl", "kind": "x"}]
    table = write_table(tmp_path / f"table.{suffix}", [*rows, {"text": "mnopq", "kind": "x"}])
    assert text_of(read(table).values) == ["abcd", "\0efg", "hij\0", "kl\0m", "nopq"]
    found = read(table, label="kind")
    assert text_of(found.values) == ["abcd", "efgh", "mnop"]
    assert (found.labels.tolist(), found.classes) == ([0, 1, 0], ("x", "y"))
    assert found.notes == (f"table.{suffix}: of 4 rows 1 are shorter than 4 tokens and left out, 2 are longer and cut",)
    with pytest.raises(RequestError, match=rf"t.{suffix}: class 'y' has no row of 7 tokens; take a smaller window, or"):
        read(write_table(tmp_path / f"t.{suffix}", [*rows, {"text": "mnopqrs", "kind": "x"}]), label="kind", window=7)


def test_other_columns_and_several_tables(tmp_path):
    tables = [
        write_table(tmp_path / name, [{"code": "abcd" if name == "a.csv" else "efgh", "lang": number}])
        for number, name in enumerate(("a.csv", "b.csv"))
    ]
    found = read(tables, column="code", label="lang")
    assert (text_of(found.values), found.labels.tolist(), found.classes) == (["abcd", "efgh"], [0, 1], ("0", "1"))


def test_labels_follow_the_order_of_the_models_outputs(tmp_path):
    rows = [{"text": "good", "label": "pos"}, {"text": "evil", "label": "neg"}]
    table = write_table(tmp_path / "t.jsonl", rows)
    named = Base("named", {**BYTES.config, "id2label": {"1": "neg", "0": "pos"}}, {})
    found = read(table, named, label="label")
    assert (found.labels.tolist(), found.classes) == ([0, 1], ("pos", "neg"))
    other = Base("other", {**BYTES.config, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, {})
    assert read(table, other, label="label").classes == ("neg", "pos")


# --- data sets ----------------------------------------------------------------------------------------------
@pytest.fixture
def data_set(tmp_path):
    pytest.importorskip("datasets", reason="datasets is not installed")
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [{"text": "abcdef", "label": 1, "note": "n"}, {"text": "ghij", "label": 0, "note": "n"}]
    write_table(folder / "test.parquet", rows)
    return folder


def test_a_data_set_of_the_library(data_set):
    found = read({"dataset": str(data_set), "split": "test"})
    assert text_of(found.values) == ["abcd", "ef\0g"]
    found = read({"dataset": str(data_set), "split": "test"}, label="label")
    assert (text_of(found.values), found.labels.tolist(), found.classes) == (["abcd", "ghij"], [1, 0], ("0", "1"))
    assert TextExamples({"dataset": "a/b", "split": "test"}).name == "a/b"


def test_named_labels_of_the_library(tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})

    def saved(name, labels):
        (tmp_path / name).mkdir()
        rows = {"text": ["abcd", "efgh"], "label": labels}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / name / "test.parquet")
        return {"dataset": str(tmp_path / name), "split": "test"}

    found = read(saved("one", [1, 0]), label="label")
    assert (found.labels.tolist(), found.classes) == ([1, 0], ("no", "yes"))
    with pytest.raises(RequestError, match=r"data set .*two, test: row 2: no label in column 'label'"):
        read(saved("two", [1, -1]), label="label")


def test_data_sets_that_cannot_be_read(data_set, monkeypatch):
    with pytest.raises(RequestError, match=r"data set .*set, test has no column 'body'; it has text, label, note"):
        read({"dataset": str(data_set), "split": "test"}, column="body")
    with pytest.raises(RequestError, match=r"data set .*set, dev cannot be loaded \(.*\); give another one, or files"):
        read({"dataset": str(data_set), "split": "dev"})
    import datasets

    def absent(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", absent)
    with pytest.raises(
        CheckpointError, match=r"data set a/b, test cannot be loaded \(ConnectionError: no net"
    ) as error:
        read({"dataset": "a/b", "split": "test"})
    assert (error.value.status, error.value.passing) == ("missing", True)


# --- drawing ------------------------------------------------------------------------------------------------
def test_drawing_takes_classes_in_turn(rng):
    labels = rng.permutation(np.repeat([0, 1, 2], [50, 30, 3]))
    found = drawn(31, 83, labels, 0)
    assert np.bincount(labels[found]).tolist() == [14, 14, 3]
    assert (np.diff(found) > 0).all()
    assert drawn(100, 83, labels, 0).tolist() == list(range(83))
    assert len(np.unique(drawn(20, 83, None, 5))) == 20


# --- digests ------------------------------------------------------------------------------------------------
def test_a_digest_is_of_settings_and_bytes(tmp_path):
    file = write(tmp_path / "one" / "a.txt", "some text")
    first = TextExamples(file).digest()
    assert len(first) == 64
    assert first == TextExamples(str(file), name="other").digest()
    (tmp_path / "two").mkdir()
    assert first == TextExamples(shutil.copy(file, tmp_path / "two")).digest()
    table = write_table(tmp_path / "a.csv", [{"text": "a", "label": "x", "b": "c"}])
    copy = shutil.copy(table, tmp_path / "c.csv")
    others = [
        *(TextExamples(file, **changed) for changed in (
            {"tokens": 128}, {"window": 64}, {"seed": 1}, {"bos": True}, {"tokenizer": "bytes"},
        )),
        TextExamples([file, file]),
        TextExamples([file, file], label="file"),
        TextExamples(table),
        TextExamples(table, label="label"),
        TextExamples(table, column="b"),
        TextExamples("project-text"),
        *(TextExamples({"dataset": "a", "split": "test"} | more) for more in ({}, {"revision": "b"}, {"config": "b"})),
    ]  # fmt: skip
    assert len({first, *(settings.digest() for settings in others)}) == 1 + len(others)
    assert TextExamples(table).digest() == TextExamples(copy).digest()
    file.write_text("some other text")
    assert TextExamples(file).digest() != first


# --- refusals -----------------------------------------------------------------------------------------------
def test_settings_are_refused_when_they_are_made(tmp_path):
    text = write(tmp_path / "a.txt", "some text")
    table = write_table(tmp_path / "t.csv", [{"text": "a", "kind": "x"}])
    empty = tmp_path / "empty"
    empty.mkdir()
    wrong = [
        ({"text": tmp_path / "no.txt"}, r"text .*no.txt is not there; give the path of a file"),
        ({"text": []}, r"text is \[\]; a file, a list of files or a folder was expected"),
        ({"text": empty}, r"folder .*empty has no files \*\*/\*.txt"),
        ({"text": [text, table]}, "t.csv is a table and a.txt plain text; give the two as texts of their own"),
        ({"text": table, "column": "body"}, "t.csv has no column 'body'; it has 'text', 'kind'"),
        ({"text": table, "label": "label"}, "t.csv has no column 'label'; it has 'text', 'kind'"),
        ({"text": table, "label": "text"}, "text and labels are both in column 'text'"),
        ({"text": table, "label": ""}, "label is ''; the name of a column was expected"),
        ({"text": text, "column": 3}, "column is 3; the name of a column was expected"),
        ({"text": text, "label": "kind"}, "label is 'kind', and plain text has no columns; give label = 'file'"),
        ({"text": text, "label": "file"}, "label is 'file', and there is one file; give two or more"),
        ({"text": text, "window": 1}, "window is 1; an integer from 2 to"),
        ({"text": text, "tokens": 100}, "tokens is 100; an integer from 128 to"),
        ({"text": text, "seed": -1}, "seed is -1; an integer from 0 to"),
        ({"text": text, "bos": 1}, "bos is 1; True or False was expected"),
        ({"text": text, "tokenizer": ""}, "tokenizer is ''; 'bytes', a folder or the name of one was expected"),
        ({"text": text, "tokenizer": str(empty)}, "is a folder without tokenizer files"),
        ({"text": {"dataset": "a"}}, "text names no split"),
        ({"text": {"dataset": "a", "spilt": "b"}}, "text has no key 'spilt'; did you mean 'split'?"),
        ({"text": {"dataset": "a", "split": None}}, "split of the data set is None; a name was expected"),
    ]
    for settings, message in wrong:
        with pytest.raises(RequestError, match=message):
            TextExamples(**settings)


def test_texts_and_bases_that_do_not_fit(tmp_path):
    text = write(tmp_path / "a.txt", "some text")
    large = Base("large", {"vocab_size": 50_000}, {})
    small = Base("small", {"vocab_size": 100}, {})
    with pytest.raises(RequestError, match="a: 9 tokens of text, and a window needs 10; give more text or a smaller"):
        read(text, window=10)
    with pytest.raises(RequestError, match=r"b.txt: 1 tokens of text, and a window needs 4"):
        read([text, write(tmp_path / "b.txt", "b")], label="file")
    with pytest.raises(
        RequestError, match="large has no tokenizer files, and its 50000 tokens are no bytes; give token"
    ):
        read(text, large)
    with pytest.raises(RequestError, match="small has no tokenizer files, and its 100 tokens are no bytes"):
        read(text, small)
    with pytest.raises(RequestError, match="large has 50000 tokens, which are no bytes; give tokenizer = the folder"):
        read(text, large, tokenizer="bytes")
    with pytest.raises(RequestError, match="small: the text has token 120, and its vocabulary ends at 99; choose the"):
        read(text, small, tokenizer="bytes")
    edge = [Base("edge", {"vocab_size": size}, {}) for size in (120, 121)]
    with pytest.raises(RequestError, match="edge: the text has token 120, and its vocabulary ends at 119"):
        read(text, edge[0], tokenizer="bytes")
    assert read(text, edge[1], tokenizer="bytes").values.max() == 120
    with pytest.raises(RequestError, match="image: its configuration has no vocab_size; text needs a model that reads"):
        read(text, Base("image", {}, {}))
    with pytest.raises(RequestError, match="bytes has 64 positions, and window is 65; take a window of 64 or less"):
        read(text, window=65)
    with pytest.raises(RequestError, match="bos = true, and plain has no token that a text begins with; leave bos out"):
        read(text, Base("plain", {"vocab_size": 256}, {}), bos=True)
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1") * 9)
    with pytest.raises(RequestError, match=r"latin.txt is no UTF-8 text \(byte 0\); save it as UTF-8"):
        read(tmp_path / "latin.txt")


def test_tables_that_do_not_fit(tmp_path):
    def table(*rows):
        path = tmp_path / "t.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    one, two = {"text": "abcd", "label": "x"}, {"text": "efgh", "label": "y"}
    with pytest.raises(RequestError, match=r"t.jsonl: row 2: no label in column 'label'; label the rows or take them"):
        read(table(one, {"text": "efgh"}), label="label")
    with pytest.raises(RequestError, match=r"t.jsonl: row 2: no text in column 'text'"):
        read(table(one, {"label": "x"}))
    with pytest.raises(RequestError, match=r"t.jsonl: every label is 'x'; two or more classes are needed"):
        read(table(one, one), label="label")
    with pytest.raises(RequestError, match=r"t.jsonl: no row has the 9 tokens of a window, the longest has 4; take a"):
        read(table(one, two), label="label", window=9)
    with pytest.raises(RequestError, match="tokens = 4 are 1 windows, and there are 2 classes; take more tokens"):
        read(table(one, two), label="label", tokens=4)
