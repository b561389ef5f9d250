"""`ninscope run`: what a first run makes, and what exactly is done again when something changes."""

import hashlib
import io
import os
import shutil
import tomllib
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from driving import ANALYSIS, artefacts, command, contents, made, results, stamps, write_dag
from safetensors.numpy import load_file, save_file
from suites import neox_tensors, write_checkpoint, write_suite

import ninscope
from ninscope_pipeline.figures import draw

pytestmark = pytest.mark.usefixtures("undrawn")

KEYS = ["suite", "model", "revision", "step"]
CONTRACT = {
    "checkpoints": ["content_sha256", "parameters", "status", "message"],
    "samples": ["sample", "nodes_per_layer", "alpha0", "width", "nodes", "edges", "r2_mass_mean", "r2_mass_std", "r2_partition"],
    "spectra": ["sample", "q", "tau", "alpha", "f", "r2"],
    "emergence": ["method", "alpha0", "alpha0_std", "width", "width_std", "emergence", "emergence_low", "emergence_high",
                  "baseline_step"],
    "degrees": ["layer", "mean", "std", "kurtosis"],
    "weights": ["matrix", "norm", "rms", "spikes", "spike_share"],
    "scaling": ["quantity", "q", "neuron", "slope", "r2", "local_min", "local_max", "range_low", "range_high", "decades"],
    "scaling_curves": ["quantity", "q", "neuron", "radius", "value", "slope", "null_low", "null_high"],
    "controls": ["alpha0_ratio", "width_ratio", "emergence_growth", "emergence_fixed", "alpha0_unit", "width_unit", "structure"],
    "interactions": ["writer", "reader", "kind", "distance", "coupling", "error"],
    "nulls": ["null", "alpha0", "width", "emergence"],
    "benchmarks": ["task", "metric", "value"],
    "finetunes": ["method", "task", "seed", "learning_rate", "finetune_step", "metric", "value", "phi_mean"],
    "comparisons": ["task", "metric", "method"],
    "correlations": ["measure", "method", "variant", "task", "metric", "kind", "value", "low", "high"],
    "activations": ["task", "layer", "neurons", "values", "phi_mean"],
    "neurons": ["text", "layer", "measure", "control", "against", "value"],
    "neuron_places": ["text", "layer", "place", "measure", "control", "against", "neurons", "correlation", "low", "high"],
    "polysemanticity": ["experiment", "dropout", "seed", "phase", "epoch", "learning_rate", "asked_ratio"],
    "polysemanticity_slopes": ["experiment", "dropout", "learning_rate", "degree", "seeds"],
    "polysemanticity_correlations": ["experiment", "dropout", "phase", "learning_rate", "measure", "truth"],
    "polysemanticity_neurons": ["experiment", "dropout", "seed", "phase", "epoch", "learning_rate", "asked_ratio"],
    "polysemanticity_neuron_correlations": ["experiment", "dropout", "phase", "learning_rate", "over", "measure", "truth"],
}  # fmt: skip
STEPS = (0, 1, 8)
SHAPE = {"blocks": 1, "width": 16, "heads": 2}
EVALUATIONS = "revision,step,task,metric,value\nstep0,0,held_out,loss,5.5\nstep1,1,held_out,loss,4.5\n"
AFTER = [("emergence", "tiny/weights"), ("tables", "all"), ("figures", "all")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a suite, its DAG file and its finished run; look, do not touch."""
    place = tmp_path_factory.mktemp("finished")
    write_suite(place / "weights", STEPS, **SHAPE)
    (place / "evaluations.csv").write_text(EVALUATIONS)
    ended = run(place, dag(place))
    assert (ended.code, ended.says) == (0, [])
    return place


@pytest.fixture
def place(finished, tmp_path) -> Path:
    """A copy of it to change."""
    return shutil.copytree(finished, tmp_path / "place")


def dag(place: Path, **changes) -> Path:
    return write_dag(place / "tiny.toml", Path("weights"), **{"evaluations": "evaluations.csv"} | changes)


def run(place: Path, dag_file: Path):
    return command("run", dag_file, "--runs-dir", place / "runs")


def would_run(place: Path, dag_file: Path) -> list[tuple[str, str]]:
    ended = command("run", dag_file, "--runs-dir", place / "runs", "--dry-run")
    assert (ended.code, ended.says) == (0, [])
    return ended.would_run


def table(place: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(place / "runs" / "tiny" / "tables" / f"{name}.parquet")


def store(place: Path) -> dict[str, set[str]]:
    return artefacts(place / "runs" / "tiny")


def test_a_first_run_makes_every_table(finished):
    files = {path.name for path in (finished / "runs" / "tiny" / "tables").glob("*.parquet")}
    assert files == {f"{name}.parquet" for name in CONTRACT}


def test_a_table_has_the_contracts_columns_first(finished):
    for name, columns in CONTRACT.items():
        expected = KEYS + columns
        assert list(table(finished, name).columns)[: len(expected)] == expected


def test_tables_hold_one_fact_a_row_in_step_order(finished):
    samples, q = ANALYSIS["samples"], 9
    lengths = {name: len(table(finished, name)) for name in CONTRACT}
    assert lengths == {
        "checkpoints": 3, "samples": 3 * samples, "spectra": 3 * samples * q, "emergence": 3,
        "benchmarks": 2, "degrees": 0, "nulls": 0, "weights": 0, "controls": 0, "interactions": 0,
        "scaling": 0, "scaling_curves": 0, "finetunes": 0, "comparisons": 0, "correlations": 0, "activations": 0,
        "neurons": 0, "neuron_places": 0, "polysemanticity": 0, "polysemanticity_slopes": 0,
        "polysemanticity_correlations": 0, "polysemanticity_neurons": 0,
        "polysemanticity_neuron_correlations": 0}  # fmt: skip
    for name in ("checkpoints", "samples", "spectra", "emergence"):
        rows = table(finished, name)
        assert rows["step"].is_monotonic_increasing
        assert rows["step"].dtype == "Int64"
        assert set(rows["suite"]) == {"tiny"}
        assert set(rows["model"]) == {"weights"}
        assert (rows["revision"] == "step" + rows["step"].astype(str)).all()
    assert table(finished, "samples")["sample"].tolist() == [0, 1, 2] * 3
    assert table(finished, "benchmarks")["value"].tolist() == [5.5, 4.5]


def test_tables_say_what_the_weights_are(finished):
    rows = table(finished, "checkpoints").set_index("revision")
    for step in STEPS:
        weights = finished / "weights" / f"step{step}" / "model.safetensors"
        row = rows.loc[f"step{step}"]
        assert row["status"] == "ok"
        assert row["content_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
        assert row["parameters"] == sum(array.size for array in load_file(weights).values())


def test_tables_hold_what_the_library_measures(finished):
    parameters = ANALYSIS | {"q": np.linspace(-2, 2, 9)}
    measured = {
        step: ninscope.measure(str(finished / "weights"), revision=f"step{step}", **parameters) for step in STEPS
    }
    for row in table(finished, "emergence").itertuples():
        spectrum = measured[row.step]
        assert row.method == "sampled"
        assert row.baseline_step == 0
        for name in ("alpha0", "width", "alpha0_std", "width_std"):
            assert getattr(row, name) == pytest.approx(getattr(spectrum, name), rel=1e-12)
        expected = ninscope.emergence(spectrum, measured[0])
        assert row.emergence == pytest.approx(expected, rel=1e-12, abs=1e-15)
        assert row.emergence_low <= row.emergence <= row.emergence_high
    assert table(finished, "emergence")["emergence"].iloc[0] == 0
    spectra, samples = table(finished, "spectra"), table(finished, "samples")
    for step in STEPS:
        for number, one in enumerate(measured[step].samples):
            curve = spectra[(spectra["step"] == step) & (spectra["sample"] == number)]
            for name in ("q", "tau", "alpha", "f", "r2"):
                np.testing.assert_allclose(curve[name].to_numpy(), getattr(one, name), rtol=1e-12, equal_nan=True)
            row = samples[(samples["step"] == step) & (samples["sample"] == number)].iloc[0]
            assert row["alpha0"] == pytest.approx(one.alpha0, rel=1e-12)
            assert row["edges"] == measured[step].sample_edges[number]
            assert row["nodes"] == measured[step].network_nodes


def test_figures_are_pictures_that_show_something(finished):
    pictures = draw({name: table(finished, name) for name in CONTRACT})
    assert sorted(pictures) == ["weights-emergence.png", "weights-spectra.png"]
    for picture in pictures.values():
        assert picture.startswith(b"\x89PNG\r\n\x1a\n")
        assert matplotlib.image.imread(io.BytesIO(picture)).std() > 0.01


def test_a_run_writes_down_what_was_asked_and_with_which_versions(finished):
    written = tomllib.loads((finished / "runs" / "tiny" / "run.toml").read_text())
    assert written["asked"]["analysis"]["samples"] == ANALYSIS["samples"]
    assert written["asked"]["analysis"]["q"] == ANALYSIS["q"]
    assert written["asked"]["models"][0]["source"] == str(finished / "weights")
    assert written["versions"]["ninscope"] == ninscope.__version__
    assert written["versions"]["numpy"] == np.__version__


def test_a_second_run_runs_nothing_and_says_so(place):
    before = results(place / "runs" / "tiny")
    assert would_run(place, dag(place)) == []
    ended = run(place, dag(place))
    assert (ended.code, ended.says) == (0, [])
    assert "nothing to run" in ended.out
    assert results(place / "runs" / "tiny") == before


def test_a_second_run_needs_no_cluster(place, monkeypatch):
    monkeypatch.setattr("ninscope_pipeline.execution.dask_cluster.LocalCluster", None)
    assert command("run", dag(place), "--runs-dir", place / "runs").code == 0


def test_an_added_revision_costs_itself_and_what_depends_on_it(place):
    write_checkpoint(place / "weights" / "step64", neox_tensors(seed=64, **SHAPE))
    name = "tiny/weights step64"
    assert would_run(place, dag(place)) == [("nin", name), ("spectra", name), *AFTER]
    before, files = store(place), stamps(place / "runs" / "tiny" / "store.zarr")
    assert run(place, dag(place)).code == 0
    assert made(before, store(place)) == {"nin": 1, "spectra": 1, "emergence": 1}
    assert files.items() <= stamps(place / "runs" / "tiny" / "store.zarr").items()
    assert table(place, "emergence")["step"].tolist() == [0, 1, 8, 64]
    assert would_run(place, dag(place)) == []


def test_a_removed_revision_leaves_the_tables(place):
    shutil.rmtree(place / "weights" / "step8")
    assert would_run(place, dag(place)) == AFTER
    assert run(place, dag(place)).code == 0
    for name in ("checkpoints", "samples", "spectra", "emergence"):
        assert set(table(place, name)["step"]) == {0, 1}


CHANGES = [  # and how many networks, spectra and E must be made
    ({"q": {"start": -1.0, "stop": 1.0, "step": 0.5}}, 0, 3, 1),
    ({"min_degree": 9}, 0, 3, 1),
    ({"derivative": "forward"}, 0, 3, 1),
    ({"seed": 1}, 3, 3, 1),
    ({"max_distance": 50.0}, 3, 3, 1),
    ({"samples": 2}, 3, 3, 1),
    ({"nodes_per_layer": 10}, 3, 3, 1),
    ({"replicates": 200}, 0, 0, 1),
    ({"confidence": 0.5}, 0, 0, 1),
    ({"baseline_step": 1}, 0, 0, 1),
]


def test_a_changed_parameter_needs_what_depends_on_it(finished, tmp_path):
    for change, networks, spectra, emergence in CHANGES:
        asked = write_dag(
            tmp_path / "tiny.toml", finished / "weights", evaluations=str(finished / "evaluations.csv"), **change
        )
        announced = [stage for stage, _ in would_run(finished, asked)]
        expected = ["nin"] * networks + ["spectra"] * spectra + ["emergence"] * emergence + ["tables", "figures"]
        assert announced == expected, change


@pytest.mark.parametrize("number", [1, 3, 9], ids=lambda number: next(iter(CHANGES[number][0])))
def test_a_changed_parameter_reruns_what_depends_on_it(place, number):
    change, networks, spectra, emergence = CHANGES[number]
    changed = dag(place, **change)
    before, old = store(place), contents(place / "runs" / "tiny" / "tables")
    assert run(place, changed).code == 0
    assert made(before, store(place)) == {"nin": networks, "spectra": spectra, "emergence": emergence}
    assert contents(place / "runs" / "tiny" / "tables")["emergence.parquet"] != old["emergence.parquet"]
    assert would_run(place, changed) == []
    # What was there before is still stored: going back to it costs tables and figures, and they are those of then.
    assert would_run(place, dag(place)) == AFTER[1:]
    assert run(place, dag(place)).code == 0
    assert contents(place / "runs" / "tiny" / "tables") == old


def test_forward_differences_end_one_value_early(place):
    assert run(place, dag(place, derivative="forward")).code == 0
    spectra = table(place, "spectra")
    last = spectra["q"] == spectra["q"].max()
    assert (spectra["alpha"].isna() == last).all()
    assert (spectra["f"].isna() == last).all()
    assert spectra["tau"].notna().all()


def test_changed_evaluations_cost_tables_and_figures_alone(place):
    (place / "evaluations.csv").write_text(EVALUATIONS + "step8,8,held_out,loss,3.5\n")
    assert would_run(place, dag(place)) == AFTER[1:]
    before, run_folder = stamps(place / "runs" / "tiny" / "store.zarr"), place / "runs" / "tiny"
    figures = contents(run_folder / "figures")
    assert run(place, dag(place)).code == 0
    assert stamps(run_folder / "store.zarr") == before
    assert table(place, "benchmarks")["value"].tolist() == [5.5, 4.5, 3.5]
    assert contents(run_folder / "figures")["weights-emergence.png"] != figures["weights-emergence.png"]


def everything(folder: Path) -> dict[str, int]:
    """mtime of every file and folder: a folder's changes even where a file came and went."""
    return {str(path): path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def test_a_dry_run_writes_nothing_at_all(place):
    changed = dag(place, seed=1)
    fresh = dag(place, name="other")
    for dag_file in (changed, fresh):
        before = everything(place)
        assert len(would_run(place, dag_file)) > 0
        assert everything(place) == before


def test_a_dry_run_of_a_first_run_makes_no_folder(place):
    shutil.rmtree(place / "runs")
    listed = would_run(place, dag(place))
    names = [f"tiny/weights step{step}" for step in STEPS]
    assert listed == [("nin", name) for name in names] + [("spectra", name) for name in names] + AFTER
    assert not (place / "runs").exists()


def damaged(path: Path, how: str) -> None:
    if how == "deleted":
        path.unlink()
    elif how == "altered":
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    else:
        path.write_bytes(b"")


def test_a_damaged_result_is_made_again(place):
    folder = place / "runs" / "tiny"
    whole, before = {name: contents(folder / name) for name in ("tables", "figures")}, stamps(folder / "store.zarr")
    for file, how, again in (
        ("tables/emergence.parquet", "deleted", AFTER[1:]),
        ("tables/emergence.parquet", "altered", AFTER[1:]),
        ("tables/spectra.parquet", "emptied", AFTER[1:]),
        ("tables/manifest.json", "altered", AFTER[1:]),
        ("tables/manifest.json", "deleted", AFTER[1:]),
        ("figures/weights-spectra.png", "deleted", AFTER[2:]),
        ("figures/weights-emergence.png", "altered", AFTER[2:]),
    ):
        damaged(folder / file, how)
        assert would_run(place, dag(place)) == again, file
        assert run(place, dag(place)).code == 0
        assert {name: contents(folder / name) for name in ("tables", "figures")} == whole, file
    assert stamps(folder / "store.zarr") == before


def test_a_deleted_artefact_is_made_again(place):
    folder = place / "runs" / "tiny"
    whole = contents(folder / "store.zarr")
    for stage in ("spectra", "emergence"):
        shutil.rmtree(next(path for path in (folder / "store.zarr" / stage).iterdir() if path.is_dir()))
    assert run(place, dag(place)).code == 0
    assert contents(folder / "store.zarr") == whole


def test_equal_content_is_analysed_once(place):
    shutil.copytree(place / "weights" / "step8", place / "weights" / "step9")
    trusting = dag(place, trust_duplicates=True)
    assert would_run(place, trusting) == AFTER
    before = store(place)
    assert run(place, trusting).code == 0
    assert made(before, store(place)) == {"nin": 0, "spectra": 0, "emergence": 1}
    rows = table(place, "emergence").set_index("step")[["alpha0", "width", "emergence"]]
    assert rows.loc[8].tolist() == rows.loc[9].tolist()
    samples = table(place, "samples").set_index("step")
    eight, nine = (samples.loc[step].drop(columns=["revision"]).reset_index(drop=True) for step in (8, 9))
    assert eight.equals(nine)


def test_equal_content_is_analysed_once_in_a_first_run(place):
    shutil.rmtree(place / "runs")
    shutil.copytree(place / "weights" / "step8", place / "weights" / "step9")
    assert [stage for stage, _ in would_run(place, dag(place))].count("nin") == 3
    assert run(place, dag(place)).code == 1  # they are duplicates
    assert {stage: len(keys) for stage, keys in store(place).items()} == {"nin": 3, "spectra": 3, "emergence": 1}
    assert len(table(place, "emergence")) == 4


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """Weight files that were hashed since the test began."""
    read, real = [], hashlib.file_digest

    def counted(file, *arguments):
        read.extend([file.name] * file.name.endswith(".safetensors"))
        return real(file, *arguments)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    return read


def test_a_touched_file_is_hashed_again_and_nothing_else(place, hashed):
    arguments = ("run", dag(place), "--runs-dir", place / "runs")
    assert command(*arguments).code == 0
    assert len(hashed) == 3  # copied files: their stamps differ from those of the finished run
    before = results(place / "runs" / "tiny")
    hashed.clear()
    assert command(*arguments).code == 0
    assert hashed == []
    touched = place / "weights" / "step8" / "model.safetensors"
    os.utime(touched, ns=(1, 1))
    assert "nothing to run" in command(*arguments).out
    assert hashed == [str(touched)]
    assert results(place / "runs" / "tiny") == before


@pytest.mark.parametrize("keep_mtime", [False, True])
def test_changed_weights_of_the_same_size_are_analysed_again(place, keep_mtime):
    assert run(place, dag(place)).code == 0  # so that the copy's own stamps are known
    file = place / "weights" / "step1" / "model.safetensors"
    status, tensors = file.stat(), load_file(file)
    tensors["gpt_neox.layers.0.attention.dense.weight"] *= 0.5
    save_file(tensors, file, metadata={"format": "pt"})
    if keep_mtime:
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size
    name, old = "tiny/weights step1", table(place, "emergence").set_index("step")["alpha0"]
    assert would_run(place, dag(place)) == [("nin", name), ("spectra", name), *AFTER]
    before = store(place)
    assert run(place, dag(place)).code == 0
    assert made(before, store(place)) == {"nin": 1, "spectra": 1, "emergence": 1}
    new = table(place, "emergence").set_index("step")["alpha0"]
    assert (new != old).tolist() == [False, True, False]


def test_a_changed_config_that_wires_the_weights_otherwise_is_analysed_again(place):
    """The same bytes of weights, read as other heads: another network."""
    for step in STEPS:
        config = place / "weights" / f"step{step}" / "config.json"
        config.write_text(config.read_text().replace('"num_attention_heads": 2', '"num_attention_heads": 4'))
    again = [(stage, f"tiny/weights step{step}") for stage in ("nin", "spectra") for step in STEPS]
    assert would_run(place, dag(place)) == [*again, *AFTER]


def test_listed_revisions_come_in_step_order(place):
    """The order in the file says nothing; neither tables nor what is stored depends on it."""
    assert run(place, dag(place, revisions=["step8", "step0"])).code == 0
    assert table(place, "checkpoints")["step"].tolist() == [0, 8]
    assert table(place, "emergence")["step"].tolist() == [0, 8]
    assert would_run(place, dag(place, revisions=["step0", "step8"])) == []
