"""Spectrum: the multifractal analysis of a stored network, sample by sample (stage `spectra`)."""

from dataclasses import fields

import numpy as np

from ninscope.exact.layers import LayerStatistics, NodeValues
from ninscope.measuring import Measurement, analyse_network
from ninscope.multifractal.spectrum import Spectrum
from ninscope.parameters import Parameters
from ninscope_pipeline.stages import network
from ninscope_pipeline.stages.outcome import Outcome, attempt
from ninscope_pipeline.storing.keys import beyond_defaults, content_key
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

STAGE = "spectra"
VERSION = 3

# Columns of the array `values`, one row a sample, then the network's edges; counts are exact in float64. Few arrays, since
# each costs a millisecond or two to read.
_VALUES = ("alpha0", "width", "nodes", "edges", "r2_mass_mean", "r2_mass_std")
# Rows of the array `curves` [samples, 5, q]; alpha and f end with NaN where forward differences give one value fewer.
_CURVES = ("q", "tau", "alpha", "f", "r2")
# Columns of the array `layers`, one row a node layer of an exact analysis; node counts are exact in float64.
_LAYER = tuple(field.name for field in fields(LayerStatistics) if field.name != "layer")
NODE_FIELDS = tuple(field.name for field in fields(NodeValues))
# What is needed of a measurement: by the tables, and by emergence. Not the values of single nodes, nor the matrices.
SUMMARY = ("values", "curves", "layers")
SPECTRA = ("values", "curves", "part_values")
# Columns of the array `part_values` [samples, parts, 6], which is there where parts are asked for. Of their spectra no more is
# kept: a large model has hundreds of parts.
_PART = ("alpha0", "width", "nodes", "edges", "r2_mass_mean", "r2_partition")


def spectrum_key(of_network: str, parameters: Parameters) -> str:
    """What a spectrum depends on beside its network."""
    return content_key(
        STAGE,
        VERSION,
        network=of_network,
        transfer=parameters.transfer,
        radii=parameters.radii,
        min_degree=parameters.min_degree,
        q=parameters.q,
        derivative=parameters.derivative,
        **beyond_defaults(parameters, "parts", "layers_crossed"),
    )


def store_spectrum(root: str, built: Outcome, of_network: str, parameters: Parameters, key: str) -> Outcome:
    """Analyse and store; passes on the outcome of a network that could not be built."""
    if not built.ok:
        return built.passed_on()
    store = ArtefactStore(RunFolder(root))
    return attempt(STAGE, key, lambda: _store(store, of_network, parameters, key))


def _store(store: ArtefactStore, of_network: str, parameters: Parameters, key: str) -> None:
    if store.has(STAGE, key):
        return
    stored = network.network_of(store.read(network.STAGE, of_network, with_matrix=True))
    store.write(STAGE, key, artefact_of(analyse_network(stored, parameters)))


def artefact_of(measured: Measurement) -> Artefact:
    """A measurement, sampled or exact; of single nodes what it holds."""
    q = measured.q
    curves = np.full((len(measured.samples), len(_CURVES), q.size), np.nan)
    for number, sample in enumerate(measured.samples):
        for row, name in enumerate(_CURVES):
            curve = getattr(sample, name)
            curves[number, row, : curve.size] = curve
    values = [
        [*(float(getattr(sample, name)) for name in _VALUES), float(edges)]
        for sample, edges in zip(measured.samples, measured.network_edges, strict=True)
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
    found = {}
    if measured.layers:
        rows = [[getattr(layer, name) for name in _LAYER] for layer in measured.layers]
        found["layers"] = np.array(rows, dtype=np.float64)
    if measured.nodes_of:
        for name in NODE_FIELDS:
            found[f"node_{name}"] = np.concatenate([getattr(nodes, name) for nodes in measured.nodes_of.values()])
    return found


def _arrays_of_parts(measured: Measurement) -> dict[str, np.ndarray]:
    if not measured.parts:
        return {}
    values = [
        [[float(getattr(part[number], name)) for name in _PART] for part in measured.parts.values()]
        for number in range(len(measured.samples))
    ]
    return {"part_values": np.array(values)}


def _parts_of(artefact: Artefact) -> dict[str, tuple[Spectrum, ...]]:
    """Spectra of parts by name, without curves; r2 holds its mean."""
    if "part_values" not in artefact.arrays:
        return {}
    return {
        name: tuple(_part_spectrum(values) for values in artefact.arrays["part_values"][:, number].tolist())
        for number, name in enumerate(artefact.attributes["part_names"])
    }


def _part_spectrum(values: list[float]) -> Spectrum:
    alpha0, width, nodes, edges, r2_mass_mean, r2_partition = values
    nothing = np.empty(0)
    r2 = np.array([r2_partition])
    return Spectrum(nothing, nothing, nothing, nothing, r2, alpha0, width, int(nodes), int(edges), r2_mass_mean)


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


def spectrum_of(artefact: Artefact) -> Measurement:
    """The measurement that `artefact_of` stored, as far as its arrays were read."""
    attributes = artefact.attributes
    samples, edges = [], []
    for (*values, network_edges), curves, message in zip(
        artefact.arrays["values"].tolist(), artefact.arrays["curves"], attributes["sample_messages"], strict=True
    ):
        value = dict(zip(_VALUES, values, strict=True))
        q, tau, alpha, f, r2 = curves
        length = q.size - bool(attributes["forward"])
        value |= {"nodes": int(value["nodes"]), "edges": int(value["edges"])}
        samples.append(Spectrum(q=q, tau=tau, alpha=alpha[:length], f=f[:length], r2=r2, message=message, **value))
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
    )
