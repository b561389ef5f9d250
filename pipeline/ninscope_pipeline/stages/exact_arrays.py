"""Pieces of an exact analysis, and what null models need of its matrices, as arrays that can be stored."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ninscope.exact.blocks import BlockTally
from ninscope.exact.counting import LayerCounts
from ninscope.exact.layers import LayerResult, NodeValues
from ninscope.exact.null_models import MatrixBins
from ninscope.exact.whole import PartialAnalysis
from ninscope.multifractal.partition import PartitionSums
from ninscope_pipeline.stages.measurements import NODE_FIELDS
from ninscope_pipeline.storing.store import Artefact

MATRIX_ARRAYS = ("matrix_totals", "matrix_std")
_SUMS = ("z", "m", "seen")


def artefact_of_part(part_of_work: PartialAnalysis) -> Artefact:
    """Arrays are named by the number of their layer; the attribute `layers` says what each layer's are."""
    arrays: dict[str, np.ndarray] = {}
    layers: list[dict[str, Any]] = []
    for number, (name, part) in enumerate(part_of_work.items()):
        described: dict[str, Any] = {"name": name, "matrices": []}
        for index, (matrix, tally) in enumerate(part.matrices.items()):
            described["matrices"].append([matrix, tally.source, tally.target, tally.columns])
            arrays[f"{number}.totals.{index}"], arrays[f"{number}.rows.{index}"] = tally.totals, tally.row_moments
        if isinstance(part, LayerResult):
            described |= {"nodes": part.sums.nodes, "edges": part.sums.edges}
            arrays |= {f"{number}.{field}": getattr(part.sums, field) for field in _SUMS}
            arrays |= {f"{number}.{field}": getattr(part.nodes, field) for field in NODE_FIELDS}
        else:
            arrays[f"{number}.histogram"], arrays[f"{number}.distances"] = part.histogram, part.distances
        layers.append(described)
    return Artefact(arrays, {"layers": layers})


def stored_part(artefact: Artefact) -> PartialAnalysis:
    """The piece that `artefact_of_part` stored."""
    arrays = artefact.arrays
    part: dict[str, LayerResult | LayerCounts] = {}
    for number, layer in enumerate(artefact.attributes["layers"]):
        matrices = {
            matrix: BlockTally(
                source, target, columns, arrays[f"{number}.totals.{index}"], arrays[f"{number}.rows.{index}"]
            )
            for index, (matrix, source, target, columns) in enumerate(layer["matrices"])
        }
        if "nodes" in layer:
            z, m, seen = (arrays[f"{number}.{field}"] for field in _SUMS)
            sums = PartitionSums(z, m, seen, layer["nodes"], layer["edges"])
            nodes = NodeValues(*(arrays[f"{number}.{field}"] for field in NODE_FIELDS))
            part[layer["name"]] = LayerResult(layer["name"], sums, nodes, matrices)
        else:
            histogram, distances = arrays[f"{number}.histogram"], arrays[f"{number}.distances"]
            part[layer["name"]] = LayerCounts(histogram, distances, matrices)
    return part


def matrices_as_arrays(matrices: Sequence[MatrixBins]) -> tuple[dict[str, np.ndarray], dict]:
    """(arrays, attributes) of a checkpoint's matrices; both empty where there are none."""
    if not matrices:
        return {}, {}
    totals, std = MATRIX_ARRAYS
    arrays = {
        totals: np.stack([matrix.totals for matrix in matrices]),
        std: np.array([matrix.std for matrix in matrices]),
    }
    return arrays, {"matrices": [[m.source, m.target, m.rows, m.columns, m.taps] for m in matrices]}


def stored_matrices(arrays: Mapping[str, np.ndarray], attributes: Mapping) -> tuple[MatrixBins, ...]:
    """The matrices that `matrices_as_arrays` stored."""
    return tuple(
        MatrixBins(source, target, rows, columns, float(std), totals, taps)
        for (source, target, rows, columns, taps), totals, std in zip(
            attributes["matrices"], *(arrays[name] for name in MATRIX_ARRAYS), strict=True
        )
    )
