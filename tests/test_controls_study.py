"""The study of docs/what-does-e-see.md: its statistics against plain ones, its runs, and what the page says."""

import itertools
import json
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from scipy.stats import mannwhitneyu, spearmanr

from ninscope.weights.power_law import spectral_alpha

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "data"))

import analyse_controls_study as study  # noqa: E402


def made_up(seed: int = 0, steps: tuple[int, ...] = (0, 8, 64, 512)) -> pd.DataFrame:
    """Runs of every cell, whose spikes tell text from the rest and go with the loss, and whose E is the step and noise."""
    draw, rows = np.random.default_rng(seed), []
    cells = itertools.product((32, 64), study.RATES, study.DECAYS, range(3))
    for (width, rate, decay, repetition), text in itertools.product(list(cells), study.TEXTS):
        skilled = draw.normal()
        for step in steps:
            learned = {"text": 1.0, "shuffled": 0.5, "uniform": 0.0}[text] * np.log1p(step) * (1 + 0.1 * skilled)
            row = dict(zip(study.RUN, (text, width, rate, decay, repetition), strict=True))
            row |= {"step": step, "loss": 8 - learned, "spikes": learned + width + 0.01 * draw.normal()}
            rows.append(row | {"emergence": step / 512 + 0.1 * draw.normal()})
            rows[-1] |= {"emergence_growth": 0.0, "emergence_fixed": 0.0, "distance_from_start": float(step)}
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "measures.parquet"
    made_up().to_parquet(path)
    return study.read_measures(path)


def test_halves_have_every_setting_and_share_no_cell(table):
    halves = {half: set(rows["cell"]) for half, rows in table.groupby("half")}
    assert {half: len(cells) for half, cells in halves.items()} == {"choosing": 18, "reporting": 18}
    assert not halves["choosing"] & halves["reporting"]
    for _, rows in table.groupby("half"):
        assert len(rows[study.SETTINGS].drop_duplicates()) == 12
        assert set(rows["repetition"]) == {0, 1, 2}


def test_auc_is_the_mean_of_mann_whitney_over_widths(table):
    rows = table[table["step"] == 512]
    wins, pairs = 0.0, 0
    for _, of_width in rows.groupby("width"):
        mine, theirs = (of_width[of_width["text"] == text]["emergence"] for text in ("text", "uniform"))
        wins += mannwhitneyu(mine, theirs).statistic
        pairs += len(mine) * len(theirs)
    assert study.auc(rows, "emergence", ["uniform"])[0] == pytest.approx(wins / pairs, abs=1e-12)
    assert study.auc(rows, "spikes", ["shuffled", "uniform"])[0] == 1
    ties = rows.assign(emergence=1.0)
    assert set(study.auc(ties, "emergence", ["uniform"])) == {0.5}


def test_the_step_taken_out_leaves_what_goes_with_the_loss_at_one_step(table):
    text = table[(table["text"] == "text") & (table["step"] > 0)]
    value, low, high = study.with_interval(study.partial_correlation(text, "spikes", ["width", "step"]))
    assert low <= value <= high < -0.9
    value, low, high = study.with_interval(study.partial_correlation(text, "emergence", ["width", "step"]))
    assert low < 0 < high
    assert study.within_runs(text, "emergence")[0] < -0.8  # the step alone: E looks as if it knew the loss
    one = text[(text["step"] == 64) & (text["width"] == 32)]
    expected = spearmanr(one["emergence"], one["loss"]).statistic
    assert study.partial_correlation(one, "emergence", ["width", "step"])[0] == pytest.approx(expected, abs=1e-12)
    assert not np.isfinite(study.partial_correlation(text, "step", ["width", "step"])).any()


def test_settings_taken_out_leave_repetitions(table):
    """A measure that is the learning rate alone goes with a loss that hangs on it, until settings are taken out."""
    text = table[(table["text"] == "text") & (table["step"] > 0)]
    noise = np.random.default_rng(1).normal(size=len(text))
    text = text.assign(loss=text["rate"] * 1000 + 0.01 * noise, emergence=text["rate"])
    assert study.partial_correlation(text, "emergence", ["width", "step"])[0] > 0.8
    taken = study.partial_correlation(text, "emergence", ["width", "step"], [[*study.SETTINGS, "step"]])
    assert not np.isfinite(taken).any()


def test_skill_is_one_where_a_measure_is_the_loss_and_none_where_it_is_noise(table):
    text = table[(table["text"] == "text") & (table["step"] > 0)]
    assert study.skill(text.assign(emergence=text["loss"] * -3), "emergence")[0] == pytest.approx(1)
    assert study.skill(text, "emergence")[0] < 0.1
    one = text[(text["step"] == 64) & (text["width"] == 32)].reset_index()
    errors = []
    for left in one.index:
        rest = one.drop(index=left)
        fitted = np.polyval(np.polyfit(rest["spikes"], rest["loss"], 1), one["spikes"][left])
        errors.append([(one["loss"][left] - fitted) ** 2, (one["loss"][left] - rest["loss"].mean()) ** 2])
    with_measure, alone = np.sum(errors, 0)
    assert study.skill(one, "spikes")[0] == pytest.approx(1 - with_measure / alone, rel=1e-6)


def test_differences_are_of_one_run(table):
    steps = study.differences(table, "emergence")
    assert len(steps) == len(table) * 3 // 4
    run = table[(table["cell"] == 5) & (table["text"] == "text")].sort_values("step")
    mine = steps[(steps["cell"] == 5) & (steps["text"] == "text")].sort_values("step")
    assert mine["loss"].tolist() == np.diff(run["loss"]).tolist()


def test_intervals_hold_a_known_correlation_about_as_often_as_they_say():
    """40 made-up studies in which a measure and the loss have nothing to do with each other but the step."""
    holds = 0
    for seed in range(40):
        draw = np.random.default_rng(seed)
        rows = pd.DataFrame({"cell": np.arange(36).repeat(3), "step": np.tile([8, 64, 512], 36), "width": 32})
        rows["loss"], rows["emergence"] = draw.normal(size=36).repeat(3), draw.normal(size=36).repeat(3)
        _, low, high = study.with_interval(study.partial_correlation(rows, "emergence", ["width", "step"]))
        holds += low <= 0 <= high
    assert 34 <= holds <= 40


def test_the_measure_that_tells_is_chosen_from_one_half_and_reported_from_the_other(table):
    swapped = table.copy()
    reporting = swapped["half"] == "reporting"
    swapped.loc[reporting, "spikes"] = -swapped.loc[reporting, "spikes"]
    separated = study.separation(swapped, [512]).set_index("measure")
    assert study.chosen_measure(separated.reset_index(), study.MEASURES) == "spikes"
    assert separated.loc["spikes", "direction"] == 1
    assert separated.loc["spikes", "reporting_both"] == 0
    assert "1.00 | 0.00 (0.00 to 0.00)" in study.separation_table(separated.reset_index())


def test_a_page_without_a_place_for_a_table_is_refused():
    with pytest.raises(ValueError, match="no place for the table loss; add its two marks"):
        study.fill("<!-- spread -->\n<!-- end of spread -->\n", {"spread": "x", "loss": "y"})


# --- runs ---------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_runs_are_108_and_any_beginning_is_a_smaller_study():
    runs = pytest.importorskip("train_controls_study").all_runs()
    assert len({run.name for run in runs}) == len({(run.text, run.seed, run.width) for run in runs}) == 108
    for cell in zip(runs[::3], runs[1::3], runs[2::3], strict=True):
        assert {run.text for run in cell} == set(study.TEXTS)
        assert len({run.seed for run in cell}) == 1
    first = runs[:36]
    assert {run.repetition for run in first} == {0}
    assert len({(run.width, run.rate, run.decay) for run in first}) == 12
    for name in ("study", "study-paths"):
        dag = tomllib.loads((ROOT / "dags" / f"{name}.toml").read_text())
        sources = {model["source"].format(seed=seed) for model in dag["models"] for seed in model["seeds"]}
        assert sources == {f"../runs/study-models/{run.name}" for run in runs}


@pytest.mark.slow
def test_a_run_is_what_its_name_says_the_same_bytes_twice_and_not_made_again(tmp_path):
    training = pytest.importorskip("train_controls_study")
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    content = b"def f(x):\n    return x + 1\n" * 60
    sources = [("train", "a.py", content), ("held_out", "b.py", content[::-1])]
    texts = {}
    for text in training.TEXTS:
        files = training.rewrite_sources(sources, text)
        texts[text] = {split: training.neox.join_split(files, split) for split in ("train", "held_out")}
    assert sorted(training.redraw("a.py", content, "shuffled")) == sorted(content)
    assert training.redraw("a.py", content, "shuffled") != content
    assert np.ptp(np.bincount(list(training.redraw("a.py", content * 20, "uniform")), minlength=256)) < 120
    run = training.Run("shuffled", 32, 1e-3, 0.1, 2)
    training.TEXTS_OF_PROCESS.update(texts)
    torch.set_num_threads(1)
    try:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            training.make_run(run, tmp_path / name, (0, 2), 512)
    finally:
        torch.set_num_threads(threads)
        training.TEXTS_OF_PROCESS.clear()
    files = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()}
    assert {path.parts[1] for path in files} == {"step0", "step2", "evaluations.csv", "training.json"}
    assert all((tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes() for path in files)
    rows = pd.read_csv(tmp_path / "one" / run.name / "evaluations.csv").set_index(["step", "metric"])["value"]
    assert rows[2, "loss"] < rows[0, "loss"]
    assert rows[2, "kl_from_start"] == rows[2, "kl_from_previous"] > 0
    before = (tmp_path / "one" / run.name).stat().st_mtime_ns
    training.make_run(run, tmp_path / "one", (0, 2), 512)  # its text is gone: it cannot be trained again
    assert (tmp_path / "one" / run.name).stat().st_mtime_ns == before


@pytest.mark.slow
def test_distances_of_outputs_are_those_of_their_formulas():
    training = pytest.importorskip("train_controls_study")
    torch = pytest.importorskip("torch")
    now, then = (torch.log(torch.tensor(p)) for p in ([[0.5, 0.25, 0.25]], [[0.25, 0.25, 0.5]]))
    divergence, change = training.distances(now, then)
    assert divergence == pytest.approx(0.25 * np.log(2), rel=1e-6)
    assert change == pytest.approx(2 * np.log(2) ** 2 / 3, rel=1e-6)


# --- the page -----------------------------------------------------------------------------------------------
PAGE = (ROOT / "docs" / "what-does-e-see.md").read_text(encoding="utf-8")


def table_of(page: str, name: str) -> str:
    return page.split(f"<!-- {name} -->\n")[1].split(f"<!-- end of {name} -->")[0].strip()


@pytest.fixture(scope="module")
def shipped():
    return study.read_measures(ROOT / "docs" / "study" / "measures.parquet")


@pytest.fixture(scope="module")
def results(shipped):
    """The page's tables and numbers once more, from the measures that ship."""
    separated = study.separation(shipped, [int(shipped["step"].max())])
    tables = {"separation": separated, "loss": study.with_loss(shipped), "spread": study.spread(shipped)}
    return tables, study.headline(shipped, separated)


@pytest.mark.slow
def test_the_pages_tables_are_those_of_the_measures_that_ship(results):
    tables, numbers = results
    demo = pd.read_csv(ROOT / "docs" / "study" / "demo.csv")
    for name, text in study.page_tables(tables | {"demo": demo}, numbers).items():
        assert table_of(PAGE, name) == text, name
    stored = json.loads((ROOT / "docs" / "study" / "headline.json").read_text())
    assert list(numbers) == list(stored)
    for name, value in stored.items():
        assert numbers[name] == (value if isinstance(value, str) else pytest.approx(value)), name
    for name, rows in tables.items():
        written = pd.read_csv(ROOT / "docs" / "study" / f"{name}.csv")
        if name == "separation":
            written = written[written["step"] == written["step"].max()].reset_index(drop=True)
        pd.testing.assert_frame_equal(written, rows, rtol=1e-4, atol=1e-6, check_dtype=False)


@pytest.mark.slow
def test_what_the_pages_conclude_follows_from_the_numbers(results):
    """The README's first paragraph and the page's summary: a new study that says otherwise must change them."""
    tables, numbers = results
    separated, losses = tables["separation"].set_index("measure"), tables["loss"].set_index("measure")

    def chance(measure: str) -> bool:
        row = separated.loc[measure]
        return any(row[f"reporting_{other}_low"] <= 0.5 <= row[f"reporting_{other}_high"] for other in study.TEXTS[1:])

    nothing = ("alpha0", "width_w", "structure", "spikes", "spectral_alpha", "kurtosis", "gini", "matching_difference")
    assert all(chance(measure) for measure in ("emergence", *nothing))
    assert numbers["chosen"] == "coupling_qk"
    queries = separated.loc["coupling_qk"]
    assert min(queries["reporting_shuffled"], queries["reporting_uniform"]) > 0.9
    assert queries["cells_shuffled"] == queries["cells_uniform"] == 1
    assert numbers["chosen_function"] == "kl_from_start"
    assert f"above zero in {' of '.join(map(str, numbers['positive_where_little_is_learned']))} runs" in PAGE
    assert numbers["emergence_growth_text"] > numbers["emergence_text"] > 0 > numbers["emergence_fixed_text"]
    weights = losses.drop(index=["step", *study.FUNCTION])
    assert weights["levels"].abs().idxmax() == "distance_from_start"
    just = losses[(losses["same_settings_low"] > 0) | (losses["same_settings_high"] < 0)]
    assert set(just.index) == {"spikes", "spike_share", "kurtosis", "kl_from_start"}
    for name, column in (("emergence", "beyond_distance"), ("emergence_growth", "beyond_distance")):
        assert f"({losses.loc[name, column]:.2f})" in PAGE
    for name in ("kl_from_start", "emergence"):
        assert f"({losses.loc[name, 'skill_all_texts']:.2f})" in PAGE
    values = ", ".join(f"{losses.loc[name, 'skill_all_texts']:.2f}" for name in ("sign_flips", "distance_from_start"))
    assert f"sign flips and the distance from start know a little ({values})" in PAGE.replace("\n", " ")
    assert losses.loc["emergence", "differences_low"] < 0 < losses.loc["emergence", "differences_high"]
    assert all(losses.loc[f"coupling_{kind}", "differences_low"] > 0 for kind in ("mlp", "vo", "qk"))


@pytest.mark.slow
def test_ranks_with_query_key_value_as_one_matrix_go_with_the_loss_as_the_page_says():
    losses = pd.read_csv(ROOT / "docs" / "study" / "demo.csv").set_index("step")["loss"]
    ranks, alphas = [], []
    for step in losses.index:
        tensors = load_file(ROOT / "data" / "stdlib-neox-500k" / f"step{step}" / "model.safetensors")
        matrices = [matrix for name, matrix in tensors.items() if matrix.ndim == 2 and ".layers." in name]
        squares = [np.linalg.svd(matrix.astype(float), compute_uv=False) ** 2 for matrix in matrices]
        ranks.append(np.mean([values.sum() / values[0] for values in squares]))
        alphas.append(np.mean([spectral_alpha(values) for values in squares]))
    rank, alpha = (spearmanr(values, losses).statistic for values in (ranks, alphas))
    assert f"the stable rank has {rank:.3f}, and the spectral alpha {alpha:.3f}." in PAGE.replace("\n", " ")


def test_what_ships_is_small_and_whole(shipped):
    folder = ROOT / "docs" / "study"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_000_000
    assert set(shipped.groupby(study.RUN).size()) == {8}
    assert set(shipped["step"]) == {0, 8, 16, 32, 64, 128, 256, 512}
    assert set(study.MEASURES) <= set(shipped)
    assert shipped[list(study.MEASURES)][shipped["step"] == 512].notna().mean().min() > 0.9


def test_figures_are_drawn_from_the_tables(table, tmp_path):
    import controls_study_figures

    tables = {"separation": study.separation(table, [512]), "loss": study.with_loss(table)}
    controls_study_figures.draw(table, tables, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in (ROOT / "docs" / "figures").glob("what-does-e-see-*.png"))
