"""The DAG files of MEmeL that ship, the text they use, and what docs/memel.md says came out."""

import ast
import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from ninscope.architectures.registry import FAMILIES
from ninscope.checkpoints.source import open_source
from ninscope.neurons.finetuning.recipe import METHODS, NONE
from ninscope.parameters import Parameters
from ninscope.report import finetune_figures
from ninscope_pipeline.request.dagfile import load_dag

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
ROOT = Path(__file__).parents[2]
TEXT = ROOT / "data" / "project-text"


def lines(split: str) -> list[dict]:
    """Rows of the table of one side."""
    return list(csv.DictReader((TEXT / f"lines-{split}.csv").read_text(encoding="utf-8").splitlines()))


@pytest.mark.parametrize("path", sorted((ROOT / "dags").glob("*.toml")), ids=lambda path: path.stem)
def test_every_dag_file_that_ships_is_accepted(path):
    assert load_dag(path).name == path.stem


def test_the_glue_file_is_the_papers_experiment():
    """Appendix F.1: batches of 32, 3 epochs, four learning rates, after the 4 middle attention layers of 12; Table 1's tasks."""
    from ninscope.neurons.memel.finding import layers_of

    dag = load_dag(ROOT / "dags" / "memel-glue.toml")
    assert [section.settings.name for section in dag.finetune] == [
        "cola",
        "sst2",
        "mrpc",
        "qqp",
        "stsb",
        "mnli",
        "qnli",
        "rte",
    ]
    for section in dag.finetune:
        recipes = list(section.recipes())
        assert {recipe.learning_rate for recipe in recipes} == {5e-5, 4e-5, 3e-5, 2e-5}
        assert {recipe.method for recipe in recipes} == set(METHODS)
        assert {(recipe.batch_size, recipe.epochs, recipe.steps) for recipe in recipes} == {(32, 3, None)}
        assert {recipe.inhibition.select for recipe in recipes} == {"top-1"}
    with torch.device("meta"):
        bert = transformers.BertForSequenceClassification(transformers.BertConfig())
    assert list(layers_of(bert, dag.finetune[0].layers)) == [f"bert.encoder.layer.{n}.attention" for n in (4, 5, 6, 7)]


def test_the_small_file_compares_all_methods_on_three_kinds_of_models():
    dag = load_dag(ROOT / "dags" / "memel.toml")
    kinds = set()
    for section in dag.finetune:
        assert (section.methods, section.seeds) == (list(METHODS), [0, 1, 2])
        source = next(model.source for model in dag.models if model.model == section.model)
        kinds.add(open_source(source).open(section.revisions[0]).config["model_type"])
    assert kinds == {"gpt_neox", "swin", "convgru"}
    assert kinds <= set(FAMILIES)
    assert len(dag.finetune[0].revisions) == 3


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_the_lines_are_acceptable_or_not_as_their_labels_say(split):
    rows = lines(split)
    for row in rows:
        try:
            ast.parse(row["text"])
            parses = True
        except SyntaxError:
            parses = False
        assert parses == (row["label"] == "1"), row
    about = json.loads((TEXT / "manifest.json").read_text())[split]
    assert (len(rows), sum(int(row["label"]) for row in rows)) == (about["lines"], about["acceptable"])
    assert len((TEXT / f"{split}.txt").read_bytes()) == about["bytes"]


def test_no_line_is_on_both_sides():
    sides = [{row["text"] for row in lines(split)} for split in ("train", "held_out")]
    assert not sides[0] & sides[1]


def test_every_method_has_its_colour():
    from ninscope.neurons.memel.layer import METHODS as OF_LAYERS

    assert tuple(finetune_figures.METHODS) == METHODS == (NONE, *sorted(OF_LAYERS))


@pytest.mark.slow
def test_a_number_of_the_page_is_measured(tmp_path):
    """That of the Swin without MEmeL; on another processor rounding may lead to other weights, if hardly to other scores."""
    from ninscope.neurons.finetuning.bases import analyse_with, base_of
    from ninscope.neurons.finetuning.saved import SavedState
    from ninscope.neurons.finetuning.training import fine_tune

    page = (ROOT / "docs" / "memel.md").read_text(encoding="utf-8")
    before, mean = re.search(
        r"^\| digits-swin step64 \| digits, accuracy \| ([\d.]+) \| ([\d.]+) ±", page, re.M
    ).groups()
    section = next(one for one in load_dag(ROOT / "dags" / "memel.toml").finetune if one.model == "digits-swin")
    base = base_of(open_source(ROOT / "data" / "digits-swin").open("step64"), "swin", None, None)
    analyse = analyse_with(Parameters("all"))
    recipes = [recipe for recipe in section.recipes() if recipe.method == "none"]
    found = [
        fine_tune(section.settings.task(base), base, recipe, analyse, SavedState(tmp_path / str(recipe.seed)))
        for recipe in recipes
    ]
    assert found[0][0].metrics["accuracy"] == pytest.approx(float(before), abs=5e-4)
    assert np.mean([each[-1].metrics["accuracy"] for each in found]) == pytest.approx(float(mean), abs=0.01)
