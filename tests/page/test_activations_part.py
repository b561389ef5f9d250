"""The page's part of phi: all layers of all models, and the layers of one."""

import math

from chart_checks import HOSTILE, bound, page_tables, rows_with, specs_of

from ninscope.report.page.activations_part import activations_parts


def row(step, layer="all", label="m", task="text", **columns):
    return {
        "label": label,
        "step": step,
        "layer": layer,
        "task": task,
        "status": "ok",
        "phi_p99": 9.0,
        "phi_mean": 1.0,
    } | columns


def test_all_layers_together_and_one_by_one():
    rows = [row(0), row(8, phi_p99=7.5), row(0, "mlp.0"), row(8, HOSTILE, phi_mean=math.nan)]
    parts = list(activations_parts(page_tables({"activations": rows})))
    specs = specs_of(parts)
    assert [(line["step"], line["phi_p99"]) for line in rows_with(specs["activations-all"], "phi_p99")] == [
        (0, 9),
        (8, 7.5),
    ]
    assert bound(specs["activations-all"], "measure")["labels"] == ["phi, 99th percentile", "phi, mean"]
    assert {line["layer"] for line in rows_with(specs["activations-layers"], "layer")} == {"mlp.0", HOSTILE}
    assert "9.00 at step 0, 7.50 at step 8" in parts[0].charts[0].description


def test_tasks_and_models_are_chosen_by_number():
    rows = [
        row(0, layer, label, task) for layer in ("all", "mlp") for label in (HOSTILE, "b") for task in ("text", HOSTILE)
    ]
    specs = specs_of(activations_parts(page_tables({"activations": rows}, ["b", HOSTILE])))
    assert bound(specs["activations-all"], "subject")["labels"] == ["text", HOSTILE]
    assert bound(specs["activations-layers"], "entry")["labels"] == [
        "b: text", f"b: {HOSTILE}", f"{HOSTILE}: text", f"{HOSTILE}: {HOSTILE}",
    ]  # fmt: skip


def test_of_many_layers_some_are_shown_and_the_title_says_so():
    rows = [row(0, f"mlp.{number}") for number in range(40)]
    (part,) = activations_parts(page_tables({"activations": rows}))
    assert part.charts[0].title == "phi layer by layer (12 of 40 layers, evenly spaced)"
    assert len(rows_with(part.charts[0].chart.to_dict(), "layer")) == 12


def test_without_values_there_is_no_part():
    for rows in ([], [row(0, phi_p99=math.nan, phi_mean=math.nan)], [row(None)]):
        assert list(activations_parts(page_tables({"activations": rows}))) == []
