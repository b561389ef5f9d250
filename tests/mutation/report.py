"""The figures of a run, and the names of the survivors."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mutation.equivalent import EQUIVALENT
from mutation.judging import KILLED, Judged

_MEANING = {
    "killed": "a test failed",
    "timeout": "killed: a test did not end",
    "died": "killed: the process crashed",
    "survived": "every test that reaches it passed",
    "unreached": "survived: no test reaches it",
    "failed": "incompetent: it could not be judged",
}


def line_of(judged: Judged) -> str:
    """One mutant in one line."""
    return f"{judged.outcome:9} {judged.seconds:6.1f} s  {judged.mutant.name}"


def summary(results: Sequence[Judged], drawn_from: int, seed: int) -> str:
    """Several lines: how many were killed, by kind and by file, and each survivor."""
    counted = Counter(judged.outcome for judged in results)
    killed = sum(judged.killed for judged in results)
    competent = len(results) - counted["failed"]
    seconds = sum(judged.seconds for judged in results)
    lines = [f"{len(results)} mutants of {drawn_from} places, seed {seed}; {seconds:.0f} CPU seconds in tests"]
    lines += [f"  {outcome:9} {counted[outcome]:4}  ({_MEANING[outcome]})" for outcome in _MEANING if counted[outcome]]
    lines.append(f"killed: {killed} of {competent}, {_percent(killed, competent)}")
    equivalent = sum(judged.mutant.key in EQUIVALENT and not judged.killed for judged in results)
    told = competent - equivalent
    lines.append(
        f"  without the {equivalent} survivors that are equivalent: {killed} of {told}, {_percent(killed, told)}"
    )
    for path, of_file in sorted(_by_file(results).items()):
        lines.append(f"  {sum(judged.killed for judged in of_file):3} of {len(of_file):3}  {path}")
    survivors = sorted((judged for judged in results if not judged.killed), key=lambda judged: judged.mutant.name)
    for title, chosen in (
        ("survivors that a test should kill:", [judged for judged in survivors if judged.mutant.key not in EQUIVALENT]),
        ("equivalent survivors:", [judged for judged in survivors if judged.mutant.key in EQUIVALENT]),
    ):
        lines += [title] if chosen else []
        lines += [
            f"  {judged.mutant.name}  ({judged.outcome}, line {judged.mutant.line}) {EQUIVALENT.get(judged.mutant.key, '')}"
            for judged in chosen
        ]
    wrong = sorted(judged.mutant.name for judged in results if judged.killed and judged.mutant.key in EQUIVALENT)
    lines += [f"  no longer equivalent, a test kills it; take it out of equivalent.py: {name}" for name in wrong]
    return "\n".join(lines)


def comparison(results: Sequence[Judged], earlier: Path) -> str:
    """How the mutants that an earlier run's file has too fared then and now; a moved file keeps its mutants."""
    then = {_pathless(row["name"]): row["outcome"] in KILLED for row in json.loads(earlier.read_text(encoding="utf-8"))}
    now = {_pathless(judged.mutant.name): judged.killed for judged in results}
    both = then.keys() & now.keys()
    lines = [
        f"of {len(both)} mutants that {earlier} has too: {sum(then[name] for name in both)} killed then, "
        f"{sum(now[name] for name in both)} now"
    ]
    lines += [f"  no longer killed: {name}" for name in sorted(both) if then[name] and not now[name]]
    return "\n".join(lines)


def _pathless(name: str) -> str:
    return name.partition("::")[2]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.1f} %"


def _by_file(results: Sequence[Judged]) -> dict[str, list[Judged]]:
    files: dict[str, list[Judged]] = {}
    for judged in results:
        files.setdefault(judged.mutant.path, []).append(judged)
    return files


def write(results: Sequence[Judged], path: Path) -> None:
    """Every result as JSON, to compare two runs by the mutants' names."""
    rows = [
        judged.mutant.described()
        | {name: getattr(judged, name) for name in ("outcome", "by", "why", "how", "seconds", "tests")}
        for judged in results
    ]
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
