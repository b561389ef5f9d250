"""The page's part of the laboratory of polysemanticity: means over seeds, verdicts, and what measures see."""

import math
import statistics

import pandas as pd
import pytest
from chart_checks import HOSTILE, bound, rows_with, specs_of
from polysemanticity_tables import diverged, laboratory, true_ratio

from ninscope.neurons.polysemanticity.correlations import CORRELATION_COLUMNS, polysemanticity_correlations
from ninscope.neurons.polysemanticity.slopes import SLOPE_COLUMNS, polysemanticity_slopes
from ninscope.report.page.parts import PageTables
from ninscope.report.page.polysemanticity_part import polysemanticity_parts

NAMES = ("polysemanticity", "polysemanticity_slopes", "polysemanticity_correlations")


def page_tables(rows: pd.DataFrame, run="r") -> PageTables:
    of_rows = (rows, polysemanticity_slopes(rows), polysemanticity_correlations(rows))
    return PageTables(
        {name: table.assign(run=run, label="m") for name, table in zip(NAMES, of_rows, strict=True)}, ["m"]
    )


def parts_of(rows: pd.DataFrame):
    return list(polysemanticity_parts(page_tables(rows)))


@pytest.fixture(scope="module")
def two():
    """(the table, the part)"""
    rows = laboratory(("L1", "N1"), noise=1, slopes=(-0.5, 0.001))
    (part,) = parts_of(rows)
    return rows, part


@pytest.fixture
def specs(two):
    return specs_of([two[1]])


def test_lines_are_means_over_seeds_with_intervals(two, specs):
    rows, _ = two
    assert list(specs) == [f"polysemanticity-{name}" for name in ("training", "pruning", "slopes", "correlations")]
    training = rows_with(specs["polysemanticity-training"], "epoch")
    assert len(training) == 2 * 2 * 9
    start = rows[
        (rows["epoch"] == 0) & (rows["layer"] == "all") & (rows["experiment"] == "L1") & (rows["dropout"] == 0)
    ]
    first = training[0]
    assert (first["epoch"], first["setting"], first["seeds"]) == (0, "without dropout", 3)
    assert first["P"] == pytest.approx(statistics.mean(start["P"]), rel=1e-5)
    assert first["PD"] == pytest.approx(statistics.mean(start["P"] * start["D"]), rel=1e-5)
    half = 4.3026527 * statistics.stdev(start["P"]) / math.sqrt(3)
    assert first["P_high"] - first["P"] == pytest.approx(half, rel=1e-4)
    assert bound(specs["polysemanticity-training"], "entry")["labels"] == ["L1", "N1"]
    assert bound(specs["polysemanticity-training"], "measure")["labels"][:2] == [
        "P, degree of polysemanticity", "D, total feature dimensionality",
    ]  # fmt: skip
    pruning = rows_with(specs["polysemanticity-pruning"], "curve")
    curves = ["before retraining", "retrained at 0.001", "retrained at 0.01"]
    assert list(dict.fromkeys(row["curve"] for row in pruning)) == curves
    at = [row["pruning_ratio"] for row in pruning if row["curve"] == curves[1] and row["entry"] == 0]
    assert at == pytest.approx([0.0, *(true_ratio(0.05 * number) for number in range(1, 13))], rel=1e-5)
    baselines = [row["P"] for row in pruning if row["entry"] == 0 and row["pruning_ratio"] == 0]
    assert baselines == [20.0, 20.0, 20.0]


def test_slopes_are_per_cent_of_the_baseline_for_a_tenth_of_the_parameters():
    (part,) = parts_of(laboratory(("L1", "N1"), slopes=(-0.5, 0.001)))
    chart = part.charts[2]
    spec = chart.chart.to_dict()
    slopes = rows_with(spec, "verdict")
    assert bound(spec, "rate")["labels"] == ["0.001", "0.01"]
    assert [(row["name"], row["verdict"]) for row in slopes[:2]] == [
        ("L1", "falls"), ("L1, dropout 0.5", "not told apart"),
    ]  # fmt: skip
    assert slopes[0]["slope"] == pytest.approx(-5.0, rel=0.01)
    assert slopes[0]["low_drawn"] <= slopes[0]["own_low_drawn"] <= slopes[0]["slope"]
    assert chart.description == ("Retrained at 0.001: P falls in L1 and N1; 2 slopes are not told apart from 0.")
    assert part.text[0] == (
        "Does P change with pruning? Retrained at 0.001: P falls in L1 and N1; 2 slopes are not told apart from 0. "
        "Retrained at 0.01: P falls in L1 and N1; 2 slopes are not told apart from 0."
    )


def test_correlations_begin_with_all_experiments_and_p(specs):
    spec = specs["polysemanticity-correlations"]
    assert bound(spec, "entry")["labels"][0] == "P over training, without dropout"
    assert "D over pruning ratios, retrained at 0.01, dropout 0.5" in bound(spec, "entry")["labels"]
    assert bound(spec, "whose")["labels"] == ["all experiments", "L1", "N1"]
    rows = [row for row in rows_with(spec, "kind") if row["entry"] == 0 and row["whose"] == 0]
    assert {row["kind"] for row in rows} == {"plain", "given the epoch or pruning ratio"}
    assert all(row["points"] == 9 for row in rows)


def test_names_of_experiments_and_runs_stay_data():
    rows = laboratory((HOSTILE, "N1"), noise=3, epochs=2)
    (part,) = parts_of(rows)
    assert bound(specs_of([part])["polysemanticity-training"], "entry")["labels"] == [HOSTILE, "N1"]
    both = [page_tables(rows[rows["experiment"] == "N1"], run).tables for run in ("first", "second")]
    joined = {name: pd.concat([tables[name] for tables in both]) for name in NAMES}
    (part,) = polysemanticity_parts(PageTables(joined, ["m"]))
    assert bound(part.charts[0].chart.to_dict(), "entry")["labels"] == ["first, N1", "second, N1"]


def test_a_training_that_diverged_is_no_baseline_of_the_others():
    rows = laboratory(("N1",), epochs=3)
    (part,) = parts_of(diverged(rows, seed=1, epoch=3))
    pruning = rows_with(specs_of([part])["polysemanticity-pruning"], "curve")
    starts = [row for row in pruning if row["pruning_ratio"] == 0]
    assert len(starts) == 2 * 3
    for row in starts:  # of baselines 19, 20 and 21 the middle one is gone
        assert (row["seeds"], row["P"]) == (2, pytest.approx(20.0))


def test_one_seed_has_lines_without_bands():
    (part,) = parts_of(laboratory(("N1",), seeds=1, noise=1, epochs=3))
    specs = specs_of([part])
    assert all(
        row["P_low"] is None or math.isnan(row["P_low"])
        for row in rows_with(specs["polysemanticity-training"], "epoch")
    )
    assert {row["verdict"] for row in rows_with(specs["polysemanticity-slopes"], "verdict")} == {"not told apart"}


def test_what_is_not_there_has_no_chart():
    rows = laboratory(("N1",), noise=1, epochs=3)
    (part,) = parts_of(rows[rows["phase"] == "training"])
    assert list(specs_of([part])) == ["polysemanticity-training", "polysemanticity-correlations"]
    (part,) = parts_of(rows[rows["phase"] != "training"])
    assert "polysemanticity-training" not in specs_of([part])
    empty = {"polysemanticity": rows.iloc[:0], "polysemanticity_slopes": pd.DataFrame(columns=["suite", *SLOPE_COLUMNS]),
             "polysemanticity_correlations": pd.DataFrame(columns=["suite", *CORRELATION_COLUMNS])}  # fmt: skip
    assert list(polysemanticity_parts(PageTables(empty, []))) == []


def test_degrees_of_live_neurons_and_at_the_samples_are_told_and_can_be_chosen():
    rows = laboratory(("L1",), noise=1)
    (part,) = parts_of(rows.assign(P_live=rows["P"], P_samples=2 * rows["P"]))
    specs = specs_of([part])
    for name in ("P", "P at the samples"):
        assert f"Does {name} change with pruning? Retrained at 0.001: " in part.text[0]
    labels = bound(specs["polysemanticity-training"], "measure")["labels"]
    assert labels[3:5] == ["P of live neurons", "P at the samples"]
    first = rows_with(specs["polysemanticity-training"], "epoch")[0]
    assert first["P_samples"] == pytest.approx(2 * first["P"], rel=1e-5)
    rows_drawn = rows_with(specs["polysemanticity-slopes"], "line")
    assert len(rows_drawn) == 4  # of P alone: two dropouts, two learning rates
