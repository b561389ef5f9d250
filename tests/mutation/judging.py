"""Gives mutants to the servers, and takes their results."""

import ast
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from queue import SimpleQueue
from typing import Self

from numba.core.caching import UserProvidedCacheLocator as NumbasCache

from mutation.checkouts import copied, environment_of, warm_but
from mutation.mutants import Mutant, mutated_source
from mutation.targets import tests_of

_TOOL = Path(__file__).resolve().parents[1]
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


class Worker:
    """A copy of the checkout and the server that judges in it. Close it, or use it in a `with` statement."""

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


class Judges:
    """Workers that have run every test once, and know which test reaches what."""

    def __init__(self, workers: Sequence[Worker], files: Sequence[str]) -> None:
        self._workers = workers
        self._free: SimpleQueue[Worker] = SimpleQueue()
        described = workers[0].ask("describe")
        self._uncollected: dict[str, str] = described["uncollected"]
        # Files of tests in turn: fixtures of a module are made once.
        test_files = list(dict.fromkeys(name.split("::")[0] for name in described["tests"]))
        with ThreadPoolExecutor(len(workers)) as pool:
            shares = [set(test_files[number :: len(workers)]) for number in range(len(workers))]
            answers = pool.map(
                lambda worker, share: worker.ask(
                    "reach",
                    files=[str(worker.copy / path) for path in files],
                    tests=[name for name in described["tests"] if name.split("::")[0] in share],
                ),
                workers,
                shares,
            )
            self.tests: dict[str, dict] = {}
            for worker, answer in zip(workers, answers, strict=True):
                if "why" in answer:
                    raise RuntimeError(f"the tests could not be run unmutated: {answer['why']}")
                prefix = f"{worker.copy}/"
                for name, reached in answer.items():
                    reached["lines"] = {
                        path.removeprefix(prefix): set(lines) for path, lines in reached["lines"].items()
                    }
                    reached["kernels"] = {kernel.removeprefix(prefix) for kernel in reached["kernels"]}
                    self.tests[name] = reached
        prefix = f"{workers[0].copy}/"
        self._kernels = [
            kernel | {"path": kernel["path"].removeprefix(prefix)}
            | {"run_by": {caller.removeprefix(prefix) for caller in kernel["run_by"]}}
            for kernel in described["kernels"]
        ]  # fmt: skip
        for giver, taker in permutations(workers, 2):
            _share_machine_code(giver, taker)
        for worker in workers:
            self._free.put(worker)

    def unfit(self) -> list[str]:
        """Tests that do not pass unmutated, and files that cannot be imported: they judge nothing."""
        files = [f"{name} ({why})" for name, why in self._uncollected.items()]
        return sorted(files + [name for name, reached in self.tests.items() if not reached["passed"]])

    def judge(self, sample: Sequence[Mutant]) -> Iterator[Judged]:
        """What became of each mutant, as they end."""
        with ThreadPoolExecutor(len(self._workers)) as pool:
            yield from pool.map(self._judge, sample)

    def _judge(self, mutant: Mutant) -> Judged:
        worker = self._free.get()
        try:
            return self._judged_by(worker, mutant)
        finally:
            self._free.put(worker)

    def _judged_by(self, worker: Worker, mutant: Mutant) -> Judged:
        path = worker.copy / mutant.path
        source = path.read_text(encoding="utf-8")
        mutated = mutated_source(source, mutant)
        tests = self.tests_of(mutant, source)
        if not tests:
            return Judged(mutant, "unreached")
        with tempfile.TemporaryDirectory(dir=worker.folder) as machine_code:
            warm_but(worker.machine_code, Path(machine_code), _importers(worker.copy, path))
            answer = worker.ask(
                "judge", path=str(path), source=source, mutated=mutated, tests=tests, machine_code=machine_code
            )
        return Judged(mutant, **answer, tests=len(tests))

    def tests_of(self, mutant: Mutant, source: str) -> list[tuple[str, float]]:
        """(name, CPU seconds) of the tests that reach a mutant, the quickest first.

        Those that run its statement; for a mutant in a compiled function those that call it or a caller of it; for one
        outside of functions all that reach its file.
        """
        running = {
            caller
            for kernel in self._kernels
            if kernel["path"] == mutant.path and kernel["first"] <= mutant.line <= kernel["last"]
            for caller in kernel["run_by"]
        }
        lines = _lines_of_statement(source, mutant.line)
        of_file = {kernel["path"]: kernel for kernel in self._kernels}.get(mutant.path)
        chosen = []
        for name, reached in self.tests.items():
            if not reached["passed"]:
                continue
            of_kernels = running & reached["kernels"]
            if lines is None and of_file is not None:
                callers = [kernel["run_by"] for kernel in self._kernels if kernel["path"] == mutant.path]
                of_kernels = reached["kernels"] & set().union(*callers)
            own = reached["lines"].get(mutant.path, set())
            if of_kernels or (own if lines is None else own & lines):
                chosen.append((name, reached["seconds"]))
        return sorted(chosen, key=lambda test: (test[1], test[0]))


def _share_machine_code(giver: Worker, taker: Worker) -> None:
    """Each worker has compiled what its share of the tests calls. numba names a folder of its cache by the sources' path, and
    refuses what is older or newer than its source; the copies' files are equally old."""
    for folder in (giver.copy / "src").rglob("*/"):
        name, other = (
            NumbasCache.get_suitable_cache_subpath(str(worker.copy / folder.relative_to(giver.copy) / "x.py"))
            for worker in (giver, taker)
        )
        for compiled in (giver.machine_code / name).glob("*.nb[ci]"):
            target = taker.machine_code / other / compiled.name
            kernel = compiled.name.partition(".py3")[0]
            if compiled.suffix == ".nbi" and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                for part in compiled.parent.glob(f"{kernel}.py3*"):
                    shutil.copy2(part, target.parent)


def _lines_of_statement(source: str, line: int) -> set[int] | None:
    """Lines of the innermost statement at a line (of a compound one its head); None outside of functions."""
    tree = ast.parse(source)
    innermost, inside = None, False
    for node in ast.walk(tree):  # breadth first: the last that holds the line is the innermost
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0):
            innermost = node
            if isinstance(node, ast.FunctionDef):
                inside = node.body[0].lineno <= line
    if innermost is None or not inside:
        return None
    body = getattr(innermost, "body", None)
    last = body[0].lineno - 1 if body else innermost.end_lineno
    return set(range(innermost.lineno, max(last, innermost.lineno) + 1))


def _importers(copy: Path, path: Path) -> set[str]:
    """Stems of the sources that import a file, directly or not, and its own: their machine code may hold some of its."""
    sources = {source: source.read_text(encoding="utf-8") for source in (copy / "src").rglob("*.py")}
    found, pending = {path.stem}, [path]
    while pending:
        module = ".".join(pending.pop().relative_to(copy / "src").with_suffix("").parts)
        for source, text in sources.items():
            if source.stem not in found and (f"from {module} import" in text or f"import {module}" in text):
                found.add(source.stem)
                pending.append(source)
    return found
