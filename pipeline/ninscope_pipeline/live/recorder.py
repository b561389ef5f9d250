"""Who writes a training down: one process, step by step, into a run folder."""

import hashlib
import re
from contextlib import ExitStack
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np

from ninscope.errors import NinscopeError, RequestError
from ninscope.exact.controls import SHUFFLED, UNIT
from ninscope.exact.snapshots import snapshot_of
from ninscope.parameters import Parameters
from ninscope.weights.counting import NetworkWeights
from ninscope_pipeline.live.record import LiveRecord, LiveRow, read_record, row_of
from ninscope_pipeline.live.refreshing import refresh, write_plan
from ninscope_pipeline.live.request import EXPERIMENT, LiveRequest, LiveResult, LiveStart
from ninscope_pipeline.live.state import LOCK, is_there, is_training
from ninscope_pipeline.plan import make_plan
from ninscope_pipeline.request.dagfile import dag_written_in
from ninscope_pipeline.request.models import TRAINING
from ninscope_pipeline.stages.controls import CONTROLS, artefact_of_readings, controls_key
from ninscope_pipeline.stages.exact import EXACT, artefact_of_exact, exact_key
from ninscope_pipeline.stages.measurements import stored_measurement
from ninscope_pipeline.stages.snapshots import SNAPSHOTS, artefact_of_snapshot, snapshot_key
from ninscope_pipeline.stages.weights_stored import WEIGHTS, artefact_of_weights, stored_rms, weights_key
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import ArtefactStore

_CLAIM_SECONDS = 5.0  # who looks whether a training is at work holds the lock for a moment
_ADVICE = "give the training another log folder, or delete this one"
_HEX = re.compile(r"[0-9a-f]{64}\Z")


class LiveRun:
    """The run folder of one training, which no other process records in meanwhile.

    Rows come in any order of steps. A step that comes again (a training that was resumed) replaces its row where its weights are
    others: the newest counts. Adding a step writes its artefacts and one small file, no table. All methods raise RequestError and
    StoreError.
    """

    def __init__(self, folder: Path | str, about: LiveRequest):
        """Makes the folder, or goes on in one that a session of the same training left.

        Raises RequestError: it cannot be written, holds another experiment, or another process records there; StoreError.
        """
        self._folder = RunFolder(Path(folder).expanduser().resolve(), once_mended="later steps are written")
        self._about, self._parameters = about, about.parameters
        self._store = ArtefactStore(self._folder)
        self._held = ExitStack()
        self._start: LiveStart | None = None
        self._folder.create(_ADVICE)
        self._claim()
        try:
            self._record = self._begun()
            if self._record.baseline is not None:
                self._start = self._read_start(self._record.rows[self._record.baseline])
            self._record.write(self._folder)
            if not is_training(self._folder):
                plan = make_plan(self._record.dag, self._record.located(), ((),), self._folder)
                write_plan(self._folder, plan.request, self._record, "")
        except BaseException:
            self.close()
            raise

    @property
    def baseline(self) -> LiveStart | None:
        """What E and controls compare with; None until a row was measured."""
        return self._start

    @property
    def steps(self) -> set[int]:
        """That have a row."""
        return set(self._record.rows)

    @property
    def contents(self) -> dict[int, str]:
        """By step that was measured, what its weights are told by."""
        return {row.step: row.content for row in self._record.rows.values() if row.is_measured}

    def add(self, result: LiveResult) -> None:
        """Store one step. A row that is there stays where it had the same weights, or where this time nothing was measured."""
        self._claim()
        self._check_wiring(result)
        row = row_of(result, _content_of(result), self._record.session, self._about.controls)
        known = self._record.rows.get(row.step)
        if known is not None and not self._counts_again(row, known):
            return
        record = self._record.with_row(self._beside(row, known), result.network)
        if row.is_measured:
            self._store_artefacts(result, record)
        record.write(self._folder)
        self._record = record
        if self._start is None and row.is_measured:
            self._start = self._read_start(row)

    def refresh(self) -> None:
        """Bring tables and figures up to date."""
        self._check_ours()
        refresh(self._folder)

    def finish(self) -> None:
        """Say that the training has ended, bring tables and figures up to date, and let others record there."""
        try:
            self._check_ours()
            self._record = replace(self._record, ended=True)
            self._record.write(self._folder)
            refresh(self._folder)
        finally:
            self.close()

    def close(self) -> None:
        """Let others record there; `add` claims it again."""
        self._held.close()
        self._held = ExitStack()
        self._is_claimed = False

    # --- the folder
    _is_claimed = False

    def _claim(self) -> None:
        """Raises RequestError: another process records there."""
        if self._is_claimed:
            return
        if not self._held.enter_context(self._folder.claimed(LOCK, _CLAIM_SECONDS)):
            self._held.close()
            raise RequestError(
                f"{self._folder.root}: another training is being recorded there; give each its own log folder"
            )
        self._held.enter_context(self._folder.occupied())  # `ninscope clean` waits for its end
        self._is_claimed = True

    def _begun(self) -> LiveRecord:
        """The record of earlier sessions with what this one asks, or a new one. Raises RequestError: it is another experiment."""
        self._check_ours()
        asked = self._about.described()
        if not is_there(self._folder):
            return LiveRecord(asked)
        record = read_record(self._folder)
        for key in EXPERIMENT:
            if (there := record.asked.get(key)) != asked[key]:
                held, wanted = _differing(key, there, asked[key]), _differing(key, asked[key], there)
                raise RequestError(
                    f"{self._folder.root}: holds a training that was measured with {held}, and this one has {wanted}; {_ADVICE}"
                )
        record = replace(record, asked=asked, session=record.session + 1, ended=False)
        if self._about.wiring:
            self._check_known(self._about.wiring, "", record)
        return record

    def _check_ours(self) -> None:
        """Raises RequestError where the folder holds the run of a DAG file."""
        if not self._folder.run_file.is_file():
            return
        dag = dag_written_in(self._folder)
        if any(model.source != TRAINING for model in dag.all_models()) or not dag.all_models():
            raise RequestError(
                f"{self._folder.root}: holds the run {dag.name} of a DAG file; give the training another log folder"
            )

    def _check_wiring(self, result: LiveResult) -> None:
        """The first model of a session must be one of those that the folder knows; a training may change it later."""
        is_first = all(row.session < self._record.session for row in self._record.rows.values())
        if is_first and result.network is not None:
            self._check_known(result.network.digest, result.network.family, self._record)

    def _check_known(self, digest: str, family: str, record: LiveRecord) -> None:
        """Raises RequestError: no session has recorded such a network."""
        if not record.wirings or digest in record.wirings:
            return
        there = [row.wiring for row in record.in_order if row.wiring][-1]
        wiring = record.wirings[there]
        this = f"{family} {digest[:12]}".strip()
        raise RequestError(
            f"{self._folder.root}: holds a training of another model: its network is wired as {wiring.family} {there[:12]}, this "
            f"one as {this}; {_ADVICE}"
        )

    # --- rows
    def _counts_again(self, row: LiveRow, known: LiveRow) -> bool:
        """Whether a row takes the place of one of its step. Raises RequestError: the baseline has other weights."""
        if row.step == self._record.baseline and row.content != known.content:
            if row.status in ("failed", "unsupported"):
                return False
            raise RequestError(
                f"{self._folder.root}: holds another training: its first row, {row.revision}, has other weights, and E of all its "
                f"rows compares with them; {_ADVICE}"
            )
        if row.content == known.content and row.status == known.status:
            return row.session > known.session or row.snapshot > known.snapshot or row.controls < known.controls
        return row.is_measured or row.status == "nonfinite" or not known.is_measured

    def _beside(self, row: LiveRow, known: LiveRow | None) -> LiveRow:
        """The row, with what that which it replaces says of both."""
        if known is None:
            return row
        if row.content != known.content or row.status != known.status:
            return replace(row, replaces=True)
        snapshot, controls = row.snapshot or known.snapshot, min(row.controls, known.controls)
        return replace(row, replaces=known.replaces, snapshot=snapshot, controls=controls)

    def _store_artefacts(self, result: LiveResult, record: LiveRecord) -> None:
        """What the jobs of a run would have stored of this checkpoint."""
        assert result.measurement is not None
        assert result.network is not None
        store, parameters = self._store, self._parameters
        row = record.rows[result.step]
        located = record.located_row(row)
        # What is said of the network is told of the checkpoint, and not of its spectrum.
        measured = replace(result.measurement, message=result.measurement.samples[0].message)
        artefact = artefact_of_exact(measured, parameters.integer_radii)
        store.write(EXACT.name, exact_key(located, parameters, matrices=False), artefact)
        weights = artefact_of_weights(NetworkWeights(dict(result.norms)))
        store.write(WEIGHTS, weights_key(located, parameters.reading), weights)
        if result.readings is not None and self._about.controls:
            self._store_readings(result, record, row)
        if result.counts is not None:
            snapshot = snapshot_of(result.network, parameters, result.counts, result.totals, result.squares)
            store.write(SNAPSHOTS.name, snapshot_key(located, parameters), artefact_of_snapshot(snapshot))

    def _store_readings(self, result: LiveResult, record: LiveRecord, row: LiveRow) -> None:
        """Controls, as a run asks for them: against the baseline, but of the baseline itself and of a network wired otherwise."""
        assert result.readings is not None
        assert record.baseline is not None
        section = record.dag.section(CONTROLS)
        start = record.rows[record.baseline]
        located = record.located_row(row)
        readings, note = dict(result.readings), result.note
        if row.step == start.step or row.wiring != start.wiring:
            readings, note = {name: readings[name] for name in (UNIT, SHUFFLED)}, ""
            compared = [located]
        else:
            compared = [located, record.located_row(start)]
        key = controls_key(compared, self._parameters, section)
        self._store.write(CONTROLS.name, key, artefact_of_readings(readings, note))

    def _read_start(self, row: LiveRow) -> LiveStart:
        """Raises RequestError: what was stored of the baseline is damaged."""
        located, parameters = self._record.located_row(row), self._parameters
        try:
            measured = stored_measurement(self._store.read(EXACT.name, exact_key(located, parameters, matrices=False)))
            rms = stored_rms(self._store.read(WEIGHTS, weights_key(located, parameters.reading)))
        except NinscopeError as error:
            raise RequestError(
                f"{self._folder.root}: what is stored of {row.revision}, with which all rows are compared, cannot be read "
                f"({error}); {_ADVICE}"
            ) from None
        return LiveStart(row.step, row.revision, measured, rms, row.content)


def _differing(key: str, one: object, other: object) -> str:
    """What of a request differs, as "min_degree = 10"."""
    if isinstance(one, dict) and isinstance(other, dict):
        name = next(name for name in (*one, *other) if one.get(name) != other.get(name))
        value = one.get(name, getattr(Parameters, name, "its default"))
        return f"{name} = {value!r}"
    return f"{key} = {one!r}"


def _content_of(result: LiveResult) -> str:
    """What the weights are told by, sha256 in hex; empty where they were not measured."""
    if not result.is_measured:
        return ""
    assert result.measurement is not None
    assert result.network is not None
    if result.content:
        if not _HEX.match(result.content):
            raise ValueError(f"content is {result.content!r}; a sha256 in hex was expected")
        return result.content
    digest = hashlib.sha256(result.network.digest.encode())
    (spectrum,) = result.measurement.samples
    numbers = [getattr(spectrum, name) for name in ("tau", "alpha", "f", "r2")]
    numbers += [np.array(astuple(layer)[1:], np.float64) for layer in result.measurement.layers]
    numbers += [np.array([result.norms[name].norm, result.norms[name].mean]) for name in sorted(result.norms)]
    for array in numbers:
        digest.update(np.ascontiguousarray(array, "<f8").tobytes())
    for name in sorted(result.squares):
        digest.update(name.encode() + np.ascontiguousarray(result.squares[name], "<i8").tobytes())
    return digest.hexdigest()
