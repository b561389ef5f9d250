"""Run a model once for all measures that read along, and for each comparison once more with the other model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ninscope.errors import CheckpointError, NinscopeError, RequestError
from ninscope.neurons.observatory.measure import (
    ATTENTION,
    CONTEXT,
    LABELS,
    NEXT_TOKENS,
    NONE,
    OTHERS,
    SEED,
    SHUFFLED,
    TOKENS,
    ComparingTally,
    Found,
    Measure,
    OwnMeasure,
    Place,
    StreamedComparison,
    StreamedMeasure,
    Tally,
)
from ninscope.neurons.observatory.measure import Batch as Samples
from ninscope.neurons.observatory.subject import NothingLeft, Subject

NOT_MEASURED = "unsupported"
NONFINITE = "nonfinite"
_GIVE = {
    LABELS: "give labels (`label` in a DAG file)",
    NEXT_TOKENS: "give a causal language model with its head, and text",
    TOKENS: "give text, to a model that reads it",
}


@dataclass(frozen=True)
class Observation:
    """What became of one measure. against: what it was compared with, "" for nothing. error: why there is nothing, or None."""

    measure: Measure
    control: str
    against: str
    found: Found | None
    error: NinscopeError | None = None

    @property
    def status(self) -> str:
        if self.error is None:
            return "ok"
        return self.error.status if isinstance(self.error, CheckpointError) else NOT_MEASURED


def observe(
    subject: Subject,
    measures: Sequence[Measure],
    control: str = NONE,
    others: Mapping[str, Callable[[], Subject]] | None = None,
) -> list[Observation]:
    """All measures of a model, in their order: those of one model in one pass, then each comparison.

    control: "none", or "shuffled" for its examples without order. others: by what the tables call it ("start", "previous", a
    model's name), what gives the other model with the same examples; it is asked for when it is its turn, and let go of after.
    A comparison is made with each of those that `compared_with` allows: a name that is not in OTHERS is another seed.
    What cannot be measured has an error, and the others go on.
    """
    at = subject if control == NONE else subject.with_examples(subject.examples.shuffled(subject.seed))
    found: dict[tuple[str, str], Observation] = {}

    def keep(measure: Measure, against: str, result: Found | NinscopeError) -> None:
        error = result if isinstance(result, NinscopeError) else None
        seen = result if isinstance(result, Found) else None
        found[measure.name, against] = Observation(measure, control, against, seen, error)

    asked = [measure for measure in measures if control in measure.controls]
    with at.at_rest(), torch.no_grad():
        alone = [measure for measure in asked if not measure.compared_with]
        _alone(at, alone, keep)
        for measure in asked:
            if measure.compared_with and not any(_compares(measure, name) for name in others or ()):
                kinds = ", ".join(measure.compared_with)
                why = f"{measure.name}: it compares with another model ({kinds}), and none was given; give other"
                keep(measure, "", CheckpointError(NOT_MEASURED, why))
        for name, open_other in (others or {}).items():
            compared = [measure for measure in asked if _compares(measure, name)]
            if compared:
                _compared(at, compared, name, open_other, control, keep)
    order = {measure.name: number for number, measure in enumerate(measures)}
    return sorted(found.values(), key=lambda one: order[one.measure.name])


def _compares(measure: Measure, name: str) -> bool:
    return (name if name in OTHERS else SEED) in measure.compared_with


Keep = Callable[[Measure, str, Found | NinscopeError], None]


def _ready(
    measures: Sequence[Measure], against: str, keep: Keep, why_not: Callable[[Measure], str | None]
) -> list[Measure]:
    """Those that can be taken; of the others it is kept why not."""
    ready = []
    for measure in measures:
        if (why := why_not(measure)) is None:
            ready.append(measure)
        else:
            keep(measure, against, CheckpointError(NOT_MEASURED, f"{measure.name}: {why}"))
    return ready


def _alone(subject: Subject, measures: Sequence[Measure], keep: Keep) -> None:
    ready = _ready(measures, "", keep, lambda measure: objection(measure, subject))
    streamed = [measure for measure in ready if isinstance(measure, StreamedMeasure)]
    for measure, result in _streamed(subject, streamed).items():
        keep(measure, "", result)
    for measure in ready:
        if isinstance(measure, OwnMeasure):
            keep(measure, "", _attempt(partial(measure.found, subject)))


def _compared(
    subject: Subject,
    measures: Sequence[Measure],
    name: str,
    open_other: Callable[[], Subject],
    control: str,
    keep: Keep,
) -> None:
    try:
        other = open_other()
        if control == SHUFFLED:
            other = other.with_examples(subject.examples)
    except NinscopeError as error:
        for measure in measures:
            keep(measure, name, error)
        return

    def why_not(measure: Measure) -> str | None:
        return objection(measure, subject) or objection(measure, other) or _other_layers(measure, subject, other)

    with other.at_rest():
        ready = _ready(measures, name, keep, why_not)
        streamed = [measure for measure in ready if isinstance(measure, StreamedComparison)]
        for measure, result in _streamed_beside(subject, other, streamed).items():
            keep(measure, name, result)
        for measure in ready:
            if isinstance(measure, OwnMeasure):
                keep(measure, name, _attempt(partial(measure.found, subject, other)))


def _other_layers(measure: Measure, subject: Subject, other: Subject) -> str | None:
    """A clause where a comparison that goes layer by layer would leave some out, which only one of the models has."""
    if not isinstance(measure, StreamedComparison):
        return None
    ours, theirs = ({place.layer for place in one.places_of(*measure.reads)} for one in (subject, other))
    if not (lone := sorted(ours ^ theirs)):
        return None
    having, missing = (subject, other) if lone[0] in ours else (other, subject)
    return f"{having.name} has a layer {lone[0]}, and {missing.name} has none; compare models of the same layers"


def objection(measure: Measure, subject: Subject) -> str | None:
    """Why a measure cannot be taken of this model on these examples, one clause; None where it can."""
    if missing := sorted(measure.needs - subject.has):
        return f"it needs {missing[0]}, and {subject.name} has none on these examples; {_GIVE[missing[0]]}"
    if absent := [kind for kind in sorted(measure.reads) if not subject.places_of(kind)]:
        return f"{subject.name} has no {absent[0]} that is known"
    return measure.objection(subject)


def _attempt(work: Callable[[], Found]) -> Found | NinscopeError:
    try:
        return work()
    except NinscopeError as error:
        return error


class _Readers:
    """Tallies by measure; one that fails is not shown more."""

    def __init__(self, tallies: Mapping[Measure, Tally | ComparingTally]) -> None:
        self.tallies = dict(tallies)
        self.results: dict[Measure, Found | NinscopeError] = {}
        self.shown: set[str] = set()

    def reading(self, kind: str) -> list[Measure]:
        return [measure for measure in self.tallies if kind in measure.reads and measure not in self.results]

    @property
    def kinds(self) -> tuple[str, ...]:
        left = [measure for measure in self.tallies if measure not in self.results]
        return tuple(sorted({kind for measure in left for kind in measure.reads}))

    def fail(self, kind: str, error: NinscopeError) -> None:
        self.results |= dict.fromkeys(self.reading(kind), error)

    def each(self, measures: Iterable[Measure], call: Callable[[Any], None]) -> None:
        for measure in measures:
            try:
                call(self.tallies[measure])
            except NinscopeError as error:
                self.results[measure] = error

    def batch_ended(self, batch: Samples) -> None:
        left = [measure for measure in self.tallies if measure not in self.results]
        self.each(left, lambda tally: tally.batch_ended(batch))

    def found(self) -> dict[Measure, Found | NinscopeError]:
        for measure in self.tallies:
            if measure not in self.results and (hidden := sorted(measure.reads - self.shown)):
                why = f"{measure.name}: the model shows no {hidden[0]} while it runs"
                self.results[measure] = CheckpointError(NOT_MEASURED, why)
        return {
            measure: self.results[measure] if measure in self.results else _attempt(tally.found)
            for measure, tally in self.tallies.items()
        }


def _streamed(subject: Subject, measures: Sequence[StreamedMeasure]) -> Mapping[Measure, Found | NinscopeError]:
    readers = _Readers({measure: measure.tally(subject) for measure in measures})
    finite: set[str] = set()  # attentions whose heads gave finite values for this batch

    def see(place: Place, values: Tensor, batch: Samples) -> None:
        readers.shown.add(place.kind)
        # What heads give is their pattern times values, so it is NaN wherever the pattern is, which is the largest of all.
        wrong = None if place.kind == ATTENTION and place.layer in finite else nonfinite(place, values)
        if wrong is not None:
            readers.fail(place.kind, wrong)
            if not readers.kinds:
                raise NothingLeft
        elif place.kind == CONTEXT:
            finite.add(place.layer)
        readers.each(readers.reading(place.kind), lambda tally: tally.see(place, values, batch))

    if measures:
        with suppress(NothingLeft):
            for batch in subject.batches():
                finite.clear()
                subject.run(readers.kinds, see, [batch])
                readers.batch_ended(batch)
    return readers.found()


def _streamed_beside(
    subject: Subject, other: Subject, measures: Sequence[StreamedComparison]
) -> Mapping[Measure, Found | NinscopeError]:
    readers = _Readers({measure: measure.tally(subject, other) for measure in measures})
    theirs: dict[tuple[str, str], Tensor] = {}

    def hold(place: Place, values: Tensor, batch: Samples) -> None:
        if (wrong := nonfinite(place, values, f"{other.name}, ")) is not None:
            readers.fail(place.kind, wrong)
        theirs[place.kind, place.layer] = values

    def see(place: Place, values: Tensor, batch: Samples) -> None:
        readers.shown.add(place.kind)
        if (wrong := nonfinite(place, values)) is not None:
            readers.fail(place.kind, wrong)
        beside = theirs.get((place.kind, place.layer))
        if beside is not None:
            readers.each(readers.reading(place.kind), lambda tally: tally.see(place, values, beside, batch))

    if measures:
        for batch in subject.batches():
            if not readers.kinds:
                break
            theirs.clear()
            other.run(readers.kinds, hold, [batch])
            subject.run(readers.kinds, see, [batch])
            readers.batch_ended(batch)
    return readers.found()


def nonfinite(place: Place, values: Tensor, whose: str = "") -> CheckpointError | None:
    """An error that names the layer, where values are not finite; None where they are."""
    # A sum is one pass over the values; it is finite if they are, unless it overflows.
    if math.isfinite(float(values.sum(dtype=torch.float32))) or bool(torch.isfinite(values).all()):
        return None
    half = " (float16 ends at 65504; take dtype float32 or bfloat16)" if values.dtype == torch.float16 else ""
    return CheckpointError(NONFINITE, f"{whose}{place.layer}: {place.kind} values are NaN or infinite{half}")


def check_named(observations: Iterable[Observation], named: bool) -> None:
    """Raises RequestError where a measure was asked for by its name and cannot be taken of this model at all."""
    for one in observations:
        if named and one.status == NOT_MEASURED and one.error is not None:
            raise RequestError(str(one.error))
