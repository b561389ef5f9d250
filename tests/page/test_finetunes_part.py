"""The page's part of fine-tunes: what is compared, seeds, and their course."""

import math

import pytest
from chart_checks import HOSTILE, bound, page_tables, rows_with, specs_of

from ninscope.report.page.finetunes_part import finetunes_parts

KEYS = {"revision": "step64", "step": 64, "task": "lines", "metric": "accuracy", "learning_rate": 0.001}


def end(method="none", **columns):
    return (
        KEYS | {"method": method, "finetune_step": 10, "seeds": 2, "mean": 0.75, "std": 0.25, "p_value": 0.5} | columns
    )


def evaluation(seed, finetune_step, value, method="none", **columns):
    own = {
        "method": method,
        "seed": seed,
        "finetune_step": finetune_step,
        "value": value,
        "phi_p99": 9.0,
        "emergence_from_base": 0.0,
    }
    return KEYS | own | columns


def test_ends_are_means_with_bars_and_seeds():
    runs = [evaluation(seed, step, 0.5 * seed + step / 20) for seed in (0, 1) for step in (0, 10)]
    runs.append(evaluation(0, 10, 99.0, learning_rate=0.1))
    specs = specs_of(
        finetunes_parts(page_tables({"comparisons": [end(), end("reversed", mean=0.5)], "finetunes": runs}))
    )
    ends = rows_with(specs["finetunes-ends"], "mean")
    assert [(line["method"], line["mean"], line["low"], line["high"]) for line in ends] == [
        ("no MEmeL", 0.75, 0.5, 1.0), ("reversed (MEmeL)", 0.5, 0.25, 0.75),
    ]  # fmt: skip
    assert [line["value"] for line in rows_with(specs["finetunes-ends"], "seed")] == [0.5, 1.0]
    course = rows_with(specs["finetunes-course"], "course")
    assert [(line["step"], line["value"]) for line in course] == [(0, 0.25), (10, 0.75)]
    assert course[0]["value_high"] - course[0]["value_low"] == pytest.approx(2 * math.sqrt(0.125), rel=1e-5)


def test_scores_of_several_models_name_the_model():
    rows = [end(label=HOSTILE), end(label="b"), end(label="b", metric="f1")]
    runs = [evaluation(0, step, 0.5, label=label, task="lines") for label in (HOSTILE, "b") for step in (0, 10)]
    specs = specs_of(finetunes_parts(page_tables({"comparisons": rows, "finetunes": runs}, ["b", HOSTILE])))
    assert bound(specs["finetunes-ends"], "score")["labels"] == [
        "b, lines: accuracy",
        "b, lines: f1",
        f"{HOSTILE}, lines: accuracy",
    ]
    assert bound(specs["finetunes-course"], "course")["labels"] == [
        "b, lines: accuracy, from step64", f"{HOSTILE}, lines: accuracy, from step64",
    ]  # fmt: skip


def test_without_an_end_there_is_no_part():
    runs = [evaluation(0, 0, 0.5)]
    assert list(finetunes_parts(page_tables({"finetunes": runs}))) == []
    assert list(finetunes_parts(page_tables({"finetunes": runs, "comparisons": [end(mean=math.nan)]}))) == []


def test_one_seed_has_no_spread():
    specs = specs_of(
        finetunes_parts(
            page_tables({"comparisons": [end(std=math.nan, seeds=1)], "finetunes": [evaluation(0, 10, 0.5)]})
        )
    )
    assert [(line["low"], line["high"]) for line in rows_with(specs["finetunes-ends"], "mean")] == [(0.75, 0.75)]
