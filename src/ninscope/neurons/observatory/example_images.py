"""Read labelled images as arrays that a model takes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ninscope.errors import RequestError
from ninscope.neurons.observatory.read_examples import PARTS, ReadExamples, drawn, in_order_of
from ninscope.neurons.tasks.checks import checked_numbers
from ninscope.neurons.tasks.images import (
    HELD_OUT_FOLDERS,
    LabelledFiles,
    class_folders,
    labelled_files,
    read_digits,
)

if TYPE_CHECKING:
    from ninscope.neurons.observatory.example_files import ImageExamples
    from ninscope.neurons.tasks.task import Base


def image_files(folder: Path, part: str) -> tuple[tuple[str, ...], tuple[tuple[Path, int], ...]]:
    """Classes, and images with their class numbers: of this part where the folder is split, else all.

    Raises RequestError: as `labelled_files`, `class_folders`.
    """
    split = any((folder / name).is_dir() for name in ("train", *HELD_OUT_FOLDERS))
    files = labelled_files(folder) if split else class_folders(folder)
    return files.classes, files.held_out if split and part == PARTS[0] else files.train


def pixels_digest() -> str:
    """sha256 of the digits and their labels, hexadecimal."""
    digits = read_digits()
    return hashlib.sha256(digits.pixels.tobytes() + digits.labels.tobytes()).hexdigest()


def read_images(settings: ImageExamples, base: Base) -> ReadExamples:
    """As `ImageExamples.read`."""
    from ninscope.neurons.tasks.image_classification import geometry, images_of_digits, images_of_files

    _, channels = geometry(base, settings.image_size)
    mean, deviation = (
        _of_channels(name, getattr(settings, name), base, channels) for name in ("image_mean", "image_std")
    )
    if settings.folder is None:
        images = images_of_digits(base, settings.image_size)
        held_out = settings.part == PARTS[0]
        pixels, labels = (images.held_out, images.labels[1]) if held_out else (images.train, images.labels[0])
        classes = tuple(map(str, images.classes))
    else:
        classes, files = image_files(Path(settings.folder), settings.part)
        images = images_of_files(LabelledFiles(classes, files, ()), base, settings.image_size)
        pixels, labels = images.train, images.labels[0]
    chosen = drawn(settings.samples, len(labels), labels, settings.seed)
    values = np.stack([(pixels(int(number)) - mean) / deviation for number in chosen]).astype(np.float32)
    names, numbers = in_order_of(base, classes, labels[chosen])
    return ReadExamples("images", values, numbers, names, False, len(labels))


def _of_channels(name: str, given: float | Sequence[float], base: Base, channels: int) -> np.ndarray:
    """float32 [channels or 1, 1, 1]."""
    numbers = checked_numbers(name, given)
    if len(numbers) not in (1, channels):
        raise RequestError(f"{name} has {len(numbers)} numbers, and {base.name} takes {channels} channels")
    return np.array(numbers, np.float32)[:, None, None]
