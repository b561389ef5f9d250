"""The tasks of GLUE by name, from the Hub or a local folder, through the library `datasets`. Needs no torch.

Wang et al., "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding" (2019), table 1.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import CRITICAL
from pathlib import Path
from types import ModuleType
from typing import Any

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons.tasks.files import one_line
from ninscope.neurons.tasks.tables import Examples, check_labels, check_texts

REPOSITORY = "nyu-mll/glue"


@dataclass(frozen=True)
class GlueTask:
    """texts: columns. metrics: the main metric first. classes: names in the order of labels; empty for a regression."""

    texts: tuple[str, ...]
    metrics: tuple[str, ...]
    classes: tuple[str, ...]
    held_out: str = "validation"


_PAIR, _ENTAILMENT = ("sentence1", "sentence2"), ("entailment", "not_entailment")
GLUE = {
    "cola": GlueTask(("sentence",), ("matthews", "accuracy"), ("unacceptable", "acceptable")),
    "sst2": GlueTask(("sentence",), ("accuracy",), ("negative", "positive")),
    "mrpc": GlueTask(_PAIR, ("f1", "accuracy"), ("not_equivalent", "equivalent")),
    "qqp": GlueTask(("question1", "question2"), ("f1", "accuracy"), ("not_duplicate", "duplicate")),
    "stsb": GlueTask(_PAIR, ("spearman", "pearson"), ()),
    "mnli": GlueTask(
        ("premise", "hypothesis"), ("accuracy",), ("entailment", "neutral", "contradiction"), "validation_matched"
    ),
    "qnli": GlueTask(("question", "sentence"), ("accuracy",), _ENTAILMENT),
    "rte": GlueTask(_PAIR, ("accuracy",), _ENTAILMENT),
    "wnli": GlueTask(_PAIR, ("accuracy",), ("not_entailment", "entailment")),
}


def checked_glue(name: str) -> GlueTask:
    if name not in GLUE:
        raise RequestError(f"{name!r} is no task of GLUE; one of {', '.join(GLUE)}")
    return GLUE[name]


def local_files(folder: Path, name: str) -> dict[str, list[Path]]:
    """Parquet files of the training and the held-out split, <folder>/<name>/<split>-*.parquet, sorted.

    Raises RequestError: there are none.
    """
    files = {}
    for split in ("train", checked_glue(name).held_out):
        files[split] = sorted((folder / name).glob(f"{split}-*.parquet"))
        if not files[split]:
            raise RequestError(
                f"{folder / name} has no {split}-*.parquet; give a folder laid out as the Hub's {REPOSITORY}"
            )
    return files


def read_glue(name: str, folder: Path | None, revision: str | None) -> tuple[Examples, Examples]:
    """Training and held-out examples, labels as numbers.

    Raises RequestError: `datasets` is not installed, the files cannot be read, or a row has no text or label. Raises
    CheckpointError (missing): the Hub does not give the data.
    """
    task = checked_glue(name)
    try:
        import datasets
    except ModuleNotFoundError:
        raise RequestError("GLUE needs datasets, which is not installed: pip install datasets") from None
    with tempfile.TemporaryDirectory() as scratch, quiet_datasets(datasets):
        try:
            if folder is None:
                loaded = datasets.load_dataset(REPOSITORY, name, revision=revision)
            else:  # the library's cache would know files by their times, and keep a copy of every file
                files = {split: list(map(str, paths)) for split, paths in local_files(folder, name).items()}
                loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=scratch, keep_in_memory=True)
            return _examples(name, task, "train", loaded), _examples(name, task, task.held_out, loaded)
        except RequestError:
            raise
        except Exception as error:  # of the network, of files, of their content
            reason = one_line(error.__cause__ or error)
            message = f"GLUE's {name} cannot be loaded ({reason}); give a folder with its Parquet files"
            if folder is None:  # a Hub that does not answer now may answer later; work that does not need it goes on
                raise CheckpointError("missing", message, passing=True) from None
            raise RequestError(message) from None


@contextmanager
def quiet_datasets(datasets: ModuleType) -> Iterator[None]:
    """Silence the library's bars and reports; an error is said in one line."""
    bars, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()


def _examples(name: str, task: GlueTask, split: str, loaded: Any) -> Examples:
    where, columns = f"GLUE {name}, {split}", [*task.texts, "label"]
    for column in columns:
        if column not in loaded[split].column_names:
            raise RequestError(f"{where} has no column {column!r}; it has {', '.join(loaded[split].column_names)}")
    values = {column: list(loaded[split][column]) for column in columns}
    for column in task.texts:  # qqp has questions without a letter, and everybody trains on them
        check_texts(where, column, values[column], blank=True)
    # GLUE does not publish all labels; those are -1.
    check_labels(where, "label", [None if task.classes and label == -1 else label for label in values["label"]])
    if not values["label"]:
        raise RequestError(f"{where} has no rows; give the whole data set")
    return Examples(where, values[task.texts[0]], values[task.texts[1]] if task.texts[1:] else None, values["label"])
