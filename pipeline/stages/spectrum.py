"""Spectrum: the multifractal analysis of a stored network, sample by sample (stage `spectra`)."""

from dataclasses import fields

import numpy as np
from ninscope.pipeline.keys import content_key
from ninscope.pipeline.runfolder import RunFolder
from ninscope.pipeline.stages import network
from ninscope.pipeline.stages.outcome import Outcome, attempt
from ninscope.pipeline.store import Artefact, ArtefactStore

from ninscope.exact.layers import LayerStatistics, NodeValues
from ninscope.measuring import Measurement, analyse_network
from ninscope.multifractal.spectrum import Spectrum
from ninscope.parameters import Parameters

STAGE = "spectra"
VERSION = 2

# Columns of the array `values`, one row a sample; nodes and edges are exact in float64.
_VALUES = ("alpha0", "width", "nodes", "edges", "r2_mass_mean", "r2_mass_std")
# Rows of the array `curves` [samples, 4, q]; alpha and f end with NaN where forward differences give one value fewer.
_CURVES = ("tau", "alpha", "f", "r2")
# Columns of the array `layers`, one row a node layer of an exact analysis; node counts are exact in float64.
_LAYER = tuple(field.name for field in fields(LayerStatistics) if field.name != "layer")
NODE_FIELDS = tuple(field.name for field in fields(NodeValues))
# What the tables are made from: not the values of single nodes, nor the matrices.
SUMMARY = ("q", "values", "curves", "network_edges", "layers")


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
    )


def store_spectrum(root: str, built: Outcome, of_network: str, parameters: Parameters, key: str) -> Outcome:
    """Analyse and store; passes on the outcome of a network that could not be built."""
    if not built.ok:
        return built
    store = ArtefactStore(RunFolder(root))
    return attempt(lambda: _store(store, of_network, parameters, key))


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
    return Artefact(
        {
            "q": q,
            "values": np.array([[float(getattr(sample, name)) for name in _VALUES] for sample in measured.samples]),
            "curves": curves,
            "network_edges": np.array(measured.network_edges, dtype=np.int64),
            "layers": np.array(
                [[getattr(layer, name) for name in _LAYER] for layer in measured.layers], dtype=np.float64
            ),
            **{f"node_{name}": _joined(measured, name) for name in NODE_FIELDS if measured.nodes_of},
        },
        {
            "method": measured.method,
            "layer_columns": list(_LAYER),
            "layer_names": [layer.layer for layer in measured.layers],
            "columns": list(_VALUES),
            "rows": list(_CURVES),
            "network_nodes": measured.network_nodes,
            "message": measured.message,
            "sample_messages": [sample.message for sample in measured.samples],
            "forward": measured.samples[0].alpha.size < q.size,
        },
    )


def _joined(measured: Measurement, field: str) -> np.ndarray:
    return np.concatenate([getattr(values, field) for values in measured.nodes_of.values()])


def spectrum_of(artefact: Artefact) -> Measurement:
    """The measurement that `artefact_of` stored, as far as its arrays were read."""
    q, attributes = artefact.arrays["q"], artefact.attributes
    length = q.size - bool(attributes["forward"])
    samples = []
    for values, curves, message in zip(
        artefact.arrays["values"], artefact.arrays["curves"], attributes["sample_messages"], strict=True
    ):
        value = dict(zip(_VALUES, values.tolist(), strict=True))
        tau, alpha, f, r2 = curves
        value |= {"nodes": int(value["nodes"]), "edges": int(value["edges"])}
        samples.append(Spectrum(q=q, tau=tau, alpha=alpha[:length], f=f[:length], r2=r2, message=message, **value))
    edges = tuple(int(count) for count in artefact.arrays["network_edges"])
    layers = tuple(
        LayerStatistics(name, int(values[0]), int(values[1]), *values[2:].tolist())
        for name, values in zip(attributes["layer_names"], artefact.arrays["layers"], strict=True)
    )
    nodes, first = {}, 0
    for layer in layers if "node_edges" in artefact.arrays else ():
        part = slice(first, first + layer.nodes)
        nodes[layer.layer] = NodeValues(*(artefact.arrays[f"node_{name}"][part] for name in NODE_FIELDS))
        first += layer.nodes
    return Measurement(
        tuple(samples),
        attributes["network_nodes"],
        edges,
        attributes["message"],
        attributes["method"],
        layers,
        nodes,
    )
