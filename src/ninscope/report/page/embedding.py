"""What is stored inside the page: compressed, as base64, so that nothing of it can be taken for HTML or for a script."""

import base64
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

GZIP = 16 + zlib.MAX_WBITS
DIGITS = 7  # of floats in charts: 1/5,000,000 of a chart's side is not seen
_CHUNK_ROWS = 20_000


def packed(content: bytes) -> str:
    """gzip, then base64; the same for the same content. `DecompressionStream` of browsers reads it."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, GZIP)  # which writes no time
    return base64.b64encode(compressor.compress(content) + compressor.flush()).decode()


def compressed_csv(table: "pd.DataFrame", most_bytes: int) -> bytes | None:
    """A whole table as CSV in full precision, compressed by gzip; None where that takes more than `most_bytes`.

    It stops as soon as it is known to be too large. Missing values and NaN are empty.
    """
    compressor = zlib.compressobj(6, zlib.DEFLATED, GZIP)
    pieces, size = [], 0
    for start in range(0, max(len(table), 1), _CHUNK_ROWS):
        text = table.iloc[start : start + _CHUNK_ROWS].to_csv(index=False, header=start == 0, lineterminator="\n")
        pieces.append(compressor.compress(text.encode()))
        size += len(pieces[-1])
        if size > most_bytes:
            return None
    content = b"".join(pieces) + compressor.flush()
    return content if len(content) <= most_bytes else None


def columns_of_frame(frame: "pd.DataFrame") -> dict[str, list[Any]]:
    """A table by columns, as JSON can hold it: floats at DIGITS digits; NaN, infinities and missing values None."""
    return {str(name): _json_values(frame[name]) for name in frame.columns}


def columns_of_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The same for a list of rows; what a row lacks is None."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [_json_value(row.get(name)) for row in rows] for name in names}


def json_bytes(value: Any) -> bytes:
    """As JSON, without spaces. Raises ValueError for NaN and infinities, which JSON has not."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _json_values(values: "pd.Series") -> list[Any]:
    import pandas as pd

    if pd.api.types.is_float_dtype(values.dtype):
        floats = _rounded(values.to_numpy(dtype=np.float64, na_value=np.nan))
        return [value if math.isfinite(value) else None for value in floats.tolist()]
    if pd.api.types.is_bool_dtype(values.dtype) or pd.api.types.is_integer_dtype(values.dtype):
        missing = values.isna().to_numpy()
        if not missing.any():
            return values.to_numpy().tolist()
        return [None if lacks else value for value, lacks in zip(values.tolist(), missing, strict=True)]
    return [_json_value(value) for value in values.tolist()]


def _json_value(value: Any) -> Any:
    """As `_json_values`, of one value."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, np.bool_ | np.integer):
        return value.item()
    if isinstance(value, float | np.floating):
        return float(_rounded(np.array([value], np.float64))[0]) if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_json_value(inner) for inner in value]
    if isinstance(value, Mapping):
        return {str(key): _json_value(inner) for key, inner in value.items()}
    text = str(value)
    return None if text in ("<NA>", "NaT") else text


def _rounded(values: np.ndarray) -> np.ndarray:
    """values: [n] float64, rounded to DIGITS significant digits, so that their shortest text has no more."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        places = DIGITS - 1 - np.floor(np.log10(np.abs(values)))
        up = 10.0 ** np.clip(places, 0, 300)
        down = 10.0 ** np.clip(-places, 0, 300)
        rounded = np.rint(values * up / down) * down / up
    return np.where(np.isfinite(values) & (values != 0) & np.isfinite(rounded), rounded, values)
