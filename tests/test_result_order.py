"""The order in which results are drawn and listed."""

import pandas as pd

from ninscope.report.result_order import results_in_order


def rows_of(*results):
    """Rows of the table benchmarks, of (task, metric, values by step, stderr) each."""
    return pd.DataFrame(
        [
            {"suite": "s", "model": "m", "step": step, "task": task, "metric": metric, "value": value, "stderr": stderr}
            for task, metric, values, stderr in results
            for step, value in enumerate(values)
        ]
    )


def test_accuracies_come_first_and_losses_last():
    rows = rows_of(
        ("crows", "likelihood_diff", [1, 9], 0.1), ("lambada", "ppl", [9e6, 3], 1.0), ("train", "loss", [9, 1], None),
        ("crows", "pct_stereotype", [0.5, 0.6], 0.1), ("held_out", "loss", [9, 8], None), ("eval", "loss", [9, 9], None),
        ("arc", "acc_norm", [0.3, 0.3], 0.1), ("quiz", "exact_match,strict-match", [0.0, 0.0], None),
    )  # fmt: skip
    assert results_in_order(rows) == [
        ("arc", "acc_norm"), ("quiz", "exact_match,strict-match"), ("crows", "pct_stereotype"), ("held_out", "loss"),
        ("eval", "loss"), ("train", "loss"), ("lambada", "ppl"), ("crows", "likelihood_diff"),
    ]  # fmt: skip


def test_what_changes_most_in_its_standard_errors_comes_before_what_changes_more():
    rows = rows_of(
        ("small", "acc", [0.2, 0.5], 0.1), ("sure", "acc", [0.2, 0.3], 0.01), ("b", "acc", [0.5, 1.0], None),
        ("a", "acc", [0.9, 1.0], 0.0), ("c", "acc", [0.25, 0.5], None), ("still", "acc", [0.5, 0.5], 0.1),
    )  # fmt: skip
    named = [task for task, _ in results_in_order(rows)]
    assert named == [
        "sure",
        "small",
        "still",
        "b",
        "c",
        "a",
    ]  # 10, 3 and 0 errors; halves of the largest, by name; a tenth


def test_models_do_not_differ_from_one_another_over_training():
    rows = rows_of(("apart", "acc", [0.1, 0.1], None), ("learned", "acc", [0.1, 0.2], None))
    other = rows.assign(model="other", value=rows["value"].where(rows["task"] == "learned", 0.9))
    assert results_in_order(pd.concat([rows, other]))[0] == ("learned", "acc")


def test_results_without_a_step_or_a_value_come_last_of_their_kind():
    rows = rows_of(("none", "acc", [None], None), ("known", "acc", [0.5], None), ("zero", "acc", [0.0, 0.0], None))
    assert results_in_order(rows) == [("known", "acc"), ("none", "acc"), ("zero", "acc")]
    stepless = rows.assign(step=pd.array([None] * len(rows), dtype="Int64"))
    assert results_in_order(stepless) == [("known", "acc"), ("none", "acc"), ("zero", "acc")]
    assert results_in_order(rows.iloc[:0]) == []
