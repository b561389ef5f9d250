"""Settings of the forecasting task. Needs no torch before `task` is called."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from ninscope.errors import RequestError
from ninscope.neurons.tasks import radar
from ninscope.neurons.tasks.blobs import EDGES, SPLITS
from ninscope.neurons.tasks.checks import check_whole, checked_name
from ninscope.neurons.tasks.files import settings_digest
from ninscope.neurons.tasks.sequences import RadarDays, Sequences, SequenceShape, blob_sequences, radar_sequences

if TYPE_CHECKING:
    from ninscope.neurons.tasks.forecasting import Forecasting
    from ninscope.neurons.tasks.task import Base

DATASETS = ("blobs", "hko7")
MAX_FRAMES, MAX_SEQUENCES, MAX_BLOBS, MAX_SEED = 1_000, 100_000_000, 1_000, 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class ForecastSettings:
    """Forecast the next frames of a sequence, as HKO-7 is forecast (Shi et al., 2017; MEmeL, appendix F).

    dataset: "blobs", synthetic sequences, or "hko7", a folder of radar frames (radar.py describes its layout). height, width: of
    a frame, in pixels. input_frames, output_frames: frames that the model sees, and forecasts. The model must have the same four.
    weights_of: what decides a pixel's weight, "rain_rate" or "pixel" (`radar.pixel_weights`). name: in tables (default: dataset).

    For blobs: seed; train_size and held_out_size, in sequences; blobs in a sequence; edges, "bounce" or "leave" (blobs.py).

    For hko7: root, the folder; train and held_out, the first and last day of the two splits (YYYY-MM-DD, both included), which
    must not overlap; stride, frames from the begin of a sequence to the begin of the next; crop: take the middle of larger frames,
    which are refused otherwise; masks: leave out the pixels that the frames' masks leave out.

    Raises RequestError: a setting out of range, or a setting that the data set needs is absent.
    """

    dataset: str = "blobs"
    height: int = 120
    width: int = 120
    input_frames: int = 5
    output_frames: int = 20
    weights_of: str = "rain_rate"
    seed: int = 0
    train_size: int = 2_000
    held_out_size: int = 200
    blobs: int = 3
    edges: str = "bounce"
    root: str | Path | None = None
    train: tuple[str, str] | None = None
    held_out: tuple[str, str] | None = None
    stride: int = 5
    crop: bool = False
    masks: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        for name, limit in _LIMITS.items():
            check_whole(f"forecasting: {name}", getattr(self, name), 0 if name == "seed" else 1, limit)
        for name, known in (("dataset", DATASETS), ("weights_of", radar.WEIGHTS_OF), ("edges", EDGES)):
            if getattr(self, name) not in known:
                raise RequestError(
                    f"forecasting: {name} is {getattr(self, name)!r}; one of {', '.join(known)} was expected"
                )
        for name in ("crop", "masks"):
            if type(getattr(self, name)) is not bool:
                raise RequestError(f"forecasting: {name} is {getattr(self, name)!r}; true or false was expected")
        object.__setattr__(self, "name", checked_name(self.name, self.dataset, "forecasting: name"))
        if self.dataset == "hko7":
            self._check_folder()
        elif self.root is not None or self.train is not None or self.held_out is not None:
            raise RequestError("forecasting: root, train and held_out belong to hko7, not to blobs; leave them out")

    def _check_folder(self) -> None:
        if not isinstance(self.root, str | Path) or not str(self.root):
            raise RequestError("forecasting: hko7 needs root, the folder that holds the radar frames")
        train, held_out = (_first_and_last(name, getattr(self, name)) for name in SPLITS)
        if train[0] <= held_out[1] and held_out[0] <= train[1]:
            raise RequestError(f"forecasting: train {train} and held_out {held_out} overlap; choose other days")
        object.__setattr__(self, "train", train)
        object.__setattr__(self, "held_out", held_out)

    def sequences(self, split: str) -> Sequences:
        """The sequences of "train" or "held_out". Raises RequestError: as `radar_sequences`."""
        if self.dataset == "hko7":
            return radar_sequences(self.shape, self._days(split), split, self.stride, self.crop)
        count = self.train_size if split == "train" else self.held_out_size
        return blob_sequences(self.shape, count, self.seed, split, self.blobs, self.edges)

    def digest(self) -> str:
        """sha256 over the settings and the bytes of all frames and masks of both splits, wherever the folder lies, hexadecimal."""
        plain = {key: value for key, value in asdict(self).items() if key not in ("root", "name")}
        splits = SPLITS if self.dataset == "hko7" else ()
        files = [[split, *file] for split in splits for file in radar.file_digests(self._days(split).frames())]
        return settings_digest("forecasting", plain, files)

    def task(self, base: Base) -> Forecasting:
        """The task for models made from `base`. Raises RequestError: there are no sequences, or the base cannot do it."""
        from ninscope.neurons.tasks.forecasting import Forecasting

        task = Forecasting(str(self.name), self.sequences("train"), self.sequences("held_out"), self.weights_of)
        task.check(base)
        return task

    @property
    def shape(self) -> SequenceShape:
        return SequenceShape(self.height, self.width, self.input_frames, self.output_frames)

    def _days(self, split: str) -> RadarDays:
        first, last = getattr(self, split)
        return RadarDays(Path(str(self.root)), first, last, self.masks)


_LIMITS = {
    "height": radar.MAX_SIDE,
    "width": radar.MAX_SIDE,
    "input_frames": MAX_FRAMES,
    "output_frames": MAX_FRAMES,
    "seed": MAX_SEED,
    "train_size": MAX_SEQUENCES,
    "held_out_size": MAX_SEQUENCES,
    "blobs": MAX_BLOBS,
    "stride": MAX_SEQUENCES,
}


def _first_and_last(name: str, value: object) -> tuple[str, str]:
    """Two days as they are written, YYYY-MM-DD, in order. Raises RequestError."""
    if isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_day, value)) and value[0] <= value[1]:
        return value[0], value[1]
    raise RequestError(f"forecasting: {name} is {value!r}; its first and last day, YYYY-MM-DD, were expected")


def _is_day(value: object) -> bool:
    try:
        return isinstance(value, str) and date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False
