"""What each revision is, from metadata, hashes and headers, before a weight is read; then the audit of each model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ninscope.architectures import DEFAULT_READING, Reading, architecture_of, unlike
from ninscope.checkpoints.audit import Finding, Seen, falsified, findings, unsure
from ninscope.checkpoints.identity import FileIdentity, Identity
from ninscope.checkpoints.source import Source, open_source
from ninscope.checkpoints.tensors import Checkpoint
from ninscope.errors import CheckpointError
from ninscope_pipeline.outcome import Outcome, attempt

STAGE = "locate"


@dataclass(frozen=True)
class Wired:
    """What a checkpoint's network is, read in one way; reading: the key of that way (`Reading.key`).

    digest: of the wiring; weight_bytes: of the tensors that an exact analysis reads; note: what a user should know of it. status,
    message: why it cannot be read so, "ok" and empty where it can.
    """

    reading: str
    family: str = ""
    digest: str = ""
    weight_bytes: int = 0
    note: str = ""
    status: str = "ok"
    message: str = ""

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.status, self.message)


@dataclass(frozen=True)
class Located:
    """One revision of one model.

    The fields after `outcome` are empty where they are not known: of one that could not be opened it may be known which files
    it has, so that others are compared with them. passing: a server did not answer. finding: what the audit says of it beside
    its siblings; no_e: why E of it would be false, empty where it would not; otherwise_wired: why it can have none; unsure: what
    the audit could not see. fingerprint: by which its facts may be remembered. readings: the ways in which it is to be read;
    wirings: what it then is. base, base_revision: into what an adapter is merged.
    """

    suite: str
    model: str
    source: str
    revision: str
    step: int | None
    outcome: Outcome = field(default=Outcome())
    identity: Identity | None = None
    kind: str | None = None
    wirings: tuple[Wired, ...] = ()
    parameters: int | None = None
    stamps: tuple[tuple[str, FileIdentity], ...] = ()  # of local files, by path
    fingerprint: str | None = None
    passing: bool = False
    finding: Finding | None = None
    no_e: str = ""
    otherwise_wired: str = ""
    unsure: str = ""
    readings: tuple[Reading, ...] = (DEFAULT_READING,)
    base: str | None = None
    base_revision: str | None = None

    @property
    def id(self) -> tuple[str, str, str]:
        """What tells it from other checkpoints of a run."""
        return self.suite, self.model, self.revision

    def opened(self) -> Source:
        """Where it is. Raises RequestError."""
        return open_source(self.source, self.base, self.base_revision)

    @property
    def content_sha256(self) -> str | None:
        return self.identity.content_sha256 if self.identity is not None else None

    def wired(self, reading: Reading) -> Wired:
        """What its network is, read so."""
        return next(wired for wired in self.wirings if wired.reading == reading.key)

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
            _identify(located.opened(), located.revision, located.readings, known, found)
        except CheckpointError as error:
            found["passing"] = error.passing
            raise

    outcome = attempt(STAGE, task_key(located.suite, located.model, located.revision), work)
    return replace(located, outcome=outcome, **found)


def _identify(
    source: Source, revision: str, readings: Sequence[Reading], known: Mapping[str, FileIdentity], found: dict
) -> None:
    """Add to `found` what is found out, step by step. Raises CheckpointError."""
    identity = source.identify(revision, known)
    found["identity"] = identity
    found["stamps"] = tuple((source.stamp_path(revision, file), file) for file in identity.all_files if file.stamp)
    checkpoint = source.open(revision, identity)
    wirings = [_wired(checkpoint, reading) for reading in readings]
    failed = [wired for wired in wirings if wired.status != "ok"]
    if len(failed) == len(wirings):
        raise CheckpointError(failed[0].status, failed[0].message)
    found |= {"kind": source.kind, "parameters": checkpoint.parameters, "wirings": tuple(wirings)}


def _wired(checkpoint: Checkpoint, reading: Reading) -> Wired:
    try:
        architecture = architecture_of(checkpoint.config, checkpoint.tensors, reading)
        used = architecture.tensors(checkpoint.tensors)
    except CheckpointError as error:
        return Wired(reading.key, status=error.status, message=str(error))
    size = sum(matrix.bytes for matrix in used.values())
    return Wired(reading.key, architecture.family, architecture.digest, size, architecture.note)


def audited(
    located: Sequence[Located], siblings: Sequence[Seen], baseline_step: int, trust_duplicates: bool
) -> list[Located]:
    """The revisions of one model with what the audit says of each, among themselves and their siblings.

    One of another shape than its siblings is another model's, and corrupt. Duplicates that are to be trusted keep their E.
    """
    located = _comparable(located, baseline_step)
    seen = [_seen(one) for one in located]
    found, unknown = findings([*seen, *siblings]), unsure([*seen, *siblings])
    reasons = {} if trust_duplicates else falsified(found, baseline_step)
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


def _comparable(located: Sequence[Located], baseline_step: int) -> list[Located]:
    """Checkpoints of an unknown type beside others of a known family are unsupported; what is wired otherwise than the baseline
    has no E."""
    families = {one.revision: {wired.family: wired.note for wired in one.wirings if wired.family} for one in located}
    alone = unlike(families)
    start = next((one for one in located if one.step == baseline_step and one.wirings), None)
    found = []
    for one in located:
        if one.outcome.ok and (error := alone.get(one.revision)) is not None:
            one = replace(one, outcome=replace(one.outcome, status=error.status, message=str(error)))
        elif start is not None and _otherwise_wired(one, start):
            one = replace(one, otherwise_wired=f"its tensors are wired otherwise than those of {start.revision}: no E")
        found.append(one)
    return found


def _otherwise_wired(one: Located, start: Located) -> bool:
    """In a way in which both can be read: where one cannot, that is said of it, and the other ways have their E."""
    digests = {wired.reading: wired.digest for wired in start.wirings if wired.status == "ok"}
    return any(
        wired.digest != digests.get(wired.reading, wired.digest) for wired in one.wirings if wired.status == "ok"
    )


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
