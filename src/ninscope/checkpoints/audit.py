"""Audit: what the files of a model's revisions say about each other, before a weight is read.

Suites are published with revisions that hold another step's weights, or one shard of them, or weights of another model, and
nothing in such a file is wrong by itself. Only side by side are they found: equal digests, unlike sizes, unlike shapes.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ninscope.checkpoints.identity import Identity
from ninscope.errors import CheckpointError, one_line

Value = TypeVar("Value", bound=Hashable)

NAMED = 3  # revisions or shards that a message names; of more it says how many
OVERRIDE = "--trust-duplicates overrides"
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

    def check_known(self) -> None:
        """Raises CheckpointError where it could not even be identified, so that nobody need ask, and wait, again."""
        if self.content_sha256 is None:
            raise CheckpointError(self.status, self.message)

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
    unlike = _unlike_size(known) | _unlike_shape(known)  # what has another shape has another size too
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
        one_line("; ".join(notes)),
        row.identity.bytes,
        row.identity.content_sha256,
        tuple(dict.fromkeys(other for others in copies.values() for other in others)),
        "" if unlike is None else unlike[0],
    )


def falsified(rows: Sequence[Finding], baseline_step: int = 0) -> dict[str, str]:
    """Revisions whose E would be false, each with the reason in one clause: a baseline that is a duplicate falsifies all."""
    baseline = _false_baseline(rows, baseline_step)
    if baseline is None:
        duplicates = [finding for finding in rows if finding.status == "duplicate"]
        return {finding.revision: f"no E: {finding.message} ({OVERRIDE})" for finding in duplicates}
    reason = f"no E: the baseline {baseline.revision} is a duplicate ({baseline.message}; {OVERRIDE})"
    return {finding.revision: reason for finding in rows}


def verdict(rows: Sequence[Finding], baseline_step: int = 0) -> str:
    """One line: how many revisions have which status, and what follows for E."""
    counted = Counter(finding.status for finding in rows)
    listed = ", ".join(f"{number} {status}" for status, number in counted.items() if status != "ok")
    line = f"{counted['ok']} of {len(rows)} revisions ok" + (f"; {listed}" if listed else "")
    if _false_baseline(rows, baseline_step) is not None:
        return f"{line}; its baseline is a duplicate, so no E against it means anything"
    if counted["duplicate"]:
        return f"{line}; no E is given for the duplicates"
    return line


def _false_baseline(rows: Sequence[Finding], step: int) -> Finding | None:
    """A revision that E may be compared with and that is a duplicate; several may state the step."""
    return next((finding for finding in rows if finding.step == step and finding.status == "duplicate"), None)


def unsure(seen: Sequence[Seen]) -> str:
    """One clause where some revisions could not be asked for, so that others may be the same; empty where all were."""
    if names := [row.revision for row in seen if row.passing]:
        return one_line(f"whether {_listed(names)} hold the same weights is not known: they could not be asked for")
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
            clauses.append(f"the same weights as {_listed(others)}")
        else:
            verb = "is that" if len(names) == 1 else "are those"
            clauses.append(f"{_listed(names)} (of {len(identity.files)} shards) {verb} of {_listed(others)}")
    return ", ".join(clauses[:NAMED]) + (f" and {len(clauses) - NAMED} more" if len(clauses) > NAMED else "")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"


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
    """Revisions whose configuration states other dimensions than that of most."""
    usual = _usual(row.identity.shape for row in known)
    if usual is None:
        return {}
    expected, unlike = dict(usual), {}
    for row in known:
        own = dict(row.identity.shape)
        names = [name for name in dict.fromkeys((*expected, *own)) if own.get(name) != expected.get(name)]
        if names:
            first = names[0]
            note = (
                f"its config.json has {first} {own.get(first, 'absent')}, its siblings' {expected.get(first, 'absent')}"
            )
            unlike[row.revision] = ("shape", note)
    return unlike


def _usual(values: Iterable[Value]) -> Value | None:
    """The value that more than half have, among three or more; None where there is none: nobody is odd among equals."""
    counted = Counter(values)
    if counted.total() < 3:
        return None
    value, times = counted.most_common(1)[0]
    return value if 2 * times > counted.total() else None
