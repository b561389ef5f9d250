"""A worker: a copy of the checkout, and the server that runs tests in it."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Self

from numba.core.caching import UserProvidedCacheLocator

from mutation.checkouts import copied, environment_of
from mutation.targets import tests_of

_TOOL = Path(__file__).resolve().parents[1]


class Worker:
    """A copy of the checkout and its server. Close it, or use it in a `with` statement."""

    def __init__(self, sources: Path, tests: Path, folder: Path, python: str) -> None:
        self.folder = folder
        self.copy = copied(sources, tests, folder / "copy")
        self.machine_code = folder / "machine-code"
        self.machine_code.mkdir()
        read_end, write_end = os.pipe()
        environment = environment_of(self.copy, self.machine_code, _TOOL) | {
            "NINSCOPE_MUTATION_ANSWERS": str(write_end)
        }
        self._log = (folder / "server.log").open("w")
        self._server = subprocess.Popen(
            [python, "-m", "mutation.server", *tests_of(self.copy)],
            stdin=subprocess.PIPE, stdout=self._log, stderr=self._log, pass_fds=[write_end], cwd=self.copy,
            env=environment, text=True,
        )  # fmt: skip
        os.close(write_end)
        self._answers = os.fdopen(read_end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stdin.close()
        self._server.wait()
        self._answers.close()
        self._log.close()

    def ask(self, do: str, **details: object) -> dict:
        """A server's answer. Raises RuntimeError where it has ended."""
        self._server.stdin.write(json.dumps({"do": do, **details}) + "\n")
        self._server.stdin.flush()
        answer = self._answers.readline()
        if not answer:
            log = (self.folder / "server.log").read_text()[-3000:]
            raise RuntimeError(f"the server of the tests has ended; the end of its log:\n{log}")
        return json.loads(answer)

    def relative(self, path: str) -> str:
        """A path of the copy as a path of the checkout."""
        return path.removeprefix(f"{self.copy}/")


def share_machine_code(giver: Worker, taker: Worker) -> None:
    """Each worker has compiled what its share of the tests calls: give what only one has to the other.

    numba names a folder of its cache by the path of the sources, and refuses machine code that is not of its source's second;
    the files of the copies are equally old.
    """
    for folder in (giver.copy / "src").rglob("*/"):
        name, other = (
            UserProvidedCacheLocator.get_suitable_cache_subpath(
                str(worker.copy / folder.relative_to(giver.copy) / "x.py")
            )
            for worker in (giver, taker)
        )
        for index in (giver.machine_code / name).glob("*.nbi"):
            target = taker.machine_code / other
            if not (target / index.name).exists():
                target.mkdir(parents=True, exist_ok=True)
                for part in index.parent.glob(f"{index.stem}.*"):
                    shutil.copy2(part, target)
