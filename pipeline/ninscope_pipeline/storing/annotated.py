"""A matrix whose rows and columns are described, as the files of a Zarr group in AnnData's on-disk encoding.

What is written: https://anndata.readthedocs.io/en/stable/fileformat-prose.html, "anndata" 0.1.0 with "dataframe", "categorical",
"array" and "string-array" 0.2.0. So `anndata.read_zarr` of the group gives an AnnData, and scanpy and pandas read that.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numcodecs.zstd import Zstd

from ninscope_pipeline.storing.zarr_files import NODE, Files, array_of_files, files_of_array, group_file

_EMPTY = ("layers", "obsm", "obsp", "uns", "varm", "varp")  # parts that an AnnData has, of which there is nothing
_INDEX = "_index"
_LEVEL = 1
_LENGTH = struct.Struct("<I")  # before every text, and before the first how many there are

Column = np.ndarray | Sequence[str]


@dataclass(frozen=True)
class AnnotatedMatrix:
    """values: float [rows, columns]. row_names, column_names: distinct texts. rows, columns: what describes them, by name: an
    array of numbers, or texts, one each."""

    values: np.ndarray
    row_names: Sequence[str]
    column_names: Sequence[str]
    rows: Mapping[str, Column] = field(default_factory=dict)
    columns: Mapping[str, Column] = field(default_factory=dict)


def files_of_annotated(name: str, matrix: AnnotatedMatrix) -> dict[str, bytes]:
    """A matrix as the files of the group `name`, by their paths. Texts of rows are categories. The same matrix, the same bytes."""
    files = {f"{name}/{NODE}": _group("anndata", "0.1.0")}
    files |= files_of_array(f"{name}/X", np.ascontiguousarray(matrix.values))
    files |= _files_of_frame(f"{name}/obs", matrix.row_names, matrix.rows)
    files |= _files_of_frame(f"{name}/var", matrix.column_names, matrix.columns)
    return files | {f"{name}/{part}/{NODE}": _group("dict", "0.1.0") for part in _EMPTY}


def annotated_of_files(files: Files, name: str) -> AnnotatedMatrix:
    """What `files_of_annotated` wrote."""
    row_names, rows = _frame_of_files(files, f"{name}/obs")
    column_names, columns = _frame_of_files(files, f"{name}/var")
    return AnnotatedMatrix(array_of_files(files, f"{name}/X"), row_names, column_names, rows, columns)


def _group(kind: str, version: str, **attributes: object) -> bytes:
    return group_file({"encoding-type": kind, "encoding-version": version, **attributes})


def _files_of_frame(name: str, index: Sequence[str], columns: Mapping[str, Column]) -> dict[str, bytes]:
    about = {"_index": _INDEX, "column-order": list(columns)}
    files = {f"{name}/{NODE}": _group("dataframe", "0.2.0", **about)} | _files_of_texts(f"{name}/{_INDEX}", index)
    for column, values in columns.items():
        path = f"{name}/{column}"
        files |= files_of_array(path, values) if isinstance(values, np.ndarray) else _files_of_categories(path, values)
    return files


def _frame_of_files(files: Files, name: str) -> tuple[list[str], dict[str, Column]]:
    order = json.loads(files[f"{name}/{NODE}"])["attributes"]["column-order"]
    columns: dict[str, Column] = {}
    for column in order:
        path = f"{name}/{column}"
        if json.loads(files[f"{path}/{NODE}"])["node_type"] == "array":
            columns[column] = array_of_files(files, path)
        else:
            names = _texts_of_files(files, f"{path}/categories")
            columns[column] = [names[code] for code in array_of_files(files, f"{path}/codes").tolist()]
    return _texts_of_files(files, f"{name}/{_INDEX}"), columns


def _files_of_categories(name: str, values: Sequence[str]) -> dict[str, bytes]:
    """Texts as codes, int32, of the distinct ones in the order in which they come."""
    codes = {value: number for number, value in enumerate(dict.fromkeys(values))}
    files = {f"{name}/{NODE}": _group("categorical", "0.2.0", ordered=False)}
    files |= _files_of_texts(f"{name}/categories", list(codes))
    return files | files_of_array(f"{name}/codes", np.array([codes[value] for value in values], np.int32))


def _files_of_texts(name: str, texts: Sequence[str]) -> dict[str, bytes]:
    """Texts as Zarr's "vlen-utf8" has them, in one chunk; AnnData's "string-array"."""
    described = {
        "shape": [len(texts)],
        "data_type": "string",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [len(texts) or 1]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "",
        "codecs": [
            {"name": "vlen-utf8", "configuration": {}},
            {"name": "zstd", "configuration": {"level": _LEVEL, "checksum": False}},
        ],
        "attributes": {"encoding-type": "string-array", "encoding-version": "0.2.0"},
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    files = {f"{name}/{NODE}": json.dumps(described, indent=2).encode()}
    if texts:
        encoded = [text.encode() for text in texts]
        content = b"".join(_LENGTH.pack(len(text)) + text for text in encoded)
        files[f"{name}/c/0"] = bytes(Zstd(level=_LEVEL).encode(_LENGTH.pack(len(texts)) + content))
    return files


def _texts_of_files(files: Files, name: str) -> list[str]:
    content = files.get(f"{name}/c/0")
    if content is None:
        return []
    plain, texts, place = bytes(Zstd().decode(content)), [], _LENGTH.size
    for _ in range(_LENGTH.unpack_from(plain)[0]):
        (length,) = _LENGTH.unpack_from(plain, place)
        place += _LENGTH.size
        texts.append(plain[place : place + length].decode())
        place += length
    return texts
