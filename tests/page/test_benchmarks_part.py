"""The page's part of results: joined with E of the same step."""

import json
import math

import vl_convert
from chart_checks import HOSTILE, bound, page_tables, rows_with, specs_of

from ninscope.report.page import benchmarks_part
from ninscope.report.page.benchmarks_part import benchmarks_parts


def parts_of(rows, labels=("m",)):
    return list(benchmarks_parts(page_tables(rows, labels)))


def result(step, value, task="arc", metric="acc", label="m"):
    return {"label": label, "step": step, "task": task, "metric": metric, "value": value}


def weights(step, label="m", **values):
    return {"label": label, "revision": f"step{step}", "step": step, "matrix": "all", "status": "ok", **values}


def emergence(step, value, method="exact", label="m", warning=""):
    return {
        "label": label,
        "revision": f"step{step}",
        "step": step,
        "method": method,
        "part": "all",
        "variant": "default",
        "emergence": value,
        "warning": warning,
    }


def test_results_meet_e_of_the_whole_network_at_their_step():
    rows = {
        "benchmarks": [result(0, 0.25), result(8, 0.5), result(16, 0.75)],
        "emergence": [emergence(0, 9.0, "sampled"), emergence(0, 0.0), emergence(8, 1.5, "sampled")],
    }
    specs = specs_of(parts_of(rows))
    across = rows_with(specs["benchmarks-across"], "r0")
    assert [(line["step"], line["r0"], line["m0"], line["h0"]) for line in across] == [
        (0, 0.25, 0.0, "whole network"), (8, 0.5, 1.5, "samples (mean)"), (16, 0.75, None, None),
    ]  # fmt: skip
    assert len(rows_with(specs["benchmarks-steps"], "value")) == 3


def test_any_measure_is_set_against_any_result():
    labels = [HOSTILE, "b"]
    rows = {
        "benchmarks": [result(step, value / 8, task, label=label) for label in labels for step, value in ((0, 1), (8, 3))
                       for task in ("arc", HOSTILE)],
        "emergence": [emergence(8, 1.5, label=HOSTILE, warning=HOSTILE), emergence(8, 2.0, label="b")],
        "weights": [weights(step, label, norm=10.0 + step, kurtosis=3.0) for label in labels for step in (0, 8, 64)],
        "interactions": [{"label": "b", "revision": "step8", "step": 8, "kind": HOSTILE, "coupling": 0.5}],
    }  # fmt: skip
    (part,) = parts_of(rows, labels)
    spec = specs_of([part])["benchmarks-across"]
    measures = bound(spec, "measure")["labels"]
    assert measures == ["emergence", "norm", "kurtosis", f"coupling/{HOSTILE}"]
    assert sorted(bound(spec, "task")["labels"]) == sorted([f"{HOSTILE} acc", "arc acc"])
    lines = rows_with(spec, "r0")
    assert [(line["label"], line["step"]) for line in lines] == [(HOSTILE, 0), (HOSTILE, 8), ("b", 0), ("b", 8)]
    columns = {name: [line[f"m{number}"] for line in lines] for number, name in enumerate(measures)}
    assert columns["emergence"] == [None, 1.5, None, 2.0]
    assert columns["norm"] == [10.0, 18.0, 10.0, 18.0]  # step 64 has no result
    assert columns[f"coupling/{HOSTILE}"] == [None, None, None, 0.5]
    assert [line["r1"] for line in lines] == [1 / 8, 3 / 8, 1 / 8, 3 / 8]
    assert part.tables == ("benchmarks", "emergence", "weights", "interactions")


def points_drawn(spec, **chosen):
    """Tooltips of the points that Vega draws with these choices."""
    parameters = [param | {"value": chosen.get(param["name"], param.get("value"))} if "bind" in param and
                  param["name"] in chosen else param for param in spec["params"]]  # fmt: skip
    svg = vl_convert.vegalite_to_svg(json.dumps(spec | {"params": parameters, "width": 300}))
    return svg.count('aria-roledescription="point"'), svg


def test_the_choices_of_the_lists_are_drawn():
    rows = {
        "benchmarks": [result(step, step / 8) for step in (0, 8, 16)],
        "emergence": [emergence(8, 1.5, warning="few"), emergence(16, 2.5)],
        "weights": [weights(step, norm=10.0 + step) for step in (0, 8, 16)],
    }
    spec = specs_of(parts_of(rows))["benchmarks-across"]
    (count, svg), (other, norms) = points_drawn(spec), points_drawn(spec, measure=1)
    assert (count, other) == (2, 3)
    assert "emergence (up)" in svg
    assert "norm (up)" in norms
    assert "warning: few" in svg
    assert "warning: few" not in norms  # it is of E


def test_accuracies_are_shown_first_then_the_loss_on_held_out_data():
    rows = [result(0, 3.0, "train", "loss"), result(0, 2.0, "held_out", "loss"), result(0, 0.25, HOSTILE)]
    parts = parts_of({"benchmarks": rows, "emergence": [emergence(0, 0.0)]})
    spec = specs_of(parts)["benchmarks-steps"]
    assert bound(spec, "task")["labels"] == [f"{HOSTILE} acc", "held-out loss", "training loss"]
    assert {line["result"]: line["task"] for line in rows_with(spec, "value")} == {
        f"{HOSTILE} acc": 0, "held-out loss": 1, "training loss": 2,
    }  # fmt: skip
    assert any("always go together" in text for text in parts[0].text)
    assert any("Accuracies come first" in text for text in parts[0].text)


def test_results_without_any_e_have_one_figure():
    rows = {"benchmarks": [result(0, 0.5, label=HOSTILE), result(4, 0.5, label="b")]}
    specs = specs_of(parts_of(rows, [HOSTILE, "b"]))
    assert list(specs) == ["benchmarks-steps"]
    assert bound(specs["benchmarks-steps"], "task")["labels"] == [f"{HOSTILE}: arc acc", "b: arc acc"]


def test_of_very_many_results_the_page_has_those_that_change_most_and_says_so(monkeypatch):
    monkeypatch.setattr(benchmarks_part, "_MOST_ROWS", 150)
    rows = [result(step, 0.5 + number * (step == 3), f"task{number}") for step in range(4) for number in range(50)]
    (part,) = parts_of({"benchmarks": rows, "emergence": [emergence(0, 0.0)]})
    names = [f"task{number} acc" for number in range(49, 12, -1)]
    assert part.text[-1] == "The lists have the first 37 of 50 results; the table benchmarks has all."
    steps, across = specs_of([part]).values()
    assert bound(steps, "task")["labels"] == bound(across, "task")["labels"] == names
    assert len(rows_with(steps, "value")) == 4 * 37 <= 150
    assert rows_with(across, "r0")[3]["r36"] == 13.5


def test_models_of_one_name_in_two_runs_keep_their_own_measures():
    labels = ("m (first)", "m (second)")
    rows = [
        weights(0, label, run=run, model="m", norm=norm)
        for label, run, norm in zip(labels, "ab", (1.0, 2.0), strict=True)
    ]
    measured = page_tables({"weights": rows}, labels).measured()
    assert measured[["label", "measure", "value"]].to_numpy().tolist() == [
        ["m (first)", "norm", 1.0], ["m (second)", "norm", 2.0],
    ]  # fmt: skip
    assert page_tables({}, labels).measured().empty


def test_of_very_many_measures_the_page_has_the_first_and_says_so(monkeypatch):
    monkeypatch.setattr(benchmarks_part, "_MOST_CELLS", 5)
    rows = {
        "benchmarks": [result(0, 0.5), result(8, 0.5)],
        "emergence": [emergence(0, 0.0), emergence(8, 1.0)],
        "weights": [weights(step, norm=1.0, kurtosis=2.0) for step in (0, 8)],
    }
    (part,) = parts_of(rows)
    assert bound(specs_of([part])["benchmarks-across"], "measure")["labels"] == ["emergence", "norm"]
    assert part.text[-1] == "The list of measures has the first 2 of 3; the tables have all."


def test_without_results_there_is_no_part():
    for rows in ([], [result(0, math.nan)], [result(None, 0.5)]):
        assert parts_of({"benchmarks": rows, "emergence": [emergence(0, 0.0)]}) == []
