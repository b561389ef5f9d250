"""Measuring the steps of one training, one after another, each against the first: rows, and what they are made of."""

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ninscope.checkpoints.saved_pieces import SavedPieces, copied_pieces, open_pieces, save_pieces
from ninscope.errors import CheckpointError, NinscopeError, one_line
from ninscope.exact.control_columns import Against, control_columns
from ninscope.exact.controls import GROWTH, ControlReading
from ninscope.integrations.reading import (
    Baseline,
    Found,
    Look,
    OpenedModel,
    bins_of,
    look_at,
    look_at_kept,
    open_model,
    readings_of,
    tensors_of,
)
from ninscope.integrations.recording import Recording
from ninscope.integrations.rows import MonitorRow, PartRow
from ninscope.integrations.settings import Settings
from ninscope.integrations.troubles import Troubles, in_words
from ninscope.measurement import Measurement
from ninscope.multifractal.emergence import Bootstrap, compared
from ninscope.ranks import Ranks, on_all_ranks, text_of_first, together, unlike_rank
from ninscope.threads import cores
from ninscope.wording import joined_clauses

BASELINE_FOLDER = "baseline"  # in a run folder: the weights of its first row
_NO_FOLDER, _NEW_FOLDER, _CONTINUED = 0, 1, 2  # where a session finds its baseline
# What a step is beside the baseline: the first that there is; the same once more; another training's; not comparable; comparable.
_FIRST, _AGAIN, _OTHER, _UNLIKE, _COMPARED = range(5)


class Steps:
    """The steps that were measured. Of a model in pieces on several ranks every rank has one, and rank 0 alone makes rows."""

    def __init__(self, settings: Settings, recording: Recording, troubles: Troubles) -> None:
        self._settings, self._recording, self._troubles = settings, recording, troubles
        self._session: int | None = None
        self._baseline_folder = Path(BASELINE_FOLDER)  # known with the session
        self._baseline: Baseline | None = None
        self._fingerprints: dict[int, str] = {}  # by step

    def go_back(self, step: int) -> None:
        """Forget this step and all after it: the training comes by again."""
        self._fingerprints = {other: seen for other, seen in self._fingerprints.items() if other < step}

    def measured(self, model: Any, row: MonitorRow) -> tuple[MonitorRow, Found | None]:
        """The row of a step with what was found; nothing where another rank makes it. Raises CheckpointError, RequestError."""
        settings = self._settings
        opened = open_model(model, settings.parameters)
        if opened.ranks.count == 1 and not makes_rows(model):
            return row, None  # rank 0 has all of it
        self._open_folder(row.step, opened)
        ranks = opened.ranks
        look = together(ranks, lambda: look_at(opened, settings.parameters, _threads(), settings.snapshot))
        (kinds,) = ranks.added([np.array([0 if ranks.number else self._kind_of(row.step, look)], np.int32)])
        kind = int(kinds[0])
        if kind == _OTHER:
            self._leave_folder(row.revision, tells=ranks.number == 0)
        if kind in (_FIRST, _OTHER):
            self._baseline = self._kept(row, look)
        baseline = self._baseline
        assert baseline is not None
        readings, note = self._readings(look, baseline if kind == _COMPARED else None)
        bins = together(ranks, lambda: bins_of(look, settings.parameters)) if settings.snapshot else {}
        found = Found(look, readings, note, bins)
        if ranks.number:
            return row, None
        reason = f"its tensors are wired otherwise than those of {baseline.revision}: no E" if kind == _UNLIKE else ""
        row = replace(row, message=self._same_weights(row.step, look))
        trust, is_baseline = settings.trust_unlike_counts, baseline.step == row.step
        against = Against(baseline.measurement, baseline.revision, Bootstrap.confidence, is_baseline, reason, trust)
        return self._row(row, found, against), found

    def _kind_of(self, step: int, look: Look) -> int:
        baseline = self._baseline
        if baseline is None or baseline.measurement is None:
            return _FIRST
        if baseline.step == step:
            return _AGAIN if baseline.fingerprint == look.fingerprint else _OTHER
        before = baseline.measurement.origin
        is_unlike = before is not None and before.wiring not in (None, look.network.digest)
        return _UNLIKE if is_unlike else _COMPARED

    def _leave_folder(self, revision: str, tells: bool) -> None:
        """What the folder compares with is another training's, from here on if not from the beginning."""
        self._session = _NO_FOLDER
        if tells:
            self._recording.give_up(
                f"its {revision} has other weights, so it holds another training; this one needs a new folder"
            )

    def _readings(self, look: Look, baseline: Baseline | None) -> tuple[dict[str, ControlReading] | None, str]:
        if not self._settings.controls:
            return None, ""
        try:
            readings, note = readings_of(look, baseline, self._settings.parameters, self._settings.seed)
        except CheckpointError as error:
            return None, f"no controls: {error}"
        if baseline is not None and baseline.weights is not None and GROWTH not in readings:
            self._troubles.tell("baseline", f"{note}; E goes on")
        return readings, note

    def _open_folder(self, step: int, opened: OpenedModel) -> None:
        """Open the folder; in the first step, find out on all ranks whether an earlier session has its baseline there."""
        ranks, recording = opened.ranks, self._recording
        if ranks.number == 0:
            recording.open(opened.network.digest)
        if self._session is not None:
            return
        session = _NO_FOLDER
        if recording.is_open:
            session = _NEW_FOLDER if recording.start is None else _CONTINUED
        self._check_asked_alike(ranks)
        (known,) = ranks.added([np.array([session], np.int32)])
        # Where rank 0 alone was given a folder the others keep their weights there too.
        self._baseline_folder = (
            Path(text_of_first(ranks, str((self._settings.folder or Path()).absolute()))) / BASELINE_FOLDER
        )
        self._session = int(known[0])
        if self._session == _CONTINUED:
            self._baseline = self._continued(opened)
            earlier = recording.contents
            self._fingerprints |= {other: content for other, content in earlier.items() if other < step}

    def _check_asked_alike(self, ranks: Ranks) -> None:
        """Raises CheckpointError, on every rank: what they were asked for would have them add up unlike things."""
        asked = replace(self._settings, folder=None, functions=())
        unlike = unlike_rank(ranks, repr((asked, asked.parameters.q.tolist())))
        if unlike is not None:
            raise CheckpointError(
                "unsupported",
                f"rank {unlike} was asked for other things than rank 0; give every rank the same arguments (log may differ)",
            )

    def _continued(self, opened: OpenedModel) -> Baseline:
        """The baseline of an earlier session, with its weights if they are still there."""
        start, ranks = self._recording.start, opened.ranks
        baseline = Baseline(-1, "the baseline", None, {})  # what ranks know that make no rows
        if start is not None:
            baseline = Baseline(
                start.step, start.revision, start.measurement, dict(start.rms), fingerprint=start.content
            )
        if not self._settings.controls:
            return baseline
        folder = self._baseline_folder
        try:
            weights = on_all_ranks(ranks, lambda: open_pieces(folder, ranks.number, ranks.count))
            look = look_at_kept(opened, weights, self._settings.parameters, _threads())
            on_all_ranks(ranks, lambda: _check_same(look, baseline, folder))
        except CheckpointError as error:
            self._troubles.tell("baseline", f"{error}; E goes on, its control by growth does not")
            return replace(baseline, rms=baseline.rms if ranks.count == 1 else {}, without_weights=str(error))
        return replace(baseline, rms=look.norms.rms, weights=weights)

    def _kept(self, row: MonitorRow, look: Look) -> Baseline:
        """What was just measured as the baseline, its weights kept for the control by growth."""
        baseline = Baseline(row.step, row.revision, look.measurement, look.norms.rms, fingerprint=look.fingerprint)
        if not self._settings.controls:
            return baseline
        try:
            weights = on_all_ranks(look.opened.ranks, lambda: self._kept_weights(look))
        except (MemoryError, CheckpointError) as error:
            return replace(baseline, without_weights=f"the weights of {row.revision} were not kept ({in_words(error)})")
        return replace(baseline, weights=weights)

    def _kept_weights(self, look: Look) -> SavedPieces:
        """Raises MemoryError, CheckpointError."""
        tensors, ranks = tensors_of(look.network), look.opened.ranks
        if self._session != _NO_FOLDER:
            try:
                return save_pieces(self._baseline_folder, tensors, ranks.number, ranks.count)
            except (OSError, NinscopeError) as error:
                text = f"{self._baseline_folder}: the weights of the baseline are not kept there: {in_words(error)}"
                self._troubles.tell("folder", text)
        return copied_pieces(tensors)

    def _same_weights(self, step: int, look: Look) -> str:
        """A clause where no weight has changed since an earlier step: nothing is wrong with that, and E is what it was."""
        same = next(
            (other for other, seen in self._fingerprints.items() if seen == look.fingerprint and other != step), None
        )
        self._fingerprints[step] = look.fingerprint
        return "" if same is None else f"the same weights as step{same}"

    def _row(self, row: MonitorRow, found: Found, against: Against) -> MonitorRow:
        now, controls = found.look.measurement, {}
        emergence, message = self._emergence(now, against.start, against)
        if self._settings.controls:
            controls = control_columns(now, against, found.readings, found.note)
            message = controls.pop("message")
        return replace(
            row,
            message=one_line(joined_clauses(now.message, row.message, message)),
            alpha0=now.alpha0,
            width=now.width,
            emergence=emergence,
            controls=controls,
            degree_kurtosis=_mean([layer.kurtosis for layer in now.layers]),
            norm=found.look.norms.norm,
            parts={name: self._part(name, now, against) for name in now.parts},
            warning=now.warning,
        )

    def _part(self, name: str, measurement: Measurement, against: Against) -> PartRow:
        now, start = measurement.part(name), against.start
        before = start.part(name) if start is not None and name in start.parts else None
        return PartRow(now.alpha0, now.width, self._emergence(now, before, against)[0])

    def _emergence(self, now: Measurement, start: Measurement | None, against: Against) -> tuple[float, str]:
        """(E, why there is none)."""
        trust = against.trust_unlike_counts
        comparison = compared(now, start, against.no_emergence, against.baseline, trust_unlike_counts=trust)
        return comparison.emergence, comparison.message


def _check_same(look: Look, baseline: Baseline, folder: Path) -> bool:
    """Raises CheckpointError (corrupt) where the weights that were kept are not those of the baseline's row, if that is known."""
    if baseline.measurement is not None and dict(look.norms.rms) != dict(baseline.rms):
        raise CheckpointError("corrupt", f"{folder}: not the weights of {baseline.revision}, with which the run begins")
    return True


def _mean(values: Sequence[float]) -> float:
    """Of those that are there."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _threads() -> int:
    """As many as torch takes in this process, for of several on a machine each has its share."""
    torch = sys.modules.get("torch")
    return cores() if torch is None else min(cores(), torch.get_num_threads())


def makes_rows(model: Any) -> bool:
    """Whether this process tells of a model that trains in several: one of them does."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return True
    from ninscope.distributed.ranks import leads  # which needs torch

    return leads(model)
