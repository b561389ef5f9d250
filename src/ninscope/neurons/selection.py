"""Which values of a sample MEmeL deactivates: those of the largest monosemantic scale (MEmeL, section 4.1). Needs no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ninscope.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

_KINDS = ("top_k", "fraction", "threshold")
_BILLION = 10**9
_FORMS = 'give "top-1", { "top_k": 10 }, { "fraction": 0.01 } or { "threshold": 25.0 }'


@dataclass(frozen=True)
class NeuronSelection:
    """Which values of a sample are selected. Padding is never selected.

    kind: "top_k", the `amount` values of the largest scale; "fraction", such a fraction of the sample's values, rounded up, at
    least one; "threshold", all values whose scale is larger than `amount`. parts_per_billion: the fraction as a whole number,
    since whole numbers have no rounding and torch.compile takes them as constants; 10^9 for other kinds.

    Raises RequestError: an unknown kind, or an amount that the kind cannot have.
    """

    kind: str = "top_k"
    amount: float = 1
    parts_per_billion: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self._is_valid():
            raise RequestError(f"select {self.kind} is {self.amount!r}; {_FORMS}")
        fraction = self.amount if self.kind == "fraction" else 1
        object.__setattr__(self, "parts_per_billion", round(fraction * _BILLION))

    @classmethod
    def of(cls, select: NeuronSelection | str | Mapping[str, float]) -> NeuronSelection:
        """What a user writes: "top-3", {"top_k": 3}, {"fraction": 0.01}, {"threshold": 25.0}. Raises RequestError."""
        if isinstance(select, NeuronSelection):
            return select
        if isinstance(select, str) and (match := re.fullmatch(r"top-(\d{1,9})", select)):
            return cls("top_k", int(match[1]))
        if isinstance(select, Mapping) and len(select) == 1 and next(iter(select)) in _KINDS:
            return cls(*next(iter(select.items())))
        raise RequestError(f"select is {select!r}; {_FORMS}")

    def _is_valid(self) -> bool:
        amount = self.amount
        if not isinstance(amount, int | float) or isinstance(amount, bool) or not math.isfinite(amount):
            return False
        if self.kind == "top_k":
            return isinstance(amount, int) and amount >= 1
        if self.kind == "fraction":
            return 0 < amount <= 1
        return self.kind == "threshold" and amount >= 0

    def most(self, values: int) -> int:
        """The largest number of a sample's values that can be selected by rank; 0 for a threshold, which knows no rank.

        values: of a sample, padding included.
        """
        if self.kind == "threshold":
            return 0
        if self.kind == "top_k":
            return min(int(self.amount), values)
        return max(-(-values * self.parts_per_billion // _BILLION), 1)

    def fraction_of(self, counted: Tensor) -> Tensor:
        """The number of values selected of each sample, at least one. counted: int64 [samples], values that are no padding."""
        return (-(-counted * self.parts_per_billion // _BILLION)).clamp(min=1)
