"""[scaling]: its tables are what growth_curves gives, it runs once, it refuses what makes no sense, and it draws."""

import numpy as np
import pytest
from driving import command, write_dag
from matplotlib.figure import Figure
from suites import write_suite

import ninscope
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError
from ninscope.exact.scaling import growth_curves
from ninscope.networks.incoming import directed
from ninscope.networks.neuron_network import neuron_network
from ninscope.parameters import Parameters
from ninscope.report.layout import png
from ninscope.report.scaling_figure import scaling_figure

pytestmark = pytest.mark.usefixtures("undrawn")

SHAPE = {"blocks": 2, "width": 24, "heads": 3}
WHOLE = {"nodes_per_layer": "all", "samples": None, "q": None, "min_degree": None}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    place = tmp_path_factory.mktemp("scaling")
    source = write_suite(place / "tiny", (0, 1, 8), **SHAPE)
    asked = {"q": [-1.0, 2.0], "draws": 2, "neurons": 3, "seed": 5}
    dag = write_dag(place / "mine.toml", source, **WHOLE, scaling=asked, fit_radii=[4, 90], direction="in")
    ended = command("run", dag, "--runs-dir", place)
    assert ended.code == 0, ended.err
    return source, asked, dag, ninscope.open_run(place / "mine")


def test_tables_hold_what_the_function_gives(ran):
    source, asked, _, run = ran
    network = directed(neuron_network(open_source(source).open("step8")), "in")
    curves = growth_curves(network, Parameters("all", fit_radii=[4, 90]), **asked).curves
    rows = run.table("scaling").query("step == 8")
    assert rows["quantity"].tolist() == ["mass", "z", "z", "neuron", "neuron", "neuron"]
    assert set(rows["best_curve"].dropna()) == {"log-normal"}
    for name in ("slope", "r2", "range_low", "range_high", "decades", "null_decades", "outside_null"):
        np.testing.assert_array_equal(rows[name].to_numpy(float), [getattr(curve, name) for curve in curves], name)
    assert rows["local_max"].tolist() == [curve.local.max() for curve in curves]
    assert rows["neuron"].tolist()[3:] == [curve.neuron for curve in curves[3:]]
    points = run.table("scaling_curves").query("step == 8")
    for name, column in (("radius", "radii"), ("value", "values"), ("slope", "local"), ("null_high", "null_high")):
        np.testing.assert_array_equal(points[name], np.concatenate([getattr(curve, column) for curve in curves]))


def test_a_second_run_has_nothing_to_run(ran):
    _, _, dag, run = ran
    ended = command("run", dag, "--runs-dir", run.path.parent)
    assert (ended.code, "nothing to run" in ended.out) == (0, True)


def test_what_failed_has_a_row_that_says_so(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise CheckpointError("corrupt", "its bytes are gone")

    monkeypatch.setattr("ninscope_pipeline.stages.scaling.growth_curves", fail)
    dag = write_dag(tmp_path / "mine.toml", write_suite(tmp_path / "tiny", (0,), **SHAPE), **WHOLE, scaling={})
    ended = command("run", dag, "--runs-dir", tmp_path)
    assert ended.code == 1
    run = ninscope.open_run(tmp_path / "mine")
    row = run.table("scaling").iloc[0]
    assert (row["status"], row["message"]) == ("corrupt", "its bytes are gone")
    assert run.table("scaling_curves").empty
    assert "step0 scaling: its bytes are gone" in command("status", tmp_path / "mine").err


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"nodes_per_layer": 12, "samples": 2}, "[scaling] is of whole networks; add exact = true"),
        ({"layers_crossed": 2}, "[scaling] is of the edges of single layers"),
        ({"scaling": {"q": [-1.0, 0.0]}}, "q holds 0, where Z is the number of nodes"),
        ({"scaling": {"q": [3.0, -3.0]}}, "q must be in increasing order"),
        ({"scaling": {"q": [-30.0]}}, "q reaches 30"),
        ({"scaling": {"draws": 1}}, "scaling.draws"),
        ({"scaling": {"neurons": -1}}, "scaling.neurons"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, changes, says):
    source = write_suite(tmp_path / "tiny", (0,), **SHAPE)
    dag = write_dag(tmp_path / "mine.toml", source, **{**WHOLE, "scaling": {}, **changes})
    ended = command("run", dag, "--runs-dir", tmp_path)
    assert ended.code == 2
    assert says in " ".join(ended.err.split()), ended.err


def test_the_figure_draws_first_and_last_step(ran):
    run = ran[-1]
    scaling, curves = run.table("scaling"), run.table("scaling_curves")
    figure = scaling_figure(scaling, curves, "tiny")
    assert isinstance(figure, Figure)
    assert len(figure.axes) == 6
    assert [axes.get_title() for axes in figure.axes[:2]] == ["step0", "step8"]
    last = curves[(curves["step"] == 8) & (curves["quantity"] == "mass")]
    drawn = figure.axes[3].lines[1]
    assert drawn.get_ydata().tolist() == last["slope"].tolist()
    assert drawn.get_xdata().tolist() == np.log10(last["radius"]).tolist()
    neurons = figure.axes[1].lines
    assert [line.get_label() for line in neurons] == scaling.query("step == 8")["neuron"].dropna().loc[
        lambda n: n != ""
    ].tolist()
    one = scaling_figure(scaling.query("step == 8"), curves.query("step == 8 and quantity != 'neuron'"), "tiny")
    assert len(one.axes) == 2


def test_no_label_is_cut_off_with_the_figure(ran):
    """Logarithmic radii reach over six powers of ten."""
    run = ran[-1]
    scaling, curves = run.table("scaling"), run.table("scaling_curves")
    logs = np.log10(curves["radius"])
    curves = curves.assign(
        radius=10 ** ((logs - logs.min()) / np.ptp(logs) * 5.805)
    )  # the label of 1e6 is almost at the end
    figure = scaling_figure(scaling, curves, "tiny")
    png(figure)
    for axes in figure.axes:
        inside = (np.asarray(axes.get_xticks()) - axes.get_xlim()[0]) / np.ptp(axes.get_xlim())
        assert inside.max() < 0.975
