"""Network: sample a checkpoint's neurons and store the samples' network (stage `nin`)."""

import json
from dataclasses import astuple

import numpy as np

from ninscope.architectures.layout import Architecture, Link, NodeLayer
from ninscope.checkpoints.tensors import Checkpoint
from ninscope.measuring import sample_network
from ninscope.networks.sampled import SampledNetwork
from ninscope.parameters import Parameters
from ninscope_pipeline.stages.locate import Located
from ninscope_pipeline.stages.of_checkpoint import store_of_checkpoint
from ninscope_pipeline.stages.outcome import Outcome, attempt
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

STAGE = "nin"
VERSION = 2


def network_key(located: Located, parameters: Parameters) -> str:
    """What a sampled network depends on: the weights, what of them is checked, the wiring, and how it is drawn."""
    return content_key(
        STAGE,
        VERSION,
        weights=located.content_sha256,
        # A local tensor is checked for NaN whole, one on the Hub in the rows that are fetched: not the same question.
        checked=located.kind,
        architecture=located.wired(parameters.reading).digest,
        nodes_per_layer=parameters.nodes_per_layer,
        samples=parameters.samples,
        seed=parameters.seed,
        max_distance=parameters.max_distance if parameters.log_count is None else None,
    )


def store_network(root: str, located: Located, parameters: Parameters, key: str) -> Outcome:
    """Build and store the network of one checkpoint; NaN in its weights is stored as a failure."""

    def work(checkpoint: Checkpoint, architecture: Architecture) -> Artefact:
        return artefact_of(sample_network(checkpoint, parameters, architecture))

    store = ArtefactStore(RunFolder(root))
    return attempt(STAGE, key, lambda: store_of_checkpoint(store, STAGE, key, located, parameters.reading, work))


def artefact_of(network: SampledNetwork) -> Artefact:
    described = {
        "layers": json.dumps([astuple(layer) for layer in network.layers]),
        "sources": json.dumps(network.sources),
        "links": json.dumps([astuple(link) for link in network.links]),
    }
    return Artefact({"neurons": network.neurons, "layer_sizes": network.layer_sizes}, described, network.matrix)


def network_of(artefact: Artefact) -> SampledNetwork:
    layers = tuple(NodeLayer(*layer) for layer in json.loads(artefact.attributes["layers"]))
    sizes = np.asarray(artefact.arrays["layer_sizes"])
    sources = tuple(json.loads(artefact.attributes["sources"]))
    links = tuple(Link(*link) for link in json.loads(artefact.attributes["links"]))
    return SampledNetwork(artefact.matrix, layers, sizes, artefact.arrays["neurons"], sources, links)
