"""Emergence: E of every checkpoint of a model against its baseline step, with its interval (stage `emergence`)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ninscope.measuring import Measurement
from ninscope.multifractal.emergence import emergence, emergence_interval, why_undefined
from ninscope_pipeline.asked.dagfile import Emergence
from ninscope_pipeline.stages import spectrum
from ninscope_pipeline.stages.outcome import Outcome, attempt, with_log
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

STAGE = "emergence"
VERSION = 3

_COLUMNS = (
    "alpha0", "alpha0_std", "width", "width_std", "emergence", "emergence_low", "emergence_high", "r2_mass_mean",
    "r2_partition",
)  # fmt: skip

ALL_PARTS = "all"  # the part of a checkpoint that is the network as one


class Member(NamedTuple):
    """One of a model's history. key: of its spectra; no_e: why it can have no E, where that is known; status: of the row."""

    revision: str
    step: int | None
    key: str
    no_e: str
    status: str

    def described(self) -> list:
        """What of it enters a key; a status that follows from the rest does not."""
        follows = self.status == ("duplicate" if self.no_e else "ok")
        return list(self[:4]) if follows else list(self)


def emergence_key(stage: str, members: Sequence[Member], asked: Emergence) -> str:
    """stage: where the members' spectra are stored."""
    return content_key(
        STAGE, VERSION, spectra=stage, members=[member.described() for member in members], asked=asked.model_dump()
    )


def store_emergence(root: str, stage: str, members: Sequence[Member], asked: Emergence) -> Outcome:
    """E of a model's members, whose spectra are stored under `stage`."""
    key = emergence_key(stage, members, asked)
    return attempt(STAGE, key, lambda: _store(ArtefactStore(RunFolder(root)), stage, members, asked, key))


def _store(store: ArtefactStore, stage: str, members: Sequence[Member], asked: Emergence, key: str) -> None:
    if store.has(STAGE, key):
        return
    measured = [spectrum.spectrum_of(store.read(stage, member.key, only=spectrum.SPECTRA)) for member in members]
    start = next(
        (one for member, one in zip(members, measured, strict=True) if member.step == asked.baseline_step),
        None,
    )
    rows = [_row(one, start, asked, member.no_e) for one, member in zip(measured, members, strict=True)]
    warnings = [one.warning for one in measured]
    arrays, attributes = _of_parts(measured, start, members, asked)
    store.write(
        STAGE,
        key,
        Artefact(
            {"values": np.array([values for values, _ in rows]).reshape(-1, len(_COLUMNS)), **arrays},
            {
                **attributes,
                "columns": list(_COLUMNS),
                "revisions": [member.revision for member in members],
                "statuses": [member.status for member in members],
                "messages": [message for _, message in rows],
                "warnings": warnings,
            },
        ),
    )


def _of_parts(
    measured: Sequence[Measurement], start: Measurement | None, members: Sequence[Member], asked: Emergence
) -> tuple[dict[str, np.ndarray], dict]:
    """(arrays, attributes) of the parts that the spectra know, each against the same part of the baseline; else both empty.

    part_values: float64 [members, parts, columns], NaN where a member does not have a part.
    """
    names = list(dict.fromkeys(name for one in measured for name in one.parts))
    if not names:
        return {}, {}
    values = np.full((len(members), len(names), len(_COLUMNS)), np.nan)
    messages = [[""] * len(names) for _ in members]
    warnings = [[""] * len(names) for _ in members]
    for row, (one, member) in enumerate(zip(measured, members, strict=True)):
        no_e = member.no_e
        for column, name in enumerate(names):
            if name not in one.parts:
                messages[row][column] = "no E: this checkpoint has no such part"
                continue
            now, before = one.part(name), start.part(name) if start is not None and name in start.parts else None
            values[row, column], note = _row(now, before, asked, no_e)
            messages[row][column] = note if no_e or not note.startswith("no E") else f"{note} (of this part)"
            warnings[row][column] = now.warning
    described = {"part_names": names, "part_messages": messages, "part_warnings": warnings}
    return {"part_values": values}, described


def _row(now: Measurement, start: Measurement | None, asked: Emergence, no_e: str) -> tuple[list[float], str]:
    own = [now.alpha0, now.alpha0_std, now.width, now.width_std]
    fit = [now.r2_mass_mean, now.r2_partition]
    if reason := no_e or why_undefined(now, start, asked.baseline_step):
        return [*own, math.nan, math.nan, math.nan, *fit], reason
    pairs = np.stack([_pairs(now), _pairs(start)])
    both = np.isfinite(pairs).all(axis=(0, 2))
    interval = emergence_interval(*pairs[:, both], asked.replicates, asked.confidence, asked.seed)
    note = (
        ""
        if both.all()
        else f"E's interval is from the {both.sum()} of {both.size} samples with a spectrum at both steps"
    )
    return [*own, emergence(now, start), *interval, *fit], note


def _pairs(measured: Measurement) -> np.ndarray:
    return np.array([[sample.alpha0, sample.width] for sample in measured.samples])


def rows_of(artefact: Artefact) -> list[dict]:
    """One dict a revision, and one more for each of its parts: revision, part, status, message, warning and the columns."""
    about, found = artefact.attributes, []
    names = about.get("part_names", ())
    for number, (revision, status) in enumerate(zip(about["revisions"], about["statuses"], strict=True)):
        here = {"revision": revision, "status": status}
        found.append(
            here
            | {"part": ALL_PARTS, "message": about["messages"][number], "warning": about["warnings"][number]}
            | _columns(artefact.arrays["values"][number])
        )
        for place, name in enumerate(names):
            message, warning = about["part_messages"][number][place], about["part_warnings"][number][place]
            found.append(
                here
                | {"part": name, "message": message, "warning": warning}
                | _columns(artefact.arrays["part_values"][number, place])
            )
    return found


def _columns(values: np.ndarray) -> dict[str, float]:
    return dict(zip(_COLUMNS, values.tolist(), strict=True))


def failed_rows(members: Sequence[Member], key: str) -> list[dict]:
    """As `rows_of`, where there is no artefact."""
    message = with_log("E could not be computed", STAGE, key)
    return [
        {
            "revision": revision,
            "part": ALL_PARTS,
            "status": "failed",
            "message": message,
            "warning": "",
            **dict.fromkeys(_COLUMNS, math.nan),
        }
        for revision in (member.revision for member in members)
    ]
