"""The page's part of scaling: local slopes, null bands, fits."""

import math

from chart_checks import HOSTILE, bound, page_tables, rows_with, specs_of

from ninscope.report.page.scaling_part import scaling_parts


def curve(step, quantity="mass", q=math.nan, neuron="", label="m"):
    keys = {"label": label, "step": step, "variant": "default", "quantity": quantity, "q": q, "neuron": neuron}
    return [
        keys | {"radius": float(radius), "value": radius / 4, "slope": 2.0, "null_low": 1.0, "null_high": 3.0}
        for radius in (1, 2, 4)
    ]


def fit(step, label="m", **columns):
    keys = {
        "label": label,
        "step": step,
        "variant": "default",
        "quantity": "mass",
        "q": math.nan,
        "neuron": "",
        "status": "ok",
    }
    values = {"slope": 1.5, "range_low": 2.0, "range_high": 4.0, "aic_exponential": 10.0, "aic_lognormal": -20.0}
    return keys | values | columns


def test_curves_have_names_and_the_numbers_of_the_table():
    rows = [*curve(0), *curve(8), *curve(0, "z", -3.0), *curve(0, "neuron", neuron=HOSTILE)]
    specs = specs_of(scaling_parts(page_tables({"scaling_curves": rows, "scaling": [fit(0), fit(8, slope=0.75)]})))
    assert list(specs) == ["scaling-slopes", "scaling-curves", "scaling-fits"]
    spec = specs["scaling-slopes"]
    assert bound(spec, "curve")["labels"] == ["mean ln N", "ln Z, q = -3", f"ln N of neuron {HOSTILE}"]
    data = rows_with(spec, "radius")
    first = [line for line in data if line["kind"] == 0 and line["place"] == 0]
    assert [(line["radius"], line["value"], line["slope"], line["slope_low"], line["slope_high"]) for line in first] == [
        (1, 0.25, 2, 1, 3), (2, 0.5, 2, 1, 3), (4, 1, 2, 1, 3),
    ]  # fmt: skip
    fits = rows_with(spec, "range_low")
    assert [(line["step"], line["slope"], line["range_high"]) for line in fits] == [(0, 1.5, 4), (8, 0.75, 4)]


def test_fits_of_other_curves_are_less_that_of_the_power_law():
    parts = list(scaling_parts(page_tables({"scaling": [fit(0, HOSTILE), fit(0, "b")]}, [HOSTILE, "b"])))
    specs = specs_of(parts)
    assert list(specs) == ["scaling-fits"]
    assert [(line["label"], line["curve"], line["value"]) for line in rows_with(specs["scaling-fits"], "curve")] == [
        (HOSTILE, "exponential", 10), (HOSTILE, "log-normal", -20), ("b", "exponential", 10), ("b", "log-normal", -20),
    ]  # fmt: skip


def test_curves_without_fits_or_null_bands_are_drawn():
    rows = [line | {"null_low": math.nan, "null_high": math.nan} for line in curve(0)]
    specs = specs_of(scaling_parts(page_tables({"scaling_curves": rows})))
    assert list(specs) == ["scaling-slopes", "scaling-curves"]


def test_without_rows_there_is_no_part():
    nothing = [line | {"slope": math.nan, "value": math.nan} for line in curve(0)]
    for tables in (
        {},
        {"scaling_curves": nothing},
        {"scaling": [fit(0, aic_exponential=math.nan, aic_lognormal=math.nan)]},
    ):
        assert list(scaling_parts(page_tables(tables))) == []
