"""What stands first on report.html: in words, what E of a model did over training, as far as the tables carry it.

Every sentence follows from rows that are there, and what a run did not ask for is named with what to run. Nothing here says why
anything happened (docs/method.md#verdict).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ninscope.report.page.control_sentences import control_sentences, growth_clause, standing_clause
from ninscope.report.page.model_rows import EXACT, ModelRows, Row, checkpoint_name, known, text_of, value_of
from ninscope.report.page.parts import PageTables
from ninscope.report.page.phrases import capital, checkpoints, plain, stays_from
from ninscope.report.page.verdict_warnings import warnings_of
from ninscope.wording import includes_zero, interval, listed, number

_COUPLING = {"qk": "q and k", "vo": "v and o", "mlp": "MLP in and out", "across": "matrices of different blocks"}
_HELD_OUT = ("held_out", "validation", "eval", "test")  # the task whose loss is told, the first of these that there is


@dataclass(frozen=True)
class ModelVerdict:
    """The text about one model; all of it plain text, so whoever puts it on a page must escape it.

    label: of the model, as on the rest of the page. headline: one sentence. sentences: what the numbers say, in the order of
    reading. warnings: what speaks against reading them.
    """

    label: str
    headline: str
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]


def verdicts(tables: PageTables) -> list[ModelVerdict]:
    """One a label of the page, in its order."""
    return [_verdict(ModelRows.of(tables, label)) for label in tables.labels]


def _verdict(model: ModelRows) -> ModelVerdict:
    return ModelVerdict(model.label, _headline(model), tuple(_sentences(model)), tuple(warnings_of(model)))


def _headline(model: ModelRows) -> str:
    if not model.measured:
        return "No checkpoint has a spectrum, so there is nothing to say about this model."
    if not model.later:
        return _headline_without_e(model)
    return "; ".join([_movement(model), growth_clause(model), *standing_clause(model)]) + "."


def _headline_without_e(model: ModelRows) -> str:
    last = model.measured[-1]
    if len(model.emergence) == 1:
        values = f"alpha0 is {number(value_of(last, 'alpha0'))} and the width w {number(value_of(last, 'width'))}"
        return f"Only {checkpoint_name(last)} was measured, so nothing can be said about change: {values}."
    return "No checkpoint can be compared with the start of training, so there is no E."


def _movement(model: ModelRows) -> str:
    """What E of the last checkpoint is, beside the largest or smallest before, and whether it is clear of 0."""
    last, value = model.later[-1], value_of(model.later[-1], "emergence")
    name, has_step = checkpoint_name(last), known(last, "step")
    # Of equal ones the last; what reads the same is no other value.
    furthest = max(reversed(model.later), key=lambda row: value_of(row, "emergence") * (1 if value > 0 else -1))
    if number(value_of(furthest, "emergence")) == number(value):
        furthest = last
    if value == 0:
        told = f"E is 0 at {name}"
    elif furthest is last and has_step:
        told = f"E {'rises' if value > 0 else 'falls'} to {number(value)} by {name}"
    else:
        told = f"E is {number(value)} at {name}"
    if furthest is not last:
        told += f", after {number(value_of(furthest, 'emergence'))} at {checkpoint_name(furthest)}"
    if not known(last, "emergence_low", "emergence_high"):
        return f"{told}, without an interval"
    low, high = _ends(last)
    if includes_zero(low, high):
        return f"{told}, with an interval that includes 0"
    return f"{told}, {'above' if low > 0 else 'below'} 0 by its interval"


def _ends(row: Row, column: str = "emergence") -> tuple[float, float]:
    return value_of(row, f"{column}_low"), value_of(row, f"{column}_high")


def _sentences(model: ModelRows) -> Iterator[str]:
    if not model.measured:
        return
    yield _what_was_measured(model)
    if model.later:
        yield f"{capital(_about_e(model))} {_since_when(model)}".rstrip()
    yield from _of_spectra(model)
    if model.later:
        yield from control_sentences(model)
    yield from _of_other_method(model)
    yield from _of_coupling(model)
    yield from _of_loss(model)


def _what_was_measured(model: ModelRows) -> str:
    how = "of whole networks, with every weight" if model.method == EXACT else "means over samples of their neurons"
    compared = f"; E compares each checkpoint with {model.start_name}" if model.later else ""
    return f"The values here are {how}{compared}."


def _about_e(model: ModelRows) -> str:
    last = model.later[-1]
    told = f"at {checkpoint_name(last)} E is {number(value_of(last, 'emergence'))}"
    if not known(last, "emergence_low", "emergence_high"):
        return f"{told}. It has no interval ({_why_no_interval(last)}), so no change can be called beyond chance."
    low, high = _ends(last)
    if includes_zero(low, high):
        means = "includes 0: this E cannot be told from no change"
    else:
        means = f"lies {'above' if low > 0 else 'below'} 0"
    of_what = (
        "how much E depends on single layers of this network"
        if model.method == EXACT
        else "how much E depends on which neurons were drawn"
    )
    told += f", and its {interval(low, high)} {means}."
    return f"{told} The interval says {of_what}, and nothing about other seeds or data."


def _why_no_interval(row: Row) -> str:
    clauses = [plain(clause) for clause in text_of(row, "message").split("; ")]
    reasons = [clause.removeprefix("no interval: ") for clause in clauses if clause.startswith("no interval: ")]
    return reasons[0] if reasons else "the tables hold none: an older ninscope, or one sample alone"


def _since_when(model: ModelRows) -> str:
    """From which checkpoint on the interval of E lies above 0, else where it does."""
    with_interval = [known(row, "emergence_low") for row in model.later]
    if not any(with_interval):
        return ""
    above = [value_of(row, "emergence_low") > 0 for row in model.later]
    start = stays_from(above)
    if not any(above):
        return "The interval of E lies above 0 at no checkpoint."
    if start is None:
        return f"The interval of E lies above 0 at {checkpoints(model.later_names, above)}, and not at the last."
    if start == len(above) - 1:
        return f"Its interval lies above 0 at {model.later_names[-1]}, the last, and not at the one before it."
    return f"From {model.later_names[start]} on, the interval of E stays above 0."


def _of_spectra(model: ModelRows) -> Iterator[str]:
    """How alpha0 and w moved from the baseline to the last checkpoint, each with its interval where the run has one."""
    if model.start is None or model.start is model.measured[-1]:
        return
    for column, name in (("alpha0", "alpha0"), ("width", "w")):
        first, last = (_with_spread(model, row, column) for row in (model.start, model.measured[-1]))
        told = f"{name} goes from {first} at {model.start_name} to {last} at {model.names[-1]}."
        yield told + _apart(model, column)


def _with_spread(model: ModelRows, row: Row, column: str) -> str:
    value, control = number(value_of(row, column)), model.control(row)
    if model.method == EXACT and known(control, f"{column}_low", f"{column}_high"):
        return f"{value} ({interval(*_ends(control, column))})"
    std = value_of(row, f"{column}_std")
    return f"{value} (standard deviation over samples {number(std)})" if known(row, f"{column}_std") else value


def _apart(model: ModelRows, column: str) -> str:
    """Whether the last interval of alpha0 or w lies clear of that of the baseline, and since when."""
    if model.method != EXACT or model.start is None:
        return ""
    before = _ends(model.control(model.start), column)
    rows = [row for row in model.measured if not model.is_baseline(row)]
    ends = [_ends(model.control(row), column) for row in rows]
    if not ends or any(end != end for end in (*before, *ends[-1])):
        return ""
    for side, flags in (
        ("below", [high < before[0] for _, high in ends]),
        ("above", [low > before[1] for low, _ in ends]),
    ):
        start = stays_from(flags)
        if start is not None:
            return f" From {checkpoint_name(rows[start])} on its interval lies {side} that of {model.start_name}."
    return " The two intervals overlap, so this is no change beyond them."


def _of_other_method(model: ModelRows) -> Iterator[str]:
    """What samples say of the last checkpoint, beside the whole network."""
    if not model.later:
        return
    last = model.later[-1]
    revision = text_of(last, "revision")
    sampled = next((row for row in model.other_method if text_of(row, "revision") == revision), {})
    if not known(sampled, "emergence"):
        return
    told = f"Samples of neurons give E {number(value_of(sampled, 'emergence'))} at {checkpoint_name(last)}"
    if known(sampled, "emergence_low", "emergence_high"):
        low, high = _ends(sampled)
        inside = low <= value_of(last, "emergence") <= high
        holds = "holds" if inside else "does not hold"
        told += f" ({interval(low, high)}, which {holds} E of the whole network)"
    yield f"{told}. alpha0 and w of a sample depend on how many neurons it has."


def _of_coupling(model: ModelRows) -> Iterator[str]:
    """Means of coupling at the last checkpoint that has any, with how many pairs lie beyond what chance gives."""
    rows = model.interactions
    if not rows:
        return
    name, first_name = checkpoint_name(rows[-1]), checkpoint_name(rows[0])
    clauses = []
    kinds = dict.fromkeys(text_of(row, "kind") for row in rows)
    for kind in sorted(kinds, key=lambda kind: ([*_COUPLING, kind].index(kind), kind)):
        of_kind = [row for row in rows if text_of(row, "kind") == kind]
        now, before = (
            [row for row in of_kind if text_of(row, "revision") == text_of(end, "revision")]
            for end in (rows[-1], rows[0])
        )
        if not now:
            continue
        beyond = sum(value_of(row, "coupling") > 2 * value_of(row, "error") for row in now)
        since = f"from {_mean_coupling(before):.2f} to " if before and name != first_name else ""
        pairs = f"{beyond} of {len(now)} pairs beyond chance"
        clauses.append(f"{since}{_mean_coupling(now):.2f} for {_COUPLING.get(kind, kind)} ({pairs})")
    when = f"goes, from {first_name} to {name}," if name != first_name else f"at {name} is"
    yield (
        "Coupling tells whether one matrix reads what another one writes; 0 is chance, and a pair is beyond it if it lies more "
        f"than two errors above 0. Its mean {when} {listed(clauses)}."
    )
    if "qk" in kinds:
        yield (
            "Of all that is read from weights alone, the coupling of q and k is what told learning from training on noise in "
            "the study of small models that ninscope's documentation describes (What does E see?)."
        )


def _mean_coupling(rows: Sequence[Row]) -> float:
    mean = sum(value_of(row, "coupling") for row in rows) / len(rows)
    return 0.0 if abs(mean) < 0.005 else mean  # never "-0.00"


def _of_loss(model: ModelRows) -> Iterator[str]:
    """The loss at the first and the last measured checkpoint that have one."""
    losses = [row for row in model.benchmarks if text_of(row, "metric") == "loss" and known(row, "value")]
    tasks = list(dict.fromkeys(text_of(row, "task") for row in losses))
    task = next((task for task in _HELD_OUT if task in tasks), tasks[0] if tasks else "")
    by_revision = {text_of(row, "revision"): value_of(row, "value") for row in losses if text_of(row, "task") == task}
    shared = [row for row in model.measured if text_of(row, "revision") in by_revision]
    if len(shared) < 2:
        return
    first, last = shared[0], shared[-1]
    told = " to ".join(
        f"{number(by_revision[text_of(row, 'revision')])} at {checkpoint_name(row)}" for row in (first, last)
    )
    yield (
        f"Beside this, the loss ({plain(task)}) goes from {told}. Two things that both change while a model trains need not "
        "have to do with each other."
    )
