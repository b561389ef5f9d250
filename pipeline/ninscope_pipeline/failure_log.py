"""The run's folder log: one file for each task in which ninscope itself failed, there for as long as it fails."""

import time
from collections.abc import Sequence

from ninscope_pipeline.outcome import Outcome, log_name
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import ArtefactStore


class FailureLog:
    """Files of one run folder's log. All methods raise StoreError."""

    def __init__(self, folder: RunFolder):
        self._folder = folder
        self._present = {path.name for path in folder.log.glob("*.txt")}

    def note(self, stage: str, key: str, outcome: Outcome) -> None:
        """Keep the traceback of a task that failed, and none of one that has succeeded."""
        name = log_name(stage, key)
        if outcome.trace:
            self._folder.write_bytes(self._folder.log / name, outcome.trace.encode(), durable=False)
            self._present.add(name)
        elif outcome.ok and name in self._present:
            self._remove(name)

    def forget_stored(self, store: ArtefactStore) -> None:
        """Remove what is told of tasks whose artefacts are there now, whoever made them."""
        for name in sorted(self._present):
            stage, _, key = name.removesuffix(".txt").partition("-")
            if key and store.has(stage, key):
                self._remove(name)

    def note_death(self, worker: str, tasks: Sequence[tuple[str, str]]) -> None:
        """A line for a worker that died; other workers may have done its tasks since."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {worker} died with {', '.join(map('-'.join, tasks))}\n"
        with self._folder.writing():
            self._folder.log.mkdir(exist_ok=True)
            with open(self._folder.log / "lost-workers.txt", "a") as file:
                file.write(line)

    def _remove(self, name: str) -> None:
        with self._folder.writing():
            (self._folder.log / name).unlink(missing_ok=True)
        self._present.discard(name)
