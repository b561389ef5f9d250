"""What a comparison of two checkpoints, or of two runs, found: in words, and as tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ninscope.shown import Shown

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("topic", "name", "a", "b", "difference")


@dataclass(frozen=True)
class ComparedValue:
    """One thing that both have, or one of them has.

    topic: what it is of ("model", "spectrum", "weights", "parameters", ...). a, b: of the first and of the second; None where it
    has none. difference: b - a of two numbers, else NaN.
    """

    topic: str
    name: str
    a: Any
    b: Any

    @property
    def difference(self) -> float:
        if not (_is_number(self.a) and _is_number(self.b)):
            return math.nan
        return float(self.b - self.a)

    @property
    def differs(self) -> bool:
        """Whether the two are unlike; two that are NaN are alike."""
        both_nan = _is_number(self.a) and _is_number(self.b) and math.isnan(self.a) and math.isnan(self.b)
        return not both_nan and self.a != self.b


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """A and B beside each other; `print` it to read `words`.

    a, b: what they are. same: whether nothing that was compared differs. words: what differs, a sentence or two an entry; plain
    text. values: what was compared, in the order of topics. detail_columns, detail_rows: a second table, which `details` gives.
    """

    a: str
    b: str
    same: bool
    words: list[str]
    values: Sequence[ComparedValue]
    detail_columns: Sequence[str] = ()
    detail_rows: Sequence[Mapping[str, Any]] = field(default_factory=tuple)

    def facts(self) -> dict[str, object]:
        """What a terminal or a notebook shows of it."""
        return {"A": self.a, "B": self.b, **{f"{number}.": text for number, text in enumerate(self.words, 1)}}

    def __repr__(self) -> str:
        return "\n".join([f"Comparison of A, {self.a}, and B, {self.b}", *self.words])

    def to_frame(self) -> "pd.DataFrame":
        """One row a thing that was compared: topic, name, a, b (object: numbers and texts), difference (float64, NaN of texts)."""
        import pandas as pd  # slow to import, and measuring needs none

        rows = [(value.topic, value.name, value.a, value.b, value.difference) for value in self.values]
        frame = pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)
        return frame.astype({"topic": "string", "name": "string", "difference": "float64"})

    def details(self) -> "pd.DataFrame":
        """One row a matrix (of checkpoints: norm_a, norm_b, distance, cosine, sign_flips, message) or one a column of a table that
        both runs have (table, column, rows, differing, a, b, difference, where), what differs most first.
        """
        import pandas as pd

        return pd.DataFrame(list(self.detail_rows), columns=list(self.detail_columns))
