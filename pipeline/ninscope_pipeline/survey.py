"""The survey of a run: find every checkpoint that is asked for, and audit each model's beside its siblings."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace

from ninscope.auditing import keep_hashes, look_at
from ninscope.checkpoints.audit import Seen
from ninscope.checkpoints.hash_cache import cache_files
from ninscope.checkpoints.identity import FileIdentity, Identity
from ninscope.checkpoints.revisions import RevisionPattern, RevisionSelection
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

# Locating is metadata requests and hashing, mostly waiting, so threads do and no cluster need be started for it.
_THREADS = 16
_KEEP_SECONDS = 10.0


@dataclass(frozen=True)
class Survey:
    """located: every checkpoint that is asked for, audited, in the order of the file and of the steps. beside: identities,
    by fingerprint, of revisions on a Hub that nobody asked for.
    """

    located: list[Located]
    beside: dict[str, Identity] = field(default_factory=dict)


def survey(dag: Dag, folder: RunFolder, client=None) -> Survey:
    """Locate and audit what a DAG file asks for. Nothing is written.

    client: a Dask client to hash and read headers on, instead of threads here. Raises RequestError (no such source).
    """
    known = known_of(folder)
    models = dag.all_models()
    sources = [model.opened() for model in models]
    with ThreadPoolExecutor(_THREADS) as pool:
        asked = list(pool.map(_asked, models, sources))
    readings = tuple(dict.fromkeys(analysis.parameters.reading for analysis in dag.analyses()))
    located = [_recalled(replace(one, readings=readings), known) for of_model in asked for one in of_model]
    new = [number for number, one in enumerate(located) if one.identity is None and one.outcome.ok]
    for number, one in zip(new, _locate([located[number] for number in new], known.files, client), strict=True):
        located[number] = one
    found, first = Survey([]), 0
    for model, source, of_model in zip(models, sources, asked, strict=True):
        own = located[first : first + len(of_model)]
        first += len(of_model)
        siblings = _siblings(model, source, own, known, found.beside)
        found.located.extend(
            audit_revisions(own, siblings, dag.emergence.baseline_step, dag.emergence.trust_duplicates)
        )
    return found


def _asked(model: ModelSection, source: Source) -> list[Located]:
    """The checkpoints of a model, of which is known which they are, and not yet what.

    A repository of a published suite that is absent has missing checkpoints: it must not stop fifty others.
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
            Located(*each, suite=model.suite, model=model.model, source=model.source).with_outcome(absent)
            for each in named
        ]
    one = Located(
        "",
        None,
        suite=model.suite,
        model=model.model,
        source=model.source,
        base=model.base,
        base_revision=model.base_revision,
    )
    return [
        replace(one, revision=revision, step=step, fingerprint=source.fingerprint(revision))
        for revision, step in revisions
    ]


def _recalled(one: Located, known: Known) -> Located:
    facts = fields_of(known.facts.get(one.fingerprint or ""), one.readings)
    return one if facts is None else replace(one, **facts)


def _locate(wanted: Sequence[Located], known: Mapping[str, FileIdentity], client) -> Sequence[Located]:
    if client is None:
        return _locate_here(wanted, known)
    from dask.delayed import delayed

    from ninscope_pipeline.execution.dask_cluster import outcome_of, scheduler_kept

    shared = delayed(known, pure=False)
    with scheduler_kept(client):
        futures = client.compute([delayed(locate, pure=False)(one, shared) for one in wanted])
        names = [(STAGE, task_key(one.suite, one.model, one.revision)) for one in wanted]
        name_of = {future.key: name for future, name in zip(futures, names, strict=True)}
        ended = [outcome_of(future, name_of) for future in futures]
        for number, end in enumerate(ended):
            if isinstance(end, Outcome) and end.lost:  # with another, perhaps: once more, by itself
                futures[number].retry()
                ended[number] = outcome_of(futures[number], name_of)
    found = [
        one.with_outcome(end) if isinstance(end, Outcome) else end  # an Outcome: its worker died over it
        for one, end in zip(wanted, ended, strict=True)
    ]
    cache_files({path: file for one in found for path, file in one.stamps})
    return found


def _locate_here(wanted: Sequence[Located], known: Mapping[str, FileIdentity]) -> list[Located]:
    """On threads. Hashes are kept as they come: they take long, and whatever ends this must not cost them."""
    hashed: dict[str, FileIdentity] = {}
    pool = ThreadPoolExecutor(_THREADS)
    try:
        futures = [pool.submit(locate, one, known) for one in wanted]
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

    Local ones are hashed only where they may be equal to another.
    """
    if not any(one.outcome.ok or one.identity is not None for one in own):
        return []  # nothing to compare them with
    asked = {one.revision for one in own}
    others = [(revision, step) for revision, step in model.siblings(source) if revision not in asked]
    if not others:
        return []
    if source.kind == "local":
        hashed = dict(known.files) | {path: file for one in own for path, file in one.stamps}
        mine = [(one.revision, one.step) for one in own if one.identity is not None]
        seen = look_at(source, [*mine, *others], hashed, thorough=False)
        keep_hashes(source, [one for one in seen if one.revision not in asked])
        return [one for one in seen if one.revision not in asked]
    prints = {revision: source.fingerprint(revision) for revision, _ in others}
    recalled = {revision: identity_of(known.beside.get(prints[revision] or "")) for revision, _ in others}
    seen = {one.revision: one for one in look_at(source, [each for each in others if recalled[each[0]] is None])}
    found = [seen.get(revision) or Seen(revision, step, recalled[revision]) for revision, step in others]
    beside |= {prints[one.revision]: one.identity for one in found if prints[one.revision] and one.identity is not None}
    return found
