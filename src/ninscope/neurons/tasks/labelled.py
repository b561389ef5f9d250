"""Labels of texts: classes from a training file, or numbers for a regression. Needs no torch."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ninscope.errors import RequestError
from ninscope.neurons.tasks.glue import checked_glue, read_glue
from ninscope.neurons.tasks.tables import Examples, read_examples

# Anything else, as 01, is a name; so is what int64 cannot hold.
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
    examples = [read_examples(path, text, second_text, label) for path in (train, held_out)]
    if regression:
        targets = tuple(np.array(regression_targets(part), np.float32) for part in examples)
        return LabelledTexts(*examples, (), targets)
    classes = classes_of(examples[0])
    return LabelledTexts(
        *examples, classes, tuple(np.array(class_numbers(part, classes), np.int64) for part in examples)
    )


def from_glue(name: str, folder: Path | None, revision: str | None) -> LabelledTexts:
    """Examples of a GLUE task, its classes by name. Raises RequestError: as `read_glue`, or a label is none of the task's."""
    examples, classes = read_glue(name, folder, revision), checked_glue(name).classes
    if not classes:
        return LabelledTexts(*examples, (), tuple(np.array(regression_targets(part), np.float32) for part in examples))
    numbers = tuple(np.array(class_numbers(part, list(range(len(classes)))), np.int64) for part in examples)
    return LabelledTexts(*examples, classes, numbers)


def classes_of(train: Examples) -> list:
    """The sorted distinct labels of training examples, all strings or all integers.

    Digits alone are integers, which a CSV file cannot tell from text. Raises RequestError: other labels, or fewer than two.
    """
    labels = [_class_label(value, train.where, row) for row, value in enumerate(train.labels, 1)]
    if all(isinstance(label, str) and _INTEGER.fullmatch(label) for label in labels):
        labels = [int(label) for label in labels]
    if len({type(label) for label in labels}) > 1:
        raise RequestError(f"{train.where}: labels are numbers in some rows and text in others; use one of the two")
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise RequestError(f"{train.where}: every label is {classes[0]!r}; two or more classes are needed")
    return classes


def class_numbers(examples: Examples, classes: list) -> list[int]:
    """The class of each example, numbered as in `classes`. Raises RequestError for a label that is none of them."""
    numbers = {label: number for number, label in enumerate(classes)}
    integers = isinstance(classes[0], int)
    found = []
    for row, value in enumerate(examples.labels, 1):
        label = _class_label(value, examples.where, row)
        if integers and isinstance(label, str) and _INTEGER.fullmatch(label):
            label = int(label)
        if label not in numbers:
            known = ", ".join(map(repr, classes[:10]))
            raise RequestError(f"{examples.where}: row {row}: label {label!r} is none of the training file's ({known})")
        found.append(numbers[label])
    return found


def regression_targets(examples: Examples) -> list[float]:
    """Labels as finite numbers. Raises RequestError for one that is none."""
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


def _class_label(value, where: str, row: int) -> str | int:
    if isinstance(value, str):
        return value
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    raise RequestError(
        f"{where}: row {row}: label {value!r} is neither text nor a whole number; metrics = ['spearman'] makes a regression"
    )
