"""The run folder of a monitor: rows that `ninscope status`, tables and report read like those of any run.

What keeps it is the pipeline's (`ninscope_pipeline.live`), loaded when the first row is there. Whatever goes wrong with a folder
is told once, and rows go on without it.
"""

import contextlib
import math
import weakref
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from ninscope.errors import RequestError
from ninscope.integrations.reading import Found, Look
from ninscope.integrations.rows import MonitorRow
from ninscope.integrations.run_names import name_of_run
from ninscope.integrations.settings import Settings
from ninscope.integrations.troubles import Troubles, in_words
from ninscope.weights.counting import WHOLE, weights_of_matrices
from ninscope.weights.exact_sums import mean_of, norm_of

_writers: "weakref.WeakValueDictionary[Path, Recording]" = weakref.WeakValueDictionary()  # in this process


class Recording:
    """A run folder, opened when it is first needed; without one, or once it cannot be had, everything here does nothing."""

    def __init__(self, settings: Settings, model: str, troubles: Troubles) -> None:
        """model: what its rows call it."""
        self._settings, self._model, self._troubles = settings, model, troubles
        self._run: Any = None
        self._given_up = settings.folder is None

    @property
    def is_open(self) -> bool:
        return self._run is not None

    @property
    def start(self) -> Any:
        """The baseline of an earlier session, or None (`LiveStart`)."""
        return None if self._run is None else self._run.baseline

    @property
    def contents(self) -> dict[int, str]:
        """Fingerprints of the weights by step, of all sessions."""
        return {} if self._run is None else self._run.contents

    def open(self, wiring: str) -> None:
        """Make the folder, or go on in it. wiring: digest of the model's network."""
        if self._given_up or self._run is not None or self._settings.folder is None:
            return
        try:
            self._run = self._opened(self._settings.folder, wiring)
        except Exception as error:
            self.give_up(in_words(error))

    def _opened(self, folder: Path, wiring: str) -> Any:
        place = folder.resolve()
        if (writer := _writers.get(place)) is not None and writer is not self:
            raise RequestError("another monitor of this process writes there; give this one a folder of its own (log)")
        live, settings = import_module("ninscope_pipeline.live"), self._settings
        request = live.LiveRequest(
            name=live.fit_name(name_of_run(place)),
            model=live.fit_name(self._model),
            parameters=settings.parameters,
            controls=settings.controls,
            seed=settings.seed,
            snapshot=settings.snapshot,
            every=settings.every,
            trust_unlike_counts=settings.trust_unlike_counts,
            wiring=wiring,
        )
        run = live.LiveRun(folder, request)
        _writers[place] = self
        return run

    def add(self, row: MonitorRow, found: Found | None) -> None:
        """Store a step. found: None where nothing was measured."""
        if self._run is None:
            return
        try:
            self._run.add(self._result(row, found))
        except RequestError as error:  # which another step would not change
            self.give_up(in_words(error))
        except Exception as error:
            self._tell(f"the row of step {row.step} could not be written, later ones are tried: {in_words(error)}")

    def _result(self, row: MonitorRow, found: Found | None) -> Any:
        live = import_module("ninscope_pipeline.live")
        about = {"step": row.step, "status": row.status, "message": row.message}
        if found is None:
            return live.LiveResult(**about)
        look, snapshot = found.look, self._settings.snapshot
        return live.LiveResult(
            **about,
            network=look.network,
            parameters_count=look.opened.parameters_count,
            measurement=look.measurement,
            norms={name: live.norms_alone(*norms) for name, norms in _norms(look)},
            readings=found.readings,
            note=found.note,
            counts=look.counts if snapshot else None,
            totals=found.bins,
            squares=look.squares if snapshot else {},
            content=look.fingerprint,
        )

    def give_up(self, why: str) -> None:
        """Write nothing there any more."""
        self._tell(f"no rows are written there: {why}")
        self._given_up = True
        with contextlib.suppress(Exception):  # there is nothing more to tell
            self._close(ended=False)

    def close(self, ended: bool = True) -> None:
        """Write the last tables. A later row opens the folder again. ended: whether the training is at its end."""
        try:
            self._close(ended)
        except Exception as error:
            self._tell(f"its last tables could not be written: {in_words(error)}")

    def _close(self, ended: bool) -> None:
        run, self._run = self._run, None
        for place in [place for place, writer in _writers.items() if writer is self]:
            del _writers[place]
        if run is not None:
            run.finish() if ended else run.close()

    def _tell(self, what: str) -> None:
        self._troubles.tell("folder", f"{self._settings.folder}: {what}; the training goes on")


def _norms(look: Look) -> Iterator[tuple[str, tuple[int, float, float, float]]]:
    """(name, (weights, norm, root mean square, mean)) of every matrix, and of all together, of which no mean is known."""
    weights = weights_of_matrices(look.network)
    for name, number in weights.items():
        sums, rms = look.squares[name], look.norms.rms[name]
        if sums.any() or rms == 0:
            yield name, (number, norm_of(sums), rms, mean_of(sums, number))
        else:  # F64, which has no sums
            yield name, (number, rms * math.sqrt(number), rms, math.nan)
    whole = sum(weights.values())
    yield WHOLE, (whole, look.norms.norm, look.norms.norm / math.sqrt(whole), math.nan)
