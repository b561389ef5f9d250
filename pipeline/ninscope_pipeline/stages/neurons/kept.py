"""What a measure has found, as it is stored: arrays of facts, and of values of single neurons where these are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ninscope.neurons.observatory.measure import PARTS, Fact, Found, NeuronValues
from ninscope_pipeline.storing.store import Artefact

_NO_COUNT = -1


@dataclass(frozen=True)
class Measured:
    """What a measure has found. notes: what is to be known of the examples."""

    found: Found
    notes: tuple[str, ...] = ()


def artefact_of_measured(measured: Measured, with_values: bool) -> Artefact:
    """Arrays: numbers, float64 [facts, 1 + quantiles], NaN for what there is not; counts, int64 [facts], -1 for none; values,
    float64, layer after layer. with_values: keep those of single neurons.
    """
    found = measured.found
    values = found.values if with_values else ()
    return Artefact(
        {
            **arrays_of_facts(found.facts),
            "values": np.concatenate(
                [np.empty(0), *(np.asarray(one.values, np.float64).reshape(-1) for one in values)]
            ),
        },
        {
            "facts": names_of_facts(found.facts),
            "notes": list(measured.notes),
            "neuron_values": [[one.name, one.layer, one.unit, int(np.size(one.values))] for one in values],
        },
    )


def stored_measured(artefact: Artefact) -> Measured:
    """What `artefact_of_measured` stored."""
    arrays, about = artefact.arrays, artefact.attributes
    facts = facts_of(about["facts"], arrays["numbers"], arrays["counts"])
    values, place = [], 0
    for name, layer, unit, length in about["neuron_values"]:
        values.append(NeuronValues(name, layer, arrays["values"][place : place + length], unit))
        place += length
    return Measured(Found(tuple(facts), tuple(values)), tuple(about["notes"]))


def names_of_facts(facts: Sequence[Fact]) -> list[list]:
    """(name, layer, whether it is of a distribution) of each."""
    return [[fact.name, fact.layer, fact.quantiles is not None] for fact in facts]


def arrays_of_facts(facts: Sequence[Fact]) -> dict[str, np.ndarray]:
    """The numbers of facts, a row each."""
    without = (float("nan"),) * len(PARTS)
    numbers = [[fact.value, *(fact.quantiles or without)] for fact in facts]
    counts = [_NO_COUNT if fact.count is None else fact.count for fact in facts]
    return {
        "numbers": np.array(numbers, np.float64).reshape(len(facts), 1 + len(PARTS)),
        "counts": np.array(counts, np.int64),
    }


def facts_of(names: Sequence[Sequence], numbers: np.ndarray, counts: np.ndarray) -> list[Fact]:
    """The facts of these names, numbers and counts."""
    return [
        Fact(name, layer, value, tuple(quantiles) if spread else None, None if count == _NO_COUNT else count)
        for (name, layer, spread), (value, *quantiles), count in zip(
            names, numbers.tolist(), counts.tolist(), strict=True
        )
    ]
