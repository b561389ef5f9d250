"""Everything that a run's tables measure of its checkpoints, side by side: structure, what neurons do, and performance."""

from collections.abc import Iterable, Mapping

import pandas as pd

from ninscope_pipeline.request.analyses import DEFAULT
from ninscope_pipeline.stages.checkpoint_measures import Series, series_of_measures
from ninscope_pipeline.stages.stage import Stage

KEYS = ["suite", "model", "step"]


def joined_measures(stages: Iterable[Stage], tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row a model and step, a column a measure, float64, NaN where there is none.

    tables: of a run, by name; those of all of these stages. Columns are called as in the table `correlations`, and end in the
    method where there are several ("alpha0 (sampled)"); of [analysis] itself, no variant. Losses and results of benchmarks are
    the columns "TASK/METRIC".
    """
    found = [series for series in series_of_measures(stages, tables) if series.variant == DEFAULT]
    columns: dict[str, dict[tuple[str, str, int], float]] = {}
    for series in found:
        values = columns.setdefault(_name(series, found), {})
        steps = series.values.index.to_numpy("int64").tolist()
        values |= {(series.suite, series.model, step): value for step, value in zip(steps, series.values, strict=True)}
    results = tables["benchmarks"].dropna(subset=["step"])
    for suite, model, step, task, metric, value in results[[*KEYS, "task", "metric", "value"]].itertuples(index=False):
        columns.setdefault(f"{task}/{metric}", {}).setdefault((suite, model, int(step)), value)
    places = tables["checkpoints"].dropna(subset=["step"])[KEYS].drop_duplicates()
    index = [(suite, model, int(step)) for suite, model, step in places.itertuples(index=False)]
    frame = places.reset_index(drop=True).astype({"suite": "string", "model": "string", "step": "int64"})
    measured = {
        name: pd.Series([values.get(place, float("nan")) for place in index], dtype="float64")
        for name, values in columns.items()
    }
    return pd.concat([frame, pd.DataFrame(measured, index=frame.index)], axis=1)


def _name(series: Series, every: Iterable[Series]) -> str:
    methods = {other.method for other in every if other.measure == series.measure}
    return f"{series.measure} ({series.method})" if len(methods) > 1 else series.measure
