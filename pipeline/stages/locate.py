"""Locate: what each revision is, from metadata, hashes and headers, before a weight is read; then the audit of each model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ninscope.pipeline.dagfile import Emergence
from ninscope.pipeline.stages.outcome import Outcome, attempt

from ninscope.architectures import architecture_of
from ninscope.checkpoints.audit import Finding, Seen, falsified, findings, unsure
from ninscope.checkpoints.identity import FileIdentity, Identity
from ninscope.checkpoints.source import Source, open_source
from ninscope.errors import CheckpointError

STAGE = "locate"


@dataclass(frozen=True)
class Located:
    """One revision of one model.

    The fields after `outcome` are empty where they are not known: of one that could not be opened it may be known which files
    it has, so that others are compared with them. passing: a server did not answer. finding: what the audit says of it beside
    its siblings; no_e: why E of it would be false, empty where it would not; unsure: what the audit could not see.
    fingerprint: by which its facts may be remembered.
    """

    suite: str
    model: str
    source: str
    revision: str
    step: int | None
    outcome: Outcome = field(default=Outcome())
    identity: Identity | None = None
    kind: str | None = None
    architecture: str | None = None
    parameters: int | None = None
    weight_bytes: int | None = None  # of the tensors that an exact analysis reads
    stamps: tuple[tuple[str, FileIdentity], ...] = ()  # of local files, by path
    fingerprint: str | None = None
    passing: bool = False
    finding: Finding | None = None
    no_e: str = ""
    unsure: str = ""

    @property
    def content_sha256(self) -> str | None:
        return self.identity.content_sha256 if self.identity is not None else None

    @property
    def bytes(self) -> int | None:
        return self.identity.bytes if self.identity is not None else None


def task_key(suite: str, model: str, revision: str) -> str:
    """What the run's log calls the locating of one revision."""
    return f"{suite}-{model}-{revision}"


def locate(located: Located, known: Mapping[str, FileIdentity]) -> Located:
    """Identify a revision of which the first fields say which it is: its hashes (those in `known` again only if the file
    changed), configuration, tensor shapes.
    """
    found: dict = {}

    def work() -> None:
        try:
            _identify(open_source(located.source), located.revision, known, found)
        except CheckpointError as error:
            found["passing"] = error.passing
            raise

    outcome = attempt(STAGE, task_key(located.suite, located.model, located.revision), work)
    return replace(located, outcome=outcome, **found)


def _identify(source: Source, revision: str, known: Mapping[str, FileIdentity], found: dict) -> None:
    """Add to `found` what is found out, step by step. Raises CheckpointError."""
    identity = source.identify(revision, known)
    found["identity"] = identity
    found["stamps"] = tuple((source.stamp_path(revision, file), file) for file in identity.files if file.stamp)
    checkpoint = source.open(revision, identity)
    architecture = architecture_of(checkpoint.config, checkpoint.tensors)
    used = architecture.tensors(checkpoint.tensors)
    found |= {
        "kind": source.kind,
        "architecture": architecture.digest,
        "parameters": checkpoint.parameters,
        "weight_bytes": sum(matrix.bytes for matrix in used.values()),
    }


def audited(located: Sequence[Located], siblings: Sequence[Seen], asked: Emergence) -> list[Located]:
    """The revisions of one model with what the audit says of each, among themselves and their siblings.

    One of another shape than its siblings is another model's, and corrupt. Duplicates that are to be trusted keep their E.
    """
    seen = [_seen(one) for one in located]
    found, unknown = findings([*seen, *siblings]), unsure([*seen, *siblings])
    reasons = {} if asked.trust_duplicates else falsified(found, asked.baseline_step)
    return [
        replace(
            one,
            finding=finding,
            no_e=reasons.get(one.revision, ""),
            unsure=unknown,
            outcome=_settled(one.outcome, finding),
        )
        for one, finding in zip(located, found, strict=False)
    ]


def _seen(one: Located) -> Seen:
    passing = one.passing and one.identity is None
    return Seen(one.revision, one.step, one.identity, one.outcome.status, one.outcome.message, passing)


def _settled(outcome: Outcome, finding: Finding) -> Outcome:
    if not outcome.ok:
        return outcome
    try:
        finding.check_shape()
    except CheckpointError as error:
        return replace(outcome, status=error.status, message=str(error))
    return outcome
