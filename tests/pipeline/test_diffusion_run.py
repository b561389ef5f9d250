"""dags/diffusion.toml, at two revisions of each model: a diffusion model beside a language model, to the end of the job."""

import tomllib
from pathlib import Path

import pandas as pd
import pytest
import tomli_w
from driving import command

import ninscope
from ninscope_pipeline.request.dagfile import load_dag

ROOT = Path(__file__).parents[2]
DAG = ROOT / "dags" / "diffusion.toml"
LAST = {"digits-ddpm": 2000, "stdlib-neox-500k": 4000}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The DAG file as it ships, but for the revisions between, its null models and the number of samples."""
    folder = tmp_path_factory.mktemp("diffusion")
    asked = tomllib.loads(DAG.read_text())
    del asked["nulls"]
    asked["analysis"]["samples"] = 2
    for model in asked["models"]:
        model["revisions"] = ["step0", "step1000", f"step{LAST[model['model']]}"]
        for key in ("source", "evaluations"):
            model[key] = str((DAG.parent / model[key]).resolve())
    (folder / "diffusion.toml").write_text(tomli_w.dumps(asked))
    ended = command("run", folder / "diffusion.toml", "--runs-dir", folder / "runs", "--workers", 1)
    assert ended.code == 0, ended.err
    return ninscope.open_run(folder / "runs" / "diffusion")


@pytest.fixture(scope="module")
def emergence(run) -> pd.DataFrame:
    return run.table("emergence").query("part == 'all' and variant == 'default'")


def test_the_file_as_it_ships_is_accepted():
    dag = load_dag(DAG)
    assert {model.model for model in dag.all_models()} == set(LAST)


def test_the_models_are_of_like_parameter_counts(run):
    counts = run.table("checkpoints").groupby("model")["parameters"].unique()
    assert {model: list(values) for model, values in counts.items()} == {
        "digits-ddpm": [302_449],
        "stdlib-neox-500k": [496_704],
    }


def test_both_are_ok_and_analysed_both_ways(run, emergence):
    assert set(run.table("checkpoints")["status"]) == {"ok"}
    assert emergence.groupby(["model", "method"]).size().to_dict() == {
        (model, method): 3 for model in LAST for method in ("exact", "sampled")
    }


@pytest.mark.parametrize("method", ["exact", "sampled"])
def test_both_rise_and_diffusion_less(emergence, method):
    """As in the paper (5.4, Fig. 12)."""
    by_model = emergence[emergence["method"] == method].set_index(["model", "step"])["emergence"]
    assert 0.1 < by_model["digits-ddpm", 1000] < by_model["digits-ddpm", 2000] < 0.25
    for step in (1000, LAST["stdlib-neox-500k"]):
        assert by_model["stdlib-neox-500k", step] > 1.5 * by_model["digits-ddpm", 2000]


def test_the_stored_numbers_are_those_of_a_measurement(emergence):
    spectra = [ninscope.measure(ROOT / "data" / "digits-ddpm", step, exact=True) for step in ("step0", "step2000")]
    (row,) = emergence.query("model == 'digits-ddpm' and method == 'exact' and step == 2000").itertuples()
    assert (row.alpha0, row.width) == (spectra[1].alpha0, spectra[1].width)
    assert row.emergence == ninscope.emergence(spectra[1], spectra[0])


def test_losses_and_quality_of_pictures_stand_beside(run):
    found = run.table("benchmarks").query("model == 'digits-ddpm'")
    assert set(zip(found["task"], found["metric"], strict=True)) == {
        ("train", "loss"), ("held_out", "loss"), ("samples", "frechet"), ("samples", "nearest_train"),
    }  # fmt: skip


def test_figures(run):
    drawn = {path.name for path in (run.path / "figures").glob("*.png")}
    assert drawn >= {"emergence.png", *(f"{model}-{what}.png" for model in LAST for what in ("emergence", "spectra"))}
