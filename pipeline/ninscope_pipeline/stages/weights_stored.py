"""Statistics of weights as they are stored, and who wants them: what the stages `weights`, `exact` and `parts` share."""

from collections.abc import Iterable, Mapping
from dataclasses import astuple
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from ninscope.architectures import Reading
from ninscope.weights.counting import CountedPiece, NetworkWeights
from ninscope.weights.pattern_kernels import EXPONENTS, SUMS
from ninscope.weights.patterns import PATTERN_BITS, ROW_SUMS, PatternCounts
from ninscope.weights.statistics import STATISTICS, WeightStatistics
from ninscope.wording import joined_clauses
from ninscope_pipeline.located import Located
from ninscope_pipeline.stages.stage import Row
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.store import Artefact

if TYPE_CHECKING:
    from ninscope_pipeline.request.dagfile import Dag
    from ninscope_pipeline.results import Results

CheckpointId = tuple[str, str, str]  # suite, model, revision
WEIGHTS, VERSION = "weights", 2  # name of the stage, and its version


@runtime_checkable
class FillsWeights(Protocol):
    """A stage that adds columns to the table `weights`."""

    def columns_of_weights(self, results: "Results") -> "Mapping[tuple[CheckpointId, str], Row]":
        """By (suite, model, revision) and a matrix's name, or "all": columns of that row. A `message` is joined to the others'; a
        `status` counts where it is not "ok"."""


def weights_wanted(dag: "Dag") -> bool:
    """Whether anything of a DAG file needs statistics of every checkpoint's weights."""
    return dag.needs_weights()


def weights_key(located: Located, reading: Reading) -> str:
    """What statistics of weights depend on: the weights and the wiring."""
    architecture = located.wiring(reading).digest
    return content_key(WEIGHTS, VERSION, weights=located.content_sha256, architecture=architecture)


def piece_key(key: str, number: int, count: int) -> str:
    """Under which the stage `weights` has what one part of an exact analysis counted, until all are there."""
    return f"{key}-{number + 1}-of-{count}"


def artefact_of_weights(weights: NetworkWeights) -> Artefact:
    """One row a matrix, and last one of all together."""
    values = np.array([astuple(one) for one in weights.statistics.values()], np.float64)
    about = {"columns": list(STATISTICS), "matrices": list(weights.statistics), "unverified": weights.unverified}
    return Artefact({"values": values}, about)


def stored_weights(artefact: Artefact) -> NetworkWeights:
    """What `artefact_of_weights` stored."""
    about = artefact.attributes
    rows = zip(about["matrices"], artefact.arrays["values"].tolist(), strict=True)
    return NetworkWeights(
        {name: WeightStatistics(int(weights), *others) for name, (weights, *others) in rows}, about["unverified"]
    )


def stored_rms(artefact: Artefact) -> dict[str, float]:
    """Root mean square of the weights of each matrix, by its name, from an artefact of the stage `weights`."""
    return stored_weights(artefact).rms


def artefact_of_piece(piece: CountedPiece) -> Artefact:
    """Counts without their zeros, one matrix and type after the other; those of all together have no name."""
    parts = [("", counts) for counts in piece.whole.values()]
    parts += [(name, counts) for name, of_types in piece.counts.items() for counts in of_types.values()]
    there = [np.flatnonzero(counts.counts) for _, counts in parts]
    nothing = [np.empty(0, np.int64)]
    return Artefact(
        {
            "values": np.array([astuple(one) for one in piece.statistics.values()], np.float64).reshape(
                -1, len(STATISTICS)
            ),
            "patterns": np.concatenate([*nothing, *there]),
            "counts": np.concatenate(
                [*nothing, *(counts.counts[some] for (_, counts), some in zip(parts, there, strict=True))]
            ).astype(np.int64),
            "rows": np.concatenate([np.empty((0, ROW_SUMS)), *(counts.rows for _, counts in parts)]),
            "squares": np.array(
                [counts.squares for _, counts in parts if counts.squares is not None], np.int64
            ).reshape(-1, EXPONENTS, SUMS),
        },
        {
            "matrices": list(piece.statistics),
            "parts": [
                [name, counts.dtype, counts.weights, len(some), len(counts.rows), counts.squares is not None]
                for (name, counts), some in zip(parts, there, strict=True)
            ],
        },
    )


def stored_piece(artefact: Artefact) -> CountedPiece:
    """What `artefact_of_piece` stored."""
    arrays, about = artefact.arrays, artefact.attributes
    rows = zip(about["matrices"], arrays["values"].tolist(), strict=True)
    statistics = {name: WeightStatistics(int(weights), *others) for name, (weights, *others) in rows}
    counts: dict[str, dict[str, PatternCounts]] = {}
    squares = iter(arrays["squares"])
    first = first_row = 0
    for name, dtype, weights, length, row_count, has_squares in about["parts"]:
        of_matrix = np.zeros(1 << PATTERN_BITS[dtype], np.int64)
        of_matrix[arrays["patterns"][first : first + length]] = arrays["counts"][first : first + length]
        sums = arrays["rows"][first_row : first_row + row_count]
        exact = next(squares) if has_squares else None
        counts.setdefault(name, {})[dtype] = PatternCounts(dtype, weights, of_matrix, sums, exact)
        first, first_row = first + length, first_row + row_count
    whole = counts.pop("", {})
    return CountedPiece(statistics, counts, whole)


def merged_columns(parts: Iterable[Mapping[tuple[CheckpointId, str], Row]]) -> dict[tuple[CheckpointId, str], Row]:
    """Columns of rows, from several stages, as one."""
    merged: dict[tuple[CheckpointId, str], Row] = {}
    for part in parts:
        for place, row in part.items():
            known = merged.setdefault(place, {"status": "ok", "message": ""})
            status = known["status"] if known["status"] != "ok" else row.get("status", "ok")
            message = joined_clauses(*dict.fromkeys([known["message"], row.get("message", "")]))
            merged[place] = known | row | {"status": status, "message": message}
    return merged
