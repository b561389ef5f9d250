"""Runs with null models that keep norms, and of paths across layers: what they store, their rows, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from driving import artefacts, command, made, results, write_dag
from suites import write_suite

import ninscope
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError
from ninscope.exact.norms import matrix_norms
from ninscope.exact.null_models import null_spectrum, with_norms
from ninscope.exact.path_nulls import PATH_NULLS
from ninscope.exact.paths import path_null_spectra
from ninscope.exact.whole import exact_analysis
from ninscope.networks.incoming import directed
from ninscope.networks.neuron_network import neuron_network
from ninscope.parameters import Parameters

pytestmark = pytest.mark.usefixtures("undrawn")

Q = np.arange(-4, 5) / 2
VALUES = {"min_degree": 3, "q": Q}
EXACT = {"nodes_per_layer": "all", "samples": None}
STEPS = (0, 1)


def run(place: Path, **asked):
    dag = write_dag(place / "tiny.toml", Path("weights"), **asked)
    return dag, command("run", dag, "--runs-dir", place / "runs")


def table(place: Path, name: str):
    return ninscope.open_run(place / "runs" / "tiny").table(name)


@pytest.fixture
def place(tmp_path) -> Path:
    write_suite(tmp_path / "weights", STEPS, blocks=1, width=16, heads=2)
    return tmp_path


def network(place: Path, step: int, direction: str = "out"):
    return directed(neuron_network(open_source(place / "weights").open(f"step{step}")), direction)


def check_rows(rows, null, step, spectra):
    (row,) = rows[(rows["null"] == null) & (rows["step"] == step)].to_dict("records")
    assert row["alpha0"] == np.mean([spectrum.alpha0 for spectrum in spectra])
    assert row["width"] == np.mean([spectrum.width for spectrum in spectra])
    assert row["samples"] == len(spectra)
    return row


@pytest.mark.parametrize("direction", ["out", "in"])
def test_norms_are_kept_of_single_layers(place, direction):
    models = ["shuffled", "row_norms", "column_norms"]
    asked = EXACT | {"direction": direction, "nulls": {"models": models, "samples": 2, "seed": 3}}
    dag, ended = run(place, **asked)
    assert (ended.code, ended.says) == (0, [])
    rows = table(place, "nulls")
    assert rows["null"].tolist() == models * 2
    assert rows.columns[-1] == "keeps"
    sides = {"out": ("source", "target"), "in": ("target", "source")}[direction]  # "in": of the transposed matrices
    kept = ["the weights of each matrix; in random places"]
    kept += [f"the norm of each {side} neuron's weights in each matrix" for side in reversed(sides)]
    assert rows["keeps"].tolist() == kept * 2
    for step in STEPS:
        whole, parameters = network(place, step, direction), Parameters("all", **VALUES, direction=direction)
        analysis = exact_analysis(whole, parameters, matrices=True)
        matrices = with_norms(analysis.matrices, matrix_norms(whole))
        for null in models:
            drawn = [null_spectrum(null, matrices, analysis.radii, parameters, 3, sample) for sample in (0, 1)]
            row = check_rows(rows, null, step, drawn)
            assert (row["emergence"] == 0) == (step == 0)
    before = results(place / "runs" / "tiny")
    again = command("run", dag, "--runs-dir", place / "runs")
    assert "all results are stored already" in again.out
    assert results(place / "runs" / "tiny") == before


def test_paths_of_the_whole_network_and_their_null_models(place):
    asked = EXACT | {"layers_crossed": 3, "nulls": {"models": list(PATH_NULLS), "samples": 2}}
    _, ended = run(place, **asked)
    assert (ended.code, ended.says) == (0, [])
    rows, emergence = table(place, "nulls"), table(place, "emergence")
    parameters = Parameters("all", **VALUES, layers_crossed=3)
    for step in STEPS:
        for null, spectra in path_null_spectra(network(place, step), dict.fromkeys(PATH_NULLS, 2), parameters).items():
            assert check_rows(rows, null, step, spectra)["keeps"] == PATH_NULLS[null].keeps
        (alpha0,) = emergence[emergence["step"] == step]["alpha0"]
        assert alpha0 == ninscope.measure(place / "weights", f"step{step}", layers_crossed=3, **VALUES).alpha0
    assert table(place, "degrees").empty
    stored = artefacts(place / "runs" / "tiny")
    _, ended = run(place, **asked | {"nulls": {"models": ["matching"]}, "execution": {"part_bytes": 1000}})
    assert made(stored, artefacts(place / "runs" / "tiny")) == {"exact": 0, "nulls": 2, "emergence": 0}


def test_paths_of_samples_and_their_null_models(place):
    models = ["shuffled", "matching", "rewired"]
    asked = {"layers_crossed": 2, "direction": "in", "nulls": {"models": models, "samples": 2}}
    _, ended = run(place, **asked)
    assert (ended.code, ended.says) == (0, [])
    rows = table(place, "nulls")
    assert rows["null"].tolist() == models * 2
    assert rows["emergence"].notna().all()
    assert (rows["alpha0_std"] > 0).all()
    own = table(place, "emergence").set_index("step")["alpha0"]
    for step in STEPS:
        alpha0 = rows[rows["step"] == step].set_index("null")["alpha0"]
        np.testing.assert_allclose(alpha0, own[step], rtol=0.1)
        assert (alpha0 != own[step]).all()


def test_direction_is_another_analysis_of_the_same_samples(place):
    _, ended = run(place, exact=True)
    stored = artefacts(place / "runs" / "tiny")
    variants = [{"name": "in", "direction": "in"}]
    _, ended = run(place, exact=True, variants=variants)
    assert (ended.code, ended.says) == (0, [])
    assert made(stored, artefacts(place / "runs" / "tiny")) == {"nin": 0, "spectra": 2, "exact": 2, "emergence": 2}
    samples = table(place, "samples")
    for sampling in ({}, {"nodes_per_layer": 12, "samples": 3}):
        found = ninscope.measure(place / "weights", "step1", direction="in", **VALUES, **sampling)
        rows = samples[(samples["variant"] == "in") & (samples["step"] == 1)]
        rows = rows[(rows["sample"] == -1) if not sampling else (rows["sample"] >= 0)]
        assert rows["alpha0"].tolist() == [spectrum.alpha0 for spectrum in found.samples]
    (code, out) = (done := command("measure", place / "weights", "--direction", "in", "--json")).code, done.out
    assert code == 0
    assert str(round(ninscope.measure(place / "weights", "step1", direction="in").alpha0, 6))[:8] in out


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        (
            EXACT | {"nulls": {"models": ["matching"]}},
            "models: matching is none of single layers .it would keep all results",
        ),
        (
            EXACT | {"layers_crossed": 2, "nulls": {}},
            "analytic is none of paths across 2 layers; give some of shuffled, gaussian, column_norms, row_norms, matching",
        ),
        (
            {"layers_crossed": 2, "nulls": {"models": ["gaussian"]}},
            "gaussian is none of paths across 2 layers of samples; give some of shuffled, matching, rewired",
        ),
        (
            EXACT | {"nulls": {"models": ["noise"]}},
            "there is no null model 'noise'; give some of shuffled, .*, rewired",
        ),
    ],
)
def test_null_models_that_an_analysis_has_not(place, asked, match):
    import re

    _, ended = run(place, **asked)
    assert ended.code == 2
    (said,) = ended.says
    assert re.search(match, said)


def test_a_network_that_has_no_room_costs_itself_alone(place, monkeypatch):
    def refused(*arguments):
        raise CheckpointError("unsupported", "paths across 3 whole layers take 9 GB")

    monkeypatch.setattr("ninscope.networks.whole_paths.check_fits", refused)
    _, ended = run(place, **EXACT, layers_crossed=3, nulls={"models": ["matching"]})
    assert ended.code == 1
    assert table(place, "checkpoints")["status"].tolist() == ["unsupported"] * 2
    assert table(place, "nulls").empty
