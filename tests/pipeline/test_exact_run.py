"""Runs that analyse whole networks: their tables, their parts, and what fails."""

import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from driving import ANALYSIS, artefacts, command, contents, made, results, write_dag
from suites import neox_tensors, write_checkpoint, write_suite

import ninscope
from ninscope.errors import RequestError
from ninscope.exact.null_models import null_spectrum
from ninscope.multifractal.jackknife import jackknife_interval, left_out_emergence
from ninscope_pipeline.execution.job import run_job
from ninscope_pipeline.outcome import Outcome, settled
from ninscope_pipeline.prepared_run import prepare
from ninscope_pipeline.request.dagfile import load_dag
from ninscope_pipeline.results import overall
from ninscope_pipeline.stages import exact
from ninscope_pipeline.stages.emergence import EMERGENCE
from ninscope_pipeline.stages.exact import EXACT
from ninscope_pipeline.stages.nulls import NULLS as NULLS_STAGE
from ninscope_pipeline.stages.spectra import SPECTRA
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

pytestmark = pytest.mark.usefixtures("undrawn")

SHAPE = {"blocks": 2, "width": 24, "heads": 3}
STEPS = (0, 1, 8)
ONLY_EXACT = {"nodes_per_layer": "all", "samples": None}
NULLS = {"models": ["shuffled", "analytic"], "samples": 2, "seed": 5}
PARAMETERS = {"min_degree": ANALYSIS["min_degree"], "q": np.linspace(-2, 2, 9)}
TABLES = ("checkpoints", "samples", "spectra", "emergence", "degrees", "nulls")
PART = 4000  # bytes: a checkpoint of this shape has seven such parts, and no tensor is read in one


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A suite and its finished run, exact and sampled, with null models; look, do not touch."""
    place = tmp_path_factory.mktemp("exact-run")
    write_suite(place / "weights", STEPS, **SHAPE)
    ended = run(place, dag(place, exact=True, nulls=NULLS, per_node=True))
    assert (ended.code, ended.says) == (0, [])
    return place


def dag(place: Path, **changes) -> Path:
    return write_dag(place / "tiny.toml", Path("weights"), **changes)


def run(place: Path, dag_file: Path, runs: str = "runs"):
    return command("run", dag_file, "--runs-dir", place / runs)


def table(place: Path, name: str, runs: str = "runs") -> pd.DataFrame:
    return pd.read_parquet(place / runs / "tiny" / "tables" / f"{name}.parquet")


def measured(place: Path, step: int, **parameters):
    return ninscope.measure(place / "weights", f"step{step}", exact=True, **PARAMETERS, **parameters)


def test_the_whole_network_is_sample_minus_one(finished):
    samples, spectra = table(finished, "samples"), table(finished, "spectra")
    assert samples["sample"].tolist() == [0, 1, 2, -1] * len(STEPS)
    exact = samples[samples["sample"] == -1].set_index("step")
    assert exact["nodes_per_layer"].isna().all()
    assert (samples[samples["sample"] >= 0]["nodes_per_layer"] == ANALYSIS["nodes_per_layer"]).all()
    for step in STEPS:
        (expected,) = measured(finished, step).samples
        row = exact.loc[step]
        for name in ("alpha0", "width", "r2_mass_mean", "r2_mass_std", "r2_partition"):
            assert row[name] == getattr(expected, name)
        assert (row["nodes_counted"], row["edges_counted"]) == (expected.nodes, expected.edges)
        curve = spectra[(spectra["step"] == step) & (spectra["sample"] == -1)]
        for name in ("q", "tau", "alpha", "f", "r2"):
            assert curve[name].to_numpy().tobytes() == getattr(expected, name).tobytes()


def test_emergence_has_a_row_for_each_method(finished):
    rows = table(finished, "emergence")
    assert rows[["step", "method"]].values.tolist() == [[s, m] for s in STEPS for m in ("sampled", "exact")]
    exact = rows[rows["method"] == "exact"].set_index("step")
    start = measured(finished, 0)
    for step in STEPS:
        now = measured(finished, step)
        assert exact.loc[step, "emergence"] == ninscope.emergence(now, start)
        assert (exact.loc[step, "r2_mass_mean"], exact.loc[step, "r2_partition"]) == (
            now.r2_mass_mean,
            now.r2_partition,
        )
        left = [np.array(list(measurement.left_out.values())) for measurement in (now, start)]
        interval = jackknife_interval(exact.loc[step, "emergence"], left_out_emergence(*left), 0.95)
        assert tuple(exact.loc[step, ["emergence_low", "emergence_high"]]) == interval
    assert (exact["emergence_low"] < exact["emergence_high"]).iloc[1:].all()
    assert exact[["alpha0_std", "width_std"]].isna().all(axis=None)
    assert rows[rows["method"] == "sampled"]["alpha0_std"].notna().all()


def test_degrees_are_those_of_every_layer_with_edges(finished):
    rows = table(finished, "degrees")
    assert list(rows.columns[:8]) == ["suite", "model", "revision", "step", "layer", "mean", "std", "kurtosis"]
    for step in STEPS:
        expected = pd.DataFrame([asdict(layer) for layer in measured(finished, step).layers])
        found = rows[rows["step"] == step].reset_index(drop=True)
        pd.testing.assert_frame_equal(found[list(expected.columns)], expected, check_exact=True, check_dtype=False)


def test_single_neurons_are_kept_where_asked_for(finished):
    found = ninscope.open_run(finished / "runs" / "tiny").nodes("weights", "step1")
    expected = measured(finished, 1, per_node=True).nodes_of
    assert list(found.columns) == ["layer", "neuron", "edges", "average_weighted_degree", "dimension", "r2"]
    assert found["layer"].drop_duplicates().tolist() == list(expected)
    for layer, values in expected.items():
        part = found[found["layer"] == layer]
        assert part["neuron"].tolist() == list(range(len(part)))
        for name in ("edges", "degree", "dimension", "r2"):
            column = "average_weighted_degree" if name == "degree" else name
            np.testing.assert_array_equal(part[column].to_numpy(), getattr(values, name))


def test_nulls_are_compared_with_their_own_start(finished):
    rows = table(finished, "nulls")
    assert rows[["step", "null"]].values.tolist() == [[s, n] for s in STEPS for n in NULLS["models"]]
    assert rows["samples"].tolist() == [2, 1] * len(STEPS)
    for _, of_null in rows.groupby("null"):
        of_null = of_null.set_index("step")
        start = of_null.loc[0]
        assert start["emergence"] == 0
        for step in STEPS:
            now = of_null.loc[step]
            expected = now["width"] / start["width"] * np.log(start["alpha0"] / now["alpha0"])
            assert now["emergence"] == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_parts_change_no_byte_of_tables_and_store(finished):
    whole = finished / "runs" / "tiny"
    for name, part_bytes, workers in (("parts", PART, 2), ("one", 9000, 1)):
        asked = dag(finished, exact=True, nulls=NULLS, per_node=True, execution={"part_bytes": part_bytes})
        listed = command("run", asked, "--runs-dir", finished / name, "--dry-run").would_run
        assert sum(stage == "parts" for stage, _ in listed) >= 3 * len(STEPS)
        ended = command("run", asked, "--runs-dir", finished / name, "--workers", workers)
        assert (ended.code, ended.says) == (0, [])
        other = finished / name / "tiny"
        assert contents(other / "tables") == contents(whole / "tables")
        assert contents(other / "figures") == contents(whole / "figures")
        assert contents(other / "store.zarr" / "exact") == contents(whole / "store.zarr" / "exact")
        assert not artefacts(other)["parts"]  # they have served


def test_logarithmic_radii_in_parts(finished):
    expected = {step: measured(finished, step, radii={"log": 40}) for step in STEPS}
    for name, execution in (("log", {}), ("log-parts", {"part_bytes": PART})):
        asked = dag(finished, **ONLY_EXACT, radii={"log": 40}, nulls=NULLS, execution=execution)
        assert run(finished, asked, name).says == []
        samples = table(finished, "samples", name).set_index("step")
        assert samples["sample"].tolist() == [-1] * len(STEPS)
        for step in STEPS:
            assert samples.loc[step, "alpha0"] == expected[step].alpha0
            assert samples.loc[step, "width"] == expected[step].width
    logs = (finished / "log" / "tiny" / "tables", finished / "log-parts" / "tiny" / "tables")
    assert contents(logs[0]) == contents(logs[1])


def test_what_is_there_is_not_done_again(finished, tmp_path):
    place = shutil.copytree(finished, tmp_path / "place")
    folder = place / "runs" / "tiny"
    before, stored = results(folder), artefacts(folder)
    again = run(place, dag(place, exact=True, nulls=NULLS, per_node=True, execution={"part_bytes": PART}))
    assert again.code == 0
    assert results(folder) == before  # how work is split is no reason to do it again
    run(place, dag(place, exact=True, nulls=NULLS | {"seed": 6}, per_node=True))
    assert made(stored, artefacts(folder)) == {
        "nin": 0, "spectra": 0, "exact": 0, "nulls": len(STEPS), "emergence": 0,
    }  # fmt: skip
    write_checkpoint(place / "weights" / "step2", neox_tensors(**SHAPE, seed=9))
    run(place, dag(place, exact=True, nulls=NULLS, per_node=True))
    assert made(stored, artefacts(folder)) == {
        "nin": 1, "spectra": 1, "exact": 1, "nulls": len(STEPS) + 1, "emergence": 2,
    }  # fmt: skip


@pytest.mark.parametrize("execution", [{}, {"part_bytes": PART}])
def test_nan_spoils_its_checkpoint_and_no_other(tmp_path, execution):
    write_suite(tmp_path / "weights", STEPS, **SHAPE)
    tensors = neox_tensors(**SHAPE, seed=1)
    for number, place in ((1, (3, 5)), (0, (9, 2))):
        tensors[f"gpt_neox.layers.{number}.mlp.dense_4h_to_h.weight"][place] = np.nan
    write_checkpoint(tmp_path / "weights" / "step1", tensors)
    asked = dag(tmp_path, exact=True, nulls=NULLS, execution=execution)
    ended = run(tmp_path, asked)
    says = "layers.0.mlp.dense_4h_to_h.weight holds NaN or infinity, first at row 9, column 2"
    assert ended.code == 1
    assert len(ended.says) == 1
    assert says in ended.says[0]
    rows = table(tmp_path, "checkpoints").set_index("step")
    assert rows["status"].tolist() == ["ok", "nonfinite", "ok"]
    for name in ("samples", "spectra", "emergence", "degrees", "nulls"):
        assert set(table(tmp_path, name)["step"]) == {0, 8}
    before = results(tmp_path / "runs" / "tiny")
    again = run(tmp_path, asked)
    assert (again.code, again.says) == (1, ended.says)
    assert results(tmp_path / "runs" / "tiny") == before  # what cannot change is not tried again


def test_parts_of_an_interrupted_run_are_used(finished, tmp_path):
    """Parts that another run of the same content left in the store are not counted again."""
    place = shutil.copytree(finished, tmp_path / "place")
    shutil.rmtree(place / "runs")
    asked = dag(place, **ONLY_EXACT, revisions=["step1"], execution={"part_bytes": PART})
    assert run(place, asked).code == 0
    expected = contents(place / "runs" / "tiny" / "tables")
    shutil.rmtree(place / "runs" / "tiny" / "store.zarr" / "exact")
    prepared = prepare(load_dag(asked), place / "runs")
    job = [job for job in prepared.plan.to_run if job.stage == "parts"][1]
    root = place / "runs" / "tiny"
    assert run_job(root, job, []).ok
    assert ArtefactStore(RunFolder(root)).has("parts", job.key)
    assert job.id not in {later.id for later in prepare(load_dag(asked), place / "runs").plan.to_run}
    assert run(place, asked).code == 0
    assert contents(place / "runs" / "tiny" / "tables") == expected
    assert not artefacts(place / "runs" / "tiny")["parts"]


def test_leftovers_of_interrupted_runs_go(finished, tmp_path):
    place = shutil.copytree(finished, tmp_path / "place")
    folder = place / "runs" / "tiny"
    for stage in ("parts", "ranges"):
        abandoned = folder / "store.zarr" / stage / f"{'0' * 32}-1-of-7"
        abandoned.mkdir(parents=True)
        (abandoned / "zarr.json").write_text("{}")
    assert run(place, dag(place, exact=True, nulls=NULLS | {"seed": 8}, per_node=True)).code == 0
    assert not artefacts(folder)["parts"]
    assert not artefacts(folder)["ranges"]


def test_parts_of_a_checkpoint_that_is_known_to_be_spoilt_go(tmp_path, monkeypatch):
    """Killed after a part was found not to be finite, and before that was told of the whole: the whole is not tried again."""
    tensors = neox_tensors(**SHAPE, seed=1)
    tensors["gpt_neox.layers.1.mlp.dense_4h_to_h.weight"][3, 5] = np.nan
    write_checkpoint(tmp_path / "weights" / "step1", tensors)
    asked = dag(tmp_path, **ONLY_EXACT, execution={"part_bytes": PART})
    with monkeypatch.context() as killed:
        killed.setattr(exact.ExactStage, "need_failed", lambda *_: None)
        first = run(tmp_path, asked)
    assert len(artefacts(tmp_path / "runs" / "tiny")["parts"]) == 7
    again = run(tmp_path, asked)
    assert (again.code, again.says) == (1, first.says)
    assert not artefacts(tmp_path / "runs" / "tiny")["parts"]


def test_parts_stay_while_a_server_does_not_answer(finished, tmp_path, monkeypatch):
    """They may be those of the checkpoint that could not be looked at, and took hours to fetch."""
    store = ArtefactStore(RunFolder(tmp_path / "tiny"))
    store.folder.create()
    store.write("parts", f"{'0' * 32}-1-of-7", Artefact({"counts": np.zeros(3)}, {}))
    (job, *_) = prepare(load_dag(dag(finished, exact=True)), tmp_path).plan.request.jobs_of("exact")
    unknown = replace(job, key="", checkpoint=replace(job.checkpoint, status="missing", passing=True))
    EXACT.clear(store, [unknown], alone=True)
    assert store.keys("parts")
    EXACT.clear(store, [replace(unknown, checkpoint=replace(unknown.checkpoint, passing=False))], alone=True)
    assert not store.keys("parts")


def test_an_analysis_that_holds_more_is_used_as_it_is(finished, tmp_path):
    place = shutil.copytree(finished, tmp_path / "place")
    for changes in ({"exact": True}, {"exact": True, "per_node": True}, ONLY_EXACT):
        asked = dag(place, **changes)
        listed = command("run", asked, "--runs-dir", place / "runs", "--dry-run").would_run
        assert "exact" not in {stage for stage, _ in listed}


OK = Outcome()
NO_SAMPLES = Outcome("unsupported", "10000 samples may hold too many edges")
NO_ANSWER = Outcome("missing", "cannot be fetched (timeout); run again")
OURS = Outcome("failed", "ValueError: no")
NAN = Outcome("nonfinite", "tensor x holds NaN")


@pytest.mark.parametrize(
    ("outcomes", "ok", "status", "message"),
    [
        ({"sampled": OK, "exact": OK, "nulls": OK}, ["sampled", "exact", "nulls"], "ok", ""),
        ({"sampled": NO_SAMPLES, "exact": OK}, ["exact"], "unsupported", f"sampled: {NO_SAMPLES.message}"),
        (
            {"sampled": OK, "exact": NO_ANSWER, "nulls": NO_ANSWER},
            ["sampled"],
            "missing",
            f"exact: {NO_ANSWER.message}",
        ),
        ({"exact": OK, "nulls": OURS}, ["exact"], "failed", f"nulls: {OURS.message}"),
        (
            {"sampled": OK, "exact": NAN, "nulls": NAN},
            [],
            "nonfinite",
            NAN.message,
        ),  # bytes at fault: nothing is trusted
        ({"sampled": OURS, "exact": OURS}, [], "failed", OURS.message),
    ],
)
def test_a_failure_of_one_analysis_spoils_others_only_where_the_bytes_are_at_fault(outcomes, ok, status, message):
    counting = settled(outcomes)
    assert [name for name, outcome in counting.items() if outcome.ok] == ok
    assert (overall(counting).status, overall(counting).message) == (status, message)


def test_nulls_without_a_start_say_so(tmp_path):
    write_suite(tmp_path / "weights", (1, 8), **SHAPE)
    assert run(tmp_path, dag(tmp_path, **ONLY_EXACT, nulls=NULLS)).code == 0
    rows = table(tmp_path, "nulls")
    assert rows["emergence"].isna().all()
    assert rows["message"].str.startswith("no E: there is no usable step0 to compare with; ").all()


def test_nulls_whose_largest_f_is_elsewhere_say_so(tmp_path, monkeypatch):
    def strayed(null, *arguments):
        found = null_spectrum(null, *arguments)
        return replace(found, peak_q=1.0, alpha_at_zero=0.25) if null == "shuffled" else found

    monkeypatch.setattr("ninscope_pipeline.stages.nulls.null_spectrum", strayed)
    write_suite(tmp_path / "weights", (0, 8), **SHAPE)
    asked = dag(tmp_path, **ONLY_EXACT, nulls={"models": ["shuffled", "analytic"], "samples": 2})
    assert run(tmp_path, asked).code == 0
    rows = table(tmp_path, "nulls").set_index("null")["message"]
    match = r"in 2 of 2 draws the largest f is at q = 1, not at 0, .*: alpha0 is 0\.\d+, alpha\(0\) is 0\.25$"
    assert rows["shuffled"].str.match(match).all()
    assert (rows["analytic"] == "").all()


def test_too_many_parts_are_refused(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(exact, "MAX_PARTS", 3)
    ended = command("run", dag(finished, **ONLY_EXACT, execution={"part_bytes": PART}), "--runs-dir", tmp_path)
    assert ended.code == 2
    (line,) = ended.says
    assert (
        "tiny/weights step0: part_bytes = 4000 splits 27648 bytes of weights into 7 parts, more than 3; give a larger part_bytes"
        in line
    )


def test_stored_layouts_change_with_their_versions(finished):
    """What an artefact holds is part of what its key stands for: who changes one raises the stage's VERSION, and this.

    alpha0_without and width_without came later, at the end: where an older artefact lacks them, they are missing in the tables.
    """
    store = ArtefactStore(RunFolder(finished / "runs" / "tiny"))
    layouts = {}
    for stage, version in (("spectra", 3), ("exact", 3), ("nulls", 2), ("emergence", 3)):
        stored = store.read(stage, store.keys(stage)[0])
        columns = {name: stored.attributes.get(name) for name in ("columns", "rows", "layer_columns")}
        layouts[stage] = (version, list(stored.arrays), {name: value for name, value in columns.items() if value})
    spectra = {
        "columns": ["alpha0", "width", "nodes", "edges", "r2_mass_mean", "r2_mass_std", "network_edges"],
        "rows": ["q", "tau", "alpha", "f", "r2"],
        "layer_columns": [
            "nodes", "nodes_counted", "mean", "std", "kurtosis", "dimension_mean", "dimension_std", "r2_mass_mean",
            "r2_mass_std", "p5", "p25", "p50", "p75", "p95", "alpha0_without", "width_without",
        ],
    }  # fmt: skip
    nodes = ["node_edges", "node_degree", "node_dimension", "node_r2"]
    assert layouts == {
        "spectra": (SPECTRA.version, ["values", "curves"], spectra),
        "exact": (EXACT.version, ["values", "curves", "layers", *nodes, "matrix_totals", "matrix_std"], spectra),
        "nulls": (NULLS_STAGE.version, NULLS["models"], {"columns": ["alpha0", "width"]}),
        "emergence": (
            EMERGENCE.version,
            ["values"],
            {
                "columns": [
                    "alpha0", "alpha0_std", "width", "width_std", "emergence", "emergence_low", "emergence_high",
                    "r2_mass_mean", "r2_partition",
                ]
            },
        ),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {**ONLY_EXACT, "exact": False},
            "asks for the exact analysis, and exact = false forbids it; leave one of them out",
        ),
        ({"nodes_per_layer": "all"}, "takes every neuron and no samples; leave out samples"),
        ({"nodes_per_layer": "most"}, r"analysis\.nodes_per_layer"),
        ({"per_node": True}, "per_node needs an exact analysis; add exact = true"),
        ({"nulls": NULLS}, r"needs an exact analysis to compare with; add exact = true to \[analysis\]"),
        ({"exact": True, "nulls": {"models": []}}, r"nulls\.models"),
        (
            {"exact": True, "nulls": {"models": ["gaussian", "gaussian"]}},
            "a null model is listed twice; list each one once",
        ),
        ({"exact": True, "nulls": {"models": ["noise"]}}, r"nulls\.models"),
        ({"exact": True, "radii": {"log": 1}}, "an integer from 2 to 10000 was expected"),
        ({"exact": True, "radii": {"log": 9}, "transfer": "coth"}, "go with transfer reciprocal, not coth"),
        ({"exact": True, "radii": "wide"}, r"analysis\.radii"),
        ({"exact": True, "execution": {"part_bytes": 1}}, r"execution\.part_bytes"),
    ],
)
def test_contradictions_are_refused(tmp_path, changes, says):
    write_suite(tmp_path / "weights", [0], **SHAPE)
    ended = command("run", dag(tmp_path, **changes), "--runs-dir", tmp_path / "runs")
    assert ended.code == 2
    (line,) = ended.says
    assert re.search(says, line), line
    assert not (tmp_path / "runs").exists()


def test_nodes_that_were_not_kept_are_not_there(finished):
    asked = dag(finished, **ONLY_EXACT)
    run(finished, asked, "bare")
    with pytest.raises(RequestError, match="no values of single neurons for weights at step1"):
        ninscope.open_run(finished / "bare" / "tiny").nodes("weights", "step1")
