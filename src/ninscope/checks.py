"""Checks of values that a user gives, shared by everything that takes them."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TypeGuard

import numpy as np

from ninscope.errors import RequestError

MAX_SEED = 2**63 - 1


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a real number, of Python or of numpy; True and False are none."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def checked_integer(name: str, value: object, low: int, high: int, other: str = "") -> int:
    """The value as an int, if it is an integer from low to high. other: a further choice, for the message alone.

    Raises RequestError, which names the value; True and False are no integers.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise RequestError(f"{name} is {value!r}; an integer from {low} to {high}{other} was expected")
    return int(value)


def checked_confidence(value: object) -> float:
    """The confidence of an interval as a float, if it is a number between 0 and 1, both left out.

    Raises RequestError, which names the value.
    """
    if not is_number(value) or not 0 < value < 1:
        raise RequestError(f"confidence is {value!r}; a number between 0 and 1 was expected")
    return float(value)


def did_you_mean(given: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The known name that is spelled most like a given one, in words; empty where none is like it.

    A name that differs in digits alone is another thing, as step3 and step8 are, and no misspelling.
    """
    by_lower = {name.lower(): name for name in known if not _differ_in_digits(name.lower(), given.lower())}
    similar = get_close_matches(given.lower(), by_lower, n=1, cutoff=cutoff)
    return f"; did you mean {by_lower[similar[0]]!r}?" if similar else ""


def _differ_in_digits(name: str, other: str) -> bool:
    without = ["".join(letter for letter in text if not letter.isdigit()) for text in (name, other)]
    return name != other and without[0] == without[1]
