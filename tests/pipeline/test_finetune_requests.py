"""Wrong requests of [finetune] and [activations]: exit code 2, one line that says what is wrong, before anything is trained."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from driving import command, write_dag

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from finetune_models import (
    add_sections,
    finetune_section,
    language_task,
    made,
    neox_suite,
    write_texts,
)
from models_here import _figures_not_rendered, _models_in_this_process  # noqa: F401 (fixtures)

WHOLE = {"exact": True, "nodes_per_layer": "all", "samples": None}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A suite of language models, one of classifiers with labels of their own, texts of both kinds."""
    folder = tmp_path_factory.mktemp("requests")
    neox_suite(folder / "tiny", (0, 4))
    names = {"id2label": {0: "good", 1: "bad"}, "label2id": {"good": 0, "bad": 1}}
    made("bert", **names).save_pretrained(folder / "labelled" / "step0")
    write_texts(folder)
    write_table(
        folder / "unlabelled.jsonl",
        list(zip("abcdef", [0, None, 1, 0, None, 1], strict=True)),
    )
    write_table(folder / "three.jsonl", [("a", 0), ("b", 1), ("c", 2), ("a", 0)])
    language_task(folder)
    return folder


def write_table(path, rows):
    lines = [json.dumps({"text": text} | ({} if label is None else {"label": label})) for text, label in rows]
    path.write_text("\n".join(lines), encoding="utf-8")


PROSE = {"kind": "language_modelling", "tokenizer": "bytes", "context": 16, "train": "prose.txt"} | {
    "held_out": "prose-held_out.txt"
}
TEXTS = {
    "kind": "text_classification", "tokenizer": "bytes", "train": "texts-train.jsonl", "held_out": "texts-held_out.jsonl",
}  # fmt: skip


def refused(place, options, sources=("tiny",), analysis=WHOLE, **sections):
    """The one line that a run of these sections ends with."""
    dag = write_dag(place / "wrong.toml", *map(Path, sources), **analysis)
    ended = command("run", add_sections(dag, **sections), *options)
    assert ended.code == 2, ended
    (line,) = ended.says
    assert "Traceback" not in ended.err
    return line


def of_section(**changes):
    task = changes.pop("task", PROSE)
    return {"finetune": finetune_section(task, **{"steps": 1, "revisions": "last", "seeds": [0]} | changes)}


AT_PLANNING = {
    "unknown model": (
        of_section(model="tinny"),
        r"\[\[finetune\]\]: model 'tinny' is none of \[\[models\]\] \(tiny/tiny\)",
    ),
    "unknown suite": (of_section(suite="tinny"), "model 'tiny' of suite 'tinny' is none of"),
    "revision not asked for": (
        of_section(revisions=["step0", "step5"]),
        r"\[\[finetune\]\]: step5 of tiny is not asked for; add it to revisions in \[\[models\]\]",
    ),
    "unknown kind": (
        of_section(task=PROSE | {"kind": "translation"}),
        "task.kind is 'translation'; give one of text_class",
    ),
    "no kind": (of_section(task={"train": "prose.txt"}), "task.kind is None; give one of text_classification, glue"),
    "unknown key of a task": (
        of_section(task=PROSE | {"contxt": 3}),
        "task.contxt: language_modelling has no such key; its keys: context",
    ),
    "key that is absent": (
        of_section(task={"kind": "text_classification"}),
        "text_classification needs task.held_out, task.train; add it",
    ),
    "missing file": (of_section(task=PROSE | {"train": "pros.txt"}), "training file .*pros.txt is not there"),
    "one file on both sides": (of_section(task=PROSE | {"held_out": "prose.txt"}), "both a training and a held-out"),
    "column that is not there": (of_section(task=TEXTS | {"label": "lable"}), "lable"),
    "task's name": (of_section(task=PROSE | {"name": "a/b"}), "the task is called 'a/b'"),
    "unknown key": (of_section(learning_rate=1e-3), "learning_rate"),
    "unknown method": (of_section(methods=["none", "naive"]), "methods.*naive"),
    "no method": (of_section(methods=[]), "methods"),
    "seeds twice": (of_section(seeds=[1, 1]), "seeds: a value is listed twice; list each one once"),
    "negative seed": (of_section(seeds=[-1]), "seeds"),
    "steps and epochs": (of_section(epochs=2), "give steps or epochs, not both"),
    "no steps": (of_section(steps=0), "steps is 0; a whole number from 1"),
    "rate above 1": (of_section(learning_rates=[2.0]), "learning_rate is 2.0; a number from 0 to 1"),
    "rate NaN": (of_section(learning_rates=[float("nan")]), "learning_rate is nan"),
    "warmup": (of_section(warmup=1.5), "warmup is 1.5"),
    "late start": (of_section(late_start=-1), "late_start"),
    "forget": (of_section(forget=0), "forget"),
    "selection": (of_section(select="top1"), "select is 'top1'; give \"top-1\""),
    "selection of nothing": (of_section(select={"top_k": 0}), "select top_k is 0"),
    "layers that are none": (of_section(layers=""), 'layers: give "middle:4", "all", or names'),
    "epsilon": (of_section(epsilon=float("inf")), "epsilon"),
    "batch of none": (of_section(batch_size=0), "batch_size is 0; a whole number from 1"),
    "very many threads": (of_section(threads=2**20), "threads"),
    "unknown device": (of_section(device="tpu"), "device"),
    "activations of an unknown model": (
        {"activations": {"model": "x", "task": PROSE}},
        r"\[\[activations\]\]: model 'x'",
    ),
    "activations at an unknown revision": (
        {"activations": {"revisions": ["step5"], "task": PROSE}},
        r"\[\[activations\]\]: step5 of any model is not asked for",
    ),
    "activations of no layers": (
        {"activations": {"layers": [], "task": PROSE}},
        'layers: give "middle:4", "all", or names',
    ),
    "history of none": ({"activations": {"history": 0, "task": PROSE}}, "history"),
}


@pytest.mark.parametrize("name", AT_PLANNING)
def test_refused_when_it_is_planned(place, name):
    sections, message = AT_PLANNING[name]
    assert re.search(message, refused(place, ("--runs-dir", place / "runs", "--workers", 1), **sections))
    assert not (place / "runs").exists()


def test_two_sections_of_one_task(place):
    one, other = of_section()["finetune"], of_section(steps=2)["finetune"]
    line = refused(place, ("--runs-dir", place / "runs"), finetune=[one, other])
    assert "two sections [[finetune]] have the task 'prose' and the same model; give each its own task.name" in line
    line = refused(place, ("--runs-dir", place / "runs"), finetune=[one, other | {"suite": "tiny"}])
    assert "two of [[finetune]] mean tiny/tiny step4 prose none seed 0 rate 0.003; tell them apart" in line
    # The table would compare four updates with two.
    shorter = other | {"suite": "tiny", "methods": ["naive_mean"]}
    line = refused(place, ("--runs-dir", place / "runs"), finetune=[one | {"steps": 4}, shorter])
    assert "differ in more than method, seed and rate, and would be compared; tell them apart by task.name" in line
    selecting = one | {"suite": "tiny", "seeds": [5], "select": "top-2"}
    line = refused(place, ("--runs-dir", place / "runs"), finetune=[one, selecting])
    assert "differ in more than method, seed and rate" in line
    looks = [{"task": PROSE}, {"task": PROSE, "model": "tiny", "history": 2}]
    line = refused(place, ("--runs-dir", place / "runs"), activations=looks)
    assert "two of [[activations]] mean tiny/tiny step0 prose; tell them apart" in line


def test_without_the_exact_analysis(place):
    line = refused(place, ("--runs-dir", place / "runs"), analysis={}, **of_section())
    assert "[[finetune]] needs an exact analysis; add exact = true to [analysis]" in line


# --- what is found where the work is done -------------------------------------------------------------------
AT_WORK = {
    "unlabelled rows": (
        of_section(model="labelled", task=TEXTS | {"train": "unlabelled.jsonl"}),
        r"unlabelled.jsonl.*rows 2 and 5",
    ),
    "labels that do not fit": (
        of_section(model="labelled", task=TEXTS | {"train": "three.jsonl", "held_out": "three-held_out.jsonl"}),
        "labelled step0 has a head classifier.weight of shape \\[2, 16\\], and 3 labels need",
    ),
    "layers that match nothing": (
        of_section(layers=["attentoin"], methods=["none"]),
        "layer 'attentoin' matches no module of the model; near: ",
    ),
    "too few layers": (of_section(layers="middle:4"), "middle:4 of 2 attention layers"),
    "selection": (of_section(select="top1", methods=["reversed"]), "top-1"),
    "context beyond positions": (of_section(task=PROSE | {"context": 65}), "has 64 positions, and the texts have 65"),
    "images of a language model": (
        of_section(task={"kind": "image_classification", "dataset": "digits", "image_size": 8}),
        "is a gpt_neox model, which is none for image classification",
    ),
    "positions and batches of several lengths": (
        of_section(model="labelled", neurons="positions", task=TEXTS, methods=["none"]),
        "pad all batches to one length, or take neurons = 'features'",
    ),
}


@pytest.fixture(scope="module")
def with_more(place):
    write_table(place / "three-held_out.jsonl", [("a", 0), ("b", 1), ("c", 2)])
    return place


@pytest.mark.parametrize("name", AT_WORK)
def test_refused_where_the_work_is_done(with_more, name):
    sections, message = AT_WORK[name]
    options = "--runs-dir", with_more / name, "--workers", 1
    assert re.search(message, refused(with_more, options, ("tiny", "labelled"), **sections))


def test_work_that_was_done_stays(with_more):
    """A wrong request stops the run; what is stored by then is not made again when it is mended."""
    options = "--runs-dir", with_more / "mended", "--workers", 1
    dag = write_dag(with_more / "mended.toml", Path("tiny"), **WHOLE)
    assert command("run", dag, *options).code == 0
    text = dag.read_text()
    add_sections(dag, **of_section(layers=["attentoin"]))
    assert command("run", dag, *options).code == 2
    dag.write_text(text)
    add_sections(dag, **of_section(methods=["none"]))
    would = command("run", dag, *options, "--dry-run").would_run
    assert [stage for stage, _ in would] == ["finetune", "tables", "figures"]
    assert command("run", dag, *options).code == 0


def test_a_gpu_that_is_absent(place):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    options = "--runs-dir", place / "gpu", "--workers", 1
    assert 'device is "cuda", and torch finds no GPU here' in refused(place, options, **of_section(device="cuda"))
    looked = {"activations": {"device": "cuda", "task": PROSE}}
    assert 'device is "cuda", and torch finds no GPU here' in refused(place, options, **looked)


# --- torch that is absent -----------------------------------------------------------------------------------
BLOCK_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
from ninscope_pipeline.cli import main
for dag in sys.argv[1:]:
    try:
        main(["run", dag, "--runs-dir", "runs", "--dry-run"])
        code = 0
    except SystemExit as end:
        code = end.code
    print(f"code {code}", flush=True)
    print(f"code {code}", file=sys.stderr, flush=True)
assert "torch" not in sys.modules
"""


@pytest.mark.slow
def test_without_torch_it_is_said_what_to_install_where_it_is_needed(place, tmp_path):
    """In one process, where it cannot be imported."""
    sections = {"finetune": of_section(), "activations": {"activations": {"task": PROSE}}, "none": {}}
    dags = [
        add_sections(write_dag(place / f"without-{name}.toml", Path("tiny"), **WHOLE), **section)
        for name, section in sections.items()
    ]
    ended = subprocess.run(
        [sys.executable, "-c", BLOCK_TORCH, *dags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    needed = "runs models, and torch is not installed; install it: pip install 'ninscope[memel]'"
    assert [line for line in ended.stderr.splitlines() if line.strip()] == [
        f"ninscope: [[finetune]] {needed}", "code 2", f"ninscope: [[activations]] {needed}", "code 2", "code 0",
    ]  # fmt: skip
    assert "would run: exact" in ended.stdout.split("code 2")[-1]
