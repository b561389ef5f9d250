"""Two suites may share a model's name, and two DAG files the name of their run: nothing is taken for the other without a word."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
import tomli_w
from driving import ANALYSIS, EMERGENCE, command, contents
from suites import write_suite

import ninscope
from ninscope.report.figures import comparison_figure

SHAPE = {"blocks": 1, "width": 16, "heads": 2}


def dag(path, **sources):
    """A DAG file of the run `shared`. sources: by suite, of a model that is called model in each."""
    models = [
        {"suite": suite, "model": "model", "source": source, "revisions": ["step0", "step8"]}
        for suite, source in sources.items()
    ]
    analysis = ANALYSIS | {"exact": True, "per_node": True}
    path.write_text(tomli_w.dumps({"name": "shared", "models": models, "analysis": analysis, "emergence": EMERGENCE}))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two suites, and the run of both."""
    place = tmp_path_factory.mktemp("shared")
    for seed, name in ((0, "first"), (50, "second"), (90, "third")):
        write_suite(place / name, [0, 8], seed=seed, **SHAPE)
    ended = command("run", dag(place / "both.toml", a="first", b="second"), "--runs-dir", place / "runs")
    assert ended.code == 0, ended.err
    return place


@pytest.fixture
def copied(place, tmp_path):
    return shutil.copytree(place, tmp_path / "place")


@pytest.fixture(scope="module")
def run(place):
    return ninscope.open_run(place / "runs" / "shared")


def test_the_closing_line_and_the_figure_say_whose_model_it_is(place, run):
    ended = command("run", dag(place / "both.toml", a="first", b="second"), "--runs-dir", place / "runs")
    assert re.search(r"largest E: [-0-9.]+, [ab]/model at step [08] \(exact\)", ended.out)
    drawn = comparison_figure(run.table("emergence")).axes[0].lines
    assert {line.get_label().partition(",")[0] for line in drawn if "model" in line.get_label()} == {
        "a/model",
        "b/model",
    }


@pytest.mark.parametrize("what", ["network", "nodes", "spectra"])
def test_model_of_two_suites_is_refused_unless_one_is_named(run, what):
    with pytest.raises(ninscope.RequestError, match=r"the suites a and b have model at step8; say which with suite="):
        getattr(run, what)("model", "step8")
    with pytest.raises(ninscope.RequestError, match="c/model at step8"):
        getattr(run, what)("model", "step8", suite="c")


def test_each_suite_gives_its_own(run, place):
    asked = {"min_degree": 3, "q": np.linspace(-2, 2, 9)}
    spectra = {}
    for suite, folder in (("a", "first"), ("b", "second")):
        expected = ninscope.measure(place / folder, "step8", **asked)
        spectra[suite] = run.spectra("model", "step8", suite=suite, exact=True)
        assert spectra[suite].alpha0 == expected.alpha0
        assert ninscope.emergence(spectra[suite], expected) == 0
        assert run.nodes("model", "step8", suite=suite)["edges"].sum() == expected.edges
        sampled = ninscope.measure(place / folder, "step8", nodes_per_layer=12, samples=3, **asked)
        assert run.spectra("model", "step8", suite=suite, exact=False).origin.samples == 3
        assert run.spectra("model", "step8", suite=suite, exact=False).alpha0 == pytest.approx(sampled.alpha0)
    assert spectra["a"].alpha0 != spectra["b"].alpha0
    networks = [run.network("model", "step8", suite=suite).matrix for suite in "ab"]
    assert (networks[0] != networks[1]).nnz


def test_spectra_of_a_run_know_how_they_were_made(run, place):
    stored = run.spectra("model", "step8", suite="a", exact=True)
    with pytest.raises(ninscope.RequestError, match="transfer is reciprocal and coth"):
        ninscope.emergence(
            stored, ninscope.measure(place / "first", "step0", min_degree=3, q=stored.q, transfer="coth")
        )
    with pytest.raises(ninscope.RequestError, match="method is exact and sampled"):
        ninscope.emergence(stored, run.spectra("model", "step8", suite="a", exact=False))
    with pytest.raises(ninscope.RequestError, match="both exact and sampled spectra; say exact=True or exact=False"):
        run.spectra("model", "step8", suite="a")


def test_results_of_another_source_are_not_replaced_unasked(place, copied):
    other = dag(copied / "elsewhere.toml", a="third")
    before = contents(copied / "runs")
    planned = command("run", other, "--runs-dir", copied / "runs", "--dry-run")
    assert (
        f"would replace: results of a/model from {place / 'first'}; without --replace the run is refused" in planned.out
    )
    refused = command("run", other, "--runs-dir", copied / "runs")
    assert refused.code == 2
    assert refused.says == [
        f"{copied / 'runs' / 'shared'} holds results of a/model from {place / 'first'}, which this DAG file does not ask "
        "for; give it another name, or replace them with --replace"
    ]
    assert contents(copied / "runs") == before
    assert command("run", other, "--runs-dir", copied / "runs", "--replace").code == 0
    checkpoints = pd.read_parquet(copied / "runs" / "shared" / "tables" / "checkpoints.parquet")
    assert len(checkpoints) == 2
    assert "would replace" not in command("run", other, "--runs-dir", copied / "runs", "--dry-run").out


@pytest.mark.parametrize(
    ("sources", "replaced"),
    [
        ({"a": "first"}, ""),  # one model less
        ({"a": "first", "c": "third"}, ""),
        ({"a": "moved"}, ""),  # the same weights
        ({"renamed": "first", "too": "second"}, ""),
        ({"renamed": "first"}, "results of b/model from"),  # nothing says that it is the same experiment
        ({"a": "second"}, "results of a/model"),
        ({"a": "third", "b": "second"}, "results of a/model"),
        ({"c": "third"}, "results of a/model from"),  # and none of those that are there
    ],
)
def test_what_counts_as_another_experiment(copied, sources, replaced):
    shutil.copytree(copied / "first", copied / "moved")
    planned = command("run", dag(copied / "x.toml", **sources), "--runs-dir", copied / "runs", "--dry-run")
    assert planned.code == 0
    told = [line for line in planned.out.splitlines() if line.startswith("would replace: ")]
    assert len(told) == bool(replaced)
    assert all(replaced in line for line in told)
