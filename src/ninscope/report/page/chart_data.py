"""Rows of a run's tables as data of charts: numbers as they are drawn, models in the order of the page, what a page can hold.

Nothing here draws. `charts` makes charts of what this gives.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ninscope.report.page.digits import with_digits
from ninscope.report.page.parts import PageTables

WHOLE, SAMPLES = "whole network", "samples (mean)"
METHODS = {"exact": WHOLE, "sampled": SAMPLES}
SOUND, WARNED, WITHHELD = "no warning", "with a warning", "duplicate: no E"
_DIGITS = 6  # of a number on the page; the tables hold all
_ROOM = 0.35  # of the lines' range: as far a band is shown beyond them


def rounded(values: Any) -> np.ndarray:
    """float64, to six significant digits, of any shape; what is not finite is missing."""
    numbers = np.array(pd.to_numeric(pd.Series(values), errors="coerce").astype("float64"), dtype=np.float64)
    numbers[~np.isfinite(numbers)] = np.nan
    return with_digits(numbers, _DIGITS) + 0.0  # no -0


def rows_of(rows: pd.DataFrame, numbers: Sequence[str] = (), texts: Sequence[str] = ()) -> pd.DataFrame:
    """Rows as data of a chart: step, label, these columns. A column that the table lacks is missing throughout.

    Rows without a step are left out. Rows of a model stand together, models in the order of the rows, each by step.
    """
    known = rows[rows["step"].notna()]
    data = {"step": known["step"].astype("int64").to_numpy(), "label": known["label"].astype(str).to_numpy()}
    missing = pd.Series(np.nan, known.index)
    for name in numbers:
        data[name] = rounded(known.get(name, missing))
    for name in texts:
        column = known[name] if name in known else pd.Series("", known.index)
        data[name] = column.astype(object).where(column.notna(), "").astype(str).to_numpy()
    return pd.DataFrame(data)


def in_order(data: pd.DataFrame, tables: PageTables) -> pd.DataFrame:
    """Data with the column `number`, the place of a model on the page, in that order, and of a model by step."""
    places = {label: number for number, label in enumerate(tables.labels)}
    numbers = data["label"].map(places).fillna(len(places)).astype("int64")
    return data.assign(number=numbers).sort_values(["number", "step"], kind="stable").reset_index(drop=True)


def with_state(data: pd.DataFrame) -> pd.DataFrame:
    """Data with the column `state`: whether a point is to be trusted, by its columns `warning` and (where it has one) `status`."""
    state = np.where(data["warning"].str.len() > 0, WARNED, SOUND)
    if "status" in data:
        state = np.where(data["status"] == "duplicate", WITHHELD, state)
    return data.assign(state=state)


def labels_in(data: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(data["label"]))


def steps_in(data: pd.DataFrame) -> list[int]:
    return sorted(set(data["step"].tolist()))


def step_places(data: pd.DataFrame) -> tuple[np.ndarray, list[int]]:
    """(place of each row's step among the steps, int64 [rows]; the steps, ascending): what a slider over steps chooses by."""
    steps = steps_in(data)
    places = {step: place for place, step in enumerate(steps)}
    return data["step"].map(places).to_numpy(np.int64), steps


def evenly(values: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the values, evenly spaced, first and last among them."""
    if len(values) <= most:
        return list(values)
    return [values[place] for place in np.unique(np.rint(np.linspace(0, len(values) - 1, most)).astype(int)).tolist()]


def numbers_of(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """(number of the name in each row, int64 [rows]; the names by number, in order of appearance)."""
    names = list(dict.fromkeys(column.astype(str)))
    places = {name: number for number, name in enumerate(names)}
    return column.astype(str).map(places).to_numpy(np.int64), names


def mapped(column: pd.Series, function: Callable[[str], str]) -> pd.Series:
    """A function of each name, called once for each that there is: tables may have millions of rows."""
    return column.map({name: function(name) for name in column.unique()})


def entries_of(data: pd.DataFrame, first: str, second: str) -> tuple[np.ndarray, list[str]]:
    """As `numbers_of`, of what two columns say together, so that a list has only what there is; of one alone, where the first
    has one value only."""
    several = data[first].nunique() > 1
    return numbers_of(data[first].astype(str) + ": " + data[second].astype(str) if several else data[second])


def within(data: pd.DataFrame, column: str, most: int, few: int = 24) -> tuple[pd.DataFrame, str]:
    """(rows that a page can hold, what was left out in words or ""). First steps are left out, then names of a column, evenly.

    column: of names that a model has at every step, of which the message speaks ("layer": layers). most: rows. few: steps that
    stay before names are left out.
    """
    if len(data) <= most:
        return data, ""
    steps, names = steps_in(data), list(dict.fromkeys(data[column]))
    kept_steps = evenly(steps, max(len(steps) * most // len(data), min(len(steps), few)))
    shown = data[data["step"].isin(kept_steps)]
    kept_names = evenly(names, max(len(names) * most // max(len(shown), 1), 1)) if len(shown) > most else names
    shown = shown[shown[column].isin(kept_names)].reset_index(drop=True)
    clauses = [f"{len(kept_steps)} of {len(steps):,} steps"] if len(kept_steps) < len(steps) else []
    clauses += [f"{len(kept_names)} of {len(names):,} {column}s"] if len(kept_names) < len(names) else []
    return shown, f"Shown are {' and '.join(clauses)}, evenly spaced; the tables have all."


def domain_of(values: Any, ends: Sequence[Any] = (), hold: Sequence[float] = ()) -> list[float] | None:
    """What an ordinate shows: all values, and of the bands between `ends` as much as leaves the values legible.

    hold: numbers that it also shows. None where no value is known.
    """
    known = [number for number in np.ravel(np.array(values, dtype=np.float64)) if np.isfinite(number)]
    if not known:
        return None
    low, high = min([*known, *hold]), max([*known, *hold])
    room = _ROOM * max(high - low, 1e-3 * max(abs(low), abs(high)), 1e-9)
    bounds = [number for end in ends for number in np.ravel(np.array(end, dtype=np.float64)) if np.isfinite(number)]
    small = 0.06 * room / _ROOM
    shown = [max(min([low, *bounds]), low - room) - small, min(max([high, *bounds]), high + room) + small]
    return rounded(shown).tolist()


def drawn_ends(data: pd.DataFrame, columns: Sequence[str], groups: Sequence[str] = ()) -> pd.DataFrame:
    """Data with `<column>_from` and `<column>_to`: the interval, as far as it can be drawn without making the lines flat.

    groups: columns of what is shown together.
    """
    parts = [rows for _, rows in data.groupby(list(groups), sort=False)] if groups else [data]
    drawn = []
    for rows in parts:
        ends: dict[str, np.ndarray] = {}
        for column in columns:
            if f"{column}_low" not in rows:
                continue
            low, high = (rows[f"{column}_{end}"].to_numpy(float) for end in ("low", "high"))
            least, most = domain_of(rows[column], [low, high]) or [-np.inf, np.inf]
            ends[f"{column}_from"], ends[f"{column}_to"] = (rounded(np.clip(end, least, most)) for end in (low, high))
        drawn.append(rows.assign(**ends))
    return pd.concat(drawn).sort_index() if drawn else data
