"""docs/compare-tools.md: its statistics against plain ones, its numbers against the stored data, and those against ninscope."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

import ninscope
from ninscope.correlating import over_training

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.comparison import __main__ as comparison  # noqa: E402
from benchmarks.comparison import correlating, measuring, page  # noqa: E402
from benchmarks.comparison.processes import Cost, least_of, run  # noqa: E402

SUITE = ROOT / "data" / "stdlib-neox-500k"
STEP = np.array([0.0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 4000])
TEXT = (ROOT / "docs" / "compare-tools.md").read_text(encoding="utf-8")


def curve(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=len(STEP)).cumsum()


def plain_residuals(values: np.ndarray, degree: int) -> np.ndarray:
    log_step = np.log1p(STEP[: len(values)])
    return values - np.polyval(np.polyfit(log_step, values, degree), log_step)


# --- statistics --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("statistic", "degree"), [("levels", 0), ("partial", 1), ("bent", 2)])
def test_correlations_are_those_of_plain_residuals(statistic, degree):
    x, y = curve(0), curve(1)
    expected = spearmanr(plain_residuals(x, degree), plain_residuals(y, degree)).statistic
    value, low, high = correlating.correlated(x, y, STEP, statistic)
    assert value == pytest.approx(expected, abs=1e-12)
    assert -1 <= low < high <= 1


def test_differences_are_of_neighbours_and_unknown_points_are_left_out():
    x, y = curve(2), curve(3)
    assert correlating.correlated(x, y, STEP, "differences")[0] == pytest.approx(spearmanr(np.diff(x), np.diff(y))[0])
    x[0] = np.nan
    expected = spearmanr(np.diff(x[1:]), np.diff(y[1:])).statistic
    assert correlating.correlated(x, y, STEP, "differences")[0] == pytest.approx(expected)


def test_what_is_the_step_itself_has_nothing_left_to_correlate():
    x = 3 - 2 * np.log1p(STEP)
    assert correlating.correlated(x, -curve(4) - 9 * x, STEP, "levels")[0] < -0.9
    assert np.isnan(correlating.correlated(x, curve(4), STEP, "partial")).all()
    assert np.isnan(correlating.correlated(np.ones(14), curve(4), STEP, "levels")).all()


def test_levels_and_differences_are_those_of_the_table_correlations():
    x, y = curve(6), curve(7)
    stage = over_training.correlations(x[None], y[None])
    for kind in ("levels", "differences"):
        expected = stage.value[over_training.KINDS.index(kind), 0, 0]
        assert correlating.correlated(x, y, STEP, kind)[0] == pytest.approx(expected, abs=1e-12)
    falling = -np.log1p(STEP)  # as the suite's loss: given the step, the stage has no value
    assert np.isnan(
        over_training.correlations(x[None], falling[None]).value[over_training.KINDS.index("partial"), 0, 0]
    )
    assert np.isfinite(correlating.correlated(x, falling + np.sqrt(STEP) / 100, STEP, "partial")).all()


def test_intervals_are_of_the_checkpoints_drawn_in_blocks():
    x, y = curve(8), curve(9)
    places = correlating.as_they_are_and_drawn(14)
    assert places[0].tolist() == list(range(14))
    assert (np.diff(places[1:], axis=1)[:, [0, 1, 3, 4]] % 14 == 1).all()  # blocks of three
    values = [spearmanr(x[drawn], y[drawn]).statistic for drawn in places[1:]]
    expected = np.percentile(values, [2.5, 97.5])
    assert correlating.correlated(x, y, STEP, "levels")[1:] == pytest.approx(tuple(expected), abs=1e-12)


def test_chance_is_what_random_walks_reach_and_smooth_curves_reach_more_than_noise():
    loss = curve(5)
    walks = np.random.default_rng(correlating.SEED).normal(size=(correlating.REPLICATES, 14)).cumsum(-1)
    sizes = [abs(spearmanr(walk, loss).statistic) for walk in walks[:300]]
    assert correlating.by_chance(loss, STEP, "levels") == pytest.approx(np.quantile(sizes, 0.95), abs=0.06)
    noise = np.random.default_rng(1).normal(size=(2000, 14))
    of_noise = np.quantile(np.abs(correlating.rank_correlation(noise, np.broadcast_to(loss, noise.shape))), 0.95)
    assert correlating.by_chance(loss, STEP, "levels") > of_noise + 0.1


# --- costs -------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_command_is_charged_for_its_own_memory_and_cpu():
    code = "x = bytearray(200_000_000); print(sum(range(3_000_000)))"
    ballast = bytearray(400_000_000)  # of this process, which must not count
    cost, printed = least_of([sys.executable, "-S", "-c", code], 2)
    assert len(ballast) == 400_000_000
    assert printed == "4499998500000\n"
    assert 200e6 < cost.peak_bytes < 300e6
    assert 0.01 < cost.cpu_seconds < 5
    with pytest.raises(RuntimeError, match=r"(?s)ended with 1: .*ZeroDivisionError"):
        run([sys.executable, "-S", "-c", "1 / 0"])


def test_the_least_of_two_costs_is_taken_figure_by_figure():
    assert Cost(1.0, 5.0, 30).least(Cost(2.0, 4.0, 20)) == Cost(1.0, 4.0, 20)


def test_results_are_kept_until_their_key_changes(tmp_path):
    file, known = tmp_path / "kept.json", []
    counted = itertools.count(1)

    def compute(before):
        known.append(before)
        return next(counted)

    assert [measuring.kept(file, key, False, compute) for key in "aab"] == [1, 1, 2]
    assert measuring.kept(file, "b", True, compute) == 3
    assert known == [None, None, 2]


# --- the page ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def stored():
    return page.read(ROOT / "docs" / "comparison")


def test_the_pages_tables_are_those_of_the_stored_data(stored):
    for name, text in page.made_tables(stored).items():
        assert TEXT.split(f"<!-- {name} -->\n")[1].split(f"<!-- end of {name} -->")[0].strip() == text, name


def test_the_correlations_are_those_of_the_stored_measures(stored):
    made = correlating.correlations(stored["measures"], comparison.held_out_loss())
    pd.testing.assert_frame_equal(made, stored["correlations"], rtol=1e-5, atol=1e-6, check_dtype=False)


def test_a_page_without_room_for_a_table_is_refused(stored):
    with pytest.raises(ValueError, match="no place for the table numbers; add its two marks"):
        page.page_tables(stored, "# nothing")


def test_every_tool_has_every_step_and_every_cost(stored):
    steps = [int(step) for step in STEP]
    assert measuring.steps() == steps
    for _, values in stored["measures"].groupby(["tool", "measure"]):
        assert list(values["step"]) == steps
    names = [tool.name for tool in measuring.TOOLS]
    assert list(stored["tools"]["tools"]) == list(stored["measures"]["tool"].unique()) == names
    for _, rows in stored["costs"].groupby("tool"):
        assert list(rows["revision"][rows["task"] == "checkpoint"]) == [f"step{step}" for step in steps]
        assert {"import", "suite"} <= set(rows["task"])
        assert (rows["runs"] >= 3).all()


def test_ninscopes_stored_values_are_those_it_gives_now(stored):
    values = stored["measures"].query("tool == 'ninscope' and step == 1000").set_index("measure")["value"]
    start, late = (ninscope.measure(SUITE, revision=f"step{step}") for step in (0, 1000))
    assert late.alpha0 == pytest.approx(values["alpha0"], rel=1e-6)
    assert late.width == pytest.approx(values["width_w"], rel=1e-6)
    assert ninscope.emergence(late, start) == pytest.approx(values["emergence"], rel=1e-5)
    whole = ninscope.weight_statistics(SUITE, "step1000", against="step0").set_index("matrix").loc["all"]
    assert whole["norm"] == pytest.approx(values["norm"], rel=1e-6)
    assert whole["distance"] == pytest.approx(values["distance_from_start"], rel=1e-6)


def test_the_page_names_what_was_compared(stored):
    required = (ROOT / "benchmarks" / "comparison" / "requirements" / "weightwatcher.txt").read_text().split()
    versions = stored["tools"]["tools"]["weightwatcher"]["versions"]
    assert f"weightwatcher=={versions['weightwatcher']}" in required
    assert f"weightwatcher {versions['weightwatcher']}" in TEXT
    assert stored["tools"]["tools"]["ninscope"]["bytes"]["torch"] == 0
    loss = comparison.held_out_loss()
    assert (loss.sort_index().diff().dropna() < 0).all()  # "the loss falls at every kept step"
    for finding in ("weightwatcher-experts", "weightwatcher-multihead-attention"):
        assert (ROOT / "findings" / f"{finding}.sh").exists()


def test_what_the_page_concludes_follows_from_the_numbers(stored):
    """New data that say otherwise must change its sentences."""
    correlations = stored["correlations"]
    beyond, bent = (page.beyond_chance(correlations, name) for name in ("partial", "bent"))
    both = correlations.loc[beyond.index.intersection(bent.index)]
    assert list(both["measure"]) == [
        "text_loss"
    ]  # "nothing that was read from weights here goes with the held-out loss as ..."
    strong = correlations[correlations["levels"].abs() >= page.STRONG]
    assert (strong["levels"] * strong["partial"] < 0).mean() > 0.5  # "often has the opposite sign once the step is out"
    assert {"ninscope", "transformers by hand"} <= set(beyond["tool"])


def test_beyond_chance_takes_size_and_interval():
    rows = pd.DataFrame(
        {
            "tool": ["a", "b", "c", "d", "chance"],
            "measure": list("vwxyz"),
            "partial": [0.9, 0.9, -0.9, 0.5, 0.6],
            "partial_low": [0.1, -0.1, -1.0, 0.4, np.nan],
            "partial_high": [1.0, 1.0, -0.2, 0.6, np.nan],
        }
    )
    assert list(page.beyond_chance(rows, "partial")["measure"]) == ["v", "x"]


def test_two_tools_agree_where_they_measure_the_same(stored):
    """Over steps, though one counts embeddings and takes q, k and v as one matrix: Gini and Hoyer, and norms."""
    values = stored["measures"].pivot_table(index="step", columns=["tool", "measure"], values="value")
    ours, theirs = values["ninscope"], values["statistics of pico-analyze"]
    for name in ("gini", "hoyer"):
        assert ours[name].corr(theirs[name]) > 0.9, name
    by_hand = values["transformers by hand"]
    assert spearmanr(ours["norm"], by_hand["norm"]).statistic > 0.9
