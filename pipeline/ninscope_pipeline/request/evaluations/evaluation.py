"""One result of one checkpoint, and the results that one file has of one model."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_BYTES = 64 * 2**20  # of one file; one of lm-evaluation-harness has some 0.1 MB
MAX_STEP = 2**63 - 1
TIME = re.compile(r"_\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(\.\d+)?$")  # at the end of the name of a file of the harness


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One result of one revision: task ("held_out"), metric ("loss") and value.

    revision: empty where only the step is known. stderr: standard error of the value, in its unit. n_shot: examples shown
    before each question.
    """

    revision: str
    step: int | None
    task: str
    metric: str
    value: float
    stderr: float | None = None
    n_shot: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """A row of the table `benchmarks`, without suite and model."""
        return {name: getattr(self, name) for name in self.__slots__}

    def as_list(self) -> list[Any]:
        """What a content key is made of: five fields, as before there were others, where the others are absent."""
        beside = [] if self.stderr is None and self.n_shot is None else [self.stderr, self.n_shot]
        return [self.revision, self.step, self.task, self.metric, self.value, *beside]

    @property
    def name(self) -> tuple[str, int | None, str, str, int | None]:
        """What there should be one value of."""
        return self.revision, self.step, self.task, self.metric, self.n_shot

    @property
    def shown(self) -> str:
        """ "step1000 piqa acc" """
        return f"{self.revision or f'step {self.step}'} {self.task} {self.metric}"


@dataclass(frozen=True)
class Batch:
    """What one file has of one model.

    model: as the file calls it; empty where it does not. folders: names of folders that may name it instead, the innermost first.
    by_hand: a table of the user's own. refusal: why the rows cannot be placed; it is raised once somebody wants them. left_out:
    results that are no finite numbers. dated: seconds since 1970. limit: examples that were used of each task, where these are
    not all. versions: of each task.
    """

    path: Path
    model: str
    folders: tuple[str, ...]
    rows: tuple[Evaluation, ...]
    by_hand: bool = False
    refusal: str = ""
    left_out: tuple[str, ...] = ()
    dated: float | None = None
    limit: str = ""
    versions: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """The file's name without its suffix, and without the time that the harness adds."""
        return TIME.sub("", self.path.stem)


def finite(value: object) -> float | None:
    """A number of a JSON document as a float; None for what is none, or is not finite."""
    if type(value) not in (int, float):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def storable(evaluation: Evaluation) -> bool:
    """Whether its names can be written to a table: JSON can spell half a character."""
    try:
        (evaluation.revision + evaluation.task + evaluation.metric).encode()
    except UnicodeEncodeError:
        return False
    return True
