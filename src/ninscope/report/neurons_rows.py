"""Rows of the table `neurons` that figures and pages show: main facts of measures, and what they are called."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from ninscope.neurons.observatory.measure import ALL, NONE, OTHERS, PREVIOUS, SEED, SHUFFLED, START
from ninscope.neurons.observatory.registry import measures

_BESIDE = {START: "beside the first step", PREVIOUS: "beside the revision before", SEED: "beside another seed"}
# Further facts that are shown by themselves: their names begin with that of the measure which finds them.
_FACTS = {"dead_firing_frequency": "firing frequency", "dead_kurtosis": "kurtosis of activations"}
KEYS = ["measure", "against"]  # what one panel shows


def main_rows(neurons: pd.DataFrame) -> pd.DataFrame:
    """Rows of the measures' main facts that state a step, as float64 and int64, and with the column `title`. What is not finite
    is missing.

    neurons: the table. A fact is called as its measure is, and further facts begin with that name: of "dormant" and
    "dormant_persistence" the first is shown. against: "" where a row compares with nothing.
    """
    rows = neurons.dropna(subset=["step"]).copy()
    known = {*measures(), *rows["measure"].dropna()}
    names = [
        name for name in dict.fromkeys(rows["measure"].dropna()) if name in measures() or not _extends(name, known)
    ]
    rows = rows[rows["measure"].isin(names)]
    numbers = ["value", *(name for name in rows if str(name).startswith("p") and str(name)[1:].isdigit())]
    rows = rows.astype({"step": "int64", **dict.fromkeys(numbers, "float64")})
    rows["value"] = rows["value"].where(np.isfinite(rows["value"]))
    rows["against"] = rows["against"].astype("object").where(rows["against"].notna(), "").astype(str)
    pairs = rows[KEYS].drop_duplicates().itertuples(index=False)
    titles = {(measure, against): title_of(measure, against) for measure, against in pairs}
    rows["title"] = [titles[pair] for pair in zip(rows["measure"], rows["against"], strict=True)]
    return rows


def _extends(name: str, others: Iterable[str]) -> bool:
    return any(name.startswith(f"{other}_") for other in others)


def title_of(measure: str, against: str = "") -> str:
    """ "Sign flips, beside the first step": a measure's title, and what the model is compared with."""
    known = measures().get(measure)
    title = known.title if known is not None else _FACTS.get(measure, measure.replace("_", " "))
    return f"{title}, {_BESIDE.get(against, f'beside {against}')}" if against else title


def title_of_column(name: str) -> str:
    """What a column of `neuron_values` is called: "NAME", "NAME/shuffled", "NAME/seed"."""
    measure, _, rest = name.partition("/")
    against, _, control = ("", "", rest) if rest == SHUFFLED else rest.partition("/")
    return title_of(measure, against) + (f", {control}" if control else "")


def columns_of(rows: pd.DataFrame) -> list[str]:
    """What `neuron_values` calls the measures of these rows on the examples as they are: "NAME", "NAME/seed"."""
    against = rows["against"].astype("object").where(rows["against"].notna(), "")
    return ["/".join(filter(None, pair)) for pair in zip(rows["measure"], against, strict=True)]


def titles_of(rows: pd.DataFrame) -> tuple[list[str], list[str]]:
    """(titles of what has a value, of what has none anywhere). rows: of `main_rows`. Measures are in the order of the rows, and
    what one is compared with in that of OTHERS."""
    measure = {name: number for number, name in enumerate(dict.fromkeys(rows["measure"]))}
    against = {name: number for number, name in enumerate(("", *OTHERS))}
    panels = [tuple(map(str, row)) for row in rows[[*KEYS, "title"]].drop_duplicates().to_numpy().tolist()]
    panels.sort(key=lambda panel: (measure[panel[0]], against.get(panel[1], len(against))))
    valued = set(rows.loc[rows["value"].notna(), "title"])
    compared = {
        name for name, _, title in panels if title in valued
    }  # a model without another seed says so in a row of no comparison
    missing = [title for name, other, title in panels if title not in valued and (other or name not in compared)]
    return [title for _, _, title in panels if title in valued], missing


def of_layers(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of single layers."""
    return rows[rows["layer"] != ALL]


def of_text(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the examples as they are."""
    return rows[rows["control"] == NONE]


def of_control(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the shuffled examples."""
    return rows[rows["control"] == SHUFFLED]
