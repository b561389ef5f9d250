"""Which experts of a mixture tokens are sent to."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ninscope.neurons.observatory.measure import ALL, HIDDEN, Batch, Fact, Found, Place, StreamedMeasure, Tally
from ninscope.neurons.observatory.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject


@register
class Experts(StreamedMeasure):
    """The share of what a block's router sends that goes to each expert, and how many experts get nothing.

    A token that is sent to two experts counts twice. An expert without tokens has no row of any other measure, so that this
    count says for how many experts there is nothing to be said.
    """

    name = "experts"
    title = "Share of tokens sent to an expert"
    source = "a count; no paper is followed"
    facts: ClassVar = {
        "experts": "share of the tokens sent by a block's router that this expert gets, 0 to 1",
        "experts_unrouted": "experts that no token was sent to (layer: all)",
    }
    reads = frozenset({HIDDEN})

    def objection(self, subject: Subject) -> str | None:
        if not _experts(subject):
            return f"{subject.name} has no experts that tokens are sent to"
        return None

    def tally(self, subject: Subject) -> Tally:
        return _Sent(_experts(subject))


def _experts(subject: Subject) -> list[Place]:
    return [place for place in subject.places_of(HIDDEN) if place.routed]


class _Sent(Tally):
    def __init__(self, experts: list[Place]) -> None:
        self.sent = dict.fromkeys(experts, 0)

    def see(self, place: Place, values: Tensor, batch: Batch) -> None:
        if place.routed:
            self.sent[place] += values.shape[1]

    def found(self) -> Found:
        whole: dict[str, int] = {}
        for place, number in self.sent.items():
            whole[place.block] = whole.get(place.block, 0) + number
        facts = [
            Fact("experts", place.layer, number / whole[place.block], count=number)
            for place, number in self.sent.items()
            if number
        ]
        unrouted = sum(number == 0 for number in self.sent.values())
        return Found((*facts, Fact("experts_unrouted", ALL, float(unrouted), count=len(self.sent))))
