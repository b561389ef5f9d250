"""Sequences of frames that a model sees and forecasts: made of blobs, or read from a folder of radar frames. Needs no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ninscope.errors import RequestError
from ninscope.neurons.tasks import radar
from ninscope.neurons.tasks.blobs import draw_blobs, draw_frames


@dataclass(frozen=True)
class SequenceShape:
    """height, width: of a frame, in pixels. input_frames, output_frames: frames that the model sees, and forecasts."""

    height: int
    width: int
    input_frames: int
    output_frames: int

    @property
    def frames(self) -> int:
        return self.input_frames + self.output_frames


@dataclass(frozen=True)
class Sequences:
    """The sequences of a split. frames(number): uint8 [input_frames + output_frames, height, width]; mask(number): which pixels
    of the frames to be forecast count, bool [output_frames, height, width], or None where all count.
    """

    shape: SequenceShape
    count: int
    frames: Callable[[int], np.ndarray]
    mask: Callable[[int], np.ndarray | None]


def blob_sequences(shape: SequenceShape, count: int, seed: int, split: str, blobs: int, edges: str) -> Sequences:
    """`count` sequences of so many blobs; edges: "bounce" or "leave", as in `draw_frames`."""

    def frames(number: int) -> np.ndarray:
        drawn = draw_blobs(seed, split, number, blobs, shape.height, shape.width)
        return draw_frames(drawn, shape.frames, shape.height, shape.width, edges)

    return Sequences(shape, count, frames, lambda number: None)


@dataclass(frozen=True)
class RadarDays:
    """Radar frames of a folder, from the first day to the last (YYYY-MM-DD, both included). masks: whether they have masks."""

    root: Path
    first: str
    last: str
    masks: bool

    def frames(self) -> list[radar.Frame]:
        """Raises RequestError: as `radar.list_frames`."""
        return radar.list_frames(self.root, self.first, self.last, self.masks)


def radar_sequences(shape: SequenceShape, days: RadarDays, split: str, stride: int, crop: bool) -> Sequences:
    """Sequences that begin `stride` frames or more after each other. crop: take the middle of larger frames.

    split: for messages. Raises RequestError: there are none, or as `radar.list_frames`; frames(number) and mask(number) raise it
    for a file that is not as it should be.
    """
    listed = days.frames()
    starts = radar.runs(listed, shape.frames, stride)
    if not starts:
        raise RequestError(
            f"{days.root}: no {shape.frames} frames 6 minutes apart without a gap from {days.first} to {days.last} ({split}); "
            "choose other days, or fewer frames"
        )
    size = shape.height, shape.width, crop

    def frames(number: int) -> np.ndarray:
        begin = starts[number]
        return np.stack([radar.read_frame(frame, *size) for frame in listed[begin : begin + shape.frames]])

    def mask(number: int) -> np.ndarray | None:
        if not days.masks:
            return None
        begin = starts[number] + shape.input_frames
        return np.stack([radar.read_mask(frame, *size) for frame in listed[begin : begin + shape.output_frames]])

    return Sequences(shape, len(starts), frames, mask)
