"""The page's maps of blocks, kinds and layers by step."""

import math

from chart_checks import HOSTILE, bound, page_tables, rows_with, specs_of

from ninscope.report.page.network_parts_part import network_parts


def row(step, part, label="m", method="exact", **columns):
    values = {"emergence": 0.5, "alpha0": 0.75, "width": 0.25, "warning": "", "baseline": "step0"}
    return {"label": label, "step": step, "part": part, "variant": "default", "method": method} | values | columns


def test_cells_are_rows_of_the_table_by_grouping():
    rows = [
        row(0, "all"),
        row(0, "block/b1"),
        row(0, "block/b0", emergence=-0.25, warning="r2"),
        row(0, "layer/b0.x"),
        row(0, "else/x"),
    ]
    specs = specs_of(network_parts(page_tables({"emergence": rows})))
    assert list(specs) == ["parts-emergence", "parts-alpha0", "parts-width"]
    data = rows_with(specs["parts-emergence"], "grouping")
    assert [(line["name"], line["grouping"], line["emergence"], line["warned"]) for line in data] == [
        ("b1", 0, 0.5, 0), ("b0", 0, -0.25, 1), ("b0.x", 1, 0.5, 0),
    ]  # fmt: skip
    assert bound(specs["parts-width"], "grouping")["labels"] == ["blocks", "layers"]


def test_colours_are_symmetric_about_no_emergence():
    spec = specs_of(network_parts(page_tables({"emergence": [row(0, "block/b", emergence=-0.25)]})))["parts-emergence"]
    assert spec["encoding"]["color"]["scale"]["domain"] == [-0.25, 0, 0.25]


def test_a_model_s_samples_are_shown_where_nothing_else_is_known():
    rows = [
        row(0, "block/b", label, method)
        for label, method in ((HOSTILE, "exact"), (HOSTILE, "sampled"), ("b", "sampled"))
    ]
    spec = specs_of(network_parts(page_tables({"emergence": rows}, [HOSTILE, "b"])))["parts-alpha0"]
    assert [(line["label"], line["method"]) for line in rows_with(spec, "number")] == [
        (HOSTILE, "whole network"), ("b", "samples (mean)"),
    ]  # fmt: skip
    assert bound(spec, "model")["labels"] == [HOSTILE, "b"]


def test_without_parts_or_values_there_is_no_part():
    nothing = dict.fromkeys(("emergence", "alpha0", "width"), math.nan)
    for rows in ([], [row(0, "all")], [row(0, "block/b", **nothing)], [row(None, "block/b")]):
        assert list(network_parts(page_tables({"emergence": rows}))) == []
