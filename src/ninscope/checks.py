"""Checks of values that a user gives, shared by everything that takes them."""

import numpy as np

from ninscope.errors import RequestError

MAX_SEED = 2**63 - 1


def checked_integer(name: str, value: object, low: int, high: int, other: str = "") -> int:
    """The value as an int, if it is an integer from low to high. other: a further choice, for the message alone.

    Raises RequestError, which names the value; True and False are no integers.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise RequestError(f"{name} is {value!r}; an integer from {low} to {high}{other} was expected")
    return int(value)
