"""What report.html says of E beside its controls: null models, growth of norms, weights at equal norms, the verdict."""

from collections.abc import Iterator

from ninscope.multifractal.verdict import CONTROLS, GROWTH, INTERVAL, NULLS, WIDE, Verdict, null_band
from ninscope.report.page.model_rows import ModelRows, Row, checkpoint_name, known, text_of, value_of
from ninscope.report.page.phrases import checkpoints
from ninscope.wording import includes_zero, interval, listed, number

_FAILS = {
    INTERVAL: "its interval reaches 0 or below",
    NULLS: "it is not above the null models",
    GROWTH: "it is not above the interval of growth of norms",
    CONTROLS: "it is not above what trainings reach that learn nothing",
}
_UNKNOWN = {
    INTERVAL: "an interval of E",
    NULLS: "null models ([nulls])",
    GROWTH: "an interval of E of growth alone",
    CONTROLS: "what trainings reach that learn nothing (control_spread of [controls])",
}
_RUN_CONTROLS = (
    "add a section [controls], which may be empty, to the DAG file, with exact = true in [analysis], and run it again"
)
_RUN_NULLS = "add a section [nulls] to the DAG file and run it again"
# The same for a training that is monitored, which no DAG file asks for.
_MONITOR_CONTROLS = "leave the monitor its controls: controls=False takes them away"
_ASK_NULLS = "of a training with snapshot=True, ninscope.open_run(...).snapshot(...).nulls() gives their spectra"


def growth_clause(model: ModelRows) -> str:
    """Of the headline: E of growth alone at the last checkpoint."""
    control = model.control(model.later[-1])
    if known(control, "emergence_growth"):
        return f"growth of weight norms alone would give {number(value_of(control, 'emergence_growth'))}"
    return "growth of weight norms is not ruled out"


def standing_clause(model: ModelRows) -> Iterator[str]:
    """Of the headline: which checkpoints stand against all controls; nothing where no verdict was asked for."""
    told = _told(model)
    if any(told):
        standing = [verdict is not None and verdict.stands for verdict in told]
        if any(standing):
            chosen = checkpoints(model.later_names, standing)
            yield f"{chosen} {'stands' if sum(standing) == 1 else 'stand'} against all controls"
        else:
            yield f"no {'step' if known(model.later[-1], 'step') else 'checkpoint'} stands against all controls"


def control_sentences(model: ModelRows) -> Iterator[str]:
    """Of a model with an E: null models, then growth, then equal norms, then the verdict."""
    yield from _of_nulls(model)
    yield from _of_growth(model)
    yield from _of_structure(model)
    yield from _of_verdict(model)


def _told(model: ModelRows) -> list[Verdict | None]:
    """The verdict of every later checkpoint; None where the run gives none."""
    texts = [text_of(model.control(row), "verdict") for row in model.later]
    return [Verdict.parse(text) if text else None for text in texts]


def _of_nulls(model: ModelRows) -> Iterator[str]:
    last = model.later[-1]
    name, nulls = checkpoint_name(last), model.nulls_of(last)
    if not model.nulls:
        yield (
            "No null models were run, so nothing here says what E random weights would give: "
            f"{_ASK_NULLS if model.in_training else _RUN_NULLS}."
        )
    elif not nulls:
        yield f"The null models have no E at {name}, so nothing says what E random weights would give there."
    else:
        highest = max(nulls, key=_null_end)
        above = [
            bool(rows) and value_of(row, "emergence") > max(map(_null_end, rows)) for row, rows in _with_nulls(model)
        ]
        where = (
            f"E lies above them at {checkpoints(model.later_names, above)}"
            if any(above)
            else "E lies above them nowhere"
        )
        drawn = known(highest, "emergence_std")
        spread = f": the mean over draws plus {WIDE:g} standard deviations" if drawn else ""
        yield (
            f"Null models keep something of the weights and are random otherwise ({listed(_names(nulls))}). At {name} they "
            f"give E up to {number(_null_end(highest))} ({text_of(highest, 'null')}{spread}); {where}."
        )
        yield from _null_spectra(last, nulls)


def _with_nulls(model: ModelRows) -> Iterator[tuple[Row, list[Row]]]:
    return ((row, model.nulls_of(row)) for row in model.later)


def _names(nulls: list[Row]) -> list[str]:
    return [text_of(null, "null") for null in nulls]


def _null_end(null: Row) -> float:
    return null_band([value_of(null, "emergence")], [value_of(null, "emergence_std")])


def _null_spectra(last: Row, nulls: list[Row]) -> Iterator[str]:
    """The band of alpha0 and w over null models, and on which side of it the network lies."""
    clauses = []
    for column, shown in (("alpha0", "alpha0"), ("width", "w")):
        usable = [null for null in nulls if known(null, column)]
        spreads = [WIDE * value_of(null, f"{column}_std") if known(null, f"{column}_std") else 0.0 for null in usable]
        if not usable:
            continue
        means = [value_of(null, column) for null in usable]
        low = min(mean - spread for mean, spread in zip(means, spreads, strict=True))
        high = max(mean + spread for mean, spread in zip(means, spreads, strict=True))
        value = value_of(last, column)
        side = "above" if value > high else "below" if value < low else "within"
        clauses.append(f"{shown} ({number(value)}) lies {side} their range ({_range(low, high)})")
    if clauses:
        yield f"At {checkpoint_name(last)} {listed(clauses)}."


def _range(low: float, high: float) -> str:
    """ "0.281 to 0.316", with more digits where three do not tell the ends apart."""
    ends = number(low), number(high)
    return " to ".join(ends if ends[0] != ends[1] else (f"{low:.5g}", f"{high:.5g}"))


def _of_growth(model: ModelRows) -> Iterator[str]:
    last = model.later[-1]
    name, control = checkpoint_name(last), model.control(last)
    if not model.controls:
        yield (
            "Growth of weight norms is not ruled out: weights that only become larger raise E as well. To compare with that, "
            f"{_MONITOR_CONTROLS if model.in_training else _RUN_CONTROLS}."
        )
    elif not known(control, "emergence_growth"):
        yield f"E of growth alone is missing at {name}, so growth of weight norms is not ruled out there."
    else:
        yield f"{_grown(model, last, control)} {_fixed(model, name, control)}".rstrip()


def _grown(model: ModelRows, last: Row, control: Row) -> str:
    growth, value = value_of(control, "emergence_growth"), value_of(last, "emergence")
    name = checkpoint_name(last)
    told = f"The weights of {model.start_name}, only made larger or smaller to the norms of {name}, give E {number(growth)}"
    if not known(control, "emergence_growth_low", "emergence_growth_high"):
        return f"{told}, without an interval; E of {name} is {'larger' if value > growth else 'not larger'}."
    low, high = value_of(control, "emergence_growth_low"), value_of(control, "emergence_growth_high")
    side = "lies above" if value > high else "does not lie above"
    return f"{told} ({interval(low, high)}); E of {name}, {number(value)}, {side} that interval."


def _fixed(model: ModelRows, name: str, control: Row) -> str:
    if not known(control, "emergence_fixed"):
        return ""
    told = f"The other way round, the weights of {name} at the norms of {model.start_name} give "
    return told + _with_interval(control, "emergence_fixed") + "."


def _with_interval(row: Row, column: str) -> str:
    """ "-0.0949 (interval from -0.242 to 0.0520, which includes 0)" """
    value = number(value_of(row, column))
    if not known(row, f"{column}_low", f"{column}_high"):
        return value
    low, high = value_of(row, f"{column}_low"), value_of(row, f"{column}_high")
    where = "includes 0" if includes_zero(low, high) else "lies above 0" if low > 0 else "lies below 0"
    return f"{value} ({interval(low, high)}, which {where})"


def _of_structure(model: ModelRows) -> Iterator[str]:
    last = model.later[-1]
    control = model.control(last)
    if known(control, "structure"):
        yield (
            f"The structure index at {checkpoint_name(last)} is {_with_interval(control, 'structure')}. It compares w of weights "
            "brought to equal norms with w of the same weights in random places: 0 is no difference. Weights trained on bytes "
            "without any order have one too, so it is no sign of learning by itself."
        )


def _of_verdict(model: ModelRows) -> Iterator[str]:
    told = _told(model)
    if not model.controls:
        return
    if not any(told):
        yield "This run holds no verdict: run it again with this version of ninscope to have one."
        return
    yield (
        "E of a checkpoint stands if it is beyond all four: 0 by its interval, the null models, the interval of growth of norms, "
        "and what trainings reach that learn nothing."
    )
    standing = [verdict is not None and verdict.stands for verdict in told]
    if any(standing):
        yield f"E stands at {checkpoints(model.later_names, standing)}."
    last = told[-1]
    if last is not None and not last.stands:
        yield f"E of {model.later_names[-1]} does not stand: {_against(last)}."
    unjudged = [verdict is not None and not verdict.fails and bool(verdict.unknown) for verdict in told]
    if any(unjudged):
        first = next(verdict for verdict, is_open in zip(told, unjudged, strict=True) if is_open)
        assert first is not None
        yield (
            f"At {checkpoints(model.later_names, unjudged)} nothing that is known speaks against E, but not all is known: "
            f"{listed([_UNKNOWN.get(name, name) for name in first.unknown])}."
        )


def _against(verdict: Verdict) -> str:
    clauses = [listed([_FAILS.get(name, name) for name in verdict.fails])] if verdict.fails else []
    if verdict.unknown:
        clauses.append(f"not known: {listed([_UNKNOWN.get(name, name) for name in verdict.unknown])}")
    return "; ".join(clauses)
