"""Which tests judge a mutant: those that reach it, the quickest first."""

import ast
from collections.abc import Sequence

from mutation.mutants import Mutant


class ReachingTests:
    """What every test reaches.

    tests: by name its "seconds" of CPU, whether it "passed", its "lines" (by path, a set) and "kernels" ("path:line").
    kernels: each compiled function with its "path", its "first" and "last" line, and "run_by", the kernels that call it.
    """

    def __init__(self, tests: dict[str, dict], kernels: Sequence[dict]) -> None:
        self._tests = {name: reached for name, reached in tests.items() if reached["passed"]}
        self._kernels = kernels

    def of(self, mutant: Mutant, source: str) -> list[tuple[str, float]]:
        """(name, CPU seconds) of each.

        They run its statement; of a mutant in a compiled function they call it or a caller of it; of one outside of functions
        they reach its file.
        """
        lines = lines_of_statement(source, mutant.line)
        in_kernels = [kernel for kernel in self._kernels if kernel["path"] == mutant.path]
        if lines is not None:
            in_kernels = [kernel for kernel in in_kernels if kernel["first"] <= mutant.line <= kernel["last"]]
        running = {caller for kernel in in_kernels for caller in kernel["run_by"]}
        chosen = []
        for name, reached in self._tests.items():
            own = reached["lines"].get(mutant.path, set())
            if running & reached["kernels"] or (own if lines is None else own & lines):
                chosen.append((name, reached["seconds"]))
        return sorted(chosen, key=lambda test: (test[1], test[0]))


def lines_of_statement(source: str, line: int) -> set[int] | None:
    """Lines of the innermost statement at a line (of a compound one its head); None outside of functions."""
    innermost, inside = None, False
    for node in ast.walk(ast.parse(source)):  # breadth first: the last that holds the line is the innermost
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0):
            innermost = node
            inside = inside or (isinstance(node, ast.FunctionDef) and node.body[0].lineno <= line)
    if innermost is None or not inside:
        return None
    body = getattr(innermost, "body", None)
    last = body[0].lineno - 1 if body else innermost.end_lineno
    return set(range(innermost.lineno, max(last, innermost.lineno) + 1))
