"""The table and figure of [controls]: what a run says E is made of, and what it refuses."""

import math

import numpy as np
import pandas as pd
import pytest
from driving import command, write_dag
from matplotlib.figure import Figure
from suites import neox_tensors, used_names, write_checkpoint

import ninscope
from ninscope.multifractal.verdict import verdicts
from ninscope.report.controls_figure import controls_figure
from ninscope_pipeline.summary import summary_lines

pytestmark = pytest.mark.usefixtures("undrawn")

SHAPE = {"blocks": 2, "width": 32, "heads": 2}
WHOLE = {"nodes_per_layer": "all", "samples": None, "q": None, "min_degree": None, "controls": {}}


def suite(folder, changes, dtype=np.float16):
    """Checkpoints of one initialisation, changed by a function for each step."""
    for step, change in changes.items():
        tensors = neox_tensors(**SHAPE, seed=3, dtype=dtype)
        for number, name in enumerate(used_names(tensors)):
            tensors[name] = np.ascontiguousarray(change(number, tensors[name].astype(np.float64)), dtype)
        write_checkpoint(folder / f"step{step}", tensors)
    return folder


def run_of(place, source, code=0, **changes):
    """(table controls by step, the run)"""
    dag = write_dag(place / "mine.toml", source, **WHOLE | changes)
    ended = command("run", dag, "--runs-dir", place)
    assert ended.code == code, ended.err
    run = ninscope.open_run(place / "mine")
    return run.table("controls").set_index("step"), run


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Step 1: a pure rescale, each matrix by another power of two. Step 2: weights that spread over neurons as well."""
    place = tmp_path_factory.mktemp("controls")
    rng = np.random.default_rng(0)
    source = suite(
        place / "text",
        {
            0: lambda number, weights: weights,
            1: lambda number, weights: weights * 2.0 ** (number % 2),
            2: lambda number, weights: weights * rng.lognormal(0.2, 0.3, weights.shape[1]),
        },
    )
    return run_of(place, source)


def test_a_pure_rescale_is_all_growth(ran):
    rows, _ = ran
    assert abs(rows.loc[1, "emergence"]) > 0.01
    assert rows.loc[1, "emergence_fixed"] == pytest.approx(0, abs=1e-9)
    assert rows.loc[1, "emergence_growth"] == pytest.approx(rows.loc[1, "emergence"], abs=1e-9)
    assert rows.loc[1, "width_unit"] == pytest.approx(rows.loc[0, "width_unit"], rel=1e-9)


def test_the_rest_is_what_a_rescale_cannot_do(ran):
    rows, _ = ran
    assert rows.loc[2, "emergence_fixed"] != pytest.approx(0, abs=1e-3)
    assert rows.loc[2, "structure"] > rows.loc[0, "structure"] + 0.1
    assert rows.loc[2, "structure_low"] < rows.loc[2, "structure"] < rows.loc[2, "structure_high"]


def test_the_baseline_compares_with_itself(ran):
    rows, _ = ran
    start = rows.loc[0]
    assert (start["alpha0_ratio"], start["width_ratio"]) == (1, 1)
    assert (start["emergence"], start["emergence_growth"], start["emergence_fixed"]) == (0, 0, 0)


def test_factors_and_intervals_are_those_of_the_exact_analysis(ran):
    rows, run = ran
    exact = run.table("emergence").set_index("step")
    for step in (1, 2):
        row, now, start = rows.loc[step], exact.loc[step], exact.loc[0]
        assert row["alpha0_ratio"] == start["alpha0"] / now["alpha0"]
        assert row["width_ratio"] == now["width"] / start["width"]
        assert row["emergence"] == pytest.approx(row["width_ratio"] * math.log(row["alpha0_ratio"]), rel=1e-12)
        assert (row["emergence_low"], row["emergence_high"]) == (now["emergence_low"], now["emergence_high"])
        assert row["alpha0_low"] < now["alpha0"] < row["alpha0_high"]
        assert row["width_low"] < now["width"] < row["width_high"]


def test_statistics_of_weights_come_with_controls(ran):
    _, run = ran
    weights = run.table("weights")
    assert set(weights["step"]) == {0, 1, 2}
    assert "all" in set(weights["matrix"])


def test_no_verdict_stands_without_null_models_and_control_trainings(ran):
    rows, _ = ran
    assert pd.isna(rows.loc[0, "verdict"])
    assert rows.loc[[1, 2], "verdict"].str.contains("unknown: the null models, control trainings").all()
    assert rows.loc[1, "verdict"].startswith("fails:")  # a pure rescale
    assert "growth of norms" in rows.loc[1, "verdict"]


def test_the_end_of_a_run_gives_the_verdict_of_its_largest_e(ran):
    rows, run = ran
    largest = rows.loc[rows["emergence"].idxmax()]
    (line,) = (line for line in summary_lines(run) if line.startswith("largest E: "))
    assert f" at step {largest.name} (exact); verdict: {largest['verdict']}" in line


def test_the_end_of_a_run_does_not_ask_for_controls_that_are_there(ran, monkeypatch):
    _, run = ran
    without = {"controls": run.table("controls").assign(verdict=pd.NA)}
    stored = run.table
    monkeypatch.setattr(run, "table", lambda name: without.get(name, stored(name)))
    (line,) = (line for line in summary_lines(run) if line.startswith("largest E: "))
    assert line.endswith("; the table controls has no verdict on it")


def test_the_verdict_is_of_the_tables_and_costs_no_work(ran, tmp_path):
    _, run = ran
    source = run.path.parent / "text"
    nulls = {"models": ["shuffled", "analytic"], "samples": 3}
    for spread in (0.01, 5.0):
        section = {"control_spread": spread}
        dag = write_dag(tmp_path / "mine.toml", source, **WHOLE | {"controls": section, "nulls": nulls})
        planned = command("run", dag, "--runs-dir", tmp_path, "--dry-run")
        assert bool([task for task in planned.would_run if task[0] == "controls"]) == (
            spread == 0.01
        )  # then all is new
        assert command("run", dag, "--runs-dir", tmp_path).code == 0
        other = ninscope.open_run(tmp_path / "mine")
        rows = {name: other.table(name).to_dict("records") for name in ("emergence", "controls", "nulls")}
        told = verdicts(rows["emergence"], rows["controls"], rows["nulls"], spread)
        shown = other.table("controls").set_index("revision")["verdict"].dropna()
        assert shown.to_dict() == {name: str(one) for name, one in told.items() if name != "step0"}
        assert ("control trainings" in shown["step2"]) == (spread != 0.01)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_wide_types_too(tmp_path, dtype):
    source = suite(tmp_path / "text", {0: lambda n, w: w, 1: lambda n, w: w * 1.7}, dtype)
    rows, _ = run_of(tmp_path, source)
    assert rows.loc[1, "emergence_fixed"] == pytest.approx(0, abs=1e-3 if dtype is np.float32 else 1e-9)
    assert rows.loc[1, "emergence_growth"] == pytest.approx(rows.loc[1, "emergence"], abs=1e-3)


def test_without_a_baseline_there_are_unit_norms_alone(tmp_path):
    source = suite(tmp_path / "text", {1: lambda n, w: w, 2: lambda n, w: w * 2})
    rows, _ = run_of(tmp_path, source)
    assert rows["width_unit"].notna().all()
    assert rows[["emergence", "emergence_growth", "emergence_fixed", "alpha0_ratio"]].isna().all(axis=None)
    assert "there is no usable step0" in rows.loc[2, "message"]


def test_a_baseline_that_is_a_duplicate_says_so(tmp_path):
    source = suite(tmp_path / "text", {0: lambda n, w: w, 1: lambda n, w: w, 2: lambda n, w: w * 2})
    rows, _ = run_of(tmp_path, source, code=1)
    assert rows["emergence_growth"].isna().all()
    assert "--trust-duplicates overrides" in rows.loc[2, "message"]
    assert rows["width_unit"].notna().all()


def test_a_matrix_of_zeros_is_named(tmp_path):
    source = suite(tmp_path / "text", {0: lambda n, w: w * (n != 3), 1: lambda n, w: w * 1.5})
    rows, _ = run_of(tmp_path, source)
    assert "block0.m -> block1.x holds nothing but zeros at step0" in rows.loc[1, "message"]


def test_one_layer_that_counts_has_no_interval(tmp_path):
    source = suite(tmp_path / "text", {0: lambda n, w: w * (n == 2), 1: lambda n, w: w * 1.1 * (n == 2)})
    rows, run = run_of(tmp_path, source)
    assert not math.isnan(rows.loc[1, "emergence"])
    assert rows.loc[1, ["alpha0_low", "emergence_low", "structure_low"]].isna().all()
    assert "no interval: only one node layer counts" in rows.loc[1, "message"]
    of_e = run.table("emergence")
    assert of_e["emergence_low"].isna().all()
    assert of_e["message"].tolist() == ["no interval: only one node layer counts, and without it there is nothing"] * 2


def test_e_of_unlike_networks_is_withheld_here_too(tmp_path):
    source = suite(tmp_path / "text", {0: lambda n, w: w, 1: lambda n, w: w * (1e-4 if n == 1 else 1.3)})
    rows, _ = run_of(tmp_path, source)
    assert math.isnan(rows.loc[1, "emergence"])
    assert "no E: it would compare unlike networks: 7 layers count (step0: 8); --trust" in rows.loc[1, "message"]
    trusted, _ = run_of(tmp_path, source, trust_unlike_counts=True)
    assert not math.isnan(trusted.loc[1, "emergence"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"nodes_per_layer": 12, "samples": 2}, r"\[controls\] are of whole networks.*add exact = true"),
        ({"direction": "in"}, r"\[controls\] are of the edges that leave neurons"),
        ({"layers_crossed": 2}, r"\[controls\] are of the edges that leave neurons"),
        ({"radii": {"log": 40}}, r"\[controls\] multiply weights under fixed radii"),
        ({"controls": {"seed": -1}}, r"controls\.seed"),
        ({"controls": {"rms": 1}}, r"controls\.rms"),
        ({"controls": {"control_spread": -0.1}}, r"controls\.control_spread"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, changes, says):
    source = suite(tmp_path / "text", {0: lambda n, w: w})
    ended = command("run", write_dag(tmp_path / "mine.toml", source, **WHOLE | changes), "--runs-dir", tmp_path)
    assert ended.code == 2
    assert pd.Series([ended.err.replace("\n", " ")]).str.contains(says).all(), ended.err


def test_the_figure_draws_what_the_table_says(ran):
    rows, _ = ran
    figure = controls_figure(rows.reset_index(), "text")
    assert isinstance(figure, Figure)
    emergence, factors, index = figure.axes
    by_label = {line.get_label(): list(line.get_ydata()) for line in emergence.lines}
    assert by_label["E"] == rows["emergence"].tolist()
    assert by_label["fixed norms: these weights at the baseline's norms"] == rows["emergence_fixed"].tolist()
    assert factors.lines[1].get_ydata().tolist() == rows["alpha0_ratio"].tolist()
    assert index.lines[1].get_ydata().tolist() == rows["structure"].tolist()


def test_a_figure_without_values_says_so(ran):
    rows, _ = ran
    empty = rows.reset_index().assign(emergence=np.nan, emergence_growth=np.nan, emergence_fixed=np.nan)
    figure = controls_figure(empty, "text")
    assert any("no checkpoint with a step" in text.get_text() for text in figure.axes[0].texts)
