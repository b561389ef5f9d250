"""Measures for tests of the stage `neurons`: small ones of every kind, each of which a plain twin can repeat."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import pytest
import torch

from ninscope.neurons.observatory import registry
from ninscope.neurons.observatory.measure import (
    ALL,
    HIDDEN,
    LABELS,
    OUTPUT,
    PREVIOUS,
    SEED,
    START,
    ComparingTally,
    Fact,
    Found,
    Measure,
    OwnMeasure,
    StreamedComparison,
    StreamedMeasure,
    Tally,
    distribution,
)


class _MeanTally(Tally):
    def __init__(self) -> None:
        self.sums: dict[str, np.ndarray] = {}
        self.counts: dict[str, int] = {}

    def see(self, place, values, batch) -> None:
        rows = values.double().flatten(0, 1)
        self.sums[place.layer] = self.sums.get(place.layer, 0) + rows.abs().sum(0).numpy()
        self.counts[place.layer] = self.counts.get(place.layer, 0) + len(rows)

    def found(self) -> Found:
        each = [distribution("size", layer, values / self.counts[layer]) for layer, values in self.sums.items()]
        return Found(tuple(fact for fact, _ in each), tuple(value for _, kept in each for value in kept))


class Size(StreamedMeasure):
    """The mean size of a hidden neuron's activation."""

    name, title, source = "size", "size", "none"
    facts: ClassVar = {"size": "mean of |h|"}
    reads = frozenset({HIDDEN})

    def tally(self, subject) -> Tally:
        return _MeanTally()


class _LogitTally(Tally):
    def __init__(self) -> None:
        self.largest = 0.0

    def see(self, place, values, batch) -> None:
        self.largest = max(self.largest, float(values.abs().max()))

    def found(self) -> Found:
        return Found((Fact("logit", ALL, self.largest, None, 1),))


class Logit(StreamedMeasure):
    """The largest logit."""

    name, title, source = "logit", "logit", "none"
    facts: ClassVar = {"logit": "largest |logit|"}
    reads = frozenset({OUTPUT})

    def tally(self, subject) -> Tally:
        return _LogitTally()


class _GapTally(ComparingTally):
    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def see(self, place, values, other, batch) -> None:
        self.total += float((values - other).abs().double().sum())
        self.count += values.numel()

    def found(self) -> Found:
        return Found((Fact("gap", ALL, self.total / self.count, None, self.count),))


class Gap(StreamedComparison):
    """How far the logits of two models are apart."""

    name, title, source = "gap", "gap", "none"
    facts: ClassVar = {"gap": "mean of |difference of logits|"}
    reads = frozenset({OUTPUT})
    compared_with = (START, PREVIOUS, SEED)

    def tally(self, subject, other) -> ComparingTally:
        return _GapTally()


class Twin(OwnMeasure):
    """Of seeds alone: whether their biases are alike."""

    name, title, source = "twin", "twin", "none"
    facts: ClassVar = {"twin": "mean of |difference of weights|"}
    compared_with = (SEED,)
    controls = ("none",)

    def found(self, subject, other=None) -> Found:
        pairs = zip(subject.model.parameters(), other.model.parameters(), strict=True)
        gaps = torch.cat([(ours - theirs).abs().flatten() for ours, theirs in pairs])
        return Found((Fact("twin", ALL, float(gaps.mean()), None, gaps.numel()),))


class Classes(OwnMeasure):
    """What needs labels."""

    name, title, source = "classes", "classes", "none"
    facts: ClassVar = {"classes": "how many classes there are"}
    needs = frozenset({LABELS})
    controls = ("none",)

    def found(self, subject, other=None) -> Found:
        return Found((Fact("classes", ALL, float(len(subject.examples.classes))),))


EVERY: tuple[type[Measure], ...] = (Classes, Gap, Logit, Size, Twin)


@contextmanager
def known_measures(*kinds: type[Measure]) -> Iterator[None]:
    """These are all the measures there are, meanwhile."""
    registry.measures()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_MEASURES", {kind.name: kind() for kind in kinds})
        yield
