"""`EmergenceMonitor`: E and its controls of a model while it trains, for a loop of one's own.

    monitor = EmergenceMonitor(model, every=100, log="runs/mine")
    monitor.update(0)
    for step, batch in enumerate(batches, 1):
        ...                                      # forward, backward, optimizer.step()
        monitor.update(step)
    monitor.finish()

Weights are read where they lie and nothing of the training is touched: no gradient, no random number, no setting of torch. What
goes wrong is in the row, or told once; only a wrong request raises, when the monitor is made.
"""

import operator
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any

from ninscope.devices import default_streams
from ninscope.errors import CheckpointError, RequestError
from ninscope.integrations.reading import Found
from ninscope.integrations.recording import Recording
from ninscope.integrations.rows import MonitorRow
from ninscope.integrations.settings import MOST_STEPS, Settings, checked_model, checked_settings, name_of_model
from ninscope.integrations.steps import Steps, makes_rows
from ninscope.integrations.troubles import Troubles, in_words
from ninscope.shown import Shown, without_empty


class EmergenceMonitor(Shown):
    """Measures a model every so many steps of its training, exactly, against the first measure.

    model: a torch module, or a state dict of it whose tensors are the ones that train. every: steps between measures. log: a run
    folder, to which rows are appended (a training that resumes goes on there, and its first row stays the baseline), or a function
    log(values, step), or a list of these; None: rows are kept in `rows` alone. blocks: E of every block too. controls: growth,
    fixed and the structure index (docs/method.md#controls), for which the weights of the first row are kept, in the folder or
    else in memory. snapshot: keep in the folder what other analyses of each step need. trust_unlike_counts: E also where other
    layers count than in the baseline, or 10 % more or fewer nodes. seed: of what controls shuffle. parameters: how the network is
    drawn and analysed, those of `ninscope.Parameters` that an exact analysis of edges at integer radii has: transfer,
    max_distance, min_degree, q, derivative, convolutions, wiring, architecture, parts, gauge, fit_radii.

    Of a model that lies on several ranks in pieces every rank calls the same methods; of others only rank 0 measures. Rows, logs
    and the folder are rank 0's.

    Raises RequestError: a wrong request.
    """

    def __init__(
        self,
        model: Any,
        every: int = 100,
        log: Any = None,
        *,
        blocks: bool = False,
        controls: bool = True,
        snapshot: bool = False,
        trust_unlike_counts: bool = False,
        seed: int = 0,
        **parameters: Any,
    ) -> None:
        switches = {
            "blocks": blocks, "controls": controls, "snapshot": snapshot, "trust_unlike_counts": trust_unlike_counts,
            "seed": seed,
        }  # fmt: skip
        checked_model(model)
        self._start(model, checked_settings(every, log, switches, parameters))

    @classmethod
    def of_settings(cls, model: Any, settings: Settings) -> "EmergenceMonitor":
        """What a callback makes when it knows the model. Raises RequestError."""
        checked_model(model)
        monitor = cls.__new__(cls)
        monitor._start(model, settings)
        return monitor

    def _start(self, model: Any, settings: Settings, name: str | None = None) -> None:
        self.rows: list[MonitorRow] = []
        self._name = name_of_model(model) if name is None else name
        self._model, self._settings, self._troubles = model, settings, Troubles()
        self._recording = Recording(settings, self._name, self._troubles)
        self._steps = Steps(settings, self._recording, self._troubles)
        self._measured: set[int] = set()  # in this session, unless the training went back behind them
        self._last_step = -1

    # A copy, as of a module that holds its monitor, has measured nothing yet; the folder stays with the first.
    def __getstate__(self) -> tuple[Any, ...]:
        return self._model, self._settings, self._name

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._start(*state)

    def __enter__(self) -> "EmergenceMonitor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.finish(ended=kind is None)

    def facts(self) -> dict[str, object]:
        """What a terminal or a notebook shows of it."""
        last = self.rows[-1].facts() if self.rows else {}
        folder = self._settings.folder
        return (
            {"model": self._name, "every": self._settings.every} | without_empty(log=folder, rows=len(self.rows)) | last
        )

    def update(self, step: int) -> MonitorRow | None:
        """Measure if the step is due, a multiple of `every`, and was not measured; else None.

        step: optimizer steps done. Where steps go back, as of a training that goes on from an earlier checkpoint, those that come
        again are measured again, and the newest row counts.
        """
        number = self._checked_step(step)
        if number is None or number % self._settings.every or self.has_measured(number):
            return None
        return self.measure(number)

    def has_measured(self, step: int) -> bool:
        """Whether a step was measured since the training last came by."""
        self._go_to(step)
        return step in self._measured

    def measure(self, step: int) -> MonitorRow | None:
        """Measure now, due or not. None on ranks that make no rows."""
        number = self._checked_step(step)
        if number is None:
            return None
        self._go_to(number)
        self._measured.add(number)
        began = time.perf_counter()
        with _same_random_numbers(), default_streams():
            row, found = self._row(MonitorRow(number, f"step{number}"))
        if not makes_rows(self._model):
            return None
        row = replace(row, seconds=time.perf_counter() - began)
        if not row.ok:
            self._troubles.tell(row.status, f"step {number} was not measured ({row.status}): {row.message}")
        self._tell(row, found)
        return row

    def finish(self, ended: bool = True) -> None:
        """Write the last tables of the folder, and let others write there; a later measure opens it again.

        ended: whether the training is at its end; if not, the folder waits for it to be resumed.
        """
        with _same_random_numbers():
            self._recording.close(ended)

    def _checked_step(self, step: Any) -> int | None:
        try:
            number = operator.index(step)
        except TypeError:
            number = -1
        if 0 <= number <= MOST_STEPS:
            return number
        self._troubles.tell("step", f"step {step!r} is not measured; an integer from 0 on was expected")
        return None

    def _go_to(self, step: int) -> None:
        if step < self._last_step:
            self._measured = {other for other in self._measured if other < step}
            self._steps.go_back(step)
        self._last_step = step

    def _row(self, row: MonitorRow) -> tuple[MonitorRow, Found | None]:
        try:
            return self._steps.measured(self._model, row)
        except CheckpointError as error:
            return replace(row, status=error.status, message=str(error)), None
        except RequestError as error:
            return replace(row, status="unsupported", message=str(error)), None
        except MemoryError:
            return replace(row, status="failed", message="there is not enough memory to measure it"), None
        except Exception as error:
            if isinstance(error.__cause__, KeyboardInterrupt):  # which compiled code has made a SystemError of
                raise error.__cause__ from None
            return replace(row, status="failed", message=in_words(error)), None

    def _tell(self, row: MonitorRow, found: Found | None) -> None:
        self.rows[:] = [*(other for other in self.rows if other.step != row.step), row]
        values = row.values()
        for number, log in enumerate(self._settings.functions if values else ()):
            try:
                log(dict(values), row.step)
            except Exception as error:
                text = f"the function that values are logged with failed at step {row.step}: {in_words(error)}"
                self._troubles.tell(f"log {number}", text)
        with _same_random_numbers():
            self._recording.add(row, found)


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Python's own random numbers go on as if nothing had been: libraries that are loaded for a folder draw some (rich)."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
