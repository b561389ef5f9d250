"""The page's part of neurons: any measure layer by layer beside its control, and the same as a map."""

import math

import chart_checks
import pandas as pd
import pytest
from chart_checks import HOSTILE, bound, rows_with, specs_of
from neurons_tables import MEASURES, STEPS, neurons_table, value_of

from ninscope.report import neurons_rows
from ninscope.report.page.neurons_part import neurons_parts
from ninscope.report.page.parts import PageTables


@pytest.fixture(autouse=True)
def known_table(monkeypatch):
    """The table has a name that `specs_of` knows; measures are called by their names, whatever titles the registry has."""
    known = chart_checks.all_tables()
    monkeypatch.setattr(chart_checks, "all_tables", lambda: {**known, "neurons": None})
    monkeypatch.setattr(neurons_rows, "measures", dict)


def parts_of(rows, labels=("small",)):
    return list(neurons_parts(PageTables({"neurons": rows.assign(run="r", label=rows["model"])}, labels)))


def shown_of(spec, **numbers):
    """Rows of a chart that a reader sees who chose these numbers."""
    return [row for row in rows_with(spec, "measure") if numbers.items() <= row.items()]


def test_lines_are_rows_of_the_text_and_of_the_control_by_measure():
    (part,) = parts_of(neurons_table(("dormant", "sign_flips", "function_distance")))
    spec = specs_of([part])["neurons-layers"]
    assert bound(spec, "measure")["labels"] == [
        "dormant", "sign flips, beside the first step", "sign flips, beside the revision before",
        "function distance, beside the first step", "function distance, beside the revision before",
        "function distance, beside another seed",
    ]  # fmt: skip
    shown = shown_of(spec, measure=0)
    assert len(shown) == 4 * len(STEPS) * 2
    for row in shown:
        depth = int(row["layer"].removeprefix("block").removesuffix(".m"))
        assert row["value"] == pytest.approx(
            value_of("dormant", depth, row["step"], row["curve"] == "shuffled"), rel=1e-5
        )
    assert {row["layer"] for row in shown_of(spec, measure=3)} == {"all"}
    dash = spec["layer"][0]["encoding"]["strokeDash"]
    assert (dash["field"], dash["scale"]["domain"]) == ("curve", ["the text", "shuffled"])
    assert "block0.m: 0.0200 at step 0, 0.0399 at step 4,000" in part.charts[0].description


def test_the_map_is_of_layers_on_the_text_alone_and_marks_what_is_missing():
    gaps = [("dormant", "block1.m", 8)]
    spec = specs_of(parts_of(neurons_table(("thresholds", "dormant", "sinks"), gaps=gaps)))["neurons-map"]
    assert bound(spec, "mapped")["labels"] == ["dormant", "sinks"]
    shown = shown_of(spec, measure=0)
    assert len(shown) == 4 * len(STEPS)
    assert [(row["layer"], row["step"]) for row in shown if row["missing"]] == [("block1.m", 8)]
    assert all(row["value"] is None or math.isnan(row["value"]) for row in shown if row["missing"])
    known = [row for row in shown if not row["missing"]]
    assert [row["value"] for row in known] == pytest.approx(
        [value_of("dormant", int(row["layer"][5]), row["step"]) for row in known], rel=1e-5
    )


def test_a_checkpoint_that_failed_is_a_gap():
    rows = neurons_table(("dormant",), steps=(0, 1, 2), blocks=2)
    failed = rows["step"] == 1
    rows.loc[failed, "value"], rows.loc[failed, "measure"], rows.loc[failed, "layer"] = math.nan, None, "all"
    specs = specs_of(parts_of(rows[~failed | ~rows["step"].duplicated()]))
    for spec, count in ((specs["neurons-layers"], 4), (specs["neurons-map"], 2)):
        at = [row["value"] for row in shown_of(spec, measure=0) if row["step"] == 1]
        assert len(at) == count
        assert all(value is None or math.isnan(value) for value in at)


def test_the_page_opens_on_a_measure_that_the_first_model_has():
    rows = neurons_table(("dormant", "sinks"), models=("small", "large"))
    of_first = (rows["model"] == "small") & rows["measure"].eq("dormant")
    rows = rows[~of_first].reset_index(drop=True)
    specs = specs_of(parts_of(rows, ("small", "large")))
    for chart, name in (("neurons-layers", "measure"), ("neurons-map", "mapped")):
        assert bound(specs[chart], name)["labels"] == ["sinks", "dormant"]


def test_models_and_texts_are_chosen_by_number():
    rows = neurons_table(("dormant",), ("b", HOSTILE), steps=(0, 8))
    assert bound(specs_of(parts_of(rows, ["b", HOSTILE]))["neurons-map"], "entry")["labels"] == ["b", HOSTILE]
    named = rows.assign(text=HOSTILE)
    one = neurons_table(("dormant",), ("b",), steps=(0, 8))
    both = specs_of(parts_of(pd.concat([named, one]), ["b", HOSTILE]))["neurons-layers"]
    assert bound(both, "entry")["labels"] == [f"b: {HOSTILE}", "b: held-out", f"{HOSTILE}: {HOSTILE}"]
    layers = specs_of(parts_of(rows.assign(layer=HOSTILE), ["b", HOSTILE]))["neurons-layers"]
    assert {row["layer"] for row in rows_with(layers, "measure")} == {HOSTILE}


def test_of_many_layers_some_have_lines_and_the_text_says_so():
    (part,) = parts_of(neurons_table(("dormant",), steps=(0, 8), blocks=40))
    specs = specs_of([part])
    assert len({row["layer"] for row in rows_with(specs["neurons-layers"], "measure")}) == 12
    assert len({row["layer"] for row in rows_with(specs["neurons-map"], "measure")}) == 40
    assert "Lines are of at most 12 layers of a measure, evenly spaced." in part.text[-1]


def test_all_measures_are_there_and_what_has_no_value_is_named():
    (part,) = parts_of(neurons_table(steps=(0, 8)))
    specs = specs_of([part])
    panels = sum(max(len(others), 1) for _, _, others in MEASURES.values()) - 1
    assert len(bound(specs["neurons-layers"], "measure")["labels"]) == panels
    assert "neural collapse" in part.text[-1]
    assert "dormant tau 0.1" not in bound(specs["neurons-layers"], "measure")["labels"]
    assert any("block" in words for words in part.text)


def test_of_whole_models_alone_there_is_no_map():
    (part,) = parts_of(neurons_table(("thresholds",)))
    assert list(specs_of([part])) == ["neurons-layers"]


def test_without_values_there_is_no_part():
    for rows in (neurons_table(()), neurons_table(("neural_collapse",)), neurons_table(("dead",)).assign(step=None)):
        assert parts_of(rows) == []
