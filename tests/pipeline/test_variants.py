"""Variants of an analysis in one DAG file: each is what a run of its own would be, and nothing is done twice."""

import io
import json
import re
import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from driving import artefacts, command, contents, made, write_dag
from suites import write_suite

import ninscope
from ninscope.architectures.registry import FAMILIES
from ninscope.errors import RequestError
from ninscope_pipeline.figures import draw
from ninscope_pipeline.prepared_run import prepare, start
from ninscope_pipeline.request.dagfile import load_dag
from ninscope_pipeline.results import checkpoint_results
from ninscope_pipeline.tables import all_tables

pytestmark = pytest.mark.usefixtures("undrawn")

STEPS = (0, 1, 8)
SHAPE = {"blocks": 1, "width": 16, "heads": 2}
NULLS = {"models": ["gaussian"], "samples": 2}
# The default is sampled and exact, and has null models.
ASKED = {"exact": True, "nulls": NULLS}
VARIANTS = {
    "transfer-coth": {"transfer": "coth"},
    "neurons-6": {"nodes_per_layer": 6},
    "whole": {"nodes_per_layer": "all", "min_degree": 5},
}
TABLES = ("samples", "spectra", "emergence", "degrees")


def dag(place: Path, *names: str, **changes) -> Path:
    listed = [{"name": name, **VARIANTS[name]} for name in names]
    return write_dag(place / "tiny.toml", Path("weights"), **ASKED | {"variants": listed} | changes)


def run(place: Path, dag_file: Path, runs: str = "runs"):
    return command("run", dag_file, "--runs-dir", place / runs)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a suite and its finished runs, without variants ("bare") and with all of them ("runs"); do not touch."""
    place = tmp_path_factory.mktemp("variants")
    write_suite(place / "weights", STEPS, **SHAPE)
    for runs, names in (("bare", ()), ("runs", VARIANTS)):
        ended = run(place, dag(place, *names), runs)
        assert (ended.code, ended.says) == (0, [])
    return place


def table(place: Path, name: str, runs: str = "runs") -> pd.DataFrame:
    return ninscope.open_run(place / runs / "tiny").table(name)


def of_variant(rows: pd.DataFrame, variant: str) -> pd.DataFrame:
    return rows[rows["variant"] == variant].drop(columns="variant").reset_index(drop=True)


@pytest.mark.parametrize("name", ["transfer-coth", "whole"])
def test_a_variant_is_what_a_run_of_its_own_gives(finished, tmp_path, name):
    alone = write_dag(finished / f"{name}.toml", Path("weights"), **_alone(name), name="tiny")
    assert run(finished, alone, name).code == 0
    for part in TABLES:
        own = of_variant(table(finished, part, name), "default")
        pd.testing.assert_frame_equal(of_variant(table(finished, part), name), own, check_exact=True)
        assert len(own) or part == "degrees"


def _alone(name: str) -> dict:
    whole = {"samples": None} if VARIANTS[name].get("nodes_per_layer") == "all" else {}
    return {"exact": True, **whole, **VARIANTS[name]}


def test_the_default_is_what_it_is_without_variants(finished):
    for name in (*TABLES, "nulls", "checkpoints"):
        rows, bare = table(finished, name), table(finished, name, "bare")
        if name != "checkpoints":
            assert set(bare["variant"]) == {"default"}
            rows, bare = of_variant(rows, "default"), of_variant(bare, "default")
        pd.testing.assert_frame_equal(rows, bare, check_exact=True)


def drawn(place: Path, runs: str) -> dict[str, bytes]:
    """The figures of a finished run."""
    return draw({name: table(place, name, runs) for name in all_tables()})


def test_figures_but_the_ablations_and_the_last_line_are_of_the_default(finished):
    figures = {runs: drawn(finished, runs) for runs in ("bare", "runs")}
    assert figures["runs"].keys() - figures["bare"].keys() == {"ablations.png"}
    assert {name: figures["runs"][name] for name in figures["bare"]} == figures["bare"]
    picture = matplotlib.image.imread(io.BytesIO(figures["runs"]["ablations.png"]))
    assert min(picture.shape[:2]) > 400
    said = {runs: run(finished, dag(finished, *names), runs).out for runs, names in
            (("bare", ()), ("runs", VARIANTS))}  # fmt: skip
    largest = [re.search(r"largest E: [^;]*", text)[0] for text in said.values()]
    assert largest[0] == largest[1]


def test_what_variants_share_is_made_once(finished):
    bare, stored = (artefacts(finished / runs / "tiny") for runs in ("bare", "runs"))
    # coth: its own spectra of the same samples, and its own exact analysis; 6 neurons: its own samples, the exact analysis as
    # it is; whole: its own exact analysis.
    steps = len(STEPS)
    assert made(bare, stored) == {"nin": steps, "spectra": 2 * steps, "exact": 2 * steps, "nulls": 0, "emergence": 4}
    assert bare.items() <= {stage: keys & bare.get(stage, set()) for stage, keys in stored.items()}.items()
    opened = ninscope.open_run(finished / "runs" / "tiny")
    own, same, few = (opened.network("weights", "step1", name) for name in ("default", "transfer-coth", "neurons-6"))
    assert (own.matrix != same.matrix).nnz == 0
    assert (own.nodes, few.nodes) == (8 * 12, 8 * 6)
    with pytest.raises(RequestError, match="no stored network of weights, variant whole, at step1"):
        opened.network("weights", "step1", "whole")


def test_an_added_variant_is_all_that_is_done_and_the_tables_are_those_of_one_go(finished, tmp_path):
    place = shutil.copytree(finished, tmp_path / "place")
    folder = place / "bare" / "tiny"
    stored = artefacts(folder)
    asked = dag(place, "transfer-coth")
    listed = command("run", asked, "--runs-dir", place / "bare", "--dry-run").would_run
    assert {name for stage, name in listed if stage == "spectra"} == {
        f"tiny/weights step{step} transfer-coth" for step in STEPS
    }
    assert [name for stage, name in listed if stage == "emergence"] == [
        "tiny/weights transfer-coth sampled", "tiny/weights transfer-coth exact",
    ]  # fmt: skip
    assert run(place, asked, "bare").code == 0
    assert made(stored, artefacts(folder)) == {"nin": 0, "spectra": 3, "exact": 3, "nulls": 0, "emergence": 2}
    assert run(place, dag(place, *VARIANTS), "bare").code == 0
    for part in ("tables", "figures"):
        assert contents(folder / part) == contents(finished / "runs" / "tiny" / part)
    again = run(place, dag(place, *VARIANTS), "bare")
    assert "all results are stored already" in again.out


def test_what_was_asked_can_be_asked_again(finished, tmp_path):
    """run.toml holds of a variant what it changes, and nothing else."""
    import tomllib

    asked = tomllib.loads((finished / "runs" / "tiny" / "run.toml").read_text())["asked"]
    assert asked["variants"] == [{"name": name, **changes} for name, changes in VARIANTS.items()]


def test_a_variant_may_read_the_checkpoint_otherwise(tmp_path):
    """In the parallel wiring x has the edges of attention and MLP together; with a fixed gauge all weights are others."""
    write_suite(tmp_path / "weights", (0, 1), **SHAPE)
    variants = [{"name": "parallel", "wiring": "parallel"}, {"name": "fixed", "gauge": "fixed"}]
    asked = write_dag(
        tmp_path / "tiny.toml", Path("weights"), exact=True, variants=variants, execution={"part_bytes": 4000}
    )
    assert run(tmp_path, asked).code == 0
    samples = table(tmp_path, "samples").query("step == 1").set_index(["variant", "sample"])
    values = {"min_degree": 3, "q": np.arange(-4, 5) / 2}
    readings = {"default": {}} | {variant.pop("name"): variant for variant in variants}
    for variant, reading in readings.items():
        exact = ninscope.measure(tmp_path / "weights", "step1", **reading, **values)
        sampled = ninscope.measure(tmp_path / "weights", "step1", nodes_per_layer=12, samples=3, **reading, **values)
        assert samples.loc[(variant, -1), "alpha0"] == exact.alpha0
        for number, spectrum in enumerate(sampled.samples):
            assert samples.loc[(variant, number), "width"] == spectrum.width
    assert samples.loc[("default", -1), "alpha0"] != samples.loc[("parallel", -1), "alpha0"]
    assert samples.loc[("default", -1), "alpha0"] != samples.loc[("fixed", -1), "alpha0"]


def test_a_wiring_that_a_model_has_not_costs_the_variant_alone(finished, tmp_path, monkeypatch):
    """As far as a plan knows, and what it writes down."""
    wirings = FAMILIES["gpt_neox"]
    monkeypatch.setitem(FAMILIES, "gpt_neox", {"chain": wirings["chain"]})
    monkeypatch.setitem(FAMILIES, "another", wirings)
    variants = [{"name": "parallel", "wiring": "parallel"}, {"name": "few", "nodes_per_layer": 6}]
    asked = write_dag(tmp_path / "new.toml", finished / "weights", **ASKED, variants=variants)
    prepared = prepare(load_dag(asked), tmp_path)
    for checkpoint in checkpoint_results(prepared.plan.request):
        failed = {name for name, outcome in checkpoint.outcomes.items() if not outcome.ok}
        assert failed == {"parallel sampled", "parallel exact"}
        standing = checkpoint.standing(trust_duplicates=False)
        assert standing.status == "unsupported"
        assert standing.message.startswith("parallel sampled: gpt_neox has no wiring 'parallel', only another")
    assert {stage: len(keys) for stage, keys in prepared.plan.keys().items()} == {
        "nin": 6, "spectra": 6, "exact": 3, "nulls": 3,
    }  # fmt: skip
    start(prepared)
    assert {entry["parallel network"] for entry in ninscope.open_run(tmp_path / "new").plan["checkpoints"]} == {None}


def test_a_checkpoint_that_cannot_be_read_as_a_variant_asks_costs_that_variant_alone(tmp_path):
    """A chain of blocks, which step 1 says its are, has no parallel wiring; the default, and other steps, are measured."""
    suite = write_suite(tmp_path / "weights", (0, 1, 8), **SHAPE)
    config = json.loads((suite / "step1" / "config.json").read_text())
    (suite / "step1" / "config.json").write_text(json.dumps(config | {"use_parallel_residual": False}))
    variants = [{"name": "parallel", "wiring": "parallel"}]
    asked = write_dag(tmp_path / "tiny.toml", Path("weights"), exact=True, variants=variants)
    assert run(tmp_path, asked).code == 1
    checkpoints = table(tmp_path, "checkpoints")
    assert checkpoints["status"].tolist() == ["ok", "unsupported", "ok"]
    assert "use_parallel_residual is not true" in checkpoints["message"][1]
    emergence = table(tmp_path, "emergence").groupby(["variant", "method"])["step"].apply(list)
    assert emergence["default"].tolist() == [[0, 1, 8]] * 2
    assert emergence["parallel"].tolist() == [[0, 8]] * 2
    assert table(tmp_path, "emergence")["emergence"].notna().all()  # as it is read alike, step 1 has its E
    (said,) = command("status", tmp_path / "runs" / "tiny").says
    assert "parallel sampled: config.json: use_parallel_residual is not true" in said


def test_a_variant_that_fails_costs_its_own_rows(tmp_path):
    """10,000 samples of all neurons of this network would hold more edges than are stored."""
    write_suite(tmp_path / "weights", (0, 1), blocks=1, width=96, heads=2)
    variants = [{"name": "greedy", "nodes_per_layer": 400, "samples": 10_000}, {"name": "near", "max_distance": 60.0}]
    asked = write_dag(tmp_path / "tiny.toml", Path("weights"), variants=variants)
    ended = run(tmp_path, asked)
    assert ended.code == 1
    assert len(ended.says) == 2
    checkpoints = table(tmp_path, "checkpoints")
    assert checkpoints["status"].tolist() == ["unsupported"] * 2
    assert checkpoints["message"].str.startswith("greedy sampled: 10000 samples of 400 neurons a layer may hold").all()
    emergence = table(tmp_path, "emergence")
    assert emergence["variant"].tolist() == ["default", "near"] * 2
    assert emergence["emergence"].notna().all()
    assert "ablations.png" in drawn(tmp_path, "runs")


@pytest.mark.parametrize(
    ("variants", "says"),
    [
        ([{"name": "a", "nodes": 3}], "variants.1.nodes: no such key"),
        ([{"transfer": "coth"}], "variants.1.name: Field required"),
        ([{"name": "a b", "transfer": "coth"}], "variants.1.name: "),
        ([{"name": "default", "transfer": "coth"}], "variants.1.name: this name has another meaning in the tables"),
        ([{"name": "exact", "transfer": "coth"}], "variants.1.name: this name has another meaning in the tables"),
        ([{"name": "a", "samples": "many"}], "variants.1.samples: Input should be a valid integer"),
        ([{"name": "a", "transfer": "cosh"}], "variant a: transfer is 'cosh'; one of reciprocal"),
        ([{"name": "a", "transfer": "coth"}, {"name": "a", "seed": 3}], "two variants are called 'a'; give each its own name"),
        ([{"name": "a"}], "variant a changes nothing in [analysis]; leave it out"),
        ([{"name": "a", "nodes_per_layer": 12}], "variant a changes nothing in [analysis]"),
        ([{"name": "a", "per_node": True}], "variant a changes nothing in [analysis]"),
        ([{"name": "a", "exact": False}], "variant a changes nothing in [analysis]"),
        ([{"name": "a", "nodes_per_layer": "all", "samples": 3}], "variant a: nodes_per_layer = \"all\" takes every neuron"),
        ([{"name": "a", "radii": {"log": 9}, "transfer": "coth"}], "variant a: logarithmic radii go with"),
        ("coth", "variants: "),
    ],
)  # fmt: skip
def test_a_wrong_variant_is_one_line(tmp_path, variants, says):
    path = write_dag(tmp_path / "x.toml", Path("weights"), exact=True, variants=variants)
    with pytest.raises(RequestError) as caught:
        load_dag(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{path}: {says}"), message


def test_a_variant_of_an_exact_analysis_may_take_samples(tmp_path):
    variants = [{"name": "few", "nodes_per_layer": 6}]
    path = write_dag(tmp_path / "x.toml", Path("weights"), nodes_per_layer="all", samples=None, variants=variants)
    assert [analysis.name for analysis in load_dag(path).analyses()] == ["exact", "few sampled"]
