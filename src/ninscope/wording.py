"""How messages speak of several things, and write numbers for readers."""

import math
from collections.abc import Sequence


def joined_clauses(*clauses: str) -> str:
    """One message, or one warning, of several: every clause that is not empty."""
    return "; ".join(clause for clause in clauses if clause)


def first_names(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are: "a, b, c and 4 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def outer_names(names: Sequence[str]) -> str:
    """All of four names or fewer; of more the first two and the last: "step0, step1 ... step512"."""
    return ", ".join(names) if len(names) <= 4 else f"{names[0]}, {names[1]} ... {names[-1]}"


def of_number(number: int, one: str, several: str = "") -> str:
    """ "1 checkpoint", "3 checkpoints"; several: the plural, where it is not that with an s."""
    return f"{number} {one if number == 1 else several or one + 's'}"


def with_own_models(of_checkpoints: str, checkpoints: int, own_models: int) -> str:
    """ "2 checkpoints located, 3 models of its own": what a run is about. of_checkpoints says nothing of one that has models of
    its own and no checkpoint.
    """
    own = f"{of_number(own_models, 'model')} of its own"
    return ", ".join(([of_checkpoints] if checkpoints or not own_models else []) + ([own] if own_models else []))


def number(value: float) -> str:
    """Three digits that count, never an exponent above 1e-6: "1.09", "0.0000396", "12,300", "0"."""
    if not math.isfinite(value) or value == 0:
        return "0" if value == 0 else "not known"
    size = math.floor(math.log10(abs(value)))
    if size < -6:
        return f"{value:.2e}"
    return f"{round(value, 2 - size):,.{max(0, 2 - size)}f}"


def interval(low: float, high: float) -> str:
    """ "interval from 0.236 to 1.03" """
    return f"interval from {number(low)} to {number(high)}"


def includes_zero(low: float, high: float) -> bool:
    """Whether an interval reaches 0; an unknown one does not."""
    return low <= 0 <= high


def listed(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c" """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
