"""How messages speak of several things."""

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
