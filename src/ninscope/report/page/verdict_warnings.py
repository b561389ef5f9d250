"""What report.html warns of before its numbers are read: every kind of warning once, with the checkpoints that it is about."""

import math
from collections.abc import Iterable, Iterator, Sequence

from ninscope.multifractal.spectrum import LEAST_R2, fit_warning
from ninscope.report.page.model_rows import ModelRows, Row, checkpoint_name, text_of, value_of
from ninscope.report.page.phrases import capital, checkpoints, plain
from ninscope.wording import listed, of_number, outer_names

_FIT = fit_warning(-math.inf, -math.inf).split(": ")[0]
_NO_INTERVAL = "no interval"  # how a message begins that the sentence on E tells of


def warnings_of(model: ModelRows) -> Iterator[str]:
    """Checkpoints that are not ok, or read as generic, checkpoints without E, power laws that do not hold, what else rows warn
    of, unmatched steps.
    """
    yield from _not_ok(model)
    yield from _generic(model)
    yield from _grouped(model.emergence, "message", skipped=(_NO_INTERVAL,))
    yield from _of_fits(model)
    yield from _grouped(model.emergence, "warning", skipped=(_FIT,))
    yield from _grouped(model.controls, "message", skipped=("no E", _NO_INTERVAL), about="controls: ")
    yield from _unmatched(model)


def _not_ok(model: ModelRows) -> Iterator[str]:
    by_status: dict[str, list[str]] = {}
    for row in model.checkpoints:
        status = text_of(row, "status")
        if status not in ("ok", "duplicate"):
            by_status.setdefault(status or "of unknown status", []).append(checkpoint_name(row))
    if by_status:
        count = sum(map(len, by_status.values()))
        clauses = [f"{len(names)} {status} ({outer_names(names)})" for status, names in sorted(by_status.items())]
        verb = "is" if count == 1 else "are"
        yield f"{count} of {of_number(len(model.checkpoints), 'checkpoint')} {verb} not in these numbers: {listed(clauses)}."


def _generic(model: ModelRows) -> Iterator[str]:
    """That no architecture is known, since E of a description of the model is another number."""
    generic = ["read as generic" in text_of(row, "message") for row in model.checkpoints]
    if any(generic):
        where = "architecture=... of the monitor" if model.in_training else "[architecture] in the DAG file"
        yield (
            f"At {checkpoints([checkpoint_name(row) for row in model.checkpoints], generic)} the model is of no known family: "
            "every matrix is read by itself, embedding and head too, and none is joined to another. A description of the model, "
            f"{where}, gives other numbers, and the coupling of matrices."
        )


def _of_fits(model: ModelRows) -> Iterator[str]:
    weak = [_has_weak_fit(row) for row in model.measured]
    if any(weak):
        yield (
            f"At {checkpoints(model.names, weak)} a power law does not hold well (r2 below {LEAST_R2}), and alpha0, w and E "
            "are slopes of such laws: read them with care there."
        )


def _has_weak_fit(row: Row) -> bool:
    return _FIT in text_of(row, "warning") or any(
        value_of(row, column) < LEAST_R2 for column in ("r2_mass_mean", "r2_partition")
    )


def _grouped(rows: Sequence[Row], column: str, skipped: Iterable[str], about: str = "") -> Iterator[str]:
    """A sentence a kind of clause of a column: which checkpoints have it, with the words of the first of them.

    Clauses are of one kind that begin alike up to their second colon, so that numbers in what follows do not make many of one.
    """
    kinds: dict[str, list[int]] = {}
    words: dict[str, list[str]] = {}
    for position, row in enumerate(rows):
        for clause in _clauses(text_of(row, column)):
            if not clause.startswith(tuple(skipped)):
                kinds.setdefault(_kind(clause), []).append(position)
                words.setdefault(_kind(clause), []).append(clause)
    names = [checkpoint_name(row) for row in rows]
    for kind, positions in kinds.items():
        chosen = [position in positions for position in range(len(rows))]
        like = "" if len(set(words[kind])) == 1 else f" (so at {names[positions[0]]}; elsewhere with other details)"
        yield capital(f"{about}at {checkpoints(names, chosen)}: {words[kind][0]}{like}.")


def _clauses(text: str) -> list[str]:
    """The clauses of a message. A reason of `no E` holds an advice behind a semicolon, which stays with it."""
    clauses: list[str] = []
    for clause in filter(None, (plain(part) for part in text.split("; "))):
        if clauses and clauses[-1].startswith("no E") and not clause.startswith(("no ", "E compares")):
            clauses[-1] += f"; {clause}"
        else:
            clauses.append(clause)
    return clauses


def _kind(clause: str) -> str:
    return ": ".join(clause.split(": ")[: 2 if clause.startswith("no E") else 1])


def _unmatched(model: ModelRows) -> Iterator[str]:
    """Benchmarks of checkpoints that were not measured, since figures leave them out."""
    measured = {text_of(row, "revision") for row in model.measured}
    # By its step where no revision has it, as what a trainer logged between checkpoints.
    names = {text_of(row, "revision") or value_of(row, "step"): checkpoint_name(row) for row in model.benchmarks}
    missing = [name for key, name in names.items() if key not in measured]
    if measured and missing:
        count = len(names) - len(missing)
        verb = "is" if count == 1 else "are"
        yield (
            f"Of {of_number(len(names), 'checkpoint that has', 'checkpoints that have')} benchmarks, {count} {verb} measured "
            f"here; {outer_names(missing)} {'has' if len(missing) == 1 else 'have'} no alpha0, w or E."
        )
