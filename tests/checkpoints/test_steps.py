"""Steps from the names that training suites give their revisions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninscope.checkpoints.revisions import in_step_order, step_of, unstated


@pytest.mark.parametrize(
    ("revision", "step"),
    [
        ("step0", 0),
        ("step1000", 1000),
        ("step143000", 143000),
        ("Step-5", 5),
        ("step_12", 12),
        ("step=7", 7),
        ("step007", 7),
        ("stage1-step1000-tokens5B", 1000),  # OLMo 2
        ("step1000-tokens4B", 1000),  # OLMo
        ("global_step1000", 1000),  # DeepSpeed, BLOOM
        ("globalstep20", 20),
        ("checkpoint-1000", 1000),  # transformers' Trainer
        ("epoch=3-step=900", 900),  # Lightning
        ("seed2/step30", 30),
        ("step1k", 1_000),
        ("step_20k", 20_000),  # MultiBERTs
        ("step-50K", 50_000),
        ("step-480k-token-1007B", 480_000),  # TinyLlama
        ("TinyLlama-1.1B-step-50K-105b", 50_000),
        ("TinyLlama-1.1B-intermediate-step-1431k-3T", 1_431_000),
        ("step-955k-2.5T", 955_000),
        ("step1M", 1_000_000),
        ("step1.5k", 1_500),
        ("step-00001000", 1_000),  # litgpt
        ("step10/step10", 10),
    ],
)
def test_names_that_state_a_step(revision, step):
    assert step_of(revision) == step


@pytest.mark.parametrize(
    "revision",
    [
        "main",
        "",
        "step",
        "stepwise",
        "footstep12",
        "1000",
        "v1.0",
        "checkpoint-best",
        "checkpoint-10-old",
        "step" + "9" * 16,
        "step" + "9" * 13 + "k",
        "step10th",
        "step1e3",
        "step1kk",
        "step2b",  # of what?
        "step1_000",
        "step1,000",
        "step1.5",
        "step1.2345k",
        "step1k.5",
        "step100-200",
        "step100--200",
        "step10-step20",
        "step\uff11\uff12",
        "step1\u0661",
        "ckpt_000",  # LLM360 counts checkpoints
        "epoch_3",
    ],
)
def test_names_that_do_not(revision):
    assert step_of(revision) is None


def test_order_is_by_number_then_by_name_and_names_without_a_step_come_last():
    names = ["main", "step10", "step2", "a-step2", "step02", "step0", "final"]
    expected = ["step0", "a-step2", "step02", "step2", "step10", "final", "main"]
    assert in_step_order(names) == expected
    assert in_step_order(reversed(names)) == expected


@given(st.lists(st.one_of(st.integers(0, 10**6).map("step{}".format), st.text(max_size=8)), unique=True))
def test_nothing_is_lost_and_steps_increase(names):
    ordered = in_step_order(names)
    assert sorted(ordered) == sorted(names)
    steps = [step_of(name) for name in ordered]
    known = [step for step in steps if step is not None]
    assert known == sorted(known)
    assert None not in steps[: len(known)]


def test_names_that_state_no_step_and_are_numbered_alike_are_counted():
    names = ["main", *(f"ckpt_{number:03}" for number in range(360))]
    assert unstated(names) == (
        "361 names state no step (ckpt_000, ckpt_001, ...); if their number is one, say so in a DAG file: "
        'revisions = "ckpt_{step}"'
    )
    assert 'revisions = "seed2-epoch_{step}"' in unstated([f"seed2-epoch_{number}" for number in range(3)])


@pytest.mark.parametrize("names", [[], ["main"], ["main", "v1.0", "fp16"], ["step1", "step2", "main"], ["{1}", "{2}"]])
def test_names_by_themselves_are_no_steps_that_were_missed(names):
    assert unstated(names) == ""
