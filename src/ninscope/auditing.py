"""The audit of a source: every revision beside its siblings, before a byte of weights is read. ninscope.audit is this."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from ninscope.architectures import implied_wiring
from ninscope.checkpoints.audit import Finding, Seen, findings, shared_files
from ninscope.checkpoints.hash_cache import cache_files, cached_files
from ninscope.checkpoints.identity import FileIdentity, Identity
from ninscope.checkpoints.revisions import unstated
from ninscope.checkpoints.source import Source, open_source
from ninscope.checkpoints.suites import suite_of
from ninscope.errors import CheckpointError, RequestError
from ninscope.progress import counting
from ninscope.threads import cores

if TYPE_CHECKING:
    import pandas as pd

HUB_THREADS = 32  # they wait for answers; threads for local files hash

COLUMNS = {
    "revision": "string", "step": "Int64", "status": "string", "message": "string", "bytes": "Int64", "content_sha256": "string",
}  # fmt: skip


def audit(source: str, progress: bool = False) -> "pd.DataFrame":
    """One row a revision, by step: revision, step, status, message, bytes, content_sha256.

    source: a folder, or a Hub repository id. From a Hub only metadata are fetched, no weights. Local files are hashed, and
    hashed again only when they have changed. Where ninscope knows the published suite, its absent steps are rows too (missing).

    status: ok, duplicate (the same weights, or shards, as another step's; the message says which), missing, corrupt (an
    unreadable index, or another size or shape than its siblings'). A run measures what is merely stored in another way:
    it reads headers too. Where names are numbered and state no step, `attrs["note"]` of the DataFrame says how to say it.
    progress: show a bar on standard error. Raises RequestError: no such source, nothing in it.
    """
    notes: list[str] = []
    table = table_of(audit_findings(source, notes.append, progress))
    if notes:
        table.attrs["note"] = notes[0]
    return table


def table_of(findings: Sequence[Finding]) -> "pd.DataFrame":
    """The findings as a DataFrame."""
    import pandas as pd  # slow to import, and measuring needs none

    rows = [{name: getattr(finding, name) for name in COLUMNS} for finding in findings]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def audit_findings(
    source: str, note: Callable[[str], object] = lambda text: None, progress: bool = False
) -> list[Finding]:
    """What `audit` shows, as findings, by step. note: called with what is to be said of the source; progress: show a bar on
    standard error.

    Raises RequestError.
    """
    opened = open_source(source)
    revisions = opened.revisions()
    steps: dict[str, int | None] = {}
    suite = suite_of(source) if opened.kind == "hub" else None
    if suite is not None:
        with suppress(RequestError):  # none of them is named as the suite's are
            steps = dict(suite.revisions.chosen(opened.names()))
    if not steps and (clause := unstated(opened.names())):
        note(clause)
    listed = [(name, steps.get(name, opened.step_of(name))) for name in dict.fromkeys((*revisions, *steps))]
    listed.sort(key=lambda entry: (entry[1] is None, entry[1] or 0, entry[0]))
    with counting(f"auditing {source}", len(listed), quiet=not progress) as bar:
        seen = look_at(opened, listed, cached_files() if opened.kind == "local" else {}, done=bar.advance)
    keep_hashes(opened, seen)
    return findings(seen)


def identified_revision(
    source: Source, revision: str, known: Mapping[str, FileIdentity] | None = None, thorough: bool = True
) -> Identity:
    """As `Source.identify`, with the wiring that its configuration implies. Raises CheckpointError."""
    identity = source.identify(revision, known, thorough)
    return replace(identity, wiring=implied_wiring(source.config(revision)))


def keep_hashes(source: Source, seen: Sequence[Seen]) -> None:
    """Keep the hashes of local files for this user's next commands."""
    identities = [(revision.revision, revision.identity) for revision in seen if revision.identity is not None]
    files = [(revision, file) for revision, identity in identities for file in identity.all_files if file.stamp]
    cache_files({source.stamp_path(revision, file): file for revision, file in files})


def look_at(
    source: Source,
    revisions: Sequence[tuple[str, int | None]],
    known: Mapping[str, FileIdentity] | None = None,
    thorough: bool = True,
    done: Callable[[], None] = lambda: None,
) -> list[Seen]:
    """Identify every (revision, step), as the audit needs it.

    known: identities of local files by path, which are hashed again only when they have changed. thorough: True hashes all local
    files; False only those that may be equal to another's, which is enough to find duplicates. done: called after each.
    """

    def identified(entry: tuple[str, int | None], thorough: bool) -> Seen:
        revision, step = entry
        try:
            # What is known are true hashes; they would match none that are made of parts.
            return Seen(revision, step, identified_revision(source, revision, known if thorough else None, thorough))
        except CheckpointError as error:
            return Seen(revision, step, None, error.status, str(error), error.passing)
        finally:
            done()

    pool = ThreadPoolExecutor(HUB_THREADS if source.kind == "hub" else cores())
    try:
        seen = list(pool.map(lambda entry: identified(entry, thorough), revisions))
        if not thorough and source.kind == "local":
            alike = shared_files(seen)
            again = [entry for entry in revisions if entry[0] in alike]
            hashed = dict(zip(again, pool.map(lambda entry: identified(entry, True), again), strict=True))
            seen = [hashed.get((revision.revision, revision.step), revision) for revision in seen]
    finally:  # on Ctrl-C it is not to wait for files that are being hashed
        pool.shutdown(wait=False, cancel_futures=True)
    return seen
