"""The page's part of degrees: percentiles of a layer, kurtosis of all, and what a page can hold."""

import math

import pytest
from chart_checks import HOSTILE, bound, page_tables, rows_with, specs_of, unlimited

from ninscope.report.page.degrees_part import degrees_parts


def row(step, layer="block0.x", label="m", **columns):
    values = {"mean": 20.0 + step, "std": 1.0, "kurtosis": 3.0, "nodes_counted": 8}
    quantiles = {"p5": 10.0, "p25": 15.0, "p50": 20.0 + step, "p75": 30.0, "p95": 40.0}
    return {"label": label, "step": step, "layer": layer, "variant": "default"} | values | quantiles | columns


def test_numbers_are_those_of_the_table():
    rows = [row(0), row(4), row(0, HOSTILE), row(4, HOSTILE, kurtosis=3 * math.e)]
    parts = list(degrees_parts(page_tables({"degrees": rows})))
    specs = specs_of(parts)
    assert bound(specs["degrees-layer"], "layer")["labels"] == ["block0.x", HOSTILE]
    data = rows_with(specs["degrees-layer"], "p50")
    assert [(line["entry"], line["step"], line["p50"], line["p95"]) for line in data] == [
        (0, 0, 20, 40), (1, 0, 20, 40), (0, 4, 24, 40), (1, 4, 24, 40),
    ]  # fmt: skip
    assert [line["excess"] for line in rows_with(specs["degrees-kurtosis"], "excess")] == pytest.approx([0, 0, 0, 1])
    assert "20.0 at step 0, 24.0 at step 4" in parts[0].charts[0].description


def test_of_very_many_rows_the_page_has_some_and_says_so():
    rows = [row(step, f"block{number}.x") for step in range(30) for number in range(900)]
    (part,) = degrees_parts(page_tables({"degrees": rows}))
    data = rows_with(unlimited(part.charts[0].chart), "p50")
    assert len(data) <= 12_000
    steps, layers = ({line[column] for line in data} for column in ("step", "layer"))
    assert {0, 29} <= steps
    assert {"block0.x", "block899.x"} <= layers
    assert (
        part.text[-1]
        == f"Shown are {len(steps)} of 30 steps and {len(layers)} of 900 layers, evenly spaced; the tables have all."
    )


def test_radii_that_bound_no_distance_leave_no_part():
    nothing = dict.fromkeys(("mean", "std", "kurtosis", "p5", "p25", "p50", "p75", "p95"), math.nan)
    assert list(degrees_parts(page_tables({"degrees": [row(0) | nothing]}))) == []
    assert list(degrees_parts(page_tables({}))) == []


def test_one_checkpoint_without_a_kurtosis():
    specs = specs_of(degrees_parts(page_tables({"degrees": [row(7, kurtosis=math.nan)]})))
    assert list(specs) == ["degrees-layer"]


def test_of_several_models_each_has_the_layers_that_it_has():
    rows = [row(0, "block0.x", "b"), row(0, "stem", HOSTILE)]
    specs = specs_of(degrees_parts(page_tables({"degrees": rows}, [HOSTILE, "b"])))
    assert bound(specs["degrees-layer"], "layer")["labels"] == [f"{HOSTILE}: stem", "b: block0.x"]
    assert bound(specs["degrees-kurtosis"], "model")["labels"] == [HOSTILE, "b"]
