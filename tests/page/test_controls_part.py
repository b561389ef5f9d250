"""The page's part of controls: readings, intervals, verdicts."""

import math

import pytest
from chart_checks import HOSTILE, bound, page_tables, rows_with, specs_of

from ninscope.report.page.controls_part import controls_parts


def row(step, label="m", **columns):
    values = {"emergence": 1.0, "emergence_growth": 0.75, "emergence_fixed": -0.25, "structure": 0.5}
    ends = {"emergence_low": -1.0, "emergence_high": 3.0, "structure_low": -50.0, "structure_high": 50.0}
    return (
        {"label": label, "step": step, "variant": "default", "status": "ok", "verdict": "stands"}
        | values
        | ends
        | columns
    )


def test_readings_of_a_model_stand_side_by_side():
    specs = specs_of(controls_parts(page_tables({"controls": [row(0), row(8, emergence=1.5)]})))
    assert list(specs) == ["controls-readings", "controls-measures", "controls-verdicts"]
    last = {
        line["reading"]: line["value"] for line in rows_with(specs["controls-readings"], "reading") if line["step"] == 8
    }
    assert last == {"E": 1.5, "growth of norms alone": 0.75, "at fixed norms": -0.25}


def test_intervals_are_whole_in_the_data_and_cut_off_where_they_are_drawn():
    spec = specs_of(controls_parts(page_tables({"controls": [row(0, structure=0.0), row(8)]})))["controls-measures"]
    data = rows_with(spec, "structure_low")
    assert [(line["structure_low"], line["structure_high"]) for line in data] == [(-50, 50), (-50, 50)]
    assert all(-1 < line["structure_from"] < 0 and 0.5 < line["structure_to"] < 1.5 for line in data)
    assert bound(spec, "measure")["labels"][:2] == ["structure index ln(w / w shuffled)", "E"]


def test_verdicts_have_shapes_and_their_words():
    rows = [
        row(0, verdict=None),
        row(1),
        row(2, verdict="fails: growth of norms"),
        row(3, verdict="unknown: control trainings"),
    ]
    parts = list(controls_parts(page_tables({"controls": rows})))
    data = rows_with(specs_of(parts)["controls-verdicts"], "outcome")
    assert [(line["step"], line["outcome"]) for line in data] == [(1, "stands"), (2, "fails"), (3, "not known")]
    assert data[1]["verdict"] == "fails: growth of norms"
    assert "stands at 1, fails at 1, not known at 1" in parts[0].charts[2].description
    (part,) = controls_parts(page_tables({"controls": [row(0, verdict=None), row(8)]}))
    assert part.charts[2].description == "The verdict on E over 1 checkpoint: stands at 1."


def test_of_several_models_one_is_chosen():
    rows = [row(step, label) for label in ("b", HOSTILE) for step in (0, 8)]
    spec = specs_of(controls_parts(page_tables({"controls": rows}, [HOSTILE, "b"])))["controls-readings"]
    assert bound(spec, "model") == {"input": "select", "options": [0, 1], "labels": [HOSTILE, "b"], "name": "model "}


@pytest.mark.parametrize(
    "columns",
    [None, dict.fromkeys(row(0), math.nan) | {"label": "m", "step": 0, "variant": "default", "verdict": None}],
)
def test_without_a_value_there_is_no_part(columns):
    rows = [] if columns is None else [columns | {"status": "corrupt"}]
    assert list(controls_parts(page_tables({"controls": rows}))) == []
