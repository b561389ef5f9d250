"""Adapters on the command line and in DAG files: alone, and merged into the base that is named."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from driving import command, write_dag
from installed import needed
from lora_adapters import written

import ninscope
from ninscope.checkpoints.source import open_source
from ninscope_pipeline.stages.network import NetworkStage
from ninscope_pipeline.survey_memory import identity_of

needed("peft", "torch")

pytestmark = pytest.mark.usefixtures("undrawn")


STEPS = (0, 10)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A training's adapters in one folder, their base, and of each step what peft merges."""
    place = tmp_path_factory.mktemp("adapters")
    for step in STEPS:
        adapter, base, merged = written(
            place / f"of{step}", "llama", "bfloat16", 1 + step, r=4, target_modules="all-linear"
        )
        shutil.copytree(adapter, place / "training" / f"checkpoint-{step}")
        shutil.copytree(merged, place / "merged" / f"checkpoint-{step}")
    shutil.copytree(base, place / "base")
    return place


@pytest.fixture(scope="module")
def dag(made) -> Path:
    """Of what is merged here, and of what peft merged; paths are from the file's own folder."""
    models = [
        {"suite": "tiny", "model": "here", "source": "training", "base": "base"},
        {"suite": "tiny", "model": "peft", "source": "merged"},
        {"suite": "tiny", "model": "alone", "source": "training"},
    ]
    return write_dag(made / "adapters.toml", models=models, nodes_per_layer="all", samples=None)


def test_measure(made):
    # So small that a step silences a tenth of the neurons.
    ended = command("measure", made / "training", "--base", made / "base", "--trust-unlike-counts", "--json")
    assert ended.code == 0
    rows = json.loads(ended.out)["rows"]
    assert [row["step"] for row in rows] == list(STEPS)
    peft = json.loads(command("measure", made / "merged", "--trust-unlike-counts", "--json").out)["rows"]
    assert [(row["alpha0"], row["width"], row["emergence"]) for row in rows] == [
        (row["alpha0"], row["width"], row["emergence"]) for row in peft
    ]
    assert rows[1]["emergence"] not in (None, 0)


def test_measure_with_a_wrong_base(made):
    ended = command("measure", made / "training", "--base", made / "training" / "checkpoint-0")
    assert ended.code == 1
    assert all("the base is an adapter itself" in line for line in ended.says)
    ended = command("measure", made / "training", "--base", made / "merged")
    assert (ended.code, len(ended.says)) == (2, 1)
    assert "say which with base_revision" in ended.says[0]
    ended = command("measure", made / "training", "--base", made / "merged", "--base-revision", "checkpoint-7")
    assert ended.code == 1
    assert all("no revision checkpoint-7 in it" in line for line in ended.says)


def test_a_run(made, dag):
    ended = command("run", dag, "--runs-dir", made / "runs")
    assert ended.code == 0
    assert all(
        line.startswith("tiny/alone ") for line in ended.says
    )  # how it was read, and what r = 4 leaves without a spectrum
    run = ninscope.open_run(made / "runs" / "adapters")
    table = run.table("emergence").set_index(["model", "method", "step"])
    for step in STEPS:
        here, peft, alone = (table.loc[(model, "exact", step)] for model in ("here", "peft", "alone"))
        assert (here["alpha0"], here["width"]) == (peft["alpha0"], peft["width"])
        assert alone["alpha0"] != here["alpha0"]
    checkpoints = run.table("checkpoints")
    assert checkpoints["content_sha256"].nunique() == len(checkpoints) == 6
    assert set(checkpoints["status"]) == {"ok"}
    assert command("run", dag, "--runs-dir", made / "runs", "--dry-run").would_run == []

    # Another scale is another network, though no weight file has changed.
    path = made / "training" / "checkpoint-10" / "adapter_config.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {"lora_alpha": 99}))
    again = command("run", dag, "--runs-dir", made / "runs", "--dry-run").would_run
    path.write_text(before)
    assert [name for stage, name in again if stage == "exact"] == ["tiny/here checkpoint-10"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_nothing_is_stored_of_settings_that_change_during_a_run(made, tmp_path, monkeypatch, when):
    """Another alpha from when the weights are to be read, or have been; and the first again for the next run."""
    place = Path(shutil.copytree(made / "training", tmp_path / "training"))
    dag = write_dag(
        tmp_path / "x.toml", models=[{"suite": "s", "model": "m", "source": str(place), "base": str(made / "base")}],
        nodes_per_layer=8, samples=2, min_degree=2,
    )  # fmt: skip
    path = place / "checkpoint-10" / "adapter_config.json"
    first, drawn = path.read_text(), NetworkStage.make

    def change() -> None:
        path.write_text(json.dumps(json.loads(first) | {"lora_alpha": 64}))

    def make(stage, store, job):
        if when == "before":
            change()
        network = drawn(stage, store, job)
        change()
        return network

    with monkeypatch.context() as patched:
        patched.setattr(NetworkStage, "make", make)
        ended = command("run", dag, "--runs-dir", tmp_path / "runs", "--workers", 1)
    assert ended.code == 1
    assert any("adapter_config.json: changed while it was being read; run again" in line for line in ended.says)
    path.write_text(first)
    assert command("run", dag, "--runs-dir", tmp_path / "runs").code == 0
    stored = ninscope.open_run(tmp_path / "runs" / "x").table("samples").query("revision == 'checkpoint-10'")
    alone = ninscope.measure(place, "checkpoint-10", base=made / "base", nodes_per_layer=8, samples=2, min_degree=2)
    assert list(stored["alpha0"]) == [sample.alpha0 for sample in alone.samples]


def test_what_an_earlier_version_remembers_of_an_adapter_is_not_enough(made):
    """It did not note what tells adapters of equal tensors apart; of models it noted all there is."""
    adapted = open_source(made / "training", made / "base").identify("checkpoint-10")
    model = open_source(made / "base").identify("base")
    for identity, expected in ((adapted, None), (model, model)):
        stored = json.loads(json.dumps(asdict(identity)))
        assert identity_of(stored) == identity
        for later in ("settings_effect", "names_turned", "merging"):
            for fields in (stored, stored["base"] or {}):
                fields.pop(later, None)
        assert identity_of(stored) == expected


def test_a_revision_without_a_base_is_refused(made):
    model = {"suite": "tiny", "model": "here", "source": "training", "base_revision": "main"}
    ended = command("run", write_dag(made / "wrong.toml", models=[model]), "--runs-dir", made / "none")
    assert ended.code == 2
    assert "base_revision needs base; name the base model too" in ended.says[0]


def test_what_the_page_says_runs(made, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text(encoding="utf-8").split("## Adapters")[1]
    code = "\n".join(line[4:] for line in page.splitlines() if line.startswith("    "))
    (tmp_path / "adapter").symlink_to(made / "training" / "checkpoint-0")
    (tmp_path / "base").symlink_to(made / "base")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/architectures.md", "exec"), {})
    alone, change = map(float, capsys.readouterr().out.split())
    assert alone > 0
    assert change not in (0, alone)
