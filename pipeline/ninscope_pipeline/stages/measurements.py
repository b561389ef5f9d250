"""Measurements as they are stored, whether of samples (stage `spectra`) or of whole networks (`exact`), and their tables."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np

from ninscope.exact.layers import LayerStatistics, NodeValues
from ninscope.measurement import Measurement
from ninscope.multifractal.spectrum import Spectrum, peak_of
from ninscope.wording import joined_clauses
from ninscope_pipeline.stages.stage import Measures, Row, Table
from ninscope_pipeline.storing.store import Artefact

if TYPE_CHECKING:
    import pandas as pd

    from ninscope_pipeline.request.analyses import Analysis
    from ninscope_pipeline.results import CheckpointResult, Results

# Columns of the array `values`, one row a sample, then the network's edges; counts are exact in float64. Few arrays, since
# each costs a millisecond or two to read.
_VALUES = ("alpha0", "width", "nodes", "edges", "r2_mass_mean", "r2_mass_std")
# Rows of the array `curves` [samples, 5, q]; alpha and f end with NaN where forward differences give one value fewer.
_CURVES = ("q", "tau", "alpha", "f", "r2")
# Columns of the array `layers`, one row a node layer of an exact analysis; node counts are exact in float64.
_LAYER = tuple(field.name for field in fields(LayerStatistics) if field.name != "layer")
NODE_FIELDS = tuple(field.name for field in fields(NodeValues))
# What is needed of a measurement by the tables and by emergence. Not the values of single nodes, nor the matrices.
SUMMARY = ("values", "curves", "layers", "part_values", "part_peaks")
SUMMARY_AND_NODES = (*SUMMARY, *(f"node_{name}" for name in NODE_FIELDS))
# Columns of the array `part_values` [samples, parts, 6], which is there where parts are asked for. Of their spectra no more is
# kept: a large model has hundreds of parts. `part_peaks` [samples, parts, 2] (the q of the largest f, alpha(0)) is there where one
# of these q is not 0.
_PART = ("alpha0", "width", "nodes", "edges", "r2_mass_mean", "r2_partition")


def artefact_of_measurement(measured: Measurement) -> Artefact:
    """A measurement, sampled or exact; of single nodes what it holds."""
    q = measured.q
    curves = np.full((len(measured.samples), len(_CURVES), q.size), np.nan)
    for number, sample in enumerate(measured.samples):
        for row, name in enumerate(_CURVES):
            curve = getattr(sample, name)
            curves[number, row, : curve.size] = curve
    values = [
        [*(float(getattr(sample, name)) for name in _VALUES), float(edges)]
        for sample, edges in zip(measured.samples, measured.sample_edges, strict=True)
    ]
    return Artefact(
        {
            "values": np.array(values),
            "curves": curves,
            **_arrays_of_layers(measured),
            **_arrays_of_parts(measured),
        },
        {
            **({"part_columns": list(_PART), "part_names": list(measured.parts)} if measured.parts else {}),
            "method": measured.method,
            "layer_columns": list(_LAYER),
            "layer_names": [layer.layer for layer in measured.layers],
            "columns": [*_VALUES, "network_edges"],
            "rows": list(_CURVES),
            "network_nodes": measured.network_nodes,
            "message": measured.message,
            "sample_messages": [sample.message for sample in measured.samples],
            "forward": measured.samples[0].alpha.size < q.size,
        },
    )


def _arrays_of_layers(measured: Measurement) -> dict[str, np.ndarray]:
    """Statistics of layers, which an exact measurement has, and values of single nodes, where it keeps them."""
    arrays = {}
    if measured.layers:
        rows = [[getattr(layer, name) for name in _LAYER] for layer in measured.layers]
        arrays["layers"] = np.array(rows, dtype=np.float64)
    if measured.nodes_of:
        for name in NODE_FIELDS:
            arrays[f"node_{name}"] = np.concatenate([getattr(nodes, name) for nodes in measured.nodes_of.values()])
    return arrays


def _arrays_of_parts(measured: Measurement) -> dict[str, np.ndarray]:
    if not measured.parts:
        return {}
    values = [
        [[float(getattr(part[number], name)) for name in _PART] for part in measured.parts.values()]
        for number in range(len(measured.samples))
    ]
    peaks = [
        [[part[number].peak_q, part[number].alpha_at_zero] for part in measured.parts.values()]
        for number in range(len(measured.samples))
    ]
    strays = any(peak_q for sample in peaks for peak_q, _ in sample)
    return {"part_values": np.array(values)} | ({"part_peaks": np.array(peaks)} if strays else {})


def _parts_of(artefact: Artefact) -> dict[str, tuple[Spectrum, ...]]:
    """Spectra of parts by name, without curves; r2 holds its mean."""
    if "part_values" not in artefact.arrays:
        return {}
    values = artefact.arrays["part_values"]
    peaks = artefact.arrays.get("part_peaks", np.broadcast_to([0.0, math.nan], (*values.shape[:2], 2)))
    return {
        name: tuple(map(_part_spectrum, values[:, number].tolist(), peaks[:, number].tolist()))
        for number, name in enumerate(artefact.attributes["part_names"])
    }


def _part_spectrum(values: list[float], peak: list[float]) -> Spectrum:
    alpha0, width, nodes, edges, r2_mass_mean, r2_partition = values
    nothing = np.empty(0)
    r2 = np.array([r2_partition])
    known = Spectrum(nothing, nothing, nothing, nothing, r2, alpha0, width, int(nodes), int(edges), r2_mass_mean)
    return replace(known, peak_q=peak[0], alpha_at_zero=peak[1])


def _layers_of(artefact: Artefact) -> tuple[tuple[LayerStatistics, ...], dict[str, NodeValues]]:
    arrays = artefact.arrays
    layers = tuple(
        LayerStatistics(name, int(values[0]), int(values[1]), *values[2:].tolist())
        for name, values in zip(artefact.attributes["layer_names"], arrays.get("layers", ()), strict=False)
    )
    nodes, first = {}, 0
    for layer in layers if "node_edges" in arrays else ():
        part = slice(first, first + layer.nodes)
        nodes[layer.layer] = NodeValues(*(arrays[f"node_{name}"][part] for name in NODE_FIELDS))
        first += layer.nodes
    return layers, nodes


def stored_measurement(artefact: Artefact) -> Measurement:
    """The measurement that `artefact_of_measurement` stored, as far as its arrays were read."""
    attributes = artefact.attributes
    samples, edges = [], []
    for (*values, network_edges), curves, message in zip(
        artefact.arrays["values"].tolist(), artefact.arrays["curves"], attributes["sample_messages"], strict=True
    ):
        value = dict(zip(_VALUES, values, strict=True))
        q, tau, alpha, f, r2 = curves
        length = q.size - bool(attributes["forward"])
        value |= {"nodes": int(value["nodes"]), "edges": int(value["edges"])}
        alpha, f = alpha[:length], f[:length]
        peak_q, at_zero = peak_of(q, alpha, f)
        value |= {"peak_q": peak_q, "alpha_at_zero": at_zero}
        samples.append(Spectrum(q=q, tau=tau, alpha=alpha, f=f, r2=r2, message=message, **value))
        edges.append(int(network_edges))
    layers, nodes = _layers_of(artefact)
    return Measurement(
        tuple(samples),
        attributes["network_nodes"],
        tuple(edges),
        attributes["message"],
        attributes["method"],
        layers,
        nodes,
        _parts_of(artefact),
        layers_counted=sum(layer.nodes_counted > 0 for layer in layers) if layers else None,
        counted_layers=frozenset(layer.layer for layer in layers if layer.nodes_counted) if layers else None,
    )


def nodes_frame(nodes: Mapping[str, NodeValues]) -> "pd.DataFrame":
    """Single neurons of an exact measurement as a table: layer, neuron, edges, average_weighted_degree, dimension, r2."""
    import pandas as pd

    layers = [
        pd.DataFrame({"layer": layer, "neuron": np.arange(values.edges.size), **vars(values)})
        for layer, values in nodes.items()
    ]
    return pd.concat(layers, ignore_index=True).rename(columns={"degree": "average_weighted_degree"})


EXACT_SAMPLE = -1  # in the column `sample`: no sample, the whole network


def _measured(results: "Results") -> "Iterator[tuple[CheckpointResult, Analysis, Measurement]]":
    """Every analysis that succeeded, in the order of checkpoints and analyses."""
    for checkpoint in results.checkpoints:
        for analysis in results.request.analyses:
            if checkpoint.outcomes[analysis.name].ok:
                yield checkpoint, analysis, results.measurement(checkpoint.jobs[analysis.name].id)


def _numbered(measured: Measurement) -> Iterator[tuple[int, Spectrum, int]]:
    """(what the column `sample` says, the spectrum, the network's edges) of each."""
    numbers = [EXACT_SAMPLE] if measured.method == "exact" else range(len(measured.samples))
    yield from zip(numbers, measured.samples, measured.sample_edges, strict=True)


def _sample_rows(results: "Results") -> Iterator[Row]:
    for checkpoint, analysis, measured in _measured(results):
        exact = measured.method == "exact"
        of_reading = checkpoint.located.wiring(analysis.parameters.reading).warning
        for number, sample, edges in _numbered(measured):
            yield checkpoint.row_keys | {
                "sample": number,
                "nodes_per_layer": None if exact else analysis.parameters.nodes_per_layer,
                "alpha0": sample.alpha0,
                "width": sample.width,
                "nodes": measured.network_nodes,
                "edges": edges,
                "nodes_counted": sample.nodes,
                "edges_counted": sample.edges,
                "r2_mass_mean": sample.r2_mass_mean,
                "r2_mass_std": sample.r2_mass_std,
                "r2_partition": sample.r2_partition,
                "message": sample.message,
                "warning": joined_clauses(sample.warning, of_reading),
                "variant": analysis.variant,
            }


def _spectrum_rows(results: "Results") -> Iterator[Row]:
    for checkpoint, analysis, measured in _measured(results):
        for number, sample, _ in _numbered(measured):
            for position, q in enumerate(sample.q):
                beyond = position >= sample.alpha.size  # forward differences have one value fewer
                yield checkpoint.row_keys | {
                    "sample": number,
                    "q": q,
                    "tau": sample.tau[position],
                    "alpha": math.nan if beyond else sample.alpha[position],
                    "f": math.nan if beyond else sample.f[position],
                    "r2": sample.r2[position],
                    "variant": analysis.variant,
                }


def _layer_rows(results: "Results") -> Iterator[Row]:
    for checkpoint, analysis, measured in _measured(results):
        for layer in measured.layers:
            yield checkpoint.row_keys | {"variant": analysis.variant} | vars(layer)


SAMPLES_TABLE = Table(
    "samples",
    {
        "sample": "int64", "nodes_per_layer": "Int64", "alpha0": "float64", "width": "float64", "nodes": "int64",
        "edges": "int64", "r2_mass_mean": "float64", "r2_mass_std": "float64", "r2_partition": "float64",
        "nodes_counted": "int64", "edges_counted": "int64", "message": "string", "warning": "string", "variant": "string",
    },
    _sample_rows,
)  # fmt: skip
SPECTRA_TABLE = Table(
    "spectra",
    {
        "sample": "int64", "q": "float64", "tau": "float64", "alpha": "float64", "f": "float64", "r2": "float64",
        "variant": "string",
    },
    _spectrum_rows,
)  # fmt: skip
DEGREES_TABLE = Table(
    "degrees",
    {
        "layer": "string", "mean": "float64", "std": "float64", "kurtosis": "float64", "nodes": "int64",
        "nodes_counted": "int64", "dimension_mean": "float64", "dimension_std": "float64", "r2_mass_mean": "float64",
        "r2_mass_std": "float64", "p5": "float64", "p25": "float64", "p50": "float64", "p75": "float64", "p95": "float64",
        "variant": "string", "alpha0_without": "float64", "width_without": "float64",
    },
    _layer_rows,
    (Measures({"degree_mean": "mean", "degree_kurtosis": "kurtosis", "dimension_mean": "dimension_mean"}),),
)  # fmt: skip
