"""Audit: what the files of a model's revisions say about each other, before a weight is read.

Suites are published with revisions that hold another step's weights, or one shard of them, or weights of another model, and
nothing in such a file is wrong by itself. Only side by side are they found: equal digests, unlike sizes, unlike shapes.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ninscope.checkpoints.baseline import STEP_0, Baseline
from ninscope.checkpoints.identity import Identity
from ninscope.errors import CheckpointError, one_line
from ninscope.wording import first_names, joined_clauses

Value = TypeVar("Value", bound=Hashable)

OVERRIDE = "--trust-duplicates overrides"
VOCABULARY = "vocab_size"
RESHARDED = 0.01  # by this part of their bytes may the same weights differ that are split into files in another way


@dataclass(frozen=True)
class Seen:
    """One revision: what its files are, or (identity None) the status and message that say why that is not known.

    passing: it could not be asked for, and may be anything.
    """

    revision: str
    step: int | None
    identity: Identity | None
    status: str = "ok"
    message: str = ""
    passing: bool = False


@dataclass(frozen=True)
class Finding:
    """What the audit says of one revision.

    status, message: ok, duplicate, missing, corrupt (also: unlike its siblings) or unsupported, and why. copies: other
    revisions with a step that hold the same weights, or a shard of them. unlike: "size" or "shape" where its siblings' is another.
    """

    revision: str
    step: int | None
    status: str
    message: str
    bytes: int | None = None
    content_sha256: str | None = None
    copies: tuple[str, ...] = ()
    unlike: str = ""

    def check_shape(self) -> None:
        """Raises CheckpointError (corrupt) where its shape is not its siblings': it is no checkpoint of this model."""
        if self.unlike == "shape":
            raise CheckpointError("corrupt", f"{self.revision}: {self.message}: not a checkpoint of this model")


@dataclass(frozen=True)
class _Known:
    """One revision that was identified."""

    revision: str
    step: int | None
    identity: Identity


def _identified(seen: Iterable[Seen]) -> list[_Known]:
    return [_Known(row.revision, row.step, row.identity) for row in seen if row.identity is not None]


def findings(seen: Sequence[Seen]) -> list[Finding]:
    """One a revision, in the order given.

    Two steps do not have the same weights (unless nothing was learned between them), so where they do one of them is false,
    and which one no metadata tells: both are duplicates. So are two revisions that state the same step (of two seeds, of two
    branches of a training). A revision without a step (main) may well be another by a second name.
    """
    known = _identified(seen)
    copies = _copies(known)
    resized = _other_vocabularies(known)
    sizes = {revision: note for revision, note in _unlike_size(known).items() if revision not in resized}
    unlike = sizes | _unlike_shape(known)  # what has another shape has another size too
    return [_finding(row, copies.get(row.revision, {}), unlike.get(row.revision)) for row in seen]


def _finding(row: Seen, copies: Mapping[str, tuple[str, ...]], unlike: tuple[str, str] | None) -> Finding:
    """copies: its files that are also another's, and whose; unlike: "size" or "shape", and a clause that says how."""
    if row.identity is None:
        return Finding(row.revision, row.step, row.status, row.message)
    notes = [_copied(row.identity, copies)] if copies else []
    notes += [unlike[1]] if unlike is not None else []
    return Finding(
        row.revision,
        row.step,
        "duplicate" if copies else "corrupt" if unlike is not None else "ok",
        one_line(joined_clauses(*notes)),
        row.identity.bytes,
        row.identity.content_sha256,
        tuple(dict.fromkeys(other for others in copies.values() for other in others)),
        "" if unlike is None else unlike[0],
    )


def falsified(rows: Sequence[Finding], baseline: Baseline = STEP_0) -> dict[str, str]:
    """Revisions whose E would be false, each with the reason in one clause: a baseline that is a duplicate falsifies all."""
    false_baseline = _false_baseline(rows, baseline)
    if false_baseline is None:
        duplicates = [finding for finding in rows if finding.status == "duplicate"]
        return {finding.revision: f"no E: {finding.message} ({OVERRIDE})" for finding in duplicates}
    reason = f"no E: the baseline {false_baseline.revision} is a duplicate ({false_baseline.message}; {OVERRIDE})"
    return {finding.revision: reason for finding in rows}


def verdict(rows: Sequence[Finding], baseline: Baseline = STEP_0) -> str:
    """One line: how many revisions have which status, and what follows for E."""
    counted = Counter(finding.status for finding in rows)
    listed = ", ".join(f"{number} {status}" for status, number in counted.items() if status != "ok")
    line = f"{counted['ok']} of {len(rows)} revisions ok" + (f"; {listed}" if listed else "")
    if _false_baseline(rows, baseline) is not None:
        return f"{line}; its baseline is a duplicate, so no E against it means anything"
    if counted["duplicate"]:
        return f"{line}; no E is given for the duplicates"
    return line


def _false_baseline(rows: Sequence[Finding], baseline: Baseline) -> Finding | None:
    """A revision that E may be compared with and that is a duplicate; several may state the step."""
    return next((row for row in rows if baseline.is_at(row.revision, row.step) and row.status == "duplicate"), None)


def unsure(seen: Sequence[Seen]) -> str:
    """One clause where some revisions could not be asked for, so that others may be the same; empty where all were."""
    if names := [row.revision for row in seen if row.passing]:
        return one_line(f"whether {first_names(names)} hold the same weights is not known: they could not be asked for")
    return ""


def shared_files(seen: Iterable[Seen]) -> set[str]:
    """Revisions that share a file's digest with another."""
    return set(_copies(_identified(seen)))


def _copies(known: Sequence[_Known]) -> dict[str, dict[str, tuple[str, ...]]]:
    """By revision with a step: its files that are also another's, and whose. Equal tensors of adapters whose settings differ are
    not the same: merged, they are other weights."""
    stepped = [row for row in known if row.step is not None]
    holders: dict[tuple[int, str, str | None], list[str]] = defaultdict(list)
    for row in stepped:
        for key in {(file.size, file.digest, row.identity.settings_effect) for file in row.identity.files}:
            holders[key].append(row.revision)
    copies: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
    for row in stepped:
        for file in row.identity.files:
            if len(having := holders[file.size, file.digest, row.identity.settings_effect]) > 1:
                copies[row.revision][file.name] = tuple(other for other in having if other != row.revision)
    return dict(copies)


def _copied(identity: Identity, copies: Mapping[str, tuple[str, ...]]) -> str:
    """Which of its files are whose, in one clause; files that are the same revisions' together."""
    by_others: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, others in copies.items():
        by_others[others].append(name)
    clauses = []
    for others, names in by_others.items():
        if len(names) == len(identity.files):
            clauses.append(f"the same weights as {first_names(others)}")
        else:
            verb = "is that" if len(names) == 1 else "are those"
            clauses.append(f"{first_names(names)} (of {len(identity.files)} shards) {verb} of {first_names(others)}")
    return first_names(clauses)


def _unlike_size(known: Sequence[_Known]) -> dict[str, tuple[str, str]]:
    """Revisions with a file of another size than most of those that are split into the same files, or of another total."""
    by_names: dict[tuple[str, ...], list[_Known]] = defaultdict(list)
    for row in known:
        by_names[tuple(sorted(file.name for file in row.identity.files))].append(row)
    unlike: dict[str, tuple[str, str]] = {}
    for alike in by_names.values():
        sizes_of = {row.revision: {file.name: file.size for file in row.identity.files} for row in alike}
        for name in [file.name for file in alike[0].identity.files]:
            sizes = {revision: size_by_file[name] for revision, size_by_file in sizes_of.items()}
            usual = _usual(sizes.values())
            for revision, size in sizes.items() if usual is not None else ():
                if size != usual:
                    unlike.setdefault(revision, ("size", f"{name} has {size} bytes, its siblings' have {usual}"))
    total = _usual(row.identity.bytes for row in known)
    for row in known:
        if total is not None and abs(row.identity.bytes - total) > RESHARDED * total:
            note = f"its weights take {row.identity.bytes} bytes, its siblings' {total}"
            unlike.setdefault(row.revision, ("size", note))
    return unlike


def _unlike_shape(known: Sequence[_Known]) -> dict[str, tuple[str, str]]:
    """Revisions whose configuration states other dimensions than that of most, and implies another wiring."""
    typical = _typical(known)
    if typical is None:
        return {}
    unlike: dict[str, tuple[str, str]] = {}
    for row in known:
        names = _differing(typical, row.identity)
        if names:
            expected, own = (dict(identity.shape).get(names[0], "absent") for identity in (typical, row.identity))
            note = f"its config.json has {names[0]} {own}, its siblings' {expected}"
            unlike[row.revision] = ("shape", note)
    return unlike


def _typical(known: Sequence[_Known]) -> Identity | None:
    """One of the revisions that more than half are wired like; None where there is no such half."""
    usual = _usual(_shape_key(row.identity) for row in known)
    return next((row.identity for row in known if _shape_key(row.identity) == usual), None)


def _shape_key(identity: Identity) -> Hashable:
    """The same for configurations that imply the same wiring, or, where that is not known, state the same dimensions."""
    return identity.wiring or identity.shape


def _differing(typical: Identity, own: Identity) -> list[str]:
    """Names of dimensions because of which a revision is wired otherwise.

    The vocabulary is none: of known families it is no part of the network, and of others the tensors tell. What a configuration
    leaves out is the default, which only the wiring tells.
    """
    if _shape_key(typical) == _shape_key(own):
        return []
    expected, stated = dict(typical.shape), dict(own.shape)
    wired = bool(typical.wiring and own.wiring)
    names = dict.fromkeys((*expected, *stated) if wired else (name for name in expected if name in stated))
    return [name for name in names if name != VOCABULARY and expected.get(name) != stated.get(name)]


def _other_vocabularies(known: Sequence[_Known]) -> set[str]:
    """Revisions that are wired like most and state another vocabulary: no wonder that their files have another size."""
    typical = _typical(known)
    if typical is None or not typical.wiring:
        return set()
    usual = dict(typical.shape).get(VOCABULARY)
    alike = [row for row in known if row.identity.wiring == typical.wiring]
    return {row.revision for row in alike if dict(row.identity.shape).get(VOCABULARY) != usual}


def _usual(values: Iterable[Value]) -> Value | None:
    """The value that more than half have, among three or more; None where there is none: nobody is odd among equals."""
    counted = Counter(values)
    if counted.total() < 3:
        return None
    value, times = counted.most_common(1)[0]
    return value if 2 * times > counted.total() else None
