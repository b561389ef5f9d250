"""`EmergenceCallback` for Lightning, of either name: `lightning` and `pytorch_lightning`.

    trainer = lightning.pytorch.Trainer(callbacks=[LightningEmergenceCallback(every=100)])

Rows go to the folder "ninscope" in the Trainer's default_root_dir, and to all of its loggers.

A step is one more time that weights have changed, which is not what `trainer.global_step` counts: that is the steps of all
optimizers. With automatic optimization there is one optimizer and the two are the same; micro-batches whose gradients are
accumulated do not count. With manual optimization a step is a batch in which any optimizer stepped, be it one of them or all,
once or several times. How many there were is kept in checkpoints, beside what other callbacks keep; of a checkpoint without it,
it is told from the steps of the optimizers, as if each had stepped in every batch.
"""

import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ninscope.errors import RequestError
from ninscope.integrations.monitor import EmergenceMonitor
from ninscope.integrations.rows import MonitorRow, prefix_among
from ninscope.integrations.run_names import FOLDER
from ninscope.integrations.settings import checked_settings, with_default_folder
from ninscope.integrations.troubles import Troubles, in_words

PACKAGES = ("lightning.pytorch", "pytorch_lightning")  # which hold unlike classes of the same names
_STATE = "EmergenceCallback"  # in the callbacks of a checkpoint, where Lightning keeps those of that class


class EmergenceCallback:
    """Measures the model that a Lightning Trainer trains: at the start, every so many steps, and at the end.

    module: the attribute of the LightningModule that is the model ("model", "net.encoder"); default: the only one of its children
    that has a configuration, as models of transformers have, or else the LightningModule itself. log: as of `EmergenceMonitor`;
    default: the folder "ninscope" in the Trainer's default_root_dir, but none of a fast_dev_run; an empty list: no folder. Further
    arguments: those of `EmergenceMonitor`. `monitor` is the one of the training that goes on, or went on last.

    An instance is a Callback of every Lightning that is imported when it is made, or of the one that can be. Raises
    RequestError: a wrong request, or no Lightning is installed.
    """

    is_of_ninscope = True

    def __new__(cls, *args: Any, **kwargs: Any) -> "EmergenceCallback":
        return object.__new__(_with_bases(cls, _callback_classes()))

    def __init__(
        self,
        every: int = 100,
        log: Any = None,
        *,
        module: str | None = None,
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
        if module is not None and (not isinstance(module, str) or not module.strip(".")):
            raise RequestError(f"module is {module!r}; the name of an attribute of the LightningModule was expected")
        self._module = module
        self._troubles = Troubles()
        self._steps = self._optimizer_steps = 0
        self.monitor: EmergenceMonitor | None = None

    def __reduce__(self) -> tuple[Any, ...]:  # its class is made where it is, and a process that is started has its own
        made = type(self)
        return _remade, (made.__bases__[0] if made in _classes.values() else made, {**vars(self), "monitor": None})

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Of what it does not have: transformers' Trainer calls hooks that a callback of Lightning has not."""
            raise AttributeError(
                f"this EmergenceCallback has no attribute {name!r}: it is the one for Lightning; for "
                "transformers' Trainer there is ninscope.integrations.EmergenceCallback"
            )

    @property
    def rows(self) -> list[MonitorRow]:
        """Of the training that goes on, or went on last."""
        return [] if self.monitor is None else self.monitor.rows

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self.monitor is not None:
            self.monitor.finish(ended=False)
        self._come_to(trainer, pl_module)
        self.monitor = self._monitor_of(trainer, pl_module)
        self._measured(trainer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *batch: Any, **about: Any) -> None:
        now = int(trainer.global_step)
        if now == self._optimizer_steps:
            return  # gradients were gathered, and no weight has changed
        self._optimizer_steps = now
        self._steps = now if pl_module.automatic_optimization else self._steps + 1
        if self._steps % self._settings.every == 0:
            self._measured(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._measured(trainer)
        if self.monitor is not None:
            self.monitor.finish()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self.monitor is not None:
            self.monitor.finish(ended=False)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        state = {"steps": self._steps, "optimizer_steps": self._optimizer_steps}
        checkpoint.setdefault("callbacks", {})[_STATE] = state

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Mapping[str, Any]) -> None:
        state = (checkpoint.get("callbacks") or {}).get(_STATE)
        steps, optimizer_steps = (
            (state.get(name) if isinstance(state, Mapping) else None) for name in ("steps", "optimizer_steps")
        )
        if isinstance(steps, int) and isinstance(optimizer_steps, int):
            self._steps, self._optimizer_steps = steps, optimizer_steps

    def _come_to(self, trainer: Any, pl_module: Any) -> None:
        """Where the training begins, or goes on."""
        now = int(trainer.global_step)
        if pl_module.automatic_optimization:
            self._steps = now
        elif (
            now != self._optimizer_steps
        ):  # a checkpoint of a training without this callback, or a training from the start
            self._steps = -(-now // max(len(trainer.optimizers), 1))
        self._optimizer_steps = now

    def _monitor_of(self, trainer: Any, pl_module: Any) -> EmergenceMonitor | None:
        settings = self._settings
        if self._takes_default and not trainer.fast_dev_run:
            settings = with_default_folder(settings, Path(trainer.default_root_dir) / FOLDER)
        try:
            return EmergenceMonitor.of_settings(_model_in(pl_module, self._module), settings)
        except Exception as error:
            self._troubles.tell("model", f"nothing is measured: {in_words(error)}")
            return None

    def _measured(self, trainer: Any) -> None:
        if self.monitor is None or self.monitor.has_measured(self._steps):
            return
        row = self.monitor.measure(self._steps)
        values = {} if row is None else row.values(prefix_among(self, trainer.callbacks))
        for logger in trainer.loggers if values else ():
            try:
                logger.log_metrics(metrics=dict(values), step=self._steps)
            except Exception as error:
                text = f"step {self._steps} could not be logged by {type(logger).__name__}: {in_words(error)}"
                self._troubles.tell(f"log {type(logger).__name__}", text)


def _model_in(pl_module: Any, name: str | None) -> Any:
    """The model of a LightningModule. Raises RequestError: it has no such attribute."""
    if name is None:
        configured = [child for child in pl_module.children() if getattr(child, "config", None) is not None]
        return configured[0] if len(configured) == 1 else pl_module
    found = pl_module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        has = ", ".join(child for child, _ in pl_module.named_children()) or "no children"
        raise RequestError(f"module {name!r}: {type(pl_module).__name__} has no such attribute; it has {has}")
    return found


def _callback_classes() -> Iterator[type]:
    """Raises RequestError."""
    loaded = [name for name in PACKAGES if name in sys.modules]
    names = loaded or [name for name in PACKAGES if find_spec(name.partition(".")[0]) is not None][:1]
    if not names:
        raise RequestError("Lightning is not installed; pip install lightning")
    for name in names:
        yield import_module(name).Callback


_classes: dict[tuple[type, ...], type] = {}


def _with_bases(cls: type, bases: Iterator[type]) -> type:
    """The class as a Callback of these; Lightning asks what an instance is, and calls it by the name of its class."""
    found = (cls, *(base for base in bases if not issubclass(cls, base)))
    if len(found) == 1:
        return cls
    if found not in _classes:
        about = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        _classes[found] = type(cls.__name__, found, about)
    return _classes[found]


def _remade(cls: type[EmergenceCallback], state: dict[str, Any]) -> EmergenceCallback:
    remade = cls.__new__(cls)
    vars(remade).update(state)
    return remade
