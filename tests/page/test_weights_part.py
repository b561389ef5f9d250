"""The page's part of weights: of all together, and medians by kind."""

import math

from chart_checks import HOSTILE, bound, page_tables, rows_with, specs_of

from ninscope.report.page.weights_part import kind_of, weights_parts


def row(step, matrix="all", label="m", **columns):
    return {"label": label, "step": step, "matrix": matrix, "status": "ok", "norm": 10.0, "kurtosis": 3.0} | columns


def test_measures_that_are_known_can_be_chosen():
    rows = [row(0), row(4, norm=12.5, distance_from_start=0.25)]
    spec = specs_of(weights_parts(page_tables({"weights": rows})))["weights-all"]
    assert bound(spec, "measure")["labels"] == [
        "norm of the weights", "distance from the start, in norms of the start", "kurtosis (normal: 3)",
    ]  # fmt: skip
    (calculated,) = [unit["transform"][-1] for unit in spec["layer"][:1]]
    assert calculated["calculate"] == "[datum.norm,datum.distance_from_start,datum.kurtosis][measure]".replace(
        ",", ", "
    )
    assert [(line["norm"], line["distance_from_start"]) for line in rows_with(spec, "norm")] == [
        (10, None),
        (12.5, 0.25),
    ]


def test_a_kind_is_the_median_over_its_matrices():
    rows = [row(0, f"block{n}.x -> block{n}.q", norm=value) for n, value in enumerate((1.0, 2.0, 6.0))]
    rows.append(row(0, f"block0.{HOSTILE} -> block0.m", norm=7.0))
    spec = specs_of(weights_parts(page_tables({"weights": rows})))["weights-kinds"]
    assert {line["kind"]: line["norm"] for line in rows_with(spec, "kind")} == {
        "x → q": 2.0, kind_of(f"block0.{HOSTILE} -> block0.m"): 7.0,
    }  # fmt: skip


def test_of_several_models_kinds_are_shown_one_by_one():
    rows = [row(0, matrix, label) for label in (HOSTILE, "b") for matrix in ("a.x -> a.y", "all")]
    specs = specs_of(weights_parts(page_tables({"weights": rows}, ["b", HOSTILE])))
    assert bound(specs["weights-kinds"], "model")["labels"] == ["b", HOSTILE]
    assert [line["label"] for line in rows_with(specs["weights-all"], "norm")] == ["b", HOSTILE]


def test_without_values_there_is_no_part():
    for rows in ([], [row(0, norm=math.nan, kurtosis=math.nan)], [row(None)]):
        assert list(weights_parts(page_tables({"weights": rows}))) == []
