"""Read columns of Parquet files, whose few bytes may stand for many: sizes are checked before values are unpacked. No torch.

A column in which one text is repeated takes no more room than the text, however many rows it has. So texts are read as Arrow's
dictionaries, a batch of rows at a time, and the size that all rows will have with texts of their own is added up first.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ninscope.errors import RequestError
from ninscope.neurons.tasks.files import MAX_FILE_BYTES, MAX_ROWS, decoder_message

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import FileMetaData, ParquetFile

BATCH_ROWS = 65_536
BATCHES = 8  # batches in memory where they are not dictionaries: Arrow has a few copies of a batch while it unpacks it
DELTAS = ("DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY")  # Arrow does not read these as dictionaries
REPEATING = ("DELTA_BYTE_ARRAY", "RLE_DICTIONARY", "PLAIN_DICTIONARY")  # they store a text once for many rows


def parquet_names(path: Path) -> list[str]:
    """Names of the columns. Raises RequestError: a damaged file, or one that says that it is too large."""
    with _reading(path), _opened(path) as file:
        _check_stated(path, file.metadata)
        return list(file.schema_arrow.names)


def parquet_columns(path: Path, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Values of these columns, which the file has, row by row: strings, numbers, booleans, dates and None.

    Raises RequestError: as `parquet_names`, columns of other kinds, or values of more than MAX_FILE_BYTES.
    """
    with _reading(path):
        with _opened(path) as file:
            metadata, kinds = file.metadata, {name: file.schema_arrow.field(name).type for name in columns}
        _check_stated(path, metadata)
        for column, kind in kinds.items():
            if not _is_plain(kind):
                raise RequestError(f"{path.name}: column {column!r} is of type {kind}; texts or numbers were expected")
        values: dict[str, list[Any]] = {column: [] for column in columns}
        size = 0
        for column in columns:
            for batch in _batches(path, column, metadata):
                _check_size(path, size := size + _unpacked(batch))
                values[column] += _plain(batch)
        return values


def _check_stated(path: Path, metadata: "FileMetaData") -> None:
    """Raises RequestError: more bytes, as they are stored, or more rows than a table may have."""
    _check_size(path, sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)))
    if metadata.num_rows > MAX_ROWS:
        raise RequestError(f"{path.name} has more than {MAX_ROWS} rows; give a part of it")


def _check_size(path: Path, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise RequestError(f"{path.name} holds {size} bytes, more than {MAX_FILE_BYTES}; give a part of it")


def _batches(path: Path, column: str, metadata: "FileMetaData") -> Iterator["pyarrow.Array"]:
    """The values of one column, in batches that take not much more memory than the file has for the column."""
    chunks = [
        chunk
        for group in range(metadata.num_row_groups)
        for chunk in map(metadata.row_group(group).column, range(metadata.num_columns))
        if chunk.path_in_schema == column
    ]
    encodings = {encoding for chunk in chunks for encoding in chunk.encodings}
    rows, dictionaries = BATCH_ROWS, [column]
    if encodings & {*DELTAS}:
        dictionaries = []
        if encodings & {*REPEATING}:  # no text is longer than all that is stored of the column
            largest = max(chunk.total_uncompressed_size for chunk in chunks)
            rows = max(1, min(rows, MAX_FILE_BYTES // BATCHES // max(largest, 1)))
    with _opened(path, dictionaries) as file:
        for batch in file.iter_batches(rows, columns=[column], use_threads=False):
            yield batch.column(batch.schema.get_field_index(column))


def _unpacked(values: "pyarrow.Array") -> int:
    """Bytes of an array's values once every row has a value of its own."""
    from pyarrow import compute, types

    if not types.is_dictionary(values.type):
        return values.nbytes
    return compute.sum(compute.binary_length(values.dictionary).take(values.indices)).as_py() or 0


def _plain(values: "pyarrow.Array") -> list[Any]:
    """Values as Python objects; rows that share a text share one string."""
    from pyarrow import types

    if not types.is_dictionary(values.type):
        return values.to_pylist()
    texts = values.dictionary.to_pylist()
    return [None if number is None else texts[number] for number in values.indices.to_pylist()]


def _is_plain(kind: "pyarrow.DataType") -> bool:
    """Whether values of a type are of bounded size, or texts."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    texts = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    numbers = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_boolean(kind)
    return texts or numbers or types.is_null(kind) or types.is_temporal(kind)


def _opened(path: Path, dictionaries: Sequence[str] = ()) -> "ParquetFile":
    from pyarrow import parquet

    return parquet.ParquetFile(path, read_dictionary=list(dictionaries))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raises RequestError for any error that a damaged file makes the library raise, such as UnicodeDecodeError."""
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        raise RequestError(
            f"{path.name} is no Parquet file that can be read ({decoder_message(error)}); write it again"
        ) from None
