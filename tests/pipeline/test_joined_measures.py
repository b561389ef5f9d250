"""Measures side by side: a row a checkpoint, whatever table they come from."""

import numpy as np
import pandas as pd

from ninscope_pipeline.joined_measures import joined_measures
from ninscope_pipeline.stages.stage import Measures, Table


class Example:
    def __init__(self, *tables):
        self.tables = tables


KEYS = {"suite": "s", "model": "m"}
STRUCTURE = pd.DataFrame(
    [
        {**KEYS, "revision": f"step{step}", "step": step, "method": method, "variant": "default", "height": value}
        for method, step, value in [("exact", 0, 1.0), ("exact", 8, 2.0), ("sampled", 8, 2.5)]
    ]
)
LAYERS = pd.DataFrame(
    [
        {**KEYS, "revision": "step8", "step": 8, "layer": layer, "share": value}
        for layer, value in [("a", 0.1), ("b", 0.3)]
    ]
)
RESULTS = pd.DataFrame([{**KEYS, "revision": "step8", "step": 8, "task": "text", "metric": "loss", "value": 3.0}])
CHECKPOINTS = pd.DataFrame([{**KEYS, "revision": f"step{step}", "step": step} for step in (0, 8)])


def test_measures_of_all_tables_stand_side_by_side():
    stages = [
        Example(Table("structure", {}, list, (Measures({"height": "height"}),))),
        Example(Table("layers", {}, list, (Measures({"share": "share"}),))),
    ]
    tables = {"structure": STRUCTURE, "layers": LAYERS, "benchmarks": RESULTS, "checkpoints": CHECKPOINTS}
    frame = joined_measures(stages, tables)
    assert list(frame) == ["suite", "model", "step", "height (exact)", "height (sampled)", "share", "text/loss"]
    assert frame["step"].tolist() == [0, 8]
    np.testing.assert_array_equal(frame["height (exact)"], [1.0, 2.0])
    np.testing.assert_array_equal(frame["height (sampled)"], [np.nan, 2.5])
    np.testing.assert_allclose(frame["share"], [np.nan, 0.2])
    np.testing.assert_array_equal(frame["text/loss"], [np.nan, 3.0])
