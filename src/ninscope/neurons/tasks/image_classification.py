"""Fine-tuning for classes of images: a folder of them, or scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ninscope.errors import RequestError
from ninscope.neurons.tasks.base_models import Blueprint, classifier, load_classifier
from ninscope.neurons.tasks.evaluation import checked_finite, consecutive, evaluating, moved
from ninscope.neurons.tasks.images import (
    LabelledFiles,
    checked_channels,
    labelled_files,
    read_digits,
    read_image,
    scaled_digit,
)
from ninscope.neurons.tasks.scores import scores
from ninscope.neurons.tasks.task import Base, Batch

PURPOSE = "image classification"


@dataclass(frozen=True)
class LabelledImages:
    """Images of one size. train, held_out: an image's pixels by its number, float32 [channels, height, width] from 0 to 1.

    labels: class numbers of both, int64 [n].
    """

    classes: Sequence[str | int]
    train: Callable[[int], np.ndarray]
    held_out: Callable[[int], np.ndarray]
    labels: tuple[np.ndarray, np.ndarray]


def images_of_folder(folder: Path, base: Base, image_size: int | None) -> LabelledImages:
    """Images of a folder; an image is read when its pixels are needed. Raises RequestError: as `labelled_files`, `geometry`."""
    return images_of_files(labelled_files(folder), base, image_size)


def images_of_files(files: LabelledFiles, base: Base, image_size: int | None) -> LabelledImages:
    """As `images_of_folder`, of these files. Raises RequestError: as `geometry`."""
    size, channels = geometry(base, image_size)
    train, held_out = (
        (_file_reader([path for path, _ in part], size, channels), np.array([label for _, label in part], np.int64))
        for part in (files.train, files.held_out)
    )
    return LabelledImages(files.classes, train[0], held_out[0], (train[1], held_out[1]))


def images_of_digits(base: Base, image_size: int | None) -> LabelledImages:
    """scikit-learn's digits. Raises RequestError: as `read_digits` and `geometry`."""
    digits, (size, channels) = read_digits(), geometry(base, image_size)
    train, held_out = (
        (_digit_reader(digits.pixels[part], size, channels), digits.labels[part])
        for part in (~digits.held_out, digits.held_out)
    )
    return LabelledImages(range(10), train[0], held_out[0], (train[1], held_out[1]))


def _file_reader(paths: list[Path], size: tuple[int, int], channels: int) -> Callable[[int], np.ndarray]:
    return lambda number: read_image(paths[number], size, channels).astype(np.float32) / 255


def _digit_reader(pixels: np.ndarray, size: tuple[int, int], channels: int) -> Callable[[int], np.ndarray]:
    return lambda number: scaled_digit(pixels[number], size, channels)


def geometry(base: Base, image_size: int | None) -> tuple[tuple[int, int], int]:
    """((height, width), channels) of the images that the base takes, from its configuration.

    Raises RequestError: the configuration says nothing about images, or another size than `image_size`.
    """
    config, stated = base.config, base.config.get("image_size", image_size)
    channels = config.get("num_channels", 3)
    if stated is None and "vocab_size" in config:
        raise RequestError(f"{base.name} reads text, and no images; give text, or a model of images")
    size = tuple(stated) if isinstance(stated, list | tuple) else (stated, stated)
    if len(size) != 2 or not all(isinstance(side, int) and 0 < side <= 8192 for side in size):
        raise RequestError(f"{base.name}: its configuration has no image_size that can be used; give image_size")
    if image_size not in (None, *size):
        raise RequestError(f"{base.name} takes images of {size[0]} x {size[1]}; image_size cannot be {image_size}")
    return size, checked_channels(channels)


class ImageClassification:
    """A `Task`: classes of images, by cross-entropy. Batches hold pixel_values, float32 [n, channels, height, width], normalised
    as (pixel - mean)/std, and labels, int64 [n].
    """

    metrics: tuple[str, ...] = ("accuracy",)

    def __init__(
        self,
        name: str,
        images: LabelledImages,
        base: Base,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        image_size: int | None,
    ) -> None:
        """Raises RequestError: as `geometry`, or mean and std are not one a channel."""
        self.name, self.train_size = name, len(images.labels[0])
        self._images, self._image_size = images, image_size
        self._geometry = geometry(base, image_size)
        for setting, values in (("image_mean", image_mean), ("image_std", image_std)):
            if len(values) not in (1, self._geometry[1]):
                raise RequestError(
                    f"{setting} has {len(values)} numbers, and {base.name} takes {self._geometry[1]} channels"
                )
        self._mean, self._std = (np.array(values, np.float32)[:, None, None] for values in (image_mean, image_std))
        self._labels = [torch.from_numpy(labels) for labels in images.labels]

    def model(self, base: Base) -> nn.Module:
        """As Task. Raises RequestError: as `load_classifier`, or the base takes images of another size."""
        if geometry(base, self._image_size) != self._geometry:
            raise RequestError(
                f"{base.name} takes images of another size than {self.name} was made for; make the task for it"
            )
        classes = self._images.classes
        plan: Blueprint = classifier(base, PURPOSE, classes, {})
        return load_classifier(plan, numbered=all(isinstance(name, int) for name in classes))

    def batch(self, examples: np.ndarray) -> Batch:
        return self._batch(self._images.train, self._labels[0], examples)

    def held_out(self, size: int) -> Iterator[Batch]:
        for numbers in consecutive(len(self._labels[1]), size):
            yield self._batch(self._images.held_out, self._labels[1], numbers)

    def _batch(self, read: Callable[[int], np.ndarray], labels: torch.Tensor, numbers: np.ndarray) -> Batch:
        pixels = np.stack([(read(int(number)) - self._mean) / self._std for number in numbers])
        return {"pixel_values": torch.from_numpy(pixels), "labels": labels[torch.from_numpy(numbers)]}

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return functional.cross_entropy(_outputs(model, batch), batch["labels"])

    def evaluate(self, model: nn.Module, size: int, device: torch.device) -> dict[str, float]:
        """As Task. Raises CheckpointError: outputs are not finite."""
        with evaluating(model):
            parts = [_outputs(model, moved(batch, device)).cpu() for batch in self.held_out(size)]
        predicted = checked_finite(torch.cat(parts), self.name).argmax(1)
        return scores(self.metrics, predicted.numpy(), self._labels[1].numpy(), len(self._images.classes))


def _outputs(model: nn.Module, batch: Batch) -> torch.Tensor:
    """float32 [n, classes], whatever precision the model runs in."""
    logits: torch.Tensor = model(pixel_values=batch["pixel_values"]).logits
    return logits.float()
