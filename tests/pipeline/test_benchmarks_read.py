"""Results that come with models: of lm-evaluation-harness in both layouts, of trainers, in users' own tables; whose they are."""

import json
import math
import os
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from driving import command, write_dag
from suites import write_suite

import ninscope
from ninscope.errors import RequestError
from ninscope_pipeline.request import trainer_state
from ninscope_pipeline.request.dagfile import load_dag
from ninscope_pipeline.request.evaluations import Evaluation, files, reading, user_tables
from ninscope_pipeline.request.evaluations.reading import read_evaluations
from ninscope_pipeline.request.evaluations.settling import settled
from ninscope_pipeline.request.models import ModelSection

PYTHIA = Path(__file__).parents[2].parent / "shared" / "pythia-evals"
TINY = "EleutherAI/tiny-70m"


def model(evaluations, name="tiny-70m", source=None, suite="s"):
    """A model of a DAG file whose key `evaluations` is this path, or these."""
    paths = [str(path) for path in evaluations] if isinstance(evaluations, list) else str(evaluations)
    return ModelSection(suite=suite, model=name, source=source or f"EleutherAI/{name}", evaluations=paths)


def results(*models):
    return read_evaluations(models).evaluations


def refusal(*models) -> str:
    with pytest.raises(RequestError) as caught:
        read_evaluations(models)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith("evaluations ")
    return message


def write(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def old(accuracy=0.25, arguments=f"pretrained={TINY},revision=step16", num_fewshot=0, **changes):
    """Results as the harness of 2023 wrote them."""
    config = {"model": "hf-causal", "model_args": arguments, "num_fewshot": num_fewshot, "limit": None}
    return {
        "results": {
            "piqa": {"acc": accuracy, "acc_stderr": 0.01, "acc_norm": 0.5, "acc_norm_stderr": 0.02},
            "lambada_openai": {"ppl": 1234.5, "ppl_stderr": 67.0, "acc": 0, "acc_stderr": 0.0},
        },
        "versions": {"piqa": 0, "lambada_openai": 0},
        "config": config,
    } | changes  # fmt: skip


def new(accuracy=0.25, arguments=None, date=100.5, limit=None, revision="step16", **changes):
    """Results as 0.4.13 writes them: a group, two filters, a metric without a standard error."""
    arguments = {"pretrained": TINY, "revision": revision} if arguments is None else arguments
    group = {"name": "both", "alias": "both", "sample_len": 8, "acc,none": 0.375, "acc_stderr,none": 0.125,
             "sample_count": {"acc,none": 8}}  # fmt: skip
    return {
        "results": {
            "piqa": {"name": "piqa", "alias": "piqa", "sample_len": 4, "acc,none": accuracy, "acc_stderr,none": 0.01},
            "gsm": {"alias": "gsm", "sample_len": 4, "exact_match,strict-match": 0.0, "exact_match_stderr,strict-match": 0.0,
                    "exact_match,flexible-extract": 0.5, "exact_match_stderr,flexible-extract": 0.25},
            "wiki": {"alias": "wiki", "word_perplexity,none": 99.5, "word_perplexity_stderr,none": "N/A"},
            "both": group,
        },
        "groups": {"both": group},
        "group_subtasks": {"both": ["piqa", "gsm"]},
        "configs": {"piqa": {"task": "piqa", "dataset_kwargs": {"data_files": {"a,b": 3}}}},
        "versions": {"piqa": 1.0, "gsm": 3, "wiki": "Yaml", "both": "1.0"},
        "n-shot": {"piqa": 0, "gsm": 5, "wiki": 0},
        "config": {"model": "hf", "model_args": arguments, "model_revision": revision, "limit": limit},
        "date": date,
        "model_name": "x7f3k2p9",
    } | changes  # fmt: skip


OF_NEW = [
    ("both", "acc", 0.375, 0.125, None),
    ("gsm", "exact_match,flexible-extract", 0.5, 0.25, 5),
    ("gsm", "exact_match,strict-match", 0.0, 0.0, 5),
    ("piqa", "acc", 0.25, 0.01, 0),
    ("wiki", "word_perplexity", 99.5, None, 0),
]


def fields(evaluations):
    return [(row.task, row.metric, row.value, row.stderr, row.n_shot) for row in evaluations]


# --- the two layouts ---------------------------------------------------------------------------------------------------
def test_the_old_layout(tmp_path):
    path = write(tmp_path / "step16.json", old(num_fewshot=5))
    (rows,) = results(model(path))
    assert fields(rows) == [
        ("lambada_openai", "acc", 0.0, 0.0, 5),
        ("lambada_openai", "ppl", 1234.5, 67.0, 5),
        ("piqa", "acc", 0.25, 0.01, 5),
        ("piqa", "acc_norm", 0.5, 0.02, 5),
    ]
    assert {(row.revision, row.step) for row in rows} == {("step16", 16)}


def test_the_new_layout(tmp_path):
    path = write(tmp_path / "out" / "EleutherAI__tiny-70m" / "results_2026-11-30T05-24-40.881804.json", new())
    for value in (path, tmp_path / "out", tmp_path / "out" / "*" / "results_*.json"):
        read = read_evaluations([model(value)])
        assert fields(read.evaluations[0]) == OF_NEW
        assert read.notes == []


def test_what_is_no_finite_number_is_left_out_and_told(tmp_path):
    document = json.dumps(new()).replace("99.5", "Infinity").replace('"acc,none": 0.25', '"acc,none": "N/A"')
    path = write(
        tmp_path / "step16.json", document.replace('"exact_match,strict-match": 0.0', f'"x,none": 1{"0" * 400}')
    )
    read = read_evaluations([model(path)])
    assert fields(read.evaluations[0]) == OF_NEW[:2]
    assert read.notes == [
        "evaluations of tiny-70m: 3 results are no finite numbers and are left out (first: piqa acc,none of step16.json)"
    ]


@pytest.mark.parametrize(
    ("name", "config", "revision", "step"),
    [
        ("x.json", {"model_args": f"pretrained={TINY},revision=step512"}, "step512", 512),
        ("x.json", {"model_args": {"pretrained": TINY, "revision": "step512"}, "model_revision": "step512"}, "step512", 512),
        ("x.json", {"model_args": None, "model_revision": "step512"}, "step512", 512),
        ("x.json", {"model_args": {"pretrained": TINY, "subfolder": "step512"}, "model_revision": "main"}, "", 512),
        ("x.json", {"model_args": "pretrained=out/checkpoint-512", "model_revision": "main"}, "checkpoint-512", 512),
        ("x.json", {"model_args": "pretrained=a,peft=/runs/stage1-step512-tokens2B"}, "stage1-step512-tokens2B", 512),
        ("70m_step512.json", {"model_args": None}, "", 512),
        ("70m_step512_2026-11-30T05-24-50.219236.json", {"model_args": {}}, "", 512),
        ("step512/tiny/x.json", {"model_args": None, "model_revision": "main"}, "", 512),
        ("out__checkpoint-512/results_2026-11-30T05-24-50.219236.json", {"model_args": None}, "", 512),
        ("step512.json", {"model_args": f"pretrained={TINY},revision=step512"}, "step512", 512),
        ("x.json", {"model_args": f"pretrained={TINY},revision=ckpt_3"}, "ckpt_3", None),
        ("x.json", {"model_args": f"pretrained={TINY}", "model_revision": "main"}, "main", None),
        ("x.json", {"model_args": {"pretrained": TINY, "revision": 512}}, "512", None),
    ],
)  # fmt: skip
def test_where_the_step_is_found(tmp_path, name, config, revision, step):
    write(tmp_path / "evals" / name, old(config=config))
    (rows,) = results(model(tmp_path / "evals"))
    assert {(row.revision, row.step) for row in rows} == {(revision, step)}


@pytest.mark.parametrize(
    ("name", "config", "match"),
    [
        (
            "x.json",
            {"model_args": None},
            "x.json: states no step; looked for one in file name 'x', folder 'evals'; rename",
        ),
        (
            "x.json",
            {"model_args": "pretrained=./out/last", "model_revision": "main"},
            "no step; looked for one in model_revision 'main', model './out/last', file name 'x', folder 'evals'; rename",
        ),
        (
            "step1.json",
            {"model_args": f"pretrained={TINY},revision=step2"},
            r"states? different steps \(revision 'step2', file name 'step1'\); correct",
        ),
        ("step1/x.json", {"model_args": "pretrained=out/step2"}, r"\(model 'step2', folder 'step1'\)"),
        ("step1_step2.json", {"model_args": None}, "states no step; looked for one in file name 'step1_step2'"),
        ("x.json", {"model_args": [1, 2]}, "states no step"),
        ("x.json", {"model_args": {"pretrained": True, "revision": 1.5}}, "states no step"),
    ],
)
def test_a_step_that_cannot_be_told(tmp_path, name, config, match):
    write(tmp_path / "evals" / name, old(config=config))
    with pytest.raises(RequestError, match=match):
        results(model(tmp_path / "evals"))


def test_a_folder_above_the_named_one_states_no_step(tmp_path):
    write(tmp_path / "step-500-study" / "evals" / "x.json", old(config={"model_args": None}))
    assert "states no step" in refusal(model(tmp_path / "step-500-study" / "evals"))


# --- what is no such file ----------------------------------------------------------------------------------------------
NEITHER = (
    r'neither results of lm-evaluation-harness \("results" with .*\) nor trainer_state.json \("log_history"\); give'
)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{}", NEITHER),
        ("[]", NEITHER),
        ("3", NEITHER),
        ('{"results": {"piqa": {"acc": 0.5}}}', NEITHER),
        ('{"results": [], "versions": {}, "config": {}}', NEITHER),
        ('{"results": {"piqa": 0.5}, "versions": {}, "config": {}}', NEITHER),
        ('{"log_history": 3}', NEITHER),
        ("", r"x.json: not JSON \(Expecting value"),
        ('{"results": {', "x.json: not JSON .*; write it again, or remove it"),
        ("\xff", "x.json: not JSON"),
        ("[" * 100_000, "x.json: JSON that is nested too deeply"),
        (f'{{"a": {"9" * 5000}}}', "x.json: not JSON"),
    ],
)
def test_json_of_an_unknown_layout_says_what_was_looked_for(tmp_path, text, match):
    path = tmp_path / "x.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(RequestError, match=match):
        results(model(path))


def test_other_json_in_a_folder_is_named(tmp_path):
    write(tmp_path / "config.json", {"model_type": "gpt_neox"})
    assert "no results in this folder; looked in 1 JSON file for results of lm-evaluation" in refusal(model(tmp_path))
    write(tmp_path / "step16.json", old())
    write(tmp_path / ".cache" / "broken.json", "{")
    assert read_evaluations([model(tmp_path)]).notes == [f"evaluations {tmp_path}: no results in config.json"]
    write(tmp_path / "truncated.json", '{"results":')
    assert "truncated.json: not JSON" in refusal(model(tmp_path))


def test_results_without_a_metric_are_told(tmp_path):
    path = write(tmp_path / "step16.json", old(results={}))
    read = read_evaluations([model(path)])
    assert (read.evaluations, read.notes[0]) == ([()], f"evaluations {path}: there is no result in it")


def test_half_a_character_in_a_name_is_refused(tmp_path):
    """JSON can spell it, and no table can hold it."""
    path = write(tmp_path / "step16.json", json.dumps(old()).replace("lambada_openai", r"\ud800"))
    assert r"step16.json: the name 'step16 \ud800 ppl' is no Unicode text; correct it" in refusal(model(path))
    assert trainer_state.logged([{"step": 1, "eval_\ud800": 1.0, "loss": 2.0}], {})[0].task == "train"


ODD = (None, True, -1, math.inf, math.nan, 10**400, "", "a,b", "\x00", "step1", [], {}, [1], {"a": 1})


def test_no_document_does_worse_than_be_refused(tmp_path):
    """Documents of both layouts with anything for any of their values and keys."""
    rng = random.Random(0)

    def changed(value):
        if rng.random() < 0.15:
            return rng.choice(ODD)
        if isinstance(value, dict):
            keys = [rng.choice(("", "a,b", ",", "_stderr,none", key)) if rng.random() < 0.1 else key for key in value]
            return dict(zip(keys, map(changed, value.values()), strict=True))
        return value

    read, messages = [], []
    for _ in range(300):
        path = write(tmp_path / "step16.json", json.dumps(changed(rng.choice((old, new))())))
        try:
            read += results(model(path))[0]
        except RequestError as error:
            messages.append(str(error))
    assert len(read) > 100
    assert all(type(row.value) is float and math.isfinite(row.value) for row in read)
    assert len(messages) > 50
    assert all(message.startswith(f"evaluations {path}") for message in messages)


# --- whose results they are --------------------------------------------------------------------------------------------
def of(name, accuracy, step=16, **changes):
    return new(accuracy, {"pretrained": name, "revision": f"step{step}"}, revision=f"step{step}", **changes)


def accuracies(evaluations):
    return [row.value for row in evaluations if (row.task, row.metric) == ("piqa", "acc")]


def test_a_folder_of_several_models(tmp_path):
    """One is named by the harness, one by its path, one by a folder, one by the name of its file; the last is nobody's."""
    write(tmp_path / "evals" / "org__a-1b" / "results_1.json", of("org/a-1b", 0.1))
    write(tmp_path / "evals" / "x" / "results_1.json", of("/scratch/b-1b/step16", 0.2))
    write(tmp_path / "evals" / "c-1b" / "zero-shot" / "1b_step16.json", of("org/c-v1.1-1b", 0.3))
    write(tmp_path / "evals" / "d-1b_step16.json", old(0.4, None))
    write(tmp_path / "evals" / "org__e-1b" / "results_1.json", of("org/e-1b", 0.5))
    models = [model(tmp_path / "evals", f"{name}-1b", f"org/{name}-1b") for name in "abcd"]
    read = read_evaluations(models)
    assert [accuracies(rows) for rows in read.evaluations] == [[0.1], [0.2], [0.3], [0.4]]
    assert read.notes == [
        f"evaluations {tmp_path / 'evals'}: taken by the names of files or folders: c-1b (which they call org/c-v1.1-1b)",
        f"evaluations {tmp_path / 'evals'}: 1 file left out, of no model that asks for them (org/e-1b)",
    ]
    alone = read_evaluations(models[:1])
    assert accuracies(alone.evaluations[0]) == [0.1]
    assert (
        "4 files left out, of no model that asks for them (org/c-v1.1-1b, d-1b_step16.json, org/e-1b and 1"
        in alone.notes[0]
    )


@pytest.mark.parametrize("folder", ["a-1b-deduped", "org__a-1b-deduped", "b-1b", "A-1"])
def test_a_name_is_a_whole_name(tmp_path, folder):
    write(tmp_path / folder / "x.json", of("org/a-1b-deduped", 0.1))
    write(tmp_path / "a-1b" / "x.json", of("org/other", 0.2))
    (rows,) = results(model(tmp_path, "a-1b", "org/a-1b"))
    assert accuracies(rows) == [0.2]


def test_names_in_full_count_before_their_last_part(tmp_path):
    write(tmp_path / "x.json", of("one/tiny", 0.1))
    write(tmp_path / "y.json", of("two/tiny", 0.2))
    first, second = results(model(tmp_path, "tiny", "one/tiny", "s1"), model(tmp_path, "tiny", "two/tiny", "s2"))
    assert (accuracies(first), accuracies(second)) == ([0.1], [0.2])


def test_a_folder_that_the_harness_made_for_another_model_is_not_ours(tmp_path):
    write(tmp_path / "a-1b" / "org__other" / "results_1.json", of("org/other", 0.1))
    write(tmp_path / "a-1b" / "org__a-1b" / "results_1.json", of("org/a-1b", 0.2))
    read = read_evaluations([model(tmp_path / "a-1b", "a-1b", "org/a-1b")])
    assert accuracies(read.evaluations[0]) == [0.2]
    assert "1 file left out, of no model that asks for them (org/other)" in read.notes[0]


def test_the_only_name_there_is_the_only_models(tmp_path):
    """Its own training is called otherwise by most: by the path of each checkpoint."""
    for step in (500, 1000):
        path = tmp_path / "evals" / f"out__checkpoint-{step}" / "results_1.json"
        write(path, new(step / 1e4, f"pretrained=out/checkpoint-{step}", revision="main"))
    read = read_evaluations([model(tmp_path / "evals", "mine")])
    assert [(row.revision, row.step) for row in read.evaluations[0] if row.task == "piqa"] == [
        ("checkpoint-500", 500), ("checkpoint-1000", 1000),
    ]  # fmt: skip
    assert read.notes == [
        f"evaluations {tmp_path / 'evals'}: 2 files without the name of mine taken as its results (named out/checkpoint-1000, "
        "out/checkpoint-500)"
    ]


def test_results_of_others_alone_are_refused(tmp_path):
    write(tmp_path / "x.json", of("org/b", 0.1))
    both = [model(tmp_path, "a", "org/a"), model(tmp_path, "c", "org/c")]
    assert "no results of a, c; there are those of org/b; put results into a folder that" in refusal(*both)
    other = ModelSection(suite="s", model="b", source="org/b")
    assert "no results of a; there are those of org/b" in refusal(model(tmp_path, "a", "org/a"), other)
    write(tmp_path / "y.json", of("org/d", 0.1))
    assert "results of several models (org/b, org/d), none of which is a; put" in refusal(model(tmp_path, "a", "org/a"))


def test_another_models_file_without_a_step_refuses_nothing(tmp_path):
    write(tmp_path / "x.json", new(0.3, "pretrained=./org/b", revision=None))
    write(tmp_path / "y.json", of("org/a", 0.1))
    assert [accuracies(rows) for rows in results(model(tmp_path, "a", "org/a"))] == [[0.1]]


# --- which of several results counts -----------------------------------------------------------------------------------
def test_the_newest_of_several_results_counts_and_is_told(tmp_path):
    write(tmp_path / "results_a.json", new(0.75, date=200))
    write(tmp_path / "results_b.json", new(0.25, date=100))
    read = read_evaluations([model(tmp_path)])
    assert accuracies(read.evaluations[0]) == [0.75]
    assert read.notes == ["evaluations of tiny-70m: 1 result was measured again; the newest one is taken"]


def test_all_examples_count_before_some(tmp_path):
    write(tmp_path / "results_a.json", new(0.25, date=100))
    write(tmp_path / "results_b.json", new(0.75, date=200, limit=4.0))
    assert accuracies(results(model(tmp_path))[0]) == [0.25]
    (tmp_path / "results_a.json").unlink()
    read = read_evaluations([model(tmp_path)])
    assert accuracies(read.evaluations[0]) == [0.75]
    assert read.notes == ["evaluations of tiny-70m: results of some of the examples alone (limit 4): 1 file"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (old(0.25), old(0.75)),
        (old(0.25), new(0.75)),
        (new(0.25), new(0.75)),
        (new(0.25, date="today"), new(0.75, date=9)),
    ],
)
def test_results_that_differ_are_refused_where_none_is_newer(tmp_path, first, second):
    write(tmp_path / "a.json", first)
    write(tmp_path / "b.json", second)
    match = rf"evaluations {tmp_path}/a.json and {tmp_path}/b.json: two values of step16 piqa acc, 0.25 and 0.75, and no date"
    with pytest.raises(RequestError, match=match):
        results(model(tmp_path))
    write(tmp_path / "b.json", first)
    assert accuracies(results(model(tmp_path))[0]) == [0.25]


def test_numbers_of_examples_shown_are_curves_of_their_own(tmp_path):
    write(tmp_path / "zero-shot" / "step16.json", old(0.25))
    write(tmp_path / "five-shot" / "step16.json", old(0.75, num_fewshot=5))
    (rows,) = results(model(tmp_path))
    shown = [(row.task, row.value, row.n_shot) for row in rows if "piqa" in row.task and row.metric == "acc"]
    assert shown == [("piqa (0-shot)", 0.25, 0), ("piqa (5-shot)", 0.75, 5)]


def test_versions_of_a_task_that_differ_are_told(tmp_path):
    write(tmp_path / "a.json", of(TINY, 0.25, 1))
    write(tmp_path / "b.json", of(TINY, 0.25, 2, versions={"piqa": 2}))
    (note,) = read_evaluations([model(tmp_path)]).notes
    assert note == "evaluations of tiny-70m: measured by several versions of the task, so that a curve may jump: piqa"


def test_the_same_files_give_the_same_rows_in_step_order(tmp_path):
    for step in (1000, 2, 16):
        write(tmp_path / f"step{step}.json", of(TINY, 0.5, step))
    first, second = results(model(tmp_path))[0], results(model(tmp_path))[0]
    assert first == second
    assert [row.step for row in first] == [2] * 5 + [16] * 5 + [1000] * 5
    assert fields(first[:5]) == [(*row[:2], 0.5 if row[0] == "piqa" else row[2], *row[3:]) for row in OF_NEW]


# --- files, folders, patterns ------------------------------------------------------------------------------------------
def test_patterns(tmp_path):
    for name in ("a/zero/step1.json", "a/five/step2.json", "b/zero/step3.json", "b/step4.json", "step5.txt"):
        write(tmp_path / name, old(config={"model_args": None}))
    expected = {
        "a/zero/*.json": [1], "*/zero/*.json": [1, 3], "**/*.json": [1, 2, 3, 4], "*/step?.json": [4], "[a]/*": [1, 2],
        "**": [1, 2, 3, 4], "a/**/step[12].json": [1, 2], "b": [3, 4], "b/*": [3, 4],
    }  # fmt: skip
    for pattern, steps in expected.items():
        (rows,) = results(model(tmp_path / pattern))
        assert sorted({row.step for row in rows}) == steps, pattern
    assert refusal(model(tmp_path / "c*" / "x.json")).endswith(
        "no file fits this pattern; correct it, or name a folder"
    )
    assert "absent.csv: cannot read it (No such file" in refusal(model(tmp_path / "absent.csv"))
    assert "cannot read it (File name too long" in refusal(model(tmp_path / ("x" * 300)))


def test_a_name_that_looks_like_a_pattern_is_a_name_where_there_is_such_a_file(tmp_path):
    path = write(tmp_path / "results [1]*.csv", "step,task,metric,value\n1,a,b,0.5\n")
    assert [row.value for row in results(model(path))[0]] == [0.5]


def test_links_do_not_lead_out(tmp_path):
    write(tmp_path / "outside" / "step1.json", of(TINY, 0.1, 1))
    write(tmp_path / "evals" / "step2.json", of(TINY, 0.2, 2))
    (tmp_path / "evals" / "folder").symlink_to(tmp_path / "outside")
    (tmp_path / "evals" / "round").symlink_to(tmp_path / "evals")
    (tmp_path / "evals" / "file.json").symlink_to(tmp_path / "outside" / "step1.json")
    (tmp_path / "evals" / "within.json").symlink_to(tmp_path / "evals" / "step2.json")
    (tmp_path / "evals" / "gone.json").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "evals" / "pipe.json")
    for pattern in ("", "*.json", "**/*.json"):
        read = read_evaluations([model(tmp_path / "evals" / pattern)])
        assert accuracies(read.evaluations[0]) == [0.2]
        shown = ["file.json", "folder", "gone.json and 1 more"] if not pattern else ["file.json"]
        assert read.notes == [f"evaluations {tmp_path / 'evals' / pattern}: links are not followed: {', '.join(shown)}"]
    assert "no file fits this pattern" in refusal(model(tmp_path / "evals" / "f*r" / "*.json"))
    assert "pipe.json: no regular file" in refusal(model(tmp_path / "evals" / "pipe.json"))


def test_nothing_is_read_beyond_the_bounds(tmp_path, monkeypatch):
    for step in range(5):
        write(tmp_path / f"step{step}.json", of(TINY, 0.1, step))
    size = (tmp_path / "step0.json").stat().st_size
    monkeypatch.setattr(files, "MAX_ENTRIES", 4)
    assert "more than 4 files and folders; name a narrower folder" in refusal(model(tmp_path))
    assert "more than 4 files and folders" in refusal(model(tmp_path / "*.json"))
    monkeypatch.undo()
    monkeypatch.setattr(files, "MAX_BYTES", size - 1)
    monkeypatch.setattr(Path, "read_bytes", None)
    assert "step0.json: 0 MiB, more than 0; split it into several files" in refusal(model(tmp_path))
    monkeypatch.undo()
    monkeypatch.setattr(reading, "MAX_TOTAL", 5 * size - 1)
    assert "more than 0 GiB; name fewer files" in refusal(model(tmp_path))


def test_several_paths_of_one_model(tmp_path):
    losses = write(tmp_path / "losses.csv", "revision,task,metric,value\nstep16,held_out,loss,2.5\n")
    write(tmp_path / "evals" / "step16.json", new())
    state = write(tmp_path / "trainer_state.json", {"log_history": [{"step": 16, "loss": 2.25}]})
    (rows,) = results(model([losses, tmp_path / "evals", state]))
    assert fields(rows) == [("held_out", "loss", 2.5, None, None), ("train", "loss", 2.25, None, None), *OF_NEW]


def test_a_trainer_state_that_is_named(tmp_path):
    history = [
        {"step": 5, "loss": 3.0, "epoch": 1.0, "learning_rate": 0.1},
        {"step": 5, "eval_loss": 2.5, "eval_a_accuracy": 0.5, "eval_runtime": 9.0, "eval_samples_per_second": 9.0},
        {"step": 5, "test_loss": 2.75, "test_jit_compilation_time": 1.0, "train_loss": 3.5, "train_runtime": 2.0},
        {"step": 5, "loss": 2.0},
    ]
    path = write(tmp_path / "trainer_state.json", {"log_history": history})
    assert [(row.step, row.task, row.metric, row.value) for row in results(model(path))[0]] == [
        (5, "train", "loss", 2.0), (5, "eval", "loss", 2.5), (5, "eval", "a_accuracy", 0.5), (5, "test", "loss", 2.75),
    ]  # fmt: skip


# --- the key of a DAG file ---------------------------------------------------------------------------------------------
def paths(tmp_path, text):
    write(tmp_path / "x.toml", text)
    listed = load_dag(tmp_path / "x.toml").all_models()
    return {one.model: [Path(path).relative_to(tmp_path).as_posix() for path in one.evaluation_paths] for one in listed}


def test_model_size_and_seed_in_paths(tmp_path):
    suite = '[[suites]]\npreset = "pythia-deduped"\nmodels = ["pythia-70m-deduped", "pythia-1.4b-deduped"]\n'
    assert paths(tmp_path, f'{suite}evaluations = "evals/{{model}}/zero-shot"\n') == {
        "pythia-70m-deduped": ["evals/pythia-70m-deduped/zero-shot"],
        "pythia-1.4b-deduped": ["evals/pythia-1.4b-deduped/zero-shot"],
    }
    assert paths(tmp_path, f'{suite}evaluations = ["a", "{{size}}/*_step*.json"]\n') == {
        "pythia-70m-deduped": ["a", "70m/*_step*.json"], "pythia-1.4b-deduped": ["a", "1.4b/*_step*.json"],
    }  # fmt: skip
    seeds = '[[models]]\nsuite = "s"\nmodel = "m-410m-seed{seed}"\nsource = "o/m{seed}"\nseeds = [1, 2]\n'
    assert paths(tmp_path, f'{seeds}evaluations = ["{{model}}", "{{size}}-{{seed}}.csv"]\n') == {
        "m-410m-seed1": ["m-410m-seed1", "410m-1.csv"], "m-410m-seed2": ["m-410m-seed2", "410m-2.csv"],
    }  # fmt: skip
    assert paths(tmp_path, suite)["pythia-70m-deduped"] == []


@pytest.mark.parametrize(
    ("line", "match"),
    [
        (
            'evaluations = "{size}.csv"',
            r"evaluations has \{size\}, and the model's name 'm' has no size, such as 70m; write",
        ),
        ("evaluations = 3", "models.1.evaluations: .*string"),
        ("evaluations = []", "models.1.evaluations: name a file, a folder or a pattern, or several"),
        ('evaluations = ""', "models.1.evaluations: name a file"),
        ('evaluations = ["a", "a"]', "models.1.evaluations: name a file, .* in a list, each once"),
        ('evaluations = ["a", 3]', r"models.1.evaluations.2: .*string"),
    ],
)
def test_keys_that_name_no_path_are_refused(tmp_path, line, match):
    path = write(tmp_path / "x.toml", f'[[models]]\nsuite = "s"\nmodel = "m"\nsource = "o/m"\n{line}\n')
    with pytest.raises(RequestError, match=match):
        load_dag(path)


@pytest.mark.parametrize("name", ["pythia", "polypythias"])
def test_the_suites_that_ship_take_results_by_pattern(tmp_path, name):
    text = (ninscope_dags() / f"{name}.toml").read_text()
    found = paths(tmp_path, f'{text}evaluations = "evals/pythia-v1/{{model}}/zero-shot"\n')
    assert all(path == [f"evals/pythia-v1/{one}/zero-shot"] for one, path in found.items())
    assert len(found) == {"pythia": 10, "polypythias": 51}[name]


def ninscope_dags():
    from ninscope_pipeline.shipped import shipped_folder

    return shipped_folder() / "dags"


# --- tables of the user's own ------------------------------------------------------------------------------------------
COLUMNS = "revision,step,task,metric,value"
ROWS = [
    {"revision": "step16", "step": 16, "task": "piqa", "metric": "acc", "value": 0.5, "stderr": 0.25, "n_shot": 5},
    {"revision": "step16", "step": 16, "task": "held_out", "metric": "loss", "value": 2.0, "stderr": None, "n_shot": None},
    {"revision": "", "step": 32, "task": "piqa", "metric": "acc", "value": 1.0, "stderr": 0.0, "n_shot": 5},
    {"revision": "main", "step": None, "task": "piqa", "metric": "acc", "value": 0.75, "stderr": None, "n_shot": 5},
]  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "dictionary"])
def test_the_same_table_in_every_format(tmp_path, suffix):
    frame, path = pd.DataFrame(ROWS), tmp_path / f"mine.{suffix}"
    if suffix == "csv":
        frame.to_csv(path, index=False)  # with floats for integers where one is missing
    elif suffix == "jsonl":
        path.write_text("\ufeff" + "\n\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    elif suffix == "parquet":
        frame.to_parquet(path, row_group_size=3)
    else:
        path = tmp_path / "mine.parquet"
        frame.astype({"task": "category", "metric": "category", "step": "Int64"}).to_parquet(path)
    assert [row.as_dict() for row in results(model(path))[0]] == ROWS


def test_csv_rows_stay_as_they_were(tmp_path):
    path = write(
        tmp_path / "mine.csv", "revision,task,metric,value,note\nstep16,held_out,loss,2.5,x\nmain,held_out,loss,2.0,\n"
    )
    first, second = results(model(path))[0]
    assert first.as_list() == ["step16", 16, "held_out", "loss", 2.5]  # five fields: tables of old runs stay current
    assert second.step is None
    path.write_bytes(b"\xef\xbb\xbf" + f"{COLUMNS}\r\nstep4,4,a,loss,1.5\r\n".encode())  # as spreadsheets write it
    assert [row.value for row in results(model(path))[0]] == [1.5]
    write(path, f'{COLUMNS}\nstep4,4,"two\nlines",loss,1.5\nstep4,4,twolines,loss,2.5\nstep4,4,a\u2028b,loss,3.5\n')
    assert [row.task for row in results(model(path))[0]] == ["two\nlines", "twolines", "a\u2028b"]
    assert Evaluation("step1", 1, "a", "b", 0.5, n_shot=0).as_list() == ["step1", 1, "a", "b", 0.5, None, 0]
    assert results(ModelSection(suite="s", model="m", source="o/m")) == [()]


def test_a_table_of_several_models(tmp_path):
    path = write(
        tmp_path / "all.csv", "model,step,task,metric,value\na,1,t,acc,0.1\norg/b,1,t,acc,0.2\nc,1,t,acc,0.3\n"
    )
    read = read_evaluations([model(path, "a", "org/a"), model(path, "b", "org/b")])
    assert [[row.value for row in rows] for rows in read.evaluations] == [[0.1], [0.2]]
    assert read.notes == [f"evaluations {path}: 1 file left out, of no model that asks for them (c)"]
    everybodys = write(tmp_path / "any.csv", "step,task,metric,value\n1,t,acc,0.1\n")
    assert [len(rows) for rows in results(model(everybodys, "a"), model(everybodys, "b"))] == [1, 1]


NEEDED = "needed, one result a row: task, metric, value, and revision or step"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", f"the column 'task' is missing; {NEEDED}"),
        ("revision,step,task,value\n", f"the column 'metric' is missing; {NEEDED}"),
        ("revision,tasks,metric,value\n", "the column 'task' is missing; is it 'tasks'?"),
        ("task,metric,value\n", f"the columns revision and step are both missing; {NEEDED}"),
        ("step,piqa,arc_easy\n1,0.5,0.25\n", f"the column 'task' is missing; {NEEDED}"),
        ("step,task,metric,value,value\n", "the column 'value' stands twice; remove one"),
        (f"{COLUMNS}\nstep0,0,a,loss,much\n", "line 2: value or step is not a number; correct it, or remove"),
        (f"{COLUMNS}\nstep0,0,a,loss,\n", "line 2: value or step is not a number"),
        (f"{COLUMNS}\nstep0,0,a,loss,1\nstep1,one,a,loss,1\n", "line 3: value or step is not a number"),
        (f"{COLUMNS}\nstep0,0,a,loss,1\n\nstep1,1.5,a,loss,1\n", "line 4: value or step is not a number"),
        (f"{COLUMNS}\nstep0,0,a\n", "line 2: the column 'metric' is empty; fill it in, or remove the line"),
        (f"{COLUMNS}\n,,a,loss,1\n", "line 2: revision and step are both empty; fill in one of them"),
        (f"{COLUMNS}\nmain,-1,a,loss,1\n", "line 2: step is -1; give a training step of 0 or more"),
        (f"{COLUMNS}\nmain,{2**63},a,loss,1\n", "line 2: step is 9223372036854775808; give"),
        ("value,revision,step,task,metric\n1,step0,0,a\n", "line 2: "),
        (f"{COLUMNS}\nstep0,0,a,loss,nan\n", "line 2: value is nan; remove the line if there is no value"),
        (f"{COLUMNS}\nstep0,0,a,loss,inf\n", "line 2: value is inf"),
        (f"{COLUMNS}\nstep0,0,a,loss,1{'0' * 400}\n", "line 2: value is inf"),
        (f"{COLUMNS}\nstep0,0,a, b,loss,1\n", "line 2: more cells than columns; put text with a comma in quotes"),
        (f'{COLUMNS}\nstep0,0,"{"a" * 200_000}",loss,1\n', r"line 2: not CSV \(field larger"),
        (f"{COLUMNS},stderr\nstep0,0,a,loss,1,-2\n", "line 2: stderr is -2; give a number of 0 or more, or leave it empty"),
        (f"{COLUMNS},stderr\nstep0,0,a,loss,1,x\n", "line 2: stderr is 'x'; give"),
        (f"{COLUMNS},n_shot\nstep0,0,a,loss,1,1.5\n", "line 2: n_shot is 1.5; give an integer of 0 or more"),
        (f"{COLUMNS}\nstep0,0,a,loss,1\nstep0,0,a,loss,2\n", "line 2 and line 3 have two values of step0 a loss: 1 and 2; remove"),
        (b"\xff\xfe\n", "cannot read it .*; save it as UTF-8"),
    ],
)  # fmt: skip
def test_a_csv_that_cannot_be_read_says_which_line(tmp_path, content, match):
    path = tmp_path / "mine.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RequestError, match=match):
        results(model(path))
    assert refusal(model(path)).startswith(f"evaluations {path}")


def test_a_row_that_stands_twice_counts_once_and_no_row_is_told(tmp_path):
    path = write(tmp_path / "mine.csv", f"{COLUMNS}\nstep0,0,a,loss,1\nstep0,0,a,loss,1.0\n")
    assert len(results(model(path))[0]) == 1
    write(path, f"{COLUMNS}\n")
    assert read_evaluations([model(path)]).notes == [f"evaluations {path}: there is no result in it"]


GOOD_LINE = '{"step": 1, "task": "a", "metric": "b", "value": 1}'


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("{", r"line 2: not JSON \("),
        ("[" * 100_000, r"line 2: not JSON \(nested too deeply\)"),
        ("[1]", f"line 2: no object; {NEEDED}"),
        ('{"step": 1, "task": "a", "metric": "b"}', "line 2: the column 'value' is missing"),
        ('{"step": 1, "task": "a", "metric": "b", "value": "1"}', "line 2: value or step is not a number"),
        ('{"step": 1, "task": "a", "metric": "b", "value": true}', "line 2: value or step is not a number"),
        ('{"step": true, "task": "a", "metric": "b", "value": 1}', "line 2: value or step is not a number"),
        ('{"step": 1, "task": "a", "metric": "b", "value": NaN}', "line 2: value is nan"),
        (
            '{"step": 1, "task": 3, "metric": "b", "value": 1}',
            "line 2: the column 'task' is 3, which is no text; put it",
        ),
        ('{"step": 1, "task": ["a"], "metric": "b", "value": 1}', "line 2: the column 'task' is .*no text"),
        (
            '{"step": 1, "task": "a", "metric": "b", "value": 2}',
            "line 1 and line 2 have two values of step 1 a b: 1 and 2",
        ),
    ],
)
def test_json_lines_that_cannot_be_read_say_which_line(tmp_path, line, match):
    path = write(tmp_path / "mine.jsonl", f"{GOOD_LINE}\n{line}\n")
    with pytest.raises(RequestError, match=match):
        results(model(path))
    assert refusal(model(path)).startswith(f"evaluations {path}")


@pytest.mark.parametrize(
    ("frame", "match"),
    [
        (pd.DataFrame({"step": [1], "piqa": [0.5]}), "the column 'task' is missing"),
        (pd.DataFrame(ROWS).assign(task=1), "the column 'task' holds int64; give text"),
        (pd.DataFrame(ROWS).assign(task=[["a"]] * 4), "the column 'task' holds list<.*; give text"),
        (pd.DataFrame(ROWS).assign(task=b"a"), "the column 'task' holds binary; give text"),
        (pd.DataFrame(ROWS).assign(task=None), "row 1: the column 'task' is empty"),
        (pd.DataFrame(ROWS).assign(value="x"), "the column 'value' holds (large_)?string; give numbers"),
        (pd.DataFrame(ROWS).assign(value=True), "the column 'value' holds bool; give numbers"),
        (pd.DataFrame(ROWS).assign(value=[1, 2, np.nan, 3]), "row 3: value or step is not a number"),
        (pd.DataFrame(ROWS).assign(value=[1, 2, 3, np.inf]), "row 4: value is inf; remove the line"),
        (pd.DataFrame(ROWS).assign(step=[1, 2, 3.5, 4]), "row 3: value or step is not a number"),
        (pd.DataFrame(ROWS).assign(value=pd.Timestamp(0)), "the column 'value' holds timestamp.*; give numbers"),
        (pd.DataFrame([ROWS[0], ROWS[0] | {"value": 0.75}]), "row 1 and row 2 have two values of step16 piqa acc"),
    ],
)
def test_a_parquet_file_that_cannot_be_read_says_which_row(tmp_path, frame, match):
    frame.to_parquet(tmp_path / "mine.parquet")
    with pytest.raises(RequestError, match=match):
        results(model(tmp_path / "mine.parquet"))


def test_a_damaged_parquet_file(tmp_path):
    path = tmp_path / "mine.parquet"
    pd.DataFrame(ROWS).to_parquet(path)
    content = path.read_bytes()
    for damaged in (b"", b"PAR1", content[:-20], content[: len(content) // 2] + content[-8:]):
        path.write_bytes(damaged)
        assert "mine.parquet: not a Parquet file that can be read (" in refusal(model(path))


def test_large_tables_are_refused_by_what_they_say_of_themselves(tmp_path, monkeypatch):
    path = tmp_path / "mine.parquet"
    pd.DataFrame(ROWS).to_parquet(path)
    monkeypatch.setattr(user_tables, "MAX_ROWS", 3)
    assert "4 rows, more than 3; split it" in refusal(model(path))
    pd.DataFrame(ROWS).to_csv(tmp_path / "mine.csv", index=False)
    assert "more than 3 results; split it into several files" in refusal(model(tmp_path / "mine.csv"))
    monkeypatch.undo()
    monkeypatch.setattr(user_tables, "_MOST_EXPANDED", 100)
    assert "0 MiB once uncompressed, more than 0; split it" in refusal(model(path))


def test_a_text_that_all_rows_share_takes_its_room_once(tmp_path):
    """Some KB on the disk; as texts of their own it would be 50 MB."""
    path = tmp_path / "mine.parquet"
    frame = pd.DataFrame({"step": range(500), "task": "a" * 100_000, "metric": "acc", "value": 0.5})
    frame.astype({"task": "category"}).to_parquet(path)
    (rows,) = results(model(path))
    assert len({id(row.task) for row in rows}) == 1


# --- under the names of a run's checkpoints ----------------------------------------------------------------------------
def located(*checkpoints, name="tiny-70m", suite="s"):
    return [SimpleNamespace(suite=suite, model=name, revision=revision, step=step) for revision, step in checkpoints]


def test_results_take_the_names_of_the_runs_checkpoints():
    of_run = located(("ckpt_5", 5), ("a-step7", 7), ("b-step7", 7), ("main", None)) + located(("x", 9), name="other")
    own = model("x.csv")
    given = [
        Evaluation("", 5, "t1", "acc", 0.5), Evaluation("step5", 5, "t2", "acc", 0.5),
        Evaluation("ckpt_5", None, "t3", "acc", 0.5), Evaluation("", 7, "t", "acc", 0.5),
        Evaluation("step9", 9, "t", "acc", 0.5), Evaluation("main", None, "t", "acc", 0.5),
    ]  # fmt: skip
    read = settled([own], [tuple(given)], of_run)
    assert [(row.revision, row.step) for row in read.evaluations[0]] == [
        ("ckpt_5", 5), ("ckpt_5", 5), ("ckpt_5", 5), ("", 7), ("step9", 9), ("main", None),
    ]  # fmt: skip
    assert read.notes == [
        "evaluations of tiny-70m: 1 result is taken by its step, since the run has no such revision (the first: step5 as ckpt_5)"
    ]


def test_the_run_says_which_step_a_checkpoint_has():
    """Tables are joined by step: a result at another one would stand beside another checkpoint."""
    own, of_run = model("x.csv"), located(("step-480k", 480), ("main", None))  # of the pattern "step-{step}k"
    given = [Evaluation("step-480k", 480_000, "t", "acc", 0.5), Evaluation("main", 7, "t", "acc", 0.5)]
    (rows,) = settled([own], [tuple(given)], of_run).evaluations
    assert [row.step for row in rows] == [480, 7]
    wrong = Evaluation("step-480k", 240, "t", "acc", 0.5)
    with pytest.raises(
        RequestError,
        match=r"a result of step-480k t acc states the step 240, and this checkpoint has the step 480; correct it",
    ):
        settled([own], [(wrong,)], of_run)


def test_one_checkpoint_named_in_two_ways_has_one_value():
    own, of_run = model("x.csv"), located(("ckpt_5", 5))
    twice = [Evaluation("", 5, "t", "acc", 0.5), Evaluation("ckpt_5", 5, "t", "acc", 0.5)]
    assert settled([own], [tuple(twice)], of_run).evaluations == [(twice[1],)]
    twice[1] = Evaluation("ckpt_5", 5, "t", "acc", 0.75)
    with pytest.raises(
        RequestError, match=r"evaluations of tiny-70m: two values of ckpt_5 t acc, 0.5 and 0.75, which name the"
    ):
        settled([own], [tuple(twice)], of_run)


def test_results_of_no_checkpoint_of_the_run_are_told():
    read = settled([model("x.csv")], [(Evaluation("step9", 9, "t", "acc", 0.5),)], located(("step1", 1)))
    assert read.notes == [
        "evaluations of tiny-70m: no result is of a checkpoint of this run (1 result; the first: step9 t acc)"
    ]


@pytest.mark.usefixtures("undrawn")
def test_a_run_with_results_of_the_harness(tmp_path):
    suite = write_suite(tmp_path / "weights", (0, 1, 8), blocks=1, width=16, heads=2)
    for step in (0, 1, 8):
        arguments = f"pretrained={suite / f'step{step}'}"
        write(tmp_path / "evals" / f"x{step}" / "results_1.json", new(0.1 * step, arguments, revision="main"))
    write(tmp_path / "evals" / "org__other" / "results_1.json", of("org/other", 0.5))
    dag = write_dag(tmp_path / "mine.toml", suite, evaluations="evals")
    ended = command("run", dag, "--runs-dir", tmp_path)
    assert (ended.code, ended.says) == (
        0, [f"evaluations {tmp_path / 'evals'}: 1 file left out, of no model that asks for them (org/other)"],
    )  # fmt: skip
    table = ninscope.open_run(tmp_path / "mine").table("benchmarks")
    assert list(table)[4:] == ["task", "metric", "value", "stderr", "n_shot"]
    assert (table["stderr"].dtype, table["n_shot"].dtype) == ("float64", "Int64")
    piqa = table.query("task == 'piqa'")
    assert list(zip(piqa["revision"], piqa["step"], piqa["value"], strict=True)) == [
        ("step0", 0, 0.0), ("step1", 1, 0.1), ("step8", 8, 0.8),
    ]  # fmt: skip
    assert "nothing to run" in command("run", dag, "--runs-dir", tmp_path).out


# --- the real files ----------------------------------------------------------------------------------------------------
@pytest.mark.skipif(not PYTHIA.is_dir(), reason="needs a clone of Pythia's evals")
def test_pythias_own_results():
    names = ("pythia-70m-deduped", "pythia-160m-deduped")
    read = read_evaluations([model(PYTHIA, name, suite="pythia-deduped") for name in names])
    assert len(list(PYTHIA.rglob("*.json"))) == 54
    for name, rows in zip(names, read.evaluations, strict=True):
        expected = {}
        for path in (PYTHIA / "pythia-v1" / name / "zero-shot").iterdir():
            step = int(path.stem.split("_step")[1])
            for task, entry in json.loads(path.read_text())["results"].items():
                for metric in entry:
                    if not metric.endswith("_stderr"):
                        expected[step, task, metric] = (entry[metric], entry[f"{metric}_stderr"], 0)
        assert len(expected) == 4644
        assert {(row.step, row.task, row.metric): (row.value, row.stderr, row.n_shot) for row in rows} == expected
        assert len(rows) == len(expected)
        assert all(row.revision == f"step{row.step}" for row in rows)
        assert all(math.isfinite(row.value) for row in rows)
    assert read.notes == [
        f"evaluations {PYTHIA}: taken by the names of files or folders: pythia-70m-deduped (which they call "
        "EleutherAI/pythia-v1.1-70m-deduped), pythia-160m-deduped (which they call EleutherAI/pythia-v1.1-160m-deduped)"
    ]
