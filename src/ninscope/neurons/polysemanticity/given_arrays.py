"""Numbers that somebody gives: anything that numpy reads, or a tensor of torch of any type and on any device. Needs no torch."""

from typing import Any

import numpy as np

from ninscope.errors import RequestError


def given_array(values: Any, name: str) -> np.ndarray:
    """The array, in the type that the values have; bfloat16 and shorter floats, which numpy does not know, become float32.

    name: of the values, in the plural. Raises RequestError: rows of unlike lengths.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu().to_dense()
        values = values.float() if values.is_floating_point() and values.element_size() < 4 else values
    try:
        return np.asarray(values)
    except ValueError:
        raise RequestError(f"{name} are no array; give all rows the same length") from None


def given_floats(values: Any, name: str, dtype: type[np.floating] = np.float64) -> np.ndarray:
    """The array as floats of a type; `given_array`. Raises RequestError: rows of unlike lengths, or no real numbers."""
    array = given_array(values, name)
    if array.dtype.kind not in "biuf":
        raise RequestError(f"{name} are of type {array.dtype}; real numbers were expected")
    with np.errstate(over="ignore"):  # of what becomes infinite
        return array.astype(dtype, copy=False)
