"""Which test reaches which line or compiled function: each test run once, unmutated, in a child of the server."""

import time
from collections import defaultdict
from pathlib import Path

import coverage
import pytest
from numba.core.dispatcher import Dispatcher

from mutation.transplant import forget_results, kernels

_DURING_IMPORT = ""


class Reach:
    """A plugin that notes, for each test, its CPU seconds, whether it passed, the lines and the kernels that it reaches.

    What a fixture of a module or session reaches counts for every test that uses it, not for the first alone.
    """

    def __init__(self, files: list[str], packages: list[str]) -> None:
        self._files = files
        self._packages = packages
        self._coverage = coverage.Coverage(data_file=None, include=files)
        self._context = _DURING_IMPORT
        self._kernels: dict[str, set[str]] = defaultdict(set)
        self._failed: set[str] = set()
        self._seconds: dict[str, float] = {}

    def run(self, items: list[pytest.Item]) -> dict:
        """Run the tests; what they reach, as JSON takes it."""
        self._watch_kernels()
        self._coverage.start()
        config = items[0].config
        config.pluginmanager.register(self, "reach")
        for item, following in zip(items, [*items[1:], None], strict=True):
            forget_results(self._packages)
            self._switch(item.nodeid)
            began = time.process_time()
            config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            self._seconds[item.nodeid] = time.process_time() - began
        self._coverage.stop()
        return self._reached(items)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef, request: pytest.FixtureRequest):
        before = self._context
        if fixturedef.scope != "function":
            self._switch(f"fixture {fixturedef.argname}")
        try:
            return (yield)
        finally:
            self._switch(before)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome != "passed":  # a skipped test judges nothing
            self._failed.add(report.nodeid)

    def _switch(self, context: str) -> None:
        self._context = context
        self._coverage.switch_context(context)

    def _watch_kernels(self) -> None:
        """Note calls of compiled functions from Python: of these coverage sees nothing."""
        base = next(cls for cls in Dispatcher.__mro__ if "__call__" in vars(cls))
        call = base.__call__

        def noted(kernel, *args, **keywords):
            self._kernels[self._context].add(_kernel_name(kernel))
            return call(kernel, *args, **keywords)

        Dispatcher.__call__ = noted

    def _reached(self, items: list[pytest.Item]) -> dict:
        data = self._coverage.get_data()
        lines: dict[str, dict[str, list[int]]] = defaultdict(dict)
        for path in self._files:
            of_context = defaultdict(list)
            for line, contexts in data.contexts_by_lineno(path).items():
                for context in contexts:
                    of_context[context].append(line)
            for context, reached in of_context.items():
                lines[context][path] = reached
        tests = {}
        for item in items:
            contexts = [item.nodeid, *(f"fixture {name}" for name in getattr(item, "fixturenames", ()))]
            merged: dict[str, set[int]] = defaultdict(set)
            for context in contexts:
                for path, reached in lines[context].items():
                    merged[path].update(reached)
            tests[item.nodeid] = {
                "passed": item.nodeid not in self._failed,
                "seconds": self._seconds[item.nodeid],
                "lines": {path: sorted(reached) for path, reached in merged.items()},
                "kernels": sorted(set().union(*(self._kernels[context] for context in contexts))),
            }
        return tests


def _kernel_name(kernel: Dispatcher) -> str:
    code = kernel.py_func.__code__
    return f"{Path(code.co_filename)}:{code.co_firstlineno}"


def kernel_lines(package: str, holding: dict) -> list[dict]:
    """Each compiled function: its file, its lines (first, last), and the names of those whose call may run it."""
    described = []
    for kernel in kernels(package):
        code = kernel.py_func.__code__
        last = max(line for _, _, line in _all_lines(code) if line)
        described.append(
            {
                "path": code.co_filename,
                "first": code.co_firstlineno,
                "last": last,
                "run_by": sorted(_kernel_name(caller) for caller in holding[kernel]),
            }
        )
    return described


def _all_lines(code):
    yield from code.co_lines()
    for constant in code.co_consts:
        if hasattr(constant, "co_lines"):
            yield from _all_lines(constant)
