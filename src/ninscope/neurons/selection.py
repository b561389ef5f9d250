"""Which values of a sample are deactivated: by their monosemantic scale (paper B, section 4.1)."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ninscope.errors import RequestError

_KINDS = ("top_k", "fraction", "threshold")
_BILLION = 10**9
_FORMS = 'give "top-1", { "top_k": 10 }, { "fraction": 0.01 } or { "threshold": 25.0 }'


@dataclass(frozen=True)
class Selection:
    """kind: top_k (the amount largest of every sample), fraction (such a part of a sample's values, at least one, rounded up),
    threshold (all whose scale is larger than amount). Padding is never selected.
    """

    kind: str = "top_k"
    amount: float = 1

    @classmethod
    def of(cls, asked: "Selection | str | Mapping[str, float]") -> "Selection":
        """What a user writes: "top-3", {"top_k": 3}, {"fraction": 0.01}, {"threshold": 25.0}. Raises RequestError."""
        if isinstance(asked, Selection):
            return asked.checked()
        if isinstance(asked, str) and (found := re.fullmatch(r"top-(\d{1,9})", asked)):
            return cls("top_k", int(found[1])).checked()
        if isinstance(asked, Mapping) and len(asked) == 1 and next(iter(asked)) in _KINDS:
            return cls(*next(iter(asked.items()))).checked()
        raise RequestError(f"select is {asked!r}; {_FORMS}")

    def checked(self) -> "Selection":
        """Itself. Raises RequestError."""
        number = self.amount
        sound = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
        if self.kind == "top_k":
            sound = sound and isinstance(number, int) and number >= 1
        elif self.kind == "fraction":
            sound = sound and 0 < number <= 1
        else:
            sound = sound and self.kind == "threshold" and number >= 0
        if not sound:
            raise RequestError(f"select {self.kind} is {number!r}; {_FORMS}")
        return self

    def __post_init__(self):
        # A fraction in parts per billion: whole numbers have no rounding, and torch.compile takes them as constants.
        partial = self.kind == "fraction" and isinstance(self.amount, float) and 0 < self.amount < 1
        part = round(self.amount * _BILLION) if partial else _BILLION
        object.__setattr__(self, "_part", part)

    def most(self, values: int) -> int:
        """How many of a sample's values are selected at most, by rank; 0 for a threshold, which knows no rank."""
        if self.kind == "threshold":
            return 0
        return min(self.amount, values) if self.kind == "top_k" else max(-(-values * self._part // _BILLION), 1)

    def asked(self, counted):
        """A fraction of so many values that count, at least one. counted: a tensor, int64."""
        return (-(-counted * self._part // _BILLION)).clamp(min=1)
