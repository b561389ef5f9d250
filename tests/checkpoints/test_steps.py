"""Steps from the names that training suites give their revisions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninscope.checkpoints.revisions import in_step_order, step_of


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
