"""[[finetune]] and [[activations]] by the command line: tables, figures, what is made again, what is listed and counted."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from driving import ANALYSIS, artefacts, command, made, results, write_dag

import ninscope

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from finetune_models import (
    METHODS_RUN,
    SEEDS_RUN,
    STEPS,
    add_sections,
    finetune_section,
    language_task,
    neox_suite,
)
from models_here import _figures_not_rendered, _models_in_this_process  # noqa: F401 (fixtures)

KEYS = ["suite", "model", "revision", "step"]
EVALUATIONS, METRICS = (0, 2, 4), ["loss", "perplexity"]
PARAMETERS = {"min_degree": ANALYSIS["min_degree"], "q": np.arange(-2, 2.5, 0.5)}  # as ANALYSIS says
WHOLE = {"exact": True, "nodes_per_layer": "all", "samples": None}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    neox_suite(folder / "tiny")
    return folder


@pytest.fixture(scope="module")
def task(place) -> dict:
    return language_task(place)


def dag_of(place, name, **sections) -> Path:
    """A DAG file of that name over the suite; all of them have one run folder."""
    return add_sections(write_dag(place / f"{name}.toml", Path("tiny"), name="studies", **WHOLE), **sections)


@pytest.fixture(scope="module")
def dag(place, task) -> Path:
    return dag_of(place, "studies", finetune=finetune_section(task), activations={"task": task, "batch_size": 4})


@pytest.fixture(scope="module")
def options(place) -> tuple:
    return "--runs-dir", place / "runs", "--workers", 1


@pytest.fixture(scope="module")
def listed(dag, options) -> list[tuple[str, str]]:
    """What --dry-run says before anything is done."""
    return command("run", dag, *options, "--dry-run").would_run


@pytest.fixture(scope="module")
def run(dag, options, listed, place) -> Path:
    ended = command("run", dag, *options)
    assert (ended.code, ended.says) == (0, [])
    return place / "runs" / "studies"


def table(run: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(run / "tables" / f"{name}.parquet")


def emergence_between(alpha0, width, of):
    """docs/method.md#degree-of-emergence, written out."""
    return width / of["width"] * math.log(of["alpha0"] / alpha0)


# --- tables -------------------------------------------------------------------------------------------------
def test_a_row_for_every_evaluation_and_metric(run):
    rows = table(run, "finetunes")
    wanted = [
        ("tiny", "tiny", f"step{step}", step, "prose", method, seed, 3e-3, number, metric)
        for step in STEPS
        for method in METHODS_RUN
        for seed in SEEDS_RUN
        for number in EVALUATIONS
        for metric in METRICS
    ]
    found = rows[[*KEYS, "task", "method", "seed", "learning_rate", "finetune_step", "metric"]]
    assert list(found.itertuples(index=False, name=None)) == wanted
    assert set(rows["status"]) == {"ok"}
    assert np.isfinite(rows[["value", "phi_mean", "phi_p99", "alpha0", "width"]].to_numpy(float)).all()


def test_loss_falls_and_perplexity_is_its_exponential(run):
    rows = table(run, "finetunes").pivot(
        index=["revision", "method", "seed", "finetune_step"], columns="metric", values="value"
    )
    np.testing.assert_allclose(np.exp(rows["loss"]), rows["perplexity"], rtol=1e-12)
    losses = rows["loss"].unstack("finetune_step")
    assert (losses[4] < losses[2]).all()
    assert (losses[2] < losses[0]).all()


def test_emergence_is_against_step_0_and_against_the_base(run):
    rows, bases = table(run, "finetunes"), table(run, "emergence").set_index("revision")
    for row in rows.to_dict("records"):
        of_base = emergence_between(row["alpha0"], row["width"], bases.loc[row["revision"]])
        assert row["emergence_from_base"] == pytest.approx(of_base, rel=1e-9, abs=1e-12)
        start = emergence_between(row["alpha0"], row["width"], bases.loc["step0"])
        assert row["emergence"] == pytest.approx(start, rel=1e-9, abs=1e-12)


def test_before_the_first_update_the_network_is_the_base(run, place):
    rows = table(run, "finetunes")
    for row in rows[rows["finetune_step"] == 0].itertuples():
        base = ninscope.measure(place / "tiny", revision=row.revision, exact=True, **PARAMETERS)
        assert (row.alpha0, row.width) == pytest.approx((base.alpha0, base.width), rel=1e-12)
        assert row.emergence_from_base == pytest.approx(0, abs=1e-12)


def test_rows_merge_with_those_of_the_analysis(run):
    merged = table(run, "finetunes").merge(table(run, "emergence"), on=KEYS, suffixes=("", "_of_base"))
    assert len(merged) == len(table(run, "finetunes"))
    start = merged[merged["finetune_step"] == 0]
    np.testing.assert_allclose(start["emergence"], start["emergence_of_base"], atol=1e-12)
    assert (table(run, "comparisons")[KEYS].dtypes == table(run, "emergence")[KEYS].dtypes).all()


def test_methods_of_one_seed_start_alike(run):
    """Nothing is drawn of a language model's head, so that seeds start alike too."""
    rows = table(run, "finetunes")
    start = rows[rows["finetune_step"] == 0].drop(columns=["method", "seed"])
    assert len(start.drop_duplicates()) == len(STEPS) * len(METRICS)
    ends = rows[(rows["finetune_step"] == 4) & (rows["metric"] == "loss")]
    assert ends["value"].nunique() == len(ends)


def test_comparisons_are_of_the_ends(run):
    compared, rows = table(run, "comparisons"), table(run, "finetunes")
    assert len(compared) == len(STEPS) * len(METRICS) * len(METHODS_RUN)
    ends = rows[rows["finetune_step"] == 4]
    for row in compared.itertuples():
        part = ends[(ends["revision"] == row.revision) & (ends["metric"] == row.metric)]
        ours, none = (part[part["method"] == name].sort_values("seed")["value"] for name in (row.method, "none"))
        assert row.mean == pytest.approx(ours.mean(), rel=1e-12)
        if row.method != "none":
            assert row.difference == pytest.approx(np.mean(ours.to_numpy() - none.to_numpy()), rel=1e-9)
    assert set(compared["seeds"]) == {2}


def test_activations_have_a_row_for_every_layer_and_one_of_all(run):
    rows = table(run, "activations")
    layers = ["gpt_neox.layers.0.attention", "gpt_neox.layers.1.attention", "all"]
    assert list(zip(rows["revision"], rows["layer"], strict=True)) == [
        (f"step{step}", layer) for step in STEPS for layer in layers
    ]
    of_layers = rows[rows["layer"] != "all"].groupby("revision")
    whole = rows[rows["layer"] == "all"].set_index("revision")
    for revision, part in of_layers:
        assert (
            whole.loc[revision, "values"] == part["values"].sum() == 2 * 11 * 16 * 16
        )  # layers, windows, tokens, width
        mean = np.average(part["phi_mean"], weights=part["values"])
        assert whole.loc[revision, "phi_mean"] == pytest.approx(mean, rel=1e-12)
        assert whole.loc[revision, "phi_largest"] == part["phi_largest"].max()
    assert (rows["phi_p50"] < rows["phi_p90"]).all()
    assert (rows["phi_p90"] < rows["phi_p99"]).all()


def test_activations_of_a_layer_are_what_a_fine_tune_of_it_starts_with(run):
    rows = table(run, "finetunes")
    start = rows[(rows["finetune_step"] == 0) & (rows["metric"] == "loss")].drop_duplicates("revision")
    looked = table(run, "activations").query("layer == 'gpt_neox.layers.0.attention'")
    columns = [name for name in looked.columns if name.startswith("phi_")]
    np.testing.assert_array_equal(start[columns], looked[columns])


def test_figures_and_nothing_left_over(run):
    drawn = {path.name for path in (run / "figures").glob("*.png")}
    assert {"tiny--prose-finetunes.png", "prose-activations.png", "tiny-emergence.png"} <= drawn
    assert not list((run / "finetunes").iterdir())


# --- planning -----------------------------------------------------------------------------------------------
def test_dry_run_lists_every_study(listed):
    names = [name for stage, name in listed if stage == "finetune"]
    assert names == [
        f"tiny/tiny step{step} prose {method} seed {seed} rate 0.003"
        for step in STEPS
        for method in METHODS_RUN
        for seed in SEEDS_RUN
    ]
    assert [name for stage, name in listed if stage == "activations"] == [f"tiny/tiny step{s} prose" for s in STEPS]


def test_status_counts_studies(run):
    ended = command("status", run)
    assert ended.code == 0
    found = dict(re.findall(r"(fine-tunes|activations|exact spectra)\W+(\d+\s*\W\s*\d+)", ended.out))
    counted = {name: [int(number) for number in re.findall(r"\d+", text)] for name, text in found.items()}
    assert counted == {"exact spectra": [3, 3], "fine-tunes": [12, 12], "activations": [3, 3]}


def test_a_second_run_does_nothing(dag, options, run):
    before = results(run)
    assert command("run", dag, *options, "--dry-run").would_run == []
    ended = command("run", dag, *options)
    assert (ended.code, ended.says) == (0, [])
    assert "nothing to run" in ended.out
    assert results(run) == before


def test_one_section_is_a_table_and_several_are_a_list(place, dag, task, options, run):
    """[finetune] and a [[finetune]] of one are the same; a second task makes no fine-tune of the first again."""
    listed = dag_of(place, "listed", finetune=[finetune_section(task)], activations=[{"task": task, "batch_size": 4}])
    assert "[[finetune]]" in listed.read_text()
    assert "[finetune]" in dag.read_text().splitlines()
    assert command("run", listed, *options, "--dry-run").would_run == []
    other = finetune_section(task | {"name": "short", "context": 8}, revisions="last", methods=["none"], seeds=[0])
    both = dag_of(
        place, "both", finetune=[finetune_section(task), other], activations=[{"task": task, "batch_size": 4}]
    )
    would = command("run", both, *options, "--dry-run").would_run
    assert [(stage, name) for stage, name in would if stage not in ("tables", "figures")] == [
        ("finetune", "tiny/tiny step8 short none seed 0 rate 0.003")
    ]


def test_activations_need_no_exact_analysis(place, task, options, run):
    dag = write_dag(place / "sampled.toml", Path("tiny"), name="studies")
    looked = {"task": task, "batch_size": 4}
    would = command("run", add_sections(dag, activations=looked), *options, "--dry-run").would_run
    assert {stage for stage, _ in would} == {"nin", "spectra", "emergence", "tables", "figures"}


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"steps": 5}, 12),
        ({"seeds": [0, 1, 2]}, 6),
        ({"learning_rates": [3e-3, 1e-3]}, 12),
        ({"late_start": 2}, 6),
        ({"methods": ["none", "reversed", "naive_shift"]}, 6),
        ({"precision": "bf16"}, 12),
        ({"revisions": ["step8"]}, 0),
    ],
    ids=str,
)
def test_only_fine_tunes_that_changed_are_made_again(place, task, options, run, changes, count):
    changed = dag_of(
        place, "changed", finetune=finetune_section(task, **changes), activations={"task": task, "batch_size": 4}
    )
    would = [stage for stage, _ in command("run", changed, *options, "--dry-run").would_run]
    assert would == ["finetune"] * count + ["tables", "figures"]


def test_a_fine_tune_with_other_steps_is_made_beside_those_that_are_there(place, task, options, run):
    before, rows = artefacts(run), table(run, "finetunes")
    changed = dag_of(place, "shorter", finetune=finetune_section(task, steps=2, methods=["none"], revisions="last"))
    assert command("run", changed, *options).code == 0
    assert {stage: count for stage, count in made(before, artefacts(run)).items() if count} == {"finetune": 2}
    assert set(table(run, "finetunes")["finetune_step"]) == {0, 2}
    assert table(run, "activations").empty
    again = dag_of(place, "again", finetune=finetune_section(task), activations={"task": task, "batch_size": 4})
    assert command("run", again, *options).code == 0
    assert made(artefacts(run), artefacts(run)) == dict.fromkeys(artefacts(run), 0)
    pd.testing.assert_frame_equal(table(run, "finetunes"), rows)


def test_what_the_analysis_tells_more_of_the_base_leaves_fine_tunes_as_they_are(place, task, options, run):
    whole = WHOLE | {"per_node": True, "parts": ["layer"]}
    more = write_dag(place / "more.toml", Path("tiny"), name="studies", **whole)
    listed = command("run", add_sections(more, finetune=finetune_section(task)), *options, "--dry-run").would_run
    stages = {stage for stage, _ in listed}
    assert "exact" in stages
    assert "finetune" not in stages


def test_a_changed_text_or_configuration_is_another_study(tmp_path, options):
    """What a model computes depends on more of its configuration than its network does."""
    neox_suite(tmp_path / "tiny", (0,))
    task = language_task(tmp_path)
    section = finetune_section(task, methods=["none"], seeds=[0], steps=1)
    dag = add_sections(write_dag(tmp_path / "once.toml", Path("tiny"), **WHOLE), finetune=section)
    assert command("run", dag, *options).code == 0
    assert command("run", dag, *options, "--dry-run").would_run == []
    config = tmp_path / "tiny" / "step0" / "config.json"
    config.write_text(config.read_text().replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))
    assert "finetune" in [stage for stage, _ in command("run", dag, *options, "--dry-run").would_run]
    assert command("run", dag, *options).code == 0
    (tmp_path / "prose.txt").write_text((tmp_path / "prose.txt").read_text() + " and more of it")
    assert "finetune" in [stage for stage, _ in command("run", dag, *options, "--dry-run").would_run]
