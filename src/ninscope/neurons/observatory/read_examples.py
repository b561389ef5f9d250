"""What was read from files to run a model on, and what the reading of texts and of images shares. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ninscope.neurons.tasks.tables import FORMATS

if TYPE_CHECKING:
    from ninscope.neurons.observatory.examples import Examples
    from ninscope.neurons.tasks.task import Base

FILE = "file"  # as the label of plain text
PARTS = ("held_out", "train")


@dataclass(frozen=True)
class ReadExamples:
    """What a model is run on. kind: "tokens" (int64 [n, window]) or "images" (float32 [n, channels, height, width]).

    labels: int64 [n], numbers of `classes`, or None. bos: whether each window begins with the same special token. available: how
    many windows or images there were to draw from. notes: what a user should know of it, sentences.
    """

    kind: str
    values: np.ndarray
    labels: np.ndarray | None
    classes: tuple[str, ...]
    bos: bool
    available: int
    notes: tuple[str, ...] = ()

    def examples(self, batch_size: int | None, vocabulary: int | None = None) -> Examples:
        """In batches. batch_size: None for as many samples as `batch_for` says, by the model's vocabulary.

        Raises RequestError: as Examples.
        """
        from ninscope.neurons.observatory.examples import MOST_AT_ONCE, TOKENS_KIND, Examples, batch_for

        size = batch_for(self.values.shape[1], vocabulary) if self.kind == TOKENS_KIND else MOST_AT_ONCE
        return Examples(self.kind, self.values, batch_size or size, self.labels, self.classes, self.bos)


def in_order_of(base: Base, classes: Sequence[str], labels: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Classes and labels in the order in which the base's outputs have these classes, where it names just these."""
    names = base.config.get("id2label")
    if not isinstance(names, Mapping) or sorted(map(str, names.values())) != sorted(classes):
        return tuple(classes), labels
    own = tuple(str(name) for _, name in sorted((int(number), name) for number, name in names.items()))
    if len(set(own)) < len(own):
        return tuple(classes), labels
    return own, np.array([own.index(name) for name in classes], np.int64)[labels]


def drawn(count: int, available: int, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """Numbers of `count` of the samples, or of all where there are fewer, ascending: int64. With labels, classes in turn."""
    from ninscope.seeding import keyed_bits

    order = np.random.Generator(keyed_bits("neurons: drawn examples", seed)).permutation(available)
    if labels is not None:
        turn = np.empty(available, np.int64)  # which of its class a sample is, in the order that is drawn
        for number in np.unique(labels):
            own = order[labels[order] == number]
            turn[own] = np.arange(len(own))
        order = order[np.lexsort((labels[order], turn[order]))]
    return np.sort(order[:count])


def is_table(path: Path) -> bool:
    return path.suffix.lower() in FORMATS


def file_classes(files: Sequence[Path]) -> tuple[str, ...]:
    """Names of classes that are files: without folder and suffix, unless two would then have the same."""
    stems = tuple(path.stem for path in files)
    return stems if len(set(stems)) == len(stems) else tuple(str(path) for path in files)
