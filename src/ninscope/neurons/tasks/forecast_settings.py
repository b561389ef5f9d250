"""What to forecast: the settings of the task, and the sequences that they name. No torch is needed before `task` is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ninscope.errors import RequestError
from ninscope.neurons.tasks import radar
from ninscope.neurons.tasks.blobs import EDGES, SPLITS, draw_blobs, draw_frames
from ninscope.neurons.tasks.files import settings_digest

if TYPE_CHECKING:
    from ninscope.neurons.tasks.task import Base, Task

DATASETS = ("blobs", "hko7")
MAX_FRAMES, MAX_SEQUENCES, MAX_BLOBS, MAX_SEED = 1_000, 100_000_000, 1_000, 2**63 - 1


@dataclass(frozen=True)
class Sequences:
    """The sequences of a split. frames(number): uint8 [input_frames + output_frames, height, width]; mask(number): which pixels
    of the frames to be forecast count, bool [output_frames, height, width], or None: all do.
    """

    count: int
    frames: Callable[[int], np.ndarray]
    mask: Callable[[int], np.ndarray | None]


@dataclass(frozen=True, kw_only=True)
class ForecastSettings:
    """Forecast the next frames of a sequence, as HKO-7 is forecast (Shi et al., 2017; paper B, appendix F).

    dataset: "blobs", sequences made on the spot, or "hko7", a folder of radar frames (radar.py says of what layout).
    height, width: of a frame, in pixels; input_frames, output_frames: seen and to be forecast. The model must have the same.
    weights_of: what a pixel weighs by, "rain_rate" or "pixel" (`radar.pixel_weights`). name: in tables, None for dataset.

    Of blobs: seed; train_size and held_out_size, in sequences; blobs in a sequence; edges, "bounce" or "leave" (blobs.py).

    Of hko7: root, the folder; train and held_out, the first and last day of each split (YYYY-MM-DD, both included), which must
    not overlap; stride, frames from the beginning of a sequence to that of the next; crop: take the middle of larger frames, which
    else are refused; masks: leave out the pixels that the frames' masks leave out.

    Raises RequestError: a setting out of range, or one that the data set needs and that is absent.
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

    def __post_init__(self):
        for name, limit in _LIMITS.items():
            _check_integer(name, getattr(self, name), 0 if name == "seed" else 1, limit)
        for name, known in (("dataset", DATASETS), ("weights_of", radar.WEIGHTS_OF), ("edges", EDGES)):
            if getattr(self, name) not in known:
                raise RequestError(
                    f"forecasting: {name} is {getattr(self, name)!r}; one of {', '.join(known)} was expected"
                )
        for name in ("crop", "masks"):
            if type(getattr(self, name)) is not bool:
                raise RequestError(f"forecasting: {name} is {getattr(self, name)!r}; true or false was expected")
        if self.name is not None and (not isinstance(self.name, str) or not self.name.strip()):
            raise RequestError(f"forecasting: name is {self.name!r}; a name was expected")
        object.__setattr__(self, "name", self.name or self.dataset)
        if self.dataset == "hko7":
            self._check_folder()
        elif self.root is not None or self.train is not None or self.held_out is not None:
            raise RequestError("forecasting: root, train and held_out are of hko7, not of blobs; leave them out")

    def _check_folder(self) -> None:
        if not isinstance(self.root, str | Path) or not str(self.root):
            raise RequestError("forecasting: hko7 needs root, the folder that holds the radar frames")
        for name in SPLITS:
            object.__setattr__(self, name, _first_and_last(name, getattr(self, name)))
        if self.train[0] <= self.held_out[1] and self.held_out[0] <= self.train[1]:
            raise RequestError(
                f"forecasting: train {self.train} and held_out {self.held_out} overlap; choose other days"
            )

    def sequences(self, split: str) -> Sequences:
        """The sequences of "train" or "held_out". Raises RequestError: there are none, or a file is not as it should be."""
        return self._blobs(split) if self.dataset == "blobs" else self._radar(split)

    def digest(self) -> str:
        """sha256 over the settings and the bytes of every frame and mask of both splits, wherever the folder lies, hexadecimal."""
        plain = {key: value for key, value in asdict(self).items() if key not in ("root", "name")}
        of_radar = SPLITS if self.dataset == "hko7" else ()
        files = [[split, *file] for split in of_radar for file in radar.file_digests(self._frames(split))]
        return settings_digest("forecasting", plain, files)

    def task(self, base: Base) -> Task:
        """The task for models made from `base`. Raises RequestError: there are no sequences, or the base cannot do it."""
        from ninscope.neurons.tasks.forecasting import Forecasting

        task = Forecasting(self)
        task.check(base)
        return task

    @property
    def _length(self) -> int:
        return self.input_frames + self.output_frames

    def _blobs(self, split: str) -> Sequences:
        def frames(number: int) -> np.ndarray:
            drawn = draw_blobs(self.seed, split, number, self.blobs, self.height, self.width)
            return draw_frames(drawn, self._length, self.height, self.width, self.edges)

        return Sequences(self.train_size if split == "train" else self.held_out_size, frames, lambda number: None)

    def _frames(self, split: str) -> list[radar.Frame]:
        return radar.list_frames(Path(self.root), *getattr(self, split), self.masks)

    def _radar(self, split: str) -> Sequences:
        listed = self._frames(split)
        starts = radar.runs(listed, self._length, self.stride)
        if not starts:
            first, last = getattr(self, split)
            raise RequestError(
                f"{self.root}: no {self._length} frames 6 minutes apart without a gap from {first} to {last} ({split}); "
                "choose other days, or fewer frames"
            )
        size = self.height, self.width, self.crop

        def frames(number: int) -> np.ndarray:
            begin = starts[number]
            return np.stack([radar.read_frame(frame, *size) for frame in listed[begin : begin + self._length]])

        def mask(number: int) -> np.ndarray | None:
            if not self.masks:
                return None
            begin = starts[number] + self.input_frames
            return np.stack([radar.read_mask(frame, *size) for frame in listed[begin : begin + self.output_frames]])

        return Sequences(len(starts), frames, mask)


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


def _check_integer(name: str, value: object, least: int, limit: int) -> None:
    if type(value) is not int or not least <= value <= limit:
        raise RequestError(f"forecasting: {name} is {value!r}; an integer from {least} to {limit} was expected")


def _first_and_last(name: str, value: object) -> tuple[str, str]:
    """Two days as they are written, YYYY-MM-DD, in order. Raises RequestError."""
    if isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_day, value)) and value[0] <= value[1]:
        return tuple(value)
    raise RequestError(f"forecasting: {name} is {value!r}; its first and last day, YYYY-MM-DD, were expected")


def _is_day(value: object) -> bool:
    try:
        return isinstance(value, str) and date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False
