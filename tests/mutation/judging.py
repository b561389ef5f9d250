"""Gives mutants to the workers, and takes their results."""

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from mutation.checkouts import warm_but
from mutation.choosing import ReachingTests
from mutation.mutants import Mutant, mutated_source
from mutation.workers import Worker, share_machine_code

Result = TypeVar("Result")

KILLED = ("killed", "timeout", "died")


@dataclass(frozen=True)
class Judged:
    """What became of a mutant. outcome: killed, timeout, died, survived, unreached, or failed (no test could judge it).

    by: the test that failed first; seconds: CPU; tests: how many reach it.
    """

    mutant: Mutant
    outcome: str
    by: str = ""
    why: str = ""
    how: str = ""
    seconds: float = 0.0
    tests: int = 0

    @property
    def killed(self) -> bool:
        return self.outcome in KILLED


class Judges:
    """Workers that have run every test once, and know which test reaches what. files: that are mutated."""

    def __init__(self, workers: Sequence[Worker], files: Sequence[str]) -> None:
        self._workers = workers
        self._free: SimpleQueue[Worker] = SimpleQueue()
        for worker in workers:
            self._free.put(worker)
        described = workers[0].ask("describe")
        self._uncollected: dict[str, str] = described["uncollected"]
        # The tests of a file together: what they share is made once.
        test_files: dict[str, list[str]] = {}
        for name in described["tests"]:
            test_files.setdefault(name.split("::")[0], []).append(name)
        self.tests: dict[str, dict] = {}
        for reached in self._map(lambda worker, tests: _reach(worker, files, tests), test_files.values()):
            self.tests |= reached
        kernels = [
            kernel
            | {"path": workers[0].relative(kernel["path"]), "run_by": _all_relative(workers[0], kernel["run_by"])}
            for kernel in described["kernels"]
        ]
        self._reaching = ReachingTests(self.tests, kernels)
        for giver, taker in permutations(workers, 2):
            share_machine_code(giver, taker)

    def unfit(self) -> list[str]:
        """Tests that do not pass unmutated, and files that cannot be imported: they judge nothing."""
        files = [f"{name} ({why})" for name, why in self._uncollected.items()]
        return sorted(files + [name for name, reached in self.tests.items() if not reached["passed"]])

    def judge(self, sample: Sequence[Mutant]) -> Iterator[Judged]:
        """What became of each mutant, in the order of the sample."""
        return self._map(self._judged_by, sample)

    def _map(self, action: Callable[[Worker, Any], Result], things: Iterable) -> Iterator[Result]:
        """`action(worker, thing)` of each thing, by whichever worker is free; in order."""

        def act(thing: Any) -> Result:
            worker = self._free.get()
            try:
                return action(worker, thing)
            finally:
                self._free.put(worker)

        with ThreadPoolExecutor(len(self._workers)) as pool:
            yield from pool.map(act, things)

    def _judged_by(self, worker: Worker, mutant: Mutant) -> Judged:
        path = worker.copy / mutant.path
        source = path.read_text(encoding="utf-8")
        tests = self._reaching.of(mutant, source)
        if not tests:
            return Judged(mutant, "unreached")
        with tempfile.TemporaryDirectory(dir=worker.folder) as machine_code:
            warm_but(worker.machine_code, Path(machine_code), _importers(worker.copy, path))
            answer = worker.ask(
                "judge",
                path=str(path),
                source=source,
                mutated=mutated_source(source, mutant),
                tests=tests,
                machine_code=machine_code,
            )
        return Judged(mutant, **answer, tests=len(tests))


def _reach(worker: Worker, files: Sequence[str], tests: Sequence[str]) -> dict[str, dict]:
    """By test what it reaches. Raises RuntimeError."""
    answer = worker.ask("reach", files=[str(worker.copy / path) for path in files], tests=tests)
    if "why" in answer:
        raise RuntimeError(f"{tests[0]} and the tests beside it could not be run unmutated: {answer['why']}")
    return {
        name: reached
        | {"lines": {worker.relative(path): set(lines) for path, lines in reached["lines"].items()}}
        | {"kernels": _all_relative(worker, reached["kernels"])}
        for name, reached in answer.items()
    }


def _all_relative(worker: Worker, kernels: Sequence[str]) -> set[str]:
    return {worker.relative(kernel) for kernel in kernels}


def _importers(copy: Path, path: Path) -> set[str]:
    """Stems of the sources that import a file, directly or not, and its own: their machine code may hold some of its."""
    sources = {source: source.read_text(encoding="utf-8") for source in (copy / "src").rglob("*.py")}
    importing, pending = {path}, [path]
    while pending:
        *package, stem = pending.pop().relative_to(copy / "src").with_suffix("").parts
        folder = re.escape(".".join(package))
        imports = re.compile(rf"(from|import) {folder}\.{stem}\b|from {folder} import [^\n]*\b{stem}\b")
        new = [source for source, text in sources.items() if source not in importing and imports.search(text)]
        importing.update(new)
        pending += new
    return {source.stem for source in importing}
