"""Locate: what each revision is, from metadata, hashes and headers, before a weight is read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ninscope.pipeline.dagfile import Model
from ninscope.pipeline.stages.outcome import Outcome, attempt

from ninscope.architectures import architecture_of
from ninscope.checkpoints.identity import FileIdentity, Identity
from ninscope.checkpoints.source import Source, open_source
from ninscope.checkpoints.steps import in_step_order


@dataclass(frozen=True)
class Located:
    """One revision of one model. The fields after `outcome` are empty where it is not ok."""

    suite: str
    model: str
    source: str
    revision: str
    step: int | None
    outcome: Outcome
    identity: Identity | None = None
    kind: str | None = None
    architecture: str | None = None
    parameters: int | None = None
    weight_bytes: int | None = None  # of the tensors that an exact analysis reads
    stamps: tuple[tuple[str, FileIdentity], ...] = ()

    @property
    def content_sha256(self) -> str | None:
        return self.identity.content_sha256 if self.identity is not None else None

    @property
    def bytes(self) -> int | None:
        return self.identity.bytes if self.identity is not None else None


def revisions_of(model: Model) -> list[str]:
    """The revisions a DAG file asks for, in step order. Raises RequestError when the source has none."""
    return open_source(model.source).revisions() if model.revisions == "all" else in_step_order(model.revisions)


def locate(model: Model, revision: str, known: Mapping[str, FileIdentity]) -> Located:
    """Identify one revision: hashes (those in `known` again only if the file changed), configuration, tensor shapes."""
    source = open_source(model.source)
    found: dict = {}
    outcome = attempt(lambda: found.update(_identified(source, revision, known)))
    step = source.step_of(revision)
    return Located(model.suite, model.model, model.source, revision, step, outcome, **(found if outcome.ok else {}))


def _identified(source: Source, revision: str, known: Mapping[str, FileIdentity]) -> dict:
    identity = source.identify(revision, known)
    checkpoint = source.open(revision, identity)
    architecture = architecture_of(checkpoint.config)
    used = architecture.tensors(checkpoint.tensors)
    return {
        "identity": identity,
        "kind": source.kind,
        "architecture": architecture.digest,
        "parameters": checkpoint.parameters,
        "weight_bytes": sum(math.prod(tensor.shape) * tensor.item_bytes for tensor in used.values()),
        "stamps": tuple((source.stamp_path(revision, file), file) for file in identity.files if file.stamp),
    }
