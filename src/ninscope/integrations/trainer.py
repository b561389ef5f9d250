"""`EmergenceCallback` for transformers' Trainer.

    trainer = Trainer(model, args, train_dataset=..., callbacks=[EmergenceCallback(every=100)])

Rows go to the folder "ninscope" in the Trainer's output_dir, and to wherever the Trainer logs: its history, TensorBoard, W&B. Each
of these is a callback beside this one, and each is handed the same values when the Trainer logs; keys that are added to them in
on_log come too late for those before. So a row is logged of its own, as `Trainer.log` does: an entry of `state.log_history`, and
on_log of every callback, at the step that was measured. `Trainer.log` itself is not called: subclasses override it, and empty
there what they have gathered for their next log.

Who hands values round is the Trainer's CallbackHandler. A callback is not told of it, but it is what calls this one, so it is
found among the callers; `attach` names it.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from ninscope.integrations.monitor import EmergenceMonitor
from ninscope.integrations.rows import MonitorRow, prefix_among
from ninscope.integrations.run_names import FOLDER
from ninscope.integrations.settings import checked_settings, with_default_folder
from ninscope.integrations.troubles import Troubles, in_words

_NEAR_CALLERS = 12  # a handler is the caller, or the caller of what wraps this callback
_LAST_LOG = "train_runtime"  # what the Trainer logs when it has trained, before it loads the best model


class EmergenceCallback(TrainerCallback):
    """Measures the model that a Trainer trains: at the start, every so many optimizer steps, and at the end.

    log: as of `EmergenceMonitor`; default: the folder "ninscope" in output_dir; an empty list: no folder. Further arguments: those
    of `EmergenceMonitor`. `monitor` is the one of the training that goes on, or went on last; None before the first.

    Raises RequestError: a wrong request.
    """

    is_of_ninscope = True

    def __init__(
        self,
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
        self._settings, self._takes_default = checked_settings(every, log, switches, parameters), log is None
        self._handler: CallbackHandler | None = None
        self._troubles = Troubles()
        self.monitor: EmergenceMonitor | None = None

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Of what it does not have: Lightning asks for hooks that a callback of the Trainer has not."""
            raise AttributeError(
                f"this EmergenceCallback has no attribute {name!r}: it is the one for transformers' Trainer; for "
                "Lightning there is ninscope.integrations.LightningEmergenceCallback"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Of a Trainer that is copied, or sent to another process: what it is asked for."""
        return {**vars(self), "monitor": None, "_handler": None}

    @property
    def rows(self) -> list[MonitorRow]:
        """Of the training that goes on, or went on last."""
        return [] if self.monitor is None else self.monitor.rows

    def attach(self, trainer: Any) -> "EmergenceCallback":
        """Log where this Trainer logs, and be one of its callbacks."""
        handler: CallbackHandler = trainer.callback_handler
        if not any(callback is self for callback in handler.callbacks):
            handler.add_callback(self)
        self._handler = handler
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self.monitor is not None:
            self.monitor.finish(ended=False)
        self.monitor = self._monitor_of(args, state, kwargs.get("model"))
        return self._measured(state.global_step, args, state, control)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        step = state.global_step
        is_last = control.should_training_stop or step >= state.max_steps
        if is_last or step % self._settings.every == 0:
            return self._measured(step, args, state, control)
        return control

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """The last step, where nothing told in time that it would be: after this log the best model may be loaded."""
        if _LAST_LOG in (kwargs.get("logs") or ()):
            return self._measured(state.global_step, args, state, control)
        return control

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self.monitor is not None:
            self.monitor.finish()
        return control

    def _monitor_of(self, args: TrainingArguments, state: TrainerState, model: Any) -> EmergenceMonitor | None:
        settings = self._settings
        if self._takes_default:
            settings = with_default_folder(settings, _default_folder(args, state))
        try:
            return EmergenceMonitor.of_settings(model, settings)
        except Exception as error:
            self._troubles.tell("model", f"nothing is measured: {in_words(error)}")
            return None

    def _measured(
        self, step: int, args: TrainingArguments, state: TrainerState, control: TrainerControl
    ) -> TrainerControl:
        if self.monitor is None or self.monitor.has_measured(step):
            return control
        row = self.monitor.measure(step)
        if row is None or not state.is_world_process_zero:
            return control
        try:
            return self._logged(row, args, state, control)
        except Exception as error:
            self._troubles.tell("log", f"step {step} could not be logged by the Trainer: {in_words(error)}")
            return control

    def _logged(
        self, row: MonitorRow, args: TrainingArguments, state: TrainerState, control: TrainerControl
    ) -> TrainerControl:
        """Log as `Trainer.log` does, but for that it takes back that a log is due: another one is."""
        handler = self._handler or _calling_handler(self)
        values = row.values(prefix_among(self, () if handler is None else handler.callbacks))
        if not values:
            return control
        logs = values if state.epoch is None else {**values, "epoch": state.epoch}
        state.log_history.append({**logs, "step": state.global_step})
        if handler is None:
            text = "the Trainer's loggers were not found; give the callback the Trainer: callback.attach(trainer)"
            self._troubles.tell("log", text)
            return control
        changed: TrainerControl = handler.call_event("on_log", args, state, control, logs=dict(logs))
        return changed


def _default_folder(args: TrainingArguments, state: TrainerState) -> Path | None:
    """In output_dir; of each trial of a search one of its own, since each is another training."""
    if args.output_dir is None:
        return None
    if not state.is_hyper_param_search:
        return Path(args.output_dir) / FOLDER
    trial = json.dumps(state.trial_params, sort_keys=True, default=str)
    return Path(args.output_dir) / f"{FOLDER}-{hashlib.sha256(trial.encode()).hexdigest()[:12]}"


def _calling_handler(callback: TrainerCallback) -> CallbackHandler | None:
    """The handler that is calling this callback."""
    frame = sys._getframe(1)
    for _ in range(_NEAR_CALLERS):
        handler = frame.f_locals.get("self")
        if isinstance(handler, CallbackHandler) and any(other is callback for other in handler.callbacks):
            return handler
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None
