"""Warnings stand where results are read: in tables, rows, JSON, figures and the last line of a run."""

import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest
from driving import command, write_dag
from matplotlib.axes import Axes
from suites import neox_tensors, write_checkpoint

import ninscope
from ninscope.multifractal.emergence import unlike_counts
from ninscope.report.ablations import ablations_figure
from ninscope.report.figures import comparison_figure, emergence_figure, spectra_figure

FIT = "a power law does not hold well (r2 below 0.7): mass against radius, partition sums against radius"
RING = "warning (see tables)"


@pytest.fixture(scope="module")
def demo(tmp_path_factory, root):
    """The first and the last checkpoint of the demo: at the last one, the headline of the README, no power law holds well."""
    folder = tmp_path_factory.mktemp("demo") / "text"
    folder.mkdir()
    for step in ("step0", "step4000"):
        (folder / step).symlink_to(root / "data" / "stdlib-neox-500k" / step)
    return folder


@pytest.fixture(scope="module")
def root(request):
    return request.config.rootpath


@pytest.fixture(scope="module")
def silenced(tmp_path_factory):
    """At step 1 the attention of the first block has weights too small for an edge."""
    folder = tmp_path_factory.mktemp("silenced") / "tiny"
    write_checkpoint(folder / "step0", neox_tensors(2, 16, 2, seed=0))
    tensors = neox_tensors(2, 16, 2, seed=1)
    for name in tensors:
        if "layers.0.attention" in name:
            tensors[name] = (tensors[name] / 1000).astype(tensors[name].dtype)
    write_checkpoint(folder / "step1", tensors)
    return folder


def counted(folder, step):
    layers = ninscope.measure(str(folder), f"step{step}").layers
    return sum(layer.nodes_counted > 0 for layer in layers), sum(layer.nodes_counted for layer in layers)


@pytest.fixture(scope="module")
def unlike(silenced):
    """The clause of step 1, from the statistics of single layers."""
    (layers, nodes), (layers_before, nodes_before) = counted(silenced, 1), counted(silenced, 0)
    assert layers < layers_before
    clauses = f"{layers} layers count (step0: {layers_before}), {nodes} nodes count (step0: {nodes_before})"
    return f"E compares unlike networks: {clauses}"


def test_rows_of_measure_name_what_they_warn_of(demo):
    shown = command("measure", demo)
    (row,) = [line for line in shown.out.splitlines() if "step4000 " in line and line.startswith("│")]
    assert row.split("│")[-2].strip() == "1"
    assert f"[1] step4000: warning: {FIT}" in shown.out.splitlines()
    start, end = json.loads(command("measure", demo, "--json").out)["rows"]
    assert (start["warning"], end["warning"]) == (None, FIT)


def test_e_of_networks_that_are_counted_otherwise_is_withheld(silenced, unlike):
    start, end = ninscope.measure_all(str(silenced))
    assert start.emergence == 0
    assert math.isnan(end.emergence)
    withheld = f"no E: {unlike.replace('E compares', 'it would compare')}; --trust-unlike-counts overrides"
    assert end.message.endswith(withheld)
    sampled = ninscope.measure_all(str(silenced), nodes_per_layer=12, samples=2, min_degree=3)[1]
    assert math.isnan(sampled.emergence)
    bias = ninscope.sampling_bias(str(silenced), "step1", [8], 2)
    assert bias["message"].iloc[-1].endswith(withheld)
    assert bias[["emergence", "emergence_std"]].iloc[-1].isna().all()
    shown = command("measure", silenced, "--json")
    assert json.loads(shown.out)["rows"][1]["emergence"] is None
    trusted = json.loads(command("measure", silenced, "--trust-unlike-counts", "--json").out)["rows"][1]
    assert trusted["emergence"] == ninscope.emergence(end.spectrum, start.spectrum)
    assert unlike in trusted["warning"]


def test_as_many_layers_but_others_are_unlike_too(tmp_path):
    for step, silent in ((0, "layers.0.attention.dense"), (1, "layers.1.attention.dense")):
        tensors = neox_tensors(2, 16, 2, seed=0)
        for name in tensors:
            if silent in name:
                tensors[name] = tensors[name] * 0
        write_checkpoint(tmp_path / "tiny" / f"step{step}", tensors)
    for layers in (True, False):  # with statistics of layers, and without
        _, end = ninscope.measure_all(str(tmp_path / "tiny"), layers=layers, min_degree=3)
        assert math.isnan(end.emergence)
        assert "it would compare unlike networks: block0.c counts (step0: block1.c instead)" in end.message
    asked = {
        "nodes_per_layer": "all",
        "samples": None,
        "min_degree": 3,
        "nulls": {"models": ["shuffled"], "samples": 2},
    }
    dag = write_dag(tmp_path / "tiny.toml", Path("tiny"), **asked)
    for options, missing in (((), True), (("--trust-unlike-counts",), False)):
        command("run", dag, "--runs-dir", tmp_path / "runs", *options)
        for name in ("emergence", "nulls"):
            rows = ninscope.open_run(tmp_path / "runs" / "tiny").table(name)
            assert rows["emergence"].isna().tolist() == [False, missing], name
            assert ("it would compare unlike networks" in rows["message"].iloc[-1]) == missing


def test_where_it_is_trusted_it_is_warned_of(silenced, unlike):
    start, end = ninscope.measure_all(str(silenced), trust_unlike_counts=True)
    assert (start.warning, end.warning) == (
        start.spectrum.warning,
        "; ".join(filter(None, [end.spectrum.warning, unlike])),
    )
    bias = ninscope.sampling_bias(str(silenced), "step1", [8], 2, trust_unlike_counts=True)
    assert bias["warning"].iloc[-1] == end.warning
    sampled = ninscope.measure_all(
        str(silenced), nodes_per_layer=12, samples=2, min_degree=3, trust_unlike_counts=True
    )[1]
    assert "nodes count" in sampled.warning


@pytest.fixture(scope="module")
def ran(tmp_path_factory, demo, silenced, undrawn):
    folder = tmp_path_factory.mktemp("run")
    dag = write_dag(folder / "mine.toml", demo, silenced, nodes_per_layer="all", samples=None, min_degree=10, q=None)
    ended = command("run", dag, "--runs-dir", folder)
    assert ended.code == 0, ended.err
    return ended, ninscope.open_run(folder / "mine")


def test_tables_and_the_end_of_a_run_warn(ran, unlike):
    ended, run = ran
    warnings = run.table("emergence").set_index(["model", "step"])["warning"]
    assert warnings["text", 0] == ""
    assert warnings["text", 4000] == FIT
    rows = run.table("emergence").set_index(["model", "step"])
    assert unlike.removeprefix("E compares") in rows.loc[("tiny", 1), "message"]
    assert rows.loc[("tiny", 1), ["emergence", "emergence_low", "emergence_high"]].isna().all()
    lines = ended.out.splitlines()
    largest = run.table("emergence").sort_values("emergence").dropna(subset="emergence").iloc[-1]
    assert f"warning of that E: {largest['warning']}" in lines
    warned = int((run.table("emergence")["warning"] != "").sum())
    assert f"warnings at {warned} of 4 checkpoints (column warning)" in lines
    assert re.search(
        r"^largest E: .*; growth of weight norms is not ruled out without \[controls\]$", ended.out, re.MULTILINE
    )


def ringed(axes):
    return [line for line in axes.lines if line.get_label() == RING]


def test_figures_mark_what_is_warned_of(ran):
    _, run = ran
    emergence, spectra = run.table("emergence"), run.table("spectra")
    of_demo = emergence[emergence["model"] == "text"]
    drawn = emergence_figure(of_demo, run.table("benchmarks"), "text")
    for axes, name in zip(drawn.axes[:3], ("alpha0", "width", "emergence"), strict=True):
        (ring,) = ringed(axes)
        assert ring.get_ydata().tolist() == [of_demo[name].iloc[-1]]
    together = [of_demo, of_demo.assign(variant="other", emergence=of_demo["emergence"] + 1)]
    for figure in (comparison_figure(emergence), ablations_figure(pd.concat(together), "text")):
        assert any(ringed(axes) for axes in figure.findobj(Axes))
    curves = spectra_figure(spectra[spectra["model"] == "text"], "text", of_demo).axes[0].lines
    assert [curve.get_linestyle() for curve in curves[::2]] == ["-", ":"]


class Counts:
    def __init__(self, nodes, layers=None):
        self.nodes_counted, self.layers_counted = nodes, layers


class Named(Counts):
    def __init__(self, *names):
        super().__init__(100, len(names))
        self.counted_layers = frozenset(names)


@pytest.mark.parametrize(
    ("now", "start", "clause"),
    [
        (Counts(109), Counts(100), ""),
        (Counts(89), Counts(100), "89 nodes count (step0: 100)"),
        (Counts(1111, 4), Counts(1000, 4), "1,111 nodes count (step0: 1,000)"),
        (Counts(100, 3), Counts(100, 4), "3 layers count (step0: 4)"),
        (Counts(100, 3), Counts(100), ""),
        (object(), object(), ""),
        (Named("a", "b"), Named("b", "a"), ""),
        (Named("a", "b"), Named("b", "c"), "a counts (step0: c instead)"),
        (Named("a", "b"), Named("c"), "2 layers count (step0: 1)"),
    ],
)
def test_a_tenth_of_the_nodes_or_one_layer_is_too_much(now, start, clause):
    assert unlike_counts(now, start) == (f"E compares unlike networks: {clause}" if clause else "")
