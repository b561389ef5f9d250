"""DAG files: what is accepted, and that every error is one line that says where."""

import contextlib
from pathlib import Path

import numpy as np
import pytest

from ninscope.errors import RequestError
from ninscope_pipeline.request.dagfile import load_dag
from ninscope_pipeline.shipped import shipped_folder

SHIPPED = shipped_folder() / "dags"
MODEL = 'suite = "s"\nmodel = "m"\nsource = "./weights"\n'
GOOD = f"[[models]]\n{MODEL}"


def refused(path: Path, content: str | bytes) -> str:
    """The message with which load_dag refuses a file; one line that begins with the file's path."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(RequestError) as caught:
        load_dag(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (f"workers = 3\n{GOOD}", "workers: no such key"),
        (f'{GOOD}branch = "main"\n', "models.1.branch: no such key"),
        (
            f'{GOOD}\n[[models]]\nsuite = "s"\nmodel = "n"\nsource = "a"\nrevision = "x"\n',
            "models.2.revision: no such key; did you mean 'revisions'?",
        ),
        (f"{GOOD}\n[analysis]\nnodes = 3\n", "analysis.nodes: no such key"),
        (f"{GOOD}\n[analysis.q]\nstart = -1.0\nstop = 1.0\nstep = 0.5\nend = 2.0\n", "analysis.q.end: no such key"),
        (f"{GOOD}\n[emergence]\nbaseline = 3\n", "emergence.baseline: no such key; did you mean 'baseline_step'?"),
        (f"{GOOD}\n[emergenc]\nseed = 3\n", "emergenc: no such key; did you mean 'emergence'?"),
        (f"Workers = 3\n{GOOD}", "Workers: no such key"),
        (f"{GOOD}\n[analysis]\nSamples = 3\n", "analysis.Samples: no such key; did you mean 'samples'?"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_named_with_its_place(tmp_path, content, where):
    assert refused(tmp_path / "x.toml", content) == where


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (f"name = 3\n{GOOD}", "name: .*string.*it is 3"),
        ('models = "pythia"\n', r"models: .*(list|\[\[models\]\])"),
        ("models = 3\n", r"models: .*(list|\[\[models\]\])"),
        ('[models]\nsuite = "s"\n', r"models: .*(list|\[\[models\]\])"),
        ('[[models]]\nsuite = "s"\nmodel = "m"\nsource = 3\n', "models.1.source: .*string"),
        ('[[models]]\nsuite = "s"\nmodel = "m"\nsource = ""\n', "models.1.source: .*at least 1"),
        (f"{GOOD}evaluations = true\n", "models.1.evaluations: .*string"),
        (f"{GOOD}\n[analysis]\nsamples = 2.5\n", "analysis.samples: .*integer.*it is 2.5"),
        (f"{GOOD}\n[analysis]\nsamples = true\n", "analysis.samples: .*integer"),
        (f'{GOOD}\n[analysis]\nsamples = "10"\n', "analysis.samples: .*integer.*it is '10'"),
        (f'{GOOD}\n[analysis]\nmax_distance = "far"\n', "analysis.max_distance: .*number.*it is 'far'"),
        (f'{GOOD}\n[analysis]\nq = "wide"\n', "analysis.q: "),
        (f'{GOOD}\n[analysis]\nq = [0.0, "one"]\n', "analysis.q.2: .*number.*it is 'one'"),
        (f'{GOOD}\n[analysis]\nq = {{ start = "low", stop = 1.0, step = 0.5 }}\n', "analysis.q.start: .*number"),
        (f"{GOOD}\n[emergence]\nseed = 1.5\n", "emergence.seed: .*integer"),
        (f"analysis = 3\n{GOOD}", "analysis: "),
    ],
)
def test_a_wrong_type_is_named_with_its_place_and_value(tmp_path, content, match):
    message = refused(tmp_path / "x.toml", content)
    with pytest.raises(RequestError, match=match):
        raise RequestError(message)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("samples = 0", "analysis: samples is 0; an integer from 1 to"),
        ("nodes_per_layer = -1", "analysis: nodes_per_layer is -1; an integer"),
        ("seed = -1", "analysis: seed is -1; an integer from 0"),
        ("min_degree = -1", "analysis: min_degree is -1; "),
        ("max_distance = 1.0", "analysis: max_distance is 1.0; a number from 2"),
        ("max_distance = nan", "analysis: max_distance is nan; a number from 2"),
        ("max_distance = inf", "analysis: max_distance is inf; a number from 2"),
        ('transfer = "log"', "analysis: transfer is 'log'; one of reciprocal"),
        ('derivative = "backward"', "analysis: derivative is 'backward'; one of exact, forward"),
        ("q = []", "analysis: q must be 2 to"),
        ("q = [0.0]", "analysis: q must be 2 to"),
        ("q = [1.0, 0.0]", "analysis: q must be .* in increasing order"),
        ("q = { start = 0.0, stop = 1e-9, step = 1e-12 }", "analysis: q has values 1e-12 apart, so that rounding decides"),
        (f"seed = {'9' * 5000}", "not TOML that can be read: a number in it has thousands of digits"),
        ("q = [0.0, nan]", "analysis: q must be .* finite"),
        ("q = [-200.0, 200.0]", "analysis: q reaches 200"),
        ("q = [1, 2, 3]", "analysis: q goes from 1 to 3 without 0, where alpha0 is taken; add 0 to q"),
        ("q = { start = 0.5, stop = 3.0, step = 0.5 }", "analysis: q goes from 0.5 to 3 without 0"),
        ("q = { start = -3.0, stop = 3.0, step = 0.7 }", "analysis: q: -3.0 to 3.0 is not a whole number of steps of 0.7"),
        ("q = { start = 3.0, stop = -3.0, step = 0.1 }", "analysis: q: 3.0 to -3.0 is not a whole number"),
        ("q = { start = 1.0, stop = 1.0, step = 0.1 }", "analysis: q: 1.0 to 1.0 is not a whole number"),
        ("q = { start = -3.0, stop = 3.0, step = 1e-9 }", "analysis: q: -3.0 to 3.0"),
        ("q = { start = -3.0, stop = 3.0, step = 0.0 }", "analysis.q.step: .*greater than 0.*it is 0.0"),
        ("q = { start = -3.0, stop = 3.0 }", "analysis.q.step: .*required"),
    ],
)  # fmt: skip
def test_a_wrong_value_of_the_analysis_is_named(tmp_path, content, match):
    message = refused(tmp_path / "x.toml", f"{GOOD}\n[analysis]\n{content}\n")
    with pytest.raises(RequestError, match=match):
        raise RequestError(message)


@pytest.mark.parametrize(
    "q",
    [
        "{ start = -inf, stop = 3.0, step = 0.1 }",
        "{ start = -3.0, stop = inf, step = 0.1 }",
        "{ start = nan, stop = 3.0, step = 0.1 }",
        "{ start = -3.0, stop = 3.0, step = inf }",
        "{ start = -3.0, stop = 3.0, step = 1e-310 }",
    ],
)
def test_a_q_grid_that_no_float_can_span_is_refused_by_name(tmp_path, q):
    assert refused(tmp_path / "x.toml", f"{GOOD}\n[analysis]\nq = {q}\n").startswith("analysis: q: ")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("replicates = 5", "emergence.replicates: .*greater than or equal to 100.*it is 5"),
        ("confidence = 1.0", "emergence.confidence: .*less than 1"),
        ("confidence = nan", "emergence.confidence: "),
        ("baseline_step = -1", "emergence.baseline_step: .*greater than or equal to 0"),
    ],
)
def test_a_wrong_value_of_emergence_is_named(tmp_path, content, match):
    message = refused(tmp_path / "x.toml", f"{GOOD}\n[emergence]\n{content}\n")
    with pytest.raises(RequestError, match=match):
        raise RequestError(message)


@pytest.mark.parametrize("missing", ["suite", "model", "source"])
def test_a_missing_key_is_named(tmp_path, missing):
    lines = [line for line in GOOD.splitlines() if not line.startswith(missing)]
    assert refused(tmp_path / "x.toml", "\n".join(lines)).startswith(f"models.1.{missing}: Field required")


def test_a_file_without_models_is_refused(tmp_path):
    expected = "no [[models]] and no [[suites]]; list at least one model or suite, or write [polysemanticity], which makes its own"
    assert refused(tmp_path / "x.toml", 'name = "x"\n') == expected
    assert refused(tmp_path / "x.toml", 'name = "x"\nmodels = []\n') == expected


@pytest.mark.parametrize("name", ["../up", "..", "a/b", ".hidden", "", "a b", "a\\b", "x" * 97, "-flag", "ä", "a\n"])
@pytest.mark.parametrize("key", ["name", "suite", "model"])
def test_a_name_that_could_leave_its_folder_is_refused(tmp_path, key, name):
    values = {"name": "n", "suite": "s", "model": "m"} | {key: name.replace("\\", "\\\\").replace("\n", "\\n")}
    content = f'name = "{values["name"]}"\n[[models]]\nsuite = "{values["suite"]}"\nmodel = "{values["model"]}"\nsource = "x"\n'
    where = "name" if key == "name" else f"models.1.{key}"
    assert refused(tmp_path / "x.toml", content).startswith(f"{where}: ")


def test_a_file_name_that_cannot_name_the_run_is_refused(tmp_path):
    assert refused(tmp_path / "my run.toml", GOOD).startswith("name: ")


@pytest.mark.parametrize("revisions", ["[]", '["step0", "step0"]', '"some"', '""', "3", '["step0", 4]', '[""]'])
def test_revisions_that_make_no_list_are_refused(tmp_path, revisions):
    assert refused(tmp_path / "x.toml", f"{GOOD}revisions = {revisions}\n").startswith("models.1.revisions")


def test_a_model_listed_twice_is_refused(tmp_path):
    assert refused(tmp_path / "x.toml", GOOD + GOOD) == "the model s/m is listed twice; list it once, or rename one"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[models]\nsuite = 's'\n", "models: there may be several, so write [[models]] in double brackets"),
        (
            f"{GOOD}[[analysis]]\nsamples = 3\n",
            "analysis: it is a section; write [analysis], once and in single brackets",
        ),
        (f"nulls = true\n{GOOD}", "nulls: it is a section; write [nulls] with its keys below it (it is True)"),
        ("name = 'x'\nname = mine\n", "not TOML: Invalid value (at line 2, column 8): name = mine"),
        (f"a = {'b' * 200}\n", f"not TOML: Invalid value (at line 1, column 5): a = {'b' * 76} ..."),
        ("a = \x1b[31m\n", "not TOML: Invalid value (at line 1, column 5)"),
    ],
)
def test_how_a_section_is_written_and_which_line_is_wrong_is_told(tmp_path, content, says):
    assert refused(tmp_path / "x.toml", content) == says


@pytest.mark.parametrize("content", ["models = [", "= 3", "a = 1\na = 2", b"name = '\xff'", "\0", "a = " + "[" * 5000])
def test_what_is_not_toml_is_refused(tmp_path, content):
    assert refused(tmp_path / "x.toml", content).startswith(("not TOML: ", "not TOML that can be read: "))


def test_an_absent_file_or_a_folder_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"absent\.toml: cannot read it \(No such file"):
        load_dag(tmp_path / "absent.toml")
    with pytest.raises(RequestError, match=r"cannot read it \(Is a directory\)"):
        load_dag(tmp_path)


@pytest.mark.parametrize("source", ["~nobody-of-that-name/weights", "a\\u0000b", "x" * 300])
def test_a_source_that_is_no_path_is_refused_or_stays_a_name(tmp_path, source):
    path = tmp_path / "x.toml"
    path.write_text(f'[[models]]\nsuite = "s"\nmodel = "m"\nsource = "{source}"\n')
    with contextlib.suppress(RequestError):
        load_dag(path)


@pytest.mark.parametrize(
    ("name", "models"), [("demo", 1), ("pythia", 10), ("polypythias", 51), ("ablations", 1), ("parts", 1)]
)
def test_the_files_that_ship_load(name, models):
    dag = load_dag(SHIPPED / f"{name}.toml")
    assert dag.name == name
    assert len(dag.all_models()) == models
    methods = dag.analysis.methods()
    expected = {"polypythias": ["exact"], "parts": ["exact"]}
    assert list(methods) == expected.get(name, ["sampled", "exact"])
    assert "sampled" not in methods or methods["sampled"].samples == 10


def test_the_demo_reads_what_ships_wherever_it_is_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (model,) = load_dag(SHIPPED / "demo.toml").models
    assert (Path(model.source) / "step0" / "model.safetensors").is_file()
    assert Path(model.evaluations).is_file()


def test_relative_sources_start_at_the_files_folder(tmp_path, monkeypatch):
    place = tmp_path / "experiments"
    (place / "beside").mkdir(parents=True)
    (tmp_path / "above").mkdir()
    monkeypatch.chdir(tmp_path)
    for source, expected in (
        ("beside", place / "beside"),
        ("./not-there-yet", place / "not-there-yet"),
        ("../above", tmp_path / "above"),
        (str(tmp_path / "above"), tmp_path / "above"),
    ):
        (place / "x.toml").write_text(
            f'[[models]]\nsuite = "s"\nmodel = "m"\nsource = "{source}"\nevaluations = "e.csv"\n'
        )
        (model,) = load_dag(Path("experiments/x.toml")).models
        assert model.source == str(expected)
        assert model.evaluations == str(place / "e.csv")


def test_a_home_folder_is_resolved(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.toml").write_text('[[models]]\nsuite = "s"\nmodel = "m"\nsource = "~/weights"\n')
    assert load_dag(tmp_path / "x.toml").models[0].source == str(tmp_path / "weights")


def test_a_hub_id_stays_a_hub_id(tmp_path):
    (tmp_path / "x.toml").write_text('[[models]]\nsuite = "s"\nmodel = "m"\nsource = "org/name"\n')
    assert load_dag(tmp_path / "x.toml").models[0].source == "org/name"


def test_a_file_without_a_name_is_named_after_itself(tmp_path):
    (tmp_path / "tiny.toml").write_text(GOOD)
    dag = load_dag(tmp_path / "tiny.toml")
    assert dag.name == "tiny"
    assert dag.models[0].revisions == "all"


def test_a_q_grid_holds_its_ends_and_zero_exactly(tmp_path):
    (tmp_path / "x.toml").write_text(f"{GOOD}\n[analysis]\nq = {{ start = -3.0, stop = 3.0, step = 0.1 }}\n")
    q = load_dag(tmp_path / "x.toml").analysis.methods()["sampled"].q
    assert np.array_equal(q, np.arange(-30, 31) / 10)
    (tmp_path / "x.toml").write_text(f"{GOOD}\n[analysis]\nq = [-1, 0, 2]\n")
    assert load_dag(tmp_path / "x.toml").analysis.methods()["sampled"].q.tolist() == [-1.0, 0.0, 2.0]
