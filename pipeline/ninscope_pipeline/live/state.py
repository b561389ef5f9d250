"""Whether a run folder is a training's, and how far that is: told at once, without its tables and without what makes them."""

from dataclasses import dataclass

from ninscope.wording import of_number
from ninscope_pipeline.storing.runfolder import RunFolder

FILE = "live.json"  # what a training has recorded (`record.py`)
LOCK = "training"  # that the process holds which records


def is_there(folder: RunFolder) -> bool:
    """Whether a training has recorded something in a folder."""
    return (folder.root / FILE).is_file()


def is_training(folder: RunFolder) -> bool:
    """Whether the run that is written down in a folder is a training's, and not one of a DAG file that came later."""
    return is_there(folder) and "live" in folder.read_plan()


@dataclass(frozen=True)
class TrainingState:
    """steps: that are recorded; tabled: of these, in the tables. first, last: the first and the last of them. at_work: whether a
    training records there now, None where that cannot be told. ended: whether it said that it was at its end. every: steps from
    row to row, where that is known.
    """

    steps: int
    tabled: int
    first: int | None
    last: int | None
    at_work: bool | None
    ended: bool
    every: int | None

    @property
    def word(self) -> str:
        """For a column of a table."""
        if self.at_work:
            return "in training"
        return "finished" if self.ended else "stopped" if self.at_work is False else "not finished"

    @property
    def text(self) -> str:
        """Clauses for `ninscope status`."""
        span = of_number(self.steps, "step") + (f", step{self.first} to step{self.last}" if self.steps else "")
        often = f", one every {self.every}" if self.every else ""
        if self.at_work:
            return f"a training records here: {span}{often}"
        if self.ended:
            return f"a training that has ended: {span}"
        goes_on = "; resumed with this log folder, it goes on here" if self.at_work is False else ""
        return f"a training that has not ended: {span}{goes_on}"


def training_state(folder: RunFolder) -> TrainingState | None:
    """None of a folder that is no training's, or whose record cannot be read."""
    if not is_training(folder):
        return None
    record = folder.read_json(folder.root / FILE, {})
    try:
        steps = sorted(row["step"] for row in record["rows"])
        return TrainingState(
            len(steps),
            folder.read_plan()["live"]["steps"],
            steps[0] if steps else None,
            steps[-1] if steps else None,
            folder.is_claimed(LOCK),
            record["ended"],
            record["asked"]["every"],
        )
    except (KeyError, TypeError):
        return None


def read_again(folder: RunFolder) -> str:
    """How a table or a file of a run that is damaged is written again, as advice."""
    if is_training(folder):
        return "open the run again, which writes it again"
    return "repeat the `ninscope run` command to write it again"
