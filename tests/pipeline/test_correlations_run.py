"""[correlations]: the table is what the function gives of other tables, nothing is silent, figures and the page draw it."""

import csv
import re

import numpy as np
import pandas as pd
import pytest
from driving import command, contents, write_dag
from matplotlib.figure import Figure
from suites import write_suite

import ninscope
from ninscope.correlating.over_training import KINDS, Resampling, correlations
from ninscope.errors import RequestError
from ninscope.report.correlations_figure import WARNING, accuracy_figure, correlations_figure
from ninscope.report.layout import png
from ninscope.report.page.parts import PageTables
from ninscope_pipeline.figures import FigureTables
from ninscope_pipeline.stages.checkpoint_measures import names_of_measures, series_of_measures
from ninscope_pipeline.stages.correlations import CORRELATIONS
from ninscope_pipeline.stages.registry import stages
from ninscope_pipeline.stages.stage import Measures, Stage, Table

pytestmark = pytest.mark.usefixtures("undrawn")

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
WHOLE = {"nodes_per_layer": "all", "samples": None}
ODD = 'a, "$task" <b>'  # a name that a page, a figure and a CSV have to bear


def write_results(path, results):
    """An evaluations file. results: (task, metric) -> value by step."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["revision", "task", "metric", "value"])
        for (task, metric), values in results.items():
            writer.writerows([f"step{step}", task, metric, value] for step, value in values.items())
    return str(path)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Ten checkpoints with statistics of weights; a task with other steps and a gap, one at chance, one that only rises."""
    place = tmp_path_factory.mktemp("correlations")
    source = write_suite(place / "tiny", STEPS, blocks=1, width=16, heads=2)
    rng = np.random.default_rng(2)
    results = {
        (ODD, "acc"): dict(zip((*STEPS[:4], *STEPS[5:], 1000), rng.integers(20, 40, 10) / 80, strict=True)),
        ("chance", "acc"): dict.fromkeys(STEPS, 0.25),
        ("rising", "loss"): {step: -float(step) for step in STEPS},
    }
    asked = {"replicates": 100, "max_lag": 1, "confidence": 0.9, "seed": 4}
    dag = write_dag(
        place / "mine.toml", source, **WHOLE, weights={}, correlations=asked,
        evaluations=write_results(place / "results.csv", results),
    )  # fmt: skip
    ended = command("run", dag, "--runs-dir", place)
    assert ended.code == 0, ended.err
    return dag, results, asked, ninscope.open_run(place / "mine")


def of(run, **values):
    rows = run.table("correlations")
    for column, value in values.items():
        rows = rows[rows[column] == value]
    return rows


def test_rows_are_what_the_function_gives(ran):
    _, results, asked, run = ran
    emergence = run.table("emergence").set_index("step")["emergence"]
    values = results[ODD, "acc"]
    steps = sorted({*STEPS, *values})
    x = np.array([[emergence.get(step, np.nan) for step in steps]])
    y = np.array([[values.get(step, np.nan) for step in steps]])
    expected = correlations(x, y, Resampling(**asked), "tiny/tiny")
    rows = of(run, measure="emergence", task=ODD).set_index("kind").loc[list(KINDS)]
    for name in ("value", "low", "high", "null_low", "null_high", "points"):
        np.testing.assert_array_equal(rows[name].to_numpy(float), getattr(expected, name)[:, 0, 0], name)
    changes = rows.loc["differences"]
    assert [changes["lag"], changes["lag_value"], changes["lag_null"]] == [
        getattr(expected, name)[0, 0] for name in ("lag", "lag_value", "lag_null")
    ]
    assert rows["lag"].isna().tolist() == [True, False, True]
    assert rows["points"].tolist() == [9, 8, 9]
    assert set(rows["method"]) == {"exact"}
    assert rows[["revision", "step"]].isna().all(axis=None)


def test_steps_that_do_not_match_are_counted(ran):
    *_, run = ran
    for message in of(run, task=ODD, measure="alpha0")["message"]:
        assert "1 step has no result; 1 result has no value of the measure" in message
    assert "2 results have no value of the measure" in of(run, task=ODD, measure="sign_flips")["message"].iloc[0]


def test_what_has_no_value_says_why(ran):
    *_, run = ran
    rows = of(run, measure="norm", task="chance").set_index("kind")["message"]
    assert rows["levels"] == "no value: chance acc has one value at every point"
    assert rows["differences"] == "no value: chance acc changes by as much at every point"
    given_step = of(run, measure="norm", task="rising", kind="partial").iloc[0]
    assert np.isnan(given_step["value"])
    assert given_step["message"] == (
        "no value: rising loss rises, or falls, from every point to the next, so the step decides its ranks"
    )
    assert of(run, measure="norm", task="rising", kind="levels")["value"].notna().all()


def test_every_measure_of_every_table_is_there(ran):
    *_, run = ran
    names = set(run.table("correlations")["measure"])
    assert {"emergence", "alpha0", "width", "norm", "kurtosis", "degree_mean", "degree_kurtosis"} <= names
    assert len(run.table("correlations")) == 3 * 3 * len(names)


def test_it_costs_no_work(ran, tmp_path):
    dag, _, _, run = ran
    assert "nothing to run" in command("run", dag, "--runs-dir", run.path.parent).out
    planned = dag.with_name("other.toml")
    planned.write_text(dag.read_text().replace("max_lag = 1", "max_lag = 2").replace('name = "other"', 'name = "mine"'))
    would = command("run", planned, "--runs-dir", run.path.parent, "--dry-run").would_run
    assert {stage for stage, _ in would} == {"tables", "figures"}


def test_the_same_bytes_again(ran, tmp_path):
    dag, _, _, run = ran
    assert command("run", dag, "--runs-dir", tmp_path).code == 0
    name = "correlations.parquet"
    assert contents(tmp_path / "mine" / "tables")[name] == contents(run.path / "tables")[name]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A checkpoint of a model with results, and one of a model without."""
    place = tmp_path_factory.mktemp("few")
    sources = [write_suite(place / name, (0,), blocks=1, width=16, heads=2) for name in ("known", "unknown")]
    models = [{"suite": "s", "model": source.name, "source": str(source)} for source in sources]
    models[0]["evaluations"] = write_results(place / "r.csv", {("quiz", "acc"): {0: 0.5}})
    return place, models


def rows_of(place, models, name, section, code=0):
    changes = {} if section is None else {"correlations": section}
    ended = command("run", write_dag(place / f"{name}.toml", models=models, **WHOLE, **changes), "--runs-dir", place)
    assert ended.code == code, ended.err
    return ended if code else ninscope.open_run(place / name).table("correlations")


def test_without_the_section_there_are_no_rows(two):
    assert len(rows_of(*two, "without", None)) == 0


def test_models_without_results_and_with_one_checkpoint_say_so(two):
    rows = rows_of(*two, "few", {"measures": ["alpha0", "structure"]})
    known, unknown = (rows[rows["model"] == name] for name in ("known", "unknown"))
    messages = known.set_index(known["measure"] + " " + known["kind"].fillna(""))["message"]
    assert messages["alpha0 levels"] == "no value: 1 point, and it takes 3"
    assert messages["alpha0 differences"] == "no value: no point, and it takes 3"
    assert messages["structure "] == "the table controls has no rows of it for this model"
    assert unknown["message"].tolist() == [
        "this model has no benchmark results; [[models]] names them by `evaluations`",
        "the table controls has no rows of it for this model",
    ]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"measures": ["emergance"]}, r"no table has a measure 'emergance'; did you mean 'emergence'\?; there are"),
        ({"tasks": ["quizz"]}, r"no model has a result of 'quizz'; did you mean 'quiz'\?; there are quiz, quiz/acc"),
        ({"tasks": []}, "correlations.tasks: List should have at least 1 item"),
        ({"replicates": 50}, "correlations.replicates: .*greater than or equal to 100"),
        ({"taks": ["quiz"]}, "correlations.taks: no such key; did you mean 'tasks'"),
    ],
)
def test_wrong_requests_are_one_line(two, section, message):
    ended = rows_of(*two, "wrong", section, code=2)
    (line,) = ended.says
    assert re.search(message, line), line


# --- which columns are measures -----------------------------------------------------------------------------------------
class Example(Stage):
    """A stage that has a table and nothing else."""

    name, title, version = "example", "example", 1

    def __init__(self, table):
        self.tables = (table,)

    def jobs(self, request):
        return ()

    def make(self, store, job):
        raise NotImplementedError


def example(measures, name="heights"):
    return Example(Table(name, {}, lambda results: (), (measures,)))


def heights(**columns):
    rows = pd.DataFrame(
        {"suite": "s", "model": "m", "revision": ["a", "a", "b", "b", "c"], "step": [1, 1, 2, 2, 1], **columns}
    )
    return {"heights": rows.astype({"step": "Int64"})}


def test_a_table_says_which_columns_measure_a_checkpoint():
    tables = heights(height=[1.0, 3.0, 5.0, np.nan, 9.0], what=["x", "y", "x", "y", "x"], kept=[1, 1, 1, 1, 1])
    (mean,) = series_of_measures([example(Measures({"tall": "height"}, {"kept": 1}))], tables)
    assert (mean.table, mean.measure, mean.method, mean.variant) == ("heights", "tall", "", "default")
    assert mean.values.to_dict() == {1: 2.0, 2: 5.0}  # revision c is another one of step 1
    assert mean.repeated == 1
    several = series_of_measures([example(Measures({"tall": "height"}, by=("what",)))], tables)
    assert [series.measure for series in several] == ["tall/x", "tall/y"]
    assert several[1].values.isna().tolist() == [False, True]
    assert series_of_measures([example(Measures({"tall": "height"}, {"kept": 2}))], tables) == []


def test_two_measures_of_one_name_are_refused():
    pair = [example(Measures({"tall": "height"})), example(Measures({"tall": "size"}), "sizes")]
    with pytest.raises(RequestError, match="the measure 'tall' of the table sizes takes the name of one of heights"):
        names_of_measures(pair)


def test_the_measures_of_ninscopes_tables_are_columns_of_them():
    every = stages().values()
    assert {"emergence", "structure", "coupling", "phi_p99", "null_emergence"} <= set(names_of_measures(every))
    for stage in every:
        for table in stage.tables:
            for measures in table.measures:
                named = {*measures.columns.values(), *measures.where, *measures.by}
                assert named <= set(table.columns), (table.name, named)


# --- figures and the page -----------------------------------------------------------------------------------------------
def test_the_figures_hold_the_numbers_of_the_tables(ran):
    *_, run = ran
    tables = {name: run.table(name) for name in run.tables}
    drawn = dict(CORRELATIONS.figures(FigureTables(tables)))
    assert list(drawn) == ["tiny-correlations.png", "tiny-accuracy.png"]
    correlated, accuracy = drawn.values()
    assert all(isinstance(figure, Figure) and len(png(figure)) > 10_000 for figure in drawn.values())
    rows = of(run, task=ODD, kind="levels")
    dots = {tuple(line.get_xdata()) for line in correlated.axes[0].lines if line.get_marker() == "o"}
    assert {(value,) for value in rows[rows["measure"].isin(["emergence", "alpha0"])]["value"]} <= dots
    said = " ".join(" ".join(text.get_text() for text in correlated.texts).split())
    assert WARNING in said
    assert "always correlate" in " ".join(text.get_text() for text in accuracy.texts)
    emergence = run.table("emergence").set_index("step")["emergence"]
    points = accuracy.axes[0].collections[-1].get_offsets() if accuracy.axes[0].collections else []
    shared = [step for step in STEPS if step in ran[1][ODD, "acc"]]
    np.testing.assert_allclose(np.asarray(points), [[emergence[step], ran[1][ODD, "acc"][step]] for step in shared])


def test_figures_of_nothing_say_so(two):
    rows = rows_of(*two, "drawn", {"measures": ["alpha0"]})
    known = rows[rows["model"] == "known"]
    benchmarks = pd.DataFrame({"task": ["quiz"], "metric": ["acc"], "step": [0], "value": [0.5]})
    assert "no value: 1 point" in " ".join(
        text.get_text() for text in correlations_figure(known, benchmarks, "known").axes[0].texts
    )
    nothing = pd.DataFrame({"measure": [], "method": [], "step": [], "value": []})
    assert len(png(accuracy_figure(known, nothing, benchmarks, "known"))) > 2000


def test_accuracies_that_change_most_are_drawn_first():
    tasks = [("crows_pairs", "likelihood_diff"), ("anagrams", "acc"), ("lambada_openai", "acc")]
    numbers = dict.fromkeys(("value", "low", "high", "null_low", "null_high"), 0.5)
    about = {"measure": "emergence", "method": "exact", "kind": "levels", "message": ""}
    rows = pd.DataFrame([about | numbers | {"task": task, "metric": metric} for task, metric in tasks])
    benchmarks = pd.DataFrame(
        [
            {"task": task, "metric": metric, "step": step, "value": step * change, "stderr": 0.01}
            for (task, metric), change in zip(tasks, (9.0, 0.01, 0.4), strict=True)
            for step in (0, 1)
        ]
    )
    measured = pd.DataFrame({"measure": "emergence", "method": "exact", "step": [0, 1], "value": [0.0, 1.0]})
    correlated = correlations_figure(rows, benchmarks, "m")
    named = ["lambada_openai acc", "anagrams acc", "crows_pairs likelihood_diff"]
    assert [" ".join(axes.get_title().split()) for axes in correlated.axes[:3]] == named
    across = accuracy_figure(rows, measured, benchmarks, "m")
    ends = [axes.collections[-1].get_offsets()[-1].tolist() for axes in across.axes[:3]]
    assert ends == [[1.0, 0.4], [1.0, 0.01], [1.0, 9.0]]
    for figure in (correlated, across):
        said = " ".join(" ".join(text.get_text() for text in figure.texts).split())
        assert "Accuracies come first" in said


def test_the_part_of_the_page(ran):
    *_, run = ran
    rows = run.table("correlations").assign(run="mine", label="tiny")
    other = rows.assign(label="</script><script>alert(1)", value=rows["value"] / 2)
    tables = PageTables(
        {"correlations": pd.concat([rows, other]), "benchmarks": run.table("benchmarks")},
        ["tiny", "</script><script>alert(1)"],
    )
    (part,) = CORRELATIONS.page(tables)
    assert (part.topic, part.tables, part.text[0]) == ("benchmarks", ("correlations",), WARNING)
    assert any(text.startswith("Lead or lag") for text in part.text)
    (chart,) = part.charts
    spec = chart.chart.to_dict()
    assert spec["width"] == "container"
    (filtered,) = spec["layer"][0]["transform"]
    assert filtered == {"filter": "datum.task == task && datum.number == model"}
    assert [param["bind"]["labels"] for param in spec["params"]] == [
        [f"{ODD} acc", "chance acc", "rising loss"], ["tiny", "</script><script>alert(1)"],
    ]  # fmt: skip
    data = next(values for values in spec["datasets"].values() if len(values) > 1)
    shown = [
        row for row in data if row["label"] == "tiny" and row["measure"] == "alpha0" and row["result"] == f"{ODD} acc"
    ]
    expected = of(run, measure="alpha0", task=ODD)
    for name in ("value", "null_high"):
        np.testing.assert_allclose([row[name] for row in shown], expected[name], atol=1e-6)


def test_no_part_of_the_page_without_a_value(two):
    rows = rows_of(*two, "paged", {"measures": ["alpha0"]}).assign(run="paged", label="known")
    assert list(CORRELATIONS.page(PageTables({"correlations": rows}, ["known"]))) == []
    assert list(CORRELATIONS.page(PageTables({"correlations": rows.iloc[:0]}, []))) == []
