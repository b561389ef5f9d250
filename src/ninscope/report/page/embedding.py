"""What is stored inside the page: compressed, as base64, so that nothing of it can be taken for HTML or for a script."""

import base64
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ninscope.report.page.digits import with_digits

if TYPE_CHECKING:
    import pandas as pd

Columns = dict[str, Any]

GZIP = 16 + zlib.MAX_WBITS
DIGITS = 7  # of floats in charts: 1/5,000,000 of a chart's side is not seen
_CHUNK_ROWS = 20_000
_LEVEL = 6  # of compression; 9 takes three times as long for 2 % less


def packed(content: bytes) -> str:
    """gzip, then base64; the same for the same content. `DecompressionStream` of browsers reads it."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, GZIP)  # which writes no time
    return base64.b64encode(compressor.compress(content) + compressor.flush()).decode()


def compressed_csv(table: "pd.DataFrame", most_bytes: int) -> bytes | None:
    """A whole table as CSV in full precision, compressed by gzip; None where that takes more than `most_bytes`.

    It stops as soon as it is known to be too large. Missing values and NaN are empty.
    """
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, GZIP)
    pieces, size = [], 0
    for start in range(0, max(len(table), 1), _CHUNK_ROWS):
        text = table.iloc[start : start + _CHUNK_ROWS].to_csv(index=False, header=start == 0, lineterminator="\n")
        pieces.append(compressor.compress(text.encode()))
        size += len(pieces[-1])
        if size > most_bytes:
            return None
    content = b"".join(pieces) + compressor.flush()
    return content if len(content) <= most_bytes else None


def columns_of_frame(frame: "pd.DataFrame") -> Columns:
    """A table by columns, as JSON can hold it: floats at DIGITS digits; NaN, infinities and missing values None.

    A column of text is {"texts": each text once, "which": the place there of every row's}.
    """
    return {str(name): _json_values(frame[name]) for name in frame.columns}


def columns_of_rows(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """The same for a list of rows, text as it is; what a row lacks is None."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [_json_value(row.get(name)) for row in rows] for name in names}


def json_bytes(value: Any) -> bytes:
    """As JSON, without spaces. Raises ValueError for NaN and infinities, which JSON has not."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def rows_of_columns(columns: Columns) -> list[dict[str, Any]]:
    """The rows of `columns_of_frame` or `columns_of_rows`."""
    lists = {
        name: [values["texts"][number] for number in values["which"]] if isinstance(values, dict) else values
        for name, values in columns.items()
    }
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _json_values(values: "pd.Series") -> Any:
    import pandas as pd

    if pd.api.types.is_float_dtype(values.dtype):
        floats = with_digits(values.to_numpy(dtype=np.float64, na_value=np.nan), DIGITS)
        return [value if math.isfinite(value) else None for value in floats.tolist()]
    if pd.api.types.is_bool_dtype(values.dtype) or pd.api.types.is_integer_dtype(values.dtype):
        missing = values.isna().to_numpy()
        if not missing.any():
            return values.to_numpy().tolist()
        return [None if lacks else value for value, lacks in zip(values.tolist(), missing, strict=True)]
    if pd.api.types.infer_dtype(values, skipna=True) == "string":
        which, texts = pd.factorize(values, use_na_sentinel=False)
        return {"texts": [_json_value(text) for text in texts.tolist()], "which": which.tolist()}
    return [_json_value(value) for value in values.tolist()]


def _json_value(value: Any) -> Any:
    """As `_json_values`, of one value."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, np.bool_ | np.integer):
        return value.item()
    if isinstance(value, float | np.floating):
        return float(with_digits(np.array([value], np.float64), DIGITS)[0]) if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_json_value(inner) for inner in value]
    if isinstance(value, Mapping):
        return {str(key): _json_value(inner) for key, inner in value.items()}
    text = str(value)
    return None if text in ("<NA>", "NaT") else text
