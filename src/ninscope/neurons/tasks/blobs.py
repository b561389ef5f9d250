"""Moving blobs: synthetic rain, where no radar data are at hand.

A sequence has several Gaussian blobs, each with a constant velocity and a constant rate of growth or decay. A pixel is the sum of
the blobs, rounded to 0..255 and read as a radar's pixel is: proportional to dBZ. A sequence depends on (seed, split, number)
alone, through numpy's SeedSequence, so it is the same whatever was made before it.
"""

from dataclasses import dataclass

import numpy as np

SPLITS = ("train", "held_out")
EDGES = ("bounce", "leave")
FULL_SCALE = 255
# A blob's numbers are drawn evenly from these ranges. Lengths are fractions of the frame's shorter side.
SPEED = (0.0, 0.09)  # a frame
RADIUS = (0.08, 0.2)  # standard deviation
PEAK = (120.0, 250.0)  # pixel intensity at the first frame
GROWTH = (-0.08, 0.08)  # logarithm of the peak's factor from a frame to the next


@dataclass(frozen=True)
class Blobs:
    """The blobs of a sequence at its first frame, float64: centre [n, 2] and velocity [n, 2] (row, column; pixels and pixels a
    frame), radius [n] (pixels), peak [n] (0..255), growth [n].
    """

    centre: np.ndarray
    velocity: np.ndarray
    radius: np.ndarray
    peak: np.ndarray
    growth: np.ndarray


def draw_blobs(seed: int, split: str, number: int, count: int, height: int, width: int) -> Blobs:
    """The `count` blobs of sequence `number` of a split. seed, number: not negative."""
    sequence = np.random.SeedSequence((seed, SPLITS.index(split), number))
    draws = np.random.default_rng(sequence).random((count, 7))
    side = min(height, width)
    speed, angle = side * _between(SPEED, draws[:, 2]), 2 * np.pi * draws[:, 3]
    return Blobs(
        centre=draws[:, :2] * (height - 1, width - 1),
        velocity=np.stack([speed * np.sin(angle), speed * np.cos(angle)], axis=1),
        radius=side * _between(RADIUS, draws[:, 4]),
        peak=_between(PEAK, draws[:, 5]),
        growth=_between(GROWTH, draws[:, 6]),
    )


def draw_frames(blobs: Blobs, frames: int, height: int, width: int, edges: str) -> np.ndarray:
    """Frames of blobs that move, uint8 [frames, height, width].

    edges: "bounce", centres are reflected at the outermost pixels; "leave", they go on beyond them.
    """
    time = np.arange(frames)
    centre = blobs.centre + time[:, None, None] * blobs.velocity  # [frames, n, 2]
    if edges == "bounce":
        last = np.array([height - 1, width - 1], dtype=np.float64)
        centre = _reflected(centre, last)
    peak = blobs.peak * np.exp(time[:, None] * blobs.growth)
    rows, columns = (
        np.exp(-((np.arange(side) - centre[:, :, axis, None]) ** 2) / (2 * blobs.radius[:, None] ** 2))
        for axis, side in ((0, height), (1, width))
    )
    rain = np.einsum("tn,tnr,tnc->trc", peak, rows, columns)
    return np.rint(np.minimum(rain, FULL_SCALE)).astype(np.uint8)


def _between(limits: tuple[float, float], fractions: np.ndarray) -> np.ndarray:
    return limits[0] + (limits[1] - limits[0]) * fractions


def _reflected(position: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Positions on the line, folded into 0..last as a ball that bounces between two walls."""
    period = np.maximum(2 * last, 1e-300)  # in a frame one pixel wide all fold to 0
    folded: np.ndarray = np.mod(position, period)
    return np.where(last > 0, np.minimum(folded, period - folded), 0)
