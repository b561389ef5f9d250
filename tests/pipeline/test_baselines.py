"""What E compares with: runs of trainers never have a step 0, so a baseline can be chosen everywhere."""

import json
import math
import shutil

import numpy as np
import pytest
from driving import command, write_dag
from suites import write_suite

import ninscope
from ninscope.errors import RequestError
from ninscope.report.figures import beside_emergence, comparison_figure, emergence_figure
from ninscope_pipeline.request.trainer_state import trainer_losses

MODEL = {"blocks": 1, "width": 16, "heads": 2}
STEPS = (500, 1000, 1500)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder as the Trainer of transformers leaves it: checkpoint-500, ..., each with trainer_state.json."""
    from transformers.trainer_callback import TrainerState

    folder = write_suite(tmp_path_factory.mktemp("trained") / "out", STEPS, **MODEL)
    history = []
    for step in STEPS:
        (folder / f"step{step}").rename(folder / f"checkpoint-{step}")
        history += [
            {"loss": 3.0 - step / 1000, "learning_rate": 1e-4, "grad_norm": 1.0, "epoch": 0.5, "step": step},
            {"eval_loss": 3.5 - step / 1000, "eval_accuracy": 0.5, "eval_runtime": 1.0, "epoch": 0.5, "step": step},
        ]
        TrainerState(log_history=list(history)).save_to_json(folder / f"checkpoint-{step}" / "trainer_state.json")
    return folder


def of_pair(now, start):
    return ninscope.emergence(now, start)


def spectra(folder):
    return {step: ninscope.measure(str(folder), f"checkpoint-{step}") for step in STEPS}


@pytest.mark.parametrize("baseline", ["first", "checkpoint-500", "500", "step500", 500])
def test_a_baseline_can_be_named_in_python(trained, baseline):
    known = spectra(trained)
    rows = ninscope.measure_all(str(trained), baseline=baseline)
    assert [row.emergence for row in rows] == [ninscope.emergence(known[step], known[500]) for step in STEPS]
    assert {row.baseline for row in rows} == {"checkpoint-500"}


def test_a_later_baseline_and_one_revision(trained):
    known = spectra(trained)
    (row,) = ninscope.measure_all(str(trained), "checkpoint-500", baseline="checkpoint-1500")
    assert row.emergence == ninscope.emergence(known[500], known[1500])
    biased = ninscope.sampling_bias(str(trained), "checkpoint-1000", [8], samples=2, baseline="first")
    assert biased["emergence"].iloc[-1] == pytest.approx(ninscope.emergence(known[1000], known[500]), rel=1e-12)


def test_without_one_the_message_says_how_to_name_it(trained):
    rows = ninscope.measure_all(str(trained))
    assert all(math.isnan(row.emergence) for row in rows)
    assert all("no usable step0 to compare with" in row.message and "--baseline" in row.message for row in rows)


@pytest.mark.parametrize("baseline", ["checkpoint-50", 7, "nothing", True])
def test_an_absent_baseline_is_refused_with_a_near_match(trained, baseline):
    with pytest.raises(RequestError, match=r"has no such revision or step.*checkpoint-500"):
        ninscope.measure_all(str(trained), baseline=baseline)


def test_the_command_takes_it_and_says_which_it_was(trained):
    ended = command("measure", trained, "--baseline", "first", "--json")
    rows = json.loads(ended.out)["rows"]
    assert [row["baseline"] for row in rows] == ["checkpoint-500"] * 3
    assert rows[0]["emergence"] == 0
    assert rows[2]["emergence"] is not None
    refused = command("measure", trained, "--baseline", "chekpoint-500")
    assert (refused.code, refused.says[0].count("did you mean 'checkpoint-500'?")) == (2, 1)


def model_dag(tmp_path, trained, **keys):
    model = {"suite": "mine", "model": "out", "source": str(trained)} | keys
    return write_dag(tmp_path / "mine.toml", models=[model], nodes_per_layer="all", samples=None, parts=["block"])


def run(tmp_path, dag):
    ended = command("run", dag, "--runs-dir", tmp_path / "runs")
    return ended, ninscope.open_run(tmp_path / "runs" / "mine") if (tmp_path / "runs" / "mine").exists() else None


@pytest.mark.usefixtures("undrawn")
def test_a_model_of_a_dag_file_has_its_own(tmp_path, trained):
    _, without = run(tmp_path, model_dag(tmp_path, trained))
    assert without.table("emergence")["emergence"].isna().all()
    exact = without.table("samples").set_index("step")
    ended, result = run(tmp_path, model_dag(tmp_path, trained, baseline="first"))
    assert ended.code == 0, ended.err
    rows = result.table("emergence").query("part == 'all'").set_index("step")
    for step in STEPS:
        ratio = exact["width"][step] / exact["width"][500]
        assert rows["emergence"][step] == pytest.approx(ratio * math.log(exact["alpha0"][500] / exact["alpha0"][step]))
    assert set(rows["baseline"]) == {"checkpoint-500"}
    assert set(rows["baseline_step"]) == {500}
    planned = command("run", model_dag(tmp_path, trained, baseline=1000), "--runs-dir", tmp_path / "runs", "--dry-run")
    assert {stage for stage, _ in planned.would_run} == {"emergence", "tables", "figures"}  # weights are not read again


@pytest.mark.parametrize("baseline", ["checkpoint-50", 7])
def test_an_absent_baseline_is_refused_when_planned(tmp_path, trained, baseline):
    dag = model_dag(tmp_path, trained, baseline=baseline)
    ended = command("run", dag, "--runs-dir", tmp_path / "runs", "--dry-run")
    assert ended.code == 2
    assert "mine/out has no such revision or step" in ended.says[0]
    assert "checkpoint-500" in ended.says[0]


@pytest.mark.usefixtures("undrawn")
def test_losses_come_from_trainer_state_by_itself(tmp_path, trained):
    _, result = run(tmp_path, model_dag(tmp_path, trained, baseline="first"))
    losses = result.table("benchmarks")
    shown = losses.query("task == 'eval' and metric == 'loss'")
    assert shown["value"].tolist() == [3.0, 2.5, 2.0]
    assert shown["revision"].tolist() == [f"checkpoint-{step}" for step in STEPS]
    assert losses.query("task == 'train'")["value"].tolist() == [2.5, 2.0, 1.5]
    assert set(losses["metric"]) == {"loss", "accuracy"}


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"log_history": 3}', '{"log_history": [3, {"step": -1}]}', "[" * 10**5]
)
def test_a_file_that_is_no_trainer_state_is_passed_over(tmp_path, trained, content):
    copy = shutil.copytree(trained, tmp_path / "out")
    for step in STEPS:
        (copy / f"checkpoint-{step}" / "trainer_state.json").write_text(content)
    assert trainer_losses(str(copy)) == ()


def test_what_cannot_be_a_value_is_left_out(tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    entries = '[{"step": 5, "loss": NaN}, {"step": 5, "loss": "2"}, {"step": 6, "loss": 2}]'
    (tmp_path / "checkpoint-5" / "trainer_state.json").write_text(f'{{"log_history": {entries}}}')
    (only,) = trainer_losses(str(tmp_path))
    assert (only.revision, only.step, only.value) == ("", 6, 2.0)


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in [axes.title, axes.yaxis.label, *legend_texts(axes)]]


def legend_texts(axes):
    return axes.get_legend().get_texts() if axes.get_legend() else []


@pytest.mark.usefixtures("undrawn")
def test_figures_name_the_baseline_and_draw_any_metric(tmp_path, trained):
    _, result = run(tmp_path, model_dag(tmp_path, trained, baseline="first"))
    rows = result.table("emergence").query("part == 'all'")
    benchmarks = result.table("benchmarks")
    accuracy = benchmarks.query("metric == 'accuracy'")
    label = "E against checkpoint-500, whole network (band: without one layer each)"
    assert label in texts(emergence_figure(rows, accuracy, "out"))
    drawn = emergence_figure(rows, accuracy, "out")
    (beside,) = [axes for axes in drawn.axes if axes.get_ylabel() == "evaluation accuracy"]
    np.testing.assert_array_equal(beside.lines[0].get_ydata(), [0.5] * 3)
    assert "Degree of emergence against checkpoint-500" in texts(comparison_figure(rows))
    name, chosen = beside_emergence(benchmarks, ("train", "loss"))
    assert (name, chosen["value"].tolist()) == ("training loss", [2.5, 2.0, 1.5])
