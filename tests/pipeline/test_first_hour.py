"""What a newcomer types in the first hour: options of measure, runs and clean, help, completion, near matches, logs."""

import csv
import io
import json
import re
import shutil
import threading
import time

import numpy as np
import pytest
from driving import artefacts, command, write_dag
from matplotlib.figure import Figure
from rich.console import Console
from suites import write_suite

import ninscope
from ninscope import progress
from ninscope.checkpoints.source import open_source
from ninscope.errors import RequestError
from ninscope_pipeline.cli import app
from ninscope_pipeline.measure_command import parsed_q, parsed_radii
from ninscope_pipeline.request.dagfile import load_dag

MODEL = {"blocks": 1, "width": 16, "heads": 2}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return write_suite(tmp_path_factory.mktemp("first") / "tiny", (0, 1, 8), **MODEL)


def rows(ended):
    assert ended.code == 0, ended.err
    return json.loads(ended.out)["rows"]


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        (("--q", "-2:2:0.5"), {"q": np.arange(-4, 5) / 2}),
        (("--q", "-1,0,2"), {"q": [-1.0, 0.0, 2.0]}),
        (("--transfer", "coth"), {"transfer": "coth"}),
        (("--radii", "log:40"), {"radii": {"log": 40}}),
        (("--radii", "integer", "--max-distance", "90", "--min-degree", "3"), {"max_distance": 90.0, "min_degree": 3}),
        (("--wiring", "parallel"), {"wiring": "parallel"}),
        (("--convolutions", "per_tap"), {"convolutions": "per_tap"}),
        (("--gauge", "fixed"), {"gauge": "fixed"}),
        (("--fit-radii", "5:60"), {"fit_radii": [5, 60]}),
        (
            ("--layers-crossed", "2", "--nodes-per-layer", "8", "--samples", "2"),
            {"layers_crossed": 2, "nodes_per_layer": 8, "samples": 2},
        ),
    ],
)
def test_every_parameter_has_an_option(suite, options, parameters):
    expected = ninscope.measure_all(str(suite), **parameters)
    shown = rows(command("measure", suite, "--json", *options))
    assert [row["alpha0"] for row in shown] == [row.spectrum.alpha0 for row in expected]
    assert [row["emergence"] for row in shown] == [row.emergence for row in expected]


def test_parts_have_rows_and_an_e_of_their_own(suite):
    expected = [ninscope.measure(str(suite), f"step{step}", parts=["kind"]) for step in (0, 8)]
    shown = rows(command("measure", suite, "--json", "--parts", "kind"))[-1]["parts"]
    assert [part["part"] for part in shown] == list(expected[1].parts)
    for part in shown:
        start, now = (measured.part(part["part"]) for measured in expected)
        assert (part["alpha0"], part["emergence"]) == (now.alpha0, ninscope.emergence(now, start))
    assert "kind/attention" in command("measure", suite, "--parts", "kind").out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--q", "x"), "--q is 'x'; give FROM:TO:STEP"),
        (("--q", "0:1:0"), "give a step above 0"),
        (("--q", "0:1:0.3"), "not a whole number of steps"),
        (("--radii", "log"), "--radii is 'log'; give integer, or log:K"),
        (("--radii", "log:" + "9" * 5000), "--radii is"),
        (("--fit-radii", "5"), "--fit-radii is '5'; give A:B"),
        (("--fit-radii", "50:5"), "fit_radii is [50.0, 5.0]; two distances"),
        (("--parts", "blocks"), "parts is"),
        (("--json", "--csv"), "give one of them"),
        (("--figure", "x.gif"), "ends in .png, .svg or .pdf"),
        (("--figure", "/nowhere/x.png"), "cannot write there"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(suite, options, said):
    ended = command("measure", suite, *options)
    assert ended.code == 2
    assert len(ended.says) == 1
    assert said in ended.says[0]


def test_what_is_not_typed_is_left_to_the_defaults():
    assert (parsed_q(None), parsed_radii(None)) == (None, None)


def test_several_sources_are_measured_and_a_wrong_one_stops_none(suite, tmp_path):
    other = shutil.copytree(suite, tmp_path / "other")
    both = json.loads(command("measure", suite, other, "--json").out)
    assert [document["source"] for document in both] == [str(suite), str(other)]
    assert both[0]["rows"] == both[1]["rows"]
    ended = command("measure", suite, tmp_path / "nothing", "--json")
    assert ended.code == 2
    assert len(json.loads(ended.out)["rows"]) == 3
    assert "nothing: no such folder" in ended.says[0]


def test_csv_holds_what_json_does(suite):
    shown = rows(command("measure", suite, "--json", "--parts", "kind"))
    table = list(csv.DictReader(io.StringIO(command("measure", suite, "--csv", "--parts", "kind").out)))
    whole = [row for row in table if row["part"] == "all"]
    for row, expected in zip(whole, shown, strict=True):
        assert {row["source"]} == {str(suite)}
        for name, value in expected.items():
            if name != "parts":
                assert row[name] == ("" if value is None else str(value))
    assert len(table) == len(shown) * (1 + len(shown[0]["parts"]))


@pytest.mark.parametrize(("suffix", "starts"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_figure_is_of_the_format_that_its_name_states(suite, tmp_path, suffix, starts):
    files = [tmp_path / f"{number}.{suffix}" for number in range(2)]
    for file in files:
        ended = command("measure", suite, "--figure", file)
        assert ended.code == 0, ended.err
        assert ended.out.splitlines()[-1] == f"figure: {file}"
    assert files[0].read_bytes().startswith(starts)
    assert files[0].read_bytes() == files[1].read_bytes()  # no time is in it


def test_the_version_is_printed():
    assert command("--version").out == f"ninscope {ninscope.__version__}\n"


def test_a_shell_completes_commands_and_options(monkeypatch):
    assert "--install-completion" in command("--help").out
    monkeypatch.setenv("_NINSCOPE_COMPLETE", "complete_bash")
    for words, expected in (("ninscope me", ["measure"]), ("ninscope measure --basel", ["--baseline"])):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
        assert command().out.split() == expected


@pytest.mark.parametrize("arguments", [("measure",), ("bias",), ("run",), ("status",), ("clean",)])
def test_help_says_all_of_its_text(arguments):
    """Brackets in a help text are text, not markup."""
    assert app.rich_markup_mode is None
    help_text = command(*arguments, "--help").out
    assert "Usage: ninscope" in help_text
    assert max(map(len, help_text.splitlines())) <= 80


@pytest.mark.parametrize("name", ["measure", "audit", "run"])
def test_a_wrong_option_points_to_the_help_of_its_command(name):
    ended = command(name, "x", "--yaml")
    assert ended.code == 2
    assert ended.says[0].endswith(f"(ninscope {name} --help)")


@pytest.fixture(scope="module")
def ran(tmp_path_factory, suite, undrawn):
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        dag = write_dag(folder / "mine.toml", suite, seed=seed)
        assert command("run", dag, "--runs-dir", folder / "runs").code == 0
    return folder / "runs"


def test_runs_are_listed(ran):
    shown = command("runs", "--runs-dir", ran).out
    (line,) = [line for line in shown.splitlines() if "mine" in line]
    assert [cell.strip() for cell in line.split("│")[1:4]] == ["mine", "finished", "3"]
    ended = command("runs", "--runs-dir", ran / "nothing")
    assert (ended.code, "name the one that holds run folders" in ended.says[0]) == (2, True)


def test_clean_removes_what_no_table_needs_and_nothing_else(ran, suite, tmp_path):
    runs = shutil.copytree(ran, tmp_path / "runs")
    before = artefacts(runs / "mine")
    tables = {name: ninscope.open_run(runs / "mine").table(name) for name in ("samples", "emergence")}
    planned = command("clean", runs / "mine", "--dry-run")
    assert "would remove" in planned.out
    assert artefacts(runs / "mine") == before
    ended = command("clean", runs / "mine")
    assert ended.code == 0, ended.err
    assert ended.out.replace("removed", "would remove") == planned.out
    after = artefacts(runs / "mine")
    assert {stage: len(keys) for stage, keys in before.items()} == {"emergence": 2, "nin": 6, "spectra": 6}
    assert {stage: len(keys) for stage, keys in after.items()} == {"emergence": 1, "nin": 3, "spectra": 3}
    again = command("run", write_dag(tmp_path / "mine.toml", suite, seed=1), "--runs-dir", runs)
    assert "nothing to run" in again.out
    for name, table in tables.items():
        assert ninscope.open_run(runs / "mine").table(name).equals(table)
    assert "removed nothing" in command("clean", runs / "mine").out


def test_e_stays_where_the_plan_does_not_name_it(ran, tmp_path):
    """As plans of earlier versions do not."""
    runs = shutil.copytree(ran, tmp_path / "runs")
    plan = json.loads((runs / "mine" / "plan.json").read_text())
    del plan["following"]
    (runs / "mine" / "plan.json").write_text(json.dumps(plan))
    assert command("clean", runs / "mine").code == 0
    assert len(artefacts(runs / "mine")["emergence"]) == 2


def test_status_sees_that_stored_results_are_gone(ran, suite, tmp_path):
    runs = shutil.copytree(ran, tmp_path / "runs")
    shutil.rmtree(runs / "mine" / "store.zarr")
    shown = command("status", runs / "mine").out.splitlines()[-1]
    assert shown.startswith(
        "mine: finished, but 6 stored results of its plan are not there; run the same command again"
    )
    command("run", write_dag(tmp_path / "mine.toml", suite, seed=1), "--runs-dir", runs)
    assert command("status", runs / "mine").out.splitlines()[-1] == "mine: finished; 0 checkpoints not ok"


def test_clean_and_status_name_a_near_run(ran, monkeypatch):
    monkeypatch.chdir(ran.parent)
    assert command("status", "mine").code == 0
    for name in ("clean", "status"):
        ended = command(name, "mnie")
        assert (ended.code, "did you mean 'mine'?" in ended.says[0]) == (2, True)


def test_a_run_that_has_not_finished_is_not_cleaned(ran, tmp_path):
    runs = shutil.copytree(ran, tmp_path / "runs")
    shutil.rmtree(runs / "mine" / "tables")
    ended = command("clean", runs / "mine")
    assert (ended.code, "has not finished" in ended.says[0]) == (2, True)


def test_near_matches_of_revisions_tables_columns_and_parameters(suite, ran, tmp_path):
    assert "did you mean 'step8'?" in command("measure", suite, "--revision", "stpe8").says[0]
    with pytest.raises(RequestError, match=r"no table 'emergance'; did you mean 'emergence'\?"):
        ninscope.open_run(ran / "mine").table("emergance")
    with pytest.raises(RequestError, match=r"did you mean 'max_distance'\?"):
        ninscope.measure_all(str(suite), max_distence=3)
    losses = tmp_path / "losses.csv"
    losses.write_text("revision,task,metrics,value\nstep0,held_out,loss,1\n")
    ended = command("run", write_dag(tmp_path / "mine.toml", suite, evaluations=str(losses)), "--dry-run")
    assert "the column 'metric' is missing; is it 'metrics'?" in ended.says[0]


@pytest.mark.usefixtures("undrawn")
def test_a_dag_file_chooses_the_formats_of_figures(suite, tmp_path):
    dag = write_dag(tmp_path / "mine.toml", suite)
    dag.write_text(dag.read_text() + '\n[figures]\nformats = ["png", "jpg"]\n')
    assert "figures.formats" in command("run", dag, "--dry-run").says[0]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("width", [80, 140])
def test_the_bar_keeps_within_its_window_and_has_total_and_time_left(monkeypatch, width):
    shown = Terminal()
    console = Console(file=shown, force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    with progress.counting("a name that is far longer than anybody would ever make one", 1200) as bar:
        for _ in range(3):
            bar.advance("networks 1200/1200 spectra 1200/1200 exact spectra 1200/1200")
    lines = re.sub(r"\x1b\[[0-9?;]*[A-Za-z]", "", shown.getvalue()).replace("\r", "\n").splitlines()
    told = [line for line in lines if "/1200" in line]
    assert told
    assert all("left:" in line and len(line.strip()) <= width for line in told)
    assert ("networks" in told[-1]) == (width > 100)


def test_without_a_terminal_a_line_comes_every_few_seconds(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.02)
    with progress.counting("mine", 4) as bar:
        bar.advance("spectra 1/4")
        deadline = time.monotonic() + 20
        said = ""
        while "done after" not in said and time.monotonic() < deadline:
            time.sleep(0.02)
            said += capsys.readouterr().err
    assert said.splitlines()[0].startswith("mine: 1 of 4 done after 0:00, about 0:00 left (spectra 1/4)")
    assert not [thread for thread in threading.enumerate() if thread.name == "ninscope-progress"]


def test_a_run_shows_itself_and_draws_where_one_says(ran, suite, tmp_path):
    opened = ninscope.open_run(ran / "mine")
    assert repr(opened).startswith(f"<Run: path {ran / 'mine'}, state finished, models 1, checkpoints 3, tables ")
    assert "<table" in opened._repr_html_()
    axes = opened.plot(Figure().add_subplot(), "width", model="tiny")
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), opened.table("emergence")["width"])
    with pytest.raises(RequestError, match=r"no model 'tniy'; did you mean 'tiny'\?"):
        opened.plot(model="tniy")
    with pytest.raises(RequestError, match="no results of 'held_out/loss'; there are none"):
        opened.plot(value="held_out/loss")
    results = tmp_path / "results.csv"
    results.write_text("revision,task,metric,value\nstep0,lambada,accuracy,0.1\nstep8,lambada,accuracy,0.4\n")
    dag = write_dag(tmp_path / "with.toml", suite, evaluations=str(results))
    assert command("run", dag, "--runs-dir", tmp_path).code == 0
    with_results = ninscope.open_run(tmp_path / "with")
    drawn = with_results.plot(Figure().add_subplot(), "lambada/accuracy")
    assert drawn.lines[0].get_ydata().tolist() == [0.1, 0.4]
    with pytest.raises(RequestError, match=r"did you mean 'lambada/accuracy'\?"):
        with_results.plot(value="lambada/acuracy")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--csv", "rows.csv"),
            "rows.csv: no such source; --csv takes no file name: ninscope measure ... --csv > FILE",
        ),
        (("--json", "rows.json"), "rows.json: no such source; --json takes no file name: "),
    ],
)
def test_a_file_for_what_is_printed_is_refused_before_anything_is_measured(suite, words, said):
    ended = command("measure", suite, *words)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err


def test_a_trainer_s_own_file_is_no_file_of_weights(tmp_path):
    (tmp_path / "optimizer.pt").write_bytes(b"")
    with pytest.raises(RequestError, match=r"optimizer\.pt is no file of weights, by its name; name the folder"):
        ninscope.measure(tmp_path / "optimizer.pt")


FUNCTIONS = [ninscope.measure, ninscope.measure_all, ninscope.sampling_bias]


@pytest.mark.parametrize("revision", [8.0, True, ["step8"]])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_revision_is_a_name(suite, function, revision):
    with pytest.raises(RequestError, match=r"revision is .*(8|True).*; a name was expected, such as 'step1000'"):
        function(suite, revision=revision)


@pytest.mark.parametrize("revision", [8, "8"])
def test_a_revision_may_be_a_step_as_a_baseline_may(suite, tmp_path, revision):
    assert ninscope.measure(suite, revision=revision).alpha0 == ninscope.measure(suite, revision="step8").alpha0
    assert [row.revision for row in ninscope.measure_all(suite, revision=revision, baseline=revision)] == ["step8"]
    assert set(ninscope.sampling_bias(suite, revision, nodes_per_layer=[8], samples=1)["revision"]) == {"step8"}
    if isinstance(revision, str):
        assert [row["revision"] for row in rows(command("measure", suite, "--revision", revision, "--json"))] == [
            "step8"
        ]
        dag = write_dag(tmp_path / "x.toml", suite, revisions=["step0", revision])
        assert [name for name, _ in load_dag(dag).all_models()[0].chosen(open_source(str(suite)))] == ["step0", "step8"]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_step_must_name_one_revision(suite, tmp_path, function):
    with pytest.raises(RequestError, match=r"revision 5: .* has no revision of that step; it has step0, step1, step8"):
        function(suite, revision=5)
    two = shutil.copytree(suite, tmp_path / "two")
    shutil.copytree(suite / "step8", two / "other-step8")
    with pytest.raises(
        RequestError, match=r"'8': .* has several revisions of that step .other-step8, step8.; name one"
    ):
        function(two, revision="8")


def test_a_revision_listed_by_its_name_and_by_its_step_is_refused(suite, tmp_path):
    dag = write_dag(tmp_path / "x.toml", suite, revisions=["step8", "8"])
    assert "revisions lists step8 twice, by its name and by its step" in command("run", dag).err


def test_a_path_to_a_revision_that_is_not_there_names_those_that_are(suite, monkeypatch):
    with pytest.raises(RequestError, match=r"step5: no such folder, and not a Hub .*; .* has step0, step1, step8"):
        ninscope.measure(suite / "step5")
    monkeypatch.chdir(suite.parent)
    with pytest.raises(RequestError, match=f"not looked for on the Hub, .*; {suite.name} has step0, step1, step8"):
        ninscope.measure(f"{suite.name}/step5")
    with pytest.raises(RequestError, match=f"for {suite.name} holds revisions; did you mean 'step8'"):
        ninscope.measure(f"{suite.name}/stepp8")


def test_what_a_run_lacks_is_named_with_what_it_has(suite, tmp_path):
    command("run", write_dag(tmp_path / "first.toml", suite), "--runs-dir", tmp_path / "runs")
    run = ninscope.open_run(tmp_path / "runs" / "first")
    model = run.plan["checkpoints"][0]["model"]
    assert (run.network(model, 8).matrix != run.network(model, "step8").matrix).nnz == 0
    with pytest.raises(RequestError, match=r"no stored network of .* at step5; it has step0, step1, step8; the table"):
        run.network(model, "step5")
    assert run.spectra(model, np.int64(8)).alpha0 == run.spectra(model, 8).alpha0
    with pytest.raises(RequestError, match="revision=None is neither a name nor a step; give 'step1000' or 1000"):
        run.spectra(model, None)
    with pytest.raises(RequestError, match=f"no stored spectra of {model}s at step8; did you mean '{model}'"):
        run.spectra(f"{model}s", "step8")
    with pytest.raises(
        RequestError, match=r"no values of single neurons for .* at 8; set per_node = true in \[analysis\]"
    ):
        run.nodes(model, 8)
    with pytest.raises(RequestError, match=r"no values of single neurons for .* at 5; it has step0, step1, step8"):
        run.nodes(model, 5)
    with pytest.raises(RequestError, match=r"firts: not a run folder .*; did you mean 'first'"):
        ninscope.open_run(tmp_path / "runs" / "firts")


def test_arguments_of_the_function_are_near_matches_too(suite):
    with pytest.raises(RequestError, match="unknown parameter baselin; did you mean 'baseline'"):
        ninscope.measure_all(suite, baselin="first")
    with pytest.raises(RequestError, match="unknown parameter revisions; did you mean 'revision'"):
        ninscope.measure(suite, revisions="step0")


def test_help_shows_brackets_as_they_are_typed():
    ended = command("measure", "--help")
    assert "table [architecture]" in " ".join(ended.out.split())


def test_rows_of_measure_all_have_what_they_show_and_can_be_compared(suite):
    measured = ninscope.measure_all(suite)
    assert measured[-1].alpha0 == measured[-1].spectrum.alpha0
    assert measured[-1].width == measured[-1].spectrum.width
    assert ninscope.emergence(measured[-1], measured[0]) == measured[-1].emergence
    sampled = ninscope.measure_all(suite, nodes_per_layer=8)
    with pytest.raises(RequestError, match="cannot be compared"):
        ninscope.emergence(sampled[-1], measured[0])
    with pytest.raises(RequestError, match="an object of type str is no spectrum; give what"):
        ninscope.emergence("step8", measured[0])
    (missing,) = ninscope.measure_all(suite, revision="step3")
    assert np.isnan([missing.alpha0, missing.width, ninscope.emergence(missing, measured[0])]).all()


def test_a_dry_run_counts_what_is_there(suite, tmp_path):
    dag = write_dag(tmp_path / "x.toml", suite, revisions=["step0", "step3"])
    shown = command("run", dag, "--runs-dir", tmp_path / "runs", "--dry-run").out
    assert (
        ": 1 of 2 checkpoints located; would run networks (1), spectra (1), emergence (1), tables, figures, in "
        in shown
    )
    dag = write_dag(tmp_path / "x.toml", suite, revisions=["step8"])
    assert "x: 1 checkpoint located; would run networks (1), spectra (1), " in command("run", dag, "--dry-run").out
