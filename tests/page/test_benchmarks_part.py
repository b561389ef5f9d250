"""The page's part of results: joined with E of the same step."""

import math

from chart_checks import HOSTILE, bound, page_tables, rows_with, specs_of, unlimited

from ninscope.report.page.benchmarks_part import benchmarks_parts


def result(step, value, task="arc", metric="acc", label="m"):
    return {"label": label, "step": step, "task": task, "metric": metric, "value": value}


def emergence(step, value, method="exact", label="m"):
    return {
        "label": label,
        "step": step,
        "method": method,
        "part": "all",
        "variant": "default",
        "emergence": value,
        "warning": "",
    }


def test_results_meet_e_of_the_whole_network_at_their_step():
    rows = {
        "benchmarks": [result(0, 0.25), result(8, 0.5), result(16, 0.75)],
        "emergence": [emergence(0, 9.0, "sampled"), emergence(0, 0.0), emergence(8, 1.5, "sampled")],
    }
    specs = specs_of(benchmarks_parts(page_tables(rows)))
    across = rows_with(specs["benchmarks-across"], "value")
    assert [(line["step"], line["value"], line["emergence"], line["method"]) for line in across] == [
        (0, 0.25, 0.0, "whole network"), (8, 0.5, 1.5, "samples (mean)"),
    ]  # fmt: skip
    assert len(rows_with(specs["benchmarks-steps"], "value")) == 3


def test_the_loss_on_held_out_data_is_shown_first():
    rows = [result(0, 0.25, HOSTILE), result(0, 3.0, "train", "loss"), result(0, 2.0, "held_out", "loss")]
    parts = list(benchmarks_parts(page_tables({"benchmarks": rows, "emergence": [emergence(0, 0.0)]})))
    spec = specs_of(parts)["benchmarks-steps"]
    assert bound(spec, "task")["labels"] == ["held-out loss", "training loss", f"{HOSTILE} acc"]
    assert {line["result"]: line["task"] for line in rows_with(spec, "value")} == {
        "held-out loss": 0, "training loss": 1, f"{HOSTILE} acc": 2,
    }  # fmt: skip
    assert any("always go together" in text for text in parts[0].text)


def test_results_without_any_e_have_one_figure():
    rows = {"benchmarks": [result(0, 0.5, label=HOSTILE), result(4, 0.5, label="b")]}
    specs = specs_of(benchmarks_parts(page_tables(rows, [HOSTILE, "b"])))
    assert list(specs) == ["benchmarks-steps"]
    assert bound(specs["benchmarks-steps"], "task")["labels"] == [f"{HOSTILE}: arc acc", "b: arc acc"]


def test_of_very_many_results_the_page_has_some_and_says_so():
    rows = [result(step, 0.5, f"task{number}") for step in range(40) for number in range(500)]
    (part,) = benchmarks_parts(page_tables({"benchmarks": rows}))
    spec = unlimited(part.charts[0].chart)
    names = bound(spec, "task")["labels"]
    assert part.text[-1] == f"Shown are {len(names)} of 500 results, evenly spaced; the table has all."
    assert len(rows_with(spec, "value")) == 40 * len(names) <= 15_000
    assert (names[0], names[-1]) == ("task0 acc", "task499 acc")


def test_without_results_there_is_no_part():
    for rows in ([], [result(0, math.nan)], [result(None, 0.5)]):
        assert list(benchmarks_parts(page_tables({"benchmarks": rows, "emergence": [emergence(0, 0.0)]}))) == []
