"""The survey of a run: find every checkpoint that is asked for, and audit each model's beside its siblings."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import TYPE_CHECKING

from ninscope.auditing import keep_hashes, look_at
from ninscope.checkpoints.audit import Seen
from ninscope.checkpoints.baseline import Baseline, baseline_of
from ninscope.checkpoints.hash_cache import cache_files
from ninscope.checkpoints.identity import FileIdentity, Identity
from ninscope.checkpoints.revisions import RevisionPattern, RevisionSelection, unstated
from ninscope.checkpoints.source import Source
from ninscope.checkpoints.suites import suite_of
from ninscope.errors import NoRepository
from ninscope.locating import audit_revisions
from ninscope_pipeline.located import STAGE, Located, locate, task_key
from ninscope_pipeline.outcome import Outcome
from ninscope_pipeline.request.dagfile import Dag
from ninscope_pipeline.request.models import ModelSection
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.survey_memory import Known, fields_of, identity_of, known_of

if TYPE_CHECKING:
    from distributed import Client

# Locating is metadata requests and hashing, mostly waiting, so threads do and no cluster need be started for it.
_THREADS = 16
_KEEP_SECONDS = 10.0


@dataclass(frozen=True)
class Survey:
    """located: every checkpoint that is asked for, audited, in the order of the file and of the steps. beside: identities,
    by fingerprint, of revisions on a Hub that nobody asked for. notes: what is to be said of how revisions were chosen.
    """

    located: list[Located]
    beside: dict[str, Identity] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def survey(dag: Dag, folder: RunFolder, client: "Client | None" = None) -> Survey:
    """Locate and audit what a DAG file asks for. Nothing is written.

    client: a Dask client to hash and read headers on, instead of threads here. Raises RequestError (no such source).
    """
    known = known_of(folder)
    models = dag.all_models()
    sources = [model.opened() for model in models]
    with ThreadPoolExecutor(_THREADS) as pool:
        requested = list(pool.map(_requested, models, sources, repeat(Baseline(dag.emergence.baseline_step))))
    readings = tuple(dict.fromkeys(analysis.parameters.reading for analysis in dag.analyses()))
    located = [
        _recalled(replace(revision, readings=readings), known) for revisions in requested for revision in revisions
    ]
    new = [number for number, revision in enumerate(located) if revision.identity is None and revision.outcome.ok]
    for number, revision in zip(new, _locate([located[number] for number in new], known.files, client), strict=True):
        located[number] = revision
    surveyed, first = Survey([], notes=_notes(models, sources)), 0
    for model, source, revisions in zip(models, sources, requested, strict=True):
        own = located[first : first + len(revisions)]
        first += len(revisions)
        siblings = _siblings(model, source, own, known, surveyed.beside)
        surveyed.located.extend(audit_revisions(own, siblings, own[0].baseline, dag.emergence.trust_duplicates))
    return surveyed


def _requested(model: ModelSection, source: Source, default: Baseline) -> list[Located]:
    """The checkpoints of a model that the file asks for: which they are is known, and not yet what.

    A repository of a published suite that is absent has missing checkpoints: it must not stop fifty others.
    default: the baseline of a model that names none. Raises RequestError.
    """
    try:
        revisions = model.chosen(source)
    except NoRepository as error:
        if suite_of(model.source) is None:
            raise
        steps = (model.selection() or RevisionSelection()).steps
        named = RevisionSelection(RevisionPattern("step{step}"), steps).chosen([]) if steps else [("main", None)]
        absent = Outcome("missing", str(error))
        return [
            Located(
                revision, step, suite=model.suite, model=model.model, source=model.source, baseline=default
            ).with_outcome(absent)
            for revision, step in named
        ]
    unnamed = Located(
        "",
        None,
        suite=model.suite,
        model=model.model,
        source=model.source,
        base=model.base,
        base_revision=model.base_revision,
        baseline=baseline_of(model.baseline, revisions, f"{model.suite}/{model.model}", default),
    )
    return [
        replace(unnamed, revision=revision, step=step, fingerprint=source.fingerprint(revision))
        for revision, step in revisions
    ]


def _notes(models: Sequence[ModelSection], sources: Sequence[Source]) -> list[str]:
    """A line for every model of which "all" revisions are asked for, and whose names may state steps in a way of their own."""
    clauses = [
        (model, unstated(source.names()) if model.revisions == "all" else "")
        for model, source in zip(models, sources, strict=True)
    ]
    return [f"{model.suite}/{model.model}: {clause}" for model, clause in clauses if clause]


def _recalled(revision: Located, known: Known) -> Located:
    facts = fields_of(known.facts.get(revision.fingerprint or ""), revision.readings)
    return revision if facts is None else replace(revision, **facts)


def _locate(
    revisions: Sequence[Located], known: Mapping[str, FileIdentity], client: "Client | None"
) -> Sequence[Located]:
    if client is None:
        return _locate_here(revisions, known)
    from dask.delayed import delayed

    from ninscope_pipeline.execution.dask_cluster import outcome_of, scheduler_kept

    shared = delayed(known, pure=False)
    with scheduler_kept(client):
        futures = client.compute([delayed(locate, pure=False)(revision, shared) for revision in revisions])
        names = [(STAGE, task_key(*revision.id)) for revision in revisions]
        name_of = {future.key: name for future, name in zip(futures, names, strict=True)}
        ended = [outcome_of(future, name_of) for future in futures]
        for number, end in enumerate(ended):
            if isinstance(end, Outcome) and end.lost:  # with another, perhaps: once more, by itself
                futures[number].retry()
                ended[number] = outcome_of(futures[number], name_of)
    located = [
        revision.with_outcome(end) if isinstance(end, Outcome) else end  # an Outcome: its worker died over it
        for revision, end in zip(revisions, ended, strict=True)
    ]
    cache_files({path: file for revision in located for path, file in revision.stamps})
    return located


def _locate_here(revisions: Sequence[Located], known: Mapping[str, FileIdentity]) -> list[Located]:
    """On threads. Hashes are kept as they come: they take long, and whatever ends this must not cost them."""
    hashed: dict[str, FileIdentity] = {}
    pool = ThreadPoolExecutor(_THREADS)
    try:
        futures = [pool.submit(locate, revision, known) for revision in revisions]
        kept_at = time.monotonic()
        for future in as_completed(futures):
            hashed |= dict(future.result().stamps)
            if time.monotonic() > kept_at + _KEEP_SECONDS:
                cache_files(hashed)
                kept_at = time.monotonic()
        return [future.result() for future in futures]
    finally:
        cache_files(hashed)
        pool.shutdown(wait=False, cancel_futures=True)


def _siblings(
    model: ModelSection, source: Source, own: Sequence[Located], known: Known, beside: dict[str, Identity]
) -> list[Seen]:
    """What the audit needs of revisions that nobody asked for; what a Hub told of them is added to `beside`.

    own: those of this model that somebody asked for.
    """
    if not any(revision.outcome.ok or revision.identity is not None for revision in own):
        return []  # nothing to compare them with
    requested = {revision.revision for revision in own}
    others = [(revision, step) for revision, step in model.siblings(source) if revision not in requested]
    if not others:
        return []
    if source.kind == "local":
        return _local_siblings(source, own, others, known)
    return _siblings_on_hub(source, others, known, beside)


def _local_siblings(
    source: Source, own: Sequence[Located], others: Sequence[tuple[str, int | None]], known: Known
) -> list[Seen]:
    """Hashed only where they may be equal to another."""
    hashed = dict(known.files) | {path: file for revision in own for path, file in revision.stamps}
    identified = [(revision.revision, revision.step) for revision in own if revision.identity is not None]
    names = {revision for revision, _ in others}
    seen = look_at(source, [*identified, *others], hashed, thorough=False)
    siblings = [revision for revision in seen if revision.revision in names]
    keep_hashes(source, siblings)
    return siblings


def _siblings_on_hub(
    source: Source, others: Sequence[tuple[str, int | None]], known: Known, beside: dict[str, Identity]
) -> list[Seen]:
    """Asked for only where no earlier run remembers them."""
    prints = {revision: source.fingerprint(revision) for revision, _ in others}
    recalled = {revision: identity_of(known.beside.get(prints[revision] or "")) for revision, _ in others}
    unknown = [(revision, step) for revision, step in others if recalled[revision] is None]
    looked_at = {sibling.revision: sibling for sibling in look_at(source, unknown)}
    siblings = [looked_at.get(revision) or Seen(revision, step, recalled[revision]) for revision, step in others]
    for sibling in siblings:
        fingerprint = prints[sibling.revision]
        if fingerprint and sibling.identity is not None:
            beside[fingerprint] = sibling.identity
    return siblings
