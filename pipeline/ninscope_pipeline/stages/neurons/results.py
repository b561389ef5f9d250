"""What the results of a job come to: rows of the table `neurons`, and the matrix of single neurons, as one artefact."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pandas as pd

from ninscope.errors import CheckpointError
from ninscope.neurons.observatory.measure import (
    ALL,
    NONE,
    PARTS,
    PREVIOUS,
    SEED,
    START,
    Fact,
    Found,
    NeuronValues,
)
from ninscope.neurons.observatory.registry import measures
from ninscope.wording import joined_clauses
from ninscope_pipeline.stages.neurons.kept import Measured, arrays_of_facts, facts_of, names_of_facts
from ninscope_pipeline.stages.neurons.planning import NeuronsWork, Part
from ninscope_pipeline.stages.stage import Row
from ninscope_pipeline.storing.annotated import AnnotatedMatrix
from ninscope_pipeline.storing.store import Artefact

NEURON = "neuron"
QUANTILES = tuple(f"p{round(100 * part):02d}" for part in PARTS)
Result = Measured | CheckpointError


@dataclass(frozen=True)
class Told:
    """One result as the table tells it. against: "", or one of OTHERS: of several seeds the mean."""

    measure: str
    control: str
    against: str
    status: str
    message: str
    found: Found | None


def told(work: NeuronsWork, results: Mapping[str, Result]) -> Iterator[Told]:
    """Every result of a job in the order of measures, controls and what they are compared with. results: by key; a part that has
    none is left out."""
    for (measure, control, against), parts in groupby(
        work.parts, lambda part: (part.measure, part.control, _kind(part))
    ):
        yield from _told(measure, control, against, list(parts), results)


def _told(
    measure: str, control: str, against: str, parts: Sequence[Part], results: Mapping[str, Result]
) -> Iterator[Told]:
    if parts[0].why:
        yield Told(measure, control, against, "unsupported", parts[0].why, None)
        return
    known = [(part.against, results[part.key]) for part in parts if part.key in results]
    measured = [(name, result) for name, result in known if isinstance(result, Measured)]
    errors = [(name, result) for name, result in known if isinstance(result, CheckpointError)]
    if measured:
        founds = [result.found for _, result in measured]
        found = founds[0] if against != SEED else measures()[measure].over_seeds(founds)
        of = f"over {', '.join(name for name, _ in measured)}" if against == SEED else ""
        missing = [f"not over {name}: {error}" for name, error in errors]
        yield Told(measure, control, against, "ok", joined_clauses(of, *missing, *measured[0][1].notes), found)
    elif errors:
        yield Told(measure, control, against, errors[0][1].status, str(errors[0][1]), None)


def _kind(part: Part) -> str:
    """What of OTHERS a part is compared with, or ""."""
    return part.against if part.against in ("", START, PREVIOUS) else SEED


# --- the artefact --------------------------------------------------------------------------------------------------------
def artefact_of_results(results: Iterable[Told], neuron_values: bool) -> Artefact:
    """All that the tables tell, and the matrix of single neurons where it is asked for."""
    kept = list(results)
    named: list[list] = []
    facts: list[Fact] = []
    for result in kept:
        for fact in _facts(result):
            named.append([result.control, result.against, result.status, result.message])
            facts.append(fact)
    about = {
        "rows": [[*row, *names] for row, names in zip(named, names_of_facts(facts), strict=True)],
        "neuron_values": neuron_values,
    }
    return Artefact(arrays_of_facts(facts), about, annotated=_matrix(kept) if neuron_values else None)


def _facts(result: Told) -> Sequence[Fact]:
    """The facts of a result; of one that there is not, a number that is none, under the measure's name."""
    return (Fact(result.measure, ALL, float("nan")),) if result.found is None else result.found.facts


def stored_rows(artefact: Artefact) -> Iterator[Row]:
    """The columns of the table from `layer` on, a row a fact."""
    about, arrays = artefact.attributes["rows"], artefact.arrays
    facts = facts_of([row[4:] for row in about], arrays["numbers"], arrays["counts"])
    for (control, against, status, message, *_), fact in zip(about, facts, strict=True):
        yield row_of(fact, control, against, status, message)


def rows_of(result: Told) -> Iterator[Row]:
    """As `stored_rows`, of one result."""
    for fact in _facts(result):
        yield row_of(fact, result.control, result.against, result.status, result.message)


def row_of(fact: Fact, control: str, against: str, status: str, message: str) -> Row:
    """The columns of the table from `layer` on."""
    return {
        "layer": fact.layer, "measure": fact.name, "control": control, "against": against, "value": fact.value,
        **dict(zip(QUANTILES, fact.quantiles or (), strict=False)), "count": fact.count, "status": status, "message": message,
    }  # fmt: skip


# --- single neurons ------------------------------------------------------------------------------------------------------
def _matrix(results: Sequence[Told]) -> AnnotatedMatrix:
    """Neurons x measures; NaN where a measure says nothing of a neuron. Raises ValueError: two measures differ in how many neurons
    a layer has."""
    columns = [
        (_column(one.name, result), result, one)
        for result in results
        if result.found is not None
        for one in result.found.values
    ]
    sizes = _sizes(one for *_, one in columns)
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    names = list(dict.fromkeys(name for name, *_ in columns))
    values = np.full((sum(sizes.values()), len(names)), np.nan)
    about: dict[str, list[str]] = {
        "measure": [""] * len(names),
        "control": [""] * len(names),
        "against": [""] * len(names),
    }
    for name, result, one in columns:
        number, first = names.index(name), starts[one.layer, one.unit]
        values[first : first + len(one.values), number] = one.values
        for key, text in (("measure", one.name), ("control", result.control), ("against", result.against)):
            about[key][number] = text
    listed = [(layer, unit, index) for (layer, unit), size in sizes.items() for index in range(size)]
    return AnnotatedMatrix(
        values,
        [f"{layer}/{index}" if unit == NEURON else f"{layer}/{unit}/{index}" for layer, unit, index in listed],
        names,
        {
            "layer": [layer for layer, *_ in listed],
            "index": np.array([index for *_, index in listed], np.int64),
            "unit": [unit for _, unit, _ in listed],
        },
        about,
    )


def values_frame(matrix: AnnotatedMatrix) -> pd.DataFrame:
    """The matrix of single neurons as a table: layer, index, unit, and a column a measure."""
    about = pd.DataFrame({name: matrix.rows[name] for name in ("layer", "index", "unit")})
    values = pd.DataFrame(np.asarray(matrix.values), columns=list(matrix.column_names))
    return pd.concat([about.astype({"layer": "string", "unit": "string"}), values], axis=1)


def _column(name: str, result: Told) -> str:
    return "/".join(
        [name, *([result.against] if result.against else []), *([] if result.control == NONE else [result.control])]
    )


def _sizes(values: Iterable[NeuronValues]) -> dict[tuple[str, str], int]:
    """How many there are of each unit of a layer, layers in the order of their numbers."""
    sizes: dict[tuple[str, str], int] = {}
    for one in values:
        size = sizes.setdefault((one.layer, one.unit), len(one.values))
        if size != len(one.values):
            raise ValueError(f"{one.name}: {len(one.values)} values of {one.layer}, where others have {size}")
    return dict(sorted(sizes.items(), key=lambda item: (_numbered(item[0][0]), item[0][1] != NEURON, item[0][1])))


def _numbered(layer: str) -> list[tuple[int, int | str]]:
    """By which "block10.m" comes after "block9.m"."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", layer) if part]
