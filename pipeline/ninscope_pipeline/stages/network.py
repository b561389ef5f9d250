"""Networks: the sampled neurons of a checkpoint and the edges among them, stored for later analyses (stage `nin`)."""

import json
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import numpy as np

from ninscope.architectures.layout import Link, NodeLayer
from ninscope.measuring import sample_network
from ninscope.networks.sampled import SampledNetwork, sampled_bytes
from ninscope.parameters import Parameters
from ninscope_pipeline.located import Located, reading_outcome
from ninscope_pipeline.request.analyses import SAMPLED
from ninscope_pipeline.stages.from_weights import WeightsStage, checkpoint_of, label_of, network_of
from ninscope_pipeline.stages.stage import Fetch, Job
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    from ninscope_pipeline.plan import Request


@dataclass(frozen=True)
class NetworkWork:
    """How the network is drawn."""

    parameters: Parameters


class NetworkStage(WeightsStage[NetworkWork]):
    name, title, version = "nin", "networks", 2

    def jobs(self, request: "Request") -> Iterator[Job[NetworkWork]]:
        for located in request.checkpoints:
            for analysis in request.analyses:
                if analysis.method == SAMPLED:
                    outcome = reading_outcome(located, analysis.parameters.reading)
                    key = network_key(located, analysis.parameters) if outcome.ok else ""
                    yield Job(
                        self.name, key, label_of(located, analysis), NetworkWork(analysis.parameters),
                        checkpoint=located, name=analysis.network_name, known=outcome,
                    )  # fmt: skip

    def make(self, store: ArtefactStore, job: Job[NetworkWork]) -> Artefact:
        parameters = job.work.parameters
        network = network_of(job, parameters.reading)
        return artefact_of_network(sample_network(network, parameters))

    def fetch(self, job: Job[NetworkWork]) -> Fetch | None:
        """Exactly the rows that the samples take, from the checkpoint's headers."""
        if checkpoint_of(job).kind != "hub":
            return None
        parameters = job.work.parameters
        network = network_of(job, parameters.reading)
        rows = sampled_bytes(network, parameters.sampled_nodes, parameters.samples, parameters.seed)
        return Fetch(rows + network.preparation_bytes)


NETWORK = NetworkStage()


def network_key(located: Located, parameters: Parameters) -> str:
    """What a sampled network depends on: the weights, how many of them are checked, the wiring, and how it is drawn."""
    return content_key(
        NETWORK.name,
        NETWORK.version,
        weights=located.content_sha256,
        # A local tensor is checked for NaN whole, one on the Hub in the rows that are fetched: not the same question.
        checked=located.kind,
        architecture=located.wiring(parameters.reading).digest,
        nodes_per_layer=parameters.nodes_per_layer,
        samples=parameters.samples,
        seed=parameters.seed,
        max_distance=parameters.max_distance if parameters.log_count is None else None,
    )


def artefact_of_network(network: SampledNetwork) -> Artefact:
    """A network as it is stored: one CSR matrix of all samples, sampled neurons, layers and links."""
    described = {
        "layers": json.dumps([astuple(layer) for layer in network.layers]),
        "sources": json.dumps(network.sources),
        "links": json.dumps([astuple(link) for link in network.links]),
        **({"unverified": network.unverified} if network.unverified else {}),
    }
    return Artefact({"neurons": network.neurons, "layer_sizes": network.layer_sizes}, described, network.matrix)


def stored_network(artefact: Artefact) -> SampledNetwork:
    """The network that `artefact_of_network` stored. Raises ValueError: the artefact was read without its matrix."""
    if artefact.matrix is None:
        raise ValueError("the artefact of a network was read without its matrix")
    layers = tuple(NodeLayer(*layer) for layer in json.loads(artefact.attributes["layers"]))
    sizes = np.asarray(artefact.arrays["layer_sizes"])
    sources = tuple(json.loads(artefact.attributes["sources"]))
    links = tuple(Link(*link) for link in json.loads(artefact.attributes["links"]))
    note = artefact.attributes.get("unverified", "")
    return SampledNetwork(artefact.matrix, layers, sizes, artefact.arrays["neurons"], sources, links, note)
