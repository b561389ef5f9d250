"""`ninscope measure` takes the whole network unless samples are asked for; `--dry-run` names the parts of large checkpoints."""

import json

import pytest
from driving import command, write_dag
from suites import write_suite

import ninscope
from ninscope_pipeline.prepared_run import prepare
from ninscope_pipeline.request.dagfile import load_dag

SHAPE = {"blocks": 1, "width": 16, "heads": 2}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return write_suite(tmp_path_factory.mktemp("measured") / "tiny", [0, 1], **SHAPE)


def rows(*arguments) -> list[dict]:
    ended = command("measure", *arguments, "--json")
    assert (ended.code, ended.says) == (0, [])
    return json.loads(ended.out)["rows"]


@pytest.mark.parametrize("options", [[], ["--exact"], ["--nodes-per-layer", "all"]], ids=str)
def test_the_whole_network_is_the_default(suite, options):
    found = rows(suite, *options)
    assert [row["method"] for row in found] == ["exact", "exact"]
    for row, measured in zip(found, ninscope.measure_all(suite, exact=True), strict=True):
        spectrum = measured.spectrum
        assert (row["alpha0"], row["width"]) == (spectrum.alpha0, spectrum.width)
        assert (row["nodes"], row["edges"]) == (spectrum.nodes, spectrum.edges)
        assert (row["alpha0_std"], row["width_std"]) == (None, None)
        assert row["emergence"] == measured.emergence


@pytest.mark.parametrize("options", [["--nodes-per-layer", 8], ["--samples", 2], ["--seed", 3]], ids=str)
def test_any_option_of_samples_asks_for_samples(suite, options):
    name, value = options[0].removeprefix("--").replace("-", "_"), options[1]
    found = rows(suite, *options)
    assert [row["method"] for row in found] == ["sampled", "sampled"]
    expected = ninscope.measure(suite, "step1", **{name: value})
    assert expected.method == "sampled"
    assert found[1]["alpha0"] == expected.alpha0


def test_python_has_the_same_defaults(suite):
    assert ninscope.measure(suite, "step1").method == "exact"
    assert ninscope.measure(suite, "step1", exact=False).method == "sampled"
    assert ninscope.measure(suite, "step1", nodes_per_layer="all").method == "exact"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--exact", "--nodes-per-layer", 8], "an exact measurement takes every neuron; leave out nodes_per_layer"),
        (["--exact", "--samples", 2, "--seed", 1], "takes every neuron; leave out samples and seed"),
        (["--nodes-per-layer", "all", "--seed", 1], "takes every neuron; leave out seed"),
        (
            ["--nodes-per-layer", "most"],
            "nodes_per_layer is 'most'; an integer from 1 to 100000, or \"all\", was expected",
        ),
        (["--nodes-per-layer", "0"], "nodes_per_layer is 0; an integer from 1 to 100000"),
    ],
)
def test_contradictions_are_refused_in_one_line(suite, options, says):
    ended = command("measure", suite, *options)
    assert ended.code == 2
    (line,) = ended.says
    assert says in line


def test_python_refuses_the_same(suite):
    with pytest.raises(ninscope.RequestError, match='"all" is the exact measurement; leave exact=False out'):
        ninscope.measure(suite, "step1", nodes_per_layer="all", exact=False)
    with pytest.raises(ninscope.RequestError, match="only the exact measurement knows single nodes"):
        ninscope.measure(suite, "step1", nodes_per_layer=4, per_node=True)


def test_what_a_graph_of_many_parts_holds_grows_with_them_and_not_with_their_square(suite, tmp_path):
    dag = write_dag(
        tmp_path / "x.toml", suite, nodes_per_layer="all", samples=None, radii={"log": 9}, revisions=["step1"],
        execution={"part_bytes": 1000},
    )  # fmt: skip
    jobs = prepare(load_dag(dag), tmp_path / "runs").plan.to_run
    parts = sum(job.stage == "parts" for job in jobs)
    assert parts >= 5
    assert (
        sum(len(job.needs) for job in jobs) == 3 * parts + 1
    )  # every range, of every part; the part's own; the joined range


def test_a_dry_run_names_ranges_and_parts(suite, tmp_path):
    dag = write_dag(
        tmp_path / "x.toml", suite, nodes_per_layer="all", samples=None, radii={"log": 9}, revisions=["step1"],
        execution={"part_bytes": 4000},
    )  # fmt: skip
    listed = command("run", dag, "--runs-dir", tmp_path / "runs", "--dry-run").would_run
    assert listed == [
        ("ranges", "tiny/tiny step1 part 1 of 2"),
        ("ranges", "tiny/tiny step1 part 2 of 2"),
        ("ranges", "tiny/tiny step1 all parts"),
        ("parts", "tiny/tiny step1 part 1 of 2"),
        ("parts", "tiny/tiny step1 part 2 of 2"),
        ("exact", "tiny/tiny step1"),
        ("emergence", "tiny/tiny"),
        ("tables", "all"),
        ("figures", "all"),
    ]
