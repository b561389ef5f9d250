"""What `ninscope doctor` prints: every check on a line of its own, or all as one JSON document."""

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from ninscope.errors import printable
from ninscope.wording import of_number
from ninscope_pipeline.environment import Check, checks

_STYLES = {"ok": "green", "note": "yellow", "wrong": "bold red"}


def show_checks(runs_dir: Path, as_json: bool) -> int:
    """Check the environment and show what was found; returns the exit code, 1 where something would stop a run."""
    results = checks(runs_dir)
    wrong = sum(check.state == "wrong" for check in results)
    if as_json:
        rows = [asdict(check) | {"advice": check.advice or None} for check in results]
        print(json.dumps({"ok": not wrong, "checks": rows}, indent=1))
        return int(wrong > 0)
    console = Console(soft_wrap=True, highlight=False)
    width = max(len(check.name) for check in results)
    for check in results:
        console.print(_line(check, width))
    print(f"{of_number(wrong, 'thing')} would stop a run" if wrong else "a run has what it needs")
    return int(wrong > 0)


def _line(check: Check, width: int) -> str:
    style = _STYLES[check.state]
    text = escape(printable("; ".join(filter(None, (check.text, check.advice)))))
    return f"[{style}]{check.state:5}[/{style}] {check.name:{width}}  {text}"
