"""What `ninscope audit` does: the findings of every source, shown."""

from collections.abc import Sequence

from ninscope.auditing import audit_findings
from ninscope.errors import RequestError
from ninscope_pipeline import display
from ninscope_pipeline.display import Say


def audit_sources(sources: Sequence[str], as_json: bool, say: Say) -> int:
    """Audit every source and show its rows; returns the exit code. A source that is refused stops no other."""
    findings, refused, notes = {}, [], []
    for source in dict.fromkeys(sources):
        said: list[str] = []
        try:
            findings[source] = audit_findings(source, said.append, progress=display.shows_progress(as_json))
        except RequestError as error:
            refused.append(error)
        notes += [f"{source}: {clause}" for clause in said]
    if as_json and findings:
        print(display.audit_json(findings, len(dict.fromkeys(sources)) > 1))
    for source, rows in findings.items():
        if not as_json:
            display.show_audit(source, rows)
        where = f"{source} " if len(findings) > 1 else ""
        for row in rows:
            if row.status != "ok":
                say(f"{where}{row.revision}: {row.status}: {row.message}")
    for line in (*notes, *map(str, refused)):
        say(line)
    if refused:
        return 2
    return int(any(row.status != "ok" for rows in findings.values() for row in rows))
