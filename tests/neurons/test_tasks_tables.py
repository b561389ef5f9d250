"""Labelled text from files of every format: all rows, none that is not whole, classes that do not depend on the order."""

import math

import pyarrow
import pytest
from pyarrow import parquet
from tasks_data import write_table

from ninscope.errors import RequestError
from ninscope.neurons.tasks.labelled import class_numbers, classes_of, from_tables, regression_targets
from ninscope.neurons.tasks.tables import Examples, column_names, read_columns, read_examples

ROWS = [
    {"text": 'a "quoted", line', "label": "yes", "other": "x"},
    {"text": "two\nlines", "label": "no", "other": "y"},
    {"text": "null", "label": "yes", "other": "Ω"},
]
FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")


def labelled(labels, where="train.csv"):
    return Examples(where, ["text"] * len(labels), None, labels)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_row_is_read(tmp_path, suffix):
    path = write_table(tmp_path / f"table{suffix}", ROWS)
    assert sorted(column_names(path)) == ["label", "other", "text"]
    assert read_columns(path, ["other", "text"]) == {name: [row[name] for row in ROWS] for name in ("other", "text")}
    examples = read_examples(path, "text", "other", "label")
    assert examples == Examples(path.name, *([row[name] for row in ROWS] for name in ("text", "other", "label")))
    assert read_examples(path, "text", None, "label").seconds is None


@pytest.mark.parametrize("suffix", FORMATS)
def test_rows_that_are_not_whole_are_named(tmp_path, suffix):
    empty = "" if suffix in (".csv", ".tsv") else None
    rows = [dict(ROWS[0]) for _ in range(9)]
    for number in (1, 3, 4, 5, 6, 7, 8):
        rows[number]["label"] = empty
    path = write_table(tmp_path / f"table{suffix}", rows)
    with pytest.raises(
        RequestError, match=rf"^table\{suffix}: rows 2, 4, 5, 6, 7 and 2 more: no label in column 'label'; label"
    ):
        read_examples(path, "text", None, "label")
    rows[1]["text"], rows[4]["text"] = empty, "   "
    path = write_table(tmp_path / f"table{suffix}", rows)
    with pytest.raises(RequestError, match=r"rows 2 and 5: no text in column 'text'; fill it in or take the rows out"):
        read_examples(path, "text", None, "label")
    with pytest.raises(RequestError, match=r"has no column 'sentence'; it has 'text', 'label', 'other'"):
        read_examples(path, "sentence", None, "label")


@pytest.mark.parametrize("missing", ["NaN", "null", " ", "nan"])
def test_a_label_that_says_there_is_none(tmp_path, missing):
    path = write_table(tmp_path / "table.csv", [*ROWS, {"text": "t", "label": missing, "other": "z"}])
    with pytest.raises(RequestError, match=r"row 4: no label in column 'label'"):
        read_examples(path, "text", None, "label")


def test_missing_numbers_in_parquet(tmp_path):
    table = pyarrow.table({"text": ["a", "b", "c"], "label": [1.0, math.nan, None]})
    parquet.write_table(table, tmp_path / "table.parquet")
    with pytest.raises(RequestError, match="rows 2 and 3: no label"):
        read_examples(tmp_path / "table.parquet", "text", None, "label")


def test_text_that_is_none(tmp_path):
    path = write_table(tmp_path / "table.jsonl", [{"text": "a", "label": 1}, {"text": 7, "label": 0}])
    with pytest.raises(RequestError, match="row 2: column 'text' holds no text but 7"):
        read_examples(path, "text", None, "label")
    path.write_text('{"text": "half \\ud800", "label": 1}\n')
    with pytest.raises(RequestError, match=r"row 1: column 'text' holds no text but 'half \\ud800'"):
        read_examples(path, "text", None, "label")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.csv", b"text,label\na,b,c\n", "row 1 has more fields than the header; put quotes around commas"),
        ("a.csv", b"text,label\na\n", "row 1: no label"),
        ("a.csv", b"text,label\n", "a.csv has no rows"),
        ("a.csv", b"", "has no column 'text'; it has none"),
        ("a.csv", b"text,label,text\na,b,c\n", "two columns 'text'; rename one"),
        ("a.csv", b'text,label\n"a,b\n', "no UTF-8 CSV after row 0 .*; save it as UTF-8 CSV"),
        ("a.csv", b"text,label\na,b\n\xff\xfe,b\n", "no UTF-8 CSV"),
        ("a.csv", b"text,label\n" + b"x" * 10_000_001 + b",b\n", "field larger than field limit"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n[1]\n', "line 2 is no JSON object"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text"\n', "line 2 is no UTF-8 JSON"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000, "line 1 is no UTF-8 JSON"),
        ("a.jsonl", b'{"text": "a", "label": ' + b"9" * 5000 + b"}", r"line 1 is no UTF-8 JSON \(Exceeds the limit"),
        ("a.parquet", b"PAR1 nothing", "a.parquet is no Parquet file that can be read"),
        ("a.xlsx", b"", "a.xlsx is none of .csv, .tsv, .jsonl, .parquet; save the table in one"),
    ],
)
def test_damaged_files_are_refused(tmp_path, name, content, match):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=match):
        read_examples(tmp_path / name, "text", None, "label")


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_cannot_be_opened_is_named(tmp_path, suffix):
    (tmp_path / f"table{suffix}").mkdir()
    with pytest.raises(RequestError, match=rf"^table\{suffix}"):
        read_examples(tmp_path / f"table{suffix}", "text", None, "label")


def test_a_damaged_page_of_parquet(tmp_path):
    path = write_table(tmp_path / "table.parquet", [{"text": "some text " * 50, "label": "a"}] * 50)
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(56)
    path.write_bytes(content)
    with pytest.raises(RequestError, match=r"table.parquet is no Parquet file that can be read"):
        read_examples(path, "text", None, "label")


def test_a_table_larger_than_memory_is_refused_by_its_header(tmp_path, monkeypatch):
    path = write_table(tmp_path / "table.parquet", [{"text": "a" * 1000, "label": str(row)} for row in range(100)])
    monkeypatch.setattr("ninscope.neurons.tasks.parquet.MAX_FILE_BYTES", 1000)
    with pytest.raises(RequestError, match=r"table.parquet holds \d+ bytes, more than 1000; give a part of it"):
        column_names(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_rows_are_bounded(tmp_path, monkeypatch, suffix):
    path = write_table(tmp_path / f"table{suffix}", ROWS)
    for module in ("tables", "parquet"):
        monkeypatch.setattr(f"ninscope.neurons.tasks.{module}.MAX_ROWS", 3)
    assert len(read_columns(path, ["text"])["text"]) == 3
    for module in ("tables", "parquet"):
        monkeypatch.setattr(f"ninscope.neurons.tasks.{module}.MAX_ROWS", 2)
    with pytest.raises(RequestError, match=rf"table\{suffix} has more than 2 rows; give a part of it"):
        read_columns(path, ["text"])


# --- labels -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["b", "a", "c", "a"], ["a", "b", "c"]),
        (["10", "9", "-1"], [-1, 9, 10]),
        (["10", "09"], ["09", "10"]),
        ([2.0, 1, 2], [1, 2]),
        ([True, False], [0, 1]),
    ],
)
def test_classes_are_sorted_and_distinct(labels, classes):
    assert classes_of(labelled(labels)) == classes
    assert classes_of(labelled(labels[::-1])) == classes


def test_numbers_follow_classes():
    assert class_numbers(labelled(["b", "a", "b"]), ["a", "b"]) == [1, 0, 1]
    assert class_numbers(labelled(["9", "10", "-1"]), [-1, 9, 10]) == [1, 2, 0]


def test_wrong_labels_are_refused():
    with pytest.raises(RequestError, match="every label is 'a'; two or more classes are needed"):
        classes_of(labelled(["a", "a"]))
    with pytest.raises(RequestError, match="labels are numbers in some rows and text in others"):
        classes_of(labelled(["a", 1]))
    with pytest.raises(
        RequestError, match=r"row 2: label 0.5 is neither text nor a whole number; metrics = \['spearman'\]"
    ):
        classes_of(labelled([1, 0.5]))
    with pytest.raises(RequestError, match=r"test.csv: row 2: label 'x' is none of the training file's \('a', 'b'\)"):
        class_numbers(labelled(["a", "x"], "test.csv"), ["a", "b"])
    with pytest.raises(RequestError, match="row 1: label 'high' is no number, which a regression needs"):
        regression_targets(labelled(["high"]))
    with pytest.raises(RequestError, match="row 2: label 'inf' is no number"):
        regression_targets(labelled(["1.5", "inf"]))


def test_targets_of_a_regression(tmp_path):
    paths = [write_table(tmp_path / name, [{"text": "t", "label": value} for value in values])
             for name, values in (("a.csv", ["1.5", "2"]), ("b.jsonl", [0.25, 3]))]  # fmt: skip
    data = from_tables(*paths, "text", None, "label", regression=True)
    assert [part.tolist() for part in data.labels] == [[1.5, 2.0], [0.25, 3.0]]
    assert {str(part.dtype) for part in data.labels} == {"float32"}
    assert len(data.classes) == 0
