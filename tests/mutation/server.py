"""One pytest session that has collected the tests of a copy, and forks a child for each mutant.

Run as `python -m mutation.server` in a copy, with its test files as arguments. Requests come on standard input and answers go
to the descriptor NINSCOPE_MUTATION_ANSWERS, one JSON object a line:

    {"do": "describe"}                       -> {"tests": [...], "kernels": [...], "uncollected": {file: why}}
    {"do": "reach", "files", "tests"}        -> by test what it reaches (reach.py)
    {"do": "judge", "path", "source", "mutated", "tests": [[name, seconds], ...], "machine_code": folder, ...}
                                             -> {"outcome": "killed", "by": a test, "seconds": CPU}
"""

import contextlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

PACKAGE = "ninscope"
# A test may take ten times its CPU time and the time to compile kernels before it counts as hanging.
SPARE_CPU_SECONDS = 12.0
SPARE_WALL_SECONDS = 240.0
SPARE_MEMORY = 4 << 30
LARGEST_FILE = 1 << 30


class Server:
    """A plugin whose loop over the tests answers requests instead of running them."""

    def __init__(self) -> None:
        self.uncollected: dict[str, str] = {}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.uncollected[report.nodeid] = _last_line(report)

    def pytest_sessionstart(self) -> None:
        """The same examples every time, no search for smaller ones: a mutant is killed or not, whenever it is tried."""
        from hypothesis import Phase, settings

        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutation", settings(), derandomize=True, database=None, phases=phases)
        settings.load_profile("mutation")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        from mutation.transplant import callers, kernels, live_functions

        self.session = session
        self.items = {item.nodeid: item for item in session.items}
        self.functions = live_functions(PACKAGE)
        self.holding = callers(kernels(PACKAGE))
        actions = {"describe": self.describe, "reach": self.reach, "judge": self.judge}
        answers = os.fdopen(int(os.environ["NINSCOPE_MUTATION_ANSWERS"]), "w")
        for line in sys.__stdin__:
            request = json.loads(line)
            answers.write(json.dumps(actions[request.pop("do")](**request)) + "\n")
            answers.flush()
        return True

    def describe(self) -> dict:
        from mutation.reach import kernel_lines

        return {
            "tests": list(self.items),
            "kernels": kernel_lines(PACKAGE, self.holding),
            "uncollected": self.uncollected,
        }

    def reach(self, files: list[str], tests: list[str]) -> dict:
        from mutation.reach import Reach

        packages = [PACKAGE, *{item.module.__name__.split(".")[0] for item in self.session.items}]
        chosen = [self.items[name] for name in tests]
        return _in_child(lambda: Reach(files, packages).run(chosen), wall_seconds=None)

    def judge(self, path: str, source: str, mutated: str, tests: list[list], machine_code: str) -> dict:
        """Judge a mutant by tests, [name, CPU seconds unmutated] each, until one fails. The file is the mutant meanwhile."""
        wall_seconds = SPARE_WALL_SECONDS + 20 * sum(seconds for _, seconds in tests)
        written = Path(path).stat().st_mtime_ns
        Path(path).write_text(mutated, encoding="utf-8")
        try:
            return _in_child(lambda: self._judged(path, source, mutated, tests, machine_code), wall_seconds)
        finally:
            Path(path).write_text(source, encoding="utf-8")
            os.utime(path, ns=(written, written))  # numba takes machine code of an equally old source alone

    def _judged(self, path: str, source: str, mutated: str, tests: list[list], machine_code: str) -> dict:
        import numba

        from mutation.transplant import NeedsImport, changed_code, forget_results, transplant

        _limit_memory()
        os.environ["NUMBA_CACHE_DIR"] = machine_code  # of processes that tests start
        numba.config.CACHE_DIR = machine_code  # of modules that are imported from now on
        verdict = Verdict(dict(tests))
        module = next((name for name, module in sys.modules.items() if getattr(module, "__file__", None) == path), None)
        if module is not None:  # else the mutated file is imported where a test wants it
            try:
                transplant(module, *changed_code(source, mutated, path), self.functions, self.holding)
            except NeedsImport:
                return self._judged_anew(verdict)
            forget_results([PACKAGE, *{item.module.__name__.split(".")[0] for item in self.session.items}])
        config = self.session.config
        config.pluginmanager.register(verdict, "verdict")
        chosen = [self.items[name] for name, _ in tests]
        for item, following in zip(chosen, [*chosen[1:], None], strict=True):
            config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if verdict.killed_by:
                break
        return verdict.described("transplanted")

    def _judged_anew(self, verdict: "Verdict") -> dict:
        """By a session of its own that imports the mutated file from the copy, and compiles what may hold code of it."""
        own = {item.module.__name__ for item in self.session.items}
        here = str(Path.cwd())
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None) or ""
            if name.split(".")[0] == PACKAGE or name in own or file.startswith(f"{here}/"):
                del sys.modules[name]
        signal.setitimer(signal.ITIMER_PROF, 4 * SPARE_CPU_SECONDS)  # while tests are collected
        ended = pytest.main(
            [*_OPTIONS, "-x", *verdict.seconds], plugins=[verdict, Ordered(list(verdict.seconds)), _Hypothesis()]
        )
        if not verdict.killed_by and ended != pytest.ExitCode.OK:
            verdict.killed_by = f"no test could start ({ended!r})"
        return verdict.described("imported anew")


def _last_line(report: pytest.CollectReport | pytest.TestReport) -> str:
    return (str(report.longrepr).strip().splitlines() or [""])[-1][:200]


class _Hypothesis:
    pytest_sessionstart = Server.pytest_sessionstart


class Ordered:
    """A plugin that runs tests in a given order."""

    def __init__(self, names: list[str]) -> None:
        self.order = {name: number for number, name in enumerate(names)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self.order.get(item.nodeid, len(self.order)))


class Verdict:
    """A plugin that knows the first test that failed, and ends the process where a test hangs."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self.killed_by = ""
        self.why = ""

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        # The default action of SIGPROF ends the process, inside a compiled loop too.
        signal.setitimer(signal.ITIMER_PROF, SPARE_CPU_SECONDS + 10 * self.seconds.get(nodeid, 1.0))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def _note(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        if report.failed and not self.killed_by:
            self.killed_by = report.nodeid
            self.why = _last_line(report)

    def described(self, how: str) -> dict:
        outcome = "killed" if self.killed_by else "survived"
        return {"outcome": outcome, "by": self.killed_by, "why": self.why, "how": how}


def _limit_memory() -> None:
    """A mutated size raises MemoryError, or ends the child, before it takes the machine's memory or disk."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_MEMORY, used + SPARE_MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))


def _in_child(work: Callable[[], dict], wall_seconds: float | None) -> dict:
    """What `work` returns in a forked child, with its CPU seconds; outcome "timeout" or "died" where it came to no end."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        child = os.fork()
        if child == 0:
            os.setsid()  # what it starts ends with it
            try:
                told = work()
            except BaseException:
                told = {"outcome": "failed", "by": "", "why": traceback.format_exc(), "how": ""}
            answer.write_text(json.dumps(told))
            os._exit(0)
        descriptor = os.pidfd_open(child)
        overdue = not select.select([descriptor], [], [], wall_seconds)[0]
        os.close(descriptor)
        if overdue:
            os.kill(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # only what the child started is in its group
        seconds = usage.ru_utime + usage.ru_stime
        if answer.exists():
            return json.loads(answer.read_text()) | ({} if wall_seconds is None else {"seconds": seconds})
    late = overdue or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF)
    why = "its CPU or wall time is over" if late else f"wait status {status}"
    return {"outcome": "timeout" if late else "died", "by": "", "why": why, "how": "", "seconds": seconds}


_OPTIONS = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:faulthandler", "-p", "no:xdist", "-m", "not slow"]

if __name__ == "__main__":
    sys.exit(pytest.main([*_OPTIONS, *sys.argv[1:]], plugins=[Server()]))
