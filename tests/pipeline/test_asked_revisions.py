"""[[models]] and [[suites]]: which revisions of which repositories a DAG file asks for, and what it
says of one that asks badly."""

import re
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import tomli_w
from driving import ANALYSIS, EMERGENCE, command
from hub_client import _private_client, serve  # noqa: F401 (fixtures)
from suites import write_suite

from ninscope.checkpoints.revisions import RevisionSelection
from ninscope.checkpoints.suites import PYTHIA_STEPS, SUITES, PublishedSuite
from ninscope.errors import RequestError
from ninscope_pipeline.request.dagfile import load_dag
from ninscope_pipeline.result_files import run_file_content
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.survey import survey

pytestmark = pytest.mark.usefixtures("undrawn")

SHAPE = {"blocks": 1, "width": 16, "heads": 2}
MODEL = '[[models]]\nsuite = "s"\nmodel = "m"\nsource = "org/name"\n'
STEPS = (0, 1, 2, 4, 8)


def loaded(tmp_path, text):
    path = tmp_path / "x.toml"
    path.write_text(text)
    return load_dag(path)


class Named:
    """A source that has these revisions."""

    def __init__(self, *names):
        self.revisions = self.names = lambda: list(names)


@pytest.mark.parametrize(
    ("preset", "sources", "model"),
    [
        ("pythia", 10, ("pythia-12b", "EleutherAI/pythia-12b")),
        ("pythia-deduped", 10, ("pythia-1.4b-deduped", "EleutherAI/pythia-1.4b-deduped")),
        ("polypythias", 51, ("pythia-410m-seed9", "EleutherAI/pythia-410m-seed9")),
        ("olmo", 6, ("OLMo-1B-hf", "allenai/OLMo-1B-hf")),
        ("olmo-2", 4, ("OLMo-2-1124-7B", "allenai/OLMo-2-1124-7B")),
    ],
)
def test_a_preset_is_all_its_models(tmp_path, preset, sources, model):
    models = loaded(tmp_path, f'[[suites]]\npreset = "{preset}"\n').all_models()
    assert len(models) == sources
    assert {each.suite for each in models} == {preset}
    assert model in [(each.model, each.source) for each in models]


def test_pythia_has_154_revisions_whether_they_are_there_or_not(tmp_path):
    (model,) = loaded(tmp_path, '[[suites]]\npreset = "pythia"\nmodels = ["pythia-70m"]\n').all_models()
    assert model.chosen(Named("step0", "step3000", "main")) == [(f"step{step}", step) for step in PYTHIA_STEPS]
    assert len(PYTHIA_STEPS) == 154


def test_of_a_preset_some_models_and_some_revisions(tmp_path):
    text = '[[suites]]\npreset = "olmo-2"\nmodels = ["OLMo-2-0425-1B"]\nrevisions = { from = 1000, log = 2 }\n'
    (model,) = loaded(tmp_path, text).all_models()
    names = ["stage1-step0-tokens0B", "stage2-ingredient1-step1000-tokens3B"]
    names += [f"stage1-step{step}-tokens{step // 1000}B" for step in (1000, 2000, 9000)]
    assert model.chosen(Named(*names)) == [("stage1-step1000-tokens1B", 1000), ("stage1-step9000-tokens9B", 9000)]
    assert model.siblings(Named(*names)) == [(names[0], 0), *((name, int(name[11:15])) for name in names[2:])]


def test_suites_stand_beside_models(tmp_path):
    text = (
        MODEL
        + '[[suites]]\npreset = "pythia"\nmodels = ["pythia-14m"]\n[[suites]]\npreset = "olmo"\nmodels = ["OLMo-1B-hf"]\n'
    )
    assert [(one.suite, one.model) for one in loaded(tmp_path, text).all_models()] == [
        ("s", "m"), ("pythia", "pythia-14m"), ("olmo", "OLMo-1B-hf"),
    ]  # fmt: skip


def test_seeds_are_models_of_their_own(tmp_path):
    text = (
        '[[models]]\nsuite = "s"\nmodel = "m-seed{seed}"\nsource = "org/name-seed{seed}"\nseeds = [3, 1]\n'
        'revisions = "step{step}"\nevaluations = "of-{seed}.csv"\n'
    )
    for models in (loaded(tmp_path, text).models, loaded(tmp_path, text).all_models()):
        assert [(one.model, one.source, Path(one.evaluations).name) for one in models] == [
            ("m-seed3", "org/name-seed3", "of-3.csv"), ("m-seed1", "org/name-seed1", "of-1.csv"),
        ]  # fmt: skip
        assert {one.revisions for one in models} == {"step{step}"}


def test_a_pattern_of_branches_holds_the_seed_of_another_model(tmp_path):
    (model,) = loaded(tmp_path, MODEL + 'revisions = "seed1/step{step}"\n').all_models()
    source = Named("seed1/step0", "seed2/step0", "seed1/step5", "main")
    assert model.chosen(source) == model.siblings(source) == [("seed1/step0", 0), ("seed1/step5", 5)]


SUITE = '[[suites]]\npreset = "pythia"\n'
PYTHIAS = "pythia-14m, pythia-31m, pythia-70m, pythia-160m, pythia-410m, pythia-1b, pythia-1.4b, pythia-2.8b"
EITHER = "models.1.revisions: give either steps or a range (from, to, every), not both"
ANY = 'give "all", a list of distinct revision names, a pattern with {step}'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[suites]]\npreset = "gpt"\n', "suites.1.preset: Input should be 'pythia', 'pythia-deduped'"),
        ("[[suites]]\n", "suites.1.preset: Field required"),
        (SUITE + 'models = ["pythia-3b"]\n', f"suites.1: pythia has no model 'pythia-3b'; its models: {PYTHIAS}"),
        (SUITE + 'models = ["EleutherAI/pythia-70m"]\n', "suites.1: pythia has no model 'EleutherAI/pythia-70m'; its models:"),
        (SUITE + "models = []\n", "suites.1.models: List should have at least 1 item"),
        (SUITE + 'models = ["pythia-1b", "pythia-1b"]\n', "suites.1: a model is listed twice; list each one once"),
        (SUITE + SUITE, "the model pythia/pythia-14m is listed twice"),
        (SUITE + 'revisions = "all"\n', "suites.1.revisions: give a table: { from = ..., to = ..., log = ... }"),
        (SUITE + "revisions = { from = 5, to = 4 }\n", "suites.1.revisions: from = 5 to 4 contains no step; give a larger to"),
        (SUITE + "seeds = [1]\n", "suites.1.seeds: no such key"),
        (MODEL + "revisions = { from = 5, to = 4 }\n", "models.1.revisions: from = 5 to 4 contains no step; give a larger to"),
        (MODEL + "revisions = { steps = [1], from = 1 }\n", EITHER),
        (MODEL + "revisions = { steps = [1], to = 1 }\n", EITHER),
        (MODEL + "revisions = { steps = [1], every = 2 }\n", EITHER),
        (MODEL + "revisions = { steps = [] }\n", "models.1.revisions.steps: List should have at least 1 item"),
        (MODEL + "revisions = { steps = [-1] }\n", "models.1.revisions.steps.1: Input should be greater than or equal to 0"),
        (MODEL + "revisions = { steps = [true] }\n", "models.1.revisions.steps.1: Input should be a valid integer"),
        (MODEL + "revisions = { every = 0 }\n", "models.1.revisions.every: Input should be greater than or equal to 1"),
        (MODEL + "revisions = { log = 1 }\n", "models.1.revisions.log: Input should be greater than or equal to 2"),
        (MODEL + "revisions = { start = 1 }\n", "models.1.revisions.start: no such key"),
        (MODEL + 'revisions = { pattern = "s" }\n', "models.1.revisions: the pattern 's' needs {step} in it, once"),
        (MODEL + 'revisions = "step{steps}"\n', f"models.1.revisions: {ANY}, or a table (it is 'step{{steps}}')"),
        (MODEL + 'revisions = "{step}{step}"\n', f"models.1.revisions: {ANY}, or a table"),
        (MODEL + "revisions = []\n", f"models.1.revisions: {ANY}, or a table"),
        (MODEL + 'revisions = ["a", "a"]\n', f"models.1.revisions: {ANY}, or a table"),
        (MODEL + "revisions = 3\n", f"models.1.revisions: {ANY}, or a table: {{ from = ..., to = ..., log = ... }}"),
        (MODEL + "seeds = [1]\n", "models.1: seeds needs {seed} in both model and source"),
        (MODEL.replace('"m"', '"m{seed}"') + "seeds = [1]\n", "models.1: seeds needs {seed} in both model and source"),
        (MODEL.replace('"m"', '"m{seed}"'), "models.1: {seed} in model needs the key seeds, such as seeds = [1, 2]"),
        (MODEL.replace('"m"', '"m{s}"') + "seeds = [1]\n", "models.1.model: a model's name may have letters, digits, dots"),
        (MODEL.replace('"m"', '"m{seed}"').replace("name", "{seed}") + "seeds = []\n", "models.1.seeds: List should have"),
        (MODEL.replace('"m"', '"m{seed}"').replace("name", "{seed}") + "seeds = [1, 1]\n", "models.1: a seed is listed twice"),
        (MODEL.replace('"m"', '"m{seed}"').replace("name", "{seed}") + "seeds = [-1]\n", "models.1.seeds.1: Input should be"),
    ],
)  # fmt: skip
def test_what_is_asked_badly_is_said_in_one_line(tmp_path, text, says):
    with pytest.raises(RequestError, match=re.escape(f"x.toml: {says}")) as caught:
        loaded(tmp_path, text)
    assert str(caught.value).isprintable()


@pytest.fixture
def suite(tmp_path):
    return write_suite(tmp_path / "tiny", STEPS, **SHAPE)


def asked(tmp_path, **sections) -> Path:
    path = tmp_path / "x.toml"
    path.write_text(tomli_w.dumps({"analysis": ANALYSIS, "emergence": EMERGENCE} | sections))
    return path


def run(dag):
    return command("run", dag, "--runs-dir", dag.parent / "runs")


def checkpoints(tmp_path) -> dict[str, str]:
    rows = pd.read_parquet(tmp_path / "runs" / "x" / "tables" / "checkpoints.parquet")
    assert rows["step"].is_monotonic_increasing
    return dict(zip(rows["revision"], rows["status"], strict=True))


def test_listed_steps_that_are_absent_are_rows(tmp_path, suite):
    model = {"suite": "s", "model": "m", "source": "tiny", "revisions": {"steps": [0, 3, 8]}}
    ended = run(asked(tmp_path, models=[model]))
    assert ended.code == 1
    assert checkpoints(tmp_path) == {"step0": "ok", "step3": "missing", "step8": "ok"}
    assert ended.says == [f"s/m step3: missing: {suite}: no revision step3 in it; it has step0, step1 ... step8"]


@pytest.mark.parametrize(
    ("revisions", "steps"),
    [
        ({"from": 1, "to": 4}, [1, 2, 4]),
        ({"log": 3}, [0, 2, 8]),
        ("step{step}", [0, 1, 2, 4, 8]),
        ({"pattern": "step{step}", "every": 4}, [0, 4, 8]),
        (["step8", "step1"], [1, 8]),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_asked_for_is_what_is_located(tmp_path, suite, revisions, steps):
    dag = load_dag(asked(tmp_path, models=[{"suite": "s", "model": "m", "source": "tiny", "revisions": revisions}]))
    located = survey(dag, RunFolder(tmp_path / "runs" / "x")).located
    assert [(one.revision, one.step, one.outcome.status) for one in located] == [(f"step{n}", n, "ok") for n in steps]


def test_nothing_that_fits_is_a_wrong_request(tmp_path, suite):
    model = {"suite": "s", "model": "m", "source": "tiny", "revisions": "it{step}"}
    ended = command("run", asked(tmp_path, models=[model]), "--runs-dir", tmp_path / "runs")
    assert (ended.code, len(ended.says)) == (2, 1)
    assert "no revision states the pattern 'it{step}'; there are step0, step1, step2 ..." in ended.says[0]


def test_run_toml_holds_what_was_asked_and_can_be_asked_again(tmp_path, suite):
    write_suite(tmp_path / "tiny-1", (0, 1), seed=7, **SHAPE)
    models = [
        {"suite": "s", "model": "m", "source": "tiny", "revisions": {"pattern": "step{step}", "from": 1, "log": 2}},
        {"suite": "s", "model": "of{seed}", "source": "tiny-{seed}", "seeds": [1]},
    ]
    dag = asked(tmp_path, models=models, emergence=EMERGENCE | {"baseline_step": 1, "trust_duplicates": True})
    assert run(dag).code == 0
    written = tomllib.loads((tmp_path / "runs" / "x" / "run.toml").read_text())["asked"]
    assert written["models"][0]["revisions"] == {"pattern": "step{step}", "from": 1, "every": 1, "log": 2}
    assert [one["model"] for one in written["models"]] == ["m", "of1"]
    assert written["emergence"]["trust_duplicates"] is True
    again = tmp_path / "again.toml"
    again.write_text(tomli_w.dumps(written))
    left, right = (
        load_dag(path).model_dump(exclude={"cluster"}) for path in (again, dag)
    )  # --scheduler is recorded too
    assert left == right


def test_presets_too_can_be_asked_again(tmp_path):
    dag = load_dag(asked(tmp_path, suites=[
        {"preset": "pythia", "models": ["pythia-14m"], "revisions": {"log": 5}}, {"preset": "polypythias"},
    ]))  # fmt: skip
    again = tmp_path / "again.toml"
    again.write_text(tomli_w.dumps(run_file_content(dag)["asked"]))
    assert load_dag(again) == dag


@pytest.mark.parametrize(
    ("revisions", "steps"),
    [
        ({"log": 4}, [0, 64, 3000, 143000]),
        ({"from": 2000, "to": 4000}, [2000, 3000, 4000]),
        ({"every": 50000}, [0, 50000, 100000]),
        ({"steps": [7]}, [7]),
    ],
    ids=str,
)
def test_a_narrowed_preset_still_knows_its_steps(tmp_path, revisions, steps):
    """So that an absent one is a row, and not left out."""
    preset = {"preset": "pythia", "models": ["pythia-14m"], "revisions": revisions}
    (model,) = load_dag(asked(tmp_path, suites=[preset])).all_models()
    assert model.revisions.steps == steps
    with pytest.raises(RequestError, match=r"none of the 154 revisions .* has one of the selected steps"):
        load_dag(asked(tmp_path, suites=[preset | {"revisions": {"from": 143001}}]))


def test_a_preset_is_run_from_a_hub(tmp_path, suite, serve):
    serve({"EleutherAI/pythia-14m": {folder.name: folder for folder in suite.iterdir()}})
    preset = {"preset": "pythia", "models": ["pythia-14m"], "revisions": {"steps": [0, 1, 1000]}}
    located = survey(load_dag(asked(tmp_path, suites=[preset])), RunFolder(tmp_path / "runs" / "x")).located
    assert [(one.suite, one.model, one.revision, one.outcome.status) for one in located] == [
        ("pythia", "pythia-14m", "step0", "ok"),
        ("pythia", "pythia-14m", "step1", "ok"),
        ("pythia", "pythia-14m", "step1000", "missing"),
    ]
    assert "no such revision in EleutherAI/pythia-14m" in located[2].outcome.message


def test_a_published_suite_without_a_pattern_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(SUITES, "olmo", PublishedSuite("olmo", ("org/name",), RevisionSelection()))
    with pytest.raises(RequestError, match=r"the suite olmo has no pattern of revision names; it needs one"):
        loaded(tmp_path, '[[suites]]\npreset = "olmo"\n')
