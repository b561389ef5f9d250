"""What a training's run folder and its run are called. It imports next to nothing: every command that names a run asks it."""

from pathlib import Path

FOLDER = "ninscope"  # the run folder in that of a trainer


def name_of_run(folder: Path) -> str:
    """The folder's name; of one in a trainer's folder that folder's, since all trainings would have one name else.

    folder: without ".." at its end.
    """
    is_default = folder.name == FOLDER or folder.name.startswith(f"{FOLDER}-")
    return f"{folder.parent.name}{folder.name.removeprefix(FOLDER)}" if is_default else folder.name
