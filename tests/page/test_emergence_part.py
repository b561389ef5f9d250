"""The page's part of E: numbers of the tables, null models, sizes, variants."""

import math

import pytest
from chart_checks import HOSTILE, bound, page_tables, rows_with, specs_of

from ninscope.report.page.emergence_part import emergence_parts


def row(step, label="m", method="exact", **columns):
    shared = {
        "revision": f"step{step}",
        "part": "all",
        "variant": "default",
        "status": "ok",
        "baseline": "step0",
        "warning": "",
    }
    values = {
        "alpha0": 0.9 - step / 100,
        "width": 0.3,
        "emergence": step / 10,
        "emergence_low": step / 20,
        "emergence_high": step / 5,
    }
    return shared | {"step": step, "label": label, "method": method} | values | columns


def test_numbers_and_bands_are_those_of_the_table():
    rows = [
        row(0),
        row(8, warning="r2 below 0.7"),
        row(0, method="sampled", alpha0_std=0.25),
        row(8, method="sampled", alpha0=0.123456789),
    ]
    specs = specs_of(emergence_parts(page_tables({"emergence": rows})))
    assert list(specs) == ["emergence-emergence", "emergence-alpha0", "emergence-width"]
    data = rows_with(specs["emergence-emergence"], "emergence")
    assert [(line["step"], line["method"], line["emergence"], line["emergence_low"], line["emergence_high"]) for line in data] == [
        (0, "whole network", 0, 0, 0), (8, "whole network", 0.8, 0.4, 1.6),
        (0, "samples (mean)", 0, 0, 0), (8, "samples (mean)", 0.8, 0.4, 1.6),
    ]  # fmt: skip
    assert [line["state"] for line in data] == ["no warning", "with a warning", "no warning", "no warning"]
    assert (data[2]["alpha0_low"], data[2]["alpha0_high"]) == pytest.approx((0.65, 1.15))
    assert data[3]["alpha0"] == pytest.approx(0.123456789, rel=1e-5)
    assert data[0]["alpha0_low"] is None


def test_a_whole_network_s_alpha0_has_the_interval_of_the_controls():
    controls = [{"step": 8, "variant": "default", "alpha0_low": 0.5, "alpha0_high": 1.5, "width_low": 0.25}]
    rows = [row(0), row(8), row(8, method="sampled", alpha0_std=0.125, alpha0=0.75)]
    spec = specs_of(emergence_parts(page_tables({"emergence": rows, "controls": controls})))["emergence-alpha0"]
    ends = [(line["alpha0_low"], line["alpha0_high"], line["width_low"]) for line in rows_with(spec, "alpha0_low")]
    assert ends == [(None, None, None), (0.5, 1.5, 0.25), (0.625, 0.875, None)]


def test_a_band_that_is_far_longer_than_the_line_is_cut_off_and_not_the_line():
    rows = [row(0), row(8, emergence=1.0, emergence_low=-100.0, emergence_high=100.0)]
    spec = specs_of(emergence_parts(page_tables({"emergence": rows})))["emergence-emergence"]
    domains = [unit["encoding"]["y"]["scale"]["domain"] for layer in spec["layer"] for unit in layer.get("layer", [])]
    assert all(-1 < low < 0 and 1 < high < 2 for low, high in domains)
    assert rows_with(spec, "emergence")[1]["emergence_high"] == 100


def test_names_of_models_are_data_and_keep_their_colours():
    labels = [HOSTILE, "second", "third"]
    rows = [row(step, label) for label in ("third", HOSTILE) for step in (0, 4)]
    nulls = [
        {"label": HOSTILE, "step": 4, "null": "shuffled", "emergence": 0.1, "emergence_std": 0.01, "variant": "default"}
    ]
    sizes = [{"label": label, "step": 4, "parameters": 10 ** (6 + n)} for n, label in enumerate((HOSTILE, "third"))]
    tables = page_tables({"emergence": rows, "nulls": nulls, "checkpoints": sizes}, labels)
    specs = specs_of(emergence_parts(tables))
    colour = specs["emergence-emergence"]["layer"][-1]["layer"][-1]["encoding"]["color"]["scale"]
    alone = specs_of(emergence_parts(page_tables({"emergence": [row(0, "third"), row(4, "third")]}, labels)))
    assert colour["domain"] == [HOSTILE, "third"]
    own = alone["emergence-emergence"]["layer"][-1]["layer"][-1]["encoding"]["color"]["scale"]["range"]
    assert own == colour["range"][1:] != colour["range"][:1]
    assert {"emergence-nulls", "sizes-emergence"} <= set(specs)


def test_null_models_stand_beside_the_network_with_two_deviations():
    nulls = [
        {"step": step, "null": null, "emergence": 0.1 * step, "emergence_std": std, "alpha0": 0.5, "variant": "default"}
        for step in (0, 4) for null, std in (("shuffled", 0.05), ("analytic", math.nan))
    ]  # fmt: skip
    spec = specs_of(emergence_parts(page_tables({"emergence": [row(0), row(4)], "nulls": nulls})))["emergence-nulls"]
    shown = [line for line in rows_with(spec, "what") if line["shown"] == 0 and line["step"] == 4]
    assert {line["what"]: (line["value"], line["low"], line["high"]) for line in shown} == {
        "the network itself": (0.4, None, None), "shuffled": (0.4, 0.3, 0.5), "analytic": (0.4, None, None),
    }  # fmt: skip
    assert bound(spec, "quantity")["labels"] == ["E", "alpha0", "w"]


def test_sizes_are_compared_at_steps_that_several_have():
    rows = [row(step, label) for label, steps in (("a", (0, 4, 8)), ("b", (0, 8, 16))) for step in steps]
    rows.append(row(8, "a", method="sampled", emergence=99.0))
    sizes = [{"label": "a", "step": 0, "parameters": 1000}, {"label": "b", "step": 0, "parameters": 2000}]
    tables = page_tables({"emergence": rows, "checkpoints": sizes}, ["a", "b"])
    spec = specs_of(emergence_parts(tables))["sizes-emergence"]
    assert [(line["label"], line["step"], line["place"], line["parameters"]) for line in rows_with(spec, "parameters")] == [
        ("a", 0, 0, 1000), ("a", 8, 1, 1000), ("b", 0, 0, 2000), ("b", 8, 1, 2000),
    ]  # fmt: skip
    assert bound(spec, "at")["max"] == 1
    assert {"name": "atSteps", "value": [0, 8]} in spec["params"]


def test_variants_are_shown_by_the_key_that_is_changed():
    rows = [
        row(step, variant=name) for name in ("default", "transfer-coth", "transfer-neg_log", "q-3") for step in (0, 4)
    ]
    spec = specs_of(emergence_parts(page_tables({"emergence": rows})))["variants-emergence"]
    groups = {line["variant"]: line["group"] for line in rows_with(spec, "variant")}
    assert groups == {"default": -1, "transfer-coth": 0, "transfer-neg_log": 0, "q-3": 1}
    assert bound(spec, "key")["labels"] == ["transfer", "q"]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row(0, alpha0=math.nan, width=math.nan, emergence=math.nan, emergence_low=math.nan, emergence_high=math.nan)],
        [row(0) | {"step": None}],
    ],
)
def test_without_a_value_there_is_no_part(rows):
    assert list(emergence_parts(page_tables({"emergence": rows}))) == []


def test_one_checkpoint_is_a_point():
    (part,) = emergence_parts(page_tables({"emergence": [row(1000)]}))
    spec = specs_of([part])["emergence-alpha0"]
    x = next(unit["encoding"]["x"] for unit in spec["layer"] if "encoding" in unit)
    assert x["scale"]["domain"] == [500, 2001]
    assert x["scale"] | {"type": "symlog", "constant": 1} == x["scale"]
    assert "at step 1,000" in part.charts[0].description


@pytest.mark.parametrize(
    ("emergence", "says"), [(0.5, "The first figure shows E"), (None, "No checkpoint here has an E")]
)
def test_the_text_tells_of_the_figures_that_are_there(emergence, says):
    (part,) = emergence_parts(page_tables({"emergence": [row(1000, emergence=emergence)]}))
    assert says in part.text[0]
    assert any(chart.name == "emergence-emergence" for chart in part.charts) == (emergence is not None)
