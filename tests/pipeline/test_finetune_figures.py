"""Figures of fine-tunes and of activations: drawn from tables as the pipeline types them, full, empty, and with little in them."""

import io
import math
import warnings

import numpy as np
import pandas as pd
import pytest

from ninscope.report import finetune_figures
from ninscope.report.activations_figure import activations_figure
from ninscope_pipeline.tables import all_tables

KEYS = {"suite": "string", "model": "string", "revision": "string", "step": "Int64"}


def typed(rows, table):
    types = KEYS | dict(all_tables()[table].columns)
    return pd.DataFrame(rows, columns=list(types)).astype(types)


def finetunes(
    methods=("none", "naive_mean", "naive_shift", "reversed"), seeds=3, revisions=2, metric="loss", rates=(1e-3,)
):
    rng = np.random.default_rng(3)
    return [
        {
            "suite": "s", "model": "m", "revision": f"step{10**number}", "step": 10**number, "task": "prose",
            "method": method, "seed": seed, "learning_rate": rate, "finetune_step": step, "metric": metric,
            "value": 3 - number - 0.02 * step + 0.1 * rng.random() + rate, "phi_p99": 12 + rng.random(), "status": "ok",
            "emergence_from_base": 0.02 * rng.random(), "message": "", "warning": "",
        }
        for number in range(revisions)
        for method in methods
        for rate in rates
        for seed in range(seeds)
        for step in (0, 20)
    ]  # fmt: skip


def failed(**keys):
    return {
        "suite": "s", "model": "m", "revision": "step1", "step": 1, "task": "prose", "method": "reversed", "seed": 9,
        "learning_rate": 1e-3, "metric": "", "status": "nonfinite", "message": "update 3: the loss is not finite",
    } | keys  # fmt: skip


def png(figure) -> bytes:
    """As the pipeline draws it; a warning of the library is a fault."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(content, format="png", metadata={"Software": None})
    assert content.getvalue().startswith(b"\x89PNG")
    return content.getvalue()


def drawn(rows, title="m, prose"):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = finetune_figures.finetunes_figure(typed(rows, "finetunes"), title)
    png(figure)
    return figure


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


# --- fine-tunes ---------------------------------------------------------------------------------------------
def test_every_seed_is_a_dot_and_every_method_a_bar():
    rows = finetunes()
    figure = drawn(rows)
    (scores, phi, emergence) = figure.axes
    ends = [row for row in rows if row["finetune_step"] == 20]
    for axes, column in ((scores, "value"), (phi, "phi_p99"), (emergence, "emergence_from_base")):
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        assert len(dots) == 8
        found = sorted(value for line in dots for value in line.get_ydata())
        assert found == pytest.approx(sorted(row[column] for row in ends))
    assert [label.get_text() for label in scores.get_xticklabels()] == ["step1", "step10"]
    assert "lower is better" in scores.get_title()
    assert figure.get_suptitle() == "m, prose: 3 seeds, after 20 updates"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts() if text.get_text() != "before"] == [
        "no MEmeL", "naive (a): mean", "naive (b): shift", "reversed (MEmeL)",
    ]  # fmt: skip
    assert len([text for text in texts(scores) if text.startswith("p=")]) == 6


def test_higher_is_better_of_an_accuracy():
    assert "higher is better" in drawn(finetunes(metric="accuracy")).axes[0].get_title()


def test_one_seed_has_no_test():
    figure = drawn(finetunes(seeds=1))
    assert texts(figure.axes[0]) == []
    assert "1 seed, " in figure.get_suptitle()


def test_the_rate_that_is_compared_is_the_one_that_is_drawn():
    rows = finetunes(rates=(1e-3, 1e-1), methods=("none",), revisions=1)
    figure = drawn(rows)
    (dots,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    kept = [row["value"] for row in rows if row["learning_rate"] == 1e-3 and row["finetune_step"] == 20]
    assert sorted(dots.get_ydata()) == pytest.approx(sorted(kept))


def test_the_mean_before_is_a_line():
    rows = finetunes(revisions=1)
    (line,) = [line for line in drawn(rows).axes[0].lines if line.get_label() == "before"]
    assert line.get_ydata() == pytest.approx([np.mean([row["value"] for row in rows if row["finetune_step"] == 0])] * 2)


def test_a_main_metric_that_is_undefined_at_the_end():
    first = [row | {"value": math.nan} if row["finetune_step"] else row for row in finetunes(metric="spearman")]
    figure = drawn([*first, *finetunes(metric="pearson")])
    assert figure.axes[0].get_title().startswith("pearson")
    assert texts(drawn(first).axes[0]) == ["no score is defined at the end"]


def test_methods_and_seeds_may_be_missing():
    rows = [row for row in finetunes() if (row["revision"], row["method"]) != ("step1", "reversed")]
    rows = [row for row in rows if (row["revision"], row["seed"]) != ("step10", 2)]
    figure = drawn([*rows, failed()])
    assert len([line for line in figure.axes[0].lines if line.get_marker() == "o"]) == 7
    assert "2 to 3 seeds" in figure.get_suptitle()


def test_without_no_memel_nothing_is_compared():
    figure = drawn(finetunes(methods=("reversed",)))
    assert texts(figure.axes[0]) == []


@pytest.mark.parametrize("rows", [[], [failed()], [failed(status="corrupt", finetune_step=None)]])
def test_without_a_fine_tune_that_ended_it_is_said_so(rows):
    figure = drawn(rows)
    assert all("no fine-tune came to its end" in " ".join(texts(axes)) for axes in figure.axes)
    assert figure.get_suptitle() == "m, prose"


def test_scores_that_are_infinite_and_E_that_is_unknown():
    rows = [row | {"emergence_from_base": math.nan} for row in finetunes(metric="loss", revisions=1)]
    drawn(rows)
    drawn([row | {"value": 2.5} for row in rows])  # all alike


def test_the_same_table_gives_the_same_bytes():
    table = typed(finetunes(), "finetunes")
    once, again = (finetune_figures.finetunes_figure(table, "m") for _ in range(2))
    assert png(once) == png(again)


# --- activations --------------------------------------------------------------------------------------------
def activations(models=("small", "large"), steps=(0, 1, 10, 100), layers=("layers.0", "layers.1", "all")):
    rng = np.random.default_rng(4)
    return [
        {
            "suite": "s", "model": model, "revision": f"step{step}", "step": step, "task": "prose", "layer": layer,
            "neurons": "features", "values": 100, "phi_mean": 1.0, "phi_p99": 8 + rng.random() + number,
            "phi_largest_mean": 30 + rng.random(), "status": "ok", "message": "",
        }
        for number, model in enumerate(models)
        for step in steps
        for layer in layers
    ]  # fmt: skip


def checkpoints(rows, parameters):
    found = {(row["model"], row["revision"]): row for row in rows}
    made = [
        {"suite": "s", "model": model, "revision": revision, "step": row["step"], "parameters": parameters.get(model)}
        for (model, revision), row in found.items()
    ]
    return typed(made, "checkpoints")


def looked(rows, parameters):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = activations_figure(typed(rows, "activations"), checkpoints(rows, parameters), "prose")
    png(figure)
    return figure


def test_a_line_a_layer_and_one_of_all_and_sizes_beside():
    rows = activations()
    figure = looked(rows, {"small": 1000, "large": 5000})
    over_steps, over_sizes = figure.axes[:2]
    assert len(over_steps.lines) >= 6
    bold = [line for line in over_steps.lines if line.get_marker() == "o"]
    wanted = [row["phi_p99"] for row in rows if (row["model"], row["layer"]) == ("small", "all")]
    assert list(bold[0].get_ydata()) == pytest.approx(wanted)
    (line,) = over_sizes.lines
    assert list(line.get_xdata()) == [1000, 5000]
    last = [row["phi_p99"] for row in rows if row["layer"] == "all" and row["step"] == 100]
    assert list(line.get_ydata()) == pytest.approx(last)


def test_one_model_has_no_panel_of_sizes():
    assert len(looked(activations(models=("small",)), {"small": 1000}).axes) == 2


def test_one_checkpoint_is_a_point():
    looked(activations(models=("small",), steps=(7,)), {"small": 1000})


@pytest.mark.parametrize("status", ["corrupt", "missing"])
def test_without_activations_it_is_said_so(status):
    empty = {"suite": "s", "model": "small", "revision": "step0", "step": 0, "task": "prose", "status": status}
    figure = looked([empty], {"small": 1000})
    assert "no checkpoint has activations with a step" in " ".join(texts(figure.axes[0]))
    looked([], {})


def test_steps_and_sizes_that_are_unknown():
    rows = activations()
    looked([row | {"step": None} for row in rows], {"small": 1000, "large": 2000})
    looked(rows, {"small": 1000})  # of the other one nobody knows
    looked(rows, {})


def test_a_model_whose_last_checkpoint_failed():
    rows = activations()
    rows = [row for row in rows if (row["model"], row["step"]) != ("large", 100)]
    rows.append(
        {"suite": "s", "model": "large", "revision": "step100", "step": 100, "task": "prose", "status": "corrupt"}
    )
    figure = looked(rows, {"small": 1000, "large": 5000})
    (line,) = figure.axes[1].lines
    assert len(line.get_xdata()) == 2
