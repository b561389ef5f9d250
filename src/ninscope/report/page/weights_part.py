"""Statistics of weights over training: of all weights of every model, and of the matrices of each kind of one."""

from collections.abc import Iterator

import pandas as pd

from ninscope.report.page.chart_data import in_order, mapped, numbers_of, rounded, rows_of, within
from ninscope.report.page.charts import (
    colour_by,
    colour_by_label,
    first_and_last,
    known_measures,
    layer_words,
    measured_lines,
    with_model_list,
)
from ninscope.report.page.parts import Chart, PagePart, PageTables

_WHOLE = "all"  # the row of the table that is a network
_MEASURES = (
    ("norm", "norm of the weights"),
    ("distance_from_start", "distance from the start, in norms of the start"),
    ("kurtosis", "kurtosis (normal: 3)"),
    ("stable_rank", "stable rank"),
    ("effective_rank", "effective rank"),
    ("spectral_alpha", "spectral alpha"),
    ("condition_number", "condition number"),
    ("cosine_to_start", "cosine to the start"),
    ("distance_from_last", "distance from the last checkpoint"),
    ("sign_flips", "share of signs that differ from the start"),
    ("rms", "root mean square"),
    ("gini", "Gini coefficient of sizes"),
    ("hoyer", "Hoyer sparsity"),
    ("near_zero", "share of weights near zero"),
    ("spikes", "spikes"),
    ("spike_share", "share of the squared norm in spikes"),
)
_MOST_KINDS = 12  # that a legend can hold
_MOST_ROWS = 6_000
_TEXT = (
    "Plain statistics of the weights, without any network. In a study of small models, the distance from the start "
    "went with the loss better than E did among runs on text; mostly it told learning rates apart.",
    "Kinds are matrices of the same role in all blocks (from the neurons of a layer to those of the next); a line of a "
    "kind is the median over its blocks. Ranks are of matrices alone, so all weights together have none.",
)


def weights_parts(tables: PageTables) -> Iterator[PagePart]:
    """The part of the table `weights`."""
    columns = [column for column, _ in _MEASURES]
    data = in_order(rows_of(tables.table("weights"), columns, ["matrix"]), tables)
    data = data.drop(columns=[column for column in columns if data[column].isna().all()])
    charts = [*_whole(data[data["matrix"] == _WHOLE].reset_index(drop=True), tables)]
    kinds, note = _by_kind(data[data["matrix"] != _WHOLE])
    charts += _kinds(kinds)
    if charts:
        text = (*_TEXT, *layer_words(data["matrix"].unique()), *([note] if note else []))
        yield PagePart("weights", "Weights", "structure", text, tuple(charts), ("weights",))


def _whole(data: pd.DataFrame, tables: PageTables) -> Iterator[Chart]:
    measures = known_measures(data, _MEASURES)
    if not measures:
        return
    kept = data[["step", "label", *(column for column, _ in measures)]]
    chart = measured_lines(kept, "weightPoints", measures, colour_by_label(kept, tables))
    column, title = measures[0]
    yield Chart(
        "weights-all", "All weights of a model together", chart, first_and_last(kept, column, title.capitalize())
    )


def _by_kind(data: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """(medians over the matrices of a kind at a step, what was left out in words)."""
    measures = [column for column, _ in _MEASURES if column in data]
    data = data.assign(kind=mapped(data["matrix"], kind_of))
    if data["kind"].nunique() > _MOST_KINDS or not measures:
        return data.iloc[:0], ""
    medians = data.groupby(["number", "label", "kind", "step"], sort=False)[measures].median().reset_index()
    for column in measures:
        medians[column] = rounded(medians[column])
    return within(medians.drop(columns="number"), "kind", _MOST_ROWS)


def _kinds(data: pd.DataFrame) -> Iterator[Chart]:
    measures = known_measures(data, _MEASURES)
    if data.empty or not measures:
        return
    data = data.reset_index(drop=True)
    data["number"], labels = numbers_of(data["label"])
    chart = measured_lines(
        data,
        "kindPoints",
        measures,
        colour_by("kind", list(dict.fromkeys(data["kind"]))),
        series=("kind",),
        toggle="kind",
        where="datum.number == model" if len(labels) > 1 else None,
    )
    chart = with_model_list(chart, labels)
    column, title = measures[0]
    said = first_and_last(
        data[data["number"] == 0], column, f"{title.capitalize()} of {labels[0]}, medians by kind", ("kind",)
    )
    yield Chart("weights-kinds", "Kinds of matrices of a model", chart, said)


def kind_of(matrix: str) -> str:
    """ "block3.x -> block3.q" is of the kind "x → q"."""
    source, _, target = matrix.partition(" -> ")
    return f"{source.rpartition('.')[2]} → {target.rpartition('.')[2]}"
