"""Spectrum: the multifractal analysis of a stored network, sample by sample (stage `spectra`)."""

import numpy as np
from ninscope.pipeline.keys import content_key
from ninscope.pipeline.runfolder import RunFolder
from ninscope.pipeline.stages import network
from ninscope.pipeline.stages.outcome import Outcome, attempt
from ninscope.pipeline.store import Artefact, ArtefactStore

from ninscope.measuring import Measurement, Parameters, analyse_network
from ninscope.multifractal.spectrum import Spectrum

STAGE = "spectra"
VERSION = 1

# Columns of the array `values`, one row a sample; nodes and edges are exact in float64.
_VALUES = ("alpha0", "width", "nodes", "edges", "r2_mass_mean", "r2_mass_std")
# Rows of the array `curves` [samples, 4, q]; alpha and f end with NaN where forward differences give one value fewer.
_CURVES = ("tau", "alpha", "f", "r2")


def spectrum_key(of_network: str, parameters: Parameters) -> str:
    """What a spectrum depends on beside its network."""
    return content_key(
        STAGE,
        VERSION,
        network=of_network,
        transfer=parameters.transfer,
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
        },
        {
            "columns": list(_VALUES),
            "rows": list(_CURVES),
            "network_nodes": measured.network_nodes,
            "message": measured.message,
            "sample_messages": [sample.message for sample in measured.samples],
            "forward": measured.samples[0].alpha.size < q.size,
        },
    )


def spectrum_of(artefact: Artefact) -> Measurement:
    """The measurement that `artefact_of` stored."""
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
    return Measurement(tuple(samples), attributes["network_nodes"], edges, attributes["message"])
