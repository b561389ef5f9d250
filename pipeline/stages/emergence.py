"""Emergence: E of every checkpoint of a model against its baseline step, with its interval (stage `emergence`)."""

import math
from collections.abc import Sequence

import numpy as np
from ninscope.pipeline.dagfile import Emergence
from ninscope.pipeline.keys import content_key
from ninscope.pipeline.runfolder import RunFolder
from ninscope.pipeline.stages import spectrum
from ninscope.pipeline.stages.outcome import Outcome, attempt
from ninscope.pipeline.store import Artefact, ArtefactStore

from ninscope.measuring import Measurement
from ninscope.multifractal.emergence import emergence, emergence_interval, why_undefined

STAGE = "emergence"
VERSION = 1

_COLUMNS = ("alpha0", "alpha0_std", "width", "width_std", "emergence", "emergence_low", "emergence_high")

# A member of a model's history: (revision, step, spectrum key).
Member = tuple[str, int | None, str]


def emergence_key(members: Sequence[Member], asked: Emergence) -> str:
    return content_key(STAGE, VERSION, members=[list(member) for member in members], asked=asked.model_dump())


def present_members(store: ArtefactStore, members: Sequence[Member]) -> list[Member]:
    """Those whose spectrum is stored: a checkpoint that failed on the way has none."""
    return [member for member in members if store.has(spectrum.STAGE, member[2])]


def store_emergence(root: str, members: Sequence[Member], asked: Emergence) -> Outcome:
    """E over those of a model's members that have a spectrum by now."""
    store = ArtefactStore(RunFolder(root))
    return attempt(lambda: _store(store, present_members(store, members), asked))


def _store(store: ArtefactStore, members: Sequence[Member], asked: Emergence) -> None:
    key = emergence_key(members, asked)
    if store.has(STAGE, key):
        return
    measured = [spectrum.spectrum_of(store.read(spectrum.STAGE, key)) for _, _, key in members]
    start = next(
        (one for (_, step, _), one in zip(members, measured, strict=True) if step == asked.baseline_step),
        None,
    )
    rows = [_row(one, start, asked) for one in measured]
    store.write(
        STAGE,
        key,
        Artefact(
            {"values": np.array([values for values, _ in rows]).reshape(-1, len(_COLUMNS))},
            {
                "columns": list(_COLUMNS),
                "revisions": [revision for revision, _, _ in members],
                "messages": [message for _, message in rows],
            },
        ),
    )


def _row(now: Measurement, start: Measurement | None, asked: Emergence) -> tuple[list[float], str]:
    own = [now.alpha0, now.alpha0_std, now.width, now.width_std]
    if reason := why_undefined(now, start, asked.baseline_step):
        return [*own, math.nan, math.nan, math.nan], reason
    pairs = np.stack([_pairs(now), _pairs(start)])
    both = np.isfinite(pairs).all(axis=(0, 2))
    interval = emergence_interval(*pairs[:, both], asked.replicates, asked.confidence, asked.seed)
    note = (
        ""
        if both.all()
        else f"E's interval is from the {both.sum()} of {both.size} samples with a spectrum at both steps"
    )
    return [*own, emergence(now, start), *interval], note


def _pairs(measured: Measurement) -> np.ndarray:
    return np.array([[sample.alpha0, sample.width] for sample in measured.samples])


def rows_of(artefact: Artefact) -> list[dict]:
    """One dict a revision: revision, message and the columns."""
    return [
        {"revision": revision, "message": message, **dict(zip(_COLUMNS, values.tolist(), strict=True))}
        for revision, message, values in zip(
            artefact.attributes["revisions"],
            artefact.attributes["messages"],
            artefact.arrays["values"],
            strict=True,
        )
    ]
