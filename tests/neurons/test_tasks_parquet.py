"""Parquet tables whose few bytes stand for many: refused before they fill the memory; and every kind of column."""

import datetime
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from ninscope.errors import RequestError
from ninscope.neurons.tasks.tables import read_columns, read_examples

ROWS, LETTERS = 2000, 100_000  # 200 MB of text, in a file of a few kB
CODECS = {
    "dictionary": {},
    "DELTA_BYTE_ARRAY": {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}},
}


def repeated(path, encoding="dictionary", rows=ROWS):
    """One long text in every row."""
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, pyarrow.int32()), ["x" * LETTERS])
    table = pyarrow.table({"text": texts, "label": [row % 2 for row in range(rows)]})
    if encoding != "dictionary":
        table = table.set_column(0, "text", texts.cast(pyarrow.string()))
    parquet.write_table(table, path, **CODECS[encoding])
    return path


@pytest.mark.parametrize("encoding", CODECS)
def test_what_a_file_stands_for_is_bounded(tmp_path, monkeypatch, encoding):
    path = repeated(tmp_path / "table.parquet", encoding)
    assert path.stat().st_size < 40_000
    monkeypatch.setattr("ninscope.neurons.tasks.parquet.MAX_FILE_BYTES", 10**8)
    with pytest.raises(RequestError, match=r"^table.parquet holds \d+ bytes, more than 100000000; give a part of it$"):
        read_examples(path, "text", None, "label")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is what Linux says of a process")
@pytest.mark.parametrize("encoding", CODECS)
def test_it_is_refused_before_it_is_in_memory(tmp_path, encoding):
    """In a process of its own, whose peak tells (ru_maxrss would be inherited from this one)."""
    path = repeated(tmp_path / "table.parquet", encoding)
    code = f"""
from pathlib import Path
from ninscope.errors import RequestError
from ninscope.neurons.tasks import parquet, tables
import pyarrow.parquet, pyarrow.compute
parquet.MAX_FILE_BYTES = 20_000_000
peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before = peak()
try:
    tables.read_columns(Path({str(path)!r}), ["text", "label"])
except RequestError as error:
    print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 90_000  # kB, of 200 MB


def test_texts_as_long_as_allowed_are_read(tmp_path):
    """Of every encoding, over several row groups."""
    lengths = {"use_dictionary": False, "column_encoding": {"text": "DELTA_LENGTH_BYTE_ARRAY"}}
    for encoding, settings in (CODECS | {"lengths": lengths}).items():
        texts = [f"{row} " * 30 for row in range(500)] + ["same"] * 500 + [None]
        path = tmp_path / f"{encoding}.parquet"
        parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=300, **settings)
        assert read_columns(path, ["text"])["text"] == texts


def test_columns_of_every_kind(tmp_path):
    columns = {
        "category": pyarrow.array(["x", "y", None]).dictionary_encode(),
        "number": pyarrow.array([1, 2, None]).dictionary_encode(),
        "large": pyarrow.array(["a", None, "b"], pyarrow.large_string()),
        "half": pyarrow.array([1.0, 2.5, None], pyarrow.float16()),
        "truth": pyarrow.array([True, None, False]),
        "none": pyarrow.nulls(3),
        "day": pyarrow.array([datetime.date(2026, 1, 1)] * 3),
        "with.dot": pyarrow.array(["p", "q", "r"]),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "table.parquet")
    found = read_columns(tmp_path / "table.parquet", list(columns))
    assert found == {name: values.to_pylist() for name, values in columns.items()}


@pytest.mark.parametrize(
    ("values", "kind"),
    [([[1], [2]], "list<.*>"), ([{"a": 1}] * 2, "struct<.*>"), ([b"a", b"b"], "binary")],
    ids=["list", "struct", "binary"],
)
def test_columns_of_other_kinds_are_refused(tmp_path, values, kind):
    """They may stand for any number of bytes."""
    parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": values}), tmp_path / "table.parquet")
    with pytest.raises(
        RequestError, match=rf"table.parquet: column 'label' is of type {kind}; texts or numbers were expected"
    ):
        read_examples(tmp_path / "table.parquet", "text", None, "label")


def test_text_that_is_no_unicode(tmp_path):
    raw = pyarrow.array([b"\xff\xfe"])
    text = pyarrow.Array.from_buffers(pyarrow.string(), 1, raw.buffers())
    parquet.write_table(pyarrow.table({"text": text, "label": ["a"]}), tmp_path / "table.parquet")
    with pytest.raises(RequestError, match=r"table.parquet is no Parquet file that can be read \('utf-8' codec"):
        read_examples(tmp_path / "table.parquet", "text", None, "label")
