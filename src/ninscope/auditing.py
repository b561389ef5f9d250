"""The audit of a source: every revision beside its siblings, before a byte of weights is read. ninscope.audit is this."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ninscope.checkpoints.audit import Finding, Seen, findings, shared_files, unsure
from ninscope.checkpoints.hash_cache import cache_files, cached_files
from ninscope.checkpoints.identity import FileIdentity
from ninscope.checkpoints.source import Source, open_source
from ninscope.checkpoints.suites import suite_of
from ninscope.errors import CheckpointError, RequestError
from ninscope.threads import cores

if TYPE_CHECKING:
    import pandas as pd

HUB_THREADS = 32  # they wait for answers; local ones hash

COLUMNS = {
    "revision": "string", "step": "Int64", "status": "string", "message": "string", "bytes": "Int64", "content_sha256": "string",
}  # fmt: skip


def audit(source: str) -> "pd.DataFrame":
    """One row a revision, by step: revision, step, status, message, bytes, content_sha256.

    source: a folder, or a Hub repository id. From the Hub's metadata alone: no weight is fetched. Local files are hashed, and
    again only once they have changed. Of a suite that ninscope knows, steps whose revisions are absent are missing.

    status: ok, duplicate (the same weights, or shards, as another step's; the message says which), missing, corrupt (an
    unreadable index, or another size or shape than its siblings'). A run measures what is merely stored in another way:
    it reads headers too. Raises RequestError: no such source, nothing in it.
    """
    return table_of(audit_findings(source))


def table_of(found: Sequence[Finding]) -> "pd.DataFrame":
    """The findings as a DataFrame."""
    import pandas as pd  # slow to import, and measuring needs none

    rows = [{name: getattr(one, name) for name in COLUMNS} for one in found]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def audit_findings(source: str, done: Callable[[], None] = lambda: None) -> list[Finding]:
    """As `audit`. done: called after each revision."""
    opened = open_source(source)
    revisions, steps = opened.revisions(), {}
    suite = suite_of(source) if opened.kind == "hub" else None
    if suite is not None:
        try:
            steps = dict(suite.revisions.chosen(opened.names()))
        except RequestError:  # none of them is named as the suite's are
            steps = {}
    listed = [(name, steps.get(name, opened.step_of(name))) for name in dict.fromkeys((*revisions, *steps))]
    listed.sort(key=lambda each: (each[1] is None, each[1] or 0, each[0]))
    seen = look_at(opened, listed, cached_files() if opened.kind == "local" else {}, done=done)
    keep_hashes(opened, seen)
    return findings(seen)


def siblings(source: Source, revision: str | None = None) -> tuple[dict[str, Finding], str]:
    """By revision, what the audit finds; and in one clause what it could not (`unsure`). Raises RequestError.

    Local files are hashed only where they may be equal to another. revision: one to be looked at beside those that the source
    lists: main, a tag.
    """
    named = () if revision is None else (revision,)
    listed = [(name, source.step_of(name)) for name in dict.fromkeys((*source.revisions(), *named))]
    seen = look_at(source, listed, thorough=False)
    return {one.revision: one for one in findings(seen)}, unsure(seen)


def keep_hashes(source: Source, seen: Sequence[Seen]) -> None:
    """Remember what local files were hashed to, for this user's next commands."""
    identified = [one for one in seen if one.identity is not None]
    files = [(one.revision, file) for one in identified for file in one.identity.all_files if file.stamp]
    cache_files({source.stamp_path(revision, file): file for revision, file in files})


def look_at(
    source: Source,
    revisions: Sequence[tuple[str, int | None]],
    known: Mapping[str, FileIdentity] | None = None,
    thorough: bool = True,
    done: Callable[[], None] = lambda: None,
) -> list[Seen]:
    """Every (revision, step) as the audit needs it. thorough: with the sha256 of local files; else only of those that may be
    the same as another's, which is enough to find duplicates.
    """

    def one(each: tuple[str, int | None], thorough: bool = thorough) -> Seen:
        try:
            # What is known are true hashes; they would match none that are made of parts.
            return Seen(*each, source.identify(each[0], known if thorough else None, thorough))
        except CheckpointError as error:
            return Seen(*each, None, error.status, str(error), error.passing)
        finally:
            done()

    with ThreadPoolExecutor(HUB_THREADS if source.kind == "hub" else cores()) as pool:
        seen = list(pool.map(one, revisions))
        if not thorough and source.kind == "local":
            alike = shared_files(seen)
            again = [each for each in revisions if each[0] in alike]
            hashed = dict(zip(again, pool.map(lambda each: one(each, True), again), strict=True))
            seen = [hashed.get((one.revision, one.step), one) for one in seen]
    return seen
