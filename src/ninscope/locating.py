"""What each revision of a model is, before a weight is analysed: found, read as a network, and judged beside its siblings.

`ninscope.measure_all`, `sampling_bias` and a run all locate and audit by these functions, so that a checkpoint has the same
status and message whichever command names it. `multifractal.emergence.compared` is the last step: E, or why there is none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ninscope.architectures import Reading, unlike
from ninscope.auditing import identified_revision, look_at
from ninscope.checkpoints.audit import Finding, Seen, falsified, findings, unsure
from ninscope.checkpoints.baseline import STEP_0, Baseline, baseline_of, stated_step
from ninscope.checkpoints.identity import FileIdentity, Identity
from ninscope.checkpoints.source import Source
from ninscope.checkpoints.tensors import Checkpoint
from ninscope.checkpoints.verification import rest_bytes
from ninscope.errors import CheckpointError, RequestError
from ninscope.networks.neuron_network import NeuronNetwork, neuron_network
from ninscope.wording import first_names, outer_names


@dataclass(frozen=True)
class Wiring:
    """How the network of a checkpoint is wired, read in one way; of NeuronNetwork what can be stored and compared.

    reading: the key of the way (`Reading.key`). family, digest, weight_bytes, note, warning: as in NeuronNetwork. rest_bytes: what
    is fetched beside the weights to check hashes. preparation_bytes: as in NeuronNetwork. status, message: "ok"
    and empty, or why it cannot be read in this way.
    """

    reading: str
    family: str = ""
    digest: str = ""
    weight_bytes: int = 0
    note: str = ""
    status: str = "ok"
    message: str = ""
    warning: str = ""
    rest_bytes: int = 0
    preparation_bytes: int = 0

    @classmethod
    def of(cls, network: NeuronNetwork, reading: Reading) -> "Wiring":
        wired = (network.family, network.digest, network.weight_bytes, network.note)
        return cls(
            reading.key,
            *wired,
            warning=network.warning,
            # What is read twice cannot be checked by one hash.
            rest_bytes=0 if network.preparation_bytes else rest_bytes(network.matrices.values()),
            preparation_bytes=network.preparation_bytes,
        )


@dataclass(frozen=True)
class LocatedRevision:
    """One revision of a model: what is known of it before its weights are analysed.

    status, message: as in the table `checkpoints`; passing: a server did not answer, and the revision may well be there another
    time. identity: its files, None where they are not known; a revision that cannot be opened may still have one, with which
    others are compared. kind: of its source, "local" or "hub". parameters: numbers stored in the checkpoint. wirings: one for
    each way in which it was to be read. stamps: identities of its local files, by path.

    The audit adds: finding, what is said of the revision beside its siblings; falsified, why its E would be false, or empty;
    otherwise_wired, why it has no E though nothing is wrong with it, or empty; unsure, what the audit could not find out.
    """

    revision: str
    step: int | None
    status: str = "ok"
    message: str = ""
    passing: bool = False
    identity: Identity | None = None
    kind: str | None = None
    parameters: int | None = None
    wirings: tuple[Wiring, ...] = ()
    stamps: tuple[tuple[str, FileIdentity], ...] = ()
    finding: Finding | None = None
    falsified: str = ""
    otherwise_wired: str = ""
    unsure: str = ""

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def content_sha256(self) -> str | None:
        return self.identity.content_sha256 if self.identity is not None else None

    @property
    def no_emergence(self) -> str:
        """Why the audit allows no E of this revision, one clause; empty where it allows one."""
        return self.falsified or self.otherwise_wired

    @property
    def emergence_status(self) -> str:
        """The status of a row that holds E of this revision, which is ok itself."""
        return "duplicate" if self.falsified else "ok"

    def wiring(self, reading: Reading) -> Wiring:
        """How it is wired, read in this way, which is one of those it was located with."""
        return next(wiring for wiring in self.wirings if wiring.reading == reading.key)

    def audit_note(self, trust_duplicates: bool = False) -> tuple[str, bool]:
        """(what the audit says of a checkpoint that can be analysed all the same, whether it is a duplicate)."""
        finding = self.finding
        if finding is None or finding.content_sha256 is None or not finding.message or finding.unlike == "shape":
            return "", False
        if finding.status == "duplicate" and not trust_duplicates:
            return finding.message, True
        # Trusted; or of another size than its siblings, and yet it could be read whole.
        return (f"trusted: {finding.message}" if finding.copies else finding.message), False

    def check(self) -> None:
        """Raises CheckpointError unless the revision is ok."""
        if not self.ok:
            raise CheckpointError(self.status, self.message, self.passing)


Located = TypeVar("Located", bound=LocatedRevision)


def revision_of(source: Source, revision: str | int | None = None) -> str:
    """The revision of a source that is named (`named_revision`), or its only one.

    Raises RequestError where there are several and none is named.
    """
    if revision is not None:
        return named_revision(source, revision)
    revisions = source.revisions()
    if len(revisions) > 1:
        raise RequestError(
            f"{source.label} has {len(revisions)} revisions ({revisions[0]} ... {revisions[-1]}); name one with revision="
        )
    return revisions[0]


def named_revision(source: Source, requested: str | int) -> str:
    """The revision of that name, or else the only one of that step (30 or "30").

    A name that the source does not list stays as it is: a Hub has tags and commits too. Raises RequestError: it is no name, or
    several revisions state the step.
    """
    is_number = isinstance(requested, int) or (isinstance(requested, str) and requested.isdecimal())
    step = stated_step(requested) if is_number else None
    if step is not None:
        listed = source.revisions()
        if requested in listed or requested in source.names():
            return str(requested)
        of_step = [name for name in listed if source.step_of(name) == step]
        if len(of_step) > 1:
            raise RequestError(
                f"revision {requested!r}: {source.label} has several revisions of that step ({first_names(of_step, 3)}); name one"
            )
        if of_step:
            return of_step[0]
        if not isinstance(requested, str):
            raise RequestError(
                f"revision {requested!r}: {source.label} has no revision of that step; it has {outer_names(listed)}"
            )
    if not isinstance(requested, str):
        raise RequestError(f"revision is {requested!r}; a name was expected, such as 'step1000'")
    return requested


def with_identity(
    located: Located, source: Source, known: Mapping[str, FileIdentity] | None = None, thorough: bool = True
) -> Located:
    """The revision with its files' identity, or with the status and message that say why there is none.

    known, thorough: as `Source.identify` takes them.
    """
    try:
        identity = identified_revision(source, located.revision, known, thorough)
    except CheckpointError as error:
        return failed(located, error)
    stamps = tuple((source.stamp_path(located.revision, file), file) for file in identity.all_files if file.stamp)
    return replace(located, identity=identity, stamps=stamps)


def with_wirings(located: Located, source: Source, readings: Sequence[Reading]) -> Located:
    """The revision with its wiring in each way of reading. It fails where it can be read in none of them."""
    if not located.ok:
        return located
    try:
        checkpoint = source.open(located.revision, located.identity)
    except CheckpointError as error:
        return failed(located, error)
    wirings = tuple(_wiring(checkpoint, reading) for reading in readings)
    if all(wiring.status != "ok" for wiring in wirings):
        return replace(located, status=wirings[0].status, message=wirings[0].message)
    return replace(located, kind=source.kind, parameters=checkpoint.parameters, wirings=wirings)


def _wiring(checkpoint: Checkpoint, reading: Reading) -> Wiring:
    try:
        return Wiring.of(neuron_network(checkpoint, reading), reading)
    except CheckpointError as error:
        return Wiring(reading.key, status=error.status, message=str(error))


def failed(located: Located, error: CheckpointError) -> Located:
    """The revision with an error's status and message."""
    return replace(located, status=error.status, message=str(error), passing=error.passing)


def locate_siblings(
    source: Source, revision: str | None = None, trust_duplicates: bool = False, baseline: Baseline = STEP_0
) -> list[LocatedRevision]:
    """All revisions of a source, by step, identified and audited; no header is read.

    Local files are hashed only where they may be equal to another's. revision: one (of `named_revision`) to be located too, as is
    a named baseline, where the source does not list it (main, a tag). Raises RequestError.
    """
    named = [name for name in (baseline.revision, revision) if name is not None]
    listed = [(name, source.step_of(name)) for name in dict.fromkeys((*source.revisions(), *named))]
    located = [
        LocatedRevision(seen.revision, seen.step, seen.status, seen.message, seen.passing, seen.identity)
        for seen in look_at(source, listed, thorough=False)
    ]
    return audit_revisions(located, baseline=baseline, trust_duplicates=trust_duplicates)


def named_baseline(source: Source, requested: str | int | None) -> Baseline:
    """The baseline that a user names, of all that the source has (`baseline_of`). Raises RequestError."""
    listed = source.revisions()
    if isinstance(requested, str) and requested not in listed and requested in source.names():
        listed = [*listed, requested]
    return baseline_of(requested, [(name, source.step_of(name)) for name in listed], source.label)


def audit_revisions(
    located: Sequence[Located],
    siblings: Sequence[Seen] = (),
    baseline: Baseline = STEP_0,
    trust_duplicates: bool = False,
) -> list[Located]:
    """The revisions of one model, each with what the audit says of it among the others and `siblings`, which nobody asked for.

    A revision of another shape than its siblings is another model's, hence corrupt. One of no known family beside siblings of a
    known one is unsupported. One that is wired otherwise than the baseline has no E. A duplicate has none, nor has any revision
    where the baseline is a duplicate, unless duplicates are trusted.
    """
    located = _comparable(located, baseline)
    seen = [*(_seen(revision) for revision in located), *siblings]
    judged = findings(seen)
    reasons = {} if trust_duplicates else falsified(judged, baseline)
    unknown = unsure(seen)
    return [
        _settled(
            replace(revision, finding=finding, falsified=reasons.get(revision.revision, ""), unsure=unknown), finding
        )
        for revision, finding in zip(located, judged, strict=False)  # those of siblings are last
    ]


def _comparable(located: Sequence[Located], baseline: Baseline) -> list[Located]:
    families = {
        revision.revision: {wiring.family: wiring.note for wiring in revision.wirings if wiring.family}
        for revision in located
    }
    strangers = unlike(families)
    start = next((other for other in located if baseline.is_at(other.revision, other.step) and other.wirings), None)
    compared = []
    for revision in located:
        if revision.ok and revision.revision in strangers:
            revision = failed(revision, strangers[revision.revision])
        elif start is not None and _otherwise_wired(revision, start):
            clause = f"its tensors are wired otherwise than those of {start.revision}: no E"
            revision = replace(revision, otherwise_wired=clause)
        compared.append(revision)
    return compared


def _otherwise_wired(located: LocatedRevision, start: LocatedRevision) -> bool:
    """In a way in which both can be read. Where one cannot be read, its wiring says so, and the other ways have their E."""
    digests = {wiring.reading: wiring.digest for wiring in start.wirings if wiring.status == "ok"}
    return any(
        wiring.digest != digests.get(wiring.reading, wiring.digest)
        for wiring in located.wirings
        if wiring.status == "ok"
    )


def _seen(located: LocatedRevision) -> Seen:
    passing = located.passing and located.identity is None
    return Seen(located.revision, located.step, located.identity, located.status, located.message, passing)


def _settled(located: Located, finding: Finding) -> Located:
    if not located.ok:
        return located
    try:
        finding.check_shape()
    except CheckpointError as error:
        return failed(located, error)
    return located
