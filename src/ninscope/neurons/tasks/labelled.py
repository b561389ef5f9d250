"""Labels of texts: classes from a training file, or numbers for a regression. Needs no torch."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ninscope.errors import RequestError
from ninscope.neurons.tasks.glue import checked_glue, read_glue
from ninscope.neurons.tasks.tables import Examples, read_examples

# Anything else, as 01, is a name; so is a number that int64 cannot hold.
_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")


@dataclass(frozen=True)
class LabelledTexts:
    """Training and held-out examples. classes: names of the labels in order, or numbers; empty for a regression.

    labels: class numbers (int64) or targets (float32) of both, [n].
    """

    train: Examples
    held_out: Examples
    classes: Sequence[str | int]
    labels: tuple[np.ndarray, np.ndarray]


def from_tables(
    train: Path, held_out: Path, text: str, second_text: str | None, label: str, regression: bool
) -> LabelledTexts:
    """Examples of two files. Raises RequestError: as `read_examples`, `classes_of`, `class_numbers`, `regression_targets`."""
    training = read_examples(train, text, second_text, label)
    others = read_examples(held_out, text, second_text, label)
    return _regression(training, others) if regression else _classes(training, others, classes_of(training))


def from_glue(name: str, folder: Path | None, revision: str | None) -> LabelledTexts:
    """Examples of a GLUE task, its classes by name. Raises RequestError: as `read_glue`, or a label is none of the task's."""
    train, held_out = read_glue(name, folder, revision)
    classes = checked_glue(name).classes
    if not classes:
        return _regression(train, held_out)
    return replace(_classes(train, held_out, list(range(len(classes)))), classes=classes)


def _regression(train: Examples, held_out: Examples) -> LabelledTexts:
    targets = [np.array(regression_targets(part), np.float32) for part in (train, held_out)]
    return LabelledTexts(train, held_out, (), (targets[0], targets[1]))


def _classes(train: Examples, held_out: Examples, classes: list[str] | list[int]) -> LabelledTexts:
    numbers = [np.array(class_numbers(part, classes), np.int64) for part in (train, held_out)]
    return LabelledTexts(train, held_out, classes, (numbers[0], numbers[1]))


def classes_of(train: Examples) -> list[str] | list[int]:
    """The sorted distinct labels of training examples, all strings or all integers.

    Digits alone are integers, which a CSV file cannot tell from text. Raises RequestError: other labels, or fewer than two.
    """
    labels = [_class_label(value, train.where, row) for row, value in enumerate(train.labels, 1)]
    names = {label for label in labels if isinstance(label, str)}
    integers = {label for label in labels if isinstance(label, int)}
    if all(_INTEGER.fullmatch(name) for name in names) and not integers:
        names, integers = set(), {int(name) for name in names}
    if names and integers:
        raise RequestError(f"{train.where}: labels are numbers in some rows and text in others; use one of the two")
    classes: list[str] | list[int] = sorted(names) if names else sorted(integers)
    if len(classes) < 2:
        raise RequestError(f"{train.where}: every label is {classes[0]!r}; two or more classes are needed")
    return classes


def class_numbers(examples: Examples, classes: list[str] | list[int]) -> list[int]:
    """The number of every example's class in `classes`. Raises RequestError: a label is none of them."""
    numbers: dict[str | int, int] = dict(zip(classes, range(len(classes)), strict=True))
    integers = isinstance(classes[0], int)
    labels = []
    for row, value in enumerate(examples.labels, 1):
        label = _class_label(value, examples.where, row)
        if integers and isinstance(label, str) and _INTEGER.fullmatch(label):
            label = int(label)
        if label not in numbers:
            known = ", ".join(map(repr, classes[:10]))
            raise RequestError(f"{examples.where}: row {row}: label {label!r} is none of the training file's ({known})")
        labels.append(numbers[label])
    return labels


def regression_targets(examples: Examples) -> list[float]:
    """Labels as finite numbers. Raises RequestError: a label is no finite number."""
    targets = []
    for row, value in enumerate(examples.labels, 1):
        try:
            target = float(value)
        except (TypeError, ValueError, OverflowError):
            target = math.nan
        if not math.isfinite(target):
            raise RequestError(f"{examples.where}: row {row}: label {value!r} is no number, which a regression needs")
        targets.append(target)
    return targets


def _class_label(value: object, where: str, row: int) -> str | int:
    if isinstance(value, str):
        return value
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    raise RequestError(
        f"{where}: row {row}: label {value!r} is neither text nor a whole number; metrics = ['spearman'] makes a regression"
    )
