"""What a measure of neurons is: one object in one file that says what it reads of a running model, and what it makes of that.

A pass (`passes.py`) runs a model over examples and shows tallies what they read, layer by layer, while the model computes it. A
tally keeps sums and counts, never activations, so memory does not grow with the number of tokens. Where in a model things are
read says `places.py`, from the same description of the architecture that the network is wired by.

There are three ways to measure. A `StreamedMeasure` shares one pass with all others. A `StreamedComparison` is one that is shown
what two models give for the same examples. An `OwnMeasure` runs the model as it likes: it changes activations, or looks at weights
alone. Nothing here imports torch before a model is there, so that a plan needs none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ninscope.neurons.observatory.shared import Shared

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject

# What can be read of a model, and its shape. n: samples (windows of text, images), t: positions (tokens, patches, pixels of a
# convolution; 1 of a plain network).
HIDDEN = "hidden"  # activations of hidden neurons: what the matrix that leaves their node layer reads; [n, t, neurons]
CONTEXT = "context"  # what an attention's heads give, side by side, before its output matrix; [n, t, heads * head size]
VALUES = "values"  # values of an attention, heads side by side; [n, t, value heads * head size]
ATTENTION = "attention"  # its pattern, after softmax; [n, heads, t, t], row i attends to columns j
RESIDUAL = "residual"  # the residual stream: what enters every block, and what leaves the last one; [n, t, width]
WRITTEN = (
    "written"  # what attention or MLP adds to the stream, under the node layer that writes it (c or m); [n, t, width]
)
OUTPUT = "output"  # logits; [n, t, vocabulary], or [n, 1, classes] of a classifier
FEATURES = "features"  # what the last matrix, the head, reads; [n, t, width], or [n, 1, width] of a classifier
KINDS = (HIDDEN, CONTEXT, VALUES, ATTENTION, RESIDUAL, WRITTEN, OUTPUT, FEATURES)

# What a measure may need of a model or of its examples.
NEXT_TOKENS = "next tokens"  # the model predicts the next token of text, so there is a loss
TOKENS = "tokens"  # the examples are tokens
LABELS = "labels"  # the examples have labels, classes of whole samples
NEEDS = (NEXT_TOKENS, TOKENS, LABELS)

# What a model may be compared with.
START = "start"  # the first step of its own training
PREVIOUS = "previous"  # the revision before
SEED = "seed"  # the same step of another seed
OTHERS = (START, PREVIOUS, SEED)

NONE, SHUFFLED = "none", "shuffled"
CONTROLS = (NONE, SHUFFLED)
PARTS = (0.05, 0.25, 0.5, 0.75, 0.95)  # quantiles that are kept of a distribution
ALL = "all"  # the layer of what is said of a whole model


@dataclass(frozen=True)
class Place:
    """Where something is read. kind: of KINDS. layer: the node layer of the network that it belongs to.

    block: the part of the model, as in `NodeLayer`. heads: of an attention's places, 1 elsewhere. routed: rows are those that were
    sent to an expert: [1, rows, neurons], in no order, and as many as there happen to be.
    """

    kind: str
    layer: str
    block: str = ""
    heads: int = 1
    routed: bool = False


@dataclass(frozen=True)
class Batch:
    """Some samples. number: from 0. first: the number of its first sample, from 0.

    inputs: arguments of the model's forward pass, on its device. tokens: int64 [n, t], None where samples are no text. labels:
    int64 [n], None where there are none. shared: what tallies have computed of the values that they are shown.
    """

    number: int
    first: int
    inputs: Mapping[str, Tensor]
    tokens: Tensor | None = None
    labels: Tensor | None = None
    shared: Shared = field(default_factory=Shared, init=False, repr=False, compare=False)


@dataclass(frozen=True)
class Fact:
    """One number: a row of the table `neurons`.

    name: as in `Measure.facts`. layer: a node layer, or ALL. value: the number; of a distribution the mean. quantiles: those of
    PARTS, of a distribution. count: how many neurons, heads, tokens, ... the value is of.
    """

    name: str
    layer: str
    value: float
    quantiles: tuple[float, ...] | None = None
    count: int | None = None


@dataclass(frozen=True)
class NeuronValues:
    """A number for each neuron of a layer: float64 [neurons]; NaN where it is not known. unit: what is counted, also "head"."""

    name: str
    layer: str
    values: np.ndarray
    unit: str = "neuron"


@dataclass(frozen=True)
class Found:
    """What a measure has found."""

    facts: tuple[Fact, ...]
    values: tuple[NeuronValues, ...] = ()


def distribution(
    name: str, layer: str, values: np.ndarray, unit: str = "neuron", keep: bool = True
) -> tuple[Fact, tuple[NeuronValues, ...]]:
    """The fact of a number that each neuron has, and the numbers themselves. values: [neurons]; NaN is left out of the fact."""
    values = np.asarray(values, np.float64).reshape(-1)
    known = values[np.isfinite(values)]
    mean, quantiles = float("nan"), tuple(float("nan") for _ in PARTS)
    if len(known):
        mean, quantiles = float(known.mean()), tuple(float(value) for value in np.quantile(known, PARTS))
    fact = Fact(name, layer, mean, quantiles, len(known))
    return fact, (NeuronValues(name, layer, values, unit),) if keep else ()


def averaged(founds: Sequence[Found]) -> Found:
    """The mean over several others, fact by fact and neuron by neuron, of what all of them have. Quantiles are averaged too.

    Raises ValueError: nothing to average.
    """
    if not founds:
        raise ValueError("there is nothing to average")
    by_fact = [{(fact.name, fact.layer): fact for fact in found.facts} for found in founds]
    by_values = [{(one.name, one.layer): one for one in found.values} for found in founds]
    facts = [
        _mean_fact([facts[key] for facts in by_fact]) for key in by_fact[0] if all(key in facts for facts in by_fact)
    ]
    values = [
        NeuronValues(*key, np.sum([one[key].values for one in by_values], axis=0) / len(founds), by_values[0][key].unit)
        for key in by_values[0]
        if all(key in one and one[key].values.shape == by_values[0][key].values.shape for one in by_values)
    ]
    return Found(tuple(facts), tuple(values))


def _mean_fact(facts: Sequence[Fact]) -> Fact:
    quantiles = None
    if all(fact.quantiles is not None for fact in facts):
        each = zip(*(fact.quantiles or () for fact in facts), strict=True)
        quantiles = tuple(sum(parts) / len(facts) for parts in each)
    value = sum(fact.value for fact in facts) / len(facts)
    return Fact(facts[0].name, facts[0].layer, value, quantiles, facts[0].count)


class Tally(ABC):
    """The running statistics of one measure, of one model and its examples. It may keep a place's values until the batch ends."""

    @abstractmethod
    def see(self, place: Place, values: Tensor, batch: Batch) -> None:
        """What the model gives at a place that the measure reads, in the model's own dtype; without gradients, and finite.

        It is not to be changed, and not to be kept beyond `batch_ended`.
        """

    def batch_ended(self, batch: Batch) -> None:  # noqa: B027  most have nothing to do then
        """Called after all places of a batch were seen."""

    @abstractmethod
    def found(self) -> Found:
        """What it comes to. Raises CheckpointError, RequestError: it comes to nothing."""


class ComparingTally(ABC):
    """As Tally, of two models at the same place for the same batch."""

    @abstractmethod
    def see(self, place: Place, values: Tensor, other: Tensor, batch: Batch) -> None:
        """values: the model's. other: the other model's, of the same place; its number of neurons may differ."""

    def batch_ended(self, batch: Batch) -> None:  # noqa: B027  most have nothing to do then
        """Called after all places of a batch were seen."""

    @abstractmethod
    def found(self) -> Found:
        """As Tally."""


class Measure(ABC):
    """Override what differs.

    name: of the measure, as users write it. version: raise it when the same activations give another result. title: what a user
    reads. source: what it follows. facts: the names of its rows, and what each says, with its unit and range; the first one is
    the measure's main number, and is called as the measure is. reads: of KINDS, all of which a model must have. needs: of NEEDS.
    compared_with: of OTHERS; empty where it is of one model. controls: of CONTROLS, the examples on which it is measured.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    title: ClassVar[str]
    source: ClassVar[str]
    facts: ClassVar[Mapping[str, str]]
    reads: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    compared_with: ClassVar[tuple[str, ...]] = ()
    controls: ClassVar[tuple[str, ...]] = CONTROLS

    def objection(self, subject: Subject) -> str | None:
        """Why it cannot be measured of this model, one clause, beside what `needs` and `reads` say; None where it can."""
        return None

    def over_seeds(self, founds: Sequence[Found]) -> Found:
        """What several other seeds come to together: the mean of every fact and of every neuron's number."""
        return averaged(founds)


class StreamedMeasure(Measure):
    """It is shown what one model gives, in a pass that it shares with others."""

    @abstractmethod
    def tally(self, subject: Subject) -> Tally:
        """Statistics that have seen nothing yet."""


class StreamedComparison(Measure):
    """It is shown what two models give for the same examples."""

    @abstractmethod
    def tally(self, subject: Subject, other: Subject) -> ComparingTally:
        """Statistics that have seen nothing yet."""


class OwnMeasure(Measure):
    """It runs the model by itself, or not at all."""

    @abstractmethod
    def found(self, subject: Subject, other: Subject | None = None) -> Found:
        """other: what it is compared with, where `compared_with` says so. Raises CheckpointError, RequestError."""
