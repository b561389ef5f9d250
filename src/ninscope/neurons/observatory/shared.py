"""What several tallies need of the same values, computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Made = TypeVar("Made")


class Shared:
    """Every batch has one. Tallies are shown a place's values one after the other, so it holds results of the last values alone.

    It is a store and no more: what a function makes of values does not depend on which tally asks, or on whether another did.
    """

    def __init__(self) -> None:
        self._values: Tensor | None = None
        self._made: dict[Callable[[Tensor], Any], Any] = {}

    def of(self, values: Tensor, make: Callable[[Tensor], Made]) -> Made:
        """make(values), of a function that depends on nothing else. The result is not to be changed."""
        if values is not self._values:
            self._values, self._made = values, {}
        if make not in self._made:
            self._made[make] = make(values)
        found: Made = self._made[make]
        return found
