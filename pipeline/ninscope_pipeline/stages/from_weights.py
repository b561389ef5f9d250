"""What stages that read a checkpoint's weights share: opening it, and seeing that its files are still those of the plan."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from ninscope.architectures import Reading
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError
from ninscope.networks.neuron_network import NeuronNetwork, neuron_network
from ninscope_pipeline.located import Located
from ninscope_pipeline.request.analyses import DEFAULT, Analysis
from ninscope_pipeline.stages.stage import Fetch, Job, Stage
from ninscope_pipeline.storing.store import ArtefactStore

W = TypeVar("W")


class WeightsStage(Stage[W]):
    """A stage whose jobs read the weights of `job.checkpoint`."""

    def check_unchanged(self, store: ArtefactStore, job: Job[W]) -> None:
        checkpoint = checkpoint_of(job)
        checkpoint.opened().check_unchanged(checkpoint.known_identity)


def checkpoint_of(job: Job) -> Located:
    """The checkpoint whose weights the job reads."""
    if job.checkpoint is None:
        raise ValueError(f"the job {job.label} of the stage {job.stage} is of no checkpoint")
    return job.checkpoint


def network_of(job: Job, reading: Reading) -> NeuronNetwork:
    """The network of the job's checkpoint, ready to be read, wired as when the job was planned. Raises CheckpointError."""
    located = checkpoint_of(job)
    network = neuron_network(located.opened().open(located.revision, located.identity), reading)
    if network.digest != located.wiring(reading).digest:  # the job's key was made of that
        message = f"{located.revision}: its configuration or its tensors changed since they were located; run again"
        raise CheckpointError("corrupt", message)
    return network


def configuration_digest(located: Located) -> str:
    """Of the config.json beside the weights, an adapter's being its base's: its sha256, or what a Hub states of it; "" for none.

    It is part of a key where a result depends on more of a configuration than the network's wiring. Raises ValueError where the
    checkpoint's files are not known.
    """
    identity, source = located.known_identity, located.source
    if identity.base is not None:
        identity, source = identity.base, located.base or source
    stated = [file.digest for file in identity.beside if file.name.endswith("config.json")]
    if stated or identity.commit is not None:
        return stated[0] if stated else str(identity.commit)
    path = Path(open_source(source).stamp_path(identity.revision, identity.files[0])).parent / "config.json"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def fetched_whole(read: Iterable[Located], reading: Reading, passes: int = 1) -> Fetch | None:
    """What reading all matrices of these checkpoints fetches, so many times over, as far as they are on a Hub.

    A reading in a fixed gauge takes one pass more before the first, for the norms that decide its factors.
    """
    wirings = [located.wiring(reading) for located in read if located.kind == "hub"]
    total = sum(passes * (wiring.weight_bytes + wiring.rest_bytes) + wiring.preparation_bytes for wiring in wirings)
    return Fetch(total) if wirings else None


def label_of(located: Located, analysis: Analysis) -> str:
    """What a user reads for an analysis of a checkpoint."""
    label = f"{located.suite}/{located.model} {located.revision}"
    return label if analysis.variant == DEFAULT else f"{label} {analysis.variant}"
